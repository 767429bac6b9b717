//! Who gets how much of what is free. Pure: what it is told in, units out. Grants go to whoever will run dry first, while
//! there is plenty for as long as `cover_s`, and by ever smaller parts near the end, so that nothing is stranded at a site that
//! does not sell it.

/// The rules of the `[rights]` table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RightsRules {
    /// Units that each connected site is kept at while there are any.
    pub floor: u64,
    /// Percent of what is free that is spread evenly over the connected sites, asked for or not.
    pub spread_percent: u64,
    /// Percent of what is free that is kept for the hub's own channel.
    pub hub_percent: u64,
    /// A site is given what it sells in so many seconds.
    pub cover_s: u64,
    /// Demand counts half after so many seconds.
    pub half_life_s: u64,
    /// A site that used nothing of an item for so long is asked for what it has beyond the floor, if others want it.
    pub idle_return_s: u64,
}

impl Default for RightsRules {
    fn default() -> RightsRules {
        RightsRules {
            floor: 1,
            spread_percent: 50,
            hub_percent: 10,
            cover_s: 600,
            half_life_s: 300,
            idle_return_s: 3_600,
        }
    }
}

/// A site that can be granted something now.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Seat {
    /// What it may promise now; below zero after sales beyond its rights.
    pub(super) available: i64,
    /// Units a second that buyers wanted there, recently.
    pub(super) rate: f64,
    /// Units that buyers asked for in vain.
    pub(super) missed: u64,
    /// It says that it runs out.
    pub(super) wants: bool,
    /// It used nothing for this long.
    pub(super) idle_s: u64,
    /// It was asked for some and did not answer yet.
    pub(super) is_asked: bool,
}

/// What one round of allotting comes to, in units, a number for each seat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Round {
    /// What each may promise more.
    pub(super) grants: Vec<u64>,
    /// What each is asked to give back.
    pub(super) asks: Vec<u64>,
}

/// What buyers want in the time that is covered.
fn covered(rate: f64, rules: &RightsRules) -> u64 {
    // `as` saturates; a rate is a sum of non-negative terms.
    (rate * rules.cover_s as f64).round() as u64
}

/// The hub's own channel, which has all that is free.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Channel {
    /// Units a second that buyers wanted there, recently.
    pub(super) rate: f64,
    /// Units that buyers asked for in vain.
    pub(super) missed: u64,
}

/// What is granted and asked back, if `free` units are free. The grants never sum to more than that.
pub(super) fn allot(free: i64, channel: Channel, seats: &[Seat], rules: &RightsRules) -> Round {
    let free = free.max(0) as u64;
    let floor = rules.floor.max(percent(free, rules.spread_percent) / (seats.len() as u64 + 1));
    let needs: Vec<u64> = seats.iter().map(|seat| need(seat, floor, rules)).collect();
    let wanted: u64 = needs.iter().fold(channel.missed, |sum, need| sum.saturating_add(*need));
    let (mut grants, missed_at_hub) = missed_first(free, channel, seats, &needs, rules);
    let given = |grants: &[u64]| grants.iter().sum::<u64>();
    let left = free - given(&grants) - (channel.missed - missed_at_hub);
    let kept = percent(left, rules.hub_percent).max(covered(channel.rate, rules).min(left / 2));
    let budget = left - kept;
    if wanted <= given(&grants) + (channel.missed - missed_at_hub) + budget {
        grants.clone_from(&needs);
    } else {
        share(budget, &mut grants, seats, &needs, rules);
    }
    // Only buyers count here: that a site without any could do with more is no reason to take from another. One that is
    // asked itself can be given nothing before it has answered.
    let missed = seats.iter().zip(&needs).map(|(seat, need)| seat.missed.min(*need));
    let in_vain = missed.zip(&grants).map(|(missed, grant)| missed.saturating_sub(*grant));
    let missed = in_vain.fold(missed_at_hub, u64::saturating_add);
    let low = seats.iter().zip(&needs).zip(&grants).map(|((seat, need), grant)| {
        let wanted = covered(seat.rate, rules).saturating_add(seat.missed).max(u64::from(seat.available <= 0));
        wanted.saturating_sub(seat.available.max(0) as u64).min(*need).saturating_sub(*grant)
    });
    let (at_hub, has) = (covered(channel.rate, rules).saturating_add(channel.missed), free - given(&grants));
    let low_at_hub = if has <= at_hub / 2 { at_hub - has } else { 0 };
    let low = low.fold(low_at_hub, u64::saturating_add);
    Round { asks: asks(missed, missed.max(low), seats, &grants, rules), grants }
}

fn percent(units: u64, percent: u64) -> u64 {
    (u128::from(units) * u128::from(percent.min(100)) / 100) as u64
}

/// What a seat should get if there were enough. It is looked at before it is dry: at half of what it should have.
fn need(seat: &Seat, floor: u64, rules: &RightsRules) -> u64 {
    let has = seat.available.max(0) as u64;
    let target = covered(seat.rate, rules).max(floor).saturating_add(seat.missed);
    let due = seat.wants || seat.missed > 0 || has < rules.floor || has <= target / 2;
    if due && !seat.is_asked { target.saturating_sub(has) } else { 0 }
}

/// Places by the demand there, the most first; the hub's own channel is the one past the last seat.
fn by_demand(channel: Channel, seats: &[Seat], rules: &RightsRules) -> Vec<usize> {
    let places = seats.iter().map(|seat| (seat.rate, seat.missed)).chain([(channel.rate, channel.missed)]);
    let demand: Vec<f64> = places.map(|(rate, missed)| rate * rules.cover_s as f64 + missed as f64).collect();
    let mut order: Vec<usize> = (0..demand.len()).collect();
    order.sort_by(|a, b| demand[*b].total_cmp(&demand[*a]).then(a.cmp(b)));
    order
}

/// What buyers missed goes before all else, where the most demand is first: a floor that was asked back for buyers
/// elsewhere would else be granted again, and asked back. The second number is what buyers at the hub's own channel miss
/// all the same.
fn missed_first(free: u64, channel: Channel, seats: &[Seat], needs: &[u64], rules: &RightsRules) -> (Vec<u64>, u64) {
    let (mut grants, mut left, mut missed_at_hub) = (vec![0; seats.len()], free, channel.missed);
    for n in by_demand(channel, seats, rules) {
        let units = seats.get(n).map_or(channel.missed, |seat| seat.missed.min(needs[n])).min(left);
        match grants.get_mut(n) {
            Some(grant) => *grant = units,
            None => missed_at_hub -= units,
        }
        left -= units;
    }
    (grants, missed_at_hub)
}

/// There is not enough of the rest: floors first, for those with the most demand; then half of what is left by need.
fn share(budget: u64, grants: &mut [u64], seats: &[Seat], needs: &[u64], rules: &RightsRules) {
    let order = by_demand(Channel::default(), seats, rules);
    let order: Vec<usize> = order.into_iter().filter(|n| needs.get(*n).is_some_and(|need| *need > 0)).collect();
    let mut left = budget;
    for n in order.iter().copied() {
        let has = seats[n].available.max(0) as u64 + grants[n];
        let more = rules.floor.saturating_sub(has).min(needs[n] - grants[n]).min(left);
        grants[n] += more;
        left -= more;
    }
    let share = left.div_ceil(2);
    let open: u128 = order.iter().map(|n| u128::from(needs[*n] - grants[*n])).sum();
    let mut rest = share;
    for n in order.iter().copied() {
        let need = needs[n] - grants[n];
        // Rounded up for those with the most demand, who come first.
        let part = (u128::from(need) * u128::from(share)).div_ceil(open.max(1)).min(u128::from(rest)) as u64;
        grants[n] += part;
        rest -= part;
    }
}

/// When buyers go away elsewhere, a site keeps what it sells in this part of the time that is covered: long enough to be
/// granted some again.
const PRESSED_PART: u64 = 10;

/// Who is asked for what `short` units are wanted elsewhere: those with the most to spare first. If that does not cover what
/// buyers `missed`, floors and what is covered for long go too: units that lie where nobody asks for them sell nothing.
fn asks(missed: u64, short: u64, seats: &[Seat], grants: &[u64], rules: &RightsRules) -> Vec<u64> {
    let spare = |n: usize, keeps: u64| {
        let seat = &seats[n];
        let busy = seat.missed > 0 || seat.is_asked || grants[n] > 0;
        if busy { 0 } else { (seat.available.max(0) as u64).saturating_sub(keeps) }
    };
    let at_ease = |n: usize| {
        let idle = seats[n].idle_s >= rules.idle_return_s;
        spare(n, if idle { rules.floor } else { covered(seats[n].rate, rules).max(rules.floor) })
    };
    let pressed = |n: usize| spare(n, covered(seats[n].rate, rules) / PRESSED_PART);
    let mut asks = vec![0; seats.len()];
    take(&mut asks, short, at_ease);
    let found: u64 = asks.iter().sum();
    take(&mut asks, missed.saturating_sub(found), pressed);
    asks
}

/// Adds to `asks` until they come to `units` more, of those who can spare the most first.
fn take(asks: &mut [u64], units: u64, spare: impl Fn(usize) -> u64) {
    let mut left = units;
    let mut order: Vec<usize> = if left > 0 { (0..asks.len()).collect() } else { Vec::new() };
    order.sort_by_key(|n| (std::cmp::Reverse(spare(*n)), *n));
    for n in order {
        let more = spare(n).saturating_sub(asks[n]).min(left);
        asks[n] += more;
        left -= more;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seat(available: i64, rate: f64) -> Seat {
        Seat { available, rate, ..Seat::default() }
    }

    const IDLE: Channel = Channel { rate: 0.0, missed: 0 };

    fn grants(free: i64, seats: &[Seat]) -> Vec<u64> {
        allot(free, IDLE, seats, &RightsRules::default()).grants
    }

    #[test]
    fn a_new_pool_is_spread_and_the_hub_keeps_most() {
        assert_eq!(grants(1_000, &[seat(0, 0.0); 4]), [100; 4]);
        assert_eq!(grants(585, &[seat(50, 0.0); 4]), [0; 4], "who has enough gets no more");
    }

    #[test]
    fn a_hot_site_gets_more_before_it_is_dry() {
        // 60 in 10 minutes: 20 left last three minutes.
        let round = grants(1_000, &[seat(20, 0.1), seat(84, 0.0)]);
        assert_eq!(round, [146, 0], "a third of the half that is spread is more than it sells in the time");
        assert_eq!(grants(1_000, &[seat(50, 0.5), seat(84, 0.0)]), [250, 0]);
        assert_eq!(grants(1_000, &[seat(200, 0.5), seat(84, 0.0)]), [0, 0], "it has more than half");
    }

    #[test]
    fn near_the_end_parts_get_smaller_and_nothing_is_stranded() {
        let (mut free, mut sold) = (40_i64, 0);
        let mut hot = Seat { available: 0, rate: 10.0, missed: 5, ..Seat::default() };
        let cold = seat(1, 0.0);
        let mut last = i64::MAX;
        while sold < 40 {
            let round = grants(free, &[hot, cold]);
            let given = round[0] as i64;
            assert!(given > 0 && given <= last, "{given} after {last} with {free} free");
            assert_eq!(round[1], 0);
            free -= given;
            sold += given;
            last = given;
            hot.available = 0;
        }
        assert_eq!(free, 0);
    }

    #[test]
    fn who_does_not_need_it_is_asked_when_buyers_go_away_elsewhere() {
        let dry = Seat { wants: true, missed: 5, ..seat(0, 0.1) };
        let idle = Seat { idle_s: 4_000, ..seat(40, 0.0) };
        let busy = Seat { idle_s: 10, ..seat(70, 0.1) };
        let new = Seat { rate: 0.0, ..dry };
        let round = allot(0, IDLE, &[new, idle, busy], &RightsRules::default());
        assert_eq!((round.grants, round.asks), (vec![0, 0, 0], vec![0, 5, 0]));
        let round = allot(0, IDLE, &[dry, idle, busy], &RightsRules::default());
        assert_eq!(round.asks, [0, 39, 10], "what its buyers want in the time, of those who have more than theirs do");
        let asked = Seat { is_asked: true, ..idle };
        let round = allot(0, IDLE, &[dry, asked, busy], &RightsRules::default());
        assert_eq!(round.asks, [0, 0, 10], "one open ask; the other can spare ten");
        let many = Seat { missed: 45, ..dry };
        let round = allot(0, IDLE, &[many, idle, busy], &RightsRules::default());
        assert_eq!(round.asks, [0, 39, 10], "floors and what is covered stay while there is other");
        let more = Seat { missed: 60, ..dry };
        let round = allot(0, IDLE, &[more, idle, busy], &RightsRules::default());
        assert_eq!(round.asks, [0, 39, 21], "what it sells in a minute stays");
        let content = seat(3, 0.0);
        assert_eq!(allot(0, IDLE, &[content, idle, busy], &RightsRules::default()).asks, [0; 3]);
    }

    #[test]
    fn the_hubs_own_channel_is_one_more_that_asks() {
        let rules = RightsRules::default();
        let [idle, dry] = [Seat { idle_s: 4_000, ..seat(40, 0.0) }, Seat { missed: 5, ..seat(0, 0.0) }];
        let missed = |missed| Channel { rate: 0.0, missed };
        let round = allot(0, missed(7), &[idle], &rules);
        assert_eq!((round.grants, round.asks), (vec![0], vec![7]));
        let round = allot(4, missed(7), &[idle, seat(0, 0.0)], &rules);
        assert_eq!((round.grants, round.asks), (vec![0, 0], vec![3, 0]), "what is free is kept for them, not a floor");
        let round = allot(8, missed(7), &[dry, idle], &rules);
        assert_eq!((round.grants, round.asks), (vec![1, 0], vec![0, 4]), "most of the demand is at the hub");
        let round = allot(8, Channel { rate: 0.0, missed: 4 }, &[dry, idle], &rules);
        assert_eq!((round.grants, round.asks), (vec![5, 0], vec![0, 1]), "or at the site");
        assert_eq!(allot(7, missed(7), &[idle], &rules).asks, [0], "there is enough again");
        let busy = Channel { rate: 0.05, missed: 0 };
        assert_eq!(allot(15, busy, &[idle], &rules).asks, [15], "less than half of what they want in the time");
        assert_eq!(allot(16, busy, &[idle], &rules).asks, [0]);
    }

    #[test]
    fn what_the_hub_keeps_for_buyers_to_come_yields_to_those_who_were_turned_away() {
        let busy = Channel { rate: 10.0, missed: 0 };
        let dry = Seat { missed: 5, ..seat(0, 0.0) };
        assert_eq!(allot(5, busy, &[dry], &RightsRules::default()).grants, [5]);
        assert_eq!(allot(8, busy, &[dry, seat(0, 0.0)], &RightsRules::default()).grants, [6, 1]);
    }

    fn seats() -> impl Strategy<Value = Vec<Seat>> {
        let seat = (-5..200_i64, 0.0..5.0_f64, 0..50_u64, any::<bool>(), 0..8_000_u64, any::<bool>());
        let seat = seat.prop_map(|(available, rate, missed, wants, idle_s, is_asked)| Seat {
            available,
            rate,
            missed,
            wants,
            idle_s,
            is_asked,
        });
        prop::collection::vec(seat, 0..60)
    }

    proptest! {
        #[test]
        fn nobody_gets_what_is_not_free_and_floors_come_first(
            free in -50..2_000_i64, hub_rate in 0.0..3.0_f64, at_hub in 0..20_u64, seats in seats(), floor in 0..4_u64,
        ) {
            let rules = RightsRules { floor, ..RightsRules::default() };
            let round = allot(free, Channel { rate: hub_rate, missed: at_hub }, &seats, &rules);
            let given: u64 = round.grants.iter().sum();
            prop_assert!(given as i64 <= free.max(0));
            let poor = |seat: &Seat| (seat.available < floor as i64 && !seat.is_asked) as u64;
            let floors: u64 = seats.iter().map(|seat| poor(seat) * floor).sum();
            let missed: u64 = at_hub + seats.iter().map(|seat| seat.missed).sum::<u64>();
            for (seat, (grant, ask)) in seats.iter().zip(round.grants.iter().zip(&round.asks)) {
                let pressed = missed > 0;
                prop_assert!(*ask == 0 || seat.available - *ask as i64 >= floor as i64 || pressed, "a floor stays");
                prop_assert!(seat.available - *ask as i64 >= 0.min(seat.available));
                prop_assert!(*ask == 0 || (*grant == 0 && !seat.is_asked));
                if free as f64 * 0.9 - hub_rate * 600.0 > (floors + missed) as f64 && poor(seat) == 1 {
                    prop_assert!(seat.available.max(0) as u64 + grant >= floor);
                }
            }
            // With nobody on the hub's channel, one that buyers leave empty-handed gets something while there is any.
            let lonely = allot(free, IDLE, &[Seat { missed: 1, ..Seat::default() }], &rules);
            prop_assert_eq!(lonely.grants[0] > 0, free > 0);
        }
    }
}
