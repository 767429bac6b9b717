//! Why a client was not let in, and how each protocol version is told.

use super::codec::{Fault, Version};
use super::intake::Refusal;
use super::sessions::ClaimError;
use super::stats::FrontStats;

/// Why there was no CONNACK "success".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Closed without a word: not MQTT, or nothing in time.
    Silent(&'static str),
    Fault(Fault),
    Version,
    ClientId,
    Credentials,
    Authorization,
    AuthMethod,
    WillTopic,
    Will,
    Full,
    /// As many connections of this name as there may be.
    FullName,
    Throttled,
    Unavailable,
}

impl Refused {
    /// The return code of CONNACK; `None` where there is to be no CONNACK.
    pub(super) fn code(self, version: Version) -> Option<u8> {
        let (v311, v5) = match self {
            Refused::Silent(_) => return None,
            Refused::Fault(fault) => return (version == Version::V5).then_some(fault.reason()),
            // Whoever speaks neither version understands at best the oldest answer.
            Refused::Version => (1, 0x84),
            Refused::ClientId => (2, 0x85),
            Refused::Credentials => (4, 0x86),
            Refused::Authorization | Refused::Will => (5, 0x87),
            Refused::AuthMethod => (5, 0x8c),
            Refused::WillTopic => (5, 0x90),
            Refused::Full | Refused::FullName => (3, 0x97),
            Refused::Throttled => (3, 0x9f),
            Refused::Unavailable => (3, 0x88),
        };
        Some(if version == Version::V5 { v5 } else { v311 })
    }

    pub(super) fn count(self, stats: &FrontStats) {
        match self {
            Refused::Silent(_) => {}
            Refused::Fault(fault) => fault.count(stats),
            Refused::Version => stats.refused_version.inc(),
            Refused::ClientId => stats.refused_client_id.inc(),
            Refused::Credentials | Refused::AuthMethod => stats.refused_credentials.inc(),
            Refused::Authorization => stats.refused_authorization.inc(),
            Refused::WillTopic | Refused::Will => stats.refused_will.inc(),
            Refused::Full => stats.refused_full.inc(),
            Refused::FullName => stats.refused_full_name.inc(),
            Refused::Throttled => stats.refused_throttled.inc(),
            Refused::Unavailable => stats.refused_unavailable.inc(),
        }
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Refused {
        match refusal {
            Refusal::BadCredentials => Refused::Credentials,
            Refusal::NotAuthorized => Refused::Authorization,
            Refusal::ClientIdInvalid => Refused::ClientId,
            Refusal::Throttled => Refused::Throttled,
            Refusal::Busy => Refused::Unavailable,
        }
    }
}

impl From<ClaimError> for Refused {
    fn from(error: ClaimError) -> Refused {
        match error {
            ClaimError::Full => Refused::Full,
            ClaimError::Unavailable => Refused::Unavailable,
        }
    }
}
