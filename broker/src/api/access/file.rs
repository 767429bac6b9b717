//! Whether a file changed since it was read.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Enough to notice that a file was replaced or written: inode, bytes, and when it changed. None without a file.
pub(super) type Seen = Option<(u64, u64, i64, i64)>;

pub(super) fn look(path: &Path) -> Seen {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}
