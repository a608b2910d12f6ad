//! The raw limit of the codec: the same blocks, level and threads, and nothing else.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use cowback_codec::{CompressionSpec, Compressor, Decompressor, Outcome as Packing, output_limit};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::contest::Outcome;

const BLOCK: usize = 128 * 1024;

/// What a thread keeps from one block to the next.
#[derive(Default)]
struct Context {
    compressor: Compressor,
    decompressor: Decompressor,
    buffer: Vec<u8>,
}

thread_local! {
    static CONTEXT: RefCell<Context> = RefCell::default();
}

fn pool(threads: usize) -> Outcome<ThreadPool> {
    Ok(ThreadPoolBuilder::new().num_threads(threads).build()?)
}

/// Compresses `stream` in blocks of 128 KiB on `threads` threads, and throws the result away.
pub(crate) fn compress(stream: &[u8], compress: &str, threads: usize) -> Outcome<Duration> {
    let spec: CompressionSpec = compress.parse()?;
    let pool = pool(threads)?;
    let start = Instant::now();
    let failed = pool.install(|| {
        stream.par_chunks(BLOCK).any(|block| {
            CONTEXT.with_borrow_mut(|Context { compressor, buffer, .. }| {
                buffer.resize(BLOCK, 0);
                let limit = output_limit(block.len());
                compressor.compress(spec, block, &mut buffer[..limit]).is_err()
            })
        })
    });
    let took = start.elapsed();
    if failed { Err("the codec failed".into()) } else { Ok(took) }
}

/// A stream in compressed blocks of 128 KiB.
#[derive(Debug)]
pub(crate) struct Packed {
    spec: CompressionSpec,
    blocks: Vec<Block>,
    pool: ThreadPool,
}

#[derive(Debug)]
struct Block {
    /// As it would be stored, padded to whole blocks of 4 KiB.
    stored: Vec<u8>,
    /// Bytes that it unpacks to.
    len: usize,
    compressed: bool,
}

impl Packed {
    pub(crate) fn new(stream: &[u8], compress: &str, threads: usize) -> Outcome<Self> {
        let (spec, pool) = (compress.parse()?, pool(threads)?);
        let blocks = pool.install(|| {
            stream.par_chunks(BLOCK).map(|block| Block::new(spec, block)).collect::<Option<_>>()
        });
        Ok(Self { spec, blocks: blocks.ok_or("the codec failed")?, pool })
    }

    /// Unpacks all blocks, each into the same memory of its thread. One that did not compress is copied.
    pub(crate) fn decompress(&self) -> Outcome<Duration> {
        let start = Instant::now();
        let failed = self.pool.install(|| {
            self.blocks.par_iter().any(|block| {
                CONTEXT.with_borrow_mut(|Context { decompressor, buffer, .. }| {
                    buffer.resize(BLOCK, 0);
                    let target = &mut buffer[..block.len];
                    if !block.compressed {
                        target.copy_from_slice(&block.stored);
                        return false;
                    }
                    let algorithm = self.spec.algorithm();
                    decompressor.decompress(algorithm, &block.stored, target).is_err()
                })
            })
        });
        let took = start.elapsed();
        if failed { Err("the codec failed".into()) } else { Ok(took) }
    }
}

impl Block {
    fn new(spec: CompressionSpec, block: &[u8]) -> Option<Self> {
        CONTEXT.with_borrow_mut(|Context { compressor, buffer, .. }| {
            buffer.resize(BLOCK, 0);
            let limit = output_limit(block.len());
            let packing = compressor.compress(spec, block, &mut buffer[..limit]).ok()?;
            let Packing::Compressed(len) = packing else {
                return Some(Self { stored: block.to_vec(), len: block.len(), compressed: false });
            };
            let mut stored = buffer[..len].to_vec();
            stored.resize(len.next_multiple_of(4096), 0);
            Some(Self { stored, len: block.len(), compressed: true })
        })
    }
}
