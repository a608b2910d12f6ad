//! What files hold: read from every copy, compared with its checksums, and unpacked.

use cowback_base::{BLOCK_SIZE, BLOCK_SIZE_USIZE, ByteRange};
use cowback_btrfs_disk::items::{CompressionCode, FileExtent};
use cowback_btrfs_disk::{Key, TreeId};
use cowback_codec::{Algorithm, Decompressor, first_mismatch};

use super::file_extents::Use;
use super::media::{Media, READ_MAX};
use super::problem::{Out, Place, Subject, name_of};

/// Which file uses what is at some address, for messages. `uses` are sorted by extent.
pub(super) fn user_of(uses: &[Use], address: u64) -> String {
    let behind = uses.partition_point(|one| one.bytenr <= address);
    let before = uses.get(..behind).unwrap_or_default().last();
    match before.filter(|one| address - one.bytenr < one.disk_len) {
        Some(one) => format!(
            ", of inode {} of the {} at offset {}",
            one.ino,
            name_of(one.tree),
            one.file_offset
        ),
        None => String::new(),
    }
}

/// Reads `range` from every copy and compares it with `sums`, one per block; without any it is only read.
///
/// The range is what some item says: it may be longer than any device. What no chunk or no device has is told once for each stretch of it, and left
/// out; each stretch ends at a chunk.
pub(super) fn verify(
    media: &Media<'_>,
    range: ByteRange,
    sums: Option<&[u8]>,
    uses: &[Use],
    out: &mut Out<'_>,
) {
    let size = media.sb.csum.size();
    let mut at = range.start;
    while at < range.end {
        // One checksum item may speak of data on both sides of a border of chunks.
        let stretch = ByteRange::new(at, range.end.min(media.next_border(at)));
        at = stretch.end;
        let there = ByteRange::at(stretch.start, media.bytes_there(stretch));
        let mut step = there.start;
        while step < there.end {
            let piece = ByteRange::new(step, there.end.min(step.saturating_add(READ_MAX)));
            step = piece.end;
            let skip = usize::try_from((piece.start - range.start) / BLOCK_SIZE);
            let skip = skip.unwrap_or(usize::MAX).saturating_mul(size);
            let sums = sums.map(|sums| sums.get(skip..).unwrap_or_default());
            verify_piece(media, piece, sums, uses, out);
        }
        if there.end < stretch.end {
            let why = if media.chunk_of(stretch.start).is_none() {
                "no chunk holds"
            } else if there.is_empty() {
                "no chunk that can be read holds"
            } else {
                "the device ends before"
            };
            let what = format!("{why} the {} bytes from here", stretch.end - there.end);
            tell(out, there.end, what, uses);
        }
    }
}

fn tell(out: &mut Out<'_>, at: u64, what: String, uses: &[Use]) {
    out.tell(Subject::Data, Place::Address(at), what + &user_of(uses, at));
}

/// As [`verify`], of what a chunk holds and can be read at once.
fn verify_piece(
    media: &Media<'_>,
    piece: ByteRange,
    sums: Option<&[u8]>,
    uses: &[Use],
    out: &mut Out<'_>,
) {
    let mut good = true;
    for copy in media.copies(piece) {
        let which = format!("copy {} at device offset {}", copy.index + 1, copy.at);
        match media.read(copy.at, piece.len()) {
            Err(error) => {
                good = false;
                tell(out, piece.start, format!("{which}: it cannot be read: {error}"), uses);
            }
            Ok(bytes) => {
                for (block, count) in wrong_blocks(media, &bytes, sums) {
                    good = false;
                    let at = piece.start + (block * BLOCK_SIZE_USIZE) as u64;
                    let what = if count == 1 {
                        format!("{which}: its checksum is wrong")
                    } else {
                        format!("{which}: the checksums of {count} blocks from here are wrong")
                    };
                    tell(out, at, what, uses);
                }
            }
        }
    }
    if good && sums.is_some() {
        out.report.verified_bytes += piece.len();
    }
}

/// Runs of blocks with the wrong checksum, as (first block, number).
fn wrong_blocks(media: &Media<'_>, bytes: &[u8], sums: Option<&[u8]>) -> Vec<(usize, usize)> {
    let Some(sums) = sums else { return Vec::new() };
    let (kind, size) = (media.sb.csum, media.sb.csum.size());
    let mut runs: Vec<(usize, usize)> = Vec::new();
    let mut at = 0;
    while let Some(rest) = bytes.get(at * BLOCK_SIZE_USIZE..)
        && !rest.is_empty()
    {
        let left = sums.get(at * size..).unwrap_or_default();
        let Some(wrong) = first_mismatch(kind, rest, left) else { break };
        let wrong = at + wrong;
        match runs.last_mut() {
            Some((first, count)) if *first + *count == wrong => *count += 1,
            _ => runs.push((wrong, 1)),
        }
        at = wrong + 1;
    }
    runs
}

/// Unpacks what is compressed.
#[derive(Debug, Default)]
pub(super) struct Unpacker {
    decompressor: Decompressor,
    buffer: Vec<u8>,
}

impl Unpacker {
    /// Whether `packed` gives at least `need` of `ram_bytes`, up to the end of a block; else what is wrong.
    fn unpack(
        &mut self,
        code: CompressionCode,
        packed: &[u8],
        ram_bytes: u64,
        need: u64,
    ) -> Result<(), String> {
        let algorithm = match code {
            CompressionCode::None => return Ok(()),
            CompressionCode::Zlib => Algorithm::Zlib,
            CompressionCode::Lzo => Algorithm::Lzo,
            CompressionCode::Zstd => Algorithm::Zstd,
        };
        let len = usize::try_from(ram_bytes).map_err(|error| error.to_string())?;
        self.buffer.resize(len, 0);
        let unpacked = self.decompressor.decompress_prefix(algorithm, packed, &mut self.buffer);
        let unpacked = unpacked.map_err(|error| format!("it cannot be unpacked: {error}"))? as u64;
        // Whoever packs a file's end may leave out what is behind it in its last block.
        if unpacked.div_ceil(BLOCK_SIZE) < need.min(ram_bytes).div_ceil(BLOCK_SIZE) {
            return Err(format!("it unpacks to {unpacked} bytes, and {need} of them are in use"));
        }
        Ok(())
    }

    /// An inline extent of a file of `size` bytes.
    pub(super) fn inline(
        &mut self,
        tree: TreeId,
        key: &Key,
        extent: &FileExtent,
        bytes: &[u8],
        size: u64,
        out: &mut Out<'_>,
    ) {
        if extent.compression == CompressionCode::None {
            return;
        }
        out.report.unpacked_extents += 1;
        let (code, need) = (extent.compression, extent.ram_bytes.min(size));
        if let Err(what) = self.unpack(code, bytes, extent.ram_bytes, need) {
            out.item(tree, key, what);
        }
    }

    /// All compressed extents of `uses`, which are sorted by extent.
    pub(super) fn extents(&mut self, media: &Media<'_>, uses: &[Use], out: &mut Out<'_>) {
        for users in uses.chunk_by(|a, b| a.bytenr == b.bytenr) {
            let need = users.iter().map(|one| one.need).max().unwrap_or(0);
            let Some(first) = users.first() else { continue };
            if first.compression == CompressionCode::None {
                continue;
            }
            let Some(end) = first.bytenr.checked_add(first.disk_len) else { continue };
            let range = ByteRange::new(first.bytenr, end);
            let mut wrong = None;
            let mut done = false;
            for copy in media.copies(range) {
                let Ok(packed) = media.read(copy.at, range.len()) else { continue };
                match self.unpack(first.compression, &packed, first.ram_bytes, need) {
                    Ok(()) => {
                        done = true;
                        break;
                    }
                    Err(what) => wrong = Some(what),
                }
            }
            out.report.unpacked_extents += u64::from(done);
            if let Some(what) = wrong.filter(|_| !done) {
                let user = user_of(users, first.bytenr);
                let place = Place::Address(first.bytenr);
                out.tell(Subject::Data, place, format!("{what}{user}"));
            }
        }
    }
}
