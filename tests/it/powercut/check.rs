//! A gateway is started on what a cut left, takes one more request, and is killed. What it had acknowledged before the
//! cut must then be in its ledger, once.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use super::cuts::State;
use super::record::{self, Facts, Request};
use crate::harness::ledgers::{self, Row};
use crate::harness::mqtt::Link;
use crate::harness::node::Spec;
use crate::harness::{GTIN, SITE, folder};

/// Acknowledged requests that are sent again: the ids must have survived, too.
const REPEATED: usize = 2;
const LATER: &str = "after-the-cut";

/// What is wrong with a state.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Fault {
    /// The gateway does not start, or does not take another request; and whether a second start comes up.
    Dead(String, bool),
    /// The journal is not one whole chain.
    Broken(String),
    Lost(Vec<(String, String)>),
    Doubled(Vec<(String, String)>),
    /// The ledger has begun another life; the gateway's log.
    Stranger(String),
    /// The counter and the journal differ.
    Miscounted {
        on_hand: i64,
        journal: i64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Dead(why, false) => write!(f, "does not open or go on: {why}"),
            Fault::Dead(why, true) => write!(f, "opens at the second start only: {why}"),
            Fault::Broken(why) => write!(f, "the journal is broken: {why}"),
            Fault::Lost(names) => write!(f, "{} acknowledged requests are lost: {names:?}", names.len()),
            Fault::Doubled(names) => write!(f, "recorded twice: {names:?}"),
            Fault::Miscounted { on_hand, journal } => write!(f, "on hand are {on_hand}, by the journal {journal}"),
            Fault::Stranger(log) => write!(f, "acknowledged, but it is another ledger now\n{log}"),
        }
    }
}

/// Opens the state as a gateway would. `acked` are those acknowledged before the cut, the latest last.
pub(super) async fn check(state: &State, facts: &Facts, acked: &[Request]) -> Result<(), Fault> {
    let dir = folder();
    record::write(dir.path(), &state.0);
    let spec = Spec::gateway(dir.path(), SITE, None);
    let mut node = match spec.clone().try_start().await {
        Ok(node) => node,
        Err(why) => return Err(Fault::Dead(why, spec.try_start().await.is_ok())),
    };
    let (addr, again) = (node.addr, acked.iter().rev().take(REPEATED).cloned().collect::<Vec<_>>());
    // A node that dies here panics the link that waits for it.
    let going_on = tokio::spawn(async move {
        let mut link = Link::device(addr, "later").await;
        let mut forgotten = Vec::new();
        for Request { topic, payload, name } in again {
            let answers = format!("dev/{}/reply", name.0);
            link.subscribe(&answers).await;
            link.publish(topic.as_bytes(), payload.as_bytes()).await;
            let reply: Value = serde_json::from_slice(&link.message(&answers).await).expect("a reply is JSON");
            // Sent again it is recorded again, and would not be missed later.
            if reply["status"] != "duplicate" {
                forgotten.push(name);
            }
        }
        let reply = link.done("scan", json!({"id": LATER, "gtin": GTIN, "op": "receive", "qty": 1})).await;
        (forgotten, reply["lines"][0]["on_hand"].as_i64().expect("a reply tells what is on hand"))
    });
    let (forgotten, on_hand) = going_on.await.map_err(|_| Fault::Dead(node.log(), false))?;
    node.kill().await;
    let data = node.dir().to_owned();
    let read = tokio::task::spawn_blocking(move || ledgers::try_gateway(&data)).await.expect("read the ledger");
    judge(&read.map_err(|error| Fault::Broken(error.to_string()))?, facts, acked, on_hand, &node.log())?;
    if forgotten.is_empty() { Ok(()) } else { Err(Fault::Lost(forgotten)) }
}

fn judge(rows: &[Row], facts: &Facts, acked: &[Request], on_hand: i64, log: &str) -> Result<(), Fault> {
    let same = rows.iter().all(|row| Some(&row.dot.replica) == facts.replica.as_ref());
    if !acked.is_empty() && !same {
        return Err(Fault::Stranger(log.into()));
    }
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for row in rows {
        *counts.entry((&row.device, &row.request)).or_default() += 1;
    }
    let doubled: Vec<_> = counts.iter().filter(|(_, count)| **count > 1).map(|(name, _)| owned(*name)).collect();
    if !doubled.is_empty() {
        return Err(Fault::Doubled(doubled));
    }
    let trimmed = |name: &(String, String)| {
        let enough = facts.untrimmed_bytes.is_some_and(|bytes| rows.iter().map(size).sum::<usize>() >= bytes);
        enough && rows.first().is_some_and(|first| facts.seqs.get(name).is_some_and(|seq| *seq < first.dot.seq))
    };
    let later = ("later".to_owned(), LATER.to_owned());
    let wanted = acked.iter().map(|request| &request.name).chain([&later]);
    let missing = wanted.filter(|name| !counts.contains_key(&(name.0.as_str(), name.1.as_str())));
    let lost: Vec<_> = missing.filter(|name| !trimmed(name)).cloned().collect();
    if !lost.is_empty() {
        return Err(Fault::Lost(lost));
    }
    let first = rows.first().map(|row| row.dot.seq);
    let trimmed = facts.moved.iter().filter(|(seq, _)| Some(**seq) < first).map(|(_, units)| units);
    let kept = rows.iter().filter_map(Row::movement).map(|movement| movement.units);
    let journal = kept.sum::<i64>() + trimmed.sum::<i64>();
    if on_hand == journal { Ok(()) } else { Err(Fault::Miscounted { on_hand, journal }) }
}

fn owned((device, request): (&str, &str)) -> (String, String) {
    (device.to_owned(), request.to_owned())
}

fn size(row: &Row) -> usize {
    prost::Message::encoded_len(&proto::wire::Record { of: Some(row.of.clone()) })
}
