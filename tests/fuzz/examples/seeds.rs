//! Writes the seed corpora: `seeds DIR` makes DIR/{target}/…, a few inputs each that reach deep.

use std::fs;
use std::path::Path;

use prost::Message;
use proto::chunk::{Position, Sealer};
use proto::id::{Epoch, ReplicaId};
use proto::wire::record::Of;
use proto::wire::{
    Batch, Beat, Body, Check, CounterTotal, Down, Event, Feed, FeedAck, FeedEntry, Follows, Hello, Lookup, Movement,
    Note, Past, Present, PresentTotal, Recall, Record, Refusal, RegisterState, RegisterWrite, StockEntry, Up,
    VersionVector, down, up,
};
use proto::{lean, pos, wire};

const GTIN: u64 = 4_006_381_333_931;
const KEY: &str = "item/04006381333931/price_cents";

fn main() -> std::io::Result<()> {
    let dir = std::env::args().nth(1).expect("seeds DIR");
    let dir = Path::new(&dir);
    let packets = packets();
    write(dir, "codec", packets.iter().map(|(v5, packet)| [&[u8::from(*v5)], &packet[..]].concat()))?;
    write(
        dir,
        "front",
        [false, true].map(|version| {
            let of_version = packets.iter().filter(|(v5, _)| *v5 == version);
            of_version.flat_map(|(_, packet)| [&[packet.len() as u8], &packet[..]].concat()).collect()
        }),
    )?;
    write(dir, "decode", payloads().into_iter().map(|(choice, payload)| [&[choice], &payload[..]].concat()))?;
    write(dir, "chunk", chunks())?;
    write(dir, "hub", [said_up()])?;
    write(dir, "store", [said_down()])
}

fn write(dir: &Path, target: &str, seeds: impl IntoIterator<Item = Vec<u8>>) -> std::io::Result<()> {
    let dir = dir.join(target);
    fs::create_dir_all(&dir)?;
    seeds.into_iter().enumerate().try_for_each(|(n, seed)| fs::write(dir.join(format!("seed-{n:02}")), seed))
}

/// One of each packet that a client sends, by version; CONNECT first, DISCONNECT last.
fn packets() -> Vec<(bool, Vec<u8>)> {
    let v311: [&[u8]; 10] = [
        b"\x10\x2c\0\x04MQTT\x04\xf6\0\x0a\0\x03c-1\0\x05a/bye\0\x03off\0\x04user\0\x08password",
        b"\x82\x0d\0\x01\0\x03a/+\x01\0\x03a/#\x02",
        b"\x30\x06\0\x03a/bx",
        b"\x32\x0b\0\x05a/b/c\0\x02hi",
        b"\x34\x0b\0\x05a/b/c\0\x03hi",
        b"\x62\x02\0\x03",
        b"\x40\x02\0\x01",
        b"\xa2\x07\0\x04\0\x03a/+",
        b"\xc0\0",
        b"\xe0\0",
    ];
    let v5: [&[u8]; 9] = [
        b"\x10\x1d\0\x04MQTT\x05\x02\0\x0a\x0b\x11\0\0\0\x3c\x21\0\x05\x22\0\x04\0\x03c-5\x00\x00\x00",
        b"\x10\x1a\0\x04MQTT\x05\x02\0\x0a\x0a\x11\0\0\0\x3c\x21\0\x05\x17\x01\0\x03c-5",
        b"\x82\x0b\0\x01\x02\x0b\x01\0\x03a/#\x05",
        b"\x32\x12\0\x03a/b\0\x02\x08\x23\0\x01\x03\0\x02txhi",
        b"\x32\x0a\0\0\0\x03\x03\x23\0\x01hi",
        b"\x34\x09\0\x03a/b\0\x04\0hi",
        b"\x62\x04\0\x04\0\0",
        b"\xa2\x08\0\x05\0\0\x03a/#",
        b"\xe0\x02\x04\0",
    ];
    let of = |version: bool, packets: &[&[u8]]| packets.iter().map(|packet| (version, packet.to_vec())).collect();
    let both: [Vec<(bool, Vec<u8>)>; 2] = [of(false, &v311), of(true, &v5)];
    both.concat()
}

fn payloads() -> Vec<(u8, Vec<u8>)> {
    let json = [
        (0, "4006381333931"),
        (0, r#"{"gtin":"4006381333931","op":"count","qty":3,"began_ms":1,"id":"x"}"#),
        (1, r#"{"id":"r-1","at_ms":5,"lines":[{"gtin":"4006381333931","qty":2,"cents":-5},{"gtin":"x"}],"ref":"t"}"#),
        (2, r#"{"op":"transfer","to":"hill","lines":[{"gtin":"4006381333931","qty":1}]}"#),
        (3, r#"{"gtin":"4006381333931","qty":7,"at_ms":9}"#),
        (4, r#"{"gtin":"4006381333931","name":"Pinot","price_cents":null,"attrs":{"vintage":2019,"dry":true}}"#),
        (5, r#"{"gtin":"4006381333931","author":"ann","text":"plum","score":93,"tags":["red","\u00e9"]}"#),
        (6, r#"{"device":"pos-1","settings":{"volume":3,"lang":null}}"#),
        (7, r#"{"door":"open"}"#),
        (8, r#"{"stars":5}"#),
    ];
    let line = pos::Line { gtin: GTIN.to_string(), qty: Some(2), cents: Some(199) };
    let sale =
        pos::Sale { id: "a".into(), at_ms: Some(5), lines: vec![line.clone(), line.clone()], ..Default::default() };
    let movement = pos::Move { id: "b".into(), op: 4, to: "hill".into(), lines: vec![line], ..Default::default() };
    let item = pos::Item {
        gtin: GTIN.to_string(),
        name: Some(pos::Text { value: Some("Pinot".into()) }),
        price_cents: Some(pos::Amount::default()),
        ..Default::default()
    };
    let scan = pos::Scan { gtin: GTIN.to_string(), op: 3, qty: Some(4), began_ms: Some(3), ..Default::default() };
    let protobuf = [
        (0x10, scan.encode_to_vec()),
        (0x11, sale.encode_to_vec()),
        (0x12, movement.encode_to_vec()),
        (0x14, item.encode_to_vec()),
    ];
    json.into_iter().map(|(kind, text)| (kind, text.as_bytes().to_vec())).chain(protobuf).collect()
}

fn record(of: Of) -> Record {
    Record { of: Some(of) }
}

fn register(value: &[u8], seq: u64) -> RegisterWrite {
    let dot = wire::Dot { site: "harbour".into(), epoch: 1, seq };
    let seen = Some(VersionVector { entries: vec![dot] });
    RegisterWrite {
        key: KEY.into(),
        value: value.to_vec().into(),
        deleted: false,
        stamp: 1_700_000_000_000 << 16,
        seen,
        replaces_value: false,
    }
}

fn body() -> Body {
    let sale = |units| record(Of::Movement(Movement { gtin: GTIN, units, kind: 1, cents: 500, ..Movement::default() }));
    let event = |records| Event {
        ms: 3,
        device: "pos-1".into(),
        request: "r-1".into(),
        digest: 7,
        records,
        ..Event::default()
    };
    let refusal = Refusal { code: "gtin_bad".into(), reason: "no".into(), payload: "x".into(), ..Refusal::default() };
    let events = vec![
        event(vec![sale(-1), sale(2)]),
        event(vec![record(Of::Register(register(b"199", 3)))]),
        event(vec![record(Of::Refusal(refusal)), record(Of::Lookup(Lookup { gtin: GTIN, known: true }))]),
        event(vec![record(Of::Note(Note { kind: "activity".into(), payload: "{}".into() }))]),
    ];
    let totals = vec![CounterTotal { gtin: GTIN, units: 1, seq_offset: 1 }];
    Body { base_ms: 1_700_000_000_000, events, totals, powered_on_s: 9, ..Body::default() }
}

fn chunks() -> Vec<Vec<u8>> {
    let replica = ReplicaId { site: "harbour".parse().expect("a name"), epoch: Epoch(1) };
    let sealed = Sealer::default().seal(&replica, Position::default(), &body());
    let head = proto::chunk::head(&sealed.bytes).expect("just sealed");
    let batch: Batch = lean::pack(&[(head, sealed.bytes.clone().into())]).expect("it follows from its movements");
    let of = |choice: u8, bytes: Vec<u8>| [&[choice], &bytes[..]].concat();
    vec![of(0, sealed.bytes), of(1, body().encode_to_vec()), of(2, batch.encode_to_vec())]
}

fn pieces(pieces: impl IntoIterator<Item = (u8, Vec<u8>)>) -> Vec<u8> {
    let piece = |(kind, bytes): (u8, Vec<u8>)| [&[kind][..], &(bytes.len() as u16).to_le_bytes(), &bytes].concat();
    pieces.into_iter().flat_map(piece).collect()
}

fn said_up() -> Vec<u8> {
    let total = PresentTotal { gtin: GTIN, units: 5, seq: 4 };
    let present = Present { as_of: 9, last: true, totals: vec![total], ..Present::default() };
    let messages = [
        up::Of::FeedAck(FeedAck { cursor: 1, ..FeedAck::default() }),
        up::Of::Beat(Beat::default()),
        up::Of::Present(present),
        up::Of::Recall(Recall { below: 0, epoch: 1 }),
        up::Of::Follows(Follows { epoch: 2, seq: 1, hash: vec![3; 32].into(), ..Follows::default() }),
        up::Of::Check(Check { as_of: 1, stock: vec![0; 64], registers: vec![0; 64], ..Check::default() }),
    ];
    let messages = messages.map(|of| (1, Up { session: 7, of: Some(of) }.encode_to_vec()));
    let hello = Hello { streams: vec![wire::StreamCursor { stream: "sites".into(), position: 0 }], ..Hello::default() };
    let chunks = [(3, body().encode_to_vec()), (4 | 8, body().encode_to_vec()), (5 | 16, hello.encode_to_vec())];
    pieces(chunks.into_iter().chain(messages).chain([(6, vec![]), (7, body().encode_to_vec())]))
}

fn said_down() -> Vec<u8> {
    let dot = wire::Dot { site: "hill".into(), epoch: 3, seq: 8 };
    let seen = Some(VersionVector { entries: vec![dot.clone()] });
    let state = RegisterState { value: "5".into(), stamp: 9, dot: Some(dot), seen, ..RegisterState::default() };
    let entries = vec![FeedEntry { key: KEY.into(), state: Some(state) }];
    let stock = vec![StockEntry { gtin: GTIN, site: "hill".into(), epoch: 3, units: 4, seq: 8, by_hub: false }];
    let feeds = [
        Feed { prev: 0, upto: 4, entries: entries.clone(), ..Feed::default() },
        Feed { prev: 0, upto: 2, stream: "sites".into(), stock, ..Feed::default() },
        Feed { prev: 4, upto: 4, entries, bucket: Some(1), ..Feed::default() },
    ];
    let feeds = feeds.map(down::Of::Feed);
    let others = [
        down::Of::Past(Past {
            below: 0,
            next_below: 0,
            chunk: chunks().into_iter().take(1).map(|c| c[1..].to_vec().into()).collect(),
        }),
        down::Of::Followed(wire::Followed { epoch: 1, applied_seq: 2, own_position: 3, ..Default::default() }),
        down::Of::Applied(wire::Applied { seq: 1, hash: vec![1; 32].into(), send_up_to: 50, ..Default::default() }),
    ];
    let said = feeds.into_iter().chain(others);
    let said = said.map(|of| (12, Down { session: 7, incarnation: 5, of: Some(of) }.encode_to_vec()));
    let asked = payloads().into_iter().filter(|(choice, _)| *choice < 9).map(|(kind, payload)| (kind, payload));
    pieces(asked.chain(said).chain([(0xff, vec![])]))
}
