//! Where a fresh image goes: under a temporary name beside IMAGE, renamed when complete; or onto a block device.
//!
//! Invariant: until [`Target::complete`] nothing at IMAGE has changed, unless it is a block device; and when the program fails, or is stopped, nothing is
//! left of what was half made. On a block device the half-made volume's superblocks are wiped, and none that were there before it was begun.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use cowback::device::FileDevice;
use cowback::{Options, Volume};
use rustix::fs::{CWD, RenameFlags, renameat_with};

use crate::failure::{About, Failure, Outcome, shown};
use crate::signals::Pending;

/// A file by its device and inode number.
pub(crate) type FileId = (u64, u64);

/// Bytes of a block device that are looked at to see whether it holds something.
const HEAD: usize = 256 << 10;
/// Where btrfs has its superblocks, and cowback a copy of its own.
const SUPERBLOCKS: [u64; 4] = [64 << 10, 128 << 10, 64 << 20, 256 << 30];

/// Where a fresh image goes.
#[derive(Debug)]
pub(crate) struct Target {
    /// What was asked for, with symlinks followed.
    image: PathBuf,
    /// Where the volume is made: the temporary file, or the device itself.
    work: PathBuf,
    is_device: bool,
    overwrite: bool,
    /// The file that will be replaced.
    old: Option<fs::Metadata>,
    /// Keeps writers out of that file: what they committed to it from here on would be lost.
    #[expect(dead_code, reason = "it is held")]
    claim: Option<FileDevice>,
    pending: Pending,
}

impl Target {
    /// Looks at what is there, and finds a temporary name.
    pub(crate) fn prepare(image: &Path, overwrite: bool) -> Outcome<Self> {
        let image = &follow(image)?;
        let old = match fs::metadata(image) {
            Ok(metadata) => Some(metadata),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).about(image),
        };
        match old.as_ref().map(fs::Metadata::file_type) {
            Some(kind) if kind.is_block_device() => return Self::device(image, overwrite),
            Some(kind) if kind.is_dir() => {
                return Err(Failure::new(shown(image), "is a directory"));
            }
            Some(kind) if !kind.is_file() => {
                return Err(Failure::new(shown(image), "neither a file nor a block device"));
            }
            Some(_) if !overwrite => return Err(exists(image)),
            _ => {}
        }
        let parent = fs::metadata(parent_of(image)).about(image)?;
        if !parent.is_dir() {
            return Err(io::Error::from(io::ErrorKind::NotADirectory)).about(image);
        }
        let claim = old.as_ref().map(|_| keep_writers_out(image)).transpose().about(image)?;
        let work = free_name(image).about(image)?;
        let doomed = work.clone();
        let pending = Pending::new(Box::new(move || {
            let _ = fs::remove_file(doomed); // it may not have been made yet
        }));
        let pending = pending.about("signals")?;
        let claim = claim.flatten();
        Ok(Self { image: image.clone(), work, is_device: false, overwrite, old, claim, pending })
    }

    fn device(image: &Path, overwrite: bool) -> Outcome<Self> {
        if !overwrite && holds_something(image).about(image)? {
            let why = "the device is not empty; --overwrite replaces what is on it";
            return Err(Failure::new(shown(image), why));
        }
        // What is on the device is not ours before a volume has been made there: it may be too small, or in use by somebody else.
        let pending = Pending::new(Box::new(|| {}));
        Ok(Self {
            image: image.to_path_buf(),
            work: image.to_path_buf(),
            is_device: true,
            overwrite,
            old: None,
            claim: None,
            pending: pending.about("signals")?,
        })
    }

    /// Makes the volume. From here on there is something to clean up.
    pub(crate) fn create(&self, options: &Options) -> Outcome<Volume> {
        let volume = Volume::create(&self.work, options).about(&self.image)?;
        if self.is_device {
            let doomed = self.work.clone();
            self.pending.replace(Box::new(move || {
                let _ = wipe(&doomed); // nobody is left to be told
            }));
            clear_head(&self.work).about(&self.image)?;
        } else if let Some(old) = &self.old {
            // At once: who may not read the old image may not read the new one while it grows.
            fs::set_permissions(&self.work, old.permissions()).about(&self.image)?;
        }
        Ok(volume)
    }

    pub(crate) fn is_device(&self) -> bool {
        self.is_device
    }

    /// The files that are this image: the one that is made, and the one that it replaces.
    pub(crate) fn own_files(&self) -> Vec<FileId> {
        let made = fs::metadata(&self.work).ok();
        let files = made.iter().chain(&self.old).filter(|metadata| metadata.is_file());
        files.map(|metadata| (metadata.dev(), metadata.ino())).collect()
    }

    /// Gives the finished image its name.
    pub(crate) fn complete(self) -> Outcome<()> {
        if self.is_device {
            return self.pending.complete(|| Ok(()));
        }
        self.pending.complete(|| self.rename())?;
        // The content is on disk; without this the name might not be after a power cut.
        FileDevice::sync_name(&self.image).about(&self.image)
    }

    fn rename(&self) -> Outcome<()> {
        if self.overwrite {
            return fs::rename(&self.work, &self.image).about(&self.image);
        }
        let flags = RenameFlags::NOREPLACE;
        match renameat_with(CWD, &self.work, CWD, &self.image, flags) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::EXIST) => Err(exists(&self.image)),
            // A file system that does not know the flag: a link does not replace either.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) => {
                fs::hard_link(&self.work, &self.image).about(&self.image)?;
                fs::remove_file(&self.work).about(&self.image)
            }
            Err(error) => Err(error).about(&self.image),
        }
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.pending.give_up();
    }
}

/// Claims the image that is to be replaced as a reader does: others may read it on. Nothing if this user may not read it.
fn keep_writers_out(image: &Path) -> io::Result<Option<FileDevice>> {
    match FileDevice::open(image, true) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(None),
        opened => opened.map(Some),
    }
}

/// Whether there is a block device at `image`, or where it leads.
pub(crate) fn is_block_device(image: &Path) -> bool {
    fs::metadata(image).is_ok_and(|metadata| metadata.file_type().is_block_device())
}

fn exists(image: &Path) -> Failure {
    Failure::new(shown(image), "exists; --overwrite replaces it")
}

/// `image`, or where it leads if it is a symlink.
fn follow(image: &Path) -> Outcome<PathBuf> {
    match fs::symlink_metadata(image) {
        Ok(metadata) if metadata.is_symlink() => fs::canonicalize(image).about(image),
        _ => Ok(image.to_path_buf()),
    }
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// A name beside `image` that is not taken. What is there by such a name was left by a run that was killed with this process id.
fn free_name(image: &Path) -> io::Result<PathBuf> {
    let name = image.file_name().ok_or(io::ErrorKind::IsADirectory)?;
    let kept = &name.as_bytes()[..name.len().min(200)];
    for number in 0..u16::MAX {
        let mut temp = b".".to_vec();
        temp.extend_from_slice(kept);
        temp.extend_from_slice(format!(".cowback-{}-{number}", std::process::id()).as_bytes());
        let path = parent_of(image).join(OsString::from_vec(temp));
        match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(path),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Whether a device has anything but zeros where file systems and partition tables begin.
fn holds_something(device: &Path) -> io::Result<bool> {
    let mut head = Vec::new();
    File::open(device)?.take(HEAD as u64).read_to_end(&mut head)?;
    Ok(head.iter().any(|byte| *byte != 0))
}

/// Takes away what other file systems, swap, volume managers or a partition table have before btrfs' first superblock, where btrfs has nothing: with
/// two signatures on a device, nobody could tell what it holds, and it would not be mounted without being told.
fn clear_head(device: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(device)?;
    let before_btrfs = usize::try_from(SUPERBLOCKS[0]).expect("it is 64 KiB");
    file.write_all_at(&vec![0; before_btrfs], 0)?;
    file.sync_all()
}

/// Takes the superblocks off a device, so that nobody mounts half a volume.
fn wipe(device: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(device)?;
    for at in SUPERBLOCKS {
        if file.write_all_at(&[0; 4096], at).is_err() {
            break; // beyond the end
        }
    }
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn leftovers(dir: &Path) -> Vec<OsString> {
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name()).collect()
    }

    #[test]
    fn a_target_that_is_dropped_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let target = Target::prepare(&dir.path().join("a.img"), false).unwrap();
        fs::write(&target.work, b"half").unwrap();
        drop(target);
        assert_eq!(leftovers(dir.path()), Vec::<OsString>::new());
    }

    #[test]
    fn a_complete_image_has_its_name_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("x".repeat(255));
        let target = Target::prepare(&image, false).unwrap();
        fs::write(&target.work, b"whole").unwrap();
        target.complete().unwrap();
        assert_eq!(fs::read(&image).unwrap(), b"whole");
        assert_eq!(leftovers(dir.path()).len(), 1);
    }

    #[test]
    fn an_image_that_appears_meanwhile_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("a.img");
        let target = Target::prepare(&image, false).unwrap();
        fs::write(&target.work, b"new").unwrap();
        fs::write(&image, b"theirs").unwrap();
        assert!(target.complete().unwrap_err().line().contains("exists"));
        assert_eq!(fs::read(&image).unwrap(), b"theirs");
        assert_eq!(leftovers(dir.path()).len(), 1);
    }

    #[test]
    fn nobody_writes_to_an_image_that_is_being_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("a.img");
        let writer = Volume::create(&image, &Options::default()).unwrap();
        let busy = Target::prepare(&image, true).unwrap_err();
        assert!(busy.line().contains("in use"), "{}", busy.line());
        writer.close().unwrap();
        let target = Target::prepare(&image, true).unwrap();
        let options = |read_only| Options { read_only, ..Options::default() };
        assert!(Volume::open(&image, &options(false)).is_err());
        drop(Volume::open(&image, &options(true)).unwrap());
        target.create(&Options::default()).unwrap().close().unwrap();
        target.complete().unwrap();
        Volume::open(&image, &options(false)).unwrap().close().unwrap();
    }

    #[test]
    fn overwriting_goes_through_symlinks_and_keeps_the_mode() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("a.img");
        let link = dir.path().join("link");
        fs::write(&image, b"old").unwrap();
        fs::set_permissions(&image, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink("a.img", &link).unwrap();
        assert!(Target::prepare(&link, false).is_err());
        let target = Target::prepare(&link, true).unwrap();
        target.create(&Options::default()).unwrap().close().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&target.work), 0o600, "before it is complete");
        assert_eq!(target.own_files().len(), 2);
        target.complete().unwrap();
        assert_ne!(fs::read(&image).unwrap(), b"old");
        assert_eq!(fs::metadata(&image).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    }

    #[test]
    fn a_device_is_wiped_only_after_a_volume_was_made_there() {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("device"); // it is not one; its bytes are looked at
        fs::write(&device, vec![7; 128 << 10]).unwrap();
        drop(Target::device(&device, true).unwrap());
        let target = Target::device(&device, true).unwrap();
        // As one that is in use, it cannot be had.
        target.create(&Options::default()).unwrap_err();
        drop(target);
        assert_eq!(fs::read(&device).unwrap(), vec![7; 128 << 10]);
        fs::remove_file(&device).unwrap();
        wiped_after_a_volume_was_made(&device);
    }

    fn wiped_after_a_volume_was_made(device: &Path) {
        let target = Target::device(device, true).unwrap();
        drop(target.create(&Options::default()).unwrap());
        let has_magic = || {
            let mut magic = [0; 8];
            let file = File::open(device).unwrap();
            file.read_exact_at(&mut magic, (64 << 10) + 64).unwrap();
            magic == *b"_BHRfS_M"
        };
        assert!(has_magic());
        let mut head = vec![7; 64 << 10];
        File::open(device).unwrap().read_exact(&mut head).unwrap();
        assert!(head.iter().all(|byte| *byte == 0), "what was there before is not seen any more");
        drop(target);
        assert!(!has_magic());
    }

    /// A file as a block device, as long as this lives.
    struct Loop(PathBuf);

    impl Loop {
        fn new(file: &Path) -> Result<Self, String> {
            let made = Command::new("losetup").args(["--find", "--show"]).arg(file).output();
            let made = made.map_err(|error| error.to_string())?;
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
            if !made.status.success() {
                return Err(text(&made.stderr));
            }
            Ok(Self(PathBuf::from(text(&made.stdout))))
        }
    }

    impl Drop for Loop {
        fn drop(&mut self) {
            let ended = Command::new("losetup").arg("--detach").arg(&self.0).status();
            assert!(ended.is_ok_and(|status| status.success()) || std::thread::panicking());
        }
    }

    #[test]
    fn a_block_device_is_wiped_only_after_a_volume_was_made_there() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        File::create(&file).unwrap().set_len(64 << 20).unwrap();
        let device = match Loop::new(&file) {
            Ok(device) => device,
            Err(why) => return cowback_testkit::skipped("images on a block device", &why),
        };
        let head = || {
            let mut head = vec![0; HEAD];
            File::open(&device.0).unwrap().read_exact(&mut head).unwrap();
            head
        };
        OpenOptions::new()
            .write(true)
            .open(&device.0)
            .unwrap()
            .write_all_at(&[7; HEAD], 0)
            .unwrap();
        assert!(Target::prepare(&device.0, false).unwrap_err().line().contains("not empty"));
        let target = Target::prepare(&device.0, true).unwrap();
        assert!(target.is_device());
        drop(target);
        assert!(head() == [7; HEAD], "nothing was made there");
        // A device manager may look at a device that was just written to, and lock it meanwhile.
        let user = (0..100).find_map(|_| {
            let opened = cowback::device::FileDevice::open(&device.0, false);
            opened.inspect_err(|_| std::thread::sleep(std::time::Duration::from_millis(50))).ok()
        });
        let user = user.unwrap();
        let target = Target::prepare(&device.0, true).unwrap();
        target.create(&Options::default()).unwrap_err();
        drop(target);
        assert!(head() == [7; HEAD], "it was another's");
        drop(user);
        wiped_after_a_volume_was_made(&device.0);
    }

    #[test]
    fn what_can_be_no_image_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path(), Path::new("/dev/null"), Path::new("/"), Path::new("..")] {
            assert!(Target::prepare(path, true).is_err(), "{path:?}");
        }
        assert!(Target::prepare(&dir.path().join("no/dir.img"), true).is_err());
    }
}
