//! The superblock and its copies.
//!
//! The first copy counts for a commit; those behind it may lag by one commit, and one that the volume has only just grown
//! around may not be written yet.

use cowback_btrfs_disk::superblock::{SUPER_LEN, SUPER_OFFSETS, Superblock};

use super::media::Media;
use super::problem::{Out, Place, Subject};

/// Checks every copy that the volume has room for.
pub(super) fn check(media: &Media<'_>, out: &mut Out<'_>) {
    let sb = &media.sb;
    for offset in SUPER_OFFSETS {
        let end = offset + SUPER_LEN as u64;
        if end > sb.dev_item.total_bytes.min(media.len) {
            break;
        }
        let tell = |out: &mut Out<'_>, what: String| {
            out.tell(Subject::Superblock, Place::Device(offset), what);
        };
        let bytes = match media.read(offset, SUPER_LEN as u64) {
            Ok(bytes) => bytes,
            Err(error) => {
                tell(out, format!("the copy cannot be read: {error}"));
                continue;
            }
        };
        if offset != SUPER_OFFSETS[0] && bytes.iter().all(|byte| *byte == 0) && is_new(sb, end) {
            continue;
        }
        match Superblock::parse(&bytes, offset) {
            Err(error) => tell(out, format!("the copy is damaged: {error}")),
            Ok(copy) if copy.fsid != sb.fsid => {
                tell(out, format!("the copy is of volume {}, this is {}", copy.fsid, sb.fsid));
            }
            Ok(copy) if copy.generation.saturating_add(1) < sb.generation => {
                let (found, newest) = (copy.generation, sb.generation);
                tell(out, format!("the copy is of generation {found}, the volume of {newest}"));
            }
            Ok(copy) if copy.generation == sb.generation => {
                if (Superblock { bytenr: sb.bytenr, ..copy }) != *sb {
                    tell(out, "the copy differs from the superblock that counts".to_owned());
                }
            }
            Ok(_) => {}
        }
    }
    check_fields(media, out);
}

/// Whether the last commit but one knew no place for the copy that ends at `end`.
fn is_new(sb: &Superblock, end: u64) -> bool {
    let older = sb.backup_roots.iter().filter(|backup| backup.tree.generation < sb.generation);
    let before = older.max_by_key(|backup| backup.tree.generation);
    before.is_none_or(|backup| backup.total_bytes < end)
}

/// Fields that no other structure repeats.
fn check_fields(media: &Media<'_>, out: &mut Out<'_>) {
    let sb = &media.sb;
    if sb.error {
        out.superblock("whoever wrote the volume last recorded an error in it");
    }
    if sb.dev_item.total_bytes > media.len {
        let (found, most) = (sb.dev_item.total_bytes, media.len);
        out.superblock(format_args!("the device has {found} bytes, and it is {most} bytes long"));
    }
    if sb.num_devices == 1 && sb.total_bytes != sb.dev_item.total_bytes {
        let (found, expected) = (sb.total_bytes, sb.dev_item.total_bytes);
        let what = format_args!("total_bytes: found {found}, expected {expected}, the device's");
        out.superblock(what);
    }
    if sb.log_root != 0 {
        let what = format_args!("the log tree at {} that a crash of the kernel left", sb.log_root);
        out.unchecked(what);
    }
}
