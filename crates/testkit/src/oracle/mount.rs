//! Loop mounts in the kernel, undone whatever happens.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use super::{OracleError, OracleResult, make_image, run};

/// How an image is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Nothing is written.
    ReadOnly,
    /// As usual.
    ReadWrite,
}

/// An image that is mounted at a place of its own, until dropped.
#[derive(Debug)]
pub struct Mount {
    dir: TempDir,
    mounted: bool,
}

impl Mount {
    pub(super) fn new(image: &Path, access: Access) -> OracleResult<Self> {
        let dir = tempfile::Builder::new().prefix("cowback-mount-").tempdir();
        let dir = dir.map_err(|error| OracleError {
            command: "a directory to mount at".into(),
            output: error.to_string(),
        })?;
        let options = match access {
            Access::ReadOnly => "loop,ro",
            Access::ReadWrite => "loop",
        };
        let _one_at_a_time = lock();
        // The kernel remembers devices that it has seen by UUID, and refuses an older state of one.
        let _ = run(Command::new("btrfs").args(["device", "scan", "--forget"]), "");
        let mut command = Command::new("mount");
        run(command.args(["-t", "btrfs", "-o", options]).arg(image).arg(dir.path()), "")?;
        Ok(Self { dir, mounted: true })
    }

    /// Where the root of the file system is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Runs `btrfs scrub` over what is mounted.
    ///
    /// # Errors
    /// What it found.
    pub fn scrub(&self) -> OracleResult<()> {
        let mut command = Command::new("btrfs");
        let text = run(command.args(["scrub", "start", "-B"]).arg(self.path()), "")?;
        if text.contains("no errors found") {
            return Ok(());
        }
        Err(OracleError { command: format!("{command:?}"), output: text })
    }

    /// Undoes the mount and tells if that fails; all that was written is on the image then.
    ///
    /// # Errors
    /// What umount said.
    pub fn unmount(mut self) -> OracleResult<()> {
        self.undo()
    }

    fn undo(&mut self) -> OracleResult<()> {
        if !self.mounted {
            return Ok(());
        }
        let _one_at_a_time = lock();
        let mut last = Ok(String::new());
        for attempt in 0..20 {
            last = run(Command::new("umount").arg(self.dir.path()), "");
            if last.is_ok() {
                self.mounted = false;
                return Ok(());
            }
            // Someone (an indexer, say) may look at the place for a moment.
            std::thread::sleep(Duration::from_millis(10 << (attempt / 4)));
        }
        if run(Command::new("umount").arg("-l").arg(self.dir.path()), "").is_ok() {
            self.mounted = false;
        }
        last.map(drop)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if let Err(error) = self.undo() {
            crate::random::announce(&format!("left behind: {error}"));
        }
    }
}

/// One process at a time mounts and unmounts: `--forget` is for the whole machine.
fn lock() -> Option<File> {
    let path = std::env::temp_dir().join("cowback-mount.lock");
    let file = File::options().create(true).append(true).open(path).ok()?;
    file.lock().ok()?;
    Some(file)
}

/// Whether an image can be mounted here: tried, with a small one of mkfs.
pub(super) fn probe() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("a kernel mount needs root".into());
    }
    if !Path::new("/dev/loop-control").exists() {
        return Err("no loop devices here (no /dev/loop-control)".into());
    }
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let loadable = Command::new("modprobe").arg("btrfs").output().is_ok_and(|o| o.status.success());
    if !loadable && !known.split_whitespace().any(|word| word == "btrfs") {
        return Err("this kernel has no btrfs".into());
    }
    let dir = tempfile::tempdir().map_err(|error| error.to_string())?;
    let image: PathBuf = dir.path().join("probe.img");
    let short = |error: OracleError| {
        error.output.lines().next().unwrap_or("it gives no reason").trim().to_owned()
    };
    make_image(&image, 128 << 20, &[]).map_err(short)?;
    let mount = Mount::new(&image, Access::ReadOnly).map_err(short)?;
    mount.unmount().map_err(short)
}
