//! What sled's errors come to, by what the caller does next.

use std::io;

use rustix::io::Errno;
use sled::transaction::TransactionError;

use super::error::LedgerError;
use super::sectors::is_of_the_disk;

/// Why a database cannot be used. What is damaged is made anew; what is busy is somebody's.
#[derive(Debug)]
pub(super) enum StoreFault {
    Damaged(String),
    Final(LedgerError),
}

impl StoreFault {
    pub(super) fn into_error(self) -> LedgerError {
        match self {
            StoreFault::Damaged(why) => LedgerError::State(why),
            StoreFault::Final(error) => error,
        }
    }
}

pub(super) fn fault(error: sled::Error) -> StoreFault {
    match error {
        sled::Error::Io(error) if error.to_string().contains("lock") => {
            let why =
                format!("{error}. Another process has it open; stop that one, or ask it through its admin socket");
            StoreFault::Final(LedgerError::Io { doing: "lock the state", why })
        }
        sled::Error::Io(error) if error.raw_os_error() == Some(Errno::NOSPC.raw_os_error()) => {
            let why = format!("{error}. A start may need some room of its own: free 20 MiB and start again");
            StoreFault::Final(LedgerError::Io { doing: "open the state", why })
        }
        // A full disk or a missing right is no damage. A sector that cannot be read is.
        sled::Error::Io(error) if error.raw_os_error().is_some() && !is_of_the_disk(&error) => {
            StoreFault::Final(io_error("open the state", &error))
        }
        error => StoreFault::Damaged(error.to_string()),
    }
}

pub(super) fn transaction_error(error: TransactionError<()>) -> LedgerError {
    let why = match error {
        TransactionError::Abort(()) => "the transaction was aborted".to_owned(),
        TransactionError::Storage(e) => e.to_string(),
    };
    LedgerError::StateWrite { doing: "write the state", why }
}

pub(super) fn read_error(error: sled::Error) -> LedgerError {
    match error {
        sled::Error::Io(error) if is_of_the_disk(&error) => LedgerError::State(error.to_string()),
        sled::Error::Io(error) => io_error("read the state", &error),
        error => LedgerError::State(error.to_string()),
    }
}

pub(super) fn io_error(doing: &'static str, error: &io::Error) -> LedgerError {
    LedgerError::Io { doing, why: error.to_string() }
}
