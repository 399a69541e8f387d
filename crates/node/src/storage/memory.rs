//! A store in memory: for tests, and for clusters that are only a cache.

use std::{
    collections::BTreeMap,
    ops::{Bound, ControlFlow},
    sync::{Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::{
    Apply, Committed, Durability, Overlay, Space, Storage, StorageError, StorageStats, Transaction, Visit,
};

/// Everything in one ordered map; a write is done before `submit` returns.
#[derive(Default)]
pub struct MemoryStorage {
    data: Mutex<Data>,
}

#[derive(Default)]
struct Data {
    map: BTreeMap<(Space, Bytes), Bytes>,
    closed: bool,
}

impl MemoryStorage {
    /// An empty store.
    pub fn new() -> MemoryStorage {
        MemoryStorage::default()
    }

    fn data(&self) -> MutexGuard<'_, Data> {
        // A panic in another operation left the map whole: batches are applied by infallible inserts.
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_data(&self) -> Result<MutexGuard<'_, Data>, StorageError> {
        let data = self.data();
        if data.closed { Err(StorageError::Closed) } else { Ok(data) }
    }
}

impl Committed for Data {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        Ok(self.map.get(&(space, Bytes::copy_from_slice(key))).cloned())
    }
}

impl Storage for MemoryStorage {
    fn get(&self, space: Space, key: &[u8]) -> Result<Option<Bytes>, StorageError> {
        self.open_data()?.get(space, key)
    }

    fn scan(
        &self,
        space: Space,
        prefix: &[u8],
        from: &[u8],
        visit: &mut Visit<'_>,
    ) -> Result<(), StorageError> {
        let start = Bytes::copy_from_slice(prefix.max(from));
        // The lock is taken per entry, so that `visit` may use the store.
        let mut next = Bound::Included((space, start));
        loop {
            let data = self.open_data()?;
            let Some(((found, key), value)) = data.map.range((next, Bound::Unbounded)).next() else {
                return Ok(());
            };
            let (found, key, value) = (*found, key.clone(), value.clone());
            drop(data);
            if found != space
                || !key.starts_with(prefix)
                || visit(key.clone(), value) == ControlFlow::Break(())
            {
                return Ok(());
            }
            next = Bound::Excluded((space, key));
        }
    }

    fn submit(&self, _: Durability, apply: Apply) -> Result<(), StorageError> {
        let done = {
            let mut data = self.open_data()?;
            let mut overlay = Overlay::new();
            let done = apply(&mut Transaction::new(&*data, &mut overlay));
            for (key, value) in overlay {
                match value {
                    Some(value) => data.map.insert(key, value),
                    None => data.map.remove(&key),
                };
            }
            done
        };
        done(Ok(()));
        Ok(())
    }

    fn stats(&self) -> StorageStats {
        let data = self.data();
        let records = data.map.range((Space::Records, Bytes::new())..(Space::Meta, Bytes::new())).count();
        StorageStats { records: records as u64, disk_bytes: 0 }
    }

    fn close(&self) {
        self.data().closed = true;
    }
}
