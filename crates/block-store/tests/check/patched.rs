//! A device over bytes that many tests share, with changes of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Arc;

use cowback_base::sync::Mutex;
use cowback_block_store::BlockDevice;

const PAGE: u64 = 4096;

/// Shared bytes, and pages that differ from them.
#[derive(Debug, Clone)]
pub(crate) struct Patched {
    base: Arc<Vec<u8>>,
    pages: Arc<Mutex<BTreeMap<u64, Vec<u8>>>>,
}

impl Patched {
    /// `base`, unchanged. Its length is a multiple of the page size.
    pub(crate) fn new(base: &Arc<Vec<u8>>) -> Self {
        Self { base: Arc::clone(base), pages: Arc::default() }
    }

    fn base_page(&self, index: u64) -> &[u8] {
        let at = usize::try_from(index * PAGE).unwrap();
        &self.base[at..at + usize::try_from(PAGE).unwrap()]
    }

    /// Bytes of the device.
    pub(crate) fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.read_at(at, &mut bytes).unwrap();
        bytes
    }

    /// Writes the bytes into a file, sparsely.
    pub(crate) fn save(&self, path: &Path) {
        let file = File::create(path).unwrap();
        file.set_len(self.base.len() as u64).unwrap();
        let pages = self.pages.lock();
        for index in 0..self.base.len() as u64 / PAGE {
            let page = pages.get(&index).map_or(self.base_page(index), Vec::as_slice);
            if page.iter().any(|byte| *byte != 0) {
                file.write_all_at(page, index * PAGE).unwrap();
            }
        }
    }
}

impl BlockDevice for Patched {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let start = usize::try_from(offset).unwrap();
        let base = self.base.get(start..start + buf.len());
        buf.copy_from_slice(base.ok_or(io::ErrorKind::UnexpectedEof)?);
        let end = offset + buf.len() as u64;
        for (index, page) in self.pages.lock().range(offset / PAGE..end.div_ceil(PAGE)) {
            let at = index * PAGE;
            let (from, to) = (at.max(offset), (at + PAGE).min(end));
            let within = |base: u64| {
                usize::try_from(from - base).unwrap()..usize::try_from(to - base).unwrap()
            };
            buf[within(offset)].copy_from_slice(&page[within(at)]);
        }
        Ok(())
    }

    fn write_vectored_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let bytes = parts.concat();
        let mut pages = self.pages.lock();
        for (at, byte) in (offset..).zip(&bytes) {
            let page = pages.entry(at / PAGE).or_insert_with(|| self.base_page(at / PAGE).to_vec());
            page[usize::try_from(at % PAGE).unwrap()] = *byte;
        }
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.base.len() as u64)
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}
