//! The front over real sockets, with an intake that answers from memory.

mod client;
mod connecting;
mod harness;
mod load;
mod publishing;
mod router_rows;
mod sessions;
mod stopping;
mod subscribing;
mod tls;
mod tools;
