//! What kind of schedule a seed is: how many sites, how large, and which things go wrong.

use proto::id::SiteName;

use super::dice::Dice;
use super::world::BEGINNING_MS;

#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) sites: usize,
    /// Requests and faults.
    pub(super) acts: u64,
    pub(super) pauses_ms: &'static [u64],
    /// Records at which a group is closed.
    pub(super) group: u64,
    pub(super) hub_group: u64,
    pub(super) delay_ms: u64,
    /// Percent of messages that are lost, and that come twice.
    pub(super) lost: u64,
    pub(super) doubled: u64,
    /// Messages of one connection overtake each other.
    pub(super) disorder: bool,
    pub(super) items: usize,
    pub(super) wrong_clocks: bool,
    pub(super) cuts: bool,
    pub(super) crashes: bool,
    pub(super) copies: bool,
    pub(super) hub_copies: bool,
    pub(super) swaps: bool,
    /// What is done about a gateway that was turned away is `rejoin`; else its box is replaced.
    pub(super) rejoins: bool,
    /// Boxes rejoin without a reason, and a copy of an earlier life may come back.
    pub(super) old_lives: bool,
    /// While a box takes over an earlier ledger it is restored, rejoins once more, or the hub comes back from a backup.
    pub(super) disturbs: bool,
    /// Percent of commits after which applied chunks are dropped.
    pub(super) trims: u64,
    pub(super) evictions: bool,
    /// The present is said ahead of the journal though it is short.
    pub(super) presents: bool,
    /// How many of the items are sold from a pool.
    pub(super) pools: usize,
    /// Pools are made smaller than what sites may promise.
    pub(super) withdraws: bool,
    /// Sites that are dark are declared lost, and come back.
    pub(super) writes_off: bool,
    /// A launch: so many buyers, and what goes wrong while they come.
    pub(super) buyers: usize,
}

impl Plan {
    pub(super) fn draw(dice: &mut Dice) -> Plan {
        Plan {
            sites: dice.pick(&[2, 2, 3, 3, 4]),
            acts: dice.pick(&[20, 40, 80, 80, 140, 200]),
            pauses_ms: dice.pick(&[
                &[5, 40, 200][..],
                &[20, 400, 1_500],
                &[50, 500, 500, 9_000],
                &[1_000, 4_000, 26_000],
            ]),
            group: dice.pick(&[1, 3, 12, 1_024, 1_024]),
            hub_group: dice.pick(&[1, 2, 5, 1_024, 1_024]),
            delay_ms: dice.pick(&[1, 30, 30, 400, 4_000]),
            lost: dice.pick(&[0, 0, 2, 12]),
            doubled: dice.pick(&[0, 0, 3, 12]),
            disorder: dice.percent(25),
            items: dice.pick(&[1, 2, 4]),
            wrong_clocks: dice.percent(50),
            cuts: dice.percent(60),
            crashes: dice.percent(60),
            copies: dice.percent(20),
            hub_copies: dice.percent(25),
            swaps: dice.percent(30),
            rejoins: dice.percent(60),
            old_lives: dice.percent(25),
            disturbs: dice.percent(40),
            trims: dice.pick(&[0, 10, 60, 100]),
            evictions: dice.percent(20),
            presents: dice.percent(40),
            pools: dice.pick(&[0, 0, 0, 1, 2]),
            withdraws: dice.percent(20),
            writes_off: false,
            buyers: 0,
        }
    }

    /// Milliseconds to the next act.
    pub(super) fn pause(&self, dice: &mut Dice) -> u64 {
        let most = dice.pick(self.pauses_ms);
        dice.range(0, most)
    }

    /// How far a site's clock is off.
    pub(super) fn clock_off(&self, dice: &mut Dice) -> i64 {
        if !self.wrong_clocks {
            return dice.range(0, 400) as i64 - 200;
        }
        match dice.below(6) {
            0 => -(BEGINNING_MS as i64),
            1 => 3_600_000,
            2 => -3_600_000,
            3 => 40_000_000_000,
            _ => dice.range(0, 20_000) as i64 - 10_000,
        }
    }
}

const SITES: [&str; 4] = ["harbour", "hilltop", "market", "station"];

/// What a site is called.
pub(super) fn site_name(at: usize) -> SiteName {
    let name = SITES.get(at).map_or_else(|| format!("shop-{at}"), |name| (*name).to_owned());
    name.parse().expect("a name")
}
