//! A screen at HQ or in a store: subscribes, and keeps the latest message of each topic.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::Bytes;
use tokio::time::{Instant, timeout_at};

use crate::client::{Client, Event, Options};
use crate::door::Door;

/// Topics that are kept; a monitor of more than this says so and stops.
const TOPICS_MAX: usize = 200_000;
/// Messages taken before the question is asked again; more of them wait in the socket.
const BURST_MAX: usize = 5_000;

pub type Topics = BTreeMap<String, Bytes>;

pub struct Monitor {
    client: Client,
    pub latest: Topics,
}

impl Monitor {
    pub fn new(name: &str, door: impl Into<Door>, filters: &[String]) -> Monitor {
        let door = door.into();
        let options = Options {
            client: name.to_owned(),
            seed: u64::from(door.addr.port()),
            door,
            clean: true,
            window: 1,
            subscribe: filters.to_vec(),
        };
        Monitor { client: Client::new(options), latest: Topics::new() }
    }

    /// Takes messages until `done` is content. Gives what `done` found, or its last complaint at the deadline.
    pub async fn until<T>(
        &mut self,
        most: Duration,
        mut done: impl FnMut(&Topics) -> Result<T, String>,
    ) -> Result<Result<T, String>> {
        let deadline = Instant::now() + most;
        loop {
            let complaint = match done(&self.latest) {
                Ok(found) => return Ok(Ok(found)),
                Err(complaint) => complaint,
            };
            if !self.take_some(deadline).await? {
                return Ok(Err(complaint));
            }
        }
    }

    /// Takes at least one message, and those that come right behind it. False at the deadline.
    async fn take_some(&mut self, deadline: Instant) -> Result<bool> {
        let quiet = Duration::from_millis(50);
        let mut wait_until = deadline;
        let mut took = 0;
        while took < BURST_MAX
            && let Ok(event) = timeout_at(wait_until, self.client.next()).await
        {
            let Event::Message(message) = event else { continue };
            self.latest.insert(message.topic, message.payload);
            if self.latest.len() > TOPICS_MAX {
                bail!("a monitor got more than {TOPICS_MAX} topics: narrow its filter");
            }
            took += 1;
            wait_until = deadline.min(Instant::now() + quiet);
        }
        Ok(took > 0)
    }
}
