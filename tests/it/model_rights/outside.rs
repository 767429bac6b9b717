//! What is outside the promise, in units: by so much more than the pool may be promised once it has happened, and no more.
//! Ghosts all of it; the fourth, what is reclaimed of a life that is over, needs no sum.

use super::hub;
use super::state::{Disk, Down, Ledger, Rights, Site, State};

/// A box whose disk goes back to `ledger`: what that has left to give, or, where the hub knows less than it, what the hub
/// had granted and not heard of. Either may be promised once more. Before a restored hub also what it has not heard of.
pub(super) fn rolled_back(state: &State, i: usize, ledger: &Ledger) -> u8 {
    let site = &state.sites[i];
    let life = state.hub.disk.lives[i].get(usize::from(site.ledger.epoch)).copied().unwrap_or_default();
    let book = Rights { granted: life.granted, ..site.rights(life.applied) };
    ledger.rights.outstanding().max(book.outstanding()) + not_reported(state, i, false)
}

/// A box of which a restored hub hears nothing more, or thinks so: what it had, and what is on its way to it, that the hub
/// does not know of.
pub(super) fn not_reported(state: &State, i: usize, coming: bool) -> u8 {
    if state.hub.incarnation == 0 {
        return 0;
    }
    let (site, lives) = (&state.sites[i], &state.hub.disk.lives[i]);
    let on_its_way = site.down.iter().filter_map(|down| match down {
        Down::Grants { nonce, granted, .. } if coming && *nonce == site.nonce => Some(*granted),
        _ => None,
    });
    let granted = on_its_way.max().unwrap_or_default();
    let of = |epoch| lives.get(epoch).map(|life| hub::had(site, life)).unwrap_or_default();
    reports(site, granted).into_iter().enumerate().map(|(epoch, had)| had.saturating_sub(of(epoch))).sum()
}

/// The hub goes back to `disk`. Nobody else knows what its own channel promised since, and that the pool was made smaller.
/// What it granted its sites tell it, unless they went back, too.
pub(super) fn taken_back(state: &State, disk: &Disk) -> u8 {
    let before = &state.hub.disk;
    let own = before.promised - disk.promised + disk.units.saturating_sub(before.units);
    if state.count.site_restores == 0 {
        return own;
    }
    let nobody_knows = |i: usize| -> u8 {
        let site = &state.sites[i];
        let reports = reports(site, 0);
        let lives = before.lives[i].iter().enumerate();
        lives
            .map(|(epoch, life)| {
                let now = disk.lives[i].get(epoch).copied().unwrap_or_default();
                let book = Rights { granted: now.granted, ..site.rights(now.applied) };
                let forgot_used = site.rights(life.applied).promised > book.promised;
                let used = if forgot_used { book.outstanding() } else { 0 };
                used + hub::had(site, life).saturating_sub(reports[epoch].max(hub::had(site, &now)))
            })
            .sum()
    };
    own + (0..state.sites.len()).map(nobody_knows).sum::<u8>()
}

/// What a box can say that each life had, if it was granted so much.
fn reports(site: &Site, granted: u8) -> Vec<u8> {
    let Ledger { epoch, rights, earlier, .. } = &site.ledger;
    let own = granted.max(rights.granted).saturating_sub(rights.returned);
    let all = earlier.iter().enumerate();
    all.map(|(n, had)| if n == usize::from(*epoch) { own } else { had.unwrap_or_default() }).collect()
}
