//! Operations, and a generator that draws them from few names, so that they meet.

use super::{OpResult, Stat, Target};
use crate::corpus::Content;
use crate::random::Rng;

/// One operation. Valid in any state: a refused one is a result to compare like any other.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are the parameters of Target's methods")]
pub enum Op {
    Create { path: Vec<u8>, mode: u32 },
    Mkdir { path: Vec<u8>, mode: u32 },
    Symlink { to: Vec<u8>, path: Vec<u8> },
    Link { old: Vec<u8>, new: Vec<u8> },
    Rename { from: Vec<u8>, to: Vec<u8> },
    Unlink { path: Vec<u8> },
    Rmdir { path: Vec<u8> },
    Write { path: Vec<u8>, offset: u64, len: usize, content: Content },
    Read { path: Vec<u8>, offset: u64, len: usize },
    Truncate { path: Vec<u8>, len: u64 },
    ReadLink { path: Vec<u8> },
    Stat { path: Vec<u8> },
    SetAttributes { path: Vec<u8>, mode: u32, uid: u32, gid: u32 },
    List { path: Vec<u8> },
    SetXattr { path: Vec<u8>, name: Vec<u8>, value: Vec<u8> },
    RemoveXattr { path: Vec<u8>, name: Vec<u8> },
    Xattrs { path: Vec<u8> },
    SyncFile { path: Vec<u8> },
    Commit,
    Reopen,
}

/// What an operation gave, in a form that can be compared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Got {
    Nothing,
    Bytes(Vec<u8>),
    Stat(Stat),
    Names(Vec<Vec<u8>>),
    Xattrs(Vec<(Vec<u8>, Vec<u8>)>),
}

impl Op {
    pub(super) fn apply(&self, target: &mut dyn Target) -> OpResult<Got> {
        let nothing = |()| Got::Nothing;
        match self {
            Self::Create { path, mode } => target.create(path, *mode).map(nothing),
            Self::Mkdir { path, mode } => target.mkdir(path, *mode).map(nothing),
            Self::Symlink { to, path } => target.symlink(to, path).map(nothing),
            Self::Link { old, new } => target.link(old, new).map(nothing),
            Self::Rename { from, to } => target.rename(from, to).map(nothing),
            Self::Unlink { path } => target.unlink(path).map(nothing),
            Self::Rmdir { path } => target.rmdir(path).map(nothing),
            Self::Write { path, offset, len, content } => {
                target.write(path, *offset, &content.bytes(*offset, *len)).map(nothing)
            }
            Self::Read { path, offset, len } => target.read(path, *offset, *len).map(Got::Bytes),
            Self::Truncate { path, len } => target.truncate(path, *len).map(nothing),
            Self::ReadLink { path } => target.read_link(path).map(Got::Bytes),
            Self::Stat { path } => target.stat(path).map(Got::Stat),
            Self::SetAttributes { path, mode, uid, gid } => {
                target.set_attributes(path, *mode, *uid, *gid).map(nothing)
            }
            Self::List { path } => target.list(path).map(|mut names| {
                names.sort_unstable();
                Got::Names(names)
            }),
            Self::SetXattr { path, name, value } => {
                target.set_xattr(path, name, value).map(nothing)
            }
            Self::RemoveXattr { path, name } => target.remove_xattr(path, name).map(nothing),
            Self::Xattrs { path } => target.xattrs(path).map(|mut xattrs| {
                xattrs.sort_unstable();
                Got::Xattrs(xattrs)
            }),
            Self::SyncFile { path } => target.sync_file(path).map(nothing),
            Self::Commit => target.commit().map(nothing),
            Self::Reopen => target.reopen().map(nothing),
        }
    }
}

/// How large files get.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    /// Most bytes of a file.
    pub file: u64,
    /// Most bytes of one write or read.
    pub io: u64,
}

impl Sizes {
    /// Files of a few chunks.
    pub const CHUNKS: Self = Self { file: 3 << 20, io: 1 << 20 };
    /// Files of a few blocks.
    pub const BLOCKS: Self = Self { file: 64 << 10, io: 16 << 10 };
}

/// Draws operations. The weights are drawn from the seed as well, so that seeds differ in kind and not only in detail.
#[derive(Debug, Clone)]
pub struct Generator {
    rng: Rng,
    sizes: Sizes,
    names: u64,
    depth: u64,
    weights: [u64; KINDS],
}

const KINDS: usize = 20;

/// Usual weights, in the order of the variants of [`Op`].
const WEIGHTS: [u64; KINDS] = [10, 6, 3, 4, 8, 5, 3, 30, 12, 8, 1, 3, 3, 3, 3, 1, 1, 2, 2, 1];

impl Generator {
    /// A generator of operations on files of `sizes`.
    #[must_use]
    pub fn new(seed: u64, sizes: Sizes) -> Self {
        let mut rng = Rng::new(seed);
        let names = rng.within(2, 9);
        let depth = rng.within(1, 4);
        // One kind in five is left out or trebled; files can always be made and written.
        let mut weights = WEIGHTS.map(|weight| match rng.below(10) {
            0 => 0,
            1 => weight * 3,
            _ => weight,
        });
        weights[0] = weights[0].max(WEIGHTS[0]);
        weights[7] = weights[7].max(WEIGHTS[7]);
        Self { rng, sizes, names, depth, weights }
    }

    /// The next `count` operations.
    pub fn ops(&mut self, count: usize) -> Vec<Op> {
        (0..count).map(|_| self.op()).collect()
    }

    /// The next operation.
    pub fn op(&mut self) -> Op {
        let mut draw = self.rng.below(self.weights.iter().sum());
        let mut kind = 0;
        while draw >= self.weights[kind] {
            draw -= self.weights[kind];
            kind += 1;
        }
        let path = self.path();
        match kind {
            0 => Op::Create { path, mode: self.mode() },
            1 => Op::Mkdir { path, mode: self.mode() },
            2 => Op::Symlink { to: self.path(), path },
            3 => Op::Link { old: path, new: self.path() },
            4 => Op::Rename { from: path, to: self.path() },
            5 => Op::Unlink { path },
            6 => Op::Rmdir { path },
            7 => {
                let (offset, len) = self.range();
                Op::Write { path, offset, len, content: self.content() }
            }
            8 => {
                let (offset, len) = self.range();
                Op::Read { path, offset, len }
            }
            9 => Op::Truncate { path, len: self.offset() },
            10 => Op::ReadLink { path },
            11 => Op::Stat { path },
            12 => {
                let (uid, gid) = (self.id(), self.id());
                Op::SetAttributes { path, mode: self.mode(), uid, gid }
            }
            13 => Op::List { path },
            14 => {
                let len = self.rng.index(200);
                Op::SetXattr { path, name: self.xattr(), value: self.rng.bytes(len) }
            }
            15 => Op::RemoveXattr { path, name: self.xattr() },
            16 => Op::Xattrs { path },
            17 => Op::SyncFile { path },
            18 => Op::Commit,
            _ => Op::Reopen,
        }
    }

    fn path(&mut self) -> Vec<u8> {
        let mut path = vec![];
        for level in 0..1 + self.rng.below(self.depth) {
            if level > 0 {
                path.push(b'/');
            }
            let number = self.rng.below(self.names);
            path.extend(format!("n{number}").bytes());
            if number == 1 {
                path.extend([b'-'; 250].iter().chain(b"\xff"));
            }
        }
        path
    }

    /// An offset that is often at, or one beside, a border of a block, an extent or a chunk.
    fn offset(&mut self) -> u64 {
        let near = match self.rng.below(4) {
            0 => return self.rng.below(self.sizes.file + 1),
            1 => 4096,
            2 => 128 << 10,
            _ => 512 << 10,
        };
        let border = self.rng.below(self.sizes.file / near + 1) * near;
        (border + self.rng.below(3)).saturating_sub(1).min(self.sizes.file)
    }

    fn range(&mut self) -> (u64, usize) {
        let (a, b) = (self.offset(), self.offset());
        let start = a.min(b);
        let most = if self.rng.percent(50) { 5000 } else { self.sizes.io };
        let len = (a.max(b) - start).min(self.rng.below(most + 1));
        (start, crate::random::to_usize(len))
    }

    fn content(&mut self) -> Content {
        let seed = self.rng.next_u64();
        match self.rng.below(5) {
            0 => Content::Zeros,
            1 | 2 => Content::Text(seed),
            3 => Content::Noise(seed),
            _ => Content::Alternating { seed, period: 4096 << self.rng.below(6) },
        }
    }

    fn mode(&mut self) -> u32 {
        *self.rng.pick(&[0o644, 0o600, 0o755, 0o4711, 0o1777, 0])
    }

    fn id(&mut self) -> u32 {
        *self.rng.pick(&[0, 1000, 65_534, 4_000_000_000])
    }

    fn xattr(&mut self) -> Vec<u8> {
        format!("user.x{}", self.rng.below(4)).into_bytes()
    }
}
