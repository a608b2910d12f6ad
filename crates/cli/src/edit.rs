//! Commands that change an image, or make an empty one. Each ends with one commit: whoever is stopped before it has changed nothing, as long as
//! there is space. On a full image what a command has done so far may be committed in the middle of it, as that makes space.

mod beforehand;
mod put;

use std::path::{Component, Path, PathBuf};

use cowback::options::CompressionPolicy;
use cowback::{Error, FileType, NewEntry, SetAttributes, Volume};
use rustix::process::{getegid, geteuid};

use crate::args::{EngineArgs, LnArgs, MkdirArgs, MkfsArgs, MvArgs, RmArgs, name_of};
use crate::engine;
use crate::failure::{About, Failure, Outcome, Status, in_volume, shown};
use crate::output;
use crate::size::Size;
use crate::target::{Target, is_block_device};
use crate::tour::{Step, Tour, own};

use beforehand::Beforehand;
pub(crate) use put::put;

pub(crate) fn mkfs(args: &MkfsArgs) -> Outcome<Status> {
    // First of all: what else is wrong matters only when the command line is right.
    if args.size.is_none() && !is_block_device(&args.image) {
        return Err(Failure::usage("mkfs: --size may be left out only for a block device"));
    }
    let engine = EngineArgs { threads: Some(1), cache: Size(16 << 20) };
    let mut options = engine::options(&engine, CompressionPolicy::default())?;
    engine::new_volume(&mut options, &args.format, args.size);
    let target = Target::prepare(&args.image, args.format.overwrite)?;
    let volume = target.create(&options)?;
    let size = volume.stats().store.total_bytes;
    let uuid = volume.uuid();
    volume.close().about(&args.image)?;
    target.complete()?;
    let object = serde_json::json!({ "size": size, "uuid": uuid.to_string() });
    output::report(&args.report, &object, || format!("{} of btrfs, {uuid}", Size(size)))?;
    Ok(Status::Done)
}

pub(crate) fn mkdir(args: &MkdirArgs) -> Outcome<Status> {
    let volume = engine::open_for_changes(&args.image)?;
    let mut beforehand = Beforehand::new(&volume, &args.image);
    for path in &args.paths {
        if args.parents { beforehand.make_dirs(path)? } else { beforehand.make_dir(path)? }
    }
    for path in &args.paths {
        let made = if args.parents { make_dirs(&volume, path) } else { make_dir(&volume, path) };
        made.about(&args.image)?;
    }
    volume.close().about(&args.image)?;
    Ok(Status::Done)
}

fn make_dir(volume: &Volume, path: &Path) -> cowback::Result<()> {
    volume.create_dir(path)?;
    own_it(volume, path)
}

fn make_dirs(volume: &Volume, path: &Path) -> cowback::Result<()> {
    let mut way = PathBuf::new();
    for component in path.components() {
        way.push(component);
        if component == Component::RootDir || is_dir(volume, &way)? {
            continue;
        }
        make_dir(volume, &way)?;
    }
    Ok(())
}

/// Whether there is a directory of that name.
fn is_dir(volume: &Volume, path: &Path) -> cowback::Result<bool> {
    match volume.metadata(path) {
        Ok(metadata) => Ok(metadata.kind == FileType::Dir),
        Err(error) if error.is_not_found() => Ok(false),
        Err(error) => Err(error),
    }
}

/// What is new belongs to whoever made it, as everywhere.
fn own_it(volume: &Volume, path: &Path) -> cowback::Result<()> {
    let (uid, gid) = (Some(geteuid().as_raw()), Some(getegid().as_raw()));
    volume.set_attributes(path, &SetAttributes { uid, gid, ..SetAttributes::default() })
}

/// `path`, or the entry `name` of it if it is a directory.
fn into_dir(volume: &Volume, path: &Path, name: &Path) -> cowback::Result<PathBuf> {
    Ok(if is_dir(volume, path)? { path.join(name_of(name)) } else { path.to_path_buf() })
}

pub(crate) fn mv(args: &MvArgs) -> Outcome<Status> {
    changing(&args.image, |volume| {
        let to = into_dir(volume, &args.to, &args.from)?;
        volume.rename(&args.from, to)
    })
}

pub(crate) fn ln(args: &LnArgs) -> Outcome<Status> {
    use std::os::unix::ffi::OsStrExt as _;
    changing(&args.image, |volume| {
        let path = into_dir(volume, &args.path, &args.target)?;
        if args.symbolic {
            let target = NewEntry::Symlink(args.target.as_os_str().as_bytes().to_vec());
            volume.create_entry(&path, &target, 0o777)?;
            own_it(volume, &path)
        } else {
            volume.hard_link(&args.target, path)
        }
    })
}

pub(crate) fn rm(args: &RmArgs) -> Outcome<Status> {
    let volume = engine::open_for_changes(&args.image)?;
    let mut beforehand = Beforehand::new(&volume, &args.image);
    for path in &args.paths {
        beforehand.remove(path, args.recursive)?;
    }
    for path in &args.paths {
        let metadata = volume.metadata(path).about(&args.image)?;
        if metadata.kind == FileType::Dir && args.recursive {
            remove_tree(&volume, path, &args.image)?;
        } else {
            volume.remove_file(path).about(&args.image)?;
        }
    }
    volume.close().about(&args.image)?;
    Ok(Status::Done)
}

/// Removes a directory with all that is in it. The root itself stays.
fn remove_tree(volume: &Volume, path: &Path, image: &Path) -> Outcome<()> {
    let mut tour = Tour::new(volume, path);
    let root = tour.path().to_path_buf();
    let done = |result: Result<(), String>, path: &Path| {
        let what = format!("{}: {}", shown(image), in_volume(path));
        result.map_err(|why| Failure::new(what, why))
    };
    done(tour.enter(), &root)?;
    while let Some(step) = tour.next() {
        let result = match step {
            Step::Entry(entry) if entry.kind == FileType::Dir => tour.enter(),
            Step::Entry(_) => volume.remove_file(tour.path()).map_err(|error| own(&error)),
            Step::Leave if tour.path() == root && root.as_os_str().is_empty() => Ok(()),
            Step::Leave => volume.remove_dir(tour.path()).map_err(|error| own(&error)),
            Step::Bad(why) => Err(why),
        };
        done(result, tour.path())?;
    }
    Ok(())
}

/// Opens an image, changes it in one step, and commits. Nothing is changed if that fails.
fn changing(image: &Path, change: impl FnOnce(&Volume) -> Result<(), Error>) -> Outcome<Status> {
    let volume = engine::open_for_changes(image)?;
    change(&volume).about(image)?;
    volume.close().about(image)?;
    Ok(Status::Done)
}
