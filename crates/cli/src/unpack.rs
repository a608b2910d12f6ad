//! `cowback unpack`: an image, or a part of it, into a directory.
//!
//! | module | what it is |
//! |---|---|
//! | `tree` | the walk, and what is made for each entry |
//! | `attrs` | owners, modes, extended attributes and times |
//! | `scan` | a first walk that counts, for the progress bar |
//!
//! Invariant: nothing outside of DEST is changed, whatever the image holds. Every entry is made where none was, by its name in a directory that
//! this run made and still has open; nothing is reached by a path that leads through a symlink.

mod attrs;
mod scan;
mod tree;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, Mode, OFlags, openat};
use serde::Serialize;

use crate::args::UnpackArgs;
use crate::engine;
use crate::failure::{About, Failure, Outcome, Status, shown};
use crate::output::{self, peak_rss};
use crate::progress::{Progress, amount, dirs_of};
use crate::unpack::tree::{Counts, Unpacker};

pub(crate) fn run(args: &UnpackArgs) -> Outcome<Status> {
    let begun = Instant::now();
    let volume = engine::open_for_reading(&args.image, &args.engine)?;
    let top = volume.metadata(&args.path).about(&args.image)?;
    let dest = open_dest(&args.dest)?;
    let mut progress = Progress::new(args.report.quiet);
    if progress.is_shown() {
        let bytes = scan::count(&volume, &args.path, &top, &mut progress);
        progress.begin(bytes);
    }
    let mut unpacker = Unpacker::new(&volume, args, dest, progress)?;
    unpacker.unpack(&top)?;
    let counts = unpacker.end()?;
    let threads = volume.stats().threads;
    drop(volume); // it was not changed
    let report = Report::new(counts, threads, begun.elapsed());
    output::report(&args.report, &report, || report.summary())?;
    Ok(Status::failed_if(counts.left_out > 0))
}

/// The directory to unpack into: a new one, which is this user's alone until it gets its mode at the end, or an empty one.
fn open_dest(dest: &Path) -> Outcome<OwnedFd> {
    match DirBuilder::new().mode(0o700).create(dest) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let mut entries = fs::read_dir(dest).about(dest)?;
            if entries.next().is_some() {
                return Err(Failure::new(shown(dest), "the directory is not empty"));
            }
        }
        Err(error) => return Err(error).about(dest),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, dest, flags, Mode::empty()).about(dest)
}

/// The object that `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    files: u64,
    dirs: u64,
    hard_links: u64,
    left_out: u64,
    bytes_out: u64,
    /// Device nodes that the user may not make.
    nodes_skipped: u64,
    /// Entries whose owner the user may not set.
    owners_skipped: u64,
    /// Extended attributes that the user may not set, or the file system does not have.
    xattrs_skipped: u64,
    threads: usize,
    seconds: f64,
    mib_per_s: f64,
    peak_rss_bytes: u64,
}

impl Report {
    fn new(counts: Counts, threads: usize, time: Duration) -> Self {
        let seconds = time.as_secs_f64();
        Self {
            files: counts.files,
            dirs: counts.dirs,
            hard_links: counts.links,
            left_out: counts.left_out,
            bytes_out: counts.bytes,
            nodes_skipped: counts.nodes_skipped,
            owners_skipped: counts.owners_skipped,
            xattrs_skipped: counts.xattrs_skipped,
            threads,
            seconds,
            mib_per_s: counts.bytes as f64 / f64::from(1 << 20) / seconds.max(1e-9),
            peak_rss_bytes: peak_rss(),
        }
    }

    fn summary(&self) -> String {
        let mut line = format!(
            "{}, {}, in {:.2} s, {:.0} MiB/s",
            amount(self.files, self.bytes_out),
            dirs_of(self.dirs),
            self.seconds,
            self.mib_per_s
        );
        let notes = [
            (self.left_out, "left out"),
            (self.nodes_skipped, "device nodes not permitted"),
            (self.owners_skipped, "owners not permitted"),
            (self.xattrs_skipped, "extended attributes not possible here"),
        ];
        for (count, what) in notes.iter().filter(|(count, _)| *count > 0) {
            line.push_str(&format!("; {count} {what}"));
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_unpacked_is_nobody_elses_until_the_directory_has_its_own_mode() {
        let dir = tempfile::tempdir().unwrap();
        let dest = dir.path().join("new");
        drop(open_dest(&dest).unwrap());
        assert_eq!(fs::metadata(&dest).unwrap().permissions().mode() & 0o7777, 0o700);
    }
}
