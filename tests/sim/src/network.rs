//! A network in memory: every datagram meets its fate when it is sent.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    io::{self, IoSliceMut},
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
    time::Duration,
};

use dynkv_net::socket::{AsyncUdpSocket, RecvMeta, Transmit, UdpPoller};
use rand::{RngExt, SeedableRng, rngs::StdRng};

/// How long datagrams take. Each draws for itself, so they overtake each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Latency {
    /// Anything between; one in a hundred takes ten times as long.
    Uniform {
        /// At least this.
        min: Duration,
        /// At most this.
        max: Duration,
    },
    /// Half of them take less than twice `typical`, one in a hundred takes a hundred times as long (a Pareto distribution).
    LongTail {
        /// The quickest take this long.
        typical: Duration,
    },
}

/// Nothing is later than this, however long its tail.
const LATENCY_MAX: Duration = Duration::from_secs(20);

impl Latency {
    fn draw(self, random: &mut StdRng) -> Duration {
        let way = match self {
            Latency::Uniform { min, max } => {
                let usual = random.random_range(min..=max);
                if random.random_range(0..100) == 0 { usual * 10 } else { usual }
            }
            Latency::LongTail { typical } => typical * 1000 / random.random_range(1..=1000),
        };
        way.min(LATENCY_MAX)
    }
}

/// What the network does to datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Weather {
    /// How long they take.
    pub latency: Latency,
    /// Of a hundred datagrams, how many are lost.
    pub lost_percent: u32,
    /// Of a hundred datagrams, how many arrive twice.
    pub doubled_percent: u32,
}

impl Weather {
    /// A quiet local network.
    pub const FAIR: Weather = Weather {
        latency: Latency::Uniform { min: Duration::from_micros(100), max: Duration::from_micros(500) },
        lost_percent: 0,
        doubled_percent: 0,
    };
}

impl fmt::Display for Weather {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.latency {
            Latency::Uniform { min, max } => write!(f, "latency {min:?} to {max:?}")?,
            Latency::LongTail { typical } => write!(f, "latency {typical:?} with a long tail")?,
        }
        write!(f, ", {} % lost, {} % doubled", self.lost_percent, self.doubled_percent)
    }
}

/// All links and sockets.
#[derive(Debug)]
pub struct Network {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    random: StdRng,
    weather: Weather,
    /// Directions in which nothing gets through, and how often each was cut.
    cut: BTreeMap<(IpAddr, IpAddr), u32>,
    /// Hosts whose datagrams, in and out, take longer by this.
    slow: BTreeMap<IpAddr, Duration>,
    inboxes: BTreeMap<SocketAddr, Inbox>,
    bindings: u64,
    sent: u64,
}

#[derive(Debug)]
struct Inbox {
    /// Which socket it belongs to: one that was crashed must not read its successor's mail.
    binding: u64,
    datagrams: VecDeque<(SocketAddr, Vec<u8>)>,
    waker: Option<Waker>,
}

/// Datagrams that wait in one socket; more are dropped, as a kernel does: a node asks for buffers of 4 MiB.
const INBOX_MAX: usize = 2_500;

impl Network {
    /// A network whose fates are drawn from `seed`.
    pub fn new(seed: u64) -> Arc<Network> {
        Arc::new(Network {
            state: Mutex::new(State {
                random: StdRng::seed_from_u64(seed),
                weather: Weather::FAIR,
                cut: BTreeMap::new(),
                slow: BTreeMap::new(),
                inboxes: BTreeMap::new(),
                bindings: 0,
                sent: 0,
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what happens to datagrams from now on.
    pub fn set_weather(&self, weather: Weather) {
        self.state().weather = weather;
    }

    /// Lets nothing through from `from` to `to`, until it was mended as often as it was cut.
    pub fn cut(&self, from: IpAddr, to: IpAddr) {
        *self.state().cut.entry((from, to)).or_default() += 1;
    }

    /// Takes back one [`cut`](Network::cut).
    pub fn mend(&self, from: IpAddr, to: IpAddr) {
        let mut state = self.state();
        if let Some(times) = state.cut.get_mut(&(from, to)) {
            *times -= 1;
            if *times == 0 {
                state.cut.remove(&(from, to));
            }
        }
    }

    /// Lets every datagram from and to `host` take longer by `delay`.
    pub fn slow_down(&self, host: IpAddr, delay: Duration) {
        self.state().slow.insert(host, delay);
    }

    /// Fair weather, and no link cut or slow.
    pub fn clear(&self) {
        let mut state = self.state();
        state.weather = Weather::FAIR;
        state.cut.clear();
        state.slow.clear();
    }

    /// Datagrams sent so far.
    pub fn sent(&self) -> u64 {
        self.state().sent
    }

    /// A socket at `address`. An earlier one there is dead from now on.
    pub fn bind(self: &Arc<Network>, address: SocketAddr) -> Arc<Socket> {
        let mut state = self.state();
        state.bindings += 1;
        let binding = state.bindings;
        state.inboxes.insert(address, Inbox { binding, datagrams: VecDeque::new(), waker: None });
        Arc::new(Socket { network: self.clone(), address, binding })
    }

    /// Ends whatever socket is at `address`: what it sends goes nowhere, and nothing reaches it.
    pub fn unbind(&self, address: SocketAddr) {
        self.state().inboxes.remove(&address);
    }

    fn send(self: &Arc<Network>, from: SocketAddr, binding: u64, to: SocketAddr, contents: &[u8]) {
        let ways = {
            let mut state = self.state();
            if state.inboxes.get(&from).is_none_or(|inbox| inbox.binding != binding) {
                return;
            }
            state.sent += 1;
            let weather = state.weather;
            let copies = if state.random.random_range(0..100) < weather.doubled_percent { 2 } else { 1 };
            let mut ways = Vec::new();
            for _ in 0..copies {
                let lost = state.random.random_range(0..100) < weather.lost_percent;
                let way = weather.latency.draw(&mut state.random);
                let delay: Duration = [from, to].iter().filter_map(|end| state.slow.get(&end.ip())).sum();
                if !lost && !state.cut.contains_key(&(from.ip(), to.ip())) {
                    ways.push(way + delay);
                }
            }
            ways
        };
        for way in ways {
            let (network, contents) = (self.clone(), contents.to_vec());
            tokio::spawn(async move {
                tokio::time::sleep(way).await;
                network.deliver(from, to, contents);
            });
        }
    }

    fn deliver(&self, from: SocketAddr, to: SocketAddr, contents: Vec<u8>) {
        let mut state = self.state();
        // What was under way when a link was cut does not arrive either.
        if state.cut.contains_key(&(from.ip(), to.ip())) {
            return;
        }
        let Some(inbox) = state.inboxes.get_mut(&to) else { return };
        if inbox.datagrams.len() < INBOX_MAX {
            inbox.datagrams.push_back((from, contents));
        }
        if let Some(waker) = inbox.waker.take() {
            waker.wake();
        }
    }
}

/// One end of the network, as quinn wants it.
#[derive(Debug)]
pub struct Socket {
    network: Arc<Network>,
    address: SocketAddr,
    binding: u64,
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
        let segment = transmit.segment_size.unwrap_or(transmit.contents.len()).max(1);
        for datagram in transmit.contents.chunks(segment) {
            self.network.send(self.address, self.binding, transmit.destination, datagram);
        }
        Ok(())
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let mut state = self.network.state();
        let Some(inbox) = state.inboxes.get_mut(&self.address).filter(|inbox| inbox.binding == self.binding)
        else {
            // Crashed: whoever polls is a ghost and waits for ever.
            return Poll::Pending;
        };
        let Some((from, contents)) = inbox.datagrams.pop_front() else {
            inbox.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        bufs[0][..contents.len()].copy_from_slice(&contents);
        let len = contents.len();
        meta[0] = RecvMeta { addr: from, len, stride: len, ecn: None, dst_ip: None };
        Poll::Ready(Ok(1))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }

    fn may_fragment(&self) -> bool {
        false
    }
}
