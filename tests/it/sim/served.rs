//! The very end: a site where buyers ask for more than it has left is granted it, as long as the hub has units free. Whatever
//! was restored, lost or asked back before.

use prost::Message;
use proto::gtin::Gtin;
use proto::wire::{Rights, RightsEntry};
use serde_json::json;

use super::oracle::rep;
use super::sales::gtin;
use super::world::World;

/// The gateway's table of grants, by its number on disk.
const GRANTED: u8 = 14;
/// A buyer comes again so often, after so many milliseconds.
const TRIES: u32 = 45;
const AGAIN_MS: u64 = 2_000;

impl World {
    pub(super) fn shown_free(&self, gtin: Gtin) -> Option<i64> {
        let shown = self.hq.shown.get(&format!("hq/pools/{gtin}"))?;
        serde_json::from_slice::<serde_json::Value>(shown).ok()?["free"].as_i64()
    }

    pub(super) fn everybody_is_served(&mut self) {
        for nth in 0..self.plan.pools {
            for at in 0..self.sites.len() {
                self.is_served(at, gtin(nth));
            }
        }
    }

    fn is_served(&mut self, at: usize, gtin: Gtin) {
        for _ in 0..TRIES {
            // As the hub itself counts: after a restore it may be less than there is.
            if self.shown_free(gtin).is_none_or(|free| free < 1) {
                return;
            }
            let qty = self.left_at(at, gtin) + 1;
            let mut body = json!({ "op": "hold", "gtin": gtin.to_string(), "qty": qty, "seconds": 600 });
            let uid = self.till_request(at, "hold", &mut body, vec![]);
            self.ask_till(at, uid);
            let until = self.now + AGAIN_MS;
            self.run_to(until);
            let reply = self.first_reply(at, uid).expect("a till is answered");
            if reply == "ok" {
                return;
            }
        }
        let free = self.shown_free(gtin);
        let life = rep(&self.sites[at].node.as_ref().expect("it is up").disk.replica);
        let (grant, own) =
            (self.hq.model.rights.grant(gtin.number(), &life), self.oracle.promises.rights(&life, gtin.number()));
        panic!("{free:?} of {gtin} are free, and {at} is granted none: {grant:?}, {own:?}");
    }

    /// What the site may promise.
    fn left_at(&self, at: usize, gtin: Gtin) -> u64 {
        let disk = &self.sites[at].node.as_ref().expect("it is up").disk;
        let Rights { returned, promised, held, .. } = self.oracle.promises.rights(&rep(&disk.replica), gtin.number());
        let heard = disk.cell(GRANTED, &gtin.number().to_be_bytes());
        let granted = heard.map_or(0, |cell| RightsEntry::decode(cell).expect("a cell of a gateway").granted);
        granted.saturating_sub(returned + promised + held)
    }
}
