//! What is held, and for how many.

use super::*;

#[test]
fn every_bound_holds() {
    let stats = |world: &World| {
        let stats = world.mail.mailboxes().stats();
        (stats.messages.get(), stats.bytes.get(), stats.dropped.get())
    };
    let mut world = World::start(1, MailLimits { messages_max: 10, ..MailLimits::default() });
    fill(&mut world, 25, 10);
    assert_eq!((stats(&world).0, stats(&world).2), (10, 15));

    let mut world = World::start(1, MailLimits { bytes_max: 10_000, ..MailLimits::default() });
    fill(&mut world, 25, 1_000);
    assert!(stats(&world).1 <= 10_000 && stats(&world).2 == 25 - stats(&world).0, "{:?}", stats(&world));

    let mut world = World::start(1, MailLimits { bytes_total_max: 10_000, ..MailLimits::default() });
    for n in 0..5 {
        let client: Arc<str> = format!("other-{n}").into();
        world.mail.change(&client, Change::Open { owner: None, expiry_s: 60 });
        world.mail.change(&client, Change::Subscribed(vec![("#".into(), Grant { qos: 2, id: None })]));
    }
    fill(&mut world, 25, 1_000);
    // Five have one filter, so it is one ring of its own; the sixth has another. All messages are in both.
    let (messages, bytes, dropped) = stats(&world);
    assert!(bytes <= 10_000 && dropped == 6 * (25 - messages), "{:?}", stats(&world));

    let mut world = World::start(1, MailLimits { message_bytes_max: 100, ..MailLimits::default() });
    fill(&mut world, 1, 101);
    assert_eq!(stats(&world), (0, 0, 1));
}

/// A letter that is not acknowledged keeps its packet id to itself, however many others pass meanwhile.
#[test]
fn packet_ids_are_not_given_twice() {
    let mut world = World::start(1, MailLimits { messages_max: 10, ..MailLimits::default() });
    let other: Arc<str> = "other".into();
    world.mail.change(&other, Change::Open { owner: None, expiry_s: 60 });
    world.mail.change(&other, Change::Subscribed(vec![("other/#".into(), Grant { qos: 1, id: None })]));
    world.connect();
    world.publish(0);
    world.commit();
    let Some(Delivery::Publish { pkid: held, index: first, .. }) = world.link.as_mut().unwrap().next() else {
        panic!()
    };
    for _ in 1..PACKET_IDS {
        world.mail.publish("other/x", &[], &[]);
        world.mail.close_group();
        world.mail.take_changes();
    }
    world.publish(1);
    world.commit();
    assert!(world.link.as_mut().unwrap().next().is_none(), "its packet id is taken");
    world.connect();
    let Some(Delivery::Publish { pkid, dup: true, .. }) = world.link.as_mut().unwrap().next() else { panic!() };
    assert_eq!(pkid, held);
    assert!(world.link.as_mut().unwrap().next().is_none(), "and stays so");
    world.tell(Change::Done(first));
    let Some(Delivery::Publish { pkid, index, dup: false, .. }) = world.link.as_mut().unwrap().next() else { panic!() };
    assert_eq!((pkid, index - first), (held, PACKET_IDS));
}

/// One that leaves a letter unanswered gets no more when its packet id would come again, or too much is answered past
/// it; once it answers, it goes on.
#[test]
fn who_does_not_answer_waits() {
    let mut world = World::start(1, MailLimits::default());
    world.connect();
    world.publish(0);
    world.commit();
    let Some(Delivery::Publish { index: held, .. }) = world.link.as_mut().unwrap().next() else { panic!() };
    let mut seen = 0;
    for n in 1..2_000 {
        world.publish(n);
        world.commit();
        let Some(Delivery::Publish { index, .. }) = world.link.as_mut().unwrap().next() else { break };
        world.tell(Change::Done(index));
        seen += 1;
    }
    assert_eq!(seen, 1_000);
    world.tell(Change::Done(held));
    assert!(world.link.as_mut().unwrap().next().is_some());
}

/// A hundred who are away cost a message no more than one does.
#[test]
fn a_message_is_written_once_for_all() {
    let mut world = World::start(1, MailLimits { messages_max: 10, ..MailLimits::default() });
    for n in 0..100 {
        let client: Arc<str> = format!("other-{n}").into();
        world.mail.change(&client, Change::Open { owner: None, expiry_s: 60 });
        world.mail.change(&client, Change::Subscribed(vec![("t/#".into(), Grant { qos: 1, id: None })]));
    }
    world.commit();
    let before = world.disk.cells.len();
    for n in 0..50 {
        world.publish(n);
        world.mail.close_group();
        let Changes { puts, .. } = world.mail.take_changes();
        assert_eq!(puts.len(), 1);
        puts.into_iter().for_each(|put| world.disk.write(put));
    }
    assert_eq!(world.disk.cells.len() - before, 11, "places are used again");
    for n in 0..50 {
        world.publish(n);
    }
    world.mail.close_group();
    assert_eq!(world.mail.take_changes().puts.len(), 1, "and once for all of a commit");
    assert_eq!(world.mail.mailboxes().stats().dropped.get(), 90 * 101);
}

/// Two filters of one session: a message that one of them lost is still delivered by the other, and not counted.
#[test]
fn what_another_filter_still_has_is_not_lost() {
    let mut world = World::start(2, MailLimits { messages_max: 3, ..MailLimits::default() });
    world.tell(Change::Subscribed(vec![("t/x".into(), Grant { qos: 1, id: None })]));
    world.commit();
    world.publish(1);
    for n in 0..3 {
        world.mail.publish("t/y", &[], &[n]);
    }
    world.commit();
    assert_eq!(world.mail.mailboxes().stats().dropped.get(), 0);
    world.connect();
    world.deliver();
    assert!(world.client.got.contains_key(&1));
}
