//! What there is at the listener: one table, from which both the router and the document are made.

use std::sync::Arc;

use axum::Router;
use axum::routing::{MethodRouter, get, patch, post, put};

use super::access::Role;
use super::hub::{self, Questions};
use super::orders::Orders;
use super::{inventory, items, join};
use crate::join::Desk;

/// What handlers need.
#[derive(Clone)]
pub(crate) struct Behind {
    /// Without a CA of its own the hub lets nobody join.
    pub(crate) desk: Option<Arc<Desk>>,
    pub(crate) questions: Questions,
    pub(crate) orders: Orders,
}

/// One method at one path.
pub(super) struct Route {
    pub(super) method: &'static str,
    /// As the document writes it: `/api/stock/{gtin}`.
    pub(super) path: &'static str,
    /// The least role that may ask; `None` needs no token.
    pub(super) role: Option<Role>,
    /// `None` if this hub does not have it.
    pub(super) handler: fn(&Behind) -> Option<MethodRouter>,
    pub(super) about: About,
}

/// What the document says of it.
pub(super) struct About {
    pub(super) id: &'static str,
    pub(super) summary: &'static str,
    /// The schema of its body, if it takes one.
    pub(super) body: Option<&'static str>,
    /// Takes an `Idempotency-Key`.
    pub(super) once: bool,
    /// Conditional headers that it reads.
    pub(super) conditions: &'static [&'static str],
    /// Good answers: status and schema; none for one without a body.
    pub(super) answers: &'static [(u16, Option<&'static str>)],
    /// Problems of its own, and their codes. Those of all paths of a kind come on top.
    pub(super) problems: &'static [(u16, &'static str)],
}

const PLAIN: About =
    About { id: "", summary: "", body: None, once: false, conditions: &[], answers: &[], problems: &[] };

const UNREADABLE: (u16, &str) = (422, "unreadable, gtin_…, units_invalid, reference_invalid, channel_invalid");

/// Every path but that of the document itself.
pub(super) fn all() -> Vec<Route> {
    let mut all = ours();
    all.extend(inventory_routes());
    all.extend(item_routes());
    all
}

fn ours() -> Vec<Route> {
    vec![
        Route {
            method: "get",
            path: "/healthz",
            role: None,
            handler: |_| Some(get(super::health)),
            about: About {
                id: "health",
                summary: "Whether the listener answers; nothing about the business.",
                answers: &[(200, Some("Health"))],
                ..PLAIN
            },
        },
        Route {
            method: "post",
            path: "/join",
            role: None,
            handler: |behind| Some(post(join::join).with_state(behind.desk.clone()?)),
            about: About {
                id: "join",
                summary: "A store's box joins with a code that was given out once.",
                body: Some("JoinRequest"),
                answers: &[(200, Some("Granted"))],
                problems: JOIN_PROBLEMS,
                ..PLAIN
            },
        },
        Route {
            method: "post",
            path: "/renew",
            role: None,
            handler: |behind| Some(post(join::renew).with_state(behind.desk.clone()?)),
            about: About {
                id: "renew",
                summary: "A store's box renews its certificate.",
                body: Some("RenewRequest"),
                answers: &[(200, Some("Granted"))],
                problems: JOIN_PROBLEMS,
                ..PLAIN
            },
        },
        Route {
            method: "get",
            path: "/api/whoami",
            role: Some(Role::Viewer),
            handler: |_| Some(get(hub::whoami)),
            about: About {
                id: "whoami",
                summary: "Who the bearer of the token is.",
                answers: &[(200, Some("Caller"))],
                ..PLAIN
            },
        },
        Route {
            method: "get",
            path: "/api/status",
            role: Some(Role::Viewer),
            handler: |behind| Some(get(hub::status).with_state(behind.questions.clone())),
            about: About {
                id: "status",
                summary: "How the hub is doing: what `tillsync-broker status --json` shows.",
                answers: &[(200, Some("Status"))],
                problems: &[(409, "refused"), (503, "stopping, busy")],
                ..PLAIN
            },
        },
        Route {
            method: "post",
            path: "/api/conflicts/{id}/restore",
            role: Some(Role::Operator),
            handler: |behind| Some(post(hub::restore).with_state(behind.questions.clone())),
            about: About {
                id: "restoreConflict",
                summary: "Brings back the losing side of a conflict, as a new write.",
                body: Some("Restore"),
                answers: &[(200, Some("Restored"))],
                problems: &[(409, "refused"), (422, "unreadable, too_long"), (503, "stopping, busy")],
                ..PLAIN
            },
        },
    ]
}

const JOIN_PROBLEMS: &[(u16, &str)] = &[
    (403, "code_unknown, site_disabled, certificate_refused"),
    (409, "code_used, other_site, site_joined, too_early"),
    (410, "code_expired"),
    (422, "unreadable"),
    (429, "throttled"),
    (500, "failed"),
];

fn inventory_routes() -> Vec<Route> {
    let change = |path, handler, about: About| Route {
        method: "post",
        path,
        role: Some(Role::Operator),
        handler,
        about: About { once: true, ..about },
    };
    let look = |path, handler, about| Route { method: "get", path, role: Some(Role::Viewer), handler, about };
    vec![
        change(
            "/api/inventory/decrement",
            |behind| Some(post(inventory::decrement).with_state(behind.orders.clone())),
            About {
                id: "decrement",
                summary: "Promises units out of an item's pool; of an item without one, moves stock at the named site.",
                body: Some("Decrement"),
                answers: &[(200, Some("Decremented"))],
                problems: &[(409, "not_enough, pooled"), (422, "site_missing, site_unknown, site_invalid"), UNREADABLE],
                ..PLAIN
            },
        ),
        change(
            "/api/inventory/decrement/bulk",
            |behind| Some(post(inventory::decrement_bulk).with_state(behind.orders.clone())),
            About {
                id: "decrementBulk",
                summary: "Up to 100 of them, all or nothing.",
                body: Some("DecrementBulk"),
                answers: &[(200, Some("DecrementedBulk"))],
                problems: &[(409, "not_enough, pooled"), (422, "site_missing, site_unknown, lines_count"), UNREADABLE],
                ..PLAIN
            },
        ),
        change(
            "/api/reservations",
            |behind| Some(post(inventory::reserve).with_state(behind.orders.clone())),
            About {
                id: "reserve",
                summary: "Sets units of an item's pool aside until a deadline.",
                body: Some("Reserve"),
                answers: &[(201, Some("Reservation"))],
                problems: &[(409, "not_enough, not_pooled"), (422, "seconds_invalid, seconds_too_long"), UNREADABLE],
                ..PLAIN
            },
        ),
        change(
            "/api/reservations/bulk",
            |behind| Some(post(inventory::reserve_bulk).with_state(behind.orders.clone())),
            About {
                id: "reserveBulk",
                summary: "Up to 100 of them, all or nothing.",
                body: Some("ReserveBulk"),
                answers: &[(201, Some("ReservationBulk"))],
                problems: &[(409, "not_enough, not_pooled"), (422, "seconds_too_long, lines_count"), UNREADABLE],
                ..PLAIN
            },
        ),
        change(
            "/api/reservations/{id}/commit",
            |behind| Some(post(inventory::commit).with_state(behind.orders.clone())),
            About {
                id: "commitReservation",
                summary: "Its units are promised for good; after the deadline only if as much is still free.",
                body: Some("Nothing"),
                answers: &[(200, Some("Reservation"))],
                problems: &[
                    (404, "reservation_unknown"),
                    (409, "reservation_ended, reservation_expired"),
                    (422, "unreadable"),
                ],
                ..PLAIN
            },
        ),
        change(
            "/api/reservations/{id}/release",
            |behind| Some(post(inventory::release).with_state(behind.orders.clone())),
            About {
                id: "releaseReservation",
                summary: "Its units are free again.",
                body: Some("Nothing"),
                answers: &[(200, Some("Reservation"))],
                problems: &[(404, "reservation_unknown"), (409, "reservation_ended"), (422, "unreadable")],
                ..PLAIN
            },
        ),
        look(
            "/api/reservations/{id}",
            |behind| Some(get(inventory::reservation).with_state(behind.orders.clone())),
            About {
                id: "showReservation",
                summary: "A reservation, for seven days after it ended.",
                answers: &[(200, Some("Reservation"))],
                problems: &[(404, "reservation_unknown"), (503, "stopping, busy")],
                ..PLAIN
            },
        ),
        look(
            "/api/stock/{gtin}",
            |behind| Some(get(inventory::stock).with_state(behind.orders.clone())),
            About {
                id: "showStock",
                summary: "On hand by site and in all, and the item's pool if it has one.",
                answers: &[(200, Some("Stock"))],
                problems: &[(422, "gtin_…"), (503, "stopping, busy")],
                ..PLAIN
            },
        ),
    ]
}

fn item_routes() -> Vec<Route> {
    let (path, role) = ("/api/items/{gtin}", Some(Role::Operator));
    let written = About {
        body: Some("ItemWrite"),
        once: true,
        conditions: &["If-Match", "If-None-Match"],
        answers: &[(200, Some("Item")), (201, Some("Item"))],
        problems: &[
            (412, "version_differs"),
            (422, "unreadable, item_invalid, item_too_large, gtin_…"),
            (428, "version_missing"),
        ],
        ..PLAIN
    };
    vec![
        Route {
            method: "get",
            path,
            role: Some(Role::Viewer),
            handler: |behind| Some(get(items::show).with_state(behind.orders.clone())),
            about: About {
                id: "showItem",
                summary: "An item as all stores have it, with its version as the ETag.",
                conditions: &["If-None-Match"],
                answers: &[(200, Some("Item")), (304, None)],
                problems: &[(404, "item_unknown"), (422, "gtin_…"), (503, "stopping, busy")],
                ..PLAIN
            },
        },
        Route {
            method: "put",
            path,
            role,
            handler: |behind| Some(put(items::put).with_state(behind.orders.clone())),
            about: About {
                id: "putItem",
                summary: "Writes an item; fields that are not named are deleted.",
                ..written
            },
        },
        Route {
            method: "patch",
            path,
            role,
            handler: |behind| Some(patch(items::patch).with_state(behind.orders.clone())),
            about: About { id: "patchItem", summary: "Changes an item's fields; `null` deletes one.", ..written },
        },
    ]
}

impl Route {
    pub(super) fn router(&self, behind: &Behind) -> Option<Router> {
        // axum 0.7 writes `:name`.
        let path = self.path.replace('{', ":").replace('}', "");
        Some(Router::new().route(&path, (self.handler)(behind)?))
    }
}
