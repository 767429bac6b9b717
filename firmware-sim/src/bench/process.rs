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

/// The most that it ever was, or was since [`forget_peak`].
pub(super) fn peak_rss_kib(pid: u32) -> Result<u64> {
    field(&format!("/proc/{pid}/status"), "VmHWM:")
}

/// From here on the peak counts anew.
pub(super) fn forget_peak(pid: u32) -> Result<()> {
    let path = format!("/proc/{pid}/clear_refs");
    fs::write(&path, "5").with_context(|| format!("writing {path}"))
}

/// Seconds that a process's threads ran, in user space and in the kernel.
pub(super) fn cpu_s(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    // The name may hold anything, so fields are counted behind it: the twelfth and thirteenth are user and system.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_ascii_whitespace().collect();
    let ticks = |n: usize| fields.get(n).and_then(|field| field.parse::<f64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).with_context(|| format!("reading the times in {path}"))?;
    Ok((user + system) / rustix::param::clock_ticks_per_second() as f64)
}

/// As many open files as this process may have: shells give fewer. What it starts inherits it.
pub(super) fn raise_open_files() -> Result<()> {
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current = limit.maximum;
    rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).context("raising the limit of open files")
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
        forget_peak(std::process::id()).unwrap();
        assert!(peak_rss_kib(std::process::id()).unwrap() > 100);
        assert!((0.0..1e6).contains(&cpu_s(std::process::id()).unwrap()));
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("inner")).unwrap();
        fs::write(dir.path().join("inner/file"), vec![1; 10_000]).unwrap();
        assert!(disk_bytes(dir.path()).unwrap() >= 10_000);
        assert!(disk_bytes(&dir.path().join("absent")).is_err());
    }
}
