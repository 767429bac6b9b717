//! The gateway's configuration. `gateway.toml` beside the sources is its manual and its defaults.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use broker::front::Rate;
use broker::node::caps::{self, Caps};
use broker::node::commands::NodeFlags;
use broker::node::host::Host;
use broker::node::listen::{self, Listen, OwnCa};
use broker::node::settings::{Fault, Faults, Settings};
use broker::pki::OwnPaths;
use proto::id::{DeviceName, SiteName};
use rustls::pki_types::ServerName;
use tokio::sync::watch;

use crate::core::Rules;
use crate::decode::{Limits, ScanMode};
use crate::hub_tls::HubTls;
use crate::membership::{Joined, Membership};
use crate::privacy::{self, Keys, Personal};
use crate::source::HubSource;

const DAY_S: u64 = 24 * 3600;
/// What a new box hears of the one before reaches back this far, so no hold may be older.
const HOLD_S_MAX: u64 = 7 * DAY_S;
/// What the `config` command prints; equal to [`Config::default`] by test.
pub const MANUAL: &str = include_str!("../gateway.toml");

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// `None` only in the defaults: `run` needs one.
    pub site: Option<SiteName>,
    pub data: PathBuf,
    pub listen: Listen,
    /// Names and addresses of this box, for its own certificate.
    pub tls_names: Vec<String>,
    /// The box has joined a hub, which is where the uplink goes unless `hub` says otherwise.
    pub joined: bool,
    /// Without one the store works for itself.
    pub hub: Option<(String, u16)>,
    pub hub_password: Option<String>,
    pub hub_tls: Option<HubTls>,
    pub reconnect_max: Duration,
    pub limits: broker::ledger::Limits,
    pub commit_wait: Duration,
    pub caps: Caps,
    pub device_rate: Rate,
    /// Rights beyond those that each kind has.
    pub policy: Option<PathBuf>,
    /// Who shows nothing may scan.
    pub anonymous: bool,
    pub requests: Limits,
    /// Open holds at once.
    pub holds_max: usize,
    pub modes: HashMap<DeviceName, ScanMode>,
    /// Streams of the hub's feed besides the registers.
    pub follow: Vec<String>,
    /// Names of fields, and first digits of barcodes, that say who a person is; with commas between them.
    pub personal_fields: String,
    pub personal_scans: String,
}

/// Flags of `run` that stand in for keys of the file.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    pub node: NodeFlags,
    pub site: Option<String>,
    pub hub: Option<String>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            site: None,
            data: PathBuf::from("/var/lib/tillsync-gateway"),
            listen: Listen::default(),
            tls_names: Vec::new(),
            joined: false,
            hub: None,
            hub_password: None,
            hub_tls: None,
            reconnect_max: Duration::from_millis(5_000),
            limits: broker::ledger::Limits {
                journal_bytes_max: 256 << 20,
                disk_reserve_bytes: 64 << 20,
                backlog_s_max: 90 * DAY_S,
                retain_s: 14 * DAY_S,
                evict: true,
            },
            commit_wait: Duration::ZERO,
            caps: Caps::of(200, 128, 8),
            device_rate: Rate { messages: 1_000, bytes: 4 << 20 },
            policy: None,
            anonymous: false,
            requests: Limits::default(),
            holds_max: 10_000,
            modes: HashMap::new(),
            follow: Vec::new(),
            personal_fields: privacy::FIELDS.into(),
            personal_scans: String::new(),
        }
    }
}

impl Config {
    pub fn read(mut settings: Settings, flags: &Flags) -> Result<Config, Faults> {
        flags.node.apply(&mut settings);
        settings.flag("site", flags.site.clone());
        settings.flag("hub", flags.hub.clone());
        let default = Config::default();
        let site = settings.parsed::<SiteName>("site", "the site's name: 1 to 64 of A-Z a-z 0-9 _ : -");
        let data = settings.parsed("data", "a folder").unwrap_or(default.data);
        let listen = listen::read(&mut settings, &OwnCa::BeyondLoopback(OwnPaths::of(&data).ca));
        let tls_names = tls_names(&mut settings);
        let membership = membership(&mut settings, &data);
        let joined = membership.is_some();
        let site = site_of(&mut settings, site, membership);
        let hub = settings.parsed::<Host>("hub", "host and port such as hub.example:1883").map(|Host(h, p)| (h, p));
        let hub_password = settings.parsed("hub_password", "the site's password at the hub");
        let hub_tls = hub_tls(&mut settings);
        if let Some((host, port)) = &hub
            && hub_tls.is_none()
            && !joined
            && !is_loopback(host)
            && !settings.switch("allow_plain", false)
        {
            let must_be = "on loopback, or encrypted (`tillsync-gateway join`, or `hub_tls_ca`), or `allow_plain = \
                           true`: this site's password would cross the network in the clear";
            settings.fault("hub", format!("{host}:{port}"), must_be);
        }
        let reconnect_max = Duration::from_millis(settings.number("reconnect_max_ms", 5_000, 200..=600_000));
        let limits = broker::ledger::Limits {
            journal_bytes_max: settings.number("journal_mib_max", 256, 2..=1 << 20) << 20,
            disk_reserve_bytes: settings.number("disk_reserve_mib", 64, 1..=1 << 20) << 20,
            backlog_s_max: settings.number("backlog_days_max", 90, 1..=36_500) * DAY_S,
            retain_s: settings.number("retain_days", 14, 0..=36_500) * DAY_S,
            evict: true,
        };
        let must_be = "\"*\" for every other site, or sites' names with commas between them";
        let Follow(follow) = settings.parsed("follow", must_be).unwrap_or_default();
        let personal_fields = settings.parsed("personal_fields", "names of fields with commas between them");
        let personal_fields = personal_fields.unwrap_or(default.personal_fields);
        let Digits(personal_scans) =
            settings.parsed("personal_scans", "first digits of barcodes, with commas between them").unwrap_or_default();
        let commit_wait = Duration::from_millis(settings.number("commit_wait_ms", 0, 0..=1_000));
        let caps = Caps::read(&mut settings, &default.caps);
        let device_rate = caps::rate(&mut settings, "device", default.device_rate);
        let policy = settings.parsed("policy", "the path of a policy file");
        let anonymous =
            settings.parsed::<Anonymous>("anonymous", "\"none\" or \"scan\"").is_some_and(|Anonymous(may)| may);
        let requests = Limits {
            payload_bytes_max: (settings.number("payload_kib_max", 64, 1..=512) as usize) << 10,
            units_max: settings.number("units_max", 9_999, 1..=1_000_000) as i64,
            lines_max: settings.number("lines_max", 100, 1..=100) as usize,
            hold_s_max: settings.number("hold_max_s", 86_400, 1..=HOLD_S_MAX),
        };
        let holds_max = settings.number("holds_max", default.holds_max as u64, 1..=1_000_000) as usize;
        let modes = modes(&mut settings);
        settings.finish(Some(Config {
            site,
            data,
            listen,
            tls_names,
            joined,
            hub,
            hub_password,
            hub_tls,
            reconnect_max,
            limits,
            commit_wait,
            caps,
            device_rate,
            policy,
            anonymous,
            requests,
            holds_max,
            modes,
            follow,
            personal_fields,
            personal_scans,
        }))
    }

    pub fn rules(&self, keys: Keys) -> Rules {
        Rules {
            limits: self.requests,
            holds_max: self.holds_max,
            modes: self.modes.clone(),
            has_hub: self.hub.is_some() || self.joined,
            follow: self.follow.clone(),
            personal: Personal::new(&self.personal_fields, &self.personal_scans, keys),
        }
    }

    /// Where the uplink goes, as far as it is said here: the membership says the rest. Reads the TLS files.
    ///
    /// # Errors
    /// One of the files cannot be used.
    pub(crate) fn hub_source(&self, joined: watch::Receiver<Joined>) -> Result<HubSource, Faults> {
        let tls = self.hub_tls.as_ref().map(HubTls::load).transpose().map_err(|found| {
            let must_be = "PEM files that can be read and belong together".into();
            Faults(vec![Fault { key: "hub_tls_ca".into(), found, must_be }])
        })?;
        let (address, password, reconnect_max) = (self.hub.clone(), self.hub_password.clone(), self.reconnect_max);
        Ok(HubSource { address, password, tls, reconnect_max, joined })
    }
}

/// Names for our own certificate.
fn tls_names(settings: &mut Settings) -> Vec<String> {
    let names: String =
        settings.parsed("tls_names", "names and addresses with commas between them").unwrap_or_default();
    let names: Vec<_> = names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect();
    for name in names.iter().filter(|name| ServerName::try_from(name.as_str()).is_err()) {
        settings.fault("tls_names", name, "a DNS name or an address");
    }
    names
}

fn membership(settings: &mut Settings, data: &Path) -> Option<Membership> {
    Membership::load(data).unwrap_or_else(|why| {
        settings.fault("data", why, "a folder whose pki/membership.json can be used");
        None
    })
}

/// The site that is said here, or the one that the box joined as; they must not contradict each other.
fn site_of(settings: &mut Settings, said: Option<SiteName>, membership: Option<Membership>) -> Option<SiteName> {
    let joined: Option<SiteName> = membership.and_then(|membership| membership.site.parse().ok());
    if let (Some(said), Some(joined)) = (&said, &joined)
        && said != joined
    {
        settings.fault("site", said, format!("left out, or {joined}: that is what this box joined as"));
    }
    said.or(joined)
}

fn hub_tls(settings: &mut Settings) -> Option<HubTls> {
    let mut path = |key: &str| settings.parsed::<PathBuf>(key, "the path of a PEM file");
    let (ca, cert, key) = (path("hub_tls_ca"), path("hub_tls_cert"), path("hub_tls_key"));
    match (ca, cert, key) {
        (Some(ca), Some(cert), Some(key)) => Some(HubTls { ca, own: Some((cert, key)) }),
        (Some(ca), None, None) => Some(HubTls { ca, own: None }),
        (None, None, None) => None,
        _ => {
            settings.fault("hub_tls_ca", "(incomplete)", "given, and `hub_tls_cert` and `hub_tls_key` both or neither");
            None
        }
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// What plain barcodes of each device mean.
fn modes(settings: &mut Settings) -> HashMap<DeviceName, ScanMode> {
    let rows = settings.tables("device", |row| {
        let name = row.parsed::<DeviceName>("name", "1 to 64 of A-Z a-z 0-9 _ : -");
        if name.is_none() {
            row.fault("name", "(missing or wrong)", "the device's name, as in dev/{name}/scan");
        }
        let mode = row.parsed::<ScanMode>("mode", "\"lookup\", \"receive\" or \"sell\"").unwrap_or_default();
        row.moved("password", "`tillsync-gateway device add NAME --kind pos`");
        Some((name?, mode))
    });
    let mut modes = HashMap::new();
    for (name, mode) in rows {
        if modes.insert(name.clone(), mode).is_some() {
            settings.fault("device", &name, "listed once");
        }
    }
    modes
}

/// Whether who shows nothing is let in.
struct Anonymous(bool);

impl std::str::FromStr for Anonymous {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Anonymous, Self::Err> {
        match text {
            "none" => Ok(Anonymous(false)),
            "scan" => Ok(Anonymous(true)),
            _ => Err("there is nothing else"),
        }
    }
}

/// Streams of the hub's feed.
#[derive(Default)]
struct Follow(Vec<String>);

impl std::str::FromStr for Follow {
    type Err = proto::id::NameError;
    fn from_str(text: &str) -> Result<Follow, Self::Err> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let stream = |name: &str| match name {
            "*" => Ok("sites".to_owned()),
            name => Ok(format!("site/{}", name.parse::<SiteName>()?)),
        };
        let mut streams = names.map(stream).collect::<Result<Vec<_>, _>>()?;
        streams.sort();
        streams.dedup();
        Ok(Follow(if streams.iter().any(|stream| stream == "sites") { vec!["sites".into()] } else { streams }))
    }
}

/// First digits of barcodes.
#[derive(Default)]
struct Digits(String);

impl std::str::FromStr for Digits {
    type Err = &'static str;
    fn from_str(text: &str) -> Result<Digits, Self::Err> {
        let good = text.split(',').all(|part| part.trim().bytes().all(|b| b.is_ascii_digit()));
        if good { Ok(Digits(text.to_owned())) } else { Err("not digits") }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manual_states_the_defaults() {
        let uncommented: String = MANUAL
            .lines()
            .map(|line| line.strip_prefix("#= ").unwrap_or(line))
            .fold(String::new(), |text, line| text + line + "\n");
        for text in [MANUAL, &uncommented] {
            let config = Config::read(Settings::parse(text).unwrap(), &Flags::default()).unwrap();
            assert_eq!(config, Config::default());
        }
    }

    #[test]
    fn passwords_are_no_longer_taken_from_here() {
        let text = "[[device]]\nname = \"pos-1\"\nmode = \"sell\"\npassword = \"long enough\"\n";
        let faults = Config::read(Settings::parse(text).unwrap(), &Flags::default()).unwrap_err().to_string();
        assert!(faults.contains("device[0].password") && faults.contains("device add"), "{faults}");
        assert!(!faults.contains("long enough"), "a password is not printed: {faults}");
    }

    #[test]
    fn faults_are_told_together_in_the_operators_words() {
        let text = "site = \"süd\"\nhub = \"nowhere\"\nunits_max = 0\n[[device]]\nname = \"pos-1\"\nmode = \"count\"\n";
        let faults = Config::read(Settings::parse(text).unwrap(), &Flags::default()).unwrap_err().to_string();
        for part in ["site = ", "hub = ", "units_max = 0", "device[0].mode"] {
            assert!(faults.contains(part), "{part} is not in {faults}");
        }
    }
}
