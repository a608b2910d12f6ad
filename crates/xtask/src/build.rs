//! Builds of our own crates that differ from the one that ships.
//!
//! They are made by what stands between cargo and the compiler for the crates of the workspace alone: what these need is built once, for
//! all builds, and all are in one target folder.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::run::{Result, cargo, root, target, watch};

/// A build for tests. In each of them defects can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Build {
    /// As it ships, otherwise.
    Canaries,
    /// Whole paths are explored, by schedules that are drawn.
    Shuttle,
    /// Small protocols are explored, completely or up to a number of preemptions.
    Loom,
}

impl Build {
    /// Its name, and the values of `cfg` that make it.
    fn cfgs(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Canaries => ("canaries", &["canaries"]),
            Self::Shuttle => ("shuttle", &["canaries", "shuttle"]),
            Self::Loom => ("loom", &["canaries", "loom"]),
        }
    }

    /// The test programs of this build that are of use, as arguments for `cargo test`.
    fn tests(self) -> &'static [&'static str] {
        match self {
            Self::Canaries => {
                &["--lib", "--test", "pipeline", "--test", "model", "--test", "store"]
            }
            Self::Shuttle => &["--test", "models"],
            Self::Loom => &["--test", "loom"],
        }
    }

    /// Builds the test programs. All packages at once: so they need of others what the tests as they ship need, and that is there.
    pub(crate) fn programs(self) -> Result<Vec<Program>> {
        let how = ["--no-run", "--message-format=json-render-diagnostics"];
        let args = [&["test", "--workspace"], self.tests(), &how].concat();
        let built = watch(cargo(&args).env("RUSTC_WORKSPACE_WRAPPER", self.wrapper()?), false)?;
        if !built.success {
            return Err(format!("the tests do not build for {:?}", self));
        }
        Ok(built.output.lines().filter_map(Program::of).collect())
    }

    /// The script that calls the compiler. It is written once: cargo builds anew when it changes.
    fn wrapper(self) -> Result<PathBuf> {
        let (name, cfgs) = self.cfgs();
        let dir = target();
        let path = dir.join(format!("rustc-for-{name}"));
        let flags: String = cfgs.iter().map(|cfg| format!(" --cfg {cfg}")).collect();
        let script = format!("#!/bin/sh\nexec \"$@\"{flags}\n");
        if std::fs::read_to_string(&path).is_ok_and(|there| there == script) {
            return Ok(path);
        }
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        std::fs::create_dir_all(&dir).map_err(failed)?;
        std::fs::write(&path, script).map_err(failed)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).map_err(failed)?;
        Ok(path)
    }
}

/// A test program that cargo has built.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Program {
    /// Where its package is.
    dir: PathBuf,
    /// What it is called there; a library's unit tests have the name of the library.
    name: String,
    path: PathBuf,
}

impl Program {
    /// What a line of cargo's output says was built, if that can be run.
    fn of(line: &str) -> Option<Self> {
        let artifact: Value = serde_json::from_str(line).ok()?;
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let manifest = PathBuf::from(text(&artifact["manifest_path"])?);
        Some(Self {
            dir: manifest.parent()?.to_path_buf(),
            name: text(&artifact["target"]["name"])?,
            path: text(&artifact["executable"])?.into(),
        })
    }

    /// Its package's folder, from the top of the workspace.
    pub(crate) fn package(&self) -> &Path {
        self.dir.strip_prefix(root()).unwrap_or(&self.dir)
    }

    pub(crate) fn is(&self, package: &str, name: &str) -> bool {
        self.package() == Path::new(package) && self.name == name
    }

    /// Runs it where cargo would.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.path);
        command.args(args).current_dir(&self.dir);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cargo_built_is_known_by_its_package_and_name() {
        let line = |executable: &str| {
            let manifest = root().join("crates/codec/Cargo.toml");
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"{}","target":{{"name":"models"}},"executable":{executable}}}"#,
                manifest.display()
            )
        };
        let program = Program::of(&line(r#""/t/models-1""#)).expect("it can be run");
        assert!(program.is("crates/codec", "models") && !program.is("tests", "models"));
        assert_eq!(program.path, Path::new("/t/models-1"));
        assert_eq!(Program::of(&line("null")), None, "a library");
        assert_eq!(Program::of(r#"{"reason":"build-finished","success":true}"#), None);
    }
}
