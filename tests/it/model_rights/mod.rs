//! Rights to promise units of a pool as a model that is checked exhaustively: two sites and the hub, one item, three
//! units, every order of everything that may happen, within bounds.
//!
//! As in `model`: messages are sets, so what is under way may come, come again, come late, in any order, or be lost; a
//! record has a serial of its own, which is what the hash of a chain stands for. That journals arrive whole and in order is
//! shown there; here a batch brings all that the hub lacks. A step is one commit: what was not committed was not
//! answered, so a crash of a gateway is the end of its connection. `runs` says which bounds, and how many states that
//! are; `faults` takes rules away one by one and shows that the properties notice.

mod faults;
mod hub;
mod outside;
mod properties;
mod rules;
mod runs;
mod site;
mod state;

use rules::{Bounds, Rules};
use state::{Down, EPOCHS, Hold, Over, POOL, SITES, State, Up};
use stateright::{Model, Property};

/// The rules, within some bounds.
#[derive(Debug, Clone)]
struct Pool {
    rules: Rules,
    bounds: Bounds,
}

#[derive(Debug, Clone, PartialEq)]
enum Action {
    Promise(usize),
    Sell(usize),
    Refund(usize),
    Place(usize),
    Commit(usize),
    Expire(usize),
    Connect(usize),
    Send(usize, Up),
    Rejoin(usize),
    SwapBox(usize),
    RestoreSite(usize, u8, bool),
    RestoreSiteBeforeRejoin(usize),
    Up(usize, Up),
    Down(usize, Down),
    LoseUp(usize, Up),
    LoseDown(usize, Down),
    Grant(usize),
    /// It is said, and the hub stops before the commit.
    GrantAndCrash(usize),
    Ask(usize),
    Feed(usize),
    HubPromises,
    Withdraw,
    SiteLost(usize),
    Reclaim(usize, usize),
    HubCrashes,
    BackUpHub,
    RestoreHub,
}

impl Pool {
    fn shop_actions(&self, state: &State, i: usize, actions: &mut Vec<Action>) {
        let (site, bounds) = (&state.sites[i], &self.bounds);
        let hold = site.ledger.hold;
        if site.ghost.events < bounds.events[i] {
            let available = site.ledger.rights.available() > 0;
            if available {
                actions.push(Action::Promise(i));
            }
            if available && bounds.holds[i] && hold == Hold::None {
                actions.push(Action::Place(i));
            }
            if site.ghost.sales < bounds.sales {
                actions.push(Action::Sell(i));
            }
            if site.ghost.refunded < bounds.refunds.min(site.ghost.sold) {
                actions.push(Action::Refund(i));
            }
        }
        if hold.is_open() {
            actions.push(Action::Expire(i));
        }
        if site.may_commit(&self.rules) {
            actions.push(Action::Commit(i));
        }
    }

    fn link_actions(&self, state: &State, i: usize, actions: &mut Vec<Action>) {
        let (site, bounds) = (&state.sites[i], &self.bounds);
        if site.nonce < bounds.connections[i] {
            actions.push(Action::Connect(i));
        }
        if site.up.len() < bounds.wire {
            let news = |up: &Up| !site.up.contains(up) && self.is_news(state, i, up);
            actions.extend(site.sendable(&self.rules).into_iter().filter(news).map(|up| Action::Send(i, up)));
        }
        actions.extend(site.up.iter().map(|up| Action::Up(i, *up)));
        actions.extend(site.down.iter().map(|down| Action::Down(i, *down)));
        // What never comes is lost; it need only go where it takes the room of another.
        if site.up.len() == bounds.wire {
            actions.extend(site.up.iter().map(|up| Action::LoseUp(i, *up)));
        }
        if site.down.len() == bounds.wire {
            actions.extend(site.down.iter().map(|down| Action::LoseDown(i, *down)));
        }
    }

    /// What would change nothing need not be sent.
    fn is_news(&self, state: &State, i: usize, up: &Up) -> bool {
        let lives = &state.hub.disk.lives[i];
        match up {
            Up::Batch { epoch, to, .. } => lives.get(usize::from(*epoch)).is_none_or(|life| life.applied != *to),
            Up::Held { .. } => self.bounds.hub_restores > 0,
            Up::Hello { .. } => true,
        }
    }

    fn box_actions(&self, state: &State, i: usize, actions: &mut Vec<Action>) {
        let (site, bounds, count) = (&state.sites[i], &self.bounds, &state.count);
        let another_life = usize::from(site.ghost.epochs) + 1 < EPOCHS;
        if another_life && site.must_rejoin(&state.hub.disk.lives[i]) {
            actions.push(Action::Rejoin(i));
        }
        if another_life && count.swaps < bounds.swaps {
            actions.push(Action::SwapBox(i));
        }
        if count.site_restores < bounds.site_restores {
            for seq in site.ledger.began.1..=site.ledger.journal.seq() {
                actions.push(Action::RestoreSite(i, seq, false));
                actions.push(Action::RestoreSite(i, seq, true));
            }
            if site.backup.is_some() {
                actions.push(Action::RestoreSiteBeforeRejoin(i));
            }
        }
    }

    fn hub_actions(&self, state: &State, i: usize, actions: &mut Vec<Action>) {
        let (hub, bounds, count) = (&state.hub, &self.bounds, &state.count);
        let has_life = hub::current(hub, i).is_some();
        if has_life && hub::may_spend(state, &self.rules) && bounds.connections[i] > 0 {
            actions.push(Action::Grant(i));
            if !self.rules.commit_then_speak && hub.sessions[i].is_some() {
                actions.push(Action::GrantAndCrash(i));
            }
        }
        if has_life && count.asks < bounds.asks {
            actions.push(Action::Ask(i));
        }
        if let Some(Down::Grants { granted, asked, .. }) = hub::grants(hub, i, 0)
            && (granted, asked) != (state.sites[i].ledger.rights.granted, state.sites[i].ledger.asked)
        {
            actions.push(Action::Feed(i));
        }
        if !hub.disk.lives[i].is_empty() && count.losts < bounds.losts {
            actions.push(Action::SiteLost(i));
        }
        if count.reclaims < bounds.reclaims {
            let lives = hub.disk.lives[i].iter().enumerate();
            let over = lives.filter(|(_, life)| hub::reclaimable(&state.sites[i], life, &self.rules));
            actions.extend(over.map(|(epoch, _)| Action::Reclaim(i, epoch)));
        }
    }

    fn site_lost(&self, state: &mut State, i: usize) {
        let Some(epoch) = hub::current(&state.hub, i).or(state.hub.disk.lives[i].len().checked_sub(1)) else { return };
        state.outside += outside::not_reported(state, i, true);
        let incarnation = state.hub.incarnation;
        let life = &mut state.hub.disk.lives[i][epoch];
        (life.over, life.reported) = (Over::Lost, incarnation);
        state.hub.sessions[i] = None;
        state.count.losts += 1;
    }

    fn restore_site(&self, state: &mut State, i: usize, ledger: state::Ledger) {
        state.outside += outside::rolled_back(state, i, &ledger);
        state.sites[i].restore(ledger);
        state.count.site_restores += 1;
    }
}

impl Model for Pool {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State::default();
        for (lives, connections) in state.hub.disk.lives.iter_mut().zip(self.bounds.connections) {
            // A site that never says a word is none: a restored hub would wait for it for ever.
            lives.truncate(connections.into());
        }
        vec![state]
    }

    /// Only faults make journals so long, and grant so much.
    fn within_boundary(&self, state: &State) -> bool {
        state.sites.iter().all(|site| site.ledger.journal.seq() < 8)
            && state.hub.disk.lives.iter().flatten().all(|life| life.granted <= 2 * POOL)
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let (hub, bounds, count) = (&state.hub, &self.bounds, &state.count);
        for i in 0..SITES {
            self.shop_actions(state, i, actions);
            self.link_actions(state, i, actions);
            self.box_actions(state, i, actions);
            self.hub_actions(state, i, actions);
        }
        if hub::may_spend(state, &self.rules) && state.online < bounds.online {
            actions.push(Action::HubPromises);
        }
        let free = hub::free(&hub.disk, &state.sites, &self.rules);
        if count.withdrawals < bounds.withdrawals && (free > 0 || (!self.rules.withdraw_free && hub.disk.units > 0)) {
            actions.push(Action::Withdraw);
        }
        if count.hub_crashes < bounds.hub_crashes && hub.sessions.iter().any(Option::is_some) {
            actions.push(Action::HubCrashes);
        }
        if count.hub_restores < bounds.hub_restores {
            actions.push(if hub.backup.is_some() { Action::RestoreHub } else { Action::BackUpHub });
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        let (rules, wire) = (&self.rules, self.bounds.wire);
        let lives = |i: usize| &last.hub.disk.lives[i];
        match action {
            Action::Promise(i) => state.sites[i].promise(),
            Action::Sell(i) => state.sites[i].sell(),
            Action::Refund(i) => state.sites[i].refund(),
            Action::Place(i) => state.sites[i].place(),
            Action::Commit(i) => state.sites[i].commit(rules, &mut state.seen),
            Action::Expire(i) => state.sites[i].expire(),
            Action::Connect(i) => state.sites[i].connect(rules, wire),
            Action::Send(i, up) => site::put(&mut state.sites[i].up, up, wire),
            Action::Rejoin(i) => state.sites[i].rejoin(lives(i), rules),
            Action::SwapBox(i) => {
                state.outside += outside::not_reported(last, i, false);
                state.count.swaps += 1;
                state.sites[i].swap(lives(i), rules);
            }
            Action::RestoreSite(i, seq, just_before_next) => {
                let ledger = last.sites[i].earlier_ledger(seq, just_before_next);
                self.restore_site(&mut state, i, ledger);
            }
            Action::RestoreSiteBeforeRejoin(i) => {
                let ledger = *state.sites[i].backup.take()?;
                self.restore_site(&mut state, i, ledger);
            }
            Action::Up(i, up) => hub::receive(&mut state, i, up, rules, wire),
            Action::Down(i, down) => state.sites[i].receive(down, rules),
            Action::LoseUp(i, up) => state.sites[i].up.retain(|one| *one != up),
            Action::LoseDown(i, down) => state.sites[i].down.retain(|one| *one != down),
            Action::Grant(i) => state.hub.disk.lives[i][hub::current(&last.hub, i)?].granted += 1,
            Action::GrantAndCrash(i) => {
                site::put(&mut state.sites[i].down, hub::grants(&last.hub, i, 1)?, wire);
                hub::crash(&mut state.hub);
            }
            Action::Ask(i) => {
                state.hub.disk.lives[i][hub::current(&last.hub, i)?].asked += 1;
                state.count.asks += 1;
            }
            Action::Feed(i) => site::put(&mut state.sites[i].down, hub::grants(&last.hub, i, 0)?, wire),
            Action::HubPromises => {
                state.hub.disk.promised += 1;
                state.online += 1;
            }
            Action::Withdraw => {
                (state.hub.disk.units, state.pool) = (last.hub.disk.units - 1, last.pool - 1);
                state.count.withdrawals += 1;
            }
            Action::SiteLost(i) => self.site_lost(&mut state, i),
            Action::Reclaim(i, epoch) => {
                let life = &mut state.hub.disk.lives[i][epoch];
                life.reclaimed += 1;
                // Of one that goes on nothing excuses it.
                state.outside += u8::from(life.is_over());
                state.count.reclaims += 1;
            }
            Action::HubCrashes => {
                hub::crash(&mut state.hub);
                state.count.hub_crashes += 1;
            }
            Action::BackUpHub => state.hub.backup = Some(Box::new(last.hub.disk.clone())),
            Action::RestoreHub => hub::restore(&mut state),
        }
        for (site, session) in state.sites.iter_mut().zip(&state.hub.sessions) {
            site.sweep(session.as_ref(), rules);
        }
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Pool>> {
        properties::all()
    }
}
