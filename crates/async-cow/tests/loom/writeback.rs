//! A file on its way from frozen to stored: it never looks clean in between (law R5), and what extends it is not taken for what is beyond its
//! end (law B2).

use std::sync::Arc;

use cowback_base::{BLOCK_SIZE, Ino};
use cowback_extent_io::executor::Inline;
use cowback_extent_io::memory::MemoryStore;
use cowback_extent_io::store::Compression;
use cowback_extent_io::{
    DelallocRun, DelallocSink, InodeIo, Payload, Readahead, WritebackControl, writepages,
};
use cowback_page_cache::{CacheLimits, PageCache};

use crate::explore::{Bound, both, explore};

const PAGE: usize = 4096;

/// Pages of the file that grows, a hole: what is added lies in two leaves.
const BEFORE: u64 = 31;

/// Stores each run at once, in one extent.
struct AtOnce;

impl DelallocSink for AtOnce {
    type Credit = ();

    fn admit(&self) {}

    fn submit(&self, run: DelallocRun, (): ()) {
        let bytes = run.range().len();
        let extent = run.inode().store().alloc_extent(bytes, bytes).unwrap();
        run.into_ordered(extent, Compression::None).write(&Payload::Raw);
    }
}

fn file_of(cache: &Arc<PageCache>, store: &Arc<MemoryStore>, size: u64) -> Arc<InodeIo> {
    let store = Arc::clone(store) as _;
    InodeIo::new(Ino(257), size, cache.mapping(257), store, Arc::default())
}

/// The first byte of each page of `inode`, as they are in the store.
fn stored(inode: &InodeIo, store: &Arc<MemoryStore>) -> Vec<u8> {
    let cache = PageCache::new(CacheLimits::for_budget(1 << 20));
    let fresh = file_of(&cache, store, inode.size());
    let mut bytes = vec![0xAA; usize::try_from(inode.size()).unwrap()];
    fresh.read(0, &mut bytes, &Readahead::default(), &Inline).unwrap();
    bytes.chunks(PAGE).map(|page| page[0]).collect()
}

fn sync(inode: &Arc<InodeIo>) {
    writepages(inode, &WritebackControl::sync_all(), &AtOnce);
    inode.wait_writeback();
}

#[test]
fn a_file_that_looks_clean_is_stored() {
    explore("a file that looks clean is stored", Bound::None, || {
        let (cache, store) =
            (PageCache::new(CacheLimits::for_budget(1 << 20)), MemoryStore::new(8));
        let store = Arc::new(store);
        let inode = file_of(&cache, &store, 0);
        inode.write(0, &[3; PAGE]).unwrap();
        let flusher = Arc::clone(&inode);
        both(
            move || {
                writepages(&flusher, &WritebackControl::sync_all(), &AtOnce);
            },
            move || {
                if inode.is_clean() {
                    assert_eq!(stored(&inode, &store), [3]);
                }
            },
        );
        cache.check_at_rest().unwrap();
    });
}

#[test]
fn a_write_that_extends_the_file_is_stored_whole_whenever_it_is_written_back() {
    explore("a write that extends the file is stored whole", Bound::Preemptions(3), || {
        let (cache, store) =
            (PageCache::new(CacheLimits::for_budget(1 << 20)), MemoryStore::new(8));
        let store = Arc::new(store);
        let inode = file_of(&cache, &store, BEFORE * BLOCK_SIZE);
        let (flusher, writer) = (Arc::clone(&inode), Arc::clone(&inode));
        both(
            move || {
                writepages(&flusher, &WritebackControl::sync_all(), &AtOnce);
            },
            move || writer.write(BEFORE * BLOCK_SIZE, &[5; 2 * PAGE]).unwrap(),
        );
        sync(&inode);
        assert_eq!(stored(&inode, &store)[BEFORE as usize..], [5, 5]);
        assert_eq!(store.reserved(), 0);
        assert_eq!(inode.size(), (BEFORE + 2) * BLOCK_SIZE);
        cache.check_at_rest().unwrap();
    });
}
