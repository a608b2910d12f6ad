//! The device seen through the chunk map: IO at logical addresses, tree blocks checked (stages 7 and 9).
//!
//! What is constant over the life of an open volume lives here too. Lock order: the chunk map and the list of unflushed data are leaf locks
//! and are never held during IO. A block whose first copy is unreadable or wrong is read from the second (law E3: never wrong bytes); what
//! becomes of the bad copy is in [`copies`].

use std::sync::Arc;

use cowback_base::ByteRange;
use cowback_base::sync::{Mutex, RwLock};
use cowback_btrfs_disk::ChecksumKind;
use cowback_btrfs_disk::items::{LeafRules, check_leaf};
use cowback_btrfs_disk::node::{BlockExpect, Header, ParsedBlock, parse_block};
use cowback_codec::block_sums;
use cowback_extent_io::store::StoreResult;
use uuid::Uuid;

use crate::chunks::{Chunk, ChunkMap};
use crate::device::BlockDevice;
use crate::error::{corrupt, invalid, io};
use crate::node::Node;
use crate::unflushed::Unflushed;

mod copies;

use copies::Copies;
pub use copies::CopyStats;

/// A device and how to find one's way on it.
#[derive(Debug)]
pub(crate) struct Disk {
    /// Where the bytes are.
    pub(crate) device: Arc<dyn BlockDevice>,
    /// The volume's UUID, as headers carry it.
    pub(crate) fsid: Uuid,
    /// The chunk tree's UUID, in every header.
    pub(crate) chunk_tree_uuid: Uuid,
    /// Bytes of a tree block.
    pub(crate) nodesize: usize,
    /// Checksum algorithm.
    pub(crate) checksum: ChecksumKind,
    /// No block or item on disk is of a later generation than this; 0 if that is not known.
    pub(crate) newest: u64,
    /// Whether the copy of the superblock that only cowback knows may be written: its place is empty, or holds it already.
    pub(crate) own_copy: bool,
    /// Bad copies of tree blocks, and whether they are written anew.
    pub(crate) copies: Copies,
    /// Data that no good flush covers.
    unflushed: Mutex<Unflushed>,
    /// Held while the device is flushed: one at a time.
    flushing: Mutex<()>,
    chunks: RwLock<ChunkMap>,
}

impl Disk {
    /// A device whose chunk map is still empty.
    pub(crate) fn new(
        device: Arc<dyn BlockDevice>,
        fsid: Uuid,
        chunk_tree_uuid: Uuid,
        nodesize: usize,
        checksum: ChecksumKind,
    ) -> Self {
        let chunks = RwLock::new(ChunkMap::default());
        Self {
            device,
            fsid,
            chunk_tree_uuid,
            nodesize,
            checksum,
            newest: 0,
            own_copy: true,
            copies: Copies::default(),
            unflushed: Mutex::default(),
            flushing: Mutex::default(),
            chunks,
        }
    }

    /// Reads the chunk map.
    pub(crate) fn with_chunks<T>(&self, read: impl FnOnce(&ChunkMap) -> T) -> T {
        read(&self.chunks.read())
    }

    /// Changes the chunk map.
    pub(crate) fn with_chunks_mut<T>(&self, write: impl FnOnce(&mut ChunkMap) -> T) -> T {
        write(&mut self.chunks.write())
    }

    /// Adds a chunk that was found on disk.
    pub(crate) fn add_chunk(&self, chunk: Chunk) -> StoreResult<()> {
        let at = chunk.logical;
        self.with_chunks_mut(|map| map.insert(chunk)).map_err(|why| corrupt("chunk", at, why))
    }

    /// Device addresses of the copies of a range.
    pub(crate) fn map(&self, logical: u64, len: u64) -> StoreResult<Vec<u64>> {
        self.chunks
            .read()
            .map(logical, len)
            .ok_or_else(|| corrupt("address", logical, format_args!("no chunk holds {len} bytes")))
    }

    /// Reads the tree block at `logical`, from whichever copy is good; a bad one is repaired.
    ///
    /// The caller sees to it that a tree refers to the block meanwhile, as repairing it must not overwrite what took its place: the state
    /// lock is held, or nobody else has the volume yet.
    pub(crate) fn read_node(&self, logical: u64, expect: &BlockExpect) -> StoreResult<Node> {
        let parse = |block: &[u8]| {
            let wrong = |error| invalid(logical, &error);
            let parsed = parse_block(block, expect, self.checksum).map_err(wrong)?;
            if let ParsedBlock::Leaf(leaf) = &parsed {
                check_leaf(leaf, &self.leaf_rules(expect)).map_err(wrong)?;
            }
            Ok(Node::from_parsed(&parsed, block))
        };
        self.read_tree_block(logical, &mut vec![0; self.nodesize], parse)
    }

    /// Reads what the tree block at `logical` says about itself, as [`Disk::read_node`].
    pub(crate) fn read_header(&self, logical: u64, expect: &BlockExpect) -> StoreResult<Header> {
        let parse = |block: &[u8]| {
            let parsed = parse_block(block, expect, self.checksum);
            parsed.map(|parsed| parsed.header().clone()).map_err(|error| invalid(logical, &error))
        };
        self.read_tree_block(logical, &mut vec![0; self.nodesize], parse)
    }

    fn leaf_rules(&self, expect: &BlockExpect) -> LeafRules {
        LeafRules {
            nodesize: self.nodesize as u64,
            csum_size: self.checksum.size(),
            max_generation: self.newest.max(expect.generation.unwrap_or(0)),
        }
    }

    /// Writes `parts` at `logical`, to every copy; to none if one would be over a superblock.
    pub(crate) fn write(&self, logical: u64, parts: &[&[u8]]) -> StoreResult<()> {
        let len = parts.iter().map(|part| part.len() as u64).sum();
        let places = self.map(logical, len)?;
        if let Some(at) = places.iter().find(|at| ChunkMap::meets_super(**at, len)) {
            let why =
                format_args!("{len} bytes at {at} of the device would overwrite a superblock");
            return Err(corrupt("address", logical, why));
        }
        for at in places {
            let written = self.device.write_vectored_at(at, parts);
            written.map_err(|error| io("write", at, len, error))?;
        }
        Ok(())
    }

    /// Writes `parts` of data at `logical`. `sums` are the checksums of its blocks, whether or not the trees will have them.
    pub(crate) fn write_data(&self, logical: u64, parts: &[&[u8]], sums: &[u8]) -> StoreResult<()> {
        assert!(!sums.is_empty(), "what a failed flush may lose could not be told apart");
        let range = ByteRange::at(logical, parts.iter().map(|part| part.len() as u64).sum());
        let written = self.write(logical, parts);
        let mut unflushed = self.unflushed.lock();
        match &written {
            Ok(()) => unflushed.note(range, sums),
            // Whatever is there now: who was to have it written keeps it.
            Err(_) => unflushed.forget(range),
        }
        written
    }

    /// The data at `range` is of no use any more: it needs not become durable.
    pub(crate) fn forget_data(&self, range: ByteRange) {
        self.unflushed.lock().forget(range);
    }

    /// Writes all data once more that a failed flush covered, as far as what can be read of it is what was written. Nothing may be allocated,
    /// freed or written meanwhile.
    pub(crate) fn write_distrusted(&self) -> StoreResult<()> {
        let distrusted = self.unflushed.lock().distrusted();
        for (range, sums) in distrusted {
            if self.with_chunks(|map| map.map(range.start, range.len()).is_none()) {
                continue; // it was freed, and its chunk went or was cut
            }
            let len = usize::try_from(range.len()).unwrap_or(usize::MAX);
            let mut bytes = vec![0; len];
            self.read_data(range.start, &mut bytes, |bytes| {
                let mut found = Vec::new();
                block_sums(self.checksum, bytes, &mut found);
                let same = found == sums;
                let lost = "the device has lost it: a flush failed after it was written";
                if same { Ok(()) } else { Err(corrupt("data", range.start, lost)) }
            })?;
            self.write(range.start, &[&bytes])?;
        }
        self.unflushed.lock().made_good();
        Ok(())
    }

    /// Makes the device at least `len` bytes long: a flush that failed may have covered that it was made so.
    pub(crate) fn ensure_len(&self, len: u64) -> StoreResult<()> {
        let now = self.device.len().map_err(|error| io("size", 0, 0, error))?;
        if now < len {
            self.device.set_len(len).map_err(|error| io("grow", len, 0, error))?;
        }
        Ok(())
    }

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// The device's; and once a flush has failed, that, until [`Disk::write_distrusted`].
    pub(crate) fn flush(&self) -> StoreResult<()> {
        let _one_at_a_time = self.flushing.lock();
        if !self.unflushed.lock().begin_flush() {
            let why = "an earlier flush failed, and may have taken what this one is for";
            return Err(io("flush", 0, 0, std::io::Error::other(why)));
        }
        self.device.flush().map_err(|error| io("flush", 0, 0, error))?;
        self.unflushed.lock().end_flush();
        Ok(())
    }
}
