//! The decompressor: one reusable context per reader thread.
//!
//! Law E3: the input may be anything. A stream that is shorter than the output leaves zeros behind it, as the kernel
//! does; one that is longer is a partial read, and only its beginning is wanted.

use std::fmt;

use flate2::{Decompress, FlushDecompress, Status};
use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

use crate::error::DecompressError;
use crate::lzo;
use crate::spec::Algorithm;
use crate::zstd_frame::{FrameHeader, WINDOW_LOG_MAX, WINDOW_MAX};

/// Reusable contexts for all algorithms, each made at its first use and then kept: no call allocates after that.
pub struct Decompressor {
    zlib: Option<Decompress>,
    zstd: Option<DCtx<'static>>,
    lzo: Option<lzo::Decoder>,
}

impl Decompressor {
    /// A decompressor that holds no memory yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { zlib: None, zstd: None, lzo: None }
    }

    /// Decompresses one stored extent from its start.
    ///
    /// `input` is the whole stored extent with its zero padding, or the whole payload of an inline extent. `output`
    /// is as long as the extent's `ram_bytes`, or shorter if only a beginning of it is wanted; it is filled to its
    /// end, with zeros where the stream ends before it. After an error its contents are unspecified.
    ///
    /// # Errors
    /// If the stream is corrupt before `output` is full, or there is no memory for a context.
    pub fn decompress(
        &mut self,
        algorithm: Algorithm,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<(), DecompressError> {
        self.decompress_prefix(algorithm, input, output).map(drop)
    }

    /// As [`Decompressor::decompress`]; gives the bytes that the stream itself yielded, behind which there are zeros.
    ///
    /// # Errors
    /// As [`Decompressor::decompress`].
    pub fn decompress_prefix(
        &mut self,
        algorithm: Algorithm,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<usize, DecompressError> {
        if output.is_empty() {
            return Ok(0);
        }
        let filled = match algorithm {
            Algorithm::Zlib => self.zlib(input, output),
            Algorithm::Lzo => self.lzo(input, output),
            Algorithm::Zstd => self.zstd(input, output),
        }?;
        output[filled..].fill(0);
        Ok(filled)
    }

    fn zlib(&mut self, input: &[u8], output: &mut [u8]) -> Result<usize, DecompressError> {
        let context = self.zlib.get_or_insert_with(|| Decompress::new(true));
        context.reset(true);
        let status = context.decompress(input, output, FlushDecompress::Finish);
        let position = |total: u64, len: usize| usize::try_from(total).map_or(len, |n| n.min(len));
        let consumed = position(context.total_in(), input.len());
        let filled = position(context.total_out(), output.len());
        let corrupt = |what| {
            Err(DecompressError::Corrupt { algorithm: Algorithm::Zlib, what, offset: consumed })
        };
        match status {
            Ok(Status::StreamEnd) => Ok(filled),
            Ok(Status::Ok | Status::BufError) if filled == output.len() => Ok(filled),
            Ok(Status::Ok | Status::BufError) => corrupt("the stream is cut short"),
            Err(error) if error.needs_dictionary().is_some() => {
                corrupt("the stream wants a dictionary")
            }
            Err(_) => corrupt("invalid deflate data or wrong Adler-32 checksum"),
        }
    }

    fn lzo(&mut self, input: &[u8], output: &mut [u8]) -> Result<usize, DecompressError> {
        let algorithm = Algorithm::Lzo;
        let decoder = match &mut self.lzo {
            Some(decoder) => decoder,
            none => none
                .insert(lzo::Decoder::try_new().ok_or(DecompressError::OutOfMemory { algorithm })?),
        };
        decoder.decompress(input, output).map_err(|(what, offset)| DecompressError::Corrupt {
            algorithm,
            what,
            offset,
        })
    }

    fn zstd(&mut self, input: &[u8], output: &mut [u8]) -> Result<usize, DecompressError> {
        let algorithm = Algorithm::Zstd;
        let corrupt = |what, offset| DecompressError::Corrupt { algorithm, what, offset };
        let header = FrameHeader::parse(input).map_err(|(what, at)| corrupt(what, at))?;
        if header.window > WINDOW_MAX {
            return Err(corrupt("the frame wants a window larger than 128 KiB", 4));
        }
        let context = match &mut self.zstd {
            Some(context) => context,
            none => none.insert(new_zstd(algorithm)?),
        };
        let whole = header
            .content_size
            .is_some_and(|size| usize::try_from(size).is_ok_and(|size| size <= output.len()));
        if whole {
            let broken = |code| corrupt(zstd_safe::get_error_name(code), 0);
            let frame = zstd_safe::find_frame_compressed_size(input).map_err(broken)?;
            let frame = input.get(..frame).ok_or_else(|| corrupt("the frame is cut short", 0))?;
            return context.decompress(output, frame).map_err(broken);
        }
        zstd_prefix(context, input, output).map_err(|(what, at)| corrupt(what, at))
    }
}

fn new_zstd(algorithm: Algorithm) -> Result<DCtx<'static>, DecompressError> {
    let mut context = DCtx::try_create().ok_or(DecompressError::OutOfMemory { algorithm })?;
    context.set_parameter(DParameter::WindowLogMax(WINDOW_LOG_MAX)).map_err(|code| {
        DecompressError::Corrupt { algorithm, what: zstd_safe::get_error_name(code), offset: 0 }
    })?;
    Ok(context)
}

/// Decodes until the frame ends or `output` is full, through the window of the context.
fn zstd_prefix(
    context: &mut DCtx<'static>,
    input: &[u8],
    output: &mut [u8],
) -> Result<usize, (&'static str, usize)> {
    context
        .reset(ResetDirective::SessionOnly)
        .map_err(|code| (zstd_safe::get_error_name(code), 0))?;
    let capacity = output.len();
    let mut source = InBuffer::around(input);
    let mut sink = OutBuffer::around(output);
    loop {
        let before = (source.pos(), sink.pos());
        let hint = context
            .decompress_stream(&mut sink, &mut source)
            .map_err(|code| (zstd_safe::get_error_name(code), source.pos()))?;
        if hint == 0 || sink.pos() == capacity {
            return Ok(sink.pos());
        }
        if (source.pos(), sink.pos()) == before {
            return Err(("the frame is cut short", source.pos()));
        }
    }
}

impl Default for Decompressor {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Decompressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decompressor")
            .field("zlib", &self.zlib.is_some())
            .field("lzo", &self.lzo.is_some())
            .field("zstd", &self.zstd.is_some())
            .finish()
    }
}
