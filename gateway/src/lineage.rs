//! Which lives led to this one, in a file beside the ledger. A ledger that is set apart takes it along (`fork/`), so that
//! the life after it can name lives too that only a lost incarnation of the hub had closed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use prost::Message;
use proto::wire::{Ancestor, TakeoverCell};
use ring::digest::{SHA256, digest};

const NAME: &str = "lineage";
const HASH_BYTES: usize = 32;
/// Sixteen lives have less. A longer file is none of ours.
const BYTES_MAX: usize = 4 << 10;

/// Replaces the file as a whole, if it says something else. Written again at every start, so what a crash loses comes back.
///
/// # Errors
/// The disk fails.
pub(crate) fn keep(dir: &Path, lineage: &[Ancestor]) -> io::Result<()> {
    let told = TakeoverCell { lineage: lineage.to_vec(), ..TakeoverCell::default() }.encode_to_vec();
    let bytes = [digest(&SHA256, &told).as_ref(), &told[..]].concat();
    let (place, unfinished) = (dir.join(NAME), dir.join("lineage.unfinished"));
    if fs::read(&place).is_ok_and(|held| held == bytes) {
        return Ok(());
    }
    let mut file = File::create(&unfinished)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&unfinished, &place)?;
    File::open(dir)?.sync_all()
}

/// What the ledger in `dir/fork` knew. Nothing if there is no such file, or it is damaged: the hub may know it too.
pub(crate) fn of_fork(dir: &Path) -> Vec<Ancestor> {
    let bytes = fs::read(dir.join("fork").join(NAME)).unwrap_or_default();
    let Some((hash, told)) = bytes.split_at_checked(HASH_BYTES).filter(|_| bytes.len() <= BYTES_MAX) else {
        return Vec::new();
    };
    let sound = digest(&SHA256, told).as_ref() == hash;
    let cell = if sound { TakeoverCell::decode(told).ok() } else { None };
    cell.map_or(Vec::new(), |cell| cell.lineage)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_by_the_next_life_and_damage_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let lives: Vec<_> = (1..=16).map(|epoch| Ancestor { epoch, seq: u64::MAX, hash: vec![7; 32].into() }).collect();
        for lineage in [&lives[..1], &lives] {
            keep(dir.path(), lineage).unwrap();
            keep(dir.path(), lineage).unwrap();
            let fork = dir.path().join("fork");
            fs::create_dir_all(&fork).unwrap();
            fs::copy(dir.path().join(NAME), fork.join(NAME)).unwrap();
            assert_eq!(of_fork(dir.path()), lineage);
            let whole = fs::read(fork.join(NAME)).unwrap();
            assert!(whole.len() < BYTES_MAX);
            for at in 0..whole.len() {
                let mut bytes = whole.clone();
                bytes[at] ^= 1;
                fs::write(fork.join(NAME), bytes).unwrap();
                assert!(of_fork(dir.path()).is_empty(), "damaged at {at}");
                fs::write(fork.join(NAME), &whole[..at]).unwrap();
                assert!(of_fork(dir.path()).is_empty(), "cut at {at}");
            }
        }
    }
}
