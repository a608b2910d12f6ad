//! Stage 6 and 7, phase two: async extents get their space on disk, in file order, one chunk at a time; then they are written.
//!
//! The fallback ladder (law B4): a compressed extent needs one contiguous extent on disk; if there is none, it goes raw, in pieces as
//! large as free space allows, down to one block; if not even that is to be had, the pages are dirty again and the error is recorded.
//! What is written in place has its extent already. An error of one extent never stops the others of its chunk (law E2).

use cowback_base::{BLOCK_SIZE, PageIndex, planted};
use cowback_extent_io::store::{Compression, InlineExtent};
use cowback_extent_io::{DelallocRun, OrderedWrite, Payload};

use crate::compress::{AsyncExtent, CompressedChunk, Stored};
use crate::counters::Counters;
use crate::credit::Credit;

/// The IO of one chunk: ordered extents that have their place on disk.
#[derive(Debug)]
pub struct ChunkIo {
    writes: Vec<(OrderedWrite, Payload)>,
    /// The chunk's memory, until it is written.
    _credit: Credit,
}

impl ChunkIo {
    /// Whether there is nothing to write.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Writes and completes every extent.
    pub fn run(self) {
        for (write, payload) in self.writes {
            write.write(&payload);
        }
    }
}

/// Allocates for every extent of the chunk. The turnstile lets one caller in at a time.
pub fn submit_compressed_extents(chunk: CompressedChunk, counters: &Counters) -> ChunkIo {
    let CompressedChunk { extents, credit } = chunk;
    let mut writes = Vec::with_capacity(extents.len());
    for AsyncExtent { run, stored } in extents {
        match stored {
            Stored::Inline(inline) => submit_inline(run, inline, counters, &mut writes),
            Stored::Compressed(kind, stream) => {
                submit_compressed(run, kind, stream, counters, &mut writes);
            }
            Stored::Raw => cow_file_range(run, counters, &mut writes),
            Stored::InPlace(extent) => {
                counters.in_place(extent.len);
                writes.push((run.into_ordered(extent, Compression::None), Payload::Raw));
            }
        }
    }
    ChunkIo { writes, _credit: credit }
}

/// Whether there is room in the tree depends on who came before: so this, too, goes in file order.
fn submit_inline(
    run: DelallocRun,
    inline: InlineExtent,
    counters: &Counters,
    writes: &mut Vec<(OrderedWrite, Payload)>,
) {
    let (ram, stored) = (inline.ram_bytes, inline.data.len() as u64);
    match run.finish_inline(inline) {
        None => counters.inline(ram, stored),
        Some(run) => cow_file_range(run, counters, writes),
    }
}

fn submit_compressed(
    run: DelallocRun,
    kind: Compression,
    stream: bytes::Bytes,
    counters: &Counters,
    writes: &mut Vec<(OrderedWrite, Payload)>,
) {
    let len = stream.len() as u64;
    match run.inode().store().alloc_extent(len, len) {
        Ok(extent) => {
            counters.compressed(kind, run.range().len(), len);
            writes.push((run.into_ordered(extent, kind), Payload::Compressed(stream)));
        }
        Err(error) if planted!("no_raw_fallback") => run.fail(error),
        Err(_) => {
            counters.fell_back();
            cow_file_range(run, counters, writes);
        }
    }
}

/// Gives `run` extents of its own size, as few as free space allows. What gets none is failed: its pages are dirty again.
pub fn cow_file_range(
    run: DelallocRun,
    counters: &Counters,
    writes: &mut Vec<(OrderedWrite, Payload)>,
) {
    let mut rest = Some(run);
    while let Some(run) = rest.take() {
        let want = run.range().len();
        match run.inode().store().alloc_extent(want, BLOCK_SIZE) {
            Ok(extent) => {
                let got = extent.len;
                let run = if got < want {
                    let cut = PageIndex(run.pages().start.0 + got / BLOCK_SIZE);
                    let (this, after) = run.split_at(cut);
                    rest = Some(after);
                    this
                } else {
                    run
                };
                counters.raw(got);
                writes.push((run.into_ordered(extent, Compression::None), Payload::Raw));
            }
            Err(_) if planted!("run_forgotten") => std::mem::forget(run),
            Err(error) => run.fail(error),
        }
    }
}
