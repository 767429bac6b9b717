//! What must come out, worked out from the requests alone in the most obvious way: no ledger, no sync, no code of
//! the nodes under test.

use std::collections::BTreeMap;

use crate::request::{Action, Line, Request};
use crate::retail::check_digit;

/// More pieces than this in one line are refused.
const QTY_MAX: i64 = 9_999;

/// An item's number, as the journal holds it.
pub type Code = u64;

/// One request of one device: (site, device, request id).
pub type Key = (usize, String, String);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expected {
    pub requests: BTreeMap<Key, Due>,
    /// Units on hand per site and item.
    pub stock: BTreeMap<(usize, Code), i64>,
    /// Price checks per (site, device) that must leave a record, and those that must be refused.
    pub lookups: BTreeMap<(usize, String), u64>,
    pub bad_lookups: BTreeMap<(usize, String), u64>,
}

/// What one request must leave behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Due {
    /// Item and units of each line that is kept, in order.
    pub movements: Vec<(Code, i64)>,
    /// Line (0: the request as a whole) and code of each refusal.
    pub refusals: Vec<(u32, &'static str)>,
}

impl Due {
    pub fn is_refused_whole(&self) -> bool {
        self.refusals.iter().any(|(line, _)| *line == 0)
    }
}

pub fn expect<'a>(requests: impl IntoIterator<Item = &'a Request>) -> Expected {
    let mut expected = Expected::default();
    for request in requests {
        match &request.action {
            Action::Sale { lines } => expected.sale(request, lines),
            Action::Receive { code, qty } => expected.receive(request, code, *qty),
            Action::LookUp { code, .. } => expected.look_up(request, code),
            // Moves no stock and must be answered; what becomes of the registers is checked by itself.
            Action::EditItem { .. } | Action::WriteNote { .. } => expected.book(request, Due::default()),
        }
    }
    expected
}

impl Expected {
    pub fn movements(&self) -> u64 {
        self.requests.values().map(|due| due.movements.len() as u64).sum()
    }

    /// HQ's view of one item: the total, and each site that has a part in it.
    pub fn by_item(&self) -> BTreeMap<Code, BTreeMap<usize, i64>> {
        let mut items: BTreeMap<Code, BTreeMap<usize, i64>> = BTreeMap::new();
        for ((site, code), units) in &self.stock {
            items.entry(*code).or_default().insert(*site, *units);
        }
        items
    }

    fn sale(&mut self, request: &Request, lines: &[Line]) {
        let mut due = Due::default();
        for (n, line) in lines.iter().enumerate() {
            match judge(&line.code, line.qty) {
                Ok(code) => due.movements.push((code, -line.qty)),
                Err(why) => due.refusals.push((n as u32 + 1, why)),
            }
        }
        self.book(request, due);
    }

    fn receive(&mut self, request: &Request, code: &str, qty: i64) {
        let due = match judge(code, qty) {
            Ok(code) => Due { movements: vec![(code, qty)], refusals: vec![] },
            Err(why) => Due { movements: vec![], refusals: vec![(0, why)] },
        };
        self.book(request, due);
    }

    fn look_up(&mut self, request: &Request, code: &str) {
        let device = (request.site, request.device.clone());
        let tally = if read(code).is_ok() { &mut self.lookups } else { &mut self.bad_lookups };
        *tally.entry(device).or_default() += 1;
    }

    fn book(&mut self, request: &Request, due: Due) {
        for (code, units) in &due.movements {
            *self.stock.entry((request.site, *code)).or_default() += units;
        }
        let id = request.id.clone().unwrap_or_default();
        self.requests.insert((request.site, request.device.clone(), id), due);
    }
}

fn judge(code: &str, qty: i64) -> Result<Code, &'static str> {
    let code = read(code)?;
    match qty {
        0 => Err("qty_zero"),
        1..=QTY_MAX => Ok(code),
        _ => Err("qty_absurd"),
    }
}

fn read(code: &str) -> Result<Code, &'static str> {
    let number = code.parse().map_err(|_| "gtin_not_digits")?;
    let (digits, check) = code.split_at(code.len() - 1);
    if check == check_digit(digits).to_string() { Ok(number) } else { Err("gtin_check_digit") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Quirk;
    use std::time::Duration;

    fn request(id: &str, action: Action) -> Request {
        let (device, id) = ("pos-1".to_owned(), Some(id.to_owned()));
        Request { site: 1, device, id, at_ms: None, due: Duration::ZERO, quirk: Quirk::Twice, action }
    }

    fn line(code: &str, qty: i64) -> Line {
        Line { code: code.into(), qty, cents: 100 }
    }

    #[test]
    fn keeps_good_lines_and_refuses_the_others_one_by_one() {
        const ITEM: &str = "4006381333931";
        let lines = vec![line(ITEM, 2), line(ITEM, 0), line("4006381333932", 1), line(ITEM, 10_000), line(ITEM, 9_999)];
        let requests = [
            request("r1", Action::Receive { code: ITEM.into(), qty: 24 }),
            request("r2", Action::Receive { code: "4006381333932".into(), qty: 24 }),
            request("s1", Action::Sale { lines }),
            request("l1", Action::LookUp { code: ITEM.into(), ending: "\r" }),
        ];
        let expected = expect(&requests);
        let due = |id: &str| &expected.requests[&(1, "pos-1".to_owned(), id.to_owned())];
        assert_eq!(due("s1").movements, [(4_006_381_333_931, -2), (4_006_381_333_931, -9_999)]);
        assert_eq!(due("s1").refusals, [(2, "qty_zero"), (3, "gtin_check_digit"), (4, "qty_absurd")]);
        assert_eq!(due("r2").refusals, [(0, "gtin_check_digit")]);
        assert_eq!(expected.stock, BTreeMap::from([((1, 4_006_381_333_931), 24 - 2 - 9_999)]));
        assert_eq!((expected.movements(), expected.lookups.len()), (3, 1));
    }
}
