//! The hub's configuration. `broker.toml` beside the sources is its manual and its defaults.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use crate::api;
use crate::api::access::{self, IssuerRules};
use crate::front::Rate;
use crate::hub::channel::ReservationLimits;
use crate::hub::{FORGET_EVERY, RightsRules};
use crate::node::caps::{self, Caps};
use crate::node::commands::NodeFlags;
use crate::node::host::Host;
use crate::node::listen::{self, Encryption, Listen, OwnCa};
use crate::node::settings::{Faults, Settings};
use crate::pki::{DAY_MS, OwnPaths, SERVER_VALID_MS, SITE_VALID_MS};

const DAY: Duration = Duration::from_millis(DAY_MS);
/// Shorter than hours is for tests.
const VALID: RangeInclusive<Duration> = Duration::from_secs(2)..=DAY.saturating_mul(3_650);

/// What the `config` command prints; equal to [`Config::default`] by test.
pub const MANUAL: &str = include_str!("../broker.toml");

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    pub data: PathBuf,
    pub listen: Listen,
    /// Where the HTTPS listener is, if anywhere.
    pub api: Option<SocketAddr>,
    /// Requests a second that each caller of it may make.
    pub api_rate: u32,
    pub reservations: ReservationLimits,
    /// Whose signed tokens the HTTPS listener takes, if anybody's.
    pub(crate) issuer: Option<IssuerRules>,
    /// Where gateways are told that MQTT is; without it at the host that they joined at.
    pub advertise: Option<(String, u16)>,
    pub site_cert_valid: Duration,
    pub server_cert_valid: Duration,
    pub renew_grace: Duration,
    pub disk_reserve_bytes: u64,
    pub commit_wait: Duration,
    pub forget_every: Duration,
    /// Who gets how much of what is sold from a pool.
    pub rights: RightsRules,
    pub caps: Caps,
    pub site_rate: Rate,
    pub account_rate: Rate,
    /// Rights beyond those that each kind has.
    pub policy: Option<PathBuf>,
}

impl Default for Config {
    fn default() -> Config {
        Config {
            data: PathBuf::from("/var/lib/tillsync-broker"),
            listen: Listen::default(),
            api: None,
            api_rate: access::RATE,
            reservations: ReservationLimits::default(),
            issuer: None,
            advertise: None,
            site_cert_valid: Duration::from_millis(SITE_VALID_MS),
            server_cert_valid: Duration::from_millis(SERVER_VALID_MS),
            renew_grace: 180 * DAY,
            disk_reserve_bytes: 64 << 20,
            commit_wait: Duration::ZERO,
            forget_every: FORGET_EVERY,
            rights: RightsRules::default(),
            caps: Caps::of(2_000, 1_024, 32),
            // More than a site that catches up sends.
            site_rate: Rate { messages: 20_000, bytes: 256 << 20 },
            account_rate: Rate { messages: 1_000, bytes: 4 << 20 },
            policy: None,
        }
    }
}

impl Config {
    pub fn read(mut settings: Settings, flags: &NodeFlags) -> Result<Config, Faults> {
        flags.apply(&mut settings);
        let default = Config::default();
        let data = settings.parsed("data", "a folder").unwrap_or(default.data);
        let own = OwnPaths::of(&data);
        let own = if own.exist() { OwnCa::Always(own.ca) } else { OwnCa::Absent };
        let listen = listen::read(&mut settings, &own);
        let api = api(&mut settings, &listen, &own);
        let api_rate = settings.number("api_rate", access::RATE.into(), 1..=1_000_000) as u32;
        let held = default.reservations;
        let reservations = ReservationLimits {
            seconds_max: settings.number("reservation_max_s", held.seconds_max, 1..=30 * 86_400),
            open_max: settings.number("reservations_max", held.open_max as u64, 1..=1_000_000) as usize,
        };
        let issuer = access::read(&mut settings, api.is_some());
        let must_be = "host and port such as hub.example:8883";
        let advertise = settings.parsed::<Host>("advertise", must_be).map(|Host(host, port)| (host, port));
        let site_cert_valid = settings.span("site_cert_valid", default.site_cert_valid, VALID);
        let server_cert_valid = settings.span("server_cert_valid", default.server_cert_valid, VALID);
        let renew_grace = DAY * settings.number("renew_grace_days", 180, 0..=3_650) as u32;
        let disk_reserve_bytes = settings.number("disk_reserve_mib", 64, 1..=1 << 20) << 20;
        let commit_wait = Duration::from_millis(settings.number("commit_wait_ms", 0, 0..=1_000));
        let forget_every = Duration::from_secs(settings.number("forget_every_s", FORGET_EVERY.as_secs(), 1..=86_400));
        let rights = settings.table("rights", rights).unwrap_or_default();
        let caps = Caps::read(&mut settings, &default.caps);
        let site_rate = caps::rate(&mut settings, "site", default.site_rate);
        let account_rate = caps::rate(&mut settings, "account", default.account_rate);
        let policy = settings.parsed("policy", "the path of a policy file");
        settings.moved("site", "`tillsync-broker site add`, or `account add NAME --kind site` for one with a password");
        settings.moved("monitor", "`tillsync-broker account add NAME --kind monitor`");
        settings.finish(Some(Config {
            data,
            listen,
            api,
            api_rate,
            reservations,
            issuer,
            advertise,
            site_cert_valid,
            server_cert_valid,
            renew_grace,
            disk_reserve_bytes,
            commit_wait,
            forget_every,
            rights,
            caps,
            site_rate,
            account_rate,
            policy,
        }))
    }
}

fn rights(settings: &mut Settings) -> RightsRules {
    let default = RightsRules::default();
    RightsRules {
        floor: settings.number("floor", default.floor, 0..=1_000_000),
        spread_percent: settings.number("spread_percent", default.spread_percent, 0..=100),
        hub_percent: settings.number("hub_percent", default.hub_percent, 0..=100),
        cover_s: settings.number("cover_s", default.cover_s, 1..=7 * 86_400),
        half_life_s: settings.number("half_life_s", default.half_life_s, 1..=7 * 86_400),
        idle_return_s: settings.number("idle_return_s", default.idle_return_s, 1..=30 * 86_400),
    }
}

/// Where the HTTPS listener is: on loopback if nothing is said and there are certificates for it.
fn api(settings: &mut Settings, listen: &Listen, own: &OwnCa) -> Option<SocketAddr> {
    let encrypted = !matches!(listen.encryption, Encryption::Plain);
    match settings.parsed::<ApiAt>("api", "\"off\", or an address and port such as 127.0.0.1:8443") {
        Some(ApiAt::Off) => None,
        Some(ApiAt::Addr(addr)) if !encrypted => {
            let must_be =
                "left out, or encrypted: `tillsync-broker init` makes certificates, `tls_cert` and `tls_key` are yours";
            settings.fault("api", addr, must_be);
            None
        }
        Some(ApiAt::Addr(addr)) => Some(addr),
        None => matches!(own, OwnCa::Always(_)).then_some(api::DEFAULT_ADDR),
    }
}

enum ApiAt {
    Off,
    Addr(SocketAddr),
}

impl std::str::FromStr for ApiAt {
    type Err = std::net::AddrParseError;
    fn from_str(text: &str) -> Result<ApiAt, Self::Err> {
        if text == "off" { Ok(ApiAt::Off) } else { text.parse().map(ApiAt::Addr) }
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
            let config = Config::read(Settings::parse(text).unwrap(), &NodeFlags::default()).unwrap();
            assert_eq!(config, Config::default());
        }
    }

    #[test]
    fn passwords_are_no_longer_taken_from_here() {
        let read = |text: &str| Config::read(Settings::parse(text).unwrap(), &NodeFlags::default());
        let faults =
            read("[[site]]\nname = \"hill\"\npassword = \"long enough\"\n[[monitor]]\nname = \"m\"\n").unwrap_err();
        let shown = faults.to_string();
        assert!(shown.contains("2 faults") && shown.contains("site add") && shown.contains("account add"), "{shown}");
        assert!(!shown.contains("long enough"), "a password is not printed: {shown}");
    }

    #[test]
    fn open_is_for_loopback_only() {
        let read = |text: &str| Config::read(Settings::parse(text).unwrap(), &NodeFlags::default());
        let faults = read("listen = \"0.0.0.0:1883\"\nopen = true").unwrap_err();
        assert!(faults.to_string().contains("only loopback"), "{faults}");
        assert!(read("listen = \"0.0.0.0:1883\"").unwrap_err().to_string().contains("allow_plain"));
        assert!(read("listen = \"0.0.0.0:1883\"\nallow_plain = true").is_ok());
        let beyond = "metrics = \"0.0.0.0:9465\"\n";
        assert!(read(beyond).unwrap_err().to_string().contains("metrics_beyond_loopback"));
        let listen = read(&format!("{beyond}metrics_beyond_loopback = true")).unwrap().listen;
        assert_eq!(listen.metrics, Some(([0, 0, 0, 0], 9465).into()));
    }
}
