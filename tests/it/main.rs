//! Real processes against every promise: hubs and gateways on free ports, killed, cut off and lied to; what they had
//! acknowledged is looked for in their stopped ledgers.

mod bad_broker;
mod bad_disk;
mod bad_input;
mod command_line;
mod counts;
mod demo;
mod doctor;
mod elsewhere;
mod faults;
mod fdatasync;
mod harness;
mod hub_away;
mod ids;
mod kills;
mod load;
mod metrics;
mod model;
mod movements;
mod poison;
mod powercut;
mod registers;
mod rejects;
mod retained;
mod sessions;
mod sim;
mod sync_by_hand;
mod tools_by_hand;
mod torture;
mod versions;
