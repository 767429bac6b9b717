//! What a power cut may leave of a disk.
//!
//! Of each unsynced page any version since the last sync may be there, or one's first sectors and another's last; a
//! file's size is one that it had since; entries that were not synced are there or not, in any order that no later
//! change of the same name contradicts. A page that was never written but lies below the size is zeros.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use rand::Rng;
use rand::rngs::SmallRng;

use super::disk::{Change, Disk, File, Ino, Names, Node, Number, Place, ROOT, Tree};

const PAGE: usize = 4096;
const SECTOR: usize = 512;

/// What becomes of pages that were written and not synced.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Pages {
    Dropped,
    Kept,
    /// Up to a moment all, after it none; the page that was being written is torn.
    Prefix,
    /// Those last written are there, older ones are not.
    Reversed,
    /// Each page in any of its versions.
    Any,
    /// As `Any`, and each may be torn.
    Torn,
}

/// What becomes of a size that was changed and not synced.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Size {
    Old,
    New,
    /// As of the moment that `Prefix` chose.
    Moment,
    Any,
}

/// What becomes of names that were made, removed or changed, and whose folder was not synced.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Entries {
    Dropped,
    Kept,
    /// In the order of one journal, which a sync of anything commits (ext4, xfs): up to a moment.
    Journal,
    /// POSIX: any of them.
    Any,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Mode(Pages, Size, Entries);

pub(super) const MODES: [Mode; 16] = [
    Mode(Pages::Dropped, Size::Old, Entries::Dropped),
    Mode(Pages::Kept, Size::New, Entries::Kept),
    Mode(Pages::Prefix, Size::Moment, Entries::Journal),
    Mode(Pages::Any, Size::Any, Entries::Any),
    Mode(Pages::Reversed, Size::New, Entries::Kept),
    Mode(Pages::Torn, Size::New, Entries::Any),
    Mode(Pages::Dropped, Size::New, Entries::Kept),
    Mode(Pages::Kept, Size::New, Entries::Dropped),
    Mode(Pages::Torn, Size::Any, Entries::Journal),
    Mode(Pages::Kept, Size::Old, Entries::Kept),
    Mode(Pages::Any, Size::New, Entries::Journal),
    Mode(Pages::Dropped, Size::Old, Entries::Kept),
    Mode(Pages::Reversed, Size::Any, Entries::Any),
    Mode(Pages::Prefix, Size::Moment, Entries::Any),
    Mode(Pages::Torn, Size::Any, Entries::Any),
    Mode(Pages::Dropped, Size::New, Entries::Journal),
];

/// Every name is there, and of the files what was synced.
pub(super) const SYNCED: usize = 11;

/// The folder after a cut.
pub(super) struct State(pub(super) Tree);

impl State {
    /// Two of the same are one.
    pub(super) fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.0.len().hash(&mut hasher);
        for (path, content) in &self.0 {
            path.hash(&mut hasher);
            content.hash(&mut hasher);
        }
        hasher.finish()
    }
}

pub(super) fn cut(disk: &Disk, mode: Mode, chance: &mut SmallRng) -> State {
    let moment = moment(disk, chance);
    let kept = entries(disk, mode.2, moment, chance);
    let mut tree = Tree::new();
    let mut left = vec![(ROOT, String::new())];
    let mut done: BTreeMap<Ino, Vec<u8>> = BTreeMap::new();
    while let Some((folder, prefix)) = left.pop() {
        let mut names: Names = disk.folder(folder).durable.clone();
        for entry in disk.entries.iter().filter(|entry| kept.contains(&entry.number)) {
            entry.change.apply(folder, &mut names);
        }
        for (name, ino) in names {
            let path = format!("{prefix}{name}");
            match &disk.nodes[ino] {
                Node::Folder(_) => {
                    left.push((ino, format!("{path}/")));
                    tree.insert(path, None);
                }
                Node::File(file) => {
                    let content = done.entry(ino).or_insert_with(|| content(file, mode, moment, chance));
                    tree.insert(path, Some(content.clone()));
                }
            }
        }
    }
    State(tree)
}

/// The number of one of the pending changes, or of none.
fn moment(disk: &Disk, chance: &mut SmallRng) -> Number {
    let files = disk.nodes.iter().flat_map(|node| match node {
        Node::File(file) => file.pending.as_slice(),
        Node::Folder(_) => &[],
    });
    let mut all: Vec<Number> = files.map(|(number, _)| *number).collect();
    all.extend(disk.entries.iter().map(|entry| entry.number));
    all.sort_unstable();
    match chance.random_range(0..=all.len()) {
        0 => 0,
        at => all[at - 1],
    }
}

fn entries(disk: &Disk, how: Entries, moment: Number, chance: &mut SmallRng) -> BTreeSet<Number> {
    let mut kept = BTreeSet::new();
    // A change waits for all earlier ones of its names.
    let mut stopped: BTreeSet<&Place> = BTreeSet::new();
    for entry in &disk.entries {
        let wanted = match how {
            Entries::Dropped => false,
            Entries::Kept => true,
            Entries::Journal => entry.number < disk.journalled || entry.number <= moment,
            Entries::Any => chance.random(),
        };
        if wanted && !entry.change.places().any(|place| stopped.contains(place)) {
            kept.insert(entry.number);
        } else {
            stopped.extend(entry.change.places());
        }
    }
    kept
}

fn content(file: &File, Mode(pages, size, _): Mode, moment: Number, chance: &mut SmallRng) -> Vec<u8> {
    let pending = &file.pending;
    let by_then = pending.partition_point(|(number, _)| *number <= moment);
    // How many of the changes the size has seen.
    let sized = match size {
        Size::Old => 0,
        Size::New => pending.len(),
        Size::Moment => by_then,
        Size::Any => chance.random_range(0..=pending.len()),
    };
    let sizes = Sizes::of(file);
    let mut content = file.durable.clone();
    content.resize(sizes.0[sized], 0);
    // What a truncation cut off is gone with the size that says so, and what came after it is not there before.
    let cuts: Vec<usize> = (1..sizes.0.len()).filter(|&at| sizes.0[at] < sizes.0[at - 1]).collect();
    let since = cuts.iter().copied().rfind(|cut| *cut <= sized).unwrap_or(0);
    let until = cuts.iter().copied().find(|cut| *cut > sized).map_or(pending.len(), |cut| cut - 1);

    for (page, touching) in touched(file, sizes.0[sized]) {
        let pick = |chance: &mut SmallRng| {
            let any = chance.random_range(0..=touching.len());
            if any == 0 { 0 } else { touching[any - 1] }
        };
        let (new, old) = match pages {
            Pages::Dropped => (0, 0),
            Pages::Kept => (pending.len(), pending.len()),
            Pages::Prefix => (by_then, by_then.saturating_sub(1)),
            Pages::Reversed if touching.last() > Some(&by_then) => (pending.len(), pending.len()),
            Pages::Reversed => (0, 0),
            Pages::Any => {
                let one = pick(chance);
                (one, one)
            }
            Pages::Torn => (pick(chance), pick(chance)),
        };
        let [new, old] = [new, old].map(|seen| version(file, page, seen.clamp(since, until), sized));
        let torn = if new == old { PAGE } else { SECTOR * chance.random_range(0..=PAGE / SECTOR) };
        let end = content.len().min((page + 1) * PAGE);
        let target = &mut content[page * PAGE..end];
        let len = target.len();
        target.copy_from_slice(&new[..len]);
        if torn < len {
            target[torn..].copy_from_slice(&old[torn..len]);
        }
    }
    content
}

/// A file's size after none, one, two … of its pending changes.
struct Sizes(Vec<usize>);

impl Sizes {
    fn of(file: &File) -> Sizes {
        let mut sizes = vec![file.durable.len()];
        for (_, change) in &file.pending {
            let last = sizes[sizes.len() - 1];
            sizes.push(match change {
                Change::Write { at, bytes } => last.max(at + bytes.len()),
                Change::Resize(len) => *len,
            });
        }
        Sizes(sizes)
    }
}

/// Pages below `size` that pending changes touch, and which: 1 is the first change.
fn touched(file: &File, size: usize) -> BTreeMap<usize, Vec<usize>> {
    let mut pages: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (at, (_, change)) in (1..).zip(&file.pending) {
        let range = match change {
            Change::Write { at, bytes } => *at..size.min(at + bytes.len()),
            Change::Resize(len) => *len..size,
        };
        if !range.is_empty() {
            for page in range.start / PAGE..=(range.end - 1) / PAGE {
                pages.entry(page).or_default().push(at);
            }
        }
    }
    pages
}

/// A page after the first `seen` changes, and after those truncations up to `sized` that come later.
fn version(file: &File, page: usize, seen: usize, sized: usize) -> [u8; PAGE] {
    let (start, mut bytes) = (page * PAGE, [0; PAGE]);
    let durable = file.durable.get(start..file.durable.len().min(start + PAGE)).unwrap_or_default();
    bytes[..durable.len()].copy_from_slice(durable);
    for (at, (_, change)) in (1..).zip(&file.pending).take(seen.max(sized)) {
        match change {
            Change::Write { at: from, bytes: written } if at <= seen => {
                let (low, high) = ((*from).max(start), (from + written.len()).min(start + PAGE));
                if low < high {
                    bytes[low - start..high - start].copy_from_slice(&written[low - from..high - from]);
                }
            }
            Change::Resize(len) => bytes[len.saturating_sub(start).min(PAGE)..].fill(0),
            Change::Write { .. } => {}
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    /// Two synced pages, then each written over, then grown by a third.
    fn disk() -> Disk {
        let mut disk = Disk::new(&Tree::from([("f".into(), Some(vec![b'-'; 2 * PAGE]))]));
        let file = disk.find("f").expect("the file");
        disk.write(file, 0, &[b'a'; PAGE]);
        disk.write(file, PAGE, &[b'b'; PAGE]);
        disk.write(file, 2 * PAGE, &[b'c'; PAGE]);
        disk
    }

    /// Every different state's pages, by their first and last letter; absent pages are left out.
    fn states(disk: &Disk, mode: Mode) -> BTreeSet<String> {
        let letter = |byte: u8| if byte == 0 { '0' } else { char::from(byte) };
        let mut chance = SmallRng::seed_from_u64(1);
        let one = |_| {
            let State(tree) = cut(disk, mode, &mut chance);
            let file = tree.get("f").cloned().flatten().unwrap_or_default();
            let ends = file.chunks(PAGE).map(|page| [letter(page[0]), letter(page[page.len() - 1])]);
            ends.flatten().collect()
        };
        (0..400).map(one).collect()
    }

    #[test]
    fn every_mode_leaves_what_it_says() {
        let check = |pages, size, some: &[&str], never: &[&str]| {
            let states = states(&disk(), Mode(pages, size, Entries::Kept));
            assert!(some.iter().all(|wanted| states.contains(*wanted)), "{pages:?} {size:?}: {states:?}");
            assert!(!never.iter().any(|unwanted| states.contains(*unwanted)), "{pages:?} {size:?}: {states:?}");
            states.len()
        };
        assert_eq!(check(Pages::Dropped, Size::Old, &["----"], &[]), 1);
        assert_eq!(check(Pages::Dropped, Size::New, &["----00"], &[]), 1);
        assert_eq!(check(Pages::Kept, Size::New, &["aabbcc"], &[]), 1);
        assert_eq!(check(Pages::Kept, Size::Old, &["aabb"], &[]), 1);
        check(Pages::Prefix, Size::Moment, &["----", "aa--", "a---", "aabb", "aabbcc"], &["--bb", "--bbcc"]);
        check(Pages::Reversed, Size::New, &["aabbcc", "--bbcc", "----cc", "----00"], &["aabb00"]);
        check(Pages::Any, Size::Any, &["--bb", "aa--cc", "aabb00", "----cc"], &["a---"]);
        check(Pages::Torn, Size::New, &["a-b-c0", "-abb00"], &[]);
    }

    #[test]
    fn what_was_truncated_does_not_come_back_under_the_new_size() {
        let mut disk = disk();
        let file = disk.find("f").expect("the file");
        disk.resize(file, 0);
        disk.write(file, 0, &[b'z'; PAGE]);
        let states = states(&disk, Mode(Pages::Any, Size::Any, Entries::Any));
        for seen in ["", "zz", "00", "----", "aabbcc"] {
            assert!(states.contains(seen), "{seen} is not among {states:?}");
        }
        assert!(states.iter().all(|state| state.len() < 3 || !state.contains('z')), "{states:?}");
    }

    #[test]
    fn names_are_dropped_and_kept_one_by_one_but_renames_are_whole() {
        let mut disk = Disk::new(&Tree::from([("old".into(), Some(b"o".to_vec()))]));
        let new = disk.make_file(ROOT, "new");
        disk.write(new, 0, b"n");
        disk.sync_ended(disk.sync_began(new));
        disk.rename((ROOT, "new".into()), (ROOT, "old".into()));
        disk.make_folder(ROOT, "folder");
        let seen = |how| {
            let mut chance = SmallRng::seed_from_u64(2);
            let mut trees = BTreeSet::new();
            for _ in 0..100 {
                let State(tree) = cut(&disk, Mode(Pages::Dropped, Size::Old, how), &mut chance);
                let content =
                    |content: Option<Vec<u8>>| content.map_or("/".into(), |c| String::from_utf8_lossy(&c).into());
                trees.insert(tree.into_iter().map(|(name, c)| (name, content(c))).collect::<Vec<(String, String)>>());
            }
            trees
        };
        let tree = |names: &[(&str, &str)]| names.iter().map(|(name, c)| ((*name).into(), (*c).into())).collect();
        let any = seen(Entries::Any);
        assert_eq!(any.len(), 6, "{any:?}");
        assert!(any.contains(&tree(&[("folder", "/"), ("old", "o")])) && any.contains(&tree(&[("old", "n")])));
        assert!(!any.contains(&tree(&[("new", "n")])), "the old file does not go before the new one has its name");
        let journal = seen(Entries::Journal);
        assert!(
            journal.iter().all(|tree| tree.len() > 1 || tree[0].1 == "n"),
            "the sync committed the name: {journal:?}"
        );
        assert_eq!(seen(Entries::Dropped), BTreeSet::from([tree(&[("old", "o")])]));
    }
}
