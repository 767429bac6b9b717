//! Where ledgers and logs go: a temporary folder, or one that stays.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

/// A unix socket's path has at most 107 bytes; the longest of ours is `/station/admin.sock` below the folder.
const PATH_BYTES_MAX: usize = 80;

pub(crate) enum Folder {
    /// Removed with this value.
    Passing(TempDir),
    Kept(PathBuf),
}

impl Folder {
    pub(crate) fn make(keep: Option<&Path>) -> Result<Folder> {
        let Some(dir) = keep else {
            let dir = tempfile::Builder::new().prefix("tillsync-sim-").tempdir();
            return dir.map(Folder::Passing).context("making a temporary folder");
        };
        std::fs::create_dir_all(dir).with_context(|| format!("making {}", dir.display()))?;
        let dir = dir.canonicalize().with_context(|| format!("finding {}", dir.display()))?;
        let mut inside = std::fs::read_dir(&dir).with_context(|| format!("looking into {}", dir.display()))?;
        if inside.next().is_some() {
            bail!("--keep: {} is not empty; name a folder that is, or that does not exist yet", dir.display());
        }
        if dir.as_os_str().len() > PATH_BYTES_MAX {
            bail!("--keep: {} is too long for the sockets in it; name a shorter path", dir.display());
        }
        Ok(Folder::Kept(dir))
    }

    pub(crate) fn path(&self) -> &Path {
        match self {
            Folder::Passing(dir) => dir.path(),
            Folder::Kept(dir) => dir,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_mixes_with_what_is_there() {
        let outer = tempfile::tempdir().unwrap();
        let new = outer.path().join("run");
        assert!(Folder::make(Some(&new)).is_ok());
        let error = Folder::make(Some(outer.path())).err().unwrap();
        assert!(error.to_string().contains("not empty"));
        let passing = Folder::make(None).unwrap().path().to_owned();
        assert!(!passing.exists());
    }
}
