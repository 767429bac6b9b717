//! Single cases.

use super::*;

/// What a waiting connection has to do with wakes: none is lost, and those who do not wait are left alone.
#[tokio::test]
async fn who_waits_is_woken() {
    let mut world = World::start(1, MailLimits::default());
    world.connect();
    assert!(world.link.as_mut().unwrap().next().is_none());
    world.publish(1);
    world.commit();
    world.link.as_ref().unwrap().woken().await;
    assert!(world.link.as_mut().unwrap().next().is_some());
    world.publish(2);
    world.commit();
    let idle = tokio::time::timeout(std::time::Duration::ZERO, world.link.as_ref().unwrap().woken()).await;
    assert!(idle.is_err(), "it did not say that it waits");
    assert!(world.link.as_mut().unwrap().next().is_some());
}

#[test]
fn cells_of_another_layout_are_taken_out() {
    let mut world = World::start(1, MailLimits::default());
    let cells = world.disk.cells.clone();
    for (key, value) in [(&b"lc\x0012345678"[..], &b"\x01"[..]), (b"m12345678", b"\0\x01t\0\0"), (b"?", b"")] {
        world.disk.cells.insert(key.to_vec(), value.to_vec());
    }
    world.crash(0);
    assert_eq!(world.disk.cells, cells);
    assert_eq!(world.mail.mailboxes().stats().restored.get(), 1);
}

/// Before there were pages, a message was a cell of its own.
#[test]
fn messages_of_an_older_version_are_still_delivered() {
    let mut world = World::start(2, MailLimits::default());
    for n in 0..2u8 {
        let cell = [&[0, 0, 0, 0, 0, 0, 0, 3 + n][..], b"\0\x03t/x\0\0", &[0, 0, 0, n]].concat();
        world.disk.cells.insert([&b"m"[..], &[0, 0, 0, n]].concat(), cell);
        world.promised.insert(n.into());
    }
    world.crash(0);
    assert_eq!(world.mail.mailboxes().stats().messages.get(), 2);
    world.publish(2);
    world.settle();
    world.assert_clean();
    assert_eq!(world.client.got, [(0, 1), (1, 1), (2, 1)].into());
}

/// A subscription begins with the message after it, also after a crash.
#[test]
fn new_subscribers_get_nothing_old() {
    let mut world = World::start(1, MailLimits::default());
    world.publish(1);
    world.commit();
    let late: Arc<str> = "late".into();
    world.mail.change(&late, Change::Open { owner: None, expiry_s: 60 });
    world.mail.change(&late, Change::Subscribed(vec![("t/#".into(), Grant { qos: 1, id: None })]));
    world.publish(2);
    world.commit();
    for _ in 0..2 {
        let mut link = world.mail.mailboxes().of("late").unwrap().attach();
        let Some(Delivery::Publish { message, .. }) = link.next() else { panic!() };
        assert_eq!(message.payload(), 2u32.to_be_bytes());
        assert!(link.next().is_none());
        world.crash(u64::MAX);
    }
}

#[test]
fn qos_0_is_for_those_who_are_there() {
    let mut world = World::start(0, MailLimits::default());
    world.publish(1);
    world.commit();
    world.connect();
    world.publish(2);
    world.commit();
    let Some(Delivery::Publish { qos: 0, dup: false, message, .. }) = world.link.as_mut().unwrap().next() else {
        panic!()
    };
    assert_eq!((message.topic(), message.payload()), (&b"t/x"[..], &2u32.to_be_bytes()[..]));
    world.publish(3);
    world.commit();
    world.connect();
    assert!(world.link.as_mut().unwrap().next().is_none(), "what nobody took is gone with the connection");
    assert_eq!(world.disk.cells.len(), 2);
}

#[test]
fn who_does_not_take_qos_0_loses_the_oldest_counted() {
    let mut world = World::start(0, MailLimits::default());
    world.connect();
    fill(&mut world, 300, 10);
    let link = world.link.as_mut().unwrap();
    let got = std::iter::from_fn(|| link.next()).count() as u64;
    assert_eq!((got, got + world.mail.mailboxes().stats().dropped.get()), (100, 300));
}

#[test]
fn overlapping_subscriptions_get_one_letter() {
    let mut world = World::start(1, MailLimits::default());
    world.tell(Change::Subscribed(vec![
        ("+/x".into(), Grant { qos: 2, id: Some(5) }),
        ("t/x".into(), Grant { qos: 0, id: Some(6) }),
    ]));
    world.publish(1);
    world.commit();
    world.connect();
    let link = world.link.as_mut().unwrap();
    let Some(Delivery::Publish { qos: 2, mut ids, .. }) = link.next() else { panic!() };
    ids.sort_unstable();
    assert_eq!((&ids[..], link.next().is_none()), (&[5, 6][..], true));
}

#[test]
fn a_session_that_is_over_leaves_nothing() {
    let mut world = World::start(2, MailLimits::default());
    fill(&mut world, 20, 100);
    world.mail.forget(CLIENT);
    world.commit();
    let all = std::mem::take(&mut world.lazy);
    all.into_iter().for_each(|put| world.disk.write(put));
    assert!(world.disk.cells.is_empty() && !world.mail.has_filters());
    assert!(world.mail.mailboxes().of(CLIENT).is_none());
    let stats = world.mail.mailboxes().stats();
    assert_eq!((stats.messages.get(), stats.bytes.get(), stats.sessions.get()), (0, 0, 0));
}
