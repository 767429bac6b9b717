//! The one command of the README holds, and its sabotage switches show that it would say so if it did not.

use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::harness::node::BINARY;
use crate::harness::wait::PATIENCE;

const KEYS: [&str; 12] = [
    "sent",
    "acked",
    "in_ledgers",
    "applied",
    "refused",
    "lost",
    "doubled",
    "stock_cells",
    "stock_mismatches",
    "conflicts",
    "wire_bytes_per_record",
    "catch_up_ms",
];

#[tokio::test]
async fn the_demo_holds() {
    let (code, report, text) = demo(&[]).await;
    assert_eq!(code, Some(0), "{text}");
    for key in KEYS {
        assert!(report[key].is_number(), "{key} in {report}");
    }
    assert_eq!(report.as_object().map(|fields| fields.len()), Some(KEYS.len()), "{report}");
    for key in ["lost", "doubled", "stock_mismatches"] {
        assert_eq!(report[key], 0, "{report}");
    }
    for key in ["sent", "acked", "in_ledgers", "applied", "refused", "stock_cells", "conflicts"] {
        assert!(report[key].as_u64() > Some(0), "the demo must have something to show: {key} in {report}");
    }
    println!("demo: {report}");
}

/// Each fault, and the figure that must give it away.
#[tokio::test]
async fn the_demo_sees_every_sabotage() {
    for (fault, figures) in
        [("drop-record", &["lost", "stock_mismatches"][..]), ("apply-twice", &["doubled"]), ("ack-early", &["lost"])]
    {
        let (code, report, text) = demo(&["--sabotage", fault]).await;
        assert_eq!(code, Some(1), "{fault}: {text}");
        assert!(figures.iter().any(|figure| report[figure].as_u64() > Some(0)), "{fault}: {text}");
        println!("demo --sabotage {fault}: {report}");
    }
}

async fn demo(more: &[&str]) -> (Option<i32>, Value, String) {
    let mut command = Command::new(BINARY);
    command.args(["sim", "demo", "--quick", "--json"]).args(more).kill_on_drop(true);
    let done = timeout(2 * PATIENCE, command.output()).await.expect("the demo ends").expect("run the demo");
    let text = [&done.stdout[..], b"\n", &done.stderr[..]].concat();
    let report = String::from_utf8_lossy(&done.stdout).lines().last().and_then(|line| serde_json::from_str(line).ok());
    (done.status.code(), report.unwrap_or_default(), String::from_utf8_lossy(&text).into_owned())
}
