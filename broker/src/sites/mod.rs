//! The hub's sites: who was invited, who joined, who may no longer, whose box is lost.

mod act;
mod commands;
mod lost;

pub(crate) use act::SiteOffice;
pub(crate) use commands::{Site, run};
pub(crate) use lost::of_words;
