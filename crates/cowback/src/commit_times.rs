//! How long commits took.

use std::time::Duration;

use cowback_base::sync::Mutex;
use hdrhistogram::Histogram;

/// Longest time that is told from longer ones.
const LONGEST: Duration = Duration::from_secs(3600);

/// Times of commits, in microseconds, to about one percent.
#[derive(Debug)]
pub(crate) struct CommitTimes {
    times: Mutex<(Histogram<u32>, u64)>,
}

/// Commits of a volume since it was opened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CommitStats {
    /// Commits that succeeded.
    pub count: u64,
    /// Commits that failed.
    pub failed: u64,
    /// The time that half of those that succeeded took at most.
    pub p50: Duration,
    /// The time that 99 % of them took at most.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

impl Default for CommitTimes {
    fn default() -> Self {
        let histogram = Histogram::new_with_bounds(1, micros(LONGEST), 2);
        Self { times: Mutex::new((histogram.expect("these bounds are in order"), 0)) }
    }
}

impl CommitTimes {
    /// A commit took `time`.
    pub(crate) fn note(&self, time: Duration, succeeded: bool) {
        let (histogram, failed) = &mut *self.times.lock();
        if succeeded {
            histogram.saturating_record(micros(time).max(1));
        } else {
            *failed += 1;
        }
    }

    pub(crate) fn stats(&self) -> CommitStats {
        let (histogram, failed) = &*self.times.lock();
        let at = |quantile| Duration::from_micros(histogram.value_at_quantile(quantile));
        CommitStats {
            count: histogram.len(),
            failed: *failed,
            p50: at(0.5),
            p99: at(0.99),
            max: Duration::from_micros(histogram.max()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_succeeded() {
        let times = CommitTimes::default();
        assert_eq!(times.stats(), CommitStats::default());
        for millis in 1..=100 {
            times.note(Duration::from_millis(millis), true);
        }
        times.note(Duration::from_secs(50), false);
        let stats = times.stats();
        assert_eq!((stats.count, stats.failed), (100, 1));
        let near = |time: Duration, millis: u64| time.as_millis().abs_diff(millis.into()) <= 1;
        assert!(near(stats.p50, 50) && near(stats.p99, 99) && near(stats.max, 100), "{stats:?}");
    }
}
