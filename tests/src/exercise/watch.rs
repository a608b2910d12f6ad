//! A watchdog: an operation that hangs ends the process, and says which one, of which seed, and what the others were doing.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::Command;
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use cowback_base::sync::Mutex;

use super::op::Op;

/// How long one operation may take, unless `COWBACK_PATIENCE` says otherwise, in seconds: a thousand times what it needs on a busy machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// What is being done.
#[derive(Debug, Clone)]
enum Doing {
    Nothing,
    Step(&'static str),
    Op(u64, Op),
}

/// Says what one thread is doing on a volume.
#[derive(Debug)]
pub struct Watched {
    who: String,
    now: Mutex<(Instant, Doing)>,
}

fn all() -> &'static Mutex<Vec<Weak<Watched>>> {
    static ALL: OnceLock<Mutex<Vec<Weak<Watched>>>> = OnceLock::new();
    ALL.get_or_init(|| {
        // It lasts as long as the process, and holds nobody up.
        std::thread::spawn(|| {
            let seconds = std::env::var("COWBACK_PATIENCE").ok().and_then(|text| text.parse().ok());
            let patience = seconds.map_or(PATIENCE, Duration::from_secs);
            loop {
                std::thread::sleep(patience / 20);
                if let Some(report) = overdue(&watched(), patience) {
                    end(&report);
                }
            }
        });
        Mutex::default()
    })
}

fn watched() -> Vec<Arc<Watched>> {
    let mut all = all().lock();
    all.retain(|watched| watched.strong_count() > 0);
    all.iter().filter_map(Weak::upgrade).collect()
}

impl Watched {
    /// Watches over one thread from now on.
    #[must_use]
    pub fn new(who: String) -> Arc<Self> {
        let watched = Arc::new(Self { who, now: Mutex::new((Instant::now(), Doing::Nothing)) });
        let mut all = all().lock();
        all.retain(|watched| watched.strong_count() > 0);
        all.push(Arc::downgrade(&watched));
        watched
    }

    fn set(&self, doing: Doing) {
        *self.now.lock() = (Instant::now(), doing);
    }

    /// Operation `number` begins.
    pub fn op(&self, number: u64, op: &Op) {
        self.set(Doing::Op(number, op.clone()));
    }

    /// Something else begins.
    pub fn step(&self, what: &'static str) {
        self.set(Doing::Step(what));
    }

    /// Nothing is being done.
    pub fn rest(&self) {
        self.set(Doing::Nothing);
    }
}

/// What all are doing, if one of them has been at it for longer than `patience`.
fn overdue(all: &[Arc<Watched>], patience: Duration) -> Option<String> {
    let mut report = String::new();
    let mut late = false;
    for watched in all {
        let (since, doing) = watched.now.lock().clone();
        let time = since.elapsed();
        let what = match doing {
            Doing::Nothing => continue,
            Doing::Step(what) => what.to_owned(),
            Doing::Op(number, op) => format!("operation {number}, {op:?}"),
        };
        late |= time > patience;
        let mark = if time > patience { "HANGS: " } else { "" };
        let _ =
            writeln!(report, "  {mark}{}: {what}, for {:.1} s", watched.who, time.as_secs_f64());
    }
    late.then_some(report)
}

/// Says so, past the harness' capture of output, with the stacks of all threads if there is a debugger, and ends the process.
fn end(report: &str) -> ! {
    let pid = std::process::id().to_string();
    let stacks = Command::new("gdb")
        .args([
            "-p",
            &pid,
            "-batch",
            "-ex",
            "set pagination off",
            "-ex",
            "thread apply all backtrace 40",
        ])
        .output();
    let stacks = match stacks {
        Ok(out) if out.status.success() => String::from_utf8_lossy(&out.stdout).into_owned(),
        _ => "(no stacks: gdb cannot be run)".to_owned(),
    };
    let _ = write!(std::io::stderr(), "\nthe exerciser hangs:\n{report}{stacks}\n");
    std::process::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_is_told_with_seed_and_operation_and_what_rests_is_not() {
        let (one, two, idle) = (
            Watched::new("seed 5".to_owned()),
            Watched::new("seed 6".to_owned()),
            Watched::new("seed 7".to_owned()),
        );
        one.op(17, &Op::Sync { file: 3 });
        two.step("closing");
        let all = [one, two, idle];
        assert_eq!(overdue(&all, Duration::from_secs(600)), None);
        std::thread::sleep(Duration::from_millis(20));
        all[1].step("opening");
        let report = overdue(&all, Duration::from_millis(15)).unwrap_or_default();
        assert!(report.contains("HANGS: seed 5: operation 17, Sync { file: 3 }"), "{report}");
        assert!(report.contains("  seed 6: opening"), "{report}");
        assert!(!report.contains("seed 7"), "{report}");
        all[0].rest();
        assert_eq!(overdue(&all, Duration::from_millis(15)), None);
    }
}
