//! This program as its own child, where only a fresh process can tell.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Parser;

use crate::contest::Outcome;
use crate::contests::memory;
use crate::process::{CHILD, measure};

/// What this program does as its own child. The result goes to standard output, as JSON.
#[derive(Debug, Parser)]
pub(crate) enum Child {
    /// Runs a program.
    Run {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<OsString>,
    },
    /// Writes a file into a fresh image, and tells its own peak memory.
    Stream { image: PathBuf, source: PathBuf, cache: u64, threads: usize },
    /// Reads a file of an image into a cache that keeps all of it, and tells by how much its memory grew for each page.
    Cached { image: PathBuf, cache: u64, threads: usize },
}

/// The child that this process is to be, if it is one.
pub(crate) fn as_child() -> Option<Outcome<Child>> {
    let mut args = std::env::args_os().skip(1).peekable();
    args.next_if(|arg| arg == CHILD)?;
    let args = [OsString::from(CHILD)].into_iter().chain(args);
    Some(Child::try_parse_from(args).map_err(Into::into))
}

impl Child {
    pub(crate) fn run(self) -> Outcome<()> {
        let json = match self {
            Self::Run { command } => serde_json::to_string(&measure(&command)?)?,
            Self::Stream { image, source, cache, threads } => {
                serde_json::to_string(&memory::write_stream(&image, &source, cache, threads)?)?
            }
            Self::Cached { image, cache, threads } => {
                serde_json::to_string(&memory::fill_cache(&image, cache, threads)?)?
            }
        };
        println!("{json}");
        Ok(())
    }
}
