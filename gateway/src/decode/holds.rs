//! Messages about holds: units of an item that is sold from a pool, set aside for a buyer.

use proto::id::Units;
use serde_json::Value;

use super::Limits;
use super::fields::{Fields, gtin, hold_id, op_unknown, reference, text, whole};
use crate::request::{Ask, HoldAsk, NewHold, Refused};

/// How long a hold lasts that does not say it.
const SECONDS: u64 = 600;

pub(super) fn hold(fields: &Fields, limits: &Limits) -> Result<Ask, Refused> {
    let op = text(fields.get("op").unwrap_or(&Value::Null), "op")?;
    let named = || {
        hold_id(fields)?
            .ok_or_else(|| Refused::new("hold_missing", "the message does not say which `hold` it is about"))
    };
    Ok(Ask::Hold(match op {
        "hold" => HoldAsk::Begin(begin(fields, limits)?),
        "commit" => HoldAsk::Commit(named()?),
        "release" => HoldAsk::Release(named()?),
        other => return Err(op_unknown(other, "hold, commit, release")),
    }))
}

fn begin(fields: &Fields, limits: &Limits) -> Result<NewHold, Refused> {
    let units = match fields.get("qty") {
        None | Some(Value::Null) => 1,
        some => whole(some, "qty")?,
    };
    match units {
        0 => return Err(Refused::new("qty_zero", "the quantity is 0")),
        ..0 => return Err(Refused::new("qty_negative", format!("the quantity {units} is negative: release the hold"))),
        1.. if units > limits.units_max => {
            let reason = format!("the quantity {units} is beyond {}: check it", limits.units_max);
            return Err(Refused::new("qty_absurd", reason));
        }
        1.. => {}
    }
    let seconds = match fields.get("seconds") {
        None | Some(Value::Null) => SECONDS.min(limits.hold_s_max),
        Some(seconds) => {
            seconds.as_u64().filter(|seconds| (1..=limits.hold_s_max).contains(seconds)).ok_or_else(|| {
                Refused::new(
                    "seconds_invalid",
                    format!("`seconds` must be a whole number from 1 to {}", limits.hold_s_max),
                )
            })?
        }
    };
    let (hold, gtin, reference) = (hold_id(fields)?, gtin(fields.get("gtin"))?, reference(fields)?);
    Ok(NewHold { hold, gtin, units: Units(units), seconds, reference })
}
