//! Sockets that have not said yet who they are, by the address that they come from: one address must not take the places
//! of all others.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

/// There are never more entries than sockets.
pub(super) struct Arrivals {
    by_peer: Mutex<HashMap<IpAddr, usize>>,
    per_peer_max: usize,
}

/// A place among them, until it is dropped.
pub(super) struct Arrival {
    peer: IpAddr,
    arrivals: Arc<Arrivals>,
}

impl Arrivals {
    pub(super) fn new(per_peer_max: usize) -> Arrivals {
        Arrivals { by_peer: Mutex::default(), per_peer_max }
    }

    /// `None` if this address has as many as it may.
    pub(super) fn arrive(self: &Arc<Self>, peer: IpAddr) -> Option<Arrival> {
        let peer = network_of(peer);
        let mut by_peer = self.by_peer.lock().unwrap_or_else(PoisonError::into_inner);
        let count = by_peer.entry(peer).or_default();
        if *count >= self.per_peer_max {
            return None;
        }
        *count += 1;
        Some(Arrival { peer, arrivals: self.clone() })
    }
}

impl Drop for Arrival {
    fn drop(&mut self) {
        let mut by_peer = self.arrivals.by_peer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = by_peer.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                by_peer.remove(&self.peer);
            }
        }
    }
}

/// Who has one IPv6 address has its whole /64.
pub(crate) fn network_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        // On a link and in a site's own network the neighbours share the first half.
        IpAddr::V6(v6) if v6.is_unicast_link_local() || v6.is_unique_local() || v6.is_loopback() => v6.into(),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            [a, b, c, d, 0, 0, 0, 0].into()
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_leaves_room_for_others() {
        let arrivals = Arc::new(Arrivals::new(2));
        let [here, beside, there] =
            ["2001:db8::1", "2001:db8::ffff:1", "2001:db8:0:1::1"].map(|ip| ip.parse().unwrap());
        let (one, two) = (arrivals.arrive(here), arrivals.arrive(beside));
        assert!(one.is_some() && two.is_some() && arrivals.arrive(here).is_none());
        assert!(arrivals.arrive(there).is_some());
        drop(one);
        assert!(arrivals.arrive(beside).is_some());
        drop(two);
        assert!(arrivals.by_peer.lock().unwrap().is_empty());
    }
}
