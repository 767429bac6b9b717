//! The front over real sockets, with an intake that answers from memory.

mod client;
mod connecting;
mod harness;
mod load;
mod mailboxes;
mod publishing;
mod revoking;
mod router_dies;
mod router_rows;
mod sessions;
mod stalled;
mod stopping;
mod subscribing;
mod tls;
mod tools;
