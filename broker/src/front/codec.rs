//! Bytes to packets and back. rumqttd's codec does the work; here is what it must be kept from.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::{Bytes, BytesMut};
use rumqttd::protocol::v4::V4;
use rumqttd::protocol::v5::V5;
use rumqttd::protocol::{Disconnect, DisconnectReasonCode, Packet, Protocol, Publish, PublishProperties, QoS};

use super::stats::FrontStats;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    V311,
    V5,
}

/// Why a connection cannot go on, as the v5 DISCONNECT names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Malformed,
    Protocol,
    TopicAlias,
    TooLarge,
    /// The codec panicked on this packet.
    Codec,
}

impl Fault {
    /// The v5 reason code.
    pub(super) fn reason(self) -> u8 {
        match self {
            Fault::Malformed => 0x81,
            Fault::Protocol => 0x82,
            Fault::Codec => 0x83,
            Fault::TopicAlias => 0x94,
            Fault::TooLarge => 0x95,
        }
    }

    pub(super) fn count(self, stats: &FrontStats) {
        stats.protocol_errors.inc();
        if self == Fault::Codec {
            stats.codec_panics.inc();
        }
    }
}

/// What a client sent. A PUBLISH comes with what rumqttd keeps private of it.
#[derive(Debug)]
pub(super) enum Decoded {
    Publish(Incoming),
    Packet(Packet),
}

/// Topic and payload are views of the read buffer: copy what is kept longer than a commit.
#[derive(Debug)]
pub(super) struct Incoming {
    pub(super) qos: QoS,
    /// 0 for QoS 0, never 0 otherwise.
    pub(super) pkid: u16,
    pub(super) topic: Bytes,
    pub(super) payload: Bytes,
    pub(super) properties: Option<PublishProperties>,
}

/// QoS and packet id of an encoded PUBLISH.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) qos: u8,
    pub(super) pkid: u16,
    /// Where the packet id stands.
    pub(super) pkid_at: usize,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Codec {
    pub(super) version: Version,
    pub(super) packet_bytes_max: usize,
}

/// The fixed header: packet type, flags, its own length and that of the whole packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    flags: u8,
    pub(super) header: usize,
    pub(super) total: usize,
}

pub(super) const CONNECT: u8 = 1;
const PUBLISH: u8 = 3;
const DISCONNECT: u8 = 14;

impl Codec {
    /// The next whole packet, taken off `buf`; `None` if more bytes are needed.
    pub(super) fn decode(&self, buf: &mut BytesMut) -> Result<Option<Decoded>, Fault> {
        let Some(frame) = Frame::read(buf, self.packet_bytes_max)? else { return Ok(None) };
        frame.check_client_packet()?;
        if buf.len() < frame.total {
            return Ok(None);
        }
        let mut packet = buf.split_to(frame.total);
        let head = if frame.kind == PUBLISH { Some(Head::read(&packet, &frame)?) } else { None };
        // MQTT 5 3.14.2.2.1: without a property length there are no properties. rumqttd would wait for it for ever.
        if frame.kind == DISCONNECT && self.version == Version::V5 && frame.total - frame.header == 1 {
            return Ok(Some(Decoded::Packet(short_disconnect(packet[frame.header])?)));
        }
        match (self.decode_guarded(&mut packet)?, head) {
            (Packet::Publish(publish, properties), Some(head)) => Ok(Some(Decoded::Publish(Incoming {
                qos: rumqttd::protocol::qos(head.qos).ok_or(Fault::Malformed)?,
                pkid: head.pkid,
                topic: publish.topic,
                payload: publish.payload,
                properties,
            }))),
            (packet, _) => Ok(Some(Decoded::Packet(packet))),
        }
    }

    /// rumqttd's decoder on one whole packet. It has a panic (a v5 UNSUBACK), and where there is one there may be
    /// more: a panic costs the connection, never the process.
    fn decode_guarded(&self, packet: &mut BytesMut) -> Result<Packet, Fault> {
        let max = packet.len();
        catch_unwind(AssertUnwindSafe(|| match self.version {
            Version::V311 => V4.read_mut(packet, max),
            Version::V5 => V5.read_mut(packet, max),
        }))
        .map_err(|_| Fault::Codec)?
        // The packet is whole, so "insufficient bytes" too means that its insides are wrong.
        .map_err(|_| Fault::Malformed)
    }

    /// Appends a PUBLISH for a subscriber. v5 properties are dropped for v3.1.1, whose encoder panics on them.
    /// `None` if it cannot be encoded; then `out` is as before.
    pub(super) fn publish(
        &self,
        publish: Publish,
        properties: Option<PublishProperties>,
        out: &mut BytesMut,
    ) -> Option<Head> {
        let start = out.len();
        let written = match self.version {
            Version::V311 => V4.write(Packet::Publish(publish, None), out),
            Version::V5 => V5.write(Packet::Publish(publish, properties), out),
        };
        let encoded = &out[start..];
        let head = written
            .ok()
            .and_then(|_| Frame::read(encoded, usize::MAX).ok()?)
            .and_then(|frame| Head::read(encoded, &frame).ok());
        if head.is_none() {
            out.truncate(start);
        }
        head
    }
}

impl Frame {
    /// `None` if the header is not complete yet.
    pub(super) fn read(buf: &[u8], packet_bytes_max: usize) -> Result<Option<Frame>, Fault> {
        let Some(&first) = buf.first() else { return Ok(None) };
        let mut remaining = 0;
        for (at, &byte) in buf.iter().enumerate().skip(1).take(4) {
            remaining |= usize::from(byte & 0x7f) << (7 * (at - 1));
            if byte & 0x80 == 0 {
                let header = at + 1;
                let total = header + remaining;
                if total > packet_bytes_max {
                    return Err(Fault::TooLarge);
                }
                return Ok(Some(Frame { kind: first >> 4, flags: first & 0x0f, header, total }));
            }
        }
        if buf.len() >= 5 { Err(Fault::Malformed) } else { Ok(None) }
    }

    /// Only what a client may send, with the flags that MQTT fixes (table 2.2). What only a server sends never
    /// reaches the decoder; AUTH is refused since no method is offered at CONNECT.
    fn check_client_packet(&self) -> Result<(), Fault> {
        match (self.kind, self.flags) {
            (PUBLISH, _) => Ok(()),
            (6 | 8 | 10, 0b0010) => Ok(()),
            (CONNECT | 4 | 5 | 7 | 12 | DISCONNECT, 0) => Ok(()),
            (6 | 8 | 10 | CONNECT | 4 | 5 | 7 | 12 | DISCONNECT, _) => Err(Fault::Malformed),
            _ => Err(Fault::Protocol),
        }
    }
}

impl Head {
    fn read(packet: &[u8], frame: &Frame) -> Result<Head, Fault> {
        let qos = (frame.flags >> 1) & 0b11;
        if qos == 0 {
            return Ok(Head { qos, pkid: 0, pkid_at: 0 });
        }
        let at = |i: usize| packet.get(i).copied().ok_or(Fault::Malformed);
        let u16_at = |i: usize| Ok(u16::from_be_bytes([at(i)?, at(i + 1)?]));
        let topic = usize::from(u16_at(frame.header)?);
        match (qos, u16_at(frame.header + 2 + topic)?) {
            (3, _) | (_, 0) => Err(Fault::Malformed),
            (qos, pkid) => Ok(Head { qos, pkid, pkid_at: frame.header + 2 + topic }),
        }
    }
}

fn short_disconnect(reason: u8) -> Result<Packet, Fault> {
    let reason_code = match reason {
        0x00 => DisconnectReasonCode::NormalDisconnection,
        0x04 => DisconnectReasonCode::DisconnectWithWillMessage,
        0x80.. => DisconnectReasonCode::UnspecifiedError,
        _ => return Err(Fault::Malformed),
    };
    Ok(Packet::Disconnect(Disconnect { reason_code }, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    const V311: Codec = Codec { version: Version::V311, packet_bytes_max: 1000 };
    const V5_: Codec = Codec { version: Version::V5, packet_bytes_max: 1000 };

    fn decode(codec: Codec, bytes: &[u8]) -> Result<Option<Decoded>, Fault> {
        codec.decode(&mut BytesMut::from(bytes))
    }

    #[test]
    fn server_packets_never_reach_the_decoder() {
        for bytes in [&[0xbf, 1, 0x15][..], &[0x20, 2, 0, 0], &[0x90, 3, 0, 1, 0], &[0xd0, 0], &[0xf0, 0], &[0, 0]] {
            for codec in [V311, V5_] {
                assert_eq!(decode(codec, bytes).unwrap_err(), Fault::Protocol, "{bytes:x?}");
            }
        }
    }

    #[test]
    fn the_known_panic_of_the_decoder_is_caught() {
        let caught = V5_.decode_guarded(&mut BytesMut::from(&[0xbf, 1, 0x15][..]));
        assert_eq!(caught.unwrap_err(), Fault::Codec);
    }

    #[test]
    fn publish_heads() {
        for (bytes, qos, pkid) in [
            (&[0x30, 4, 0, 1, b'a', b'x'][..], QoS::AtMostOnce, 0),
            (&[0x32, 6, 0, 1, b'a', 1, 2, b'x'], QoS::AtLeastOnce, 0x102),
            (&[0x3d, 6, 0, 1, b'a', 0, 9, b'x'], QoS::ExactlyOnce, 9),
        ] {
            let Ok(Some(Decoded::Publish(publish))) = decode(V311, bytes) else { panic!("{bytes:x?}") };
            assert_eq!(
                (publish.qos, publish.pkid, &publish.topic[..], &publish.payload[..]),
                (qos, pkid, &b"a"[..], &b"x"[..])
            );
        }
        for bad in [
            &[0x36, 6, 0, 1, b'a', 1, 2, b'x'][..],
            &[0x32, 5, 0, 1, b'a', 0, 0],
            &[0x32, 3, 0, 9, b'a'],
            &[0x30, 1, 0],
        ] {
            assert_eq!(decode(V311, bad).unwrap_err(), Fault::Malformed, "{bad:x?}");
        }
    }

    #[test]
    fn frames() {
        assert_eq!(decode(V311, &[]).unwrap().map(|_| ()), None);
        assert_eq!(decode(V311, &[0x30, 0x80]).unwrap().map(|_| ()), None);
        assert_eq!(decode(V311, &[0x30, 0xff, 0xff, 0xff, 0xff]).unwrap_err(), Fault::Malformed);
        assert_eq!(decode(V311, &[0x30, 0xff, 0x7f]).unwrap_err(), Fault::TooLarge);
        assert_eq!(decode(V311, &[0x80, 3, 0, 1, 0]).unwrap_err(), Fault::Malformed, "SUBSCRIBE without its flags");
    }

    #[test]
    fn a_v5_disconnect_may_leave_its_properties_out() {
        let Ok(Some(Decoded::Packet(Packet::Disconnect(disconnect, None)))) = decode(V5_, &[0xe0, 1, 4]) else {
            panic!()
        };
        assert_eq!(disconnect.reason_code, DisconnectReasonCode::DisconnectWithWillMessage);
    }

    #[test]
    fn v5_properties_are_dropped_for_v311() {
        let properties = PublishProperties { content_type: Some("x".into()), ..Default::default() };
        let mut out = BytesMut::new();
        let head = V311.publish(Publish::new("a", "x", false), Some(properties.clone()), &mut out);
        assert_eq!((head, &out[..]), (Some(Head { qos: 0, pkid: 0, pkid_at: 0 }), &[0x30, 4, 0, 1, b'a', b'x'][..]));
        out.clear();
        V5_.publish(Publish::new("a", "x", false), Some(properties), &mut out).unwrap();
        assert_eq!(&out[..], &[0x30, 9, 0, 1, b'a', 4, 3, 0, 1, b'x', b'x'][..]);
    }
}
