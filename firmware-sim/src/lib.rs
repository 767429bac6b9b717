//! Scanners and POS terminals that behave as real ones do, badly too, and the demo that plays three weeks of three
//! stores through them; the torture that kills, cuts and counts; the launch that sells one pool everywhere at once; and the
//! bench that says how fast.
//!
//! The devices, the oracle and the audit share no code with the nodes they judge beyond `proto`'s chunk format.

pub mod audit;
pub mod bench;
pub mod cli;
pub mod client;
pub mod demo;
pub mod device;
pub mod door;
mod folder;
pub mod http;
pub mod launch;
pub mod load;
pub mod log;
pub mod monitor;
pub mod mosquitto;
pub mod mqtt;
pub mod nodes;
pub mod oracle;
pub mod plan;
pub mod postgres;
pub mod proxy;
pub mod request;
pub mod retail;
pub mod seam;
pub mod status;
pub mod torture;

#[cfg(test)]
mod test_broker;
