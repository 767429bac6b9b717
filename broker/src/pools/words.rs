//! Questions about pools and rights as lines on the admin socket.

use proto::gtin::Gtin;
use proto::id::SiteName;

use crate::hub::{POOL_UNITS_MAX, PoolChange, RightsAsk, RightsChange, RightsNote};
use crate::node::note::{of_word, to_word};

/// Asks what a site's current life may have promised without the hub's knowledge.
pub(crate) fn at_risk(site: &SiteName) -> String {
    to_words(&RightsAsk::AtRisk(site.clone()))
}

pub(super) fn to_words(ask: &RightsAsk) -> String {
    match ask {
        RightsAsk::List => "pool list".into(),
        RightsAsk::Show(gtin) => format!("pool show {gtin}"),
        RightsAsk::AtRisk(site) => format!("rights left {site}"),
        RightsAsk::Pool(gtin, change, said) => {
            let (verb, units) = match change {
                PoolChange::Create(units) => ("create", units),
                PoolChange::Add(units) => ("add", units),
                PoolChange::Withdraw(units) => ("withdraw", units),
                PoolChange::WithdrawAll(units) => ("withdraw-all", units),
            };
            format!("pool {verb} {gtin} {units} {}", note(said))
        }
        RightsAsk::Site(gtin, site, change, said) => {
            let (verb, units, to) = match change {
                RightsChange::Grant(units) => ("grant", *units, "-"),
                RightsChange::Ask(units) => ("ask", *units, "-"),
                RightsChange::Move(units, to) => ("move", *units, to.as_str()),
                RightsChange::Reclaim => ("reclaim", 0, "-"),
            };
            format!("rights {verb} {gtin} {site} {units} {to} {}", note(said))
        }
    }
}

/// `None` if it is nothing about pools or rights.
pub(crate) fn of_words(words: &[&str]) -> Option<RightsAsk> {
    match words {
        ["pool", "list"] => Some(RightsAsk::List),
        ["pool", "show", gtin] => Some(RightsAsk::Show(gtin.parse().ok()?)),
        ["rights", "left", site] => Some(RightsAsk::AtRisk(site.parse().ok()?)),
        ["pool", verb, gtin, units, by, why, reference] => {
            let (gtin, units) = (gtin.parse::<Gtin>().ok()?, amount(units)?);
            let change = match *verb {
                "create" => PoolChange::Create(units),
                "add" => PoolChange::Add(units),
                "withdraw" => PoolChange::Withdraw(units),
                "withdraw-all" => PoolChange::WithdrawAll(units),
                _ => return None,
            };
            Some(RightsAsk::Pool(gtin, change, note_of(by, why, reference)?))
        }
        ["rights", verb, gtin, site, units, to, by, why, reference] => {
            let (gtin, site) = (gtin.parse::<Gtin>().ok()?, site.parse().ok()?);
            let change = match *verb {
                "grant" => RightsChange::Grant(amount(units)?),
                "ask" => RightsChange::Ask(amount(units)?),
                "move" => RightsChange::Move(amount(units)?, to.parse().ok()?),
                "reclaim" => RightsChange::Reclaim,
                _ => return None,
            };
            Some(RightsAsk::Site(gtin, site, change, note_of(by, why, reference)?))
        }
        _ => None,
    }
}

fn amount(word: &str) -> Option<u64> {
    word.parse().ok().filter(|units| (1..=POOL_UNITS_MAX).contains(units))
}

fn note(RightsNote { by, why, reference }: &RightsNote) -> String {
    format!("{} {} {}", to_word('b', by), to_word('w', why), to_word('r', reference))
}

fn note_of(by: &str, why: &str, reference: &str) -> Option<RightsNote> {
    Some(RightsNote { by: of_word('b', by)?, why: of_word('w', why)?, reference: of_word('r', reference)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_arrives_as_it_was_meant() {
        let gtin: Gtin = "4006381333931".parse().unwrap();
        let site = |name: &str| name.parse::<SiteName>().unwrap();
        let note = RightsNote { by: "Anna K.".into(), why: "the launch".into(), reference: "PO 7".into() };
        let pool = |change| RightsAsk::Pool(gtin, change, note.clone());
        let rights = |change| RightsAsk::Site(gtin, site("hill"), change, RightsNote::default());
        for ask in [
            RightsAsk::List,
            RightsAsk::Show(gtin),
            RightsAsk::AtRisk(site("hill")),
            pool(PoolChange::Create(1_000)),
            pool(PoolChange::Add(1)),
            pool(PoolChange::Withdraw(2)),
            pool(PoolChange::WithdrawAll(3)),
            rights(RightsChange::Grant(4)),
            rights(RightsChange::Ask(5)),
            rights(RightsChange::Move(6, site("harbour"))),
            rights(RightsChange::Reclaim),
        ] {
            let words = to_words(&ask);
            assert_eq!(of_words(&words.split_whitespace().collect::<Vec<_>>()), Some(ask), "{words}");
        }
        let none = "pool create 4006381333931 0 b w r";
        let many = format!("pool add 4006381333931 {} b w r", POOL_UNITS_MAX + 1);
        for words in ["pool", "pool show 7", none, &many, "rights grant 4006381333931 hill - - b w r", "status"] {
            assert_eq!(of_words(&words.split_whitespace().collect::<Vec<_>>()), None, "{words}");
        }
    }
}
