//! HTTP/1.1 over a connection that stays open, as far as the hub's HTTPS listener speaks it: one request, then its answer.

use std::io;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::door::{Door, Stream};

/// More than the hub ever answers at once.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// A request, ready to be sent again and again.
#[derive(Debug, Clone)]
pub struct Request(Vec<u8>);

impl Request {
    /// `headers` are whole lines without their ends.
    pub fn new(method: &str, path: &str, token: &str, headers: &[&str], body: &str) -> Request {
        let mut text = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {token}\r\n");
        for header in headers {
            text.push_str(header);
            text.push_str("\r\n");
        }
        if !body.is_empty() {
            text.push_str(&format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()));
        }
        Request(format!("{text}\r\n{body}").into_bytes())
    }
}

/// What the hub answered.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    /// In lower case.
    pub head: String,
    pub body: Vec<u8>,
    /// The hub closes the connection after it.
    pub closes: bool,
}

impl Answer {
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).context("reading the answer's JSON")
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
    }
}

/// One open connection.
#[derive(Debug)]
pub struct Client {
    stream: Stream,
    heard: Vec<u8>,
}

impl Client {
    pub async fn open(door: &Door) -> io::Result<Client> {
        Ok(Client { stream: Stream::open(door).await?, heard: Vec::with_capacity(4096) })
    }

    pub async fn send(&mut self, request: &Request) -> Result<()> {
        self.stream.write_all(&request.0).await.context("sending a request")?;
        self.stream.flush().await.context("sending a request")
    }

    pub async fn ask(&mut self, request: &Request) -> Result<Answer> {
        self.send(request).await?;
        self.hear().await
    }

    pub async fn hear(&mut self) -> Result<Answer> {
        let end = loop {
            if let Some(at) = self.heard.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            self.more().await?;
        };
        let head = String::from_utf8_lossy(&self.heard[..end]).to_ascii_lowercase();
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).context("an answer without a status")?;
        let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
        let length: usize = match (value("content-length:"), status) {
            (Some(length), _) => length.parse().context("an answer's length")?,
            (None, 204 | 304) => 0,
            (None, _) => bail!("an answer without a length: {head}"),
        };
        ensure!(length <= ANSWER_BYTES_MAX, "an answer of {length} bytes");
        while self.heard.len() < end + length {
            self.more().await?;
        }
        let body = self.heard[end..end + length].to_vec();
        self.heard.drain(..end + length);
        let closes = value("connection:") == Some("close");
        Ok(Answer { status, head, body, closes })
    }

    async fn more(&mut self) -> Result<()> {
        match self.stream.read_buf(&mut self.heard).await.context("reading an answer")? {
            0 => bail!("the hub closed the connection before its answer"),
            _ => Ok(()),
        }
    }
}
