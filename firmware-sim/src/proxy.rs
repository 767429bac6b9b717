//! The network between one gateway and the hub: a TCP proxy that can be cut, restored and made slow, and that counts
//! what goes over the wire.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Links at once; further ones wait in the listener's backlog.
const LINKS_MAX: usize = 64;
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// After a failed accept (out of file descriptors, say) it waits this long before the next.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Pieces on their way at once, each way of a link; a sender beyond it waits, as for a slow receiver.
const PIECES_MAX: usize = 256;

/// Bytes that went through, each way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    pub up_bytes: u64,
    pub down_bytes: u64,
}

/// Counts as bytes go through.
#[derive(Debug, Default)]
pub struct Meter {
    up: AtomicU64,
    down: AtomicU64,
}

impl Meter {
    pub fn carried(&self) -> Carried {
        Carried { up_bytes: self.up.load(Ordering::Relaxed), down_bytes: self.down.load(Ordering::Relaxed) }
    }
}

/// Changes the state of a network.
#[derive(Debug, Clone)]
pub struct Weather {
    whole: watch::Sender<bool>,
    delay: watch::Sender<Duration>,
}

impl Weather {
    /// Breaks every link; new ones are closed as soon as they come.
    pub fn cut(&self) {
        self.whole.send_replace(false);
    }

    pub fn restore(&self) {
        self.whole.send_replace(true);
    }

    /// What is sent from now on arrives so much later, each way.
    pub fn delay(&self, by: Duration) {
        self.delay.send_replace(by);
    }
}

/// Dropping it ends the proxy and its links.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    weather: Weather,
    meter: Arc<Meter>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free loopback port and carries every connection to `hub`.
    pub async fn start(hub: SocketAddr) -> io::Result<Proxy> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let (whole, is_whole) = watch::channel(true);
        let (delay, is_delayed) = watch::channel(Duration::ZERO);
        let meter = Arc::new(Meter::default());
        let task = tokio::spawn(serve(listener, hub, Network { whole: is_whole, delay: is_delayed }, meter.clone()));
        Ok(Proxy { addr, weather: Weather { whole, delay }, meter, task })
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Breaks every link; new ones are closed as soon as they come.
    pub fn cut(&self) {
        self.weather.cut();
    }

    pub fn restore(&self) {
        self.weather.restore();
    }

    /// The same and more, for whoever changes it over time.
    pub fn weather(&self) -> &Weather {
        &self.weather
    }

    pub fn carried(&self) -> Carried {
        self.meter.carried()
    }

    /// The count, for whoever watches it.
    pub fn meter(&self) -> Arc<Meter> {
        self.meter.clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The state of the network, as each link sees it.
#[derive(Debug, Clone)]
struct Network {
    whole: watch::Receiver<bool>,
    delay: watch::Receiver<Duration>,
}

async fn serve(listener: TcpListener, hub: SocketAddr, network: Network, meter: Arc<Meter>) {
    let links = Arc::new(Semaphore::new(LINKS_MAX));
    loop {
        let Ok(permit) = links.clone().acquire_owned().await else { return };
        let Ok((site, _)) = listener.accept().await else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        if !*network.whole.borrow() {
            continue;
        }
        let (network, meter) = (network.clone(), meter.clone());
        tokio::spawn(async move {
            carry(site, hub, network, &meter).await;
            drop(permit);
        });
    }
}

/// Carries one link until an end closes it or the network is cut.
async fn carry(site: TcpStream, hub: SocketAddr, network: Network, meter: &Meter) {
    let Network { mut whole, delay } = network;
    let Ok(Ok(hub)) = timeout(CONNECT_WAIT, TcpStream::connect(hub)).await else { return };
    // Without it Nagle's delay would be measured as the product's.
    if site.set_nodelay(true).is_err() || hub.set_nodelay(true).is_err() {
        return;
    }
    let ((site_in, site_out), (hub_in, hub_out)) = (site.into_split(), hub.into_split());
    tokio::select! {
        () = copy(site_in, hub_out, &meter.up, &delay) => {}
        () = copy(hub_in, site_out, &meter.down, &delay) => {}
        // A closed switch means the proxy is gone: the link goes with it.
        _ = whole.wait_for(|whole| !whole) => {}
    }
}

/// A delay is latency, not less bandwidth: what is read is due by the clock, and reading goes on meanwhile.
async fn copy(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    bytes: &AtomicU64,
    delay: &watch::Receiver<Duration>,
) {
    let (line, mut due) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES_MAX);
    let read = async move {
        let mut buffer = vec![0; 16 * 1024];
        while let Ok(got @ 1..) = from.read(&mut buffer).await {
            let at = Instant::now() + *delay.borrow();
            if line.send((at, buffer[..got].to_vec())).await.is_err() {
                return;
            }
        }
    };
    let write = async {
        while let Some((at, piece)) = due.recv().await {
            // The clock of timers is a millisecond coarse: without a delay it is not asked.
            if at > Instant::now() {
                sleep_until(at).await;
            }
            if to.write_all(&piece).await.is_err() {
                return;
            }
            bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
    };
    tokio::pin!(read);
    tokio::select! {
        () = write => {}
        // What was read before the end still arrives.
        () = async { read.as_mut().await; std::future::pending().await } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(5);

    /// Sends back what it gets.
    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (from, to) = stream.into_split();
                let (_, at_once) = watch::channel(Duration::ZERO);
                tokio::spawn(async move { copy(from, to, &AtomicU64::new(0), &at_once).await });
            }
        });
        addr
    }

    async fn knock(proxy: &Proxy) -> Option<TcpStream> {
        let mut link = TcpStream::connect(proxy.addr()).await.ok()?;
        link.write_all(b"hello").await.ok()?;
        let mut answer = [0; 5];
        timeout(WAIT, link.read_exact(&mut answer)).await.unwrap().ok()?;
        (&answer == b"hello").then_some(link)
    }

    #[tokio::test]
    async fn counts_cuts_and_restores() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        let mut link = knock(&proxy).await.expect("a whole network carries");
        assert_eq!(proxy.carried(), Carried { up_bytes: 5, down_bytes: 5 });

        proxy.cut();
        let ended = timeout(WAIT, link.read(&mut [0; 1])).await.expect("a cut ends the link");
        assert!(matches!(ended, Ok(0) | Err(_)));
        assert!(knock(&proxy).await.is_none(), "a cut network carries nothing");

        proxy.restore();
        assert!(knock(&proxy).await.is_some(), "a restored network carries again");
        assert_eq!(proxy.carried(), Carried { up_bytes: 10, down_bytes: 10 });

        proxy.weather().delay(Duration::from_millis(60));
        let asked = Instant::now();
        assert!(knock(&proxy).await.is_some(), "a slow network carries");
        assert!(asked.elapsed() >= Duration::from_millis(120), "both ways are slow: {:?}", asked.elapsed());
    }
}
