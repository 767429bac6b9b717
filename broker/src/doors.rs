//! The hub's doors: which certificate its listeners show, and the HTTPS listener beside MQTT.

use std::sync::Arc;

use anyhow::Context;
use serde_json::Value;
use tokio::sync::watch;

use crate::api::access::{self, Access};
use crate::api::{self, Api, Behind, Orders};
use crate::config::Config;
use crate::front::Tls;
use crate::hub::Hub;
use crate::identity::audit::What;
use crate::identity::{Guard, SecurityEvent};
use crate::join::{Cut, Desk, DeskRules};
use crate::node::beside::{Answering, Beside};
use crate::node::listen::Encryption;
use crate::node::process::Node;
use crate::node::settings::{Fault, Faults};
use crate::node::wall_ms;
use crate::pki::{Keeper, Own, OwnPaths};
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
            own.renew_server(&[], wall_ms(), config.server_cert_valid.as_millis() as u64)
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

/// Answers the `site` commands. Returns how the connections of a site are ended.
pub(crate) fn sites(config: &Config, node: &mut Node<Hub>) -> Cut {
    let (disconnector, guard) = (node.disconnector(), node.guard());
    let cut: Cut = Arc::new(move |site: &str| {
        let closed = disconnector.close_where(|who| who.name.as_deref() == Some(site));
        tracing::info!(%site, closed, "no longer let in as before");
    });
    let (dir, accounts, audit) = (config.data.clone(), guard.book.clone(), guard.audit.clone());
    node.beside(Arc::new(SiteOffice { dir, accounts, cut: cut.clone(), audit }));
    cut
}

/// Looks after the certificate, and opens the HTTPS listener.
pub(crate) async fn open(
    config: &Config,
    tls: Tls,
    own: Option<Own>,
    cut: Cut,
    node: &mut Node<Hub>,
    stopping: &watch::Sender<bool>,
) -> anyhow::Result<()> {
    let mqtt_port = node.local_addr().context("read the listener's address")?.port();
    let yours = matches!(config.listen.encryption, Encryption::Files(_));
    let guard = node.guard();
    let (kept, desk) = match own {
        None => (None, None),
        Some(own) if yours => (None, Some(desk(config, own, &guard, cut, mqtt_port)?)),
        Some(own) => {
            let again = Own::open(&config.data).context("read the CA")?;
            (Some(again), Some(desk(config, own, &guard, cut, mqtt_port)?))
        }
    };
    let keeper = Arc::new(Keeper::new(tls.clone(), kept, config.server_cert_valid.as_millis() as u64));
    tokio::spawn(keeper.clone().run(stopping.subscribe()));
    node.beside(keeper);
    if let Some(addr) = config.api {
        let bound = Api::bind(addr, tls).await;
        let bound = bound
            .with_context(|| format!("listen on {addr} for HTTPS (`api`): is another program using that port?"))?;
        let addr = bound.local_addr().context("read the HTTPS listener's address")?.to_string();
        node.announce(format!("api {addr}"));
        node.beside(Arc::new(ApiAddr(addr)));
        let audit = guard.audit.clone();
        let tell = Box::new(move |event: access::Event<'_>| audit.tell(security_event(event)));
        let access = Access::open(&config.data, config.issuer.clone(), tell);
        let access = Arc::new(access.context("read the local tokens")?.at_rate(config.api_rate));
        tokio::spawn(access.clone().run(stopping.subscribe()));
        node.beside(access.clone());
        let orders = Orders::new(node.handle(), node.reader());
        let behind = Behind { desk: desk.map(Arc::new), questions: node.questions(), orders };
        let router = api::router(access, &behind);
        tokio::spawn(api::serve(bound, router, stopping.subscribe()));
    }
    Ok(())
}

/// What the journal is told of tokens. Who changes the file of local ones is not known, only that an operator may.
fn security_event(event: access::Event<'_>) -> SecurityEvent {
    let told =
        |what, who: &str, by: &str, peer, detail| SecurityEvent { what, who: who.into(), by: by.into(), peer, detail };
    match event {
        access::Event::Refused { who, from, why } => {
            told(What::TokenRefused, who, "", from.to_canonical().to_string(), why.to_string())
        }
        access::Event::Added(name) => told(What::TokenAdded, name, "operator", String::new(), String::new()),
        access::Event::Removed(name) => told(What::TokenRemoved, name, "operator", String::new(), String::new()),
    }
}

fn desk(config: &Config, own: Own, guard: &Guard, cut: Cut, mqtt_port: u16) -> anyhow::Result<Desk> {
    let trust_pem = own.paths.trusted()?.context("read the CA's certificate")?;
    let ms = |span: std::time::Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
    Ok(Desk {
        dir: config.data.clone(),
        authority: own.authority,
        accounts: guard.book.clone(),
        rules: DeskRules { site_valid_ms: ms(config.site_cert_valid), renew_grace_ms: ms(config.renew_grace) },
        trust_pem,
        mqtt: match config.advertise.clone() {
            Some((host, port)) => (Some(host), port),
            None => (None, mqtt_port),
        },
        throttle: Default::default(),
        cut,
        audit: guard.audit.clone(),
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
