//! The compressor: one reusable context per worker thread (stage 5).
//!
//! Laws: B3 (input and output are at most 128 KiB; what does not fit the caller's limit is no error), B4 (want of
//! memory is its own error), R3 (the result depends on spec and input alone).

use std::fmt;

use cowback_base::{BLOCK_SIZE_USIZE, COMPRESSED_EXTENT_MAX};
use flate2::{Compress, Compression, FlushCompress, Status};
use zstd_safe::{CCtx, CParameter};

use crate::error::CompressError;
use crate::lzo;
use crate::spec::{Algorithm, CompressionSpec};
use crate::zstd_frame::WINDOW_LOG_MAX;

/// [`COMPRESSED_EXTENT_MAX`] for slices.
pub(crate) const EXTENT_MAX: usize = 128 * 1024;
const _: () = assert!(EXTENT_MAX as u64 == COMPRESSED_EXTENT_MAX);

/// zstd's error for an output that is too small (`ZSTD_error_dstSize_tooSmall`, 70), as its functions return it.
const ZSTD_DST_TOO_SMALL: usize = 0usize.wrapping_sub(70);
/// zstd's error for want of memory (`ZSTD_error_memory_allocation`, 64).
const ZSTD_NO_MEMORY: usize = 0usize.wrapping_sub(64);

/// What came of an attempt to compress.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The first so many bytes of the output are the stream. The rest of the output is unspecified.
    Compressed(usize),
    /// The stream would not fit the output: the bytes are to be stored raw. The output is unspecified.
    DoesNotFit,
}

/// The most bytes that `len` bytes of a file may become if compression is to save one block (law B3).
#[must_use]
pub const fn output_limit(len: usize) -> usize {
    len.div_ceil(BLOCK_SIZE_USIZE).saturating_sub(1) * BLOCK_SIZE_USIZE
}

/// Reusable contexts for all algorithms and levels, each made at its first use and then kept.
///
/// Meant to be owned by one worker thread for its whole life; it is `Send`, and no call leaves anything in it that
/// changes the result of the next.
pub struct Compressor {
    zlib: [Option<Compress>; 9],
    lzo: Option<lzo::Encoder>,
    zstd: Option<ZstdContext>,
}

struct ZstdContext {
    context: CCtx<'static>,
    level: i8,
}

impl Compressor {
    /// A compressor that holds no memory yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { zlib: [const { None }; 9], lzo: None, zstd: None }
    }

    /// Compresses `input` into `output`, whose length is the limit: pass [`output_limit`] bytes of buffer where a
    /// block must be saved.
    ///
    /// # Errors
    /// [`CompressError`] on a failure that says nothing about the data, such as want of memory.
    pub fn compress(
        &mut self,
        spec: CompressionSpec,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<Outcome, CompressError> {
        if input.len() > EXTENT_MAX {
            return Err(CompressError::InputTooLong { len: input.len() });
        }
        let limit = output.len().min(EXTENT_MAX);
        let output = &mut output[..limit];
        let level = spec.level().map_or(0, super::spec::Level::get);
        match spec.algorithm() {
            Algorithm::Zlib => self.zlib(level, input, output),
            Algorithm::Lzo => self.lzo(input, output),
            Algorithm::Zstd => self.zstd(level, input, output),
        }
    }

    fn zlib(
        &mut self,
        level: i8,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<Outcome, CompressError> {
        let level = level.clamp(1, 9).unsigned_abs();
        let slot = &mut self.zlib[usize::from(level - 1)];
        let context =
            slot.get_or_insert_with(|| Compress::new(Compression::new(level.into()), true));
        context.reset();
        match context.compress(input, output, FlushCompress::Finish) {
            Ok(Status::StreamEnd) => {
                let n = usize::try_from(context.total_out()).expect("it lies within the output");
                Ok(Outcome::Compressed(n))
            }
            // An abandoned stream must not be reset and used again: zlib-rs 0.6 leaves its level 1 believing that a
            // block is still open, and the next stream then lacks the head of its first block.
            Ok(Status::Ok | Status::BufError) => {
                *slot = None;
                Ok(Outcome::DoesNotFit)
            }
            Err(_) => {
                *slot = None;
                Err(CompressError::Library {
                    algorithm: Algorithm::Zlib,
                    what: "deflate reports a broken stream state",
                })
            }
        }
    }

    fn lzo(&mut self, input: &[u8], output: &mut [u8]) -> Result<Outcome, CompressError> {
        let encoder = match &mut self.lzo {
            Some(encoder) => encoder,
            none => none.insert(
                lzo::Encoder::try_new()
                    .ok_or(CompressError::OutOfMemory { algorithm: Algorithm::Lzo })?,
            ),
        };
        Ok(encoder.compress(input, output).map_or(Outcome::DoesNotFit, Outcome::Compressed))
    }

    fn zstd(
        &mut self,
        level: i8,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<Outcome, CompressError> {
        let zstd = match &mut self.zstd {
            Some(zstd) => zstd,
            none => none.insert(ZstdContext::try_new(level)?),
        };
        if zstd.level != level {
            zstd.context
                .set_parameter(CParameter::CompressionLevel(level.into()))
                .map_err(fault)?;
            zstd.level = level;
        }
        match zstd.context.compress2(output, input) {
            Ok(n) => Ok(Outcome::Compressed(n)),
            Err(ZSTD_DST_TOO_SMALL) => Ok(Outcome::DoesNotFit),
            Err(code) => {
                // Of unknown state, so not to be used again.
                self.zstd = None;
                Err(fault(code))
            }
        }
    }
}

impl ZstdContext {
    fn try_new(level: i8) -> Result<Self, CompressError> {
        let mut context =
            CCtx::try_create().ok_or(CompressError::OutOfMemory { algorithm: Algorithm::Zstd })?;
        for parameter in [
            CParameter::CompressionLevel(level.into()),
            CParameter::WindowLog(WINDOW_LOG_MAX),
            CParameter::ContentSizeFlag(true),
            CParameter::ChecksumFlag(false),
        ] {
            context.set_parameter(parameter).map_err(fault)?;
        }
        Ok(Self { context, level })
    }
}

fn fault(code: usize) -> CompressError {
    let algorithm = Algorithm::Zstd;
    match code {
        ZSTD_NO_MEMORY => CompressError::OutOfMemory { algorithm },
        _ => CompressError::Library { algorithm, what: zstd_safe::get_error_name(code) },
    }
}

impl Default for Compressor {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Compressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Compressor")
            .field("zlib_levels", &self.zlib.iter().flatten().count())
            .field("lzo", &self.lzo.is_some())
            .field("zstd_level", &self.zstd.as_ref().map(|zstd| zstd.level))
            .finish()
    }
}
