//! The names of a directory in the order of their bytes, in bounded memory.
//!
//! A directory whose names do not fit is read more than once: each time the smallest names that are greater than the last one.

use std::io;
use std::os::fd::BorrowedFd;

use rustix::fs::{Dir, FileType};

use crate::walk::open_dir;

/// A name, and what it says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Name {
    pub(super) bytes: Box<[u8]>,
    /// [`FileType::Unknown`] where the file system does not tell.
    pub(super) kind: FileType,
}

impl Name {
    /// Bytes of memory that it takes, roughly.
    fn weight(&self) -> usize {
        self.bytes.len() + 48
    }
}

/// Some of a directory's names, in order.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) names: Vec<Name>,
    /// Bytes of memory that they take, roughly.
    pub(super) weight: usize,
    /// There are more after the last one.
    pub(super) more: bool,
}

/// Reads the first names after `after`: all of them, or about `limit` bytes, and one at least.
pub(super) fn read(dir: BorrowedFd<'_>, after: Option<&[u8]>, limit: usize) -> io::Result<Batch> {
    let mut stream = Dir::new(open_dir(dir, b".")?)?;
    let mut batch = Batch::default();
    while let Some(entry) = stream.read() {
        let entry = entry?;
        let bytes = entry.file_name().to_bytes();
        let before = after.is_some_and(|after| bytes <= after);
        if before || batch.is_beyond(bytes) || bytes == b"." || bytes == b".." {
            continue;
        }
        batch.add(Name { bytes: bytes.into(), kind: entry.file_type() });
        if batch.weight > 2 * limit {
            batch.cut(limit);
        }
    }
    batch.sort();
    Ok(batch)
}

impl Batch {
    /// Whether names were dropped, and `name` is one that would be. Sorted then, up to the last cut.
    fn is_beyond(&self, name: &[u8]) -> bool {
        self.more && self.names.first().is_some_and(|greatest| *greatest.bytes < *name)
    }

    fn add(&mut self, name: Name) {
        self.weight += name.weight();
        self.names.push(name);
    }

    /// Keeps the smallest names, up to `limit` bytes. The greatest of them stands first until the batch is sorted.
    fn cut(&mut self, limit: usize) {
        self.sort();
        let mut weight = 0;
        let fits = |name: &Name| {
            weight += name.weight();
            weight <= limit
        };
        let kept = self.names.iter().map(fits).take_while(|fits| *fits).count().max(1);
        self.names.truncate(kept);
        self.weight = self.names.iter().map(Name::weight).sum();
        self.names.swap(0, kept - 1);
        self.more = true;
    }

    fn sort(&mut self) {
        self.names.sort_unstable_by(|a, b| a.bytes.cmp(&b.bytes));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, Mode, OFlags, openat};

    #[test]
    fn names_come_in_order_whatever_the_limit() {
        let dir = tempfile::tempdir().unwrap();
        let mut expected: Vec<String> =
            (0..2000).map(|n| format!("n{}", n * 7919 % 10_007)).collect();
        for name in &expected {
            std::fs::write(dir.path().join(name), b"").unwrap();
        }
        expected.sort_unstable();
        let fd = openat(CWD, dir.path(), OFlags::RDONLY, Mode::empty()).unwrap();
        for limit in [0, 1000, 20_000, 1 << 20] {
            let mut found: Vec<String> = Vec::new();
            loop {
                let after = found.last().map(|name| name.as_bytes().to_vec());
                let batch = read(std::os::fd::AsFd::as_fd(&fd), after.as_deref(), limit).unwrap();
                assert!(batch.weight <= 2 * limit + 100, "{} {limit}", batch.weight);
                let names = batch.names.iter().map(|name| String::from_utf8_lossy(&name.bytes));
                found.extend(names.map(String::from));
                if !batch.more {
                    break;
                }
            }
            assert!(found == expected, "limit {limit}");
        }
    }

    #[test]
    fn kinds_come_with_the_names() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("d")).unwrap();
        std::os::unix::fs::symlink("x", dir.path().join("s")).unwrap();
        let fd = openat(CWD, dir.path(), OFlags::RDONLY, Mode::empty()).unwrap();
        let batch = read(std::os::fd::AsFd::as_fd(&fd), None, 1000).unwrap();
        let kinds: Vec<FileType> = batch.names.iter().map(|name| name.kind).collect();
        assert_eq!(kinds, [FileType::Directory, FileType::Symlink]);
    }
}
