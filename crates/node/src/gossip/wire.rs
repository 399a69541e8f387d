//! What gossip carries, and its bytes.

use std::hash::{Hash, Hasher};

use bytes::Bytes;
use dynkv_gossip::{Element, GrowSet, Latest, Payload, VersionedMap};
use dynkv_proto::{Announcement, Blob, DecodeError, Holder};
use dynkv_ring::{Entry, NodeId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// What gossip carries beside the nodes' states. Further kinds become further parts of the tuple: each has a conversation
/// of its own, and they share the messages.
pub(super) type Carried = (GrowSet<HistoryEntry>, VersionedMap<u32, Latest<Holders>>);

/// A message of the gossip.
pub(super) type Message = dynkv_gossip::Message<NodeId, <Carried as Payload>::Message>;

/// The longest message read, in bytes. The parts' own limits keep honest ones below: 64 KiB of states, as much of entries
/// or one entry of 1 MiB, and some 300 KiB of digests and keys.
const MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// An entry of the membership history, known by its canonical bytes. Bytes that are no entry never become one of these,
/// so they are not passed on either.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HistoryEntry {
    pub(super) entry: Entry,
    bytes: Bytes,
}

impl From<Entry> for HistoryEntry {
    fn from(entry: Entry) -> HistoryEntry {
        let bytes = entry.to_bytes().into();
        HistoryEntry { entry, bytes }
    }
}

impl Hash for HistoryEntry {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.bytes.hash(state);
    }
}

impl Element for HistoryEntry {
    fn size_bytes(&self) -> usize {
        self.bytes.len()
    }
}

impl Serialize for HistoryEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.bytes)
    }
}

impl<'de> Deserialize<'de> for HistoryEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<HistoryEntry, D::Error> {
        let Blob(bytes) = Blob::deserialize(deserializer)?;
        let entry = Entry::from_bytes(&bytes).map_err(de::Error::custom)?;
        Ok(HistoryEntry { entry, bytes })
    }
}

/// The members of a partition's configuration; its epoch is the version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Holders(pub(super) Vec<Holder>);

impl Hash for Holders {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for Holder { node, disk } in &self.0 {
            (node, disk).hash(state);
        }
    }
}

impl Element for Holders {
    fn size_bytes(&self) -> usize {
        // Short names and eight bytes.
        self.0.len() * 24
    }
}

pub(super) fn encode(message: &Message) -> Bytes {
    to_cbor(message).into()
}

pub(super) fn decode(bytes: &[u8]) -> Result<Message, DecodeError> {
    if bytes.len() > MESSAGE_BYTES_MAX {
        let reason = format!("gossip of {} bytes, more than {MESSAGE_BYTES_MAX}", bytes.len());
        return Err(DecodeError::Body { reason });
    }
    from_cbor(bytes)
}

pub(super) fn encode_announcement(announcement: &Announcement) -> Vec<u8> {
    let Announcement { address, disk, version, load, features } = announcement;
    match features.is_empty() {
        // As versions say it that know of no features.
        true => to_cbor(&(address, disk, version, load)),
        false => to_cbor(announcement),
    }
}

pub(super) fn decode_announcement(bytes: &[u8]) -> Result<Announcement, DecodeError> {
    from_cbor(bytes)
}

fn to_cbor<T: Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).expect("memory takes every byte, and nothing here refuses");
    bytes
}

fn from_cbor<T: de::DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let mut rest = bytes;
    let value =
        ciborium::from_reader(&mut rest).map_err(|error| DecodeError::Body { reason: error.to_string() })?;
    if !rest.is_empty() {
        return Err(DecodeError::Body { reason: format!("{} bytes left over", rest.len()) });
    }
    Ok(value)
}

#[cfg(test)]
mod tests {
    use dynkv_gossip::{Config, Gossip, Incarnation};
    use dynkv_proto::{FeatureSet, NodeLoad};
    use dynkv_ring::Change;
    use proptest::prelude::*;

    use super::*;

    fn id(text: &str) -> NodeId {
        text.parse().expect("a good id")
    }

    fn message() -> Message {
        let mut set = GrowSet::new();
        for time in 0..3 {
            let change = Change::Other { kind: 300, payload: vec![7; 200] };
            set.insert(Entry::new(time, id("n1"), change).expect("short").into()).expect("room for three");
        }
        let run = Incarnation { boot: 3, nonce: u64::MAX };
        let mut gossip = Gossip::new(Config::default(), id("n1"), run, [], (set, VersionedMap::new()));
        gossip.set_state(vec![1; 2000]).expect("short enough");
        gossip.open()
    }

    #[test]
    fn messages_come_back() {
        let message = message();
        assert!(
            message
                .payload
                .as_ref()
                .is_some_and(|(set, _)| set.as_ref().is_some_and(|set| set.values.len() == 3))
        );
        assert_eq!(decode(&encode(&message)), Ok(message));
    }

    #[test]
    fn who_knows_no_features_says_nothing_of_them() {
        let with = |features| Announcement {
            address: "a:1".into(),
            disk: 7,
            version: "0.1.0".into(),
            load: NodeLoad::default(),
            features,
        };
        let (none, all) = (with(FeatureSet::default()), with(FeatureSet::known()));
        let (shorter, longer) = (encode_announcement(&none), encode_announcement(&all));
        assert_eq!((shorter[0], longer[0]), (0x84, 0x85));
        assert_eq!(decode_announcement(&shorter), Ok(none));
        assert_eq!(decode_announcement(&longer), Ok(all));
    }

    #[test]
    fn what_is_no_entry_is_not_taken() {
        let mut bytes = encode(&message()).to_vec();
        assert!(decode(&[&bytes[..], &[0]].concat()).unwrap_err().to_string().contains("left over"));
        // The issuer's id of the first entry: 'n1' becomes a text that is no id.
        let at = bytes.windows(3).position(|window| window == b"\x02n1").expect("an issuer");
        bytes[at + 1] = b'!';
        assert!(decode(&bytes).is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(
            bytes in prop::collection::vec(any::<u8>(), 0..200),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        ) {
            let _ = decode(&bytes);
            let _ = decode_announcement(&bytes);
            let mut real = encode(&message()).to_vec();
            for (at, byte) in changes {
                let at = at.index(real.len());
                real[at] = byte;
            }
            let _ = decode(&real);
        }
    }
}
