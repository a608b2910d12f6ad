//! The enumerator against toy stores: a correct one passes, and each planted defect is caught (laws R4, D1).

use std::sync::atomic::{AtomicU64, Ordering};

use cowback_block_store::{BlockDevice, MemoryDevice};

use super::*;
use crate::random::{hash128, to_usize};
use crate::recording::RecordingDevice;

/// What is wrong with a toy store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Defect {
    None,
    /// The root is written without a flush after the data.
    NoFlushBeforeRoot,
    /// The commit is acknowledged before the root is flushed.
    AckBeforeFlush,
    /// Data goes where the durable root's data is.
    OverwritesLiveData,
    /// The root lies in two sectors and its checksum is not looked at.
    TornRoot,
    /// The device is made longer after the root that needs it.
    LateLength,
}

const VALUE: usize = 8192;
const ROOT_SECOND_HALF: usize = 1024 - 8;

/// Keeps one value: a root at 0 names the place and the hash of the data.
struct Toy<'a> {
    device: &'a RecordingDevice,
    defect: Defect,
    generation: u64,
}

impl Toy<'_> {
    fn commit(&mut self) {
        self.generation += 1;
        let generation = self.generation;
        let data = value(generation);
        let slot = if self.defect == Defect::OverwritesLiveData { 0 } else { generation % 2 };
        let at = 4096 + slot * VALUE as u64;
        let grow = || {
            if self.device.len().unwrap() < at + VALUE as u64 {
                self.device.set_len(at + VALUE as u64).unwrap();
            }
        };
        if self.defect != Defect::LateLength {
            grow();
            self.device.write_at(at, &data[..4096]).unwrap();
            self.device.write_at(at + 4096, &data[4096..]).unwrap();
            if self.defect != Defect::NoFlushBeforeRoot {
                self.device.flush().unwrap();
            }
        }
        let mut root = [0; 1024];
        root[..8].copy_from_slice(&generation.to_le_bytes());
        root[8..16].copy_from_slice(&at.to_le_bytes());
        root[16..32].copy_from_slice(&hash128(0, &data).to_le_bytes());
        if self.defect == Defect::TornRoot {
            root[ROOT_SECOND_HALF..].copy_from_slice(&at.to_le_bytes());
        }
        self.device.write_at(0, &root).unwrap();
        if self.defect == Defect::LateLength {
            grow();
            self.device.flush().unwrap();
            self.device.write_at(at, &data).unwrap();
        }
        if self.defect == Defect::AckBeforeFlush {
            self.device.mark(format!("acked {generation}"));
            self.device.flush().unwrap();
        } else {
            self.device.flush().unwrap();
            self.device.mark(format!("acked {generation}"));
        }
    }
}

fn value(generation: u64) -> Vec<u8> {
    Rng::new(generation).bytes(VALUE)
}

/// What a toy store finds after a crash: exactly one commit, not older than the last acknowledged one.
fn recover(state: &CrashState, defect: Defect) -> Result<(), String> {
    let device = state.device();
    let word = |at: u64| {
        let mut bytes = [0; 8];
        device.read_at(at, &mut bytes).map(|()| u64::from_le_bytes(bytes))
    };
    let generation = word(0).map_err(|e| e.to_string())?;
    let acked: u64 = state.last_mark("acked ").map_or(0, |n| n.parse().unwrap());
    if generation < acked {
        return Err(format!("commit {acked} was acknowledged, {generation} is there"));
    }
    if generation == 0 {
        return Ok(());
    }
    let mut at = word(8).unwrap();
    if defect == Defect::TornRoot {
        at = word(ROOT_SECOND_HALF as u64).unwrap();
    }
    let mut data = vec![0; VALUE];
    device.read_at(at, &mut data).map_err(|e| e.to_string())?;
    if data == value(generation) { Ok(()) } else { Err(format!("{generation} is damaged")) }
}

fn run(defect: Defect, commits: u64) -> Recording {
    let device = RecordingDevice::zeros(4096);
    let mut toy = Toy { device: &device, defect, generation: 0 };
    (0..commits).for_each(|_| toy.commit());
    device.recording()
}

#[test]
fn a_correct_store_survives_every_state() {
    let report =
        explore(run(Defect::None, 12), &Plan::new(1), 2, |state| recover(state, Defect::None));
    let report = report.unwrap_or_else(|failure| panic!("{failure}"));
    assert_eq!(report.epochs, 25);
    assert!(report.states > 250, "{report}");
    assert!(report.exhaustive >= 12, "each root is one write of two sectors: {report}");
}

#[test]
fn every_planted_defect_is_caught() {
    for defect in [
        Defect::NoFlushBeforeRoot,
        Defect::AckBeforeFlush,
        Defect::OverwritesLiveData,
        Defect::TornRoot,
        Defect::LateLength,
    ] {
        for plan in [Plan::new(1), Plan::quick(1)] {
            let found = explore(run(defect, 4), &plan, 1, |state| recover(state, defect));
            let failure = found.expect_err(&format!("{defect:?} was not caught"));
            assert!(failure.to_string().contains("seed 1"), "{failure}");
        }
    }
}

#[test]
fn a_panic_in_recovery_is_a_failure() {
    let found = explore(run(Defect::None, 2), &Plan::quick(1), 2, |state| {
        assert_ne!(state.epoch, 2, "planted");
        Ok(())
    });
    assert!(found.unwrap_err().why.contains("planted"));
}

#[test]
fn small_epochs_are_exhaustive_and_nothing_repeats() {
    let device = RecordingDevice::zeros(16_384);
    device.write_at(0, &[1; 1024]).unwrap();
    device.write_at(512, &[2; 1024]).unwrap();
    device.write_at(8192, &[0; 4096]).unwrap();
    let mut states = States::new(device.recording(), Plan::new(0)).unwrap();
    let mut seen = vec![];
    while let Some(state) = states.next_state().unwrap() {
        let bytes = state.device().to_vec().unwrap();
        seen.push([bytes[0], bytes[512], bytes[1024]]);
    }
    // Sector 0 is 0 or 1, sector 1 is 0, 1 or 2, sector 2 is 0 or 2; zeros over zeros do not count.
    seen.sort_unstable();
    let all = [0, 1].iter().flat_map(|a| [0, 1, 2].map(|b| [*a, b]));
    let all: Vec<_> = all.flat_map(|[a, b]| [0, 2].map(|c| [a, b, c])).collect();
    assert_eq!(seen, all);
    assert_eq!(states.report().exhaustive, 1);
    assert_eq!(states.report().repeated, 2 + 16 - 12);
}

#[test]
fn a_write_that_a_flush_overlaps_stays_open() {
    let device = RecordingDevice::zeros(8192);
    device.write_at(0, &[1; 512]).unwrap();
    device.flush().unwrap();
    let mut recording = device.recording();
    // The write returned only after the flush had begun.
    recording.changes[0].returned = Some(recording.end);
    recording.end += 1;
    let mut last = vec![];
    let mut states = States::new(recording, Plan::new(0)).unwrap();
    while let Some(state) = states.next_state().unwrap() {
        last.push((state.epoch, state.device().to_vec().unwrap()[0]));
    }
    last.sort_unstable();
    assert_eq!(last, [(0, 0), (0, 1)], "in the second epoch both are possible still, and known");
}

#[test]
fn states_are_the_same_for_the_same_seed_and_differ_otherwise() {
    let list = |seed| {
        let mut states = States::new(run(Defect::None, 3), Plan::new(seed)).unwrap();
        let mut list = vec![];
        while let Some(state) = states.next_state().unwrap() {
            list.push(state.pick);
        }
        list
    };
    assert_eq!(list(5), list(5));
    assert_ne!(list(5), list(6));
}

#[test]
fn image_files_hold_what_states_hold() {
    let base = MemoryDevice::new(40_000);
    base.write_at(0, &Rng::new(9).bytes(40_000)).unwrap();
    let device = RecordingDevice::over(Arc::new(base)).unwrap();
    let mut rng = Rng::new(4);
    for _ in 0..12 {
        let len = device.len().unwrap();
        match rng.below(6) {
            0 => device.set_len(rng.within(20_000, 60_000)).unwrap(),
            1 => device.flush().unwrap(),
            2 => device.discard(rng.below(len), 9000).unwrap(),
            _ => {
                let data = rng.bytes(3000);
                device.write_at(rng.below(len - 3000), &data).unwrap();
            }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let image = Mutex::new(CrashImage::create(&dir.path().join("image")).unwrap());
    let report = explore(device.recording(), &Plan::quick(2), 1, |state| {
        let mut image = image.lock();
        image.load(state).map_err(|e| e.to_string())?;
        let same = std::fs::read(image.path()).unwrap() == state.device().to_vec().unwrap();
        if same { Ok(()) } else { Err("the file differs".into()) }
    });
    let report = report.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(report.states > 50, "{report}");
}

#[test]
fn states_count_as_equal_only_if_they_are() {
    // The same recording without hashing: every state's bytes, kept.
    let mut states = States::new(run(Defect::None, 4), Plan::new(3)).unwrap();
    let mut bytes = HashSet::new();
    let mut count = 0_u64;
    while let Some(state) = states.next_state().unwrap() {
        count += 1;
        bytes.insert((state.device().to_vec().unwrap(), state.marks.len()));
    }
    assert_eq!(count, bytes.len() as u64, "no state came twice");
    assert_eq!(count, states.report().states);
}

#[test]
fn a_state_can_crash_again() {
    let second = AtomicU64::new(0);
    let report = explore(run(Defect::None, 3), &Plan::quick(1), 1, |state| {
        let device = RecordingDevice::over(state.device()).map_err(|e| e.to_string())?;
        let mut head = [0; 8];
        device.read_at(0, &mut head).unwrap();
        let generation = u64::from_le_bytes(head);
        device.mark(format!("acked {generation}"));
        let mut toy = Toy { device: &device, defect: Defect::None, generation };
        toy.commit();
        let inner =
            explore(device.recording(), &Plan::quick(2), 1, |state| recover(state, Defect::None));
        let states = inner.map_err(|failure| failure.to_string())?.states;
        second.fetch_add(states, Ordering::Relaxed);
        Ok(())
    });
    let report = report.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(second.into_inner() > 10 * report.states);
    assert_eq!(to_usize(report.states), usize::try_from(report.states).unwrap());
}
