//! `audit verify`: reads the hub's whole journal, and in it each site's, and checks every checksum and every link.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use bytes::Bytes;
use clap::Args;
use proto::chunk::{self, ChainHash, Chunk, Head, Position};
use proto::id::{Epoch, ReplicaId, Seq};
use proto::wire::SetAside;
use proto::wire::record::Of;
use serde_json::{Value, json};

use super::commands::Place;
use crate::ledger::{Walked, walk_journal};
use crate::node::{admin, show};

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    place: Place,
}

/// What was read so far.
#[derive(Debug, Default)]
struct Chains {
    at: Position,
    chunks: u64,
    sites: BTreeMap<ReplicaId, Position>,
    site_chunks: u64,
    /// Records that sites lost or dropped, and said so.
    told_lost: u64,
    set_aside: u64,
    fault: Option<String>,
}

/// Carries it out. `default` is the data folder if none is named.
/// False if something else stands there than was written.
pub(super) fn verify(args: &VerifyArgs, default: &Path) -> anyhow::Result<bool> {
    let dir = args.place.dir(default);
    // Asked before, so that what it names must be there; a stopped one has said it in its note.
    let status = admin::ask_if_running(dir, "status")?;
    let mut chains = Chains::default();
    let walked = walk_journal(dir, &mut |head, bytes| chains.take(head, bytes))
        .with_context(|| format!("read the journal in {}", dir.display()))?;
    let fault =
        chains.fault.take().or_else(|| walked.fault.clone()).or_else(|| chains.ends_early(&walked, status.as_ref()));
    let found = chains.json(&walked, fault.as_deref());
    if args.place.json {
        println!("{found}");
    } else {
        print(&found);
    }
    if let Some(fault) = &fault {
        eprintln!("the journal is not what was written: {fault}");
    }
    Ok(fault.is_none())
}

impl Chains {
    fn take(&mut self, head: &Head, bytes: &Bytes) {
        if self.fault.is_some() {
            return;
        }
        match self.checked(head, bytes) {
            Ok(()) => {
                self.at = head.after();
                self.chunks += 1;
            }
            Err(fault) => self.fault = Some(format!("records {} to {}: {fault}", head.first, head.last)),
        }
    }

    fn checked(&mut self, head: &Head, bytes: &Bytes) -> Result<(), String> {
        if head.remnant {
            return Err("they are gone; a damaged disk was mended here".into());
        }
        if head.before() != self.at {
            return Err(format!("they do not continue what ends with record {}", self.at.seq));
        }
        let chunk = chunk::open(bytes).map_err(|why| why.to_string())?;
        for record in chunk.body.events.iter().flat_map(|event| &event.records) {
            match &record.of {
                Some(Of::SiteChunk(embedded)) => self.of_site(&embedded.chunk)?,
                Some(Of::SetAside(aside)) => self.aside(aside),
                _ => {}
            }
        }
        Ok(())
    }

    fn of_site(&mut self, bytes: &Bytes) -> Result<(), String> {
        let chunk: Chunk = chunk::open(bytes).map_err(|why| format!("a site's chunk: {why}"))?;
        let (head, at) = (&chunk.head, self.sites.entry(chunk.head.replica.clone()).or_default());
        // What a remnant stands for may have been here in part before.
        let covers = head.remnant && head.first <= at.seq.next() && head.last > at.seq;
        if head.before() != *at && !covers {
            return Err(format!(
                "records {} to {} of {} do not continue {}",
                head.first, head.last, head.replica, at.seq
            ));
        }
        *at = head.after();
        self.site_chunks += 1;
        self.told_lost += chunk.body.losses.iter().map(|loss| loss.records).sum::<u64>();
        Ok(())
    }

    /// What could not be read of a site's journal is here as it came, and its chain goes on by what it claimed.
    fn aside(&mut self, aside: &SetAside) {
        self.set_aside += 1;
        let hash = ChainHash::from_slice(&aside.hash);
        if let (Some(hash), Ok(site)) = (hash, aside.site.parse()) {
            let replica = ReplicaId { site, epoch: Epoch(aside.epoch) };
            self.sites.insert(replica, Position { seq: Seq(aside.last), hash });
        }
    }

    /// Its end was cut off: somebody else knows of more.
    fn ends_early(&self, walked: &Walked, status: Option<&Value>) -> Option<String> {
        let said = status.and_then(|status| status["ledger"]["last_seq"].as_u64());
        let known = said.or(walked.stopped_at.map(|end| end.seq.0)).unwrap_or(0);
        (self.at.seq.0 < known).then(|| format!("it ends with record {}, and record {known} was written", self.at.seq))
    }

    fn json(&self, walked: &Walked, fault: Option<&str>) -> Value {
        let sites: serde_json::Map<String, Value> =
            self.sites.iter().map(|(replica, at)| (replica.to_string(), at.seq.0.into())).collect();
        json!({
            "replica": walked.replica.to_string(),
            "sound": fault.is_none(),
            "fault": fault,
            "last_seq": self.at.seq.0,
            "hash": self.at.hash.short(),
            "chunks": self.chunks,
            "site_chunks": self.site_chunks,
            "sites": sites,
            "told_lost": self.told_lost,
            "set_aside": self.set_aside,
            "torn_bytes": walked.torn_bytes,
        })
    }
}

fn print(found: &Value) {
    println!(
        "{}: sound up to record {}, hash {}: {} chunks, {} of sites",
        show::number(&found["replica"]),
        show::number(&found["last_seq"]),
        show::number(&found["hash"]),
        show::number(&found["chunks"]),
        show::number(&found["site_chunks"])
    );
    for (site, seq) in found["sites"].as_object().into_iter().flatten() {
        println!("  {site} up to record {}", show::number(seq));
    }
    let (lost, aside) = (found["told_lost"].as_u64().unwrap_or(0), found["set_aside"].as_u64().unwrap_or(0));
    if lost + aside > 0 {
        println!("  {lost} records that sites said are lost, {aside} parts set aside");
    }
}
