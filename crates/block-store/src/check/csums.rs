//! The checksum tree against the data that it speaks of.

use cowback_base::{BLOCK_SIZE, ByteRange};
use cowback_btrfs_disk::{ItemKind, Key, TreeId, objectid};

use super::data::{user_of, verify};
use super::extents::Extents;
use super::file_extents::Use;
use super::media::Media;
use super::problem::Out;
use super::ranges;
use super::walk::Item;

/// What the checksum tree covers.
#[derive(Debug, Default)]
pub(super) struct Csums {
    /// Sorted and joined.
    covered: Vec<ByteRange>,
    last: Option<(Key, u64)>,
    /// An item could not be understood.
    pub(super) damaged: bool,
}

impl Csums {
    /// Takes in an item; with `data`, reads what it speaks of and compares. `uses` are sorted by extent.
    pub(super) fn item(
        &mut self,
        media: &Media<'_>,
        item: &Item<'_>,
        uses: &[Use],
        data: bool,
        out: &mut Out<'_>,
    ) {
        let key = item.key;
        if (key.objectid, key.kind) != (objectid::EXTENT_CSUM, ItemKind::EXTENT_CSUM) {
            out.item(TreeId::CSUM, &key, "such an item does not belong here");
            return;
        }
        if !item.valid {
            self.damaged = true;
            return;
        }
        let blocks = (item.data.len() / media.sb.csum.size()) as u64;
        let len = blocks.saturating_mul(BLOCK_SIZE);
        let range = ByteRange::new(key.offset, key.offset.saturating_add(len));
        if let Some((last, end)) = self.last
            && end > range.start
        {
            out.item(TreeId::CSUM, &key, format_args!("it overlaps the one at {last}"));
        }
        self.last = Some((key, range.end));
        ranges::push(&mut self.covered, range);
        if data {
            verify(media, range, Some(item.data), uses, out);
        }
    }

    /// Compares what is covered with what there is. `uses` are sorted by extent; `whole` says that the checksum tree was
    /// read as a whole, `extents` is the extent tree if that was.
    pub(super) fn check(
        &self,
        uses: &[Use],
        whole: bool,
        extents: Option<&Extents>,
        out: &mut Out<'_>,
    ) {
        if whole {
            self.check_missing(uses, out);
        }
        let Some(extents) = extents else { return };
        let data = extents.list.iter().filter(|extent| extent.level.is_none());
        let data = ranges::join(data.map(|extent| extent.range).collect());
        for range in ranges::subtract(&self.covered, &data) {
            let key = Key::new(objectid::EXTENT_CSUM, ItemKind::EXTENT_CSUM, range.start);
            let what = format_args!("checksums of {} bytes that no extent holds", range.len());
            out.item(TreeId::CSUM, &key, what);
        }
        self.check_odd(uses, out);
    }

    /// Tells of checksums that what files show lacks, by extent. Each range is told once, however many items show it, or parts of it.
    fn check_missing(&self, uses: &[Use], out: &mut Out<'_>) {
        let has_some = |one: &&Use| !one.is_bare() && !one.is_moving();
        let shown = uses.iter().filter(has_some).map(Use::on_disk);
        let shown = ranges::join(shown.collect());
        let mut starts = uses.iter().map(|one| one.bytenr).peekable();
        for missing in ranges::subtract(&shown, &self.covered) {
            let mut at = missing.start;
            while at < missing.end {
                while starts.next_if(|start| *start <= at).is_some() {}
                let end = starts.peek().map_or(missing.end, |start| missing.end.min(*start));
                let key = Key::new(objectid::EXTENT_CSUM, ItemKind::EXTENT_CSUM, at);
                let (len, user) = (end - at, user_of(uses, at));
                let what = format_args!("the checksums of {len} bytes are missing{user}");
                out.item(TreeId::CSUM, &key, what);
                at = end;
            }
        }
    }

    /// Tells of checksums of what has none: what is not written yet, or only files without checksums use. What no item shows may have some:
    /// of an extent that was preallocated, a part may have been written that was dropped since.
    fn check_odd(&self, uses: &[Use], out: &mut Out<'_>) {
        for users in uses.chunk_by(|a, b| a.bytenr == b.bytenr) {
            let Some(first) = users.first() else { continue };
            let shown = |bare| {
                let uses = users.iter().filter(|one| one.is_bare() == bare);
                ranges::join(uses.map(Use::on_disk).collect())
            };
            for range in ranges::subtract(&shown(true), &shown(false)) {
                let Some(odd) = ranges::around(&self.covered, range).first() else { continue };
                let start = odd.start.max(range.start);
                let key = Key::new(objectid::EXTENT_CSUM, ItemKind::EXTENT_CSUM, start);
                let user = user_of(users, first.bytenr);
                out.item(TreeId::CSUM, &key, format_args!("a checksum of data without any{user}"));
            }
        }
    }

    /// Reads data that has no checksums: that it can be read is all that is known of it.
    pub(super) fn read_the_rest(&self, media: &Media<'_>, uses: &[Use], out: &mut Out<'_>) {
        let all = uses.iter().filter(|one| !one.prealloc).map(Use::on_disk);
        let all = ranges::join(all.collect());
        for range in ranges::subtract(&all, &self.covered) {
            verify(media, range, None, uses, out);
        }
    }
}
