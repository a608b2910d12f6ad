//! The walk through the image, and what is made for each entry.

use std::collections::HashMap;
use std::fs::File as HostFile;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cowback::{DirEntry, FileType, Metadata, Volume};
use rustix::fs::{AtFlags, Mode, OFlags, fstat, linkat, makedev, mkdirat, mknodat, openat};
use rustix::fs::{symlinkat, unlinkat};
use rustix::io::Errno;

use crate::args::UnpackArgs;
use crate::failure::{About, Explain, Failure, Outcome, in_volume, shown};
use crate::progress::{Progress, files_of};
use crate::tour::{Step, Tour, own};
use crate::unpack::attrs::{self, Skipped, open_below};
use crate::walk::{DirStack, Trail, file_id, open_dir};
use crate::xattrs::Place;

/// Bytes read at once.
const BUFFER: usize = 1 << 20;

/// What the owner of a directory needs while it is filled.
const OWNER_ALL: u32 = 0o700;

/// What was unpacked, and what could not be.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Counts {
    pub(super) files: u64,
    pub(super) dirs: u64,
    pub(super) links: u64,
    pub(super) bytes: u64,
    pub(super) left_out: u64,
    pub(super) nodes_skipped: u64,
    pub(super) owners_skipped: u64,
    pub(super) xattrs_skipped: u64,
}

/// Unpacks a tree.
#[derive(Debug)]
pub(super) struct Unpacker<'a> {
    volume: &'a Volume,
    args: &'a UnpackArgs,
    root: OwnedFd,
    stack: DirStack,
    /// Where the walk is, below DEST.
    trail: Trail,
    /// The directories on the way.
    dirs: Vec<Metadata>,
    /// Files with several names, and the first of them, below DEST.
    links: HashMap<u64, PathBuf>,
    /// Directories whose owner may not enter them: their modes are set at the very end.
    closed: Vec<(PathBuf, u32)>,
    buffer: Vec<u8>,
    counts: Counts,
    progress: Progress,
}

/// Why something was not unpacked.
type Made<T> = Result<T, String>;

impl<'a> Unpacker<'a> {
    pub(super) fn new(
        volume: &'a Volume,
        args: &'a UnpackArgs,
        root: OwnedFd,
        progress: Progress,
    ) -> Outcome<Self> {
        let top = open_dir(root.as_fd(), b".").about(&args.dest)?;
        Ok(Self {
            volume,
            args,
            root,
            stack: DirStack::new(top).about(&args.dest)?,
            trail: Trail::default(),
            dirs: Vec::new(),
            links: HashMap::new(),
            closed: Vec::new(),
            buffer: vec![0; BUFFER],
            counts: Counts::default(),
            progress,
        })
    }

    /// Unpacks what is at the path asked for, and of which `top` tells.
    pub(super) fn unpack(&mut self, top: &Metadata) -> Outcome<()> {
        let mut tour = Tour::new(self.volume, &self.args.path);
        if top.kind != FileType::Dir {
            let path = tour.path().to_path_buf();
            let name = path.file_name().unwrap_or_default().as_bytes();
            self.trail.push(name);
            let made = self.leaf(&path, name, top);
            return made.or_else(|why| self.leave_out(&path, why));
        }
        tour.enter().or_else(|why| self.leave_out(tour.path(), why))?;
        self.dirs.push(top.clone());
        while let Some(step) = tour.next() {
            match step {
                Step::Entry(entry) => {
                    let before = self.trail.push(&entry.name);
                    match self.entry(&mut tour, &entry) {
                        Ok(true) => {} // the way goes on below
                        Ok(false) => self.trail.cut(before),
                        Err(why) => {
                            self.leave_out(tour.path(), why)?;
                            self.trail.cut(before);
                        }
                    }
                }
                Step::Leave => self.leave(tour.path())?,
                Step::Bad(why) => self.leave_out(tour.path(), why)?,
            }
        }
        Ok(())
    }

    /// Sets what could not be set before, and tells how it went.
    pub(super) fn end(self) -> Outcome<Counts> {
        for (path, mode) in &self.closed {
            let set = open_below(self.root.as_fd(), path)
                .and_then(|dir| attrs::set_mode(Place::Open(dir.as_fd()), *mode));
            set.about(self.args.dest.join(path))?;
        }
        self.progress.end();
        Ok(self.counts)
    }

    /// Makes an entry. Returns whether it is a directory, which was entered.
    fn entry(&mut self, tour: &mut Tour<'_>, entry: &DirEntry) -> Made<bool> {
        if entry.ino == 0 {
            return Err("a subvolume is not unpacked".to_owned());
        }
        let metadata = self.volume.metadata(tour.path()).map_err(|error| own(&error))?;
        if metadata.kind != FileType::Dir {
            self.leaf(tour.path(), &entry.name, &metadata)?;
            let counts = self.counts;
            self.progress.show(counts.bytes, || files_of(counts.files));
            return Ok(false);
        }
        tour.enter()?;
        let made = self.dir(&entry.name, metadata);
        // If it could not be made, its entries come as steps all the same: nothing can be done with them.
        while made.is_err() && !matches!(tour.next(), Some(Step::Leave) | None) {}
        made.map(|()| true)
    }

    fn dir(&mut self, name: &[u8], metadata: Metadata) -> Made<()> {
        mkdirat(self.stack.top(), name, Mode::RWXU).map_err(words)?;
        let dir = open_dir(self.stack.top(), name).map_err(words)?;
        let id = file_id(&fstat(&dir).map_err(words)?);
        self.stack.push(dir, id);
        self.dirs.push(metadata);
        Ok(())
    }

    /// Goes back from a directory that is filled, and gives it its attributes.
    fn leave(&mut self, path: &Path) -> Outcome<()> {
        let metadata = self.dirs.pop().expect("one directory for each that was entered");
        self.counts.dirs += 1;
        let here = self.trail.below(&self.args.dest);
        let (left, top);
        let dir = if self.dirs.is_empty() {
            top = self.root.as_fd();
            top
        } else {
            left = self.stack.pop().about(&here)?;
            left.as_fd()
        };
        // Hard links to what is in it may still be made: that needs a way through it.
        let added = OWNER_ALL & !metadata.permissions;
        let finished =
            Self::finish(self.volume, &mut self.counts, Place::Open(dir), path, &metadata, added);
        let skipped = finished.or_else(|why| {
            self.leave_out(path, why)?;
            Ok(Skipped { owner: true, xattrs: 0 }) // nobody knows how far it came
        })?;
        if added != 0 {
            let mode = skipped.permissions(&metadata);
            self.closed.push((self.trail.path().to_path_buf(), mode));
        }
        let parent = self.trail.path().parent().map_or(0, |parent| parent.as_os_str().len());
        self.trail.cut(parent);
        Ok(())
    }

    /// Makes an entry that is no directory.
    fn leaf(&mut self, path: &Path, name: &[u8], metadata: &Metadata) -> Made<()> {
        if metadata.nlink > 1
            && let Some(first) = self.links.get(&metadata.ino)
        {
            self.link(first, name).map_err(words)?;
            self.counts.links += 1;
            return Ok(());
        }
        let dir = self.stack.top();
        match metadata.kind {
            FileType::Regular => self.file(path, name, metadata)?,
            FileType::Symlink => {
                let target = self.volume.read_link(path).map_err(|error| own(&error))?;
                symlinkat(target.as_slice(), dir, name).map_err(words)?;
                self.finish_in(path, name, metadata)?;
            }
            _ => match self.node(name, metadata) {
                Ok(()) => self.finish_in(path, name, metadata)?,
                Err(Errno::PERM) => {
                    self.counts.nodes_skipped += 1;
                    return Ok(());
                }
                Err(error) => return Err(words(error)),
            },
        }
        self.counts.files += 1;
        if metadata.nlink > 1 {
            self.links.insert(metadata.ino, self.trail.path().to_path_buf());
        }
        Ok(())
    }

    fn link(&self, first: &Path, name: &[u8]) -> Result<(), Errno> {
        let dir = open_below(self.root.as_fd(), first.parent().unwrap_or(Path::new("")))?;
        let first = first.file_name().unwrap_or_default();
        linkat(&dir, first, self.stack.top(), name, AtFlags::empty())
    }

    fn node(&self, name: &[u8], metadata: &Metadata) -> Result<(), Errno> {
        use rustix::fs::FileType as Host;
        let kind = match metadata.kind {
            FileType::CharDevice => Host::CharacterDevice,
            FileType::BlockDevice => Host::BlockDevice,
            FileType::Fifo => Host::Fifo,
            FileType::Socket => Host::Socket,
            _ => return Err(Errno::INVAL),
        };
        let (major, minor) = metadata.device;
        mknodat(self.stack.top(), name, kind, Mode::RUSR | Mode::WUSR, makedev(major, minor))
    }

    fn file(&mut self, path: &Path, name: &[u8], metadata: &Metadata) -> Made<()> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::RUSR | Mode::WUSR;
        let dir = self.stack.top();
        let host = HostFile::from(openat(dir, name, flags, mode).map_err(words)?);
        let filled = self.fill(&host, path, metadata);
        let finished = filled.and_then(|()| {
            let place = Place::Open(host.as_fd());
            Self::finish(self.volume, &mut self.counts, place, path, metadata, 0).map(drop)
        });
        finished.inspect_err(|_| {
            // Half a file is worse than none; if it cannot be removed, it stays, and is named.
            let _ = unlinkat(self.stack.top(), name, AtFlags::empty());
        })
    }

    /// Gives a file its content, holes as holes.
    fn fill(&mut self, host: &HostFile, path: &Path, metadata: &Metadata) -> Made<()> {
        if metadata.size == 0 {
            return Ok(());
        }
        let file = self.volume.open_file(path).map_err(|error| own(&error))?;
        let mut end = 0;
        for range in file.data_ranges().map_err(|error| own(&error))? {
            let mut at = range.start;
            while at < range.end {
                let want = usize::try_from(range.end - at).unwrap_or(BUFFER).min(BUFFER);
                let buffer = &mut self.buffer[..want];
                let got = file.read_at(at, buffer).map_err(|error| own(&error))?;
                if got == 0 {
                    return Err(format!("corrupt: the file ends at {at}, before its size"));
                }
                host.write_all_at(&buffer[..got], at).map_err(|error| error.explain())?;
                at += got as u64;
                self.counts.bytes += got as u64;
                let counts = self.counts;
                self.progress.show(counts.bytes, || files_of(counts.files));
            }
            end = range.end;
        }
        if end < metadata.size {
            host.set_len(metadata.size).map_err(|error| error.explain())?;
        }
        Ok(())
    }

    fn finish_in(&mut self, path: &Path, name: &[u8], metadata: &Metadata) -> Made<()> {
        let place = Place::In(self.stack.top(), name);
        Self::finish(self.volume, &mut self.counts, place, path, metadata, 0).map(drop)
    }

    /// Gives what was made its attributes. Returns those that it did not get.
    fn finish(
        volume: &Volume,
        counts: &mut Counts,
        place: Place<'_>,
        path: &Path,
        metadata: &Metadata,
        added: u32,
    ) -> Made<Skipped> {
        let mut xattrs = Vec::new();
        for name in volume.list_xattrs(path).map_err(|error| own(&error))? {
            let value = volume.get_xattr(path, &name).map_err(|error| own(&error))?;
            xattrs.push((name, value));
        }
        let skipped = attrs::apply(place, metadata, &xattrs, added).map_err(words)?;
        counts.owners_skipped += u64::from(skipped.owner);
        counts.xattrs_skipped += skipped.xattrs;
        Ok(skipped)
    }

    /// Names what is left out, or breaks off.
    fn leave_out(&mut self, path: &Path, why: String) -> Outcome<()> {
        let what = format!("{}: {}", shown(&self.args.image), in_volume(path));
        let failure = Failure::new(what, why);
        if !self.args.keep_going {
            return Err(failure);
        }
        self.counts.left_out += 1;
        self.progress.warn(&failure);
        Ok(())
    }
}

fn words(error: Errno) -> String {
    error.explain()
}
