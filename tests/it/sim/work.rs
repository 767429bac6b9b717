//! What devices ask: sales, deliveries, counts, edits of the same few items at several sites, nonsense; also twice.

use serde_json::{Value, json};

use super::oracle::Request;
use super::world::{BEGINNING_MS, Who, Work, World};

const REFUSED: [&str; 2] = ["{", "[1]"];

/// The number of an item, with its check digit (GS1 General Specifications).
pub(super) fn item(n: usize) -> u64 {
    let body = format!("4006381333{n:02}");
    let sum: u32 = body
        .bytes()
        .rev()
        .zip([3, 1].into_iter().cycle())
        .map(|(digit, weight)| u32::from(digit - b'0') * weight)
        .sum();
    body.parse::<u64>().expect("digits") * 10 + u64::from((10 - sum % 10) % 10)
}

impl World {
    /// A device asks for something, or once more for what it asked before.
    pub(super) fn ask(&mut self) {
        if self.plan.pools > 0 && self.dice.percent(45) {
            return self.ask_for_rights();
        }
        let at = self.dice.below(self.sites.len());
        if self.sites[at].node.is_none() {
            return;
        }
        let known = self.sites[at].asked.len();
        let uid = if known > 0 && self.dice.percent(15) {
            let nth = self.dice.below(known);
            self.sites[at].asked[nth]
        } else {
            self.new_request(at)
        };
        let times = if self.oracle.requests[uid].id.is_some() && self.dice.percent(6) { 2 } else { 1 };
        for _ in 0..times {
            self.sites[at].inbox.push_back(Work::Request(uid));
        }
        self.note(|| format!("{at} is asked {uid}"));
        self.due(Who::Site(at));
    }

    pub(super) fn blank_request(device: &str, id: Option<String>, kind: &'static str) -> Request {
        Request {
            device: device.into(),
            id,
            kind,
            payload: Default::default(),
            moves: vec![],
            count: None,
            bad: false,
            by_the_clock: false,
            by_rights: false,
            acked: false,
        }
    }

    fn new_request(&mut self, at: usize) -> usize {
        let uid = self.oracle.requests.len();
        let device = self.dice.pick(&["pos-1", "pos-2"]);
        let has_id = self.dice.percent(70);
        let mut request = World::blank_request(device, has_id.then(|| format!("r{uid}")), "scan");
        let mut body = match self.dice.below(20) {
            0..=5 => self.sale(&mut request),
            6..=8 => self.delivery(&mut request),
            9 => self.count(at, &mut request),
            10..=14 => self.edit(uid, &mut request),
            15..=16 => self.taste(uid, &mut request),
            17 => self.move_stock(&mut request),
            18 => {
                request.kind = self.dice.pick(&["activity", "feedback"]);
                json!({ "said": uid })
            }
            _ => {
                request.bad = self.dice.percent(50);
                json!({ "gtin": item(0).to_string() })
            }
        };
        let reused = has_id && self.dice.percent(4);
        if let Some(&other) = self.sites[at].asked.last().filter(|_| reused) {
            let other = &self.oracle.requests[other];
            (request.id, request.device) = (other.id.clone(), other.device.clone());
        }
        if let Some(id) = &request.id {
            body["id"] = json!(id);
        }
        request.payload = body.to_string().into();
        if request.bad && request.kind == "scan" {
            request.payload = self.dice.pick(&REFUSED).into();
            request.kind = "sale";
            request.id = None;
        }
        if request.id.is_some() {
            self.sites[at].asked.push(uid);
        }
        self.oracle.requests.push(request);
        uid
    }

    fn any_item(&mut self) -> u64 {
        item(self.dice.below(self.plan.items))
    }

    /// Lines, some of them bad; the good ones are what must be moved.
    fn lines(&mut self, request: &mut Request, sign: i64) -> Value {
        let many = self.dice.range(1, 4);
        let mut lines = Vec::new();
        for _ in 0..many {
            let (gtin, qty) = (self.any_item(), self.dice.range(1, 5) as i64);
            match self.dice.below(12) {
                0 => lines.push(json!({ "gtin": (gtin ^ 1).to_string(), "qty": qty })),
                1 => lines.push(json!({ "gtin": gtin.to_string(), "qty": 0 })),
                _ => {
                    lines.push(json!({ "gtin": gtin.to_string(), "qty": qty }));
                    request.moves.push((gtin, sign * qty));
                }
            }
        }
        json!(lines)
    }

    fn sale(&mut self, request: &mut Request) -> Value {
        request.kind = "sale";
        json!({ "lines": self.lines(request, -1) })
    }

    fn move_stock(&mut self, request: &mut Request) -> Value {
        request.kind = "move";
        match self.dice.below(3) {
            0 => json!({ "op": "refund", "lines": self.lines(request, 1) }),
            1 => json!({ "op": "adjust", "lines": self.lines(request, 1) }),
            _ => json!({ "op": "transfer", "to": "market", "lines": self.lines(request, -1) }),
        }
    }

    fn delivery(&mut self, request: &mut Request) -> Value {
        let (gtin, qty) = (self.any_item(), self.dice.range(1, 40) as i64);
        request.moves.push((gtin, qty));
        json!({ "gtin": gtin.to_string(), "op": "receive", "qty": qty })
    }

    fn count(&mut self, at: usize, request: &mut Request) -> Value {
        let (gtin, qty) = (self.any_item(), self.dice.range(0, 30) as i64);
        (request.kind, request.count) = ("count", Some((gtin, qty)));
        let mut body = json!({ "gtin": gtin.to_string(), "qty": qty });
        if self.dice.percent(40) {
            let ago = self.dice.range(1, 20_000);
            body["began_ms"] = json!(self.wall(Who::Site(at)).saturating_sub(ago).max(1));
            request.by_the_clock = true;
        }
        body
    }

    fn edit(&mut self, uid: usize, request: &mut Request) -> Value {
        request.kind = "item";
        let mut body = json!({ "gtin": self.any_item().to_string() });
        if self.dice.percent(60) {
            body["price_cents"] = if self.dice.percent(15) { Value::Null } else { json!(uid) };
        }
        if self.dice.percent(25) {
            body["attrs"] = json!({ "shelf": uid });
        }
        if body.as_object().is_some_and(|fields| fields.len() == 1) {
            body["name"] = json!(format!("name {uid}"));
        }
        body
    }

    fn taste(&mut self, uid: usize, request: &mut Request) -> Value {
        request.kind = "note";
        let author = self.dice.pick(&["anna", "ben"]);
        json!({ "gtin": self.any_item().to_string(), "author": author, "text": format!("of {uid}") })
    }

    /// The clock that is off becomes right, or the other way round.
    pub(super) fn step_clock(&mut self) {
        if self.dice.percent(15) {
            self.hq.clock_off_ms = self.dice.range(0, 20_000) as i64 - 10_000;
            return;
        }
        let at = self.dice.below(self.sites.len());
        let off = self.plan.clock_off(&mut self.dice);
        self.sites[at].clock_off_ms = off;
        self.note(|| format!("{at} has a clock that is off by {off} ms, of {BEGINNING_MS}"));
    }
}
