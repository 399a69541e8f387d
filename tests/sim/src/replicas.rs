//! What the replicas hold, read off their disks.

use std::{collections::BTreeMap, fmt};

use dynkv_node::storage::Space;
use dynkv_proto::{Actor, State};
use dynkv_ring::{NodeId, PartitionId};

use crate::{disk::Disk, history::Key, world::World};

/// Where the state begins in a record, and the record in a hint (`docs/storage.md`).
const STATE_AT: usize = 25;
const RECORD_AT: usize = 24;

/// One replica's record of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replica {
    /// Whose.
    pub node: NodeId,
    /// Under whom the node mints for the key; (0, 0) for nobody.
    pub local_actor: Actor,
    /// What it holds.
    pub state: State,
}

impl fmt::Display for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [", self.node)?;
        for (at, (dot, version)) in self.state.siblings().iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            let value = match version.tombstone {
                true => "deleted".into(),
                false => String::from_utf8_lossy(&version.value),
            };
            write!(f, "{comma}{value} = {dot} of {}", version.time)?;
        }
        write!(f, "] knows {}, mints as {}", self.state.context(), self.local_actor)
    }
}

/// All records, by bucket and key, in the order of the hosts.
pub type Records = BTreeMap<(String, String), Vec<Replica>>;

/// The record of `key` on every host of the first `nodes`, where there is one.
pub fn of_key(world: &World, nodes: usize, key: &Key) -> Vec<Replica> {
    all(world, nodes).remove(&(key.bucket.name().to_owned(), key.name.clone())).unwrap_or_default()
}

/// All records of the first `nodes` hosts but those that cannot be read, and but those that are gone.
pub fn all(world: &World, nodes: usize) -> Records {
    let mut found = Records::new();
    let left = world.hosts.iter().take(nodes).enumerate().filter(|(index, _)| !world.gone.contains(index));
    for (_, host) in left {
        for (key, record) in host.disk.content(Space::Records, &[]) {
            let name = split(&key).expect("nothing spoils the keys of records");
            found.entry(name).or_default().extend(decode(host.id, &record));
        }
    }
    found
}

/// What `node` holds of `key` on its disk: as a home, and in hints by their targets.
pub fn held(
    node: NodeId,
    disk: &Disk,
    partition: PartitionId,
    key: &Key,
) -> (Option<Replica>, Vec<(NodeId, Replica)>) {
    let record_key = join(partition, key);
    let mut records = disk.content(Space::Records, &record_key).into_iter();
    // Others may go on where this key ends.
    let record =
        records.find(|(found, _)| *found == record_key).and_then(|(_, record)| decode(node, &record));
    let mut prefix = vec![b'h'];
    prefix.extend((record_key.len() as u16).to_be_bytes());
    prefix.extend(&record_key);
    let hints = disk.content(Space::Hints, &prefix).into_iter().filter_map(|(found, hint)| {
        let target = std::str::from_utf8(&found[prefix.len()..]).ok()?.parse().ok()?;
        Some((target, decode(node, &hint.slice(RECORD_AT.min(hint.len())..))?))
    });
    (record, hints.collect())
}

fn join(partition: PartitionId, key: &Key) -> Vec<u8> {
    let (bucket, name) = (key.bucket.name().as_bytes(), key.name.as_bytes());
    let mut record_key = (partition.0 as u16).to_be_bytes().to_vec();
    record_key.push(bucket.len() as u8);
    record_key.extend(bucket);
    record_key.extend(name);
    record_key
}

/// A record's key: partition (u16), length of the bucket's name (u8), the name, the key.
fn split(key: &[u8]) -> Option<(String, String)> {
    let (len, rest) = key.get(2..)?.split_first()?;
    let (bucket, name) = rest.split_at_checked(usize::from(*len))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some((text(bucket), text(name)))
}

fn decode(node: NodeId, record: &bytes::Bytes) -> Option<Replica> {
    let number = |at: usize| record.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
    let local_actor = Actor(number(1)?, number(9)?);
    let state = State::decode(record.slice(STATE_AT.min(record.len())..)).ok()?;
    Some(Replica { node, local_actor, state })
}
