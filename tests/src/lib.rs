//! What the integration tests share: a model of a volume in plain collections, random work on both, and snapshots to compare.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

pub mod exercise;
pub mod files;
pub mod model;
pub mod rough;
pub mod work;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc;
use std::time::Duration;

use cowback::{Error, FileType, Volume};
use cowback_testkit::random::hash128;

/// One entry, as far as the model knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// A directory.
    Dir,
    /// A file: its length, what identifies its content, the number of its names.
    File(u64, u128, u32),
    /// A symlink and its target.
    Symlink(Vec<u8>),
}

/// Everything in a volume, by path.
pub type Snapshot = BTreeMap<String, Seen>;

/// What identifies the content of a file.
#[must_use]
pub fn identify(content: &[u8]) -> u128 {
    hash128(content.len() as u64, content)
}

/// Reads the whole volume.
///
/// # Errors
/// What the volume says.
pub fn snapshot(volume: &Volume) -> Result<Snapshot, Error> {
    let mut seen = Snapshot::new();
    let mut todo = vec![String::new()];
    while let Some(dir) = todo.pop() {
        for entry in volume.read_dir(Path::new(&dir))? {
            let path = format!("{dir}/{}", String::from_utf8(entry.name).unwrap());
            let what = match entry.kind {
                FileType::Dir => {
                    todo.push(path.clone());
                    Seen::Dir
                }
                FileType::Symlink => Seen::Symlink(volume.read_link(&path)?),
                _ => {
                    let content = read_all(volume, &path)?;
                    let nlink = volume.metadata(&path)?.nlink;
                    Seen::File(content.len() as u64, identify(&content), nlink)
                }
            };
            seen.insert(path, what);
        }
    }
    Ok(seen)
}

/// Reads one file.
///
/// # Errors
/// What the volume says.
pub fn read_all(volume: &Volume, path: &str) -> Result<Vec<u8>, Error> {
    let file = volume.open_file(path)?;
    let mut content = vec![0xA5; usize::try_from(file.len()).unwrap()];
    let n = file.read_at(0, &mut content)?;
    assert_eq!(n, content.len(), "a read at 0 gives the whole file {path}");
    Ok(content)
}

/// Runs `work`, which must end within a minute, on a thread of its own. Gives what it gives.
///
/// # Panics
/// If it does not end, or panics.
pub fn must_end<T: Send + 'static>(what: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, ended) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let result = work();
        let _ = done.send(()); // nobody waits any more if it took too long
        result
    });
    match ended.recv_timeout(Duration::from_secs(60)) {
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{what}: it hangs"),
        _ => thread.join().unwrap_or_else(|_| panic!("{what}: see above")),
    }
}
