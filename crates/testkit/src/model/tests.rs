//! The model against the host's own file system, and the machinery against planted defects.

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;

use super::*;
use crate::tree::path_of;

/// The model with a defect, as a target that must be caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Defect {
    None,
    LosesLastByteOfLongWrites,
    TruncateLeavesOldBytes,
    RenameKeepsOldName,
    LinkCopies,
    ForgetsXattrsOnReopen,
}

struct Broken {
    model: Model,
    defect: Defect,
}

impl Target for Broken {
    fn create(&mut self, path: &[u8], mode: u32) -> OpResult<()> {
        self.model.create(path, mode)
    }
    fn mkdir(&mut self, path: &[u8], mode: u32) -> OpResult<()> {
        self.model.mkdir(path, mode)
    }
    fn symlink(&mut self, to: &[u8], path: &[u8]) -> OpResult<()> {
        self.model.symlink(to, path)
    }
    fn link(&mut self, old: &[u8], new: &[u8]) -> OpResult<()> {
        if self.defect == Defect::LinkCopies && self.model.stat(old)?.kind == EntryKind::File {
            let stat = self.model.stat(old)?;
            let bytes = self.model.read(old, 0, usize::MAX / 2)?;
            self.model.create(new, stat.mode)?;
            return self.model.write(new, 0, &bytes);
        }
        self.model.link(old, new)
    }
    fn rename(&mut self, from: &[u8], to: &[u8]) -> OpResult<()> {
        let is_file = self.model.stat(from).is_ok_and(|stat| stat.kind == EntryKind::File);
        if self.defect == Defect::RenameKeepsOldName && is_file {
            self.model.rename(from, to)?;
            return self.model.create(from, 0o644);
        }
        self.model.rename(from, to)
    }
    fn unlink(&mut self, path: &[u8]) -> OpResult<()> {
        self.model.unlink(path)
    }
    fn rmdir(&mut self, path: &[u8]) -> OpResult<()> {
        self.model.rmdir(path)
    }
    fn write(&mut self, path: &[u8], offset: u64, data: &[u8]) -> OpResult<()> {
        if self.defect == Defect::LosesLastByteOfLongWrites && data.len() > 4096 {
            let mut data = data.to_vec();
            *data.last_mut().expect("it is long") ^= 1;
            return self.model.write(path, offset, &data);
        }
        self.model.write(path, offset, data)
    }
    fn read(&mut self, path: &[u8], offset: u64, len: usize) -> OpResult<Vec<u8>> {
        self.model.read(path, offset, len)
    }
    fn truncate(&mut self, path: &[u8], len: u64) -> OpResult<()> {
        if self.defect == Defect::TruncateLeavesOldBytes {
            let old = self.model.stat(path)?.len;
            if len > 0 && len < old {
                self.model.truncate(path, len - 1)?;
            }
        }
        self.model.truncate(path, len)
    }
    fn read_link(&mut self, path: &[u8]) -> OpResult<Vec<u8>> {
        self.model.read_link(path)
    }
    fn stat(&mut self, path: &[u8]) -> OpResult<Stat> {
        self.model.stat(path)
    }
    fn set_attributes(&mut self, path: &[u8], mode: u32, uid: u32, gid: u32) -> OpResult<()> {
        self.model.set_attributes(path, mode, uid, gid)
    }
    fn list(&mut self, path: &[u8]) -> OpResult<Vec<Vec<u8>>> {
        self.model.list(path)
    }
    fn set_xattr(&mut self, path: &[u8], name: &[u8], value: &[u8]) -> OpResult<()> {
        self.model.set_xattr(path, name, value)
    }
    fn remove_xattr(&mut self, path: &[u8], name: &[u8]) -> OpResult<()> {
        self.model.remove_xattr(path, name)
    }
    fn xattrs(&mut self, path: &[u8]) -> OpResult<Vec<(Vec<u8>, Vec<u8>)>> {
        self.model.xattrs(path)
    }
    fn sync_file(&mut self, path: &[u8]) -> OpResult<()> {
        self.model.sync_file(path)
    }
    fn commit(&mut self) -> OpResult<()> {
        self.model.commit()
    }
    fn reopen(&mut self) -> OpResult<()> {
        if self.defect == Defect::ForgetsXattrsOnReopen {
            for path in self.model.paths() {
                for (name, _) in self.model.xattrs(&path)? {
                    self.model.remove_xattr(&path, &name)?;
                }
            }
        }
        Ok(())
    }
}

fn run_broken(ops: &[Op], defect: Defect) -> Result<(), Mismatch> {
    let mut target = Broken { model: Model::new(), defect };
    run(ops, &mut Model::new(), &mut target, Options::default())
}

#[test]
fn planted_defects_are_found_and_made_short() {
    for defect in [
        Defect::LosesLastByteOfLongWrites,
        Defect::TruncateLeavesOldBytes,
        Defect::RenameKeepsOldName,
        Defect::LinkCopies,
        Defect::ForgetsXattrsOnReopen,
    ] {
        let failing = (0..20).find_map(|seed| {
            let ops = Generator::new(seed, Sizes::BLOCKS).ops(400);
            run_broken(&ops, Defect::None).unwrap();
            run_broken(&ops, defect).is_err().then_some(ops)
        });
        let ops = failing.unwrap_or_else(|| panic!("{defect:?} was not found"));
        let short = shrink(&ops, |ops| run_broken(ops, defect).is_err());
        assert!(short.len() <= 4, "{defect:?}: {short:?}");
        assert!(run_broken(&short, defect).is_err());
    }
}

#[test]
fn snapshots_are_told_apart() {
    let mut model = Model::new();
    let mut snapshots = vec![model.clone()];
    let mut generator = Generator::new(5, Sizes::BLOCKS);
    for _ in 0..10 {
        for op in generator.ops(30) {
            let _ = op.apply(&mut model);
        }
        snapshots.push(model.clone());
    }
    for (number, snapshot) in snapshots.iter().enumerate() {
        let found = which_snapshot(&snapshots, &mut snapshot.clone()).unwrap();
        assert!(found == number || snapshots[found] == *snapshot, "{number}");
    }
    model.create(b"something-new", 0o644).unwrap();
    assert_eq!(which_snapshot(&snapshots, &mut model), None);
}

/// A directory of the host as a target: shows that the model is what Linux does.
struct Host {
    root: PathBuf,
}

impl Host {
    fn at(&self, path: &[u8]) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path_of(path)) }
    }

    fn open(&self, path: &[u8], write: bool) -> OpResult<fs::File> {
        let kind = self.stat_kind(path)?;
        match kind {
            EntryKind::Dir => Err(OpError::IsDir),
            EntryKind::Symlink => Err(OpError::Invalid),
            EntryKind::File => {
                let path = self.at(path);
                fs::OpenOptions::new().read(true).write(write).open(path).map_err(host_error)
            }
        }
    }

    fn stat_kind(&self, path: &[u8]) -> OpResult<EntryKind> {
        let kind = fs::symlink_metadata(self.at(path)).map_err(host_error)?.file_type();
        Ok(if kind.is_dir() {
            EntryKind::Dir
        } else if kind.is_symlink() {
            EntryKind::Symlink
        } else {
            EntryKind::File
        })
    }
}

fn host_error(error: std::io::Error) -> OpError {
    match error.raw_os_error() {
        Some(1) => OpError::NotPermitted,
        Some(2) => OpError::NotFound,
        Some(17) => OpError::Exists,
        Some(20) => OpError::NotDir,
        Some(21) => OpError::IsDir,
        Some(22) => OpError::Invalid,
        Some(36) => OpError::NameTooLong,
        Some(39) => OpError::NotEmpty,
        Some(61) => OpError::NoAttribute,
        _ => OpError::Other(error.to_string()),
    }
}

impl Target for Host {
    fn create(&mut self, path: &[u8], mode: u32) -> OpResult<()> {
        let mut options = fs::OpenOptions::new();
        let path = self.at(path);
        options.write(true).create_new(true).mode(mode).open(&path).map_err(host_error)?;
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(host_error)
    }
    fn mkdir(&mut self, path: &[u8], mode: u32) -> OpResult<()> {
        fs::create_dir(self.at(path)).map_err(host_error)?;
        fs::set_permissions(self.at(path), fs::Permissions::from_mode(mode)).map_err(host_error)
    }
    fn symlink(&mut self, to: &[u8], path: &[u8]) -> OpResult<()> {
        std::os::unix::fs::symlink(path_of(to), self.at(path)).map_err(host_error)
    }
    fn link(&mut self, old: &[u8], new: &[u8]) -> OpResult<()> {
        fs::hard_link(self.at(old), self.at(new)).map_err(host_error)
    }
    fn rename(&mut self, from: &[u8], to: &[u8]) -> OpResult<()> {
        fs::rename(self.at(from), self.at(to)).map_err(host_error)
    }
    fn unlink(&mut self, path: &[u8]) -> OpResult<()> {
        fs::remove_file(self.at(path)).map_err(host_error)
    }
    fn rmdir(&mut self, path: &[u8]) -> OpResult<()> {
        fs::remove_dir(self.at(path)).map_err(host_error)
    }
    fn write(&mut self, path: &[u8], offset: u64, data: &[u8]) -> OpResult<()> {
        self.open(path, true)?.write_all_at(data, offset).map_err(host_error)
    }
    fn read(&mut self, path: &[u8], offset: u64, len: usize) -> OpResult<Vec<u8>> {
        let file = self.open(path, false)?;
        let end = file.metadata().map_err(host_error)?.len();
        let bytes = end.saturating_sub(offset).min(len as u64);
        let mut buf = vec![0; usize::try_from(bytes).unwrap()];
        file.read_exact_at(&mut buf, offset).map_err(host_error)?;
        Ok(buf)
    }
    fn truncate(&mut self, path: &[u8], len: u64) -> OpResult<()> {
        self.open(path, true)?.set_len(len).map_err(host_error)
    }
    fn read_link(&mut self, path: &[u8]) -> OpResult<Vec<u8>> {
        use std::os::unix::ffi::OsStringExt;
        let to = fs::read_link(self.at(path)).map_err(host_error)?;
        Ok(to.into_os_string().into_vec())
    }
    fn stat(&mut self, path: &[u8]) -> OpResult<Stat> {
        let meta = fs::symlink_metadata(self.at(path)).map_err(host_error)?;
        let kind = self.stat_kind(path)?;
        let dir = kind == EntryKind::Dir;
        let links = if dir { 1 } else { u32::try_from(meta.nlink()).unwrap() };
        let len = if dir { 0 } else { meta.len() };
        let (mode, uid, gid) = (meta.mode() & 0o7777, meta.uid(), meta.gid());
        Ok(Stat { kind, len, mode, uid, gid, links })
    }
    fn set_attributes(&mut self, path: &[u8], mode: u32, uid: u32, gid: u32) -> OpResult<()> {
        let kind = self.stat_kind(path)?;
        let path = self.at(path);
        std::os::unix::fs::lchown(&path, Some(uid), Some(gid)).map_err(host_error)?;
        if kind != EntryKind::Symlink {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(host_error)?;
        }
        Ok(())
    }
    fn list(&mut self, path: &[u8]) -> OpResult<Vec<Vec<u8>>> {
        use std::os::unix::ffi::OsStringExt;
        if self.stat_kind(path)? != EntryKind::Dir {
            return Err(OpError::NotDir);
        }
        let names = fs::read_dir(self.at(path)).map_err(host_error)?;
        names.map(|entry| Ok(entry.map_err(host_error)?.file_name().into_vec())).collect()
    }
    // The host refuses user attributes on symlinks, which a btrfs image can hold: kept out of this comparison.
    fn set_xattr(&mut self, path: &[u8], _: &[u8], _: &[u8]) -> OpResult<()> {
        self.stat_kind(path).map(drop)
    }
    fn remove_xattr(&mut self, path: &[u8], _: &[u8]) -> OpResult<()> {
        self.stat_kind(path).map(drop)
    }
    fn xattrs(&mut self, path: &[u8]) -> OpResult<Vec<(Vec<u8>, Vec<u8>)>> {
        self.stat_kind(path).map(|_| vec![])
    }
    fn sync_file(&mut self, path: &[u8]) -> OpResult<()> {
        self.open(path, true).map(drop)
    }
    fn commit(&mut self) -> OpResult<()> {
        Ok(())
    }
    fn reopen(&mut self) -> OpResult<()> {
        Ok(())
    }
}

#[test]
fn the_model_does_what_linux_does() {
    if !rustix::process::geteuid().is_root() {
        return crate::outcome::skipped("the model against the host", "owners need root");
    }
    let seed = crate::seed("the_model_does_what_linux_does", 1);
    for round in 0..12 {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut ops = Generator::new(seed + round, Sizes::BLOCKS).ops(400);
        ops.retain(|op| !matches!(op, Op::SetXattr { .. } | Op::RemoveXattr { .. }));
        let mut host = Host { root: dir.path().to_path_buf() };
        // Symlinks within a path are followed by the host: whatever goes through one is left out.
        let mut model = Model::new();
        for op in ops {
            let mut trial = model.clone();
            let result = op.apply(&mut trial);
            let links = model.paths().into_iter().filter(|path| {
                model.clone().stat(path).is_ok_and(|stat| stat.kind == EntryKind::Symlink)
            });
            let links: Vec<_> =
                links.map(|path| format!("{:?}", [&path[..], b"/"].concat())).collect();
            let text = format!("{op:?}");
            if links.iter().any(|link| text.contains(link.trim_matches(['[', ']']))) {
                continue;
            }
            let got = op.apply(&mut host);
            assert_eq!(got, result, "seed {}, {op:?}", seed + round);
            model = trial;
        }
        compare(&model, &mut host).unwrap_or_else(|why| panic!("seed {}: {why}", seed + round));
    }
}
