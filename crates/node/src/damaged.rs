//! Which records are known to be damaged, until they are healed.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::sync::Notify;

use crate::{metrics::Metrics, record::parse_record_key};

/// Records noted at once; others are found again, by reads or by the check of all records.
const NOTED_MAX: usize = 10_000;

/// Keys of damaged records.
pub(crate) struct Damaged {
    records: Mutex<BTreeSet<Bytes>>,
    metrics: Arc<Metrics>,
    /// Told when there is a new one.
    pub(crate) wake: Notify,
}

impl Damaged {
    pub(crate) fn new(metrics: Arc<Metrics>) -> Damaged {
        Damaged { records: Mutex::default(), metrics, wake: Notify::new() }
    }

    fn records(&self) -> MutexGuard<'_, BTreeSet<Bytes>> {
        // Insertions and removals only: nothing is ever half done.
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts that a damaged record was met, and has it healed.
    pub(crate) fn note(&self, record: &Bytes) {
        self.metrics.records_damaged.inc();
        let mut records = self.records();
        if records.len() >= NOTED_MAX || !records.insert(Bytes::copy_from_slice(record)) {
            return;
        }
        self.metrics.records_unhealed.set(records.len() as i64);
        drop(records);
        let (bucket, key) = parse_record_key(record).unwrap_or_default();
        tracing::error!(%bucket, key = %key.escape_ascii(), "a stored record is damaged; it is not served until it is healed from the others");
        self.wake.notify_one();
    }

    pub(crate) fn all(&self) -> Vec<Bytes> {
        self.records().iter().cloned().collect()
    }

    /// It is healed, or not this node's to heal.
    pub(crate) fn remove(&self, record: &Bytes) {
        let mut records = self.records();
        records.remove(record);
        self.metrics.records_unhealed.set(records.len() as i64);
    }
}
