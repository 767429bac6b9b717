//! A door of its own for `/metrics`, small enough that nobody can lean on it: few connections, one request each, little
//! time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::text::Exposition;
use crate::node::admin::Question;

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 8;
/// A request's head must be here by then, and the whole connection over.
const HEAD_WAIT: Duration = Duration::from_secs(5);
const CONNECTION_WAIT: Duration = Duration::from_secs(10);
/// A busy node may take this long to answer.
const STATUS_WAIT: Duration = Duration::from_secs(5);
/// A longer head is refused.
const HEAD_BYTES_MAX: usize = 8 << 10;

type Answer = Response<Full<Bytes>>;

/// Serves until nobody answers questions any more.
pub async fn serve(listener: TcpListener, questions: mpsc::Sender<Question>, show: fn(&Value, &mut Exposition)) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(place) = places.clone().acquire_owned().await {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = questions.closed() => return,
        };
        let Ok((stream, _)) = accepted else {
            // Out of sockets: others must close some first.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let questions = questions.clone();
        tokio::spawn(async move {
            if timeout(CONNECTION_WAIT, connection(stream, questions, show)).await.is_err() {
                tracing::debug!("a metrics connection took too long");
            }
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, questions: mpsc::Sender<Question>, show: fn(&Value, &mut Exposition)) {
    let service = service_fn(move |request| {
        let questions = questions.clone();
        async move { Ok::<_, Infallible>(respond(&request, questions, show).await) }
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WAIT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a metrics connection ended early");
    }
}

async fn respond(
    request: &Request<Incoming>,
    questions: mpsc::Sender<Question>,
    show: fn(&Value, &mut Exposition),
) -> Answer {
    if request.uri().path() != "/metrics" {
        return plain(StatusCode::NOT_FOUND, "there is only /metrics here\n");
    }
    if request.method() != Method::GET {
        let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
        return answer;
    }
    match timeout(STATUS_WAIT, status(questions)).await {
        Ok(Some(status)) => {
            let mut out = Exposition::default();
            show(&status, &mut out);
            let mut answer = Response::new(Full::from(out.into_text()));
            let format = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            answer.headers_mut().insert(CONTENT_TYPE, format);
            answer
        }
        _ => plain(StatusCode::SERVICE_UNAVAILABLE, "the node is too busy, or stopping\n"),
    }
}

async fn status(questions: mpsc::Sender<Question>) -> Option<Value> {
    let (answer, answered) = oneshot::channel();
    questions.send(Question { text: "status".into(), answer }).await.ok()?;
    answered.await.ok().filter(|status| status.get("error").is_none())
}

fn plain(status: StatusCode, text: &'static str) -> Answer {
    let mut answer = Response::new(Full::from(text));
    *answer.status_mut() = status;
    answer
}
