//! The obvious model of a volume: paths to nodes, nodes to bytes.

use std::collections::BTreeMap;

use crate::{Seen, Snapshot, identify};

/// What a path leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Node {
    Dir,
    File(u64),
    Symlink(Vec<u8>),
}

/// A volume in plain collections. Paths look like `/a/f1`.
#[derive(Debug, Clone, Default)]
pub struct Model {
    nodes: BTreeMap<String, Node>,
    files: BTreeMap<u64, Vec<u8>>,
    next: u64,
}

impl Model {
    /// Everything in it.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let seen = |node: &Node| match node {
            Node::Dir => Seen::Dir,
            Node::Symlink(target) => Seen::Symlink(target.clone()),
            Node::File(id) => {
                let content = &self.files[id];
                Seen::File(content.len() as u64, identify(content), self.links(*id))
            }
        };
        self.nodes.iter().map(|(path, node)| (path.clone(), seen(node))).collect()
    }

    /// The content of the file at `path`.
    #[must_use]
    pub fn content(&self, path: &str) -> Option<&Vec<u8>> {
        match self.nodes.get(path)? {
            Node::File(id) => self.files.get(id),
            _ => None,
        }
    }

    /// Every regular file's path.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        let is_file = |node: &Node| matches!(node, Node::File(_));
        self.nodes.iter().filter(|(_, node)| is_file(node)).map(|(path, _)| path.clone()).collect()
    }

    fn links(&self, id: u64) -> u32 {
        let count = self.nodes.values().filter(|node| **node == Node::File(id)).count();
        u32::try_from(count).expect("few links")
    }

    fn parent_is_dir(&self, path: &str) -> bool {
        let parent = &path[..path.rfind('/').expect("paths begin with a slash")];
        parent.is_empty() || self.nodes.get(parent) == Some(&Node::Dir)
    }

    fn free(&self, path: &str) -> bool {
        self.parent_is_dir(path) && !self.nodes.contains_key(path)
    }

    fn has_children(&self, path: &str) -> bool {
        let prefix = format!("{path}/");
        self.nodes.keys().any(|other| other.starts_with(&prefix))
    }

    /// Makes a file; tells whether that is possible.
    pub fn create(&mut self, path: &str) -> bool {
        let possible = self.free(path);
        if possible {
            self.nodes.insert(path.to_owned(), Node::File(self.next));
            self.files.insert(self.next, Vec::new());
            self.next += 1;
        }
        possible
    }

    /// Makes a directory.
    pub fn create_dir(&mut self, path: &str) -> bool {
        let possible = self.free(path);
        if possible {
            self.nodes.insert(path.to_owned(), Node::Dir);
        }
        possible
    }

    /// Makes a symlink.
    pub fn symlink(&mut self, target: &str, path: &str) -> bool {
        let possible = self.free(path);
        if possible {
            self.nodes.insert(path.to_owned(), Node::Symlink(target.into()));
        }
        possible
    }

    /// Writes into a file.
    pub fn write(&mut self, path: &str, at: usize, data: &[u8]) -> bool {
        let Some(Node::File(id)) = self.nodes.get(path) else { return false };
        let content = self.files.get_mut(id).expect("a node's file is there");
        content.resize(content.len().max(at + data.len()), 0);
        content[at..at + data.len()].copy_from_slice(data);
        true
    }

    /// Sets a file's length.
    pub fn truncate(&mut self, path: &str, len: usize) -> bool {
        let Some(Node::File(id)) = self.nodes.get(path) else { return false };
        self.files.get_mut(id).expect("a node's file is there").resize(len, 0);
        true
    }

    /// Gives a file a further name.
    pub fn hard_link(&mut self, existing: &str, path: &str) -> bool {
        let node = self.nodes.get(existing).cloned();
        let possible = self.free(path) && matches!(node, Some(Node::File(_) | Node::Symlink(_)));
        if possible && let Some(node) = node {
            if let Node::Symlink(_) = node {
                return false; // links of symlinks are not generated
            }
            self.nodes.insert(path.to_owned(), node);
        }
        possible
    }

    /// Removes a name that is not a directory's.
    pub fn remove_file(&mut self, path: &str) -> bool {
        let possible = matches!(self.nodes.get(path), Some(Node::File(_) | Node::Symlink(_)));
        if possible {
            self.nodes.remove(path);
        }
        possible
    }

    /// Removes an empty directory.
    pub fn remove_dir(&mut self, path: &str) -> bool {
        let possible = self.nodes.get(path) == Some(&Node::Dir) && !self.has_children(path);
        if possible {
            self.nodes.remove(path);
        }
        possible
    }

    /// Moves an entry, replacing what it may.
    pub fn rename(&mut self, from: &str, to: &str) -> bool {
        let Some(node) = self.nodes.get(from).cloned() else { return false };
        if !self.parent_is_dir(to) || to.starts_with(&format!("{from}/")) {
            return false;
        }
        let is_dir = node == Node::Dir;
        match self.nodes.get(to) {
            None => {}
            _ if from == to => return true,
            Some(Node::Dir) if !is_dir || self.has_children(to) => return false,
            Some(Node::File(_) | Node::Symlink(_)) if is_dir => return false,
            Some(Node::File(id)) if node == Node::File(*id) => return true, // names of one file
            Some(_) => {}
        }
        let prefix = format!("{from}/");
        let below: Vec<String> =
            self.nodes.keys().filter(|path| path.starts_with(&prefix)).cloned().collect();
        for path in below {
            let node = self.nodes.remove(&path).expect("just listed");
            self.nodes.insert(format!("{to}/{}", &path[prefix.len()..]), node);
        }
        self.nodes.remove(from);
        self.nodes.insert(to.to_owned(), node);
        true
    }
}
