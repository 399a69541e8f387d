//! What each worker of a phase does.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use dynkv_client::{Client, Context, Error, Fetched, Stored};
use rand::rngs::SmallRng;
use tokio::time::Instant;

use super::contexts::{Claim, Contexts};
use super::keys::{Chooser, Inserts, key};
use super::run::Settings;
use super::stats::{Operation, Stats};
use super::turns::{Turn, Turns};
use super::values::Values;
use super::workload::{Action, Phase};
use crate::commands::put::with_quorum;

/// After so many failures and no success a phase is broken off.
const FAILURES_MAX: u64 = 100;
/// A put whose key is being written draws another key so often before it waits.
const DRAWS_MAX: u32 = 16;
/// How many keys a listing returns at most.
const LIST_KEYS: u32 = 100;

/// What the workers of a phase share.
#[derive(Debug)]
pub(crate) struct Work {
    pub(super) settings: Arc<Settings>,
    pub(super) phase: Phase,
    pub(super) chooser: Chooser,
    pub(super) contexts: Arc<Contexts>,
    pub(super) values: Arc<Values>,
    pub(super) inserts: Arc<Inserts>,
    pub(super) was_empty: bool,
    pub(super) turns: Arc<Turns>,
    pub(super) stats: Mutex<Stats>,
}

impl Work {
    pub(super) fn stats(&self) -> MutexGuard<'_, Stats> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn run(self: Arc<Self>, client: Client, mut rng: SmallRng) {
        while let Some(turn) = self.turns.next().await {
            let ended = match self.phase.draw(&mut rng) {
                Action::Get => self.get(&client, turn, &mut rng).await,
                Action::Update => self.update(&client, turn, &mut rng).await,
                Action::Insert => self.insert(&client, turn, &mut rng).await,
                Action::List => self.list(&client, turn).await,
                Action::Modify => self.modify(&client, turn, &mut rng).await,
            };
            let mut stats = self.stats();
            match ended {
                Ok((operation, begun)) => stats.done(operation, begun.elapsed()),
                Err(error) => stats.failed(&error),
            }
            if stats.done == 0 && stats.errors() >= FAILURES_MAX {
                break;
            }
        }
    }

    /// A key that should be there.
    fn draw_key(&self, rng: &mut SmallRng) -> u64 {
        self.chooser.draw(self.inserts.settled().max(1), rng)
    }

    async fn read(&self, client: &Client, number: u64) -> Result<Fetched, Error> {
        let mut get = client.get(&self.settings.bucket, key(number));
        if let Some(r) = self.settings.r {
            get = get.r(r);
        }
        if let Some(pr) = self.settings.pr {
            get = get.pr(pr);
        }
        get.await
    }

    async fn write(
        &self,
        client: &Client,
        number: u64,
        context: Option<&Context>,
        value: Bytes,
    ) -> Result<Stored, Error> {
        let mut put = client.put(&self.settings.bucket, key(number), value);
        if let Some(context) = context {
            put = put.context(context);
        }
        with_quorum!(put, self.settings.write_quorum).await
    }

    async fn get(
        &self,
        client: &Client,
        turn: Turn,
        rng: &mut SmallRng,
    ) -> Result<(Operation, Instant), Error> {
        let number = self.draw_key(rng);
        let begun = turn.intended.unwrap_or_else(Instant::now);
        let seen = self.contexts.before_read(number);
        let fetched = self.read(client, number).await?;
        self.stats().got(fetched.siblings.len());
        if fetched.siblings.len() > 1 {
            // Whoever reads siblings replaces them with the next put.
            self.contexts.read(number, seen, fetched.context);
        }
        Ok((Operation::Get, begun))
    }

    async fn update(
        &self,
        client: &Client,
        turn: Turn,
        rng: &mut SmallRng,
    ) -> Result<(Operation, Instant), Error> {
        let mut claim = None;
        for _ in 0..DRAWS_MAX {
            claim = self.contexts.try_claim(self.draw_key(rng));
            if claim.is_some() {
                break;
            }
        }
        let claim = match claim {
            Some(claim) => claim,
            None => self.contexts.claim(self.draw_key(rng)).await,
        };
        self.put(client, turn, &claim, false, rng).await.map(|(begun, _)| (Operation::Put, begun))
    }

    async fn insert(
        &self,
        client: &Client,
        turn: Turn,
        rng: &mut SmallRng,
    ) -> Result<(Operation, Instant), Error> {
        let loading = self.phase == Phase::Load;
        let number = if loading { turn.number } else { self.inserts.begin() };
        let claim = self.contexts.claim(number).await;
        let put = self.put(client, turn, &claim, self.was_empty, rng).await;
        if !loading {
            self.inserts.end(number);
        }
        let (begun, bytes) = put?;
        self.stats().inserted_bytes += bytes;
        Ok((Operation::Put, begun))
    }

    /// Writes a key under the freshest context; when it began, and how many bytes were written. A key whose context is not
    /// known is read first, unless it is `new`.
    async fn put(
        &self,
        client: &Client,
        turn: Turn,
        claim: &Claim,
        new: bool,
        rng: &mut SmallRng,
    ) -> Result<(Instant, u64), Error> {
        let mut context = claim.context();
        if context.is_none() && !new {
            self.stats().contexts_read += 1;
            context = Some(self.read(client, claim.key).await?.context);
        }
        let value = self.values.draw(rng);
        let bytes = (key(claim.key).len() + value.len()) as u64;
        let begun = turn.intended.unwrap_or_else(Instant::now);
        match self.write(client, claim.key, context.as_ref(), value).await {
            Ok(stored) => {
                claim.wrote(Some(stored.context));
                Ok((begun, bytes))
            }
            Err(error) => {
                // What it may have written is not covered by what was known: it is read before the next put.
                claim.wrote(None);
                Err(error)
            }
        }
    }

    async fn list(&self, client: &Client, turn: Turn) -> Result<(Operation, Instant), Error> {
        let begun = turn.intended.unwrap_or_else(Instant::now);
        let mut list = client.list(&self.settings.bucket).page_keys(LIST_KEYS).concurrency(1);
        list.next().await.transpose()?;
        Ok((Operation::List, begun))
    }

    async fn modify(
        &self,
        client: &Client,
        turn: Turn,
        rng: &mut SmallRng,
    ) -> Result<(Operation, Instant), Error> {
        let number = self.draw_key(rng);
        let begun = turn.intended.unwrap_or_else(Instant::now);
        let fetched = self.read(client, number).await?;
        self.stats().got(fetched.siblings.len());
        let written = self.write(client, number, Some(&fetched.context), self.values.draw(rng)).await;
        // Others may do the same at the same time, which is what makes siblings here: no context is the freshest.
        self.contexts.forget(number);
        written.map(|_| (Operation::Rmw, begun))
    }
}
