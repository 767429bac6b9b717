//! The audit on hand-made journals.

use std::collections::BTreeMap;

use proto::chunk::{self, Chunk, Position, Sealer};
use proto::id::{Epoch, ReplicaId};
use proto::wire::record::Of;
use proto::wire::{self, Event, Record};

use super::*;
use crate::log::{Entry, Log, RefusedLine, Reply};
use crate::oracle::{Code, Due, Expected};

const SITES: [&str; 2] = ["harbour", "station"];
const ITEM: Code = 4_006_381_333_931;

/// One site's journal, chunk by chunk.
struct Journal {
    replica: ReplicaId,
    stands: Position,
    chunks: Vec<Vec<u8>>,
}

impl Journal {
    fn new(site: usize) -> Journal {
        let replica = ReplicaId { site: SITES[site].parse().unwrap(), epoch: Epoch(7) };
        Journal { replica, stands: Position::default(), chunks: Vec::new() }
    }

    fn write(&mut self, request: &str, records: Vec<Of>) {
        let records = records.into_iter().map(|of| Record { of: Some(of) }).collect();
        let event = Event { device: "pos-1".into(), request: request.into(), records, ..Event::default() };
        let body = wire::Body { events: vec![event], ..wire::Body::default() };
        let sealed = Sealer::default().seal(&self.replica, self.stands, &body);
        self.stands = sealed.after;
        self.chunks.push(sealed.bytes);
    }
}

fn moved(units: i64) -> Of {
    Of::Movement(wire::Movement { gtin: ITEM, units, ..Default::default() })
}

fn refused(line: u32, code: &str) -> Of {
    Of::Refusal(wire::Refusal { line, code: code.into(), ..Default::default() })
}

fn hub_chunk(embedded: &[Vec<u8>]) -> Chunk {
    let embed = |chunk: &Vec<u8>| Record {
        of: Some(Of::SiteChunk(wire::SiteChunk { chunk: chunk.clone().into(), received_ms: 1, overtaken: vec![] })),
    };
    let event = Event { records: embedded.iter().map(embed).collect(), ..Event::default() };
    let body = wire::Body { events: vec![event], ..wire::Body::default() };
    let replica = ReplicaId { site: "hub".parse().unwrap(), epoch: Epoch(1) };
    chunk::open(&Sealer::default().seal(&replica, Position::default(), &body).bytes).unwrap()
}

/// Two requests at harbour: a receipt, and a basket of two lines of which one is refused.
struct Case {
    expected: Expected,
    log: Log,
    journal: Journal,
}

fn case() -> Case {
    let key = |id: &str| (0, "pos-1".to_owned(), id.to_owned());
    let receipt = Due { movements: vec![(ITEM, 24)], refusals: vec![] };
    let basket = Due { movements: vec![(ITEM, -2)], refusals: vec![(2, "qty_zero")] };
    let requests = BTreeMap::from([(key("r1"), receipt), (key("s1"), basket)]);
    let expected = Expected { requests, stock: BTreeMap::from([((0, ITEM), 22)]), ..Expected::default() };
    let mut log = Log::new(0, "pos-1");
    let line = RefusedLine { line: 2, code: "qty_zero".into() };
    for (id, status, refused) in [("r1", "ok", vec![]), ("s1", "partial", vec![line])] {
        let reply = Reply { id: Some(id.into()), status: status.into(), code: None, refused };
        log.entries.insert(id.into(), Entry { sends: 1, acks: 1, replies: vec![reply] });
    }
    let mut journal = Journal::new(0);
    journal.write("r1", vec![moved(24)]);
    journal.write("s1", vec![moved(-2), refused(2, "qty_zero")]);
    Case { expected, log, journal }
}

fn audit(case: &Case, stores: &[Vec<u8>], at_hq: &[Vec<u8>], live: Option<i64>) -> Findings {
    let (mut held, mut hq) = (Holdings::default(), Hq::default());
    stores.iter().for_each(|chunk| held.take(&chunk::open(chunk).unwrap(), &SITES));
    hq.take(&hub_chunk(at_hq), &SITES);
    let live = live.map(|units| BTreeMap::from([((0, ITEM), units)]));
    judge(&SITES, &case.expected, std::slice::from_ref(&case.log), &held, &hq.holdings, live.as_ref())
}

#[test]
fn a_good_run_is_good() {
    let case = case();
    let found = audit(&case, &case.journal.chunks, &case.journal.chunks, Some(22));
    assert_eq!(found.faults, Vec::<String>::new());
    assert_eq!((found.sent, found.acked, found.in_ledgers, found.applied), (2, 2, 2, 2));
    assert_eq!((found.refused, found.lost, found.doubled), (1, 0, 0));
    assert_eq!((found.stock_cells, found.stock_mismatches), (1, 0));
    assert_eq!((found.records_applied, found.messages), (3, 2));
}

#[test]
fn what_was_acknowledged_and_never_written_is_lost() {
    let case = case();
    let mut short = Journal::new(0);
    short.write("r1", vec![moved(24)]);
    let found = audit(&case, &short.chunks, &short.chunks, None);
    assert_eq!((found.lost, found.stock_mismatches), (2, 1), "the sale and its refusal");
    assert!(found.faults[0].contains("s1 of pos-1 at harbour"), "{:?}", found.faults);
}

#[test]
fn what_never_came_to_hq_is_lost() {
    let case = case();
    let found = audit(&case, &case.journal.chunks, &case.journal.chunks[..1], None);
    assert_eq!((found.lost, found.in_ledgers, found.applied), (2, 2, 1));
}

#[test]
fn what_the_store_has_trimmed_and_hq_has_is_not_lost() {
    let case = case();
    let found = audit(&case, &case.journal.chunks[1..], &case.journal.chunks, None);
    assert_eq!((found.lost, found.faults.len()), (0, 0), "{:?}", found.faults);
}

#[test]
fn a_chunk_that_hq_applied_twice_is_doubled() {
    let case = case();
    let mut twice = case.journal.chunks.clone();
    twice.push(twice[1].clone());
    let found = audit(&case, &case.journal.chunks, &twice, None);
    assert_eq!((found.doubled, found.lost, found.stock_mismatches), (2, 0, 0));
}

#[test]
fn a_request_that_left_its_records_twice_is_doubled() {
    let case = case();
    let mut journal = case.journal;
    journal.write("s1", vec![moved(-2)]);
    let case = Case { journal, ..self::case() };
    let found = audit(&case, &case.journal.chunks, &case.journal.chunks, None);
    assert_eq!((found.doubled, found.stock_mismatches), (1, 1));
}

#[test]
fn stock_that_only_the_topics_have_wrong_differs() {
    let case = case();
    let found = audit(&case, &case.journal.chunks, &case.journal.chunks, Some(21));
    assert_eq!((found.stock_mismatches, found.lost, found.doubled), (1, 0, 0));
}

#[test]
fn a_journal_that_was_cut_open_and_sewn_up_is_seen() {
    let case = case();
    let mut other = Journal::new(0);
    other.write("r1", vec![moved(23)]);
    let chunks = [other.chunks[0].clone(), case.journal.chunks[1].clone()];
    let found = audit(&case, &chunks, &chunks, None);
    assert!(found.faults[0].contains("breaks"), "{:?}", found.faults);
}

#[test]
fn a_wrong_answer_and_a_missing_one_are_told() {
    let mut wrong = case();
    wrong.log.entries.get_mut("s1").unwrap().replies[0].status = "ok".into();
    wrong.log.entries.get_mut("r1").unwrap().replies.clear();
    let found = audit(&wrong, &wrong.journal.chunks, &wrong.journal.chunks, None);
    assert_eq!((found.faults.len(), found.lost), (2, 0), "{:?}", found.faults);
}

#[test]
fn a_request_refused_as_a_whole_leaves_a_record_without_its_id() {
    let misread = |records: Vec<Of>| {
        let mut case = case();
        let key = (0, "pos-1".to_owned(), "r2".to_owned());
        case.expected.requests.insert(key, Due { movements: vec![], refusals: vec![(0, "gtin_check_digit")] });
        let reply = Reply {
            id: Some("r2".into()),
            status: "refused".into(),
            code: Some("gtin_check_digit".into()),
            refused: vec![],
        };
        case.log.entries.insert("r2".into(), Entry { sends: 1, acks: 1, replies: vec![reply] });
        for record in records {
            case.journal.write("", vec![record]);
        }
        audit(&case, &case.journal.chunks, &case.journal.chunks, None)
    };
    let refusal = || refused(0, "gtin_check_digit");
    // Once, or again because the acknowledgement got lost.
    for records in [vec![refusal()], vec![refusal(), refusal()]] {
        let found = misread(records);
        assert_eq!((found.lost, found.faults), (0, vec![]));
    }
    let found = misread(vec![]);
    assert_eq!(found.lost, 1);
    assert!(found.faults[0].contains("1 refused requests acknowledged, 0 are in the ledger"), "{:?}", found.faults);
}

#[test]
fn registers_and_conflicts_are_read_from_hq() {
    let state = |site: &str, value: &str| wire::RegisterState {
        value: value.as_bytes().to_vec().into(),
        dot: Some(wire::Dot { site: site.into(), epoch: 7, seq: 1 }),
        ..Default::default()
    };
    let (winner, loser) = (state("station", "1390"), state("harbour", "1190"));
    let key = "item/04006381333931/price_cents".to_owned();
    let merged = wire::RegisterMerged { key: key.clone(), state: Some(winner.clone()) };
    let conflict = wire::Conflict { key: key.clone(), winner: Some(winner), loser: Some(loser) };
    let records = [Of::Merged(merged), Of::Conflict(conflict)].map(|of| Record { of: Some(of) });
    let event = Event { records: records.to_vec(), ..Event::default() };
    let body = wire::Body { events: vec![event], ..wire::Body::default() };
    let replica = ReplicaId { site: "hub".parse().unwrap(), epoch: Epoch(1) };
    let sealed = Sealer::default().seal(&replica, Position::default(), &body);
    let mut hq = Hq::default();
    hq.take(&chunk::open(&sealed.bytes).unwrap(), &SITES);
    assert_eq!(hq.registers.values[&key], "1390");
    assert_eq!(
        (hq.registers.conflicts[0].winner_site.as_str(), hq.registers.conflicts[0].loser.as_str()),
        ("station", "1190")
    );
}
