//! The few lines between redb and a file of a volume.

use std::io;

use cowback::File;
use redb::StorageBackend;

/// Where redb keeps its database: in a file of a volume, which must stay open for as long as the database is.
#[derive(Debug)]
pub struct CowbackBackend(pub File);

impl StorageBackend for CowbackBackend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        match self.0.read_at(offset, out).map_err(io::Error::other)? {
            n if n == out.len() => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.0.set_len(len).map_err(io::Error::other)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data().map_err(io::Error::other)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.write_at(offset, data).map_err(io::Error::other)
    }
}
