//! The walk through the source, and what is done for each entry.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::vec;

use cowback::error::NamespaceError;
use cowback::{File, NewEntry, SetAttributes, Volume};
use rustix::fs::{AtFlags, FileType, Stat, fstat, readlinkat, statat};
use rustix::io::Errno;

use crate::args::PackArgs;
use crate::failure::{About, Explain, Failure, Outcome, readable, shown};
use crate::pack::copy::{BUFFER, CopyError, copy, copy_unsized};
use crate::pack::entry::{TimePolicy, permissions, special};
use crate::pack::links::Links;
use crate::pack::names::{self, Name};
use crate::pack::report::{Counts, stored};
use crate::pack::scale::Scale;
use crate::progress::{Progress, files_of};
use crate::size::ratio;
use crate::target::FileId;
use crate::walk::{DirStack, Trail, file_id, open_dir, open_file};
use crate::xattrs::{Place, XattrReader};

/// Bytes of names that are held, roughly, over all directories on the way.
const NAMES_HELD: usize = 16 << 20;
/// The least that a directory may hold of them.
const NAMES_MIN: usize = 64 << 10;

/// Packs a tree.
#[derive(Debug)]
pub(super) struct Packer<'a> {
    volume: &'a Volume,
    args: &'a PackArgs,
    times: TimePolicy,
    /// The image itself.
    own_files: Vec<FileId>,
    progress: Progress,
    counts: Counts,
    links: Links,
    xattrs: XattrReader,
    buffer: Vec<u8>,
    /// Where the walk is, in the source and in the volume.
    trail: Trail,
    /// Bytes of names held.
    held: usize,
    scale: Scale<'a>,
    /// The source's file system, if the walk is to stay in it.
    only_on: Option<u64>,
}

/// A directory on the way.
#[derive(Debug)]
struct Level {
    names: vec::IntoIter<Name>,
    /// The last of `names`, if there are more after it.
    more_after: Option<Box<[u8]>>,
    held: usize,
    attributes: SetAttributes,
    trail_len: usize,
}

/// Why an entry is not in the volume.
enum Trouble {
    /// It can be left out.
    Entry(String),
    /// Nothing goes on.
    Fatal(Failure),
}

type Entry<T> = Result<T, Trouble>;

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Self::Fatal(failure)
    }
}

impl From<std::io::Error> for Trouble {
    fn from(error: std::io::Error) -> Self {
        Self::Entry(error.explain())
    }
}

impl From<Errno> for Trouble {
    fn from(error: Errno) -> Self {
        Self::Entry(error.explain())
    }
}

impl<'a> Packer<'a> {
    pub(super) fn new(
        volume: &'a Volume,
        args: &'a PackArgs,
        times: TimePolicy,
        own_files: Vec<FileId>,
        progress: Progress,
    ) -> Self {
        Self {
            volume,
            args,
            times,
            own_files,
            progress,
            counts: Counts::default(),
            links: Links::default(),
            xattrs: XattrReader::new(),
            buffer: vec![0; BUFFER],
            trail: Trail::default(),
            held: 0,
            scale: Scale::new(volume),
            only_on: None,
        }
    }

    /// What was packed, and the progress bar.
    pub(super) fn end(self) -> (Counts, Progress) {
        (self.counts, self.progress)
    }

    /// Packs everything below `root`.
    pub(super) fn pack(&mut self, root: OwnedFd) -> Outcome<()> {
        let stat = fstat(&root).about(&self.args.source)?;
        self.only_on = self.args.one_file_system.then_some(stat.st_dev);
        let mut stack = DirStack::new(root).about(&self.args.source)?;
        let level = self.enter(stack.top(), &stat, 0);
        let mut levels = vec![self.must(level)?];
        while let Some(level) = levels.last_mut() {
            if let Some(name) = level.names.next() {
                let before = self.trail.push(&name.bytes);
                match self.entry(&mut stack, &name, before) {
                    Ok(Some(below)) => levels.push(below),
                    Ok(None) => self.trail.cut(before),
                    Err(trouble) => {
                        self.leave_out(trouble)?;
                        self.trail.cut(before);
                    }
                }
            } else if let Some(last) = level.more_after.take() {
                let (limit, held) = (self.names_limit(), level.held);
                let batch = names::read(stack.top(), Some(&last), limit);
                let batch = batch.about(self.trail.below(&self.args.source))?;
                self.held = self.held - held + batch.weight;
                level.refill(batch);
            } else {
                self.leave(&mut stack, &mut levels)?;
            }
        }
        Ok(())
    }

    /// Names that the next directory may hold: half of what is left, so that there is always some left.
    fn names_limit(&self) -> usize {
        (NAMES_HELD.saturating_sub(self.held) / 4).max(NAMES_MIN)
    }

    /// Reads a directory that is in the volume already, unless it is where the walk is not to go.
    fn enter(&mut self, dir: BorrowedFd<'_>, stat: &Stat, trail_len: usize) -> Entry<Level> {
        let batch = match self.only_on {
            Some(dev) if dev != stat.st_dev => names::Batch::default(),
            _ => names::read(dir, None, self.names_limit())?,
        };
        self.held += batch.weight;
        self.counts.dirs += 1;
        let attributes = self.times.attributes(stat);
        let mut level =
            Level { names: vec![].into_iter(), more_after: None, held: 0, attributes, trail_len };
        level.refill(batch);
        Ok(level)
    }

    /// Goes back from a directory that is done, and gives it its attributes: nothing changes in it any more.
    fn leave(&mut self, stack: &mut DirStack, levels: &mut Vec<Level>) -> Outcome<()> {
        let Some(level) = levels.pop() else { return Ok(()) };
        let (left, below);
        let dir = if stack.depth() > 0 {
            left = stack.pop().about(self.trail.below(&self.args.source))?;
            left.as_fd()
        } else {
            below = stack;
            below.top()
        };
        self.take_xattrs(Place::Open(dir))?;
        self.volume.set_attributes(self.trail.path(), &level.attributes).about(&self.args.image)?;
        self.held -= level.held;
        self.trail.cut(level.trail_len);
        Ok(())
    }

    /// Packs the entry at the end of the trail. A directory is to be walked next.
    fn entry(&mut self, stack: &mut DirStack, name: &Name, before: usize) -> Entry<Option<Level>> {
        let kind = match name.kind {
            FileType::Unknown => kind_of(&lstat(stack, name)?),
            kind => kind,
        };
        let level = match kind {
            FileType::RegularFile => self.file(stack, name).map(|()| None)?,
            FileType::Directory => Some(self.dir(stack, name, before)?),
            _ => self.other(stack, name).map(|()| None)?,
        };
        self.scale.entry(name.bytes.len()).about(&self.args.image)?;
        self.check_size()?;
        let (counts, volume) = (self.counts, self.volume);
        self.progress.show(counts.bytes, || message(counts, volume));
        Ok(level)
    }

    fn dir(&mut self, stack: &mut DirStack, name: &Name, before: usize) -> Entry<Level> {
        let dir = open_dir(stack.top(), &name.bytes)?;
        let stat = fstat(&dir)?;
        self.create(&NewEntry::Dir, permissions(&stat))?;
        let level = match self.enter(dir.as_fd(), &stat, before) {
            Ok(level) => level,
            Err(trouble) => {
                self.volume.remove_dir(self.trail.path()).about(&self.args.image)?;
                return Err(trouble);
            }
        };
        stack.push(dir, file_id(&stat));
        Ok(level)
    }

    fn file(&mut self, stack: &DirStack, name: &Name) -> Entry<()> {
        let file = match open_file(stack.top(), &name.bytes) {
            // It was replaced by a symlink or a socket since its name was read.
            Err(Errno::LOOP | Errno::NXIO) => return self.other(stack, name),
            file => file?,
        };
        let stat = fstat(&file)?;
        if kind_of(&stat) != FileType::RegularFile {
            return self.other(stack, name);
        }
        if self.is_own(&stat) || self.is_further_name(&stat)? {
            return Ok(());
        }
        let target = self.volume.create_file(self.trail.path());
        let target = target.map_err(|error| self.volume_trouble(&error))?;
        if let Err(trouble) = self.fill(&file, &stat, &target) {
            self.volume.remove_file(self.trail.path()).about(&self.args.image)?;
            return Err(trouble);
        }
        self.remember(&stat, target.ino());
        Ok(self.take_xattrs(Place::Open(file.as_fd()))?)
    }

    /// Gives a file that was just made its content and attributes.
    fn fill(&mut self, file: &OwnedFd, stat: &Stat, target: &File) -> Entry<()> {
        let Self { buffer, counts, progress, volume, scale, .. } = self;
        let mut counts_now = *counts;
        let read = |bytes| {
            counts_now.bytes += bytes;
            progress.show(counts_now.bytes, || message(counts_now, volume));
        };
        let copied = if stat.st_size > 0 {
            copy(file.as_fd(), stat, scale, target, buffer, read)
        } else {
            copy_unsized(file.as_fd(), stat, scale, target, buffer, read)
        };
        let copied = copied.map_err(|error| self.copy_trouble(error))?;
        // Now, and not when the cache has no room: so content is in the order of the tree, however large the cache, and no worker waits for it.
        target.start_writeback();
        self.counts.bytes += copied.bytes;
        if copied.changed {
            self.warn("changed while it was read; stored as it was read");
        }
        let set = self.times.attributes(stat);
        target.set_attributes(&set).map_err(|error| self.volume_trouble(&error))
    }

    /// Packs a symlink, device node, pipe or socket.
    fn other(&mut self, stack: &DirStack, name: &Name) -> Entry<()> {
        let stat = lstat(stack, name)?;
        if self.is_further_name(&stat)? {
            return Ok(());
        }
        let entry = if kind_of(&stat) == FileType::Symlink {
            let target = readlinkat(stack.top(), &*name.bytes, Vec::new())?;
            NewEntry::Symlink(target.into_bytes())
        } else {
            let gone = || Trouble::Entry("changed its kind while it was read".to_owned());
            special(&stat).ok_or_else(gone)?
        };
        let ino = self.create(&entry, permissions(&stat))?;
        self.attributes(&stat)?;
        self.remember(&stat, ino);
        Ok(self.take_xattrs(Place::In(stack.top(), &name.bytes))?)
    }

    fn is_own(&self, stat: &Stat) -> bool {
        self.own_files.contains(&file_id(stat))
    }

    /// Makes a hard link if the file is in the volume by another name.
    fn is_further_name(&mut self, stat: &Stat) -> Entry<bool> {
        if stat.st_nlink <= 1 {
            return Ok(false);
        }
        let Some(ino) = self.links.find(file_id(stat)) else { return Ok(false) };
        match self.volume.hard_link_inode(ino, self.trail.path()) {
            Ok(()) => {}
            Err(cowback::Error::Name { source: NamespaceError::TooManyLinks { .. }, .. }) => {
                self.warn(
                    "has more names than btrfs gives a file; a copy of it gets those that follow",
                );
                return Ok(false);
            }
            Err(error) => return Err(self.volume_trouble(&error)),
        }
        self.links.named(file_id(stat));
        self.counts.links += 1;
        Ok(true)
    }

    fn remember(&mut self, stat: &Stat, ino: u64) {
        self.counts.files += 1;
        let names = u32::try_from(stat.st_nlink).unwrap_or(u32::MAX);
        self.links.remember(file_id(stat), names, ino);
    }

    fn create(&mut self, entry: &NewEntry, permissions: u32) -> Entry<u64> {
        let created = self.volume.create_entry(self.trail.path(), entry, permissions);
        created.map_err(|error| self.volume_trouble(&error))
    }

    fn attributes(&mut self, stat: &Stat) -> Entry<()> {
        let set = self.times.attributes(stat);
        let done = self.volume.set_attributes(self.trail.path(), &set);
        done.map_err(|error| self.volume_trouble(&error))
    }

    /// Takes over the extended attributes of an entry that is in the volume. With `--keep-going` it stays without one that cannot be read, or that
    /// btrfs has no room for; that is named and counted.
    fn take_xattrs(&mut self, place: Place<'_>) -> Outcome<()> {
        let Self { xattrs, volume, args, trail, progress, counts, .. } = self;
        let (mut weight, path) = (0, trail.path());
        let mut leave_out = |what: String| {
            counts.attributes_left_out += 1;
            progress.warn(&Failure::new(shown(trail.below(&args.source)), what));
        };
        let taken = xattrs.each(place, |name, value| {
            let trouble = match value {
                Ok(value) => {
                    weight += (name.len() + value.len()) as u64;
                    let set = volume.set_xattr(path, name, value);
                    set.map_err(|error| trouble_of(&error, &args.image))
                }
                Err(error) => Err(error.into()),
            };
            match trouble {
                Err(Trouble::Entry(why)) => {
                    let what = format!("attribute {}: {why}", readable(name));
                    if !args.keep_going {
                        return Err(Trouble::Entry(what));
                    }
                    leave_out(format!("{what}; left out"));
                    Ok(())
                }
                done => done,
            }
        });
        match taken {
            Err(Trouble::Entry(why)) if args.keep_going => leave_out(why),
            taken => self.must(taken)?,
        }
        self.scale.add(weight).about(&self.args.image)
    }

    fn check_size(&self) -> Outcome<()> {
        // The volume grows as it must: what cannot fit in the end is not packed to the end.
        if let Some(size) = self.args.size {
            let needed = stored(&self.volume.stats());
            if needed > size.0 {
                return Err(super::no_room(self.args, needed, size));
            }
        }
        Ok(())
    }

    fn copy_trouble(&self, error: CopyError) -> Trouble {
        match error {
            CopyError::Source(error) => error.into(),
            CopyError::Volume(error) => self.volume_trouble(&error),
        }
    }

    fn volume_trouble(&self, error: &cowback::Error) -> Trouble {
        trouble_of(error, &self.args.image)
    }

    /// Names what is left out, or breaks off.
    fn leave_out(&mut self, trouble: Trouble) -> Outcome<()> {
        let failure = self.failure(trouble)?;
        if !self.args.keep_going {
            return Err(failure);
        }
        self.counts.left_out += 1;
        self.progress.warn(&failure);
        Ok(())
    }

    /// Says something about the entry at the end of the trail that is no failure.
    fn warn(&self, what: &str) {
        self.progress.warn(&Failure::new(shown(self.trail.below(&self.args.source)), what));
    }

    fn failure(&self, trouble: Trouble) -> Outcome<Failure> {
        match trouble {
            Trouble::Entry(why) => {
                Ok(Failure::new(shown(self.trail.below(&self.args.source)), why))
            }
            Trouble::Fatal(failure) => Err(failure),
        }
    }

    /// What cannot be left out.
    fn must<T>(&self, result: Entry<T>) -> Outcome<T> {
        result.or_else(|trouble| self.failure(trouble).and_then(Err))
    }
}

impl Level {
    fn refill(&mut self, batch: names::Batch) {
        self.more_after = batch.names.last().filter(|_| batch.more).map(|name| name.bytes.clone());
        self.held = batch.weight;
        self.names = batch.names.into_iter();
    }
}

/// Names and attributes that btrfs does not have are an entry's own trouble; anything else is the volume's.
fn trouble_of(error: &cowback::Error, image: &std::path::Path) -> Trouble {
    use cowback::Error;
    match error {
        Error::Name { source, .. } if !matches!(source, NamespaceError::Store(_)) => {
            Trouble::Entry(source.to_string())
        }
        Error::TooLarge { .. } => Trouble::Entry(error.to_string()),
        other => Trouble::Fatal(Failure::new(shown(image), other.explain())),
    }
}

fn message(counts: Counts, volume: &Volume) -> String {
    let ratio = ratio(counts.bytes, stored(&volume.stats()));
    format!("{}, ratio {ratio:.2}", files_of(counts.files))
}

fn kind_of(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn lstat(stack: &DirStack, name: &Name) -> Entry<Stat> {
    Ok(statat(stack.top(), &*name.bytes, AtFlags::SYMLINK_NOFOLLOW)?)
}
