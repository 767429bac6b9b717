//! Joining: a one-time code from the hub becomes a site's certificate, and a certificate that nears its end a new one.
//!
//! `code` is what a person types, `book` the codes that the hub gave out, `desk` decides about both requests, `throttle`
//! slows down who guesses. HTTP is in `api`; the gateway's side uses the code from here.

mod book;
mod code;
mod desk;
#[cfg(test)]
mod tests;
mod throttle;

pub(crate) use book::{Invitation, JoinBook, JoinBookError};
pub use code::{Code, CodeError, Pin, Secret};
pub(crate) use desk::{Cut, Desk, DeskRules};
pub use desk::{Granted, JoinRequest, RENEW_CONTEXT, Refused, RenewRequest};
pub(crate) use throttle::Throttle;
