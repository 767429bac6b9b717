//! What a monitor at HQ must show when all is caught up.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;

use super::edits::Edits;
use crate::door::Door;
use crate::monitor::{Monitor, Topics};
use crate::oracle::{Code, Expected};
use crate::plan::SITES;
use crate::status;

/// Stock per (site, item) as HQ's topics show it.
pub(super) type Shown = BTreeMap<(usize, Code), i64>;

/// Waits until every `hq/stock` topic shows the oracle's figures and the conflict topics tell of the losers.
/// Gives what is shown in the end, and what is wrong with it.
pub(super) async fn monitor_hq(
    hq: Door,
    expected: &Expected,
    edits: &Edits,
    agreed: Option<[usize; 2]>,
    most: Duration,
) -> Result<(Shown, Vec<String>)> {
    let mut screen = Monitor::new("demo-monitor", hq, &["hq/#".to_owned()]);
    let stock = screen.until(most, |topics| stock_is_right(topics, expected)).await?;
    let mut faults: Vec<String> = stock.err().into_iter().collect();
    if let Some(agreed) = agreed {
        let told = screen.until(most, |topics| edits.losers_shown(topics, agreed)).await?;
        faults.extend(told.err());
    }
    Ok((shown(&screen.latest), faults))
}

fn stock_is_right(topics: &Topics, expected: &Expected) -> Result<(), String> {
    let mut wrong = 0;
    let mut first = None;
    for (code, sites) in expected.by_item() {
        let topic = format!("hq/stock/{code:014}");
        let total: i64 = sites.values().sum();
        let good = topics.get(&topic).and_then(|shown| status::hq_stock(shown)).is_some_and(|shown| {
            let held = |site: &usize| shown.sites.get(SITES[*site]).copied().unwrap_or(0);
            shown.on_hand == total && sites.iter().all(|(site, units)| held(site) == *units)
        });
        if !good {
            wrong += 1;
            first.get_or_insert_with(|| {
                let shown = topics.get(&topic).map_or("nothing".into(), |shown| String::from_utf8_lossy(shown));
                format!("{topic} must show {total} in all and shows {shown}")
            });
        }
    }
    first.map_or(Ok(()), |first| Err(format!("{wrong} items are wrong on hq/stock, the first: {first}")))
}

fn shown(topics: &Topics) -> Shown {
    let mut cells = Shown::new();
    for (topic, payload) in topics {
        let code = topic.strip_prefix("hq/stock/").and_then(|code| code.parse::<Code>().ok());
        let (Some(code), Some(stock)) = (code, status::hq_stock(payload)) else { continue };
        for (site, name) in SITES.iter().enumerate() {
            if let Some(units) = stock.sites.get(*name) {
                cells.insert((site, code), *units);
            }
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wrong_figure_is_named() {
        let stock = BTreeMap::from([((0, 4_006_381_333_931), 22), ((2, 4_006_381_333_931), -2)]);
        let expected = Expected { stock, ..Expected::default() };
        let topics = |text: &'static str| Topics::from([("hq/stock/04006381333931".to_owned(), text.into())]);
        let good = topics(r#"{"on_hand":20,"sites":{"harbour":22,"hilltop":-2}}"#);
        assert_eq!(stock_is_right(&good, &expected), Ok(()));
        assert_eq!(shown(&good), expected.stock);
        for bad in
            [r#"{"on_hand":20,"sites":{"harbour":20}}"#, r#"{"on_hand":19,"sites":{"harbour":22,"hilltop":-2}}"#, ""]
        {
            assert!(stock_is_right(&topics(bad), &expected).unwrap_err().contains("hq/stock/04006381333931"));
        }
        assert!(stock_is_right(&Topics::new(), &expected).unwrap_err().contains("nothing"));
    }
}
