//! A corpus as a directory of the host.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{FileExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags};

use super::{Corpus, Entry, FileSpec, Kind};
use crate::tree::path_of;

impl Corpus {
    /// Makes the tree under `root`, which exists. Gives one line for each thing that the host cannot hold.
    ///
    /// # Errors
    /// The system's own, with the path.
    pub fn write_to(&self, root: &Path) -> io::Result<Vec<String>> {
        let mut lacking = vec![];
        for entry in &self.entries {
            let path = root.join(path_of(&entry.path));
            if let Err(error) = make(root, &path, entry) {
                let what = format!("{}: {error}", path.display());
                if !matches!(entry.kind, Kind::Char(..) | Kind::Block(..)) {
                    return Err(io::Error::new(error.kind(), what));
                }
                lacking.push(what);
            }
        }
        // Attributes last, and from the end: making an entry changes its directory's time.
        for entry in self.entries.iter().rev() {
            let path = root.join(path_of(&entry.path));
            if path.symlink_metadata().is_ok() {
                let set = set_attributes(&path, entry);
                set.map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
                    .map(|lacks| lacking.extend(lacks))?;
            }
        }
        Ok(lacking)
    }
}

fn make(root: &Path, path: &Path, entry: &Entry) -> io::Result<()> {
    let node = |kind, device| rustix::fs::mknodat(CWD, path, kind, Mode::from(0o600), device);
    match &entry.kind {
        Kind::Dir => fs::create_dir(path)?,
        Kind::File(spec) => write_file(path, spec)?,
        Kind::HardLink(to) => fs::hard_link(root.join(path_of(to)), path)?,
        Kind::Symlink(to) => symlink(path_of(to), path)?,
        Kind::Fifo => node(FileType::Fifo, 0)?,
        Kind::Socket => node(FileType::Socket, 0)?,
        Kind::Char(major, minor) => {
            node(FileType::CharacterDevice, rustix::fs::makedev(*major, *minor))?;
        }
        Kind::Block(major, minor) => {
            node(FileType::BlockDevice, rustix::fs::makedev(*major, *minor))?;
        }
    }
    Ok(())
}

fn write_file(path: &Path, spec: &FileSpec) -> io::Result<()> {
    let file = File::create_new(path)?;
    file.set_len(spec.len)?;
    spec.for_each_piece(|offset, bytes| file.write_all_at(bytes, offset))
}

fn set_attributes(path: &Path, entry: &Entry) -> io::Result<Vec<String>> {
    let mut lacking = vec![];
    if matches!(entry.kind, Kind::HardLink(_)) {
        return Ok(lacking);
    }
    let is_symlink = matches!(entry.kind, Kind::Symlink(_));
    if let Some((uid, gid)) = entry.owner {
        if is_symlink {
            lchown(path, Some(uid), Some(gid))
        } else {
            chown(path, Some(uid), Some(gid))
        }?;
    }
    for (name, value) in &entry.xattrs {
        if let Err(error) = rustix::fs::lsetxattr(path, &name[..], value, XattrFlags::empty()) {
            let name = name.escape_ascii();
            lacking.push(format!("{}: attribute {name}: {error}", path.display()));
        }
    }
    if !is_symlink {
        fs::set_permissions(path, Permissions::from_mode(entry.mode))?;
    }
    let time = Timespec { tv_sec: entry.mtime.0, tv_nsec: entry.mtime.1 };
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(lacking)
}
