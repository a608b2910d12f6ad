//! Stage 5, phase one: a chunk becomes async extents, compressed or raw. Runs on many chunks at once, in any order.
//!
//! Each piece of the chunk, 128 KiB unless the file's policy says less, is decided by itself (the kernel gives up on the rest of the chunk, and
//! on the file, after the first that does not compress). A piece is stored compressed only if that saves at least one block (law B3). A compressor that fails means raw, and
//! leaves no mark (law B4).
//!
//! Of a file that may be written in place, it is found out first which parts of the chunk will be: these are not compressed. A part's mapping does
//! not change from here on until it is written, as its pages are locked.

use std::cell::RefCell;
use std::fmt;

use bytes::Bytes;
use cowback_base::{
    BLOCK_SIZE, BLOCK_SIZE_USIZE, INLINE_MAX, PageIndex, PageRange, block_align_up, planted,
};
use cowback_codec::{
    Algorithm, CompressError, CompressionSpec, Compressor, Outcome, heuristic_pays,
    looks_compressible,
};
use cowback_extent_io::DelallocRun;
use cowback_extent_io::store::{Compression, DiskExtent, InPlace, InlineExtent};
use cowback_page_cache::Frame;

use crate::counters::Counters;
use crate::credit::Credit;
use crate::policy::{CompressionPolicy, FilePolicy};

/// A piece of a chunk and how it is to be stored. The lengths of a chunk's pieces add up to the chunk, as they are cuts of it (law O3).
#[derive(Debug)]
pub struct AsyncExtent {
    /// The pages.
    pub run: DelallocRun,
    /// How they are to be stored.
    pub stored: Stored,
}

/// How a piece of a chunk is to be stored.
#[derive(Debug)]
pub enum Stored {
    /// As it is, in fresh space.
    Raw,
    /// As this stream, zero-padded to whole blocks, in fresh space.
    Compressed(Compression, Bytes),
    /// As it is, in the place that it has.
    InPlace(DiskExtent),
    /// In the file tree: it is a whole small file.
    Inline(InlineExtent),
}

/// What phase one leaves of a chunk.
#[derive(Debug)]
pub struct CompressedChunk {
    /// In file order.
    pub extents: Vec<AsyncExtent>,
    /// The chunk's memory.
    pub credit: Credit,
}

/// What compresses: the worker's own context, unless an engine brings something else, such as hardware or a limit on memory.
pub trait Compress: Send + Sync + fmt::Debug {
    /// Compresses `input` into `output`, whose length is the limit, as [`Compressor::compress`] of `context`, which is the worker's own.
    ///
    /// # Errors
    /// A failure that says nothing about the data: it goes out raw then.
    fn compress(
        &self,
        context: &mut Compressor,
        spec: CompressionSpec,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<Outcome, CompressError>;
}

/// Compresses with the worker's own context.
#[derive(Debug, Clone, Copy, Default)]
pub struct OwnContext;

impl Compress for OwnContext {
    fn compress(
        &self,
        context: &mut Compressor,
        spec: CompressionSpec,
        input: &[u8],
        output: &mut [u8],
    ) -> Result<Outcome, CompressError> {
        context.compress(spec, input, output)
    }
}

/// A worker's own context and buffers: made once for each thread, not for each block.
#[derive(Default)]
struct Workspace {
    compressor: Compressor,
    input: Vec<u8>,
    output: Vec<u8>,
}

impl Workspace {
    /// Compresses `input`. A context whose compressing panics is not used again.
    fn compress(
        compressor: &mut Compressor,
        compress: &dyn Compress,
        spec: CompressionSpec,
        input: &[u8],
        target: &mut [u8],
    ) -> Result<Outcome, CompressError> {
        let mut context = std::mem::take(compressor);
        let outcome = compress.compress(&mut context, spec, input, target);
        *compressor = context;
        outcome
    }
}

thread_local! {
    static WORKSPACE: RefCell<Workspace> = RefCell::default();
}

/// Decides how each part of `run` is stored, and compresses what is to be compressed. If that panics, the run has failed when this is left.
pub fn compress_file_range(
    run: DelallocRun,
    policy: FilePolicy,
    compress: &dyn Compress,
    counters: &Counters,
) -> Vec<AsyncExtent> {
    let mut extents = Vec::new();
    if run.inode().data_flags().may_write_in_place() {
        run_delalloc_nocow(run, policy, compress, counters, &mut extents);
    } else if let Some(inline) = inline_of(&run, policy.compression, compress) {
        extents.push(AsyncExtent { run, stored: Stored::Inline(inline) });
    } else {
        compress_run(run, policy, compress, counters, &mut extents);
    }
    extents
}

/// Claims the place of each part of `run` that has one to be written to, and compresses the others.
fn run_delalloc_nocow(
    run: DelallocRun,
    policy: FilePolicy,
    compress: &dyn Compress,
    counters: &Counters,
    extents: &mut Vec<AsyncExtent>,
) {
    let mut rest = Some(run);
    while let Some(mut run) = rest.take() {
        let (ino, range) = (run.inode().ino(), run.range());
        let InPlace { len, extent } = match run.inode().store().claim_in_place(ino, range) {
            Ok(found) => found,
            Err(error) => return run.fail(error),
        };
        if len < range.len() {
            let (this, after) = run.split_at(PageIndex((range.start + len) / BLOCK_SIZE));
            (run, rest) = (this, Some(after));
        }
        match extent {
            Some(extent) => extents.push(AsyncExtent { run, stored: Stored::InPlace(extent) }),
            None => match run.want_space() {
                Ok(()) => compress_run(run, policy, compress, counters, extents),
                Err(error) => run.fail(error),
            },
        }
    }
}

/// Decides how each part of `run`, which gets fresh space, is stored, and compresses what is to be compressed.
fn compress_run(
    run: DelallocRun,
    policy: FilePolicy,
    compress: &dyn Compress,
    counters: &Counters,
    extents: &mut Vec<AsyncExtent>,
) {
    let raw = |run| AsyncExtent { run, stored: Stored::Raw };
    let Some(spec) = policy.compression.spec() else { return extents.push(raw(run)) };
    let may_spare = matches!(policy.compression, CompressionPolicy::Heuristic(_));
    let ask = may_spare && heuristic_pays(spec);
    let mut rest = run;
    let mut compressed: Vec<(PageIndex, PageIndex, Bytes)> = Vec::new();
    let backoff = rest.inode().backoff();
    let piece_pages = policy.extent_size.bytes() / BLOCK_SIZE;
    for piece in rest.pages().pieces(piece_pages) {
        if piece.count() < 2 {
            continue; // there is no block to save in one
        }
        if may_spare && !backoff.wants(piece.start.0 / piece_pages) {
            counters.spared();
            continue;
        }
        match compress_piece(&rest, piece, spec, ask, compress) {
            Try::Compressed(stream) => {
                backoff.note(true);
                compressed.push((piece.start, piece.end, stream));
            }
            Try::DoesNotPay => backoff.note(false),
            Try::Failed => {}
        }
    }
    let kind = compression_of(spec.algorithm());
    for (start, end, stream) in compressed {
        if rest.pages().start < start {
            let (before, from) = rest.split_at(start);
            extents.push(raw(before));
            rest = from;
        }
        let stored = Stored::Compressed(kind, stream);
        if end == rest.pages().end {
            return extents.push(AsyncExtent { run: rest, stored });
        }
        let (this, after) = rest.split_at(end);
        extents.push(AsyncExtent { run: this, stored });
        rest = after;
    }
    extents.push(raw(rest));
}

/// What came of trying to compress a piece.
enum Try {
    /// The stream, padded to whole blocks. It saves one at least.
    Compressed(Bytes),
    /// It would save no block.
    DoesNotPay,
    /// The compressor has no memory, say: the data goes out raw, and nothing is concluded from it (law B4).
    Failed,
}

/// Tries to compress `piece` of `run`, two pages at least; asks the heuristic first if `ask` says so.
fn compress_piece(
    run: &DelallocRun,
    piece: PageRange,
    spec: CompressionSpec,
    ask: bool,
    compress: &dyn Compress,
) -> Try {
    let limit = usize::try_from((piece.count() - 1) * BLOCK_SIZE).unwrap_or(0);
    WORKSPACE.with_borrow_mut(|workspace| {
        let Workspace { compressor, input, output } = workspace;
        let input = gather(run, piece, input);
        if ask && !looks_compressible(input).worth_trying() {
            return Try::DoesNotPay;
        }
        output.resize(output.len().max(limit), 0);
        let target = &mut output[..limit];
        match Workspace::compress(compressor, compress, spec, input, target) {
            Ok(Outcome::Compressed(len)) => Try::Compressed(pad_to_blocks(&target[..len])),
            Ok(Outcome::DoesNotFit) => Try::DoesNotPay,
            Err(_) => Try::Failed,
        }
    })
}

/// The bytes of `piece` that are in the file, one after another: where they are, if they are so in memory, or put together in `buffer`.
fn gather<'a>(run: &'a DelallocRun, piece: PageRange, buffer: &'a mut Vec<u8>) -> &'a [u8] {
    let first = run.pages().start.0;
    let index = |page: PageIndex| usize::try_from(page.0 - first).unwrap_or(usize::MAX);
    let frames = run.frames().get(index(piece.start)..index(piece.end)).unwrap_or_default();
    let mut pieces = Frame::pieces(frames);
    let all = match (pieces.next(), pieces.next()) {
        (Some(only), None) => only,
        _ => {
            buffer.clear();
            Frame::pieces(frames).for_each(|piece| buffer.extend_from_slice(piece));
            buffer
        }
    };
    let file_size = if planted!("size_twice") { run.inode().size() } else { run.file_size() };
    let in_file = file_size.saturating_sub(piece.start.offset());
    all.get(..usize::try_from(in_file).unwrap_or(usize::MAX)).unwrap_or(all)
}

fn pad_to_blocks(stream: &[u8]) -> Bytes {
    let padded = stream.len().next_multiple_of(BLOCK_SIZE_USIZE);
    // Few sizes: what one thread allocates here another frees, and an allocator keeps some of each size for each thread.
    let mut block = Vec::with_capacity(padded.next_power_of_two());
    block.extend_from_slice(stream);
    block.resize(padded, 0);
    Bytes::from(block)
}

/// `run` as an inline extent, if it is a whole file that is small enough (kernel's rules: less than a block, and at most
/// [`INLINE_MAX`] bytes as stored).
fn inline_of(
    run: &DelallocRun,
    policy: CompressionPolicy,
    compress: &dyn Compress,
) -> Option<InlineExtent> {
    let size = run.file_size();
    let whole = run.range().start == 0 && block_align_up(size) == run.range().end;
    if !whole || size >= BLOCK_SIZE || !run.size_is_settled() {
        return None;
    }
    let len = usize::try_from(size).ok()?;
    let bytes = run.frames().first()?.bytes().get(..len)?;
    if let Some(spec) = policy.spec() {
        let stream = WORKSPACE.with_borrow_mut(|workspace| {
            let limit = len.saturating_sub(1).min(usize::try_from(INLINE_MAX).ok()?);
            let Workspace { compressor, output, .. } = workspace;
            output.resize(output.len().max(limit), 0);
            let target = output.get_mut(..limit)?;
            match Workspace::compress(compressor, compress, spec, bytes, target) {
                Ok(Outcome::Compressed(n)) => target.get(..n).map(Bytes::copy_from_slice),
                _ => None,
            }
        });
        if let Some(data) = stream {
            let compression = compression_of(spec.algorithm());
            return Some(InlineExtent { ram_bytes: size, compression, data });
        }
    }
    (size <= INLINE_MAX).then(|| InlineExtent {
        ram_bytes: size,
        compression: Compression::None,
        data: Bytes::copy_from_slice(bytes),
    })
}

/// The on-disk name of what `algorithm` makes.
fn compression_of(algorithm: Algorithm) -> Compression {
    match algorithm {
        Algorithm::Zlib => Compression::Zlib,
        Algorithm::Lzo => Compression::Lzo,
        Algorithm::Zstd => Compression::Zstd,
    }
}
