//! A killed process keeps its page cache, so kills do not show that anything reached the disk. The system calls do.

use firmware_sim::seam::Fault;

use crate::harness::mqtt::{Link, Packet, Qos};
use crate::harness::node::{Spec, path};
use crate::harness::wait::{holds, until};
use crate::harness::{GTIN, folder, tools};

const CALLS: &str =
    "trace=read,readv,recvfrom,recvmsg,write,writev,sendto,sendmsg,pwrite64,fdatasync,fsync,openat,accept4";
const TOPIC: &str = "dev/traced-1/scan";
/// Its bytes are letters, so that strace shows the PUBACK as `@\2AB`.
const PKID: u16 = u16::from_be_bytes(*b"AB");
const PUBACK: &str = r#""@\2AB""#;

#[tokio::test]
async fn an_fdatasync_lies_between_a_publish_and_its_puback() {
    if !tools::has(&["strace"]) {
        return;
    }
    let (steps, calls) = trace(None).await;
    println!("fdatasync: {steps:?}");
    let (read, puback) = (steps.read.expect("the PUBLISH"), steps.puback.expect("the PUBACK"));
    assert!(read < puback && steps.between() > 0, "no fdatasync of the ledger between the two: {steps:?}\n{calls}");

    // And the trace of one that answers early does not pass.
    let (steps, calls) = trace(Some(Fault::AckEarly)).await;
    println!("fdatasync, acknowledging early: {steps:?}");
    assert!(steps.read < steps.puback && steps.between() == 0, "an early PUBACK must be seen: {steps:?}\n{calls}");
}

/// The system calls of a gateway that takes one publish.
async fn trace(fault: Option<Fault>) -> (Steps, String) {
    let dir = folder();
    let trace = dir.path().join("trace");
    let file = path(&trace);
    // -D: the gateway is our child, strace a bystander.
    let strace = ["strace", "-D", "-f", "-y", "-s", "256", "-o", &file, "-e", CALLS];
    let mut spec = Spec::gateway(dir.path(), "harbour", None).under(&strace);
    if let Some(fault) = fault {
        spec = spec.sabotage(fault);
    }
    let mut gateway = spec.start().await;
    let mut device = Link::open(gateway.addr, "traced-1").await;
    device.throw(Qos::One, PKID, false, TOPIC.as_bytes(), GTIN.as_bytes()).await;
    device.expect_packet(Packet::PubAck(PKID)).await;
    gateway.stop().await;
    let calls = until("strace writes its last line", async || {
        let text = std::fs::read_to_string(&trace).map_err(|e| e.to_string())?;
        let last = text.lines().last().unwrap_or_default();
        let over = text.lines().any(|line| line.contains("+++ exited with 0"));
        holds(over, last).map(|()| text)
    });
    let calls = calls.await;
    (Steps::find(&calls), calls)
}

/// Lines of the trace: where the PUBLISH's read had returned, where fdatasyncs of the ledger began and had returned,
/// and where the PUBACK's write began.
#[derive(Debug, Default)]
struct Steps {
    read: Option<usize>,
    synced: Vec<(usize, usize)>,
    puback: Option<usize>,
}

impl Steps {
    /// Syncs that began after the read and had returned before the PUBACK.
    fn between(&self) -> usize {
        let within = |(began, ended): &&(usize, usize)| self.read < Some(*began) && Some(*ended) < self.puback;
        self.synced.iter().filter(within).count()
    }

    fn find(calls: &str) -> Steps {
        let mut steps = Steps::default();
        // Syncs under way, by thread.
        let mut open: Vec<(&str, usize)> = Vec::new();
        for (at, line) in calls.lines().enumerate() {
            let thread = line.split_whitespace().next().unwrap_or_default();
            let is_read =
                ["read(", "recvfrom(", "readv(", "recvmsg(", "recvfrom resumed", "read resumed", "readv resumed"];
            if steps.read.is_none() && line.contains(TOPIC) && is_read.iter().any(|call| line.contains(call)) {
                steps.read = Some(at);
            }
            if line.contains("fdatasync(") && line.contains("/journal/") {
                match line.contains("<unfinished") {
                    true => open.push((thread, at)),
                    false => steps.synced.push((at, at)),
                }
            }
            if line.contains("fdatasync resumed") && line.ends_with("= 0") {
                let began = open.iter().position(|(by, _)| *by == thread).map(|found| open.remove(found).1);
                steps.synced.extend(began.map(|began| (began, at)));
            }
            if steps.puback.is_none() && line.contains(PUBACK) {
                steps.puback = Some(at);
            }
        }
        steps
    }
}

#[test]
fn a_trace_is_read_right() {
    let trace = [
        r#"7 recvfrom(9<socket:[1]>, "2,\0\21dev/traced-1/scanAB04006381333931", 4096, 0, NULL, NULL) = 46"#,
        "8 fdatasync(5</d/harbour/journal/00000000000000000001.log> <unfinished ...>",
        "8 <... fdatasync resumed>) = 0",
        r#"7 sendto(9<socket:[1]>, "@\2AB", 4, MSG_NOSIGNAL, NULL, 0) = 4"#,
    ];
    let steps = Steps::find(&trace.join("\n"));
    assert_eq!((steps.read, steps.synced, steps.puback), (Some(0), vec![(1, 2)], Some(3)));
    let other_file = Steps::find("8 fdatasync(5</d/harbour/ledger/conf>) = 0");
    assert!(other_file.synced.is_empty());
}
