#![doc = include_str!("../README.md")]
//!
//! # Where to begin
//!
//! | to | see |
//! |---|---|
//! | run a node | [`Gossip`], [`Config`], [`Effect`], [`Message`] |
//! | carry something | [`Payload`], [`GrowSet`], [`VersionedMap`], [`Latest`], [`Versioned`] |
//! | say something about a node | [`Gossip::set_state`], [`NodeState`], [`Incarnation`] |
//! | judge who is alive | [`PhiAccrual`], [`Gossip::is_suspect`], [`Gossip::call_failed`] |
//! | find a cloned node | [`Effect::Superseded`], [`Gossip::outbid`], [`Effect::Conflict`] |
//!
//! # The algorithm
//!
//! It is the anti-entropy of Demers et al. ("Epidemic algorithms for replicated database maintenance", 1987) in its
//! push-pull form, with rumors to shorten the way.
//!
//! ## An exchange
//!
//! ```text
//! A                                                B
//! |  0: heartbeats, digest of states, of payload   |
//! | ---------------------------------------------> |
//! |  1: heartbeats            [and where we differ] |
//! | <--------------------------------------------- |
//! |  2: [what you lack, what I lack]                |   only while something differs
//! | ---------------------------------------------> |
//! |  3: ...                                         |
//! ```
//!
//! Any message may be lost: the exchange is over then, and what it has merged stays merged. No node keeps anything
//! about an exchange: a message says all that the answer depends on. So late, doubled and reordered messages
//! are as good as others, and a node talks to any number of others at once.
//!
//! ## Finding the difference
//!
//! The keys' hashes form a trie with 16 branches at each node, and a digest of a part is the sum of the digests of its
//! entries, each over key and version. Equal digests end the matter. Different ones are divided, until a part
//! has at most 16 entries on one side; these are listed by key and version, and the values that one side lacks
//! travel. With `n` entries, one difference takes about `log16(n) + 4` messages. What has changed lately goes along
//! unasked with an opening and its answer, twice; while a change is young that is most often all there is to find.
//!
//! *Why it converges.* Merging is commutative, associative and idempotent, so what a node has is the union of
//! what it has heard. If two nodes differ, and the limits allow, an exchange without losses leaves them with the same. As
//! long as the nodes that are alive are connected by "may draw each other" - everybody draws seeds - each change
//! reaches everybody with probability 1; by push-pull in a time that grows with the logarithm of the number of nodes.
//!
//! ## States and versions
//!
//! A node's state is stamped with the [`Incarnation`] of the process and a number that the process counts. Nothing of it must be
//! durable but the boot counter: a restarted node begins at 1 again, under a greater incarnation, which wins. One that has
//! lost count hears of its predecessor's greater incarnation ([`Effect::Superseded`]) and outbids it ([`Gossip::outbid`]).
//!
//! ## Clones
//!
//! A run that hears of its own id under a greater incarnation cannot tell whether that run has ended. If it has only just
//! joined, the other was there before it; if it has been in the cluster for a while, the other came later. Two rules
//! suffice, of which the second is the caller's: a run that has just joined outbids the other and says nothing more; a run
//! that has been there outbids it and [rejects](Stamp::rejects) it. If the rejected run is dead nothing follows. If it
//! lives it hears of it, and that is proof that both have lived at the same time: a nonce is known only to those who
//! have heard of its run. A dead run's messages, however late, name nobody who was started after its death. No
//! third node could conclude that from what it hears: a heartbeat of the old process may have travelled for long.
//!
//! Two runs of the same age outbid each other until one has been there for a while, and rejects the other. Only a run
//! that is outbid answers, so they take turns, and not both are rejected.
//!
//! ## Heartbeats
//!
//! A node's heartbeat is the number of its rounds. Heartbeats are outside the digests: they always change. A message
//! carries the sender's own and up to 15 others that the sender has heard lately, each passed on three times at
//! most, each node in its turn. In a cluster of more than 16 nodes not every heartbeat reaches everybody any more. The
//! intervals get longer, and the detectors, which go by the intervals seen, get more patient; failed calls make up
//! for it, for whoever makes calls.
//!
//! # Limits
//!
//! What other nodes can make a node store or send, whatever they send themselves:
//!
//! | what | at most | beyond it |
//! |---|---|---|
//! | nodes known, states | [`Config::nodes_max`] each | refused; [`Counters::states_refused`] |
//! | length of a state | [`Config::state_bytes_max`] | refused; [`Counters::states_refused`] |
//! | entries of a set or map | [`Limits::entries_max`] | refused; [`VersionedMap::refused`] |
//! | bytes of values in a message | [`Limits::message_bytes_max`], or one value | the next message |
//! | other parts of a message | [`MapMessage`]'s constants | the next message, or exchange |
//! | heartbeats in a message | [`Message::HEARTBEATS_MAX`] | ignored; [`Counters::heartbeats_ignored`] |
//! | messages in an exchange | [`Config::steps_max`] | the next exchange |
//! | answers to a message | 1 | |
//!
//! A node that has refused something goes on being offered it: nodes with different limits, or different
//! [removed](Gossip::remove) nodes, do not get quiet.

mod config;
mod detector;
mod digest;
mod gossip;
mod map;
mod message;
mod payload;
mod peers;
mod reconcile;
#[cfg(feature = "serde")]
mod serde_impls;
mod set;
mod state;
mod versioned;

pub use config::{Config, Counters};
pub use detector::{DetectorConfig, PhiAccrual};
pub use digest::Digest;
pub use gossip::{Gossip, SetStateError};
pub use map::{Limits, MapFull, VersionedMap};
pub use message::{Effect, Heartbeat, Message};
pub use payload::{Payload, Reply};
pub use reconcile::{Branch, Leaf, MapMessage, Prefix};
pub use set::{GrowSet, Only};
pub use state::{Incarnation, NodeState, Stamp};
pub use versioned::{Element, Latest, Versioned};
