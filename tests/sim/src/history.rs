//! What clients asked for and were answered.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use dynkv_client::Context;
use dynkv_proto::{Actor, ContextToken, PutId};
use dynkv_vclock::{CausalContext, Dot, HybridTime};
use tokio::time::Instant;

use crate::buckets::Bucket;

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

impl Key {
    /// A key that everybody may write.
    pub fn shared(bucket: Bucket, name: &str) -> Key {
        Key { bucket, name: name.into(), owner: None }
    }
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
    /// Whether that is a context of another key.
    pub foreign: bool,
    /// The greatest time among the versions it replaces.
    pub context_time: HybridTime,
    /// How often it was asked for.
    pub attempts: u32,
    /// When the answer came.
    pub ended_at: Option<Instant>,
    /// Which answer.
    pub ending: Ending,
    /// How many copies were missing at most, when the answer came or later, if it was acknowledged and they were counted.
    pub missing: Option<usize>,
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

/// A version that some node holds at the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldVersion {
    /// Where.
    pub key: Key,
    /// Its dot.
    pub dot: Dot<Actor>,
    /// The put that wrote it.
    pub put_id: PutId,
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

pub(crate) fn lock(history: &SharedHistory) -> MutexGuard<'_, History> {
    history.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the text form of a dot: `incarnation.birth:counter`. Clients show nothing else.
pub(crate) fn parse_dot(text: &str) -> Dot<Actor> {
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

pub(crate) fn decode(context: &Context) -> (CausalContext<Actor>, HybridTime) {
    let token = ContextToken::decode(context.as_bytes()).expect("a node's token");
    (token.context, token.time)
}
