//! What all clones of a client share: connections, the view of the cluster, and how a request finds a node.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

use dynkv_net::{CallError, Class};
use dynkv_proto::{Digest, Failure, FailureCode, Frame, Message, PutId, View, ViewReply, kinds};
use dynkv_ring::{NodeId, PartitionId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout_at};

use crate::attempts::{Attempts, Next, Repeat, Setback};
use crate::health::{Health, Reach};
use crate::pool::Pool;
use crate::view::ClusterView;
use crate::{Error, Options};

/// The pause after every node was tried in vain; it doubles up to the maximum.
const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How long one node may take to tell its view.
const VIEW_LIMIT: Duration = Duration::from_secs(1);
/// While histories spread, answers differ: one digest asks for one refresh in this time.
const NEWS_PAUSE: Duration = Duration::from_secs(1);
/// A coordinator is told this much less than its caller waits, so that its answer arrives in time.
const ANSWER_SHARE: u32 = 10;

/// Who may answer a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A home of the partition, or any node that forwards to one.
    Partition(PartitionId),
    /// Any node.
    Any,
    /// This one.
    Node(NodeId),
}

/// How a request is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) target: Target,
    /// The home that had best be asked first.
    pub(crate) preferred: Option<NodeId>,
    pub(crate) repeat: Repeat,
    pub(crate) class: Class,
    pub(crate) deadline: Instant,
}

/// A successful answer, read.
pub(crate) struct Answer<T> {
    pub(crate) value: T,
    /// The digest of the responder's history, where the answer has one.
    pub(crate) view: Digest,
}

pub(crate) struct Inner {
    /// For tasks in the background, which must not keep a client alive that nobody uses any more.
    me: Weak<Inner>,
    pub(crate) pool: Arc<Pool>,
    pub(crate) options: Options,
    pub(crate) cluster: String,
    pub(crate) seeds: Vec<String>,
    view: RwLock<Arc<ClusterView>>,
    /// Held while a new view is made out of the old one.
    updating: Mutex<()>,
    /// Held by the one refresh that is under way.
    refreshing: tokio::sync::Mutex<()>,
    refreshed: AtomicU64,
    news: Mutex<Option<(Digest, Instant)>>,
    health: Mutex<Health>,
    random: Mutex<StdRng>,
    refresher: OnceLock<AbortHandle>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inner {
    pub(crate) fn new(pool: Arc<Pool>, cluster: String, seeds: Vec<String>, options: Options) -> Arc<Inner> {
        let random = match options.seed {
            Some(seed) => StdRng::seed_from_u64(seed),
            None => rand::make_rng(),
        };
        Arc::new_cyclic(|me| Inner {
            me: me.clone(),
            pool,
            options,
            cluster,
            seeds,
            view: RwLock::new(Arc::new(ClusterView::new())),
            updating: Mutex::default(),
            refreshing: tokio::sync::Mutex::default(),
            refreshed: AtomicU64::new(0),
            news: Mutex::default(),
            health: Mutex::default(),
            random: Mutex::new(random),
            refresher: OnceLock::new(),
        })
    }

    pub(crate) fn put_id(&self) -> PutId {
        PutId(lock(&self.random).random())
    }

    pub(crate) fn view(&self) -> Arc<ClusterView> {
        self.view.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Replaces the view by what `change` makes of it; says whether it did.
    pub(crate) fn update<E>(
        &self,
        change: impl FnOnce(&ClusterView) -> Result<Option<ClusterView>, E>,
    ) -> Result<bool, E> {
        let _one_at_a_time = lock(&self.updating);
        let Some(view) = change(&self.view())? else { return Ok(false) };
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
        Ok(true)
    }

    /// Makes a request until it is answered, cannot be, or its time is up.
    ///
    /// `request` makes the frame from what is left of the deadline, in milliseconds, and whether an earlier attempt may
    /// have been carried out. `read` reads a frame that is not a failure.
    pub(crate) async fn run<T>(
        &self,
        call: Call,
        mut request: impl FnMut(u32, bool) -> Frame,
        read: impl Fn(&Frame) -> Result<Answer<T>, Setback>,
    ) -> Result<T, Error> {
        let mut attempts = Attempts::new(call.repeat);
        let mut pause = PAUSE_FIRST;
        'round: loop {
            let view = self.view();
            for node in self.candidates(&view, &call)? {
                loop {
                    let left = call.deadline.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        break 'round;
                    }
                    let limit = attempts.limit(left);
                    let timeout_ms = millis(limit - limit / ANSWER_SHARE);
                    let retry = attempts.is_retry();
                    let answered =
                        self.ask(&view, node, call.class, limit, || request(timeout_ms, retry)).await;
                    let setback = match answered.and_then(|frame| read(&frame)) {
                        Ok(answer) => {
                            self.observe(node, answer.view);
                            return Ok(answer.value);
                        }
                        Err(setback) => setback,
                    };
                    tracing::debug!(%node, ?setback, "attempt failed");
                    self.blame(node, &setback);
                    match attempts.after(node, setback) {
                        Next::Same => {}
                        Next::Other => break,
                        Next::Refresh => {
                            // Without a newer view the next node may still know better.
                            let _ = self.refresh(Some(node), call.deadline).await;
                            if self.view().digest() != view.digest() {
                                continue 'round;
                            }
                            break;
                        }
                        Next::GiveUp => return Err(attempts.into_error()),
                    }
                }
            }
            let left = call.deadline.saturating_duration_since(Instant::now());
            if left <= pause {
                break;
            }
            sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Err(attempts.into_error())
    }

    /// The nodes to ask, best first. Connections to homes that have none are begun on the way.
    fn candidates(&self, view: &ClusterView, call: &Call) -> Result<Vec<NodeId>, Error> {
        let now = Instant::now();
        let rank = |nodes: Vec<NodeId>, preferred| -> Vec<NodeId> {
            let mut nodes: Vec<_> = nodes.into_iter().map(|node| (node, self.reach(view, node))).collect();
            lock(&self.health).rank(&mut nodes, preferred, now);
            nodes.into_iter().map(|(node, _)| node).collect()
        };
        match call.target {
            Target::Node(node) => Ok(vec![node]),
            Target::Any => {
                let mut nodes: Vec<NodeId> =
                    view.membership().members().map(|state| state.member.id).collect();
                if nodes.is_empty() {
                    nodes = self.pool.nodes();
                    nodes.extend(view.nodes().map(|info| info.id));
                    nodes.sort_unstable();
                    nodes.dedup();
                }
                Ok(rank(nodes, call.preferred))
            }
            Target::Partition(_) if !view.membership().founded() => Err(self.not_founded()),
            Target::Partition(partition) => {
                let homes = view.ring().homes(partition);
                let others = view.ring().preference(partition).map(|member| member.id);
                let others = others.filter(|id| !homes.contains(id)).collect();
                let mut nodes = rank(homes.to_vec(), call.preferred.filter(|node| homes.contains(node)));
                nodes.extend(rank(others, None));
                Ok(nodes)
            }
        }
    }

    pub(crate) fn not_founded(&self) -> Error {
        let message = format!(
            "cluster '{}' has not been founded yet: run `dyn cluster create`, or wait until it is",
            self.cluster
        );
        Error::refused(FailureCode::NotServing, message)
    }

    /// Whether `node` can be reached; begins to connect where nothing stands against it, so that later requests find a connection.
    fn reach(&self, view: &ClusterView, node: NodeId) -> Reach {
        let reach = self.pool.reach(node);
        if reach != Reach::Up
            && let Some(info) = view.node(&node)
        {
            self.pool.prepare(node, &info.address);
        }
        reach
    }

    /// One attempt at one node, connecting included.
    async fn ask(
        &self,
        view: &ClusterView,
        node: NodeId,
        class: Class,
        limit: Duration,
        frame: impl FnOnce() -> Frame,
    ) -> Result<Frame, Setback> {
        let started = Instant::now();
        let address = view.node(&node).map(|info| info.address.as_str());
        let connection = self.pool.connection(node, address, limit).await.map_err(Setback::NotSent)?;
        let connected = Instant::now();
        let left = limit.saturating_sub(connected - started);
        let frame = connection.call(class, frame(), left).await.map_err(call_setback)?;
        if frame.kind == kinds::FAILURE {
            let failure: Failure = read_reply(&frame)?;
            self.observe(node, failure.view);
            return Err(Setback::Failed(failure));
        }
        // Without the time to connect: that is paid once.
        let now = Instant::now();
        lock(&self.health).answered(node, now - connected, now);
        Ok(frame)
    }

    /// Lets `node` rest for a while if `setback` says that it is in trouble.
    fn blame(&self, node: NodeId, setback: &Setback) {
        let in_trouble = match setback {
            Setback::NotSent(_) | Setback::NoAnswer(_) | Setback::Damaged(_) => true,
            Setback::Failed(failure) => matches!(
                failure.code,
                FailureCode::NotServing
                    | FailureCode::Quorum
                    | FailureCode::Timeout
                    | FailureCode::Overloaded
                    | FailureCode::Storage
                    | FailureCode::NoAnswer
            ),
        };
        if in_trouble {
            lock(&self.health).failed(node, Instant::now());
        }
    }

    /// Takes note of the digest of `node`'s history: if it is not ours, ours is refreshed in the background.
    fn observe(&self, node: NodeId, digest: Digest) {
        if digest == Digest::default() || digest == self.view().digest() {
            return;
        }
        let now = Instant::now();
        {
            let mut news = lock(&self.news);
            if news
                .is_some_and(|(known, at)| known == digest && now.saturating_duration_since(at) < NEWS_PAUSE)
            {
                return;
            }
            *news = Some((digest, now));
        }
        if let Some(client) = self.me.upgrade() {
            self.pool.runtime().spawn(async move {
                let deadline = Instant::now() + client.options.timeout;
                if let Err(error) = client.refresh(Some(node), deadline).await {
                    tracing::debug!(%error, "the view was not refreshed");
                }
            });
        }
    }

    /// Brings the view up to date, by asking `first` or whoever is likely to answer. Whoever comes while a refresh is
    /// under way waits for that one. Says why if no node could be asked.
    pub(crate) async fn refresh(&self, first: Option<NodeId>, deadline: Instant) -> Result<(), Error> {
        let before = self.refreshed.load(Ordering::Acquire);
        let expired =
            || Error::refused(FailureCode::Timeout, "no node told its view in time: allow a longer timeout");
        let _one_at_a_time = timeout_at(deadline, self.refreshing.lock()).await.map_err(|_| expired())?;
        if self.refreshed.load(Ordering::Acquire) != before {
            return Ok(());
        }
        let call = Call {
            target: Target::Any,
            preferred: first,
            repeat: Repeat::Read,
            class: Class::Foreground,
            deadline,
        };
        let view = self.view();
        let mut attempts = Attempts::new(Repeat::Read);
        for node in self.candidates(&view, &call)? {
            let limit = attempts.limit(deadline.saturating_duration_since(Instant::now())).min(VIEW_LIMIT);
            let request = || Frame::new(&View { view: view.digest() }, Default::default());
            let answered = self.ask(&view, node, Class::Foreground, limit, request).await;
            match answered.and_then(|frame| self.learn(&frame)) {
                Ok(()) => return Ok(()),
                Err(setback) => {
                    self.blame(node, &setback);
                    attempts.after(node, setback);
                }
            }
        }
        // All that we knew may have moved; a seed may stand for whoever is there now.
        for seed in &self.seeds {
            let limit = attempts.limit(deadline.saturating_duration_since(Instant::now())).min(VIEW_LIMIT);
            if self.ask_seed(seed, limit).await.is_ok() {
                return Ok(());
            }
        }
        Err(attempts.into_error())
    }

    /// Asks whoever is at the address `seed` for its view.
    pub(crate) async fn ask_seed(&self, seed: &str, limit: Duration) -> Result<(), String> {
        let asked = async {
            let (_, connection) = self.pool.at(seed).await?;
            let request = Frame::new(&View { view: self.view().digest() }, Default::default());
            let frame = connection
                .call(Class::Foreground, request, limit)
                .await
                .map_err(|error| error.to_string())?;
            self.learn(&frame).map_err(|setback| setback.to_string())
        };
        let late = || Err(format!("no answer within {} ms", limit.as_millis()));
        tokio::time::timeout(limit, asked).await.unwrap_or_else(|_| late())
    }

    /// Takes over what a node told of its view.
    fn learn(&self, frame: &Frame) -> Result<(), Setback> {
        let reply: ViewReply = read_reply(frame)?;
        let united = self.update(|view| view.united(reply));
        united.map_err(|error| Setback::NoAnswer(error.to_string()))?;
        self.refreshed.fetch_add(1, Ordering::AcqRel);
        Ok(())
    }

    /// Refreshes the view from time to time, until the last client is dropped.
    pub(crate) fn start_refreshing(&self) {
        let (me, every) = (self.me.clone(), self.options.refresh_interval.max(Duration::from_millis(1)));
        let task = self.pool.runtime().spawn(async move {
            let mut ticks = interval(every);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            // The first tick comes at once, when the view is fresh.
            ticks.tick().await;
            loop {
                ticks.tick().await;
                let Some(client) = me.upgrade() else { return };
                let deadline = Instant::now() + client.options.timeout;
                if let Err(error) = client.refresh(None, deadline).await {
                    tracing::debug!(%error, "the view was not refreshed");
                }
            }
        });
        self.refresher.get_or_init(|| task.abort_handle());
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(refresher) = self.refresher.get() {
            refresher.abort();
        }
    }
}

/// Milliseconds for the wire: at least one, for zero would ask for nothing.
fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX).max(1)
}

pub(crate) fn call_setback(error: CallError) -> Setback {
    match error {
        // No other node takes it either.
        CallError::TooLarge { .. } => {
            Setback::Failed(Failure::not_done(FailureCode::TooLarge, error.to_string()))
        }
        CallError::TimedOut { timeout_ms, .. } => {
            Setback::NoAnswer(format!("no answer within {timeout_ms} ms"))
        }
        CallError::Lost { reason, .. } => Setback::NoAnswer(format!("the connection was lost ({reason})")),
        error if error.is_not_sent() => Setback::NotSent(error.to_string()),
        error => Setback::NoAnswer(error.to_string()),
    }
}

/// The message in an answer, which may be a failure.
pub(crate) fn read_reply<M: Message>(frame: &Frame) -> Result<M, Setback> {
    let read =
        |error: dynkv_proto::DecodeError| Setback::NoAnswer(format!("its answer cannot be read ({error})"));
    if frame.kind == kinds::FAILURE {
        return Err(Setback::Failed(frame.message().map_err(read)?));
    }
    frame.message().map_err(read)
}
