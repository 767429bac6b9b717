//! Files that hold keys and certificates: never half-written, and keys for their owner only.

use std::fmt;
use std::fs::{File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::node::whole_file;

/// What is wrong, by what to do next.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// The disk or its rights: nothing else can be done than to look at the file.
    #[error("{}: {why}", path.display())]
    File { path: PathBuf, why: io::Error },
    /// The file is there, and is not what it should be.
    #[error("{}: {why}", path.display())]
    Content { path: PathBuf, why: String },
    /// What was asked for cannot be certified.
    #[error("{0}")]
    Request(String),
}

impl PkiError {
    pub fn content(path: &Path, why: impl fmt::Display) -> PkiError {
        PkiError::Content { path: path.into(), why: why.to_string() }
    }

    pub(super) fn request(why: impl fmt::Display) -> PkiError {
        PkiError::Request(why.to_string())
    }
}

/// A longer file is not one of ours: a thousand codes with what was answered to them take two megabytes.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Makes a folder that only its owner may look into; one that is there already is left as it is.
///
/// # Errors
/// The disk's.
pub fn make_folder(path: &Path) -> Result<(), PkiError> {
    let made = || {
        if path.is_dir() {
            return Ok(());
        }
        std::fs::create_dir_all(path)?;
        std::fs::set_permissions(path, Permissions::from_mode(0o700))?;
        whole_file::give_to_owner_of_folder(&File::open(path)?, path)
    };
    made().map_err(|why| PkiError::File { path: path.into(), why })
}

/// Puts a file with a key in place of the one that is there, mode 0600. It is durable when this returns.
///
/// # Errors
/// The disk's; the old file is there then, or all of the new one.
pub fn write_private(path: &Path, text: &str) -> Result<(), PkiError> {
    whole_file::replace(path, text, 0o600).map_err(|why| PkiError::File { path: path.into(), why })
}

/// As [`write_private`], for what anybody may read.
///
/// # Errors
/// The disk's.
pub fn write_public(path: &Path, text: &str) -> Result<(), PkiError> {
    whole_file::replace(path, text, 0o644).map_err(|why| PkiError::File { path: path.into(), why })
}

/// Reads a small text file; `None` if it is not there.
///
/// # Errors
/// The disk's, and of a file that is no text or too long for one of ours.
pub fn read_bounded(path: &Path) -> Result<Option<String>, PkiError> {
    let read = || {
        let mut text = String::new();
        File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
        io::Result::Ok(text)
    };
    match read() {
        Ok(text) if text.len() as u64 > FILE_BYTES_MAX => Err(PkiError::content(path, "too long")),
        Ok(text) => Ok(Some(text)),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(why) => Err(PkiError::File { path: path.into(), why }),
    }
}

/// Waits until nobody else, in any process, holds this lock file, and holds it until what is returned is dropped.
///
/// # Errors
/// The disk's.
pub fn lock(path: &Path) -> Result<File, PkiError> {
    whole_file::lock(path).map_err(|why| PkiError::File { path: path.into(), why })
}

/// Removes a file; one that is not there is no error.
///
/// # Errors
/// The disk's.
pub fn remove(path: &Path) -> Result<(), PkiError> {
    match std::fs::remove_file(path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(PkiError::File { path: path.into(), why }),
        _ => Ok(()),
    }
}
