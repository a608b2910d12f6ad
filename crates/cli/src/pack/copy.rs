//! The content of a file: read from the host, without its holes, and written to the volume.

use std::io;
use std::os::fd::BorrowedFd;

use cowback::File;
use rustix::fs::{SeekFrom, Stat, fstat, seek};
use rustix::io::{Errno, pread};

use crate::pack::scale::Scale;

/// Bytes read at once.
pub(crate) const BUFFER: usize = 1 << 20;

/// Why a file was not copied.
#[derive(Debug)]
pub(crate) enum CopyError {
    /// The source cannot be read.
    Source(io::Error),
    /// The volume does not take it.
    Volume(cowback::Error),
}

impl From<io::Error> for CopyError {
    fn from(error: io::Error) -> Self {
        Self::Source(error)
    }
}

impl From<cowback::Error> for CopyError {
    fn from(error: cowback::Error) -> Self {
        Self::Volume(error)
    }
}

/// What was copied.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Copied {
    /// Bytes read.
    pub(crate) bytes: u64,
    /// The file was written to meanwhile.
    pub(crate) changed: bool,
}

/// Copies the file that is open as `source`, of which `stat` tells, to the empty `target`. `read` is told of bytes as they are read.
///
/// What is appended meanwhile is left out, and if the file is cut, the copy is, too.
pub(crate) fn copy(
    source: BorrowedFd<'_>,
    stat: &Stat,
    scale: &mut Scale<'_>,
    target: &File,
    buffer: &mut [u8],
    mut read: impl FnMut(u64),
) -> Result<Copied, CopyError> {
    let mut size = u64::try_from(stat.st_size).unwrap_or(0);
    let held = u64::try_from(stat.st_blocks).unwrap_or(u64::MAX).saturating_mul(512);
    let may_have_holes = held < size;
    let (mut at, mut bytes) = (0, 0);
    while at < size {
        let (start, end) = if may_have_holes { next_data(source, at, size)? } else { (at, size) };
        at = start;
        while at < end {
            let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(buffer.len());
            let got = read_some(source, &mut buffer[..want], at)?;
            if got == 0 {
                size = at; // it was cut
                break;
            }
            scale.write(target, at, &buffer[..got])?;
            at += got as u64;
            bytes += got as u64;
            read(got as u64);
        }
    }
    if target.len() != size {
        target.set_len(size)?;
    }
    Ok(Copied { bytes, changed: has_changed(stat, &fstat(source).map_err(io::Error::from)?) })
}

/// As [`copy`], for a file that tells no size. It is empty; or it has content all the same, as those in /proc, and is read to its end.
///
/// One that has a size by the time when it is first read has grown since it was looked at: what was appended is left out.
pub(crate) fn copy_unsized(
    source: BorrowedFd<'_>,
    stat: &Stat,
    scale: &mut Scale<'_>,
    target: &File,
    buffer: &mut [u8],
    mut read: impl FnMut(u64),
) -> Result<Copied, CopyError> {
    let mut copied = Copied { bytes: 0, changed: false };
    loop {
        let got = match rustix::io::read(source, &mut *buffer) {
            Ok(0) => return Ok(copied),
            Ok(got) => got,
            Err(Errno::INTR) => continue,
            Err(error) => return Err(io::Error::from(error).into()),
        };
        let now = fstat(source).map_err(io::Error::from)?;
        copied.changed = has_changed(stat, &now);
        if now.st_size > 0 && copied.bytes == 0 {
            return Ok(copied);
        }
        scale.write(target, copied.bytes, &buffer[..got])?;
        copied.bytes += got as u64;
        read(got as u64);
    }
}

fn read_some(source: BorrowedFd<'_>, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    loop {
        match pread(source, &mut *buffer, at) {
            Err(Errno::INTR) => {}
            result => return Ok(result?),
        }
    }
}

/// The next range of the file from `at` on that is no hole; an empty one at its end if there is none.
fn next_data(source: BorrowedFd<'_>, at: u64, size: u64) -> io::Result<(u64, u64)> {
    let start = match seek(source, SeekFrom::Data(at)) {
        Ok(start) => start.min(size),
        Err(Errno::NXIO) => size,
        Err(Errno::INVAL | Errno::NOTSUP) => return Ok((at, size)),
        Err(error) => return Err(error.into()),
    };
    if start == size {
        return Ok((size, size));
    }
    match seek(source, SeekFrom::Hole(start)) {
        Ok(end) if end > start => Ok((start, end.min(size))),
        Ok(_) | Err(Errno::NXIO) => Ok((start, size)),
        Err(error) => Err(error.into()),
    }
}

fn has_changed(before: &Stat, after: &Stat) -> bool {
    let of = |stat: &Stat| {
        (stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec)
    };
    of(before) != of(after)
}
