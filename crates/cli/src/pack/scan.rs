//! A first walk that only counts, for the progress bar.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, FileType, fstat, statat};

use crate::pack::names;
use crate::progress::{Progress, counting};
use crate::walk::{DirStack, file_id, open_dir};

/// Counts the bytes of all files below `root`. What cannot be read counts nothing: the walk that packs will name it.
pub(super) fn count(root: OwnedFd, one_file_system: bool, progress: &mut Progress) -> u64 {
    let (mut bytes, mut files) = (0, 0);
    let Ok(at_root) = fstat(&root) else { return 0 };
    let Ok(mut stack) = DirStack::new(root) else { return 0 };
    let mut levels = vec![batch(&stack)];
    while let Some(level) = levels.last_mut() {
        let Some(name) = level.next() else {
            levels.pop();
            if stack.depth() > 0 && stack.pop().is_err() {
                return bytes;
            }
            continue;
        };
        let Ok(stat) = statat(stack.top(), &*name.bytes, AtFlags::SYMLINK_NOFOLLOW) else {
            continue;
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => {
                files += 1;
                // Holes are not read.
                let held = u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
                bytes += u64::try_from(stat.st_size).unwrap_or(0).min(held);
            }
            FileType::Directory => {
                let Ok(dir) = open_dir(stack.top(), &name.bytes) else { continue };
                let Ok(stat) = fstat(&dir) else { continue };
                if one_file_system && stat.st_dev != at_root.st_dev {
                    continue;
                }
                stack.push(dir, file_id(&stat));
                levels.push(batch(&stack));
            }
            _ => {}
        }
        progress.show(bytes, || counting(files));
    }
    bytes
}

/// The names of the top, or the first of very many: the count is an estimate.
fn batch(stack: &DirStack) -> std::vec::IntoIter<names::Name> {
    names::read(stack.top(), None, 1 << 20).unwrap_or_default().names.into_iter()
}
