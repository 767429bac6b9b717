//! The listener's own router: what each path answers to whom.

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use hyper::service::Service;
use hyper_util::service::TowerToHyperService;
use tokio::sync::mpsc;

use super::super::caller::Role;
use super::super::local::Tokens;
use super::*;
use crate::api::tests::hub_in;
use crate::api::{Behind, Orders, Peer, router};

/// The paths that need a token, with the least role.
const PATHS: [(&str, &str, Role); 3] = [
    ("GET", "/api/whoami", Role::Viewer),
    ("GET", "/api/status", Role::Viewer),
    ("POST", "/api/conflicts/7/restore", Role::Operator),
];

struct Door {
    _dir: TempDir,
    router: Router,
    tokens: Vec<(Role, String)>,
}

impl Door {
    /// Nobody takes questions, so a handler that is reached answers 503.
    fn new() -> Door {
        let dir = tempfile::tempdir().unwrap();
        let roles = [("v", Role::Viewer), ("o", Role::Operator), ("a", Role::Admin)];
        let tokens = roles.map(|(name, role)| {
            let now = crate::node::wall_ms();
            (role, Tokens::edit(dir.path(), |tokens| tokens.add(name, role, now, None)).unwrap().to_string())
        });
        let access = Arc::new(Access::open(dir.path(), None, Box::new(|_| {})).unwrap());
        // The writer never begins, and is gone.
        let (_, writer, reader) = hub_in(&dir.path().join("hub"));
        let orders = Orders::new(writer, reader);
        let router = router(access, &Behind { desk: None, questions: mpsc::channel(1).0, orders });
        Door { _dir: dir, router, tokens: tokens.into() }
    }

    async fn ask(&self, method: &str, path: &str, authorization: &[&str]) -> Response<Body> {
        let mut request = Request::builder().method(method).uri(path).header("content-type", "application/json");
        for value in authorization {
            request = request.header("authorization", *value);
        }
        let mut request = request.body(Body::from("{}")).unwrap();
        request.extensions_mut().insert(Peer((HERE, 1).into()));
        TowerToHyperService::new(self.router.clone()).call(request).await.unwrap()
    }
}

fn challenge(response: &Response<Body>) -> Option<&str> {
    response.headers().get("www-authenticate").map(|value| value.to_str().unwrap())
}

#[tokio::test]
async fn no_handler_is_reached_without_a_token_of_its_role() {
    let door = Door::new();
    for (method, path, least) in PATHS {
        let bare = door.ask(method, path, &[]).await;
        assert_eq!((bare.status(), challenge(&bare)), (StatusCode::UNAUTHORIZED, Some("Bearer")), "{path}");
        assert_eq!(bare.headers()["content-type"], "application/problem+json");
        assert_eq!(bare.headers()["cache-control"], "no-store");
        for (role, token) in &door.tokens {
            let answer = door.ask(method, path, &[&format!("Bearer {token}")]).await;
            let (status, challenge) = (answer.status(), challenge(&answer));
            if *role < least {
                let low = (StatusCode::FORBIDDEN, Some("Bearer error=\"insufficient_scope\""));
                assert_eq!((status, challenge), low, "{path} as {role}");
            } else {
                let reached = if path == "/api/whoami" { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
                assert_eq!((status, challenge), (reached, None), "{path} as {role}");
            }
        }
    }
}

#[tokio::test]
async fn no_other_spelling_of_a_path_gets_around_it() {
    let door = Door::new();
    let odd = [
        "/api/status/",
        "//api/status",
        "/./api/status",
        "/x/../api/status",
        "/api/%73tatus",
        "/API/status",
        "/api/status?access_token=x",
        "/api/status;v=1",
        "/api",
        "/api/",
        "/api/conflicts/7/restore/",
        "/api/whoami%00",
    ];
    for path in odd {
        for method in ["GET", "POST", "HEAD", "OPTIONS", "PUT", "TRACE"] {
            let status = door.ask(method, path, &[]).await.status();
            assert!(status.is_client_error(), "{method} {path}: {status}");
        }
    }
    // What needs none is as open as before.
    assert_eq!(door.ask("GET", "/healthz", &[]).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn an_answer_says_no_more_than_that_the_token_is_not_good() {
    let door = Door::new();
    let mut answers = Vec::new();
    for wrong in ["tst_", "a.b.c", "eyJhbGciOiJub25lIn0.e30."] {
        let answer = door.ask("GET", "/api/status", &[&format!("Bearer {wrong}")]).await;
        assert_eq!(
            (answer.status(), challenge(&answer)),
            (StatusCode::UNAUTHORIZED, Some("Bearer error=\"invalid_token\""))
        );
        answers.push(axum::body::to_bytes(answer.into_body(), 10_000).await.unwrap());
    }
    assert!(answers.windows(2).all(|two| two[0] == two[1]), "{answers:?}");
    let two = door.ask("GET", "/api/status", &["Bearer a", "Bearer b"]).await;
    assert_eq!((two.status(), challenge(&two)), (StatusCode::BAD_REQUEST, Some("Bearer error=\"invalid_request\"")));
    let basic = door.ask("GET", "/api/status", &["Basic YTpi"]).await;
    assert_eq!((basic.status(), challenge(&basic)), (StatusCode::UNAUTHORIZED, Some("Bearer")));
}

#[tokio::test]
async fn whoever_fails_often_waits_also_with_a_good_token() {
    let door = Door::new();
    let good = format!("bearer {}", door.tokens[0].1);
    for _ in 0..20 {
        assert_eq!(door.ask("GET", "/api/whoami", &[]).await.status(), StatusCode::UNAUTHORIZED, "none is no failure");
    }
    for _ in 0..10 {
        assert_eq!(door.ask("GET", "/api/whoami", &["Bearer tst_x"]).await.status(), StatusCode::UNAUTHORIZED);
    }
    for token in ["Bearer tst_x", &good] {
        let answer = door.ask("GET", "/api/whoami", &[token]).await;
        assert_eq!(answer.status(), StatusCode::TOO_MANY_REQUESTS);
        let wait: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
        assert!((1..=6).contains(&wait), "{wait}");
    }
}
