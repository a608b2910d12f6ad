//! Modules of a crate do not import each other in circles. Looked at between the modules directly below a crate's root.

use std::collections::{BTreeMap, BTreeSet};

use super::lexer::code_only;
use super::{Finding, Repo, is_test_file, tests_begin};

type Graph = BTreeMap<String, BTreeSet<String>>;

pub(super) fn check(repo: &Repo) -> Vec<Finding> {
    let mut crates: BTreeMap<&str, Graph> = BTreeMap::new();
    for (path, text) in repo.rust().filter(|(path, _)| !is_test_file(path)) {
        let Some((krate, inside)) = path.split_once("/src/") else { continue };
        let depth = inside.matches('/').count();
        let own = inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs");
        let graph = crates.entry(krate).or_default();
        if own == "lib" || own == "main" {
            continue;
        }
        let roots = repo.files.get(&format!("{krate}/src/lib.rs"));
        let exports = roots.map(|text| exports(&code_only(text))).unwrap_or_default();
        let code = code_only(&text[..tests_begin(text)]);
        let up = "super::".repeat(depth + 1);
        let names = paths(&code, "crate::").into_iter().chain(paths(&code, &up));
        let edges = graph.entry(own.to_owned()).or_default();
        for name in names {
            let module = exports.get(&name).cloned().unwrap_or(name);
            if module != own {
                edges.insert(module);
            }
        }
    }
    let mut findings = vec![];
    for (krate, graph) in crates {
        for circle in circles(&graph) {
            let what = format!("modules import each other in a circle: {}", circle.join(" -> "));
            findings.push(Finding::new(&format!("{krate}/src/{}.rs", circle[0]), 0, what));
        }
    }
    findings
}

/// The first names of all paths in `code` that begin with `prefix`: `crate::a::b` and `crate::{a::b, c}` give a, and a and c.
fn paths(code: &str, prefix: &str) -> Vec<String> {
    let mut names = vec![];
    for (at, _) in code.match_indices(prefix) {
        let part = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        if code[..at].chars().next_back().is_some_and(part) {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        if rest.starts_with('{') {
            names.extend(group(rest).iter().map(|item| first_name(item)));
        } else {
            names.push(first_name(rest));
        }
    }
    names.retain(|name| !name.is_empty() && name != "super");
    names
}

/// The items of a group `{a, b::{c, d}}`, cut at the commas of its own level.
fn group(text: &str) -> Vec<&str> {
    let (mut items, mut depth, mut start) = (vec![], 0_usize, 1);
    for (at, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    items.push(&text[start..at]);
                    break;
                }
            }
            ',' if depth == 1 => {
                items.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    items
}

fn first_name(text: &str) -> String {
    let part = |c: &char| c.is_ascii_alphanumeric() || *c == '_';
    text.trim_start().chars().take_while(part).collect()
}

/// Names that the root re-exports, and the module that each comes from: `pub use a::{B, c::D};`.
fn exports(code: &str) -> BTreeMap<String, String> {
    let mut exports = BTreeMap::new();
    for (at, _) in code.match_indices("use ") {
        let tree = code[at + 4..].split(';').next().unwrap_or_default();
        let module = first_name(tree);
        let leaves =
            tree.split([',', '{', '}']).map(|leaf| leaf.rsplit("::").next().unwrap_or(leaf));
        for leaf in leaves {
            let name = leaf.rsplit(" as ").next().unwrap_or(leaf).trim();
            if !name.is_empty() && name != module {
                exports.insert(name.to_owned(), module.clone());
            }
        }
    }
    exports
}

/// One circle for each module that lies on one, shortest first, none twice.
fn circles(graph: &Graph) -> Vec<Vec<String>> {
    let mut found: Vec<Vec<String>> = vec![];
    for start in graph.keys() {
        if found.iter().any(|circle| circle.contains(start)) {
            continue;
        }
        if let Some(circle) = shortest_circle(graph, start) {
            found.push(circle);
        }
    }
    found
}

fn shortest_circle(graph: &Graph, start: &String) -> Option<Vec<String>> {
    let mut seen: BTreeSet<&String> = BTreeSet::new();
    let mut ways = std::collections::VecDeque::from([vec![start]]);
    while let Some(way) = ways.pop_front() {
        let last = way.last()?;
        for next in graph.get(*last).into_iter().flatten() {
            if next == start {
                return Some(way.into_iter().chain([next]).cloned().collect());
            }
            if seen.insert(next) {
                ways.push_back(way.iter().copied().chain([next]).collect());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<String> {
        let files: Vec<_> =
            files.iter().map(|(name, text)| (format!("crates/x/src/{name}"), *text)).collect();
        let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), *text)).collect();
        check(&Repo::of(&files)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_circle_is_found_however_it_is_written() {
        let ways = [
            ("use crate::b::B;", "use crate::a::A;"),
            ("use crate::{c, b::{B, D}};", "fn f() { crate::a::g() }"),
            ("use super::b;", "use super::a;"),
            ("use crate::B;", "use crate::{A};"),
        ];
        for (a, b) in ways {
            let lib = "mod a;\nmod b;\npub use a::A;\npub use b::{B, D as E};\n";
            let found = found(&[("lib.rs", lib), ("a.rs", a), ("b.rs", b), ("c.rs", "")]);
            let want = "crates/x/src/a.rs: modules import each other in a circle: a -> b -> a";
            assert_eq!(found, [want], "{a} {b}");
        }
    }

    #[test]
    fn submodules_count_for_their_module() {
        let files = [
            ("a/deep.rs", "use super::super::b::B;"),
            ("b.rs", "use crate::c;"),
            ("c/d.rs", "use crate::a;"),
        ];
        assert_eq!(found(&files).len(), 1);
        let within =
            [("a.rs", "mod deep; use deep::D;"), ("a/deep.rs", "use super::A; use crate::a::B;")];
        assert_eq!(found(&within), [""; 0]);
    }

    #[test]
    fn tests_comments_and_one_way_streets_are_fine() {
        let files = [
            ("a.rs", "use crate::b::B; // and b uses crate::a"),
            (
                "b.rs",
                "/// See [`crate::a`].\nfn f() {}\n#[cfg(test)]\nmod tests {\n use crate::a::A;\n}\n",
            ),
            ("b/tests.rs", "use crate::a;"),
            ("c.rs", "use other_crate::a; use crate::a; use crate::b;"),
        ];
        assert_eq!(found(&files), [""; 0]);
    }
}
