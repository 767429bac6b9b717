//! By hand it must also work: the README's commands with the mosquitto clients, in both MQTT versions.

use std::net::SocketAddr;
use std::process::Stdio;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::harness::wait::{PATIENCE, until};
use crate::harness::{GTIN, Pair, SITE, gtin, tools};

#[tokio::test]
async fn the_readme_by_hand() {
    if !tools::has(&["mosquitto_pub", "mosquitto_sub"]) {
        return;
    }
    let pair = Pair::start().await;
    for (n, version) in ["311", "5"].into_iter().enumerate() {
        let item = gtin(n as u64);
        assert_eq!(GTIN.len(), item.len());
        let mut replies = Sub::start(pair.gateway.addr, version, "dev/pos-1/reply").await;
        let id = |what: &str| format!("{what}-{version}");
        let receive = json!({"id": id("r"), "gtin": item, "op": "receive", "qty": 24});
        publish(pair.gateway.addr, version, "dev/scanner-1/scan", &receive).await;
        let sale = json!({"id": id("s"), "lines": [{"gtin": item, "qty": 2, "cents": 1998}]});
        publish(pair.gateway.addr, version, "dev/pos-1/sale", &sale).await;
        let reply = replies.next().await;
        assert_eq!((&reply["id"], &reply["status"]), (&json!(id("s")), &json!("ok")), "{reply}");
        assert_eq!(reply["lines"][0]["on_hand"], 22, "{reply}");

        let topic = format!("hq/stock/{item}");
        let shown = until("hq/stock shows it", async || {
            let stock = Sub::start(pair.hub.addr, version, &topic).await.next().await;
            if stock["on_hand"] == 22 { Ok(stock) } else { Err(stock.to_string()) }
        });
        let shown = shown.await;
        assert_eq!((&shown["gtin"], &shown["sites"]), (&json!(item), &json!({SITE: 22})), "{shown}");
        println!("mosquitto -V {version}: {shown}");
    }
}

async fn publish(addr: SocketAddr, version: &str, topic: &str, payload: &Value) {
    let (port, payload) = (addr.port().to_string(), payload.to_string());
    let words = ["-p", &port, "-V", version, "-q", "1", "-t", topic, "-m", &payload];
    let done = timeout(PATIENCE, Command::new("mosquitto_pub").args(words).output()).await;
    let done = done.expect("mosquitto_pub ends").expect("run mosquitto_pub");
    assert!(done.status.success(), "mosquitto_pub -V {version}: {done:?}");
}

struct Sub {
    lines: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Sub {
    /// Subscribed when this returns: its debug lines say so.
    async fn start(addr: SocketAddr, version: &str, topic: &str) -> Sub {
        let port = addr.port().to_string();
        let mut child = Command::new("stdbuf")
            .args(["-oL", "mosquitto_sub", "-d", "-p", &port, "-V", version, "-q", "1", "-t", topic])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("start mosquitto_sub");
        let mut lines = BufReader::new(child.stdout.take().expect("its stdout")).lines();
        loop {
            let line = timeout(PATIENCE, lines.next_line()).await.expect("mosquitto_sub subscribes");
            let line = line.expect("read its output").expect("mosquitto_sub goes on");
            if line.starts_with("Subscribed") {
                return Sub { lines, _child: child };
            }
        }
    }

    /// The next message; the other lines are for debugging.
    async fn next(&mut self) -> Value {
        loop {
            let line = timeout(PATIENCE, self.lines.next_line()).await.expect("a message arrives");
            let line = line.expect("read its output").expect("mosquitto_sub goes on");
            if line.starts_with('{') {
                return serde_json::from_str(&line).expect("the message is JSON");
            }
        }
    }
}
