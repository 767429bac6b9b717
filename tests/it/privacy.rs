//! Who a person is stays in the store: what goes over the wire to the hub is read byte for byte.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use prost::Message;
use proto::chunk::{self, Position, Sealer};
use proto::id::{Epoch, ReplicaId, SiteName};
use proto::wire::{Chunks, Up, up};
use proto::{lean, pack};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::mqtt::Link;
use crate::harness::node::Spec;
use crate::harness::{GTIN, folder};

const CUSTOMER: &str = "cust-77441199";
const HOUSEHOLD: u64 = 886_655_442_211;
const CARD: &str = "2988776655443";

#[tokio::test]
async fn no_raw_id_is_on_the_uplink() {
    let dir = folder();
    let mut hub = Spec::hub(dir.path()).start().await;
    let tap = Tap::before(hub.addr).await;
    let mut store =
        Spec::gateway(dir.path(), "harbour", Some(tap.addr)).config("personal_scans = \"29\"\n").start().await;
    let mut pos = Link::device(store.addr, "pos-1").await;
    pos.done("move", json!({"op": "receive", "lines": [{"gtin": GTIN, "qty": 50}]})).await;
    let sale = json!({"id": "s-1", "customer": CUSTOMER, "household": HOUSEHOLD, "lines": [{"gtin": GTIN, "qty": 1}]});
    assert_eq!(pos.ask("sale", sale.to_string()).await["status"], "ok");
    assert_eq!(pos.ask("sale", sale.to_string()).await["status"], "duplicate", "what is sent again is the same");
    pos.done("activity", json!({"door": "open", "seen": [{"customer_id": CUSTOMER}]})).await;
    // Refused in each way that keeps what was sent.
    let absurd = json!({"customer": CUSTOMER, "lines": [{"gtin": "12", "qty": 1}]});
    assert_eq!(pos.ask("sale", absurd.to_string()).await["status"], "refused");
    for (kind, payload) in [
        ("sale", format!("{{\"household\":{HOUSEHOLD},\"lines\":[")),
        ("scan", CARD.to_owned()),
        ("feedback", format!("customer={CUSTOMER}")),
    ] {
        pos.publish(format!("dev/pos-1/{kind}").as_bytes(), payload.as_bytes()).await;
    }
    // Somebody else's topic: denied before it is decoded.
    pos.publish(b"up/hill", format!("{{\"customer\":\"{CUSTOMER}\"}}").as_bytes()).await;
    store.until_applied().await;
    store.stop().await;
    hub.stop().await;

    let said = tap.said();
    let raw = [CUSTOMER.to_owned(), HOUSEHOLD.to_string(), CARD.to_owned()];
    for (what, bytes) in said.iter().chain([&("all of it", tap.bytes())]) {
        for raw in &raw {
            let found = bytes.windows(raw.len()).any(|part| part == raw.as_bytes());
            assert!(!found, "{raw} in {what}: {}", String::from_utf8_lossy(bytes));
        }
    }
    let journal: Vec<u8> =
        said.iter().filter(|(what, _)| *what == "journal").flat_map(|(_, bytes)| bytes.clone()).collect();
    let holds = |text: &str| journal.windows(text.len()).any(|part| part == text.as_bytes());
    assert!(holds("customer") && holds("activity") && holds("~"), "the test reads what was said");
}

/// Hands everything on, and keeps what goes up.
struct Tap {
    addr: SocketAddr,
    kept: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Tap {
    async fn before(hub: SocketAddr) -> Tap {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let (addr, kept) = (listener.local_addr().expect("bound"), Arc::new(Mutex::new(Vec::new())));
        let keep = kept.clone();
        tokio::spawn(async move {
            while let Ok((store, _)) = listener.accept().await {
                let keep = keep.clone();
                tokio::spawn(async move {
                    let Ok(hub) = TcpStream::connect(hub).await else { return };
                    let ((mut from_store, mut to_store), (mut from_hub, mut to_hub)) =
                        (store.into_split(), hub.into_split());
                    let down = tokio::spawn(async move { tokio::io::copy(&mut from_hub, &mut to_store).await });
                    let link = {
                        let mut kept = keep.lock().expect("nobody panics");
                        kept.push(Vec::new());
                        kept.len() - 1
                    };
                    let mut piece = vec![0; 16 << 10];
                    while let Ok(read @ 1..) = from_store.read(&mut piece).await {
                        keep.lock().expect("nobody panics")[link].extend_from_slice(&piece[..read]);
                        if to_hub.write_all(&piece[..read]).await.is_err() {
                            break;
                        }
                    }
                    down.abort();
                });
            }
        });
        Tap { addr, kept }
    }

    fn bytes(&self) -> Vec<u8> {
        self.kept.lock().expect("nobody panics").concat()
    }

    /// Everything that was published, unpacked; of the journal the chunks' bodies.
    fn said(&self) -> Vec<(&'static str, Vec<u8>)> {
        let mut said = Vec::new();
        for link in self.kept.lock().expect("nobody panics").iter() {
            let (mut at, mut replica) = (Position::default(), None);
            for payload in publishes(link) {
                let up = Up::decode(payload.clone()).expect("a message of the protocol");
                said.push(("message", payload.to_vec()));
                match up.of {
                    Some(up::Of::Hello(hello)) => {
                        let site: SiteName = hello.site.parse().expect("a name");
                        replica = Some(ReplicaId { site, epoch: Epoch(hello.epoch) });
                    }
                    Some(up::Of::Batch(batch)) if batch.lean => {
                        let replica = replica.as_ref().expect("Hello comes first");
                        let chunks = lean::unpack(&batch, replica, at, &mut Sealer::default()).expect("in order");
                        at = chunks.last().expect("no batch is empty").0.head.after();
                        said.extend(chunks.iter().map(|(chunk, _)| ("journal", chunk.body.encode_to_vec())));
                    }
                    Some(up::Of::Batch(batch)) => {
                        let plain = match batch.chunks_bytes {
                            0 => batch.body.to_vec(),
                            bytes => pack::unpack(&batch.body, bytes as usize).expect("packed"),
                        };
                        for bytes in Chunks::decode(&plain[..]).expect("chunks").chunk {
                            let chunk = chunk::open(&bytes).expect("a chunk");
                            at = chunk.head.after();
                            said.push(("journal", chunk.body.encode_to_vec()));
                        }
                    }
                    _ => {}
                }
            }
        }
        said
    }
}

/// The payloads of all MQTT 3.1.1 PUBLISH packets at QoS 1.
fn publishes(mut bytes: &[u8]) -> Vec<Bytes> {
    let mut payloads = Vec::new();
    while bytes.len() > 1 {
        let (mut length, mut header) = (0, 1);
        loop {
            let byte = bytes[header];
            length |= usize::from(byte & 0x7f) << (7 * (header - 1));
            header += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let Some(packet) = bytes.get(header..header + length) else { break };
        if bytes[0] >> 4 == 3 {
            let topic = usize::from(u16::from_be_bytes([packet[0], packet[1]]));
            payloads.push(Bytes::copy_from_slice(&packet[2 + topic + 2..]));
        }
        bytes = &bytes[header + length..];
    }
    payloads
}
