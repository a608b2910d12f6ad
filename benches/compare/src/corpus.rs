//! The data: real files, one after another.

use std::io::{self, Read};
use std::path::Path;

/// The first `len` bytes of the files under `tree`, in the order of their names.
pub(crate) fn stream(tree: &Path, len: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(len);
    let mut todo = vec![tree.to_path_buf()];
    while let Some(path) = todo.pop() {
        if bytes.len() >= len {
            break;
        }
        let metadata = std::fs::symlink_metadata(&path)?;
        if metadata.is_dir() {
            let mut entries: Vec<_> = std::fs::read_dir(&path)?
                .map(|entry| Ok(entry?.path()))
                .collect::<io::Result<_>>()?;
            entries.sort_by(|a, b| b.cmp(a));
            todo.extend(entries);
        } else if metadata.is_file() {
            let left = (len - bytes.len()) as u64;
            std::fs::File::open(&path)?.take(left).read_to_end(&mut bytes)?;
        }
    }
    if bytes.len() < len {
        let why = format!("{} has only {} bytes", tree.display(), bytes.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    Ok(bytes)
}

/// Bytes of all files under `tree`, and how many there are.
pub(crate) fn size(tree: &Path) -> io::Result<(u64, u64)> {
    let (mut bytes, mut files) = (0, 0);
    let mut todo = vec![tree.to_path_buf()];
    while let Some(path) = todo.pop() {
        let metadata = std::fs::symlink_metadata(&path)?;
        if metadata.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                todo.push(entry?.path());
            }
        } else if metadata.is_file() {
            bytes += metadata.len();
            files += 1;
        }
    }
    Ok((bytes, files))
}
