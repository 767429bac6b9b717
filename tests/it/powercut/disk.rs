//! A file system as a process sees it, and what of it is certain to outlive a power cut.
//!
//! Nothing is certain but what a sync that returned had been asked for: a file's bytes by a sync of that file, an
//! entry's name by a sync of its folder (POSIX). What journalling file systems promise beyond that is `journalled`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub(super) type Ino = usize;
pub(super) const ROOT: Ino = 0;

#[derive(Debug, Clone)]
pub(super) enum Change {
    Write { at: usize, bytes: Arc<[u8]> },
    Resize(usize),
}

/// Changes carry numbers that grow over the whole disk.
pub(super) type Number = u64;

#[derive(Debug, Clone, Default)]
pub(super) struct File {
    pub(super) now: Vec<u8>,
    pub(super) durable: Vec<u8>,
    pub(super) pending: Vec<(Number, Change)>,
}

pub(super) type Names = BTreeMap<String, Ino>;

#[derive(Debug, Clone, Default)]
pub(super) struct Folder {
    pub(super) now: Names,
    pub(super) durable: Names,
}

#[derive(Debug, Clone)]
pub(super) enum Node {
    File(File),
    Folder(Folder),
}

/// A folder and a name in it.
pub(super) type Place = (Ino, String);

/// A change of folders' entries; a rename is one.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) number: Number,
    pub(super) change: Naming,
}

#[derive(Debug, Clone)]
pub(super) enum Naming {
    Link(Place, Ino),
    Unlink(Place),
    Rename(Place, Place, Ino),
}

impl Naming {
    /// What it means for the names of one folder.
    pub(super) fn apply(&self, to: Ino, names: &mut Names) {
        let (gone, new) = match self {
            Naming::Link(place, ino) => (None, Some((place, ino))),
            Naming::Unlink(place) => (Some(place), None),
            Naming::Rename(from, place, ino) => (Some(from), Some((place, ino))),
        };
        if let Some((_, name)) = gone.filter(|(folder, _)| *folder == to) {
            names.remove(name);
        }
        if let Some(((_, name), ino)) = new.filter(|((folder, _), _)| *folder == to) {
            names.insert(name.clone(), *ino);
        }
    }

    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        let (one, two) = match self {
            Naming::Link(place, _) | Naming::Unlink(place) => (place, None),
            Naming::Rename(from, to, _) => (from, Some(to)),
        };
        std::iter::once(one).chain(two)
    }
}

/// Files by their path; None is a folder.
pub(super) type Tree = BTreeMap<String, Option<Vec<u8>>>;

/// A sync under way: what had been done when it began.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sync {
    ino: Ino,
    before: Number,
}

#[derive(Debug, Clone)]
pub(super) struct Disk {
    pub(super) nodes: Vec<Node>,
    pub(super) entries: Vec<Entry>,
    /// The next change's number.
    pub(super) next: Number,
    /// Entries below this are durable on a file system that commits one journal in order, such as ext4.
    pub(super) journalled: Number,
    /// Changes as often as a cut here could leave something else than before.
    pub(super) version: u64,
    /// Believes a file's sync only when the next one returns: a disk that lies. For seeing the test fail.
    pub(super) lies: bool,
    held_back: BTreeMap<Ino, Number>,
}

impl Disk {
    /// All of it durable.
    pub(super) fn new(tree: &Tree) -> Disk {
        let root = Node::Folder(Folder::default());
        let (nodes, entries) = (vec![root], Vec::new());
        let mut disk =
            Disk { nodes, entries, next: 1, journalled: 1, version: 0, lies: false, held_back: BTreeMap::new() };
        for (path, content) in tree {
            let (folder, name) = disk.place(path).expect("a tree lists folders before what is in them");
            let ino = match content {
                None => disk.make_folder(folder, &name),
                Some(_) => disk.make_file(folder, &name),
            };
            if let (Node::File(file), Some(content)) = (&mut disk.nodes[ino], content) {
                file.now.clone_from(content);
                file.durable.clone_from(content);
            }
        }
        for ino in 0..disk.nodes.len() {
            disk.sync_ended(Sync { ino, before: disk.next });
        }
        disk
    }

    /// What a process sees.
    pub(super) fn now(&self) -> Tree {
        let mut tree = Tree::new();
        self.walk(ROOT, "", &mut tree);
        tree
    }

    fn walk(&self, ino: Ino, path: &str, tree: &mut Tree) {
        for (name, &child) in &self.folder(ino).now {
            let path = if path.is_empty() { name.clone() } else { format!("{path}/{name}") };
            match &self.nodes[child] {
                Node::File(file) => drop(tree.insert(path, Some(file.now.clone()))),
                Node::Folder(_) => {
                    self.walk(child, &path, tree);
                    tree.insert(path, None);
                }
            }
        }
    }

    /// Where a process sees a file; None once it has no name.
    pub(super) fn path_of(&self, ino: Ino) -> Option<String> {
        let within = |folder: Ino, prefix: &str| {
            let names = &self.folder(folder).now;
            names.iter().map(|(name, child)| (format!("{prefix}{name}"), *child)).collect::<Vec<_>>()
        };
        let mut left = within(ROOT, "");
        while let Some((path, child)) = left.pop() {
            match &self.nodes[child] {
                _ if child == ino => return Some(path),
                Node::Folder(_) => left.extend(within(child, &format!("{path}/"))),
                Node::File(_) => {}
            }
        }
        None
    }

    pub(super) fn folder(&self, ino: Ino) -> &Folder {
        match &self.nodes[ino] {
            Node::Folder(folder) => folder,
            Node::File(_) => panic!("{ino} is no folder"),
        }
    }

    pub(super) fn file(&self, ino: Ino) -> &File {
        match &self.nodes[ino] {
            Node::File(file) => file,
            Node::Folder(_) => panic!("{ino} is no file"),
        }
    }

    /// The folder of a path, and the name in it.
    pub(super) fn place(&self, path: &str) -> Option<(Ino, String)> {
        let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
        Some((self.find(folders)?, name.to_owned()))
    }

    pub(super) fn find(&self, path: &str) -> Option<Ino> {
        let mut parts = path.split('/').filter(|part| !part.is_empty());
        parts.try_fold(ROOT, |ino, name| self.folder(ino).now.get(name).copied())
    }

    pub(super) fn make_file(&mut self, folder: Ino, name: &str) -> Ino {
        self.make(folder, name, Node::File(File::default()))
    }

    pub(super) fn make_folder(&mut self, folder: Ino, name: &str) -> Ino {
        self.make(folder, name, Node::Folder(Folder::default()))
    }

    fn make(&mut self, folder: Ino, name: &str, node: Node) -> Ino {
        let ino = self.nodes.len();
        self.nodes.push(node);
        self.name(Naming::Link((folder, name.into()), ino));
        ino
    }

    pub(super) fn unlink(&mut self, folder: Ino, name: &str) {
        self.name(Naming::Unlink((folder, name.into())));
    }

    pub(super) fn rename(&mut self, from: Place, to: Place) {
        let ino = self.folder(from.0).now[&from.1];
        self.name(Naming::Rename(from, to, ino));
    }

    fn name(&mut self, change: Naming) {
        let number = self.number();
        for (ino, _) in change.places() {
            change.apply(*ino, &mut self.folder_mut(*ino).now);
        }
        self.entries.push(Entry { number, change });
    }

    fn folder_mut(&mut self, ino: Ino) -> &mut Folder {
        match &mut self.nodes[ino] {
            Node::Folder(folder) => folder,
            Node::File(_) => panic!("{ino} is no folder"),
        }
    }

    pub(super) fn write(&mut self, ino: Ino, at: usize, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.change(ino, Change::Write { at, bytes: bytes.into() });
        }
    }

    pub(super) fn resize(&mut self, ino: Ino, len: usize) {
        if self.file(ino).now.len() != len {
            self.change(ino, Change::Resize(len));
        }
    }

    fn change(&mut self, ino: Ino, change: Change) {
        let number = self.number();
        let Node::File(file) = &mut self.nodes[ino] else { panic!("{ino} is no file") };
        change.apply(&mut file.now);
        file.pending.push((number, change));
    }

    fn number(&mut self) -> Number {
        self.version += 1;
        self.next += 1;
        self.next - 1
    }

    pub(super) fn sync_began(&self, ino: Ino) -> Sync {
        Sync { ino, before: self.next }
    }

    pub(super) fn sync_ended(&mut self, sync: Sync) {
        self.version += 1;
        self.journalled = self.journalled.max(sync.before);
        let mut before = sync.before;
        match &mut self.nodes[sync.ino] {
            Node::File(file) => {
                if self.lies {
                    before = self.held_back.insert(sync.ino, before).unwrap_or(0);
                }
                let later = file.pending.split_off(file.pending.partition_point(|(number, _)| *number < before));
                for (_, change) in std::mem::replace(&mut file.pending, later) {
                    change.apply(&mut file.durable);
                }
            }
            Node::Folder(_) => self.entries_synced(sync),
        }
    }

    /// A rename lasts once one of its two folders was synced, since it is never there by half; and with a change last
    /// all earlier ones of its names.
    fn entries_synced(&mut self, sync: Sync) {
        let (mut needed, mut done): (BTreeSet<Place>, BTreeSet<Number>) = Default::default();
        for Entry { number, change } in self.entries.iter().rev() {
            let asked = *number < sync.before && change.places().any(|(folder, _)| *folder == sync.ino);
            if asked || change.places().any(|place| needed.contains(place)) {
                done.insert(*number);
                needed.extend(change.places().cloned());
            }
        }
        let (durable, pending) = std::mem::take(&mut self.entries).into_iter().partition(|e| done.contains(&e.number));
        self.entries = pending;
        for Entry { change, .. } in durable {
            for (ino, _) in change.places() {
                change.apply(*ino, &mut self.folder_mut(*ino).durable);
            }
        }
    }
}

impl Change {
    pub(super) fn apply(&self, content: &mut Vec<u8>) {
        match self {
            Change::Write { at, bytes } => {
                content.resize(content.len().max(at + bytes.len()), 0);
                content[*at..at + bytes.len()].copy_from_slice(bytes);
            }
            Change::Resize(len) => content.resize(*len, 0),
        }
    }
}

#[test]
fn only_what_was_synced_is_durable() {
    let mut disk = Disk::new(&Tree::from([("d".into(), None)]));
    let folder = disk.find("d").expect("the folder");
    let file = disk.make_file(folder, "f");
    disk.write(file, 0, b"first");
    let sync = disk.sync_began(file);
    disk.write(file, 5, b"second");
    disk.sync_ended(sync);
    assert_eq!((disk.file(file).durable.as_slice(), disk.file(file).pending.len()), (&b"first"[..], 1));
    assert!(disk.folder(folder).durable.is_empty() && disk.entries.len() == 1, "its name is not durable");
    disk.sync_ended(disk.sync_began(folder));
    assert!(disk.folder(folder).durable.contains_key("f") && disk.entries.is_empty());
    disk.rename((folder, "f".into()), (folder, "g".into()));
    disk.resize(file, 3);
    assert_eq!(disk.now().get("d/g"), Some(&Some(b"fir".to_vec())));
    assert!(disk.folder(folder).durable.contains_key("f"));
}

#[test]
fn a_disk_that_lies_keeps_the_last_sync_back() {
    let mut disk = Disk::new(&Tree::new());
    disk.lies = true;
    let file = disk.make_file(ROOT, "f");
    disk.write(file, 0, b"one");
    disk.sync_ended(disk.sync_began(file));
    assert!(disk.file(file).durable.is_empty());
    disk.write(file, 3, b"two");
    disk.sync_ended(disk.sync_began(file));
    assert_eq!(disk.file(file).durable, b"one");
}

#[test]
fn a_rename_into_another_folder_is_never_there_by_half() {
    let mut disk = Disk::new(&Tree::from([("a".into(), None), ("a/f".into(), Some(vec![])), ("b".into(), None)]));
    let [a, b] = ["a", "b"].map(|name| disk.find(name).expect("a folder"));
    let old = disk.make_file(b, "f");
    disk.unlink(b, "f");
    disk.rename((a, "f".into()), (b, "f".into()));
    disk.make_file(a, "f");
    let names = |disk: &Disk| [a, b].map(|ino| disk.folder(ino).durable.get("f").copied());
    let moved = names(&disk)[0];
    disk.sync_ended(disk.sync_began(a));
    assert!(names(&disk)[1] == moved && moved != Some(old) && disk.entries.is_empty(), "{disk:?}");
    assert!(names(&disk)[0].is_some_and(|ino| Some(ino) != moved));
}
