//! The script of a run: every request of every device with its moment, drawn from the retail rows and a seed. The
//! same seed gives the same script, byte for byte.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Context, Result};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::request::{Action, Line, Quirk, Request};
use crate::retail::{self, Product, Row};

/// The three stores, busiest first.
pub const SITES: [&str; 3] = ["harbour", "station", "hilltop"];
/// The site whose gateway is killed, and the two whose tablets write the same registers while cut off.
pub const KILLED_SITE: usize = 0;
pub const EDITING_SITES: [usize; 2] = [1, 2];
pub const TABLET: &str = "tablet-1";

const TILLS: u64 = 3;
const SCANNERS: u64 = 2;
/// More pieces than this in one line are refused; no delivery scan claims more.
const QTY_MAX: i64 = 9_999;
/// What the killed gateway's devices would do in this long before the kill, they do at the kill.
const RUSH: Duration = Duration::from_millis(1_500);

/// Out of so many requests one goes wrong in this way.
const ONE_IN_TWICE: u32 = 25;
const ONE_IN_LOST_ACK: u32 = 60;
const ONE_IN_MISREAD: u32 = 80;
const ONE_IN_LOOKUP: u32 = 12;

#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub seed: u64,
    /// Sale lines at most, over all sites; the first ones in time order.
    pub lines_max: usize,
    pub length: Duration,
    /// When the gateway of `KILLED_SITE` is killed.
    pub kill_at: Duration,
}

#[derive(Debug, Clone)]
pub struct Plan {
    /// By site, in the order of their moments.
    pub sites: Vec<Vec<Request>>,
    /// The wine whose price and tasting note are edited at two sites at once.
    pub wine: Wine,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wine {
    pub code: String,
    pub name: String,
}

pub fn make(shape: Shape) -> Result<Plan> {
    let rows = retail::rows()?;
    let stores = retail::busiest(&rows, SITES.len());
    let wine = pick_wine(&rows, &stores, &retail::products()?).context("the data holds no wine")?;
    let rows: Vec<&Row> = rows.iter().filter(|row| stores.contains(&row.store_id)).take(shape.lines_max).collect();
    let last = rows.len().max(1) as f64;
    let mut sites = Vec::new();
    for (site, store) in stores.iter().enumerate() {
        let here = rows.iter().enumerate().filter(|(_, row)| row.store_id == *store);
        let timed: Vec<(Duration, &Row)> =
            here.map(|(n, row)| (shape.length.mul_f64((n + 1) as f64 / last), *row)).collect();
        sites.push(Scribe::new(site, shape.seed).write(&timed, shape));
    }
    Ok(Plan { sites, wine })
}

/// Writes one site's script.
struct Scribe {
    site: usize,
    dice: SmallRng,
    requests: Vec<Request>,
    scans: u64,
}

impl Scribe {
    fn new(site: usize, seed: u64) -> Scribe {
        let dice = SmallRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(site as u64));
        Scribe { site, dice, requests: Vec::new(), scans: 0 }
    }

    fn write(mut self, timed: &[(Duration, &Row)], shape: Shape) -> Vec<Request> {
        self.deliveries(timed, shape);
        self.sales(timed);
        if self.site == KILLED_SITE {
            let rush = shape.kill_at.saturating_sub(RUSH)..shape.kill_at;
            for request in self.requests.iter_mut().filter(|request| rush.contains(&request.due)) {
                request.due = shape.kill_at;
            }
        }
        self.requests.sort_by_key(|request| request.due);
        self.requests
    }

    /// Each sold product is delivered too: roughly what is sold of it, now and then too little, some time before its
    /// first sale. On hand may go below zero all the same.
    fn deliveries(&mut self, timed: &[(Duration, &Row)], shape: Shape) {
        let mut sold: BTreeMap<u64, (Duration, &str, i64)> = BTreeMap::new();
        for (due, row) in timed {
            let pieces = if (1..=QTY_MAX).contains(&row.quantity) { row.quantity } else { 0 };
            sold.entry(row.product_id).or_insert((*due, &row.ts, 0)).2 += pieces;
        }
        for (product, (first_sale, ts, pieces)) in sold {
            let ahead = shape.length.mul_f64(self.dice.random_range(0.0..0.15));
            let due = first_sale.saturating_sub(ahead);
            let mut left = pieces.max(1) * self.dice.random_range(8..=20) / 10;
            left = left.max(1);
            while left > 0 {
                let qty = left.min(QTY_MAX);
                self.delivery(due, ts, &retail::barcode(product), qty);
                left -= qty;
            }
        }
    }

    fn delivery(&mut self, due: Duration, ts: &str, code: &str, qty: i64) {
        let scanner = format!("scanner-{}", 1 + self.dice.random_range(0..SCANNERS));
        if self.dice.random_ratio(1, ONE_IN_MISREAD) {
            // The laser misread; the scanner beeps and the carton is scanned again.
            let misread = misread(code, &mut self.dice);
            self.scan(due, ts, &scanner, Action::Receive { code: misread, qty });
        }
        self.scan(due, ts, &scanner, Action::Receive { code: code.to_owned(), qty });
        if self.dice.random_ratio(1, ONE_IN_LOOKUP) {
            let ending = ["\r\n", "\r", "\n", ""][self.dice.random_range(0..4)];
            let code = if self.dice.random_ratio(1, 10) { misread(code, &mut self.dice) } else { code.to_owned() };
            self.scan(due, ts, &scanner, Action::LookUp { code, ending });
        }
    }

    fn scan(&mut self, due: Duration, ts: &str, scanner: &str, action: Action) {
        self.scans += 1;
        // Bare text has no id, so a repeat of it is a second scan: its links are left alone, to keep the counts exact.
        let bare = matches!(action, Action::LookUp { .. });
        let id = (!bare).then(|| format!("r{}", self.scans));
        let quirk = if bare { Quirk::None } else { self.quirk() };
        self.push(due, ts, scanner.to_owned(), id, quirk, action);
    }

    fn sales(&mut self, timed: &[(Duration, &Row)]) {
        let mut baskets: BTreeMap<u64, Vec<(Duration, &Row)>> = BTreeMap::new();
        for (due, row) in timed {
            baskets.entry(row.basket_id).or_default().push((*due, row));
        }
        for (basket, lines) in baskets {
            let Some((due, first)) = lines.last().copied() else { continue };
            let till = format!("pos-{}", 1 + basket % TILLS);
            let mut again = Vec::new();
            let lines = lines.iter().map(|(_, row)| self.line(row, &mut again)).collect();
            let quirk = self.quirk();
            self.push(due, &first.ts, till.clone(), Some(format!("b{basket}")), quirk, Action::Sale { lines });
            if !again.is_empty() {
                // The till says which lines it refused; the cashier scans those again.
                let sale = Action::Sale { lines: again };
                self.push(due, &first.ts, till, Some(format!("b{basket}-again")), Quirk::None, sale);
            }
        }
    }

    fn line(&mut self, row: &Row, again: &mut Vec<Line>) -> Line {
        let line = Line { code: retail::barcode(row.product_id), qty: row.quantity, cents: row.cents };
        if !self.dice.random_ratio(1, ONE_IN_MISREAD) {
            return line;
        }
        let misread = Line { code: misread(&line.code, &mut self.dice), ..line.clone() };
        again.push(line);
        misread
    }

    fn quirk(&mut self) -> Quirk {
        if self.dice.random_ratio(1, ONE_IN_TWICE) {
            Quirk::Twice
        } else if self.dice.random_ratio(1, ONE_IN_LOST_ACK) {
            Quirk::LoseAck
        } else {
            Quirk::None
        }
    }

    fn push(&mut self, due: Duration, ts: &str, device: String, id: Option<String>, quirk: Quirk, action: Action) {
        // Half of the devices send their clock.
        let at_ms = if device.ends_with('1') { retail::till_ms(ts) } else { None };
        self.requests.push(Request { site: self.site, device, id, at_ms, due, quirk, action });
    }
}

/// The code with its check digit wrong, as a laser over a crease reads it.
fn misread(code: &str, dice: &mut SmallRng) -> String {
    let (digits, check) = code.split_at(code.len() - 1);
    let check: u32 = check.parse().unwrap_or(0);
    format!("{digits}{}", (check + dice.random_range(1..10)) % 10)
}

/// The wine with the most lines at these stores.
fn pick_wine(rows: &[Row], stores: &[u32], products: &HashMap<u64, Product>) -> Option<Wine> {
    let mut lines: BTreeMap<u64, usize> = BTreeMap::new();
    for row in rows.iter().filter(|row| stores.contains(&row.store_id)) {
        *lines.entry(row.product_id).or_default() += 1;
    }
    let wines = lines.into_iter().filter_map(|(id, lines)| Some((lines, products.get(&id)?)));
    let wines = wines.filter(|(_, product)| product.product_category.contains("WINE"));
    let (_, wine) = wines.max_by_key(|(lines, product)| (*lines, product.product_id))?;
    let name = format!("{} {}", wine.product_type, wine.package_size).trim().to_owned();
    Some(Wine { code: retail::barcode(wine.product_id), name })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn shape(seed: u64) -> Shape {
        let (length, kill_at) = (Duration::from_secs(60), Duration::from_secs(24));
        Shape { seed, lines_max: usize::MAX, length, kill_at }
    }

    #[test]
    fn the_seed_is_all_there_is_to_it() {
        let (a, b, c) = (make(shape(1)).unwrap(), make(shape(1)).unwrap(), make(shape(2)).unwrap());
        assert_eq!(a.sites, b.sites);
        assert_ne!(a.sites, c.sites);
    }

    #[test]
    fn plays_every_line_in_time_and_names_no_request_twice() {
        let plan = make(shape(7)).unwrap();
        let mut sold = 0;
        for (site, requests) in plan.sites.iter().enumerate() {
            assert!(requests.is_sorted_by_key(|request| request.due));
            let mut ids = BTreeSet::new();
            for request in requests {
                assert_eq!(request.site, site);
                assert!(request.due <= Duration::from_secs(60));
                if let Some(id) = &request.id {
                    assert!(ids.insert((request.device.clone(), id.clone())), "{id} twice");
                    if let Action::Sale { lines } = &request.action
                        && !id.ends_with("-again")
                    {
                        sold += lines.len();
                    }
                }
            }
        }
        assert_eq!(sold, 5_459);
        let quirks = plan.sites.iter().flatten().map(|request| request.quirk);
        assert!(quirks.clone().any(|quirk| quirk == Quirk::Twice) && quirks.clone().any(|q| q == Quirk::LoseAck));
    }

    #[test]
    fn the_store_that_will_be_hit_is_busy_at_that_moment() {
        let plan = make(shape(7)).unwrap();
        let at_kill = |site: usize| plan.sites[site].iter().filter(|r| r.due == Duration::from_secs(24)).count();
        assert!(at_kill(KILLED_SITE) > 20, "{}", at_kill(KILLED_SITE));
    }

    #[test]
    fn a_misread_is_never_right() {
        let mut dice = SmallRng::seed_from_u64(1);
        for product in 0..500 {
            assert!(misread(&retail::barcode(product), &mut dice).parse::<proto::gtin::Gtin>().is_err());
        }
    }
}
