//! The progress bar: on standard error, if that is a terminal.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::failure::Failure;
use crate::size::Size;

/// Time between two looks at the numbers behind the bar.
const STEP: Duration = Duration::from_millis(100);

/// A progress bar, or nothing.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    next: Instant,
}

impl Progress {
    /// A bar, unless `quiet` or nobody would see it.
    pub(crate) fn new(quiet: bool) -> Self {
        use std::io::IsTerminal as _;
        let shown = !quiet && std::io::stderr().is_terminal();
        let bar = shown.then(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr());
            let style = "{spinner} {msg} {binary_bytes} {elapsed}";
            bar.set_style(style_of(style));
            bar
        });
        Self { bar, next: Instant::now() }
    }

    /// Whether there is a bar: else nothing needs to be counted for it.
    pub(crate) fn is_shown(&self) -> bool {
        self.bar.is_some()
    }

    /// From now on it is known how much there is to do.
    pub(crate) fn begin(&mut self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(bytes);
            bar.set_position(0);
            bar.reset_elapsed();
            let style = "{bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {msg} ETA {eta}";
            bar.set_style(style_of(style));
        }
    }

    /// Shows how far the work is, if it was not shown a moment ago.
    pub(crate) fn show(&mut self, bytes: u64, message: impl FnOnce() -> String) {
        let Some(bar) = &self.bar else { return };
        let now = Instant::now();
        if now >= self.next {
            self.next = now + STEP;
            bar.set_message(message());
            bar.set_position(bytes);
        }
    }

    /// Says that what comes now cannot be measured.
    pub(crate) fn say(&self, what: &'static str) {
        if let Some(bar) = &self.bar {
            bar.set_message(what);
            bar.tick();
        }
    }

    /// Prints a line above the bar.
    pub(crate) fn warn(&self, failure: &Failure) {
        match &self.bar {
            Some(bar) => bar.suspend(|| failure.print()),
            None => failure.print(),
        }
    }

    /// Takes the bar away.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.end();
    }
}

fn style_of(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// `files` and `bytes` as bars and summaries say them.
pub(crate) fn amount(files: u64, bytes: u64) -> String {
    let s = if files == 1 { "" } else { "s" };
    format!("{files} file{s}, {}", Size(bytes))
}
