//! Security events: this hub's own, which it journals, and those in the sites' journals. HQ sees the newest of each and
//! how many there were since the hub started; all of them are in the journal.

use std::collections::BTreeMap;

use proto::chunk::Chunk;
use proto::id::{NAME_LEN_MAX, SiteName};
use proto::topic::Outbound;
use proto::wire::SecurityEvent;
use proto::wire::record::Of;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{Effect, Hub};
use crate::ledger::{Now, Read, Step};

/// Kinds of events that are counted by themselves; ours are a dozen.
const KINDS_MAX: usize = 64;

/// How often each kind of event happened.
#[derive(Debug, Clone, Default)]
pub(super) struct SecurityCounts(BTreeMap<String, u64>);

impl SecurityCounts {
    fn add(&mut self, event: &SecurityEvent) {
        let room = self.0.len() < KINDS_MAX && event.what.len() <= NAME_LEN_MAX;
        if room || self.0.contains_key(&event.what) {
            let count = self.0.entry(event.what.clone()).or_default();
            *count = count.saturating_add(event.count);
        }
    }
}

impl Hub {
    pub(super) fn audit(
        &mut self,
        events: Vec<SecurityEvent>,
        answer: oneshot::Sender<Value>,
        now: &Now,
        ledger: &dyn Read,
    ) -> Step<Effect> {
        let mut step = Step::nothing();
        events.iter().for_each(|event| self.security.add(event));
        if let Some(newest) = events.last() {
            let at_ms = if newest.at_ms > 0 { newest.at_ms } else { now.wall.0 };
            step.then.push(Effect::tell(told(&ledger.replica().site, newest, at_ms, &self.security)));
        }
        let draft = self.draft(events.into_iter().map(Of::Security).collect(), now);
        step.events.push(draft);
        step.then.push(Effect::Answer(answer, Value::Null));
        step
    }

    /// What a site's chunk says.
    pub(super) fn note_security(&mut self, site: &SiteName, chunk: &Chunk, step: &mut Step<Effect>) {
        let Some(view) = self.sites.get_mut(site) else { return };
        let mut newest = None;
        for (_, stamp, event) in chunk.events() {
            for record in &event.records {
                if let Some(Of::Security(event)) = &record.of {
                    view.security.add(event);
                    newest = Some((event, if event.at_ms > 0 { event.at_ms } else { stamp.ms().0 }));
                }
            }
        }
        if let Some((event, at_ms)) = newest {
            step.then.push(Effect::tell(told(site, event, at_ms, &view.security)));
        }
    }
}

/// `hq/alerts/security/{site}`
fn told(site: &SiteName, event: &SecurityEvent, at_ms: u64, counts: &SecurityCounts) -> (String, bytes::Bytes) {
    let body = json!({
        "site": site.as_str(),
        "what": event.what,
        "who": event.who,
        "by": event.by,
        "peer": event.peer,
        "detail": event.detail,
        "count": event.count,
        "at_ms": at_ms,
        "counts": counts.0,
    });
    (Outbound::HqAlert(&format!("security/{site}")).to_string(), body.to_string().into())
}
