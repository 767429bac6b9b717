//! A new life of the ledger in memory: what the hub tells it of earlier ones, and the journal of the one before.

use proto::chunk::{ChainHash, Position, Sealer};
use proto::dedupe;
use proto::gtin::Gtin;
use proto::wire::record::Of;
use proto::wire::{
    Ancestor, Body, Followed, Movement, MovementKind, Past, Recall, Record, RegisterWrite, StockEntry,
    VersionVector as Seen,
};

use super::*;

pub(super) const OLD: Epoch = Epoch(9);

pub(super) fn number() -> u64 {
    GTIN.parse::<Gtin>().unwrap().number()
}

/// The journal of an earlier life, as it would have written it.
pub(super) struct Old {
    pub(super) epoch: Epoch,
    pub(super) at: Position,
    pub(super) chunks: Vec<Bytes>,
}

impl Old {
    pub(super) fn new() -> Old {
        Old::of(OLD)
    }

    fn of(epoch: Epoch) -> Old {
        Old { epoch, at: Position::default(), chunks: Vec::new() }
    }

    pub(super) fn chunk(&mut self, events: Vec<Event>) -> Position {
        let replica = ReplicaId { site: "harbour".parse().unwrap(), epoch: self.epoch };
        let body = Body { base_ms: 1_000, events, ..Body::default() };
        let sealed = Sealer::default().seal(&replica, self.at, &body);
        self.at = sealed.after;
        self.chunks.push(sealed.bytes.into());
        self.at
    }
}

pub(super) fn event(id: &str, records: Vec<Of>) -> Event {
    let records = records.into_iter().map(|of| Record { of: Some(of) }).collect();
    Event { device: "pos-1".into(), request: id.into(), digest: digest(id), records, ..Event::default() }
}

/// Of the request that [`sold`] stands for.
fn payload(id: &str) -> Value {
    json!({ "id": id, "lines": [{ "gtin": GTIN, "qty": 2 }] })
}

fn digest(id: &str) -> u32 {
    if id.is_empty() { 0 } else { dedupe::digest("sale", payload(id).to_string().as_bytes()) }
}

pub(super) fn moved(units: i64, kind: MovementKind) -> Of {
    Of::Movement(Movement { gtin: number(), units, kind: kind.into(), ..Movement::default() })
}

fn sold(id: &str) -> Event {
    event(id, vec![moved(-2, MovementKind::Sale)])
}

impl Store {
    pub(super) fn with_hub() -> Store {
        let mut store = Store::open();
        store.begin_again();
        store
    }

    /// As after a crash: only the ledger is left.
    pub(super) fn begin_again(&mut self) {
        self.gateway = Gateway::new(Rules { has_hub: true, ..Rules::default() });
        let now = self.now();
        let step = self.gateway.recovered(Stamp::default(), &now, &self.ledger).unwrap();
        self.commit(step);
    }

    pub(super) fn takes_in(&mut self, input: Input) -> Vec<Effect> {
        let now = self.now();
        let step = self.gateway.input(input, &now, &self.ledger).unwrap();
        self.commit(step)
    }

    /// What it asks the hub at its next tick.
    pub(super) fn asks(&mut self) -> Option<UpOf> {
        self.takes_in(Input::Link(LinkState::Connected));
        let now = self.now();
        let step = self.gateway.tick(&now, &self.ledger).unwrap();
        let mut said = self.commit(step).into_iter().filter_map(said);
        said.next()
    }

    pub(super) fn past(
        &mut self,
        below: u64,
        next_below: u64,
        chunk: &[Bytes],
        common: Option<Position>,
    ) -> Vec<Effect> {
        let fork = self.gateway.takeover.fork.as_ref().map(|fork| fork.epoch);
        self.takes_in(Input::Past { past: Past { below, next_below, chunk: chunk.to_vec() }, common, fork })
    }

    pub(super) fn here(&mut self, end: Position) -> Vec<Effect> {
        self.here_of(OLD, end, false)
    }

    fn here_of(&mut self, epoch: Epoch, end: Position, others: bool) -> Vec<Effect> {
        self.takes_in(Input::Fork(ForkSays::Here {
            epoch,
            why: "test".into(),
            begins_after: Seq::ZERO,
            end: end.seq,
            lineage: vec![],
            others,
        }))
    }

    /// The hub has nothing of that life.
    fn takes_over_all(&mut self, old: &Old) {
        assert_eq!(self.asks(), recall(0, old.epoch.0));
        self.past(0, 0, &[], None);
        let effects = self.followed_all(old.epoch);
        self.read_fork(old, effects);
    }

    fn followed_all(&mut self, epoch: Epoch) -> Vec<Effect> {
        let followed = Followed { epoch: epoch.0, ..Followed::default() };
        self.takes_in(Input::FromHub(FromHub::Followed { incarnation: 7, followed }))
    }

    fn takeover(&self) -> Value {
        self.gateway.status(&self.now(), &self.ledger)["takeover"].clone()
    }

    /// What the hub holds of the old life's component, by the stream `own`.
    pub(super) fn own(&mut self, units: i64, seq: u64) {
        self.own_by(7, units, seq);
    }

    fn own_by(&mut self, incarnation: u64, units: i64, seq: u64) {
        let stock =
            vec![StockEntry { gtin: number(), site: "harbour".into(), epoch: OLD.0, units, seq, by_hub: false }];
        let feed = Feed { prev: 0, upto: 5, stream: "own".into(), stock, ..Feed::default() };
        self.takes_in(Input::FromHub(FromHub::Feed { incarnation, feed }));
    }

    pub(super) fn followed(&mut self, applied_seq: u64) -> Vec<Effect> {
        self.followed_by(7, applied_seq)
    }

    pub(super) fn welcomed_by(&mut self, incarnation: u64) {
        let position = Position::default();
        self.takes_in(Input::FromHub(FromHub::Applied { incarnation, position, hub_ms: 0, awaits_rights: false }));
    }

    fn followed_by(&mut self, incarnation: u64, applied_seq: u64) -> Vec<Effect> {
        let followed = Followed { epoch: OLD.0, applied_seq, own_position: 5, ..Followed::default() };
        self.takes_in(Input::FromHub(FromHub::Followed { incarnation, followed }))
    }

    /// Feeds the fork's chunks until the end, as the reader would.
    pub(super) fn read_fork(&mut self, old: &Old, mut effects: Vec<Effect>) {
        while let Some(after) = wants(&effects) {
            let ends_after = |bytes: &&Bytes| proto::chunk::head(bytes).unwrap().last > after;
            let chunks = old.chunks.iter().filter(ends_after).take(2).cloned().collect();
            effects = self.takes_in(Input::Fork(ForkSays::Part { after, chunks }));
        }
        assert!(effects.iter().any(|effect| matches!(effect, Effect::ForkDone)), "{effects:?}");
    }

    fn on_hand(&mut self) -> i64 {
        self.ask("scan", json!({ "gtin": GTIN }))["item"]["on_hand"].as_i64().unwrap()
    }

    /// Where the events come from that were journalled again.
    pub(super) fn rejoined(&self) -> Vec<u64> {
        self.ledger.events.iter().map(|(_, _, event)| event.rejoined_of).filter(|seq| *seq > 0).collect()
    }
}

pub(super) fn said(effect: Effect) -> Option<UpOf> {
    match effect {
        Effect::Say(of) => Some(of),
        _ => None,
    }
}

pub(super) fn wants(effects: &[Effect]) -> Option<Seq> {
    effects.iter().find_map(|effect| match effect {
        Effect::ReadFork { after } => Some(*after),
        _ => None,
    })
}

fn recall(below: u64, epoch: u64) -> Option<UpOf> {
    Some(UpOf::Recall(Recall { below, epoch }))
}

#[test]
fn ids_of_earlier_lives_are_taken_over_and_how_far_it_is_outlives_a_crash() {
    let (mut store, mut old) = (Store::with_hub(), Old::new());
    old.chunk(vec![sold("s1")]);
    old.chunk(vec![sold("s2")]);
    assert_eq!(store.asks(), recall(0, 0));
    let next = store.past(0, 70, &old.chunks[1..], None);
    assert_eq!(next.into_iter().find_map(said), recall(70, 0));
    for (below, next_below) in [(0, 60), (70, 70), (70, 90), (99, 3)] {
        assert!(store.past(below, next_below, &old.chunks, None).is_empty(), "{below} {next_below} was not asked for");
    }
    store.begin_again();
    assert_eq!(store.asks(), recall(70, 0));
    store.past(70, 0, &old.chunks[..1], None);
    for id in ["s1", "s2"] {
        assert_eq!(store.ask("sale", payload(id))["status"], "duplicate");
    }
    store.begin_again();
    assert_eq!(store.asks(), None, "done is done");
    assert_eq!(store.gateway.status(&store.now(), &store.ledger)["takeover"]["ids"], 2);
}

#[test]
fn a_request_that_was_done_again_before_its_first_answer_was_known_counts_once() {
    let (mut store, mut old) = (Store::with_hub(), Old::new());
    old.chunk(vec![sold("s1"), sold("s2")]);
    store.own(-4, 2);
    assert_eq!(store.ask("sale", payload("s1"))["status"], "ok");
    assert_eq!(store.on_hand(), -6);
    store.past(0, 0, &old.chunks, None);
    assert_eq!((store.on_hand(), store.ask("sale", payload("s1"))["status"].clone()), (-4, json!("duplicate")));
}

#[test]
fn the_newest_position_in_common_is_looked_for_and_named_to_the_hub() {
    let (mut store, mut old) = (Store::with_hub(), Old::new());
    let common = old.chunk(vec![sold("s1")]);
    let end = old.chunk(vec![sold("s2")]);
    let lineage = vec![Ancestor { epoch: 3, seq: 5, hash: vec![1; 32].into() }];
    let (why, begins_after) = ("test".into(), Seq::ZERO);
    store.takes_in(Input::Fork(ForkSays::Here { epoch: OLD, why, begins_after, end: end.seq, lineage, others: false }));
    assert_eq!(store.asks(), recall(0, OLD.0));
    let late = Past { chunk: old.chunks.clone(), ..Past::default() };
    let of_another = Input::Past { past: late, common: Some(end), fork: Some(Epoch(8)) };
    assert!(store.takes_in(of_another).is_empty(), "it was compared with the fork before");
    store.past(0, 50, &[], None);
    assert_eq!(store.asks(), recall(50, OLD.0), "age does not matter before it is found");
    let next = store.past(50, 40, &old.chunks[..1], Some(common));
    assert_eq!(next.into_iter().find_map(said), recall(40, 0));
    store.past(40, 0, &[], None);
    let Some(UpOf::Follows(follows)) = store.asks() else { panic!("it follows") };
    assert_eq!((follows.epoch, follows.seq, &follows.hash[..]), (OLD.0, 1, &common.hash.0[..]));
    assert_eq!(follows.lineage.iter().map(|over| over.epoch).collect::<Vec<_>>(), [3], "what it knew to be over");
    // Its figures have not all come: nothing is journalled before they have.
    assert!(store.followed(1).is_empty());
    store.own(-2, 1);
    assert!(matches!(store.followed(1)[..], [Effect::ReadFork { after: Seq(1) }]));

    // A hub that knows nothing of it has nothing in common with it.
    let mut store = Store::with_hub();
    store.here(end);
    store.past(0, 0, &[], None);
    let Some(UpOf::Follows(follows)) = store.asks() else { panic!("it follows") };
    assert_eq!((follows.seq, &follows.hash[..]), (0, &ChainHash::ORIGIN.0[..]));
    // A hub that was restored meanwhile: it is looked for anew.
    store.takes_in(Input::Link(LinkState::Turned { code: "follows_unknown".into(), advice: String::new() }));
    assert_eq!(store.asks(), recall(0, OLD.0));
}

#[test]
fn what_only_the_fork_has_is_journalled_again_once_whenever_it_is_interrupted() {
    for interrupted_after in 0..6 {
        let (mut store, mut old) = (Store::with_hub(), Old::new());
        let common = old.chunk(vec![event("r0", vec![moved(50, MovementKind::Receive)])]);
        for n in 0..5 {
            old.chunk(vec![sold(&format!("s{n}")), sold("")]);
        }
        store.here(old.at);
        store.past(0, 0, &old.chunks[..1], Some(common));
        store.own(50, 1);
        let mut effects = store.followed(1);
        for _ in 0..interrupted_after {
            let Some(after) = wants(&effects) else { break };
            let next = old.chunks.iter().find(|bytes| proto::chunk::head(bytes).unwrap().last > after);
            effects =
                store.takes_in(Input::Fork(ForkSays::Part { after, chunks: next.cloned().into_iter().collect() }));
        }
        store.begin_again();
        let effects = store.here(old.at);
        store.read_fork(&old, effects);
        assert_eq!(store.rejoined(), (2..=11).collect::<Vec<_>>(), "interrupted after {interrupted_after}");
        assert_eq!(store.on_hand(), 50 - 20);
        let stamps: Vec<_> = store.ledger.events.iter().map(|(_, stamp, _)| stamp.ms().0).take(10).collect();
        assert_eq!(stamps, [1_000; 10], "each has its own moment");
        assert_eq!(store.ask("sale", payload("s3"))["status"], "duplicate");
        store.begin_again();
        assert!(matches!(store.here(old.at)[..], [Effect::ForkDone]), "and the folder goes at the next start");
    }
}

/// Whoever was taking over a fork was set apart itself. What it had taken over comes with its own journal, the rest after it.
#[test]
fn a_fork_behind_a_fork_is_taken_over_after_it_and_nothing_twice() {
    const OLDEST: Epoch = Epoch(8);
    let mut oldest = Old::of(OLDEST);
    for n in 0..4 {
        oldest.chunk(vec![sold(&format!("s{n}")), sold("")]);
    }
    let mut between = Store::with_hub();
    between.here_of(OLDEST, oldest.at, false);
    between.past(0, 0, &[], None);
    between.followed_all(OLDEST);
    between.takes_in(Input::Fork(ForkSays::Part { after: Seq(0), chunks: oldest.chunks[..2].to_vec() }));
    assert_eq!(between.ask("sale", payload("mine"))["status"], "ok");
    let mut middle = Old::new();
    for (_, _, event) in &between.ledger.events {
        middle.chunk(vec![event.clone()]);
    }

    for crashes in [false, true] {
        let mut store = Store::with_hub();
        store.here_of(OLD, middle.at, true);
        store.takes_over_all(&middle);
        assert_eq!((store.on_hand(), store.takeover()["state"].clone()), (-10, json!("taking over")));
        if crashes {
            // Before its folder was removed.
            store.begin_again();
            assert!(matches!(store.here_of(OLD, middle.at, true)[..], [Effect::ForkDone]));
        }
        // What it took over of the other one must stay known.
        assert_eq!(store.asks(), None);
        store.here_of(OLDEST, oldest.at, false);
        if crashes {
            store.begin_again();
            store.here_of(OLDEST, oldest.at, false);
        }
        store.takes_over_all(&oldest);
        assert_eq!((store.on_hand(), store.takeover()["state"].clone()), (-18, json!("done")), "crashes: {crashes}");
        for id in ["s0", "s1", "s3", "mine"] {
            assert_eq!(store.ask("sale", payload(id))["status"], "duplicate", "{id}");
        }
        store.begin_again();
        assert!(matches!(store.here_of(OLDEST, oldest.at, false)[..], [Effect::ForkDone]), "only once");
    }
}

/// A device used an id for two things, one in each fork, and said the first again here before both were known.
#[test]
fn an_id_that_a_fork_gave_to_another_request_hides_no_answer_from_the_fork_behind_it() {
    const OLDEST: Epoch = Epoch(8);
    let (mut oldest, mut middle) = (Old::of(OLDEST), Old::new());
    oldest.chunk(vec![sold("reused")]);
    middle.chunk(vec![Event { digest: 1, ..sold("reused") }]);
    let mut store = Store::with_hub();
    assert_eq!(store.ask("sale", payload("reused"))["status"], "ok");
    store.here_of(OLD, middle.at, true);
    store.takes_over_all(&middle);
    assert_eq!(store.on_hand(), -4, "another request");
    store.here_of(OLDEST, oldest.at, false);
    store.takes_over_all(&oldest);
    assert_eq!(store.on_hand(), -4, "the same request");
    assert_eq!(store.ask("sale", payload("reused"))["status"], "duplicate");
}

#[test]
fn what_another_life_has_answered_is_not_journalled_again() {
    let (mut store, mut old) = (Store::with_hub(), Old::new());
    let common = old.chunk(vec![event("r0", vec![moved(50, MovementKind::Receive)])]);
    let mut other = Old { epoch: OLD, at: common, chunks: vec![old.chunks[0].clone()] };
    other.chunk(vec![sold("both")]);
    let reused = Event { digest: 1, ..sold("reused") };
    old.chunk(vec![sold("both"), sold("mine"), sold("again"), reused]);
    store.here(old.at);
    // The device got no answer from the box that died.
    assert_eq!(store.ask("sale", payload("again"))["status"], "ok");
    // And it used an id for two things, of which nobody told it.
    assert_eq!(store.ask("sale", payload("reused"))["status"], "ok");
    store.past(0, 0, &other.chunks, Some(common));
    store.own(48, 2);
    let effects = store.followed(2);
    store.read_fork(&old, effects);
    assert_eq!((store.on_hand(), store.rejoined()), (50 - 2 - 2 - 2 - 2 - 2, vec![3, 5]));
}

/// The hub's figures may be ahead of its journal, and a count stands whatever is heard later.
#[test]
fn what_is_in_the_figures_already_moves_nothing() {
    for (held, applied, on_hand) in [
        // As the journal says; two sales are not in it.
        ((50, 1), 1, 46),
        // Said ahead of the journal: one of the two is.
        ((48, 2), 1, 46),
        ((46, 3), 1, 46),
        // Another box went on, with a sale of its own: the seqs are that one's.
        ((49, 2), 2, 45),
    ] {
        for counted in [false, true] {
            let (mut store, mut old) = (Store::with_hub(), Old::new());
            let common = old.chunk(vec![event("", vec![moved(50, MovementKind::Receive)])]);
            old.chunk(vec![sold("s1")]);
            old.chunk(vec![sold("s2")]);
            store.here(old.at);
            if counted {
                store.ask("count", json!({ "gtin": GTIN, "qty": 40 }));
            }
            store.past(0, 0, &old.chunks[..1], Some(common));
            store.own(held.0, held.1);
            let effects = store.followed(applied);
            store.read_fork(&old, effects);
            let expected = if counted { 40 } else { on_hand };
            assert_eq!(store.on_hand(), expected, "{held:?} at {applied}, counted: {counted}");
            assert_eq!(store.rejoined(), [2, 3]);
        }
    }
}

#[test]
fn a_later_write_of_this_life_stays_the_later_one() {
    let (mut store, mut old) = (Store::with_hub(), Old::new());
    let write = |cents: u64, stamp: u64, seq: u64| {
        let seen = Seen { entries: vec![proto::wire::Dot { site: "harbour".into(), epoch: OLD.0, seq }] };
        let value = cents.to_string().into();
        Of::Register(RegisterWrite { key: key(), value, stamp, seen: Some(seen), ..RegisterWrite::default() })
    };
    old.chunk(vec![event("", vec![write(100, 5, 1)])]);
    store.here(old.at);
    store.ask("item", json!({ "gtin": GTIN, "price_cents": 300 }));
    store.past(0, 0, &[], None);
    store.own(0, 0);
    let effects = store.followed(0);
    store.read_fork(&old, effects);
    assert_eq!(store.price(), 300);
    let (first, _, event) = store.ledger.events.iter().find(|(_, _, event)| event.rejoined_of > 0).unwrap();
    let writes: Vec<_> = event.records.iter().filter_map(|record| record.of.clone()).collect();
    let [Of::Register(older), Of::Register(newer)] = &writes[..] else { panic!("{writes:?}") };
    assert_eq!((&older.value[..], older.stamp, &newer.value[..]), (&b"100"[..], 5, &b"300"[..]));
    let seen = VersionVector::try_from(older.seen.as_ref().unwrap()).unwrap();
    let dot = |epoch, seq| Dot { replica: ReplicaId { epoch, ..store.ledger.replica.clone() }, seq };
    assert!(seen.covers(&dot(OLD, Seq(1))) && seen.covers(&dot(Epoch(1), *first)));
}

/// Old moments between new ones: a count that began before looks past them.
#[test]
fn a_count_looks_past_what_was_journalled_again() {
    let (mut store, mut old) = (Store::with_hub(), Old::new());
    old.chunk(vec![sold("s1")]);
    store.here(old.at);
    store.ask("scan", json!({ "gtin": GTIN, "op": "receive", "qty": 20 }));
    store.wall += 5_000;
    let began = store.wall;
    store.wall += 5_000;
    store.ask("sale", lines(3));
    store.past(0, 0, &[], None);
    store.own(0, 0);
    let effects = store.followed(0);
    store.read_fork(&old, effects);
    let count = json!({ "gtin": GTIN, "qty": 18, "began_ms": began });
    assert_eq!(store.ask("count", count)["lines"][0]["on_hand"], 15);
}

/// The hub is restored while the fork is journalled again: what it lacks of it since is still there.
#[test]
fn a_hub_that_was_restored_meanwhile_gets_what_it_lacks_and_nothing_twice() {
    for crashes in [false, true] {
        let (mut store, mut old) = (Store::with_hub(), Old::new());
        let first = old.chunk(vec![event("", vec![moved(50, MovementKind::Receive)])]);
        let second = old.chunk(vec![sold("s1"), sold("")]);
        old.chunk(vec![sold("s2")]);
        old.chunk(vec![sold("")]);
        store.here(old.at);
        store.welcomed_by(7);
        store.past(0, 0, &old.chunks[..2], Some(second));
        store.own(46, 3);
        let after = wants(&store.followed(3)).expect("it reads the fork");
        store.takes_in(Input::Fork(ForkSays::Part { after, chunks: old.chunks[2..3].to_vec() }));
        assert_eq!((store.rejoined(), store.on_hand()), (vec![4], 44));

        store.welcomed_by(8);
        if crashes {
            store.begin_again();
            store.here(old.at);
        }
        // What was asked of the fork before is no answer any more.
        store.takes_in(Input::Fork(ForkSays::Part { after: Seq(4), chunks: old.chunks[3..].to_vec() }));
        assert_eq!(store.asks(), recall(0, OLD.0), "it is looked for anew");
        assert_eq!(store.ask("sale", payload("s1"))["status"], "duplicate", "what was answered stays answered");
        store.past(0, 0, &old.chunks[..1], Some(first));
        store.own_by(8, 50, 1);
        let effects = store.followed_by(8, 1);
        store.read_fork(&old, effects);
        assert_eq!((store.rejoined(), store.on_hand()), (vec![4, 2, 3, 5], 50 - 2 - 2 - 2 - 2), "crashes: {crashes}");
    }
}

/// A box was put back to before its own rejoin: what that one brought is at the hub, also what has no id.
#[test]
fn what_an_earlier_rejoin_brought_is_not_brought_again() {
    let (mut store, mut old) = (Store::with_hub(), Old::new());
    let common = old.chunk(vec![event("", vec![moved(50, MovementKind::Receive)])]);
    old.chunk(vec![sold(""), sold("")]);
    let rejoin = |store: &mut Store, shown: &[Bytes]| {
        store.here(old.at);
        store.welcomed_by(7);
        store.past(0, 0, shown, Some(common));
        store.own(50, 1);
        let effects = store.followed(1);
        store.read_fork(&old, effects);
    };
    rejoin(&mut store, &old.chunks[..1]);
    let events = store.ledger.events.iter().map(|(_, _, event)| event.clone());
    let again = events.into_iter().find(|event| event.rejoined_of == 2).expect("it is brought");
    let replica = ReplicaId { site: "harbour".parse().unwrap(), epoch: Epoch(10) };
    let body = Body { base_ms: 1_000, events: vec![again], ..Body::default() };
    let brought = Bytes::from(Sealer::default().seal(&replica, Position::default(), &body).bytes);
    let mut store = Store::with_hub();
    rejoin(&mut store, &[brought, old.chunks[0].clone()]);
    assert_eq!(store.rejoined(), [3]);
    let origins: Vec<_> = store.ledger.events.iter().filter(|(_, _, event)| event.rejoined_of > 0).collect();
    assert_eq!((origins[0].2.origin_epoch, origins[0].2.origin_seq), (OLD.0, 3));
}

#[test]
fn every_hello_names_the_lives_that_led_to_this_one() {
    let named = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::Lineage(lineage) => Some(lineage.iter().map(|life| (life.epoch, life.seq)).collect::<Vec<_>>()),
            _ => None,
        })
    };
    let (mut store, mut old) = (Store::with_hub(), Old::new());
    let common = old.chunk(vec![sold("s1")]);
    store.here(old.at);
    store.past(0, 0, &old.chunks, Some(common));
    store.own(-2, 1);
    let earlier = proto::wire::Ancestor { epoch: 3, seq: 70, hash: common.hash.0.to_vec().into() };
    let followed = Followed { epoch: OLD.0, applied_seq: 1, own_position: 5, lineage: vec![earlier] };
    let effects = store.takes_in(Input::FromHub(FromHub::Followed { incarnation: 7, followed }));
    assert_eq!(named(&effects), None, "a hub that is restored now must not think that all of it came");
    let after = wants(&effects).expect("it reads the fork");
    let effects = store.takes_in(Input::Fork(ForkSays::Part { after, chunks: vec![] }));
    assert_eq!(named(&effects), Some(vec![(OLD.0, 1), (3, 70)]));
    store.gateway = Gateway::new(Rules { has_hub: true, ..Rules::default() });
    let step = store.gateway.recovered(Stamp::default(), &store.now(), &store.ledger).unwrap();
    assert_eq!(named(&step.then), Some(vec![(OLD.0, 1), (3, 70)]));
}
