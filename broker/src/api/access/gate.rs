//! The layer in front of every handler that needs a token.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Extension, Request, State};
use axum::http::header::{CACHE_CONTROL, HeaderValue};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};

use super::super::Peer;
use super::refusal::Refusal;
use super::{Access, Caller, Role};
use crate::node::wall_ms;

/// Routes behind a token. They come in with the role that they need, and out under the layer that asks for it.
pub(in crate::api) struct Gate {
    access: Arc<Access>,
    routes: Router,
}

impl Gate {
    pub(in crate::api) fn new(access: Arc<Access>) -> Gate {
        Gate { access, routes: Router::new() }
    }

    /// Adds routes for callers of at least this role. At least one route.
    pub(in crate::api) fn at_least(self, role: Role, routes: Router) -> Gate {
        let access = self.access.clone();
        let require = move |request, next| require(access.clone(), role, request, next);
        Gate { routes: self.routes.merge(routes.route_layer(from_fn(require))), ..self }
    }

    pub(in crate::api) fn into_router(self) -> Router {
        self.routes.route_layer(from_fn_with_state(self.access, identify))
    }
}

/// On a response: a token showed who asks, so the connection may stay open for more.
#[derive(Debug, Clone, Copy)]
pub(in crate::api) struct Known;

/// Finds out who asks, for all behind it.
async fn identify(
    State(access): State<Arc<Access>>,
    Extension(Peer(peer)): Extension<Peer>,
    mut request: Request,
    next: Next,
) -> Response {
    let mut response = match access.identify(request.headers(), peer.ip(), wall_ms()).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            let mut response = next.run(request).await;
            response.extensions_mut().insert(Known);
            response
        }
        Err(refusal) => refusal.into_response(),
    };
    // What is behind a token is for its bearer.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Lets nobody through who is not known, or may not.
async fn require(access: Arc<Access>, role: Role, request: Request, next: Next) -> Response {
    let from = request.extensions().get::<Peer>().map(|Peer(peer)| peer.ip());
    match (request.extensions().get::<Caller>(), from) {
        (Some(caller), _) if caller.role >= role => next.run(request).await,
        (Some(caller), Some(from)) => {
            access.refused(Refusal::Role, from, Some(caller));
            Refusal::Role.into_response()
        }
        _ => Refusal::Missing.into_response(),
    }
}
