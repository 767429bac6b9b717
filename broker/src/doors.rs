//! The hub's doors: which certificate its listeners show, and the HTTPS listener beside MQTT.

use std::sync::Arc;

use anyhow::Context;
use serde_json::Value;
use tokio::sync::watch;

use crate::api::access::Access;
use crate::api::{self, Api};
use crate::config::Config;
use crate::front::Tls;
use crate::hub::Hub;
use crate::identity::SharedBook;
use crate::join::{Desk, DeskRules};
use crate::node::beside::{Answering, Beside};
use crate::node::listen::Encryption;
use crate::node::process::Node;
use crate::node::settings::{Fault, Faults};
use crate::pki::{Keeper, Own, OwnPaths, now_ms};
use crate::sites::SiteOffice;

/// The certificate that both listeners show, if they are encrypted, and the hub's own CA, if `init` made one. A server
/// certificate that ended while the hub was down is renewed here.
pub(crate) fn secure(config: &Config) -> anyhow::Result<(Option<Tls>, Option<Own>)> {
    let fault = |key: &str, found: String, must_be: &str| {
        anyhow::Error::from(Faults(vec![Fault { key: key.into(), found, must_be: must_be.into() }]))
    };
    let paths = OwnPaths::of(&config.data);
    let usable = "the CA and the certificate that `tillsync-broker init` made";
    let unusable = |why: &dyn std::fmt::Display| fault("data", why.to_string(), usable);
    let own = paths.exist().then(|| Own::open(&config.data)).transpose().map_err(|why| unusable(&why))?;
    let tls = match (&config.listen.encryption, &own) {
        (Encryption::Files(tls), _) => Some(tls.clone()),
        (Encryption::Own, Some(own)) => {
            own.renew_server(&[], now_ms(), config.server_cert_valid.as_millis() as u64)
                .map_err(|why| unusable(&why))?;
            Some(Tls::load(&paths.server, &paths.server, &[&paths.ca]).map_err(|why| unusable(&why))?)
        }
        _ => None,
    };
    let yours = matches!(config.listen.encryption, Encryption::Files(_));
    if let (Some(tls), Some(_)) = (&tls, &own) {
        let anchor = tls.anchor_pem().filter(|_| yours);
        if yours && anchor.is_none() {
            let must_be = "the chain up to its CA: gateways that join learn from it what to believe";
            return Err(fault("tls_cert", "(no CA in it)".into(), must_be));
        }
        paths.note_anchor(anchor.as_deref())?;
    }
    Ok((tls, own))
}

/// Looks after the certificate, answers the `site` commands, and opens the HTTPS listener.
pub(crate) async fn open(
    config: &Config,
    tls: Tls,
    own: Option<Own>,
    accounts: SharedBook,
    node: &mut Node<Hub>,
    stopping: &watch::Sender<bool>,
) -> anyhow::Result<()> {
    let mqtt_port = node.local_addr().context("read the listener's address")?.port();
    let yours = matches!(config.listen.encryption, Encryption::Files(_));
    let (kept, desk) = match own {
        None => (None, None),
        Some(own) if yours => (None, Some(desk(config, own, accounts.clone(), mqtt_port)?)),
        Some(own) => {
            let again = Own::open(&config.data).context("read the CA")?;
            (Some(again), Some(desk(config, own, accounts.clone(), mqtt_port)?))
        }
    };
    let keeper = Arc::new(Keeper::new(tls.clone(), kept, config.server_cert_valid.as_millis() as u64));
    tokio::spawn(keeper.clone().run(stopping.subscribe()));
    node.beside(keeper);
    if desk.is_some() {
        // A disabled site is refused at its next CONNECT; the front has no way yet to close one that is there.
        let cut = Arc::new(|site: &str| tracing::info!(%site, "no longer let in"));
        node.beside(Arc::new(SiteOffice { dir: config.data.clone(), accounts, cut }));
    }
    if let Some(addr) = config.api {
        let bound = Api::bind(addr, tls).await;
        let bound = bound
            .with_context(|| format!("listen on {addr} for HTTPS (`api`): is another program using that port?"))?;
        let addr = bound.local_addr().context("read the HTTPS listener's address")?.to_string();
        node.announce(format!("api {addr}"));
        node.beside(Arc::new(ApiAddr(addr)));
        // What it refuses is in the log; who keeps security events is told here.
        let access = Access::open(&config.data, config.issuer.clone(), Box::new(|_| {}));
        let access = Arc::new(access.context("read the local tokens")?);
        tokio::spawn(access.clone().run(stopping.subscribe()));
        node.beside(access.clone());
        let router = api::router(desk.map(Arc::new), access, node.questions());
        tokio::spawn(api::serve(bound, router, stopping.subscribe()));
    }
    Ok(())
}

fn desk(config: &Config, own: Own, accounts: SharedBook, mqtt_port: u16) -> anyhow::Result<Desk> {
    let trust_pem = own.paths.trusted()?.context("read the CA's certificate")?;
    let ms = |span: std::time::Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    Ok(Desk {
        dir: config.data.clone(),
        authority: own.authority,
        accounts,
        rules: DeskRules { site_valid_ms: ms(config.site_cert_valid), renew_grace_ms: ms(config.renew_grace) },
        trust_pem,
        mqtt: match config.advertise.clone() {
            Some((host, port)) => (Some(host), port),
            None => (None, mqtt_port),
        },
        throttle: Default::default(),
        // What it decides is in the log; who keeps security events is told here.
        tell: Box::new(|_, _, _| {}),
    })
}

/// Where the HTTPS listener is, for the status.
struct ApiAddr(String);

impl Beside for ApiAddr {
    fn status(&self, status: &mut Value) {
        status["api"] = self.0.clone().into();
    }

    fn question(&self, _: &[&str]) -> Option<Answering> {
        None
    }
}
