//! The shipped proof: it holds, it would say so if it did not, and it plays the same plan to a rival.

use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::harness::node::BINARY;
use crate::harness::tools;
use crate::harness::wait::PATIENCE;

const FIGURES: [&str; 8] = ["seed", "cycles", "kills", "kills_in_start", "acked", "found", "lost", "doubled"];

#[tokio::test]
async fn what_was_acknowledged_survives_a_short_torture() {
    let (code, report, text) = torture(&["--cycles", "6"]).await;
    assert_eq!(code, Some(0), "{text}");
    shape(&report, "tillsync", 6);
    assert_eq!((&report["lost"], &report["doubled"]), (&0.into(), &0.into()), "{text}");
    assert!(report["acked"].as_u64() > Some(0), "{report}");
    assert_eq!(report["found"], report["acked"], "{text}");
    println!("torture: {report}");
}

/// Each fault, and the figure that must give it away.
#[tokio::test]
async fn no_sabotage_survives_it() {
    for (fault, figure) in [("ack-early", "lost"), ("drop-record", "lost"), ("apply-twice", "doubled")] {
        let (code, report, text) = torture(&["--cycles", "6", "--sabotage", fault]).await;
        assert_eq!(code, Some(1), "{fault}: {text}");
        assert!(report[figure].as_u64() > Some(0), "{fault}: {text}");
        let told = ["NOT EVERYTHING HELD", "the plan of seed 1"];
        assert!(told.iter().all(|told| text.contains(told)), "what to play again is told: {text}");
        println!("torture --sabotage {fault}: {report}");
    }
}

/// Its figures are what they are.
#[tokio::test]
async fn the_same_plan_is_played_to_mosquitto() {
    // Debian puts it where a plain user's PATH does not look; the command looks there, too.
    if firmware_sim::mosquitto::find().is_err() && !tools::has(&["mosquitto"]) {
        return;
    }
    let (code, report, text) = torture(&["--cycles", "3", "--peer", "mosquitto"]).await;
    assert_eq!(code, Some(0), "{text}");
    shape(&report, "mosquitto", 3);
    println!("torture --peer mosquitto: {report}");
}

fn shape(report: &Value, peer: &str, cycles: u64) {
    assert_eq!((&report["peer"], &report["cycles"]), (&peer.into(), &cycles.into()), "{report}");
    for figure in FIGURES {
        assert!(report[figure].is_u64(), "{figure} in {report}");
    }
    let sum = ["found", "lost"].iter().filter_map(|figure| report[figure].as_u64()).sum::<u64>();
    assert_eq!(report["acked"], sum, "{report}");
    assert!(report["kills"].as_u64() >= Some(cycles), "{report}");
}

/// The last line of its output, and all of it.
async fn torture(more: &[&str]) -> (Option<i32>, Value, String) {
    let mut command = Command::new(BINARY);
    command.args(["sim", "torture", "--json"]).args(more).kill_on_drop(true);
    let done = timeout(4 * PATIENCE, command.output()).await.expect("the torture ends").expect("run the torture");
    let text = [&done.stdout[..], b"\n", &done.stderr[..]].concat();
    let report = String::from_utf8_lossy(&done.stdout).lines().last().and_then(|line| serde_json::from_str(line).ok());
    (done.status.code(), report.unwrap_or_default(), String::from_utf8_lossy(&text).into_owned())
}
