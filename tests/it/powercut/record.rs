//! A gateway that really runs, traced from its first system call on, with devices that publish to it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use proto::id::{ReplicaId, Seq};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::json;
use tempfile::TempDir;

use super::disk::{Disk, Tree};
use super::replay::Replay;
use super::trace::{self, Trace};
use crate::harness::ledgers::{self, Row};
use crate::harness::mqtt::{Link, Packet, Qos};
use crate::harness::node::{Node, Spec, path};
use crate::harness::wait::{holds, until};
use crate::harness::{GTIN, SITE, folder};

const DEVICES: usize = 3;
/// Letters of an activity: what makes a journal grow.
const SHORT_TEXT: usize = 300;
pub(super) const LONG_TEXT: usize = 3_000;
/// More than one write has bytes; strace is told to cut nothing.
const STRING_MAX: &str = "100000000";
const TAIL_BYTES: i64 = 4096;

#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) topic: String,
    pub(super) payload: String,
    /// Device and id.
    pub(super) name: (String, String),
}

/// What a state is held against.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) replica: Option<ReplicaId>,
    /// Acknowledged before the recording began.
    pub(super) before: Vec<Request>,
    /// A request's packet id is its place, from 1 on.
    pub(super) requests: Vec<Request>,
    /// Where acknowledged requests stand in the journal.
    pub(super) seqs: BTreeMap<(String, String), Seq>,
    /// Units that records moved.
    pub(super) moved: BTreeMap<Seq, i64>,
    /// How much of the journal may at least not be trimmed; None if none of it may.
    pub(super) untrimmed_bytes: Option<usize>,
}

pub(super) struct Recording {
    pub(super) name: String,
    pub(super) facts: Facts,
    pub(super) root: String,
    start: Tree,
    trace: Trace,
    ends: Vec<Tree>,
}

impl Recording {
    pub(super) fn replay(&self) -> Replay<'_> {
        Replay::new(&self.trace, &self.root, Disk::new(&self.start), &self.ends)
    }

    pub(super) fn lives(&self) -> usize {
        self.ends.len()
    }

    pub(super) fn calls(&self) -> usize {
        self.trace.calls.len()
    }
}

pub(super) struct Recorder {
    name: String,
    dir: TempDir,
    spec: Spec,
    start: Tree,
    ends: Vec<Tree>,
    facts: Facts,
    /// Thrown and not known to be acknowledged: they are sent again.
    unsettled: Vec<usize>,
    text: usize,
    chance: SmallRng,
    node: Option<Node>,
    links: Vec<Link>,
}

impl Recorder {
    pub(super) fn new(name: &str, seed: u64) -> Recorder {
        let dir = folder();
        fs::create_dir(root(&dir)).expect("make the disk's root");
        let file = path(&dir.path().join("trace"));
        let strace = ["strace", "-D", "-A", "-f", "-y", "-xx", "--seccomp-bpf", "-s", STRING_MAX, "-o", &file];
        let raw = ["-e", "raw=read,readv", "-e", trace::CALLS];
        let spec = Spec::gateway(&root(&dir), SITE, None).under(&[&strace[..], &raw[..]].concat());
        let (before, requests, seqs, moved) = Default::default();
        Recorder {
            name: name.into(),
            dir,
            spec,
            start: Tree::new(),
            ends: Vec::new(),
            facts: Facts { replica: None, before, requests, seqs, moved, untrimmed_bytes: None },
            unsettled: Vec::new(),
            text: SHORT_TEXT,
            chance: SmallRng::seed_from_u64(seed),
            node: None,
            links: Vec::new(),
        }
    }

    /// Begins on what a power cut left, with what must be in it.
    pub(super) fn on(mut self, state: Tree, facts: &Facts, acked: Vec<Request>) -> Recorder {
        write(&root(&self.dir), &state);
        self.start = state;
        self.facts.replica = facts.replica.clone().filter(|_| !acked.is_empty());
        self.facts.seqs.clone_from(&facts.seqs);
        self.facts.before = acked;
        self
    }

    /// With a hub, a small journal and long texts, so that it is trimmed.
    pub(super) fn trimming(mut self, hub: SocketAddr, journal_mib: usize) -> Recorder {
        self.spec = self.spec.hub_at(hub).config(&format!("journal_mib_max = {journal_mib}\n"));
        // Trimming takes whole pieces of the journal, and not before it is over its bound.
        self.facts.untrimmed_bytes = Some((journal_mib << 20) / 2);
        self.text = LONG_TEXT;
        self
    }

    /// An error says why it did not come up.
    pub(super) async fn start(&mut self) -> Result<(), String> {
        let node = self.spec.clone().try_start().await?;
        self.links.clear();
        for device in 0..DEVICES {
            self.links.push(Link::open(node.addr, &format!("pos-{device}")).await);
        }
        for sent in std::mem::take(&mut self.unsettled) {
            self.throw(sent, true).await;
            self.settle(sent).await;
        }
        self.node = Some(node);
        Ok(())
    }

    /// So many publishes in windows, all acknowledged.
    pub(super) async fn publish(&mut self, count: usize, window: usize) {
        let first = self.facts.requests.len();
        for from in (first..first + count).step_by(window) {
            let to = (from + window).min(first + count);
            self.burst(to - from).await;
            for sent in std::mem::take(&mut self.unsettled) {
                self.settle(sent).await;
            }
        }
    }

    /// So many publishes at once; nobody waits for them.
    pub(super) async fn burst(&mut self, count: usize) {
        for _ in 0..count {
            let number = self.facts.requests.len();
            let request = request(&self.name, number, self.text, &mut self.chance);
            self.facts.requests.push(request);
            self.throw(number, false).await;
            self.unsettled.push(number);
        }
    }

    async fn throw(&mut self, number: usize, again: bool) {
        let Request { topic, payload, .. } = &self.facts.requests[number];
        let pkid = u16::try_from(number + 1).expect("a packet id for each request of a recording");
        self.links[number % DEVICES].throw(Qos::One, pkid, again, topic.as_bytes(), payload.as_bytes()).await;
    }

    pub(super) async fn settle(&mut self, number: usize) {
        self.links[number % DEVICES].expect_packet(Packet::PubAck(number as u16 + 1)).await;
    }

    /// Waits for one of the burst.
    pub(super) async fn settle_one(&mut self) {
        let first = self.unsettled.remove(0);
        self.settle(first).await;
    }

    pub(super) fn node(&self) -> &Node {
        self.node.as_ref().expect("a started node")
    }

    pub(super) async fn stop(&mut self) {
        let mut node = self.node.take().expect("a started node");
        let leader = node.id();
        node.stop().await;
        self.ended(leader).await;
    }

    pub(super) async fn kill(&mut self) {
        let mut node = self.node.take().expect("a started node");
        let leader = node.id();
        node.kill().await;
        self.ended(leader).await;
    }

    async fn ended(&mut self, leader: u32) {
        let trace = self.dir.path().join("trace");
        let leader = leader.to_string();
        until("strace writes its last line", async || {
            let last = last_lines(&trace).map_err(|e| e.to_string())?;
            let over = last.lines().next_back().and_then(|line| line.strip_prefix(&leader));
            holds(over.is_some_and(|rest| rest.trim_start().starts_with("+++")), last)
        })
        .await;
        self.ends.push(read(&root(&self.dir)));
    }

    /// Reads the trace. `at_hq`: the site's rows there, if the gateway may have trimmed its own. An error says that the
    /// gateway went on with another ledger than it was given.
    pub(super) fn finish(mut self, at_hq: Option<Vec<Row>>) -> Result<Recording, String> {
        let file = File::open(self.dir.path().join("trace")).expect("open the trace");
        let trace = Trace::read(BufReader::with_capacity(1 << 20, file));
        let rows = ledgers::of_gateway(&root(&self.dir).join(SITE));
        let replica = rows[0].dot.replica.clone();
        if *self.facts.replica.get_or_insert_with(|| replica.clone()) != replica {
            return Err(fs::read_to_string(root(&self.dir).join(format!("{SITE}.log"))).unwrap_or_default());
        }
        let trims = self.facts.untrimmed_bytes.is_some();
        assert_eq!(rows[0].dot.seq > Seq(1), trims, "the journal is trimmed, or it is not: {:?}", rows[0].dot);
        for row in at_hq.unwrap_or(rows) {
            self.facts.moved.extend(row.movement().map(|movement| (row.dot.seq, movement.units)));
            self.facts.seqs.insert((row.device, row.request), row.dot.seq);
        }
        let lost: Vec<_> = self
            .facts
            .requests
            .iter()
            .enumerate()
            .filter(|(_, one)| !self.facts.seqs.contains_key(&one.name))
            .collect();
        assert!(lost.iter().all(|(number, _)| self.unsettled.contains(number)), "not in the ledger: {lost:?}");
        let root = path(&root(&self.dir));
        Ok(Recording { name: self.name, facts: self.facts, root, start: self.start, trace, ends: self.ends })
    }
}

fn root(dir: &TempDir) -> PathBuf {
    dir.path().join("disk")
}

/// Each leaves one record.
fn request(recording: &str, number: usize, text: usize, chance: &mut SmallRng) -> Request {
    let (device, id) = (format!("pos-{}", number % DEVICES), format!("{recording}-{number}"));
    let (kind, payload) = match number % 8 {
        0 => ("scan", json!({"id": id, "gtin": GTIN, "op": "receive", "qty": 3})),
        1 => ("item", json!({"id": id, "gtin": GTIN, "price_cents": 100 + number})),
        2 | 3 => ("sale", json!({"id": id, "lines": [{"gtin": GTIN, "qty": 1, "cents": 999}]})),
        _ => {
            let letters: String = (0..text).map(|_| char::from(chance.random_range(b'0'..=b'z'))).collect();
            ("activity", json!({"id": id, "seen": letters}))
        }
    };
    Request { topic: format!("dev/{device}/{kind}"), payload: payload.to_string(), name: (device, id) }
}

fn last_lines(trace: &Path) -> std::io::Result<String> {
    let mut file = File::open(trace)?;
    let len = file.metadata()?.len() as i64;
    file.seek(SeekFrom::End(-len.min(TAIL_BYTES)))?;
    let mut last = String::new();
    file.read_to_string(&mut last)?;
    Ok(last)
}

/// The data folder under `root`, without sockets.
fn read(root: &Path) -> Tree {
    let (mut tree, mut left) = (Tree::new(), vec![SITE.to_owned()]);
    while let Some(name) = left.pop() {
        let Ok(meta) = fs::metadata(root.join(&name)) else { continue };
        if meta.is_dir() {
            let entries = fs::read_dir(root.join(&name)).expect("read the data folder");
            left.extend(entries.map(|entry| {
                let entry = entry.expect("read the data folder");
                format!("{name}/{}", entry.file_name().into_string().expect("a name in text"))
            }));
            tree.insert(name, None);
        } else if meta.is_file() {
            let content = fs::read(root.join(&name)).expect("read a file of the data folder");
            tree.insert(name, Some(content));
        }
    }
    tree
}

pub(super) fn write(root: &Path, tree: &Tree) {
    for (name, content) in tree {
        match content {
            None => fs::create_dir(root.join(name)).expect("make a folder"),
            Some(content) => fs::write(root.join(name), content).expect("write a file"),
        }
    }
}
