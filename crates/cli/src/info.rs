//! `cowback info`: what an image is, and how its files are stored.
//!
//! Of an image that can be opened, what cannot be read is named and left out. Sizes are the image's word, and sums of them end at `u64::MAX`.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use cowback::{FileType, Volume};
use serde::Serialize;

use crate::args::InfoArgs;
use crate::engine;
use crate::failure::{Failure, Outcome, Status, in_volume, plain, readable, shown};
use crate::output;
use crate::progress::{dirs_of, files_of};
use crate::size::{Size, ratio};
use crate::tour::{Step, Tour, own};

#[derive(Debug, Serialize)]
struct Info {
    uuid: String,
    label: String,
    size: u64,
    used: u64,
    data_allocated: u64,
    metadata_allocated: u64,
    unallocated: u64,
    generation: u64,
    checksum: &'static str,
    features: Vec<String>,
    /// Files, directories and hard links are counted as `pack` counts them.
    files: u64,
    dirs: u64,
    hard_links: u64,
    /// Files with content: the others are symlinks, device nodes, pipes and sockets.
    regular_files: u64,
    bytes: u64,
    bytes_stored: u64,
    ratio: f64,
    extents: u64,
    codecs: BTreeMap<&'static str, Codec>,
    /// Files and directories that could not be read: what they hold is not counted.
    unreadable: u64,
}

/// How much is stored in one way.
#[derive(Debug, Default, Serialize)]
struct Codec {
    extents: u64,
    bytes: u64,
    bytes_stored: u64,
    ratio: f64,
}

/// What the walk counts.
#[derive(Debug, Default)]
struct Count {
    files: u64,
    dirs: u64,
    hard_links: u64,
    regular_files: u64,
    bytes: u64,
    codecs: BTreeMap<&'static str, Codec>,
    /// Files with several names that were seen.
    linked: HashSet<u64>,
    /// Extents that were seen, by their place: files may share them, and a file may hold several parts of one.
    extents: HashSet<u64>,
    unreadable: u64,
}

pub(crate) fn run(args: &InfoArgs) -> Outcome<Status> {
    let volume = engine::open_for_reading(&args.image, &args.engine)?;
    let mut count = Count::default();
    count.walk(&volume, &args.image);
    let info = count.end(&volume);
    if args.json {
        output::json(&info)?
    } else {
        output::line(&info.text())?
    }
    Ok(Status::failed_if(info.unreadable > 0))
}

impl Count {
    fn walk(&mut self, volume: &Volume, image: &Path) {
        let mut tour = Tour::new(volume, Path::new(""));
        self.dirs += 1;
        let mut counted = tour.enter();
        loop {
            if let Err(why) = counted {
                self.unreadable += 1;
                Failure::new(format!("{}: {}", shown(image), in_volume(tour.path())), why).print();
            }
            counted = match tour.next() {
                None => return,
                Some(Step::Entry(entry)) if entry.ino == 0 => Ok(()), // another subvolume
                Some(Step::Entry(entry)) if entry.kind == FileType::Dir => {
                    self.dirs += 1;
                    tour.enter()
                }
                Some(Step::Entry(_)) => self.entry(volume, &tour).map_err(|error| own(&error)),
                Some(Step::Leave) => Ok(()),
                Some(Step::Bad(why)) => Err(why),
            };
        }
    }

    fn entry(&mut self, volume: &Volume, tour: &Tour<'_>) -> cowback::Result<()> {
        let metadata = volume.metadata(tour.path())?;
        if metadata.nlink > 1 && !self.linked.insert(metadata.ino) {
            self.hard_links += 1;
            return Ok(());
        }
        self.files += 1;
        if metadata.kind != FileType::Regular {
            return Ok(());
        }
        self.regular_files += 1;
        self.bytes = self.bytes.saturating_add(metadata.size);
        if metadata.size == 0 {
            return Ok(());
        }
        for extent in volume.open_file(tour.path())?.extents()? {
            let name = match extent.disk {
                _ if extent.prealloc => "preallocated",
                None => "inline",
                Some(_) => extent.codec,
            };
            let codec = self.codecs.entry(name).or_default();
            codec.bytes = codec.bytes.saturating_add(extent.range.end - extent.range.start);
            if extent.disk.is_none_or(|disk| self.extents.insert(disk)) {
                codec.extents += 1;
                codec.bytes_stored = codec.bytes_stored.saturating_add(extent.stored);
            }
        }
        Ok(())
    }

    fn end(mut self, volume: &Volume) -> Info {
        let store = volume.stats().store;
        for codec in self.codecs.values_mut() {
            codec.ratio = ratio(codec.bytes, codec.bytes_stored);
        }
        let sum = |of: fn(&Codec) -> u64| self.codecs.values().map(of).fold(0, u64::saturating_add);
        let bytes_stored = sum(|codec| codec.bytes_stored);
        Info {
            uuid: volume.uuid().to_string(),
            // As it is, where that can be told; what is for people is made plain later.
            label: String::from_utf8(volume.label()).unwrap_or_else(|_| readable(&volume.label())),
            size: store.total_bytes,
            used: store.bytes_used,
            data_allocated: store.data.total,
            metadata_allocated: store.metadata.total,
            unallocated: store.unallocated,
            generation: store.generation,
            checksum: volume.checksum().name(),
            features: volume.features(),
            files: self.files,
            dirs: self.dirs,
            hard_links: self.hard_links,
            regular_files: self.regular_files,
            bytes: self.bytes,
            bytes_stored,
            ratio: ratio(sum(|codec| codec.bytes), bytes_stored),
            extents: sum(|codec| codec.extents),
            codecs: self.codecs,
            unreadable: self.unreadable,
        }
    }
}

impl Info {
    fn text(&self) -> String {
        let mut lines = vec![
            format!("uuid        {}", self.uuid),
            format!("label       {}", plain(&self.label)),
            format!("size        {} ({} bytes)", Size(self.size), self.size),
            format!("used        {} ({} bytes)", Size(self.used), self.used),
            format!("data        {} allocated", Size(self.data_allocated)),
            format!("metadata    {} allocated", Size(self.metadata_allocated)),
            format!("unallocated {}", Size(self.unallocated)),
            format!("generation  {}", self.generation),
            format!("checksum    {}", self.checksum),
            format!("features    {}", self.features.join(" ")),
            format!(
                "content     {} of {}, {} of them regular; {}, {} hard links",
                files_of(self.files),
                Size(self.bytes),
                self.regular_files,
                dirs_of(self.dirs),
                self.hard_links
            ),
            format!(
                "extents     {}, {} stored, ratio {:.2}",
                self.extents,
                Size(self.bytes_stored),
                self.ratio
            ),
        ];
        for (name, codec) in &self.codecs {
            lines.push(format!(
                "  {name:<10}{} extents, {} in {}, ratio {:.2}",
                codec.extents,
                Size(codec.bytes),
                Size(codec.bytes_stored),
                codec.ratio
            ));
        }
        if self.unreadable > 0 {
            lines.push(format!("unreadable  {}: not all is counted", self.unreadable));
        }
        lines.join("\n")
    }
}
