//! A real broker for the tests: mosquitto, where it is installed; and a toy gateway on it that only answers.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::client::{Client, Event, Options, Token};

const WAIT: Duration = Duration::from_secs(20);

pub(crate) struct Mosquitto {
    child: Child,
    pub(crate) addr: SocketAddr,
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) async fn mosquitto() -> Option<Mosquitto> {
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let port = addr.port().to_string();
    // Debian puts it where a plain user's PATH does not look.
    let start =
        |program: &str| Command::new(program).args(["-p", &port]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let Ok(child) = start("mosquitto").or_else(|_| start("/usr/sbin/mosquitto")) else {
        eprintln!("SKIPPED: mosquitto is not installed (apt install mosquitto)");
        return None;
    };
    let broker = Mosquitto { child, addr };
    let deadline = Instant::now() + WAIT;
    while tokio::net::TcpStream::connect(addr).await.is_err() {
        assert!(Instant::now() < deadline, "mosquitto does not listen on {addr}");
        sleep(Duration::from_millis(10)).await;
    }
    Some(broker)
}

/// Answers what has an id, knows repeats, and loses every `lose`-th first answer.
pub(crate) async fn toy_gateway(addr: SocketAddr, lose: u32) -> JoinHandle<()> {
    let (ready, is_ready) = oneshot::channel();
    let toy = tokio::spawn(answer_all(addr, lose, ready));
    is_ready.await.unwrap();
    toy
}

async fn answer_all(addr: SocketAddr, lose: u32, ready: oneshot::Sender<()>) {
    let subscribe = ["sale", "scan", "item", "note"].map(|kind| format!("dev/+/{kind}")).to_vec();
    let options = Options { client: "toy".into(), door: addr.into(), clean: true, window: 1_000, subscribe, seed: 1 };
    let (mut client, mut ready) = (Client::new(options), Some(ready));
    let (mut known, mut token) = (BTreeSet::new(), 0);
    loop {
        match client.next().await {
            Event::Up => drop(ready.take().map(|ready| ready.send(()))),
            Event::Message(message) => {
                let request: Option<Value> = serde_json::from_slice(&message.payload).ok();
                let Some(id) = request.and_then(|request| Some(request.get("id")?.as_str()?.to_owned())) else {
                    continue;
                };
                let device = message.topic.split('/').nth(1).unwrap().to_owned();
                let fresh = known.insert((device.clone(), id.clone()));
                if fresh && (known.len() as u32).is_multiple_of(lose) {
                    continue;
                }
                let reply = json!({"id": id, "status": if fresh { "ok" } else { "duplicate" }}).to_string();
                token += 1;
                client.publish(Token(token), format!("dev/{device}/reply"), reply.into()).unwrap();
            }
            _ => {}
        }
    }
}
