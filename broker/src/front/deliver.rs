//! From the router to a subscriber: what may be in flight, in which order it is acknowledged.
//!
//! The router wants acknowledgements in the order it sent, throws the link out otherwise, and looks at neither Receive
//! Maximum nor Maximum Packet Size. So this stands between: it never sends more than the client takes, and passes
//! acknowledgements on in the router's order.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use rumqttd::protocol::{
    Packet, PubAck, PubAckReason, PubComp, PubCompReason, PubRec, PubRecReason, Publish, PublishProperties,
};

use super::codec::Codec;
use super::encode;

/// Packet ids that one link of the router uses: 1 to 100.
const IDS_OF_A_LINK: u16 = 128;
/// How often the ids may move on before they begin again: as often as they fit into 1 to 65,535.
const LINKS: u16 = 511;

/// What the router lets be in flight to one link.
const ROUTER_IN_FLIGHT_MAX: usize = 100;

/// The router has at most 100 messages in flight per link, which bounds every queue here.
pub(super) struct Outbound {
    /// v5 Receive Maximum of the client.
    in_flight_max: usize,
    /// v5 Maximum Packet Size of the client.
    packet_bytes_max: usize,
    /// Every QoS 1 and 2 message that the router waits for, in its order.
    unacked: VecDeque<Unacked>,
    /// QoS 1 and 2 messages, encoded, that wait until the client may take more. A tail of `unacked`.
    held: VecDeque<Bytes>,
    /// PUBRELs that the router waits for a PUBCOMP of, in its order.
    released: VecDeque<(u16, bool)>,
    /// QoS 2 messages that the client refused in its PUBREC: it will not answer their PUBREL.
    refused: Vec<u16>,
    in_flight: usize,
    /// Links before this one. Each has ids of its own towards the client, which may still be at those of the one before.
    links: u16,
    /// In flight when a router died: the client's answers end here.
    orphans: Vec<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Acked,
    Received,
}

#[derive(Debug, Clone, Copy)]
struct Unacked {
    pkid: u16,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Delivered {
    Yes,
    /// Larger than the client takes: dropped, and acknowledged towards the router in its stead.
    TooLarge,
}

impl Outbound {
    pub(super) fn new(in_flight_max: usize, packet_bytes_max: usize) -> Outbound {
        Outbound {
            in_flight_max,
            packet_bytes_max,
            unacked: VecDeque::new(),
            held: VecDeque::new(),
            released: VecDeque::new(),
            refused: Vec::new(),
            in_flight: 0,
            links: 0,
            orphans: Vec::new(),
        }
    }

    /// The router died, and all it waited for is void. What the client has in flight it may still answer.
    pub(super) fn router_lost(&mut self) {
        let sent = self.unacked.len() - self.held.len();
        let sent = self.unacked.drain(..).take(sent).filter(|sent| sent.state != State::Acked).map(|sent| sent.pkid);
        let orphans: Vec<u16> =
            sent.chain(self.released.drain(..).filter(|(_, done)| !done).map(|(id, _)| id)).collect();
        let client_ids = orphans.into_iter().filter(|id| !self.refused.contains(id)).map(|id| outer(id, self.links));
        let client_ids: Vec<u16> = client_ids.collect();
        // Of a client that answers nothing over several routers, only the last one's are remembered.
        let keep = IDS_OF_A_LINK.into();
        self.orphans.extend(client_ids);
        let forgotten = self.orphans.len().saturating_sub(keep);
        self.orphans.drain(..forgotten);
        self.in_flight = self.orphans.len();
        self.held.clear();
        self.refused.clear();
        self.links = (self.links + 1) % LINKS;
    }

    /// True if it was one.
    fn adopt(&mut self, pkid: u16, out: &mut BytesMut) -> bool {
        let Some(at) = self.orphans.iter().position(|orphan| *orphan == pkid) else { return false };
        self.orphans.swap_remove(at);
        self.landed(out);
        true
    }

    /// The router's name for what the client calls `pkid`, if it is of this link.
    fn inner(&self, pkid: u16) -> Option<u16> {
        pkid.checked_sub(self.links * IDS_OF_A_LINK).filter(|id| *id < IDS_OF_A_LINK)
    }

    pub(super) fn publish(
        &mut self,
        codec: &Codec,
        publish: Publish,
        properties: Option<PublishProperties>,
        out: &mut BytesMut,
        to_router: &mut Vec<Packet>,
    ) -> Delivered {
        let start = out.len();
        let Some(head) = codec.publish(publish, properties, out) else { return Delivered::TooLarge };
        let fits = self.fits(out.len() - start);
        if !fits {
            out.truncate(start);
        }
        if head.qos > 0 && fits {
            let at = start + head.pkid_at;
            out[at..at + 2].copy_from_slice(&outer(head.pkid, self.links).to_be_bytes());
        }
        if head.qos > 0 {
            let state = if fits { State::Waiting } else { State::Acked };
            self.unacked.push_back(Unacked { pkid: head.pkid, state });
        }
        match (fits, head.qos) {
            (false, _) => {
                self.pass_on(to_router);
                return Delivered::TooLarge;
            }
            (true, 0) => {}
            (true, _) if self.in_flight < self.in_flight_max => self.in_flight += 1,
            (true, _) => self.held.push_back(out.split_off(start).freeze()),
        }
        Delivered::Yes
    }

    /// The router sends nothing more before the client acknowledges.
    pub(super) fn full(&self) -> bool {
        self.unacked.len() + self.released.len() >= ROUTER_IN_FLIGHT_MAX
    }

    pub(super) fn fits(&self, packet_bytes: usize) -> bool {
        packet_bytes <= self.packet_bytes_max
    }

    pub(super) fn puback(&mut self, pkid: u16, out: &mut BytesMut, to_router: &mut Vec<Packet>) {
        if self.adopt(pkid, out) {
            return;
        }
        let Some(pkid) = self.inner(pkid) else { return };
        if self.mark(pkid, State::Acked) {
            self.pass_on(to_router);
            self.landed(out);
        }
    }

    /// `refused`: the client's PUBREC carries an error, which ends the exchange on its side.
    pub(super) fn pubrec(&mut self, pkid: u16, refused: bool, out: &mut BytesMut, to_router: &mut Vec<Packet>) {
        if self.orphans.contains(&pkid) {
            if refused {
                self.adopt(pkid, out);
            } else {
                encode::pubrel(pkid, out);
            }
            return;
        }
        let Some(pkid) = self.inner(pkid) else { return };
        if self.mark(pkid, State::Received) {
            if refused {
                self.refused.push(pkid);
                self.landed(out);
            }
            self.pass_on(to_router);
        }
    }

    /// The router's PUBREL.
    pub(super) fn pubrel(&mut self, pkid: u16, out: &mut BytesMut, to_router: &mut Vec<Packet>) {
        let refused = self.refused.iter().position(|&r| r == pkid).map(|at| self.refused.swap_remove(at)).is_some();
        self.released.push_back((pkid, refused));
        if refused {
            self.pass_on(to_router);
        } else {
            encode::pubrel(outer(pkid, self.links), out);
        }
    }

    pub(super) fn pubcomp(&mut self, pkid: u16, out: &mut BytesMut, to_router: &mut Vec<Packet>) {
        if self.adopt(pkid, out) {
            return;
        }
        let Some(pkid) = self.inner(pkid) else { return };
        if let Some(release) = self.released.iter_mut().find(|(of, done)| *of == pkid && !done) {
            release.1 = true;
            self.pass_on(to_router);
            self.landed(out);
        }
    }

    /// False for what was never sent, or is acknowledged already: a client may say so, the router must not hear it.
    fn mark(&mut self, pkid: u16, state: State) -> bool {
        let sent = self.unacked.len() - self.held.len();
        match self.unacked.iter_mut().take(sent).find(|sent| sent.pkid == pkid && sent.state == State::Waiting) {
            Some(sent) => {
                sent.state = state;
                true
            }
            None => false,
        }
    }

    /// One message less in flight; another may go.
    fn landed(&mut self, out: &mut BytesMut) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if self.in_flight < self.in_flight_max
            && let Some(held) = self.held.pop_front()
        {
            self.in_flight += 1;
            out.extend_from_slice(&held);
        }
    }

    /// Passes on what is acknowledged and has nothing unacknowledged before it.
    fn pass_on(&mut self, to_router: &mut Vec<Packet>) {
        while let Some(&Unacked { pkid, state }) = self.unacked.front().filter(|first| first.state != State::Waiting) {
            self.unacked.pop_front();
            to_router.push(match state {
                State::Received => Packet::PubRec(PubRec { pkid, reason: PubRecReason::Success }, None),
                _ => Packet::PubAck(PubAck { pkid, reason: PubAckReason::Success }, None),
            });
        }
        while let Some(&(pkid, true)) = self.released.front() {
            self.released.pop_front();
            to_router.push(Packet::PubComp(PubComp { pkid, reason: PubCompReason::Success }, None));
        }
    }
}

/// The client's name for what the router calls `pkid`.
fn outer(pkid: u16, links: u16) -> u16 {
    links * IDS_OF_A_LINK + pkid
}
