//! How far to read ahead of a reader: a window that grows while the reads follow one another, shrinks where pages that were read ahead
//! have gone before the reader came, and is closed by a jump. It is never more than its share of the cache.

use cowback_base::sync::Mutex;
use cowback_base::{ByteRange, PageIndex, PageRange};

/// First window of a sequential reader, in pages (256 KiB).
const WINDOW_FIRST: u64 = 64;
/// Widest window, in pages (4 MiB).
const WINDOW_MAX: u64 = 1024;
/// And at most one part of the cache in so many.
const WINDOW_SHARE: u64 = 8;
/// Pages behind a sequential reader that it may come back to (4 MiB).
const BEHIND_KEPT: u64 = 1024;
/// Windows end at multiples of this many pages, so that a compressed extent is not read for a part of it.
const WINDOW_ALIGN: u64 = 32;

/// One reader's pattern. Each open handle has one.
#[derive(Debug, Default)]
pub struct Readahead {
    state: Mutex<Pattern>,
}

#[derive(Debug, Default)]
struct Pattern {
    /// Where the next read begins if it follows the last.
    next: u64,
    /// Pages in the window; zero for a reader that jumps.
    window: u64,
    /// One past the last page that was asked for ahead.
    ahead: PageIndex,
    /// Pages that were read ahead have gone since the last plan: the window does not grow with the next.
    lost: bool,
    /// The end of a read after a jump: nothing is read ahead beyond it until another read follows.
    alone: Option<PageIndex>,
    /// Where the sequence began, or one past the last page that was given up behind the reader.
    behind: PageIndex,
}

impl Readahead {
    /// A read of `range` comes, which goes on up to page `goes_on_to`, in a file whose pages end before `eof`, through a cache of `budget`
    /// pages. Returns the pages to have read ahead of it, if any. What `range` itself needs is not part of it.
    pub fn plan(
        &self,
        range: ByteRange,
        goes_on_to: PageIndex,
        eof: PageIndex,
        budget: u64,
    ) -> Option<PageRange> {
        let mut pattern = self.state.lock();
        let sequential = range.start == pattern.next;
        let end = range.pages().end;
        let certain = goes_on_to.0.saturating_sub(end.0);
        pattern.next = range.end;
        if !sequential {
            let alone = Some(goes_on_to);
            *pattern = Pattern { next: range.end, behind: end, alone, ..Pattern::default() };
        }
        pattern.alone = pattern.alone.filter(|end| goes_on_to <= *end);
        // The next window is asked for when the reader has come half-way through the present one.
        if pattern.ahead.0 > end.0 + pattern.window / 2 {
            return None;
        }
        let grown = match (sequential, pattern.lost) {
            (false, _) => 0,
            (true, true) => pattern.window,
            (true, false) => (pattern.window * 2).max(WINDOW_FIRST),
        };
        pattern.window = grown.max(certain).min(WINDOW_MAX.min(budget / WINDOW_SHARE));
        pattern.lost = false;
        let start = end.max(pattern.ahead);
        let most = pattern.alone.map_or(eof, |end| end.min(eof));
        let target = (end.0 + pattern.window).next_multiple_of(WINDOW_ALIGN).min(most.0);
        if target <= start.0 {
            return None;
        }
        pattern.ahead = PageIndex(target);
        Some(PageRange::new(start, PageIndex(target)))
    }

    /// The reader found `page` absent, and reads it itself. If it was read ahead, it has gone since: the window is too wide for the
    /// memory that there is.
    pub fn missed(&self, page: PageIndex) {
        let mut pattern = self.state.lock();
        if page < pattern.ahead && pattern.window > 0 {
            pattern.window = (pattern.window / 2).max(WINDOW_ALIGN);
            pattern.ahead = page;
            pattern.lost = true;
        }
    }

    /// Where the last read ended, in bytes. To be asked before the next one is planned.
    #[must_use]
    pub fn last_end(&self) -> u64 {
        self.state.lock().next
    }

    /// The pages that a sequential reader has left behind since this was last asked, but for the last few. Whoever reads a file that
    /// is larger than the cache can keep gives them up.
    pub fn behind(&self) -> Option<PageRange> {
        let mut pattern = self.state.lock();
        let kept = PageIndex::containing(pattern.next).0.saturating_sub(BEHIND_KEPT);
        if pattern.window == 0 || kept < pattern.behind.0 + WINDOW_ALIGN {
            return None;
        }
        let pages = PageRange::new(pattern.behind, PageIndex(kept));
        pattern.behind = pages.end;
        Some(pages)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EOF: PageIndex = PageIndex(100_000);
    /// Pages of a cache that leaves the window as wide as it can be.
    const AMPLE: u64 = 1 << 16;

    fn plan(
        readahead: &Readahead,
        range: ByteRange,
        eof: PageIndex,
        budget: u64,
    ) -> Option<PageRange> {
        readahead.plan(range, range.pages().end, eof, budget)
    }

    #[test]
    fn a_sequential_reader_is_kept_ahead_of_and_each_page_asked_for_once() {
        let readahead = Readahead::default();
        let mut asked = 0;
        for read in 0..2000u64 {
            let range = ByteRange::at(read * 65536, 65536);
            if let Some(ahead) = plan(&readahead, range, EOF, AMPLE) {
                assert!(ahead.start.0 >= asked, "asked twice for {ahead:?}");
                assert!(ahead.count() <= 2 * WINDOW_MAX);
                asked = ahead.end.0;
            }
            assert!(asked >= range.pages().end.0, "behind the reader at read {read}");
        }
    }

    #[test]
    fn a_jump_closes_the_window() {
        let readahead = Readahead::default();
        assert!(plan(&readahead, ByteRange::at(0, 4096), EOF, AMPLE).is_some());
        assert!(plan(&readahead, ByteRange::at(1 << 30, 4096), EOF, AMPLE).is_none());
        assert!(plan(&readahead, ByteRange::at(5 << 20, 4096), EOF, AMPLE).is_none());
        let again = plan(&readahead, ByteRange::at((5 << 20) + 4096, 4096), EOF, AMPLE).unwrap();
        assert!(again.count() <= WINDOW_FIRST + WINDOW_ALIGN, "it starts small again: {again:?}");
    }

    #[test]
    fn what_a_scan_leaves_behind_is_given_up_once_and_a_jump_gives_up_nothing() {
        let readahead = Readahead::default();
        let mut given = 0;
        for read in 0..100u64 {
            plan(&readahead, ByteRange::at(read << 20, 1 << 20), EOF, AMPLE);
            if let Some(behind) = readahead.behind() {
                assert_eq!(behind.start.0, given, "each page once");
                given = behind.end.0;
            }
        }
        assert_eq!(given, 100 * 256 - BEHIND_KEPT);
        plan(&readahead, ByteRange::at(3 << 30, 4096), EOF, AMPLE);
        assert!(readahead.behind().is_none());
    }

    #[test]
    fn nothing_is_read_ahead_beyond_the_end() {
        let readahead = Readahead::default();
        let ahead = plan(&readahead, ByteRange::at(0, 4096), PageIndex(3), AMPLE).unwrap();
        assert_eq!(ahead.end, PageIndex(3));
        assert!(plan(&readahead, ByteRange::at(4096, 8192), PageIndex(3), AMPLE).is_none());
    }

    #[test]
    fn the_window_is_never_more_than_its_share_of_the_cache() {
        for budget in [0, 1, 256, 1000, 8192, AMPLE] {
            let readahead = Readahead::default();
            for read in 0..400u64 {
                let range = ByteRange::at(read * 65536, 65536);
                let ahead = plan(&readahead, range, EOF, budget).map_or(0, |ahead| ahead.end.0);
                let most = range.pages().end.0 + budget / WINDOW_SHARE + WINDOW_ALIGN;
                assert!(ahead <= most, "{budget} pages: read {read} asks up to page {ahead}");
            }
        }
    }

    #[test]
    fn the_window_shrinks_while_what_was_read_ahead_is_lost_and_grows_again() {
        let readahead = Readahead::default();
        let read = |number: u64| {
            plan(&readahead, ByteRange::at(number * 65536, 65536), EOF, AMPLE);
        };
        let window = || readahead.state.lock().window;
        (0..200).for_each(read);
        assert_eq!(window(), WINDOW_MAX);

        let mut before = window();
        for number in 200..212 {
            readahead.missed(PageIndex(number * 16));
            read(number);
            assert!(window() < before || window() == WINDOW_ALIGN, "{} after {before}", window());
            before = window();
        }
        assert_eq!(window(), WINDOW_ALIGN);

        readahead.missed(PageIndex(1 << 40));
        (212..600).for_each(read);
        assert_eq!(window(), WINDOW_MAX, "a page that nobody asked for is not lost");
    }

    #[test]
    fn what_was_lost_is_asked_for_again() {
        let readahead = Readahead::default();
        for number in 0..100 {
            plan(&readahead, ByteRange::at(number * 65536, 65536), EOF, AMPLE);
        }
        readahead.missed(PageIndex(1600));
        let again = plan(&readahead, ByteRange::at(100 * 65536, 65536), EOF, AMPLE).unwrap();
        assert_eq!(again.start, PageIndex(1616), "right behind the read");
    }

    #[test]
    fn what_a_long_read_goes_on_to_is_read_ahead_at_once_and_no_more() {
        let readahead = Readahead::default();
        let step = ByteRange::at(77 << 20, 1 << 20);
        let end = PageIndex(80 * 256);
        let ahead = readahead.plan(step, end, EOF, AMPLE).unwrap();
        assert_eq!(ahead, PageRange::new(step.pages().end, end));
        for at in [78 << 20, 79 << 20] {
            let ahead = readahead.plan(ByteRange::at(at, 1 << 20), end, EOF, AMPLE);
            assert_eq!(ahead, None, "it has come already");
        }
        let follows = ByteRange::at(80 << 20, 1 << 20);
        let ahead = readahead.plan(follows, PageIndex(81 * 256), EOF, AMPLE).unwrap();
        assert_eq!(ahead.start, follows.pages().end, "it is one of a sequence");
    }
}
