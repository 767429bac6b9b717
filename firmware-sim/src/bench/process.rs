//! What the kernel says of a process and a folder. Linux only, as the rest.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Context, Result};

/// Bytes that a process caused to be sent to the disk.
pub(super) fn written_bytes(pid: u32) -> Result<u64> {
    field(&format!("/proc/{pid}/io"), "write_bytes:")
}

/// Memory of a process that is in RAM, in KiB.
pub(super) fn rss_kib(pid: u32) -> Result<u64> {
    field(&format!("/proc/{pid}/status"), "VmRSS:")
}

fn field(path: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(path).with_context(|| format!("reading {path}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let number = line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok());
    number.with_context(|| format!("finding {name} in {path}"))
}

/// What a folder takes up on its disk: blocks, not lengths.
pub(super) fn disk_bytes(dir: &Path) -> Result<u64> {
    blocks(dir).with_context(|| format!("measuring {}", dir.display()))
}

fn blocks(dir: &Path) -> io::Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let metadata = match entry.metadata() {
            Ok(metadata) => metadata,
            // A running node may remove a file meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        bytes += metadata.blocks() * 512;
        if metadata.is_dir() {
            bytes += blocks(&entry.path())?;
        }
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_says_of_this_process() {
        assert!(rss_kib(std::process::id()).unwrap() > 100);
        written_bytes(std::process::id()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("inner")).unwrap();
        fs::write(dir.path().join("inner/file"), vec![1; 10_000]).unwrap();
        assert!(disk_bytes(dir.path()).unwrap() >= 10_000);
        assert!(disk_bytes(&dir.path().join("absent")).is_err());
    }
}
