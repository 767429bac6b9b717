//! The process stops.

use std::time::Duration;

use super::super::*;
use super::client::*;
use super::harness::*;

#[tokio::test]
async fn stopping_finishes_what_is_in_flight() {
    let mut rig = Rig::start().await;
    let mut v3 =
        Client::connect_with(rig.addr, &Connect { will: Some((b"w", "x", &[])), ..Connect::new(V311, "a") }).await;
    let mut v5 = Client::connect(rig.addr, V5, "b").await;
    let mut idle = Client::open(rig.addr, V311).await;
    rig.intake.set(Mode::Hold);
    v3.publish("t/x", "1", 1, 1).await;
    v5.publish("t/x", "2", 1, 2).await;
    rig.intake.until_seen(2).await;
    rig.stop();
    idle.expect_closed().await;
    v5.expect_quiet().await;
    rig.intake.set(Mode::Answer);
    v3.expect(&[0x40, 2, 0, 1]).await;
    v3.expect_closed().await;
    v5.expect(&[0x40, 2, 0, 2]).await;
    v5.expect(&[0xe0, 2, 0x8b, 0]).await;
    v5.expect_closed().await;
    rig.stopped().await;
    assert_eq!((rig.stats.connections.get(), rig.stats.wills.get()), (0, 0), "the devices are well");
    assert!(tokio::net::TcpStream::connect(rig.addr).await.is_err());
}

#[tokio::test]
async fn stopping_has_a_deadline() {
    let mut rig =
        Rig::with(FrontConfig { shutdown_timeout: Duration::from_millis(200), ..FrontConfig::default() }).await;
    let mut client = Client::connect(rig.addr, V5, "a").await;
    rig.intake.set(Mode::Hold);
    client.publish("t/x", "1", 1, 1).await;
    rig.intake.until_seen(1).await;
    rig.stopped().await;
    client.expect_closed().await;
    assert_eq!(rig.stats.connections.get(), 0);
}
