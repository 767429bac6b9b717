//! After the table: everything runs again, for a newcomer to play with.

use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};

use super::stage::{HUB, Struck};
use crate::door::Login;
use crate::plan::SITES;

/// Resolves at Ctrl-C; never if the signal cannot be had.
pub(crate) async fn interrupted() {
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Starts all nodes again, says what to try, and stops them in order at Ctrl-C.
pub(super) async fn stay(struck: &Struck) -> Result<()> {
    let mut nodes = struck.set_again().await?;
    let port = |name: &str| nodes.get(name).map_or(0, |node| node.addr().port());
    println!("{}", advice(&struck.ca(), &struck.monitor, port(HUB), SITES.map(|site| (site, port(site)))));
    tokio::signal::ctrl_c().await.context("waiting for Ctrl-C")?;
    println!("stopping");
    for site in SITES.into_iter().chain([HUB]) {
        if let Some(node) = nodes.remove(site) {
            node.stop().await?;
        }
    }
    Ok(())
}

fn advice(ca: &Path, login: &Login, hub: u16, sites: [(&str, u16); 3]) -> String {
    let mut text = format!("It runs again, with what it had. Ports on 127.0.0.1: hub {hub}");
    for (site, port) in sites {
        // Writing to a String cannot fail.
        let _ = write!(text, ", {site} {port}");
    }
    let (site, port) = sites[0];
    let (ca, Login { user, password }) = (ca.display(), login);
    let hq = format!("mosquitto_sub -p {hub} --cafile {ca} -u {user} -P {password}");
    let _ = write!(
        text,
        r#"

HQ speaks TLS and wants to know who it is; the stores' devices are on their gateways' own loopback here.

Try, in other terminals (apt install mosquitto-clients):
  {hq} -v -t 'hq/#'
  mosquitto_sub -p {port} -v -t 'dev/pos-9/reply'
  mosquitto_pub -p {port} -q 1 -t dev/scanner-9/scan -m '{{"id":"r1","gtin":"4006381333931","op":"receive","qty":24}}'
  mosquitto_pub -p {port} -q 1 -t dev/pos-9/sale -m '{{"id":"s1","lines":[{{"gtin":"4006381333931","qty":2,"cents":1998}}]}}'
  {hq} -C 1 -t 'hq/stock/04006381333931'     # 22, at {site}
Ctrl-C stops it."#
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_names_every_port() {
        let login = Login { user: "monitor".into(), password: "secret".into() };
        let text = advice(Path::new("/d/ca.crt"), &login, 1884, [("harbour", 1), ("station", 2), ("hilltop", 3)]);
        assert!(text.contains("mosquitto_sub -p 1884 --cafile /d/ca.crt -u monitor -P secret -v -t 'hq/#'"));
        assert!(text.contains("hub 1884, harbour 1, station 2, hilltop 3"));
        assert!(text.contains(r#"-m '{"id":"r1","gtin""#));
    }
}
