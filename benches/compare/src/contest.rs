//! How contestants are measured: in turns, so that a slow spell of the machine hits all of them.

use std::error::Error;

use serde::Serialize;

/// The result of anything here: nobody handles an error but by telling it.
pub(crate) type Outcome<T> = Result<T, Box<dyn Error>>;

pub(crate) const OURS: &str = "cowback";
pub(crate) const KERNEL: &str = "kernel btrfs";
pub(crate) const LIMIT: &str = "raw limit";

/// Which figures one wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) enum Better {
    Higher,
    Lower,
}

/// What one figure says.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    pub(crate) work: String,
    pub(crate) unit: &'static str,
    pub(crate) better: Better,
}

impl Line {
    pub(crate) fn higher(work: impl Into<String>, unit: &'static str) -> Self {
        Self { work: work.into(), unit, better: Better::Higher }
    }

    pub(crate) fn lower(work: impl Into<String>, unit: &'static str) -> Self {
        Self { work: work.into(), unit, better: Better::Lower }
    }
}

/// Who takes part, and how: one turn gives one figure for each line of the contest; NaN where there is none to give.
pub(crate) struct Contestant<'a> {
    name: &'static str,
    turn: Box<dyn FnMut() -> Outcome<Vec<f64>> + 'a>,
}

impl<'a> Contestant<'a> {
    pub(crate) fn new(
        name: &'static str,
        turn: impl FnMut() -> Outcome<Vec<f64>> + 'a,
    ) -> Contestant<'a> {
        Contestant { name, turn: Box::new(turn) }
    }
}

/// What one contestant reached on one line, run by run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    pub(crate) by: &'static str,
    pub(crate) median: f64,
    pub(crate) runs: Vec<f64>,
}

/// One line with the figures of all contestants.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    #[serde(flatten)]
    pub(crate) line: Line,
    pub(crate) figures: Vec<Figure>,
}

/// A contest with its results.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    pub(crate) contest: &'static str,
    pub(crate) title: String,
    pub(crate) rows: Vec<Row>,
    pub(crate) notes: Vec<String>,
}

/// How many times better cowback is than the kernel, over the pairs of runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Ratio {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

/// Lets everybody have `runs` turns, each time beginning with another one.
pub(crate) fn contest(
    lines: Vec<Line>,
    runs: usize,
    mut contestants: Vec<Contestant<'_>>,
) -> Outcome<Vec<Row>> {
    let many = contestants.len();
    let mut figures = vec![vec![Vec::with_capacity(runs); many]; lines.len()];
    for run in 0..runs {
        for place in 0..many {
            let who = (run + place) % many;
            let reached = (contestants[who].turn)()?;
            if reached.len() != lines.len() {
                let name = contestants[who].name;
                return Err(format!("{name} gave {} figures", reached.len()).into());
            }
            for (line, figure) in figures.iter_mut().zip(reached) {
                line[who].push(figure);
            }
        }
    }
    let named = |runs: Vec<Vec<f64>>| {
        let figure = |(who, runs): (&Contestant<'_>, Vec<f64>)| Figure {
            by: who.name,
            median: median(&runs),
            runs,
        };
        contestants.iter().zip(runs).map(figure).collect()
    };
    let rows = lines.into_iter().zip(figures);
    Ok(rows.map(|(line, runs)| Row { line, figures: named(runs) }).collect())
}

impl Row {
    pub(crate) fn by(&self, name: &str) -> Option<&Figure> {
        self.figures.iter().find(|figure| figure.by == name)
    }

    /// cowback against the kernel. More than 1 is better, whatever the unit.
    pub(crate) fn ratio(&self) -> Option<Ratio> {
        let (ours, kernel) = (self.by(OURS)?, self.by(KERNEL)?);
        let ratios: Vec<f64> = ours
            .runs
            .iter()
            .zip(&kernel.runs)
            .map(|(ours, kernel)| match self.line.better {
                Better::Higher => ours / kernel,
                Better::Lower => kernel / ours,
            })
            .collect();
        let end = |pick: fn(f64, f64) -> f64| ratios.iter().copied().reduce(pick);
        let ratio = Ratio { median: median(&ratios), min: end(f64::min)?, max: end(f64::max)? };
        (!ratio.median.is_nan()).then_some(ratio)
    }

    /// The share of the raw limit that cowback reaches.
    pub(crate) fn share(&self) -> Option<f64> {
        Some(self.by(OURS)?.median / self.by(LIMIT)?.median)
    }
}

/// The one in the middle, or the mean of both.
fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n.is_multiple_of(2) => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
        n => sorted[n / 2],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contestants_take_turns_and_each_begins_once() {
        let order = std::cell::RefCell::new(String::new());
        let who = |name, sign: char, figures: [f64; 3]| {
            let (order, mut figures) = (&order, figures.into_iter());
            Contestant::new(name, move || {
                order.borrow_mut().push(sign);
                Ok(vec![figures.next().unwrap()])
            })
        };
        let line = Line::lower("work", "s");
        let both = vec![who(OURS, 'o', [2.0, 1.0, 4.0]), who(KERNEL, 'k', [4.0, 4.0, 4.0])];
        let rows = contest(vec![line], 3, both).unwrap();
        assert_eq!(*order.borrow(), "okkook");
        assert_eq!(rows[0].by(OURS).unwrap().median, 2.0);
        assert_eq!(rows[0].by(OURS).unwrap().runs, [2.0, 1.0, 4.0]);
        let ratio = Ratio { median: 2.0, min: 1.0, max: 4.0 };
        assert_eq!(rows[0].ratio(), Some(ratio), "half the time is twice as good");
        assert_eq!(rows[0].share(), None);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between() {
        assert_eq!(median(&[4.0, 1.0, 2.0, 100.0]), 3.0);
        assert_eq!(median(&[5.0]), 5.0);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn nothing_is_compared_with_a_figure_that_is_not_there() {
        let line = Line::lower("peak memory", "MiB");
        let figures = [(OURS, 1.0), (KERNEL, f64::NAN)].map(|(by, median)| Figure {
            by,
            median,
            runs: vec![median],
        });
        assert_eq!(Row { line, figures: figures.to_vec() }.ratio(), None);
    }

    #[test]
    fn who_forgets_a_line_is_told_so() {
        let lines = vec![Line::higher("a", "MiB/s"), Line::higher("b", "MiB/s")];
        let lazy = vec![Contestant::new(OURS, || Ok(vec![1.0]))];
        assert!(contest(lines, 1, lazy).unwrap_err().to_string().contains("gave 1 figures"));
    }
}
