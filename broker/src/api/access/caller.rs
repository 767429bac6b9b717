//! Who asks, and what that lets them do.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a caller may do. Each role may do all that the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// Looks.
    Viewer,
    /// Decides about the business: brings back what a conflict lost.
    Operator,
    /// Decides who belongs.
    Admin,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        })
    }
}

#[derive(Debug, thiserror::Error)]
#[error("viewer, operator or admin")]
pub(crate) struct RoleError;

impl FromStr for Role {
    type Err = RoleError;
    fn from_str(text: &str) -> Result<Role, RoleError> {
        let all = [Role::Viewer, Role::Operator, Role::Admin];
        all.into_iter().find(|role| role.to_string() == text).ok_or(RoleError)
    }
}

/// What the caller's word stands on. Two callers may have one name by different means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Means {
    /// A token that an issuer signed.
    Jwt,
    /// A token that this hub gave out.
    LocalToken,
}

/// Who asks. Made only by verifying a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Caller {
    /// 1 to 256 bytes without control characters.
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) by: Means,
}
