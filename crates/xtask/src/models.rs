//! The models: the shipped code under what explores interleavings, and once more with defects planted in it.

use crate::build::Build;
use crate::canaries::canaries_of_each_run;
use crate::count::Count;
use crate::run::{Result, watch};

/// Runs the models of all crates that have some. Gives the number of tests, canaries included.
pub(crate) fn models(schedules: Option<&str>) -> Result<Count> {
    let mut count = Count::default();
    for build in [Build::Loom, Build::Shuttle] {
        for program in build.programs()? {
            let mut command = program.command(&["--nocapture"]);
            if let Some(schedules) = schedules {
                command.env("COWBACK_MODEL_SCHEDULES", schedules);
            }
            let ended = watch(&mut command, true)?;
            count += Count::of(&ended.output);
            let package = program.package().display();
            if !ended.success {
                return Err(format!("a model of {package} failed; its output tells the seed"));
            }
            println!("models of {package}, {build:?}: {} s", ended.seconds);
        }
    }
    count += canaries_of_each_run()?;
    Ok(count)
}
