//! Buyers: each asks once, again until it hears what came of it, and then does what it came to do. And what goes wrong
//! meanwhile.

use std::collections::BTreeMap;

use broker::hub::channel::{Outcome, What};
use serde_json::{Value, json};

use super::super::sales::{gtin, line};
use super::super::world::{Event, World};
use super::ideal::{Figures, Visit, turned_away};
use super::stranded::Stranded;

/// A pool is known everywhere before the doors open, in most schedules.
const LEAD_MS: u64 = 8_000;
const SETTLE_S: u64 = 240;

/// What a buyer does with a hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Commits,
    Releases,
    /// Goes away, and the hold expires.
    Forgets,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    Hold(Then),
    /// At the hub: at once and for good.
    Buys,
    /// Takes it from the shelf to the till.
    Sale,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Asking,
    /// Has a hold, and thinks until then.
    Thinking(u64),
    Ending,
    Served,
    TurnedAway,
}

#[derive(Debug)]
struct Buyer {
    /// A site, or the hub.
    at: Option<usize>,
    units: u64,
    asks: Asks,
    stage: Stage,
    hold: String,
    seconds: u64,
    thinks_ms: u64,
    /// The request that is open: a till's, or an order's.
    request: Option<u64>,
    visit: Visit,
}

#[derive(Debug, Default)]
pub(in super::super) struct Launch {
    buyers: Vec<Buyer>,
    by_request: BTreeMap<String, usize>,
    by_order: BTreeMap<u64, usize>,
    pub(super) pool: u64,
    in_hand: bool,
    hub_percent: u64,
    /// Sites that most buyers come to.
    pub(super) hot: usize,
    lay: Stranded,
}

impl World {
    pub(super) fn open_sale(&mut self) {
        let buyers = self.plan.buyers as u64;
        self.launch.pool = self.dice.pick(&[buyers / 2, buyers, buyers * 3 / 2, buyers * 3]);
        self.launch.in_hand = self.dice.percent(20);
        self.launch.hub_percent = self.dice.pick(&[0, 10, 30, 60]);
        self.launch.hot = self.dice.pick(&[2, 5, 20, 50]);
        let lead = self.dice.percent(80);
        self.put_off_acts(20);
        self.run_to(self.now + 5);
        self.create_pool(gtin(0), self.launch.pool);
        // A hub that dies before it did so is asked again.
        for _ in 0..SETTLE_S {
            self.run_to(self.now + 10);
            if self.hq.model.rights.units(gtin(0).number()) > 0 {
                break;
            }
            self.run_to(self.now + 1_000);
            self.create_pool(gtin(0), self.launch.pool);
        }
        let lead_ms = if lead { LEAD_MS } else { 0 };
        self.put_off_acts(lead_ms);
    }

    /// One buyer comes, or one thing goes wrong.
    pub(in super::super) fn launch_act(&mut self) {
        if self.launch.buyers.len() < self.plan.buyers && self.dice.percent(84) {
            return self.comes();
        }
        if self.plan.writes_off && self.dice.percent(40) {
            return self.goes_dark();
        }
        match self.dice.below(8) {
            0..=3 if self.plan.cuts => self.cut_region(),
            4 if self.plan.crashes => self.crash_somebody(),
            5 if self.plan.crashes => self.arm_somebody(),
            6 if self.plan.wrong_clocks => self.step_clock(),
            _ => self.drop_connection(),
        }
    }

    /// Some sites are cut off for a while.
    fn cut_region(&mut self) {
        let (first, many) = (self.dice.below(self.sites.len()), self.dice.pick(&[1, 1, 3, 10]));
        let (up, down) = self.dice.pick(&[(true, true), (true, true), (true, false), (false, true)]);
        for n in 0..many {
            let at = (first + n) % self.sites.len();
            (self.sites[at].link.up_cut, self.sites[at].link.down_cut) = (up, down);
            let (link, notices) = (self.sites[at].link.at_hub, self.dice.range(1, 10_000));
            self.after(notices, Event::Closed(at, link));
            let lasts = self.dice.range(1_000, 25_000);
            self.after(lasts, Event::Mend(at));
        }
        self.note(|| format!("{many} sites from {first} on are cut off: up {up}, down {down}"));
    }

    pub(in super::super) fn mend(&mut self, at: usize) {
        (self.sites[at].link.up_cut, self.sites[at].link.down_cut) = (false, false);
    }

    fn comes(&mut self) {
        let at = if self.dice.percent(self.launch.hub_percent) {
            None
        } else if self.dice.percent(75) {
            Some(self.dice.below(self.launch.hot))
        } else {
            Some(self.dice.below(self.sites.len()))
        };
        let open = at.map_or(self.hq.node.is_some(), |at| self.sites[at].node.is_some());
        if !open {
            return self.note(|| "a buyer finds the doors closed".into());
        }
        let then = self.dice.pick(&[Then::Commits, Then::Commits, Then::Commits, Then::Releases, Then::Forgets]);
        let asks = match at {
            None if self.dice.percent(60) => Asks::Buys,
            Some(_) if self.launch.in_hand && self.dice.percent(25) => Asks::Sale,
            _ => Asks::Hold(then),
        };
        let units = self.dice.pick(&[1, 1, 1, 1, 2, 4]);
        // A rejoin begins a hold's time anew, and nobody may have to wait for its end for long.
        let long_s = if self.plan.writes_off { 60 } else { 600 };
        let seconds = if then == Then::Forgets { self.dice.range(1, 10) } else { self.dice.pick(&[5, long_s]) };
        let thinks_ms = self.dice.range(0, 6_000);
        let back_ms = match asks {
            Asks::Hold(Then::Releases) => Some(self.now + thinks_ms.min(seconds * 1_000)),
            Asks::Hold(Then::Forgets) => Some(self.now + seconds * 1_000),
            _ => None,
        };
        let visit = Visit { at_ms: self.now, units, back_ms, in_hand: asks == Asks::Sale };
        let (stage, hold, request) = (Stage::Asking, String::new(), None);
        self.launch.buyers.push(Buyer { at, units, asks, stage, hold, seconds, thinks_ms, request, visit });
        self.buyer(self.launch.buyers.len() - 1);
    }

    /// Asks, and again until it hears something: over and over the same request.
    pub(in super::super) fn buyer(&mut self, n: usize) {
        let buyer = &mut self.launch.buyers[n];
        if matches!(buyer.stage, Stage::Served | Stage::TurnedAway) {
            return;
        }
        match buyer.stage {
            Stage::Thinking(until_ms) if self.now < until_ms => return,
            Stage::Thinking(_) => (buyer.stage, buyer.request) = (Stage::Ending, None),
            _ => {}
        }
        let again_ms = self.dice.range(800, 4_000);
        self.after(again_ms, Event::Buyer(n));
        let times = if self.dice.percent(10) { 2 } else { 1 };
        for _ in 0..times {
            match self.launch.buyers[n].at {
                Some(at) => self.asks_till(n, at),
                None => self.asks_hub(n),
            }
        }
    }

    fn asks_till(&mut self, n: usize, at: usize) {
        if self.sites[at].node.is_none() {
            return;
        }
        let Buyer { units, asks, stage, hold, seconds, request, .. } = &self.launch.buyers[n];
        let gtin = gtin(0);
        let uid = match *request {
            Some(uid) => uid as usize,
            None => {
                let mut moves = vec![];
                let (kind, mut body) = match (stage, asks) {
                    (Stage::Ending, Asks::Hold(Then::Releases)) => ("hold", json!({ "op": "release", "hold": hold })),
                    (Stage::Ending, _) => ("hold", json!({ "op": "commit", "hold": hold })),
                    (_, Asks::Sale) => {
                        moves.push((gtin.number(), -(*units as i64)));
                        ("sale", json!({ "lines": [{ "gtin": gtin.to_string(), "qty": units }] }))
                    }
                    _ => {
                        let asks = json!({ "op": "hold", "gtin": gtin.to_string(), "qty": units, "seconds": seconds });
                        ("hold", asks)
                    }
                };
                let uid = self.till_request(at, kind, &mut body, moves);
                self.launch.by_request.insert(format!("r{uid}"), n);
                self.launch.buyers[n].request = Some(uid as u64);
                uid
            }
        };
        self.ask_till(at, uid);
    }

    fn asks_hub(&mut self, n: usize) {
        let Buyer { units, asks, stage, hold, seconds, request, .. } = &self.launch.buyers[n];
        if let Some(nth) = *request {
            return self.order_again(nth);
        }
        let what = match (stage, asks) {
            (Stage::Ending, Asks::Hold(Then::Releases)) => What::Release(hold.clone()),
            (Stage::Ending, _) => What::Commit(hold.clone()),
            (_, Asks::Buys) => What::Decrement(line(gtin(0), *units as u32, None)),
            _ => What::Reserve(line(gtin(0), *units as u32, Some(*seconds))),
        };
        let nth = self.order(what);
        self.launch.by_order.insert(nth, n);
        self.launch.buyers[n].request = Some(nth);
    }

    pub(in super::super) fn buyer_heard(&mut self, id: &str, reply: &Value) {
        let Some(n) = self.launch.by_request.get(id).copied() else { return };
        let first = if reply["first"].is_null() { &reply["status"] } else { &reply["first"] };
        let hold = reply["hold"]["hold"].as_str().unwrap_or_default().to_owned();
        let uid: u64 = id[1..].parse().expect("a request's id");
        self.hears(n, uid, first == "ok", hold);
    }

    pub(in super::super) fn order_heard(&mut self, nth: u64) {
        let Some(n) = self.launch.by_order.get(&nth).copied() else { return };
        let Some(reply) = self.outcome(nth) else { return };
        let ok = matches!(reply.outcome, Outcome::Done | Outcome::Created);
        let said: Value = serde_json::from_slice(&reply.body).expect("answers are JSON");
        let hold = said["id"].as_str().unwrap_or_default().to_owned();
        self.hears(n, nth, ok, hold);
    }

    /// A buyer hears what the open request came to.
    fn hears(&mut self, n: usize, request: u64, ok: bool, hold: String) {
        let thinks_until_ms = self.now + self.launch.buyers[n].thinks_ms;
        let asked = &self.launch.buyers[n];
        if !ok && asked.request == Some(request) && asked.hold.is_empty() {
            self.launch.lay += self.turned_away_for(asked.units);
        }
        let buyer = &mut self.launch.buyers[n];
        if buyer.request != Some(request) {
            return;
        }
        buyer.stage = match (buyer.stage, buyer.asks) {
            (Stage::Asking, Asks::Hold(Then::Forgets)) if ok => Stage::Served,
            (Stage::Asking, Asks::Hold(_)) if ok => {
                buyer.hold = hold;
                Stage::Thinking(thinks_until_ms)
            }
            (Stage::Asking, Asks::Sale) => {
                assert!(ok, "a sale in hand was refused");
                Stage::Served
            }
            (Stage::Asking | Stage::Ending, _) if ok => Stage::Served,
            (Stage::Asking | Stage::Ending, _) => Stage::TurnedAway,
            (stage, _) => stage,
        };
        if let Stage::Thinking(until_ms) = buyer.stage {
            self.at(until_ms, Event::Buyer(n));
        }
    }

    /// Nothing goes wrong any more: all buyers hear what came of them, and everybody agrees.
    pub(super) fn close_sale(&mut self) -> Figures {
        self.begin_calm();
        let mut waits = String::new();
        for _ in 0..SETTLE_S {
            self.run_to(self.now + 1_000);
            let open =
                self.launch.buyers.iter().position(|buyer| !matches!(buyer.stage, Stage::Served | Stage::TurnedAway));
            match open.map(|n| format!("buyer {n} waits")).or_else(|| self.unsettled()) {
                None => return self.figures(),
                Some(why) => waits = why,
            }
        }
        panic!("after {SETTLE_S} s without a fault: {waits}");
    }

    fn figures(&self) -> Figures {
        let (launch, gtin, book) = (&self.launch, gtin(0).number(), &self.hq.model.rights);
        let promises = &self.oracle.promises;
        let of = |sums: &BTreeMap<u64, u64>| sums.get(&gtin).copied().unwrap_or(0);
        let promised = promises.in_all(gtin, book);
        let (pool, beyond) = (launch.pool, of(&promises.beyond));
        let outside = promises.there_is(gtin, book) - pool;
        assert!(outside == 0 || self.plan.writes_off, "nothing is outside, and nothing came back");
        assert!(promised <= pool + outside, "{promised} of {pool} are promised, and {outside} were reclaimed");
        // Each buyer has what it was told, and nobody has more.
        let bought = |buyer: &&Buyer| {
            let ends = matches!(buyer.asks, Asks::Hold(Then::Commits) | Asks::Buys | Asks::Sale);
            ends && buyer.stage == Stage::Served
        };
        let told: u64 = launch.buyers.iter().filter(bought).map(|buyer| buyer.units).sum();
        // What two lives of a site did for one request, the later one before it had read of it, is promised twice.
        let exact = told == promised + beyond || self.plan.writes_off && told <= promised + beyond;
        assert!(exact, "buyers were told of {told}, {promised} are promised, and {beyond} sold beyond rights");
        let asked = |buyer: &&Buyer| buyer.asks != Asks::Sale;
        // One who came too late for a hold is served elsewhere: turned away is who was refused at first.
        let refused = |buyer: &&Buyer| buyer.stage == Stage::TurnedAway && buyer.hold.is_empty();
        let visits: Vec<Visit> = launch.buyers.iter().map(|buyer| buyer.visit).collect();
        Figures {
            schedules: 1,
            pool,
            demand: launch.buyers.iter().filter(asked).map(|buyer| buyer.units).sum(),
            promised,
            oversold: promised.saturating_sub(pool),
            outside,
            in_hand_beyond: beyond,
            turned_away: launch.buyers.iter().filter(refused).map(|buyer| buyer.units).sum(),
            unavoidable: turned_away(pool, &visits),
            lay: launch.lay,
        }
    }
}
