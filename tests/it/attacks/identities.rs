//! Being somebody else: other devices' ids, the process's own, and taking over from who is there.

use super::sockets::many;
use super::wire::{HOSTILE, Target, connect};
use super::{Attack, PASSWORD, count, under};

/// Client id, user and password, and the CONNACK's code.
const HIJACKS: [(&str, &str, &str, u8); 12] = [
    // A stolen device's own password, under another's id.
    ("pos-1", "thief-1", PASSWORD, 2),
    ("pos-1.left", "thief-1", PASSWORD, 2),
    ("thief-2", "thief-1", PASSWORD, 2),
    ("thief-10", "thief-1", PASSWORD, 2),
    ("thief-1x", "thief-1", PASSWORD, 2),
    // What the process calls itself and others.
    ("gateway:harbour", "thief-1", PASSWORD, 2),
    ("gateway:thief-1", "thief-1", PASSWORD, 2),
    ("hub", "thief-1", PASSWORD, 2),
    ("tillsync.watchdog", "thief-1", PASSWORD, 2),
    ("auto-0000000000000000", "thief-1", PASSWORD, 2),
    // The right id, and a wrong password.
    ("pos-1", "pos-1", "guess", 4),
    ("pos-2", "pos-2", "", 4),
];

#[tokio::test]
async fn client_ids_of_others() {
    let attack = Attack { name: "ids of others, of the hub and of the process", cap_mib: 128, config: "", tls: false };
    let status = under(attack, async |target: Target| {
        many(HIJACKS.len() * 40, 8, move |n| {
            let (client, user, password, code) = HIJACKS[n % HIJACKS.len()];
            let target = target.clone();
            async move {
                let mut wire = target.reach(HOSTILE).await.expect("connect to the node");
                let found = wire.greet(&connect(client, Some((user, password)), n % 3 != 0, None)).await;
                // 3: after too many wrong ones nothing is looked at.
                assert!(found == Some(code) || (code == 4 && found == Some(3)), "{client} as {user}: {found:?}");
            }
        })
        .await;
    });
    let status = status.await;
    assert_eq!(count(&status, "takeovers"), 0, "nobody was put out: {status}");
}
