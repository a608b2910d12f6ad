//! `cowback put`: a file into an existing image.
//!
//! The new file has no name until it is complete; then it takes PATH's, at once. Commits may come while it is written, to make space: no state of the image has
//! a name that leads to half of it, and what a kill leaves behind is gone when the image is next opened for changes, by whomever.

use std::fs::File as HostFile;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cowback::{Error, File, FileType, Metadata, SetAttributes, Stats, Volume};
use rustix::fs::{CWD, FileType as HostType, Mode, OFlags, Stat, fstat, openat};
use rustix::process::{getegid, geteuid};

use serde::Serialize;

use crate::args::PutArgs;
use crate::edit::into_dir;
use crate::failure::{About, Explain, Failure, Outcome, Status, shown};
use crate::pack::copy::{BUFFER, CopyError, copy};
use crate::pack::entry::TimePolicy;
use crate::pack::report::stored;
use crate::pack::scale::Scale;
use crate::progress::Progress;
use crate::size::{Size, ratio};
use crate::xattrs::{Place, XattrReader};
use crate::{engine, output};

/// Where the bytes come from.
enum Source {
    Stdin,
    /// A file, with what is known about it.
    Host(HostFile, Box<Stat>),
}

pub(crate) fn put(args: &PutArgs) -> Outcome<Status> {
    let begun = Instant::now();
    let source = Source::open(&args.file)?;
    let mut options = engine::options(&args.engine, args.compress.policy())?;
    let times = TimePolicy { fixed: options.fixed_time };
    options.size = if args.grow { None } else { Some(u64::MAX) };
    let volume = cowback::Volume::open(&args.image, &options).about(&args.image)?;
    let path = args.target(&volume).about(&args.image)?;
    let old = OldFile::find(&volume, &path).about(&args.image)?;
    let progress = Progress::new(args.report.quiet);
    let mut put = Put { args, path, volume: &volume, scale: Scale::new(&volume), progress };
    match put.make(&source, times, old.as_ref()) {
        Ok(bytes) => {
            put.progress.say("committing");
            volume.commit().about(&args.image)?;
            put.progress.end();
            let report = Report::new(bytes, &volume.stats(), begun.elapsed());
            volume.close().about(&args.image)?;
            output::report(&args.report, &report, || report.summary())?;
            Ok(Status::Done)
        }
        // The half of it may have been committed, without a name: it goes for good.
        Err(failure) => Err(match volume.close() {
            Ok(()) => failure,
            Err(error) => args.second(&failure, &error),
        }),
    }
}

/// A file on its way into the image.
struct Put<'a> {
    args: &'a PutArgs,
    /// Its place in the image.
    path: PathBuf,
    volume: &'a Volume,
    /// The file has no name until all of it is there: so half of it may be committed.
    scale: Scale<'a>,
    progress: Progress,
}

impl Put<'_> {
    /// Makes the file, and gives it its name when it is complete. Gives the bytes that were read.
    fn make(&mut self, source: &Source, times: TimePolicy, old: Option<&OldFile>) -> Outcome<u64> {
        let image = &self.args.image;
        let parent = self.path.parent().unwrap_or(Path::new(""));
        let file = self.volume.create_unnamed(parent).about(image)?;
        let bytes = self.fill(source, &file)?;
        self.attributes(source, &file, times, old)?;
        self.volume.link_file_over(&file, &self.path).about(image)?;
        Ok(bytes)
    }

    fn fill(&mut self, source: &Source, target: &File) -> Outcome<u64> {
        let mut buffer = vec![0; BUFFER];
        match source {
            Source::Host(file, stat)
                // One without a size may have content all the same, as those in /proc.
                if HostType::from_raw_mode(stat.st_mode) == HostType::RegularFile
                    && stat.st_size > 0 =>
            {
                self.progress.begin(u64::try_from(stat.st_size).unwrap_or(0));
                let Self { args, volume, progress, scale, .. } = self;
                let mut done = 0;
                let copied = copy(file.as_fd(), stat, scale, target, &mut buffer, |bytes| {
                    done += bytes;
                    progress.show(done, || message(done, volume));
                });
                let copied = copied.map_err(|error| args.copy_failure(error))?;
                if copied.changed {
                    let why = "changed while it was read; stored as it was read";
                    self.progress.warn(&Failure::new(shown(&self.args.file), why));
                }
                Ok(copied.bytes)
            }
            Source::Host(file, _) => self.stream(&mut &*file, target, &mut buffer),
            Source::Stdin => self.stream(&mut std::io::stdin().lock(), target, &mut buffer),
        }
    }

    fn stream(&mut self, source: &mut dyn Read, target: &File, buffer: &mut [u8]) -> Outcome<u64> {
        self.progress.begin_endless();
        let mut at = 0;
        loop {
            let got = match source.read(buffer) {
                Ok(0) => return Ok(at),
                Ok(got) => got,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error).about(&self.args.file),
            };
            self.scale.write(target, at, &buffer[..got]).about(&self.args.image)?;
            at += got as u64;
            self.progress.show(at, || message(at, self.volume));
        }
    }

    fn attributes(
        &self,
        source: &Source,
        target: &File,
        times: TimePolicy,
        old: Option<&OldFile>,
    ) -> Outcome<()> {
        let named = |error| CopyError::Volume(self.named(error));
        let failed = |error| self.args.copy_failure(error);
        let Source::Host(file, stat) = source else {
            return inherit(target, old).map_err(named).map_err(failed);
        };
        target.set_attributes(&times.attributes(stat)).map_err(named).map_err(failed)?;
        let place = Place::Open(file.as_fd());
        let taken = XattrReader::new()
            .each(place, |name, value| target.set_xattr(name, value?).map_err(named));
        taken.map_err(failed)
    }

    /// An error of the file that has no name yet, with the one that it is to have.
    fn named(&self, error: Error) -> Error {
        match error {
            Error::Name { source, .. } => Error::Name { path: self.path.clone(), source },
            other => other,
        }
    }
}

/// The object that `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    bytes_in: u64,
    bytes_stored: u64,
    ratio: f64,
    seconds: f64,
    mib_per_s: f64,
}

impl Report {
    fn new(bytes_in: u64, stats: &Stats, time: Duration) -> Self {
        let (bytes_stored, seconds) = (stored(stats), time.as_secs_f64());
        let mib_per_s = bytes_in as f64 / f64::from(1 << 20) / seconds.max(1e-9);
        Self { bytes_in, bytes_stored, ratio: ratio(bytes_in, bytes_stored), seconds, mib_per_s }
    }

    /// One line.
    fn summary(&self) -> String {
        format!(
            "{}: {} stored, ratio {:.2}, in {:.2} s, {:.0} MiB/s",
            Size(self.bytes_in),
            Size(self.bytes_stored),
            self.ratio,
            self.seconds,
            self.mib_per_s,
        )
    }
}

fn message(bytes: u64, volume: &Volume) -> String {
    format!("ratio {:.2}", ratio(bytes, stored(&volume.stats())))
}

impl PutArgs {
    fn is_stdin(&self) -> bool {
        self.file == Path::new("-")
    }

    /// Where the file goes.
    fn target(&self, volume: &Volume) -> cowback::Result<PathBuf> {
        if self.is_stdin() {
            Ok(self.path.clone())
        } else {
            into_dir(volume, &self.path, &self.file)
        }
    }

    fn copy_failure(&self, error: CopyError) -> Failure {
        match error {
            CopyError::Source(error) => Failure::new(shown(&self.file), error.explain()),
            CopyError::Volume(error) => Failure::new(shown(&self.image), error.explain()),
        }
    }

    /// A failure after a failure: both are told.
    fn second(&self, first: &Failure, second: &cowback::Error) -> Failure {
        let first = first.line();
        let why = format!("{}; then: {}", first.trim_start_matches("cowback: "), second.explain());
        Failure::new(shown(&self.image), why)
    }
}

impl Source {
    fn open(path: &Path) -> Outcome<Self> {
        if path == Path::new("-") {
            return Ok(Self::Stdin);
        }
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let file = openat(CWD, path, flags, Mode::empty()).about(path)?;
        let stat = fstat(&file).about(path)?;
        if HostType::from_raw_mode(stat.st_mode) == HostType::Directory {
            return Err(Failure::new(shown(path), "is a directory"));
        }
        Ok(Self::Host(HostFile::from(file), Box::new(stat)))
    }
}

/// The regular file that will be replaced.
struct OldFile {
    metadata: Metadata,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl OldFile {
    /// What is at `path`. A directory cannot be replaced, and what is neither has no attributes that were a file's.
    fn find(volume: &Volume, path: &Path) -> cowback::Result<Option<Self>> {
        let metadata = match volume.metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        match metadata.kind {
            FileType::Dir => volume.open_file(path).map(|_| None), // which says so
            FileType::Regular => {
                let mut xattrs = Vec::new();
                for name in volume.list_xattrs(path)? {
                    let value = volume.get_xattr(path, &name)?;
                    xattrs.push((name, value));
                }
                Ok(Some(Self { metadata, xattrs }))
            }
            _ => Ok(None),
        }
    }
}

/// Gives a file that came from standard input the attributes of the one that it replaces. Its times are its own.
fn inherit(file: &File, old: Option<&OldFile>) -> cowback::Result<()> {
    let metadata = old.map(|old| &old.metadata);
    let set = SetAttributes {
        permissions: Some(metadata.map_or(0o644, |old| without_rights(old.permissions))),
        uid: Some(metadata.map_or(geteuid().as_raw(), |old| old.uid)),
        gid: Some(metadata.map_or(getegid().as_raw(), |old| old.gid)),
        ..SetAttributes::default()
    };
    file.set_attributes(&set)?;
    let kept = |name: &[u8]| name != b"security.capability";
    for (name, value) in old.iter().flat_map(|old| &old.xattrs).filter(|(name, _)| kept(name)) {
        file.set_xattr(name, value)?;
    }
    Ok(())
}

/// Rights that a program was given are not for whatever takes its place: Linux drops them, as it does capabilities, when a file is written to. Set-group-id without
/// the group's right to execute is another thing, and stays.
fn without_rights(permissions: u32) -> u32 {
    let set_id = if permissions & 0o010 == 0 { 0o4000 } else { 0o6000 };
    permissions & !set_id
}
