//! A phase, run.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use dynkv_client::Client;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::contexts::Contexts;
use super::keys::{Chooser, Inserts, Popularity};
use super::process;
use super::stats::Stats;
use super::turns::Turns;
use super::values::{ValueBytes, Values};
use super::work::Work;
use super::workload::Phase;
use crate::commands::put::WriteQuorum;
use crate::error::CliError;

const TICK: Duration = Duration::from_millis(100);

/// What is measured, and how.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) bucket: String,
    pub(crate) keys: u64,
    pub(crate) value_bytes: ValueBytes,
    /// Each phase's own when absent.
    pub(crate) popularity: Option<Popularity>,
    pub(crate) connections: u16,
    /// Per connection.
    pub(crate) in_flight: u16,
    /// Of each phase except the load, which takes as long as it takes.
    pub(crate) time: Duration,
    pub(crate) warm_up: Duration,
    /// Operations per second; as many as possible when absent.
    pub(crate) rate: Option<f64>,
    pub(crate) r: Option<u8>,
    pub(crate) pr: Option<u8>,
    pub(crate) write_quorum: WriteQuorum,
    pub(crate) seed: u64,
}

/// How a phase went.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) phase: Phase,
    /// From the first operation's begin to the last one's end, without the warm-up.
    pub(crate) elapsed: Duration,
    pub(crate) stats: Stats,
    pub(crate) client_cpu: Option<Duration>,
    pub(crate) client_rss_bytes: Option<u64>,
    /// Of the nodes on this machine whose processes are known, together; so are the next ones.
    pub(crate) nodes_cpu: Option<Duration>,
    pub(crate) nodes_rss_bytes: Option<u64>,
    /// On the disks of all nodes, at the end of the phase.
    pub(crate) disk_bytes: Option<u64>,
    /// Keys and values that clients have stored, each counted once. Only known if all were loaded by this run.
    pub(crate) user_bytes: Option<u64>,
}

/// When a measurement ends.
#[derive(Clone, Copy, Debug)]
enum Goal {
    /// After so many operations.
    Operations(u64),
    After(Duration),
}

/// What is known of nodes on this machine.
#[derive(Clone, Debug, Default)]
pub(crate) struct LocalNodes {
    /// Their processes.
    pub(crate) pids: Vec<u32>,
    /// Where all of them, and nothing else, keep their data.
    pub(crate) data: Option<PathBuf>,
}

/// A benchmark under way.
#[derive(Debug)]
pub(crate) struct Bench {
    settings: Arc<Settings>,
    clients: Vec<Client>,
    nodes: LocalNodes,
    contexts: Arc<Contexts>,
    values: Arc<Values>,
    inserts: Arc<Inserts>,
    /// Whether the bucket was empty at the beginning, so that new keys need not be read first.
    was_empty: bool,
    user_bytes: Option<u64>,
}

impl Bench {
    /// `clients` must be as many as there are connections.
    pub(crate) async fn new(
        settings: Settings,
        clients: Vec<Client>,
        nodes: LocalNodes,
    ) -> Result<Bench, CliError> {
        let mut bucket_empty = true;
        if let Some(client) = clients.first() {
            let mut list = client.list(&settings.bucket).page_keys(1);
            while bucket_empty && let Some(page) = list.next().await {
                let page = page.map_err(CliError::of(format!("listing bucket {}", settings.bucket)))?;
                bucket_empty = page.keys.is_empty();
            }
        }
        let limit = clients
            .first()
            .map_or(u32::MAX, |client| client.view().buckets().get(&settings.bucket).value_bytes_max);
        let mut rng = SmallRng::seed_from_u64(settings.seed);
        let values = Values::new(settings.value_bytes, limit, &mut rng)
            .map_err(|error| CliError::Usage(error.to_string()))?;
        Ok(Bench {
            contexts: Arc::new(Contexts::new(settings.keys)),
            inserts: Arc::new(Inserts::new(settings.keys)),
            values: Arc::new(values),
            settings: Arc::new(settings),
            clients,
            nodes,
            was_empty: bucket_empty,
            user_bytes: None,
        })
    }

    /// Whether there is anything to read before something was loaded.
    pub(crate) fn was_empty(&self) -> bool {
        self.was_empty
    }

    /// Runs a phase, after its warm-up.
    pub(crate) async fn phase(&mut self, phase: Phase) -> Result<Measured, CliError> {
        let Settings { time, warm_up, keys, .. } = *self.settings;
        if phase == Phase::Load {
            let measured =
                self.measure(phase, Arc::new(Turns::counted(keys)), Goal::Operations(keys)).await?;
            if self.was_empty {
                self.user_bytes = Some(measured.stats.inserted_bytes);
            }
            return Ok(Measured { user_bytes: self.user_bytes, ..measured });
        }
        if !warm_up.is_zero() {
            let warmed = self.measure(phase, self.turns(warm_up), Goal::After(warm_up)).await?;
            self.add_inserted(&warmed);
        }
        let measured = self.measure(phase, self.turns(time), Goal::After(time)).await?;
        self.add_inserted(&measured);
        Ok(Measured { user_bytes: self.user_bytes, ..measured })
    }

    fn add_inserted(&mut self, measured: &Measured) {
        self.user_bytes = self.user_bytes.map(|bytes| bytes + measured.stats.inserted_bytes);
    }

    fn workers(&self) -> usize {
        self.clients.len() * usize::from(self.settings.in_flight)
    }

    fn turns(&self, time: Duration) -> Arc<Turns> {
        let turns = match self.settings.rate {
            None => Turns::until(Instant::now() + time),
            // As long again: what could not begin by then shows well enough that the rate is too high.
            Some(rate) => Turns::at_rate(rate, time, self.workers(), time),
        };
        Arc::new(turns)
    }

    async fn measure(&self, phase: Phase, turns: Arc<Turns>, goal: Goal) -> Result<Measured, CliError> {
        let popularity = self.settings.popularity.unwrap_or(phase.popularity());
        let work = Arc::new(Work {
            settings: self.settings.clone(),
            phase,
            chooser: Chooser::new(popularity, self.settings.keys),
            contexts: self.contexts.clone(),
            values: self.values.clone(),
            inserts: self.inserts.clone(),
            was_empty: self.was_empty,
            turns: turns.clone(),
            stats: Default::default(),
        });
        let client_before = process::own_cpu();
        let nodes_before = process::usage(&self.nodes.pids);
        let started = Instant::now();
        turns.keep_time();
        let mut workers = JoinSet::new();
        for (connection, client) in self.clients.iter().enumerate() {
            for place in 0..self.settings.in_flight {
                let number = connection as u64 * u64::from(self.settings.in_flight) + u64::from(place);
                let rng = SmallRng::seed_from_u64(seed_of(self.settings.seed, phase, number));
                workers.spawn(work.clone().run(client.clone(), rng));
            }
        }
        let bar = bar(phase, goal);
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                ended = workers.join_next() => match ended {
                    None => break,
                    Some(Ok(())) => {}
                    Some(Err(error)) => return Err(CliError::Refused(format!(
                        "phase {phase} was broken off by a defect of this program ({error}): please report it"
                    ))),
                },
                _ = tick.tick() => show(&bar, goal, started, &work),
            }
        }
        bar.finish_and_clear();
        let elapsed = started.elapsed();
        let (client_after, nodes_after) = (process::own_cpu(), process::usage(&self.nodes.pids));

        let mut stats = work.stats().clone();
        stats.not_begun = turns.left_out();
        if stats.done == 0
            && let Some(error) = stats.first_error
        {
            return Err(CliError::of(format!("phase {phase}"))(error));
        }
        let own_usage = process::usage(&[std::process::id()]);
        Ok(Measured {
            phase,
            elapsed,
            stats,
            client_cpu: client_after.zip(client_before).map(|(after, before)| after.saturating_sub(before)),
            client_rss_bytes: own_usage.map(|usage| usage.rss_bytes),
            nodes_cpu: nodes_after
                .zip(nodes_before)
                .map(|(after, before)| after.cpu.saturating_sub(before.cpu)),
            nodes_rss_bytes: nodes_after.map(|usage| usage.rss_bytes),
            disk_bytes: self.disk_bytes().await,
            user_bytes: None,
        })
    }

    /// As the file system counts, if that can be asked; otherwise what the nodes say, and nothing when one does not answer.
    async fn disk_bytes(&self) -> Option<u64> {
        if let Some(data) = &self.nodes.data {
            return Some(process::disk_bytes(data));
        }
        let client = self.clients.first()?;
        let mut total = 0;
        for state in client.view().membership().members() {
            total += client.status(state.member.id).await.ok()?.disk_bytes;
        }
        Some(total)
    }
}

/// Different for every worker of every phase, and the same in every run.
fn seed_of(seed: u64, phase: Phase, worker: u64) -> u64 {
    let phase = phase.name().bytes().fold(0, |sum: u64, byte| sum.wrapping_mul(31) + u64::from(byte));
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (phase << 32) ^ worker
}

/// Shown on a terminal only.
fn bar(phase: Phase, goal: Goal) -> ProgressBar {
    let length = match goal {
        Goal::Operations(count) => count,
        Goal::After(time) => time.as_millis() as u64,
    };
    let bar = ProgressBar::with_draw_target(Some(length), ProgressDrawTarget::stderr());
    // The template is one of ours; with the default style nothing but its looks would be lost.
    if let Ok(style) = ProgressStyle::with_template("{prefix:>10} {bar:30} {percent:>3} % {msg}") {
        bar.set_style(style);
    }
    bar.set_prefix(format!("phase {phase}"));
    bar
}

fn show(bar: &ProgressBar, goal: Goal, started: Instant, work: &Work) {
    let (done, errors) = {
        let stats = work.stats();
        (stats.done, stats.errors())
    };
    let elapsed = started.elapsed();
    bar.set_position(match goal {
        Goal::Operations(_) => done + errors,
        Goal::After(_) => elapsed.as_millis() as u64,
    });
    let failed = if errors > 0 { format!(", {errors} failed") } else { String::new() };
    bar.set_message(format!("{:.0} ops/s{failed}", done as f64 / elapsed.as_secs_f64().max(0.001)));
}
