//! What the checker tells: one value, one line per finding (law E3: what, where, found and expected).

use std::fmt;

use cowback_btrfs_disk::{Key, TreeId};

/// Something that is wrong with a volume. Prints as one line: `SUBJECT: PLACE: WHAT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The structure that is wrong, or that lacks something.
    pub subject: Subject,
    /// Where in it.
    pub place: Place,
    /// What was found, and what was expected.
    pub what: String,
}

/// What a [`Problem`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The superblock or one of its copies.
    Superblock,
    /// A tree.
    Tree(TreeId),
    /// What files hold.
    Data,
}

/// Where a [`Problem`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Place {
    /// Nowhere in particular.
    All,
    /// At an item, or where one should be.
    Item(Key),
    /// In the tree block at a logical address.
    Block(u64),
    /// In the block group at a logical address.
    Group(u64),
    /// At a logical address of data.
    Address(u64),
    /// In a file or directory.
    Inode(u64),
    /// At an offset of the device.
    Device(u64),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.subject)?;
        match self.place {
            Place::All => {}
            Place::Item(key) => write!(f, "{key}: ")?,
            Place::Block(at) => write!(f, "block {at}: ")?,
            Place::Group(at) => write!(f, "block group {at}: ")?,
            Place::Address(at) => write!(f, "address {at}: ")?,
            Place::Inode(ino) => write!(f, "inode {ino}: ")?,
            Place::Device(at) => write!(f, "device offset {at}: ")?,
        }
        f.write_str(&self.what)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Superblock => f.write_str("superblock"),
            Self::Data => f.write_str("data"),
            Self::Tree(tree) => name_of(*tree).fmt(f),
        }
    }
}

/// A tree as people call it.
pub(super) fn name_of(tree: TreeId) -> String {
    let name = match tree {
        TreeId::ROOT => "root tree",
        TreeId::EXTENT => "extent tree",
        TreeId::CHUNK => "chunk tree",
        TreeId::DEV => "device tree",
        TreeId::FS => "fs tree",
        TreeId::CSUM => "csum tree",
        TreeId::QUOTA => "quota tree",
        TreeId::UUID => "uuid tree",
        TreeId::FREE_SPACE => "free space tree",
        TreeId::BLOCK_GROUP => "block group tree",
        TreeId::RAID_STRIPE => "raid stripe tree",
        TreeId::TREE_LOG => "log tree",
        TreeId::TREE_RELOC => "tree relocation tree",
        TreeId::DATA_RELOC => "data relocation tree",
        _ if tree.is_file_tree() => return format!("subvolume {tree}"),
        _ => return format!("tree {tree}"),
    };
    name.to_owned()
}

/// What a check went through, and how it came out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// The transaction that was checked.
    pub generation: u64,
    /// Problems that were told.
    pub problems: u64,
    /// Trees.
    pub trees: u64,
    /// Tree blocks, each counted once.
    pub blocks: u64,
    /// Bytes of all tree blocks.
    pub metadata_bytes: u64,
    /// Data extents.
    pub data_extents: u64,
    /// Bytes of all data extents, as stored.
    pub data_bytes: u64,
    /// Bytes of data that were read and had the right checksum, in all copies.
    pub verified_bytes: u64,
    /// Compressed extents that were unpacked.
    pub unpacked_extents: u64,
    /// Directories, of all subvolumes, with their roots.
    pub directories: u64,
    /// Everything else that has a name, each counted once, however many names it has.
    pub files: u64,
    /// What was not checked, and why, and oddities that harm nobody; one line each.
    pub notes: Vec<String>,
}

impl Report {
    /// Whether nothing is wrong.
    #[must_use]
    pub const fn is_clean(&self) -> bool {
        self.problems == 0
    }
}

/// Where problems go.
pub(super) struct Out<'a> {
    sink: &'a mut dyn FnMut(Problem),
    /// The figures so far.
    pub(super) report: Report,
}

impl<'a> Out<'a> {
    pub(super) fn new(sink: &'a mut dyn FnMut(Problem)) -> Self {
        Self { sink, report: Report::default() }
    }

    /// Tells a problem.
    pub(super) fn tell(&mut self, subject: Subject, place: Place, what: impl fmt::Display) {
        self.report.problems += 1;
        (self.sink)(Problem { subject, place, what: what.to_string() });
    }

    /// A problem of the superblock.
    pub(super) fn superblock(&mut self, what: impl fmt::Display) {
        self.tell(Subject::Superblock, Place::All, what);
    }

    /// A problem of an item.
    pub(super) fn item(&mut self, tree: TreeId, key: &Key, what: impl fmt::Display) {
        self.tell(Subject::Tree(tree), Place::Item(*key), what);
    }

    /// A problem of a tree block.
    pub(super) fn block(&mut self, tree: TreeId, bytenr: u64, what: impl fmt::Display) {
        self.tell(Subject::Tree(tree), Place::Block(bytenr), what);
    }

    /// A problem of a block group.
    pub(super) fn group(&mut self, tree: TreeId, start: u64, what: impl fmt::Display) {
        self.tell(Subject::Tree(tree), Place::Group(start), what);
    }

    /// A problem of a file or directory.
    pub(super) fn inode(&mut self, tree: TreeId, ino: u64, what: impl fmt::Display) {
        self.tell(Subject::Tree(tree), Place::Inode(ino), what);
    }

    /// Something that is not checked.
    pub(super) fn unchecked(&mut self, what: impl fmt::Display) {
        self.note(format_args!("not checked: {what}"));
    }

    /// Something that is odd, and harms nobody.
    pub(super) fn note(&mut self, what: impl fmt::Display) {
        self.report.notes.push(what.to_string());
    }
}

impl fmt::Debug for Out<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Out").field("report", &self.report).finish_non_exhaustive()
    }
}
