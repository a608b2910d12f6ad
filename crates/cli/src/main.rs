//! The `cowback` program: what users type.
//!
//! It holds no engine and no format: each command is a plain user of the crate `cowback`, and of the system's own calls on the other side.
//! Errors are one line on standard error, `cowback: WHAT: WHY`; the exit status is 0 when done, 1 when it failed, 2 when the command
//! line is wrong.

mod args;
mod check;
mod edit;
mod engine;
mod failure;
mod info;
mod output;
mod pack;
mod progress;
mod show;
mod signals;
mod size;
mod target;
mod times;
mod tour;
mod unpack;
mod walk;
mod xattrs;

use std::process::ExitCode;

use clap::Parser as _;

use crate::args::{Cli, Command};
use crate::failure::{Failure, Outcome, Status};

/// A file takes some hundred allocations on its way through the engine, and its pages are freed by other threads than made them.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() && !args::is_bare(&error) => {
            Failure::new("command line", args::one_line(&error)).print();
            return ExitCode::from(2);
        }
        Err(error) => error.exit(), // help and version
    };
    match run(cli.command) {
        Ok(Status::Done) => ExitCode::SUCCESS,
        Ok(Status::Failed) => ExitCode::FAILURE,
        Err(failure) => {
            if failure.is_broken_pipe() {
                signals::die_of_broken_pipe();
            }
            failure.print();
            ExitCode::from(failure.code())
        }
    }
}

fn run(command: Command) -> Outcome<Status> {
    match command {
        Command::Pack(args) => pack::run(&args),
        Command::Unpack(args) => unpack::run(&args),
        Command::Mkfs(args) => edit::mkfs(&args),
        Command::Ls(args) => show::ls(&args),
        Command::Cat(args) => show::cat(&args),
        Command::Put(args) => edit::put(&args),
        Command::Mkdir(args) => edit::mkdir(&args),
        Command::Mv(args) => edit::mv(&args),
        Command::Ln(args) => edit::ln(&args),
        Command::Rm(args) => edit::rm(&args),
        Command::Info(args) => info::run(&args),
        Command::Check(args) => check::run(&args),
    }
}
