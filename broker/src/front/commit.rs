//! What clients sent: made durable by the intake, fanned out, and only then acknowledged.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::oneshot;

use super::codec::Version;
use super::connection::{Connection, End, unless_stopping};
use super::encode;
use super::intake::{Batch, Inbound, Intake, Outcome, Verdict};
use super::publish::Gathered;
use super::publisher::{Message, Publisher};
use crate::mailbox::Change;

/// What is owed for an inbound when its verdict comes.
pub(super) struct Due {
    pub(super) ack: Ack,
    /// `None` for what subscribers never see.
    pub(super) message: Option<Message>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ack {
    None,
    Puback(u16),
    Pubrec(u16),
    Pubcomp(u16),
    Pubrel(u16),
}

impl<S: AsyncRead + AsyncWrite + Unpin, I: Intake> Connection<S, I> {
    /// Makes a batch durable; then, in this order, fans it out and acknowledges it.
    pub(super) async fn commit(&mut self, Gathered { items, mut dues, .. }: Gathered) -> Result<(), End> {
        let verdicts = self.ask(items, &mut dues).await?;
        self.charge(&verdicts);
        self.release_refused(&dues, &verdicts).await?;
        let (mut acks, mut end) = (0, Ok(()));
        for (due, _) in dues.iter_mut().zip(&verdicts).filter(|(_, verdict)| !verdict.forward) {
            due.message = None;
        }
        self.shared.publisher.take_unheard(dues.iter_mut().map(|due| &mut due.message));
        for (due, verdict) in dues.into_iter().zip(verdicts) {
            if let Some(message) = due.message {
                self.forward(message).await?;
            }
            if verdict.outcome == Outcome::NoRoom {
                self.shared.stats.no_room.inc();
                // Nothing after it is acknowledged either: acknowledgements keep the order of the messages.
                if due.ack.closes_without_room(self.codec.version) {
                    end = Err(End::NoRoom);
                    break;
                }
            }
            acks += u64::from(self.acknowledge(due.ack, verdict.outcome));
        }
        self.shared.stats.acks.add(acks);
        if end.is_err() {
            self.flush().await?;
        }
        end
    }

    /// What a message changed beyond the first thing is known only now.
    fn charge(&mut self, verdicts: &[Verdict]) {
        let further: usize = verdicts.iter().map(|verdict| verdict.further as usize).sum();
        if further > 0 {
            self.paused = self.share.spend(further, 0).or(self.paused);
        }
    }

    /// Waits for the router, but a takeover does not wait with it.
    async fn forward(&mut self, message: Message) -> Result<(), End> {
        tokio::select! {
            biased;
            () = self.shared.publisher.forward(message) => Ok(()),
            kick = unless_stopping(&mut self.claim.kicked) => Err(End::Kicked(kick)),
        }
    }

    /// Hands a batch over and waits for its verdicts. A takeover does not wait with it: what was committed is then
    /// fanned out by a task of its own, unacknowledged.
    async fn ask(&mut self, items: Vec<Inbound>, dues: &mut Vec<Due>) -> Result<Vec<Verdict>, End> {
        let expected = items.len();
        let (answer, mut heard) = oneshot::channel();
        tokio::select! {
            biased;
            submitted = self.shared.intake.submit(Batch { items, answer }) => submitted.map_err(|_| End::IntakeClosed)?,
            kick = unless_stopping(&mut self.claim.kicked) => return Err(End::Kicked(kick)),
        }
        let verdicts = tokio::select! {
            biased;
            verdicts = &mut heard => verdicts.map_err(|_| End::IntakeClosed)?,
            kick = unless_stopping(&mut self.claim.kicked) => {
                let publisher = self.shared.publisher.clone();
                tokio::spawn(fan_out_later(std::mem::take(dues), heard, publisher));
                return Err(End::Kicked(kick));
            }
        };
        if verdicts.len() != expected {
            tracing::error!(expected, given = verdicts.len(), "the intake answered for another number of items");
            return Err(End::IntakeClosed);
        }
        Ok(verdicts)
    }

    /// Makes a change of the session durable.
    pub(super) async fn record(&mut self, change: Change) -> Result<(), End> {
        let client = self.who.client.clone();
        self.ask(vec![Inbound::Session { client, change }], &mut Vec::new()).await.map(drop)
    }

    /// A v5 PUBREC with an error ends the exchange: no PUBREL will come, and the packet id is free again. So the
    /// intake must have released it before that PUBREC is written.
    async fn release_refused(&mut self, dues: &[Due], verdicts: &[Verdict]) -> Result<(), End> {
        if self.codec.version != Version::V5 {
            return Ok(());
        }
        let releases: Vec<Inbound> = dues
            .iter()
            .zip(verdicts)
            .filter_map(|(due, verdict)| match due.ack {
                Ack::Pubrec(pkid) if !matches!(verdict.outcome, Outcome::Accepted | Outcome::NoRoom) => Some(pkid),
                _ => None,
            })
            .map(|pkid| Inbound::Release { client: self.who.client.clone(), pkid })
            .collect();
        if !releases.is_empty() {
            self.ask(releases, &mut Vec::new()).await?;
        }
        Ok(())
    }

    /// True if there was something to acknowledge.
    fn acknowledge(&mut self, ack: Ack, outcome: Outcome) -> bool {
        let reason = if self.codec.version == Version::V5 { reason(outcome) } else { 0 };
        match ack {
            Ack::None => return false,
            Ack::Puback(pkid) => encode::puback(pkid, reason, &mut self.out),
            Ack::Pubrec(pkid) => encode::pubrec(pkid, reason, &mut self.out),
            Ack::Pubcomp(pkid) => encode::pubcomp(pkid, &mut self.out),
            Ack::Pubrel(pkid) => encode::pubrel(pkid, &mut self.out),
        }
        true
    }
}

impl Ack {
    /// Whether "nothing was recorded" can only be said by closing: v3.1.1 has no reason codes, and PUBCOMP has none
    /// for this. QoS 0 expects to be told nothing.
    fn closes_without_room(self, version: Version) -> bool {
        match self {
            // A PUBREL acknowledges nothing of the client's.
            Ack::None | Ack::Pubrel(_) => false,
            Ack::Puback(_) | Ack::Pubrec(_) => version == Version::V311,
            Ack::Pubcomp(_) => true,
        }
    }
}

/// The v5 reason code of PUBACK and PUBREC.
fn reason(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Accepted => 0x00,
        Outcome::NotAuthorized => 0x87,
        Outcome::TopicInvalid => 0x90,
        Outcome::NoRoom => 0x97,
        Outcome::PayloadInvalid => 0x99,
    }
}

/// The client is gone, but its messages may be durable: then subscribers must see them, since nobody sends them again
/// as something new.
async fn fan_out_later(dues: Vec<Due>, heard: oneshot::Receiver<Vec<Verdict>>, publisher: Publisher) {
    let verdicts = heard.await.unwrap_or_default();
    let seen = dues.into_iter().zip(verdicts).filter(|(_, verdict)| verdict.forward);
    let mut messages: Vec<Option<Message>> = seen.map(|(due, _)| due.message).collect();
    publisher.forward_heard(&mut messages).await;
}
