//! Whatever happens: QoS 2 once, QoS 1 at least once, and nothing lost that is not counted.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Act {
    Publish,
    Commit,
    Connect,
    Disconnect,
    Deliver(u8),
    Answer(usize),
    Crash(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => Just(Act::Publish),
        6 => Just(Act::Commit),
        2 => Just(Act::Connect),
        1 => Just(Act::Disconnect),
        6 => (1u8..5).prop_map(Act::Deliver),
        6 => any::<usize>().prop_map(Act::Answer),
        1 => any::<u64>().prop_map(Act::Crash),
    ]
}

fn run(mut world: World, acts: Vec<Act>) -> World {
    let mut n = 0;
    for act in acts {
        match act {
            Act::Publish => {
                n += 1;
                world.publish(n);
            }
            Act::Commit => world.commit(),
            Act::Connect => world.connect(),
            Act::Disconnect => world.disconnect(),
            Act::Deliver(times) => (0..times).for_each(|_| world.deliver()),
            Act::Answer(at) => world.answer(at),
            Act::Crash(chance) => world.crash(chance),
        }
    }
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn qos_2_comes_once_and_qos_1_at_least_once(qos in 1u8..=2, acts in prop::collection::vec(act(), 0..120)) {
        let mut world = run(World::start(qos, MailLimits::default()), acts);
        world.settle();
        world.assert_clean();
        let got: BTreeSet<u32> = world.client.got.keys().copied().collect();
        prop_assert_eq!(&got, &world.promised);
        prop_assert_eq!(world.dropped, 0);
        prop_assert!(qos == 1 || world.client.got.values().all(|times| *times == 1), "{:?}", world.client.got);
    }

    #[test]
    fn what_a_full_mailbox_drops_is_counted(qos in 1u8..=2, acts in prop::collection::vec(act(), 0..120)) {
        let mut world = run(World::start(qos, MailLimits { messages_max: 3, ..MailLimits::default() }), acts);
        world.settle();
        world.assert_clean();
        let missing = world.promised.iter().filter(|n| !world.client.got.contains_key(n)).count();
        prop_assert!(missing as u64 <= world.dropped, "{missing} are missing, {} were counted", world.dropped);
        prop_assert!(qos == 1 || world.client.got.values().all(|times| *times == 1), "{:?}", world.client.got);
    }

    #[test]
    fn others_and_second_filters_change_nothing_of_it(
        messages_max in prop_oneof![Just(3usize), Just(1_000)],
        acts in prop::collection::vec(act(), 0..120),
    ) {
        let mut world = run(World::crowded(2, MailLimits { messages_max, ..MailLimits::default() }), acts);
        world.settle();
        let missing = world.promised.iter().filter(|n| !world.client.got.contains_key(n)).count();
        prop_assert!(missing as u64 <= world.dropped, "{missing} are missing, {} were counted", world.dropped);
        prop_assert!(messages_max == 3 || missing == 0);
        prop_assert!(world.client.got.values().all(|times| *times == 1), "{:?}", world.client.got);
        // The absent one still has what the first filter holds, and is the only reason that it is there.
        world.mail.forget("absent");
        world.commit();
        prop_assert_eq!(world.mail.mailboxes().stats().messages.get(), 0);
    }
}
