//! `DIR/pki`: a node's own CA, and the certificate that its listeners show.

use std::path::{Path, PathBuf};

use super::authority::{Authority, Issued};
use super::facts::Facts;
use super::files::{PkiError, make_folder, read_bounded, remove, write_private, write_public};
use super::renewal::due_ms;

/// Where the files of a data folder are.
#[derive(Debug, Clone)]
pub struct OwnPaths {
    pub folder: PathBuf,
    /// The CA's certificate: what others need to believe us. Anybody may read it.
    pub ca: PathBuf,
    ca_key: PathBuf,
    /// Key and chain in one file, so that they change together.
    pub server: PathBuf,
    anchor: PathBuf,
}

impl OwnPaths {
    pub fn of(dir: &Path) -> OwnPaths {
        let folder = dir.join("pki");
        let file = |name| folder.join(name);
        OwnPaths {
            ca: file("ca.crt"),
            ca_key: file("ca.key"),
            server: file("server.pem"),
            anchor: file("anchor.crt"),
            folder,
        }
    }

    /// What gateways are to believe the listeners by, PEM: the CA above what they show, which the operator's own files may
    /// have another of. `None` if there is no CA here.
    ///
    /// # Errors
    /// The disk's.
    pub fn trusted(&self) -> Result<Option<String>, PkiError> {
        if !self.exist() {
            return Ok(None);
        }
        match read_bounded(&self.anchor)? {
            Some(anchor) => Ok(Some(anchor)),
            None => read_bounded(&self.ca),
        }
    }

    /// Notes what the listeners are believed by, if it is not this CA: commands beside the node must know it.
    ///
    /// # Errors
    /// The disk's.
    pub fn note_anchor(&self, pem: Option<&str>) -> Result<(), PkiError> {
        match pem {
            Some(pem) => write_public(&self.anchor, pem),
            None => remove(&self.anchor),
        }
    }

    /// Whether a CA of this node's own is there.
    pub fn exist(&self) -> bool {
        self.ca.exists()
    }
}

/// A node's own CA, loaded.
#[derive(Debug)]
pub struct Own {
    pub paths: OwnPaths,
    pub authority: Authority,
}

impl Own {
    /// Makes `DIR/pki` around an authority, with a server certificate for `hosts`.
    ///
    /// # Errors
    /// There is one already, which is never written over; the disk's; a host that is none.
    pub fn create(
        dir: &Path,
        authority: Authority,
        hosts: &[String],
        now_ms: u64,
        valid_ms: u64,
    ) -> Result<Own, PkiError> {
        let paths = OwnPaths::of(dir);
        if paths.exist() {
            return Err(PkiError::content(&paths.ca, "is there already, and is not written over"));
        }
        let issued = authority.server(hosts, now_ms, valid_ms)?;
        make_folder(dir)?;
        make_folder(&paths.folder)?;
        set_aside(&paths.ca_key)?;
        write_private(&paths.ca_key, authority.key_pem())?;
        write_server(&paths, &issued)?;
        // Last: where it is, all is.
        write_public(&paths.ca, authority.certificate_pem())?;
        Ok(Own { paths, authority })
    }

    /// # Errors
    /// It is not there, or not what it should be.
    pub fn open(dir: &Path) -> Result<Own, PkiError> {
        let paths = OwnPaths::of(dir);
        let authority =
            Authority::of(text(&paths.ca)?, text(&paths.ca_key)?).map_err(|why| PkiError::content(&paths.ca, why))?;
        Ok(Own { paths, authority })
    }

    /// What the listeners show now.
    ///
    /// # Errors
    /// The file is not there, or not what it should be.
    pub fn server(&self) -> Result<Facts, PkiError> {
        Facts::of_pem(&text(&self.paths.server)?).map_err(|why| PkiError::content(&self.paths.server, why))
    }

    /// A new server certificate if the one that is there is due, gone or damaged, is good for longer than it now may be, or
    /// lacks one of `hosts`. Its own hosts stay. True if there is a new one.
    ///
    /// # Errors
    /// The disk's, or of the CA, which may have expired.
    pub fn renew_server(&self, hosts: &[String], now_ms: u64, valid_ms: u64) -> Result<bool, PkiError> {
        let (mut all, due) = match self.server() {
            // No jitter: nobody else is asked.
            Ok(facts) => (facts.hosts.clone(), due_ms(&facts, 0) <= now_ms || is_too_long(&facts, valid_ms)),
            Err(PkiError::File { path, why }) => return Err(PkiError::File { path, why }),
            Err(_) => (Vec::new(), true),
        };
        let missing: Vec<String> = hosts.iter().filter(|host| !all.contains(host)).cloned().collect();
        if !due && missing.is_empty() {
            return Ok(false);
        }
        all.extend(missing);
        write_server(&self.paths, &self.authority.server(&all, now_ms, valid_ms)?)?;
        Ok(true)
    }
}

/// The validity was made shorter since. Some certificates begin a little before they were made.
fn is_too_long(facts: &Facts, valid_ms: u64) -> bool {
    facts.valid_ms() > valid_ms.saturating_add(valid_ms / 10)
}

/// A key whose certificate is not there is what a cut attempt left, or was put there by hand: it is kept.
fn set_aside(key: &Path) -> Result<(), PkiError> {
    let aside = key.with_extension("key.unfinished");
    if !key.exists() {
        return Ok(());
    }
    if aside.exists() {
        return Err(PkiError::content(&aside, "is of an attempt that was cut; move it and the file beside it away"));
    }
    std::fs::rename(key, &aside).map_err(|why| PkiError::File { path: aside, why })
}

fn write_server(paths: &OwnPaths, issued: &Issued) -> Result<(), PkiError> {
    write_private(&paths.server, &format!("{}{}", issued.key_pem, issued.chain_pem))
}

fn text(path: &Path) -> Result<String, PkiError> {
    read_bounded(path)?.ok_or_else(|| PkiError::content(path, "is not there"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::super::{DAY_MS, SERVER_VALID_MS};
    use super::*;

    const NOW: u64 = 1_800_000_000_000;

    fn create(dir: &Path) -> Result<Own, PkiError> {
        let authority = Authority::create("a CA", NOW)?;
        Own::create(dir, authority, &["hub.example".into()], NOW, SERVER_VALID_MS)
    }

    #[test]
    fn keys_are_their_owners_only_and_nothing_is_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("hub");
        let own = create(&dir).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&own.paths.folder), 0o700);
        assert_eq!((mode(&own.paths.ca_key), mode(&own.paths.server), mode(&own.paths.ca)), (0o600, 0o600, 0o644));
        let before = std::fs::read(&own.paths.ca).unwrap();
        assert!(create(&dir).unwrap_err().to_string().contains("not written over"));
        assert_eq!(std::fs::read(&own.paths.ca).unwrap(), before);
        assert_eq!(Own::open(&dir).unwrap().authority.facts(), own.authority.facts());
    }

    #[test]
    fn the_server_certificate_is_renewed_when_it_is_due_or_lacks_a_host() {
        let dir = tempfile::tempdir().unwrap();
        let own = create(dir.path()).unwrap();
        let renew = |hosts: &[&str], at: u64| {
            let hosts: Vec<String> = hosts.iter().map(|&host| host.to_owned()).collect();
            own.renew_server(&hosts, at, SERVER_VALID_MS).unwrap()
        };
        assert!(!renew(&[], NOW + 200 * DAY_MS));
        let first = own.server().unwrap();
        assert!(renew(&[], NOW + 250 * DAY_MS));
        let second = own.server().unwrap();
        assert_ne!(first.key, second.key);
        assert_eq!((first.hosts, second.not_after_ms), (second.hosts.clone(), NOW + 615 * DAY_MS));
        assert!(renew(&["10.0.0.7"], NOW + 251 * DAY_MS) && !renew(&["10.0.0.7"], NOW + 251 * DAY_MS));
        assert_eq!(own.server().unwrap().hosts, ["hub.example", "10.0.0.7"]);
        std::fs::write(&own.paths.server, "torn").unwrap();
        assert!(renew(&["hub.example"], NOW + 252 * DAY_MS));
        let shorter = |valid_ms| own.renew_server(&[], NOW + 252 * DAY_MS, valid_ms).unwrap();
        assert!(shorter(90 * DAY_MS) && !shorter(90 * DAY_MS) && !shorter(60_000_000 * DAY_MS));
        assert_eq!(own.server().unwrap().hosts, ["hub.example"]);
    }
}
