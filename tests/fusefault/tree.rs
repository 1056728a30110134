//! Files and directories in memory, that forget what was not synced when a sync fails.
//!
//! Names and sizes are durable at once. A write is remembered with what it replaced until a sync of
//! its file succeeds; if one fails some of these writes are undone, as if the device never had
//! them: what the page cache above says is then another matter.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};

use crate::support::Random;

pub const ROOT: u64 = 1;

/// What stands behind a number.
pub struct Node {
    pub content: Content,
    pub mode: u16,
    pub links: u32,
    /// The last name it was given, without the directory.
    pub name: OsString,
}

pub enum Content {
    Directory(BTreeMap<OsString, u64>),
    File { data: Vec<u8>, unsynced: Vec<(usize, Vec<u8>)> },
}

pub struct Tree {
    nodes: HashMap<u64, Node>,
    last: u64,
}

impl Tree {
    pub fn new() -> Tree {
        let content = Content::Directory(BTreeMap::new());
        let root = Node { content, mode: 0o700, links: 2, name: OsString::new() };
        Tree { nodes: HashMap::from([(ROOT, root)]), last: ROOT }
    }

    pub fn node(&self, number: u64) -> &Node {
        &self.nodes[&number]
    }

    pub fn node_mut(&mut self, number: u64) -> &mut Node {
        self.nodes.get_mut(&number).expect("the kernel forgot it")
    }

    fn names(&mut self, directory: u64) -> &mut BTreeMap<OsString, u64> {
        match &mut self.node_mut(directory).content {
            Content::Directory(names) => names,
            Content::File { .. } => panic!("the kernel takes a file for a directory"),
        }
    }

    pub fn list(&self, directory: u64) -> Vec<(u64, OsString)> {
        match &self.node(directory).content {
            Content::Directory(names) => names.iter().map(|(n, i)| (*i, n.clone())).collect(),
            Content::File { .. } => Vec::new(),
        }
    }

    pub fn find(&self, directory: u64, name: &OsStr) -> Option<u64> {
        match &self.node(directory).content {
            Content::Directory(names) => names.get(name).copied(),
            Content::File { .. } => None,
        }
    }

    pub fn add(&mut self, directory: u64, name: &OsStr, mode: u16, is_directory: bool) -> u64 {
        self.last += 1;
        let content = match is_directory {
            true => Content::Directory(BTreeMap::new()),
            false => Content::File { data: Vec::new(), unsynced: Vec::new() },
        };
        let node = Node { content, mode, links: 1, name: name.to_owned() };
        self.nodes.insert(self.last, node);
        let number = self.last;
        self.names(directory).insert(name.to_owned(), number);
        number
    }

    /// Takes a name away; false if there is none.
    pub fn remove(&mut self, directory: u64, name: &OsStr) -> bool {
        let Some(number) = self.names(directory).remove(name) else { return false };
        self.node_mut(number).links -= 1;
        true
    }

    pub fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr)) -> bool {
        let Some(number) = self.names(from.0).remove(from.1) else { return false };
        self.remove(to.0, to.1);
        self.names(to.0).insert(to.1.to_owned(), number);
        self.node_mut(number).name = to.1.to_owned();
        true
    }

    /// The kernel has nothing of it any more.
    pub fn forget(&mut self, number: u64) {
        if self.nodes.get(&number).is_some_and(|node| node.links == 0) {
            self.nodes.remove(&number);
        }
    }
}

impl Node {
    pub fn size(&self) -> u64 {
        match &self.content {
            Content::File { data, .. } => data.len() as u64,
            Content::Directory(_) => 0,
        }
    }

    pub fn set_size(&mut self, size: usize) {
        if let Content::File { data, unsynced } = &mut self.content {
            data.resize(size, 0);
            unsynced.retain(|(at, old)| at + old.len() <= size);
        }
    }

    pub fn read(&self, at: usize, length: usize) -> Vec<u8> {
        match &self.content {
            Content::File { data, .. } => {
                let end = data.len().min(at + length);
                data.get(at..end).unwrap_or_default().to_vec()
            }
            Content::Directory(_) => Vec::new(),
        }
    }

    pub fn write(&mut self, at: usize, bytes: &[u8]) {
        if let Content::File { data, unsynced } = &mut self.content {
            let end = at + bytes.len();
            if data.len() < end {
                data.resize(end, 0);
            }
            unsynced.push((at, data[at..end].to_vec()));
            data[at..end].copy_from_slice(bytes);
        }
    }

    pub fn sync(&mut self) {
        if let Content::File { unsynced, .. } = &mut self.content {
            unsynced.clear();
        }
    }

    /// A sync failed: each unsynced write is lost or kept; no later sync tells.
    pub fn fail_sync(&mut self, random: &mut Random) {
        if let Content::File { data, unsynced } = &mut self.content {
            for (at, old) in unsynced.drain(..).rev() {
                if random.below(2) == 0 {
                    data[at..at + old.len()].copy_from_slice(&old);
                }
            }
        }
    }
}
