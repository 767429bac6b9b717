//! Where buyers wait their turn: queues, the doors that let only so many in, and what each was told in the end.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::plan::Buyer;

/// What a buyer goes home with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Told {
    Yes,
    /// Refused in so many words. `stranded`: there were units for sure that nobody had, elsewhere.
    No {
        stranded: bool,
    },
    /// No answer that means one or the other.
    Unclear(String),
}

pub(super) struct Floor {
    units: u64,
    /// Online first, then each store.
    queues: Vec<Mutex<VecDeque<Buyer>>>,
    told: Mutex<Vec<Option<Told>>>,
    /// Buyers of a higher number wait.
    doors: watch::Sender<usize>,
    served: watch::Sender<usize>,
    /// Units that buyers have, promised or set aside.
    taken: AtomicU64,
    /// Buyers who asked and have no answer yet: each may have taken one.
    asking: AtomicU64,
    inside: AtomicUsize,
    inside_most: AtomicUsize,
}

impl Floor {
    pub(super) fn new(units: u64, buyers: &[Buyer], stores: usize, before: usize) -> Floor {
        let mut queues = vec![VecDeque::new(); stores + 1];
        for buyer in buyers {
            queues[place(buyer.store)].push_back(*buyer);
        }
        Floor {
            units,
            queues: queues.into_iter().map(Mutex::new).collect(),
            told: Mutex::new(vec![None; buyers.len()]),
            doors: watch::Sender::new(before),
            served: watch::Sender::new(0),
            taken: AtomicU64::new(0),
            asking: AtomicU64::new(0),
            inside: AtomicUsize::new(0),
            inside_most: AtomicUsize::new(0),
        }
    }

    /// The next buyer there, once the doors are open for them; `None` when all have come.
    pub(super) async fn next(&self, store: Option<usize>) -> Option<Buyer> {
        let buyer = held(&self.queues[place(store)]).pop_front()?;
        // The sender lives as long as this.
        let _ = self.doors.subscribe().wait_for(|most| buyer.n < *most).await;
        let inside = self.inside.fetch_add(1, Ordering::Relaxed) + 1;
        self.inside_most.fetch_max(inside, Ordering::Relaxed);
        Some(buyer)
    }

    pub(super) fn open_doors(&self) {
        self.doors.send_replace(usize::MAX);
    }

    /// A buyer asks for a unit.
    pub(super) fn asks(&self) {
        self.asking.fetch_add(1, Ordering::SeqCst);
    }

    /// A buyer got one.
    pub(super) fn takes(&self) {
        self.taken.fetch_add(1, Ordering::SeqCst);
        self.asking.fetch_sub(1, Ordering::SeqCst);
    }

    /// A buyer was refused. What every other buyer has or may have by now is less than there is: a right was stranded.
    pub(super) fn refused(&self) -> Told {
        let asking = self.asking.fetch_sub(1, Ordering::SeqCst) - 1;
        Told::No { stranded: self.taken.load(Ordering::SeqCst) + asking < self.units }
    }

    /// A buyer's unit was free again before it was paid.
    pub(super) fn loses(&self) -> Told {
        let taken = self.taken.fetch_sub(1, Ordering::SeqCst) - 1;
        Told::No { stranded: taken + self.asking.load(Ordering::SeqCst) < self.units }
    }

    pub(super) fn goes_home(&self, buyer: &Buyer, told: Told) {
        held(&self.told)[buyer.n] = Some(told);
        self.inside.fetch_sub(1, Ordering::Relaxed);
        self.served.send_modify(|served| *served += 1);
    }

    pub(super) async fn until_served(&self, buyers: usize) {
        let _ = self.served.subscribe().wait_for(|served| *served >= buyers).await;
    }

    pub(super) fn served(&self) -> usize {
        *self.served.borrow()
    }

    pub(super) fn taken(&self) -> u64 {
        self.taken.load(Ordering::SeqCst)
    }

    /// The most buyers that were served at one moment.
    pub(super) fn inside_most(&self) -> usize {
        self.inside_most.load(Ordering::Relaxed)
    }

    /// What each was told, by their number. `None`: never served.
    pub(super) fn told(&self) -> Vec<Option<Told>> {
        held(&self.told).clone()
    }
}

fn place(store: Option<usize>) -> usize {
    store.map_or(0, |store| store + 1)
}

/// What a buyer's task that died left is as good as before.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
