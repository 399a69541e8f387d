//! Sessions of clients, and the history of what they asked and were answered.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use dynkv_client::{Client, Context, Error, Fetched, Stored};
use dynkv_proto::{Actor, ContextToken, Outcome, PutId};
use dynkv_vclock::{CausalContext, Dot, HybridTime};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use crate::world::Log;

/// What a bucket promises, as far as the checker cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Bucket {
    /// The defaults: r = w = 2, dw = 1.
    Plain,
    /// r = w = dw = pr = pw = 2: reads return every acknowledged write, whatever crashes.
    Strict,
    /// Defaults with conflict = lww.
    Lww,
}

impl Bucket {
    /// All of them.
    pub const ALL: [Bucket; 3] = [Bucket::Plain, Bucket::Strict, Bucket::Lww];

    /// Its name in the cluster.
    pub fn name(self) -> &'static str {
        match self {
            Bucket::Plain => "plain",
            Bucket::Strict => "strict",
            Bucket::Lww => "lww",
        }
    }
}

/// A key of the simulation.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The bucket.
    pub bucket: Bucket,
    /// Its name in the bucket.
    pub name: String,
    /// The only session that writes it, if there is just one.
    pub owner: Option<usize>,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.bucket.name(), self.name)
    }
}

/// How a put ended.
#[derive(Clone, Debug, PartialEq)]
pub enum Ending {
    /// Acknowledged.
    Done {
        /// Its version's dot.
        dot: Dot<Actor>,
        /// Its version's time.
        time: HybridTime,
        /// The context that came with the answer.
        context: CausalContext<Actor>,
        /// Whether it was flagged as a possible duplicate.
        possible_duplicate: bool,
    },
    /// Certainly not carried out.
    NotDone,
    /// No certain answer, or none yet.
    Unknown,
}

/// A put or delete, with all its retries.
#[derive(Clone, Debug)]
pub struct PutRecord {
    /// Which session.
    pub session: usize,
    /// Where.
    pub key: Key,
    /// What; `None` deletes.
    pub value: Option<String>,
    /// Its id.
    pub put_id: PutId,
    /// The dots it replaces.
    pub context: CausalContext<Actor>,
    /// How often it was asked for.
    pub attempts: u32,
    /// When the answer came.
    pub ended_at: Option<Instant>,
    /// Which answer.
    pub ending: Ending,
}

/// A version as a reader saw it.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenVersion {
    /// Its dot.
    pub dot: Dot<Actor>,
    /// Its value.
    pub value: String,
    /// The put that wrote it.
    pub put_id: PutId,
}

/// A read that was answered.
#[derive(Clone, Debug)]
pub struct GetRecord {
    /// Which session.
    pub session: usize,
    /// Where.
    pub key: Key,
    /// When it began.
    pub began_at: Instant,
    /// What it saw.
    pub versions: Vec<SeenVersion>,
    /// The dots it has read.
    pub context: CausalContext<Actor>,
    /// The greatest time among the versions, tombstones included.
    pub time: HybridTime,
}

/// Everything that clients did.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Writes in the order in which they began.
    pub puts: Vec<PutRecord>,
    /// Reads in the order in which they were answered.
    pub gets: Vec<GetRecord>,
    /// Reads that failed.
    pub gets_failed: usize,
}

/// A history that several sessions write.
pub type SharedHistory = Arc<Mutex<History>>;

fn lock(history: &SharedHistory) -> MutexGuard<'_, History> {
    history.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the text form of a dot: `incarnation.birth:counter`.
///
/// # Panics
/// When it is none: clients show nothing else.
pub fn parse_dot(text: &str) -> Dot<Actor> {
    let (actor, counter) = text.split_once(':').expect("actor:counter");
    let (incarnation, birth) = actor.split_once('.').expect("incarnation.birth");
    Dot {
        actor: Actor(
            u64::from_str_radix(incarnation, 16).expect("hexadecimal"),
            birth.parse().expect("a number"),
        ),
        counter: counter.parse().expect("a number"),
    }
}

fn decode(context: &Context) -> (CausalContext<Actor>, HybridTime) {
    let token = ContextToken::decode(context.as_bytes()).expect("a node's token");
    (token.context, token.time)
}

/// What kind of client a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Reads, then writes with what it read.
    ReadModifyWrite,
    /// Writes without reading.
    Blind,
    /// Reads, then deletes with what it read.
    Delete,
    /// Writes with a context that it has kept for long.
    OldContext,
    /// Only reads.
    Read,
}

/// One client at work.
pub struct Session {
    /// Its number.
    pub number: usize,
    /// Its connection.
    pub client: Client,
    /// Keys it works on.
    pub keys: Vec<Key>,
    /// What was done.
    pub history: SharedHistory,
    /// Where it is noted.
    pub log: Log,
    /// Its choices.
    pub random: StdRng,
    kept: Vec<(Key, Context)>,
    written: u64,
}

impl Session {
    /// A session that has done nothing yet.
    pub fn new(
        number: usize,
        client: Client,
        keys: Vec<Key>,
        history: SharedHistory,
        log: Log,
        seed: u64,
    ) -> Session {
        let random = StdRng::seed_from_u64(seed);
        Session { number, client, keys, history, log, random, kept: Vec::new(), written: 0 }
    }

    /// Works until `until`, with pauses.
    pub async fn run(mut self, until: Instant) {
        while Instant::now() < until {
            let key = self.keys[self.random.random_range(0..self.keys.len())].clone();
            let habit = match self.random.random_range(0..100) {
                0..50 => Habit::ReadModifyWrite,
                // A lone session passes its contexts on.
                50..62 if key.owner.is_none() => Habit::Blind,
                62..72 if key.owner.is_none() => Habit::OldContext,
                72..80 => Habit::Delete,
                _ => Habit::Read,
            };
            self.act(&key, habit).await;
            let pause = Duration::from_millis(self.random.random_range(1..400));
            tokio::time::sleep(pause).await;
        }
        self.client.close().await;
    }

    async fn act(&mut self, key: &Key, habit: Habit) {
        match habit {
            Habit::Read => drop(self.get(key).await),
            Habit::Blind => drop(self.put(key, None, false).await),
            Habit::ReadModifyWrite | Habit::Delete => {
                if let Some(fetched) = self.get(key).await {
                    if self.random.random_bool(0.3) {
                        self.kept.push((key.clone(), fetched.context.clone()));
                    }
                    let stored = self.put(key, Some(&fetched.context), habit == Habit::Delete).await;
                    // Some write on without reading again.
                    if let Some(context) = stored
                        && self.random.random_bool(0.3)
                    {
                        drop(self.put(key, Some(&context), false).await);
                    }
                }
            }
            Habit::OldContext => {
                let mine = self.kept.iter().position(|(kept, _)| kept == key);
                if let Some(at) = mine {
                    let (_, context) = self.kept.swap_remove(at);
                    let delete = self.random.random_bool(0.2);
                    drop(self.put(key, Some(&context), delete).await);
                }
            }
        }
    }

    /// Reads and records.
    pub async fn get(&mut self, key: &Key) -> Option<Fetched> {
        self.get_with(key, None).await
    }

    /// Reads from `r` replicas and records.
    pub async fn get_with(&mut self, key: &Key, r: Option<u8>) -> Option<Fetched> {
        let began_at = Instant::now();
        let mut get = self.client.get(key.bucket.name(), key.name.clone());
        if let Some(r) = r {
            get = get.r(r);
        }
        match get.await {
            Ok(fetched) => {
                let (context, time) = decode(&fetched.context);
                let versions: Vec<SeenVersion> = fetched
                    .siblings
                    .iter()
                    .map(|sibling| SeenVersion {
                        dot: parse_dot(&sibling.dot),
                        value: String::from_utf8_lossy(&sibling.value).into_owned(),
                        put_id: sibling.put_id,
                    })
                    .collect();
                let values: Vec<&str> = versions.iter().map(|version| version.value.as_str()).collect();
                self.log.note(format!("s{} get {key} -> [{}]", self.number, values.join(", ")));
                let record =
                    GetRecord { session: self.number, key: key.clone(), began_at, versions, context, time };
                lock(&self.history).gets.push(record);
                Some(fetched)
            }
            Err(error) => {
                self.log.note(format!("s{} get {key} fails: {error}", self.number));
                lock(&self.history).gets_failed += 1;
                None
            }
        }
    }

    /// Writes and records. Returns the context for a next write without a read.
    async fn put(&mut self, key: &Key, context: Option<&Context>, delete: bool) -> Option<Context> {
        self.written += 1;
        let value = (!delete).then(|| format!("s{}v{}", self.number, self.written));
        let put_id = PutId(self.random.random());
        let record = PutRecord {
            session: self.number,
            key: key.clone(),
            value: value.clone(),
            put_id,
            context: context.map(|context| decode(context).0).unwrap_or_default(),
            attempts: 1,
            ended_at: None,
            ending: Ending::Unknown,
        };
        let at = {
            let mut history = lock(&self.history);
            history.puts.push(record);
            history.puts.len() - 1
        };
        let what = value.clone().unwrap_or_else(|| "delete".into());
        let mut answer = self.attempt(key, context, value.clone(), put_id, false).await;
        // Some give up after an unknown answer, some ask again.
        while matches!(&answer, Err(error) if error.outcome() == Outcome::Unknown)
            && self.random.random_bool(0.6)
        {
            self.log.note(format!("s{} put {key} {what}: unknown, once more", self.number));
            lock(&self.history).puts[at].attempts += 1;
            answer = self.attempt(key, context, value.clone(), put_id, true).await;
        }
        let ending = match &answer {
            Ok(stored) => {
                let (context, time) = decode(&stored.context);
                let (dot, possible_duplicate) = (parse_dot(&stored.dot), stored.possible_duplicate);
                Ending::Done { dot, time, context, possible_duplicate }
            }
            Err(error) if error.outcome() == Outcome::NotDone => Ending::NotDone,
            Err(_) => Ending::Unknown,
        };
        let shown = match &answer {
            Ok(stored) => {
                format!("{} from {} replicas, {} on disk", stored.dot, stored.replicas, stored.durable)
            }
            Err(error) => format!("{:?}: {error}", error.outcome()),
        };
        self.log.note(format!("s{} put {key} {what}: {shown}", self.number));
        {
            let mut history = lock(&self.history);
            history.puts[at].ending = ending;
            history.puts[at].ended_at = Some(Instant::now());
        }
        answer.ok().map(|stored| stored.context)
    }

    async fn attempt(
        &self,
        key: &Key,
        context: Option<&Context>,
        value: Option<String>,
        put_id: PutId,
        retry: bool,
    ) -> Result<Stored, Error> {
        let (bucket, name) = (key.bucket.name(), key.name.clone());
        macro_rules! send {
            ($request:expr) => {{
                let mut request = $request;
                request = if retry { request.retry_of(put_id) } else { request.put_id(put_id) };
                if let Some(context) = context {
                    request = request.context(context);
                }
                request.await
            }};
        }
        match value {
            Some(value) => send!(self.client.put(bucket, name, Bytes::from(value))),
            None => send!(self.client.delete(bucket, name)),
        }
    }
}
