//! The table of mailboxes: what its keys and values mean.
//!
//! | key | value |
//! |---|---|
//! | `d`, client | number up to which all is done; how many done ones above it, and they; released ones |
//! | `f`, client, 0, filter | granted QoS, number from which it counts, subscription identifier if any |
//! | `m`, slot | message number; topic and properties, each after its length; the payload |
//! | `s`, client | expiry in seconds, then 1 and the owner's name if it has one |
//!
//! Numbers are big-endian. A slot is used again once its message is gone, so that however many messages pass, few
//! cells change.

use bytes::{BufMut, Bytes, BytesMut};

use super::Grant;
use super::letters::Message;
use crate::ledger::{Put, Table};

/// The number is on disk, in both cores' ledgers: far from those that they give.
pub const TABLE: Table = Table(32);

/// More than all messages' bytes allow, at any size: a slot beyond it is damage, and would make the start count up to it.
const SLOTS_MAX: u32 = 1 << 20;

/// A cell of the table.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cell<'a> {
    Filter { client: &'a str, filter: &'a str, grant: Grant, from: u64 },
    Message { slot: u32, number: u64, body: &'a [u8] },
    Progress { client: &'a str, progress: Progress },
    Session { client: &'a str, owner: Option<&'a str>, expiry_s: u32 },
}

/// How far a session is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Nothing up to here is to be sent again.
    pub(super) floor: u64,
    /// Nor are these, above it.
    pub(super) done: Vec<u64>,
    /// The client has these, and waits for PUBREL or did not answer it.
    pub(super) released: Vec<u64>,
}

pub(super) fn session(client: &str, owner: Option<&str>, expiry_s: u32) -> Put {
    let mut value = expiry_s.to_be_bytes().to_vec();
    if let Some(owner) = owner {
        value.push(1);
        value.extend_from_slice(owner.as_bytes());
    }
    Put::set(TABLE, session_key(client), value)
}

pub(super) fn no_session(client: &str) -> Put {
    Put::delete(TABLE, session_key(client))
}

pub(super) fn filter(client: &str, filter: &str, grant: Grant, from: u64) -> Put {
    let mut value = vec![grant.qos];
    value.extend(from.to_be_bytes());
    value.extend(grant.id.into_iter().flat_map(u32::to_be_bytes));
    Put::set(TABLE, key(b'f', client, filter.as_bytes()), value)
}

pub(super) fn no_filter(client: &str, filter: &str) -> Put {
    Put::delete(TABLE, key(b'f', client, filter.as_bytes()))
}

pub(super) fn progress(client: &str, progress: &Progress) -> Put {
    let Progress { floor, done, released } = progress;
    let count = done.len() as u64;
    let numbers = [*floor, count].into_iter().chain(done.iter().chain(released).copied());
    Put::set(TABLE, progress_key(client), numbers.flat_map(u64::to_be_bytes).collect::<Vec<u8>>())
}

pub(super) fn no_progress(client: &str) -> Put {
    Put::delete(TABLE, progress_key(client))
}

pub(super) fn message(slot: u32, message: &Message) -> Put {
    Put::set(TABLE, message_key(slot), [&message.number.to_be_bytes()[..], &message.body].concat())
}

pub(super) fn no_message(slot: u32) -> Put {
    Put::delete(TABLE, message_key(slot))
}

/// For a cell that nobody can read.
pub(super) fn nothing(key: &[u8]) -> Put {
    Put::delete(TABLE, key)
}

/// One copy of exact size: the parts may be views of a large read buffer.
pub(super) fn body(topic: &str, properties: &[u8], payload: &[u8]) -> Bytes {
    let mut body = BytesMut::with_capacity(4 + topic.len() + properties.len() + payload.len());
    for part in [topic.as_bytes(), properties] {
        debug_assert!(part.len() <= usize::from(u16::MAX), "topics and properties are bounded far below");
        body.put_u16(part.len() as u16);
        body.extend_from_slice(part);
    }
    body.extend_from_slice(payload);
    body.freeze()
}

impl Message {
    pub(crate) fn topic(&self) -> &[u8] {
        self.parts().0
    }

    /// v5 properties as they are sent, without their length and subscription identifiers.
    pub(crate) fn properties(&self) -> &[u8] {
        self.parts().1
    }

    pub(crate) fn payload(&self) -> &[u8] {
        self.parts().2
    }

    fn parts(&self) -> (&[u8], &[u8], &[u8]) {
        // Looked at when it was read; empty rather than a panic.
        parts(&self.body).unwrap_or_default()
    }
}

pub(super) fn parts(body: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let (length, rest) = body.split_first_chunk()?;
    let (topic, rest) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    let (length, rest) = rest.split_first_chunk()?;
    let (properties, payload) = rest.split_at_checked(u16::from_be_bytes(*length).into())?;
    Some((topic, properties, payload))
}

/// What a cell says. `None`: this software did not write it.
pub(super) fn read<'a>(key: &'a [u8], value: &'a [u8]) -> Option<Cell<'a>> {
    let (&kind, key) = key.split_first()?;
    let text = |bytes| std::str::from_utf8(bytes).ok();
    match kind {
        b'd' => Some(Cell::Progress { client: text(key)?, progress: read_progress(value)? }),
        b'f' => {
            let at = key.iter().position(|&byte| byte == 0)?;
            let (&qos, rest) = value.split_first()?;
            let (from, id) = rest.split_first_chunk()?;
            let grant = Grant { qos, id: read_id(id)? };
            let (client, filter) = (text(&key[..at])?, text(&key[at + 1..])?);
            Some(Cell::Filter { client, filter, grant, from: u64::from_be_bytes(*from) })
        }
        b'm' => {
            let (number, body) = value.split_first_chunk()?;
            let slot = Some(u32::from_be_bytes(key.try_into().ok()?)).filter(|slot| *slot < SLOTS_MAX)?;
            text(parts(body)?.0)?;
            Some(Cell::Message { slot, number: u64::from_be_bytes(*number), body })
        }
        b's' => {
            let (expiry, owner) = value.split_first_chunk()?;
            let owner = match owner {
                [] => None,
                [1, owner @ ..] => Some(text(owner)?),
                _ => return None,
            };
            Some(Cell::Session { client: text(key)?, owner, expiry_s: u32::from_be_bytes(*expiry) })
        }
        _ => None,
    }
}

fn read_progress(value: &[u8]) -> Option<Progress> {
    let (numbers, rest) = value.as_chunks::<8>();
    let mut numbers = numbers.iter().map(|number| u64::from_be_bytes(*number));
    let (floor, count) = (numbers.next()?, usize::try_from(numbers.next()?).ok()?);
    let mut done: Vec<u64> = numbers.collect();
    let released = (rest.is_empty() && count <= done.len()).then(|| done.split_off(count))?;
    Some(Progress { floor, done, released })
}

fn read_id(bytes: &[u8]) -> Option<Option<u32>> {
    match bytes {
        [] => Some(None),
        id => Some(Some(u32::from_be_bytes(id.try_into().ok()?))),
    }
}

fn session_key(client: &str) -> Vec<u8> {
    [b"s", client.as_bytes()].concat()
}

fn progress_key(client: &str) -> Vec<u8> {
    [b"d", client.as_bytes()].concat()
}

fn message_key(slot: u32) -> Vec<u8> {
    [&b"m"[..], &slot.to_be_bytes()].concat()
}

/// Client ids have no NUL.
fn key(kind: u8, client: &str, rest: &[u8]) -> Vec<u8> {
    [&[kind][..], client.as_bytes(), b"\0", rest].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cell_is_read_as_it_was_written() {
        let grant = Grant { qos: 2, id: Some(7) };
        let progress = Progress { floor: 4, done: vec![6, 7], released: vec![2, 7] };
        let again = Progress { floor: 4, done: vec![6, 7], released: vec![2, 7] };
        let text = Message::new(9, Some(5), body("t", b"pp", b"payload"));
        let written = [
            (session("a", Some("owner"), 60), Cell::Session { client: "a", owner: Some("owner"), expiry_s: 60 }),
            (session("a", None, 0), Cell::Session { client: "a", owner: None, expiry_s: 0 }),
            (filter("a", "t/#", grant, 3), Cell::Filter { client: "a", filter: "t/#", grant, from: 3 }),
            (super::progress("a", &progress), Cell::Progress { client: "a", progress: again }),
            (message(5, &text), Cell::Message { slot: 5, number: 9, body: &text.body }),
        ];
        for (put, cell) in &written {
            assert_eq!(read(&put.key, put.value.as_ref().unwrap()).unwrap(), *cell);
        }
        assert_eq!(parts(&body("t", b"pp", b"payload")), Some((&b"t"[..], &b"pp"[..], &b"payload"[..])));
        // Kinds and lengths that this layout does not have, a progress that promises more than it holds, a short body.
        for (key, value) in [
            (&b"x"[..], &b"1"[..]),
            (b"", b""),
            (b"la\x0012345678", b"\xff"),
            (b"m12345678", b"12345678\0\x01a\0\0"),
            (b"m\0\0\0\x01", b"12345678\0\x09a"),
            (b"m1234", b"12345678\0\x01a\0\0"),
            (b"fa\0t", b"\x01"),
            (b"da", b"12345678\0\0\0\0\0\0\0\x01"),
        ] {
            assert!(read(key, value).is_none(), "{key:?}");
        }
    }
}
