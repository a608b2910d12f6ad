//! Tests of copying in and out: what needs reading first, what a snapshot sees, who wins against a read-in.

use bytes::Bytes;

use super::*;
use crate::{CacheLimits, Frame, PageCache, PageFlags, PageOps};

/// No page has old content.
const ALL_NEW: PageIndex = PageIndex(0);
/// Every page may have old content.
const ALL_OLD: PageIndex = PageIndex(u64::MAX);

fn file() -> std::sync::Arc<Mapping> {
    PageCache::new(CacheLimits::default()).mapping(1)
}

fn pages(start: u64, end: u64) -> PageRange {
    PageRange::new(PageIndex(start), PageIndex(end))
}

#[test]
fn a_write_stops_at_the_first_page_whose_old_content_it_needs() {
    let file = file();
    let src = vec![7; 3 * 4096];
    let stop = |written, page| WriteOutcome { written, needs_read: page };
    // Head missing.
    assert_eq!(file.write(100, &src, ALL_OLD, |_| panic!()), stop(0, Some(PageIndex(0))));
    // Tail missing: what was written before counts.
    let mut dirtied = Vec::new();
    let outcome = file.write(4096, &src[..2 * 4096 + 1], ALL_OLD, |run| dirtied.push(run));
    assert_eq!(outcome, stop(2 * 4096, Some(PageIndex(3))));
    assert_eq!(dirtied, [pages(1, 3)]);
    assert_eq!(file.dirty_count(), 2);
    // Read in what is missing, and go on.
    assert!(file.lock_page(PageIndex(3)).fill(Frame::from_slice(&[9; 4096])));
    let outcome = file.write(3 * 4096, &src[..1], ALL_OLD, |run| dirtied.push(run));
    assert_eq!(outcome, stop(1, None));
    assert_eq!(file.frame(PageIndex(3)).unwrap().bytes()[..2], [7, 9]);
    assert_eq!(dirtied, [pages(1, 3), pages(3, 4)]);
    // Dirty pages are not reported again.
    assert_eq!(file.write(4096, &src, ALL_OLD, |_| panic!()), stop(3 * 4096, None));
}

#[test]
fn beyond_old_content_what_is_not_written_is_zero() {
    let file = file();
    let outcome = file.write(5 * 4096 + 10, &[1; 20], PageIndex(5), |_| {});
    assert_eq!(outcome, WriteOutcome { written: 20, needs_read: None });
    let frame = file.frame(PageIndex(5)).unwrap();
    let expected: Vec<u8> = (0..4096).map(|i| u8::from((10..30).contains(&i))).collect();
    assert_eq!(frame.bytes()[..], expected);
    assert_eq!(
        file.write(4 * 4096, &[1; 20], PageIndex(5), |_| {}).needs_read,
        Some(PageIndex(4)),
        "the page before may have old content"
    );
}

#[test]
fn a_write_across_leaves_reports_one_run_per_leaf_and_reads_back() {
    let file = file();
    let src: Vec<u8> = (0..100 * 4096_u32).map(|i| (i / 7 % 251) as u8).collect();
    let mut dirtied = Vec::new();
    let offset = 20 * 4096 + 33;
    let outcome = file.write(offset, &src, ALL_NEW, |run| dirtied.push(run));
    assert_eq!(outcome.written, src.len());
    assert_eq!(dirtied, [pages(20, 32), pages(32, 64), pages(64, 96), pages(96, 121)]);
    let mut back = vec![0; src.len() + 5000];
    let rest_of_page = usize::try_from(121 * 4096 - offset).unwrap();
    assert_eq!(file.read(offset, &mut back), rest_of_page);
    assert!(back[..src.len()] == src[..]);
    assert_eq!(file.frames(pages(119, 130)).len(), 2);
    assert_eq!(file.frames(pages(0, 3)).len(), 0);
}

#[test]
fn law_b1_who_holds_a_frame_does_not_see_later_writes() {
    let file = file();
    file.write(0, &[1; 8192], ALL_NEW, |_| {});
    let snapshots: Vec<Bytes> = file.frames(pages(0, 2)).into_iter().map(Bytes::from).collect();
    file.write(0, &[2; 4096], ALL_NEW, |_| {}); // whole page
    file.write(4096, &[2; 10], ALL_NEW, |_| {}); // part of one
    file.zero_tail(4096 + 100);
    assert!(snapshots.iter().all(|bytes| bytes.iter().all(|byte| *byte == 1)));
    let mut now = [0; 8192];
    assert_eq!(file.read(0, &mut now), 8192);
    assert_eq!((now[0], now[4095], now[4096 + 9], now[4096 + 10]), (2, 2, 2, 1));
    assert!(now[4096 + 100..].iter().all(|byte| *byte == 0));
}

#[test]
fn a_writer_does_not_wait_for_page_lock_or_writeback_and_does_not_touch_the_version_in_flight() {
    let file = file();
    file.write(0, &[1; 4096], ALL_NEW, |_| {});
    let run = file.lock_contig(pages(0, 1), crate::Busy::Wait);
    let (frames, _charge) = run.freeze(|_| {});
    file.write(0, &[2; 4096], ALL_NEW, |_| {});
    assert_eq!(frames[0].bytes()[..], [1; 4096]);
    assert!(run.release(PageOps::SET_WRITEBACK, None).is_none());
    file.write(10, &[3; 4], ALL_NEW, |_| panic!("it is dirty already"));
    assert_eq!(frames[0].bytes()[..], [1; 4096]);
    let both = PageFlags::DIRTY | PageFlags::WRITEBACK;
    assert!(file.flags(PageIndex(0)).contains(both));
    file.complete(pages(0, 1), PageOps::END_WRITEBACK);
    assert_eq!((file.dirty_count(), file.writeback_count()), (1, 0));
    file.truncate(PageIndex(0), |_| {});
}

#[test]
fn a_read_in_does_not_clobber_what_was_written_meanwhile() {
    let file = file();
    let reading = file.lock_page(PageIndex(0));
    file.write(0, &[5; 4096], ALL_OLD, |_| {});
    assert!(file.wait_uptodate(PageIndex(0)), "the writer made it uptodate");
    assert!(!reading.fill(Frame::zeroed()), "the frame read is out of date");
    assert_eq!(reading.frame().unwrap().bytes()[..], [5; 4096]);
    assert!(reading.is_dirty());
    reading.unlock();
    // A read-in that fails leaves nothing behind.
    drop(file.lock_page(PageIndex(1)));
    assert!(!file.wait_uptodate(PageIndex(1)));
    assert_eq!(file.flags(PageIndex(1)), PageFlags::empty());
}

#[test]
#[should_panic(expected = "beyond the last offset")]
fn an_offset_that_overflows_is_refused() {
    file().write(u64::MAX - 3, &[0; 5], ALL_NEW, |_| {});
}
