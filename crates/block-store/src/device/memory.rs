//! A device in memory, for tests, models and scratch volumes (stage 7).
//!
//! Sparse: it holds 1 MiB pieces that were written to. Lock order: the map of pieces, then one piece; both are leaves.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use cowback_base::sync::{Mutex, RwLock};

use super::BlockDevice;

/// Bytes of one piece.
const PIECE: u64 = 1 << 20;
const PIECE_USIZE: usize = 1 << 20;

type Piece = Arc<Mutex<Vec<u8>>>;

/// A device in memory.
pub struct MemoryDevice {
    inner: RwLock<Inner>,
}

struct Inner {
    len: u64,
    pieces: BTreeMap<u64, Piece>,
}

impl MemoryDevice {
    /// A device of `len` zeros.
    #[must_use]
    pub fn new(len: u64) -> Self {
        Self { inner: RwLock::new(Inner { len, pieces: BTreeMap::new() }) }
    }

    /// All bytes, as an image file would hold them.
    ///
    /// # Panics
    /// If the device is larger than the address space.
    #[must_use]
    pub fn to_vec(&self) -> Vec<u8> {
        let len = self.inner.read().len;
        let mut bytes = vec![0; usize::try_from(len).expect("the device fits in memory")];
        self.read_at(0, &mut bytes).expect("the range lies within the device");
        bytes
    }

    /// Bytes of memory that pieces take up.
    #[must_use]
    pub fn resident(&self) -> u64 {
        self.inner.read().pieces.len() as u64 * PIECE
    }

    /// The piece at `index`, made if there is none.
    fn piece(&self, index: u64) -> Piece {
        if let Some(piece) = self.inner.read().pieces.get(&index) {
            return Arc::clone(piece);
        }
        let fresh = || Arc::new(Mutex::new(vec![0; PIECE_USIZE]));
        Arc::clone(self.inner.write().pieces.entry(index).or_insert_with(fresh))
    }

    fn check(&self, offset: u64, len: usize, kind: io::ErrorKind) -> io::Result<()> {
        let end = offset.checked_add(len as u64);
        let device = self.inner.read().len;
        match end {
            Some(end) if end <= device => Ok(()),
            _ => Err(io::Error::new(kind, format!("{len} bytes at {offset} of {device}"))),
        }
    }
}

/// Cuts `len` bytes at `offset` at piece borders: (piece, offset in it, bytes).
fn cut(offset: u64, len: usize) -> impl Iterator<Item = (u64, usize, usize)> {
    let (mut at, mut left) = (offset, len);
    std::iter::from_fn(move || {
        if left == 0 {
            return None;
        }
        let within = usize::try_from(at % PIECE).expect("less than a piece");
        let bytes = left.min(PIECE_USIZE - within);
        let item = (at / PIECE, within, bytes);
        at += bytes as u64;
        left -= bytes;
        Some(item)
    })
}

impl BlockDevice for MemoryDevice {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        self.check(offset, buf.len(), io::ErrorKind::UnexpectedEof)?;
        let mut rest = buf;
        for (index, within, bytes) in cut(offset, rest.len()) {
            let (part, after) = rest.split_at_mut(bytes);
            let piece = self.inner.read().pieces.get(&index).map(Arc::clone);
            match piece {
                Some(piece) => part.copy_from_slice(&piece.lock()[within..within + bytes]),
                None => part.fill(0),
            }
            rest = after;
        }
        Ok(())
    }

    fn write_vectored_at(&self, offset: u64, parts: &[&[u8]]) -> io::Result<()> {
        let total = parts.iter().map(|part| part.len()).sum();
        self.check(offset, total, io::ErrorKind::WriteZero)?;
        let mut at = offset;
        for part in parts {
            let mut rest = *part;
            for (index, within, bytes) in cut(at, part.len()) {
                let (now, after) = rest.split_at(bytes);
                self.piece(index).lock()[within..within + bytes].copy_from_slice(now);
                rest = after;
            }
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
        let mut inner = self.inner.write();
        if len < inner.len {
            let kept = len.div_ceil(PIECE);
            drop(inner.pieces.split_off(&kept));
            if let Some(last) = inner.pieces.get(&(len / PIECE)) {
                let within = usize::try_from(len % PIECE).expect("less than a piece");
                last.lock()[within..].fill(0);
            }
        }
        inner.len = len;
        Ok(())
    }

    fn discard(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.saturating_add(len);
        let (first, last) = (offset.div_ceil(PIECE), end / PIECE);
        if first < last {
            let mut inner = self.inner.write();
            let mut tail = inner.pieces.split_off(&first);
            let mut after = tail.split_off(&last);
            inner.pieces.append(&mut after);
        }
        Ok(())
    }
}

impl fmt::Debug for MemoryDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.inner.read();
        f.debug_struct("MemoryDevice")
            .field("len", &inner.len)
            .field("pieces", &inner.pieces.len())
            .finish()
    }
}
