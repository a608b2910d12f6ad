//! Whether a file's inode item is newer in memory than in the tree: its size, and when it was written to.
//!
//! Both are put there together, whichever of them changed: a size that changes and comes back leaves no trace by which one could tell.
//!
//! It goes from `newer` by `going` into the tree, and is seen all the way: whoever wants to know looks here first and in the tree second.
//! Two do not put it there at once, so that neither puts a size over the newer one of the other: a handle holds `putting`, with the namespace gate
//! shared; a commit holds that gate alone, from its cut until all of it is in the trees.
//!
//! Lock order: `putting` comes before the store's locks; `state` is taken alone.

use cowback_base::planted;
use cowback_base::sync::Mutex;
use cowback_block_store::namespace::Timespec;

/// Of one file.
#[derive(Debug, Default)]
pub(crate) struct NodeAttrs {
    putting: Mutex<()>,
    state: Mutex<State>,
}

/// When the file was last written to, if the tree does not know.
#[derive(Debug, Default)]
struct State {
    newer: Option<Timespec>,
    /// Taken to be put into the tree. It stays until that has been done; if it fails, for who comes next.
    going: Option<Timespec>,
}

impl NodeAttrs {
    /// The file was written to, or its size was set.
    pub(crate) fn touch(&self, now: Timespec) {
        self.state.lock().newer = Some(now);
    }

    /// Whether the tree is as new.
    pub(crate) fn is_clean(&self) -> bool {
        self.modified().is_none()
    }

    /// When the file was last written to, if the tree does not know it yet.
    pub(crate) fn modified(&self) -> Option<Timespec> {
        let state = self.state.lock();
        state.newer.or(state.going)
    }

    /// Has `look` look at the tree, told what is newer than that. No handle puts anything there meanwhile: so what one has set is seen whole, or not at all.
    pub(crate) fn look<T>(&self, look: impl FnOnce(Option<Timespec>) -> T) -> T {
        let _no_one_puts = self.putting.lock();
        look(self.modified())
    }

    /// Has `put` put what is newer into the tree. The namespace gate is held, and not by this call alone.
    pub(crate) fn put<E>(
        &self,
        put: impl FnOnce(Option<Timespec>) -> Result<(), E>,
    ) -> Result<(), E> {
        let _one_at_a_time = (!planted!("sizes_cross")).then(|| self.putting.lock());
        put(self.cut()).inspect(|()| self.settle())
    }

    /// Takes what is newer, to be put into the tree. The namespace gate is held, until that is done; by a commit, alone.
    pub(crate) fn cut(&self) -> Option<Timespec> {
        let mut state = self.state.lock();
        state.going = state.newer.take().or(state.going);
        state.going
    }

    /// What was taken is in the tree.
    pub(crate) fn settle(&self) {
        self.state.lock().going = None;
    }

    /// The file is thrown away.
    pub(crate) fn forget(&self) {
        *self.state.lock() = State::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(sec: i64) -> Timespec {
        Timespec { sec, nsec: 0 }
    }

    #[test]
    fn what_is_on_its_way_to_the_tree_is_seen_until_it_is_there() {
        let attrs = NodeAttrs::default();
        attrs.touch(at(1));
        assert_eq!(attrs.cut(), Some(at(1)));
        assert_eq!((attrs.is_clean(), attrs.modified()), (false, Some(at(1))));
        attrs.touch(at(2));
        assert_eq!(attrs.modified(), Some(at(2)));
        attrs.settle();
        assert_eq!(attrs.cut(), Some(at(2)));
        attrs.settle();
        assert_eq!((attrs.is_clean(), attrs.modified()), (true, None));
    }

    #[test]
    fn what_could_not_be_put_goes_with_who_comes_next() {
        let attrs = NodeAttrs::default();
        attrs.touch(at(1));
        attrs.put(|_| Err("no")).unwrap_err();
        assert_eq!((attrs.is_clean(), attrs.modified()), (false, Some(at(1))));
        attrs
            .put(|newer| {
                assert_eq!(newer, Some(at(1)));
                Ok::<_, ()>(())
            })
            .unwrap();
        assert!(attrs.is_clean());
    }
}
