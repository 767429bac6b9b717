//! The hub's command line for pools and rights, and for the audit of both: of a running hub by its admin socket; what only
//! looks also works on a stopped one, from its journal.

mod audit;
mod chain;
mod commands;
mod stopped;
mod words;

pub(crate) use self::audit::look_of_words;
pub(crate) use self::commands::{Audit, Pool, Rights, audit, pool, rights};
pub(crate) use self::words::{at_risk, of_words};
