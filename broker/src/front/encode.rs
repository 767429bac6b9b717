//! The packets that the front says in its own name, byte by byte (OASIS MQTT 3.1.1 and 5.0, chapter 3).
//!
//! Not rumqttd's encoders: the v3.1.1 one panics on v5 reason codes and properties, the v5 one writes a DISCONNECT
//! with a reason one byte too long.

use bytes::{BufMut, Bytes, BytesMut};
use rumqttd::protocol::PublishProperties;

use super::codec::Version;
use crate::mailbox::Message;

pub(super) const PINGRESP: [u8; 2] = [0xd0, 0];

pub(super) fn puback(pkid: u16, reason: u8, out: &mut BytesMut) {
    acknowledge(0x40, pkid, reason, out);
}

pub(super) fn pubrec(pkid: u16, reason: u8, out: &mut BytesMut) {
    acknowledge(0x50, pkid, reason, out);
}

pub(super) fn pubrel(pkid: u16, out: &mut BytesMut) {
    acknowledge(0x62, pkid, 0, out);
}

/// PUBREL for a packet id that is not known (any more); only v5 can say so.
pub(super) fn pubrel_unknown(version: Version, pkid: u16, out: &mut BytesMut) {
    acknowledge(0x62, pkid, if version == Version::V5 { 0x92 } else { 0 }, out);
}

pub(super) fn pubcomp(pkid: u16, out: &mut BytesMut) {
    acknowledge(0x70, pkid, 0, out);
}

/// A reason other than 0 is for v5 only, where 0 may be left out.
fn acknowledge(first: u8, pkid: u16, reason: u8, out: &mut BytesMut) {
    let [high, low] = pkid.to_be_bytes();
    match reason {
        0 => out.extend_from_slice(&[first, 2, high, low]),
        reason => out.extend_from_slice(&[first, 3, high, low, reason]),
    }
}

pub(super) fn suback(version: Version, pkid: u16, codes: &[u8], out: &mut BytesMut) {
    let properties: &[u8] = if version == Version::V5 { &[0] } else { &[] };
    out.put_u8(0x90);
    remaining_length(2 + properties.len() + codes.len(), out);
    out.put_u16(pkid);
    out.extend_from_slice(properties);
    out.extend_from_slice(codes);
}

pub(super) fn unsuback(version: Version, pkid: u16, codes: &[u8], out: &mut BytesMut) {
    let (properties, codes): (&[u8], &[u8]) = if version == Version::V5 { (&[0], codes) } else { (&[], &[]) };
    out.put_u8(0xb0);
    remaining_length(2 + properties.len() + codes.len(), out);
    out.put_u16(pkid);
    out.extend_from_slice(properties);
    out.extend_from_slice(codes);
}

/// CONNACK that refuses. `code` is of the client's version.
pub(super) fn refuse(version: Version, code: u8, out: &mut BytesMut) {
    match version {
        Version::V311 => out.extend_from_slice(&[0x20, 2, 0, code]),
        Version::V5 => out.extend_from_slice(&[0x20, 3, 0, code, 0]),
    }
}

/// v5 only: a v3.1.1 server has no DISCONNECT.
pub(super) fn disconnect(reason: u8, out: &mut BytesMut) {
    out.extend_from_slice(&[0xe0, 2, reason, 0]);
}

/// A retained message: QoS 0, retain flag set. `subscription` is the v5 subscription identifier.
pub(super) fn retained(version: Version, topic: &str, payload: &[u8], subscription: Option<usize>, out: &mut BytesMut) {
    let mut properties = BytesMut::new();
    if version == Version::V5 {
        let mut id = BytesMut::new();
        if let Some(subscription) = subscription {
            id.put_u8(0x0b);
            remaining_length(subscription, &mut id);
        }
        remaining_length(id.len(), &mut properties);
        properties.extend_from_slice(&id);
    }
    out.put_u8(0x31);
    remaining_length(2 + topic.len() + properties.len() + payload.len(), out);
    out.put_u16(topic.len() as u16);
    out.extend_from_slice(topic.as_bytes());
    out.extend_from_slice(&properties);
    out.extend_from_slice(payload);
}

/// QoS, DUP and packet id of a PUBLISH.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    pub(super) qos: u8,
    pub(super) dup: bool,
    pub(super) pkid: u16,
}

/// A letter of a mailbox, without a retain flag. `ids` are v5 subscription identifiers.
pub(super) fn letter(version: Version, message: &Message, head: Head, ids: &[u32], out: &mut BytesMut) {
    let mut properties = BytesMut::new();
    if version == Version::V5 {
        let mut identifiers = BytesMut::new();
        for id in ids {
            identifiers.put_u8(0x0b);
            remaining_length(*id as usize, &mut identifiers);
        }
        remaining_length(message.properties().len() + identifiers.len(), &mut properties);
        properties.extend_from_slice(message.properties());
        properties.extend_from_slice(&identifiers);
    }
    let (topic, payload) = (message.topic(), message.payload());
    let pkid_bytes = if head.qos > 0 { 2 } else { 0 };
    out.put_u8(0x30 | u8::from(head.dup) << 3 | head.qos << 1);
    remaining_length(2 + topic.len() + pkid_bytes + properties.len() + payload.len(), out);
    out.put_u16(topic.len() as u16);
    out.extend_from_slice(topic);
    if head.qos > 0 {
        out.put_u16(head.pkid);
    }
    out.extend_from_slice(&properties);
    out.extend_from_slice(payload);
}

/// What subscribers may see of a publish's v5 properties, without their length: no alias, no identifiers.
pub(super) fn properties(from: &PublishProperties) -> Bytes {
    let mut out = BytesMut::new();
    let mut put = |id: u8, parts: &[&[u8]]| {
        out.put_u8(id);
        for part in parts {
            out.put_u16(part.len() as u16);
            out.extend_from_slice(part);
        }
    };
    if let Some(content_type) = &from.content_type {
        put(0x03, &[content_type.as_bytes()]);
    }
    if let Some(response_topic) = &from.response_topic {
        put(0x08, &[response_topic.as_bytes()]);
    }
    if let Some(data) = &from.correlation_data {
        put(0x09, &[data]);
    }
    for (key, value) in &from.user_properties {
        put(0x26, &[key.as_bytes(), value.as_bytes()]);
    }
    if let Some(indicator) = from.payload_format_indicator {
        out.extend_from_slice(&[0x01, indicator]);
    }
    if let Some(seconds) = from.message_expiry_interval {
        out.put_u8(0x02);
        out.put_u32(seconds);
    }
    out.freeze()
}

/// The variable byte integer of MQTT 5 section 1.5.5.
fn remaining_length(mut n: usize, out: &mut BytesMut) {
    loop {
        let more = if n > 0x7f { 0x80 } else { 0 };
        out.put_u8((n & 0x7f) as u8 | more);
        n >>= 7;
        if n == 0 {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(write: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
        let mut out = BytesMut::new();
        write(&mut out);
        out.to_vec()
    }

    #[test]
    fn packets() {
        assert_eq!(bytes(|o| puback(0x102, 0, o)), [0x40, 2, 1, 2]);
        assert_eq!(bytes(|o| pubrec(1, 0x97, o)), [0x50, 3, 0, 1, 0x97]);
        assert_eq!(bytes(|o| suback(Version::V311, 1, &[1, 0x80], o)), [0x90, 4, 0, 1, 1, 0x80]);
        assert_eq!(bytes(|o| suback(Version::V5, 1, &[1, 0x87], o)), [0x90, 5, 0, 1, 0, 1, 0x87]);
        assert_eq!(bytes(|o| unsuback(Version::V311, 1, &[0x11], o)), [0xb0, 2, 0, 1]);
        assert_eq!(bytes(|o| unsuback(Version::V5, 1, &[0x11], o)), [0xb0, 4, 0, 1, 0, 0x11]);
        assert_eq!(bytes(|o| retained(Version::V311, "a", b"x", None, o)), [0x31, 4, 0, 1, b'a', b'x']);
        assert_eq!(
            bytes(|o| retained(Version::V5, "a", b"x", Some(200), o)),
            [0x31, 8, 0, 1, b'a', 3, 0x0b, 0xc8, 1, b'x']
        );
        assert_eq!(bytes(|o| remaining_length(0, o)), [0]);
        assert_eq!(bytes(|o| remaining_length(16_384, o)), [0x80, 0x80, 1]);
    }
}
