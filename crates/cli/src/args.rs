//! The command line. Doc comments of this module are what `--help` prints.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::error::ErrorKind;
use clap::{Args, Parser, Subcommand};
use cowback::Options;
use cowback::options::{ChecksumKind, CompressionPolicy, Profile};
use uuid::Uuid;

use crate::size::Size;

const EXIT_STATUS: &str = "\
Sizes take K, M, G and T (powers of 1024). Paths in an image start at its root, with or without a leading `/`; \
symbolic links in them are not followed.

Where files are counted, they are all that is no directory, symlinks and device nodes too, and a file with several names is one; its further names \
are hard links. Directories are counted with the root.

Exit status: 0 done; 1 it failed, or `check` found damage; 2 the command line is wrong. Errors are one line on standard \
error: `cowback: WHAT: WHY`. Of damage WHY says `corrupt`; of an image that may be whole, and is of a kind that cowback does not handle, \
`unsupported`: then it failed, for `check` too.";

/// Real btrfs images, written and read without root and without the kernel.
#[derive(Debug, Parser)]
#[command(name = "cowback", version, max_term_width = 100, after_long_help = EXIT_STATUS)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Pack(Box<PackArgs>),
    Unpack(UnpackArgs),
    Mkfs(MkfsArgs),
    Ls(LsArgs),
    Cat(CatArgs),
    Put(PutArgs),
    Mkdir(MkdirArgs),
    Mv(MvArgs),
    Ln(LnArgs),
    Rm(RmArgs),
    Info(InfoArgs),
    Check(CheckArgs),
}

/// How much of the machine is used.
#[derive(Debug, Args)]
pub(crate) struct EngineArgs {
    /// Worker threads for compression, decompression and IO; more than there are cores are of no use [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: Option<u16>,
    /// Memory for file content, at least 1M; all of cowback stays within 128 MiB more (and beyond 512M, a twelfth of it more), and 1 MiB for each thread beyond 32, or 3 with high levels of zstd
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = cache)]
    pub(crate) cache: Size,
}

impl Default for EngineArgs {
    /// What the command line has if it says nothing.
    fn default() -> Self {
        Self { threads: None, cache: Size(256 << 20) }
    }
}

fn image_size(text: &str) -> Result<Size, String> {
    let size: Size = text.parse()?;
    if size.0 == 0 { Err("an image has some bytes".to_owned()) } else { Ok(size) }
}

fn cache(text: &str) -> Result<Size, String> {
    let (size, least): (Size, _) = (text.parse()?, Size(Options::CACHE_BYTES_MIN));
    if size < least { Err(format!("it is less than {least}")) } else { Ok(size) }
}

/// How data is compressed.
#[derive(Debug, Args)]
pub(crate) struct CompressArgs {
    /// zstd[:-15..15], zlib[:1..9], lzo or none
    #[arg(short, long, value_name = "CODEC", default_value = "zstd:3")]
    compress: CompressionPolicy,
    /// Compress without asking the heuristic whether it is worth it; what gets no smaller is stored as it is even so
    #[arg(long)]
    force: bool,
}

impl CompressArgs {
    pub(crate) fn policy(&self) -> CompressionPolicy {
        if self.force { self.compress.forced() } else { self.compress }
    }
}

/// What a new image is like.
#[derive(Debug, Args)]
pub(crate) struct FormatArgs {
    /// Checksums of data and metadata
    #[arg(long, value_name = "KIND", default_value = "crc32c", value_parser = checksums())]
    pub(crate) csum: ChecksumKind,
    /// Copies of metadata
    #[arg(long, value_name = "PROFILE", default_value = "dup", value_parser = profiles())]
    pub(crate) metadata: Profile,
    /// Label, at most 255 bytes
    #[arg(long, default_value = "", value_parser = label)]
    pub(crate) label: String,
    /// File system id; all other ids in the image follow from it [default: a random one]
    #[arg(long)]
    pub(crate) uuid: Option<Uuid>,
    /// Replace IMAGE if it exists, or what a block device holds
    #[arg(long)]
    pub(crate) overwrite: bool,
}

fn checksums() -> impl clap::builder::TypedValueParser<Value = ChecksumKind> {
    PossibleValuesParser::new(["crc32c", "xxhash", "sha256", "blake2"])
        .try_map(|name| name.parse::<ChecksumKind>())
}

fn profiles() -> impl clap::builder::TypedValueParser<Value = Profile> {
    PossibleValuesParser::new(["dup", "single"]).map(|name| match name.as_str() {
        "single" => Profile::Single,
        _ => Profile::Dup,
    })
}

fn label(text: &str) -> Result<String, String> {
    if text.len() > 255 {
        return Err(format!("it has {} bytes, more than 255", text.len()));
    }
    Ok(text.to_owned())
}

/// Packs a directory tree into a fresh image
///
/// Modes, owners, nanosecond times, symlinks, hard links, extended attributes, holes, device nodes, fifos and sockets are kept, and names
/// that are not UTF-8. IMAGE is written under a temporary name beside it and renamed when complete; a block device is written in
/// place. IMAGE itself is left out if it lies inside SOURCE.
///
/// A file that changes while it is read is stored as it was read, in the size in which it was read, and named on standard error; that is no
/// failure. A file that is missing or cannot be read is one, and ends the command, unless --keep-going is given.
///
/// An extended attribute for which btrfs has no room (16 KiB) ends the command, too; with --keep-going all but that attribute is kept. A file with more names than btrfs gives one
/// (65535) is named, and stored once more for the names that are left.
///
/// What is mounted inside SOURCE is packed, too, unless --one-file-system is given.
///
/// With SOURCE_DATE_EPOCH and --uuid set, the same tree gives the same image, bit for bit, with any --threads and --cache, but for a --cache below 64M
/// with --compress none, which cuts content into more extents. No time in the image is later than SOURCE_DATE_EPOCH, and last reads are not kept.
#[derive(Debug, Args)]
pub(crate) struct PackArgs {
    /// The directory whose content becomes that of the image's root
    pub(crate) source: PathBuf,
    /// The image to make, or a block device
    pub(crate) image: PathBuf,
    #[command(flatten)]
    pub(crate) compress: CompressArgs,
    /// Bytes of the image; with --shrink, the most that it may have [default: as many as the content needs; the file is sparse. A block
    /// device: all of it]
    #[arg(long, value_parser = image_size)]
    pub(crate) size: Option<Size>,
    /// Cut the image to an exact fit, even if --size allows more
    #[arg(long)]
    pub(crate) shrink: bool,
    /// Bytes to leave free with --shrink [default: what Linux needs for small changes (20M and more, 10M with --metadata single) if that is less than a
    /// twenty-third of the content and --size allows it, else 0: such an image is for reading]
    #[arg(long, value_name = "SIZE", requires = "shrink")]
    pub(crate) slack: Option<Size>,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
    /// Go on without what is missing or cannot be read; it is named on standard error, and the exit status is 1
    #[arg(long)]
    pub(crate) keep_going: bool,
    /// Stay in SOURCE's file system: directories in which another one is mounted, and subvolumes, are packed empty
    #[arg(short = 'x', long)]
    pub(crate) one_file_system: bool,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

/// What is told about the work.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Print one JSON object on standard output instead of the summary
    #[arg(long)]
    pub(crate) json: bool,
    /// No progress bar and no summary
    #[arg(short, long)]
    pub(crate) quiet: bool,
}

/// Unpacks an image, or a part of it, into a directory
///
/// Gives back what `pack` keeps: owners, device nodes and attributes of the system as far as the user may. Set-id bits are given only with the
/// owner they are for. A subvolume or snapshot that lies in the tree is not unpacked, and ends the command, unless --keep-going is given. DEST is made, or
/// is an empty directory. Nothing is written outside of it, whatever the image holds.
#[derive(Debug, Args)]
pub(crate) struct UnpackArgs {
    /// The image, or a block device
    pub(crate) image: PathBuf,
    /// The directory to unpack into
    pub(crate) dest: PathBuf,
    /// Only this: the content of a directory of the image, or one entry of it
    #[arg(long, default_value = "/")]
    pub(crate) path: PathBuf,
    /// Go on without what is damaged; it is named on standard error, and the exit status is 1
    #[arg(long)]
    pub(crate) keep_going: bool,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

/// Makes an empty image
///
/// IMAGE is written under a temporary name beside it and renamed when complete. With SOURCE_DATE_EPOCH and --uuid set, the image is
/// reproducible.
#[derive(Debug, Args)]
pub(crate) struct MkfsArgs {
    /// The image to make, or a block device
    pub(crate) image: PathBuf,
    /// Bytes of the image; may be left out only for a block device
    #[arg(long, value_parser = image_size)]
    pub(crate) size: Option<Size>,
    #[command(flatten)]
    pub(crate) format: FormatArgs,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

/// Lists a directory of an image
///
/// One name a line, by the order of their bytes. Names are written as they are, or, if standard output is a terminal, with control
/// characters and what is not UTF-8 escaped.
#[derive(Debug, Args)]
pub(crate) struct LsArgs {
    /// The image, or a block device
    pub(crate) image: PathBuf,
    /// What to list
    #[arg(default_value = "/")]
    pub(crate) path: PathBuf,
    /// Mode, links, owner, group, size or device number, time of change (UTC), name, and where a symlink leads
    #[arg(short)]
    pub(crate) long: bool,
    /// Directories below, too
    #[arg(short = 'R')]
    pub(crate) recursive: bool,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// Writes a file of an image to standard output
#[derive(Debug, Args)]
pub(crate) struct CatArgs {
    /// The image, or a block device
    pub(crate) image: PathBuf,
    /// The file in the image
    pub(crate) path: PathBuf,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// Puts a file into an existing image
///
/// What was at PATH is replaced at once: the image has the old file or the new one, whole. If PATH is a directory, the file goes into it under its
/// own name. Mode, owner, times and extended attributes are those of FILE. What comes from standard input takes mode, owner and extended
/// attributes (but for set-id bits and capabilities) of the file that it replaces, or else has mode 644 and belongs to the user; its times are those of the
/// moment, or SOURCE_DATE_EPOCH if that is set.
#[derive(Debug, Args)]
pub(crate) struct PutArgs {
    /// The image, or a block device
    pub(crate) image: PathBuf,
    /// The file, or - for standard input
    pub(crate) file: PathBuf,
    /// Where in the image
    pub(crate) path: PathBuf,
    /// Make the image larger if it is full; else the command fails then
    #[arg(long)]
    pub(crate) grow: bool,
    #[command(flatten)]
    pub(crate) compress: CompressArgs,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

/// Makes directories in an image
#[derive(Debug, Args)]
pub(crate) struct MkdirArgs {
    /// The image, or a block device
    pub(crate) image: PathBuf,
    /// The directories
    #[arg(required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Make the directories above, too, and accept what exists
    #[arg(short)]
    pub(crate) parents: bool,
}

/// Moves something within an image
///
/// If TO is a directory, FROM goes into it under its own name; else what was at TO is replaced.
#[derive(Debug, Args)]
pub(crate) struct MvArgs {
    /// The image, or a block device
    pub(crate) image: PathBuf,
    /// What to move
    pub(crate) from: PathBuf,
    /// Where to
    pub(crate) to: PathBuf,
}

/// Gives a file of an image a further name, or makes a symbolic link
#[derive(Debug, Args)]
pub(crate) struct LnArgs {
    /// The image, or a block device
    pub(crate) image: PathBuf,
    /// The file; with -s, whatever the link is to say
    pub(crate) target: PathBuf,
    /// The new name
    pub(crate) path: PathBuf,
    /// A symbolic link
    #[arg(short)]
    pub(crate) symbolic: bool,
}

/// Removes files, or with -r directories, of an image
///
/// The root directory itself cannot be removed: `rm -r IMAGE /` removes all that is in it. Nothing is removed if any path cannot be. On a
/// full image removals may be committed early, as they need space themselves: if it fails or is stopped, some may have been done.
#[derive(Debug, Args)]
pub(crate) struct RmArgs {
    /// The image, or a block device
    pub(crate) image: PathBuf,
    /// What to remove
    #[arg(required = true)]
    pub(crate) paths: Vec<PathBuf>,
    /// Directories with all that is in them, too
    #[arg(short)]
    pub(crate) recursive: bool,
}

/// Tells an image's size, use, ratio by codec, extents, features and generation
///
/// Sizes by codec are found by walking all files; an extent that several of them share is counted once.
#[derive(Debug, Args)]
pub(crate) struct InfoArgs {
    /// The image, or a block device
    pub(crate) image: PathBuf,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) engine: EngineArgs,
}

/// Looks for damage in an image
///
/// Reads every tree block in all its copies, derives chunks, free space, references, names, links and sizes anew and compares them with
/// what the trees say, reads all data and compares it with its checksums, and unpacks what is compressed. What is wrong is named with its tree and
/// place, one line each on standard error; then the files that are harmed are named with their paths. The exit status is 1 then.
///
/// The last commit is checked, and nothing is changed. The image must not be in use. Files and directories are counted as by `pack` and `info`, but in
/// all subvolumes.
#[derive(Debug, Args)]
pub(crate) struct CheckArgs {
    /// The image, or a block device
    pub(crate) image: PathBuf,
    #[command(flatten)]
    pub(crate) report: ReportArgs,
}

/// Whether the command line was so short that the help is the answer.
pub(crate) fn is_bare(error: &clap::Error) -> bool {
    error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// What is wrong with the command line, in one line.
pub(crate) fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let first: Vec<&str> =
        text.lines().map(str::trim).take_while(|line| !line.starts_with("Usage:")).collect();
    let words: Vec<&str> = first
        .into_iter()
        .filter(|line| !line.is_empty() && !line.starts_with("For more"))
        .collect();
    let line = words.join(" ");
    let line = line.strip_prefix("error: ").unwrap_or(&line);
    format!("{line} (see `cowback help`)")
}

/// A file name for messages and for names derived from it.
pub(crate) fn name_of(path: &std::path::Path) -> OsString {
    path.file_name().map(OsString::from).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    fn error(line: &str) -> String {
        one_line(&Cli::try_parse_from(line.split(' ')).unwrap_err())
    }

    #[test]
    fn what_is_wrong_is_said_in_one_line() {
        let cases = [
            ("cowback pack", "<SOURCE>"),
            ("cowback pack a b --sise 3", "--sise"),
            ("cowback pack a b --size 3X", "3X"),
            ("cowback pack a b --size 0", "some bytes"),
            ("cowback mkfs b --size 0K", "some bytes"),
            ("cowback pack a b -c zstd:16", "zstd:16"),
            ("cowback pack a b -c gzip", "gzip"),
            ("cowback pack a b --csum md5", "md5"),
            ("cowback pack a b --uuid 12", "12"),
            ("cowback pack a b --threads 0", "0"),
            ("cowback pack a b --slack 1M", "--shrink"),
            ("cowback pack a b --shrink --slack 18446744073709551615", "too large"),
            ("cowback ls a --cache 1K", "--cache"),
            ("cowback ls a --cache 1048575", "1.00 MiB"),
            ("cowback check a --threads 1", "--threads"),
            ("cowback check a --cache 64M", "--cache"),
            ("cowback frobnicate", "frobnicate"),
        ];
        for (line, names) in cases {
            let said = error(line);
            assert!(!said.contains('\n') && said.contains(names), "{line}: {said}");
        }
    }

    #[test]
    fn commands_without_the_options_have_their_defaults() {
        let Command::Ls(args) = Cli::parse_from(["cowback", "ls", "a"]).command else { panic!() };
        assert_eq!(args.engine.cache, EngineArgs::default().cache);
        assert_eq!(args.engine.threads, EngineArgs::default().threads);
    }

    #[test]
    fn compressions_are_understood() {
        for codec in ["zstd", "zstd:-15", "zstd:15", "zlib", "zlib:9", "lzo", "none"] {
            let line = ["cowback", "pack", "a", "b", "-c", codec, "--force"];
            assert!(Cli::try_parse_from(line).is_ok(), "{codec}");
        }
    }
}
