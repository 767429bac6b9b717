//! The watermark, epoch and trim protocol as a model that is checked exhaustively: two sites and the hub, every order of
//! everything that may happen, within bounds.
//!
//! Messages are sets: what is under way may come, come again, come late, in any order, or be lost. A gateway may crash
//! between a commit and its acknowledgement and come back with a new connection at any time, the hub may crash, either
//! may be restored from a backup. Journals are compared by their whole contents, which is what the hash stands for; one
//! chunk is one record. `runs` says which bounds, and how many states that are; `faults` takes rules away one by one and
//! shows that the properties notice, among them what a plain reading of the protocol lacks.

mod faults;
mod hub;
mod properties;
mod rules;
pub(crate) mod runs;
mod site;
mod state;

use rules::{Bounds, Rules};
use state::{Down, Mark, Phase, SITES, State, Up};
use stateright::{Model, Property};

/// The protocol under some rules, within some bounds.
#[derive(Debug, Clone)]
struct Protocol {
    rules: Rules,
    bounds: Bounds,
}

#[derive(Debug, Clone, PartialEq)]
enum Action {
    Record(usize),
    /// It is committed, and the gateway stops before it says so.
    RecordAndCrash(usize),
    SendAgain(usize),
    Connect(usize),
    /// Nothing was heard: Hello again.
    Greet(usize),
    Send(usize, Up),
    Trim(usize),
    Rejoin(usize),
    CarryOver(usize),
    RestoreSite(usize, u8),
    RestoreSiteBeforeRejoin(usize),
    Up(usize, Up),
    Down(usize, Down),
    LoseUp(usize, Up),
    LoseDown(usize, Down),
    HubCommits(usize),
    HubSaysApplied(usize),
    HubCrashes,
    RestoreHub([Vec<Mark>; SITES]),
    RestoreHubToNewer,
}

impl Protocol {
    fn all_applied(&self, state: &State) -> bool {
        (0..SITES).all(|i| state::records(&state.hub.disk[i]).count_ones() as u8 == self.bounds.records[i])
    }

    fn site_actions(&self, state: &State, i: usize, actions: &mut Vec<Action>) {
        let (site, bounds) = (&state.sites[i], &self.bounds);
        if bounds.connections[i] == 0 {
            return;
        }
        if site.ghost.recorded < bounds.records[i] {
            actions.push(Action::Record(i));
            if state.crashes < bounds.unacknowledged && site.unacknowledged.is_none() {
                actions.push(Action::RecordAndCrash(i));
            }
        }
        if site.unacknowledged.is_some() {
            actions.push(Action::SendAgain(i));
        }
        if site.nonce < bounds.connections[i] {
            actions.push(Action::Connect(i));
        }
        if matches!(site.phase, Phase::Greeting)
            || (!self.rules.fresh_nonce && matches!(site.phase, Phase::Streaming { .. }))
        {
            actions.push(Action::Greet(i));
        }
        if site.up.len() < bounds.wire {
            let sendable = site.sendable();
            actions.extend(sendable.into_iter().filter(|up| !site.up.contains(up)).map(|up| Action::Send(i, up)));
        }
        if site.ledger.beginning < bounds.trims && site.trimmable(&self.rules) {
            actions.push(Action::Trim(i));
        }
        if site.must_rejoin(&self.rules) && !site.carrying() {
            actions.push(Action::Rejoin(i));
        }
        if site.carrying() {
            actions.push(Action::CarryOver(i));
        }
        if state.site_restores < bounds.site_restores {
            let range = site.ledger.beginning..site.ledger.journal.seq();
            actions.extend(range.map(|seq| Action::RestoreSite(i, seq)));
            if site.backup.is_some() {
                actions.push(Action::RestoreSiteBeforeRejoin(i));
            }
        }
    }

    fn wire_actions(&self, state: &State, i: usize, actions: &mut Vec<Action>) {
        let site = &state.sites[i];
        actions.extend(site.up.iter().map(|up| Action::Up(i, *up)));
        actions.extend(site.down.iter().map(|down| Action::Down(i, *down)));
        // What never comes is lost; it need only go where it takes the room of another.
        if site.up.len() == self.bounds.wire {
            actions.extend(site.up.iter().map(|up| Action::LoseUp(i, *up)));
        }
        if site.down.len() == self.bounds.wire {
            actions.extend(site.down.iter().map(|down| Action::LoseDown(i, *down)));
        }
    }
}

impl Model for Protocol {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State::default()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for i in 0..SITES {
            self.site_actions(state, i, actions);
            self.wire_actions(state, i, actions);
            if hub::uncommitted(&state.hub, i) {
                actions.push(Action::HubCommits(i));
            }
            if state.hub.sessions[i].is_some() && state.sites[i].down.len() < self.bounds.wire {
                actions.push(Action::HubSaysApplied(i));
            }
        }
        if state.crashes < self.bounds.hub_crashes && state.hub.sessions.iter().any(Option::is_some) {
            actions.push(Action::HubCrashes);
        }
        if state.hub_restores < self.bounds.hub_restores {
            for one in hub::earlier(&state.hub.disk[0]) {
                for other in hub::earlier(&state.hub.disk[1]) {
                    actions.push(Action::RestoreHub([one.clone(), other]));
                }
            }
            if state.hub.newer.is_some() {
                actions.push(Action::RestoreHubToNewer);
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let (rules, wire) = (&self.rules, self.bounds.wire);
        match action {
            Action::Record(i) | Action::RecordAndCrash(i) => {
                let site = &mut state.sites[i];
                let record = site.ghost.recorded;
                site.ghost.recorded += 1;
                site.record(record);
                if matches!(action, Action::Record(_)) {
                    site.ghost.acknowledged |= 1 << record;
                } else {
                    site.unacknowledged = Some(record);
                    (site.phase, site.down) = (Phase::Away, Vec::new());
                    state.crashes += 1;
                }
            }
            Action::SendAgain(i) => state.sites[i].again(),
            Action::Connect(i) => state.sites[i].connect(rules, wire),
            Action::Greet(i) => {
                state.sites[i].phase = Phase::Greeting;
                state.sites[i].say_hello(rules, wire);
            }
            Action::Send(i, up) => _ = site::put(&mut state.sites[i].up, up, wire),
            Action::Trim(i) => state.sites[i].trim(&last.hub.disk[i], last.hub_restores),
            Action::Rejoin(i) => state.sites[i].rejoin(rules),
            Action::CarryOver(i) => state.sites[i].carry_over(),
            Action::RestoreSite(i, seq) => {
                let ledger = state.sites[i].ledger.upto(seq);
                state.sites[i].restore(ledger);
                state.site_restores += 1;
            }
            Action::RestoreSiteBeforeRejoin(i) => {
                let ledger = *state.sites[i].backup.take()?;
                state.sites[i].restore(ledger);
                state.site_restores += 1;
            }
            Action::Up(i, up) => {
                hub::receive(&mut state, i, up, rules, wire);
                if !self.bounds.groups {
                    hub::commit(&mut state.hub, i);
                }
            }
            Action::Down(i, down) => state.sites[i].receive(down, rules),
            Action::LoseUp(i, up) => state.sites[i].up.retain(|one| *one != up),
            Action::LoseDown(i, down) => state.sites[i].down.retain(|one| *one != down),
            Action::HubCommits(i) => hub::commit(&mut state.hub, i),
            Action::HubSaysApplied(i) => {
                let said = hub::say_applied(&state.hub, i, rules)?;
                site::put(&mut state.sites[i].down, said, wire);
            }
            Action::HubCrashes => {
                hub::crash(&mut state.hub);
                state.crashes += 1;
            }
            Action::RestoreHub(disk) => {
                if self.bounds.hub_restores > 1 {
                    state.hub.newer = Some(Box::new(state.hub.disk.clone()));
                }
                hub::restore(&mut state, disk, rules);
            }
            Action::RestoreHubToNewer => {
                let disk = *state.hub.newer.take()?;
                hub::restore(&mut state, disk, rules);
            }
        }
        for (site, session) in state.sites.iter_mut().zip(&state.hub.sessions) {
            site.sweep(session.as_ref(), rules);
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Protocol>> {
        properties::all()
    }
}
