//! The rules, switch by switch: as they are sound, and broken on purpose. And how far one exhaustive run goes.

use super::state::SITES;

/// How far one exhaustive run goes. What is a number is how often it may happen; what is an array, at which site.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Promises, holds, sales and refunds that a site's box begins; ends of holds and answers come on top.
    pub(super) events: [u8; SITES],
    /// Of those: sales in hand, which are never refused.
    pub(super) sales: u8,
    pub(super) refunds: u8,
    /// A site may place its hold, which has one id in all lives of the site.
    pub(super) holds: [bool; SITES],
    /// Connections of each site. The end of one is what a crash is to the hub: nothing uncommitted was answered.
    pub(super) connections: [u8; SITES],
    /// Different messages on their way in each direction of each site.
    pub(super) wire: usize,
    /// The hub asks for a unit back.
    pub(super) asks: u8,
    pub(super) withdrawals: u8,
    /// Promises of the hub's own channel.
    pub(super) online: u8,
    pub(super) hub_crashes: u8,
    pub(super) hub_restores: u8,
    pub(super) site_restores: u8,
    /// A box is gone, another takes its place.
    pub(super) swaps: u8,
    /// `site lost`, of a box that is gone or is not.
    pub(super) losts: u8,
    /// Units taken back of lives that are over.
    pub(super) reclaims: u8,
}

/// What the two ends do. A rule that is off is a fault.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// The hub grants from `free`, which every life's exposure is taken from, not from what is known as promised.
    pub(super) exposure: bool,
    /// What a lost or retired life had and did not report counts as spent.
    pub(super) over_is_spent: bool,
    /// The exposure of a life that is over has its open holds in it.
    pub(super) held_of_over: bool,
    /// A restored hub grants and promises nothing until every life that is not over has reported.
    pub(super) wait_for_reports: bool,
    /// It waits for a site of which all lives that it knows are over, too, unless that was said to this incarnation.
    pub(super) wait_for_sites: bool,
    /// A report says which incarnation asked for it.
    pub(super) report_to_incarnation: bool,
    /// A report names what earlier lives of the site had, too.
    pub(super) report_earlier: bool,
    /// The hub replaces a life's Rights, it adds nothing up.
    pub(super) replace: bool,
    /// A site answers what it is asked back once.
    pub(super) answer_once: bool,
    /// A site keeps the highest `granted` that it heard.
    pub(super) granted_grows: bool,
    /// A site takes grants of its own session alone.
    pub(super) own_session: bool,
    /// The hub says a grant after its commit.
    pub(super) commit_then_speak: bool,
    /// An inherited hold brings no right into the new life.
    pub(super) inherited_no_right: bool,
    /// A hold that a new box took over from the hub's chunks is committed with a right of the new life.
    pub(super) inherited_needs_right: bool,
    /// A hold's end in the fork goes before the hub's chunk in which it is open.
    pub(super) fork_end_first: bool,
    /// Fork events that were uncovered raise `promised` of the new life.
    pub(super) uncovered_again: bool,
    /// What the hub holds under another life already is not journalled again.
    pub(super) once: bool,
    /// A commit after expiry takes a right.
    pub(super) late_needs_right: bool,
    /// Only of a life that is over may units be reclaimed.
    pub(super) reclaim_over: bool,
    /// Only what is free may be withdrawn.
    pub(super) withdraw_free: bool,
}

impl Rules {
    /// What the properties hold for.
    pub(super) const SOUND: Rules = Rules {
        exposure: true,
        over_is_spent: true,
        held_of_over: true,
        wait_for_reports: true,
        wait_for_sites: true,
        report_to_incarnation: true,
        report_earlier: true,
        replace: true,
        answer_once: true,
        granted_grows: true,
        own_session: true,
        commit_then_speak: true,
        inherited_no_right: true,
        inherited_needs_right: true,
        fork_end_first: true,
        uncovered_again: true,
        once: true,
        late_needs_right: true,
        reclaim_over: true,
        withdraw_free: true,
    };
}
