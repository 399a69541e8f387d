//! A key and where it belongs.

use bytes::Bytes;
use dynkv_ring::{PartitionCount, PartitionId, Position};

use crate::record::record_key;

/// A key, its place on the ring and its place in the store; computed once per request.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) bucket: String,
    pub(crate) key: Bytes,
    pub(crate) position: Position,
    pub(crate) partition: PartitionId,
    /// Where the record is stored.
    pub(crate) record: Bytes,
}

impl Key {
    pub(crate) fn new(bucket: String, key: Bytes, partitions: PartitionCount) -> Key {
        let position = Position::of(&bucket, &key);
        let partition = position.partition(partitions);
        let record = record_key(partition, &bucket, &key);
        Key { bucket, key, position, partition, record }
    }

    /// Where its record and its digest are stored.
    pub(crate) fn at(&self) -> RecordAt {
        RecordAt { record: self.record.clone(), position: self.position }
    }
}

/// Where a record and its digest are stored: what writing takes along to the storage thread.
#[derive(Clone, Debug)]
pub(crate) struct RecordAt {
    pub(crate) record: Bytes,
    pub(crate) position: Position,
}
