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
        }
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

    pub(super) fn fits(&self, packet_bytes: usize) -> bool {
        packet_bytes <= self.packet_bytes_max
    }

    pub(super) fn puback(&mut self, pkid: u16, out: &mut BytesMut, to_router: &mut Vec<Packet>) {
        if self.mark(pkid, State::Acked) {
            self.pass_on(to_router);
            self.landed(out);
        }
    }

    /// `refused`: the client's PUBREC carries an error, which ends the exchange on its side.
    pub(super) fn pubrec(&mut self, pkid: u16, refused: bool, out: &mut BytesMut, to_router: &mut Vec<Packet>) {
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
            encode::pubrel(pkid, out);
        }
    }

    pub(super) fn pubcomp(&mut self, pkid: u16, out: &mut BytesMut, to_router: &mut Vec<Packet>) {
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

    /// One message less in flight; another may go. PUBCOMPs of an earlier connection may make it too small a number.
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
