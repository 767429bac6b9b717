//! What a caller's body may say: read strictly, so that nobody learns from the stock that a field was misspelt.

use std::collections::BTreeMap;

use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use proto::gtin::Gtin;
use proto::id::{SiteName, check_name};
use proto::register::VALUE_BYTES_MAX;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::Problem;
use crate::hub::channel::{FIELDS_MAX, Line, LinesOf};

/// Lines of a bulk request.
pub(super) const LINES_MAX: usize = 100;
pub(super) const UNITS_MAX: u32 = 1_000_000;
pub(super) const REFERENCE_CHARS_MAX: usize = 64;
/// As at the gateways.
const NAME_CHARS_MAX: usize = 200;
const CENTS_MAX: i64 = 1_000_000_000;
/// Bytes of all values of one write of an item.
const VALUES_BYTES_MAX: usize = 2 * VALUE_BYTES_MAX;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Decrement {
    gtin: String,
    units: u32,
    site: Option<String>,
    reference: Option<String>,
    channel: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reserve {
    gtin: String,
    units: u32,
    seconds: Option<u64>,
    reference: Option<String>,
    channel: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Bulk<T> {
    lines: Vec<T>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// `{gtin, units, site?, reference?, channel?}`
pub(super) fn decrement(headers: &HeaderMap, body: &Bytes) -> Result<LinesOf, Problem> {
    json::<Decrement>(headers, body)?.line().map(LinesOf::One)
}

pub(super) fn decrements(headers: &HeaderMap, body: &Bytes) -> Result<LinesOf, Problem> {
    many(json::<Bulk<Decrement>>(headers, body)?, Decrement::line)
}

/// `{gtin, units, seconds?, reference?}`
pub(super) fn reserve(headers: &HeaderMap, body: &Bytes) -> Result<LinesOf, Problem> {
    json::<Reserve>(headers, body)?.line().map(LinesOf::One)
}

pub(super) fn reserves(headers: &HeaderMap, body: &Bytes) -> Result<LinesOf, Problem> {
    many(json::<Bulk<Reserve>>(headers, body)?, Reserve::line)
}

/// No body, or an empty object.
pub(super) fn nothing(headers: &HeaderMap, body: &Bytes) -> Result<(), Problem> {
    if body.is_empty() {
        return Ok(());
    }
    json::<Nothing>(headers, body).map(|Nothing {}| ())
}

/// `{name?, price_cents?, attrs?: {…}}`, by the names of the registers' fields. `null` deletes.
pub(super) fn item(headers: &HeaderMap, body: &Bytes) -> Result<BTreeMap<String, Option<Bytes>>, Problem> {
    let mut fields = BTreeMap::new();
    for (name, value) in json::<Map<String, Value>>(headers, body)? {
        match (name.as_str(), value) {
            ("name", value) => {
                let good = value.is_null() || value.as_str().is_some_and(|name| name.chars().count() <= NAME_CHARS_MAX);
                let why = || format!("`name` is text of at most {NAME_CHARS_MAX} characters, or null");
                fields.insert(name, register_value(good, value, why)?);
            }
            ("price_cents", value) => {
                let good = value.is_null() || value.as_i64().is_some_and(|cents| (0..=CENTS_MAX).contains(&cents));
                let why = || format!("`price_cents` is a whole number from 0 to {CENTS_MAX}, or null");
                fields.insert(name, register_value(good, value, why)?);
            }
            ("attrs", Value::Object(attrs)) => {
                for (attr, value) in attrs {
                    let field = format!("attr:{attr}");
                    let good = check_name(&field).is_ok() && !value.is_object() && !value.is_array();
                    let why = || format!("the attribute {:?} is no name, or no single value", cut(&attr));
                    fields.insert(field, register_value(good, value, why)?);
                }
            }
            ("attrs", _) => return Err(Problem::invalid("item_invalid", "`attrs` is an object of names and values")),
            (other, _) => {
                let why = format!("{:?} is none of `name`, `price_cents` and `attrs`", cut(other));
                return Err(Problem::invalid("item_invalid", why));
            }
        }
    }
    let bytes: usize = fields.values().flatten().map(Bytes::len).sum();
    if fields.len() > FIELDS_MAX || bytes > VALUES_BYTES_MAX {
        let why = format!("at most {FIELDS_MAX} fields and {VALUES_BYTES_MAX} bytes are written at once");
        return Err(Problem::invalid("item_invalid", why));
    }
    Ok(fields)
}

fn register_value(good: bool, value: Value, why: impl FnOnce() -> String) -> Result<Option<Bytes>, Problem> {
    if !good {
        return Err(Problem::invalid("item_invalid", why()));
    }
    let text = value.to_string();
    if text.len() > VALUE_BYTES_MAX {
        return Err(Problem::invalid("item_invalid", format!("a value has at most {VALUE_BYTES_MAX} bytes")));
    }
    Ok((!value.is_null()).then(|| text.into()))
}

fn json<T: DeserializeOwned>(headers: &HeaderMap, body: &Bytes) -> Result<T, Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/json") && !kind.eq_ignore_ascii_case("application/merge-patch+json") {
        let why = "the body must be `content-type: application/json`";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unreadable", why));
    }
    serde_json::from_slice(body).map_err(|why| {
        let status = if why.is_data() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::BAD_REQUEST };
        Problem::new(status, "unreadable", why.to_string())
    })
}

fn many<T>(bulk: Bulk<T>, line: impl Fn(T) -> Result<Line, Problem>) -> Result<LinesOf, Problem> {
    if !(1..=LINES_MAX).contains(&bulk.lines.len()) {
        let why = format!("{} lines; 1 to {LINES_MAX} are taken at once", bulk.lines.len());
        return Err(Problem::invalid("lines_count", why));
    }
    bulk.lines.into_iter().map(line).collect::<Result<_, _>>().map(LinesOf::Many)
}

impl Decrement {
    fn line(self) -> Result<Line, Problem> {
        let site = |name: String| {
            let wrong = |why| Problem::invalid("site_invalid", format!("the site's name {:?} {why}", cut(&name)));
            name.parse::<SiteName>().map_err(wrong)
        };
        let site = self.site.map(site).transpose()?;
        let line = line(&self.gtin, self.units, self.reference, self.channel)?;
        Ok(Line { site, ..line })
    }
}

impl Reserve {
    fn line(self) -> Result<Line, Problem> {
        if self.seconds == Some(0) {
            return Err(Problem::invalid("seconds_invalid", "a reservation lasts at least one second"));
        }
        let line = line(&self.gtin, self.units, self.reference, self.channel)?;
        Ok(Line { seconds: self.seconds, ..line })
    }
}

fn line(digits: &str, units: u32, reference: Option<String>, channel: Option<String>) -> Result<Line, Problem> {
    if !(1..=UNITS_MAX).contains(&units) {
        return Err(Problem::invalid("units_invalid", format!("{units} units; from 1 to {UNITS_MAX} are taken")));
    }
    let (reference, channel) = (reference.unwrap_or_default(), channel.unwrap_or_default());
    if reference.chars().count() > REFERENCE_CHARS_MAX {
        let why = format!("`reference` has at most {REFERENCE_CHARS_MAX} characters");
        return Err(Problem::invalid("reference_invalid", why));
    }
    if let (false, Err(why)) = (channel.is_empty(), check_name(&channel)) {
        return Err(Problem::invalid("channel_invalid", format!("the channel's name {why}")));
    }
    Ok(Line { gtin: gtin(digits)?, units, site: None, seconds: None, reference, channel })
}

pub(super) fn gtin(digits: &str) -> Result<Gtin, Problem> {
    digits.parse().map_err(|why: proto::gtin::GtinError| Problem::invalid(why.code(), why.to_string()))
}

/// Enough of a text to find it again.
fn cut(text: &str) -> String {
    text.chars().take(80).collect()
}
