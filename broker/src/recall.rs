//! Answers what a new life of a site's ledger asks of those before it, from the hub's journal, on a thread of its own:
//! reading it back takes seconds, and the writer waits for nobody.

use std::collections::VecDeque;
use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use bytes::Bytes;
use proto::chunk::{self, Head};
use proto::wire::Past;
use proto::wire::record::Of;

use crate::front::Publisher;
use crate::hub::{Effect, Question};
use crate::ledger::{LedgerError, Reader};

/// Questions that wait. What comes beyond is dropped: gateways ask again.
const QUESTIONS_MAX: usize = 256;
/// What one answer carries; one chunk always fits.
const ANSWER_BYTES: usize = 48 << 10;
/// How much of the journal is read for one answer; then it says where to go on.
const READ_BYTES: usize = 64 << 20;

/// Where questions are handed in.
#[derive(Clone)]
pub(crate) struct Recalls(SyncSender<Question>);

impl Recalls {
    pub(crate) fn start(reader: Reader, publisher: Publisher) -> io::Result<Recalls> {
        let (asked, asking) = sync_channel(QUESTIONS_MAX);
        std::thread::Builder::new().name("recall".into()).spawn(move || answer_all(&asking, &reader, &publisher))?;
        Ok(Recalls(asked))
    }

    pub(crate) fn ask(&self, question: Question) {
        if self.0.try_send(question).is_err() {
            tracing::debug!("too many ask for their past at once: one of them asks again");
        }
    }
}

/// One question of each site at a time, in turn; of two the newer counts. Ends with the node.
fn answer_all(asking: &Receiver<Question>, reader: &Reader, publisher: &Publisher) {
    let mut waiting: VecDeque<Question> = VecDeque::new();
    loop {
        if waiting.is_empty() {
            let Ok(question) = asking.recv() else { return };
            waiting.push_back(question);
        }
        for question in asking.try_iter() {
            waiting.retain(|older| older.site != question.site);
            waiting.push_back(question);
            if waiting.len() >= QUESTIONS_MAX {
                break;
            }
        }
        let Some(question) = waiting.pop_front() else { continue };
        match look_back(reader.chunks_below(question.from_below()), &question, ANSWER_BYTES, READ_BYTES) {
            Ok(past) => {
                if let Effect::Publish { topic, payload, retain } = question.answer(past) {
                    publisher.publish(&topic, payload, retain);
                }
            }
            Err(error) => tracing::error!(%error, site = %question.site, "the journal cannot be read back"),
        }
    }
}

/// Chunks of the site's other lives, out of our own chunks from the question's place back ([`Question::from_below`]),
/// newest first.
///
/// # Errors
/// Our journal cannot be read there.
pub fn look_back(
    chunks: impl Iterator<Item = Result<(Head, Bytes), LedgerError>>,
    question: &Question,
    answer_bytes: usize,
    read_bytes: usize,
) -> Result<Past, LedgerError> {
    let below = question.from_below();
    let mut past = Past { below: question.below.0, ..Past::default() };
    let (mut read, mut taken) = (0, 0);
    for found in chunks {
        let (head, bytes) = found?;
        if head.last < question.from {
            return Ok(past);
        }
        if read >= read_bytes {
            past.next_below = head.last.next().0;
            return Ok(past);
        }
        read += bytes.len();
        let opened = chunk::open(&bytes).map_err(|why| LedgerError::Chunk { at: head.first, why })?;
        for (first, _, event) in opened.events().rev() {
            for (offset, record) in event.records.iter().enumerate().rev() {
                let seq = first.plus(offset as u64);
                let Some(Of::SiteChunk(kept)) = record.of.as_ref().filter(|_| seq < below) else { continue };
                if kept.received_ms < question.since_ms {
                    return Ok(past);
                }
                let Ok(of) = chunk::head(&kept.chunk) else { continue };
                if of.replica.site != question.site || of.replica.epoch == question.epoch {
                    continue;
                }
                if taken > 0 && taken + kept.chunk.len() > answer_bytes {
                    past.next_below = seq.next().0;
                    return Ok(past);
                }
                taken += kept.chunk.len();
                past.chunk.push(kept.chunk.clone());
            }
        }
    }
    Ok(past)
}
