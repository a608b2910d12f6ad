//! What the tests of the program share: running it, trees to pack, and comparing trees.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use cowback_testkit::skipped;
use rustix::fs::{CWD, FileType, Mode, mknodat};

pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: Vec<u8>,
    pub(crate) err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            out: output.stdout,
            err: String::from_utf8(output.stderr).expect("messages are UTF-8"),
        }
    }

    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}", self.err);
        self
    }

    /// Asserts that it failed with `code` and one line that holds each of `words`.
    pub(crate) fn fails(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "{}", self.err);
        let lines: Vec<&str> = self.err.lines().collect();
        assert_eq!(lines.len(), 1, "{}", self.err);
        assert!(lines[0].starts_with("cowback: "), "{}", self.err);
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in {}", self.err);
        }
        self
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.out).expect("one JSON object")
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.out.clone()).expect("UTF-8")
    }
}

pub(crate) fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cowback"));
    command.env_remove("SOURCE_DATE_EPOCH");
    command
}

/// Runs the program with these arguments.
pub(crate) fn cowback<S: AsRef<OsStr>>(args: &[S]) -> Ran {
    Ran::of(program().args(args).stdin(Stdio::null()).output().unwrap())
}

/// Runs the program with `input` on its standard input.
pub(crate) fn cowback_fed<S: AsRef<OsStr>>(args: &[S], input: &[u8]) -> Ran {
    let mut command = program();
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeder = std::thread::spawn(move || {
        let _ = stdin.write_all(&input); // the program may end before it has read all
    });
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    Ran::of(output)
}

/// A directory for one test, with paths in it.
pub(crate) struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn arg(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Everything in the directory, hidden files too.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_str().unwrap().to_owned()).collect();
        names.sort();
        names
    }
}

pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Bytes that do not compress, the same for the same seed.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&next());
    }
    bytes.truncate(len);
    bytes
}

/// Bytes that compress well.
pub(crate) fn text(seed: u64, len: usize) -> Vec<u8> {
    let words = noise(seed, 64);
    let mut bytes = Vec::with_capacity(len + 16);
    let mut at = 0_usize;
    while bytes.len() < len {
        bytes.extend_from_slice(b"the word ");
        bytes.extend_from_slice(format!("{:02x} ", words[at % words.len()]).as_bytes());
        at = at.wrapping_add(1 + at / 97);
    }
    bytes.truncate(len);
    bytes
}

/// A tree with every kind of entry that this user may make.
pub(crate) fn make_tree(root: &Path) {
    fs::create_dir(root).unwrap();
    let file =
        |name: &[u8], bytes: &[u8]| fs::write(root.join(OsStr::from_bytes(name)), bytes).unwrap();
    for size in [0, 1, 2047, 2048, 2049, 4095, 4096, 4097] {
        file(format!("size-{size}").as_bytes(), &text(size as u64, size));
    }
    for base in [128 << 10, 512 << 10] {
        for size in [base - 1, base, base + 1] {
            file(format!("text-{size}").as_bytes(), &text(size as u64, size));
            file(format!("noise-{size}").as_bytes(), &noise(size as u64, size));
        }
    }
    let mut mixed = text(1, 300_000);
    mixed.extend(noise(2, 300_000));
    mixed.extend(text(3, 300_000));
    file(b"mixed", &mixed);
    make_odd_names(root);
    make_links_and_dirs(root);
    make_holes(root);
    make_special(root);
    set_odd_attributes(root);
}

fn make_odd_names(root: &Path) {
    let names: [&[u8]; 12] = [
        b" ",
        b"-",
        b"--help",
        b"new\nline",
        b"\xff\xfe not utf8",
        "\u{fc}n\u{ef}c\u{f6}d\u{e9}".as_bytes(),
        b"...",
        b".hidden",
        b"*?[",
        b"\\",
        b"'\"$(x)`",
        b"\x01\x7f",
    ];
    for name in names {
        fs::write(root.join(OsStr::from_bytes(name)), name).unwrap();
    }
    fs::write(root.join("l".repeat(255)), b"long").unwrap();
}

fn make_links_and_dirs(root: &Path) {
    fs::create_dir_all(root.join("dir/empty")).unwrap();
    fs::create_dir_all(root.join("dir/a/b/c/d")).unwrap();
    fs::write(root.join("dir/a/b/c/d/deep"), b"deep").unwrap();
    fs::write(root.join("dir/first"), b"linked").unwrap();
    fs::hard_link(root.join("dir/first"), root.join("dir/a/second")).unwrap();
    fs::hard_link(root.join("dir/first"), root.join("third")).unwrap();
    symlink("dir/first", root.join("symlink")).unwrap();
    symlink("/nowhere/at all", root.join("dangling")).unwrap();
    symlink(OsStr::from_bytes(b"\xff"), root.join("symlink-bytes")).unwrap();
    symlink("x".repeat(4095), root.join("symlink-long")).unwrap();
    symlink(".", root.join("dir/loop")).unwrap();
    fs::create_dir(root.join("many")).unwrap();
    for number in 0..700 {
        fs::write(root.join(format!("many/{number:x}")), format!("{number}")).unwrap();
    }
}

fn make_holes(root: &Path) {
    let sparse = File::create(root.join("sparse")).unwrap();
    sparse.set_len(200 << 20).unwrap();
    sparse.write_all_at(b"middle", 100_000_001).unwrap();
    let end = File::create(root.join("hole-then-data")).unwrap();
    end.write_all_at(&text(9, 10_000), 1 << 20).unwrap();
    File::create(root.join("only-hole")).unwrap().set_len(123_457).unwrap();
}

fn make_special(root: &Path) {
    mknodat(CWD, root.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    mknodat(CWD, root.join("socket"), FileType::Socket, Mode::from_raw_mode(0o750), 0).unwrap();
    if is_root() {
        use rustix::fs::makedev;
        let mode = Mode::from_raw_mode(0o600);
        let made = mknodat(CWD, root.join("null"), FileType::CharacterDevice, mode, makedev(1, 3))
            .and_then(|()| {
                let dev = makedev(259, 70_000);
                mknodat(CWD, root.join("disk"), FileType::BlockDevice, mode, dev)
            });
        if let Err(error) = made {
            skipped("packing of device nodes", &error.to_string());
        }
    }
}

fn set_odd_attributes(root: &Path) {
    use rustix::fs::{XattrFlags, chmodat, lsetxattr};
    let mode = |name: &str, mode| {
        let flags = rustix::fs::AtFlags::empty();
        chmodat(CWD, root.join(name), Mode::from_raw_mode(mode), flags).unwrap();
    };
    for (name, value) in [("user.one", &b"1"[..]), ("user.empty", b""), ("user.long", &[7; 3000])] {
        for file in ["mixed", "dir"] {
            if let Err(error) = lsetxattr(root.join(file), name, value, XattrFlags::empty()) {
                skipped("packing of extended attributes", &error.to_string());
            }
        }
    }
    if is_root() {
        for (name, uid, gid) in [("size-1", 1000, 1001), ("symlink", 7, 8), ("dir", 65_534, 5)] {
            std::os::unix::fs::lchown(root.join(name), Some(uid), Some(gid)).unwrap();
        }
    }
    mode("size-0", 0o4755);
    mode("size-1", 0o2711);
    mode("dir/empty", 0o1777);
    mode("dir/a", 0o500);
    set_times(root, "size-1", 1, 999_999_999);
    set_times(root, "size-2047", -1_000_000, 1);
    set_times(root, "symlink", 1_234_567_890, 123_456_789);
    set_times(root, "fifo", 1_000, 5);
    set_times(root, "dir/empty", 4_000_000_000, 7);
    set_times(root, "dir", 1_500_000_000, 3);
    set_times(root, "", 1_600_000_000, 987_654_321);
}

pub(crate) fn set_times(root: &Path, name: &str, sec: i64, nsec: i64) {
    use rustix::fs::{AtFlags, Timespec, Timestamps, utimensat};
    let time = Timespec { tv_sec: sec, tv_nsec: nsec };
    let times = Timestamps { last_access: time, last_modification: time };
    let path = if name.is_empty() { root.to_path_buf() } else { root.join(name) };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// What a tree is, as text by path: everything that `pack` keeps but the time of the last read.
pub(crate) fn describe(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let mut found = BTreeMap::new();
    let mut links: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(path) = waiting.pop() {
        let full = if path.as_os_str().is_empty() { root.to_path_buf() } else { root.join(&path) };
        let at = fs::symlink_metadata(&full).unwrap();
        let name = path.as_os_str().as_bytes().to_vec();
        if at.is_dir() {
            waiting.extend(fs::read_dir(&full).unwrap().map(|e| path.join(e.unwrap().file_name())));
        } else if at.nlink() > 1 {
            let first = links.entry(at.ino()).or_insert_with(|| name.clone());
            *first = first.clone().min(name.clone());
        }
        found.insert(name, (full, at));
    }
    let describe = |(name, (full, at)): (Vec<u8>, (PathBuf, fs::Metadata))| {
        let first = links.get(&at.ino()).map(|first| first.escape_ascii().to_string());
        let text = format!(
            "{:o} {}:{} {}.{:09} {:?} {} {}",
            at.mode(),
            at.uid(),
            at.gid(),
            at.mtime(),
            at.mtime_nsec(),
            first,
            content(&full, &at),
            xattrs(&full)
        );
        (name, text)
    };
    found.into_iter().map(describe).collect()
}

fn content(path: &Path, at: &fs::Metadata) -> String {
    let kind = at.file_type();
    if kind.is_symlink() {
        fs::read_link(path).unwrap().as_os_str().as_bytes().escape_ascii().to_string()
    } else if kind.is_file() {
        let bytes = fs::read(path).unwrap();
        format!("{} bytes, {:x}", bytes.len(), digest(&bytes))
    } else if kind.is_char_device() || kind.is_block_device() {
        format!("device {:x}", at.rdev())
    } else {
        String::new()
    }
}

/// FNV-1a over 8-byte words: long files are compared by it.
fn digest(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3).rotate_left(5);
    }
    hash
}

fn xattrs(path: &Path) -> String {
    use rustix::fs::{lgetxattr, llistxattr};
    let mut buffer = vec![0; 65_536];
    let len = llistxattr(path, &mut buffer[..]).unwrap_or(0);
    let names: Vec<Vec<u8>> = buffer[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect();
    let mut all: Vec<String> = names
        .iter()
        .map(|name| {
            let len = lgetxattr(path, name.as_slice(), &mut buffer[..]).unwrap();
            format!("{}={}", name.escape_ascii(), buffer[..len].escape_ascii())
        })
        .collect();
    all.sort();
    all.join(" ")
}

/// Asserts that two trees are the same in everything that `pack` keeps.
pub(crate) fn assert_same(a: &Path, b: &Path) {
    let (a, b) = (describe(a), describe(b));
    let names = |tree: &BTreeMap<Vec<u8>, String>| -> Vec<String> {
        tree.keys().map(|name| name.escape_ascii().to_string()).collect()
    };
    assert_eq!(names(&a), names(&b));
    for (name, text) in &a {
        assert_eq!(Some(text), b.get(name), "{}", name.escape_ascii());
    }
}
