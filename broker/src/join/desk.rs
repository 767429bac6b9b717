//! Decides who gets a certificate: whoever brings an unused code, and a site whose certificate nears its end.
//!
//! Blocks on the disk: a certificate leaves this place only when what led to it is durable.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use ring::signature::{ECDSA_P256_SHA256_ASN1, UnparsedPublicKey};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use super::book::{Invitation, JoinBook, JoinBookError, Taken};
use super::code::Secret;
use super::throttle::Throttle;
use crate::identity::audit::What;
use crate::identity::{Account, AuditSender, Book, BookError, Fingerprint, Kind, SecurityEvent, SharedBook};
use crate::node::rejects::hex;
use crate::pki::{Authority, Facts, PkiError, key_of_request};

/// What is signed with the old key at a renewal: this, then the request's PEM text.
pub const RENEW_CONTEXT: &str = "tillsync renew 1\n";
/// A certificate is not renewed in the first tenth of its life: whoever asks that often is broken.
const YOUNG: u64 = 10;
/// Between two renewals of one site: each is written to the disk, and a lost answer may be asked for again.
const RENEW_EVERY_MS: u64 = 1_000;

/// `POST /join`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The secret of the code: 17 characters.
    pub secret: String,
    /// PKCS#10, PEM, for a key that never leaves the box.
    pub request: String,
    /// The site that the box's ledger belongs to, if it has one already: a code for another one is not used up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
}

/// `POST /renew`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RenewRequest {
    /// The one that nears its end, PEM.
    pub certificate: String,
    /// PKCS#10, PEM, for the next key.
    pub request: String,
    /// With the old key over [`RENEW_CONTEXT`] and `request`: ECDSA P-256 with SHA-256, DER, in hex.
    pub signature: String,
}

/// The answer to both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    pub site: String,
    /// PEM.
    pub certificate: String,
    /// What the hub's own certificate is to be believed by, PEM.
    pub ca: String,
    /// Where the hub takes MQTT; without a host at the one that was asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mqtt_host: Option<String>,
    pub mqtt_port: u16,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    #[error("this code is not known here: look at it again, or ask for a new one")]
    Unknown,
    #[error("this code has ended: ask for a new one")]
    Expired,
    #[error("this code was used by another box: ask for a new one")]
    Taken,
    #[error("this code is for {0}")]
    OtherSite(String),
    #[error("{0} is disabled at the hub")]
    Disabled(String),
    #[error("{0} has joined already; `site add {0} --replace` lets another box take its place")]
    Joined(String),
    #[error("wait {wait_s} s: too many failures from here")]
    Throttled { wait_s: u64 },
    /// The message is not one of ours.
    #[error("{0}")]
    Request(String),
    /// The certificate proves nobody whom the hub knows by it.
    #[error("{0}; join again with a new code")]
    NotYours(&'static str),
    #[error("this certificate has only begun")]
    Early,
    /// The hub's own fault.
    #[error("{0}")]
    Broken(String),
}

impl From<JoinBookError> for Refused {
    fn from(error: JoinBookError) -> Refused {
        Refused::Broken(error.to_string())
    }
}

impl From<BookError> for Refused {
    fn from(error: BookError) -> Refused {
        Refused::Broken(error.to_string())
    }
}

/// Ends the live connections of the site of this name.
pub(crate) type Cut = Arc<dyn Fn(&str) + Send + Sync>;

/// How long certificates are good for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeskRules {
    pub(crate) site_valid_ms: u64,
    /// How long after its end a certificate may still be renewed.
    pub(crate) renew_grace_ms: u64,
}

pub(crate) struct Desk {
    pub(crate) dir: PathBuf,
    pub(crate) authority: Authority,
    pub(crate) accounts: SharedBook,
    pub(crate) rules: DeskRules,
    /// As in [`Granted`].
    pub(crate) trust_pem: String,
    pub(crate) mqtt: (Option<String>, u16),
    pub(crate) throttle: Mutex<Throttle>,
    /// Ends the live connections of a site.
    pub(crate) cut: Cut,
    /// Each decision is told there.
    pub(crate) audit: AuditSender,
}

impl fmt::Debug for Desk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Desk").field("dir", &self.dir).field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl Desk {
    /// A code and a request for a certificate. The code is used up, and that is on disk, before this returns.
    ///
    /// # Errors
    /// Why not; with [`Refused::Broken`] the same may be asked again.
    pub(crate) fn join(&self, asked: &JoinRequest, from: IpAddr, now_ms: u64) -> Result<Granted, Refused> {
        self.guarded(What::Joined, from, now_ms, || {
            let secret: Secret = asked.secret.parse().map_err(|_| Refused::Unknown)?;
            let key = key_of_request(&asked.request).map_err(|why| Refused::Request(why.to_string()))?;
            let spend = |book: &mut JoinBook| {
                let code = book.find(&secret).ok_or(Refused::Unknown)?;
                let taken = self.take(code, key, asked, now_ms)?;
                Ok((code.site.clone(), taken))
            };
            // The code is spent from there on; only this key may come again, and it gets as far as it can.
            let let_in = |(site, admission): (String, Admission)| {
                let edit = |accounts: &mut Book| admit(accounts, &site, key, &admission, now_ms);
                let (_, replaced) = Book::edit(&self.dir, edit)?;
                Ok::<_, Refused>((site, admission, replaced))
            };
            let (site, admission, replaced) = JoinBook::edit_then(&self.dir, now_ms, spend, let_in)?;
            self.accounts.reload(&self.dir)?;
            if replaced {
                (self.cut)(&site);
            }
            Ok((site, admission.taken.certificate))
        })
    }

    /// Uses the code up for `key`, or finds that it did so before.
    fn take(
        &self,
        code: &mut Invitation,
        key: Fingerprint,
        asked: &JoinRequest,
        now_ms: u64,
    ) -> Result<Admission, Refused> {
        if code.expires_ms <= now_ms {
            return Err(Refused::Expired);
        }
        if asked.site.as_ref().is_some_and(|site| *site != code.site) {
            return Err(Refused::OtherSite(code.site.clone()));
        }
        if let Some(taken) = &code.taken {
            let same = taken.key == key;
            let again = Admission { taken: taken.clone(), replaces: code.replaces };
            return if same { Ok(again) } else { Err(Refused::Taken) };
        }
        let mut accounts = Book::load(&self.dir)?;
        let certificate = self
            .authority
            .client_of_request(&asked.request, &code.site, now_ms, self.rules.site_valid_ms)
            .map_err(request)?;
        let admission = Admission { taken: Taken { key, certificate, at_ms: now_ms }, replaces: code.replaces };
        // Before the code is spent: it may not be admitted at all.
        admit(&mut accounts, &code.site, key, &admission, now_ms)?;
        code.taken = Some(admission.taken.clone());
        Ok(admission)
    }

    /// A certificate that nears its end, or ended within the grace, and a request for the next one.
    ///
    /// # Errors
    /// Why not; with [`Refused::Broken`] the same may be asked again.
    pub(crate) fn renew(&self, asked: &RenewRequest, from: IpAddr, now_ms: u64) -> Result<Granted, Refused> {
        self.guarded(What::Renewed, from, now_ms, || {
            let old = self.recognise(asked, now_ms)?;
            let next = key_of_request(&asked.request).map_err(|why| Refused::Request(why.to_string()))?;
            let certificate = self
                .authority
                .client_of_request(&asked.request, &old.name, now_ms, self.rules.site_valid_ms)
                .map_err(request)?;
            let (_, dropped) = Book::edit(&self.dir, |accounts| {
                let mut account = holder(accounts, &old)?.clone();
                if now_ms.saturating_sub(account.changed_ms) < RENEW_EVERY_MS {
                    return Err(Refused::Early);
                }
                // The answer may be lost, so the old one stays until the next one was used to renew.
                let keys = if next == old.key { vec![next] } else { vec![old.key, next] };
                let dropped = account.keys.iter().any(|key| !keys.contains(key));
                (account.keys, account.changed_ms) = (keys, now_ms);
                accounts.put(account)?;
                Ok::<_, Refused>(dropped)
            })?;
            self.accounts.reload(&self.dir)?;
            if dropped {
                // Whoever still shows a key that is nobody's any more. The site itself comes back with its own.
                (self.cut)(&old.name);
            }
            Ok((old.name, certificate))
        })
    }

    /// Whose certificate it is, if its key signed this request.
    fn recognise(&self, asked: &RenewRequest, now_ms: u64) -> Result<Facts, Refused> {
        let der = CertificateDer::from_pem_slice(asked.certificate.as_bytes());
        let der = der.map_err(|why| Refused::Request(format!("the certificate: {why}")))?;
        let facts = Facts::of(&der).map_err(request)?;
        let since_end = now_ms.saturating_sub(facts.not_after_ms);
        // As of its last moment, if that is over.
        self.authority
            .check_client(&der, now_ms.min(facts.not_after_ms.saturating_sub(1)))
            .map_err(|_| Refused::NotYours("this certificate is not of this hub"))?;
        self.signed(asked, &der)?;
        if since_end > self.rules.renew_grace_ms {
            return Err(Refused::NotYours("this certificate ended too long ago to be renewed"));
        }
        holder(&Book::load(&self.dir)?, &facts)?;
        if now_ms.saturating_sub(facts.not_before_ms) < facts.valid_ms() / YOUNG {
            return Err(Refused::Early);
        }
        Ok(facts)
    }

    fn signed(&self, asked: &RenewRequest, certificate: &CertificateDer<'_>) -> Result<(), Refused> {
        let wrong = || Refused::Request("the signature is not the certificate's".into());
        let signature = hex::decode(&asked.signature).ok_or_else(wrong)?;
        let (_, parsed) = x509_parser::parse_x509_certificate(certificate).map_err(|_| wrong())?;
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, &parsed.public_key().subject_public_key.data);
        let message = [RENEW_CONTEXT, &asked.request].concat();
        key.verify(message.as_bytes(), &signature).map_err(|_| wrong())
    }

    /// Throttles, tells of the outcome, and puts the answer together.
    fn guarded(
        &self,
        what: What,
        from: IpAddr,
        now_ms: u64,
        decide: impl FnOnce() -> Result<(String, String), Refused>,
    ) -> Result<Granted, Refused> {
        let throttle = || self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(wait_ms) = throttle().wait_ms(from, now_ms) {
            return Err(Refused::Throttled { wait_s: wait_ms.div_ceil(1_000) });
        }
        match decide() {
            Ok((site, certificate)) => {
                tracing::info!(%site, %from, "{what}: a certificate was issued");
                self.tell(what, &site, if what == What::Joined { "the hub" } else { "" }, from, String::new());
                let ((mqtt_host, mqtt_port), ca) = (self.mqtt.clone(), self.trust_pem.clone());
                Ok(Granted { site, certificate, ca, mqtt_host, mqtt_port })
            }
            Err(refused) => {
                if !matches!(refused, Refused::Broken(_)) {
                    throttle().failed(from, now_ms);
                }
                tracing::warn!(%from, why = %refused, "not {what}");
                self.tell(What::JoinRefused, "", "", from, refused.to_string());
                Err(refused)
            }
        }
    }

    fn tell(&self, what: What, site: &str, by: &str, from: IpAddr, detail: String) {
        let (who, by, peer) = (site.to_owned(), by.to_owned(), from.to_canonical().to_string());
        self.audit.tell(SecurityEvent { what, who, by, peer, detail });
    }
}

/// What using a code led to.
struct Admission {
    taken: Taken,
    replaces: bool,
}

/// Lets `key` be the site's, if it may be, and says whether another one was until now. Said again of the same key, it
/// changes nothing.
fn admit(
    accounts: &mut Book,
    site: &str,
    key: Fingerprint,
    admission: &Admission,
    now_ms: u64,
) -> Result<bool, Refused> {
    let (since_ms, replaced) = match accounts.get(site) {
        None => (now_ms, false),
        Some(account) if account.kind != Kind::Site => return Err(Refused::Joined(site.into())),
        Some(account) if !account.disabled && account.keys.contains(&key) => return Ok(false),
        // Of a code that is used again it must not undo what came after. One that was made for a site that is disabled
        // lets only the new box in.
        Some(account) if admission.replaces && account.changed_ms <= admission.taken.at_ms => (account.since_ms, true),
        Some(account) if account.disabled => return Err(Refused::Disabled(site.into())),
        Some(account) if account.keys.is_empty() && account.password.is_none() => (account.since_ms, false),
        Some(_) => return Err(Refused::Joined(site.into())),
    };
    let (name, keys) = (site.to_owned(), vec![key]);
    let account =
        Account { name, kind: Kind::Site, password: None, keys, disabled: false, since_ms, changed_ms: now_ms };
    accounts.put(account)?;
    Ok(replaced)
}

/// The site's account, if this certificate is it.
fn holder<'a>(accounts: &'a Book, certificate: &Facts) -> Result<&'a Account, Refused> {
    let account = accounts.get(&certificate.name).filter(|account| account.kind == Kind::Site);
    match account {
        None => Err(Refused::NotYours("the hub knows no such site")),
        Some(account) if account.disabled => Err(Refused::Disabled(account.name.clone())),
        Some(account) if !account.keys.contains(&certificate.key) => {
            Err(Refused::NotYours("another box has taken this site's place"))
        }
        Some(account) => Ok(account),
    }
}

fn request(why: PkiError) -> Refused {
    Refused::Request(why.to_string())
}
