//! What a node answers on its admin socket: `status`, and `rejects list|show|retry`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proto::id::Seq;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::front::{Disconnector, FrontStats};
use crate::identity::{Change, Guard, SecurityEvent, invite};
use crate::ledger::{Core, Handle, LedgerError, Reader};
use crate::node::admin::Question;
use crate::node::beside::Beside;
use crate::node::disk::Meter;
use crate::node::process::{Face, LookUp, OwnQuestion};
use crate::node::rejects::{self, Again, hex};

const FULL: &str = "the ledger is full: nothing is taken in just now";

/// How long a question may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// All that is asked to answer.
pub(super) struct Answers<C: Core> {
    pub(super) dir: PathBuf,
    pub(super) writer: Handle<C>,
    pub(super) reader: Reader,
    pub(super) front: Arc<FrontStats>,
    pub(super) guard: Arc<Guard>,
    pub(super) disconnector: Disconnector,
    pub(super) listening: SocketAddr,
    pub(super) tls: bool,
    pub(super) face: Face<C>,
    pub(super) meter: Meter,
    /// Where `/metrics` is.
    pub(super) metrics: Option<SocketAddr>,
    pub(super) beside: Vec<Arc<dyn Beside>>,
}

impl<C: Core> Answers<C> {
    /// One question after the other, but for those that read the journal: they wait for its disk alone. There are never
    /// more of them than the admin socket has places.
    pub(super) async fn run(self, mut questions: mpsc::Receiver<Question>) {
        while let Some(Question { text, answer }) = questions.recv().await {
            let words: Vec<&str> = text.split_whitespace().collect();
            if let Some(answering) = self.beside.iter().find_map(|part| part.question(&words)) {
                // The asker may have left.
                tokio::task::spawn_blocking(move || answer.send(answering()));
                continue;
            }
            let value = match words[..] {
                ["status"] => self.status().await,
                ["inventory"] => serde_json::to_value(self.reader.inventory()).unwrap_or_else(|e| error(e.to_string())),
                ["rejects", "list", limit] => match limit.parse() {
                    Ok(limit) => {
                        self.look(answer, move |reader| rejects::list(reader, limit));
                        continue;
                    }
                    Err(_) => error("how many?"),
                },
                ["rejects", "show", seq] => match seq.parse() {
                    Ok(seq) => {
                        self.look(answer, move |reader| show(reader, Seq(seq)));
                        continue;
                    }
                    Err(_) => error("which seq?"),
                },
                ["rejects", "retry", seq] => self.retry(seq, None).await,
                ["rejects", "retry", seq, payload] => self.retry(seq, Some(payload)).await,
                ["accounts", verb, name, by, ref rest @ ..] => self.change(verb, name, by, rest).await,
                ["policy", "reload", by] => self.reload(by).await,
                _ => match self.own_question(&words) {
                    Ok((input, answered)) => {
                        self.hand_in_apart(input, answered, answer);
                        continue;
                    }
                    Err(Answer::Look(look)) => {
                        self.look(answer, look);
                        continue;
                    }
                    Err(Answer::Now(value)) => value,
                },
            };
            // The asker may have left.
            let _ = answer.send(value);
        }
    }

    fn look(
        &self,
        answer: oneshot::Sender<Value>,
        look: impl FnOnce(&Reader) -> Result<Value, LedgerError> + Send + 'static,
    ) {
        let reader = self.reader.clone();
        tokio::task::spawn_blocking(move || {
            let found = look(&reader).unwrap_or_else(|failed| error(failed.to_string()));
            // The asker may have left.
            let _ = answer.send(found);
        });
    }

    /// On disk and for everybody who connects, then in the journal, then answered.
    async fn change(&self, verb: &str, name: &str, by: &str, rest: &[&str]) -> Value {
        let Some(change) = Change::of_words(verb, rest) else { return error("what is to be done with the account?") };
        let (guard, disconnector) = (self.guard.clone(), self.disconnector.clone());
        let (name, by) = (name.to_owned(), by.to_owned());
        let changed = tokio::task::spawn_blocking(move || guard.change(&name, &change, &by, &disconnector)).await;
        let (event, closed) = match changed {
            Ok(Ok(done)) => done,
            Ok(Err(why)) => return error(why.to_string()),
            Err(died) => return error(died.to_string()),
        };
        self.journal(event).await;
        json!({ "running": true, "closed": closed, "at": invite::address(self.listening), "tls": self.tls })
    }

    async fn reload(&self, by: &str) -> Value {
        let (guard, disconnector, by) = (self.guard.clone(), self.disconnector.clone(), by.to_owned());
        match tokio::task::spawn_blocking(move || guard.reload(&by, &disconnector)).await {
            Ok(Ok(event)) => {
                let policy = event.detail.clone();
                self.journal(event).await;
                json!({ "policy": policy })
            }
            Ok(Err(faults)) => error(format!("the policy stays as it was: {faults}")),
            Err(died) => error(died.to_string()),
        }
    }

    async fn journal(&self, event: SecurityEvent) {
        self.ask(|answer| (self.face.audit)(vec![event.to_wire(1)], answer)).await;
    }

    /// In line with all other questions, so that of two the second sees what the first has done.
    async fn retry(&self, seq: &str, payload: Option<&str>) -> Value {
        let Some(again) = self.face.again else { return error("this node takes no requests") };
        let Ok(seq) = seq.parse().map(Seq) else { return error("which seq?") };
        let corrected = match payload.map(hex::decode) {
            None => None,
            Some(Some(bytes)) => Some(bytes.into()),
            Some(None) => return error("the payload is not hex"),
        };
        if self.reader.stats().full {
            return error(FULL);
        }
        let (reader, is_corrected) = (self.reader.clone(), corrected.is_some());
        let found = tokio::task::spawn_blocking(move || rejects::to_retry(&reader, seq, is_corrected)).await;
        let reject = match found {
            Ok(Ok(reject)) => reject,
            Ok(Err(why)) => return error(why),
            Err(died) => return error(died.to_string()),
        };
        let (device, topic, payload) = (reject.device, reject.topic, corrected.unwrap_or(reject.payload));
        self.ask(|answer| again(Again { of: seq, device, topic, payload, answer })).await
    }

    async fn ask(&self, input: impl FnOnce(oneshot::Sender<Value>) -> C::Input) -> Value {
        let (answer, answered) = oneshot::channel();
        self.hand_in(input(answer), answered).await
    }

    /// A question that only this kind of node knows: for the core, if nobody else answers it.
    fn own_question(&self, words: &[&str]) -> Result<(C::Input, oneshot::Receiver<Value>), Answer> {
        let (answer, answered) = oneshot::channel();
        match (self.face.question)(words, answer) {
            Some(OwnQuestion::Write(_)) if self.reader.stats().full => Err(Answer::Now(error(FULL))),
            Some(OwnQuestion::Ask(input) | OwnQuestion::Write(input)) => Ok((input, answered)),
            Some(OwnQuestion::Look(look)) => Err(Answer::Look(look)),
            None => {
                let asked: String = words.join(" ").chars().take(60).collect();
                let known =
                    "status, rejects list N, rejects show SEQ, rejects retry SEQ [HEX], accounts, policy reload";
                let why = format!("unknown question {asked:?}; known: {known}, and what the commands ask");
                Err(Answer::Now(error(why)))
            }
        }
    }

    /// For what may take a while: a site may have to be asked.
    fn hand_in_apart(&self, input: C::Input, answered: oneshot::Receiver<Value>, answer: oneshot::Sender<Value>) {
        let writer = self.writer.clone();
        tokio::spawn(async move {
            let value = match writer.input(input).await {
                Err(_) => error("the writer has stopped"),
                Ok(()) => match tokio::time::timeout(PATIENCE, answered).await {
                    Ok(Ok(value)) => value,
                    Ok(Err(_)) => error("who was asked has left: ask again"),
                    Err(_) => error(format!("no answer within {} s", PATIENCE.as_secs())),
                },
            };
            // The asker may have left.
            let _ = answer.send(value);
        });
    }

    async fn hand_in(&self, input: C::Input, answered: oneshot::Receiver<Value>) -> Value {
        if self.writer.input(input).await.is_err() {
            return error("the writer has stopped");
        }
        answered.await.unwrap_or_else(|_| error("the writer has stopped"))
    }

    async fn status(&self) -> Value {
        let mut status = self.ask(self.face.status).await;
        if status.get("error").is_some() {
            return status;
        }
        let stats = self.reader.stats();
        status["ledger"] = json!({
            "last_seq": stats.durable.seq.0,
            "chain": stats.durable.hash.short(),
            "first_seq": stats.first.0,
            "folded_seq": stats.folded.0,
            "chunks": stats.chunks,
            "journal_bytes": stats.journal_bytes,
            "backlog_bytes": stats.backlog_bytes,
            "state_bytes": stats.state_bytes,
            "disk_bytes": stats.journal_bytes + stats.state_bytes,
            "commits": stats.groups,
            "records": stats.records,
            "appended_bytes": stats.appended_bytes,
            "evicted_records": stats.evicted.records,
            "evicted_bytes": stats.evicted.bytes,
            "cells_waiting": stats.dirty_cells,
            "full": stats.full,
        });
        status["disk"] = self.meter.read(&self.dir, &stats);
        status["recovery"] = serde_json::to_value(self.reader.recovery()).unwrap_or_default();
        status["front"] = self.front.to_json();
        status["identity"] = self.guard.status();
        status["metrics"] = self.metrics.map(|addr| addr.to_string()).into();
        self.beside.iter().for_each(|part| part.status(&mut status));
        (self.face.complete)(&mut status, &self.reader);
        status
    }
}

fn show(reader: &Reader, seq: Seq) -> Result<Value, LedgerError> {
    Ok(match rejects::show(reader, seq)? {
        Some(reject) => reject.whole(),
        None => error(format!("record {seq} is no refusal, or no longer in the journal")),
    })
}

/// How a question is answered without the core.
enum Answer {
    Now(Value),
    Look(LookUp),
}

fn error(why: impl Into<String>) -> Value {
    json!({ "error": why.into() })
}
