//! Codes as people mistype them, and a desk that two boxes ask at once, late, again and after a crash.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex};

use rcgen::{CertificateParams, KeyPair, SigningKey};

use super::book::{Invitation, JoinBook};
use super::code::{Code, CodeError, Pin, Secret};
use super::desk::{Desk, DeskRules, Granted, JoinRequest, RENEW_CONTEXT, Refused, RenewRequest};
use super::throttle::Throttle;
use crate::identity::{AuditSender, Book, Fingerprint, SharedBook};
use crate::node::rejects::hex;
use crate::pki::{Authority, DAY_MS, Facts};

const NOW: u64 = 1_800_000_000_000;
const HOUR: u64 = 3_600_000;

fn code() -> Code {
    Code { secret: Secret::draw().unwrap(), pin: Pin::of(&Fingerprint([0xA5; 32])) }
}

#[test]
fn a_code_is_read_however_it_is_written() {
    for _ in 0..100 {
        let code = code();
        let shown = code.to_string();
        assert_eq!((shown.len(), shown.split('-').count()), (41, 7));
        for text in [shown.clone(), shown.to_lowercase(), shown.replace('-', ""), shown.replace('-', " ")] {
            assert!(text.parse::<Code>().as_ref() == Ok(&code), "{text}");
        }
        assert!(shown.replace('0', "O").replace('1', "l").parse::<Code>().as_ref() == Ok(&code));
    }
}

#[test]
fn every_wrong_character_and_every_exchange_of_neighbours_is_noticed() {
    let shown = code().to_string().replace('-', "");
    let typed: Vec<char> = shown.chars().collect();
    let read = |typed: &[char]| typed.iter().collect::<String>().parse::<Code>();
    for at in 0..typed.len() {
        for other in "0123456789ABCDEFGHJKMNPQRSTVWXYZ".chars().filter(|c| *c != typed[at]) {
            let mut wrong = typed.clone();
            wrong[at] = other;
            assert!(read(&wrong) == Err(CodeError::Check), "{other} at {at}");
        }
        if at > 0 && typed[at] != typed[at - 1] {
            let mut wrong = typed.clone();
            wrong.swap(at, at - 1);
            assert!(read(&wrong) == Err(CodeError::Check), "exchanged before {at}");
        }
    }
    assert!(read(&typed[1..]) == Err(CodeError::Length(34)));
    assert!(format!("{shown}0").parse::<Code>() == Err(CodeError::Length(36)));
    assert!("hello, world".parse::<Code>() == Err(CodeError::Character('U')) || "u".parse::<Code>().is_err());
}

#[test]
fn pins_of_other_keys_differ_and_are_of_85_bits() {
    let mut key = [0x5A; 32];
    let pin = Pin::of(&Fingerprint(key));
    for bit in 0..256 {
        key[bit / 8] ^= 0x80 >> (bit % 8);
        assert_eq!(Pin::of(&Fingerprint(key)) != pin, bit < 85, "{bit}");
        key[bit / 8] ^= 0x80 >> (bit % 8);
    }
}

struct Office {
    desk: Arc<Desk>,
    dir: tempfile::TempDir,
}

impl Office {
    fn new() -> Office {
        let dir = tempfile::tempdir().unwrap();
        let desk = Office::desk(dir.path(), Authority::create("the hub's CA", NOW).unwrap());
        Office { desk: Arc::new(desk), dir }
    }

    fn desk(dir: &Path, authority: Authority) -> Desk {
        Desk {
            dir: dir.to_owned(),
            trust_pem: authority.certificate_pem().to_owned(),
            authority,
            accounts: SharedBook::default(),
            rules: DeskRules { site_valid_ms: 90 * DAY_MS, renew_grace_ms: 180 * DAY_MS },
            mqtt: (None, 8883),
            throttle: Mutex::new(Throttle::default()),
            cut: Arc::new(|_| {}),
            audit: AuditSender::default(),
        }
    }

    fn invite(&self, site: &str, replaces: bool) -> Secret {
        let secret = Secret::draw().unwrap();
        let hash = secret.hash().to_hex().to_string();
        let invitation = Invitation { site: site.into(), hash, expires_ms: NOW + HOUR, replaces, taken: None };
        JoinBook::edit(self.dir.path(), NOW, |book| book.add(invitation)).unwrap();
        secret
    }

    fn keys(&self, site: &str) -> Vec<Fingerprint> {
        Book::load(self.dir.path()).unwrap().get(site).map(|account| account.keys.clone()).unwrap_or_default()
    }
}

const BOX: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9));

fn requested(key: &KeyPair) -> String {
    CertificateParams::default().serialize_request(key).unwrap().pem().unwrap()
}

fn ask(secret: &Secret, key: &KeyPair) -> JoinRequest {
    JoinRequest { secret: secret.to_string(), request: requested(key), site: None }
}

fn renewal(old: &KeyPair, certificate: &str, next: &KeyPair) -> RenewRequest {
    let request = requested(next);
    let signature = hex::encode(&old.sign(format!("{RENEW_CONTEXT}{request}").as_bytes()).unwrap());
    RenewRequest { certificate: certificate.to_owned(), request, signature }
}

fn joined(office: &Office, site: &str) -> (KeyPair, Granted) {
    let key = KeyPair::generate().unwrap();
    let granted = office.desk.join(&ask(&office.invite(site, false), &key), BOX, NOW).unwrap();
    (key, granted)
}

#[test]
fn of_many_boxes_at_once_one_gets_in() {
    let office = Office::new();
    let secret = office.invite("harbour", false);
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let boxes: Vec<_> = (0..8u8)
            .map(|n| {
                let (desk, secret) = (office.desk.clone(), &secret);
                let from = IpAddr::V4(Ipv4Addr::new(10, 0, 1, n));
                scope.spawn(move || desk.join(&ask(secret, &KeyPair::generate().unwrap()), from, NOW + 1))
            })
            .collect();
        boxes.into_iter().map(|joining| joining.join().unwrap()).collect()
    });
    assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
    assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Err(Refused::Taken))).count(), 7, "{outcomes:?}");
    let granted = outcomes.into_iter().find_map(Result::ok).unwrap();
    assert_eq!(office.keys("harbour"), [Facts::of_pem(&granted.certificate).unwrap().key]);
    assert_eq!(office.desk.accounts.now().get("harbour").unwrap().keys, office.keys("harbour"));
    let told = office.desk.audit.rest();
    assert_eq!(told.iter().filter(|event| event.what == "joined" && event.who == "harbour").count(), 1, "{told:?}");
}

#[test]
fn an_answer_that_was_lost_comes_again_to_the_same_key_only_also_after_a_crash() {
    let office = Office::new();
    let secret = office.invite("harbour", false);
    let key = KeyPair::generate().unwrap();
    let first = office.desk.join(&ask(&secret, &key), BOX, NOW).unwrap();
    // The crash after the code was marked, and before the account was there.
    Book::edit(office.dir.path(), |book| {
        book.remove("harbour");
        Ok::<_, crate::identity::BookError>(())
    })
    .unwrap();
    let other = office.desk.join(&ask(&secret, &KeyPair::generate().unwrap()), BOX, NOW + 1);
    assert!(matches!(other, Err(Refused::Taken)), "{other:?}");
    assert!(office.keys("harbour").is_empty());
    assert_eq!(office.desk.join(&ask(&secret, &key), BOX, NOW + 2).unwrap(), first);
    assert_eq!(office.keys("harbour").len(), 1);
    assert!(matches!(office.desk.join(&ask(&secret, &key), BOX, NOW + HOUR), Err(Refused::Expired)));
}

#[test]
fn codes_end_and_are_for_one_site() {
    let office = Office::new();
    let (secret, key) = (office.invite("harbour", false), KeyPair::generate().unwrap());
    let mut asked = ask(&secret, &key);
    asked.site = Some("hill".into());
    assert!(matches!(office.desk.join(&asked, BOX, NOW), Err(Refused::OtherSite(site)) if site == "harbour"));
    assert!(matches!(office.desk.join(&ask(&secret, &key), BOX, NOW + HOUR), Err(Refused::Expired)));
    assert!(matches!(office.desk.join(&ask(&Secret::draw().unwrap(), &key), BOX, NOW), Err(Refused::Unknown)));
    let mut asked = ask(&secret, &key);
    asked.request = "hello".into();
    assert!(matches!(office.desk.join(&asked, BOX, NOW), Err(Refused::Request(_))));
    // None of that used it up.
    assert_eq!(office.desk.join(&ask(&secret, &key), BOX, NOW + HOUR - 1).unwrap().site, "harbour");
    let text = std::fs::read_to_string(office.dir.path().join("joins.json")).unwrap();
    assert!(!text.contains(&secret.to_string()), "only its hash is kept");
}

#[test]
fn another_box_takes_a_sites_place_only_if_it_was_said() {
    let office = Office::new();
    let (old, granted) = joined(&office, "harbour");
    let new = KeyPair::generate().unwrap();
    let (careless, meant) = (office.invite("harbour", false), office.invite("harbour", true));
    assert!(
        matches!(office.desk.join(&ask(&careless, &new), BOX, NOW + 1), Err(Refused::Unknown)),
        "the later code counts"
    );
    let careless = office.invite("harbour", false);
    assert!(matches!(office.desk.join(&ask(&meant, &new), BOX, NOW + 1), Err(Refused::Unknown)));
    assert!(matches!(office.desk.join(&ask(&careless, &new), BOX, NOW + 1), Err(Refused::Joined(_))));
    let meant = office.invite("harbour", true);
    let replaced = office.desk.join(&ask(&meant, &new), BOX, NOW + 2).unwrap();
    assert_eq!(office.keys("harbour"), [Facts::of_pem(&replaced.certificate).unwrap().key]);
    let late = renewal(&old, &granted.certificate, &KeyPair::generate().unwrap());
    assert!(matches!(office.desk.renew(&late, BOX, NOW + 60 * DAY_MS), Err(Refused::NotYours(_))));
}

#[test]
fn a_certificate_is_renewed_until_the_grace_is_over_and_by_its_own_key_only() {
    let office = Office::new();
    let (old, granted) = joined(&office, "harbour");
    let next = KeyPair::generate().unwrap();
    let asked = renewal(&old, &granted.certificate, &next);
    let renew = |asked: &RenewRequest, day: u64| office.desk.renew(asked, BOX, NOW + day * DAY_MS);
    assert!(matches!(renew(&asked, 1), Err(Refused::Early)));
    assert!(matches!(renew(&asked, 271), Err(Refused::NotYours(_))), "90 days and 180 of grace");
    let thief = renewal(&KeyPair::generate().unwrap(), &granted.certificate, &next);
    assert!(matches!(renew(&thief, 60), Err(Refused::Request(_))));
    let foreign = Authority::create("the hub's CA", NOW).unwrap();
    let certificate = foreign.client_of_request(&requested(&old), "harbour", NOW, 90 * DAY_MS).unwrap();
    assert!(matches!(renew(&renewal(&old, &certificate, &next), 60), Err(Refused::NotYours(_))));

    let renewed = renew(&asked, 269).unwrap();
    let facts = Facts::of_pem(&renewed.certificate).unwrap();
    assert_eq!((facts.name.as_str(), facts.not_after_ms), ("harbour", NOW + 359 * DAY_MS));
    // The answer may be lost: the old key still counts, until the new one is used.
    let (first, second) = (Facts::of_pem(&granted.certificate).unwrap().key, facts.key);
    assert_eq!(office.keys("harbour"), [first, second]);
    let third = KeyPair::generate().unwrap();
    renew(&renewal(&next, &renewed.certificate, &third), 330).unwrap();
    assert!(office.keys("harbour").contains(&second) && !office.keys("harbour").contains(&first));
    assert!(matches!(renew(&asked, 269), Err(Refused::NotYours(_))), "the first key is no longer the site's");

    Book::edit(office.dir.path(), |book| {
        let account = crate::identity::Account { disabled: true, ..book.get("harbour").unwrap().clone() };
        book.put(account)
    })
    .unwrap();
    let asked = renewal(&next, &renewed.certificate, &third);
    assert!(matches!(renew(&asked, 340), Err(Refused::Disabled(_))));
}

#[test]
fn who_guesses_waits_and_others_do_not() {
    let office = Office::new();
    let (secret, key) = (office.invite("harbour", false), KeyPair::generate().unwrap());
    let guess = || office.desk.join(&ask(&Secret::draw().unwrap(), &key), BOX, NOW);
    for _ in 0..10 {
        assert!(matches!(guess(), Err(Refused::Unknown)));
    }
    assert!(matches!(guess(), Err(Refused::Throttled { wait_s: 1..=6 })));
    assert!(matches!(office.desk.join(&ask(&secret, &key), BOX, NOW), Err(Refused::Throttled { .. })));
    let elsewhere = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 10));
    assert!(office.desk.join(&ask(&secret, &key), elsewhere, NOW).is_ok());
}
