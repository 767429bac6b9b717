//! From a persistent session's mailbox to its connection: what is in flight, and what its acknowledgements mean.

use std::collections::HashMap;

use rumqttd::protocol::Packet;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use super::commit::{Ack, Due};
use super::connection::{Connection, End, OUT_BYTES_HIGH};
use super::encode;
use super::intake::{Batch, Inbound, Intake};
use super::publish::{Gathered, is_refusal};
use crate::mailbox::{Attached, Change, Delivery, IN_FLIGHT_MAX};

pub(super) struct MailDrop {
    attached: Attached,
    /// By packet id: the letter, and whether its PUBREL was sent.
    in_flight: HashMap<u16, (u64, Stage)>,
    in_flight_max: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Waits for PUBACK.
    Once,
    /// Waits for PUBREC.
    ExactlyOnce,
    /// Waits for PUBCOMP.
    Released,
}

/// What a PUBREC comes to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Rec {
    /// PUBREL once this is durable.
    Release(Change),
    /// The client refused the message: the exchange is over.
    Over(Change),
    /// The letter was dropped, or released before: PUBREL, so that the client may forget it.
    Unknown,
}

impl MailDrop {
    pub(super) fn new(attached: Attached, receive_max: usize) -> MailDrop {
        MailDrop { attached, in_flight: HashMap::new(), in_flight_max: receive_max.min(IN_FLIGHT_MAX) }
    }

    /// Waits for new letters. Cancel-safe.
    pub(super) async fn woken(&self) {
        self.attached.woken().await;
    }

    pub(super) fn puback(&mut self, pkid: u16) -> Option<Change> {
        self.landed(pkid, Stage::Once)
    }

    pub(super) fn pubrec(&mut self, pkid: u16, refused: bool) -> Rec {
        match self.in_flight.get(&pkid) {
            Some(&(index, Stage::ExactlyOnce)) if refused => {
                self.in_flight.remove(&pkid);
                Rec::Over(Change::Done(index))
            }
            Some(&(index, Stage::ExactlyOnce)) => {
                self.in_flight.insert(pkid, (index, Stage::Released));
                Rec::Release(Change::Received(index))
            }
            _ => Rec::Unknown,
        }
    }

    pub(super) fn pubcomp(&mut self, pkid: u16) -> Option<Change> {
        self.landed(pkid, Stage::Released)
    }

    /// `None` for what was never sent or is acknowledged already.
    fn landed(&mut self, pkid: u16, wanted: Stage) -> Option<Change> {
        let (index, _) = *self.in_flight.get(&pkid).filter(|(_, stage)| *stage == wanted)?;
        self.in_flight.remove(&pkid);
        Some(Change::Done(index))
    }

    fn next(&mut self) -> Option<Delivery> {
        if self.in_flight.len() < self.in_flight_max { self.attached.next() } else { None }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, I: Intake> Connection<S, I> {
    /// Acknowledgements of a persistent session's letters. Gives everything else back.
    pub(super) fn gather_letter(&mut self, packet: Packet, gathered: &mut Gathered) -> Option<Packet> {
        let Some(mail) = &mut self.mail else { return Some(packet) };
        let (change, ack) = match packet {
            Packet::PubAck(ack, _) => (mail.puback(ack.pkid)?, Ack::None),
            Packet::PubComp(comp, _) => (mail.pubcomp(comp.pkid)?, Ack::None),
            Packet::PubRec(rec, _) => match mail.pubrec(rec.pkid, is_refusal(&rec)) {
                Rec::Release(change) => (change, Ack::Pubrel(rec.pkid)),
                Rec::Over(change) => (change, Ack::None),
                Rec::Unknown if is_refusal(&rec) => return None,
                Rec::Unknown => {
                    encode::pubrel_unknown(self.codec.version, rec.pkid, &mut self.out);
                    return None;
                }
            },
            packet => return Some(packet),
        };
        gathered.items.push(Inbound::Session { client: self.who.client.clone(), change });
        gathered.dues.push(Due { ack, message: None });
        None
    }

    /// Adds letters to `out`. True if there may be more once that is written.
    pub(super) async fn collect_mail(&mut self) -> Result<bool, End> {
        let mut refused = Vec::new();
        let Connection { mail: Some(mail), out, outbound, codec, shared, who, .. } = self else { return Ok(false) };
        let more = loop {
            if out.len() >= OUT_BYTES_HIGH {
                break true;
            }
            match mail.next() {
                None => break false,
                Some(Delivery::Release { index, pkid }) => {
                    mail.in_flight.insert(pkid, (index, Stage::Released));
                    encode::pubrel(pkid, out);
                }
                Some(Delivery::Publish { index, pkid, qos, dup, ids, message }) => {
                    let start = out.len();
                    encode::letter(codec.version, &message, encode::Head { qos, dup, pkid }, &ids, out);
                    let fits = outbound.fits(out.len() - start);
                    match qos {
                        _ if !fits => {
                            out.truncate(start);
                            shared.stats.oversize_dropped.inc();
                            if qos > 0 {
                                refused
                                    .push(Inbound::Session { client: who.client.clone(), change: Change::Done(index) });
                            }
                            continue;
                        }
                        0 => {}
                        1 => drop(mail.in_flight.insert(pkid, (index, Stage::Once))),
                        _ => drop(mail.in_flight.insert(pkid, (index, Stage::ExactlyOnce))),
                    }
                    shared.stats.delivered.inc();
                }
            }
        };
        if !refused.is_empty() {
            // Nobody waits for the answer: should it be lost, the letter is found too large again.
            let (answer, _) = oneshot::channel();
            let batch = Batch { items: refused, answer };
            self.shared.intake.submit(batch).await.map_err(|_| End::IntakeClosed)?;
        }
        Ok(more)
    }
}

/// Waits for mail, for ever where there is no mailbox.
pub(super) async fn mail_of(mail: Option<&MailDrop>) {
    match mail {
        Some(mail) => mail.woken().await,
        None => std::future::pending().await,
    }
}
