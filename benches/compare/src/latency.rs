//! How long single operations take.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::contest::{Line, Outcome};

/// The longest that is told from a longer one: 100 seconds.
const LONGEST_NS: u64 = 100_000_000_000;

/// Latencies of many operations, to three digits.
#[derive(Debug, Clone)]
pub(crate) struct Latencies {
    nanoseconds: Histogram<u64>,
}

impl Latencies {
    pub(crate) fn new() -> Outcome<Self> {
        Ok(Self { nanoseconds: Histogram::new_with_bounds(1, LONGEST_NS, 3)? })
    }

    /// Does `operation`, and remembers how long it took.
    pub(crate) fn time<T>(&mut self, operation: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let result = operation();
        self.record(start.elapsed());
        result
    }

    fn record(&mut self, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.saturating_record(nanoseconds);
    }

    pub(crate) fn add(&mut self, other: &Self) -> Outcome<()> {
        Ok(self.nanoseconds.add(&other.nanoseconds)?)
    }

    /// The figures for [`lines`]; the operations took `time` in all.
    pub(crate) fn figures(&self, time: Duration) -> Vec<f64> {
        let quantile = |q| self.nanoseconds.value_at_quantile(q) as f64 / 1e3;
        let worst = self.nanoseconds.max() as f64 / 1e3;
        let rate = self.nanoseconds.len() as f64 / time.as_secs_f64();
        vec![quantile(0.5), quantile(0.99), quantile(0.999), worst, rate]
    }
}

/// What is told of latencies of `work`.
pub(crate) fn lines(work: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = ["p50", "p99", "p99.9", "worst"]
        .into_iter()
        .map(|which| Line::lower(format!("{work}, {which}"), "us"))
        .collect();
    lines.push(Line::higher(work, "per second"));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_told_in_microseconds_in_the_order_of_the_lines() {
        let mut latencies = Latencies::new().unwrap();
        for _ in 0..990 {
            latencies.record(Duration::from_micros(1));
        }
        for _ in 0..10 {
            latencies.record(Duration::from_secs(1));
        }
        let mut all = Latencies::new().unwrap();
        all.add(&latencies).unwrap();
        let figures = all.figures(Duration::from_millis(500));
        assert_eq!(figures.len(), lines("work").len());
        let about = |figure: f64, want: f64| (figure / want - 1.0).abs() < 0.01;
        assert!(about(figures[0], 1.0) && about(figures[1], 1.0), "{figures:?}");
        assert!(about(figures[2], 1e6) && about(figures[3], 1e6), "{figures:?}");
        assert!(about(figures[4], 2000.0), "{figures:?}");
    }
}
