//! What channels ask of pools and rights: holds at the tills, reservations and promises at the hub, changes of pools; also
//! twice. Each request has one outcome.

use std::collections::{BTreeMap, BTreeSet};

use broker::hub::channel::{Key, Line, LinesOf, Order, Outcome, Reply, What};
use broker::hub::{Input, PoolChange, RightsAsk, RightsChange, RightsNote};
use proto::gtin::Gtin;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::work::item;
use super::world::{HubWork, Who, Work, World};

/// Deadlines of holds: soon enough that a schedule sees them.
const SECONDS: [u64; 4] = [1, 5, 20, 60];

#[derive(Debug, Default)]
pub(super) struct Sales {
    /// By site, holds that a device was told of.
    holds: BTreeMap<usize, Vec<String>>,
    reservations: Vec<String>,
    /// Orders whose outcome is not heard yet.
    pending: Vec<(u64, oneshot::Receiver<Reply>)>,
    /// What was ordered under each key.
    orders: Vec<What>,
    /// What each key came to, and how often the hub had been restored then.
    outcomes: BTreeMap<u64, (u32, Reply)>,
    /// What each request of a device came to at first.
    replies: BTreeMap<(usize, String), Value>,
    /// Keys of which an outcome came since this was last looked at.
    pub(super) news: BTreeSet<u64>,
}

pub(super) fn gtin(n: usize) -> Gtin {
    Gtin::from_number(item(n)).expect("an item number")
}

pub(super) fn line(gtin: Gtin, units: u32, seconds: Option<u64>) -> LinesOf {
    LinesOf::One(Line { gtin, units, site: None, seconds, reference: String::new(), channel: "web".into() })
}

fn note() -> RightsNote {
    RightsNote { by: "anna".into(), why: "so".into(), reference: String::new() }
}

impl World {
    pub(super) fn ask_for_rights(&mut self) {
        match self.dice.below(10) {
            0..=4 => self.ask_a_till(),
            5..=7 => self.order_anything(),
            _ => self.change_pools(),
        }
    }

    fn pooled(&mut self) -> Gtin {
        gtin(self.dice.below(self.plan.pools))
    }

    fn ask_a_till(&mut self) {
        let at = self.dice.below(self.sites.len());
        if self.sites[at].node.is_none() {
            return;
        }
        let known = self.sales.holds.get(&at).map_or(0, Vec::len);
        let hold = (known > 0).then(|| {
            let nth = self.dice.below(known);
            self.sales.holds[&at][nth].clone()
        });
        let (gtin, qty) = (self.pooled(), self.dice.range(1, 3));
        let mut moves = vec![];
        let (kind, mut body) = match (self.dice.below(9), hold) {
            (0..=1, Some(hold)) => ("hold", json!({ "op": "commit", "hold": hold })),
            (2, Some(hold)) => ("hold", json!({ "op": "release", "hold": hold })),
            (3, Some(hold)) => {
                moves.push((gtin.number(), -(qty as i64)));
                ("sale", json!({ "hold": hold, "lines": [{ "gtin": gtin.to_string(), "qty": qty }] }))
            }
            (4, _) => {
                moves.push((gtin.number(), qty as i64));
                ("move", json!({ "op": "refund", "lines": [{ "gtin": gtin.to_string(), "qty": qty }] }))
            }
            (5, _) => {
                moves.push((gtin.number(), -(qty as i64)));
                ("sale", json!({ "lines": [{ "gtin": gtin.to_string(), "qty": qty }] }))
            }
            _ => {
                let seconds = self.dice.pick(&SECONDS);
                ("hold", json!({ "op": "hold", "gtin": gtin.to_string(), "qty": qty, "seconds": seconds }))
            }
        };
        let times = if self.dice.percent(15) { 2 } else { 1 };
        let uid = self.till_request(at, kind, &mut body, moves);
        for _ in 0..times {
            self.ask_till(at, uid);
        }
    }

    /// A request of a till at a site; the same one however often it is then asked.
    pub(super) fn till_request(
        &mut self,
        at: usize,
        kind: &'static str,
        body: &mut Value,
        moves: Vec<(u64, i64)>,
    ) -> usize {
        let uid = self.oracle.requests.len();
        let device = self.dice.pick(&["pos-1", "pos-2"]);
        let mut request = World::blank_request(device, Some(format!("r{uid}")), kind);
        body["id"] = json!(request.id);
        (request.payload, request.by_rights, request.moves) = (body.to_string().into(), kind == "hold", moves);
        self.oracle.requests.push(request);
        self.sites[at].asked.push(uid);
        uid
    }

    pub(super) fn ask_till(&mut self, at: usize, uid: usize) {
        let payload = self.oracle.requests[uid].payload.clone();
        self.note(|| format!("{at} is asked {uid}: {payload:?}"));
        self.sites[at].inbox.push_back(Work::Request(uid));
        self.due(Who::Site(at));
    }

    /// What a request of a till came to at first.
    pub(super) fn first_reply(&self, at: usize, uid: usize) -> Option<&Value> {
        self.sales.replies.get(&(at, format!("r{uid}")))
    }

    /// A till heard what its request came to.
    pub(super) fn sold(&mut self, at: usize, reply: &Value) {
        let Some(id) = reply["id"].as_str().map(str::to_owned) else { return };
        if let Some(hold) = reply["hold"]["hold"].as_str().filter(|_| reply["status"] == "ok") {
            let known = self.sales.holds.entry(at).or_default();
            if !known.iter().any(|of| of == hold) {
                known.push(hold.to_owned());
            }
        }
        let outcome = if reply["first"].is_null() { &reply["status"] } else { &reply["first"] };
        let key = (at, id.clone());
        let first = self.sales.replies.entry(key).or_insert_with(|| outcome.clone()).clone();
        // A ledger that went back to a copy may have forgotten it; another request may have taken its id.
        let sure = !self.plan.copies && !self.plan.swaps && !self.plan.writes_off && self.plan.buyers > 0;
        assert!(!sure || first == *outcome, "{id} at {at} came to {first}, and then to {reply}");
        self.buyer_heard(&id, reply);
    }

    fn order_anything(&mut self) {
        let known = self.sales.orders.len();
        if known > 0 && self.dice.percent(20) {
            let nth = self.dice.below(known) as u64;
            return self.order_again(nth);
        }
        let (gtin, units) = (self.pooled(), self.dice.range(1, 4) as u32);
        let nth = self.dice.below(self.sales.reservations.len().max(1));
        let reservation = self.sales.reservations.get(nth).cloned();
        let what = match (self.dice.below(6), reservation) {
            (0, Some(id)) => What::Commit(id),
            (1, Some(id)) => What::Release(id),
            (2, _) => What::Decrement(line(gtin, units, None)),
            (3, _) => {
                let LinesOf::One(one) = line(gtin, 1, Some(5)) else { return };
                What::Reserve(LinesOf::Many(vec![one.clone(), one]))
            }
            _ => {
                let seconds = self.dice.pick(&SECONDS);
                What::Reserve(line(gtin, units, Some(seconds)))
            }
        };
        let nth = self.order(what);
        if self.dice.percent(15) {
            self.order_again(nth);
        }
    }

    /// A caller of the hub asks, under a key of its own.
    pub(super) fn order(&mut self, what: What) -> u64 {
        self.sales.orders.push(what);
        let nth = self.sales.orders.len() as u64 - 1;
        self.order_again(nth);
        nth
    }

    pub(super) fn order_again(&mut self, nth: u64) {
        if self.hq.node.is_none() {
            return;
        }
        let what = self.sales.orders[nth as usize].clone();
        self.note(|| format!("the hub is asked k{nth}: {what:?}"));
        let key = Key { id: u128::from(nth).to_be_bytes(), text: format!("k{nth}"), digest: nth };
        let (answer, heard) = oneshot::channel();
        let order = Order { caller: "shop".into(), key: Some(key), what };
        self.sales.pending.push((nth, heard));
        self.hq.inbox.push_back(HubWork::Input(Box::new(Input::Order(Box::new(order), answer))));
        self.due(Who::Hub);
    }

    /// What the hub's callers were told. Each key has one outcome.
    pub(super) fn hear_answers(&mut self) {
        let restores = self.oracle.restores;
        for (nth, mut heard) in std::mem::take(&mut self.sales.pending) {
            let reply = match heard.try_recv() {
                Ok(reply) => reply,
                Err(oneshot::error::TryRecvError::Empty) => {
                    self.sales.pending.push((nth, heard));
                    continue;
                }
                Err(oneshot::error::TryRecvError::Closed) => continue,
            };
            self.note(|| format!("hub k{nth} {:?}: {:?}", reply.outcome, reply.body));
            if reply.outcome.is_passing() {
                continue;
            }
            self.sales.news.insert(nth);
            if reply.outcome == Outcome::Created {
                let said: Value = serde_json::from_slice(&reply.body).expect("answers are JSON");
                let lines = said["lines"].as_array().cloned().unwrap_or_else(|| vec![said]);
                let ids = lines.iter().filter_map(|line| line["id"].as_str()).map(str::to_owned);
                self.sales.reservations.extend(ids);
            }
            match self.sales.outcomes.get(&nth) {
                Some((when, first)) if *when == restores => {
                    let same = (first.outcome, &first.body) == (reply.outcome, &reply.body);
                    assert!(same && reply.replayed, "k{nth} came to {first:?}, and then to {reply:?}");
                }
                _ => drop(self.sales.outcomes.insert(nth, (restores, reply))),
            }
        }
        let news = std::mem::take(&mut self.sales.news);
        news.into_iter().for_each(|nth| self.order_heard(nth));
    }

    pub(super) fn outcome(&self, nth: u64) -> Option<&Reply> {
        self.sales.outcomes.get(&nth).map(|(_, reply)| reply)
    }

    /// Somebody looks after pools and rights.
    fn change_pools(&mut self) {
        let (gtin, units) = (self.pooled(), self.dice.range(1, 12));
        let at = self.dice.below(self.sites.len());
        let to = self.dice.below(self.sites.len());
        let site = self.sites[at].name.clone();
        let has = self.hq.model.rights.pooled().any(|of| of == gtin.number());
        let ask = match self.dice.below(8) {
            _ if !has => RightsAsk::Pool(gtin, PoolChange::Create(units * 3), note()),
            0..=1 => RightsAsk::Pool(gtin, PoolChange::Add(units), note()),
            2 => RightsAsk::Pool(gtin, PoolChange::Withdraw(units), note()),
            3 if self.plan.withdraws => RightsAsk::Pool(gtin, PoolChange::WithdrawAll(units), note()),
            4 => RightsAsk::Site(gtin, site, RightsChange::Ask(units), note()),
            5..=6 => RightsAsk::Site(gtin, site, RightsChange::Move(units, self.sites[to].name.clone()), note()),
            _ => RightsAsk::Site(gtin, site, RightsChange::Grant(units), note()),
        };
        self.ask_office(ask);
    }

    /// What people say of pools and rights; nobody waits for the answer.
    pub(super) fn ask_office(&mut self, ask: RightsAsk) {
        if self.hq.node.is_none() {
            return;
        }
        self.note(|| format!("the hub is told {ask:?}"));
        let (answer, _) = oneshot::channel();
        self.hq.inbox.push_back(HubWork::Input(Box::new(Input::Rights(ask, answer))));
        self.due(Who::Hub);
    }

    pub(super) fn create_pool(&mut self, gtin: Gtin, units: u64) {
        self.ask_office(RightsAsk::Pool(gtin, PoolChange::Create(units), note()));
    }
}
