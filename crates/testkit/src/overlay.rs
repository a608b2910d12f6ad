//! A copy-on-write layer over a device that never changes: what a crash state is made of.
//!
//! It holds only the pages that were written to it, so that thousands of states of one image cost what differs between
//! them. Layers stack. Lock order: an overlay's lock, then its base's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use cowback_base::sync::RwLock;
use cowback_block_store::BlockDevice;

use crate::random::to_usize;

/// Bytes of a page of an overlay.
pub const PAGE: u64 = 4096;
const PAGE_USIZE: usize = 4096;

/// What a discarded byte reads as: neither what it was, nor zero.
const SHRED: u8 = 0xde;

/// Most bytes at each end of a discarded range that are shredded; what lies between reads as before, as it may.
const SHRED_MOST: u64 = 1 << 20;

/// The bytes of one page, shared by all copies of an overlay that have not changed it.
pub type Page = Arc<[u8; PAGE_USIZE]>;

/// A device that shows its base, except where it was written to.
pub struct Overlay {
    base: Arc<dyn BlockDevice>,
    inner: RwLock<Inner>,
}

#[derive(Clone)]
struct Inner {
    len: u64,
    /// Bytes of the base that still show; what was cut off once does not come back.
    visible: u64,
    pages: BTreeMap<u64, Page>,
}

impl Overlay {
    /// A layer over `base`, which must not change any more.
    ///
    /// # Errors
    /// The base's own.
    pub fn over(base: Arc<dyn BlockDevice>) -> io::Result<Self> {
        let len = base.len()?;
        let inner = Inner { len, visible: len, pages: BTreeMap::new() };
        Ok(Self { base, inner: RwLock::new(inner) })
    }

    /// An independent copy over the same base; pages are shared until one of the two changes them.
    #[must_use]
    pub fn fork(&self) -> Self {
        let inner = self.inner.read().clone();
        Self { base: Arc::clone(&self.base), inner: RwLock::new(inner) }
    }

    /// The numbers of the pages in which this layer may differ from its base, within its length.
    ///
    /// # Errors
    /// The base's own.
    pub fn pages(&self) -> io::Result<BTreeSet<u64>> {
        let inner = self.inner.read();
        let hidden = inner.visible / PAGE..self.base.len()?.min(inner.len).div_ceil(PAGE);
        let hidden = hidden.filter(|_| inner.visible < inner.len);
        Ok(inner.pages.keys().copied().chain(hidden).collect())
    }

    /// The bytes of page `number`; zeros beyond the end of the device.
    ///
    /// # Errors
    /// The base's own.
    pub fn page(&self, number: u64) -> io::Result<Page> {
        self.inner.read().page(&*self.base, number)
    }

    /// Writes the parts of `data` for whose 512-byte sectors (counted from the start of `data`) `present` holds.
    ///
    /// # Errors
    /// The base's own.
    pub fn write_sectors(
        &self,
        offset: u64,
        data: &[u8],
        mut present: impl FnMut(usize) -> bool,
    ) -> io::Result<()> {
        let mut at = offset;
        for (number, sector) in data.chunks(crate::SECTOR).enumerate() {
            if present(number) {
                self.grow_and_write(at, sector)?;
            }
            at += sector.len() as u64;
        }
        Ok(())
    }

    /// As [`BlockDevice::write_at`], and makes the device longer if need be, as an image file does.
    ///
    /// # Errors
    /// The base's own.
    pub fn grow_and_write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.inner.write();
        inner.len = inner.len.max(offset + data.len() as u64);
        inner.write(&*self.base, offset, data)
    }

    /// Writes the whole content to an image file, leaving zero pages as holes.
    ///
    /// # Errors
    /// The system's, or the base's own.
    pub fn write_to(&self, path: &Path) -> io::Result<()> {
        let file = File::create(path)?;
        let len = self.len()?;
        file.set_len(len)?;
        let mut buf = vec![0; 1 << 20];
        let mut at = 0;
        while at < len {
            let bytes = to_usize((len - at).min(buf.len() as u64));
            self.read_at(at, &mut buf[..bytes])?;
            for (page, data) in buf[..bytes].chunks(PAGE_USIZE).enumerate() {
                if data.iter().any(|byte| *byte != 0) {
                    file.write_all_at(data, at + page as u64 * PAGE)?;
                }
            }
            at += bytes as u64;
        }
        Ok(())
    }

    /// All bytes, as an image file would hold them.
    ///
    /// # Errors
    /// The base's own.
    pub fn to_vec(&self) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; to_usize(self.len()?)];
        self.read_at(0, &mut bytes)?;
        Ok(bytes)
    }

    fn check(&self, offset: u64, len: usize, kind: io::ErrorKind) -> io::Result<()> {
        let device = self.inner.read().len;
        match offset.checked_add(len as u64) {
            Some(end) if end <= device => Ok(()),
            _ => Err(io::Error::new(kind, format!("{len} bytes at {offset} of {device}"))),
        }
    }
}

impl Inner {
    /// What the base shows of page `number`.
    fn below(&self, base: &dyn BlockDevice, number: u64) -> io::Result<[u8; PAGE_USIZE]> {
        let mut page = [0; PAGE_USIZE];
        let at = number * PAGE;
        if at < self.visible {
            let bytes = to_usize((self.visible - at).min(PAGE));
            base.read_at(at, &mut page[..bytes])?;
        }
        Ok(page)
    }

    fn page(&self, base: &dyn BlockDevice, number: u64) -> io::Result<Page> {
        match self.pages.get(&number) {
            Some(page) => Ok(Arc::clone(page)),
            None => Ok(Arc::new(self.below(base, number)?)),
        }
    }

    fn write(&mut self, base: &dyn BlockDevice, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut at = offset;
        let mut rest = data;
        while !rest.is_empty() {
            let (number, within) = (at / PAGE, to_usize(at % PAGE));
            let bytes = rest.len().min(PAGE_USIZE - within);
            let (now, after) = rest.split_at(bytes);
            if !self.pages.contains_key(&number) {
                let fresh = if bytes == PAGE_USIZE {
                    Arc::new([0; PAGE_USIZE])
                } else {
                    Arc::new(self.below(base, number)?)
                };
                self.pages.insert(number, fresh);
            }
            let page = self.pages.get_mut(&number).expect("it was inserted above");
            Arc::make_mut(page)[within..within + bytes].copy_from_slice(now);
            at += bytes as u64;
            rest = after;
        }
        Ok(())
    }

    fn set_len(&mut self, base: &dyn BlockDevice, len: u64) -> io::Result<()> {
        if len < self.len {
            drop(self.pages.split_off(&len.div_ceil(PAGE)));
            let within = to_usize(len % PAGE);
            if within > 0 {
                let mut last = *self.page(base, len / PAGE)?;
                last[within..].fill(0);
                self.pages.insert(len / PAGE, Arc::new(last));
            }
            self.visible = self.visible.min(len);
        }
        self.len = len;
        Ok(())
    }
}

/// The pages that a discard of `start..end` shreds.
pub(crate) fn shredded(start: u64, end: u64) -> impl Iterator<Item = u64> {
    let (first, last) = (start.div_ceil(PAGE), end / PAGE);
    let most = SHRED_MOST / PAGE;
    let head = first..last.min(first + most);
    let tail = last.saturating_sub(most).max(head.end)..last;
    head.chain(tail)
}

impl BlockDevice for Overlay {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.check(offset, buf.len(), io::ErrorKind::UnexpectedEof)?;
        let inner = self.inner.read();
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let (number, within) = (at / PAGE, to_usize(at % PAGE));
            let bytes = rest.len().min(PAGE_USIZE - within);
            let (now, after) = rest.split_at_mut(bytes);
            match inner.pages.get(&number) {
                Some(page) => now.copy_from_slice(&page[within..within + bytes]),
                None => {
                    let shown = to_usize(inner.visible.saturating_sub(at).min(bytes as u64));
                    if shown > 0 {
                        self.base.read_at(at, &mut now[..shown])?;
                    }
                    now[shown..].fill(0);
                }
            }
            at += bytes as u64;
            rest = after;
        }
        Ok(())
    }

    fn write_vectored_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let total = parts.iter().map(|part| part.len()).sum();
        self.check(offset, total, io::ErrorKind::WriteZero)?;
        let mut inner = self.inner.write();
        let mut at = offset;
        for part in parts {
            inner.write(&*self.base, at, part)?;
            at += part.len() as u64;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.inner.read().len)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.write().set_len(&*self.base, len)
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut inner = self.inner.write();
        let page: Page = Arc::new([SHRED; PAGE_USIZE]);
        for number in shredded(offset, offset.saturating_add(len).min(inner.len)) {
            inner.pages.insert(number, Arc::clone(&page));
        }
        Ok(())
    }
}

impl fmt::Debug for Overlay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.inner.read();
        f.debug_struct("Overlay")
            .field("len", &inner.len)
            .field("pages", &inner.pages.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use cowback_block_store::MemoryDevice;

    use super::*;
    use crate::random::Rng;

    fn base(len: usize) -> (Arc<MemoryDevice>, Vec<u8>) {
        let bytes = Rng::new(3).bytes(len);
        let device = MemoryDevice::new(len as u64);
        device.write_at(0, &bytes).unwrap();
        (Arc::new(device), bytes)
    }

    #[test]
    fn agrees_with_a_vector_under_random_changes() {
        for seed in 0..20 {
            let mut rng = Rng::new(seed);
            let (device, mut model) = base(50_000);
            let overlay = Overlay::over(device.clone()).unwrap();
            let before = device.to_vec();
            for _ in 0..200 {
                let at = rng.index(model.len() + 1);
                match rng.below(10) {
                    0 => {
                        let len = rng.index(80_000);
                        model.resize(len, 0);
                        overlay.set_len(len as u64).unwrap();
                    }
                    1..=5 => {
                        let len = rng.index((model.len() - at).min(9000) + 1);
                        let data = rng.bytes(len);
                        model[at..at + data.len()].copy_from_slice(&data);
                        overlay.write_at(at as u64, &data).unwrap();
                    }
                    _ => {
                        let mut got = vec![0; rng.index(model.len() - at + 1)];
                        overlay.read_at(at as u64, &mut got).unwrap();
                        assert_eq!(got, model[at..at + got.len()], "seed {seed}");
                    }
                }
            }
            assert_eq!(overlay.to_vec().unwrap(), model, "seed {seed}");
            assert_eq!(device.to_vec(), before, "the base does not change");
        }
    }

    #[test]
    fn forks_are_independent_and_files_equal() {
        let (device, bytes) = base(20_000);
        let first = Overlay::over(device).unwrap();
        first.write_at(4090, b"twelve bytes").unwrap();
        let second = first.fork();
        second.write_at(4090, b"another word").unwrap();
        let mut want = bytes;
        want[4090..4102].copy_from_slice(b"twelve bytes");
        assert_eq!(first.to_vec().unwrap(), want);
        want[4090..4102].copy_from_slice(b"another word");
        assert_eq!(second.to_vec().unwrap(), want);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        second.write_to(&path).unwrap();
        assert_eq!(std::fs::read(path).unwrap(), want);
    }

    #[test]
    fn refuses_what_lies_beyond_the_end_and_shreds_what_was_discarded() {
        let (device, bytes) = base(16_384);
        let overlay = Overlay::over(device).unwrap();
        let error = overlay.read_at(16_380, &mut [0; 5]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert!(overlay.write_at(16_380, &[0; 5]).is_err());
        overlay.discard(1, 8191).unwrap();
        let got = overlay.to_vec().unwrap();
        assert_eq!(got[..4096], bytes[..4096], "only whole pages go");
        assert!(got[4096..8192].iter().all(|byte| *byte == SHRED));
        assert_eq!(got[8192..], bytes[8192..]);
    }
}
