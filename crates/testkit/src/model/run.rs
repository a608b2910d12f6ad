//! Running operations against a target and the model, comparing, and making a failing list of them short.

use std::collections::HashSet;
use std::fmt;

use super::ops::Op;
use super::volume::Model;
use super::{EntryKind, OpError, Stat, Target};

/// How a run compares.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Compare the whole tree after each commit and reopening; else only at the end.
    pub compare_often: bool,
    /// `ENOSPC` is a result like another: the operation counts as not tried. Else it is a mismatch.
    pub may_fill_up: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { compare_often: true, may_fill_up: false }
    }
}

/// The target and the model disagree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mismatch {
    /// The place of the operation in the list.
    pub at: usize,
    /// The operation, or what else was compared.
    pub what: String,
    /// The difference.
    pub why: String,
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at operation {}, {}: {}", self.at, self.what, self.why)
    }
}

impl std::error::Error for Mismatch {}

/// Applies `ops` to both and compares every result and, at the end at least, the whole tree.
///
/// # Errors
/// The first difference.
pub fn run(
    ops: &[Op],
    model: &mut Model,
    target: &mut dyn Target,
    options: Options,
) -> Result<(), Mismatch> {
    for (at, op) in ops.iter().enumerate() {
        let before = options.may_fill_up.then(|| model.clone());
        let want = op.apply(model);
        let got = op.apply(target);
        if let (Err(OpError::NoSpace), Some(before)) = (&got, before) {
            *model = before;
        } else if want != got {
            let why = format!("expected {}, got {}", short(&want), short(&got));
            return Err(Mismatch { at, what: short(op), why });
        }
        if options.compare_often && matches!(op, Op::Commit | Op::Reopen) {
            compare(model, target).map_err(|why| Mismatch { at, what: short(op), why })?;
        }
    }
    let end = |why| Mismatch { at: ops.len(), what: "at the end".into(), why };
    compare(model, target).map_err(end)
}

/// Compares the whole tree: names, kinds, attributes, bytes.
///
/// # Errors
/// The first difference.
pub fn compare(model: &Model, target: &mut dyn Target) -> Result<(), String> {
    let mut model = model.clone();
    let paths = [vec![]].into_iter().chain(model.paths());
    for path in paths {
        let name = path.escape_ascii();
        let stat = same(model.stat(&path), target.stat(&path), &format!("stat of {name:?}"))?;
        let xattrs = |target: &mut dyn Target| {
            target.xattrs(&path).map(|mut all| {
                all.sort_unstable();
                all
            })
        };
        same(xattrs(&mut model), xattrs(target), &format!("attributes of {name:?}"))?;
        compare_body(&mut model, target, &path, &stat)?;
    }
    Ok(())
}

fn compare_body(
    model: &mut Model,
    target: &mut dyn Target,
    path: &[u8],
    stat: &Stat,
) -> Result<(), String> {
    let name = path.escape_ascii();
    match stat.kind {
        EntryKind::Dir => {
            let list = |target: &mut dyn Target| {
                target.list(path).map(|mut names| {
                    names.sort_unstable();
                    names
                })
            };
            same(list(model), list(target), &format!("names in {name:?}"))?;
        }
        EntryKind::Symlink => {
            same(model.read_link(path), target.read_link(path), &format!("target of {name:?}"))?;
        }
        EntryKind::File => {
            // One byte more than there is: what lies beyond the end must not show.
            let len = crate::random::to_usize(stat.len) + 1;
            let want = model.read(path, 0, len);
            let got = target.read(path, 0, len);
            if want != got {
                return Err(match (&want, &got) {
                    (Ok(want), Ok(got)) => format!("bytes of {name:?}: {}", first_diff(want, got)),
                    _ => format!("bytes of {name:?}: {}", short(&got)),
                });
            }
        }
    }
    Ok(())
}

fn same<T: PartialEq + fmt::Debug>(
    want: Result<T, OpError>,
    got: Result<T, OpError>,
    what: &str,
) -> Result<T, String> {
    if want != got {
        return Err(format!("{what}: expected {}, got {}", short(&want), short(&got)));
    }
    want.map_err(|error| format!("{what}: {error}"))
}

fn first_diff(want: &[u8], got: &[u8]) -> String {
    let at = want.iter().zip(got).position(|(a, b)| a != b);
    let differ = want.iter().zip(got).filter(|(a, b)| a != b).count();
    let lens = format!("expected {} bytes, got {}", want.len(), got.len());
    match at {
        None => lens,
        Some(at) => format!(
            "{lens}; {differ} bytes differ, first at {at}: expected {:#04x}, got {:#04x}",
            want[at], got[at]
        ),
    }
}

fn short(value: &impl fmt::Debug) -> String {
    const MOST: usize = 400;
    let text = format!("{value:?}");
    match text.char_indices().nth(MOST) {
        Some((cut, _)) => format!("{}... ({} bytes)", &text[..cut], text.len()),
        None => text,
    }
}

/// Which of `snapshots` the target is equal to: after a crash, the commit to which it fell back. The last one, if several.
#[must_use]
pub fn which_snapshot(snapshots: &[Model], target: &mut dyn Target) -> Option<usize> {
    snapshots.iter().rposition(|model| compare(model, target).is_ok())
}

/// Leaves out operations, of whatever kind, as long as `fails` still holds; gives a list of which no single operation can be left out.
/// `fails` must run from a fresh state each time, and must hold for `ops`.
pub fn shrink<T: Clone + fmt::Debug>(ops: &[T], mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut ops = ops.to_vec();
    let mut tried = HashSet::new();
    let mut size = ops.len() / 2;
    while size > 0 {
        let mut at = 0;
        let before = ops.len();
        while at < ops.len() {
            let end = (at + size).min(ops.len());
            let shorter = [&ops[..at], &ops[end..]].concat();
            if tried.insert(format!("{shorter:?}")) && fails(&shorter) {
                ops = shorter;
            } else {
                at += size;
            }
        }
        size = if size == 1 && ops.len() < before { 1 } else { size / 2 };
    }
    ops
}
