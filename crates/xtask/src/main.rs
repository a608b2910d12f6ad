//! `cargo xtask`: the commands that those who work on cowback use.
//!
//! | command | what it does |
//! |---|---|
//! | `test` | sets up what tests need, then runs all tests, and the models with the planted defect |
//! | `ci` | what a change must pass: format, lints, docs, tidy, test |
//! | `tidy` | checks the rules of the tree that no compiler knows |
//! | `models` | only the models, under what explores interleavings |
//! | `soak` | random operations on volumes against a plain model, for as long as one likes |
//! | `faults` | a fault at every place of a workload, for as many seeds as one likes |
//! | `canaries` | plants defects one by one, and reports which test finds each |

mod build;
mod canaries;
mod count;
mod models;
mod run;
mod setup;
mod test;
mod tidy;

use std::process::ExitCode;

const HELP: &str = "\
cargo xtask test            set up what tests need, run all tests and models
cargo xtask ci              format, lints, docs, tidy, test: what a change must pass
cargo xtask tidy            the rules of the tree that no compiler knows
cargo xtask models [NUMBER] only the models, NUMBER schedules of each with each scheduler
cargo xtask soak [OPS] [SEED] random operations against a model, in release mode; 20 million unless told otherwise
cargo xtask faults [SEEDS]  a fault at every place of a workload, in release mode; one seed unless told otherwise
cargo xtask canaries [NAME] plant the kernel's historic bugs one by one: a test must find each

Environment: COWBACK_SEED=n sets the seed of random tests; COWBACK_REQUIRE_ORACLES=1 makes a skipped check a failure.
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match words[..] {
        ["test"] => test::test(),
        ["ci"] => run::run(run::root().join(".ci/run").as_os_str(), &[]),
        ["tidy"] => tidy::tidy(&run::root()),
        ["models"] => models::models(None).map(drop),
        ["models", number] if number.parse::<u64>().is_ok() => {
            models::models(Some(number)).map(drop)
        }
        ["soak", ref args @ ..] => soak(args),
        ["faults"] => faults("1"),
        ["faults", seeds] if seeds.parse::<u64>().is_ok() => faults(seeds),
        ["canaries"] => canaries::canaries(None),
        ["canaries", name] => canaries::canaries(Some(name)),
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprint!("xtask: unknown command: {}\n\n{HELP}", words.join(" "));
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("xtask: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the exerciser of the integration tests.
fn soak(args: &[&str]) -> run::Result<()> {
    let run = ["run", "--quiet", "--release", "--package", "cowback-tests", "--bin", "soak", "--"];
    let mut command = run::cargo(&[&run[..], args].concat());
    run::say(&command);
    let status = command.status().map_err(|error| format!("cargo: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err("the soak has failed; its output tells the seed".to_owned())
    }
}

/// Runs the sweep over all faults that the tests only sample.
fn faults(seeds: &str) -> run::Result<()> {
    let test = ["test", "--quiet", "--release", "--package", "cowback-tests", "--test", "sweep"];
    let which = ["--", "--ignored", "--nocapture"];
    let mut command = run::cargo(&[&test[..], &which].concat());
    command.env("COWBACK_SEEDS", seeds);
    run::say(&command);
    let status = command.status().map_err(|error| format!("cargo: {error}"))?;
    if status.success() { Ok(()) } else { Err("a fault was not survived; see above".to_owned()) }
}
