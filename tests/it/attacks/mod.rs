//! A gateway under attack, ten honest devices beside the attackers: every sale of theirs is acknowledged and in the ledger
//! once, nobody honest is sent away, one that comes during the attack is served, memory stays under a stated cap, and the
//! process goes on.
//!
//! Each test prints how much longer the p99 of an acknowledgement is under attack than before it; with `ATTACKS=timed` it
//! must be less than five times as long. For that run them one by one: `--test-threads 1`.

mod honest;
mod hub;
mod identities;
mod packets;
mod sockets;
mod topics;
mod wire;

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use broker::identity::Kind;
use serde_json::Value;
use tempfile::TempDir;

use self::honest::{DEVICES, Honest, Measured, all_sell, name};
use self::wire::Target;
use crate::harness::node::{Node, Spec};
use crate::harness::{SITE, folder, ledgers};

pub(crate) const PASSWORD: &str = "correct horse";
/// Accounts whose passwords the attackers have.
pub(crate) const THIEVES: [&str; 2] = ["thief-1", "thief-2"];
const LATE: &str = "pos-late";
const RATIO_MAX: f64 = 5.0;

pub(crate) struct Attack {
    pub(crate) name: &'static str,
    /// The most that the gateway may ever have had in memory: VmHWM.
    pub(crate) cap_mib: u64,
    /// Besides the defaults.
    pub(crate) config: &'static str,
    pub(crate) tls: bool,
}

/// One that is under attack, and what is to be said of it afterwards.
struct Store {
    gateway: Node,
    target: Target,
    _dir: TempDir,
}

impl Store {
    async fn open(attack: &Attack) -> Store {
        let dir = folder();
        let mut spec = Spec::gateway(dir.path(), SITE, None).closed().config(attack.config);
        for name in (0..DEVICES).map(name).chain([LATE.to_owned()]).chain(THIEVES.map(str::to_owned)) {
            spec = spec.account(&name, Kind::Pos, PASSWORD);
        }
        if attack.tls {
            // Loopback by another name, which is not taken for it.
            spec = spec
                .config("tls_names = \"127.0.0.1\"\n")
                .listen_at("[::ffff:127.0.0.1]:0".parse().expect("an address"));
        }
        let gateway = spec.start().await;
        let addr = ([127, 0, 0, 1], gateway.addr.port()).into();
        let target = match gateway.status().await["certificates"]["listener"]["ca"].as_str() {
            Some(ca) if attack.tls => Target::secured(addr, ca),
            _ => Target { addr, tls: None },
        };
        Store { gateway, target, _dir: dir }
    }

    fn peak_mib(&self) -> u64 {
        peak_mib(&self.gateway)
    }
}

/// The most memory that the process ever had.
pub(crate) fn peak_mib(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.id())).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    let kib: u64 = line.trim().trim_end_matches(" kB").parse().expect("a number");
    kib >> 10
}

/// Attacks while ten devices sell. Gives the status after it, which must show that there was an attack.
pub(crate) async fn under<F, W>(attack: Attack, wage: F) -> Value
where
    F: FnOnce(Target) -> W + Send + 'static,
    W: Future<Output = ()>,
{
    let mut store = Store::open(&attack).await;
    let pid = store.gateway.id();
    let mut devices = Vec::new();
    for n in 0..DEVICES {
        devices.push(Honest::arrive(&store.target, name(n)).await);
    }
    // Before anything is measured, all have sold.
    let over = Arc::new(AtomicBool::new(true));
    let (devices, warm) = all_sell(devices, over.clone()).await;
    let (devices, mut quiet) = all_sell(devices, over).await;

    let over = Arc::new(AtomicBool::new(false));
    let attackers = on_a_thread(store.target.clone(), over.clone(), wage);
    let late = Honest::arrive_late(&store.target, LATE);
    let ((devices, mut attacked), late) = tokio::join!(all_sell(devices, over.clone()), late);
    attackers.join().expect("the attack goes to its end");
    let (_, later) = all_sell(devices.into_iter().chain([late]).collect(), over).await;

    let status = store.gateway.status().await;
    assert_eq!(store.gateway.id(), pid);
    let peak_mib = store.peak_mib();
    let (before, during) = (quiet.p99(), attacked.p99());
    let ratio = during.as_secs_f64() / before.as_secs_f64();
    let ms = |took: Duration| took.as_secs_f64() * 1e3;
    println!("| {} | {:.1} ms | {:.1} ms | {ratio:.1} | {peak_mib} MiB |", attack.name, ms(before), ms(during));
    assert!(peak_mib <= attack.cap_mib, "{}: {peak_mib} MiB, at most {} were to be", attack.name, attack.cap_mib);
    store.gateway.stop().await;
    each_once(&store.gateway, [warm, quiet, attacked, later]);
    if std::env::var("ATTACKS").is_ok_and(|value| value == "timed") {
        assert!(ratio < RATIO_MAX, "{}: an acknowledgement takes {ratio:.1} times as long", attack.name);
    }
    status
}

/// In a store, attackers compute on machines of their own. Here they have a thread to themselves, behind all others, so that
/// what they do does not count as time that the gateway took.
fn on_a_thread<F, W>(target: Target, over: Arc<AtomicBool>, wage: F) -> std::thread::JoinHandle<()>
where
    F: FnOnce(Target) -> W + Send + 'static,
    W: Future<Output = ()>,
{
    std::thread::spawn(move || {
        rustix::process::nice(19).expect("whoever may run may step back");
        // Also if it panics.
        let _over = Over(over);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(wage(target));
    })
}

struct Over(Arc<AtomicBool>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// Every acknowledged sale is in the stopped ledger, once.
fn each_once(gateway: &Node, measured: [Measured; 4]) {
    let mut sales = std::collections::BTreeMap::<String, usize>::new();
    for row in ledgers::of_gateway(gateway.dir()) {
        if row.movement().is_some() && row.device.starts_with("pos-") {
            *sales.entry(row.request).or_default() += 1;
        }
    }
    for id in measured.iter().flat_map(|measured| &measured.requests) {
        assert_eq!(sales.get(id), Some(&1), "the sale {id}");
    }
    assert_eq!(sales.len(), measured.iter().map(|measured| measured.requests.len()).sum::<usize>());
}

pub(crate) fn count(status: &Value, of: &str) -> u64 {
    status["front"][of].as_u64().unwrap_or_else(|| panic!("no {of} in {status}"))
}
