//! What the handles of a volume share.
//!
//! Lock order (R1), outermost first: the turn of `commits` > `flush_gate` > `namespace_gate` > `data_gate` > `dirs` > a file's own
//! locks > the store's.
//! The gates are how a commit takes its cut: a write holds the data gate and a change of names the namespace gate, both shared; the commit takes them
//! exclusively, the one for as long as it takes to freeze what is dirty, the other until the store has captured it.

use std::sync::Arc;

use cowback_async_cow::{AsyncCow, WorkerPool};
use cowback_base::Ino;
use cowback_base::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use cowback_base::sync::{Mutex, RwLock};
use cowback_block_store::namespace::{AttrChange, InodeAttr, NamespaceError, Timespec};
use cowback_block_store::{Clock, Store};
use cowback_extent_io::{ErrorLog, ExtentStore, InodeIo, StoreError};
use cowback_page_cache::PageCache;

use crate::background::Background;
use crate::commit::CommitGroup;
use crate::commit_times::CommitTimes;
use crate::error::{Error, Result};
use crate::flusher::{DirtyList, MetaDirty};
use crate::metadata::SetAttributes;
use crate::node::{Closed, Node, NodeTable};
use crate::path::DirCache;
use crate::retry::Retry;

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) store: Arc<Store>,
    pub(crate) cache: Arc<PageCache>,
    pub(crate) engine: AsyncCow,
    pub(crate) pool: Arc<WorkerPool>,
    pub(crate) nodes: NodeTable,
    pub(crate) dirty: DirtyList,
    pub(crate) meta_dirty: Mutex<MetaDirty>,
    pub(crate) errors: Arc<ErrorLog>,
    pub(crate) failures_seen: AtomicU64,
    pub(crate) retry: Retry,
    pub(crate) commits: CommitGroup,
    pub(crate) commit_times: CommitTimes,
    pub(crate) flush_gate: RwLock<()>,
    pub(crate) namespace_gate: RwLock<()>,
    pub(crate) data_gate: RwLock<()>,
    pub(crate) dirs: DirCache,
    pub(crate) background: Option<Background>,
    /// Whether the volume was opened for reading only.
    pub(crate) read_only: bool,
    pub(crate) clock: Clock,
    pub(crate) closed: AtomicBool,
}

impl Inner {
    /// Refuses what comes after `close`.
    pub(crate) fn check_open(&self) -> Result<()> {
        if self.closed.load(Ordering::Acquire) {
            let reason = "it was closed".to_owned();
            return Err(Error::Store(StoreError::ReadOnly { reason }));
        }
        Ok(())
    }

    /// Refuses changes of a volume that takes none.
    pub(crate) fn check_writable(&self) -> Result<()> {
        self.check_open()?;
        match self.store.read_only_reason() {
            None => Ok(()),
            Some(reason) => Err(Error::Store(StoreError::ReadOnly { reason })),
        }
    }

    /// Throws away what was unlinked and still open when the volume went down.
    pub(crate) fn evict_orphans(&self) -> Result<()> {
        let orphans = self.store.orphans()?;
        orphans.into_iter().for_each(|ino| self.evict(ino));
        Ok(())
    }

    /// Drops an inode without names, with its content on disk. What cannot be done now stays an orphan: the store goes on with it at
    /// later commits, or when the volume is opened again. So who removed the name need not hear of it.
    pub(crate) fn evict(&self, ino: Ino) {
        drop(self.store.evict(ino));
    }

    /// Now, as files see it.
    pub(crate) fn now(&self) -> Timespec {
        let (sec, nsec) = self.clock.now();
        Timespec { sec, nsec }
    }

    /// The node of a file that has a name, with one handle more.
    pub(crate) fn open_node(&self, ino: Ino) -> std::result::Result<Arc<Node>, NamespaceError> {
        // Looked at under the table's lock: whoever removes the last name after that finds the node open.
        self.nodes.open(ino, || match self.store.inode(ino)? {
            attr if attr.nlink > 0 => Ok(self.make_node(ino, &attr)),
            _ => Err(NamespaceError::NoInode { ino }),
        })
    }

    /// The node of a file that was just made without a name, with a handle.
    pub(crate) fn open_unnamed(
        &self,
        (ino, attr): (Ino, InodeAttr),
    ) -> std::result::Result<Arc<Node>, NamespaceError> {
        self.nodes.open(ino, || Ok(Node::new_unnamed(self.make_io(ino, &attr), attr.flags)))
    }

    fn make_node(&self, ino: Ino, attr: &InodeAttr) -> Arc<Node> {
        Node::new(self.make_io(ino, attr), attr.flags)
    }

    fn make_io(&self, ino: Ino, attr: &InodeAttr) -> Arc<InodeIo> {
        let store: Arc<dyn ExtentStore> = Arc::clone(&self.store) as _;
        let mapping = self.cache.mapping(ino.0);
        InodeIo::new(ino, attr.size, mapping, store, Arc::clone(&self.errors))
    }

    /// A handle is closed.
    pub(crate) fn close_node(&self, node: &Arc<Node>) {
        // Once the volume is closed, the last commit has everything, or has gone without; a file without a name goes when the volume is opened again.
        if !node.attrs.is_clean() {
            // Before anything is taken: what a commit does not find in the node is in the tree.
            let _names = self.namespace_gate.read();
            if self.check_open().is_ok() {
                // What fails stays for the next commit, which reports it.
                drop(self.write_back_meta(node));
            }
        }
        if self.nodes.close(node) == Closed::Evict {
            let _names = self.namespace_gate.read();
            if self.check_open().is_ok() {
                self.throw_away(node);
            }
        }
    }

    /// Drops the content of a file that has neither name nor handle, in memory and on disk.
    pub(crate) fn throw_away(&self, node: &Arc<Node>) {
        node.io.discard();
        node.attrs.forget();
        self.meta_dirty.lock().remove(&node.io.ino());
        self.dirty.take(node);
        self.evict(node.io.ino());
    }

    /// Sets attributes of an inode, with what is newer in memory of its node, if it has one. The namespace gate is held.
    pub(crate) fn set_attributes(
        &self,
        ino: Ino,
        node: Option<&Arc<Node>>,
        set: &SetAttributes,
    ) -> std::result::Result<(), NamespaceError> {
        let put = |newer: Option<Timespec>, size: u64| {
            let change = AttrChange {
                mode: set.permissions,
                uid: set.uid,
                gid: set.gid,
                atime: set.accessed,
                mtime: set.modified.or(newer),
                size: newer.map(|_| size),
                ..AttrChange::default()
            };
            self.store.set_attr(ino, &change).map(drop)
        };
        match node {
            None => put(None, 0),
            Some(node) => self.put_newer(node, put),
        }
    }

    /// Puts into a file's inode item what is newer in memory, and that it changes now, ahead of a change of its size or extents. Such a
    /// change need not bring data for which the store promises anything: so this sees to it that there is room for what it leaves to be put by
    /// the next commit, or tells while nothing has changed. The namespace gate is held, until the change is done.
    pub(crate) fn put_ahead(&self, node: &Arc<Node>) -> std::result::Result<(), NamespaceError> {
        let now = self.now();
        self.put_newer(node, |newer, size| {
            let change = AttrChange {
                size: newer.map(|_| size),
                mtime: Some(now),
                ctime: Some(now),
                ..AttrChange::default()
            };
            self.store.set_attr_ahead(node.io.ino(), &change).map(drop)
        })
    }

    /// Puts a file's size and times into its inode item, if they are newer in memory. The namespace gate is held.
    fn write_back_meta(&self, node: &Arc<Node>) -> std::result::Result<(), NamespaceError> {
        self.put_newer(node, |newer, size| {
            newer.map_or(Ok(()), |modified| self.put_meta(node, modified, size))
        })
    }

    /// Has `put` put what is newer in memory of a node, and the size that it has now, into its inode item. The namespace gate is held.
    fn put_newer(
        &self,
        node: &Arc<Node>,
        put: impl FnOnce(Option<Timespec>, u64) -> std::result::Result<(), NamespaceError>,
    ) -> std::result::Result<(), NamespaceError> {
        let result = node.attrs.put(|newer| put(newer, node.io.size()));
        if result.is_err() {
            self.dirty.add(node);
            return result;
        }
        // The next commit has nothing to put. It would keep the node in memory until then.
        let mut meta_dirty = self.meta_dirty.lock();
        if node.attrs.is_clean() {
            meta_dirty.remove(&node.io.ino());
        }
        Ok(())
    }

    /// Puts when the node was last written to, and its size then, into its inode item.
    pub(crate) fn put_meta(
        &self,
        node: &Node,
        modified: Timespec,
        size: u64,
    ) -> std::result::Result<(), NamespaceError> {
        let change = AttrChange {
            size: Some(size),
            mtime: Some(modified),
            ctime: Some(modified),
            ..AttrChange::default()
        };
        self.store.set_attr_at_commit(node.io.ino(), &change).map(drop)
    }
}
