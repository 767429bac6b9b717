//! From files to a writer that is ready to run.

use std::sync::Arc;
use std::time::Instant;

use proto::chunk::Sealer;
use proto::clock::Stamp;
use proto::id::Epoch;
use tokio::sync::watch;

use super::clocks::Clocks;
use super::core::Core;
use super::error::LedgerError;
use super::fork;
use super::group::{Pending, view};
use super::handle::Handle;
use super::house::House;
use super::janitor::Janitor;
use super::log::Log;
use super::open::{self, Opened};
use super::post::Post;
use super::reader::{LedgerStats, Reader};
use super::room::Room;
use super::state::State;
use super::writer::{Options, Writer};

impl<C: Core> Writer<C> {
    /// Opens or creates the ledger and brings the state up to date. `epoch` names the ledger if it is created now, or
    /// begun anew because too much of the old one is gone.
    pub fn open(options: Options, epoch: Epoch, mut core: C) -> Result<(Writer<C>, Handle<C>, Reader), LedgerError> {
        let Opened { store, log, appender, snapshot, mut recovery, lock } = opened(&options, epoch)?;
        let mut state = State::default();
        let replayed = super::replay::replay(&log, &store, &mut core, &mut state)?;
        recovery.replayed_records = replayed.records;
        recovery.state_incomplete |= replayed.holes;
        recovery.clean &= replayed.records == 0;
        let (last_stamp, powered_on_s) = newest(&log)?;
        if options.limits.evict {
            log.date()?;
        }
        let (_, last) = log.ends();
        tracing::info!(replica = %store.replica, last = last.seq.0, replayed = recovery.replayed_records, "the ledger is open");

        let janitor = Janitor::start(options.dir.clone(), store.clone(), log.clone())
            .map_err(|e| LedgerError::Io { doing: "start a thread", why: e.to_string() })?;
        let mut house = House::new(janitor, Room::new(options.limits), store.folded(), snapshot);
        house.appended(log.numbers().1, last, 0);
        house.measure(&mut state, &log)?;
        let (stats, watching) = watch::channel(LedgerStats::default());
        let reader = Reader { log: log.clone(), stats: watching, recovery: Arc::new(recovery) };
        let pending = Pending::default();
        let post = Post::recover(&view(&store, &state, &log, &pending, last))?;
        let (handle, inbox) = Handle::new(post.mailboxes());
        let mut writer = Writer {
            core,
            inbox,
            dir: options.dir,
            store,
            state,
            log,
            appender,
            house,
            sealer: Sealer::default(),
            last,
            pending,
            clocks: Clocks::start(powered_on_s),
            stats,
            last_commit: Instant::now(),
            groups: 0,
            records: 0,
            commit_wait: options.commit_wait,
            post,
            sabotage: options.sabotage,
            _lock: lock,
        };
        let now = writer.clocks.now();
        let step = writer.ask(|core, view| core.recovered(last_stamp, &now, view))?;
        writer.take_step(step, &now)?;
        writer.publish_stats();
        Ok((writer, handle, reader))
    }
}

/// Begins a new ledger if too much of the old one is gone and somebody else has the rest.
fn opened(options: &Options, epoch: Epoch) -> Result<Opened, LedgerError> {
    match open::open(options, epoch) {
        Err(LedgerError::Incomplete(why)) => {
            tracing::error!(%why, "the state cannot be made anew in full: a new ledger begins and takes over the rest");
            let shelved = fork::shelve(&options.dir)?;
            fork::set_apart(&options.dir, &why)?;
            let mut opened = open::open(options, epoch)?;
            opened.recovery.set_apart = Some(why);
            opened.recovery.damaged.extend(shelved);
            Ok(opened)
        }
        Ok(mut opened) if opened.recovery.state_incomplete => {
            opened.recovery.damaged.extend(fork::shelve(&options.dir)?);
            Ok(opened)
        }
        other => other,
    }
}

/// The newest stamp, and the powered-on seconds of the newest chunk. What was journalled again has a stamp of its own
/// time, so the clock goes on from what was not.
fn newest(log: &Log) -> Result<(Stamp, u64), LedgerError> {
    let (mut stamp, mut powered_on_s) = (Stamp::default(), 0);
    for stored in log.chunks_back() {
        let chunk = stored?.open()?;
        powered_on_s = powered_on_s.max(chunk.body.powered_on_s);
        // A remnant may have kept no event.
        for (_, newest, event) in chunk.events().rev() {
            stamp = stamp.max(newest);
            if event.rejoined_of == 0 {
                return Ok((stamp, powered_on_s));
            }
        }
    }
    Ok((stamp, powered_on_s))
}
