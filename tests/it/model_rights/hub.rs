//! The hub's rules: what is free, who may have it, what it takes of a site, and what a restore leaves of it.

use super::outside;
use super::rules::Rules;
use super::site::put;
use super::state::{Chain, Disk, Down, Hub, Life, Over, SITES, Session, Site, State, Up};

impl Life {
    pub(super) fn is_over(&self) -> bool {
        self.over != Over::No
    }
}

/// All that a life had, as far as the hub knows: granted and not returned, or in use.
pub(super) fn had(site: &Site, life: &Life) -> u8 {
    let used = site.rights(life.applied);
    let outstanding = life.granted.saturating_sub(used.returned + life.added);
    outstanding.max(used.promised + used.held).max(life.seen)
}

/// What of the pool a life takes away.
pub(super) fn exposure(site: &Site, life: &Life, rules: &Rules) -> u8 {
    let used = site.rights(life.applied);
    match life.over {
        Over::No => had(site, life).saturating_sub(life.reclaimed),
        _ if !rules.over_is_spent => used.promised.max(life.seen),
        _ if !rules.held_of_over => {
            let outstanding = life.granted.saturating_sub(used.returned);
            outstanding.max(used.promised).max(life.seen).saturating_sub(life.reclaimed)
        }
        _ => had(site, life).saturating_sub(life.reclaimed),
    }
}

/// What may be granted or promised by the hub. Below zero: in-hand sales took more than there is.
pub(super) fn free(disk: &Disk, sites: &[Site; SITES], rules: &Rules) -> i8 {
    let mut free = disk.units as i8 - disk.promised as i8;
    for (site, lives) in sites.iter().zip(&disk.lives) {
        for life in lives {
            free += site.rights(life.applied).refunded as i8 - exposure(site, life, rules) as i8;
        }
    }
    free
}

/// As if what is promised were all that is spent.
fn not_promised(disk: &Disk, sites: &[Site; SITES]) -> i8 {
    let of = |(site, lives): (&Site, &Vec<Life>)| -> i8 {
        lives.iter().map(|life| site.rights(life.applied).promised as i8).sum()
    };
    disk.units as i8 - disk.promised as i8 - sites.iter().zip(&disk.lives).map(of).sum::<i8>()
}

/// Whether every site has said to this hub what it has, or was declared lost to it. One that was never restored waits for
/// nobody.
pub(super) fn is_sure(hub: &Hub, rules: &Rules) -> bool {
    let heard = |life: &Life| life.reported == hub.incarnation;
    let of_site = |(i, lives): (usize, &Vec<Life>)| match current(hub, i) {
        Some(epoch) => heard(&lives[epoch]),
        // A life that the backup does not know may have followed.
        None => !rules.wait_for_sites || lives.is_empty() || lives.iter().any(heard),
    };
    !rules.wait_for_reports || hub.incarnation == 0 || hub.disk.lives.iter().enumerate().all(of_site)
}

pub(super) fn may_spend(state: &State, rules: &Rules) -> bool {
    let (disk, sites) = (&state.hub.disk, &state.sites);
    let left = if rules.exposure { free(disk, sites, rules) } else { not_promised(disk, sites) };
    left > 0 && is_sure(&state.hub, rules)
}

/// The life of a site that goes on.
pub(super) fn current(hub: &Hub, i: usize) -> Option<usize> {
    hub.disk.lives[i].iter().rposition(|life| !life.is_over())
}

pub(super) fn grants(hub: &Hub, i: usize, more: u8) -> Option<Down> {
    let Session { nonce, epoch } = hub.sessions[i]?;
    let Life { granted, asked, .. } = hub.disk.lives[i][usize::from(epoch)];
    Some(Down::Grants { nonce, incarnation: hub.incarnation, granted: granted + more, asked })
}

/// A message of a site.
pub(super) fn receive(state: &mut State, i: usize, up: Up, rules: &Rules, wire: usize) {
    let answer = match up {
        Up::Hello { nonce, epoch, to, lineage } => {
            Some(hello(&mut state.hub, i, Session { nonce, epoch }, to, lineage))
        }
        Up::Batch { nonce, epoch, to } => {
            let session = Session { nonce, epoch };
            let known = state.hub.sessions[i] == Some(session);
            if known { batch(state, i, session, to, rules) } else { None }
        }
        Up::Held { nonce, incarnation, granted, earlier } => {
            let session = state.hub.sessions[i].filter(|session| session.nonce == nonce);
            let ours = incarnation == state.hub.incarnation || !rules.report_to_incarnation;
            if let Some(session) = session.filter(|_| ours) {
                let reported = state.hub.incarnation;
                let lives = &mut state.hub.disk.lives[i];
                for (life, seen) in lives.iter_mut().zip(earlier) {
                    life.seen = life.seen.max(seen.unwrap_or_default());
                }
                let life = &mut lives[usize::from(session.epoch)];
                (life.granted, life.reported) = (life.granted.max(granted), reported);
            }
            None
        }
    };
    if let Some(answer) = answer {
        put(&mut state.sites[i].down, answer, wire);
    }
}

fn hello(hub: &mut Hub, i: usize, session: Session, to: Chain, lineage: u8) -> Down {
    let Session { nonce, epoch } = session;
    let lives = &mut hub.disk.lives[i];
    let known = lives.get(usize::from(epoch)).copied().unwrap_or_default();
    if known.is_over() || !known.applied.begins(to) {
        hub.sessions[i] = None;
        return Down::Turned { nonce };
    }
    if lives.len() <= epoch.into() {
        lives.resize(usize::from(epoch) + 1, Life::default());
    }
    for (n, life) in lives.iter_mut().enumerate() {
        // What a restored hub does not know is over too: no life comes before the one that leads to it.
        if lineage >> n & 1 == 1 && !life.is_over() {
            life.over = Over::Retired;
        }
    }
    hub.sessions[i] = Some(session);
    Down::Welcome { nonce, incarnation: hub.incarnation, applied: known.applied }
}

fn batch(state: &mut State, i: usize, session: Session, to: Chain, rules: &Rules) -> Option<Down> {
    let returned = state.sites[i].rights(to).returned;
    let life = &mut state.hub.disk.lives[i][usize::from(session.epoch)];
    if to.begins(life.applied) {
        // A repeat.
        life.added = if rules.replace { 0 } else { returned.min(1) };
        return None;
    }
    if life.is_over() || !life.applied.begins(to) {
        state.hub.sessions[i] = None;
        return Some(Down::Turned { nonce: session.nonce });
    }
    life.applied = to;
    None
}

/// Units that may be taken back of a life: what it had and is not known to have used.
pub(super) fn reclaimable(site: &Site, life: &Life, rules: &Rules) -> bool {
    let used = site.rights(life.applied);
    (life.is_over() || !rules.reclaim_over) && exposure(site, life, rules) > used.promised + used.held
}

pub(super) fn crash(hub: &mut Hub) {
    hub.sessions = [None; SITES];
}

/// Back to the backup, under a new incarnation.
pub(super) fn restore(state: &mut State) {
    let Some(disk) = state.hub.backup.clone() else { return };
    state.outside += outside::taken_back(state, &disk);
    crash(&mut state.hub);
    state.hub.incarnation += 1;
    state.count.hub_restores += 1;
    state.hub.disk = *disk;
}
