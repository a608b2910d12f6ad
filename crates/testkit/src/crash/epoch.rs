//! One epoch of a recording: what is durable when it begins, and what is open when it ends.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::Arc;

use cowback_block_store::BlockDevice;

use super::pick::Pick;
use crate::SECTOR;
use crate::overlay::{Overlay, PAGE, shredded};
use crate::random::{hash128, to_usize};
use crate::recording::{Change, Logged, Moment, Recording};

/// The end of an epoch, and since when changes count for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Boundary {
    /// Changes that began at or after this moment have not happened yet.
    end: Moment,
    /// Changes that returned before this moment are durable.
    durable: Moment,
}

/// The epochs of `recording`: one ends just before each flush returned, and one at the end.
pub(super) fn boundaries(recording: &Recording) -> Vec<Boundary> {
    let ends = recording.flushes.iter().map(|flush| flush.returned).chain([recording.end]);
    let mut durable = 0;
    let mut begun = recording.flushes.iter().map(|flush| flush.began);
    ends.map(|end| {
        let boundary = Boundary { end, durable };
        durable = durable.max(begun.next().unwrap_or(0));
        boundary
    })
    .collect()
}

/// The changes that became durable between the epoch before `boundary` and its own; marks them as applied.
pub(super) fn durable_before(
    recording: &Recording,
    boundary: Boundary,
    applied: &mut [bool],
) -> Vec<Change> {
    let mut newly = vec![];
    for (logged, applied) in recording.changes.iter().zip(applied) {
        if logged.began >= boundary.durable {
            break;
        }
        let durable = logged.returned.is_some_and(|returned| returned < boundary.durable);
        if durable && !*applied {
            *applied = true;
            if !logged.failed {
                newly.push(logged.change.clone());
            }
        }
    }
    newly
}

/// Applies whole changes; gives by what the hash of the content changes.
pub(super) fn apply(device: &Overlay, changes: &[Change]) -> io::Result<u128> {
    let before = changed_pages(changes, device.len()?);
    let old = hash_pages(device, &before)?;
    for change in changes {
        apply_one(device, change, |_| true)?;
    }
    Ok(old ^ hash_pages(device, &before)?)
}

/// Applies what `present` tells of the sectors of one change.
fn apply_one(
    device: &Overlay,
    change: &Change,
    mut present: impl FnMut(usize) -> bool,
) -> io::Result<()> {
    match change {
        Change::Write { offset, data } => device.write_sectors(*offset, data, present),
        Change::SetLen { len } if present(0) => device.set_len(*len),
        Change::Discard { offset, len } if present(0) => device.discard(*offset, *len),
        Change::SetLen { .. } | Change::Discard { .. } => Ok(()),
    }
}

/// Pages that `changes` may change on a device of `len` bytes.
fn changed_pages(changes: &[Change], len: u64) -> BTreeSet<u64> {
    let mut pages = BTreeSet::new();
    let (mut len, mut shortest) = (len, len);
    for change in changes {
        match change {
            Change::Write { offset, data } if !data.is_empty() => {
                let end = offset + data.len() as u64;
                len = len.max(end);
                pages.extend(offset / PAGE..end.div_ceil(PAGE));
            }
            Change::Discard { offset, len: bytes } => {
                // Whether an earlier change of length is there decides where the range is cut off: take in both.
                pages.extend(shredded(*offset, offset.saturating_add(*bytes).min(shortest)));
                pages.extend(shredded(*offset, offset.saturating_add(*bytes).min(len)));
            }
            Change::SetLen { len: new } => {
                pages.extend(new / PAGE..len.div_ceil(PAGE));
                len = len.max(*new);
                shortest = shortest.min(*new);
            }
            Change::Write { .. } => {}
        }
    }
    pages
}

fn hash_pages(device: &Overlay, pages: &BTreeSet<u64>) -> io::Result<u128> {
    let mut hash = 0;
    for number in pages {
        hash ^= hash128(*number, &device.page(*number)?[..]);
    }
    Ok(hash)
}

/// What [`Epoch::new`] is made from.
pub(super) struct Parts {
    pub(super) number: usize,
    pub(super) boundary: Boundary,
    pub(super) durable: Arc<Overlay>,
    pub(super) durable_hash: u128,
}

/// One epoch of a recording.
#[derive(Debug)]
pub struct Epoch {
    /// Its place among the epochs of the recording.
    pub number: usize,
    /// The content that earlier flushes made durable.
    pub durable: Arc<Overlay>,
    /// The changes that no flush covers yet, in the order in which they began, each with its place in the recording.
    pub open: Vec<(usize, Change)>,
    /// The marks up to the end of the epoch.
    pub marks: Arc<[String]>,
    durable_hash: u128,
    /// The pages that open changes may change, and their hash in the durable content.
    pages: BTreeSet<u64>,
    pages_hash: u128,
    /// Sectors (open change, sector of it) that differ from the durable content, or that several changes touch.
    effective: Vec<(usize, usize)>,
}

impl Epoch {
    pub(super) fn new(recording: &Recording, parts: Parts, applied: &[bool]) -> io::Result<Self> {
        let Parts { number, boundary, durable, durable_hash } = parts;
        let is_open = |(index, logged): (usize, &Logged)| {
            let open = logged.began < boundary.end && !applied[index] && !logged.failed;
            open.then(|| (index, logged.change.clone()))
        };
        let open: Vec<_> = recording.changes.iter().enumerate().filter_map(is_open).collect();
        let marks = recording.marks.iter().filter(|mark| mark.at < boundary.end);
        let marks = marks.map(|mark| mark.label.clone()).collect();
        let changes: Vec<_> = open.iter().map(|(_, change)| change.clone()).collect();
        let pages = changed_pages(&changes, durable.len()?);
        let pages_hash = hash_pages(&durable, &pages)?;
        let effective = effective(&durable, &open)?;
        Ok(Self { number, durable, open, marks, durable_hash, pages, pages_hash, effective })
    }

    /// The device as it is when of the open changes only what `pick` tells is there, and its hash.
    pub(super) fn build(&self, pick: &Pick) -> io::Result<(Overlay, u128)> {
        let device = Overlay::over(Arc::<Overlay>::clone(&self.durable))?;
        let chosen = self.chosen(pick);
        for (index, (_, change)) in self.open.iter().enumerate() {
            let sectors = sectors(change);
            apply_one(&device, change, |sector| match &chosen {
                Some(absent) => !absent.contains(&(index, sector)),
                None => pick.has(index, sector, sectors),
            })?;
        }
        let hash = self.durable_hash ^ self.pages_hash ^ hash_pages(&device, &self.pages)?;
        Ok((device, hash))
    }

    /// For a pick by effective sectors: those that are absent.
    fn chosen(&self, pick: &Pick) -> Option<BTreeSet<(usize, usize)>> {
        let Pick::Sectors(bits) = pick else { return None };
        let absent = self.effective.iter().enumerate();
        let absent = absent.filter(|(bit, _)| bits & (1 << bit) == 0);
        Some(absent.map(|(_, place)| *place).collect())
    }

    /// Sectors that matter: all possible states are subsets of these.
    #[must_use]
    pub fn effective_sectors(&self) -> usize {
        self.effective.len()
    }

    /// Open changes that can be torn: those with at least two sectors that matter.
    pub(super) fn tearable(&self) -> Vec<(usize, usize)> {
        let mut tearable = vec![];
        let mut at = 0;
        for (index, (_, change)) in self.open.iter().enumerate() {
            let mine = self.effective[at..].iter().take_while(|(change, _)| *change == index);
            let mine = mine.count();
            at += mine;
            if mine >= 2 {
                tearable.push((index, sectors(change)));
            }
        }
        tearable
    }

    pub(super) fn describe(&self, pick: &Pick, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MOST: usize = 6;
        let chosen = self.chosen(pick);
        let (mut whole, mut other) = (0, vec![]);
        for (index, (place, change)) in self.open.iter().enumerate() {
            let sectors = sectors(change);
            let has = |sector: &usize| match &chosen {
                Some(absent) => !absent.contains(&(index, *sector)),
                None => pick.has(index, *sector, sectors),
            };
            let there = (0..sectors).filter(has).count();
            if there == sectors {
                whole += 1;
            } else {
                other.push((place, change, there, sectors));
            }
        }
        write!(f, "of {} open changes {whole} are whole", self.open.len())?;
        for (place, change, there, sectors) in other.iter().take(MOST) {
            let (offset, len) = match change {
                Change::Write { offset, data } => (*offset, data.len() as u64),
                Change::SetLen { len } => (*len, 0),
                Change::Discard { offset, len } => (*offset, *len),
            };
            write!(f, ", #{place} ({len} bytes at {offset:#x}) has {there} of {sectors} sectors")?;
        }
        if other.len() > MOST { write!(f, ", and {} more", other.len() - MOST) } else { Ok(()) }
    }
}

/// Sectors of a change; one for a change that happens or does not.
fn sectors(change: &Change) -> usize {
    match change {
        Change::Write { data, .. } => data.len().div_ceil(SECTOR),
        Change::SetLen { .. } | Change::Discard { .. } => 1,
    }
}

fn effective(durable: &Overlay, open: &[(usize, Change)]) -> io::Result<Vec<(usize, usize)>> {
    let touched_by = |change: &Change| match change {
        Change::Write { offset, data } if !data.is_empty() => {
            let end = offset + data.len() as u64;
            offset / SECTOR as u64..end.div_ceil(SECTOR as u64)
        }
        Change::Discard { .. } | Change::SetLen { .. } | Change::Write { .. } => 0..0,
    };
    let mut once = BTreeSet::new();
    let mut twice = BTreeSet::new();
    for place in open.iter().flat_map(|(_, change)| touched_by(change)) {
        if !once.insert(place) {
            twice.insert(place);
        }
    }
    // A change of length or a discard makes the content below uncertain: then every sector counts.
    let certain = open.iter().all(|(_, change)| matches!(change, Change::Write { .. }));
    let len = durable.len()?;
    let mut effective = vec![];
    for (index, (_, change)) in open.iter().enumerate() {
        let Change::Write { offset, data } = change else {
            effective.push((index, 0));
            continue;
        };
        for (number, sector) in data.chunks(SECTOR).enumerate() {
            let at = offset + (number * SECTOR) as u64;
            let shown = to_usize(len.saturating_sub(at).min(sector.len() as u64));
            let mut old = [0; SECTOR];
            if shown > 0 {
                durable.read_at(at, &mut old[..shown])?;
            }
            let same = shown == sector.len() && old[..shown] == *sector;
            let places = at / SECTOR as u64..(at + sector.len() as u64).div_ceil(SECTOR as u64);
            if !certain || !same || twice.range(places).next().is_some() {
                effective.push((index, number));
            }
        }
    }
    Ok(effective)
}
