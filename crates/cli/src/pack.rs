//! `cowback pack`: a directory tree into a fresh image.
//!
//! | module | what it is |
//! |---|---|
//! | `tree` | the walk: entries in the order of their names, and what is done for each |
//! | `names` | a directory's names in order, in bounded memory |
//! | `entry` | attributes |
//! | `links` | hard links |
//! | `copy` | content |
//! | `scale` | commits on the way |
//! | `scan` | a first walk that counts, for the progress bar |
//! | `report` | what is said at the end |
//!
//! Reproducible (law R3): one thread calls the volume, in an order that the names alone decide, and commits come at points that the tree alone decides. Memory
//! is bounded: neither a file nor the tree is ever held whole.

pub(crate) mod copy;
pub(crate) mod entry;
mod links;
mod names;
pub(crate) mod report;
pub(crate) mod scale;
mod scan;
mod tree;

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use cowback::Volume;
use cowback::options::Fit;
use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::args::PackArgs;
use crate::engine;
use crate::failure::{About, Explain, Failure, Outcome, Status, shown};
use crate::output;
use crate::pack::entry::TimePolicy;
use crate::pack::report::{Counts, Report};
use crate::pack::tree::Packer;
use crate::progress::Progress;
use crate::size::Size;
use crate::target::Target;

pub(crate) fn run(args: &PackArgs) -> Outcome<Status> {
    let begun = Instant::now();
    raise_descriptor_limit();
    let source = open_source(&args.source)?;
    let mut options = engine::options(&args.engine, args.compress.policy())?;
    engine::new_volume(&mut options, &args.format, args.size);
    let times = TimePolicy { fixed: options.fixed_time };

    let target = Target::prepare(&args.image, args.format.overwrite)?;
    if args.shrink && target.is_device() {
        return Err(Failure::usage("--shrink: a block device cannot be cut"));
    }
    if !target.is_device() {
        // Made as large as need be, and cut or extended at the end: where things lie does not depend on how much was free at which moment.
        options.pack_tight = args.shrink || args.size.is_some();
        options.size = None;
    }
    let mut progress = Progress::new(args.report.quiet);
    if progress.is_shown() {
        let again = again(&source, &args.source)?;
        let bytes = scan::count(again, args.one_file_system, &mut progress);
        progress.begin(bytes);
    }
    let volume = target.create(&options)?;
    let own_files = target.own_files();
    let mut packer = Packer::new(&volume, args, times, own_files, progress);
    packer.pack(source)?;
    let (counts, progress) = packer.end();
    progress.say("committing");
    let report = finish(volume, args, target.is_device(), counts, begun)?;
    target.complete()?;
    progress.end();
    output::report(&args.report, &report, || report.summary())?;
    Ok(Status::failed_if(counts.left_out + counts.attributes_left_out > 0))
}

/// Commits the whole tree, and closes the volume.
fn finish(
    volume: Volume,
    args: &PackArgs,
    is_device: bool,
    counts: Counts,
    begun: Instant,
) -> Outcome<Report> {
    let image = &args.image;
    volume.commit().about(image)?;
    let fit = match (args.shrink, args.slack, args.size) {
        (true, None, _) => Some(Fit::Tight),
        (true, Some(slack), _) => Some(Fit::Slack(slack.0)),
        (false, _, size) => size.map(|size| Fit::Size(size.0)),
    };
    if let Some(fit) = fit.filter(|_| !is_device) {
        let bytes = volume.shrink_to_fit(fit).about(image)?;
        // Nobody asked for what it leaves free.
        if fit == Fit::Tight && args.size.is_some_and(|size| size.0 < bytes) {
            volume.shrink_to_fit(Fit::Slack(0)).about(image)?;
        }
    }
    let stats = volume.stats();
    let image_bytes = stats.store.total_bytes;
    if let Some(size) = args.size.filter(|size| size.0 < image_bytes) {
        return Err(no_room(args, image_bytes, size));
    }
    volume.close().about(image)?;
    Ok(Report::new(counts, &stats, image_bytes, begun.elapsed()))
}

/// The content does not fit into the size that was asked for.
pub(crate) fn no_room(args: &PackArgs, needed: u64, size: Size) -> Failure {
    let why = format!("no space left: it needs {needed} bytes, and may have {} (--size)", size.0);
    Failure::new(shown(&args.image), why)
}

fn open_source(source: &Path) -> Outcome<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, source, flags, Mode::empty()).about(source)
}

/// A second descriptor of the source, for a second walk.
fn again(source: &OwnedFd, path: &Path) -> Outcome<OwnedFd> {
    source.as_fd().try_clone_to_owned().map_err(|error| Failure::new(shown(path), error.explain()))
}

/// Deep trees need more descriptors than the usual soft limit leaves beside everything else.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, ..limit };
    let _ = setrlimit(Resource::Nofile, raised); // the usual limit does for most trees
}
