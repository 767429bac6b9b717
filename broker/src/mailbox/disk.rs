//! The table of mailboxes: what its keys and values mean.
//!
//! | key | value |
//! |---|---|
//! | `f`, client, 0, filter | granted QoS, subscription identifier if any |
//! | `l`, client, 0, index | QoS, message number, subscription identifiers; one byte 255 once released |
//! | `m`, message number | topic and properties, each after its length, then the payload |
//! | `s`, client | expiry in seconds, then 1 and the owner's name if it has one |
//!
//! Numbers are big-endian, so keys are in order.

use bytes::{BufMut, Bytes, BytesMut};

use super::Grant;
use super::letters::Message;
use crate::ledger::{LedgerError, Put, Table};

/// The number is on disk, in both cores' ledgers: far from those that they give.
pub const TABLE: Table = Table(32);

const RELEASED: u8 = 255;

/// A cell of the table.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cell<'a> {
    Filter {
        client: &'a str,
        filter: &'a str,
        grant: Grant,
    },
    /// `None`: released.
    Letter {
        client: &'a str,
        index: u64,
        of: Option<Stored>,
    },
    Message {
        number: u64,
    },
    Session {
        client: &'a str,
        owner: Option<&'a str>,
        expiry_s: u32,
    },
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) qos: u8,
    pub(super) number: u64,
    pub(super) ids: Box<[u32]>,
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

pub(super) fn filter(client: &str, filter: &str, grant: Grant) -> Put {
    let mut value = vec![grant.qos];
    value.extend(grant.id.into_iter().flat_map(u32::to_be_bytes));
    Put::set(TABLE, key(b'f', client, filter.as_bytes()), value)
}

pub(super) fn no_filter(client: &str, filter: &str) -> Put {
    Put::delete(TABLE, key(b'f', client, filter.as_bytes()))
}

pub(super) fn letter(client: &str, index: u64, qos: u8, number: u64, ids: &[u32]) -> Put {
    let mut value = vec![qos];
    value.extend(number.to_be_bytes());
    value.extend(ids.iter().flat_map(|id| id.to_be_bytes()));
    Put::set(TABLE, key(b'l', client, &index.to_be_bytes()), value)
}

pub(super) fn released(client: &str, index: u64) -> Put {
    Put::set(TABLE, key(b'l', client, &index.to_be_bytes()), [RELEASED])
}

pub(super) fn no_letter(client: &str, index: u64) -> Put {
    Put::delete(TABLE, key(b'l', client, &index.to_be_bytes()))
}

pub(super) fn message(message: &Message) -> Put {
    Put::set(TABLE, message_key(message.number), &message.body[..])
}

pub(super) fn no_message(number: u64) -> Put {
    Put::delete(TABLE, message_key(number))
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

/// What a cell says: what cannot be read is damage, since this software wrote it.
pub(super) fn read<'a>(key: &'a [u8], value: &'a [u8]) -> Result<Cell<'a>, LedgerError> {
    cell(key, value)
        .ok_or_else(|| LedgerError::Value { table: TABLE.0, why: format!("the cell {}", key.escape_ascii()) })
}

fn cell<'a>(key: &'a [u8], value: &'a [u8]) -> Option<Cell<'a>> {
    let (&kind, key) = key.split_first()?;
    let text = |bytes| std::str::from_utf8(bytes).ok();
    let of_client = || {
        let at = key.iter().position(|&byte| byte == 0)?;
        Some((text(&key[..at])?, &key[at + 1..]))
    };
    let number = |bytes: &[u8]| Some(u64::from_be_bytes(bytes.try_into().ok()?));
    match kind {
        b'f' => {
            let (client, filter) = of_client()?;
            let (&qos, id) = value.split_first()?;
            let grant = Grant { qos, id: ids(id)?.first().copied() };
            Some(Cell::Filter { client, filter: text(filter)?, grant })
        }
        b'l' => {
            let (client, index) = of_client()?;
            let of = match value {
                [RELEASED] => None,
                [qos, stored @ ..] => {
                    let (at, rest) = stored.split_at_checked(8)?;
                    Some(Stored { qos: *qos, number: number(at)?, ids: ids(rest)? })
                }
                [] => return None,
            };
            Some(Cell::Letter { client, index: number(index)?, of })
        }
        b'm' => parts(value).and(Some(Cell::Message { number: number(key)? })),
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

fn ids(bytes: &[u8]) -> Option<Box<[u32]>> {
    let (ids, rest) = bytes.as_chunks::<4>();
    rest.is_empty().then(|| ids.iter().map(|id| u32::from_be_bytes(*id)).collect())
}

fn session_key(client: &str) -> Vec<u8> {
    [b"s", client.as_bytes()].concat()
}

fn message_key(number: u64) -> Vec<u8> {
    [&b"m"[..], &number.to_be_bytes()].concat()
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
        let stored = Stored { qos: 1, number: 9, ids: [3, 4].into() };
        let written = [
            (session("a", Some("owner"), 60), Cell::Session { client: "a", owner: Some("owner"), expiry_s: 60 }),
            (session("a", None, 0), Cell::Session { client: "a", owner: None, expiry_s: 0 }),
            (filter("a", "t/#", grant), Cell::Filter { client: "a", filter: "t/#", grant }),
            (letter("a", 5, 1, 9, &[3, 4]), Cell::Letter { client: "a", index: 5, of: Some(stored) }),
            (released("a", 5), Cell::Letter { client: "a", index: 5, of: None }),
        ];
        for (put, cell) in &written {
            assert_eq!(read(&put.key, put.value.as_ref().unwrap()).unwrap(), *cell);
        }
        assert_eq!(parts(&body("t", b"pp", b"payload")), Some((&b"t"[..], &b"pp"[..], &b"payload"[..])));
        for (key, value) in
            [(&b"x"[..], &b"1"[..]), (b"", b""), (b"la\x001234567", b"\xff"), (b"m12345678", b"\0\x09a")]
        {
            assert!(read(key, value).is_err(), "{key:?}");
        }
    }
}
