//! QoS 2: which packet ids of which client are taken, kept in the ledger so that a repeat after a restart is still
//! one message. Shared by the gateway's core and the hub's.

use std::ops::ControlFlow;

use crate::ledger::{LedgerError, Put, Read, Table};

/// The table of both cores' ledgers that holds taken packet ids: client ‖ 0 ‖ packet id, without value.
pub const TABLE: Table = Table(1);

/// True if this packet id is taken: the message is a repeat and changes nothing.
pub fn is_repeat(ledger: &dyn Read, client: &str, pkid: u16) -> Result<bool, LedgerError> {
    Ok(ledger.get(TABLE, &key(client, pkid))?.is_some())
}

/// Takes the packet id, in the message's own commit.
pub fn take(client: &str, pkid: u16) -> Put {
    Put::set(TABLE, key(client, pkid), [])
}

/// Gives it back, before the PUBCOMP.
pub fn release(client: &str, pkid: u16) -> Put {
    Put::delete(TABLE, key(client, pkid))
}

/// Gives back all that a client had taken: its session is over.
pub fn forget(ledger: &dyn Read, client: &str) -> Result<Vec<Put>, LedgerError> {
    let mut puts = Vec::new();
    ledger.scan_prefix(TABLE, &prefix(client), &mut |key, _| {
        puts.push(Put::delete(TABLE, key));
        ControlFlow::Continue(())
    })?;
    Ok(puts)
}

fn prefix(client: &str) -> Vec<u8> {
    [client.as_bytes(), b"\0"].concat()
}

fn key(client: &str, pkid: u16) -> Vec<u8> {
    [client.as_bytes(), b"\0", &pkid.to_be_bytes()].concat()
}
