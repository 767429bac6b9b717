//! The hub's side of the sync protocol: applies a batch only if it continues seq and hash, in one commit with the new
//! watermark; a repeat changes nothing, a gap is asked for.

use prost::Message;
use proto::PROTOCOL;
use proto::chunk::{self, ChainHash, Chunk, Position};
use proto::id::{Epoch, ReplicaId, Seq, SiteName};
use proto::topic;
use proto::wire::down::Of as DownOf;
use proto::wire::record::Of;
use proto::wire::up::Of as UpOf;
use proto::wire::{Batch, Chunks, Down, Event, Hello, Record, Refusal, SiteJoined, Turned, Up, Watermark, Welcome};

use super::aside::{ASIDE_BYTES_MAX, Fault};
use super::feed::Stream;
use super::rejoin::LINEAGE_MAX;
use super::session::{Followed, Session};
use super::tables::{EPOCH, WATERMARK, decode, replica_key};
use super::{Effect, Hub, lost, present, rejoin, views};
use crate::front::{Denial, InboundPublish, Outcome, Verdict};
use crate::ledger::{Draft, LedgerError, Now, Read, Step};

/// The largest body of a site's chunk. A gateway closes a group at 64 KiB, and one request (48 KiB at most), stamps and
/// totals may come on top; past it the site could never be applied.
const SITE_CHUNK_BYTES_MAX: usize = ASIDE_BYTES_MAX;
/// A group has about a thousand records, and a total for each at most; what a new life takes back of what it counted may
/// come on top. All of them go down to other sites in one message of the feed.
pub(super) const SITE_CHUNK_TOTALS_MAX: usize = 4_096;
/// What a chunk may have around its body. A packed body that is larger than its text is none of ours.
const ENVELOPE_BYTES_MAX: usize = 256;

const CHAIN_DIFFERS: &str = "the gateway's journal and the hub's copy of it differ: two boxes ran under one site name, or a backup was restored. \
     Stop the wrong box; on the right one run `tillsync-gateway rejoin`";

/// Streams of the feed that one gateway may follow; of more than these it follows `sites`.
const STREAMS_MAX: usize = 100;

/// How far a journal is applied; the origin if nothing of it is.
pub(super) fn watermark(site: &SiteName, epoch: Epoch, ledger: &dyn Read) -> Result<Position, LedgerError> {
    let Some(value) = ledger.get(WATERMARK, &replica_key(site.as_str(), epoch))? else {
        return Ok(Position::default());
    };
    let mark: Watermark = decode(WATERMARK, &value)?;
    let hash = ChainHash::from_slice(&mark.hash)
        .ok_or_else(|| LedgerError::Value { table: WATERMARK.0, why: "a hash of the wrong length".into() })?;
    Ok(Position { seq: Seq(mark.seq), hash })
}

impl Hub {
    /// A publish that came in. Everything that a gateway says is on `up/{site}`.
    pub(super) fn message(
        &mut self,
        publish: InboundPublish,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Step<Effect>, LedgerError> {
        let site = match address(&publish) {
            Ok(site) => site,
            Err(denial) => return Ok(self.refuse(&publish, denial, now)),
        };
        // Sync messages are for the hub alone.
        let quiet = || Step { verdict: Verdict { forward: false, ..Verdict::ACCEPTED }, ..Step::nothing() };
        let up = Up::decode(publish.payload.clone());
        // A newer gateway says more than this hub knows of.
        if let Ok(Up { session, of: None }) = &up
            && self.sessions.get(&site).is_some_and(|live| live.nonce == *session)
        {
            return Ok(quiet());
        }
        let Ok(Up { session, of: Some(of) }) = up else {
            self.tally.undecodable += 1;
            let reason = "the message is not one of the sync protocol".to_owned();
            return Ok(self.refuse(&publish, Denial { code: "sync_undecodable", reason }, now));
        };
        if let UpOf::Hello(hello) = of {
            return Ok(Step { verdict: quiet().verdict, ..self.hello(&site, session, &hello, now, ledger)? });
        }
        let farewell = matches!(of, UpOf::Bye(_));
        let ours = |live: &&mut Session| live.nonce == session || (farewell && live.connection == session);
        let Some(live) = self.sessions.get_mut(&site).filter(ours) else {
            return Ok(quiet());
        };
        live.heard_ms = now.mono_ms;
        if let Some(view) = self.sites.get_mut(&site) {
            view.last_seen_ms = Some(now.wall.0);
        }
        match of {
            // It is said again once the snapshot is taken over.
            UpOf::Batch(_) | UpOf::Present(_) if live.snapshot.is_some() => Ok(quiet()),
            UpOf::Batch(batch) => {
                let mut step = self.batch(&site, batch, now, ledger)?;
                self.grant_touched(now, ledger, &mut step);
                Ok(Step { verdict: quiet().verdict, ..step })
            }
            UpOf::FeedAck(ack) => {
                self.feed_acknowledged(&site, &ack);
                Ok(quiet())
            }
            UpOf::Present(present) => {
                let step = self.present(&site, present, now, ledger)?;
                Ok(Step { verdict: quiet().verdict, ..step })
            }
            UpOf::Check(check) => {
                let step = self.checked(&site, &check, now, ledger)?;
                Ok(Step { verdict: quiet().verdict, ..step })
            }
            UpOf::Recall(recall) => {
                let step = self.recall(&site, &recall, now, ledger)?;
                Ok(Step { verdict: quiet().verdict, ..step })
            }
            UpOf::Follows(follows) => {
                let step = self.follows(&site, &follows, now, ledger)?;
                Ok(Step { verdict: quiet().verdict, ..step })
            }
            UpOf::Beat(beat) => {
                if let Some(view) = self.sites.get_mut(&site) {
                    view.beat = beat;
                }
                self.site_changed.insert(site);
                Ok(quiet())
            }
            UpOf::Bye(_) => Ok(Step { then: self.gone(&site).into_iter().collect(), ..quiet() }),
            UpOf::RightsHeld(held) => {
                let step = self.rights_held(&site, &held, now, ledger)?;
                Ok(Step { verdict: quiet().verdict, ..step })
            }
            UpOf::RightsWanted(wanted) => {
                let mut step = quiet();
                self.rights_wanted(&site, &wanted, now);
                self.grant_touched(now, ledger, &mut step);
                Ok(step)
            }
            UpOf::Hello(_) => Ok(quiet()),
        }
    }

    fn hello(
        &mut self,
        site: &SiteName,
        nonce: u64,
        hello: &Hello,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Step<Effect>, LedgerError> {
        let mut step = Step::nothing();
        if hello.site != site.as_str() || hello.protocol == 0 {
            let advice = format!("the gateway says that it is {:?} on the topic of {site}: check --site", hello.site);
            step.then.push(self.turned(site, nonce, "site_differs", advice, now));
            return Ok(step);
        }
        let epoch = Epoch(hello.epoch);
        if rejoin::is_retired(site, epoch, ledger)? {
            step.then.push(self.turned(site, nonce, "retired", rejoin::RETIRED_ADVICE.to_owned(), now));
            return Ok(step);
        }
        if self.lost.contains(&ReplicaId { site: site.clone(), epoch }) {
            step.then.push(self.turned(site, nonce, "site_lost", lost::LOST_ADVICE.to_owned(), now));
            return Ok(step);
        }
        let held = watermark(site, epoch, ledger)?;
        let welcomed = self.sessions.get(site).filter(|live| live.nonce == nonce && live.epoch == epoch);
        let reaches = |live: &Session| live.watermark.seq.0.max(live.present.newest).max(live.present.complete);
        if welcomed.is_some_and(|live| reaches(live) > hello.journal_to) {
            // Said again while its answer was on the way, and late: this session has written and sent more since.
            return Ok(step);
        }
        if let Some((code, advice)) = disagreement(hello, held) {
            step.then.push(self.turned(site, nonce, code, advice.to_owned(), now));
            return Ok(step);
        }
        // What was said ahead of the journal was on disk there.
        let said = present::said(&ReplicaId { site: site.clone(), epoch }, ledger)?;
        if hello.protocol > 1 && hello.journal_to < said.complete.max(said.newest) {
            let advice = "the gateway's journal ends before what it told us ahead of it: its box was restored from a backup or \
                          lost its end. Stop it and run `tillsync-gateway rejoin`";
            step.then.push(self.turned(site, nonce, "ledger_behind", advice.to_owned(), now));
            return Ok(step);
        }
        let fresh = ledger.get(EPOCH, &replica_key(site.as_str(), epoch))?.is_none();
        if fresh {
            step.events.push(self.joined(site, epoch, now));
            self.forgetting.site_joined();
            if self.sites.contains_key(site) {
                let say = format!("{site} has a new ledger {epoch}: it takes over what the one before left here");
                step.then.push(Effect::tell(views::alert(site, "new_ledger", say, now.wall.0)));
            }
        }
        let streams = followed(hello, self.incarnation);
        let mut session = Session::new(nonce, epoch, held, streams, now.mono_ms);
        session.connection = if hello.connection == 0 { nonce } else { hello.connection };
        session.present = said;
        session.tell_since = present::untold(&session.replica(site), &session.present, ledger)?;
        let known = session.present.complete.max(held.seq.0);
        if hello.protocol > 1 && views::is_far(hello.journal_to.saturating_sub(known)) {
            session.await_present(hello.journal_to, now.mono_ms);
        }
        self.begin_settling(site, &mut session, hello, &mut step);
        let far_behind = views::is_far(hello.journal_to.saturating_sub(held.seq.0));
        let (behind, awaited) = self.behind(now);
        let awaited = awaited || session.awaits_present(now.mono_ms);
        session.share_window(behind, far_behind, awaited);
        let welcome = DownOf::Welcome(Welcome {
            protocol: hello.protocol.min(PROTOCOL),
            applied_seq: held.seq.0,
            applied_hash: held.hash.0.to_vec().into(),
            send_up_to: session.send_up_to(),
            hub_ms: now.wall.0,
            present: session.present.complete,
            reads_packed_present: true,
            rights: true,
        });
        let down = Down { session: nonce, incarnation: self.incarnation, of: Some(welcome) };
        step.then.push(Effect::down(site, &down));
        let view = self.sites.entry(site.clone()).or_default();
        view.online = true;
        view.epoch = if fresh || view.epoch == 0 { epoch.0 } else { view.epoch };
        view.is_lost &= !fresh;
        view.applied_seq = held.seq.0;
        view.present_seq = session.present.complete;
        view.last_seen_ms = Some(now.wall.0);
        view.beat.journal_to = hello.journal_to;
        step.then.push(Effect::tell(views::site_status(site, view)));
        let replica = session.replica(site);
        self.sessions.insert(site.clone(), session);
        self.await_rights(&replica, hello, fresh, now, &mut step);
        for ancestor in hello.lineage.iter().take(LINEAGE_MAX).filter(|ancestor| ancestor.epoch != epoch.0) {
            self.retire(&replica, ancestor, ancestor.seq, now, ledger, &mut step)?;
        }
        tracing::info!(%site, %epoch, applied = held.seq.0, has = hello.journal_to, "a gateway said hello");
        Ok(step)
    }

    fn joined(&mut self, site: &SiteName, epoch: Epoch, now: &Now) -> Draft {
        let joined = SiteJoined { site: site.to_string(), epoch: epoch.0 };
        self.draft(vec![Of::SiteJoined(joined)], now)
    }

    fn batch(
        &mut self,
        site: &SiteName,
        batch: Batch,
        now: &Now,
        ledger: &dyn Read,
    ) -> Result<Step<Effect>, LedgerError> {
        self.tally.batches += 1;
        self.unfolded.clear();
        if batch.lean {
            return self.lean(site, &batch, now, ledger);
        }
        let mut step = Step::nothing();
        let Some(chunks) = unpack(&batch) else {
            let fault = Fault::new("batch_unreadable", "the message's body cannot be unpacked");
            self.damaged(site, &batch, &batch.body, fault, now, &mut step);
            return Ok(step);
        };
        for bytes in chunks.chunk {
            let Some(session) = self.sessions.get_mut(site) else { break };
            let held = session.watermark;
            let chunk = match chunk::open(&bytes) {
                Ok(chunk) if fits(&chunk, bytes.len()) => chunk,
                other => {
                    let too_large = |_| Fault::new("chunk_too_large", "no gateway makes chunks of this size");
                    let fault = other.map_or_else(Fault::from, too_large);
                    match self.damaged(site, &batch, &bytes, fault, now, &mut step) {
                        true => continue,
                        false => break,
                    }
                }
            };
            if chunk.head.replica != session.replica(site) {
                let advice = "the gateway sends the journal of another ledger".to_owned();
                let nonce = session.nonce;
                step.then.push(self.turned(site, nonce, "chain_differs", advice, now));
                break;
            }
            if chunk.head.last <= held.seq {
                self.tally.repeats += 1;
                session.owes_applied = true;
                continue;
            }
            // What a remnant stands for may have been applied in part while it was whole.
            let covers = chunk.head.remnant && chunk.head.first <= held.seq;
            if chunk.head.before() == held || covers {
                session.watermark = chunk.head.after();
                session.owes_applied = true;
                self.apply(site, chunk, bytes, now, ledger, &mut step)?;
                continue;
            }
            if chunk.head.first > held.seq.next() {
                self.tally.gaps += 1;
                session.gap();
                break;
            }
            let nonce = session.nonce;
            step.then.push(self.turned(site, nonce, "chain_differs", CHAIN_DIFFERS.to_owned(), now));
            break;
        }
        Ok(step)
    }

    /// Ends the session: syncing on would do harm.
    pub(super) fn turned(&mut self, site: &SiteName, nonce: u64, code: &str, advice: String, now: &Now) -> Effect {
        tracing::warn!(%site, code, "turned a gateway away: {advice}");
        self.sessions.remove(site);
        if let Some(view) = self.sites.get_mut(site) {
            view.online = false;
            view.last_seen_ms = Some(now.wall.0);
            self.site_changed.insert(site.clone());
        }
        let turned = DownOf::Turned(Turned { code: code.into(), advice });
        Effect::down(site, &Down { session: nonce, incarnation: self.incarnation, of: Some(turned) })
    }

    fn refuse(&mut self, publish: &InboundPublish, why: Denial, now: &Now) -> Step<Effect> {
        self.tally.refused += 1;
        let sender = publish.who.name.as_deref().unwrap_or(&publish.who.client);
        let refusal = Refusal {
            code: why.code.into(),
            reason: why.reason,
            topic: String::from_utf8_lossy(&publish.topic).chars().take(256).collect(),
            payload_bytes: publish.payload.len() as u32,
            payload: self.quota.kept(sender, &publish.payload, now),
            ..Refusal::default()
        };
        let draft = self.draft(vec![Of::Refusal(refusal)], now);
        let told = if why.code == "sync_undecodable" { Outcome::PayloadInvalid } else { Outcome::NotAuthorized };
        Step { events: vec![draft], verdict: Verdict::refused(told), ..Step::nothing() }
    }

    pub(super) fn draft(&mut self, records: Vec<Of>, now: &Now) -> Draft {
        let records = records.into_iter().map(|of| Record { of: Some(of) }).collect();
        let event = Event { unsynced: !now.synced, records, ..Event::default() };
        Draft { stamp: self.clock.stamp(now.reading()), event }
    }
}

fn address(publish: &InboundPublish) -> Result<SiteName, Denial> {
    if let Some(denial) = &publish.denied {
        return Err(denial.clone());
    }
    match std::str::from_utf8(&publish.topic).ok().and_then(|topic| topic.parse().ok()) {
        Some(topic::Inbound::Up { site }) => Ok(site),
        _ => Err(Denial { code: "topic_unknown", reason: "gateways write to up/{site}".into() }),
    }
}

/// What stands between the gateway's chain and ours, as far as its Hello shows.
fn disagreement(hello: &Hello, held: Position) -> Option<(&'static str, &'static str)> {
    if hello.journal_to < held.seq.0 {
        return Some((
            "ledger_behind",
            "the hub holds more of this journal than the gateway: its box was restored from a backup or lost its end. Stop \
             it and run `tillsync-gateway rejoin`: it begins a new ledger, with what only this box has",
        ));
    }
    // From protocol 2 on the gateway says what is gone, and goes on behind it.
    if hello.journal_from > held.seq.0 + 1 && hello.protocol < 2 {
        return Some((
            "hub_behind",
            "the gateway no longer keeps records that the hub lacks: restore a newer backup of the hub",
        ));
    }
    let differs = hello.journal_to == held.seq.0 && held.seq > Seq::ZERO && hello.hash_to != held.hash.0.as_slice();
    differs.then_some(("chain_differs", CHAIN_DIFFERS))
}

/// What the gateway follows, each once. A position in the feed of another incarnation means nothing.
fn followed(hello: &Hello, incarnation: u64) -> Vec<Followed> {
    let ours = hello.feed_incarnation == incarnation;
    let mut streams = vec![Followed::new(Stream::Registers, if ours { hello.feed_cursor } else { 0 })];
    for wanted in hello.streams.iter().take(STREAMS_MAX) {
        let position = if ours { wanted.position } else { 0 };
        match Stream::named(&wanted.stream) {
            Some(stream) if !streams.iter().any(|followed| followed.stream == stream) => {
                streams.push(Followed::new(stream, position));
            }
            _ => {}
        }
    }
    streams
}

pub(super) fn fits(chunk: &Chunk, stored_bytes: usize) -> bool {
    let body_bytes = chunk.head.body_bytes();
    let totals = chunk.body.totals.len();
    body_bytes <= SITE_CHUNK_BYTES_MAX
        && stored_bytes <= body_bytes + ENVELOPE_BYTES_MAX
        && totals <= SITE_CHUNK_TOTALS_MAX
}

fn unpack(batch: &Batch) -> Option<Chunks> {
    if batch.chunks_bytes == 0 {
        return Chunks::decode(batch.body.clone()).ok();
    }
    let plain = proto::pack::unpack(&batch.body, batch.chunks_bytes as usize)?;
    Chunks::decode(&plain[..]).ok()
}
