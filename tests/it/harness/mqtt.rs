//! MQTT 3.1.1 (OASIS) written byte by byte, so that no client library retries, acknowledges or validates behind a
//! test's back.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use bytes::{Buf, Bytes, BytesMut};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::wait::PATIENCE;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packet {
    /// Session present, code.
    ConnAck(bool, u8),
    PubAck(u16),
    PubRec(u16),
    PubRel(u16),
    PubComp(u16),
    SubAck(Vec<u8>),
    Publish {
        topic: String,
        payload: Bytes,
    },
    /// A PUBLISH at QoS 2, which is answered by hand.
    Letter {
        topic: String,
        pkid: u16,
        payload: Bytes,
    },
    Other(u8),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Qos {
    One = 1,
    Two = 2,
}

/// One connection, with what was heard and nobody has asked for yet.
pub(crate) struct Link {
    stream: TcpStream,
    bytes: BytesMut,
    heard: VecDeque<Packet>,
    client: String,
    last_pkid: u16,
}

impl Link {
    /// A clean session without a password.
    pub(crate) async fn open(addr: SocketAddr, client: &str) -> Link {
        Link::connect(addr, client, true, None).await
    }

    /// A device that hears its replies.
    pub(crate) async fn device(addr: SocketAddr, name: &str) -> Link {
        let mut link = Link::open(addr, name).await;
        link.subscribe(&format!("dev/{name}/reply")).await;
        link
    }

    pub(crate) async fn connect(addr: SocketAddr, client: &str, clean: bool, password: Option<&str>) -> Link {
        let (link, _, code) = Link::greet(addr, client, clean, password).await;
        assert_eq!(code, 0, "{client} is let in");
        link
    }

    /// The CONNACK's code.
    pub(crate) async fn knock(addr: SocketAddr, client: &str, password: Option<&str>) -> u8 {
        Link::greet(addr, client, true, password).await.2
    }

    /// Back to a session that is kept, and whether it was there.
    pub(crate) async fn resume(addr: SocketAddr, client: &str) -> (Link, bool) {
        let (link, present, code) = Link::greet(addr, client, false, None).await;
        assert_eq!(code, 0, "{client} is let in");
        (link, present)
    }

    async fn greet(addr: SocketAddr, client: &str, clean: bool, password: Option<&str>) -> (Link, bool, u8) {
        let stream = TcpStream::connect(addr).await.expect("connect to the node");
        stream.set_nodelay(true).expect("set an option of the socket");
        let (bytes, heard) = Default::default();
        let mut link = Link { stream, bytes, heard, client: client.to_owned(), last_pkid: 0 };
        let login = if password.is_some() { 0xC0 } else { 0 };
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, login | u8::from(clean) << 1, 0, 60];
        text(&mut body, client.as_bytes());
        if let Some(password) = password {
            text(&mut body, client.as_bytes());
            text(&mut body, password.as_bytes());
        }
        link.send(0x10, &body).await;
        let code = link.expect("CONNACK", |packet| match packet {
            Packet::ConnAck(present, code) => Some((*present, *code)),
            _ => None,
        });
        let (present, code) = code.await;
        (link, present, code)
    }

    pub(crate) async fn subscribe(&mut self, filter: &str) {
        self.subscribe_at(filter, 1).await;
    }

    pub(crate) async fn subscribe_at(&mut self, filter: &str, qos: u8) {
        let mut body = self.next_pkid().to_be_bytes().to_vec();
        text(&mut body, filter.as_bytes());
        body.push(qos);
        self.send(0x82, &body).await;
        let codes = self.expect("SUBACK", |packet| match packet {
            Packet::SubAck(codes) => Some(codes.clone()),
            _ => None,
        });
        assert_eq!(codes.await, [qos], "the subscription to {filter} is granted");
    }

    pub(crate) async fn unsubscribe(&mut self, filter: &str) {
        let mut body = self.next_pkid().to_be_bytes().to_vec();
        text(&mut body, filter.as_bytes());
        self.send(0xA2, &body).await;
        self.expect_packet(Packet::Other(0xB0)).await;
    }

    /// The next QoS 2 message on a topic, unanswered, with its packet id.
    pub(crate) async fn letter(&mut self, topic: &str) -> (u16, Bytes) {
        self.expect(topic, |packet| match packet {
            Packet::Letter { topic: on, pkid, payload } if on == topic => Some((*pkid, payload.clone())),
            _ => None,
        })
        .await
    }

    pub(crate) async fn pubrec(&mut self, pkid: u16) {
        self.send(0x50, &pkid.to_be_bytes()).await;
    }

    pub(crate) async fn pubcomp(&mut self, pkid: u16) {
        self.send(0x70, &pkid.to_be_bytes()).await;
    }

    /// Publishes and waits for no answer.
    pub(crate) async fn throw(&mut self, qos: Qos, pkid: u16, dup: bool, topic: &[u8], payload: &[u8]) {
        let mut body = Vec::new();
        text(&mut body, topic);
        body.extend(pkid.to_be_bytes());
        body.extend_from_slice(payload);
        self.send(0x30 | u8::from(dup) << 3 | (qos as u8) << 1, &body).await;
    }

    /// A QoS 1 publish, until its PUBACK.
    pub(crate) async fn publish(&mut self, topic: &[u8], payload: &[u8]) {
        let pkid = self.next_pkid();
        self.throw(Qos::One, pkid, false, topic, payload).await;
        self.expect_packet(Packet::PubAck(pkid)).await;
    }

    /// Publishes a request of this device and gives its reply.
    pub(crate) async fn ask(&mut self, kind: &str, payload: impl AsRef<[u8]>) -> Value {
        self.publish(format!("dev/{}/{kind}", self.client).as_bytes(), payload.as_ref()).await;
        self.reply().await
    }

    /// As `ask`, of a request that must be done in full.
    pub(crate) async fn done(&mut self, kind: &str, request: Value) -> Value {
        let reply = self.ask(kind, request.to_string()).await;
        assert_eq!(reply["status"], "ok", "{request} is answered {reply}");
        reply
    }

    pub(crate) async fn reply(&mut self) -> Value {
        let topic = format!("dev/{}/reply", self.client);
        let payload = self.message(&topic).await;
        serde_json::from_slice(&payload).expect("a reply is JSON")
    }

    /// The next message on a topic.
    pub(crate) async fn message(&mut self, topic: &str) -> Bytes {
        self.expect(topic, |packet| match packet {
            Packet::Publish { topic: on, payload } if on == topic => Some(payload.clone()),
            _ => None,
        })
        .await
    }

    pub(crate) async fn release(&mut self, pkid: u16) {
        self.send(0x62, &pkid.to_be_bytes()).await;
        self.expect_packet(Packet::PubComp(pkid)).await;
    }

    pub(crate) async fn expect_packet(&mut self, wanted: Packet) {
        self.expect(&format!("{wanted:?}"), |packet| (*packet == wanted).then_some(())).await;
    }

    /// Waits for a packet that `pick` wants; what it does not want stays for later.
    pub(crate) async fn expect<T>(&mut self, what: &str, mut pick: impl FnMut(&Packet) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut looked = 0;
        loop {
            while let Some(packet) = self.heard.get(looked) {
                if let Some(found) = pick(packet) {
                    self.heard.remove(looked);
                    return found;
                }
                looked += 1;
            }
            let more = timeout_at(deadline, self.hear()).await;
            let last = self.heard.back();
            assert!(more.is_ok(), "{}: no {what} within {PATIENCE:?}; last heard: {last:?}", self.client);
            assert!(more == Ok(true), "{}: closed before {what}; last heard: {last:?}", self.client);
        }
    }

    /// The next packet; `None` if the node closed the connection instead.
    pub(crate) async fn next_or_closed(&mut self) -> Option<Packet> {
        let deadline = Instant::now() + PATIENCE;
        while self.heard.is_empty() {
            if !timeout_at(deadline, self.hear()).await.expect("the node answers or closes") {
                return None;
            }
        }
        self.heard.pop_front()
    }

    /// Waits until the node closes the connection.
    pub(crate) async fn expect_closed(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        while timeout_at(deadline, self.hear()).await.expect("the node closes the connection") {}
    }

    /// Reads one packet; false if the connection is over.
    async fn hear(&mut self) -> bool {
        loop {
            if let Some((head, body)) = take_packet(&mut self.bytes) {
                let packet = self.understand(head, body).await;
                self.heard.push_back(packet);
                return true;
            }
            if !matches!(self.stream.read_buf(&mut self.bytes).await, Ok(1..)) {
                return false;
            }
        }
    }

    async fn understand(&mut self, head: u8, mut body: Bytes) -> Packet {
        match head >> 4 {
            2 => Packet::ConnAck(body[0] & 1 == 1, body[1]),
            3 => {
                let topic_len = usize::from(body.get_u16());
                let topic = String::from_utf8(body.split_to(topic_len).to_vec()).expect("a topic is text");
                if head & 0b100 != 0 {
                    let pkid = body.get_u16();
                    return Packet::Letter { topic, pkid, payload: body };
                }
                if head & 0b010 != 0 {
                    let pkid = body.get_u16();
                    self.send(0x40, &pkid.to_be_bytes()).await;
                }
                Packet::Publish { topic, payload: body }
            }
            4 => Packet::PubAck(body.get_u16()),
            5 => Packet::PubRec(body.get_u16()),
            6 => Packet::PubRel(body.get_u16()),
            7 => Packet::PubComp(body.get_u16()),
            9 => Packet::SubAck(body[2..].to_vec()),
            _ => Packet::Other(head),
        }
    }

    /// A node that was killed cannot be written to; the test sees it at the next read.
    async fn send(&mut self, head: u8, body: &[u8]) {
        let mut packet = vec![head];
        let mut left = body.len();
        loop {
            let more = if left > 127 { 128 } else { 0 };
            packet.push((left % 128) as u8 | more);
            left /= 128;
            if more == 0 {
                break;
            }
        }
        packet.extend_from_slice(body);
        let _ = self.stream.write_all(&packet).await;
    }

    fn next_pkid(&mut self) -> u16 {
        self.last_pkid += 1;
        self.last_pkid
    }
}

fn text(body: &mut Vec<u8>, text: &[u8]) {
    body.extend((text.len() as u16).to_be_bytes());
    body.extend_from_slice(text);
}

pub(super) fn take_packet(bytes: &mut BytesMut) -> Option<(u8, Bytes)> {
    let (mut len, mut at) = (0, 1);
    loop {
        let byte = *bytes.get(at)?;
        len |= usize::from(byte & 127) << (7 * (at - 1));
        at += 1;
        if byte < 128 {
            break;
        }
    }
    if bytes.len() < at + len {
        return None;
    }
    let mut packet = bytes.split_to(at + len).freeze();
    let head = packet[0];
    packet.advance(at);
    Some((head, packet))
}

/// Watches topics and keeps the latest of each.
pub(crate) struct Monitor {
    link: Link,
    pub(crate) latest: BTreeMap<String, Bytes>,
}

impl Monitor {
    pub(crate) async fn open(addr: SocketAddr, filter: &str) -> Monitor {
        Monitor::watch(Link::open(addr, "monitor").await, filter).await
    }

    pub(crate) async fn watch(mut link: Link, filter: &str) -> Monitor {
        link.subscribe(filter).await;
        Monitor { link, latest: BTreeMap::new() }
    }

    /// Waits until what the topics show is as `good` wants it.
    pub(crate) async fn until<T>(&mut self, what: &str, good: impl Fn(&Monitor) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            while let Some(packet) = self.link.heard.pop_front() {
                if let Packet::Publish { topic, payload } = packet {
                    self.latest.insert(topic, payload);
                }
            }
            if let Some(found) = good(self) {
                return found;
            }
            let more = timeout_at(deadline, self.link.hear()).await;
            assert!(
                more == Ok(true),
                "{what}: not within {PATIENCE:?} ({more:?}); last seen of {} topics: {:?}",
                self.latest.len(),
                self.latest
            );
        }
    }

    /// What a topic shows, as JSON; null if nothing.
    pub(crate) fn json(&self, topic: &str) -> Value {
        self.latest.get(topic).map_or(Value::Null, |payload| serde_json::from_slice(payload).unwrap_or_default())
    }

    pub(crate) async fn until_json(&mut self, topic: &str, good: impl Fn(&Value) -> bool) -> Value {
        self.until(topic, |seen| Some(seen.json(topic)).filter(&good)).await
    }
}
