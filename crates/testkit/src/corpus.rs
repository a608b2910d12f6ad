//! Deterministic trees with every kind of entry, every awkward size and every awkward name.
//!
//! A corpus is a list of entries in memory (files as recipes, not as bytes), to be written to a directory of the host or
//! to anything else. The same seed gives the same tree.

mod content;
mod host;
mod names;

pub use content::{Content, FileSpec};
pub use names::{colliding_names, crc32c};

use crate::random::Rng;

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Dir,
    /// A regular file.
    File(FileSpec),
    /// Another name of an entry that comes earlier in the list.
    HardLink(Vec<u8>),
    /// A symbolic link.
    Symlink(Vec<u8>),
    /// A fifo.
    Fifo,
    /// A socket.
    Socket,
    /// A character device: major and minor number.
    Char(u32, u32),
    /// A block device: major and minor number.
    Block(u32, u32),
}

/// One entry of a corpus. Its directory comes earlier in the list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Path relative to the root.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits.
    pub mode: u32,
    /// Owner and group, if not the user's own.
    pub owner: Option<(u32, u32)>,
    /// Time of the last change: seconds and nanoseconds.
    pub mtime: (i64, i64),
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// A tree as a list of entries, directories before what is in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Corpus {
    /// The entries.
    pub entries: Vec<Entry>,
}

/// File sizes at which something changes: inline or not, one block or two, one extent or two, one chunk or two.
pub const SIZES: [u64; 18] = [
    0, 1, 2047, 2048, 2049, 4095, 4096, 4097, 8191, 8192, 8193, 131_071, 131_072, 131_073, 524_287,
    524_288, 524_289, 1_048_577,
];

/// Bytes of the corpus' large sparse file.
pub const SPARSE: u64 = 200 << 20;

impl Corpus {
    /// All of the parts below; with what only root may make if `root` is set.
    #[must_use]
    pub fn standard(seed: u64, root: bool) -> Self {
        let mut all = Self::sizes(seed);
        all.entries.extend(Self::names(seed).entries);
        all.entries.extend(Self::kinds(seed, root).entries);
        all.entries.extend(Self::deep(24).entries);
        all
    }

    /// A file of each awkward size, each compressible, noise, and alternating; and sparse ones.
    #[must_use]
    pub fn sizes(seed: u64) -> Self {
        let mut corpus = Self::default();
        corpus.dir("sizes");
        for (number, size) in SIZES.into_iter().enumerate() {
            let own = seed ^ ((number as u64 + 1) << 32);
            let contents = [
                ("text", Content::Text(own)),
                ("noise", Content::Noise(own)),
                ("mixed", Content::Alternating { seed: own, period: 131_072 }),
                ("striped", Content::Alternating { seed: own, period: 4096 }),
                ("zeros", Content::Zeros),
            ];
            for (name, content) in contents {
                corpus.file(&format!("sizes/{size}-{name}"), FileSpec::full(size, content));
            }
        }
        let text = |start, end| (start, end, Content::Text(seed));
        let sparse = [
            ("sparse-empty", FileSpec { len: SPARSE, parts: vec![] }),
            (
                "sparse-ends",
                FileSpec { len: SPARSE, parts: vec![text(0, 5), text(SPARSE - 7, SPARSE)] },
            ),
            (
                "sparse-middle",
                FileSpec {
                    len: SPARSE + 1,
                    parts: vec![
                        (100 << 20, (100 << 20) + 300_000, Content::Noise(seed)),
                        text(150 << 20, (150 << 20) + 1),
                    ],
                },
            ),
            ("sparse-tail", FileSpec { len: 1 << 20, parts: vec![text(4096, 12_288)] }),
            ("sparse-comb", comb(seed)),
        ];
        for (name, spec) in sparse {
            corpus.file(&format!("sizes/{name}"), spec);
        }
        corpus
    }

    /// Names that are long, not UTF-8, full of odd bytes, or equal in their directory hash; and many in one directory.
    #[must_use]
    pub fn names(seed: u64) -> Self {
        let mut corpus = Self::default();
        let mut rng = Rng::new(seed).fork(1);
        corpus.dir("names");
        let mut names: Vec<Vec<u8>> = names::ODD.iter().map(|name| name.to_vec()).collect();
        names.push(vec![b'n'; 255]);
        names.push([vec![0xff; 254], vec![b'x']].concat());
        names.extend((1..=255_u8).filter(|byte| *byte != b'/' && *byte != b'.').map(|b| vec![b]));
        for _ in 0..40 {
            let mut name = vec![0; 1 + rng.index(255)];
            rng.fill(&mut name);
            name.iter_mut().filter(|b| **b == 0 || **b == b'/').for_each(|b| *b = b'~');
            names.push(name);
        }
        for (a, b) in colliding_names(b"", 3) {
            names.extend([a, b]);
        }
        names.retain(|name| name != b"." && name != b"..");
        names.sort_unstable();
        names.dedup();
        for (number, name) in names.into_iter().enumerate() {
            let path = [b"names/", &name[..]].concat();
            let spec = FileSpec::full(number as u64 % 7, Content::Text(seed));
            corpus.push(path, Kind::File(spec), 0o644);
        }
        corpus.dir("names/many");
        for number in 0..700 {
            corpus.file(&format!("names/many/entry-{number}"), FileSpec::full(0, Content::Zeros));
        }
        corpus
    }

    /// One of each kind of entry, odd modes, times, owners, many links and extended attributes.
    #[must_use]
    pub fn kinds(seed: u64, root: bool) -> Self {
        let mut corpus = Self::default();
        let mut rng = Rng::new(seed).fork(2);
        corpus.dir("kinds");
        corpus.dir("kinds/empty");
        corpus.file("kinds/plain", FileSpec::full(10_000, Content::Text(seed)));
        let link = |to: &[u8]| Kind::Symlink(to.to_vec());
        corpus.push(b"kinds/symlink".to_vec(), link(b"plain"), 0o777);
        corpus.push(b"kinds/dangling".to_vec(), link(b"/no/such/\xff\xfe"), 0o777);
        corpus.push(b"kinds/long-symlink".to_vec(), link(&vec![b'l'; 4000]), 0o777);
        corpus.push(b"kinds/fifo".to_vec(), Kind::Fifo, 0o640);
        corpus.push(b"kinds/socket".to_vec(), Kind::Socket, 0o600);
        corpus.file("kinds/linked", FileSpec::full(5000, Content::Noise(seed)));
        for number in 0..150 {
            let kind = Kind::HardLink(b"kinds/linked".to_vec());
            corpus.push(format!("kinds/empty/link-{number}").into_bytes(), kind, 0o644);
        }
        for mode in [0o444, 0o755, 0o4755, 0o2755, 0o6711, 0o600] {
            corpus.file(&format!("kinds/mode-{mode:o}"), FileSpec::full(3, Content::Text(seed)));
            corpus.last().mode = mode;
        }
        corpus.dir("kinds/sticky");
        corpus.last().mode = 0o1777;
        let times =
            [(0, 0), (-1, 999_999_999), (1, 1), (0xffff_ffff, 123_456_789), (7_000_000_000, 0)];
        for (number, mtime) in times.into_iter().enumerate() {
            corpus.file(&format!("kinds/time-{number}"), FileSpec::full(1, Content::Text(seed)));
            corpus.last().mtime = mtime;
        }
        corpus.file("kinds/xattrs", FileSpec::full(100, Content::Text(seed)));
        let mut xattrs = vec![
            (b"user.empty".to_vec(), vec![]),
            (b"user.one".to_vec(), vec![0]),
            (b"user.bytes\xff".to_vec(), rng.bytes(300)),
            (b"user.large".to_vec(), rng.bytes(1500)),
        ];
        for (a, b) in colliding_names(b"user.", 1) {
            xattrs.extend([(a, b"first".to_vec()), (b, b"second".to_vec())]);
        }
        corpus.last().xattrs = xattrs;
        corpus.dir("kinds/dir-with-xattr");
        corpus.last().xattrs = vec![(b"user.dir".to_vec(), b"yes".to_vec())];
        if root {
            corpus.push(b"kinds/null".to_vec(), Kind::Char(1, 3), 0o666);
            corpus.push(b"kinds/loop".to_vec(), Kind::Block(7, 1000), 0o660);
            corpus.push(b"kinds/far".to_vec(), Kind::Char(4095, 0xf_ffff), 0o600);
            corpus.file("kinds/secret", FileSpec::full(20, Content::Noise(seed)));
            corpus.last().mode = 0;
            for (number, owner) in
                [(1, 2), (65_534, 65_534), (4_000_000_000, 77)].into_iter().enumerate()
            {
                let spec = FileSpec::full(2, Content::Text(seed));
                corpus.file(&format!("kinds/owner-{number}"), spec);
                corpus.last().owner = Some(owner);
            }
            corpus.last().xattrs = vec![(b"trusted.word".to_vec(), b"value".to_vec())];
        }
        corpus
    }

    /// Directories in directories, `depth` of them, with names of 100 bytes, and a file at the bottom.
    #[must_use]
    pub fn deep(depth: usize) -> Self {
        let mut corpus = Self::default();
        let mut path = String::new();
        for level in 0..depth {
            path.push_str(&format!("{}{level:0100}", if level > 0 { "/" } else { "" }));
            corpus.dir(&path);
        }
        corpus.file(&format!("{path}/bottom"), FileSpec::full(4097, Content::Text(7)));
        corpus
    }

    /// About `bytes` in files of mixed sizes and kinds, in directories of up to 100 files, as a project tree would be.
    #[must_use]
    pub fn mixed(seed: u64, bytes: u64) -> Self {
        let mut corpus = Self::default();
        let mut rng = Rng::new(seed).fork(3);
        let (mut left, mut number) = (bytes, 0_u64);
        while left > 0 {
            if number.is_multiple_of(100) {
                corpus.dir(&format!("part-{}", number / 100));
            }
            let most = 1 << rng.within(6, 21);
            let len = rng.below(most).min(left).max(1);
            let content = match rng.below(10) {
                0..6 => Content::Text(rng.next_u64()),
                6..8 => Content::Noise(rng.next_u64()),
                _ => Content::Alternating { seed: rng.next_u64(), period: 4096 << rng.below(7) },
            };
            let path = format!("part-{}/file-{number}", number / 100);
            corpus.file(&path, FileSpec::full(len, content));
            left -= len;
            number += 1;
        }
        corpus
    }

    /// Bytes of all files, holes included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let len = |entry: &Entry| match &entry.kind {
            Kind::File(spec) => spec.len,
            _ => 0,
        };
        self.entries.iter().map(len).sum()
    }

    /// Adds an entry.
    pub fn push(&mut self, path: Vec<u8>, kind: Kind, mode: u32) {
        // A time of its own for each, so that a mix-up shows.
        let number = i64::try_from(self.entries.len()).expect("few entries");
        let mtime = (1_600_000_000 + number, (number * 7_919_317) % 1_000_000_000);
        self.entries.push(Entry { path, kind, mode, owner: None, mtime, xattrs: vec![] });
    }

    fn dir(&mut self, path: &str) {
        self.push(path.as_bytes().to_vec(), Kind::Dir, 0o755);
    }

    fn file(&mut self, path: &str, spec: FileSpec) {
        self.push(path.as_bytes().to_vec(), Kind::File(spec), 0o644);
    }

    fn last(&mut self) -> &mut Entry {
        self.entries.last_mut().expect("an entry was pushed")
    }
}

/// Every other block is a hole.
fn comb(seed: u64) -> FileSpec {
    let part = |n: u64| (n * 8192, n * 8192 + 4096, Content::Noise(seed ^ n));
    FileSpec { len: 1 << 20, parts: (0..128).map(part).collect() }
}

#[cfg(test)]
mod tests;
