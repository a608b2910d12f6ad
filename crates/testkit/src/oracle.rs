//! What others say of an image: btrfs-progs, and the Linux kernel through a loop mount.
//!
//! Nothing here is assumed to be there. A check that cannot be done gives [`Outcome::Skipped`] with the reason; one that
//! finds something wrong gives an [`OracleError`] with all that the other side printed.

mod mount;

pub use mount::{Access, Mount};

use std::collections::BTreeMap;
use std::fmt;
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::outcome::{Outcome, skipped};
use crate::tree::{Compare, Tree};

/// What is available here.
#[derive(Debug, Clone)]
pub struct Oracle {
    /// The version of btrfs-progs, or why it cannot be used.
    pub progs: Result<String, String>,
    /// Whether an image can be mounted, or why not.
    pub mount: Result<(), String>,
}

/// Which of the two implementations of `btrfs check`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// The usual one.
    Original,
    /// The one that looks at each item in turn; written separately, and stricter in places.
    Lowmem,
}

/// The other side found something wrong, or could not be run.
#[derive(Debug, Clone)]
pub struct OracleError {
    /// What was run.
    pub command: String,
    /// What it said.
    pub output: String,
}

impl fmt::Display for OracleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:\n{}", self.command, self.output.trim_end())
    }
}

impl std::error::Error for OracleError {}

/// Result of a check by another side.
pub type OracleResult<T> = Result<T, OracleError>;

impl Oracle {
    /// Finds out, once in a process, what is available.
    pub fn available() -> &'static Self {
        static ORACLE: OnceLock<Oracle> = OnceLock::new();
        ORACLE.get_or_init(|| {
            let progs = probe_progs();
            let mount = match &progs {
                Ok(_) => mount::probe(),
                Err(why) => Err(why.clone()),
            };
            Self { progs, mount }
        })
    }

    /// Runs `btrfs check --readonly --check-data-csum`.
    ///
    /// # Errors
    /// What the check found.
    pub fn check(&self, image: &Path, mode: Mode) -> OracleResult<Outcome> {
        if let Err(why) = &self.progs {
            return Ok(Outcome::Skipped(why.clone()));
        }
        let mut command = Command::new("btrfs");
        command.args(["check", "--readonly", "--check-data-csum"]);
        if mode == Mode::Lowmem {
            command.arg("--mode=lowmem");
        }
        let output = run(command.arg(image), "")?;
        if output.contains("no error found") {
            return Ok(Outcome::Passed);
        }
        Err(OracleError { command: format!("{command:?}"), output })
    }

    /// Restores the image with `btrfs restore -xmS` and compares the result with `want`, as far as restore goes.
    ///
    /// # Errors
    /// What restore said, or how the trees differ.
    pub fn restore(&self, image: &Path, want: &Tree) -> OracleResult<Outcome> {
        if let Err(why) = &self.progs {
            return Ok(Outcome::Skipped(why.clone()));
        }
        let failed = |what: &dyn fmt::Display| OracleError {
            command: format!("btrfs restore of {}", image.display()),
            output: what.to_string(),
        };
        let dir = tempfile::tempdir().map_err(|error| failed(&error))?;
        let mut command = Command::new("btrfs");
        // Asked whether to go on with a file of many extents, restore is told to.
        run(command.args(["restore", "-xmS"]).arg(image).arg(dir.path()), &"a\n".repeat(10_000))?;
        let got = Tree::read(dir.path()).map_err(|error| failed(&error))?;
        want.require_equal(&got, Compare::RESTORED).map_err(|why| failed(&why))?;
        Ok(Outcome::Passed)
    }

    /// Mounts the image read-only in the kernel and compares what is there with `want`.
    ///
    /// # Errors
    /// What mount said, or how the trees differ.
    pub fn mounted(&self, image: &Path, want: &Tree, how: Compare) -> OracleResult<Outcome> {
        let mount = match self.mount(image, Access::ReadOnly)? {
            Ok(mount) => mount,
            Err(why) => return Ok(Outcome::Skipped(why)),
        };
        let failed = |output: String| OracleError {
            command: format!("the kernel's view of {}", image.display()),
            output,
        };
        let got = Tree::read(mount.path()).map_err(|error| failed(error.to_string()))?;
        want.require_equal(&got, how).map_err(failed)?;
        mount.unmount()?;
        Ok(Outcome::Passed)
    }

    /// All of the above, both modes of check included. Skipped checks are said aloud.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn verify(&self, image: &Path, want: &Tree, how: Compare) -> OracleResult<()> {
        let name = image.display();
        self.check(image, Mode::Original)?.report(&format!("btrfs check of {name}"));
        self.check(image, Mode::Lowmem)?.report(&format!("btrfs check, lowmem, of {name}"));
        self.restore(image, want)?.report(&format!("btrfs restore of {name}"));
        self.mounted(image, want, how)?.report(&format!("kernel mount of {name}"));
        Ok(())
    }

    /// Mounts an image in the kernel; the inner error is the reason why that is not possible here.
    ///
    /// An image is mounted once at a time, and no two images of the same UUID are mounted at once.
    ///
    /// # Errors
    /// What mount said of this image.
    pub fn mount(&self, image: &Path, access: Access) -> OracleResult<Result<Mount, String>> {
        match &self.mount {
            Ok(()) => Mount::new(image, access).map(Ok),
            Err(why) => Ok(Err(why.clone())),
        }
    }

    /// The fields that `btrfs inspect-internal dump-super` prints; `None`, said aloud, if it cannot be run.
    ///
    /// # Errors
    /// What it said.
    pub fn dump_super(&self, image: &Path) -> OracleResult<Option<BTreeMap<String, String>>> {
        if let Err(why) = &self.progs {
            skipped("dump-super", why);
            return Ok(None);
        }
        let mut command = Command::new("btrfs");
        let text = run(command.args(["inspect-internal", "dump-super"]).arg(image), "")?;
        let field = |line: &str| {
            let (name, value) = line.split_once(char::is_whitespace)?;
            Some((name.to_owned(), value.trim().to_owned()))
        };
        Ok(Some(text.lines().filter_map(field).collect()))
    }

    /// Makes an empty file system with `mkfs.btrfs` on a file of `size` bytes.
    ///
    /// # Errors
    /// What mkfs said.
    pub fn mkfs(&self, image: &Path, size: u64, args: &[&str]) -> OracleResult<Outcome> {
        if let Err(why) = &self.progs {
            return Ok(Outcome::Skipped(why.clone()));
        }
        make_image(image, size, args)?;
        Ok(Outcome::Passed)
    }
}

fn make_image(image: &Path, size: u64, args: &[&str]) -> OracleResult<()> {
    let made = std::fs::File::create(image).and_then(|file| file.set_len(size));
    let command = format!("an empty file {}", image.display());
    made.map_err(|error| OracleError { command, output: error.to_string() })?;
    run(Command::new("mkfs.btrfs").arg("-q").args(args).arg(image), "")?;
    Ok(())
}

fn probe_progs() -> Result<String, String> {
    match Command::new("btrfs").arg("--version").stdin(Stdio::null()).output() {
        Ok(output) if output.status.success() => {
            let text = String::from_utf8_lossy(&output.stdout);
            Ok(text.lines().next().unwrap_or_default().to_owned())
        }
        Ok(output) => Err(format!("btrfs --version ends with {}", output.status)),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            Err("no `btrfs` program: install btrfs-progs".to_owned())
        }
        Err(error) => Err(format!("btrfs --version: {error}")),
    }
}

/// Runs a command and gives all that it printed; an error if it did not end well.
fn run(command: &mut Command, input: &str) -> OracleResult<String> {
    let name = format!("{command:?}");
    let failed = |output: String| OracleError { command: name.clone(), output };
    command.env("LC_ALL", "C").stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let stdin = child.stdin.take();
    let output = std::thread::scope(|scope| {
        // In a thread of its own: a child that does not read must not stop us from reading what it prints.
        scope.spawn(move || stdin.map(|mut stdin| stdin.write_all(input.as_bytes())));
        child.wait_with_output()
    });
    let output = output.map_err(|error| failed(error.to_string()))?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    if output.status.success() {
        return Ok(text);
    }
    Err(failed(format!("{text}\n{}", output.status)))
}

#[cfg(test)]
mod tests;
