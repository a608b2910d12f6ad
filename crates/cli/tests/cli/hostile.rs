//! Images that say what cannot be, with right checksums: commands end, in few words, with what can be told.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Stdio;

use cowback_codec::{ChecksumKind, digest};

use crate::common::{Place, cowback, program};

const NODE: usize = 16 << 10;
const SUPER: usize = 64 << 10;
/// The tree with the files, and kinds of items.
const FS: u64 = 5;
const INODE_ITEM: u8 = 1;
const EXTENT_DATA: u8 = 108;
/// Nearly the largest size that a file can have.
const HUGE: u64 = (1 << 63) - (1 << 20);

fn get(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn put(bytes: &mut [u8], at: usize, value: u64) {
    bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
}

/// An image of a directory with some files, packed so that nothing is there twice.
fn packed(place: &Place, files: usize, bytes: usize) -> String {
    let (source, image) = (place.arg("src"), place.arg("a.img"));
    fs::create_dir(&source).unwrap();
    for number in 0..files {
        fs::write(place.path("src").join(format!("file{number}")), vec![7; bytes]).unwrap();
    }
    cowback(&["pack", &source, &image, "-c", "none", "--metadata", "single", "-q"]).ok();
    image
}

/// Has `change` look at each leaf of the file tree, and change it; says how many it changed. Their checksums are right again.
fn change_leaves(image: &str, mut change: impl FnMut(&mut [u8]) -> bool) -> usize {
    let mut bytes = fs::read(image).unwrap();
    let fsid = bytes[SUPER + 32..SUPER + 48].to_vec();
    let mut changed = 0;
    for at in (0..bytes.len() - NODE).step_by(4096) {
        let block = &mut bytes[at..at + NODE];
        let is_leaf = block[32..48] == fsid && block[64..72] != *b"_BHRfS_M" && block[100] == 0;
        if is_leaf && get(block, 88) == FS && change(block) {
            let sum = digest(ChecksumKind::Crc32c, &block[32..]);
            block[..4].copy_from_slice(&sum.as_bytes()[..4]);
            changed += 1;
        }
    }
    fs::write(image, bytes).unwrap();
    changed
}

/// Where the items of a kind are in a leaf, with the inodes that they belong to.
fn items(leaf: &[u8], kind: u8) -> Vec<(u64, usize)> {
    let count = u32::from_le_bytes(leaf[96..100].try_into().unwrap());
    let headers = (0..usize::try_from(count).unwrap()).map(|number| 101 + 25 * number);
    let items = headers.filter(|at| leaf[at + 8] == kind).map(|at| {
        let offset = u32::from_le_bytes(leaf[at + 17..at + 21].try_into().unwrap());
        (get(leaf, at), 101 + usize::try_from(offset).unwrap())
    });
    items.collect()
}

/// Gives all files this size, and as many bytes on disk.
fn set_sizes(leaf: &mut [u8], size: u64) -> bool {
    let files = items(leaf, INODE_ITEM);
    for (_, at) in files.iter().filter(|(ino, _)| *ino > 256) {
        put(leaf, at + 16, size);
        put(leaf, at + 24, size);
    }
    files.len() > 1
}

#[test]
fn sizes_that_no_sum_holds_are_told_as_far_as_numbers_go() {
    let place = Place::new();
    let image = packed(&place, 3, 5000);
    assert_eq!(change_leaves(&image, |leaf| set_sizes(leaf, HUGE)), 1);
    let info = cowback(&["info", &image, "--json"]).ok().json();
    assert_eq!((info["regular_files"].as_u64(), info["bytes"].as_u64()), (Some(3), Some(u64::MAX)));
}

#[test]
fn an_extent_that_cannot_be_read_is_named_a_few_times_however_long_it_is() {
    let place = Place::new();
    let image = packed(&place, 2, 20_000);
    const LEN: u64 = 1 << 60;
    let changed = change_leaves(&image, |leaf| {
        let Some((_, at)) = items(leaf, EXTENT_DATA).first().copied() else { return false };
        // Its own length, where it lies on disk and how long it is there, and which part is shown.
        for (field, value) in [(8, LEN), (21, 1 << 50), (29, LEN), (37, 0), (45, LEN)] {
            put(leaf, at + field, value);
        }
        let (_, at) = items(leaf, INODE_ITEM)[1];
        put(leaf, at + 16, LEN);
        put(leaf, at + 24, LEN);
        true
    });
    assert_eq!(changed, 1);
    let (lines, ended) = lines_of(&["check", &image], 50);
    assert!(ended, "{lines:#?}");
    let named = |part: &str| lines.iter().filter(|line| line.contains(part)).count();
    assert_eq!(named("bytes 0 to 1048576: "), 1, "{lines:#?}");
    assert_eq!(named(&format!(" to {LEN}: ")), 1, "the rest of it: {lines:#?}");
}

/// What a command says on standard error, and whether it ended before it had said `most` lines.
fn lines_of(args: &[&str], most: usize) -> (Vec<String>, bool) {
    let mut command = program();
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let lines = BufReader::new(child.stderr.take().unwrap()).lines().take(most);
    let lines: Vec<String> = lines.map(Result::unwrap).collect();
    let ended = lines.len() < most;
    if !ended {
        child.kill().unwrap();
    }
    child.wait().unwrap();
    (lines, ended)
}

#[test]
fn info_tells_what_can_be_read_and_names_what_cannot() {
    let place = Place::new();
    let image = packed(&place, 300, 100);
    let whole = cowback(&["info", &image, "--json"]).ok().json();
    // The last leaf: of files alone.
    let mut last = (0, Vec::new());
    change_leaves(&image, |leaf| {
        last = last.clone().max((get(leaf, 101), leaf[..101].to_vec()));
        false
    });
    damage(Path::new(&image), &last.1);
    let info = cowback(&["info", &image, "--json"]);
    assert_eq!(info.code, 1, "{}", info.err);
    let (told, lines) = (info.json(), info.err.lines().count() as u64);
    assert_eq!(told["unreadable"].as_u64(), Some(lines), "{}", info.err);
    assert!(lines > 1 && info.err.lines().all(|line| line.contains("a.img: /file")));
    for fact in ["uuid", "size", "used", "generation", "checksum", "features"] {
        assert_eq!(told[fact], whole[fact], "{fact}");
    }
    let files = told["files"].as_u64().unwrap();
    assert_eq!(files + lines, whole["files"].as_u64().unwrap());
    let text = cowback(&["info", &image]).text();
    assert!(text.contains(&format!("unreadable  {lines}: not all is counted")), "{text}");
    assert_eq!(whole["unreadable"], 0);
}

/// Damages the block that begins with `head`, and leaves its checksum.
fn damage(image: &Path, head: &[u8]) {
    let bytes = fs::read(image).unwrap();
    let at = (0..bytes.len()).step_by(4096).find(|at| bytes[*at..].starts_with(head)).unwrap();
    let file = File::options().write(true).open(image).unwrap();
    file.write_all_at(&[0xff; 64], (at + NODE / 2) as u64).unwrap();
}
