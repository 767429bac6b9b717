//! The commands that change who belongs. They work with a node that runs, over its admin socket, and on one that is
//! stopped, on its files.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use super::account::{Fingerprint, Kind};
use super::book::Book;
use super::change::{Change, ChangeError, Proof};
use super::guard::shown;
use super::invite::Invite;
use super::rights::Rights;
use super::scheme::Scheme;
use super::{password, pending};
use crate::node::admin::{self, ask_if_running};
use crate::node::note::operator;
use crate::node::{pem, show, wall_ms};
use crate::pki::{self, DeviceCertificate, Facts, OwnPaths};

/// Who may connect.
#[derive(Debug, Subcommand)]
pub enum Accounts {
    /// Let somebody in, and show what to type or scan: once, since only a hash of the password is kept.
    Add(AddArgs),
    /// Show all of them, without anything secret.
    List(Common),
    /// Turn one away until it is enabled; its connections end within a second.
    Disable(NameArgs),
    /// Let one in again that was disabled.
    Enable(NameArgs),
    /// Give one other credentials in the place of all that it has; its connections end within a second.
    Rotate(RotateArgs),
    /// Forget one; its connections end within a second.
    Remove(NameArgs),
}

/// Rights beyond those that each kind has.
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Say what is wrong with a policy file, if anything is.
    Check { file: PathBuf },
    /// Print a policy file to start from.
    Example,
    /// Make the running node read its policy file again. A faulty one changes nothing.
    Reload(Common),
}

#[derive(Debug, Args)]
pub struct Common {
    /// The node's data folder.
    #[arg(long)]
    data: Option<PathBuf>,
    /// One JSON object instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
pub struct NameArgs {
    /// The account's name.
    name: String,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub struct AddArgs {
    /// The name: 1 to 64 of A-Z a-z 0-9 _ : -, as in its topics.
    name: String,
    /// What it is; rights go by it.
    #[arg(long, value_enum)]
    kind: Kind,
    #[command(flatten)]
    proof: ProofArgs,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
pub struct RotateArgs {
    /// The account's name.
    name: String,
    #[command(flatten)]
    proof: ProofArgs,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct ProofArgs {
    /// Issue a certificate of this node's own CA instead of a password: NAME.crt, NAME.key and ca.crt are written into this
    /// folder. The key is nowhere else. If the node shows a certificate of yours (`tls_cert`), add DIR/pki/ca.crt to its
    /// `tls_client_ca`, and give out your CA's certificate in the place of this ca.crt.
    #[arg(long, value_name = "DIR", conflicts_with = "certificate_file")]
    certificate: Option<PathBuf>,
    /// A certificate of it, as PEM, by whose key it is known from then on. It gets no password.
    #[arg(long, value_name = "FILE")]
    certificate_file: Option<PathBuf>,
    /// Host and port at which it reaches this node, for what is shown; a running node knows its own.
    #[arg(long, value_name = "HOST:PORT")]
    at: Option<String>,
}

/// Carries it out. `default` is the data folder if none is named.
pub fn accounts(command: &Accounts, default: &Path, scheme: &'static Scheme) -> anyhow::Result<()> {
    let (name, common) = match command {
        Accounts::List(common) => return list(common, default),
        Accounts::Add(AddArgs { name, common, .. }) | Accounts::Rotate(RotateArgs { name, common, .. }) => {
            (name, common)
        }
        Accounts::Disable(args) | Accounts::Enable(args) | Accounts::Remove(args) => (&args.name, &args.common),
    };
    proto::id::check_name(name).with_context(|| format!("the name {name:?}"))?;
    let dir = common.data.as_deref().unwrap_or(default);
    let Drawn { proof, password, issued } = match command {
        Accounts::Add(AddArgs { proof, .. }) | Accounts::Rotate(RotateArgs { proof, .. }) => {
            drawn(dir, name, proof, scheme)?
        }
        _ => Drawn::default(),
    };
    let change = match command {
        Accounts::Add(args) => Change::Add { kind: args.kind, proof },
        Accounts::Rotate(_) => Change::Rotate(proof),
        Accounts::Disable(_) => Change::Disable,
        Accounts::Enable(_) => Change::Enable,
        Accounts::Remove(_) | Accounts::List(_) => Change::Remove,
    };
    let done = carry_out(dir, name, &change, scheme)?;
    let written = issued.map(|(certificate, into)| write_certificate(name, &certificate, &into)).transpose()?;
    let at = match command {
        Accounts::Add(AddArgs { proof, .. }) | Accounts::Rotate(RotateArgs { proof, .. }) => proof.at.clone(),
        _ => None,
    };
    let tls = done["tls"] == true;
    let at = at.or(done["at"].as_str().map(str::to_owned)).map(|at| (at, tls));
    let invite = Invite { name, password: password.as_deref(), at };
    let shows = matches!(change, Change::Add { .. } | Change::Rotate(_));
    if common.json {
        let mut said = if shows { invite.to_json() } else { json!({ "user": name }) };
        said["done"] = change.to_words().0.into();
        said["running"] = done["running"].clone();
        said["closed"] = done["closed"].clone();
        said["files"] = json!(written);
        println!("{said}");
        return Ok(());
    }
    if shows {
        print!("{}", invite.to_text());
        written.iter().flatten().for_each(|file| println!("written    {}", file.display()));
        if written.is_some() && done["running"] == true && !tls {
            println!("the node takes plain connections now: the certificate counts once it runs with TLS");
        }
    }
    match done["running"] == true {
        true => println!("{name}: done; {} connections ended", show::number(&done["closed"])),
        false => println!("{name}: done; the node is not running and will know when it starts"),
    }
    Ok(())
}

/// Carries out what is about the policy file.
pub fn policy(command: &Policy, default: &Path, scheme: &'static Scheme) -> anyhow::Result<()> {
    match command {
        Policy::Example => print!("{}", scheme.example),
        Policy::Check { file } => {
            let rights = Rights::load(file, scheme)?;
            println!("{}: {} rules, digest {}", file.display(), rights.rules(), rights.digest());
        }
        Policy::Reload(common) => {
            let dir = common.data.as_deref().unwrap_or(default);
            let Some(said) = ask_if_running(dir, &format!("policy reload {}", operator()))? else {
                bail!("no node runs in {}: it reads the file when it starts", dir.display());
            };
            match common.json {
                true => println!("{said}"),
                false => println!("policy: {}", show::number(&said["policy"])),
            }
        }
    }
    Ok(())
}

fn list(common: &Common, default: &Path) -> anyhow::Result<()> {
    let book = Book::load(common.data.as_deref().unwrap_or(default))?;
    if common.json {
        println!("{}", json!({ "accounts": book.iter().map(shown).collect::<Vec<_>>() }));
        return Ok(());
    }
    for account in book.iter() {
        let proof = Proof { password: account.password.clone(), keys: account.keys.clone() };
        let state = if account.disabled { "DISABLED" } else { "enabled" };
        println!("{}  {}  {proof}  {state}  since {}", account.name, account.kind, show::when(account.since_ms));
    }
    println!("{} in all", book.iter().count());
    Ok(())
}

/// New credentials: what is kept of them, and what is shown once.
#[derive(Default)]
struct Drawn {
    proof: Proof,
    password: Option<String>,
    /// And the folder that it goes into.
    issued: Option<(DeviceCertificate, PathBuf)>,
}

fn drawn(dir: &Path, name: &str, args: &ProofArgs, scheme: &Scheme) -> anyhow::Result<Drawn> {
    if let Some(file) = &args.certificate_file {
        let proof = Proof { password: None, keys: vec![key_of(name, file)?] };
        return Ok(Drawn { proof, ..Drawn::default() });
    }
    if let Some(into) = &args.certificate {
        let ca = OwnPaths::of(dir).ca;
        if !scheme.makes_ca && !ca.exists() {
            bail!(
                "there is no {}: `init` makes it; or name a certificate that you have: --certificate-file",
                ca.display()
            );
        }
        let certificate = pki::issue_device(dir, name, wall_ms()).context("issue a certificate")?;
        let proof = Proof { password: None, keys: vec![certificate.key] };
        return Ok(Drawn { proof, issued: Some((certificate, into.clone())), ..Drawn::default() });
    }
    let password = password::draw()?;
    let proof = Proof { password: Some(password::hash(&password)?), keys: vec![] };
    Ok(Drawn { proof, password: Some(password), ..Drawn::default() })
}

fn write_certificate(name: &str, certificate: &DeviceCertificate, into: &Path) -> anyhow::Result<[PathBuf; 3]> {
    std::fs::create_dir_all(into).with_context(|| format!("make the folder {}", into.display()))?;
    let [cert, key, ca] =
        [format!("{name}.crt"), format!("{name}.key"), "ca.crt".to_owned()].map(|file| into.join(file));
    pki::write_private(&key, &certificate.key_pem)?;
    pki::write_public(&cert, &certificate.cert_pem)?;
    pki::write_public(&ca, &certificate.ca_pem)?;
    Ok([cert, key, ca])
}

/// The key of a certificate, which must say the account's name.
fn key_of(name: &str, file: &Path) -> anyhow::Result<Fingerprint> {
    let chain = pem::certificates(file).map_err(anyhow::Error::msg)?;
    let facts = Facts::of(chain.first().context("the file has no certificate")?)?;
    if facts.name != name {
        let said = facts.name;
        bail!("the certificate is for {said:?}, not for {name:?}: its common name must be the account's");
    }
    Ok(facts.key)
}

/// By the running node if there is one, else on its files.
fn carry_out(dir: &Path, name: &str, change: &Change, scheme: &'static Scheme) -> anyhow::Result<Value> {
    let by = operator();
    let (verb, rest) = change.to_words();
    for _ in 0..2 {
        if let Some(said) = ask_if_running(dir, &format!("accounts {verb} {name} {by}{rest}"))? {
            return Ok(said);
        }
        match on_files(dir, name, change, &by, scheme) {
            Err(ChangeError::Started) => {}
            done => return Ok(done.map(|()| json!({ "running": false, "closed": 0 }))?),
        }
    }
    bail!(ChangeError::Started)
}

fn on_files(dir: &Path, name: &str, change: &Change, by: &str, scheme: &'static Scheme) -> Result<(), ChangeError> {
    let now_ms = wall_ms();
    std::fs::create_dir_all(dir).map_err(ChangeError::Audit)?;
    change.forget_codes(dir, name, now_ms)?;
    Book::edit(dir, |book| {
        // A node that has begun to listen has read, or will read, what was written before; what comes now it must hear.
        if admin::is_listening(dir) {
            return Err(ChangeError::Started);
        }
        let event = change.apply(book, name, by, now_ms, scheme)?;
        pending::leave(dir, &event, now_ms).map_err(ChangeError::Audit)
    })
    .map(drop)
}
