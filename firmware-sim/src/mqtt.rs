//! MQTT 3.1.1 packets on a TCP or TLS stream, as a device sends and reads them. The only file that names rumqttc: of it we
//! take the codec, not the client, since that acknowledges, retries and re-sends behind its user's back, and a
//! device's log here must be an exact account.

use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{Error as CodecError, QoS, v4};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::door::{Door, Login, Stream};

/// The largest packet either way; a larger one from the broker closes the link.
const PACKET_BYTES_MAX: usize = 1024 * 1024;
/// Above this much unsent, the wire stops reading: what it reads makes acknowledgements to send.
const UNSENT_BYTES_MAX: usize = 256 * 1024;
/// What one read asks for at least.
const READ_BYTES: usize = 2 * 1024;

/// What the broker said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    Accepted {
        session_present: bool,
    },
    Turned(String),
    PubAck(u16),
    /// QoS 2: the broker has taken the message over.
    PubRec(u16),
    /// QoS 2: the packet id is free again.
    PubComp(u16),
    Subscribed,
    SubscriptionRefused,
    Message(Message),
    Pong,
}

/// A publish from the broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub topic: String,
    pub payload: Bytes,
    pub retained: bool,
    /// Set if it wants a PUBACK.
    pub pkid: Option<u16>,
}

/// How sure a device wants to be of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Qos {
    AtLeastOnce,
    ExactlyOnce,
}

/// What a device says of itself at CONNECT.
#[derive(Debug, Clone)]
pub struct Hello {
    pub client: String,
    pub clean: bool,
    pub keep_alive_s: u16,
    pub login: Option<Login>,
}

/// Why a wire is no longer good. What to do is always the same: close it and come back with backoff.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    #[error("the broker closed the connection")]
    Closed,
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("the broker sent what is not MQTT 3.1.1: {0}")]
    Codec(String),
    #[error("the broker sent a packet that a client never gets")]
    Unexpected,
}

/// A socket with what was read and not yet understood, and what is queued and not yet written.
#[derive(Debug)]
pub struct Wire {
    stream: Stream,
    read: BytesMut,
    unsent: BytesMut,
    /// TLS may hold back what it took.
    unflushed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Wrote,
    Read,
    Ended,
}

impl Wire {
    pub async fn open(door: &Door) -> Result<Wire, WireError> {
        let stream = Stream::open(door).await?;
        Ok(Wire { stream, read: BytesMut::new(), unsent: BytesMut::new(), unflushed: false })
    }

    /// How it is encrypted: "TLSv1_3", say; `None` in the clear.
    pub fn protocol(&self) -> Option<String> {
        self.stream.protocol()
    }

    pub fn queue_connect(&mut self, hello: &Hello) -> Result<(), WireError> {
        let mut connect = v4::Connect::new(hello.client.as_str());
        connect.clean_session = hello.clean;
        connect.keep_alive = hello.keep_alive_s;
        if let Some(Login { user, password }) = &hello.login {
            connect.set_login(user.as_str(), password.as_str());
        }
        self.queue(&v4::Packet::Connect(connect))
    }

    pub fn queue_publish(
        &mut self,
        qos: Qos,
        dup: bool,
        pkid: u16,
        topic: &str,
        payload: &Bytes,
    ) -> Result<(), WireError> {
        let qos = match qos {
            Qos::AtLeastOnce => QoS::AtLeastOnce,
            Qos::ExactlyOnce => QoS::ExactlyOnce,
        };
        let mut publish = v4::Publish::from_bytes(topic, qos, payload.clone());
        (publish.dup, publish.pkid) = (dup, pkid);
        self.queue(&v4::Packet::Publish(publish))
    }

    /// QoS 2: the sender has seen that the broker took the message over.
    pub fn queue_pubrel(&mut self, pkid: u16) -> Result<(), WireError> {
        self.queue(&v4::Packet::PubRel(v4::PubRel::new(pkid)))
    }

    pub fn queue_subscribe(&mut self, pkid: u16, filters: &[String]) -> Result<(), WireError> {
        let filters = filters.iter().map(|filter| v4::SubscribeFilter::new(filter.clone(), QoS::AtLeastOnce));
        let mut subscribe = v4::Subscribe::new_many(filters);
        subscribe.pkid = pkid;
        self.queue(&v4::Packet::Subscribe(subscribe))
    }

    pub fn queue_puback(&mut self, pkid: u16) -> Result<(), WireError> {
        self.queue(&v4::Packet::PubAck(v4::PubAck::new(pkid)))
    }

    pub fn queue_ping(&mut self) -> Result<(), WireError> {
        self.queue(&v4::Packet::PingReq)
    }

    pub fn queue_disconnect(&mut self) -> Result<(), WireError> {
        self.queue(&v4::Packet::Disconnect)
    }

    fn queue(&mut self, packet: &v4::Packet) -> Result<(), WireError> {
        packet.write(&mut self.unsent, PACKET_BYTES_MAX).map(drop).map_err(|e| WireError::Codec(e.to_string()))
    }

    /// Writes what is queued and waits for the next packet. May be dropped at any await without losing a byte.
    pub async fn next(&mut self) -> Result<Heard, WireError> {
        loop {
            if let Some(heard) = self.take_packet()? {
                return Ok(heard);
            }
            if self.turn().await? == Turn::Ended {
                return Err(WireError::Closed);
            }
        }
    }

    /// Writes or reads a piece, whichever can be done.
    async fn turn(&mut self) -> io::Result<Turn> {
        let Wire { stream, read, unsent, unflushed } = self;
        poll_fn(|cx| {
            if !unsent.is_empty() {
                if let Poll::Ready(written) = pin!(stream.write_buf(unsent)).poll(cx) {
                    *unflushed = true;
                    return Poll::Ready(written.map(|_| Turn::Wrote));
                }
            } else if *unflushed && let Poll::Ready(flushed) = pin!(stream.flush()).poll(cx) {
                flushed?;
                *unflushed = false;
            }
            if unsent.len() >= UNSENT_BYTES_MAX {
                return Poll::Pending;
            }
            read.reserve(READ_BYTES);
            let got = std::task::ready!(pin!(stream.read_buf(read)).poll(cx))?;
            Poll::Ready(Ok(if got == 0 { Turn::Ended } else { Turn::Read }))
        })
        .await
    }

    /// Writes all that is queued, reading nothing.
    pub async fn flush(&mut self) -> Result<(), WireError> {
        while !self.unsent.is_empty() {
            self.unflushed = true;
            self.stream.write_buf(&mut self.unsent).await?;
        }
        self.stream.flush().await?;
        self.unflushed = false;
        Ok(())
    }

    fn take_packet(&mut self) -> Result<Option<Heard>, WireError> {
        let packet = match v4::Packet::read(&mut self.read, PACKET_BYTES_MAX) {
            Ok(packet) => packet,
            Err(CodecError::InsufficientBytes(_)) => return Ok(None),
            Err(error) => return Err(WireError::Codec(error.to_string())),
        };
        Ok(Some(match packet {
            v4::Packet::ConnAck(ack) if ack.code == v4::ConnectReturnCode::Success => {
                Heard::Accepted { session_present: ack.session_present }
            }
            v4::Packet::ConnAck(ack) => Heard::Turned(format!("{:?}", ack.code)),
            v4::Packet::PubAck(ack) => Heard::PubAck(ack.pkid),
            v4::Packet::PubRec(ack) => Heard::PubRec(ack.pkid),
            v4::Packet::PubComp(ack) => Heard::PubComp(ack.pkid),
            v4::Packet::SubAck(ack) if ack.return_codes.contains(&v4::SubscribeReasonCode::Failure) => {
                Heard::SubscriptionRefused
            }
            v4::Packet::SubAck(_) => Heard::Subscribed,
            v4::Packet::Publish(publish) => Heard::Message(Message {
                topic: publish.topic,
                payload: publish.payload,
                retained: publish.retain,
                pkid: (publish.qos != QoS::AtMostOnce).then_some(publish.pkid),
            }),
            v4::Packet::PingResp => Heard::Pong,
            _ => return Err(WireError::Unexpected),
        }))
    }
}
