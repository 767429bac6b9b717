//! What lost a conflict is brought back: once, as a write of the hub that has seen both sides, and fed to every site.

use std::collections::BTreeMap;

use proto::id::Dot as Name;
use proto::register::Register;
use proto::wire::down::Of as DownOf;
use proto::wire::{Conflict, ConflictCell, Down, FeedAck, FeedEntry};

use super::*;
use crate::ledger::{EachCell, EachEvent, Table};

const KEY: &str = "note/04006381333931/anna/f0";

impl Running {
    async fn asked(&self, ask: Ask) -> Value {
        let (answer, answered) = oneshot::channel();
        self.handle.input(Input::Conflicts(ask, answer)).await.unwrap();
        answered.await.unwrap()
    }

    async fn restore(&self, conflict: u64) -> Value {
        self.asked(Ask::Restore { conflict: Seq(conflict), by: "anna".into(), why: "it was right".into() }).await
    }

    /// The ids of what is kept, newest first.
    async fn kept(&self, prefixes: &[&str]) -> Vec<u64> {
        let prefixes = prefixes.iter().map(|prefix| prefix.to_string()).collect();
        let list = self.asked(Ask::List(Wanted { limit: 10, prefixes })).await;
        list["conflicts"].as_array().unwrap().iter().map(|kept| kept["id"].as_u64().unwrap()).collect()
    }

    /// Acknowledges the site's feed until it has what is wanted.
    async fn fed(&self, site: &str, wanted: impl Fn(&FeedEntry) -> bool) -> FeedEntry {
        let topic = format!("down/{site}");
        let mut read = 0;
        loop {
            let told: Vec<Bytes> = {
                let told = self.told.lock().unwrap();
                told[read..].iter().filter(|(to, _)| *to == topic).map(|(_, payload)| payload.clone()).collect()
            };
            read = self.told.lock().unwrap().len();
            for payload in told {
                let Some(DownOf::Feed(feed)) = Down::decode(payload).unwrap().of else { continue };
                if let Some(found) = feed.entries.iter().find(|entry| wanted(entry)) {
                    return found.clone();
                }
                self.up(site, UpOf::FeedAck(FeedAck { cursor: feed.upto, stream: feed.stream, ..FeedAck::default() }))
                    .await;
            }
            self.status().await;
        }
    }
}

fn of_the_hub(entry: &FeedEntry) -> bool {
    let state = entry.state.clone().unwrap_or_default();
    entry.key == KEY && state.dot.is_some_and(|dot| dot.site == "hub") && state.value == "\"lost\""
}

fn seen(state: &proto::wire::RegisterState) -> Vec<Dot> {
    state.seen.clone().unwrap_or_default().entries
}

/// Two sites write the same field apart; the one with the later clock wins.
async fn conflict(hub: &Running, winner: Of, loser: Of) -> (Site, Site, u64) {
    let (mut hill, mut harbour) = (Site::hello(hub, "hill").await, Site::hello(hub, "harbour").await);
    hill.send(hub, vec![loser]).await;
    harbour.send(hub, vec![winner]).await;
    let kept = hub.kept(&[]).await;
    assert_eq!(kept.len(), 1);
    (hill, harbour, kept[0])
}

#[tokio::test]
async fn the_loser_comes_back_everywhere_having_seen_both_sides() {
    let hub = Running::open().await;
    let (mut hill, mut harbour, id) =
        conflict(&hub, write(0, "won", 2_000, vec![]), write(0, "lost", 1_000, vec![])).await;
    let shown = hub.asked(Ask::Show(Seq(id))).await;
    assert_eq!((&shown["winner"]["value"], &shown["loser"]["value"]), (&json!("won"), &json!("lost")));
    assert_eq!(shown["loser"]["dot"], "hill#0000000000000005/1", "{shown}");
    assert_eq!((&shown["now"]["value"], &shown["restored"]), (&json!("won"), &Value::Null), "{shown}");

    let done = hub.restore(id).await;
    assert_eq!((&done["now"]["value"], &done["replaced"]["value"]), (&json!("lost"), &json!("won")), "{done}");
    for site in ["hill", "harbour"] {
        let entry = hub.fed(site, of_the_hub).await;
        let register = Register::try_from(&entry.state.unwrap()).unwrap();
        for side in ["hill", "harbour"] {
            let name = ReplicaId { site: side.parse().unwrap(), epoch: Epoch(5) };
            assert!(register.seen.covers(&Name { replica: name, seq: Seq(1) }), "it has seen {side}");
        }
        assert!(register.stamp > Stamp::at(WallMs(2_000)), "it is above what it replaces");
        let own = ReplicaId { site: "hub".parse().unwrap(), epoch: Epoch(7) };
        let seq = Seq(done["restored"]["seq"].as_u64().unwrap() + 1);
        assert_eq!(register.dot, Name { replica: own, seq }, "the hub's incarnation, and the seq of its record");
    }

    // A site that has seen it replaces it in silence; one that has not is a conflict, as with any other site's write.
    let entry = hub.fed("hill", of_the_hub).await;
    hill.send(&hub, vec![write(0, "after", u64::MAX >> 20, seen(&entry.state.unwrap()))]).await;
    assert_eq!(hub.kept(&[]).await, [id]);
    harbour.send(&hub, vec![write(0, "apart", 3_000, vec![])]).await;
    assert_eq!(hub.kept(&[]).await.len(), 2);

    // What it was is in the journal.
    let records = Running::records(&hub.stop().await).await;
    let at = records.iter().position(|of| matches!(of, Of::ConflictRestored(_))).unwrap();
    let Of::ConflictRestored(mark) = &records[at] else { unreachable!() };
    assert_eq!((mark.conflict, mark.by.as_str(), mark.why.as_str()), (id, "anna", "it was right"));
    assert!(matches!(&records[at + 1], Of::Merged(merged) if merged.key == KEY));
    assert_eq!(done["restored"]["seq"], at as u64 + 1);
}

#[tokio::test]
async fn a_conflict_is_restored_once_also_over_a_restart() {
    let hub = Running::open().await;
    let (.., id) = conflict(&hub, write(0, "won", 2_000, vec![]), write(0, "lost", 1_000, vec![])).await;
    // Both in one group: the second must see what the first did.
    let (first, second) = tokio::join!(hub.restore(id), hub.restore(id));
    let refused = |answer: &Value| answer["error"].as_str().unwrap_or_default().contains("already, by anna");
    assert!(first.get("error").is_none() && refused(&second), "{first} {second}");
    assert!(hub.restore(9_999).await["error"].as_str().unwrap().contains("no conflict"));

    let hub = Running::open_in(hub.stop().await).await;
    let again = hub.restore(id).await;
    assert!(refused(&again), "{again}");
    let shown = hub.asked(Ask::Show(Seq(id))).await;
    assert_eq!((&shown["restored"]["by"], &shown["now"]["value"]), (&json!("anna"), &json!("lost")), "{shown}");
    let topic = format!("hq/conflicts/{id}");
    let told = hub.told.lock().unwrap().iter().rev().find(|(to, _)| *to == topic).unwrap().1.clone();
    assert_eq!(serde_json::from_slice::<Value>(&told).unwrap()["restored"]["by"], "anna", "HQ's topic says it");
}

#[tokio::test]
async fn a_deletion_that_lost_deletes() {
    let hub = Running::open().await;
    let Of::Register(lost) = write(0, "", 1_000, vec![]) else { unreachable!() };
    let deletion = Of::Register(RegisterWrite { value: Bytes::new(), deleted: true, ..lost });
    let (.., id) = conflict(&hub, write(0, "won", 2_000, vec![]), deletion).await;
    let done = hub.restore(id).await;
    assert_eq!((&done["now"]["deleted"], &done["now"]["value"]), (&json!(true), &Value::Null), "{done}");
    hub.fed("harbour", |entry| entry.state.as_ref().unwrap().deleted).await;
}

#[tokio::test]
async fn the_list_can_be_of_one_item() {
    let hub = Running::open().await;
    let (mut hill, mut harbour, first) =
        conflict(&hub, write(0, "won", 2_000, vec![]), write(0, "lost", 1_000, vec![])).await;
    hill.send(&hub, vec![write(1, "lost", 1_000, vec![])]).await;
    harbour.send(&hub, vec![write(1, "won", 2_000, vec![])]).await;
    let all = hub.kept(&[]).await;
    assert_eq!((all.len(), all[1]), (2, first), "the newest first");
    assert_eq!(hub.kept(&[KEY]).await, [first]);
    assert_eq!(hub.kept(&["item/04006381333931/", "note/04006381333931/"]).await, all);
    assert_eq!(hub.kept(&["item/"]).await.len(), 0);
    let short = hub.asked(Ask::List(Wanted { limit: 1, prefixes: vec![] })).await;
    assert_eq!((short["conflicts"].as_array().unwrap().len(), &short["kept"]), (1, &json!(2)));
}

/// A ledger that holds one conflict and no register.
struct OnlyConflict(ReplicaId, BTreeMap<(Table, Vec<u8>), Vec<u8>>);

impl Read for OnlyConflict {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, LedgerError> {
        Ok(self.1.get(&(table, key.to_vec())).cloned())
    }
    fn scan(&self, _: Table, _: &[u8], _: EachCell<'_>) -> Result<(), LedgerError> {
        Ok(())
    }
    fn replica(&self) -> &ReplicaId {
        &self.0
    }
    fn next_seq(&self) -> Seq {
        Seq(40)
    }
    fn events_back(&self, _: EachEvent<'_>) -> Result<(), LedgerError> {
        Ok(())
    }
}

#[test]
fn what_is_no_longer_there_at_all_comes_back() {
    let side = |site: &str, seq: u64| {
        let dot = Name { replica: ReplicaId { site: site.parse().unwrap(), epoch: Epoch(5) }, seq: Seq(seq) };
        let mut seen = proto::version::VersionVector::default();
        seen.insert(&dot);
        let value = Some(format!("{site:?}").into());
        Register { value, stamp: Stamp::at(WallMs(seq)), dot, seen, writer: "pos-1".into() }
    };
    let (winner, loser) = (side("harbour", 900), side("hill", 800));
    let conflict = Conflict { key: KEY.into(), winner: Some((&winner).into()), loser: Some((&loser).into()) };
    let cell = ConflictCell { conflict: Some(conflict), seen_ms: 1 }.encode_to_vec();
    let own = ReplicaId { site: "hub".parse().unwrap(), epoch: Epoch(1) };
    let ledger = OnlyConflict(own, BTreeMap::from([((CONFLICT, 9u64.to_be_bytes().to_vec()), cell)]));
    let mut hub = Hub::new(7);
    // This clock was never set: the stamp is the tick above the highest that there is.
    let now = Now { wall: WallMs(5), synced: false, mono_ms: 5, powered_on_s: 0 };
    let ask = Ask::Restore { conflict: Seq(9), by: String::new(), why: String::new() };
    let step = hub.asked(ask, oneshot::channel().0, &now, &ledger).unwrap();
    let Some(Of::Merged(merged)) = &step.events[0].event.records[1].of else { panic!("{step:?}") };
    let register = Register::try_from(merged.state.as_ref().unwrap()).unwrap();
    assert_eq!((register.value, register.stamp), (loser.value, winner.stamp.next()));
    assert!(register.seen.covers(&winner.dot) && register.seen.covers(&loser.dot));
    assert_eq!(register.dot.seq, Seq(41));
}
