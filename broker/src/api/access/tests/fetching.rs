//! Keys at a URL: by whom it is believed, and how much of it is read.

use std::net::SocketAddr;
use std::path::Path;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;

use super::super::source::LIST_BYTES_MAX;
use super::*;
use crate::front::Tls;
use crate::node::wall_ms;
use crate::pki::{Authority, Own, SERVER_VALID_MS};

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) {
    let mut head = [0; 2_048];
    // The asker may leave at any time.
    let _ = stream.read(&mut head).await;
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

/// Answers everybody the same, encrypted if it can.
async fn server(text: String, tls: Option<Tls>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            match &tls {
                None => answer(stream, &text).await,
                Some(tls) => {
                    if let Ok((stream, _)) = tls.accept(stream).await {
                        answer(stream, &text).await;
                    }
                }
            }
        }
    });
    addr
}

fn said(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nlocation: /elsewhere\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

async fn load(url: &str, ca: Option<&Path>) -> Result<usize, String> {
    Source::Url(url.parse().unwrap(), ca.map(Path::to_owned)).load().await.map(|keys| keys.len())
}

#[tokio::test]
async fn an_encrypted_list_is_believed_by_the_ca_that_is_named_and_by_its_host() {
    let dir = tempfile::tempdir().unwrap();
    let ca = Authority::create("ca", wall_ms()).unwrap();
    let own = Own::create(dir.path(), ca, &["localhost".into()], wall_ms(), SERVER_VALID_MS).unwrap();
    let tls = Tls::load(&own.paths.server, &own.paths.server, &[]).unwrap();
    let port = server(said("200 OK", &json!({ "keys": [Signer::ec().jwk("a")] }).to_string()), Some(tls)).await.port();
    let url = format!("https://localhost:{port}/keys");
    assert_eq!(load(&url, Some(&own.paths.ca)).await, Ok(1));
    let by_system = load(&url, None).await.unwrap_err();
    assert!(by_system.contains("agree on TLS") || by_system.contains("no root certificates"), "{by_system}");
    let other = load(&format!("https://127.0.0.1:{port}/keys"), Some(&own.paths.ca)).await.unwrap_err();
    assert!(other.contains("agree on TLS"), "{other}");
    let in_the_clear = load(&format!("http://localhost:{port}/keys"), None).await;
    assert!(in_the_clear.is_err(), "{in_the_clear:?}");
}

#[tokio::test]
async fn what_is_no_list_or_too_long_or_elsewhere_is_an_error() {
    let long = format!("{{\"keys\":[],\"pad\":\"{}\"}}", "x".repeat(LIST_BYTES_MAX));
    for (text, why) in [
        (said("200 OK", &long), "read the answer"),
        (said("302 Found", ""), "302"),
        (said("500 Internal Server Error", "{\"keys\":[]}"), "500"),
        (said("200 OK", "<html>"), "not a JWKS"),
        (said("200 OK", "{}"), "not a JWKS"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 900\r\n\r\n{".into(), "read the answer"),
        ("ssh".into(), "ask"),
    ] {
        let addr = server(text, None).await;
        let error = load(&format!("http://{addr}/keys"), None).await.unwrap_err();
        assert!(error.contains(why), "{error}, not {why:?}");
    }
    let full = said("200 OK", "{\"keys\":[]}");
    assert_eq!(load(&format!("http://{}/keys", server(full, None).await), None).await, Ok(0));
}

#[tokio::test]
async fn who_does_not_answer_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = load(&format!("http://{}/keys", listener.local_addr().unwrap()), None).await.unwrap_err();
    assert!(error.contains("within 5 s"), "{error}");
}
