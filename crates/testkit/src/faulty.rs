//! A device that fails on order: for sweeps over every operation (law E1), and for damage that no error tells of (E3).
//!
//! Operations are counted by kind; a [`Fault`] strikes the n-th of its kind, once, a few times, or from then on. What a
//! good flush has not covered yet can be dropped when a flush fails, as a device with a volatile cache may do.
//! Lock order: the device's own lock is held during IO of the device below, so that counting and order agree.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use cowback_base::sync::Mutex;
use cowback_block_store::BlockDevice;

use crate::SECTOR;
use crate::random::{Rng, to_usize};

/// A kind of operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Op {
    /// `read_at`.
    Read,
    /// `write_at`, `write_vectored_at`.
    Write,
    /// `flush`.
    Flush,
    /// `set_len`.
    SetLen,
    /// `discard`.
    Discard,
}

impl Op {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Read, Self::Write, Self::Flush, Self::SetLen, Self::Discard];
}

/// What happens instead of the operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Nothing, and the error `EIO`.
    Eio,
    /// Nothing, and the error `ENOSPC`.
    Enospc,
    /// Nothing, and the error of this number.
    Errno(i32),
    /// Of a write, the first half of the sectors; then `EIO`. Other operations: as [`Effect::Eio`].
    Short,
    /// Of a write, random sectors; then `EIO`. Other operations: as [`Effect::Eio`].
    Torn,
    /// Of a flush: `EIO`, and all that no good flush covers is gone. Other operations: as [`Effect::Eio`].
    DropUnsynced,
    /// Of a flush: `EIO`, and what no good flush covers can be read, but will never be durable unless it is written again, whatever later
    /// flushes say, as with Linux' page cache: [`FaultDevice::cut_power`] shows it. Other operations: as [`Effect::Eio`].
    Forget,
    /// Nothing, and a panic with the message [`PANIC`].
    Panic,
    /// Silent: the write is not done; a read gives zeros.
    Lost,
    /// Silent: the write goes, or the read looks, one mebibyte further on (or back, near the end).
    Misdirected,
    /// Silent: one bit is flipped in what is read or written.
    FlipBit,
}

/// What a device says that panics on order.
pub const PANIC: &str = "the device panics on order";

/// How often a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Times {
    /// This often, then the device is well.
    Count(u64),
    /// From then on, always.
    Forever,
}

/// One planned fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// What it strikes.
    pub op: Op,
    /// The first operation of that kind, counted from 0, that it strikes.
    pub at: u64,
    /// What happens.
    pub effect: Effect,
    /// How often.
    pub times: Times,
}

impl Fault {
    /// A fault that strikes the `at`-th operation of its kind, once.
    #[must_use]
    pub const fn once(op: Op, at: u64, effect: Effect) -> Self {
        Self { op, at, effect, times: Times::Count(1) }
    }

    /// A fault that strikes the `at`-th operation of its kind and all later ones.
    #[must_use]
    pub const fn forever(op: Op, at: u64, effect: Effect) -> Self {
        Self { op, at, effect, times: Times::Forever }
    }

    fn strikes(&self, op: Op, number: u64) -> bool {
        let end = match self.times {
            Times::Count(count) => self.at.saturating_add(count),
            Times::Forever => u64::MAX,
        };
        op == self.op && (self.at..end).contains(&number)
    }
}

/// A device that does what its inner device does, except where a fault strikes.
pub struct FaultDevice {
    inner: Arc<dyn BlockDevice>,
    state: Mutex<State>,
}

struct State {
    faults: Vec<Fault>,
    counts: [u64; 5],
    fired: u64,
    rng: Rng,
    keep_undo: bool,
    /// What was at a place before the writes since the last good flush, oldest first.
    undo: Vec<Undo>,
    /// What is on the medium of sectors that a failed flush forgot, by number.
    forgotten: BTreeMap<u64, Vec<u8>>,
}

enum Undo {
    Bytes(u64, Vec<u8>),
    Len(u64),
}

impl FaultDevice {
    /// A device without faults as yet. `seed` decides which sectors a torn write keeps and which bit flips.
    #[must_use]
    pub fn new(inner: Arc<dyn BlockDevice>, seed: u64) -> Self {
        let state = State {
            faults: vec![],
            counts: [0; 5],
            fired: 0,
            rng: Rng::new(seed),
            keep_undo: false,
            undo: vec![],
            forgotten: BTreeMap::new(),
        };
        Self { inner, state: Mutex::new(state) }
    }

    /// Adds a fault. A fault that drops unsynced writes sees those from now on.
    pub fn arm(&self, fault: Fault) {
        let mut state = self.state.lock();
        state.keep_undo |= matches!(fault.effect, Effect::DropUnsynced | Effect::Forget);
        state.faults.push(fault);
    }

    /// Adds a fault that counts from the next operation of its kind on.
    pub fn arm_from_now(&self, fault: Fault) {
        let at = fault.at + self.count(fault.op);
        self.arm(Fault { at, ..fault });
    }

    /// Takes back all faults: the device is well from now on.
    pub fn disarm(&self) {
        self.state.lock().faults.clear();
    }

    /// From now on every operation but `len` fails with `EIO`: the device was unplugged.
    pub fn unplug(&self) {
        for op in Op::ALL {
            self.arm_from_now(Fault::forever(op, 0, Effect::Eio));
        }
    }

    /// Takes from the device below what is not durable, because no good flush covers it or because a failed one forgot it.
    ///
    /// # Errors
    /// The inner device's.
    pub fn cut_power(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        self.drop_unsynced(&mut state)?;
        for (number, old) in std::mem::take(&mut state.forgotten) {
            self.inner.write_at(number * SECTOR as u64, &old)?;
        }
        Ok(())
    }

    /// Operations of a kind so far, those that failed among them.
    #[must_use]
    pub fn count(&self, op: Op) -> u64 {
        self.state.lock().counts[op as usize]
    }

    /// How many operations were struck so far.
    #[must_use]
    pub fn fired(&self) -> u64 {
        self.state.lock().fired
    }

    /// The device below, without faults.
    #[must_use]
    pub fn inner(&self) -> &Arc<dyn BlockDevice> {
        &self.inner
    }

    fn keep(&self, state: &mut State, offset: u64, len: usize) -> io::Result<()> {
        if state.keep_undo {
            let end = self.inner.len()?.min(offset.saturating_add(len as u64));
            let mut old = vec![0; to_usize(end.saturating_sub(offset))];
            if !old.is_empty() {
                self.inner.read_at(offset, &mut old)?;
            }
            state.undo.push(Undo::Bytes(offset, old));
        }
        Ok(())
    }

    fn drop_unsynced(&self, state: &mut State) -> io::Result<()> {
        for undo in state.undo.drain(..).rev() {
            match undo {
                Undo::Bytes(offset, old) => self.inner.write_at(offset, &old)?,
                Undo::Len(len) => self.inner.set_len(len)?,
            }
        }
        Ok(())
    }

    /// Writes since the last good flush will never be durable, unless they come again.
    fn forget_unsynced(state: &mut State) {
        for undo in state.undo.drain(..).rev() {
            let Undo::Bytes(offset, old) = undo else { continue };
            for (number, sector) in (offset / SECTOR as u64..).zip(old.chunks(SECTOR)) {
                state.forgotten.insert(number, sector.to_vec());
            }
        }
    }

    /// A good flush: what was written since the last one is durable, and no more forgotten.
    fn settle(state: &mut State) {
        for undo in std::mem::take(&mut state.undo) {
            let Undo::Bytes(offset, old) = undo else { continue };
            let first = offset / SECTOR as u64;
            (first..first + old.len().div_ceil(SECTOR) as u64).for_each(|number| {
                state.forgotten.remove(&number);
            });
        }
    }

    /// Where a misdirected operation goes.
    fn elsewhere(&self, offset: u64, len: usize) -> io::Result<u64> {
        const AWAY: u64 = 1 << 20;
        let further = offset + AWAY;
        let fits = further + len as u64 <= self.inner.len()?;
        Ok(if fits { further } else { offset.saturating_sub(AWAY) })
    }

    fn write_struck(
        &self,
        state: &mut State,
        effect: Effect,
        offset: u64,
        data: &mut [u8],
    ) -> io::Result<()> {
        let sectors = data.len().div_ceil(SECTOR);
        match effect {
            Effect::Short => {
                let bytes = (sectors / 2 * SECTOR).min(data.len());
                self.keep(state, offset, bytes)?;
                self.inner.write_at(offset, &data[..bytes])?;
            }
            Effect::Torn => {
                self.keep(state, offset, data.len())?;
                for (number, sector) in data.chunks(SECTOR).enumerate() {
                    if state.rng.percent(50) {
                        self.inner.write_at(offset + (number * SECTOR) as u64, sector)?;
                    }
                }
            }
            Effect::Lost => return Ok(()),
            Effect::Misdirected => {
                let offset = self.elsewhere(offset, data.len())?;
                self.keep(state, offset, data.len())?;
                return self.inner.write_at(offset, data);
            }
            Effect::FlipBit => {
                flip_bit(data, &mut state.rng);
                self.keep(state, offset, data.len())?;
                return self.inner.write_at(offset, data);
            }
            Effect::Eio | Effect::Enospc | Effect::Errno(_) => {}
            Effect::DropUnsynced | Effect::Forget | Effect::Panic => {}
        }
        Err(effect.error())
    }
}

fn flip_bit(data: &mut [u8], rng: &mut Rng) {
    if !data.is_empty() {
        let at = rng.index(data.len());
        data[at] ^= 1 << rng.below(8);
    }
}

impl Effect {
    /// What the caller is told; or a panic, which leaves the device as it is.
    fn error(self) -> io::Error {
        use rustix::io::Errno;
        assert!(self != Self::Panic, "{PANIC}");
        let number = match self {
            Self::Enospc => Errno::NOSPC.raw_os_error(),
            Self::Errno(number) => number,
            _ => Errno::IO.raw_os_error(),
        };
        io::Error::from_raw_os_error(number)
    }

    fn is_silent(self) -> bool {
        matches!(self, Self::Lost | Self::Misdirected | Self::FlipBit)
    }
}

impl State {
    /// Counts an operation; tells what strikes it, if anything does.
    fn begin(&mut self, op: Op) -> Option<Effect> {
        let number = self.counts[op as usize];
        self.counts[op as usize] += 1;
        let fault = self.faults.iter().find(|fault| fault.strikes(op, number))?;
        self.fired += 1;
        Some(fault.effect)
    }
}

impl BlockDevice for FaultDevice {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut state = self.state.lock();
        match state.begin(Op::Read) {
            None => {
                drop(state);
                self.inner.read_at(offset, buf)
            }
            Some(Effect::Lost) => {
                buf.fill(0);
                Ok(())
            }
            Some(Effect::Misdirected) => {
                self.inner.read_at(self.elsewhere(offset, buf.len())?, buf)
            }
            Some(Effect::FlipBit) => {
                self.inner.read_at(offset, buf)?;
                flip_bit(buf, &mut state.rng);
                Ok(())
            }
            Some(effect) => Err(effect.error()),
        }
    }

    fn write_vectored_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let mut state = self.state.lock();
        if let Some(effect) = state.begin(Op::Write) {
            let mut data = parts.concat();
            return self.write_struck(&mut state, effect, offset, &mut data);
        }
        let len = parts.iter().map(|part| part.len()).sum();
        self.keep(&mut state, offset, len)?;
        self.inner.write_vectored_at(offset, parts)
    }

    fn flush(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        match state.begin(Op::Flush) {
            None => {
                self.inner.flush()?;
                Self::settle(&mut state);
                Ok(())
            }
            Some(effect) if effect.is_silent() => Ok(()),
            Some(effect) => {
                match effect {
                    Effect::DropUnsynced => self.drop_unsynced(&mut state)?,
                    Effect::Forget => Self::forget_unsynced(&mut state),
                    _ => {}
                }
                Err(effect.error())
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        match state.begin(Op::SetLen) {
            None => {
                let old = self.inner.len()?;
                if state.keep_undo {
                    if len < old {
                        self.keep(&mut state, len, to_usize(old - len))?;
                    }
                    state.undo.push(Undo::Len(old));
                }
                self.inner.set_len(len)
            }
            Some(effect) if effect.is_silent() => Ok(()),
            Some(effect) => Err(effect.error()),
        }
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        match state.begin(Op::Discard) {
            // What an undo would have to remember could be the whole device: the range keeps its bytes, as it may.
            None if state.keep_undo => Ok(()),
            None => self.inner.discard(offset, len),
            Some(effect) if effect.is_silent() => Ok(()),
            Some(effect) => Err(effect.error()),
        }
    }
}

impl fmt::Debug for FaultDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.lock();
        f.debug_struct("FaultDevice")
            .field("inner", &self.inner)
            .field("faults", &state.faults)
            .field("counts", &state.counts)
            .field("fired", &state.fired)
            .finish_non_exhaustive()
    }
}

/// Runs `case` with a fault at the first, the second, the third ... operation of kind `op` (every `step`-th of them),
/// once and then for ever, until a run ends without having met its fault. `case` gets the fault to arm, and tells how
/// often it fired. Gives the number of runs that met their fault.
pub fn sweep(op: Op, effect: Effect, step: u64, mut case: impl FnMut(Fault) -> u64) -> u64 {
    let mut met = 0;
    for fault in [Fault::once, Fault::forever] {
        let mut at = 0;
        while case(fault(op, at, effect)) > 0 {
            met += 1;
            at += step.max(1);
        }
    }
    met
}

#[cfg(test)]
mod tests {
    use cowback_block_store::MemoryDevice;

    use super::*;

    fn device() -> (Arc<MemoryDevice>, FaultDevice) {
        let memory = Arc::new(MemoryDevice::new(4 << 20));
        let faulty = FaultDevice::new(memory.clone(), 1);
        (memory, faulty)
    }

    fn errno(result: io::Result<()>) -> Option<i32> {
        result.err().and_then(|error| error.raw_os_error())
    }

    #[test]
    fn strikes_the_nth_operation_once_or_from_then_on() {
        let (_, device) = device();
        device.arm(Fault::once(Op::Write, 1, Effect::Eio));
        device.arm(Fault::forever(Op::Read, 2, Effect::Enospc));
        let writes: Vec<_> = (0..4).map(|_| device.write_at(0, b"x").is_ok()).collect();
        assert_eq!(writes, [true, false, true, true]);
        let reads: Vec<_> = (0..5).map(|_| errno(device.read_at(0, &mut [0]))).collect();
        assert_eq!(reads, [None, None, Some(28), Some(28), Some(28)]);
        assert_eq!((device.count(Op::Write), device.count(Op::Read), device.fired()), (4, 5, 4));
        device.disarm();
        device.read_at(0, &mut [0]).unwrap();
        device.unplug();
        assert_eq!(errno(device.flush()), Some(5));
        assert_eq!(errno(device.write_at(0, b"x")), Some(5));
    }

    #[test]
    fn short_and_torn_writes_leave_a_part_and_report() {
        let (memory, device) = device();
        device.arm(Fault::once(Op::Write, 0, Effect::Short));
        assert_eq!(errno(device.write_at(0, &[1; 4096])), Some(5));
        let bytes = memory.to_vec();
        assert!(bytes[..2048].iter().all(|b| *b == 1) && bytes[2048..4096].iter().all(|b| *b == 0));
        device.arm_from_now(Fault::once(Op::Write, 0, Effect::Torn));
        assert_eq!(errno(device.write_at(8192, &[2; 16_384])), Some(5));
        let bytes = memory.to_vec();
        let there = bytes[8192..24_576].chunks(512).filter(|sector| sector[0] == 2).count();
        assert!((1..32).contains(&there), "{there} of 32");
    }

    #[test]
    fn a_failed_flush_drops_what_was_not_synced() {
        let (memory, device) = device();
        device.arm(Fault::once(Op::Flush, 1, Effect::DropUnsynced));
        device.write_at(0, b"durable").unwrap();
        device.flush().unwrap();
        device.write_at(0, b"lost").unwrap();
        device.write_at(2, b"lost too").unwrap();
        device.set_len(5 << 20).unwrap();
        device.write_at((4 << 20) + 5, b"beyond").unwrap();
        assert_eq!(errno(device.flush()), Some(5));
        assert_eq!(memory.len().unwrap(), 4 << 20);
        assert_eq!(&memory.to_vec()[..12], b"durable\0\0\0\0\0");
        device.write_at(0, b"again").unwrap();
        device.flush().unwrap();
        assert_eq!(&memory.to_vec()[..7], b"againle");
    }

    #[test]
    fn what_a_failed_flush_forgot_is_lost_unless_it_is_written_again() {
        let (memory, device) = device();
        device.arm(Fault::once(Op::Flush, 1, Effect::Forget));
        device.write_at(0, &[1; 2048]).unwrap();
        device.flush().unwrap();
        device.write_at(0, &[2; 2048]).unwrap();
        device.write_at(512, &[3; 512]).unwrap();
        assert_eq!(errno(device.flush()), Some(5));
        let mut buf = [0; 2048];
        device.read_at(0, &mut buf).unwrap();
        assert_eq!((buf[0], buf[512]), (2, 3), "it can be read");
        device.write_at(1024, &[4; 512]).unwrap();
        device.flush().unwrap();
        device.write_at(1536, &[5; 512]).unwrap();
        device.cut_power().unwrap();
        let bytes = memory.to_vec();
        assert_eq!([bytes[0], bytes[512], bytes[1024], bytes[1536]], [1, 1, 4, 1]);
    }

    #[test]
    fn a_device_that_panics_is_well_afterwards() {
        let (_, device) = device();
        device.arm(Fault::once(Op::Write, 0, Effect::Panic));
        let written =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| device.write_at(0, b"x")));
        assert_eq!(written.unwrap_err().downcast_ref::<String>().unwrap(), PANIC);
        device.write_at(0, b"x").unwrap();
        device.flush().unwrap();
    }

    #[test]
    fn silent_faults_report_nothing() {
        let (memory, device) = device();
        for (at, effect) in [Effect::Lost, Effect::Misdirected, Effect::FlipBit].iter().enumerate()
        {
            device.arm(Fault::once(Op::Write, at as u64, *effect));
            device.arm(Fault::once(Op::Read, at as u64, *effect));
        }
        device.write_at(0, &[1; 64]).unwrap();
        assert_eq!(memory.to_vec()[..64], [0; 64]);
        device.write_at(0, &[1; 64]).unwrap();
        assert_eq!(memory.to_vec()[..64], [0; 64]);
        assert_eq!(memory.to_vec()[1 << 20..(1 << 20) + 64], [1; 64]);
        device.write_at(0, &[0; 64]).unwrap();
        let ones: u32 = memory.to_vec()[..64].iter().map(|byte| byte.count_ones()).sum();
        assert_eq!(ones, 1);
        let mut buf = [9; 64];
        device.read_at(0, &mut buf).unwrap();
        assert_eq!(buf, [0; 64], "a lost read");
        device.read_at(0, &mut buf).unwrap();
        assert_eq!(buf, [1; 64], "a misdirected one");
        device.write_at(0, &[0; 64]).unwrap();
        device.read_at(0, &mut buf).unwrap();
        assert_eq!(buf.iter().map(|byte| byte.count_ones()).sum::<u32>(), 1);
        assert_eq!(device.fired(), 6);
    }

    #[test]
    fn a_sweep_visits_every_operation() {
        let mut seen = vec![];
        let met = sweep(Op::Write, Effect::Eio, 1, |fault| {
            let (_, device) = device();
            device.arm(fault);
            let results: Vec<_> = (0..3).map(|_| device.write_at(0, b"x").is_ok()).collect();
            seen.push(results);
            device.fired()
        });
        assert_eq!(met, 6);
        let (yes, no) = (true, false);
        let once = [[no, yes, yes], [yes, no, yes], [yes, yes, no], [yes; 3]];
        let forever = [[no; 3], [yes, no, no], [yes, yes, no], [yes; 3]];
        assert_eq!(seen, [once, forever].concat());
    }
}
