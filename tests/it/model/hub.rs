//! The hub's rules: `broker/src/hub/{sync,session}.rs`, and what is planned of rejoin.

use super::rules::Rules;
use super::site::put;
use super::state::{Chain, Down, Hub, Lineage, Mark, SITES, Session, Site, State, Up, records};

/// A message of a site.
pub(super) fn receive(state: &mut State, i: usize, up: Up, rules: &Rules, wire: usize) {
    match up {
        Up::Hello { nonce, epoch, to, follows, .. } => {
            commit(&mut state.hub, i);
            let answer = hello(&mut state.hub, i, nonce, (epoch, to), follows, state.hub_restores, rules);
            if let Down::Welcome { applied, .. } = answer {
                let seen = &mut state.sites[i].ghost.seen;
                seen.resent |= state.hub_restores > 0 && applied.seq() < state.sites[i].ledger.applied;
            }
            put(&mut state.sites[i].down, answer, wire);
        }
        Up::Batch { nonce, epoch, before, after, remnant } => {
            let Some(session) = state.hub.sessions[i].filter(|session| session.nonce == nonce) else { return };
            let held = session.mark.watermark;
            if session.epoch != epoch {
                return turn(state, i, nonce, held, wire);
            }
            if after.seq() <= held.seq() {
                return; // A repeat.
            }
            let continues = if rules.hash_test { before == held } else { before.seq() == held.seq() };
            if continues {
                apply(state, i, session, after, remnant, rules);
            } else if before.seq() <= held.seq() {
                turn(state, i, nonce, held, wire);
            } // Else a gap: Applied says from where on.
        }
    }
}

fn hello(
    hub: &mut Hub,
    i: usize,
    nonce: u8,
    (epoch, to): (u8, Chain),
    follows: Lineage,
    life: u8,
    rules: &Rules,
) -> Down {
    let marks = &mut hub.disk[i];
    let known = marks.get(usize::from(epoch)).copied().unwrap_or_default();
    let held = known.watermark;
    if known.retired || disagreement(to, held, rules) {
        hub.sessions[i] = None;
        return Down::Turned { nonce, recalled: held, retired: known.retired };
    }
    if marks.len() <= epoch.into() {
        marks.resize(usize::from(epoch) + 1, Mark::default());
    }
    for (old, fork) in follows.into_iter().enumerate() {
        let Some(fork) = fork else { continue };
        // A restored hub may not know it.
        let mark = &mut marks[old];
        mark.followed = true;
        let missing = fork.seq() - fork.fork(mark.watermark).seq();
        if rules.follows && !mark.retired {
            mark.retired = true;
            mark.lost_after = missing;
        }
    }
    let mark = marks[usize::from(epoch)];
    hub.sessions[i] = Some(Session { nonce, epoch, mark });
    Down::Welcome { nonce, incarnation: hub.incarnation, life, applied: held }
}

/// What stands between the gateway's chain and ours, as far as its Hello shows. That the gateway trimmed what we lack
/// is none: it says so with a remnant.
fn disagreement(to: Chain, held: Chain, rules: &Rules) -> bool {
    let ledger_behind = to.seq() < held.seq();
    let chain_differs = to.seq() == held.seq() && to != held;
    ledger_behind || (rules.hash_test && chain_differs)
}

fn turn(state: &mut State, i: usize, nonce: u8, recalled: Chain, wire: usize) {
    commit(&mut state.hub, i);
    state.hub.sessions[i] = None;
    put(&mut state.sites[i].down, Down::Turned { nonce, recalled, retired: false }, wire);
}

fn apply(state: &mut State, i: usize, mut session: Session, after: Chain, remnant: bool, rules: &Rules) {
    let disk = &state.hub.disk[i];
    let elsewhere: Vec<Mark> =
        disk.iter().enumerate().filter(|(n, _)| *n != usize::from(session.epoch)).map(|(_, mark)| *mark).collect();
    let from = session.mark.watermark.seq();
    // Blind where the fault is: what the seq says is put behind what is there.
    for content in after.contents().skip(from.into()) {
        let again = rules.once && records(&elsewhere) & content.record() != 0;
        let gone = content.is_lost() || remnant;
        session.mark.push(content, !gone, again && !gone);
        if remnant && !rules.count_lost {
            session.mark.lost = 0;
        }
    }
    let seen = &mut state.sites[i].ghost.seen;
    seen.bridged |= remnant;
    seen.retired_grew |= disk[usize::from(session.epoch)].followed;
    state.hub.sessions[i] = Some(session);
}

/// What is applied and its new watermark, together.
pub(super) fn commit(hub: &mut Hub, i: usize) {
    if let Some(session) = &hub.sessions[i] {
        hub.disk[i][usize::from(session.epoch)] = session.mark;
    }
}

pub(super) fn uncommitted(hub: &Hub, i: usize) -> bool {
    hub.sessions[i].as_ref().is_some_and(|session| hub.disk[i][usize::from(session.epoch)] != session.mark)
}

pub(super) fn say_applied(hub: &Hub, i: usize, rules: &Rules) -> Option<Down> {
    let session = hub.sessions[i].as_ref()?;
    let mark = if rules.commit_then_speak { hub.disk[i][usize::from(session.epoch)] } else { session.mark };
    Some(Down::Applied { nonce: session.nonce, incarnation: hub.incarnation, applied: mark.watermark })
}

pub(super) fn crash(hub: &mut Hub) {
    hub.sessions = [None; SITES];
}

/// Earlier states of what the hub holds of one site, newest first: journals were applied in the order of the epochs.
pub(super) fn earlier(marks: &[Mark]) -> Vec<Vec<Mark>> {
    let mut all = vec![marks.to_vec()];
    let mut now = marks.to_vec();
    while let Some(last) = now.last().copied() {
        for seq in (0..last.watermark.seq()).rev() {
            *now.last_mut().expect("it has a last") = last.upto(seq);
            all.push(now.clone());
        }
        now.pop();
        if let Some(previous) = now.last_mut() {
            (previous.retired, previous.followed, previous.lost_after) = (false, false, 0);
            all.push(now.clone());
        }
    }
    all.push(Vec::new());
    all.dedup();
    all
}

/// Back to `disk`, under a new incarnation.
pub(super) fn restore(state: &mut State, disk: [Vec<Mark>; SITES], rules: &Rules) {
    crash(&mut state.hub);
    state.hub_restores += 1;
    state.hub.incarnation += u8::from(rules.new_incarnation);
    for (i, marks) in disk.iter().enumerate() {
        let before = std::mem::take(&mut state.hub.disk[i]);
        let Site { ghost, .. } = &mut state.sites[i];
        ghost.taken_back |= records(&before) & !records(marks);
        for (epoch, mark) in (0..).zip(&before) {
            if marks.get(usize::from(epoch)).is_none_or(|now| now.watermark != mark.watermark) {
                ghost.held.push((epoch, mark.watermark));
            }
        }
        ghost.held.sort_unstable();
        ghost.held.dedup();
    }
    state.hub.disk = disk;
}
