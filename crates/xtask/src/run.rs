//! Running other programs, and saying so.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What went wrong, for a person to read.
pub(crate) type Result<T> = std::result::Result<T, String>;

/// The top of the workspace.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// Where cargo builds, as an absolute path.
pub(crate) fn target() -> PathBuf {
    let given = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let given = given.and_then(|path| std::path::absolute(path).ok());
    given.unwrap_or_else(|| root().join("target"))
}

/// Runs a program in the workspace; its output goes where ours goes.
pub(crate) fn run(program: &OsStr, args: &[&str]) -> Result<()> {
    let mut command = Command::new(program);
    command.args(args).current_dir(root());
    say(&command);
    let status = command.status().map_err(|error| format!("{program:?}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{program:?} ends with {status}")) }
}

/// Cargo, the one that runs us, in the workspace.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.args(args).current_dir(root());
    command
}

/// Says what is run.
pub(crate) fn say(command: &Command) {
    let word = |word: &OsStr| word.to_string_lossy().into_owned();
    let words = [command.get_program()].into_iter().chain(command.get_args()).map(word);
    let envs = command.get_envs().filter_map(|(name, value)| {
        value.map(|value| format!("{}={:?} ", word(name), word(value)))
    });
    println!("$ {}{}", envs.collect::<String>(), words.collect::<Vec<_>>().join(" "));
}

/// How a program ended, and what it printed on standard output.
pub(crate) struct Ended {
    pub(crate) success: bool,
    pub(crate) output: String,
    pub(crate) seconds: u64,
}

/// Runs a program, keeps what it prints on standard output, and prints it too if `show` is set.
pub(crate) fn watch(command: &mut Command, show: bool) -> Result<Ended> {
    say(command);
    let failed = |error: std::io::Error| error.to_string();
    let begun = Instant::now();
    let mut child = command.stdout(Stdio::piped()).spawn().map_err(failed)?;
    let mut output = String::new();
    if let Some(stdout) = child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.map_err(failed)?;
            let line = String::from_utf8_lossy(&line);
            if show {
                println!("{line}");
            }
            output.push_str(&line);
            output.push('\n');
        }
    }
    let status = child.wait().map_err(failed)?;
    Ok(Ended { success: status.success(), output, seconds: begun.elapsed().as_secs() })
}

/// As [`watch`], in silence, for at most so long. `None` if it was still running then: it is ended, with what it had started.
pub(crate) fn watch_for(command: &mut Command, patience: Duration) -> Result<Option<Ended>> {
    use std::io::Read as _;
    use std::os::unix::process::CommandExt as _;
    let failed = |error: std::io::Error| error.to_string();
    let begun = Instant::now();
    let mut child = command.stdout(Stdio::piped()).process_group(0).spawn().map_err(failed)?;
    let stdout = child.stdout.take();
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let read = stdout.map(|mut stdout| stdout.read_to_end(&mut bytes)).transpose();
        read.map(|_| String::from_utf8_lossy(&bytes).into_owned())
    });
    let status = loop {
        if let Some(status) = child.try_wait().map_err(failed)? {
            break Some(status);
        }
        if begun.elapsed() > patience {
            let group = format!("-{}", child.id());
            Command::new("kill").args(["-KILL", "--", &group]).status().map_err(failed)?;
            child.wait().map_err(failed)?;
            break None;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let output = reader.join().map_err(|_| "reading the output failed".to_owned())?;
    let output = output.map_err(failed)?;
    let seconds = begun.elapsed().as_secs();
    Ok(status.map(|status| Ended { success: status.success(), output, seconds }))
}
