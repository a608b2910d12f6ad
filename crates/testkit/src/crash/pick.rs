//! Which of an epoch's open changes survive a crash.

use super::Plan;
use super::epoch::Epoch;
use crate::random::{Rng, mix};

/// Which sectors of a torn write are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tear {
    /// The first so many.
    Prefix(usize),
    /// The last so many.
    Suffix(usize),
    /// Every sector with a chance of a half, from this seed.
    Noise(u64),
}

/// Which open changes, counted from 0 in the order in which they began, are there after the crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pick {
    /// None.
    Nothing,
    /// All.
    Everything,
    /// Of the sectors that matter, those whose bit is set.
    Sectors(u64),
    /// The changes whose bit is set.
    Changes(u64),
    /// All but this one.
    AllBut(usize),
    /// This one alone.
    Only(usize),
    /// The first so many.
    First(usize),
    /// One is torn, and the others are all there or all absent.
    Torn {
        /// The torn one.
        change: usize,
        /// What is left of it.
        tear: Tear,
        /// Whether the others are there.
        others: bool,
    },
    /// Each with a chance of so many in a hundred, from a seed.
    Random {
        /// Where chance begins.
        seed: u64,
        /// The chance.
        percent: u64,
    },
    /// As [`Pick::Random`], and every fourth is torn.
    RandomTorn {
        /// Where chance begins.
        seed: u64,
        /// The chance.
        percent: u64,
    },
}

impl Tear {
    fn has(self, sector: usize, sectors: usize) -> bool {
        match self {
            Self::Prefix(count) => sector < count,
            Self::Suffix(count) => sector + count >= sectors,
            Self::Noise(seed) => mix(seed ^ mix(sector as u64)) & 1 == 1,
        }
    }

    fn random(seed: u64, sectors: usize) -> Self {
        let mut rng = Rng::new(seed);
        let inner = 1 + rng.index(sectors.saturating_sub(1));
        match rng.below(3) {
            0 => Self::Prefix(inner),
            1 => Self::Suffix(inner),
            _ => Self::Noise(rng.next_u64()),
        }
    }
}

impl Pick {
    /// Whether `sector` of the `sectors` of `change` is there. A pick by effective sectors needs the epoch to tell.
    pub(super) fn has(&self, change: usize, sector: usize, sectors: usize) -> bool {
        let chance = |seed: u64, salt: u64| mix(seed ^ mix(change as u64 ^ salt)) % 100;
        match *self {
            Self::Nothing => false,
            Self::Everything | Self::Sectors(_) => true,
            Self::Changes(bits) => bits & (1 << change) != 0,
            Self::AllBut(one) => change != one,
            Self::Only(one) => change == one,
            Self::First(count) => change < count,
            Self::Torn { change: torn, tear, .. } if torn == change => tear.has(sector, sectors),
            Self::Torn { others, .. } => others,
            Self::Random { seed, percent } => chance(seed, 0) < percent,
            Self::RandomTorn { seed, percent } => {
                if sectors > 1 && chance(seed, 1 << 40) < 25 {
                    let own = mix(seed ^ mix(change as u64 ^ (1 << 41)));
                    Tear::random(own, sectors).has(sector, sectors)
                } else {
                    chance(seed, 0) < percent
                }
            }
        }
    }
}

/// What to make of an epoch, and whether that is everything that is possible.
pub(super) fn picks(epoch: &Epoch, plan: &Plan, rng: &mut Rng) -> (Vec<Pick>, bool) {
    let mut picks = vec![Pick::Everything, Pick::Nothing];
    let (changes, sectors) = (epoch.open.len(), epoch.effective_sectors());
    if sectors <= plan.sector_bits.min(20) as usize {
        picks.extend((0..1 << sectors).map(Pick::Sectors));
        return (picks, true);
    }
    if changes <= plan.change_bits.min(20) as usize {
        picks.extend((0..1 << changes).map(Pick::Changes));
    } else {
        picks.extend(some_of(changes, plan.singles, rng).into_iter().map(Pick::AllBut));
        picks.extend(some_of(changes, plan.singles, rng).into_iter().map(Pick::Only));
        picks.extend(some_of(changes, plan.singles, rng).into_iter().map(Pick::First));
        picks.extend(randoms(plan, rng, |seed, percent| Pick::Random { seed, percent }));
    }
    let tearable = epoch.tearable();
    for place in some_of(tearable.len(), plan.torn, rng) {
        let (change, sectors) = tearable[place];
        let inner = |rng: &mut Rng| 1 + rng.index(sectors - 1);
        let tears =
            [Tear::Prefix(inner(rng)), Tear::Suffix(inner(rng)), Tear::Noise(rng.next_u64())];
        for tear in tears {
            picks.extend([true, false].map(|others| Pick::Torn { change, tear, others }));
        }
    }
    if !tearable.is_empty() {
        picks.extend(randoms(plan, rng, |seed, percent| Pick::RandomTorn { seed, percent }));
    }
    (picks, false)
}

fn randoms(plan: &Plan, rng: &mut Rng, make: impl Fn(u64, u64) -> Pick) -> Vec<Pick> {
    (0..plan.random).map(|_| make(rng.next_u64(), *rng.pick(&[10, 30, 50, 70, 90, 97]))).collect()
}

/// At most `most` of the numbers below `count`, the first and the last among them.
fn some_of(count: usize, most: usize, rng: &mut Rng) -> Vec<usize> {
    if count <= most {
        return (0..count).collect();
    }
    let mut some = vec![0, count - 1];
    some.extend((2..most).map(|_| rng.index(count)));
    some.sort_unstable();
    some.dedup();
    some
}
