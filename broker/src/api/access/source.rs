//! Where an issuer's keys are: a file, or a URL.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use hyper::Uri;

use super::fetch;
use super::key::KeySet;

/// A longer list is not read to its end: a hundred RSA keys with their certificates take less.
pub(super) const LIST_BYTES_MAX: usize = 256 << 10;

/// Where the keys are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    File(PathBuf),
    /// With the CA to believe instead of the system's, if one is given.
    Url(Url, Option<PathBuf>),
}

/// `https://…`, or `http://` to this machine itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    pub(super) secure: bool,
    pub(super) host: String,
    pub(super) port: u16,
    /// And query.
    pub(super) path: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UrlError {
    #[error("not a URL")]
    Form,
    #[error("plain http only to this machine itself: whoever stands in between could put keys of their own there")]
    Plain,
    #[error("without a user and a password")]
    User,
}

impl FromStr for Url {
    type Err = UrlError;
    fn from_str(text: &str) -> Result<Url, UrlError> {
        let uri: Uri = text.parse().map_err(|_| UrlError::Form)?;
        let secure = match uri.scheme_str() {
            Some("https") => true,
            Some("http") => false,
            _ => return Err(UrlError::Form),
        };
        let authority = uri.authority().ok_or(UrlError::Form)?;
        if authority.as_str().contains('@') {
            return Err(UrlError::User);
        }
        let port = match authority.as_str()[authority.host().len()..].strip_prefix(':') {
            None if secure => 443,
            None => 80,
            Some(port) => port.parse().map_err(|_| UrlError::Form)?,
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let own = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|addr| addr.is_loopback());
        if !secure && !own {
            return Err(UrlError::Plain);
        }
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Url { secure, host, port, path })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::File(path) => path.display().fmt(f),
            Source::Url(url, _) => url.fmt(f),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl Url {
    /// Host and port.
    pub(super) fn authority(&self) -> String {
        let Url { host, port, .. } = self;
        if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
    }
}

impl Source {
    /// Reads or asks for the list, and says what is wrong in the operator's words.
    pub(super) async fn load(&self) -> Result<KeySet, String> {
        match self {
            Source::File(path) => {
                let path = path.clone();
                // A thread that died is told by tokio.
                tokio::task::spawn_blocking(move || of_file(&path)).await.unwrap_or_else(|died| Err(died.to_string()))
            }
            Source::Url(url, ca) => {
                let text = fetch::get(url, ca.as_deref()).await?;
                KeySet::parse(&text).map_err(|why| why.to_string())
            }
        }
    }
}

/// The keys of a file.
///
/// # Errors
/// In the operator's words.
pub(super) fn of_file(path: &Path) -> Result<KeySet, String> {
    let read = || {
        let mut text = String::new();
        let file = std::fs::File::open(path)?;
        std::io::Read::read_to_string(&mut std::io::Read::take(file, LIST_BYTES_MAX as u64 + 1), &mut text)?;
        std::io::Result::Ok(text)
    };
    let text = read().map_err(|why| why.to_string())?;
    if text.len() > LIST_BYTES_MAX {
        return Err(format!("longer than {} KiB", LIST_BYTES_MAX >> 10));
    }
    KeySet::parse(&text).map_err(|why| why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_that_are_taken_and_those_that_are_not() {
        let url = |text: &str| text.parse::<Url>();
        let shown = |text: &str| url(text).unwrap().to_string();
        assert_eq!(shown("https://id.example/keys?v=2"), "https://id.example:443/keys?v=2");
        assert_eq!(shown("http://127.0.0.1:8080/keys"), "http://127.0.0.1:8080/keys");
        assert_eq!(shown("http://[::1]:8080"), "http://[::1]:8080/");
        assert_eq!(url("http://localhost/keys").unwrap().port, 80);
        assert_eq!(url("http://id.example/keys"), Err(UrlError::Plain));
        assert_eq!(url("http://127.0.0.1.example/keys"), Err(UrlError::Plain));
        assert_eq!(url("https://me:secret@id.example/"), Err(UrlError::User));
        for wrong in [
            "",
            "keys",
            "ftp://id.example/",
            "https://",
            "https:///keys",
            "https://id.example:99999/",
            "https://id.example:/",
        ] {
            assert!(url(wrong).is_err(), "{wrong}");
        }
    }
}
