//! What may still be promised on a device of fixed size, without a look at what worker threads have done since (law R3).
//!
//! Who is refused commits, and asks again: so whether a promise is made decides what the image looks like, and must not depend on how much of
//! what was promised before has reached its extents by now, and how small it became there. So everything is **counted** at a commit, when
//! nothing is on its way, if one thread alone writes. (What others have just taken an extent for, and not yet kept the promise of, counts twice: there is
//! less room then until the next count, and never more than there is.) From then on promises are taken off what there was, at their full size, and only those that are given up are put back; what
//! compression saved is had after the next count.
//!
//! What is counted is what is free, and what the unallocated part of the device can become. A promise makes no block group; an allocation that finds
//! no room does. Data and trees are allocated by different threads. So that neither comes across the other's block groups, each count cuts what is
//! unallocated in two, at the **border**: below, it is for data, and behind, for trees.

use cowback_base::{BLOCK_SIZE, ByteRange, COMPRESSED_EXTENT_MAX};

use super::{Class, Space};
use crate::chunks::{STRIPE_LEN, SUPER_STRIPE};
use crate::error::no_space;
use cowback_btrfs_disk::superblock::SUPER_OFFSETS;
use cowback_extent_io::store::StoreResult;

/// Promises of one kind.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Owed {
    /// Bytes that were promised, and neither given up nor kept.
    pub(crate) open: u64,
    /// Bytes that were promised and not given up; those that were kept count until the next commit.
    pub(crate) bytes: u64,
    /// Extents that these are, as far as one can tell: each promise is for bytes that lie together.
    pub(crate) extents: u64,
}

impl Owed {
    fn promise(&mut self, bytes: u64) {
        self.open += bytes;
        self.bytes += bytes;
        self.extents += bytes.div_ceil(COMPRESSED_EXTENT_MAX);
    }

    /// Promises anew what was promised and kept: it counts already, but if that was before the last commit.
    fn promise_again(&mut self, bytes: u64) {
        self.open += bytes;
        let more = self.open.saturating_sub(self.bytes);
        self.bytes += more;
        self.extents += more.div_ceil(COMPRESSED_EXTENT_MAX);
    }

    fn give_up(&mut self, bytes: u64) {
        self.keep(bytes);
        self.bytes = self.bytes.saturating_sub(bytes);
        // Which promise this was is not known. That of single blocks may have been part of a longer one.
        let extents = self.extents.saturating_sub(bytes / COMPRESSED_EXTENT_MAX);
        self.extents = extents.min(self.bytes / BLOCK_SIZE);
    }

    fn keep(&mut self, bytes: u64) {
        assert!(self.open >= bytes, "{bytes} of {} promised bytes", self.open);
        self.open -= bytes;
    }

    /// What was kept is in the trees.
    fn begin(&mut self) {
        let share = u128::from(self.extents) * u128::from(self.open);
        let extents = share.div_ceil(u128::from(self.bytes.max(1)));
        self.extents = u64::try_from(extents).unwrap_or(u64::MAX);
        self.bytes = self.open;
    }
}

/// Most bytes that a volume that grows promises at once. More is taken for a mistake, rather than for a wish to have that many block groups.
const GROWTH_MAX: u64 = 1 << 40;

/// What was promised, and what there was when all was counted.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Promises {
    /// Data that needs space.
    pub(crate) data: Owed,
    /// Data that is to be written where it has its space already.
    pub(crate) in_place: Owed,
    /// Extents that came out shorter than any compressed one is, as free space is in pieces.
    short: u64,
    /// Bytes of data that may still be promised: below zero if trees took what was meant for them.
    room: i64,
    /// Whether there was no room for data in the running transaction.
    refused: bool,
    /// And in the one that has ended, and is not durable yet.
    refused_ended: bool,
    /// Pieces that free space was in.
    pieces: u64,
    /// Bytes in pieces that were long enough for anything.
    long: u64,
    /// Device address from which on what is unallocated is for trees.
    border: u64,
    /// Bytes of metadata in block groups that can be made behind the border.
    metadata: u64,
    /// Block groups that there can be before the next count.
    pub(crate) groups: u64,
    /// Of these, those that have no items yet.
    pub(crate) fresh: u64,
    /// Bytes of items of inline content that may still come; that came in the running transaction; and that may have come in it by the next count.
    inline_left: u64,
    inline_taken: u64,
    pub(crate) inline: u64,
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

impl Promises {
    /// Extents that the promised bytes are or will be. Where free space is in pieces, each piece that is used up makes one more.
    pub(crate) fn extents(&self) -> u64 {
        let Owed { bytes, extents, .. } = self.data;
        let pieces = if bytes <= self.long / 2 { self.short } else { self.pieces.max(self.short) };
        (extents + pieces).min(bytes / BLOCK_SIZE)
    }
}

impl Space {
    /// What was promised.
    pub(crate) const fn promises(&self) -> &Promises {
        &self.promises
    }

    /// Promises `bytes` of data. A volume that grows has room for anything, but for [`GROWTH_MAX`] at once.
    pub(crate) fn promise(&mut self, bytes: u64) -> StoreResult<()> {
        let room = u64::try_from(self.promises.room).unwrap_or(0);
        let room = if self.policy.grow { GROWTH_MAX } else { room };
        if bytes > room {
            self.promises.refused = true;
            return Err(no_space(Class::Data.name(), bytes, room));
        }
        self.promises.data.promise(bytes);
        self.promises.room = self.promises.room.saturating_sub(signed(bytes));
        Ok(())
    }

    /// Promises anew what was promised and kept: by an extent that is given back.
    pub(crate) fn promise_again(&mut self, bytes: u64) {
        self.promises.data.promise_again(bytes);
    }

    /// Promises that `bytes` bytes are going to be written where they have their space.
    pub(crate) fn promise_in_place(&mut self, bytes: u64) {
        self.promises.in_place.promise(bytes);
    }

    /// As [`Space::promise_in_place`], for bytes that could not be written.
    pub(crate) fn promise_in_place_again(&mut self, bytes: u64) {
        self.promises.in_place.promise_again(bytes);
    }

    /// They are not going to be written.
    pub(crate) fn give_up_in_place(&mut self, bytes: u64) {
        self.promises.in_place.give_up(bytes);
    }

    /// They are on their way.
    pub(crate) fn keep_in_place(&mut self, bytes: u64) {
        self.promises.in_place.keep(bytes);
    }

    /// Puts what was promised back to `before`, as the promise that was made since was not to be made. What was counted since stays counted.
    pub(crate) fn unpromise(&mut self, before: &Promises) {
        let promises = &mut self.promises;
        let back = promises.data.bytes.saturating_sub(before.data.bytes);
        promises.room = promises.room.saturating_add(signed(back));
        (promises.data, promises.in_place) = (before.data, before.in_place);
        promises.short = before.short;
    }

    /// Part of what was promised is not needed.
    pub(crate) fn give_up(&mut self, bytes: u64) {
        self.promises.data.give_up(bytes);
        self.promises.room = self.promises.room.saturating_add(signed(bytes));
    }

    /// Part of what was promised is an extent now, or inline.
    pub(crate) fn keep(&mut self, bytes: u64) {
        self.promises.data.keep(bytes);
    }

    /// A data extent of `len` bytes was allocated where `want` were wanted.
    pub(super) const fn note_short(&mut self, want: u64, len: u64) {
        if len < want && len < COMPRESSED_EXTENT_MAX {
            self.promises.short += 1;
        }
    }

    /// Takes room for inline content whose item has `bytes` bytes. False if there is none before the next commit.
    pub(crate) const fn take_inline(&mut self, bytes: u64) -> bool {
        if self.policy.grow {
            self.promises.inline += bytes;
            return true;
        }
        let fits = bytes <= self.promises.inline_left;
        if fits {
            self.promises.inline_left -= bytes;
            self.promises.inline_taken += bytes;
        }
        fits
    }

    /// Everything that was promised and kept is in the trees: only open promises count from here on.
    pub(crate) fn begin_promises(&mut self) {
        self.promises.data.begin();
        self.promises.in_place.begin();
        self.promises.short = 0;
        self.promises.inline_taken = 0;
        self.promises.refused_ended |= std::mem::take(&mut self.promises.refused);
        if self.policy.grow {
            self.promises.inline = 0;
        }
    }

    /// Counts what there is, on a device of fixed size. `metadata` bytes of it must be for trees, if that is possible.
    pub(crate) fn count(&mut self, metadata: u64) {
        self.promises.border = self.find_border(metadata);
        let ahead = |space: &Self, class| {
            let capacity = space.capacity(class);
            let holes = space.disk.with_chunks(|map| map.holes_in(space.part(class)).len() as u64);
            (capacity, capacity / space.wanted_len(class) + 2 * holes, holes)
        };
        let (data, data_groups, holes) = ahead(self, Class::Data);
        let (metadata, metadata_groups, _) = ahead(self, Class::Metadata);
        let free = &self.pool(Class::Data).free;
        let (bytes, long, pieces) = (free.bytes() + data, free.long_bytes() + data, free.count());
        let (groups, fresh) = (self.groups.len() as u64, self.fresh.len() as u64);
        let promises = &mut self.promises;
        promises.refused_ended = false;
        promises.room = signed(bytes).saturating_sub(signed(promises.data.open));
        (promises.long, promises.pieces) = (long, pieces + holes);
        promises.metadata = metadata;
        promises.groups = groups + data_groups + metadata_groups;
        promises.fresh = fresh + data_groups + metadata_groups;
    }

    /// Sets half of `spare` bytes of metadata aside for items of inline content, which may fill tree blocks only half.
    pub(crate) const fn set_inline_aside(&mut self, spare: u64) {
        self.promises.inline = self.promises.inline_taken + spare / 4;
        self.promises.inline_left = spare / 4;
    }

    /// Bytes of metadata that are free, or can be made.
    pub(crate) fn metadata_left(&self) -> u64 {
        self.pool(Class::Metadata).free.bytes() + self.promises.metadata
    }

    /// The part of a device of fixed size in which block groups of `class` are made.
    pub(super) const fn part(&self, class: Class) -> ByteRange {
        match class {
            Class::Data => ByteRange { start: 0, end: self.promises.border },
            Class::Metadata | Class::System => {
                ByteRange { start: self.promises.border, end: self.total_bytes }
            }
        }
    }

    /// Bytes of `class` that the unallocated bytes of its part can become.
    fn capacity(&self, class: Class) -> u64 {
        let holes = self.disk.with_chunks(|map| map.holes_in(self.part(class)));
        let bytes = bytes_of(&holes) / (self.copies(class) * STRIPE_LEN) * STRIPE_LEN;
        let supers = SUPER_OFFSETS.map(|at| ByteRange::at(at, SUPER_STRIPE));
        let within = |copy: &&ByteRange| holes.iter().any(|hole| hole.intersect(**copy).is_some());
        bytes.saturating_sub(supers.iter().filter(within).count() as u64 * SUPER_STRIPE)
    }

    /// The border that leaves trees what they need, at least a thirty-second of the device in all, and as long as data has enough of it, another block
    /// group. Data has the rest, and not less than was promised.
    fn find_border(&self, metadata: u64) -> u64 {
        let now = self.pool(Class::Metadata);
        let floor = (self.total_bytes / 32).saturating_sub(now.total);
        let need = match metadata.saturating_sub(now.free.bytes()) {
            0 => 0,
            need => need.max(self.wanted_len(Class::Metadata)),
        };
        let copies = self.copies(Class::Metadata);
        let holes = self.disk.with_chunks(|map| map.holes(self.total_bytes));
        let unallocated = bytes_of(&holes);
        let spare = (self.wanted_len(Class::Metadata) * copies).min(unallocated / 4);
        let refused = self.promises.refused || self.promises.refused_ended;
        let spare = if refused { 0 } else { spare };
        let part = (floor.max(need) * copies).max(spare).next_multiple_of(STRIPE_LEN);
        let part = part.min(unallocated.saturating_sub(self.owed_to_data()));
        let mut part = part / STRIPE_LEN * STRIPE_LEN;
        let mut border = self.total_bytes;
        for hole in holes.iter().rev() {
            let taken = part.min(hole.len());
            if taken > 0 {
                (border, part) = (hole.end - taken, part - taken);
            }
        }
        border
    }

    /// Bytes of the device that are still to become block groups for data that was promised.
    pub(super) fn owed_to_data(&self) -> u64 {
        let owed = self.promises.data.open.saturating_sub(self.pool(Class::Data).free.bytes());
        owed.next_multiple_of(STRIPE_LEN) * self.copies(Class::Data)
    }

    /// A block group of `class` was made on a device of fixed size, and the lowest of its stripes is at `start`. If it is for trees, it may lie below
    /// the border, as there was no room behind it.
    pub(super) fn note_group(&mut self, class: Class, start: u64, data_before: u64) {
        if class == Class::Data {
            return;
        }
        self.promises.border = self.promises.border.min(start);
        self.promises.metadata = self.capacity(Class::Metadata);
        let less = data_before.saturating_sub(self.capacity(Class::Data));
        self.promises.room = self.promises.room.saturating_sub(signed(less));
    }

    /// As [`Space::note_group`] wants to know it from before.
    pub(super) fn data_before(&self) -> u64 {
        if self.policy.grow { 0 } else { self.capacity(Class::Data) }
    }
}

fn bytes_of(holes: &[ByteRange]) -> u64 {
    holes.iter().map(|hole| hole.len()).sum()
}
