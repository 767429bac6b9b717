use proto::chunk::{Position, Sealer};
use proto::id::Epoch;
use proto::wire::{self, Event, HoldEnded, Promise, Record};

use super::*;
use crate::launch::plan::Plan;

const YES: Option<Told> = Some(Told::Yes);
const NO: Option<Told> = Some(Told::No { stranded: false });

/// A ledger as it is written.
struct Ledger {
    replica: ReplicaId,
    stands: Position,
    chunks: Vec<Vec<u8>>,
    rights: Rights,
}

impl Ledger {
    fn new(site: &str) -> Ledger {
        let replica = ReplicaId { site: site.parse().unwrap(), epoch: Epoch(1) };
        let rights = Rights { gtin: NUMBER, ..Rights::default() };
        Ledger { replica, stands: Position::default(), chunks: Vec::new(), rights }
    }

    fn write(&mut self, records: Vec<Of>) {
        let records = records.into_iter().map(|of| Record { of: Some(of) }).collect();
        let body = wire::Body { events: vec![Event { records, ..Event::default() }], ..wire::Body::default() };
        let sealed = Sealer::default().seal(&self.replica, self.stands, &body);
        self.stands = sealed.after;
        self.chunks.push(sealed.bytes);
    }

    fn promise(&mut self, of: Of) {
        self.rights.promised += 1;
        self.write(vec![of, Of::Rights(self.rights)]);
    }

    fn committed(&mut self, buyer: usize) {
        let how = HoldEnd::Committed.into();
        let (id, reference) = (format!("buyer-{buyer}"), format!("buyer-{buyer}"));
        self.promise(Of::HoldEnded(HoldEnded { id, how, gtin: NUMBER, units: 1, reference }));
    }

    fn decremented(&mut self, buyer: usize) {
        let (reference, channel) = (format!("buyer-{buyer}"), String::new());
        self.promise(Of::Promise(Promise { gtin: NUMBER, units: 1, reference, channel }));
    }

    fn embeds(&mut self, chunk: &[u8]) {
        let chunk = chunk.to_vec().into();
        self.write(vec![Of::SiteChunk(wire::SiteChunk { chunk, received_ms: 1, overtaken: vec![] })]);
    }

    fn book(&self) -> Book {
        let mut book = Book::default();
        self.chunks.iter().for_each(|chunk| book.take(&chunk::open(chunk).unwrap()));
        book
    }
}

/// Two units: the first buyer got one in a store, the second one online, the third none.
fn sold() -> (Ledger, Ledger) {
    let (mut store, mut hub) = (Ledger::new("store-1"), Ledger::new("hub"));
    store.committed(0);
    hub.decremented(1);
    hub.embeds(&store.chunks[0]);
    (store, hub)
}

fn verdict(store: &Ledger, hub: &Ledger, told: [Option<Told>; 3]) -> Verdict {
    judge(2, 3, &Plan::draw(1, 3, 4, 3).buyers, &told, &store.book(), &hub.book())
}

#[test]
fn a_good_launch_is_good() {
    let (store, hub) = sold();
    let good = verdict(&store, &hub, [YES, YES, NO]);
    assert!(good.held(), "{good:?}");
    assert_eq!((good.promised, good.sold, good.refused, good.oversold, good.doubled), (2, 2, 1, 0, 0));
    let stranded = verdict(&store, &hub, [YES, YES, Some(Told::No { stranded: true })]);
    assert!(stranded.held() && stranded.stranded == 1);
}

#[test]
fn one_more_than_there_is_is_oversold() {
    let (store, mut hub) = sold();
    hub.decremented(2);
    let over = verdict(&store, &hub, [YES, YES, YES]);
    assert!(over.oversold == 1 && !over.held(), "{over:?}");
}

#[test]
fn a_buyer_with_two_is_seen_wherever_the_second_is() {
    let (store, mut hub) = sold();
    hub.decremented(0);
    let twice = verdict(&store, &hub, [YES, YES, NO]);
    assert!(twice.doubled == 1 && !twice.held(), "{twice:?}");
    let (store, mut hub) = sold();
    hub.embeds(&store.chunks[0]);
    let again = verdict(&store, &hub, [YES, YES, NO]);
    assert!(again.doubled == 2 && !again.held(), "a chunk that was applied twice: {again:?}");
}

#[test]
fn a_word_that_no_ledger_keeps_is_seen() {
    let (store, hub) = sold();
    let missing = verdict(&store, &hub, [YES, YES, YES]);
    assert!(missing.missing == 1 && !missing.held(), "{missing:?}");
    let denied = verdict(&store, &hub, [NO, YES, NO]);
    assert!(denied.denied == 1 && !denied.held(), "{denied:?}");
    let unclear = verdict(&store, &hub, [YES, None, Some(Told::Unclear("500".into()))]);
    assert!(unclear.unclear == 2 && !unclear.held(), "{unclear:?}");
}

#[test]
fn a_unit_that_nobody_got_is_seen() {
    let (store, mut hub) = (Ledger::new("store-1"), Ledger::new("hub"));
    hub.decremented(1);
    let left = verdict(&store, &hub, [NO, YES, NO]);
    assert!(left.left_over == 1 && !left.held(), "{left:?}");
    let mut open = sold();
    open.1.rights.held = 1;
    let rights = open.1.rights;
    open.1.write(vec![Of::Rights(rights)]);
    assert!(!verdict(&open.0, &open.1, [YES, YES, NO]).held(), "an open hold");
}

#[test]
fn ledgers_that_do_not_agree_are_seen() {
    let (mut store, mut hub) = sold();
    store.committed(2);
    let behind = verdict(&store, &hub, [YES, YES, YES]);
    assert!(
        behind.oversold == 1 && behind.faults.iter().any(|fault| fault.contains("not so at the hub")),
        "{behind:?}"
    );
    hub.rights.promised += 1;
    hub.decremented(2);
    let sums = verdict(&sold().0, &hub, [YES, YES, YES]);
    assert!(sums.faults.iter().any(|fault| fault.contains("says that it promised 3, its records 2")), "{sums:?}");
}
