//! `audit show`: who did what with pools, rights and holds, and corrected what stock, when, where and why. Rows come from
//! the journal itself, the hub's own and each site's inside it.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::Path;

use clap::Args;
use proto::chunk;
use proto::gtin::Gtin;
use proto::id::{Epoch, ReplicaId, Seq, SiteName};
use proto::wire::record::Of;
use proto::wire::{Event, MovementKind};
use serde_json::{Value, json};

use super::commands::Place;
use crate::ledger::{LedgerError, Reader, read_stopped};
use crate::node::admin::ask_if_running;
use crate::node::process::LookUp;
use crate::node::show;
use crate::node::span::Span;
use crate::node::wall_ms;

/// The most that one answer lists.
const LIST_MAX: usize = 10_000;
/// How far a running hub looks back, in events.
const LOOK_BACK_EVENTS: u64 = 500_000;

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// Only of this item.
    #[arg(long)]
    gtin: Option<Gtin>,
    /// Only of this site; `hub` for the hub's own channel.
    #[arg(long)]
    site: Option<SiteName>,
    /// Only of the last so long, such as 12h or 7d.
    #[arg(long, value_name = "SPAN")]
    since: Option<Span>,
    /// How many, the newest, at most 10000.
    #[arg(long, default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    gtin: Option<Gtin>,
    site: Option<SiteName>,
    /// Milliseconds since 1970.
    since_ms: u64,
    limit: usize,
}

impl Wanted {
    fn to_words(&self) -> String {
        let gtin = self.gtin.map_or("-".to_owned(), |gtin| gtin.to_string());
        let site = self.site.as_ref().map_or("/".to_owned(), ToString::to_string);
        format!("audit show {gtin} {site} {} {}", self.since_ms, self.limit)
    }

    fn of_words(words: &[&str]) -> Option<Wanted> {
        let ["audit", "show", gtin, site, since_ms, limit] = words else { return None };
        let gtin = if *gtin == "-" { None } else { Some(gtin.parse().ok()?) };
        let site = if *site == "/" { None } else { Some(site.parse().ok()?) };
        let limit = limit.parse::<usize>().ok()?.min(LIST_MAX);
        Some(Wanted { gtin, site, since_ms: since_ms.parse().ok()?, limit })
    }
}

/// A running hub's answer to the question, if it is this one.
pub(crate) fn look_of_words(words: &[&str]) -> Option<LookUp> {
    let wanted = Wanted::of_words(words)?;
    Some(Box::new(move |reader| of_running(reader, &wanted)))
}

/// Carries it out. `default` is the data folder if none is named.
pub(super) fn show(args: &ShowArgs, default: &Path) -> anyhow::Result<()> {
    let since_ms = args.since.as_ref().map_or(0, |span| wall_ms().saturating_sub(span.ms()));
    let wanted = Wanted { gtin: args.gtin, site: args.site.clone(), since_ms, limit: args.limit.min(LIST_MAX) };
    let dir = args.place.dir(default);
    let found = match ask_if_running(dir, &wanted.to_words())? {
        Some(found) => found,
        None => of_stopped(dir, &wanted)?,
    };
    if args.place.json {
        println!("{found}");
        return Ok(());
    }
    for row in found["rows"].as_array().into_iter().flatten() {
        let n = |key: &str| show::number(&row[key]);
        let by =
            ["by", "device"].into_iter().find_map(|key| row[key].as_str().filter(|by| !by.is_empty())).unwrap_or("-");
        let at = show::when(row["at_ms"].as_u64().unwrap_or(0));
        println!("{at}  {}/{}  {by}  {}  {}  {}", n("site"), n("seq"), n("what"), n("gtin"), row["says"]);
    }
    Ok(())
}

/// Oldest first.
fn answer(rows: impl Iterator<Item = Value>) -> Value {
    json!({ "rows": rows.collect::<Vec<Value>>() })
}

fn of_running(reader: &Reader, wanted: &Wanted) -> Result<Value, LedgerError> {
    let (mut rows, mut looked) = (Vec::new(), 0);
    reader.events_back(&mut |first, stamp, event| {
        looked += 1;
        rows.extend(rows_of(reader.replica(), first, stamp.ms().0, event, wanted).into_iter().rev());
        let over = rows.len() >= wanted.limit || looked >= LOOK_BACK_EVENTS;
        if over { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    rows.truncate(wanted.limit);
    Ok(answer(rows.into_iter().rev()))
}

fn of_stopped(dir: &Path, wanted: &Wanted) -> Result<Value, LedgerError> {
    let mut rows = VecDeque::new();
    read_stopped(dir, &mut |ours| {
        for (first, stamp, event) in ours.events() {
            rows.extend(rows_of(&ours.head.replica, first, stamp.ms().0, event, wanted));
            while rows.len() > wanted.limit {
                rows.pop_front();
            }
        }
    })?;
    Ok(answer(rows.into_iter()))
}

/// The rows of one event of the hub's journal, in order.
fn rows_of(own: &ReplicaId, first: Seq, stamp_ms: u64, event: &Event, wanted: &Wanted) -> Vec<Value> {
    let mut rows = Vec::new();
    for (offset, record) in (0..).zip(&event.records) {
        match &record.of {
            Some(Of::SiteChunk(embedded)) => {
                let Ok(head) = chunk::head(&embedded.chunk) else { continue };
                if wanted.site.as_ref().is_some_and(|site| *site != head.replica.site) {
                    continue;
                }
                let Ok(chunk) = chunk::open(&embedded.chunk) else { continue };
                for (first, stamp, event) in chunk.events() {
                    rows.extend(event.records.iter().zip(0..).filter_map(|(record, offset)| {
                        let of = record.of.as_ref()?;
                        row(&chunk.head.replica, first.plus(offset), stamp.ms().0, &event.device, of, wanted)
                    }));
                }
            }
            Some(of) => rows.extend(row(own, first.plus(offset), stamp_ms, &event.device, of, wanted)),
            None => {}
        }
    }
    rows
}

fn row(of: &ReplicaId, seq: Seq, at_ms: u64, device: &str, record: &Of, wanted: &Wanted) -> Option<Value> {
    let Entry { what, gtin, site, by, says } = entry(record)?;
    let of_site = site.as_deref().unwrap_or(of.site.as_str());
    let other_item = wanted.gtin.is_some_and(|wanted| gtin != Some(wanted.number()));
    let other_site = wanted.site.as_ref().is_some_and(|wanted| wanted.as_str() != of_site);
    if at_ms < wanted.since_ms || other_item || other_site {
        return None;
    }
    Some(json!({
        "at_ms": at_ms,
        "site": of_site,
        "ledger": of.to_string(),
        "seq": seq.0,
        "device": device,
        "by": by,
        "what": what,
        "gtin": gtin.map(|gtin| format!("{gtin:014}")),
        "says": says,
    }))
}

struct Entry {
    what: String,
    gtin: Option<u64>,
    /// Whom it is about, if not whose journal it is in.
    site: Option<String>,
    by: String,
    says: Value,
}

impl Entry {
    fn new(what: impl Into<String>, gtin: u64, says: Value) -> Entry {
        Entry { what: what.into(), gtin: Some(gtin), site: None, by: String::new(), says }
    }
}

fn entry(record: &Of) -> Option<Entry> {
    Some(match record {
        Of::PoolChanged(p) => {
            let says = json!({ "change": p.change, "units": p.units, "why": p.why, "reference": p.reference });
            Entry { by: p.by.clone(), ..Entry::new("pool", p.gtin, says) }
        }
        Of::RightsGranted(g) => {
            let says = json!({
                "life": Epoch(g.epoch).to_string(),
                "granted": g.granted,
                "asked": g.asked,
                "reclaimed": g.reclaimed,
                "unaware": g.unaware,
                "for_site": g.for_site,
                "reason": g.reason().as_str_name().to_lowercase(),
                "why": g.why,
                "reference": g.reference,
            });
            Entry { by: g.by.clone(), site: Some(g.site.clone()), ..Entry::new("grant", g.gtin, says) }
        }
        Of::Rights(r) => {
            let says = json!({
                "granted": r.granted,
                "returned": r.returned,
                "promised": r.promised,
                "refunded": r.refunded,
                "held": r.held,
                "answered": r.answered,
            });
            Entry::new("rights", r.gtin, says)
        }
        Of::EarlierRights(earlier) => {
            let r = earlier.rights.unwrap_or_default();
            let says = json!({
                "life": Epoch(earlier.epoch).to_string(),
                "granted": r.granted,
                "returned": r.returned,
                "promised": r.promised,
                "held": r.held,
            });
            Entry::new("earlier_rights", r.gtin, says)
        }
        Of::Promise(p) => Entry::new("promise", p.gtin, json!({ "units": p.units, "reference": p.reference })),
        Of::Hold(h) => {
            let says = json!({ "hold": h.id, "units": h.units, "seconds": h.seconds, "reference": h.reference, "inherited": h.inherited });
            Entry::new("hold", h.gtin, says)
        }
        Of::HoldEnded(h) => {
            let says = json!({ "hold": h.id, "units": h.units, "reference": h.reference });
            Entry::new(format!("hold_{}", h.how().as_str_name().to_lowercase()), h.gtin, says)
        }
        Of::StockMoved(m) => {
            let says = json!({ "units": m.units, "total": m.total, "reference": m.reference });
            Entry { site: Some(m.site.clone()), ..Entry::new("stock", m.gtin, says) }
        }
        Of::Movement(m) if matches!(m.kind(), MovementKind::Adjust | MovementKind::Count) => {
            let kind = m.kind().as_str_name().to_lowercase();
            Entry::new(kind, m.gtin, json!({ "units": m.units, "counted": m.counted, "reference": m.reference }))
        }
        Of::RightsReported(r) => about_site("rights_reported", &r.site, r.epoch, "", ["", ""]),
        Of::SiteLost(l) => about_site("site_lost", &l.site, l.epoch, &l.by, [&l.why, &l.reference]),
        Of::SiteFollows(f) => about_site("ledger_closed", &f.site, f.retired, "", ["", ""]),
        _ => return None,
    })
}

fn about_site(what: &str, site: &str, epoch: u64, by: &str, [why, reference]: [&str; 2]) -> Entry {
    let says = json!({ "life": Epoch(epoch).to_string(), "why": why, "reference": reference });
    Entry { what: what.into(), gtin: None, site: Some(site.into()), by: by.into(), says }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_survives_the_admin_socket() {
        let all = Wanted { gtin: None, site: None, since_ms: 0, limit: 7 };
        let one = Wanted {
            gtin: "4006381333931".parse().ok(),
            site: "hill".parse().ok(),
            since_ms: 1_700_000_000_000,
            limit: 1,
        };
        for wanted in [all, one] {
            let words = wanted.to_words();
            assert_eq!(Wanted::of_words(&words.split(' ').collect::<Vec<_>>()), Some(wanted), "{words}");
        }
        assert_eq!(Wanted::of_words(&["audit", "show", "-", "/", "x", "1"]), None);
    }
}
