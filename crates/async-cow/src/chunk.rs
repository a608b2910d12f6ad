//! Stage 4: a run is cut into chunks.
//!
//! The run's cut takes everything along: page locks (and with them the entry page's token, into the one chunk that covers it, law O1), frozen
//! frames, reservation. So a chunk owns what it will resolve, and can name nothing else.

use cowback_base::{BLOCK_SIZE, CHUNK_MAX, PageIndex};
use cowback_extent_io::writepages::RUN_PAGES_MAX;
use cowback_extent_io::{CompressionPolicy, DelallocRun, FilePolicy};

use crate::Turn;
use crate::credit::Credit;
use crate::turnstile::{Ticket, Turnstile};

/// A unit of parallel compression, at most 512 KiB, with its place in the line.
#[derive(Debug)]
pub struct AsyncChunk {
    /// The pages.
    pub run: DelallocRun,
    /// Its turn for allocation.
    pub(crate) ticket: Ticket<Turn>,
    /// Its memory.
    pub credit: Credit,
    /// How it is to be stored.
    pub policy: FilePolicy,
}

/// Pages of a chunk. Two in a model, so that few pages make many chunks.
const CHUNK_PAGES: u64 = if cfg!(shuttle) { 2 } else { CHUNK_MAX / BLOCK_SIZE };

/// Cuts `run` into chunks from its start, the last one shorter, and draws their tickets in file order.
pub(crate) fn cut_run(
    run: DelallocRun,
    mut credit: Credit,
    policy: FilePolicy,
    turnstile: &Turnstile<Turn>,
) -> Vec<AsyncChunk> {
    let chunk_pages = match policy.compression {
        // Nothing to spread over the workers: the larger the extent, the better.
        CompressionPolicy::None => RUN_PAGES_MAX,
        _ => CHUNK_PAGES,
    };
    credit.shrink_to(run.range().len());
    let mut chunks = Vec::new();
    let mut rest = Some(run);
    while let Some(run) = rest.take() {
        let cut = PageIndex(run.pages().start.0 + chunk_pages);
        let run = if cut < run.pages().end {
            let (chunk, tail) = run.split_at(cut);
            rest = Some(tail);
            chunk
        } else {
            run
        };
        let credit = credit.split(run.pages().count() * BLOCK_SIZE);
        chunks.push(AsyncChunk { run, ticket: turnstile.ticket(), credit, policy });
    }
    chunks
}
