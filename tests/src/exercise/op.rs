//! The operations of the exerciser. They are plain values, and every list of them can be run: so a list that fails can be made shorter.

use cowback::budget::{Budget, Group, Limits};
use cowback::options::{CompressionPolicy, ExtentSize};
use cowback::{CachePolicy, FilePolicy};
use cowback_testkit::random::{Rng, to_usize};

/// One operation. Files and handles are counted modulo what there is; `at` and `len` are bytes.
#[expect(missing_docs, reason = "the fields say what they are")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Writes `len` bytes that follow from `fill`.
    Write { file: u8, at: u32, len: u32, fill: Fill },
    /// Reads and compares.
    Read { file: u8, at: u32, len: u32 },
    /// Reads one block and compares.
    ReadBlock { file: u8, at: u32 },
    /// Cuts or extends.
    SetLen { file: u8, len: u32 },
    /// Punches a hole.
    Punch { file: u8, at: u32, len: u32 },
    /// Takes space beforehand; the file grows with it, or not.
    Allocate { file: u8, at: u32, len: u32, keep_size: bool },
    /// Takes space beforehand that reads as zeros.
    ZeroRange { file: u8, at: u32, len: u32 },
    /// Looks for data.
    SeekData { file: u8, at: u32 },
    /// Looks for a hole.
    SeekHole { file: u8, at: u32 },
    /// Asks for all data.
    DataRanges { file: u8 },
    /// Sets codec and extent size.
    SetPolicy { file: u8, codec: u8, extent: u8 },
    /// Sets what becomes of its pages.
    SetCachePolicy { file: u8, policy: u8 },
    /// Gives the file to a group that was not there before, with limits of so many MiB, or to the root group. Who had it before may be gone.
    SetGroup { file: u8, mib: u8 },
    /// Drops the file's clean pages.
    DropClean { file: u8 },
    /// One handle more.
    Clone { file: u8 },
    /// One handle less; the last one is opened again by name.
    Drop { file: u8 },
    /// Starts writeback.
    Writeback { file: u8 },
    /// Syncs one file.
    Sync { file: u8 },
    /// Commits.
    Commit,
    /// Closes and opens again, with a cache of so many MiB.
    Reopen { cache: u8 },
    /// Drops the volume without closing it, and opens it again.
    Crash,
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fill {
    /// Zeros.
    Zeros,
    /// What compresses, from this place of a long text on.
    Text(u32),
    /// What does not, from this place on.
    Noise(u32),
    /// Both in turns of 20 KiB.
    Mixed(u32),
}

/// Most bytes of one write: a write of so many is done at once, or not at all but for a full volume.
pub const WRITE_MAX: u32 = 1 << 20;

/// Sources of what is written.
#[derive(Debug)]
pub struct Bytes {
    text: Vec<u8>,
    noise: Vec<u8>,
    mixed: Vec<u8>,
}

impl Default for Bytes {
    fn default() -> Self {
        let len = 2 * to_usize(u64::from(WRITE_MAX));
        let mut rng = Rng::new(0x5eed);
        let noise = rng.bytes(len);
        let mut text = Vec::with_capacity(len + 100);
        while text.len() < len {
            let line = format!("{}: delayed allocation, chunk, commit\n", rng.below(1 << 40));
            text.extend_from_slice(line.as_bytes());
        }
        text.truncate(len);
        let turn = |at: usize| (at / 20_480).is_multiple_of(2);
        let mixed = (0..len).map(|at| if turn(at) { text[at] } else { noise[at] }).collect();
        Self { text, noise, mixed }
    }
}

impl Bytes {
    /// The bytes of a write.
    #[must_use]
    pub fn get(&self, fill: Fill, len: usize) -> std::borrow::Cow<'_, [u8]> {
        let (source, from) = match fill {
            Fill::Zeros => return vec![0; len].into(),
            Fill::Text(from) => (&self.text, from),
            Fill::Noise(from) => (&self.noise, from),
            Fill::Mixed(from) => (&self.mixed, from),
        };
        let from = to_usize(u64::from(from % WRITE_MAX));
        (&source[from..from + len]).into()
    }
}

/// How operations are drawn.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Files.
    pub files: u8,
    /// Offsets and lengths of files are below this.
    pub offset_max: u32,
    /// Most bytes of an ordinary write; one in `large_every` is up to [`WRITE_MAX`].
    pub write_max: u32,
    /// One write in so many is large.
    pub large_every: u64,
    /// Percentage of writes that do not compress.
    pub noise: u64,
    /// Sync or commit once in so many operations.
    pub commit_every: u64,
    /// Whether handles of the whole volume go: close and crash.
    pub reopens: bool,
}

fn below(rng: &mut Rng, end: u32) -> u32 {
    u32::try_from(rng.below(u64::from(end.max(1)))).unwrap_or(0)
}

impl Shape {
    /// An offset: anywhere, at the border of a block or next to one, or near the beginning.
    fn offset(self, rng: &mut Rng) -> u32 {
        let at = below(rng, self.offset_max);
        match rng.below(6) {
            0 | 1 => at & !4095,
            2 => (at | 4095) + below(rng, 3) - 1,
            3 => below(rng, 9000),
            _ => at,
        }
    }

    fn len(self, rng: &mut Rng) -> u32 {
        match rng.below(8) {
            0 => 1 + below(rng, 64),
            1 | 2 => 4096 * (1 + below(rng, 6)),
            3 => 4096 * (1 + below(rng, 6)) + below(rng, 3) - 1,
            _ if rng.below(self.large_every) == 0 => 1 + below(rng, WRITE_MAX),
            _ => 1 + below(rng, self.write_max),
        }
    }

    fn fill(self, rng: &mut Rng) -> Fill {
        let from = below(rng, WRITE_MAX);
        match rng.below(100) {
            roll if roll < self.noise => Fill::Noise(from),
            roll if roll >= 96 => Fill::Zeros,
            roll if roll >= 80 => Fill::Mixed(from),
            _ => Fill::Text(from),
        }
    }

    /// The next operation.
    pub fn op(self, rng: &mut Rng) -> Op {
        let file = below(rng, u32::from(self.files)).to_le_bytes()[0];
        let byte = |rng: &mut Rng| rng.next_u64().to_le_bytes()[0];
        if rng.below(self.commit_every) == 0 {
            return if rng.percent(60) { Op::Sync { file } } else { Op::Commit };
        }
        match rng.below(1000) {
            0..400 => {
                let (at, len, fill) = (self.offset(rng), self.len(rng), self.fill(rng));
                Op::Write { file, at, len, fill }
            }
            400..680 => Op::Read { file, at: self.offset(rng), len: self.len(rng) },
            680..760 => Op::ReadBlock { file, at: self.offset(rng) },
            760..815 => Op::SetLen { file, len: self.offset(rng) },
            815..850 => Op::Punch { file, at: self.offset(rng), len: self.len(rng) },
            850..862 => {
                let (at, len, keep_size) = (self.offset(rng), self.len(rng), rng.percent(50));
                Op::Allocate { file, at, len, keep_size }
            }
            862..870 => Op::ZeroRange { file, at: self.offset(rng), len: self.len(rng) },
            870..885 => Op::SeekData { file, at: self.offset(rng) },
            885..900 => Op::SeekHole { file, at: self.offset(rng) },
            900..905 => Op::DataRanges { file },
            905..920 => Op::SetPolicy { file, codec: byte(rng), extent: byte(rng) },
            920..926 => Op::SetCachePolicy { file, policy: byte(rng) },
            926..930 => Op::SetGroup { file, mib: byte(rng) },
            930..940 => Op::DropClean { file },
            940..960 => Op::Clone { file },
            960..980 => Op::Drop { file },
            980..996 => Op::Writeback { file },
            996..998 if self.reopens => Op::Reopen { cache: byte(rng) },
            998.. if self.reopens => Op::Crash,
            _ => Op::Read { file, at: 0, len: self.offset_max },
        }
    }
}

/// The codecs that are exercised.
pub const CODECS: [&str; 6] = ["zstd:1", "zstd:3", "zstd:-7", "lzo", "zlib:1", "none"];

/// A compression out of [`CODECS`], by number.
///
/// # Panics
/// Never: all of them are known.
#[must_use]
pub fn compression(number: u8) -> CompressionPolicy {
    let name = CODECS[usize::from(number) % CODECS.len()];
    let policy: CompressionPolicy = name.parse().expect("it is one that cowback knows");
    if usize::from(number) / CODECS.len() % 2 == 1 { policy.forced() } else { policy }
}

/// An extent size, by number.
///
/// # Panics
/// Never: all of them are known.
#[must_use]
pub fn extent_size(number: u8) -> ExtentSize {
    ExtentSize::of_bytes(16 << 10 << (number % 4)).expect("one of the four")
}

/// A policy, by two numbers.
#[must_use]
pub fn policy(codec: u8, extent: u8) -> FilePolicy {
    FilePolicy { compression: compression(codec), extent_size: extent_size(extent) }
}

/// A cache policy, by number: mostly the ordinary one.
#[must_use]
pub fn cache_policy(number: u8) -> CachePolicy {
    match number % 4 {
        0 => CachePolicy::Uncached,
        1 => CachePolicy::DropAfterWriteback,
        _ => CachePolicy::Normal,
    }
}

/// A group, by number: a new one with little memory or with more, or the root group.
#[must_use]
pub fn group(budget: &Budget, number: u8) -> Group {
    match u64::from(number % 4) {
        0 => budget.root(),
        mib => budget.group("exerciser", Limits::for_budget(mib << 20)),
    }
}
