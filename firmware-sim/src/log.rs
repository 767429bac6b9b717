//! What a device knows: for every request how often it was sent, whether it was acknowledged, what was answered.
//! The audit takes a device's word from here, never from a node's counters.

use std::collections::BTreeMap;

use serde::Deserialize;

/// A reply as the gateway sends it on `dev/{device}/reply`; fields we do not use are left out.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Reply {
    #[serde(default)]
    pub id: Option<String>,
    pub status: String,
    /// Why the request was refused as a whole.
    #[serde(default)]
    pub code: Option<String>,
    #[serde(default)]
    pub refused: Vec<RefusedLine>,
}

impl Reply {
    /// Line and code of every refusal in it; line 0 is the request as a whole.
    pub fn refusals(&self) -> impl Iterator<Item = (u32, &str)> {
        let whole = self.code.as_deref().map(|code| (0, code));
        whole.into_iter().chain(self.refused.iter().map(|refused| (refused.line, refused.code.as_str())))
    }
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct RefusedLine {
    /// 1-based.
    pub line: u32,
    pub code: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    pub sends: u32,
    pub acks: u32,
    pub replies: Vec<Reply>,
}

/// One device's account. Its size is that of the script that the device plays.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Log {
    pub site: usize,
    pub device: String,
    /// By request id.
    pub entries: BTreeMap<String, Entry>,
    /// Plain barcode text has no id: the entry counts all of them.
    pub plain: Entry,
    pub links_lost: u32,
    /// Messages on the reply topic that are no reply, as text cut to 200 characters.
    pub unreadable: Vec<String>,
}

/// The most unreadable replies that are kept; more of them add nothing.
const UNREADABLE_MAX: usize = 10;

impl Log {
    pub fn new(site: usize, device: &str) -> Log {
        Log { site, device: device.to_owned(), ..Log::default() }
    }

    pub fn sent(&mut self, id: Option<&str>) {
        self.entry(id).sends += 1;
    }

    pub fn acked(&mut self, id: Option<&str>) {
        self.entry(id).acks += 1;
    }

    /// Notes a reply; gives the id that it answers, if it is one.
    pub fn replied(&mut self, payload: &[u8]) -> Option<String> {
        match serde_json::from_slice::<Reply>(payload) {
            Ok(reply) => {
                let id = reply.id.clone().filter(|id| !id.is_empty());
                self.entry(id.as_deref()).replies.push(reply);
                id
            }
            Err(_) => {
                if self.unreadable.len() < UNREADABLE_MAX {
                    self.unreadable.push(String::from_utf8_lossy(payload).chars().take(200).collect());
                }
                None
            }
        }
    }

    pub fn is_acked(&self, id: &str) -> bool {
        self.entries.get(id).is_some_and(|entry| entry.acks > 0)
    }

    /// Requests that got at least one PUBACK: distinct messages, repeats not counted.
    pub fn messages_acked(&self) -> u64 {
        let named = self.entries.values().filter(|entry| entry.acks > 0).count() as u64;
        named + u64::from(self.plain.acks)
    }

    fn entry(&mut self, id: Option<&str>) -> &mut Entry {
        match id {
            None => &mut self.plain,
            Some(id) => self.entries.entry(id.to_owned()).or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_every_outcome_under_its_id() {
        let mut log = Log::new(0, "pos-1");
        log.sent(Some("s1"));
        log.sent(Some("s1"));
        log.acked(Some("s1"));
        let text = br#"{"id":"s1","status":"partial","refused":[{"line":2,"code":"qty_zero","reason":"x"}],"more":1}"#;
        assert_eq!(log.replied(text), Some("s1".into()));
        assert_eq!(log.replied(br#"{"id":null,"status":"refused","code":"json_invalid","reason":"x"}"#), None);
        assert_eq!(log.replied(b"not json"), None);
        let entry = &log.entries["s1"];
        assert_eq!((entry.sends, entry.acks), (2, 1));
        assert_eq!(entry.replies[0].refusals().collect::<Vec<_>>(), [(2, "qty_zero")]);
        assert_eq!(log.plain.replies[0].refusals().collect::<Vec<_>>(), [(0, "json_invalid")]);
        assert_eq!((log.plain.replies.len(), log.unreadable.len()), (1, 1));
        assert_eq!(log.messages_acked(), 1);
    }
}
