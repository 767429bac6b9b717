//! `backup` and `restore` of a hub. The log is the truth and a hub never trims it, so a backup is a copy of the log up to
//! one commit, and of the snapshot of the state if there is one; the state is made anew from them.
//!
//! `make.rs` copies a hub that runs or not, `restore.rs` makes a data folder of a copy, `manifest.rs` is what a copy says
//! of itself, `mark.rs` is what a restored folder says to the hub's first start.

mod make;
mod manifest;
mod mark;
mod restore;

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

pub(crate) use make::{BackupArgs, backup};
pub(crate) use mark::{drawn, forget};
pub(crate) use restore::{RestoreArgs, restore};
use serde_json::json;

use crate::node::show;

const COPY_BYTES: usize = 256 << 10;
const TELL_EVERY: Duration = Duration::from_secs(1);

/// Copies the first so many bytes to a new file that is on disk when this returns, and gives their blake3 in hex.
/// Fewer are an error.
fn copy(from: &mut File, to: &Path, bytes: u64) -> io::Result<String> {
    let mut out = File::options().write(true).create_new(true).open(to)?;
    let (mut hasher, mut buffer, mut left) = (blake3::Hasher::new(), vec![0; COPY_BYTES], bytes);
    while left > 0 {
        let wanted = left.min(COPY_BYTES as u64) as usize;
        from.read_exact(&mut buffer[..wanted])?;
        out.write_all(&buffer[..wanted])?;
        hasher.update(&buffer[..wanted]);
        left -= wanted as u64;
    }
    out.sync_all()?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Says on stderr how far a long copy is: once a second, so a short one says nothing.
struct Progress {
    of_files: usize,
    of_bytes: u64,
    files: usize,
    bytes: u64,
    told: Instant,
}

impl Progress {
    fn start(of_files: usize, of_bytes: u64) -> Progress {
        Progress { of_files, of_bytes, files: 0, bytes: 0, told: Instant::now() }
    }

    fn copied(&mut self, bytes: u64) {
        (self.files, self.bytes) = (self.files + 1, self.bytes + bytes);
        if self.told.elapsed() >= TELL_EVERY {
            self.told = Instant::now();
            let (done, all) = (show::bytes(&json!(self.bytes)), show::bytes(&json!(self.of_bytes)));
            eprintln!("{done} of {all} copied, {} of {} files", self.files, self.of_files);
        }
    }
}
