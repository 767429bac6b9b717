//! `DIR/admin.sock`: how commands look into a node that runs. One line asks, one line of JSON answers.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};

/// The largest payload that a question carries: the most that a gateway can be told to take from a device.
pub const PAYLOAD_BYTES_MAX: usize = 512 << 10;
/// The longest question: such a payload in hex, and words around it. A longer one is refused.
const QUESTION_BYTES_MAX: u64 = 2 * PAYLOAD_BYTES_MAX as u64 + 4096;
const QUESTION_WAIT: Duration = Duration::from_secs(5);
/// Looking far back in a journal on a slow disk takes its time.
const ANSWER_WAIT: Duration = Duration::from_secs(30);
/// Questions under way at once; more wait.
const CONNECTIONS_MAX: usize = 8;

/// A question and where its answer goes.
pub struct Question {
    pub text: String,
    pub answer: oneshot::Sender<Value>,
}

pub fn socket_path(dir: &Path) -> PathBuf {
    dir.join("admin.sock")
}

/// Listens with mode 0600: whoever may read the data folder as its owner may ask.
pub fn listen(dir: &Path) -> io::Result<UnixListener> {
    let path = socket_path(dir);
    match std::fs::remove_file(&path) {
        Ok(()) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(e),
    }
    let listener = UnixListener::bind(&path)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Hands questions on until nobody takes them any more.
pub async fn serve(listener: UnixListener, questions: mpsc::Sender<Question>) {
    let places = std::sync::Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(place) = places.clone().acquire_owned().await {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let questions = questions.clone();
        tokio::spawn(async move {
            if let Err(error) = answer_one(stream, questions).await {
                tracing::debug!(%error, "an admin connection ended early");
            }
            drop(place);
        });
    }
}

async fn answer_one(stream: UnixStream, questions: mpsc::Sender<Question>) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let (mut read, mut text) = (tokio::io::BufReader::new(read.take(QUESTION_BYTES_MAX)), String::new());
    let bytes = tokio::time::timeout(QUESTION_WAIT, read.read_line(&mut text)).await.map_err(io::Error::other)??;
    if bytes == 0 {
        return Ok(());
    }
    if bytes as u64 == QUESTION_BYTES_MAX {
        // Its end is not here, so it must not be taken for a shorter question.
        return write.write_all(b"{\"error\":\"the question is too long\"}\n").await;
    }
    let (answer, answered) = oneshot::channel();
    let asked = questions.send(Question { text, answer }).await;
    let reply = match (asked, answered.await) {
        (Ok(()), Ok(value)) => value,
        _ => serde_json::json!({ "error": "the node is stopping" }),
    };
    write.write_all(format!("{reply}\n").as_bytes()).await
}

/// Asks a running node; for command-line use, so it blocks.
pub fn ask(dir: &Path, question: &str) -> io::Result<Value> {
    let mut stream = BlockingStream::connect(socket_path(dir))?;
    stream.set_read_timeout(Some(ANSWER_WAIT))?;
    writeln!(stream, "{question}")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    serde_json::from_str(&line).map_err(io::Error::other)
}

/// Whether a node has opened its socket here.
pub fn is_listening(dir: &Path) -> bool {
    BlockingStream::connect(socket_path(dir)).is_ok()
}

/// As [`ask`]; `None` if no node runs, an error if it answers with one.
pub fn ask_if_running(dir: &Path, question: &str) -> anyhow::Result<Option<Value>> {
    match ask(dir, question) {
        Ok(answer) => match answer.get("error") {
            Some(error) => bail!("{}", error.as_str().unwrap_or("-")),
            None => Ok(Some(answer)),
        },
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("ask {}", socket_path(dir).display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_largest_question_arrives_whole_and_a_longer_one_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let (asked, mut asking) = mpsc::channel(1);
        tokio::spawn(serve(listen(dir.path()).unwrap(), asked));
        tokio::spawn(async move {
            while let Some(Question { text, answer }) = asking.recv().await {
                let _ = answer.send(serde_json::json!({ "bytes": text.trim_end().len() }));
            }
        });
        let largest = format!("rejects retry {} {}", u64::MAX, "ff".repeat(PAYLOAD_BYTES_MAX));
        for (question, key) in [(largest.clone(), "bytes"), (largest + &"ff".repeat(4096), "error")] {
            let bytes = question.len();
            let dir = dir.path().to_owned();
            let answer = tokio::task::spawn_blocking(move || {
                // What is refused before all of it is read may break the asker's connection instead.
                ask(&dir, &question).unwrap_or(serde_json::json!({ "error": "closed" }))
            });
            let answer = answer.await.unwrap();
            assert!(answer.get(key).is_some(), "{bytes} bytes: {answer}");
            assert!(key == "error" || answer["bytes"] == bytes);
        }
    }
}
