//! `tillsync-gateway join`: a one-time code becomes this site's certificate.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use broker::join::{Code, Granted, JoinRequest};
use broker::ledger::owner;
use broker::node::host::Host;
use broker::node::show;
use broker::pki::{self, OwnKey};
use clap::Args;

use super::Membership;
use super::https::{PostError, post};
use super::pinned::Pinned;
use crate::config::Config;

/// Join the hub with the code that `tillsync-broker site add` printed there.
///
/// A key is made that never leaves this box, and the hub certifies it. Before anything secret is sent, the hub must show
/// that it has the key that the code names. A gateway that runs goes on, and finds the hub within seconds; the store's
/// ledger and name stay. If the answer was lost, say the same again.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 joined, 74 not (the message says why and what to do).")]
pub(crate) struct JoinArgs {
    /// Host and port of the hub's HTTPS, such as hub.example:8443.
    hub: Host,
    /// The code; dashes and case do not count.
    code: Code,
    /// The gateway's data folder.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

pub(crate) fn join(args: &JoinArgs) -> anyhow::Result<()> {
    let dir = args.data.clone().unwrap_or_else(|| Config::default().data);
    let Host(host, port) = &args.hub;
    let key = pending_key(&dir)?;
    let site = owner(&dir)?.map(|ledger| ledger.site.to_string());
    let asked = JoinRequest { secret: args.code.secret.to_string(), request: key.request_pem()?, site: site.clone() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("start the runtime")?;
    let granted = runtime.block_on(ask((host, *port), &args.code, &asked))?;
    if let Some(site) = site.filter(|site| *site != granted.site) {
        bail!("the code is for {}, and the ledger in {} is {site}'s", granted.site, dir.display());
    }
    let membership = Membership::of(granted, &key, (host, *port))?;
    membership.save(&dir)?;
    pki::remove(&pending_path(&dir))?;
    println!("Joined as {}: certificate until {}", membership.site, show::when(membership.facts()?.not_after_ms));
    println!("MQTT at {}:{}; it renews itself.", membership.mqtt_host, membership.mqtt_port);
    println!("A running gateway connects now; else:  tillsync-gateway run --data {}", dir.display());
    Ok(())
}

async fn ask(hub: (&str, u16), code: &Code, asked: &JoinRequest) -> anyhow::Result<Granted> {
    let (config, foreign) = Pinned::config(code.pin)?;
    match post(hub, config, "/join", asked).await {
        Ok(granted) => Ok(granted),
        Err(_) if foreign.get().is_some() => bail!(
            "whoever answers at {}:{} does not have the key that the code names: a wrong address, a code of another hub, \
             or somebody in between. Nothing was sent",
            hub.0,
            hub.1
        ),
        Err(PostError::Refused { detail, .. }) => bail!("the hub refused: {detail}"),
        Err(PostError::Away(why)) => bail!("the hub at {}:{}: {why}; say the same again", hub.0, hub.1),
    }
}

/// The key that is asked for. It is kept until the answer is, so that an answer that was lost can come again.
fn pending_key(dir: &Path) -> anyhow::Result<OwnKey> {
    let path = pending_path(dir);
    if let Some(pem) = pki::read_bounded(&path)? {
        return OwnKey::of_pem(&pem).with_context(|| format!("read {}; remove it to start over", path.display()));
    }
    let key = OwnKey::draw()?;
    pki::make_folder(dir)?;
    pki::make_folder(&dir.join("pki"))?;
    pki::write_private(&path, &key.pem())?;
    Ok(key)
}

fn pending_path(dir: &Path) -> PathBuf {
    dir.join("pki").join("join.key")
}
