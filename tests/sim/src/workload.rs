//! Sessions of clients: what each does, drawn from a seed or step by step.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use dynkv_client::{Client, Context, Error, Fetched, Stored};
use dynkv_proto::{Outcome, PutId};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::Instant;

use crate::{
    copies::Copies,
    history::{Ending, GetRecord, Key, PutRecord, SeenVersion, SharedHistory, decode, lock, parse_dot},
    log::Log,
};

/// What a client does at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Reads, then writes with what it read.
    ReadModifyWrite,
    /// Writes without reading.
    Blind,
    /// Writes with the context that its last put of the key returned, without reading.
    GoOn,
    /// Reads, then deletes with what it read.
    Delete,
    /// Reads, then deletes with what it read, and leaves it at that.
    Remove,
    /// Reads, and keeps the context for later.
    Keep,
    /// Writes with a context that it has kept for long.
    OldContext,
    /// Writes with a context that it has kept of another key, which must be refused.
    ForeignContext,
    /// Only reads.
    Read,
}

/// One thing that a session does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// After waiting this long.
    pub wait_ms: u64,
    /// To this key.
    pub key: Key,
    /// This.
    pub habit: Habit,
}

impl Step {
    /// After `wait_ms` milliseconds, `habit` to `key`.
    pub fn new(wait_ms: u64, habit: Habit, key: &Key) -> Step {
        Step { wait_ms, key: key.clone(), habit }
    }
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
    /// Where the copies of what it has written are counted.
    pub copies: Option<Copies>,
    kept: Vec<(Key, Context)>,
    /// What the last put of each key returned.
    own: BTreeMap<Key, Context>,
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
        Session {
            number,
            client,
            keys,
            history,
            log,
            random,
            copies: None,
            kept: Vec::new(),
            own: BTreeMap::new(),
            written: 0,
        }
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
                80 => Habit::ForeignContext,
                _ => Habit::Read,
            };
            self.act(&key, habit).await;
            let pause = Duration::from_millis(self.random.random_range(1..400));
            tokio::time::sleep(pause).await;
        }
        self.client.close().await;
    }

    /// Takes `steps`, then waits until `until`.
    pub async fn follow(mut self, steps: Vec<Step>, until: Instant) {
        for step in steps {
            tokio::time::sleep(Duration::from_millis(step.wait_ms)).await;
            self.act(&step.key, step.habit).await;
        }
        tokio::time::sleep_until(until).await;
        self.client.close().await;
    }

    async fn act(&mut self, key: &Key, habit: Habit) {
        match habit {
            Habit::Read => drop(self.get(key, None).await),
            Habit::Blind => drop(self.put(key, None, false).await),
            Habit::GoOn => {
                let context = self.own.get(key).cloned();
                drop(self.put(key, context.as_ref(), false).await);
            }
            Habit::Keep => {
                if let Some(fetched) = self.get(key, None).await {
                    self.kept.push((key.clone(), fetched.context));
                }
            }
            Habit::Remove => {
                if let Some(fetched) = self.get(key, None).await {
                    drop(self.put(key, Some(&fetched.context), true).await);
                }
            }
            Habit::ReadModifyWrite | Habit::Delete => {
                if let Some(fetched) = self.get(key, None).await {
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
                if let Some(context) = self.take_kept(|kept| kept == key) {
                    let delete = self.random.random_bool(0.2);
                    drop(self.put(key, Some(&context), delete).await);
                }
            }
            Habit::ForeignContext => {
                if let Some(context) = self.take_kept(|kept| kept != key) {
                    drop(self.put_with(key, Some(&context), false, true).await);
                }
            }
        }
    }

    fn take_kept(&mut self, wanted: impl Fn(&Key) -> bool) -> Option<Context> {
        let at = self.kept.iter().position(|(kept, _)| wanted(kept))?;
        Some(self.kept.swap_remove(at).1)
    }

    /// Reads, from `r` replicas if that is said, and records.
    pub async fn get(&mut self, key: &Key, r: Option<u8>) -> Option<Fetched> {
        let began_at = Instant::now();
        let mut get = self.client.get(key.bucket.name(), key.name.clone());
        if let Some(r) = r {
            // Of homes: others may stand in for them otherwise.
            get = get.r(r).pr(r);
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
                self.log.note_key(key, format!("s{} get {key} -> [{}]", self.number, values.join(", ")));
                let record =
                    GetRecord { session: self.number, key: key.clone(), began_at, versions, context, time };
                lock(&self.history).gets.push(record);
                Some(fetched)
            }
            Err(error) => {
                self.log.note_key(key, format!("s{} get {key} fails: {error}", self.number));
                lock(&self.history).gets_failed += 1;
                None
            }
        }
    }

    /// Writes and records. Returns the context for a next write without a read.
    async fn put(&mut self, key: &Key, context: Option<&Context>, delete: bool) -> Option<Context> {
        self.put_with(key, context, delete, false).await
    }

    async fn put_with(
        &mut self,
        key: &Key,
        context: Option<&Context>,
        delete: bool,
        foreign: bool,
    ) -> Option<Context> {
        self.written += 1;
        let value = (!delete).then(|| format!("s{}v{}", self.number, self.written));
        let put_id = PutId(self.random.random());
        let (replaces, context_time) = context.map(decode).unwrap_or_default();
        let record = PutRecord {
            session: self.number,
            key: key.clone(),
            value: value.clone(),
            put_id,
            context: replaces,
            foreign,
            context_time,
            attempts: 1,
            ended_at: None,
            ending: Ending::Unknown,
            missing: None,
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
            self.log.note_key(key, format!("s{} put {key} {what}: unknown, once more", self.number));
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
        self.log.note_key(key, format!("s{} put {key} {what}: {shown}", self.number));
        let missing = match (&self.copies, &ending) {
            (Some(copies), Ending::Done { dot, .. }) => Some(copies.missing(key, dot)),
            _ => None,
        };
        {
            let mut history = lock(&self.history);
            history.puts[at].ending = ending;
            history.puts[at].missing = missing;
            history.puts[at].ended_at = Some(Instant::now());
        }
        let context = answer.ok()?.context;
        self.own.insert(key.clone(), context.clone());
        Some(context)
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
