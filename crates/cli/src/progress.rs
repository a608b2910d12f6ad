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
    /// A bar, unless `quiet` or nobody would see it. Until [`Progress::begin`] it shows how much was done, and not how much is left.
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

    /// From now on it is known how much there is to do: `bytes`, as [`Progress::show`] counts them.
    pub(crate) fn begin(&mut self, bytes: u64) {
        self.start(
            "{bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {msg} ETA {eta}",
            Some(bytes),
        );
    }

    /// From now on there is work of which nobody knows how much it is.
    pub(crate) fn begin_endless(&mut self) {
        self.start("{spinner} {msg} {binary_bytes} {binary_bytes_per_sec} {elapsed}", None);
    }

    fn start(&mut self, style: &str, bytes: Option<u64>) {
        let Some(bar) = &self.bar else { return };
        bar.set_style(style_of(style));
        bar.set_message("");
        bar.reset();
        if let Some(bytes) = bytes {
            bar.set_length(bytes);
        }
        self.next = Instant::now();
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

/// What the bar says while files are counted, before their bytes.
pub(crate) fn counting(files: u64) -> String {
    format!("counting: {},", files_of(files))
}

/// `files` and `bytes` as bars and summaries say them.
pub(crate) fn amount(files: u64, bytes: u64) -> String {
    format!("{}, {}", files_of(files), Size(bytes))
}

/// `files` in words.
pub(crate) fn files_of(files: u64) -> String {
    let s = if files == 1 { "" } else { "s" };
    format!("{files} file{s}")
}

/// `dirs` in words.
pub(crate) fn dirs_of(dirs: u64) -> String {
    let name = if dirs == 1 { "directory" } else { "directories" };
    format!("{dirs} {name}")
}
