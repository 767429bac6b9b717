//! Who a CONNECT is from: certificate or password, client id and name, judged against the book.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::{Semaphore, oneshot};

use super::account::{Account, Kind};
use super::audit::{AuditSender, SecurityEvent, What};
use super::book::{Book, SharedBook};
use super::password::{PASSWORD_BYTES_MAX, PasswordError, Scratch};
use super::scheme::is_reserved;
use super::throttle::Throttle;
use crate::front::{Admission, Counter, Credentials, Refusal};

/// How much lower their priority is: a tenth of what others have when both want the processor.
const LESS_URGENT: i32 = 10;
/// Hashes under way at once, of 19 MiB each; more wait for [`HASH_WAIT`] and are told that the server is busy.
const HASHES_MAX: usize = 2;
const HASH_WAIT: Duration = Duration::from_secs(5);
/// Stands in for the hash of a name that has none, so that a stranger cannot tell by the time it takes. It costs what
/// ours cost, and what it says of a password is not asked.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5LW5vYm9keQ$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
/// What stands between a name and the rest of a client id.
const SEPARATORS: [char; 4] = [':', '-', '_', '.'];

/// Lets in who belongs.
pub struct Door {
    book: SharedBook,
    audit: AuditSender,
    throttle: Throttle,
    hashing: Arc<Semaphore>,
    scratch: Arc<Scratch>,
    /// Of passwords that were right: a hash under a key of this process over the account's hash and the password, so
    /// that a store's devices that all come back cost little. One for each name; another password or hash is not it.
    proofs: RwLock<HashMap<String, blake3::Hash>>,
    proof_key: [u8; 32],
    hashed: Counter,
    throttled: Counter,
}

impl Door {
    /// # Errors
    /// There are no random bytes.
    pub fn new(book: SharedBook, audit: AuditSender) -> Result<Door, PasswordError> {
        let mut proof_key = [0; 32];
        getrandom::fill(&mut proof_key)?;
        Ok(Door {
            book,
            audit,
            throttle: Throttle::default(),
            hashing: Arc::new(Semaphore::new(HASHES_MAX)),
            scratch: Arc::default(),
            proofs: RwLock::default(),
            proof_key,
            hashed: Counter::default(),
            throttled: Counter::default(),
        })
    }

    /// Who it is. `anonymous` lets in who shows nothing, under a client id that is no account's.
    ///
    /// # Errors
    /// Why not; it is told to the journal.
    pub async fn recognise(&self, offered: &Credentials<'_>, anonymous: bool) -> Result<Admission, Refusal> {
        let admitted = match self.prove(offered, anonymous).await {
            Ok(None) => Ok(Admission::default()),
            Ok(Some(account)) => check_client(&self.book.now(), offered.client, &account)
                .map(|()| Admission { name: Some(account.name.as_str().into()), kind: Some(account.kind) }),
            Err(no) => Err(no),
        };
        admitted.map_err(|No(refusal, why)| {
            let shown = offered.username.or(offered.certificate.map(|shown| shown.name.as_str()));
            self.refused(shown.unwrap_or(offered.client), offered.peer.ip(), why);
            refusal
        })
    }

    /// A refusal, for the record.
    pub fn refused(&self, who: &str, peer: IpAddr, why: &str) {
        let (who, peer) = (who.to_owned(), peer.to_canonical().to_string());
        let (by, detail) = (String::new(), why.to_owned());
        self.audit.tell(SecurityEvent { what: What::ConnectRefused, who, by, peer, detail });
    }

    pub fn to_json(&self) -> Value {
        let proofs = self.proofs.read().unwrap_or_else(PoisonError::into_inner).len();
        json!({ "hashed": self.hashed.get(), "throttled": self.throttled.get(), "remembered": proofs })
    }

    async fn prove(&self, offered: &Credentials<'_>, anonymous: bool) -> Result<Option<Account>, No> {
        if let Some(shown) = offered.certificate {
            if offered.username.is_some_and(|username| username != shown.name) {
                return Err(No(Refusal::NotAuthorized, "the certificate is another name's than the user name"));
            }
            let book = self.book.now();
            let known = book.get(&shown.name).filter(|account| account.keys.contains(&shown.key));
            match known {
                Some(account) if account.disabled => return Err(No::disabled()),
                Some(account) => return Ok(Some(account.clone())),
                None if offered.password.is_none() => {
                    return Err(No(Refusal::NotAuthorized, "the certificate is nobody's"));
                }
                // A certificate that says nothing does no harm beside a password.
                None => {}
            }
        }
        match (offered.username, offered.password) {
            (Some(username), Some(password)) => self.password(username, password, offered.peer.ip()).await.map(Some),
            (None, None) if anonymous && owner(&self.book.now(), offered.client).is_some() => {
                Err(No(Refusal::NotAuthorized, "the client id is an account's, and nothing proves that it is it"))
            }
            (None, None) if anonymous && is_reserved(offered.client) => Err(No::reserved()),
            (None, None) if anonymous => Ok(None),
            _ => Err(No(Refusal::BadCredentials, "no user name and password, and no certificate")),
        }
    }

    async fn password(&self, username: &str, password: &str, peer: IpAddr) -> Result<Account, No> {
        if password.len() > PASSWORD_BYTES_MAX {
            self.throttle.failed(peer, username, Instant::now());
            return Err(No::wrong());
        }
        let account = self.book.now().get(username).cloned();
        let phc = account.as_ref().and_then(|account| account.password.clone());
        let proof = phc.as_ref().map(|phc| self.proof(phc, password));
        let right = match &proof {
            // Hashes compare in constant time.
            Some(proof) if self.remembered(username) == Some(*proof) => true,
            _ if self.throttle.denies(peer, username, Instant::now()) => {
                self.throttled.inc();
                return Err(No(Refusal::Throttled, "too many wrong passwords before"));
            }
            _ => self.verify(password, phc.as_deref().unwrap_or(NOBODY)).await? && phc.is_some(),
        };
        let (Some(account), Some(proof), true) = (account, proof, right) else {
            self.throttle.failed(peer, username, Instant::now());
            return Err(No::wrong());
        };
        if account.disabled {
            return Err(No::disabled());
        }
        self.proofs.write().unwrap_or_else(PoisonError::into_inner).insert(account.name.clone(), proof);
        Ok(account)
    }

    fn proof(&self, phc: &str, password: &str) -> blake3::Hash {
        let mut hash = blake3::Hasher::new_keyed(&self.proof_key);
        hash.update(&(phc.len() as u64).to_le_bytes()).update(phc.as_bytes()).update(password.as_bytes());
        hash.finalize()
    }

    fn remembered(&self, name: &str) -> Option<blake3::Hash> {
        self.proofs.read().unwrap_or_else(PoisonError::into_inner).get(name).copied()
    }

    /// Beside the connections' tasks, never more than a few at once, and behind everything else that wants a processor: who
    /// guesses passwords must not hold up sales.
    async fn verify(&self, password: &str, phc: &str) -> Result<bool, No> {
        let busy = No(Refusal::Busy, "too many passwords to look at");
        let Ok(Ok(place)) = tokio::time::timeout(HASH_WAIT, self.hashing.clone().acquire_owned()).await else {
            return Err(busy);
        };
        self.hashed.inc();
        let (password, phc, scratch) = (password.to_owned(), phc.to_owned(), self.scratch.clone());
        let (tell, told) = oneshot::channel();
        // A thread of its own, since a priority that was lowered is not to be raised again. A hash takes far longer.
        let started = std::thread::Builder::new().name("password".into()).spawn(move || {
            // Where it cannot be lowered it is as before.
            let _ = rustix::process::nice(LESS_URGENT);
            let right = scratch.verify(&password, &phc);
            // Not before: whoever goes away does not make room for another hash.
            drop(place);
            let _ = tell.send(right);
        });
        match started {
            Ok(_) => told.await.map_err(|_| busy),
            Err(_) => Err(busy),
        }
    }
}

/// What the client is told, and what is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct No(Refusal, &'static str);

impl No {
    fn wrong() -> No {
        No(Refusal::BadCredentials, "wrong user name or password")
    }

    fn disabled() -> No {
        No(Refusal::NotAuthorized, "the account is disabled")
    }

    fn reserved() -> No {
        No(Refusal::ClientIdInvalid, "the client id is reserved")
    }
}

/// A client id is its account's name, or begins with it; a site's is also `gateway:{site}`. Empty: one is assigned.
fn check_client(book: &Book, client: &str, account: &Account) -> Result<(), No> {
    let gateway = account.kind == Kind::Site && client.strip_prefix("gateway:") == Some(account.name.as_str());
    if client.is_empty() || gateway {
        return Ok(());
    }
    if is_reserved(client) {
        return Err(No::reserved());
    }
    match owner(book, client) {
        Some(owner) if owner.name == account.name => Ok(()),
        _ => Err(No(Refusal::ClientIdInvalid, "the client id does not begin with the account's name")),
    }
}

/// Whose client id it is: that of the longest name that it is or that it begins with, up to a separator. So `pos-1` is
/// `pos-1`'s and not `pos`'s, if there are both.
fn owner<'a>(book: &'a Book, client: &str) -> Option<&'a Account> {
    let mut longest_first = std::iter::once(client.len()).chain(client.rmatch_indices(SEPARATORS).map(|(at, _)| at));
    longest_first.find_map(|end| book.get(&client[..end]))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::account::Fingerprint;
    use super::super::password;
    use super::*;
    use crate::front::Certified;

    fn account(name: &str, kind: Kind, password: Option<&str>) -> Account {
        let password = password.map(|password| password::hash(password).unwrap());
        let (since_ms, changed_ms) = (1, 1);
        Account { name: name.into(), kind, password, keys: vec![], disabled: false, since_ms, changed_ms }
    }

    fn book() -> Book {
        let mut book = Book::default();
        for account in [
            account("pos", Kind::Pos, Some("right")),
            account("pos-1", Kind::Pos, Some("correct horse")),
            Account { keys: vec![Fingerprint([7; 32])], ..account("hill", Kind::Site, None) },
            Account { disabled: true, ..account("old", Kind::Pos, Some("right")) },
        ] {
            book.put(account).unwrap();
        }
        book
    }

    fn door() -> Door {
        Door::new(SharedBook::new(book()), AuditSender::default()).unwrap()
    }

    fn offered<'a>(client: &'a str, username: Option<&'a str>, password: Option<&'a str>) -> Credentials<'a> {
        let peer = SocketAddr::from(([10, 0, 0, 1], 5));
        Credentials { client, username, password, certificate: None, peer }
    }

    #[tokio::test]
    async fn name_client_id_and_password_must_agree() {
        let door = door();
        let name = |admission: Admission| admission.name.map(|name| name.to_string());
        use Refusal::*;
        for (client, user, password, outcome) in [
            ("pos-1", "pos-1", "correct horse", Ok(Some("pos-1".to_owned()))),
            ("pos-1.left", "pos-1", "correct horse", Ok(Some("pos-1".into()))),
            ("", "pos-1", "correct horse", Ok(Some("pos-1".into()))),
            ("pos_x", "pos", "right", Ok(Some("pos".into()))),
            ("pos-1", "pos", "right", Err(ClientIdInvalid)),
            ("pos-1:a", "pos", "right", Err(ClientIdInvalid)),
            ("pos-2", "pos-1", "correct horse", Err(ClientIdInvalid)),
            ("gateway:pos", "pos", "right", Err(ClientIdInvalid)),
            ("hub", "pos", "right", Err(ClientIdInvalid)),
            ("auto-1", "pos", "right", Err(ClientIdInvalid)),
            ("pos-1", "pos-1", "wrong", Err(BadCredentials)),
            ("nobody", "nobody", "right", Err(BadCredentials)),
            ("hill", "hill", "right", Err(BadCredentials)),
            ("old", "old", "right", Err(NotAuthorized)),
            ("old", "old", "wrong", Err(BadCredentials)),
        ] {
            let found = door.recognise(&offered(client, Some(user), Some(password)), false).await.map(name);
            assert_eq!(found, outcome, "{client} as {user}");
        }
        assert_eq!(door.recognise(&offered("pos", None, None), false).await, Err(BadCredentials));
    }

    #[tokio::test]
    async fn who_shows_nothing_is_let_in_only_where_that_is_wanted_and_under_nobodys_id() {
        let door = door();
        assert_eq!(door.recognise(&offered("scanner-9", None, None), true).await, Ok(Admission::default()));
        assert!(door.recognise(&offered("pos-1.x", None, None), true).await.is_err());
        assert!(door.recognise(&offered("gateway:hill", None, None), true).await.is_err());
        assert!(door.recognise(&offered("scanner-9", Some("pos-1"), None), true).await.is_err());
    }

    #[tokio::test]
    async fn a_certificate_counts_by_its_key_and_for_its_own_name() {
        let door = door();
        let shown =
            |name: &str, key| Certified { name: name.into(), key: Fingerprint([key; 32]), serial_hex: "01".into() };
        for (certified, client, username, let_in) in [
            (shown("hill", 7), "gateway:hill", None, true),
            (shown("hill", 7), "gateway:hill", Some("hill"), true),
            (shown("hill", 7), "gateway:quay", None, false),
            (shown("hill", 7), "gateway:hill", Some("pos-1"), false),
            (shown("hill", 8), "gateway:hill", None, false),
            (shown("pos-1", 7), "pos-1", None, false),
        ] {
            let offered = Credentials { certificate: Some(&certified), ..offered(client, username, None) };
            assert_eq!(door.recognise(&offered, false).await.is_ok(), let_in, "{offered:?}");
        }
    }

    #[tokio::test]
    async fn a_right_password_is_hashed_once_and_a_new_one_again() {
        let door = door();
        for _ in 0..50 {
            door.recognise(&offered("pos-1", Some("pos-1"), Some("correct horse")), false).await.unwrap();
        }
        assert_eq!(door.hashed.get(), 1);
        let mut book = book();
        book.put(account("pos-1", Kind::Pos, Some("battery staple"))).unwrap();
        door.book.replace(book);
        let old = door.recognise(&offered("pos-1", Some("pos-1"), Some("correct horse")), false).await;
        assert_eq!(old, Err(Refusal::BadCredentials));
        door.recognise(&offered("pos-1", Some("pos-1"), Some("battery staple")), false).await.unwrap();
        assert_eq!(door.hashed.get(), 3);
    }

    #[tokio::test]
    async fn guessing_is_throttled_and_told() {
        let door = door();
        door.recognise(&offered("pos-1", Some("pos-1"), Some("correct horse")), false).await.unwrap();
        let mut refusals = vec![];
        for _ in 0..25 {
            refusals.push(door.recognise(&offered("pos-1", Some("pos-1"), Some("guess")), false).await.unwrap_err());
        }
        assert_eq!(refusals[0], Refusal::BadCredentials);
        assert_eq!(refusals[24], Refusal::Throttled);
        let known = offered("pos-1", Some("pos-1"), Some("correct horse"));
        assert!(door.recognise(&known, false).await.is_ok(), "who has been here is let in all the same");
        let told = door.audit.rest();
        let counts: Vec<_> = told.iter().map(|event| (event.detail.as_str(), event.count)).collect();
        assert_eq!(counts.iter().map(|(_, count)| count).sum::<u64>(), 25, "{counts:?}");
    }

    #[tokio::test]
    async fn unknown_names_take_as_long_as_known_ones() {
        let door = door();
        let mut took = [Duration::ZERO; 2];
        for _ in 0..5 {
            for (n, user) in ["pos-1", "nobody"].into_iter().enumerate() {
                let began = Instant::now();
                door.recognise(&offered("x", Some(user), Some("guess")), false).await.unwrap_err();
                took[n] += began.elapsed();
            }
        }
        let [known, unknown] = took;
        assert!(unknown * 4 > known && known * 4 > unknown, "{known:?} and {unknown:?}");
        assert_eq!(door.hashed.get(), 10);
    }
}
