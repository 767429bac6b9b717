//! A small launch over real processes: a hub and five gateways, two cut off, one killed, and every unit sold once.

use serde_json::Value;
use tokio::process::Command;
use tokio::time::timeout;

use crate::harness::node::BINARY;
use crate::harness::wait::PATIENCE;

const SMALL: [&str; 6] = ["--units", "100", "--buyers", "400", "--at-once", "40"];

#[tokio::test]
async fn a_pool_sold_everywhere_at_once_is_sold_once() {
    let (code, report, text) = launch([]).await;
    assert_eq!(code, Some(0), "{text}");
    let wanted = [
        ("units", 100),
        ("promised", 100),
        ("oversold", 0),
        ("refused", 300),
        ("doubled", 0),
        ("missing", 0),
        ("left_over", 0),
        ("unclear", 0),
        ("sold", 100),
    ];
    for (figure, wanted) in wanted {
        assert_eq!(report[figure], wanted, "{figure}: {text}");
    }
    assert!(report["refused_while_stranded"].is_u64() && report["at_once"].as_u64() >= Some(30), "{report}");
    for told in ["are cut off from the hub", "is killed", "runs again", "are back", "everything held"] {
        assert!(text.contains(told), "{told}: {text}");
    }
    println!("launch: {report}");
}

/// Each fault, and a figure that gives it away.
#[tokio::test]
async fn no_sabotage_survives_it() {
    let [early, twice] = ["ack-early", "apply-twice"].map(|fault| launch(["--sabotage", fault]));
    let (early, twice) = tokio::join!(early, twice);
    for (figure, (code, report, text)) in [("missing", early), ("doubled", twice)] {
        assert_eq!(code, Some(1), "{text}");
        assert!(report[figure].as_u64() > Some(0) && text.contains("NOT EVERYTHING HELD"), "{figure}: {text}");
        println!("launch with a fault: {report}");
    }
}

/// The last line of its output, and all of it.
async fn launch<const N: usize>(more: [&str; N]) -> (Option<i32>, Value, String) {
    let mut command = Command::new(BINARY);
    command.args(["sim", "launch", "--json"]).args(SMALL).args(more).kill_on_drop(true);
    let done = timeout(4 * PATIENCE, command.output()).await.expect("the launch ends").expect("run the launch");
    let text = [&done.stdout[..], b"\n", &done.stderr[..]].concat();
    let report = String::from_utf8_lossy(&done.stdout).lines().last().and_then(|line| serde_json::from_str(line).ok());
    (done.status.code(), report.unwrap_or_default(), String::from_utf8_lossy(&text).into_owned())
}
