//! What a real line costs: every basket of the retail data, as fast as a gateway takes them.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{SITE, gateway_spec, process};
use crate::client::{Client, Event, Options, Token};
use crate::nodes::Node;
use crate::retail::{self, Row};
use crate::status;

const TILLS: usize = 8;
const WINDOW: usize = 50;
/// Lines of one sale at most; a gateway refuses more.
const LINES_MAX: usize = 100;

#[derive(Debug, Serialize)]
pub(super) struct Retail {
    baskets: u64,
    lines: u64,
    payload_bytes: u64,
    records: u64,
    seconds: f64,
    written_bytes: u64,
    disk_bytes: u64,
}

pub(super) async fn measure(dir: &Path) -> Result<Retail> {
    let rows = retail::rows()?;
    let sales: Vec<Bytes> = sales(&rows, 0).map(|sale| sale.payload).collect();
    let (baskets, payload_bytes) = (sales.len() as u64, sales.iter().map(|sale| sale.len() as u64).sum());
    eprintln!("retail: {baskets} baskets of {} lines", rows.len());
    let mut gateway = Node::start(gateway_spec(dir, SITE, None)).await?;
    let pid = gateway.pid().context("the gateway's process")?;
    let before = process::written_bytes(pid)?;
    let seconds = ring_up(gateway.addr(), TILLS, WINDOW, sales).await?;
    let written_bytes = process::written_bytes(pid)? - before;
    let records = status::gateway(gateway.dir()).await?.ledger.last_seq;
    let disk_bytes = process::disk_bytes(gateway.dir())?;
    gateway.kill().await?;
    Ok(Retail { baskets, lines: rows.len() as u64, payload_bytes, records, seconds, written_bytes, disk_bytes })
}

/// One basket, or a part of a very long one.
pub(super) struct Sale {
    pub(super) lines: u64,
    pub(super) payload: Bytes,
}

/// Every line once, in sales whose ids no other `round` has.
pub(super) fn sales(rows: &[Row], round: u64) -> impl Iterator<Item = Sale> {
    let mut baskets: BTreeMap<u64, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        baskets.entry(row.basket_id).or_default().push(row);
    }
    baskets.into_iter().flat_map(move |(basket, rows)| {
        let part = move |(part, rows): (usize, &[&Row])| {
            let line =
                |row: &&Row| json!({"gtin": retail::barcode(row.product_id), "qty": row.quantity, "cents": row.cents});
            let lines: Vec<Value> = rows.iter().map(line).collect();
            let id = if round == 0 { format!("b{basket}-{part}") } else { format!("b{basket}-{part}-{round}") };
            let sale = json!({"id": id, "lines": lines});
            Sale { lines: rows.len() as u64, payload: sale.to_string().into() }
        };
        rows.chunks(LINES_MAX).enumerate().map(part).collect::<Vec<_>>()
    })
}

/// So many tills until all of the sales are acknowledged; the seconds that it took.
pub(super) async fn ring_up(addr: SocketAddr, tills: usize, window: usize, sales: Vec<Bytes>) -> Result<f64> {
    let mut shares: Vec<Vec<Bytes>> = (0..tills).map(|_| Vec::new()).collect();
    for (n, sale) in sales.into_iter().enumerate() {
        shares[n % tills].push(sale);
    }
    let started = Instant::now();
    let mut working = JoinSet::new();
    for (n, sales) in shares.into_iter().enumerate() {
        working.spawn(work(addr, n + 1, window, sales));
    }
    while let Some(till) = working.join_next().await {
        till.context("a till failed")?;
    }
    Ok(started.elapsed().as_secs_f64())
}

/// One till.
async fn work(addr: SocketAddr, till: usize, window: usize, sales: Vec<Bytes>) {
    let device = format!("pos-{till}");
    let options = Options {
        client: device.clone(),
        door: addr.into(),
        clean: false,
        window,
        subscribe: Vec::new(),
        seed: till as u64,
    };
    let mut client = Client::new(options);
    let (mut next, mut acked) = (0, 0);
    while acked < sales.len() {
        while next < sales.len() && client.has_room() {
            if client.publish(Token(next as u64), format!("dev/{device}/sale"), sales[next].clone()).is_err() {
                break;
            }
            next += 1;
        }
        acked += usize::from(matches!(client.next().await, Event::Acked(_)));
    }
    client.close().await;
}

impl Retail {
    pub(super) fn table(&self) -> String {
        let Retail { baskets, lines, payload_bytes, records, seconds, written_bytes, disk_bytes } = self;
        let per_record = |bytes: &u64| format!("{:.1} bytes a record", *bytes as f64 / (*records).max(1) as f64);
        let rows = [
            ("baskets, lines", format!("{baskets}, {lines}")),
            ("records (a refused line is one, too)", records.to_string()),
            ("records per second", format!("{:.0}", *records as f64 / seconds)),
            ("payloads as sent (JSON)", per_record(payload_bytes)),
            ("written to disk", per_record(written_bytes)),
            ("data folder", per_record(disk_bytes)),
        ];
        let mut text = String::from("Retail baskets, as fast as a gateway takes them\n\n| | |\n|---|---|\n");
        for (name, value) in rows {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "| {name} | {value} |");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_is_in_one_sale() {
        let rows = retail::rows().unwrap();
        let sales: Vec<Sale> = sales(&rows, 0).collect();
        assert_eq!(sales.iter().map(|sale| sale.lines).sum::<u64>(), rows.len() as u64);
        for sale in &sales {
            let said: Value = serde_json::from_slice(&sale.payload).unwrap();
            assert_eq!(said["lines"].as_array().map(Vec::len), Some(sale.lines as usize));
            assert!((1..=LINES_MAX as u64).contains(&sale.lines));
        }
    }
}
