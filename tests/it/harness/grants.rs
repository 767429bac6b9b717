//! A hub held by hand: a broker for one gateway, that grants rights and keeps what is said of them. It applies nothing.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::{Buf, BytesMut};
use prost::Message;
use proto::PROTOCOL;
use proto::chunk::ChainHash;
use proto::wire::down::Of as DownOf;
use proto::wire::up::Of as UpOf;
use proto::wire::{Down, Feed, Hello, RightsEntry, RightsHeld, Up, Want, Welcome};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::mqtt::take_packet;
use super::wait::until;

/// What the gateway said since the hub began.
#[derive(Debug, Default, Clone)]
pub(crate) struct Told {
    pub(crate) held: Vec<RightsHeld>,
    pub(crate) wanted: Vec<Want>,
}

pub(crate) struct Granting {
    pub(crate) addr: SocketAddr,
    told: Arc<Mutex<Told>>,
    rights: watch::Sender<Vec<RightsEntry>>,
}

impl Granting {
    /// `keeps_rights`: as its Welcome says.
    pub(crate) async fn start(site: &str, keeps_rights: bool) -> Granting {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("its address");
        let (rights, entries) = watch::channel(Vec::new());
        let told = Arc::new(Mutex::new(Told::default()));
        let (kept, site) = (told.clone(), site.to_owned());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (told, entries) = (kept.clone(), entries.clone());
                let peer = Peer { stream, site: site.clone(), keeps_rights, told, entries, session: 0, cursor: 0 };
                tokio::spawn(peer.serve());
            }
        });
        Granting { addr, told, rights }
    }

    /// In all.
    pub(crate) fn grant(&self, gtin: u64, granted: u64, asked: u64) {
        self.rights.send_replace(vec![RightsEntry { gtin, granted, asked, epoch: 0 }]);
    }

    pub(crate) fn told(&self) -> Told {
        self.told.lock().expect("nobody panics with it").clone()
    }

    pub(crate) async fn until_told(&self, what: &str, good: impl Fn(&Told) -> bool) -> Told {
        until(what, async || {
            let told = self.told();
            if good(&told) { Ok(told) } else { Err(format!("{told:?}")) }
        })
        .await
    }
}

/// One connection of the gateway.
struct Peer {
    stream: TcpStream,
    site: String,
    keeps_rights: bool,
    told: Arc<Mutex<Told>>,
    entries: watch::Receiver<Vec<RightsEntry>>,
    session: u64,
    /// Where the gateway is in the stream `rights`.
    cursor: u64,
}

impl Peer {
    async fn serve(mut self) {
        let mut bytes = BytesMut::new();
        loop {
            while let Some((head, body)) = take_packet(&mut bytes) {
                self.packet(head, body).await;
            }
            tokio::select! {
                read = self.stream.read_buf(&mut bytes) => if !matches!(read, Ok(1..)) { return },
                changed = self.entries.changed() => match changed {
                    Ok(()) => self.feed().await,
                    Err(_) => return,
                }
            }
        }
    }

    async fn packet(&mut self, head: u8, mut body: bytes::Bytes) {
        match head >> 4 {
            1 => self.send(&[0x20, 2, 0, 0]).await,
            8 => self.send(&[0x90, 3, body[0], body[1], 1]).await,
            12 => self.send(&[0xD0, 0]).await,
            3 => {
                let topic_len = usize::from(body.get_u16());
                body.advance(topic_len);
                let pkid = body.get_u16().to_be_bytes();
                self.send(&[0x40, 2, pkid[0], pkid[1]]).await;
                let up = Up::decode(body).expect("what a gateway says can be read");
                self.heard(up).await;
            }
            _ => {}
        }
    }

    async fn heard(&mut self, up: Up) {
        match up.of {
            Some(UpOf::Hello(hello)) => self.welcome(up.session, &hello).await,
            Some(UpOf::RightsHeld(held)) => self.told.lock().expect("nobody panics with it").held.push(held),
            Some(UpOf::RightsWanted(wanted)) => {
                self.told.lock().expect("nobody panics with it").wanted.extend(wanted.wants);
            }
            Some(UpOf::FeedAck(ack)) if ack.stream == "rights" => {
                self.cursor = ack.cursor;
                if ack.resend {
                    self.feed().await;
                }
            }
            _ => {}
        }
    }

    async fn welcome(&mut self, session: u64, hello: &Hello) {
        self.session = session;
        let at = hello.streams.iter().find(|cursor| cursor.stream == "rights");
        self.cursor = at.expect("every gateway follows its rights").position;
        let welcome = Welcome {
            protocol: PROTOCOL,
            applied_hash: ChainHash::ORIGIN.0.to_vec().into(),
            rights: self.keeps_rights,
            ..Welcome::default()
        };
        self.say(DownOf::Welcome(welcome)).await;
        self.feed().await;
    }

    async fn feed(&mut self) {
        let rights = self.entries.borrow_and_update().clone();
        if self.session == 0 || rights.is_empty() {
            return;
        }
        let (prev, upto) = (self.cursor, self.cursor + 1);
        self.cursor = upto;
        self.say(DownOf::Feed(Feed { prev, upto, stream: "rights".into(), rights, ..Feed::default() })).await;
    }

    async fn say(&mut self, of: DownOf) {
        let down = Down { session: self.session, incarnation: 7, of: Some(of) }.encode_to_vec();
        let topic = format!("down/{}", self.site);
        let mut packet = vec![0x30];
        let mut left = 2 + topic.len() + down.len();
        while left > 127 {
            packet.push((left % 128) as u8 | 128);
            left /= 128;
        }
        packet.push(left as u8);
        packet.extend((topic.len() as u16).to_be_bytes());
        packet.extend(topic.as_bytes());
        packet.extend(down);
        self.send(&packet).await;
    }

    async fn send(&mut self, bytes: &[u8]) {
        // A gateway that was killed is seen at the next read.
        let _ = self.stream.write_all(bytes).await;
    }
}
