//! Earlier lives of a site's ledger: what the hub has of them, and how one is closed.

use proto::wire::down::Of as DownOf;
use proto::wire::{Ancestor, Down, Followed, Follows, Past, Recall};
use tokio::sync::mpsc;

use super::*;
use crate::recall::look_back;

/// A hub of which a test hears what it says to a site.
struct Heard {
    hub: Running,
    effects: mpsc::UnboundedReceiver<Effect>,
}

impl Heard {
    async fn open() -> Heard {
        let (said, effects) = mpsc::unbounded_channel();
        let hub = Running::open_heard(tempfile::tempdir().unwrap(), move |effect| drop(said.send(effect))).await;
        Heard { hub, effects }
    }

    async fn hello(&self, site: &str, epoch: u64) {
        let hello = Hello { protocol: 2, site: site.into(), epoch, journal_to: 1 << 40, ..Hello::default() };
        self.hub.up(site, UpOf::Hello(Hello { journal_from: 1, ..hello })).await;
    }

    /// The newest answer of this kind.
    async fn answer<T>(&mut self, pick: impl Fn(&DownOf) -> Option<T>) -> T {
        loop {
            let Some(Effect::Publish { topic, payload, .. }) = self.effects.recv().await else { continue };
            if !topic.starts_with("down/") {
                continue;
            }
            if let Some(found) = Down::decode(payload).unwrap().of.as_ref().and_then(&pick) {
                return found;
            }
        }
    }

    async fn recall(&mut self, site: &str, recall: Recall) -> Result<Question, Past> {
        self.hub.up(site, UpOf::Recall(recall)).await;
        loop {
            match self.effects.recv().await.unwrap() {
                Effect::Recall(question) => return Ok(question),
                Effect::Publish { payload, .. } => {
                    if let Ok(Down { of: Some(DownOf::Past(past)), .. }) = Down::decode(payload) {
                        return Err(past);
                    }
                }
                _ => {}
            }
        }
    }

    async fn follows(&mut self, follows: Follows) -> Result<Followed, String> {
        self.hub.up("hill", UpOf::Follows(follows)).await;
        self.answer(|of| match of {
            DownOf::Followed(followed) => Some(Ok(followed.clone())),
            DownOf::Turned(turned) => Some(Err(turned.code.clone())),
            _ => None,
        })
        .await
    }
}

fn note(text: &str) -> Vec<Of> {
    vec![Of::Note(Note { kind: "activity".into(), payload: text.to_owned().into() })]
}

fn journal(epoch: u64) -> Site {
    let replica = ReplicaId { site: "hill".parse().unwrap(), epoch: Epoch(epoch) };
    Site { replica, at: Position::default() }
}

#[tokio::test]
async fn a_new_life_gets_the_chunks_of_earlier_ones_newest_first_in_parts() {
    let mut heard = Heard::open().await;
    heard.hello("hill", 1).await;
    let past = heard.recall("hill", Recall::default()).await.expect_err("a first life has no past");
    assert_eq!(past, Past::default());
    let (mut old, mut other) = (journal(1), Site::hello(&heard.hub, "harbour").await);
    let mut sent = Vec::new();
    for n in 0..20 {
        sent.push(Bytes::from(old.seal(note(&format!("hill {n} {}", "x".repeat(200))))));
        old.send_bytes(&heard.hub, sent[n].to_vec()).await;
        other.send(&heard.hub, note("harbour")).await;
    }
    heard.hello("hill", 2).await;
    let mut new = journal(2);
    new.send(&heard.hub, note("of the life that asks")).await;
    for (answer_bytes, read_bytes) in [(1 << 20, 1 << 20), (1, 1 << 20), (500, 1 << 20), (1 << 20, 1)] {
        let (mut found, mut below, mut parts) = (Vec::new(), 0, 0);
        loop {
            let question = heard.recall("hill", Recall { below, epoch: 0 }).await.expect("it had a life before");
            let past =
                look_back(heard.hub.reader.chunks_below(question.from_below()), &question, answer_bytes, read_bytes)
                    .unwrap();
            assert_eq!(past.below, below);
            assert!(past.next_below == 0 || below == 0 || past.next_below < below, "it goes back: {past:?}");
            found.extend(past.chunk);
            (below, parts) = (past.next_below, parts + 1);
            if below == 0 {
                break;
            }
        }
        assert!(found.iter().eq(sent.iter().rev()), "{answer_bytes} {read_bytes}");
        assert_eq!(parts > 1, answer_bytes < 1_000 || read_bytes == 1);
    }
    // What is too old does not matter, unless a position in common is looked for.
    let question = heard.recall("hill", Recall::default()).await.unwrap();
    let late = Question { since_ms: u64::MAX, ..question };
    assert_eq!(
        look_back(heard.hub.reader.chunks_below(late.from_below()), &late, 1 << 20, 1 << 20).unwrap(),
        Past::default()
    );
    assert_eq!(heard.recall("hill", Recall { below: 0, epoch: 1 }).await.unwrap().since_ms, 0);
}

#[tokio::test]
async fn a_life_is_closed_once_and_for_good() {
    let mut heard = Heard::open().await;
    heard.hello("hill", 1).await;
    let mut old = journal(1);
    old.send(&heard.hub, note("one")).await;
    let at = old.at;
    old.send(&heard.hub, note("two")).await;
    heard.hello("hill", 2).await;
    let named = |epoch, Position { seq, hash }: Position| Follows {
        lineage: vec![],
        epoch,
        seq: seq.0,
        hash: hash.0.to_vec().into(),
        begins_after: 0,
    };
    let beyond = Position { seq: Seq(3), ..old.at };
    let differs = Position { hash: at.hash, ..old.at };
    for wrong in [named(1, beyond), named(1, differs), named(2, Position::default()), named(77, at)] {
        assert_eq!(heard.follows(wrong.clone()).await, Err("follows_unknown".into()), "{wrong:?}");
        heard.hello("hill", 2).await;
    }
    let closed = heard.follows(named(1, at)).await.unwrap();
    assert_eq!((closed.epoch, closed.applied_seq), (1, 2), "the hub has more of it than was named");
    assert_eq!(heard.follows(named(1, at)).await, Ok(closed), "said again");
    // A ledger that never came this far may be closed where it began.
    assert_eq!(heard.follows(named(78, Position::default())).await.map(|closed| closed.applied_seq), Ok(0));
    for epoch in [1, 78] {
        heard.hello("hill", epoch).await;
        let code = heard.answer(|of| if let DownOf::Turned(turned) = of { Some(turned.code.clone()) } else { None });
        assert_eq!(code.await, "retired");
    }
    let dir = heard.hub.stop().await;
    let records = Running::records(&dir).await;
    assert_eq!(records.iter().filter(|of| matches!(of, Of::SiteFollows(_))).count(), 2);
    // Also over a restart.
    let (said, effects) = mpsc::unbounded_channel();
    let hub = Running::open_heard(dir, move |effect| drop(said.send(effect))).await;
    let mut heard = Heard { hub, effects };
    heard.hello("hill", 1).await;
    assert_eq!(
        heard.answer(|of| if let DownOf::Turned(t) = of { Some(t.code.clone()) } else { None }).await,
        "retired"
    );
}

/// A hub that was restored to before a rejoin hears of it from the next Hello.
#[tokio::test]
async fn a_hello_names_lives_that_are_over_and_what_is_lacked_of_them_is_counted() {
    let mut heard = Heard::open().await;
    heard.hello("hill", 1).await;
    let mut old = journal(1);
    old.send(&heard.hub, note("one")).await;
    let ended = Ancestor { epoch: 1, seq: 4, hash: old.at.hash.0.to_vec().into() };
    let wrong = Ancestor { epoch: 9, seq: 4, hash: Default::default() };
    for _ in 0..2 {
        // Its own epoch is none of them, whoever says so.
        let itself = Ancestor { epoch: 2, ..ended.clone() };
        let lineage = vec![ended.clone(), wrong.clone(), itself];
        let hello = Hello { protocol: 2, site: "hill".into(), epoch: 2, journal_from: 1, lineage, ..Hello::default() };
        heard.hub.up("hill", UpOf::Hello(hello)).await;
        let welcomed = heard.answer(|of| matches!(of, DownOf::Welcome(_)).then_some(()));
        welcomed.await;
    }
    heard.hello("hill", 1).await;
    let code = heard.answer(|of| if let DownOf::Turned(turned) = of { Some(turned.code.clone()) } else { None });
    assert_eq!(code.await, "retired");
    assert_eq!(heard.hub.status().await["sites"]["hill"]["lost"]["trimmed"], 3);
    // The next life learns of both.
    heard.hello("hill", 3).await;
    let origin = Follows { epoch: 2, hash: Position::default().hash.0.to_vec().into(), ..Follows::default() };
    let followed = heard.follows(origin).await.expect("it is closed");
    assert_eq!(followed.lineage.iter().map(|life| (life.epoch, life.seq)).collect::<Vec<_>>(), [(1, 4)]);
    let dir = heard.hub.stop().await;
    let records = Running::records(&dir).await;
    let follows = records.iter().filter_map(|of| if let Of::SiteFollows(follows) = of { Some(follows) } else { None });
    let told: Vec<_> = follows.map(|follows| (follows.retired, follows.lacks, follows.lacks_to)).collect();
    assert_eq!(told, [(1, 3, 4), (2, 0, 0)]);
    let hub = Running::open_heard(dir, |_| {}).await;
    assert_eq!(hub.status().await["sites"]["hill"]["lost"]["trimmed"], 3, "also over a restart");
}

/// A will is written when the connection begins; the session may be another one by then.
#[tokio::test]
async fn the_farewell_of_a_connection_ends_whatever_session_it_has() {
    let heard = Heard::open().await;
    let hello =
        Hello { protocol: 2, site: "hill".into(), epoch: 1, journal_from: 1, connection: 40, ..Hello::default() };
    let say = async |session, of| heard.hub.raw("hill", Up { session, of: Some(of) }.encode_to_vec()).await;
    say(41, UpOf::Hello(hello)).await;
    say(39, UpOf::Bye(proto::wire::Bye {})).await;
    assert_eq!(heard.hub.status().await["sites"]["hill"]["online"], true, "an older connection's is none of its");
    say(40, UpOf::Bye(proto::wire::Bye {})).await;
    assert_eq!(heard.hub.status().await["sites"]["hill"]["online"], false);
}

/// What a damaged head claims: another hash than the journal has, or a place where it never was.
const WRONG_CLAIMS: [fn(&mut Vec<u8>, Position); 2] = [
    |bytes, at| {
        let hash = bytes.windows(at.hash.0.len()).position(|part| part == at.hash.0).expect("a head has its hash");
        bytes[hash] ^= 1;
    },
    // The seq of its last record.
    |bytes, _| bytes[12] = 9,
];

/// What was set aside moved the watermark to a place that the journal never was at. The life after it is let in, is told that
/// nothing beyond the common position counts, and brings each record once.
#[tokio::test]
async fn a_life_after_one_whose_set_aside_chunk_claimed_what_is_wrong_goes_on_from_before_it() {
    for claim in WRONG_CLAIMS {
        let mut heard = Heard::open().await;
        heard.hello("hill", 1).await;
        let mut old = journal(1);
        old.send(&heard.hub, note("one")).await;
        let common = old.at;
        let mut spoilt = old.seal(note("two"));
        let really = old.at;
        claim(&mut spoilt, really);
        for _ in 0..3 {
            old.send_bytes(&heard.hub, spoilt.clone()).await;
        }
        let claimed = heard.hub.applied("hill").await;
        assert!(claimed > common.seq.0, "it is passed by");
        // Nothing of its journal continues that, however often it is said.
        let three = old.seal(note("three"));
        for _ in 0..4 {
            heard.hello("hill", 1).await;
            old.send_bytes(&heard.hub, three.clone()).await;
        }
        assert_eq!(heard.hub.applied("hill").await, claimed);

        heard.hello("hill", 2).await;
        let question = heard.recall("hill", Recall { below: 0, epoch: 1 }).await.expect("it had a life before");
        let copies = heard.hub.reader.chunks_below(question.from_below());
        let past = look_back(copies, &question, 1 << 20, 1 << 20).unwrap();
        let shown: Vec<_> = past.chunk.iter().map(|bytes| proto::chunk::head(bytes).unwrap().after()).collect();
        assert_eq!(shown, [common], "what is set aside is nothing in common");
        let follows = Follows {
            epoch: 1,
            seq: common.seq.0,
            hash: common.hash.0.to_vec().into(),
            begins_after: 0,
            lineage: vec![],
        };
        let followed = heard.follows(follows.clone()).await.expect("it is not refused");
        assert_eq!(followed.applied_seq, common.seq.0, "no other box went on with it");
        let mut new = journal(2);
        for text in ["two", "three"] {
            new.send(&heard.hub, note(text)).await;
        }
        assert_eq!(heard.hub.applied("hill").await, 2);

        // Also over a restart, if the answer was lost.
        let dir = heard.hub.stop().await;
        let (said, effects) = mpsc::unbounded_channel();
        let hub = Running::open_heard(dir, move |effect| drop(said.send(effect))).await;
        let mut heard = Heard { hub, effects };
        heard.hello("hill", 2).await;
        assert_eq!(heard.follows(follows).await.map(|again| again.applied_seq), Ok(common.seq.0));
        heard.hello("hill", 1).await;
        let code = heard.answer(|of| if let DownOf::Turned(turned) = of { Some(turned.code.clone()) } else { None });
        assert_eq!(code.await, "retired");
        let records = Running::records(&heard.hub.stop().await).await;
        let asides: Vec<_> =
            records.iter().filter_map(|of| if let Of::SetAside(a) = of { Some(a) } else { None }).collect();
        assert_eq!(asides.iter().map(|aside| &aside.bytes[..]).collect::<Vec<_>>(), [&spoilt[..]], "kept, and told");
        let brought: Vec<Vec<Of>> = records.iter().filter_map(brought_by).collect();
        assert_eq!(brought, [note("one"), note("two"), note("three")]);
    }
}

/// The records of a site's chunk, if that is what is said.
fn brought_by(of: &Of) -> Option<Vec<Of>> {
    let Of::SiteChunk(kept) = of else { return None };
    let chunk = proto::chunk::open(&kept.chunk).unwrap();
    Some(chunk.body.events.into_iter().flat_map(|event| event.records).filter_map(|record| record.of).collect())
}
