//! The table of mailboxes: what its keys and values mean.
//!
//! | key | value |
//! |---|---|
//! | `d`, client | number up to which all is done; how many done ones above it, and they; released ones |
//! | `f`, client, 0, filter | granted QoS, number from which it counts, subscription identifier if any |
//! | `m`, slot | a page: 1, then of each message its number, the length of its body, and that; or 2, then the same packed |
//! | `s`, client | expiry in seconds, then 1 and the owner's name if it has one |
//!
//! A body is topic and properties, each after its length, and the payload. Numbers are big-endian. A slot is used again
//! once nothing of its page is wanted, so that however many messages pass, few cells change. A page that begins with 0
//! is a number and one body: so it was before there were pages, and it is read as long as it is there.

use bytes::{BufMut, Bytes};

use super::Grant;
use super::gather::Letter;
use crate::ledger::{Put, Table};

/// The number is on disk, in both cores' ledgers: far from those that they give.
pub const TABLE: Table = Table(32);

/// More than all messages' bytes allow, at any size: a slot beyond it is damage, and would make the start count up to it.
const SLOTS_MAX: u32 = 1 << 20;

const PAGE: u8 = 1;
const PACKED_PAGE: u8 = 2;
/// The state takes no values of this size, packed or not.
const PAGE_BYTES_MAX: usize = 128 << 10;
/// Less is not worth packing.
const PACK_FROM_BYTES: usize = 1 << 10;
pub(super) const EMPTY_PAGE_BYTES: usize = 1;
/// Before each body in a page: its message's number, its length.
const LETTER_HEAD_BYTES: usize = 12;

/// Where a body is in its page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    start: u32,
    end: u32,
}

/// A cell of the table.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Cell<'a> {
    Filter {
        client: &'a str,
        filter: &'a str,
        grant: Grant,
        from: u64,
    },
    /// Every message's number, and where it is.
    Page {
        slot: u32,
        page: Bytes,
        letters: Vec<(u64, Place)>,
    },
    Progress {
        client: &'a str,
        progress: Progress,
    },
    Session {
        client: &'a str,
        owner: Option<&'a str>,
        expiry_s: u32,
    },
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

/// Makes pages small for the disk: what a full one saves in the write is more than what packing it takes.
pub(super) struct Packer {
    /// Without one, pages are written as they are.
    zstd: Option<zstd::bulk::Compressor<'static>>,
    /// Used again for each.
    packed: Vec<u8>,
}

impl Packer {
    pub(super) fn new() -> Packer {
        // Far less time than level 1 takes; it leaves what has no repeats as it is.
        Packer { zstd: zstd::bulk::Compressor::new(-3).ok(), packed: Vec::new() }
    }

    pub(super) fn page(&mut self, slot: u32, page: &Bytes) -> Put {
        let value = if page.len() < PACK_FROM_BYTES { None } else { self.pack(page) };
        Put { table: TABLE, key: page_key(slot), value: Some(value.unwrap_or_else(|| page.clone())) }
    }

    /// `None` if it would not get smaller.
    fn pack(&mut self, page: &[u8]) -> Option<Bytes> {
        let Packer { zstd, packed } = self;
        packed.resize(zstd::zstd_safe::compress_bound(page.len()), 0);
        let bytes = zstd.as_mut()?.compress_to_buffer(page, &mut packed[..]).ok()?;
        Some([&[PACKED_PAGE][..], packed.get(..bytes).filter(|packed| packed.len() + 1 < page.len())?].concat().into())
    }
}

impl std::fmt::Debug for Packer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Packer")
    }
}

pub(super) fn no_page(slot: u32) -> Put {
    Put::delete(TABLE, page_key(slot))
}

/// For a cell that nobody can read.
pub(super) fn nothing(key: &[u8]) -> Put {
    Put::delete(TABLE, key)
}

/// With room for so many bytes of letters.
pub(super) fn begin_page(room: usize) -> Vec<u8> {
    let mut page = Vec::with_capacity(EMPTY_PAGE_BYTES + room);
    page.push(PAGE);
    page
}

/// The buffer again, without its letters.
pub(super) fn empty_page(mut page: Vec<u8>) -> Vec<u8> {
    page.truncate(EMPTY_PAGE_BYTES);
    page
}

/// What a body takes of a page.
pub(super) fn letter_bytes(body: &[u8]) -> usize {
    LETTER_HEAD_BYTES + body.len()
}

pub(super) fn write_letter(number: u64, body: &[u8], page: &mut Vec<u8>) {
    page.put_u64(number);
    page.put_u32(body.len() as u32);
    page.put_slice(body);
}

pub(super) fn write_body(letter: &Letter<'_>, body: &mut Vec<u8>) {
    for part in [letter.topic.as_bytes(), letter.properties] {
        debug_assert!(part.len() <= usize::from(u16::MAX), "topics and properties are bounded far below");
        body.put_u16(part.len() as u16);
        body.put_slice(part);
    }
    body.put_slice(letter.payload);
}

/// What is in a page. `None`: this software did not write it.
pub(super) fn letters(page: &[u8]) -> Option<Vec<(u64, Place)>> {
    let place = |start: usize, end: usize| Some(Place { start: start.try_into().ok()?, end: end.try_into().ok()? });
    if page.first() == Some(&0) {
        let (number, _) = page.split_first_chunk()?;
        return Some(vec![(u64::from_be_bytes(*number), place(size_of_val(number), page.len())?)]);
    }
    let (&PAGE, mut rest) = page.split_first()? else { return None };
    let mut letters = Vec::new();
    while !rest.is_empty() {
        let (number, after) = rest.split_first_chunk()?;
        let (length, after) = after.split_first_chunk()?;
        let (body, after) = after.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        let end = page.len() - after.len();
        letters.push((u64::from_be_bytes(*number), place(end - body.len(), end)?));
        rest = after;
    }
    Some(letters)
}

impl Place {
    pub(super) fn of(self, page: &[u8]) -> &[u8] {
        page.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    pub(super) fn bytes(self) -> usize {
        (self.end - self.start) as usize
    }
}

/// A body's topic.
pub(super) fn topic(body: &[u8]) -> Option<&str> {
    std::str::from_utf8(parts(body)?.0).ok()
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
            let slot = Some(u32::from_be_bytes(key.try_into().ok()?)).filter(|slot| *slot < SLOTS_MAX)?;
            let page: Bytes = match value.split_first()? {
                (&PACKED_PAGE, packed) => zstd::bulk::decompress(packed, PAGE_BYTES_MAX).ok()?.into(),
                _ => Bytes::copy_from_slice(value),
            };
            let letters = letters(&page)?;
            letters.iter().try_for_each(|(_, place)| topic(place.of(&page)).map(drop))?;
            Some(Cell::Page { slot, page, letters })
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

fn page_key(slot: u32) -> Vec<u8> {
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
        let letter = Letter { topic: "t", properties: b"pp", payload: b"payload" };
        let (mut sheet, mut body) = (begin_page(0), Vec::new());
        write_body(&letter, &mut body);
        (9..12).for_each(|number| write_letter(number, &body, &mut sheet));
        let mut packer = Packer::new();
        let long: Bytes = [&sheet[..], &sheet[1..].repeat(99)].concat().into();
        let packed = packer.page(6, &long).value.unwrap();
        assert!(packed.len() < 1_000 && long.len() > 5_000);
        assert!((0..packed.len()).all(|cut| read(b"m\0\0\0\x06", &packed[..cut]).is_none()));
        let sheet: Bytes = sheet.into();
        let places = letters(&sheet).unwrap();
        for (at, (number, place)) in places.iter().enumerate() {
            assert_eq!((*number, place.bytes()), (9 + at as u64, body.len()));
            assert_eq!(parts(place.of(&sheet)), Some((&b"t"[..], &b"pp"[..], &b"payload"[..])));
        }
        let written = [
            (session("a", Some("owner"), 60), Cell::Session { client: "a", owner: Some("owner"), expiry_s: 60 }),
            (session("a", None, 0), Cell::Session { client: "a", owner: None, expiry_s: 0 }),
            (filter("a", "t/#", grant, 3), Cell::Filter { client: "a", filter: "t/#", grant, from: 3 }),
            (super::progress("a", &progress), Cell::Progress { client: "a", progress: again }),
            (packer.page(5, &sheet), Cell::Page { slot: 5, page: sheet.clone(), letters: places }),
            (packer.page(6, &long), Cell::Page { slot: 6, page: long.clone(), letters: letters(&long).unwrap() }),
        ];
        for (put, cell) in &written {
            assert_eq!(read(&put.key, put.value.as_ref().unwrap()).unwrap(), *cell);
        }
        for cut in (1..sheet.len()).filter(|cut| (cut - 1) % letter_bytes(&body) != 0) {
            assert!(read(b"m\0\0\0\x01", &sheet[..cut]).is_none(), "{cut}");
        }
        // Kinds and lengths that this layout does not have, a progress that promises more than it holds, short bodies.
        for (key, value) in [
            (&b"x"[..], &b"1"[..]),
            (b"", b""),
            (b"la\x0012345678", b"\xff"),
            (b"m12345678", b"\0\0\0\0\0\0\0\x08\0\x01a\0\0"),
            (b"m\0\0\0\x01", b"\0\0\0\0\0\0\0\x08\0\x09a"),
            (b"m\0\0\0\x01", b"\x01\0\0\0\0\0\0\0\x08\0\0\0\x09\0\x01a\0\0"),
            (b"m\0\0\0\x01", b"\x02"),
            (b"m\0\0\0\x01", b""),
            (b"m1234", b"\0\0\0\0\0\0\0\x08\0\x01a\0\0"),
            (b"fa\0t", b"\x01"),
            (b"da", b"12345678\0\0\0\0\0\0\0\x01"),
        ] {
            assert!(read(key, value).is_none(), "{key:?}");
        }
    }
}
