//! Owners, modes, extended attributes and times of what was unpacked, as far as the user may set them.

use std::os::fd::BorrowedFd;

use cowback::{FileType, Metadata};
use rustix::fs::{
    AtFlags, Gid, Mode, Timespec, Timestamps, Uid, chmodat, chownat, fchmod, fchown, futimens,
    utimensat,
};
use rustix::io::Errno;

use crate::xattrs::Place;

/// Set-user-id and set-group-id: given only together with the owner that they speak of.
const SET_ID: u32 = 0o6000;

/// What the user may not set.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Skipped {
    pub(super) owner: bool,
    pub(super) xattrs: u64,
}

impl Skipped {
    /// The permission bits of an entry that may have got another owner than `metadata` says.
    pub(super) fn permissions(self, metadata: &Metadata) -> u32 {
        metadata.permissions & !if self.owner { SET_ID } else { 0 }
    }
}

/// Gives an entry what `metadata` and `xattrs` say, with these permission bits added for now. Times come last, as everything else changes them.
pub(super) fn apply(
    place: Place<'_>,
    metadata: &Metadata,
    xattrs: &[(Vec<u8>, Vec<u8>)],
    added: u32,
) -> Result<Skipped, Errno> {
    let mut skipped = Skipped::default();
    match set_owner(place, metadata) {
        Ok(()) => {}
        // The user may not; or another user's id means nothing in this user namespace.
        Err(Errno::PERM | Errno::INVAL) => skipped.owner = true,
        Err(error) => return Err(error),
    }
    if metadata.kind != FileType::Symlink {
        drop_inherited(place, xattrs);
        set_mode(place, skipped.permissions(metadata) | added)?;
    }
    for (name, value) in xattrs {
        match place.set(name, value) {
            Ok(()) => {}
            // The user may not, or the file system does not have them, or none of that name or size.
            Err(
                Errno::PERM
                | Errno::ACCESS
                | Errno::NOTSUP
                | Errno::INVAL
                | Errno::NOSPC
                | Errno::TOOBIG
                | Errno::RANGE,
            ) => skipped.xattrs += 1,
            Err(error) => return Err(error),
        }
    }
    set_times(place, metadata)?;
    Ok(skipped)
}

/// Takes off what the entry has inherited from where it is unpacked, and does not have in the image: it might open it to others.
fn drop_inherited(place: Place<'_>, xattrs: &[(Vec<u8>, Vec<u8>)]) {
    for acl in [&b"system.posix_acl_access"[..], b"system.posix_acl_default"] {
        if !xattrs.iter().any(|(name, _)| name == acl) {
            let _ = place.remove(acl); // nearly always there is none
        }
    }
}

fn set_owner(place: Place<'_>, metadata: &Metadata) -> Result<(), Errno> {
    if metadata.uid == u32::MAX || metadata.gid == u32::MAX {
        return Err(Errno::INVAL); // the ids that mean no change
    }
    let (uid, gid) = (Some(Uid::from_raw(metadata.uid)), Some(Gid::from_raw(metadata.gid)));
    match place {
        Place::Open(fd) => fchown(fd, uid, gid),
        Place::In(dir, name) => chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW),
    }
}

/// Sets the mode of what is no symlink.
pub(super) fn set_mode(place: Place<'_>, mode: u32) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(mode);
    match place {
        Place::Open(fd) => fchmod(fd, mode),
        // A device node, pipe or socket that this run has just made in a directory of its own.
        Place::In(dir, name) => chmodat(dir, name, mode, AtFlags::empty()),
    }
}

fn set_times(place: Place<'_>, metadata: &Metadata) -> Result<(), Errno> {
    let times = Timestamps {
        last_access: timespec(metadata.accessed),
        last_modification: timespec(metadata.modified),
    };
    match place {
        Place::Open(fd) => futimens(fd, &times),
        Place::In(dir, name) => utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW),
    }
}

fn timespec(time: cowback::Timespec) -> Timespec {
    Timespec { tv_sec: time.sec, tv_nsec: time.nsec.min(999_999_999).into() }
}

/// Opens the directory `path` below `root`, by its names, none of which may be a symlink.
pub(super) fn open_below(
    root: BorrowedFd<'_>,
    path: &std::path::Path,
) -> Result<std::os::fd::OwnedFd, Errno> {
    use std::os::unix::ffi::OsStrExt as _;
    let mut dir = crate::walk::open_dir(root, b".")?;
    for name in path.components() {
        dir = crate::walk::open_dir(std::os::fd::AsFd::as_fd(&dir), name.as_os_str().as_bytes())?;
    }
    Ok(dir)
}
