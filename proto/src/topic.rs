//! Topics, built and parsed in this one place.

use std::fmt;
use std::str::FromStr;

use crate::gtin::Gtin;
use crate::id::{DeviceName, NameError, SiteName};

/// What a device may write, `dev/{device}/{kind}` or `dev/{device}/{kind}/pb`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Scan,
    Sale,
    Move,
    Count,
    Hold,
    Item,
    Note,
    Setting,
    Activity,
    Feedback,
}

impl Kind {
    pub const ALL: [Kind; 10] = [
        Kind::Scan,
        Kind::Sale,
        Kind::Move,
        Kind::Count,
        Kind::Hold,
        Kind::Item,
        Kind::Note,
        Kind::Setting,
        Kind::Activity,
        Kind::Feedback,
    ];

    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Scan => "scan",
            Kind::Sale => "sale",
            Kind::Move => "move",
            Kind::Count => "count",
            Kind::Hold => "hold",
            Kind::Item => "item",
            Kind::Note => "note",
            Kind::Setting => "setting",
            Kind::Activity => "activity",
            Kind::Feedback => "feedback",
        }
    }
}

/// How a device writes and is answered: JSON, or protobuf under `…/pb`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Json,
    Protobuf,
}

/// The level that says protobuf.
const PB: &str = "pb";

/// A topic that somebody publishes to us on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inbound {
    /// A device's request at a gateway.
    Device { device: DeviceName, kind: Kind, form: Form },
    /// A gateway's sync message at the hub.
    Up { site: SiteName },
}

/// Why a topic is not one of ours. `code` goes into the refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    #[error("the name in the topic {0}")]
    Name(#[from] NameError),
    #[error("devices write to dev/{{device}}/scan, sale, move, count, hold, item, note, setting, activity or feedback")]
    Unknown,
}

impl TopicError {
    pub fn code(&self) -> &'static str {
        match self {
            TopicError::Name(_) => "name_invalid",
            TopicError::Unknown => "topic_unknown",
        }
    }
}

impl FromStr for Inbound {
    type Err = TopicError;

    fn from_str(topic: &str) -> Result<Self, TopicError> {
        let mut levels = topic.split('/');
        let found = match (levels.next(), levels.next(), levels.next()) {
            (Some("dev"), Some(device), Some(kind)) => {
                let device = device.parse()?;
                let kind = Kind::ALL.into_iter().find(|k| k.as_str() == kind).ok_or(TopicError::Unknown)?;
                let form = match (levels.next(), levels.next()) {
                    (None, _) => Form::Json,
                    (Some(PB), None) => Form::Protobuf,
                    _ => return Err(TopicError::Unknown),
                };
                Inbound::Device { device, kind, form }
            }
            (Some("up"), Some(site), None) => Inbound::Up { site: site.parse()? },
            _ => return Err(TopicError::Unknown),
        };
        Ok(found)
    }
}

/// The device that a topic names, whatever stands behind it; for replies to requests that did not parse.
pub fn device_of(topic: &str) -> Option<DeviceName> {
    let mut levels = topic.split('/');
    if levels.next() != Some("dev") {
        return None;
    }
    levels.next()?.parse().ok()
}

/// How whoever published there wants to be answered.
pub fn form_of(topic: &str) -> Form {
    if topic.rsplit('/').next() == Some(PB) { Form::Protobuf } else { Form::Json }
}

/// A topic that we publish on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outbound<'a> {
    Reply(&'a DeviceName, Form),
    StoreStock(Gtin),
    StoreItem(Gtin),
    StoreSetting(&'a DeviceName),
    /// Another site's stock of an item.
    StoreElsewhere(&'a SiteName, Gtin),
    StoreStatus,
    Down(&'a SiteName),
    HqSite(&'a SiteName),
    HqStock(Gtin),
    HqPool(Gtin),
    HqConflict(&'a str),
    HqReject(&'a SiteName),
    HqAlert(&'a str),
}

impl fmt::Display for Outbound<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Outbound::Reply(device, Form::Json) => write!(f, "dev/{device}/reply"),
            Outbound::Reply(device, Form::Protobuf) => write!(f, "dev/{device}/reply/{PB}"),
            Outbound::StoreStock(gtin) => write!(f, "store/stock/{gtin}"),
            Outbound::StoreItem(gtin) => write!(f, "store/item/{gtin}"),
            Outbound::StoreSetting(device) => write!(f, "store/setting/{device}"),
            Outbound::StoreElsewhere(site, gtin) => write!(f, "store/elsewhere/{site}/{gtin}"),
            Outbound::StoreStatus => write!(f, "store/status"),
            Outbound::Down(site) => write!(f, "down/{site}"),
            Outbound::HqSite(site) => write!(f, "hq/sites/{site}/status"),
            Outbound::HqStock(gtin) => write!(f, "hq/stock/{gtin}"),
            Outbound::HqPool(gtin) => write!(f, "hq/pools/{gtin}"),
            Outbound::HqConflict(id) => write!(f, "hq/conflicts/{id}"),
            Outbound::HqReject(site) => write!(f, "hq/rejects/{site}"),
            Outbound::HqAlert(what) => write!(f, "hq/alerts/{what}"),
        }
    }
}

/// The topic of a gateway's sync messages.
pub fn up(site: &SiteName) -> String {
    format!("up/{site}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_what_devices_and_gateways_write() {
        let written = |name: &str, kind, form| Ok(Inbound::Device { device: name.parse().unwrap(), kind, form });
        let device = |name: &str, kind| written(name, kind, Form::Json);
        let rows = [
            ("dev/pos-1/sale/pb", written("pos-1", Kind::Sale, Form::Protobuf)),
            ("dev/pos-1/sale/pb/", Err(TopicError::Unknown)),
            ("dev/pos-1/sale/PB", Err(TopicError::Unknown)),
            ("dev/pos-1/reply/pb", Err(TopicError::Unknown)),
            ("dev/pos-1/pb", Err(TopicError::Unknown)),
            ("dev/pos-1/sale", device("pos-1", Kind::Sale)),
            ("dev/pos-1/hold", device("pos-1", Kind::Hold)),
            ("dev/scanner-1/scan", device("scanner-1", Kind::Scan)),
            ("up/harbour", Ok(Inbound::Up { site: "harbour".parse().unwrap() })),
            ("dev/pos-1/reply", Err(TopicError::Unknown)),
            ("dev/pos-1", Err(TopicError::Unknown)),
            ("dev/pos-1/sale/", Err(TopicError::Unknown)),
            ("dev/pos-1/sale/x", Err(TopicError::Unknown)),
            ("dev//sale", Err(TopicError::Name(NameError::Empty))),
            ("dev/pos 1/sale", Err(TopicError::Name(NameError::BadChar(' ')))),
            ("store/stock/04006381333931", Err(TopicError::Unknown)),
            ("", Err(TopicError::Unknown)),
        ];
        for (topic, expected) in rows {
            assert_eq!(topic.parse::<Inbound>(), expected, "{topic}");
        }
        for kind in Kind::ALL {
            assert_eq!(format!("dev/d/{}", kind.as_str()).parse(), device("d", kind));
            assert_eq!(format!("dev/d/{}/pb", kind.as_str()).parse(), written("d", kind, Form::Protobuf));
        }
    }

    #[test]
    fn builds_what_we_publish() {
        let gtin: Gtin = "4006381333931".parse().unwrap();
        assert_eq!(Outbound::HqStock(gtin).to_string(), "hq/stock/04006381333931");
        assert_eq!(Outbound::HqSite(&"harbour".parse().unwrap()).to_string(), "hq/sites/harbour/status");
        let pos = "pos-1".parse().unwrap();
        assert_eq!(Outbound::Reply(&pos, Form::Json).to_string(), "dev/pos-1/reply");
        assert_eq!(Outbound::Reply(&pos, Form::Protobuf).to_string(), "dev/pos-1/reply/pb");
        assert_eq!((form_of("dev/pos-1/nonsense/pb"), form_of("dev/pb/sale")), (Form::Protobuf, Form::Json));
        assert_eq!(device_of("dev/pos-1/nonsense/x"), Some("pos-1".parse().unwrap()));
        assert_eq!(device_of("dev/p s/sale"), None);
    }
}
