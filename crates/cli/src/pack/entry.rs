//! One entry of the source: what it is, and its attributes, as the volume gets them.

use cowback::{NewEntry, SetAttributes, Timespec};
use rustix::fs::{FileType, Stat, major, minor};

/// How times are taken over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TimePolicy {
    /// No time may be later, and last reads are not kept.
    pub(crate) fixed: Option<Timespec>,
}

impl TimePolicy {
    /// Everything of an entry but its content and extended attributes.
    pub(crate) fn attributes(self, stat: &Stat) -> SetAttributes {
        let modified = timespec(stat.st_mtime, stat.st_mtime_nsec);
        let (accessed, modified) = match self.fixed {
            None => (timespec(stat.st_atime, stat.st_atime_nsec), modified),
            Some(fixed) => (modified.min(fixed), modified.min(fixed)),
        };
        SetAttributes {
            permissions: Some(permissions(stat)),
            uid: Some(stat.st_uid),
            gid: Some(stat.st_gid),
            accessed: Some(accessed),
            modified: Some(modified),
        }
    }
}

fn timespec(sec: i64, nsec: impl TryInto<u32>) -> Timespec {
    Timespec { sec, nsec: nsec.try_into().unwrap_or(0) }
}

/// Permission bits, with set-id and sticky.
pub(crate) fn permissions(stat: &Stat) -> u32 {
    stat.st_mode & 0o7777
}

/// What becomes of an entry that is neither file nor directory nor symlink. `None`: Linux has no such thing.
pub(super) fn special(stat: &Stat) -> Option<NewEntry> {
    let (major, minor) = (major(stat.st_rdev), minor(stat.st_rdev));
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => Some(NewEntry::CharDevice(major, minor)),
        FileType::BlockDevice => Some(NewEntry::BlockDevice(major, minor)),
        FileType::Fifo => Some(NewEntry::Fifo),
        FileType::Socket => Some(NewEntry::Socket),
        _ => None,
    }
}
