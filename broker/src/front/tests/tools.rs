//! The command line clients of mosquitto, which are nobody's idea of our own protocol.

use std::process::{Output, Stdio};

use tokio::process::Command;

use super::client::DEADLINE;
use super::harness::*;

/// The tool, or `None` with a notice where it is not installed. `TILLSYNC_REQUIRE_TOOLS=1` makes that a failure.
pub(super) async fn tool(rig: &Rig, name: &str, args: &str) -> Option<tokio::process::Child> {
    let port = rig.addr.port().to_string();
    let mut command = Command::new(name);
    command.args(["-h", "127.0.0.1", "-p", &port]).args(args.split_whitespace()).kill_on_drop(true);
    match command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn() {
        Ok(child) => Some(child),
        Err(error) => {
            assert!(std::env::var_os("TILLSYNC_REQUIRE_TOOLS").is_none_or(|v| v != "1"), "{name}: {error}");
            println!("skipped: {name}: {error}");
            None
        }
    }
}

pub(super) async fn output(child: tokio::process::Child) -> Output {
    tokio::time::timeout(DEADLINE, child.wait_with_output()).await.expect("the tool does not end").unwrap()
}

#[tokio::test]
async fn mosquitto_reads_retained_messages() {
    let rig = Rig::start().await;
    for i in 0..1500 {
        rig.publisher.restore(&format!("hq/{i}"), payload("x"));
    }
    for version in ["mqttv311", "mqttv5"] {
        let Some(sub) = tool(&rig, "mosquitto_sub", &format!("-V {version} -t hq/# -C 1500 -W 15 -F %t=%p=%r")).await
        else {
            return;
        };
        let output = output(sub).await;
        let lines = String::from_utf8(output.stdout).unwrap();
        assert_eq!((lines.lines().count(), output.status.success()), (1500, true), "{version}");
        assert!(lines.lines().all(|line| line.ends_with("=x=1")));
    }
}

#[tokio::test]
async fn mosquitto_publishes_at_every_qos_to_every_version() {
    let rig = Rig::start().await;
    for (i, (from, to, qos)) in ["mqttv311", "mqttv5"]
        .iter()
        .flat_map(|from| ["mqttv311", "mqttv5"].map(|to| (from, to)))
        .flat_map(|(from, to)| [0, 1, 2].map(|qos| (from, to, qos)))
        .enumerate()
    {
        let id = format!("sub{i}");
        let Some(sub) = tool(&rig, "mosquitto_sub", &format!("-V {to} -i {id} -t t/{i}/# -q {qos} -C 3 -W 15")).await
        else {
            return;
        };
        until("subscribed", || rig.shared.router.knows(&format!("t/{i}/#"))).await;
        // The filter is admitted just before the router has it; the tool's SUBACK is not ours to see.
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        for n in 0..3 {
            let args = format!("-V {from} -t t/{i}/x -q {qos} -m message-{n}");
            let published = output(tool(&rig, "mosquitto_pub", &args).await.unwrap()).await;
            assert!(published.status.success(), "{published:?}");
        }
        let output = output(sub).await;
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "message-0\nmessage-1\nmessage-2\n", "{from} {to} {qos}");
    }
    rig.assert_router_lives().await;
}
