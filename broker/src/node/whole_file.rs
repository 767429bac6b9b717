//! Small files that are read and replaced as a whole: what a crash or a reader finds is the old one or the new one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Puts a file in place of the one that is there, with this mode. It is durable when this returns.
///
/// # Errors
/// The disk's; the old file is there then, or all of the new one.
pub fn replace(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    // What a crash left may have other rights.
    match std::fs::remove_file(&beside) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
        _ => {}
    }
    let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(&beside)?;
    file.write_all(text.as_bytes())?;
    give_to_owner_of_folder(&file, path)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    sync_folder_of(path)
}

/// Waits until nobody else, in any process, holds this lock file, and holds it until what is returned is dropped.
///
/// # Errors
/// The disk's.
pub fn lock(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)?;
    give_to_owner_of_folder(&file, path)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)?;
    Ok(file)
}

/// A command that is run as root must not make files that the node's own user cannot read.
///
/// # Errors
/// The disk's.
pub fn give_to_owner_of_folder(file: &File, path: &Path) -> io::Result<()> {
    let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) else { return Ok(()) };
    let (folder, file_meta) = (std::fs::metadata(parent)?, file.metadata()?);
    if file_meta.uid() == 0 && folder.uid() != 0 {
        std::os::unix::fs::fchown(file, Some(folder.uid()), Some(folder.gid()))?;
    }
    Ok(())
}

/// Makes a file's name durable.
///
/// # Errors
/// The disk's.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

/// Enough to notice that a file was replaced or written: inode, bytes, and when it changed. None without a file.
pub type Seen = Option<(u64, u64, i64, i64)>;

/// How a file looks, to be compared with how it looked before.
pub fn look(path: &Path) -> Seen {
    let meta = std::fs::metadata(path).ok()?;
    Some((meta.ino(), meta.size(), meta.mtime(), meta.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_a_crash_left_beside_it_is_no_hindrance_and_gives_no_rights() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        std::fs::write(dir.path().join("a.json.new"), "half").unwrap();
        let before = look(&path);
        replace(&path, "whole", 0o600).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "whole");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(before.is_none() && look(&path).is_some());
    }

    #[test]
    fn what_root_makes_belongs_to_the_folders_owner() {
        let dir = tempfile::tempdir().unwrap();
        // Only root can give files away, and only root needs to.
        if std::os::unix::fs::chown(dir.path(), Some(12_345), Some(12_345)).is_err() {
            return;
        }
        let path = dir.path().join("a.json");
        replace(&path, "whole", 0o600).unwrap();
        drop(lock(&dir.path().join("a.lock")).unwrap());
        for name in ["a.json", "a.lock"] {
            assert_eq!(std::fs::metadata(dir.path().join(name)).unwrap().uid(), 12_345, "{name}");
        }
    }
}
