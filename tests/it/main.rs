//! Real processes against every promise: hubs and gateways on free ports, killed, cut off and lied to; what they had
//! acknowledged is looked for in their stopped ledgers.

mod backup;
mod bad_broker;
mod bad_disk;
mod bad_input;
mod command_line;
mod conflicts;
mod counts;
mod demo;
mod doctor;
mod elsewhere;
mod faults;
mod fdatasync;
mod forgetting;
mod harness;
mod hub_away;
mod ids;
mod kills;
mod load;
mod metrics;
mod model;
mod movements;
mod partitions;
mod poison;
mod powercut;
mod protobuf;
mod registers;
mod rejects;
mod rejoin;
mod retained;
mod sessions;
mod sync_by_hand;
mod tools_by_hand;
mod torture;
mod verify;
mod versions;
