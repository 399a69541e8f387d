//! Real QUIC and TLS over an in-memory network under paused time: seconds of delay cost nothing, and loss is drawn
//! from a seed.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSliceMut};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use dynkv_net::socket::{AsyncUdpSocket, RecvMeta, TokioRuntime, Transmit, UdpPoller};
use dynkv_net::{CallError, Class, ConnectError, Connection, Endpoint, Expect, Options, PeerName, Role};
use tokio::time::Instant;

use crate::support::{Cluster, Node, client_name, echo, node_name, request};

/// A network in which a datagram takes `delay`, or is lost.
#[derive(Debug)]
struct Network {
    inboxes: Mutex<BTreeMap<SocketAddr, Inbox>>,
    delay: Duration,
    fate: Mutex<Fate>,
}

#[derive(Debug, Default)]
struct Inbox {
    datagrams: VecDeque<(SocketAddr, Vec<u8>)>,
    waker: Option<Waker>,
}

#[derive(Debug)]
struct Fate {
    random: u64,
    lost_percent: u64,
    sent: Vec<(Duration, usize)>,
    start: Instant,
}

impl Network {
    fn new(delay: Duration, lost_percent: u64) -> Arc<Network> {
        let fate = Fate { random: 1, lost_percent, sent: Vec::new(), start: Instant::now() };
        Arc::new(Network { inboxes: Mutex::default(), delay, fate: Mutex::new(fate) })
    }

    /// Cuts every cable.
    fn partition(&self) {
        self.fate.lock().unwrap().lost_percent = 100;
    }

    fn endpoint(
        self: &Arc<Self>,
        cluster: &Cluster,
        name: &PeerName,
        addr: SocketAddr,
        options: Options,
    ) -> Endpoint {
        self.inboxes.lock().unwrap().insert(addr, Inbox::default());
        let socket = Arc::new(Socket { network: self.clone(), addr });
        Endpoint::with_socket(socket, Arc::new(TokioRuntime), cluster.identity(name), options).unwrap()
    }

    fn send(self: &Arc<Self>, from: SocketAddr, to: SocketAddr, contents: &[u8]) {
        {
            let mut fate = self.fate.lock().unwrap();
            let at = fate.start.elapsed();
            fate.sent.push((at, contents.len()));
            // xorshift64: enough to choose victims.
            fate.random ^= fate.random << 13;
            fate.random ^= fate.random >> 7;
            fate.random ^= fate.random << 17;
            if fate.random % 100 < fate.lost_percent {
                return;
            }
        }
        let (network, contents) = (self.clone(), contents.to_vec());
        tokio::spawn(async move {
            tokio::time::sleep(network.delay).await;
            let mut inboxes = network.inboxes.lock().unwrap();
            let Some(inbox) = inboxes.get_mut(&to) else { return };
            inbox.datagrams.push_back((from, contents));
            if let Some(waker) = inbox.waker.take() {
                waker.wake();
            }
        });
    }
}

#[derive(Debug)]
struct Socket {
    network: Arc<Network>,
    addr: SocketAddr,
}

#[derive(Debug)]
struct AlwaysWritable;

impl UdpPoller for AlwaysWritable {
    fn poll_writable(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl AsyncUdpSocket for Socket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Box::pin(AlwaysWritable)
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.network.send(self.addr, transmit.destination, transmit.contents);
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut inboxes = self.network.inboxes.lock().unwrap();
        let inbox = inboxes.get_mut(&self.addr).unwrap();
        let Some((from, contents)) = inbox.datagrams.pop_front() else {
            inbox.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        bufs[0][..contents.len()].copy_from_slice(&contents);
        meta[0] =
            RecvMeta { addr: from, len: contents.len(), stride: contents.len(), ecn: None, dst_ip: None };
        Poll::Ready(Ok(1))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.addr)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}

struct World {
    network: Arc<Network>,
    _node: Node,
    _client: Endpoint,
    connection: Connection,
}

fn addr(host: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, host], 7000))
}

async fn world(delay_ms: u64, lost_percent: u64) -> World {
    let cluster = Cluster::new();
    let network = Network::new(Duration::from_millis(delay_ms), lost_percent);
    let options = Options { connect_timeout_ms: 60_000, quic_seed: Some(7), ..Options::default() };
    let node = Node::serving(network.endpoint(&cluster, &node_name("n1"), addr(1), options.clone()), echo);
    let client = network.endpoint(&cluster, &client_name(Role::Writer), addr(2), options);
    let connection = client.connect(addr(1), Expect::AnyNode).await.unwrap();
    World { network, _node: node, _client: client, connection }
}

async fn ask(connection: &Connection, timeout: Duration) -> Result<(), CallError> {
    connection.call(Class::Foreground, request("x"), timeout).await.map(drop)
}

#[tokio::test(start_paused = true)]
async fn a_call_takes_one_round_trip() {
    let world = world(50, 0).await;
    // One round trip for TLS, one to learn that the node has accepted us.
    assert_eq!(world.network.fate.lock().unwrap().start.elapsed().as_millis() / 10, 20);
    let begun = Instant::now();
    for _ in 0..100 {
        ask(&world.connection, Duration::from_secs(5)).await.unwrap();
    }
    let taken = begun.elapsed();
    assert!((Duration::from_millis(9990)..Duration::from_millis(10_200)).contains(&taken), "{taken:?}");
}

#[tokio::test(start_paused = true)]
async fn calls_survive_loss_the_same_way_each_time() {
    let mut runs = Vec::new();
    for _ in 0..5 {
        let world = world(5, 20).await;
        for _ in 0..50 {
            ask(&world.connection, Duration::from_secs(60)).await.unwrap();
        }
        runs.push(std::mem::take(&mut world.network.fate.lock().unwrap().sent));
    }
    assert!(runs[0].len() > 100);
    // Times and lengths, datagram by datagram; the bytes are encrypted under other keys.
    assert!(runs.windows(2).all(|pair| pair[0] == pair[1]));
}

#[tokio::test(start_paused = true)]
async fn a_dead_peer_is_noticed_within_the_idle_timeout() {
    let world = world(1, 0).await;
    // Idle for long: kept alive.
    tokio::time::sleep(Duration::from_secs(60)).await;
    ask(&world.connection, Duration::from_secs(5)).await.unwrap();
    world.network.partition();
    let begun = Instant::now();
    let error = ask(&world.connection, Duration::from_secs(60)).await.unwrap_err();
    assert!(matches!(&error, CallError::Lost { reason, .. } if reason.contains("idle")), "{error}");
    let taken = begun.elapsed();
    assert!((Duration::from_secs(2)..Duration::from_millis(4500)).contains(&taken), "{taken:?}");
    assert!(ask(&world.connection, Duration::from_secs(60)).await.unwrap_err().is_not_sent());
}

#[tokio::test(start_paused = true)]
async fn connecting_to_nobody_takes_exactly_the_time_allowed() {
    let network = Network::new(Duration::from_millis(1), 0);
    let client = network.endpoint(&Cluster::new(), &client_name(Role::Reader), addr(2), Options::default());
    let begun = Instant::now();
    let error = client.connect(addr(9), Expect::AnyNode).await.unwrap_err();
    assert_eq!(error, ConnectError::Unreachable { addr: addr(9), timeout_ms: 2000 });
    assert_eq!(begun.elapsed().as_millis(), 2000);
}
