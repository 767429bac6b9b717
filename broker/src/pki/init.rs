//! `tillsync-broker init`: the hub's CA and its first server certificate.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Args;

use super::authority::Authority;
use super::own::Own;
use super::{SERVER_VALID_MS, read_bounded};
use crate::node::wall_ms;

/// Make the hub's own CA and its server certificate, so that gateways can join and everything is encrypted.
///
/// With --ca and --ca-key it is your CA that issues: both are copied into the data folder. Nothing is ever written over.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 done, 74 it is there already, or the files cannot be used.
Keep DIR/pki: whoever has ca.key can pass for the hub and for any site, and without it every site joins again.")]
pub(crate) struct InitArgs {
    /// The hub's data folder.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Names and addresses by which gateways reach the hub, with commas between them; the first is told to them.
    #[arg(long, value_name = "NAME[,NAME…]", value_delimiter = ',', required = true)]
    name: Vec<String>,
    /// The certificate of your own CA, PEM, with those that signed it after it.
    #[arg(long, value_name = "PEM", requires = "ca_key")]
    ca: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "PEM", requires = "ca")]
    ca_key: Option<PathBuf>,
}

pub(crate) fn init(args: &InitArgs, default: &Path) -> anyhow::Result<()> {
    let dir = args.data.as_deref().unwrap_or(default);
    let now = wall_ms();
    let hosts: Vec<String> = args.name.iter().map(|name| name.trim().to_owned()).filter(|n| !n.is_empty()).collect();
    let Some(first) = hosts.first() else { bail!("--name: at least one name or address of the hub") };
    let authority = match (&args.ca, &args.ca_key) {
        (Some(ca), Some(key)) => Authority::of(text(ca)?, text(key)?)
            .with_context(|| format!("use {} and {}", ca.display(), key.display()))?,
        _ => Authority::create(&format!("tillsync hub {first}").chars().take(64).collect::<String>(), now)?,
    };
    let own = Own::create(dir, authority, &hosts, now, SERVER_VALID_MS)?;
    let facts = own.authority.facts();
    println!("The hub's CA is {}", own.paths.ca.display());
    println!("  key {} (valid until {})", facts.key, crate::node::show::when(facts.not_after_ms));
    println!("Its server certificate is for {}; it renews itself.", hosts.join(", "));
    println!("\nNext, in the configuration (`tillsync-broker config` prints one), so that others reach it:\n");
    println!("  listen = \"0.0.0.0:8883\"    # MQTT over TLS: gateways and monitors");
    println!("  api = \"0.0.0.0:8443\"       # HTTPS: joining and renewing\n");
    println!("Then start it, and for each store:\n");
    println!("  tillsync-broker run --config FILE --data {}", dir.display());
    println!("  tillsync-broker site add harbour --data {}", dir.display());
    Ok(())
}

fn text(path: &Path) -> anyhow::Result<String> {
    read_bounded(path)?.with_context(|| format!("{} is not there", path.display()))
}
