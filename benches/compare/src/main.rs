//! Side by side on the same data, in the same run: cowback, the kernel's btrfs, the raw limit of the codec, and other programs.
//!
//! Needs root, for the kernel's loop mounts. Images lie in `--dir`, on tmpfs by default, so that no disk is measured. Each figure is the median of
//! `--runs` runs; the contestants take turns, so that a slow spell of the machine hits all of them.
//!
//! ```text
//! cargo build --release -p cowback-cli && cargo run --release -p cowback-compare -- --tree DIR
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | `contest` | lines, contestants, turns, medians |
//! | `contests` | what is compared, one file each |
//! | `ours`, `kernel`, `raw` | the contestants that appear everywhere |
//! | `process`, `child` | other programs, with time and peak memory; this one as its own child |
//! | `report`, `plot` | figures as text and as a picture |

mod child;
mod contest;
mod contests;
mod corpus;
mod kernel;
mod latency;
mod ours;
mod plot;
mod process;
mod random;
mod raw;
mod report;

use std::path::{Path, PathBuf};

use clap::{Parser, ValueEnum};

use crate::contest::{Outcome, Table};
use crate::contests::{Setup, append, memory, names, overwrite, pack, random_read, redb, stream};

/// As the `cowback` program does: a page is freed by another thread than made it.
#[cfg(not(feature = "system-allocator"))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// What is compared, and on what.
#[derive(Debug, Parser)]
struct Args {
    /// Tree of real files: packed as it is, and the source of the stream.
    #[arg(long)]
    tree: PathBuf,
    /// Which contests. Default: all but `threads`.
    #[arg(long, value_delimiter = ',')]
    only: Vec<Contest>,
    /// Where the images lie.
    #[arg(long, default_value = "/dev/shm")]
    dir: PathBuf,
    /// Bytes of the stream, and of the cached files, in MiB.
    #[arg(long, default_value_t = 512, value_parser = clap::value_parser!(u16).range(1..))]
    mib: u16,
    /// Runs of each contestant.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// Worker threads. Zero: one for each core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
    /// Seconds of each run of `overwrite` and `names`.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Algorithms and levels of `stream` and `threads`.
    #[arg(long, value_delimiter = ',', default_value = "zstd:3,zstd:1,zlib:3,lzo,none")]
    compress: Vec<String>,
    /// The `cowback` program, for `pack` and `memory`.
    #[arg(long, default_value = "target/release/cowback")]
    program: PathBuf,
    /// Where the figures go as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Where the figures go as a Markdown section: between its markers if the file has them, else it is replaced.
    #[arg(long)]
    markdown: Option<PathBuf>,
    /// Where a picture of the throughput by threads and codec goes, as SVG. Adds `threads` to the contests.
    #[arg(long)]
    plot: Option<PathBuf>,
}

/// The contests, by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Contest {
    /// A stream of mixed files into one file, and sync.
    Stream,
    /// Cold sequential read of such a file.
    Read,
    /// A tree into an image.
    Pack,
    /// 4 KiB cached random reads.
    RandomRead,
    /// 4 KiB random overwrites of a cached file while it is written back.
    Overwrite,
    /// 4 KiB append and sync.
    Append,
    /// Files made while another thread syncs.
    Names,
    /// Memory beside the cache budget.
    Memory,
    /// A database, redb.
    Redb,
    /// The stream by threads and codec.
    Threads,
}

impl Contest {
    fn hold(self, setup: &Setup) -> Outcome<Table> {
        match self {
            Self::Stream => stream::write(setup),
            Self::Read => stream::read(setup),
            Self::Pack => pack::pack(setup),
            Self::RandomRead => random_read::random_read(setup),
            Self::Overwrite => overwrite::overwrite(setup),
            Self::Append => append::append(setup),
            Self::Names => names::names(setup),
            Self::Memory => memory::memory(setup),
            Self::Redb => redb::redb(setup),
            Self::Threads => stream::threads(setup),
        }
    }
}

impl Args {
    fn contests(&self) -> Vec<Contest> {
        let mut contests = self.only.clone();
        if contests.is_empty() {
            contests = Contest::value_variants().to_vec();
            contests.retain(|&contest| contest != Contest::Threads);
        }
        if self.plot.is_some() && !contests.contains(&Contest::Threads) {
            contests.push(Contest::Threads);
        }
        contests
    }

    fn setup(&self, scratch: &Path) -> Outcome<Setup> {
        let threads = match self.threads {
            0 => std::thread::available_parallelism()?.get(),
            threads => threads,
        };
        Ok(Setup {
            stream: corpus::stream(&self.tree, usize::from(self.mib) << 20)?,
            tree: self.tree.clone(),
            dir: scratch.to_path_buf(),
            program: self.program.clone(),
            compress: self.compress.clone(),
            runs: self.runs.into(),
            seconds: self.seconds,
            threads,
        })
    }
}

fn main() -> Outcome<()> {
    if let Some(child) = child::as_child() {
        return child?.run();
    }
    let args = Args::parse();
    if !rustix::process::geteuid().is_root() {
        return Err("the comparison mounts loop devices: it needs root".into());
    }
    // Of this run alone: another one at the same time makes noise, but no wrong figures.
    let scratch = tempfile::Builder::new().prefix("cowback-compare-").tempdir_in(&args.dir)?;
    let setup = args.setup(scratch.path())?;
    let machine = report::machine(&setup, &args.dir);
    println!("{machine}\n");
    let mut tables = Vec::new();
    for contest in args.contests() {
        let table = contest.hold(&setup)?;
        print!("{}", report::table(&table));
        tables.push(table);
    }
    if let Some(path) = &args.json {
        let figures = serde_json::json!({ "machine": machine, "tables": tables });
        std::fs::write(path, serde_json::to_vec_pretty(&figures)?)?;
    }
    if let Some(path) = &args.markdown {
        let section = report::section(&machine, &tables, path, args.plot.as_deref());
        report::write_section(path, &section)?;
    }
    if let Some(path) = &args.plot {
        let table = tables.iter().find(|table| table.contest == stream::THREADS);
        let table = table.ok_or("there are no figures to plot")?;
        std::fs::write(path, plot::svg(table))?;
    }
    Ok(())
}
