//! An MQTT client that says exactly the bytes it is told to.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

pub(super) const V311: u8 = 4;
pub(super) const V5: u8 = 5;
/// How long anything may take that must happen.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);
/// How long nothing must come where nothing may come.
const QUIET: Duration = Duration::from_millis(150);

pub(super) struct Client {
    pub(super) stream: TcpStream,
    buf: Vec<u8>,
    pub(super) version: u8,
}

/// A CONNECT under construction.
#[derive(Clone)]
pub(super) struct Connect<'a> {
    pub(super) version: u8,
    pub(super) id: &'a str,
    pub(super) clean: bool,
    pub(super) keepalive: u16,
    pub(super) properties: &'a [u8],
    /// Topic, payload, v5 properties.
    pub(super) will: Option<(&'a [u8], &'a str, &'a [u8])>,
    pub(super) user: Option<&'a str>,
}

impl<'a> Connect<'a> {
    pub(super) fn new(version: u8, id: &'a str) -> Connect<'a> {
        Connect { version, id, clean: true, keepalive: 60, properties: &[], will: None, user: None }
    }

    /// A session that outlives the connection.
    pub(super) fn kept(version: u8, id: &'a str) -> Connect<'a> {
        Connect {
            clean: false,
            properties: if version == V5 { &[0x11, 0, 0, 0, 100] } else { &[] },
            ..Connect::new(version, id)
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        let mut flags = u8::from(self.clean) << 1;
        let mut tail = text(self.id.as_bytes());
        if let Some((topic, payload, properties)) = self.will {
            flags |= 4;
            if self.version == V5 {
                tail.push(properties.len() as u8);
                tail.extend(properties);
            }
            tail.extend(text(topic));
            tail.extend(text(payload.as_bytes()));
        }
        if let Some(user) = self.user {
            flags |= 0x80;
            tail.extend(text(user.as_bytes()));
        }
        let mut body = text(b"MQTT");
        body.extend([self.version, flags]);
        body.extend(self.keepalive.to_be_bytes());
        if self.version == V5 {
            body.push(self.properties.len() as u8);
            body.extend(self.properties);
        }
        body.extend(tail);
        packet(0x10, &body)
    }
}

impl Client {
    pub(super) async fn open(addr: SocketAddr, version: u8) -> Client {
        let stream = TcpStream::connect(addr).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Client { stream, buf: Vec::new(), version }
    }

    /// With little room for what it does not read.
    pub(super) async fn open_narrow(addr: SocketAddr, version: u8) -> Client {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8 * 1024).unwrap();
        Client { stream: socket.connect(addr).await.unwrap(), buf: Vec::new(), version }
    }

    /// Connected, with what CONNACK said.
    pub(super) async fn connack(addr: SocketAddr, connect: &Connect<'_>) -> (Client, Vec<u8>) {
        let mut client = Client::open(addr, connect.version).await;
        client.send(&connect.bytes()).await;
        let connack = client.recv().await;
        assert_eq!(connack[0], 0x20, "{connack:x?}");
        (client, connack)
    }

    pub(super) async fn connect_with(addr: SocketAddr, connect: &Connect<'_>) -> Client {
        let (client, connack) = Client::connack(addr, connect).await;
        assert_eq!(connack[3], 0, "refused: {connack:x?}");
        client
    }

    pub(super) async fn connect(addr: SocketAddr, version: u8, id: &str) -> Client {
        Client::connect_with(addr, &Connect::new(version, id)).await
    }

    pub(super) async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next whole packet; empty if the connection was closed.
    pub(super) async fn recv_or_close(&mut self) -> Vec<u8> {
        tokio::time::timeout(DEADLINE, self.read()).await.expect("nothing came in time")
    }

    pub(super) async fn recv(&mut self) -> Vec<u8> {
        let packet = self.recv_or_close().await;
        assert!(!packet.is_empty(), "closed");
        packet
    }

    pub(super) async fn expect(&mut self, packet: &[u8]) {
        assert_eq!(self.recv().await, packet, "got, expected");
    }

    /// Nothing more comes but the end.
    pub(super) async fn expect_closed(&mut self) {
        assert_eq!(self.recv_or_close().await, [0u8; 0], "expected a close");
    }

    pub(super) async fn expect_quiet(&mut self) {
        let came = tokio::time::timeout(QUIET, self.read()).await;
        assert!(came.is_err(), "came too early: {came:x?}");
    }

    async fn read(&mut self) -> Vec<u8> {
        loop {
            if let Some(total) = frame_length(&self.buf).filter(|total| self.buf.len() >= *total) {
                let rest = self.buf.split_off(total);
                return std::mem::replace(&mut self.buf, rest);
            }
            let mut chunk = [0; 16 * 1024];
            match self.stream.read(&mut chunk).await {
                Ok(0) | Err(_) => return Vec::new(),
                Ok(n) => self.buf.extend_from_slice(&chunk[..n]),
            }
        }
    }

    pub(super) async fn publish(&mut self, topic: &str, payload: &str, qos: u8, pkid: u16) {
        let bytes = publish(self.version, topic.as_bytes(), payload.as_bytes(), qos, pkid, &[]);
        self.send(&bytes).await;
    }

    /// Subscribes and returns the code.
    pub(super) async fn subscribe(&mut self, filter: &str, options: u8) -> u8 {
        self.send(&subscribe(self.version, 77, &[(filter.as_bytes(), options)], &[])).await;
        let suback = self.recv().await;
        assert_eq!((suback[0], &suback[2..4]), (0x90, &[0, 77][..]), "{suback:x?}");
        *suback.last().unwrap()
    }

    pub(super) async fn unsubscribe(&mut self, filter: &str) -> Vec<u8> {
        let mut body = vec![0, 78];
        body.extend((self.version == V5).then_some(0));
        body.extend(text(filter.as_bytes()));
        self.send(&packet(0xa2, &body)).await;
        self.recv().await
    }

    /// The next packet, which must be a PUBLISH.
    pub(super) async fn recv_publish(&mut self) -> Received {
        let packet = self.recv().await;
        Received::parse(self.version, &packet)
    }

    pub(super) async fn disconnect(mut self) {
        self.send(&[0xe0, 0]).await;
        self.expect_closed().await;
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Received {
    pub(super) topic: String,
    pub(super) payload: Vec<u8>,
    pub(super) qos: u8,
    pub(super) pkid: u16,
    pub(super) retain: bool,
    pub(super) properties: Vec<u8>,
}

impl Received {
    pub(super) fn parse(version: u8, packet: &[u8]) -> Received {
        assert_eq!(packet[0] >> 4, 3, "not a PUBLISH: {packet:x?}");
        let qos = packet[0] >> 1 & 3;
        let at = packet.iter().skip(1).position(|byte| byte & 0x80 == 0).unwrap() + 2;
        let topic_len = usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
        let topic = String::from_utf8(packet[at + 2..at + 2 + topic_len].to_vec()).unwrap();
        let mut rest = &packet[at + 2 + topic_len..];
        let mut pkid = 0;
        if qos > 0 {
            pkid = u16::from_be_bytes([rest[0], rest[1]]);
            rest = &rest[2..];
        }
        let mut properties = Vec::new();
        if version == V5 {
            let length = usize::from(rest[0]);
            assert!(length < 128);
            properties = rest[1..=length].to_vec();
            rest = &rest[1 + length..];
        }
        Received { topic, payload: rest.to_vec(), qos, pkid, retain: packet[0] & 1 == 1, properties }
    }
}

fn frame_length(buf: &[u8]) -> Option<usize> {
    let mut length = 0;
    for (i, byte) in buf.iter().enumerate().skip(1).take(4) {
        length |= usize::from(byte & 0x7f) << (7 * (i - 1));
        if byte & 0x80 == 0 {
            return Some(i + 1 + length);
        }
    }
    None
}

pub(super) fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    let mut n = body.len();
    loop {
        packet.push((n & 0x7f) as u8 | if n > 0x7f { 0x80 } else { 0 });
        n >>= 7;
        if n == 0 {
            break;
        }
    }
    packet.extend_from_slice(body);
    packet
}

pub(super) fn text(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as u16).to_be_bytes(), bytes].concat()
}

pub(super) fn publish(version: u8, topic: &[u8], payload: &[u8], qos: u8, pkid: u16, properties: &[u8]) -> Vec<u8> {
    let mut body = text(topic);
    if qos > 0 {
        body.extend(pkid.to_be_bytes());
    }
    if version == V5 {
        body.push(properties.len() as u8);
        body.extend(properties);
    }
    body.extend(payload);
    packet(0x30 | qos << 1, &body)
}

pub(super) fn subscribe(version: u8, pkid: u16, filters: &[(&[u8], u8)], properties: &[u8]) -> Vec<u8> {
    let mut body = pkid.to_be_bytes().to_vec();
    if version == V5 {
        body.push(properties.len() as u8);
        body.extend(properties);
    }
    for (filter, options) in filters {
        body.extend(text(filter));
        body.push(*options);
    }
    packet(0x82, &body)
}
