//! What callers with a token ask of the hub and its core: the same questions as on the admin socket.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::{JsonRejection, PathRejection};
use axum::extract::{Extension, Path, State};
use axum::http::StatusCode;
use proto::id::Seq;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use super::Problem;
use super::access::Caller;
use crate::conflicts::to_words;
use crate::hub::Ask;
use crate::node::admin::Question;
use crate::node::note::NOTE_BYTES_MAX;

/// A busy hub may take this long to answer.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// Where questions go.
pub(crate) type Questions = mpsc::Sender<Question>;
type Answer = Result<Json<Value>, Problem>;

/// `GET /api/whoami`
pub(super) async fn whoami(Extension(caller): Extension<Caller>) -> Json<Caller> {
    Json(caller)
}

/// `GET /api/status`
pub(super) async fn status(State(questions): State<Questions>) -> Answer {
    ask(&questions, "status".into()).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Restore {
    #[serde(default)]
    why: String,
}

/// `POST /api/conflicts/{id}/restore`: the journal says that the caller did it.
pub(super) async fn restore(
    State(questions): State<Questions>,
    Extension(caller): Extension<Caller>,
    conflict: Result<Path<u64>, PathRejection>,
    asked: Result<Json<Restore>, JsonRejection>,
) -> Answer {
    let Path(id) = conflict.map_err(|why| Problem::new(why.status(), "unreadable", why.body_text()))?;
    let Json(Restore { why }) = asked.map_err(|why| Problem::new(why.status(), "unreadable", why.body_text()))?;
    if why.len() > NOTE_BYTES_MAX {
        let detail = format!("`why` takes at most {NOTE_BYTES_MAX} bytes");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "too_long", detail));
    }
    ask(&questions, to_words(&Ask::Restore { conflict: Seq(id), by: caller.name, why })).await
}

async fn ask(questions: &Questions, text: String) -> Answer {
    let (answer, answered) = oneshot::channel();
    let asked = async {
        questions.send(Question { text, answer }).await.ok()?;
        answered.await.ok()
    };
    match tokio::time::timeout(ANSWER_WAIT, asked).await {
        Ok(Some(value)) => match value["error"].as_str() {
            // The hub's own words; it does not say of which kind they are.
            Some(why) => Err(Problem::new(StatusCode::CONFLICT, "refused", why)),
            None => Ok(Json(value)),
        },
        Ok(None) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "the hub is stopping").after_s(1)),
        Err(_) => {
            let detail = format!("no answer within {} s; what was asked for may still be done", ANSWER_WAIT.as_secs());
            Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail).after_s(ANSWER_WAIT.as_secs()))
        }
    }
}
