//! Random work on a few files, of which some are preallocated and some overwritten in place, done on a volume and on plain bytes alike.

use std::collections::BTreeMap;

use cowback::{File, Volume};
use cowback_testkit::random::Rng;

use crate::work::content;
use crate::{Seen, Snapshot, identify, read_all};

/// Offsets are below this.
const END: u64 = 900_000;

/// Files by name, in plain bytes.
#[derive(Debug, Clone, Default)]
pub struct Files(BTreeMap<String, Vec<u8>>);

impl Files {
    /// What a snapshot of the volume is to show.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let seen = |content: &Vec<u8>| Seen::File(content.len() as u64, identify(content), 1);
        self.0.iter().map(|(name, content)| (format!("/{name}"), seen(content))).collect()
    }

    /// Their names and contents.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Vec<u8>)> {
        self.0.iter()
    }

    /// Makes them, their names beginning with `prefix`: some that are copied on write, and with `nocow` some that are not.
    ///
    /// # Panics
    /// If they cannot be made.
    pub fn make(&mut self, volume: &Volume, prefix: &str, nocow: bool) {
        for name in ["a", "b", "c"].map(|name| format!("{prefix}{name}")) {
            volume.create_file(&name).unwrap();
            self.0.insert(name, Vec::new());
        }
        for name in ["log", "wal"].into_iter().filter(|_| nocow) {
            let name = format!("{prefix}{name}");
            volume.create_file(&name).unwrap().set_nocow(true).unwrap();
            self.0.insert(name, Vec::new());
        }
    }

    /// Does one random operation on both.
    ///
    /// # Panics
    /// If it fails, or something is read that was not written.
    pub fn step(&mut self, rng: &mut Rng, volume: &Volume) {
        let names: Vec<String> = self.0.keys().cloned().collect();
        let name = rng.pick(&names).clone();
        let file = volume.open_file(&name).unwrap();
        let model = self.0.get_mut(&name).unwrap();
        let at = place(rng, model.len() as u64);
        let most = if rng.percent(20) { 400_000 } else { 20_000 };
        let end = at + 1 + rng.below(most);
        match rng.below(100) {
            0..40 => write(rng, &file, model, at, end),
            40..52 => {
                file.allocate(at..end).unwrap();
                let len = model.len().max(to_usize(end));
                model.resize(len, 0);
            }
            52..60 => file.allocate_keep_size(at..end).unwrap(),
            60..67 => {
                file.zero_range(at..end).unwrap();
                let len = model.len().max(to_usize(end));
                model.resize(len, 0);
                model[to_usize(at)..to_usize(end)].fill(0);
            }
            67..74 => {
                file.punch_hole(at..end).unwrap();
                let (start, end) = (model.len().min(to_usize(at)), model.len().min(to_usize(end)));
                model[start..end].fill(0);
            }
            74..79 => {
                let len = if rng.percent(30) { model.len() as u64 } else { at };
                file.set_len(len).unwrap();
                model.resize(to_usize(len), 0);
            }
            79..88 => file.start_writeback(),
            88..94 => {
                let ranges = file.data_ranges().unwrap();
                check_holes(model, &ranges, &name);
            }
            _ => assert!(read_all(volume, &name).unwrap() == *model, "content of {name}"),
        }
    }
}

/// Writes in one go, or record by record as a log is written.
fn write(rng: &mut Rng, file: &File, model: &mut Vec<u8>, at: u64, end: u64) {
    let data = content(rng, to_usize(end - at));
    let step = if rng.percent(30) { 5000 } else { data.len() };
    model.resize(model.len().max(to_usize(end)), 0);
    for (number, part) in data.chunks(step).enumerate() {
        let at = to_usize(at) + number * step;
        file.write_at(at as u64, part).unwrap();
        model[at..at + part.len()].copy_from_slice(part);
    }
}

/// An offset: any, at a border of blocks, or where the file ends.
fn place(rng: &mut Rng, len: u64) -> u64 {
    match rng.below(4) {
        0 => rng.below(END),
        1 => rng.below(END) / 4096 * 4096,
        2 => len.min(END),
        _ => rng.below(60_000),
    }
}

fn check_holes(model: &[u8], ranges: &[std::ops::Range<u64>], name: &str) {
    let starts = ranges.iter().map(|range| to_usize(range.start)).chain([model.len()]);
    let ends = [0].into_iter().chain(ranges.iter().map(|range| to_usize(range.end)));
    for (end, start) in ends.zip(starts) {
        let is_hole = model[end..start].iter().all(|byte| *byte == 0);
        assert!(is_hole, "{name}: there is no hole from {end} to {start}");
    }
}

fn to_usize(number: u64) -> usize {
    usize::try_from(number).unwrap()
}
