//! How long a writer that runs ahead of the disk is held up, so that it does not run into the hard limit (stage 1).
//!
//! Below half-way between the background and the hard limit: not at all. From there on a writer pays for what it wrote, at a price for
//! each byte that grows with the square of the way to the hard limit. So a writer settles where the price is what the disk takes for
//! a byte; all writers pay the same price, whoever filled the cache; and one that writes little, however often, hardly waits.
//!
//! The kernel sets the price by the bandwidth that it has measured. Here the price is fixed, up to [`PRICE_MAX`]: what outruns even that
//! meets the hard limit, where writers wait in line.

use std::time::Duration;

/// What a MiB costs next to the hard limit: a disk that writes more than 250 MiB/s never has writers stop dead.
const PRICE_MAX: Duration = Duration::from_millis(4);

/// The longest pause, whatever was written.
pub const PAUSE_MAX: Duration = Duration::from_millis(4);

/// How long to hold up a writer of `bytes` when `unwritten` bytes wait for the disk.
pub(crate) fn pause_for(bytes: u64, unwritten: u64, background: u64, hard: u64) -> Duration {
    let free_run = background.min(hard) + hard.saturating_sub(background) / 2;
    if unwritten <= free_run {
        return Duration::ZERO;
    }
    // In thousandths of the way, so that nothing overflows.
    let way = u128::from((unwritten - free_run).min(hard - free_run));
    let way = way * 1000 / u128::from((hard - free_run).max(1));
    let price = PRICE_MAX.as_nanos() * way * way / 1_000_000;
    let nanos = (price * u128::from(bytes)) >> 20;
    PAUSE_MAX.min(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_pause_is_zero_below_half_way_grows_with_what_is_unwritten_and_is_bounded(
            bytes in 0..u64::MAX,
            (hard, background) in prop_oneof![1..1_u64 << 50, Just(u64::MAX)]
                .prop_flat_map(|hard| (Just(hard), 0..=hard)),
            first in any::<u64>(),
            second in any::<u64>(),
        ) {
            let (less, more) = (first.min(second), first.max(second));
            let pause = |bytes, unwritten| pause_for(bytes, unwritten, background, hard);
            prop_assert!(pause(bytes, less) <= pause(bytes, more), "it grows");
            prop_assert!(pause(bytes / 2, more) <= pause(bytes, more), "by what was written too");
            prop_assert!(pause(bytes, more) <= PAUSE_MAX);
            prop_assert_eq!(pause(bytes, background), Duration::ZERO);
            prop_assert_eq!(pause(bytes, background + (hard - background) / 2), Duration::ZERO);
        }
    }

    #[test]
    fn a_small_write_pays_little_even_next_to_the_limit_and_a_large_one_its_price() {
        let (background, hard) = (64 << 20, 128 << 20);
        let pause = |bytes, unwritten| pause_for(bytes, unwritten, background, hard);
        assert_eq!(pause(1 << 20, hard), PRICE_MAX);
        assert_eq!(pause(1 << 20, (96 << 20) + (16 << 20)), PRICE_MAX / 4, "half of the way");
        assert!(pause(4096, hard) < Duration::from_micros(16));
        assert_eq!(pause(u64::MAX, u64::MAX), PAUSE_MAX);
    }

    #[test]
    fn background_limits_above_the_hard_one_are_no_limits() {
        assert_eq!(pause_for(1 << 20, 999, 5000, 1000), Duration::ZERO);
        assert_eq!(pause_for(1 << 20, 1 << 40, u64::MAX, u64::MAX), Duration::ZERO);
    }
}
