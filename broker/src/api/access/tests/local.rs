//! Tokens that the hub gives out, and the file that knows their hashes.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;

use super::super::Event;
use super::super::caller::{Means, Role};
use super::super::local::{TOKENS_MAX, TokenError, Tokens, path};
use super::*;

fn add(dir: &Path, name: &str, role: Role, expires_ms: Option<u64>) -> String {
    Tokens::edit(dir, |tokens| tokens.add(name, role, NOW, expires_ms)).unwrap().to_string()
}

fn open(dir: &Path) -> Access {
    Access::open(dir, None, Box::new(|_| {})).unwrap()
}

async fn ask(access: &Access, token: &str, now_ms: u64) -> Result<Caller, Refusal> {
    access.identify(&bearing(token), HERE, now_ms).await
}

#[tokio::test]
async fn a_token_is_good_until_it_ends_or_is_removed_and_is_nowhere_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let (anna, till) =
        (add(dir.path(), "anna", Role::Admin, None), add(dir.path(), "till", Role::Viewer, Some(NOW + 5)));
    let access = open(dir.path());
    let caller = |name: &str, role| Caller { name: name.into(), role, by: Means::LocalToken };
    assert_eq!(ask(&access, &anna, NOW).await, Ok(caller("anna", Role::Admin)));
    assert_eq!(ask(&access, &till, NOW + 4).await, Ok(caller("till", Role::Viewer)));
    assert_eq!(ask(&access, &till, NOW + 5).await, Err(Refusal::Expired));

    let text = std::fs::read_to_string(path(dir.path())).unwrap();
    assert!(anna.len() == 47 && !text.contains(&anna[4..]), "{text}");
    assert_eq!(std::fs::metadata(path(dir.path())).unwrap().permissions().mode() & 0o777, 0o600);

    Tokens::edit(dir.path(), |tokens| tokens.remove("anna")).unwrap();
    access.look();
    assert_eq!(ask(&access, &anna, NOW).await, Err(Refusal::Unknown));
    assert!(ask(&access, &till, NOW).await.is_ok());
}

#[tokio::test]
async fn what_only_looks_like_a_token_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let token = add(dir.path(), "anna", Role::Admin, None);
    let last = if token.ends_with('A') { "E" } else { "A" };
    let other = format!("{}{last}", &token[..token.len() - 1]);
    for (wrong, why) in [
        (other.as_str(), Refusal::Unknown),
        ("tst_", Refusal::Form),
        (&token[..46], Refusal::Form),
        (&format!("{token}A"), Refusal::Form),
        (&token[4..], Refusal::NoIssuer),
        ("a.b.c", Refusal::NoIssuer),
        ("", Refusal::NoIssuer),
    ] {
        assert_eq!(ask(&open(dir.path()), wrong, NOW).await, Err(why), "{wrong}");
    }
}

#[tokio::test]
async fn what_changes_and_what_is_refused_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let told = Arc::new(Mutex::new(Vec::new()));
    let teller = told.clone();
    let tell = Box::new(move |event: Event<'_>| teller.lock().unwrap().push(format!("{event:?}")));
    let access = Access::open(dir.path(), None, tell).unwrap();
    add(dir.path(), "anna", Role::Viewer, None);
    access.look();
    access.look();
    ask(&access, "tst_x", NOW).await.unwrap_err();
    // Taken away and given out anew under the same name: another token.
    Tokens::edit(dir.path(), |tokens| tokens.remove("anna")).unwrap();
    add(dir.path(), "anna", Role::Viewer, None);
    access.look();
    let refused = "Refused { who: \"\", from: 127.0.0.1, why: Form }";
    assert_eq!(*told.lock().unwrap(), ["Added(\"anna\")", refused, "Added(\"anna\")", "Removed(\"anna\")"]);
}

#[test]
fn names_room_and_damage() {
    let dir = tempfile::tempdir().unwrap();
    add(dir.path(), "anna", Role::Admin, None);
    let again = Tokens::edit(dir.path(), |tokens| tokens.add("anna", Role::Viewer, NOW, None));
    assert!(matches!(again, Err(TokenError::Taken(_))));
    let odd = Tokens::edit(dir.path(), |tokens| tokens.add("a b", Role::Viewer, NOW, None));
    assert!(matches!(odd, Err(TokenError::Name { .. })));
    let nobody = Tokens::edit(dir.path(), |tokens| tokens.remove("bob"));
    assert!(matches!(nobody, Err(TokenError::Unknown(_))));
    let filled = Tokens::edit(dir.path(), |tokens| {
        (1..TOKENS_MAX).try_for_each(|n| tokens.add(&format!("n{n}"), Role::Viewer, NOW, None).map(drop))
    });
    filled.unwrap();
    let full = Tokens::edit(dir.path(), |tokens| tokens.add("one-more", Role::Viewer, NOW, None));
    assert!(matches!(full, Err(TokenError::Full)));
    assert_eq!(Tokens::load(dir.path()).unwrap().iter().count(), TOKENS_MAX);

    for damage in [
        "{\"format\":1,\"tokens\":[{",
        "{\"format\":9,\"people\":[]}",
        "{\"format\":1,\"tokens\":[{\"name\":\"x\",\"role\":\"admin\",\"hash\":\"zz\",\"since_ms\":1}]}",
    ] {
        let access = open(dir.path());
        std::fs::write(path(dir.path()), damage).unwrap();
        assert!(Tokens::load(dir.path()).is_err(), "{damage}");
        access.look();
        let mut status = json!({});
        super::super::Beside::status(&access, &mut status);
        assert!(status["access"]["local_trouble"].is_string(), "{status}");
        std::fs::remove_file(path(dir.path())).unwrap();
    }
}

#[test]
fn two_who_add_at_once_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let dir = dir.path();
            scope.spawn(move || (0..10).for_each(|n| drop(add(dir, &format!("n{thread}-{n}"), Role::Viewer, None))));
        }
    });
    assert_eq!(Tokens::load(dir.path()).unwrap().iter().count(), 40);
}
