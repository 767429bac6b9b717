//! Reading around what a disk does not give back.
//!
//! A sector that has gone bad fails the whole read that touches it, so what cannot be read at once is read in pieces.
//! What then cannot be read stands as zeros: every format here has a checksum, so it is found like any other damage.

use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::io::Errno;

/// The least that is given up at once: a page of the kernel's, a sector of most disks.
const PIECE_BYTES: u64 = 4096;
const COPY_BYTES: usize = 64 << 10;

/// Fills `buffer` with what stands at `at`, as far as the file goes, and says how much that was. What cannot be read is
/// told to `unread` by its place in the file. `buffer` must not reach past a file's end that is known.
pub(super) fn read_around(file: &File, at: u64, buffer: &mut [u8], unread: &mut dyn FnMut(Range<u64>)) -> usize {
    let (mut filled, mut in_pieces) = (0, false);
    while filled < buffer.len() {
        let here = at + filled as u64;
        let left = buffer.len() - filled;
        let wanted = if in_pieces { left.min((PIECE_BYTES - here % PIECE_BYTES) as usize) } else { left };
        let part = &mut buffer[filled..filled + wanted];
        match file.read_at(part, here) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) if !in_pieces => in_pieces = true,
            Err(_) => {
                part.fill(0);
                unread(here..here + wanted as u64);
                filled += wanted;
            }
        }
    }
    filled
}

/// Whether it is the disk that does not give something back, and not a right or a place that is missing.
pub(super) fn is_of_the_disk(error: &io::Error) -> bool {
    [Errno::IO, Errno::UCLEAN].map(Errno::raw_os_error).map(Some).contains(&error.raw_os_error())
}

/// Copies a file and says how many of its bytes could not be read.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<u64> {
    let (from, mut to) = (File::open(from)?, File::create(to)?);
    let (bytes, mut at, mut lost) = (from.metadata()?.len(), 0, 0);
    let mut buffer = vec![0; COPY_BYTES];
    while at < bytes {
        let wanted = (bytes - at).min(COPY_BYTES as u64) as usize;
        let read = read_around(&from, at, &mut buffer[..wanted], &mut |span| lost += span.end - span.start);
        if read == 0 {
            break;
        }
        to.write_all(&buffer[..read])?;
        at += read as u64;
    }
    Ok(lost)
}
