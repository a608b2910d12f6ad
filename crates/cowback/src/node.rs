//! The files that the volume knows in memory: open, dirty, or closed not long ago.
//!
//! A node's pages live as long as the node. A node whose last handle is closed stands in a line for a while, so that its pages are there when it
//! is opened again; it goes, oldest first, once it is clean and too many wait.
//!
//! Lock order: the table's mutex is taken alone, or around a node's attributes; no IO happens under it but the lookup of an inode. The one for links is
//! taken with none of these held, and around the store's.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use cowback_base::Ino;
use cowback_base::sync::Mutex;
use cowback_base::sync::atomic::{AtomicU64, Ordering};
use cowback_block_store::namespace::inode::inode_flags;
use cowback_extent_io::{CompressionPolicy, DataFlags, FilePolicy, InodeIo, Readahead};

use crate::attrs::NodeAttrs;
use crate::pace::Pace;

/// Closed nodes that are kept for their pages.
const CLOSED_MAX: usize = 1024;
/// Closed nodes that may go when one more is closed.
const TRIM_STEP: usize = 4;

/// What an inode's flags say of where its data goes.
fn data_flags(flags: u64) -> DataFlags {
    DataFlags {
        nodatacow: flags & inode_flags::NODATACOW != 0,
        nodatasum: flags & inode_flags::NODATASUM != 0,
        prealloc: flags & inode_flags::PREALLOC != 0,
    }
}

/// One file in memory.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) io: Arc<InodeIo>,
    pub(crate) attrs: NodeAttrs,
    /// Its place on the list of dirty nodes; 0 if it is not on it. Changed under the list's lock.
    pub(crate) listed: AtomicU64,
    /// Marked as not to be compressed (`chattr +m`).
    uncompressed: bool,
    handles: Mutex<Handles>,
}

#[derive(Debug, Default)]
struct Handles {
    count: usize,
    names: Names,
    /// Its place in the line of closed nodes, if it stands in it: as long as there is no handle.
    closed_at: Option<u64>,
}

/// Whether a file can be found again when its last handle is closed. It only goes on in this order: a file whose last name was removed gets none
/// any more.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Names {
    /// It was made without a name, and got none yet.
    NotYet,
    /// It has names.
    #[default]
    Some,
    /// The last one was removed.
    Gone,
}

impl Node {
    /// The file with this `io`, whose inode has `flags`.
    pub(crate) fn new(io: Arc<InodeIo>, flags: u64) -> Arc<Self> {
        io.set_data_flags(data_flags(flags));
        let node = Self {
            io,
            uncompressed: flags & inode_flags::NOCOMPRESS != 0,
            attrs: NodeAttrs::default(),
            listed: AtomicU64::new(0),
            handles: Mutex::default(),
        };
        node.reset_policy();
        Arc::new(node)
    }

    /// Has data stored as it is in the beginning: as the volume's policy says, if the inode says nothing else.
    fn reset_policy(&self) {
        let own = self.uncompressed.then(|| FilePolicy::from(CompressionPolicy::None));
        self.io.set_policy(own);
    }

    /// A file without a name: if it gets none, it goes with its last handle.
    pub(crate) fn new_unnamed(io: Arc<InodeIo>, flags: u64) -> Arc<Self> {
        let node = Self::new(io, flags);
        node.handles.lock().names = Names::NotYet;
        node
    }

    /// Whether it has no name: it goes with its last handle.
    pub(crate) fn is_nameless(&self) -> bool {
        self.handles.lock().names != Names::Some
    }

    /// Whether nobody knows it but the table, and nothing of it is to be written.
    fn may_go(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1
            && self.io.is_clean()
            && self.attrs.is_clean()
            && self.listed.load(Ordering::Acquire) == 0
    }
}

/// What the closing of a handle asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    /// Nothing.
    Kept,
    /// It was the last handle of a file without a name: its content is to be thrown away.
    Evict,
}

/// All nodes.
#[derive(Debug, Default)]
pub(crate) struct NodeTable {
    table: Mutex<Table>,
    /// Held while a name is given to an open file.
    linking: Mutex<()>,
}

#[derive(Debug, Default)]
struct Table {
    nodes: HashMap<Ino, Arc<Node>>,
    /// Nodes without handles by their places, in the order of closing.
    closed: BTreeMap<u64, Ino>,
    last_place: u64,
}

impl NodeTable {
    /// The node of `ino`, made by `make` if it is not known, with one handle more.
    pub(crate) fn open<E>(
        &self,
        ino: Ino,
        make: impl FnOnce() -> Result<Arc<Node>, E>,
    ) -> Result<Arc<Node>, E> {
        let mut table = self.table.lock();
        let node = match table.nodes.get(&ino) {
            Some(node) => Arc::clone(node),
            None => {
                let node = make()?;
                table.nodes.insert(ino, Arc::clone(&node));
                node
            }
        };
        let mut handles = node.handles.lock();
        if handles.count == 0 {
            // What handles had set ended with the last of them.
            node.reset_policy();
            table.leave_line(&mut handles);
        }
        handles.count += 1;
        drop(handles);
        Ok(node)
    }

    /// One handle more on a node that has one already.
    pub(crate) fn reopen(&self, node: &Arc<Node>) -> Arc<Node> {
        node.handles.lock().count += 1;
        Arc::clone(node)
    }

    /// One handle less.
    pub(crate) fn close(&self, node: &Node) -> Closed {
        let mut table = self.table.lock();
        let ino = node.io.ino();
        {
            let mut handles = node.handles.lock();
            handles.count -= 1;
            if handles.count > 0 {
                return Closed::Kept;
            }
            if handles.names != Names::Some {
                table.nodes.remove(&ino);
                return Closed::Evict;
            }
        }
        table.stand_in_line(node);
        let gone = table.trim();
        drop(table);
        drop(gone);
        Closed::Kept
    }

    /// The node of `ino`, if it is known.
    pub(crate) fn get(&self, ino: Ino) -> Option<Arc<Node>> {
        self.table.lock().nodes.get(&ino).cloned()
    }

    /// The last name of `ino` is gone. Returns its node if it is known, and whether it is still open: then its content goes with the
    /// last handle, else now.
    pub(crate) fn unlinked(&self, ino: Ino) -> (Option<Arc<Node>>, bool) {
        let mut table = self.table.lock();
        let Some(node) = table.nodes.get(&ino).cloned() else { return (None, false) };
        let open = {
            let mut handles = node.handles.lock();
            handles.names = Names::Gone;
            table.leave_line(&mut handles);
            handles.count > 0
        };
        if !open {
            table.nodes.remove(&ino);
        }
        (Some(node), open)
    }

    /// Has `link` give a node's file a name. It is told whether the file may have none, as it has not got its first one yet.
    pub(crate) fn link<T, E>(
        &self,
        node: &Node,
        link: impl FnOnce(bool) -> Result<T, E>,
    ) -> Result<T, E> {
        // No two think that theirs is the first name, of which one was removed in between.
        let _one_at_a_time = self.linking.lock();
        let first = node.handles.lock().names == Names::NotYet;
        let linked = link(first)?;
        let mut handles = node.handles.lock();
        // Whoever has removed that name already has said so here.
        if handles.names == Names::NotYet {
            handles.names = Names::Some;
        }
        Ok(linked)
    }

    /// Forgets what was closed and is clean now, as after a commit.
    pub(crate) fn sweep(&self) {
        let gone = self.table.lock().sweep();
        drop(gone);
    }

    /// Every node.
    pub(crate) fn all(&self) -> Vec<Arc<Node>> {
        self.table.lock().nodes.values().cloned().collect()
    }
}

// What goes is given back, to be dropped when the table is free again: all the pages go with it.
impl Table {
    /// The node's last handle was closed.
    fn stand_in_line(&mut self, node: &Node) {
        self.last_place += 1;
        self.closed.insert(self.last_place, node.io.ino());
        node.handles.lock().closed_at = Some(self.last_place);
    }

    /// The node with these handles is opened again, or loses its last name.
    fn leave_line(&mut self, handles: &mut Handles) {
        if let Some(place) = handles.closed_at.take() {
            self.closed.remove(&place);
        }
    }

    /// Lets nodes go that were closed first, as far as they are clean: the one closed first is written back first.
    #[must_use]
    fn trim(&mut self) -> Vec<Arc<Node>> {
        let mut gone = Vec::new();
        for _ in 0..self.closed.len().saturating_sub(CLOSED_MAX).min(TRIM_STEP) {
            let Some(first) = self.closed.first_entry() else { break };
            if !self.nodes.get(first.get()).is_none_or(Node::may_go) {
                break;
            }
            gone.extend(self.nodes.remove(&first.remove()));
        }
        gone
    }

    /// Lets all closed nodes go that are clean, but the last ones.
    #[must_use]
    fn sweep(&mut self) -> Vec<Arc<Node>> {
        let most = self.closed.len().saturating_sub(CLOSED_MAX);
        let (nodes, mut seen, mut gone) = (&mut self.nodes, 0, Vec::new());
        self.closed.retain(|_, ino| {
            seen += 1;
            let goes = seen <= most && nodes.get(ino).is_none_or(Node::may_go);
            if goes {
                gone.extend(nodes.remove(ino));
            }
            !goes
        });
        gone
    }
}

/// A handle's own state.
#[derive(Debug, Default)]
pub(crate) struct HandleState {
    pub(crate) readahead: Readahead,
    pub(crate) pace: Pace,
}
