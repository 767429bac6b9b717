//! The hub's sites: who was invited, who joined, who may no longer.

mod act;
mod commands;

pub(crate) use act::SiteOffice;
pub(crate) use commands::{Site, run};
