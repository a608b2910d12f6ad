//! `cowback put`: a file into an existing image.
//!
//! The new file is written under a temporary name beside PATH and renamed over it, and one commit makes both durable: no state of the image has half of it.

use std::ffi::OsString;
use std::fs::File as HostFile;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use cowback::{File, FileType, Metadata, NewEntry, SetAttributes, Volume};
use rustix::fs::{CWD, FileType as HostType, Mode, OFlags, Stat, fstat, openat};
use rustix::process::{getegid, geteuid};

use crate::args::{PutArgs, name_of};
use crate::edit::into_dir;
use crate::engine;
use crate::failure::{About, Explain, Failure, Outcome, Status, shown};
use crate::pack::copy::{BUFFER, CopyError, copy};
use crate::pack::entry::{TimePolicy, permissions};
use crate::xattrs::{Place, XattrReader};

/// Where the bytes come from.
enum Source {
    Stdin,
    /// A file, with what is known about it.
    Host(HostFile, Box<Stat>),
}

pub(crate) fn put(args: &PutArgs) -> Outcome<Status> {
    let source = Source::open(&args.file)?;
    let mut options = engine::options(&args.engine, args.compress.policy())?;
    let times = TimePolicy { fixed: options.fixed_time };
    options.size = if args.grow { None } else { Some(u64::MAX) };
    let volume = cowback::Volume::open(&args.image, &options).about(&args.image)?;
    let path = args.target(&volume).about(&args.image)?;
    let old = OldFile::find(&volume, &path).about(&args.image)?;
    let temp = free_name(&volume, &path).about(&args.image)?;

    let done = source
        .fill(&volume, &temp, args)
        .and_then(|()| source.attributes(&volume, &temp, args, times, old.as_ref()))
        .and_then(|()| volume.rename(&temp, &path).about(&args.image));
    if let Err(failure) = done {
        // Making space may have committed the half of it.
        let undone = match volume.remove_file(&temp) {
            Err(error) if !error.is_not_found() => Err(error),
            _ => volume.close(),
        };
        return Err(match undone {
            Ok(()) => failure,
            Err(error) => args.second(&failure, &error),
        });
    }
    volume.close().about(&args.image)?;
    Ok(Status::Done)
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

    /// Makes the file `path` and fills it.
    fn fill(&self, volume: &Volume, path: &Path, args: &PutArgs) -> Outcome<()> {
        volume.create_entry(path, &NewEntry::File, 0o600).about(&args.image)?;
        let target = volume.open_file(path).about(&args.image)?;
        let mut buffer = vec![0; BUFFER];
        match self {
            Self::Host(file, stat)
                // One without a size may have content all the same, as those in /proc.
                if HostType::from_raw_mode(stat.st_mode) == HostType::RegularFile
                    && stat.st_size > 0 =>
            {
                let copied = copy(file.as_fd(), stat, &target, &mut buffer, |_| {});
                let copied = copied.map_err(|error| match error {
                    CopyError::Source(error) => Failure::new(shown(&args.file), error.explain()),
                    CopyError::Volume(error) => Failure::new(shown(&args.image), error.explain()),
                })?;
                if copied.changed {
                    let why = "changed while it was read; stored as it was read";
                    Failure::new(shown(&args.file), why).print();
                }
                Ok(())
            }
            Self::Host(file, _) => stream(&mut &*file, &target, &mut buffer, args),
            Self::Stdin => stream(&mut std::io::stdin().lock(), &target, &mut buffer, args),
        }
    }

    fn attributes(
        &self,
        volume: &Volume,
        path: &Path,
        args: &PutArgs,
        times: TimePolicy,
        old: Option<&OldFile>,
    ) -> Outcome<()> {
        let Self::Host(file, stat) = self else {
            return inherit(volume, path, old).about(&args.image);
        };
        let set = times.attributes(stat);
        volume.set_attributes(path, &set).about(&args.image)?;
        debug_assert_eq!(set.permissions, Some(permissions(stat)));
        let place = Place::Open(file.as_fd());
        let taken = XattrReader::new().each(place, |name, value| {
            volume.set_xattr(path, name, value).map_err(CopyError::Volume)
        });
        taken.map_err(|error| match error {
            CopyError::Source(error) => Failure::new(shown(&args.file), error.explain()),
            CopyError::Volume(error) => Failure::new(shown(&args.image), error.explain()),
        })
    }
}

fn stream(source: &mut dyn Read, target: &File, buffer: &mut [u8], args: &PutArgs) -> Outcome<()> {
    let mut at = 0;
    loop {
        let got = match source.read(buffer) {
            Ok(0) => return Ok(()),
            Ok(got) => got,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error).about(&args.file),
        };
        target.write_at(at, &buffer[..got]).about(&args.image)?;
        at += got as u64;
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

/// Gives the file at `path`, which came from standard input, the attributes of the one that it replaces. Its times are its own.
fn inherit(volume: &Volume, path: &Path, old: Option<&OldFile>) -> cowback::Result<()> {
    let metadata = old.map(|old| &old.metadata);
    let set = SetAttributes {
        permissions: Some(metadata.map_or(0o644, |old| old.permissions)),
        uid: Some(metadata.map_or(geteuid().as_raw(), |old| old.uid)),
        gid: Some(metadata.map_or(getegid().as_raw(), |old| old.gid)),
        ..SetAttributes::default()
    };
    volume.set_attributes(path, &set)?;
    // Rights that a program was given are not for whatever takes its place: Linux drops them when a file is written to, too.
    let kept = |name: &[u8]| name != b"security.capability";
    for (name, value) in old.iter().flat_map(|old| &old.xattrs).filter(|(name, _)| kept(name)) {
        volume.set_xattr(path, name, value)?;
    }
    Ok(())
}

/// A name beside `path` that is not taken.
fn free_name(volume: &Volume, path: &Path) -> cowback::Result<PathBuf> {
    let mut number = 0_u64;
    loop {
        let name = OsString::from(format!(".cowback-put-{number}"));
        let temp = path.with_file_name(&name);
        if name_of(path).is_empty() || !volume.exists(&temp)? {
            return Ok(temp);
        }
        number += 1;
    }
}
