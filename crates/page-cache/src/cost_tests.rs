//! What a cached page costs beside its 4 KiB: counted over the structures that there are, with what the allocator adds.

use std::mem::size_of;
use std::sync::Arc;

use cowback_base::{PageIndex, PageRange};

use crate::frame::{Frame, Single};
use crate::leaf::Leaf;
use crate::{CacheLimits, Mapping, PageCache};

/// Bytes that an allocation of `len` really takes with the C library's allocator: with a header of 8, in steps of 16. One with
/// size classes and no headers takes 16 bytes less for each page.
fn allocated(len: usize) -> usize {
    if len == 0 { 0 } else { (len + 8).next_multiple_of(16) }
}

/// The counts of references that an `Arc` keeps beside its content.
const COUNTS: usize = 2 * size_of::<usize>();

/// Bytes beside the content of all pages that `files` have in `cache`. The mappings themselves count if there are `own`.
fn cost(cache: &PageCache, files: &[Arc<Mapping>], own: bool) -> usize {
    let leaves: usize = files
        .iter()
        .flat_map(|file| file.every_leaf())
        .map(|leaf| {
            let state = leaf.state.lock();
            let pages = state.masks.uptodate.count_ones() as usize;
            allocated(size_of::<Leaf>() + COUNTS)
                + allocated(state.content().slots() * size_of::<Single>())
                + pages
                    * (allocated(4096) - 4096 + allocated(size_of::<Box<[u8; 4096]>>() + COUNTS))
        })
        .sum();
    let directories: usize = files.iter().map(|file| file.directory_bytes(allocated)).sum();
    let mapping = allocated(size_of::<Mapping>() + COUNTS);
    leaves
        + directories
        + cache.budget().root().0.reclaim.bytes(allocated)
        + if own { mapping * files.len() } else { 0 }
}

fn fill(file: &Mapping, pages: u64) {
    for start in (0..pages).step_by(128) {
        let range = PageRange::new(PageIndex(start), PageIndex(pages.min(start + 128)));
        file.lock_absent_runs(range).into_iter().for_each(|run| run.fill(|_| Frame::zeroed()));
    }
}

#[test]
fn bookkeeping_takes_at_most_64_bytes_per_page_of_a_large_file() {
    let pages = 16_384;
    let cache = PageCache::new(CacheLimits::for_budget(pages * 4096));
    let file = cache.mapping(1);
    // Through the cache once, so that the ghost is full too; then in use, so that it is in the main queue.
    fill(&cache.mapping(2), pages);
    fill(&file, pages);
    drop(file.frames(PageRange::new(PageIndex(0), PageIndex(pages))));
    drop(file.frames(PageRange::new(PageIndex(0), PageIndex(pages))));
    assert_eq!(file.page_count(), pages);
    let each = cost(&cache, &[file], true).div_ceil(usize::try_from(pages).unwrap());
    println!("{each} bytes for each page of a large file");
    assert!(each <= 64, "{each} bytes");
}

#[test]
fn a_file_of_one_page_costs_about_an_eighth_of_the_page() {
    let files = 4096;
    let cache = PageCache::new(CacheLimits::for_budget(files * 4096));
    let files: Vec<_> = (0..files).map(|owner| cache.mapping(owner)).collect();
    files.iter().for_each(|file| fill(file, 1));
    let page = cost(&cache, &files, false).div_ceil(files.len());
    let whole = cost(&cache, &files, true).div_ceil(files.len());
    println!("{page} bytes for the page of a file of one page, {whole} with the file's mapping");
    assert!(page <= 288 && whole <= 528, "{page} and {whole} bytes");
}

#[test]
fn a_page_here_and_there_in_a_huge_file_costs_no_more_than_a_file_of_one_page() {
    let pages = 4096;
    let cache = PageCache::new(CacheLimits::for_budget(pages * 4096));
    let file = cache.mapping(1);
    for page in 0..pages {
        let index = PageIndex(page.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 30);
        file.lock_page(index).fill(Frame::zeroed());
    }
    let each = cost(&cache, &[file], true).div_ceil(usize::try_from(pages).unwrap());
    println!("{each} bytes for each of the pages that are far apart");
    assert!(each <= 288, "{each} bytes");
}
