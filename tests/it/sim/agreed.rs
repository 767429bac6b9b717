//! At rest: the hub and every site agree on every number of every pool, and no hold is open past its deadline.

use prost::Message;
use proto::gtin::Gtin;
use proto::wire::{HoldCell, HoldEnd, RightsEntry};

use super::disk::Disk;
use super::oracle::rep;
use super::world::{Site, World};

/// Tables of the gateway and of the hub, by their numbers on disk.
const GRANTED: u8 = 14;
const HOLDS: u8 = 16;
const HUB_HOLDS: u8 = 22;

impl World {
    pub(super) fn rights_differ(&self) -> Option<String> {
        let book = &self.hq.model.rights;
        for gtin in book.pooled() {
            let item = Gtin::from_number(gtin).expect("an item of the plan");
            let (due, shown) = (book.free(gtin), self.shown_free(item));
            // What an earlier life sold beyond its rights may count twice in a fork of a fork, and at a hub that was restored
            // in the middle of a rejoin: too little is free then, never too much.
            let twice = self.oracle.restores > 0 || self.plan.old_lives || self.plan.disturbs;
            let agrees = shown.is_some_and(|shown| shown == due || twice && shown < due);
            if !agrees {
                return Some(format!("{shown:?} of {gtin} is free as the hub says, due is {due}"));
            }
            if let Some(why) = self.sites.iter().find_map(|site| self.rights_differ_at(site, gtin)) {
                return Some(why);
            }
        }
        let hub = self.hq.node.as_ref().and_then(|node| open_hold(&node.disk, HUB_HOLDS));
        let mut sites = self.sites.iter().filter_map(|site| open_hold(&site.node.as_ref()?.disk, HOLDS));
        hub.or_else(|| sites.next()).map(|id| format!("hold {id} is still open"))
    }

    fn rights_differ_at(&self, site: &Site, gtin: u64) -> Option<String> {
        let disk = &site.node.as_ref()?.disk;
        let life = rep(&disk.replica);
        let own = self.oracle.promises.rights(&life, gtin);
        let known = self.hq.model.rights.used(gtin, &life);
        // A hub that was restored is told anew.
        if known.unwrap_or(proto::wire::Rights { gtin, ..Default::default() }) != own {
            return Some(format!("the hub knows {known:?} of {life:?}, whose journal says {own:?}"));
        }
        let grant = self.hq.model.rights.grant(gtin, &life);
        let heard = disk.cell(GRANTED, &gtin.to_be_bytes());
        let Some(heard) = heard.map(|cell| RightsEntry::decode(cell).expect("a cell of a gateway")) else {
            return Some(format!("{life:?} does not know that {gtin} has a pool"));
        };
        // An ask that a restored hub forgot was answered all the same.
        let asks = if self.oracle.restores > 0 { grant.asked.max(own.answered) } else { grant.asked };
        if (heard.granted, heard.asked) != (grant.granted, asks) || own.answered < heard.asked {
            return Some(format!("{life:?} heard {heard:?} and says {own:?}, the hub says {grant:?}"));
        }
        let shelf = site.shown.get(&format!("store/stock/{gtin:014}"));
        let shelf = shelf.and_then(|json| serde_json::from_slice::<serde_json::Value>(json).ok());
        let shown = shelf.map(|shelf| ["available", "held", "promised"].map(|field| shelf[field].as_i64()));
        let spent = own.returned + own.promised + own.held;
        let due = [heard.granted as i64 - spent as i64, own.held as i64, own.promised as i64].map(Some);
        (shown.is_some_and(|shown| shown != due)).then(|| format!("{life:?} shows {shown:?} of {gtin}, due is {due:?}"))
    }
}

fn open_hold(disk: &Disk, table: u8) -> Option<String> {
    disk.table(table).find_map(|(key, value)| {
        let cell = HoldCell::decode(value).expect("a cell of a hold");
        (cell.ended() == HoldEnd::Unspecified).then(|| String::from_utf8_lossy(key).into_owned())
    })
}
