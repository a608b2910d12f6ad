//! From arguments to a volume.

use std::path::Path;

use cowback::options::CompressionPolicy;
use cowback::{Options, Volume};

use crate::args::{EngineArgs, FormatArgs};
use crate::failure::{About, Outcome};
use crate::size::Size;
use crate::times;

/// Options of a volume that only this program's calls change: nothing is written because time passes.
pub(crate) fn options(args: &EngineArgs, compression: CompressionPolicy) -> Outcome<Options> {
    Ok(Options { compression, fixed_time: times::source_date_epoch()?, ..plain_options(args) })
}

/// As [`options`], for a volume that nothing is written to: `SOURCE_DATE_EPOCH` says nothing about it, and may be anything.
fn plain_options(args: &EngineArgs) -> Options {
    Options {
        threads: args.threads.map_or(0, usize::from),
        cache_bytes: args.cache.0,
        commit_interval: None,
        ..Options::default()
    }
}

/// Puts into `options` what a new volume is like.
pub(crate) fn new_volume(options: &mut Options, args: &FormatArgs, size: Option<Size>) {
    options.size = size.map(|size| size.0);
    options.metadata = args.metadata;
    options.checksum = args.csum;
    options.label.clone_from(&args.label);
    options.uuid = args.uuid;
}

/// Opens an image to look at it.
pub(crate) fn open_for_reading(image: &Path, args: &EngineArgs) -> Outcome<Volume> {
    let options = Options { read_only: true, ..plain_options(args) };
    Volume::open(image, &options).about(image)
}

/// Opens an image to change names in it.
pub(crate) fn open_for_changes(image: &Path) -> Outcome<Volume> {
    let args = EngineArgs { threads: Some(1), cache: Size(16 << 20) };
    let options = Options {
        size: Some(u64::MAX), // as large as it is, and no larger
        ..options(&args, CompressionPolicy::default())?
    };
    Volume::open(image, &options).about(image)
}
