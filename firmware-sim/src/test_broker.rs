//! A real broker for the tests: mosquitto, where it is installed.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tokio::time::{Instant, sleep};

const WAIT: Duration = Duration::from_secs(20);

pub(crate) struct Mosquitto {
    child: Child,
    pub(crate) addr: SocketAddr,
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) async fn mosquitto() -> Option<Mosquitto> {
    let addr = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let port = addr.port().to_string();
    // Debian puts it where a plain user's PATH does not look.
    let start =
        |program: &str| Command::new(program).args(["-p", &port]).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let Ok(child) = start("mosquitto").or_else(|_| start("/usr/sbin/mosquitto")) else {
        eprintln!("SKIPPED: mosquitto is not installed (apt install mosquitto)");
        return None;
    };
    let broker = Mosquitto { child, addr };
    let deadline = Instant::now() + WAIT;
    while tokio::net::TcpStream::connect(addr).await.is_err() {
        assert!(Instant::now() < deadline, "mosquitto does not listen on {addr}");
        sleep(Duration::from_millis(10)).await;
    }
    Some(broker)
}
