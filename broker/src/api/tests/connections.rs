//! Connections that stay open, and for whom.

use std::time::Duration;

use tokio::io::BufReader;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::*;

/// Reads one answer: its status, whether it is the last, and nothing behind it.
async fn answer<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut BufReader<S>) -> (u16, bool) {
    let (mut head, mut length, mut last) = (String::new(), 0, false);
    loop {
        let before = head.len();
        assert_ne!(stream.read_line(&mut head).await.unwrap(), 0, "it ended: {head}");
        let line = head[before..].trim().to_lowercase();
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().unwrap();
        }
        last |= line == "connection: close";
        if line.is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), last)
}

#[tokio::test]
async fn who_shows_a_good_token_may_ask_again_and_others_not() {
    let rig = Rig::start().await;
    let open = async || {
        let stream = TcpStream::connect(rig.addr).await.unwrap();
        BufReader::new(rig.connector.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.unwrap())
    };
    let token = rig.token(Role::Viewer);
    let good = format!("GET /api/whoami HTTP/1.1\r\nhost: h\r\nauthorization: Bearer {token}\r\n\r\n");
    let mut stream = open().await;
    for _ in 0..50 {
        stream.write_all(good.as_bytes()).await.unwrap();
        assert_eq!(answer(&mut stream).await, (200, false));
    }
    // Two at once are answered in turn, and an answer to nobody ends it.
    stream.write_all(format!("{good}{good}GET /healthz HTTP/1.1\r\nhost: h\r\n\r\n").as_bytes()).await.unwrap();
    assert_eq!([answer(&mut stream).await, answer(&mut stream).await], [(200, false), (200, false)]);
    assert_eq!(answer(&mut stream).await, (200, true));
    let ended = timeout(Duration::from_secs(5), stream.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "it is closed");

    let bad = "GET /api/whoami HTTP/1.1\r\nhost: h\r\nauthorization: Bearer tst_x\r\n\r\n";
    let mut stream = open().await;
    stream.write_all(bad.as_bytes()).await.unwrap();
    assert_eq!(answer(&mut stream).await, (401, true));
}

#[tokio::test]
async fn a_connection_that_says_nothing_is_closed_soon() {
    let rig = Rig::start().await;
    let stream = TcpStream::connect(rig.addr).await.unwrap();
    let mut stream = rig.connector.connect(ServerName::try_from("127.0.0.1").unwrap(), stream).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nx: ").await.unwrap();
    let ended = timeout(Duration::from_secs(10), stream.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "half a head is waited for a few seconds");
}
