//! Which leaves of a file have a dirty page, one under writeback, one to be written (stage 2).
//!
//! The sets are exact: they change under the mutex of the leaf that they speak of. So a search visits only leaves that
//! had a tagged page when it looked, however large or sparse the file.

use std::collections::BTreeSet;

use cowback_base::planted;
use cowback_base::sync::Mutex;

use crate::flags::Tag;
use crate::leaf::Masks;

/// The leaves of a mapping that have tagged pages, by number.
#[derive(Debug, Default)]
pub(crate) struct TagIndex {
    dirty: Mutex<BTreeSet<u64>>,
    writeback: Mutex<BTreeSet<u64>>,
    towrite: Mutex<BTreeSet<u64>>,
}

impl TagIndex {
    fn of(&self, tag: Tag) -> &Mutex<BTreeSet<u64>> {
        match tag {
            Tag::Dirty => &self.dirty,
            Tag::Writeback => &self.writeback,
            Tag::ToWrite => &self.towrite,
        }
    }

    /// Takes note that the masks of leaf `number` changed. Called under the leaf's mutex.
    pub(crate) fn update(&self, number: u64, was: &Masks, now: &Masks) {
        for tag in [Tag::Dirty, Tag::Writeback, Tag::ToWrite] {
            let (had, has) = (was.tagged(tag) != 0, now.tagged(tag) != 0);
            if has && !had {
                self.of(tag).lock().insert(number);
            } else if had && !has && !(planted!("tag_left") && now.frozen != 0) {
                self.of(tag).lock().remove(&number);
            }
        }
    }

    /// The first leaf at or after `from`, before `end`, that has the tag.
    pub(crate) fn next(&self, tag: Tag, from: u64, end: u64) -> Option<u64> {
        if from >= end {
            return None;
        }
        self.of(tag).lock().range(from..end).next().copied()
    }
}
