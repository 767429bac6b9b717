//! A copy of the state in one file, from which it is made anew if the database is damaged and the journal no longer
//! reaches back to its beginning. Written before any segment is dropped that only the state remembers.
//!
//! zstd over: magic, a Folded message and its blake3 hash, then every cell, each length-delimited; at the end an empty
//! cell.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use prost::Message;
use proto::chunk::{ChainHash, Position};
use proto::id::Seq;
use proto::wire;

use super::core::{Put, Table};
use super::digest::Digest;
use super::error::LedgerError;
use super::store::{Folded, Store, sync_path};

const MAGIC: &[u8; 8] = b"TILLSNAP";
/// The largest cell that is believed.
const CELL_BYTES_MAX: usize = 4 << 20;

pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("state.snapshot")
}

/// Writes the state as it stands in the store. Nothing else may write to the store meanwhile.
pub(super) fn write(dir: &Path, store: &Store) -> Result<Folded, LedgerError> {
    let fail = |e: io::Error| LedgerError::Io { doing: "write a snapshot of the state", why: e.to_string() };
    let (to, unfinished) = (path(dir), dir.join("state.unfinished"));
    let folded = store.folded();
    match write_beside(store, folded, &unfinished)
        .map_err(fail)
        .and_then(|()| put_in_place(&unfinished, &to, dir).map_err(fail))
    {
        Ok(()) => Ok(folded),
        Err(error) => {
            let _ = fs::remove_file(&unfinished);
            Err(error)
        }
    }
}

fn put_in_place(unfinished: &Path, to: &Path, dir: &Path) -> io::Result<()> {
    fs::rename(unfinished, to)?;
    sync_path(dir)
}

fn write_beside(store: &Store, folded: Folded, unfinished: &Path) -> io::Result<()> {
    let file = File::create(unfinished)?;
    let mut out = zstd::stream::write::Encoder::new(BufWriter::new(file), 1)?;
    let Folded { frame, position } = folded;
    let (hash, digest) = (position.hash.0.to_vec().into(), store.digest().0);
    let head = wire::Folded { frame, seq: position.seq.0, hash, digest }.encode_length_delimited_to_vec();
    out.write_all(MAGIC)?;
    out.write_all(&head)?;
    out.write_all(blake3::hash(&head).as_bytes())?;
    for cell in store.cells() {
        let (key, value) = cell.map_err(|e| io::Error::other(e.to_string()))?;
        let (table, key, value) = (key[0].into(), key[1..].to_vec().into(), Some(value.to_vec().into()));
        out.write_all(&wire::Cell { table, key, value }.encode_length_delimited_to_vec())?;
    }
    out.write_all(&wire::Cell::default().encode_length_delimited_to_vec())?;
    let file = out.finish()?.into_inner().map_err(|e| e.into_error())?;
    file.sync_all()
}

/// Reads a snapshot, giving its cells away a few at a time, and says where it stands. `Ok(None)` if there is none or it
/// is not whole; then what was given away must not be used.
pub(super) fn read(
    dir: &Path,
    each: &mut dyn FnMut(Vec<Put>) -> Result<(), LedgerError>,
) -> Result<Option<Folded>, LedgerError> {
    match read_all(dir, each) {
        Ok(folded) => Ok(Some(folded)),
        Err(Fault::Not(why)) => {
            tracing::warn!(%why, "there is no snapshot of the state to begin from");
            Ok(None)
        }
        Err(Fault::Ledger(error)) => Err(error),
    }
}

/// Where a snapshot stands, without reading more of it.
pub(super) fn stands(dir: &Path) -> Option<Folded> {
    let mut input = open(dir).ok()?;
    head(&mut input).ok().map(|(folded, _)| folded)
}

enum Fault {
    Not(String),
    Ledger(LedgerError),
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Fault {
        Fault::Not(error.to_string())
    }
}

fn open(dir: &Path) -> io::Result<impl Read> {
    Ok(BufReader::new(zstd::stream::read::Decoder::new(File::open(path(dir))?)?))
}

fn head(input: &mut impl Read) -> Result<(Folded, Digest), Fault> {
    let mut magic = [0; MAGIC.len()];
    input.read_exact(&mut magic)?;
    let head: wire::Folded = message(input)?;
    let mut sum = [0; 32];
    input.read_exact(&mut sum)?;
    if sum != *blake3::hash(&head.encode_length_delimited_to_vec()).as_bytes() {
        return Err(Fault::Not("its head is not what was written".into()));
    }
    match ChainHash::from_slice(&head.hash) {
        Some(hash) if magic == *MAGIC => {
            let position = Position { seq: Seq(head.seq), hash };
            Ok((Folded { frame: head.frame, position }, Digest(head.digest)))
        }
        _ => Err(Fault::Not("its head is wrong".into())),
    }
}

fn read_all(dir: &Path, each: &mut dyn FnMut(Vec<Put>) -> Result<(), LedgerError>) -> Result<Folded, Fault> {
    let mut input = open(dir)?;
    let (folded, promised) = head(&mut input)?;
    let (mut digest, mut puts) = (Digest::default(), Vec::new());
    loop {
        let cell: wire::Cell = message(&mut input)?;
        if cell == wire::Cell::default() {
            break;
        }
        let (Ok(table), Some(value)) = (u8::try_from(cell.table), cell.value) else {
            return Err(Fault::Not("a cell makes no sense".into()));
        };
        digest.add(&super::digest::full_key(Table(table), &cell.key), &value);
        puts.push(Put { table: Table(table), key: cell.key.to_vec(), value: Some(value) });
        if puts.len() == 512 {
            each(std::mem::take(&mut puts)).map_err(Fault::Ledger)?;
        }
    }
    each(puts).map_err(Fault::Ledger)?;
    match digest == promised {
        true => Ok(folded),
        false => Err(Fault::Not("its cells are not those that were written".into())),
    }
}

fn message<M: Message + Default>(input: &mut impl Read) -> Result<M, Fault> {
    let (mut length, mut shift) = (0usize, 0);
    loop {
        let mut byte = [0];
        input.read_exact(&mut byte)?;
        length |= usize::from(byte[0] & 0x7f) << shift;
        shift += 7;
        if byte[0] & 0x80 == 0 {
            break;
        }
        if shift > 21 {
            return Err(Fault::Not("a length is too long".into()));
        }
    }
    if length > CELL_BYTES_MAX {
        return Err(Fault::Not("a cell is too large".into()));
    }
    let mut bytes = vec![0; length];
    input.read_exact(&mut bytes)?;
    M::decode(&bytes[..]).map_err(|e| Fault::Not(e.to_string()))
}
