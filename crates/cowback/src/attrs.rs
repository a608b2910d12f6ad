//! What of a file's inode item is newer in memory than in the tree: its size, and when it was written to.
//!
//! It goes from `newer` by `going` into the tree, and is seen all the way: whoever wants to know looks here first and in the tree second.
//! Two do not put it there at once, so that neither puts a size over the newer one of the other: a handle holds `putting`, with the namespace gate
//! shared; a commit holds that gate alone, from its cut until all of it is in the trees.
//!
//! Lock order: `putting` comes before the store's locks; `state` is taken alone.

use cowback_base::sync::Mutex;
use cowback_block_store::namespace::Timespec;

/// What is newer.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Newer {
    /// The file's size changed.
    pub(crate) size: bool,
    /// When it was last written to.
    pub(crate) modified: Option<Timespec>,
}

impl Newer {
    /// Whether the tree is as new.
    pub(crate) fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Both, where `self` is the newer one.
    fn over(self, older: Self) -> Self {
        Self { size: self.size || older.size, modified: self.modified.or(older.modified) }
    }
}

/// Of one file.
#[derive(Debug, Default)]
pub(crate) struct NodeAttrs {
    putting: Mutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    newer: Newer,
    /// Taken to be put into the tree. It stays until that has been done; if it fails, for who comes next.
    going: Newer,
}

impl NodeAttrs {
    /// The file was written to, and has another size or not.
    pub(crate) fn touch(&self, resized: bool, now: Timespec) {
        let mut state = self.state.lock();
        state.newer = Newer { size: resized, modified: Some(now) }.over(state.newer);
    }

    /// Whether the tree is as new.
    pub(crate) fn is_clean(&self) -> bool {
        let state = self.state.lock();
        state.newer.is_none() && state.going.is_none()
    }

    /// When the file was last written to, if the tree does not know it yet.
    pub(crate) fn modified(&self) -> Option<Timespec> {
        let state = self.state.lock();
        state.newer.over(state.going).modified
    }

    /// Has `put` put what is newer into the tree. The namespace gate is held, and not by this call alone.
    pub(crate) fn put<E>(&self, put: impl FnOnce(Newer) -> Result<(), E>) -> Result<(), E> {
        let _one_at_a_time = (!cfg!(canary = "sizes_cross")).then(|| self.putting.lock());
        put(self.cut()).inspect(|()| self.settle())
    }

    /// Takes what is newer, to be put into the tree. The namespace gate is held, until that is done; by a commit, alone.
    pub(crate) fn cut(&self) -> Newer {
        let mut state = self.state.lock();
        let going = std::mem::take(&mut state.newer).over(state.going);
        state.going = going;
        going
    }

    /// What was taken is in the tree.
    pub(crate) fn settle(&self) {
        self.state.lock().going = Newer::default();
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
        attrs.touch(true, at(1));
        let taken = attrs.cut();
        assert_eq!(taken, Newer { size: true, modified: Some(at(1)) });
        assert_eq!((attrs.is_clean(), attrs.modified()), (false, Some(at(1))));
        attrs.touch(false, at(2));
        assert_eq!(attrs.modified(), Some(at(2)));
        attrs.settle();
        assert_eq!(attrs.cut(), Newer { size: false, modified: Some(at(2)) });
        attrs.settle();
        assert_eq!((attrs.is_clean(), attrs.modified()), (true, None));
    }

    #[test]
    fn what_could_not_be_put_goes_with_what_is_newer() {
        let attrs = NodeAttrs::default();
        attrs.touch(true, at(1));
        attrs.put(|_| Err("no")).unwrap_err();
        assert_eq!((attrs.is_clean(), attrs.modified()), (false, Some(at(1))));
        attrs.touch(false, at(2));
        attrs
            .put(|newer| {
                assert_eq!(newer, Newer { size: true, modified: Some(at(2)) });
                Ok::<_, ()>(())
            })
            .unwrap();
        assert!(attrs.is_clean());
    }
}
