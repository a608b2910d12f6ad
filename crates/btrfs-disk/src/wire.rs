//! Little-endian cursors: a [`Reader`] that fails by name instead of running off the end, and a [`Writer`].

use uuid::Uuid;

use crate::error::{DiskError, DiskResult};
use crate::key::{ItemKind, Key};

/// Reads fields of one structure, front to back.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    structure: &'static str,
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    /// At the first byte of `bytes`.
    pub(crate) const fn new(structure: &'static str, bytes: &'a [u8]) -> Self {
        Self { structure, bytes, at: 0 }
    }

    /// Bytes read so far.
    pub(crate) const fn at(&self) -> usize {
        self.at
    }

    /// Bytes not yet read.
    pub(crate) const fn left(&self) -> usize {
        self.bytes.len() - self.at
    }

    /// An error about a field that began at `offset`.
    pub(crate) fn error(
        &self,
        field: &'static str,
        offset: usize,
        found: impl std::fmt::Display,
        expected: impl std::fmt::Display,
    ) -> DiskError {
        DiskError::new(self.structure, field, offset, found, expected)
    }

    /// The next `len` bytes.
    pub(crate) fn take(&mut self, field: &'static str, len: usize) -> DiskResult<&'a [u8]> {
        let end = self.at.checked_add(len);
        match end.and_then(|end| self.bytes.get(self.at..end)) {
            Some(bytes) => {
                self.at += len;
                Ok(bytes)
            }
            None => Err(self.error(
                field,
                self.at,
                format_args!("{} bytes", self.left()),
                format_args!("{len} bytes"),
            )),
        }
    }

    /// The next `N` bytes.
    pub(crate) fn array<const N: usize>(&mut self, field: &'static str) -> DiskResult<[u8; N]> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(field, N)?);
        Ok(out)
    }

    /// One byte.
    pub(crate) fn u8(&mut self, field: &'static str) -> DiskResult<u8> {
        Ok(u8::from_le_bytes(self.array(field)?))
    }

    /// Two bytes.
    pub(crate) fn u16(&mut self, field: &'static str) -> DiskResult<u16> {
        Ok(u16::from_le_bytes(self.array(field)?))
    }

    /// Four bytes.
    pub(crate) fn u32(&mut self, field: &'static str) -> DiskResult<u32> {
        Ok(u32::from_le_bytes(self.array(field)?))
    }

    /// Eight bytes.
    pub(crate) fn u64(&mut self, field: &'static str) -> DiskResult<u64> {
        Ok(u64::from_le_bytes(self.array(field)?))
    }

    /// Eight bytes, signed.
    pub(crate) fn i64(&mut self, field: &'static str) -> DiskResult<i64> {
        Ok(i64::from_le_bytes(self.array(field)?))
    }

    /// Sixteen bytes.
    pub(crate) fn uuid(&mut self, field: &'static str) -> DiskResult<Uuid> {
        Ok(Uuid::from_bytes(self.array(field)?))
    }

    /// A key.
    pub(crate) fn key(&mut self, field: &'static str) -> DiskResult<Key> {
        let (objectid, kind) = (self.u64(field)?, self.u8(field)?);
        Ok(Key { objectid, kind: ItemKind(kind), offset: self.u64(field)? })
    }

    /// Fails if bytes are left over.
    pub(crate) fn done(&self) -> DiskResult<()> {
        if self.left() == 0 {
            return Ok(());
        }
        Err(self.error(
            "length",
            self.at,
            format_args!("{} bytes", self.bytes.len()),
            format_args!("{} bytes", self.at),
        ))
    }
}

/// Appends fields of one structure, front to back.
#[derive(Debug, Default)]
pub(crate) struct Writer(pub(crate) Vec<u8>);

impl Writer {
    /// With room for `len` bytes.
    pub(crate) fn with_capacity(len: usize) -> Self {
        Self(Vec::with_capacity(len))
    }

    /// Bytes as they are.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// One byte.
    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes(&[value])
    }

    /// Two bytes.
    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Four bytes.
    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Eight bytes.
    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Eight bytes, signed.
    pub(crate) fn i64(&mut self, value: i64) -> &mut Self {
        self.bytes(&value.to_le_bytes())
    }

    /// Sixteen bytes.
    pub(crate) fn uuid(&mut self, value: &Uuid) -> &mut Self {
        self.bytes(value.as_bytes())
    }

    /// A key.
    pub(crate) fn key(&mut self, key: &Key) -> &mut Self {
        self.u64(key.objectid).u8(key.kind.0).u64(key.offset)
    }

    /// Zeros up to `len` bytes in all.
    pub(crate) fn pad_to(&mut self, len: usize) -> &mut Self {
        self.0.resize(len, 0);
        self
    }
}
