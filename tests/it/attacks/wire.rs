//! MQTT 3.1.1 by bytes, over TCP or TLS, from an address of one's own choice: for those who keep to the protocol and for
//! those who do not.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;

/// Where attackers come from: limits that count by address see them apart from honest devices.
pub(crate) const HOSTILE: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 66));
const HONEST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(crate) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A listener, and whom to believe there.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) addr: SocketAddr,
    pub(crate) tls: Option<TlsConnector>,
}

impl Target {
    /// Believes the CA in this file.
    pub(crate) fn secured(addr: SocketAddr, ca: &str) -> Target {
        let mut roots = rustls::RootCertStore::empty();
        let ca = CertificateDer::from_pem_file(ca).expect("read the CA");
        roots.add(ca).expect("use the CA");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.expect("TLS versions").with_root_certificates(roots).with_no_client_auth();
        Target { addr, tls: Some(Arc::new(config).into()) }
    }

    /// A bare socket, even where TLS is spoken.
    pub(crate) async fn knock(&self, from: IpAddr) -> io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        let stream = socket.connect(self.addr).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    pub(crate) async fn reach(&self, from: IpAddr) -> io::Result<Wire> {
        let tcp = self.knock(from).await?;
        let stream: Box<dyn Stream> = match &self.tls {
            None => Box::new(tcp),
            Some(tls) => Box::new(tls.connect(ServerName::from(HONEST), tcp).await?),
        };
        Ok(Wire { stream, bytes: BytesMut::new() })
    }

    pub(crate) async fn honest(&self) -> io::Result<Wire> {
        self.reach(HONEST).await
    }

    /// Logged in with a stolen password.
    pub(crate) async fn thief(&self, client: &str, name: &str, password: &str) -> Wire {
        // 3: connections of this name that are over still count for a moment.
        for _ in 0..100 {
            let mut wire = self.reach(HOSTILE).await.expect("connect to the node");
            match wire.greet(&connect(client, Some((name, password)), true, None)).await {
                Some(0) => return wire,
                code => assert_eq!(code, Some(3), "{client} has the password"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{client} has the password, and there is never room for it")
    }
}

pub(crate) struct Wire {
    stream: Box<dyn Stream>,
    bytes: BytesMut,
}

impl Wire {
    /// The code of CONNACK; `None` if the node closed instead.
    pub(crate) async fn greet(&mut self, connect: &[u8]) -> Option<u8> {
        self.send(connect).await.ok()?;
        match self.next().await? {
            (0x20, body) => body.get(1).copied(),
            other => panic!("the first answer is {other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// The next packet, its first byte and its body; `None` once the node has closed.
    pub(crate) async fn next(&mut self) -> Option<(u8, Bytes)> {
        loop {
            if let Some(packet) = take(&mut self.bytes) {
                return Some(packet);
            }
            if !matches!(self.stream.read_buf(&mut self.bytes).await, Ok(1..)) {
                return None;
            }
        }
    }

    /// Reads on until this kind of packet has come so many times. False: closed before.
    pub(crate) async fn heard(&mut self, kind: u8, times: usize) -> bool {
        let mut left = times;
        while left > 0 {
            match self.next().await {
                Some((head, _)) => left -= usize::from(head >> 4 == kind),
                None => return false,
            }
        }
        true
    }

    /// The codes of the SUBACK.
    pub(crate) async fn subscribe(&mut self, filters: &[String]) -> Vec<u8> {
        if self.send(&subscribe(1, filters)).await.is_err() {
            return Vec::new();
        }
        while let Some((head, body)) = self.next().await {
            if head >> 4 == 9 {
                return body[2..].to_vec();
            }
        }
        Vec::new()
    }
}

fn take(bytes: &mut BytesMut) -> Option<(u8, Bytes)> {
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

pub(crate) fn packet(head: u8, body: &[u8]) -> Vec<u8> {
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
    packet
}

fn text(body: &mut Vec<u8>, text: &[u8]) {
    body.extend((text.len() as u16).to_be_bytes());
    body.extend_from_slice(text);
}

/// `will`: topic and payload, at QoS 1.
pub(crate) fn connect(client: &str, login: Option<(&str, &str)>, clean: bool, will: Option<(&str, &str)>) -> Vec<u8> {
    let flags = u8::from(clean) << 1 | if login.is_some() { 0xC0 } else { 0 } | if will.is_some() { 0x0C } else { 0 };
    let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, flags, 0, 0];
    text(&mut body, client.as_bytes());
    for (first, second) in will.into_iter().chain(login) {
        text(&mut body, first.as_bytes());
        text(&mut body, second.as_bytes());
    }
    packet(0x10, &body)
}

/// QoS 1; with the retain flag, if `retain`.
pub(crate) fn publish(topic: &str, pkid: u16, payload: &[u8], retain: bool) -> Vec<u8> {
    let mut body = Vec::new();
    text(&mut body, topic.as_bytes());
    body.extend(pkid.to_be_bytes());
    body.extend_from_slice(payload);
    packet(0x32 | u8::from(retain), &body)
}

pub(crate) fn subscribe(pkid: u16, filters: &[String]) -> Vec<u8> {
    let mut body = pkid.to_be_bytes().to_vec();
    for filter in filters {
        text(&mut body, filter.as_bytes());
        body.push(0);
    }
    packet(0x82, &body)
}

pub(crate) fn unsubscribe(pkid: u16, filters: &[String]) -> Vec<u8> {
    let mut body = pkid.to_be_bytes().to_vec();
    filters.iter().for_each(|filter| text(&mut body, filter.as_bytes()));
    packet(0xA2, &body)
}
