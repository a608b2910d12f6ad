//! `cowback check`: looks for damage, and names it.
//!
//! The store's checker goes through everything, and knows trees and addresses. Where it finds something, and the image can be opened even so, a walk
//! through all files tells which of them are harmed.

mod watched;

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};

use cowback::check::Report as CheckReport;
use cowback::{File, FileType, Metadata, Volume};
use serde::Serialize;

use crate::args::{CheckArgs, EngineArgs};
use crate::check::watched::Watched;
use crate::engine;
use crate::failure::{About, Failure, Outcome, Status, in_volume, plain, shown};
use crate::output;
use crate::progress::{Progress, dirs_of, files_of};
use crate::size::Size;
use crate::tour::{Step, Tour, own};

/// Bytes read at once.
const BUFFER: usize = 1 << 20;
/// Parts of one extent of a file that are named each by itself if they are bad; the rest of it is named as one.
const FAILURES_MAX: u32 = 16;

/// What was looked at, and what was found.
#[derive(Debug, Default, Clone, Serialize)]
struct Found {
    errors: u64,
    /// Files that the walk found harmed, by path; it is made only if there are errors.
    harmed: u64,
    files: u64,
    dirs: u64,
    trees: u64,
    tree_blocks: u64,
    metadata_bytes: u64,
    data_extents: u64,
    data_bytes: u64,
    verified_bytes: u64,
    generation: u64,
    /// What was not checked, and why.
    notes: Vec<String>,
}

/// The walk through all files.
struct Checker<'a> {
    volume: &'a Volume,
    image: &'a Path,
    harmed: u64,
    /// The file that was named last.
    last_harmed: Option<PathBuf>,
    /// Files and bytes so far, for the progress bar.
    seen: (u64, u64),
    progress: Progress,
    buffer: Vec<u8>,
    /// Files that say that they have several names: how many they say, and how many were seen.
    linked: HashMap<u64, (u32, u32)>,
}

pub(crate) fn run(args: &CheckArgs) -> Outcome<Status> {
    let image = Watched::open(&args.image, Progress::new(args.report.quiet)).about(&args.image)?;
    let report = Volume::check_on(&image, &mut |problem| {
        image.warn(&Failure::new(shown(&args.image), format!("corrupt: {problem}")));
    });
    let mut found = Found::of(report.about(&args.image)?);
    let progress = image.close();
    if found.errors > 0 {
        found.harmed = name_harmed(args, progress);
    } else {
        progress.end();
    }
    output::report(&args.report, &found, || found.summary())?;
    Ok(Status::failed_if(found.errors > 0))
}

/// Names the files that are harmed, and counts them.
fn name_harmed(args: &CheckArgs, mut progress: Progress) -> u64 {
    let volume = match engine::open_for_reading(&args.image, &EngineArgs::default()) {
        Ok(volume) => volume,
        Err(failure) => {
            progress.warn(&failure);
            return 0;
        }
    };
    progress.begin_endless();
    let mut checker = Checker {
        volume: &volume,
        image: &args.image,
        harmed: 0,
        last_harmed: None,
        seen: (0, 0),
        progress,
        buffer: vec![0; BUFFER],
        linked: HashMap::new(),
    };
    checker.walk();
    checker.end()
}

impl Checker<'_> {
    fn walk(&mut self) {
        let mut tour = Tour::new(self.volume, Path::new(""));
        self.dir(&mut tour);
        while let Some(step) = tour.next() {
            match step {
                Step::Entry(entry) if entry.ino == 0 => {} // another subvolume
                Step::Entry(entry) => self.entry(&mut tour, entry.kind),
                Step::Leave => {}
                Step::Bad(why) => self.wrong(tour.path(), why),
            }
            self.show();
        }
    }

    fn show(&mut self) {
        let (files, bytes) = self.seen;
        self.progress.show(bytes, || format!("looking for harmed files: {},", files_of(files)));
    }

    fn dir(&mut self, tour: &mut Tour<'_>) {
        if let Err(why) = tour.enter() {
            self.wrong(tour.path(), why);
        }
    }

    fn entry(&mut self, tour: &mut Tour<'_>, said: FileType) {
        let metadata = match self.volume.metadata(tour.path()) {
            Ok(metadata) => metadata,
            Err(error) => return self.wrong(tour.path(), own(&error)),
        };
        if metadata.kind != said {
            let why = format!("corrupt: its name says {said:?}, its inode {:?}", metadata.kind);
            self.wrong(tour.path(), why);
        }
        if let Err(error) = self.xattrs(tour.path()) {
            self.wrong(tour.path(), own(&error));
        }
        if metadata.kind == FileType::Dir {
            return self.dir(tour);
        }
        if self.is_further_name(&metadata) {
            return;
        }
        self.seen.0 += 1;
        let read = match metadata.kind {
            FileType::Regular => self.content(tour.path(), &metadata),
            FileType::Symlink => self.target(tour.path(), &metadata),
            _ => Ok(()),
        };
        if let Err(why) = read {
            self.wrong(tour.path(), why);
        }
    }

    fn is_further_name(&mut self, metadata: &Metadata) -> bool {
        if metadata.nlink == 1 {
            return false;
        }
        let (_, seen) = self.linked.entry(metadata.ino).or_insert((metadata.nlink, 0));
        *seen += 1;
        *seen > 1
    }

    fn xattrs(&self, path: &Path) -> cowback::Result<()> {
        for name in self.volume.list_xattrs(path)? {
            self.volume.get_xattr(path, &name)?;
        }
        Ok(())
    }

    fn target(&self, path: &Path, metadata: &Metadata) -> Result<(), String> {
        let target = self.volume.read_link(path).map_err(|error| own(&error))?;
        let (len, size) = (target.len() as u64, metadata.size);
        if len != size {
            return Err(format!("corrupt: a symlink of {size} bytes has a target of {len}"));
        }
        Ok(())
    }

    /// Reads a file from end to end. An extent of which something cannot be read is named once, and the rest of it is left: how long it is, the image says.
    fn content(&mut self, path: &Path, metadata: &Metadata) -> Result<(), String> {
        if metadata.size == 0 {
            return Ok(());
        }
        let file = self.volume.open_file(path).map_err(|error| own(&error))?;
        for extent in file.extents().map_err(|error| own(&error))? {
            if !extent.prealloc {
                self.extent(path, &file, extent.range)?;
            }
        }
        Ok(())
    }

    fn extent(&mut self, path: &Path, file: &File, range: Range<u64>) -> Result<(), String> {
        let (mut at, mut failed) = (range.start, 0);
        while at < range.end {
            let want = usize::try_from(range.end - at).unwrap_or(BUFFER).min(BUFFER);
            match file.read_at(at, &mut self.buffer[..want]) {
                Ok(got) if got == want => {}
                Ok(got) => return Err(format!("corrupt: it ends at {}", at + got as u64)),
                Err(error) => {
                    failed += 1;
                    // An image may say that an extent is longer than any device.
                    let last = failed == FAILURES_MAX;
                    let end = if last { range.end } else { at + want as u64 };
                    self.wrong(path, format!("bytes {at} to {end}: {}", own(&error)));
                    if last {
                        break;
                    }
                }
            }
            at += want as u64;
            self.seen.1 = self.seen.1.saturating_add(want as u64);
            self.show();
        }
        Ok(())
    }

    fn wrong(&mut self, path: &Path, why: String) {
        if self.last_harmed.as_deref() != Some(path) {
            self.harmed += 1;
            self.last_harmed = Some(path.to_owned());
        }
        let what = format!("{}: {}", shown(self.image), in_volume(path));
        self.progress.warn(&Failure::new(what, why));
    }

    /// Compares the names that files say they have with those that were seen.
    fn end(mut self) -> u64 {
        let mut linked: Vec<_> = std::mem::take(&mut self.linked).into_iter().collect();
        linked.sort_unstable();
        for (ino, (said, seen)) in linked {
            if said != seen {
                let what = format!("{}: inode {ino}", shown(self.image));
                let why = format!("corrupt: it has {seen} names, and says {said}");
                self.harmed += 1;
                self.progress.warn(&Failure::new(what, why));
            }
        }
        self.progress.end();
        self.harmed
    }
}

impl Found {
    fn of(report: CheckReport) -> Self {
        Self {
            errors: report.problems,
            harmed: 0,
            files: report.files,
            dirs: report.directories,
            trees: report.trees,
            tree_blocks: report.blocks,
            metadata_bytes: report.metadata_bytes,
            data_extents: report.data_extents,
            data_bytes: report.data_bytes,
            verified_bytes: report.verified_bytes,
            generation: report.generation,
            notes: report.notes,
        }
    }

    fn summary(&self) -> String {
        let wrong = match self.errors {
            0 => "no damage".to_owned(),
            1 => "1 error".to_owned(),
            errors => format!("{errors} errors"),
        };
        let mut text = format!(
            "{} trees of {} blocks, {}, {}, {} of data verified: {wrong}",
            self.trees,
            self.tree_blocks,
            files_of(self.files),
            dirs_of(self.dirs),
            Size(self.verified_bytes),
        );
        for note in &self.notes {
            text.push_str(&format!("\nnote: {}", plain(note)));
        }
        text
    }
}
