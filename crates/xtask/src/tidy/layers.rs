//! Imports only point downward: the order of the crates, as their manifests must have it.

use super::{Finding, Repo};

/// The crates of the product, lowest first.
const LAYERS: [&str; 9] = [
    "base",
    "codec",
    "btrfs-disk",
    "page-cache",
    "extent-io",
    "async-cow",
    "block-store",
    "cowback",
    "cli",
];

/// For developers only: no crate of the product may need them to build.
const DEV: [&str; 2] = ["testkit", "xtask"];

pub(super) fn check(repo: &Repo) -> Vec<Finding> {
    let mut findings = vec![];
    for (path, text) in repo.all() {
        let Some(folder) = path.strip_prefix("crates/").and_then(|p| p.strip_suffix("/Cargo.toml"))
        else {
            continue;
        };
        let layer = LAYERS.iter().position(|name| *name == folder);
        if layer.is_none() && !DEV.contains(&folder) {
            findings.push(Finding::new(
                path,
                0,
                "is not in the order of the crates: say where it belongs",
            ));
        }
        for (line, below, kind) in dependencies(text) {
            let what = match (layer, LAYERS.iter().position(|name| *name == below)) {
                _ if kind == Kind::Dev => continue,
                (Some(own), Some(other)) if other < own => continue,
                (None, Some(_)) => continue,
                (Some(_), Some(_)) => {
                    format!("{folder} must not need {below}, which is not below it")
                }
                (_, None) => {
                    format!("{folder} must not need {below}, which is for developers only")
                }
            };
            findings.push(Finding::new(path, line, what));
        }
    }
    findings
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Dev,
}

/// Our own crates that a manifest names: line, folder, kind.
fn dependencies(manifest: &str) -> Vec<(usize, &str, Kind)> {
    let mut found = vec![];
    let mut section = None;
    for (number, line) in manifest.lines().enumerate() {
        let line = line.trim();
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = if name.ends_with("dev-dependencies") {
                Some(Kind::Dev)
            } else if name.ends_with("dependencies") {
                Some(Kind::Normal)
            } else {
                None
            };
            continue;
        }
        let Some(kind) = section else { continue };
        let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
        if let Some(rest) = name.strip_prefix("cowback") {
            found.push((number + 1, rest.strip_prefix('-').unwrap_or("cowback"), kind));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(folder: &str, manifest: &str) -> Vec<String> {
        let path = format!("crates/{folder}/Cargo.toml");
        check(&Repo::of(&[(&path, manifest)])).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn downward_is_fine() {
        let manifest = "[package]\nname = \"cowback-page-cache\"\n[dependencies]\ncowback-base.workspace = true\n\
            cowback-codec = { path = \"../codec\" }\nbytes = \"1\"\n[dev-dependencies]\ncowback-testkit.workspace = true\n";
        assert_eq!(found("page-cache", manifest), [""; 0]);
        assert_eq!(found("testkit", "[dependencies]\ncowback.workspace = true\n"), [""; 0]);
    }

    #[test]
    fn upward_sideways_and_unknown_are_not() {
        let up = "[dependencies]\ncowback-extent-io.workspace = true\n";
        assert_eq!(
            found("page-cache", up),
            [
                "crates/page-cache/Cargo.toml:2: page-cache must not need extent-io, which is not below it"
            ]
        );
        assert_eq!(found("extent-io", up).len(), 1, "not itself");
        let target = "[target.'cfg(unix)'.dependencies]\ncowback = \"0.1\"\n";
        assert_eq!(found("block-store", target).len(), 1);
        assert_eq!(found("cli", "[dependencies]\ncowback-testkit.workspace = true\n").len(), 1);
        assert_eq!(found("new-thing", "[package]\n").len(), 1);
    }
}
