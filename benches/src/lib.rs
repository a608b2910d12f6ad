//! What the benchmarks share: data that compresses about as real files do, and a store that costs nothing.

use cowback_base::sync::atomic::{AtomicU64, Ordering};
use cowback_base::{BLOCK_SIZE, ByteRange, Bytenr, Ino};
use cowback_extent_io::store::{
    DiskExtent, ExtentKind, ExtentMap, ExtentStore, FinishedExtent, InPlace, InlineExtent,
    OrderedKind, PreallocMode, StoreError, StoreResult, WrittenExtent,
};

/// `len` bytes, of which about two thirds are words and the rest noise, the same each time.
#[must_use]
pub fn mixed(len: usize) -> Vec<u8> {
    const WORDS: &[&str] =
        &["extent ", "delalloc ", "page ", "fn ", "let ", "chunk: ", "0x1f, ", "\n    "];
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(len + 16);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        if state.is_multiple_of(3) {
            bytes.extend_from_slice(&state.to_le_bytes());
        } else {
            let word = usize::try_from(state >> 32).unwrap_or(0) % WORDS.len();
            bytes.extend_from_slice(WORDS[word].as_bytes());
        }
    }
    bytes.truncate(len);
    bytes
}

/// A store whose space never ends and whose device takes everything at once.
#[derive(Debug, Default)]
pub struct NullStore {
    next: AtomicU64,
}

impl ExtentStore for NullStore {
    fn reserve_data(&self, _: u64) -> StoreResult<()> {
        Ok(())
    }

    fn reserve_data_again(&self, _: u64) {}

    fn release_data(&self, _: u64) {}

    fn reserve_in_place(&self, _: u64) -> StoreResult<()> {
        Ok(())
    }

    fn reserve_in_place_again(&self, _: u64) {}

    fn release_in_place(&self, _: u64) {}

    fn claim_in_place(&self, _: Ino, range: ByteRange) -> StoreResult<InPlace> {
        Ok(InPlace { len: range.len(), extent: None })
    }

    fn alloc_extent(&self, want: u64, _: u64) -> StoreResult<DiskExtent> {
        let bytenr = Bytenr(self.next.fetch_add(want, Ordering::Relaxed));
        Ok(DiskExtent { bytenr, len: want, kind: OrderedKind::Regular })
    }

    fn free_extent(&self, _: DiskExtent) {}

    fn write_extent(
        &self,
        extent: DiskExtent,
        _: &[&[u8]],
    ) -> Result<WrittenExtent, (DiskExtent, StoreError)> {
        Ok(WrittenExtent { extent, sums: Vec::new() })
    }

    fn finish_ordered(&self, _: FinishedExtent) -> StoreResult<()> {
        Ok(())
    }

    fn insert_inline(&self, _: Ino, _: InlineExtent) -> StoreResult<()> {
        Ok(())
    }

    fn truncate_extents(&self, _: Ino, _: u64) -> StoreResult<()> {
        Ok(())
    }

    fn punch_extents(&self, _: Ino, _: ByteRange) -> StoreResult<()> {
        Ok(())
    }

    fn prealloc_extents(&self, _: Ino, _: ByteRange, _: PreallocMode) -> StoreResult<()> {
        Ok(())
    }

    fn lookup_extent(&self, _: Ino, offset: u64) -> StoreResult<ExtentMap> {
        let start = offset - offset % BLOCK_SIZE;
        Ok(ExtentMap {
            range: ByteRange::new(start, u64::MAX - BLOCK_SIZE + 1),
            kind: ExtentKind::Hole,
        })
    }

    fn read_extent(&self, _: Ino, _: Bytenr, target: &mut [u8]) -> StoreResult<()> {
        target.fill(0);
        Ok(())
    }
}
