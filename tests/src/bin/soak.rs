//! `soak [OPS] [SEED]`: the exerciser for as long as one likes; see `cargo xtask soak`. It writes nothing but what it prints.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};

use cowback_tests::exercise::campaign::{Progress, campaign};

/// Seconds between two lines.
const EVERY: u64 = 10;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).map(|arg| arg.parse::<u64>());
    let (ops, seed) = match (args.next(), args.next(), args.next()) {
        (ops, seed, None) => (ops.unwrap_or(Ok(20_000_000)), seed.unwrap_or(Ok(1))),
        _ => return usage(),
    };
    let (Ok(ops), Ok(seed)) = (ops, seed) else { return usage() };
    println!("soak: {ops} operations from seed {seed} on");
    let told = AtomicU64::new(0);
    let result = campaign(ops, seed, |progress| {
        let turn = progress.time.as_secs() / EVERY;
        if told.fetch_max(turn, Ordering::Relaxed) < turn {
            println!("{progress}");
        }
    });
    match result {
        Ok(progress) => {
            println!(
                "soak: {progress}; all as it should be\n{}\n{}",
                Progress::HEAD,
                progress.row()
            );
            ExitCode::SUCCESS
        }
        Err(why) => {
            println!("soak: FAILED\n{why}");
            ExitCode::FAILURE
        }
    }
}

fn usage() -> ExitCode {
    eprintln!("usage: soak [OPERATIONS] [SEED]");
    ExitCode::from(2)
}
