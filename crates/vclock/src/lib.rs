//! Vector clocks, causal contexts and dotted version vectors: versioned values that neither explode
//! nor get lost, for stores whose replicas accept writes without asking each other.
//!
//! ```
//! use dynkv_vclock::{CausalContext, Siblings};
//!
//! // One key at one replica. The replica, "x", is the actor; clients need no identity.
//! let mut cart: Siblings<&str, &str> = Siblings::new();
//!
//! // Ann and Bob both write without having read anything: neither replaces the other.
//! let nothing = CausalContext::new();
//! cart.put("x", &nothing, "milk")?;
//! cart.put("x", &nothing, "eggs")?;
//! assert!(cart.values().eq(&["milk", "eggs"]));
//!
//! // Ann reads: all values, and the context that stands for having read them. Bob goes on without.
//! let read = cart.context().clone();
//! cart.put("x", &nothing, "bread")?;
//!
//! // Ann's write replaces what she has read, and nothing else.
//! cart.put("x", &read, "milk, eggs")?;
//! assert!(cart.values().eq(&["bread", "milk, eggs"]));
//! # Ok::<(), dynkv_vclock::PutError>(())
//! ```
//!
//! # The pieces
//!
//! | type | what it is |
//! |---|---|
//! | [`Dot`] | the name of one event: an actor and the counter it gave the event |
//! | [`CausalContext`] | a set of events: a version vector plus isolated dots |
//! | [`Siblings`] | the concurrent values of a key, each under its dot, and the context of all that was seen |
//! | [`VectorClock`] | the plain vector clock of the Dynamo paper, with its truncation |
//! | [`Causality`] | equal, before, after or concurrent |
//! | [`HybridClock`], [`HybridTime`] | timestamps that never go back, for where the last writer shall win |
//! | [`Canonical`] | stable bytes of dots, contexts and siblings, for any hash |
//!
//! # Why not something simpler
//!
//! Two clients write the same key at the same time, and nobody may be asked who was first. Four
//! designs, in the order in which people try them.
//!
//! ## Timestamps lose
//!
//! The greatest timestamp wins. Of two concurrent writes one is gone, although both were
//! acknowledged; with a wrong clock even a write that had *read* the other:
//!
//! ```
//! /// The stored value and its timestamp.
//! fn put(stored: &mut (u64, &'static str), now_ms: u64, value: &'static str) {
//!     *stored = (*stored).max((now_ms, value));
//! }
//!
//! let mut cart = (0, "");
//! put(&mut cart, 5_000, "milk"); // by a client whose clock is four seconds ahead
//! put(&mut cart, 1_000, "milk, eggs"); // by one who has read "milk"
//! assert_eq!(cart.1, "milk"); // the eggs are gone
//! ```
//!
//! ## A vector clock of servers loses, too
//!
//! Each value carries a [`VectorClock`]; a client sends back the clock it has read and the server
//! counts its own entry up. The order of events is right now, as long as two writes meet at
//! different servers. At one server the clock cannot say which of them had read the other:
//!
//! ```
//! use dynkv_vclock::{Causality, VectorClock};
//!
//! let read: VectorClock<&str> = VectorClock::new(); // both clients have read: nothing
//!
//! // Server x stores Ann's write as {x:1}, then Bob's. Another {x:1} would be a second value with
//! // the same clock, so it must count on from its own: {x:2}.
//! let mut ann = read.clone();
//! ann.increment("x", 0);
//! let mut bob = read.clone();
//! bob.merge(&ann);
//! bob.increment("x", 0);
//!
//! // Every replica now believes that Bob had read Ann's value, and drops it.
//! assert_eq!(ann.compare(&bob), Causality::Before);
//! ```
//!
//! ## Or it explodes
//!
//! So the server keeps one clock for *all* the key's values, and drops them only if the client has
//! read all of it; else it adds the new value to them. Nothing is lost, but two clients who merely
//! take turns never get rid of anything, for the clock cannot say which values they have read:
//!
//! ```
//! use dynkv_vclock::VectorClock;
//!
//! let mut clock = VectorClock::new();
//! let mut values = Vec::new();
//! let mut read = [VectorClock::new(), VectorClock::new()];
//! for n in 0..1_000 {
//!     let client = n % 2; // writes under what it read after its last write
//!     if read[client].includes(&clock) {
//!         values.clear();
//!     }
//!     clock.increment("x", 0);
//!     values.push(n);
//!     read[client] = clock.clone();
//! }
//! assert_eq!(values.len(), 1_000);
//! ```
//!
//! ## A vector clock of clients grows
//!
//! With an entry per *client* the clock is right, and has as many entries as there ever were
//! clients. The Dynamo paper [truncates](VectorClock::truncate) it, and with the oldest entry goes
//! the knowledge of what was read, so replaced values turn up again:
//!
//! ```
//! use dynkv_vclock::{Causality, VectorClock};
//!
//! let mut old = VectorClock::new();
//! old.increment("client 0", 0);
//! let mut new = old.clone();
//! for n in 1..=10 {
//!     new.increment(["client A", "client B", "client C"][n % 3], n as u64);
//!     new.truncate(3);
//! }
//! assert_eq!(old.compare(&new), Causality::Concurrent); // it was replaced ten times over
//! ```
//!
//! ## What works
//!
//! The knowledge of *one value* (its dot: which event wrote it) and the knowledge of *what was read*
//! (a context: a set of events) are two things. A value is replaced if its dot is in the context of
//! a later write, and that is all there is to it. Actors are servers, so there are few:
//!
//! ```
//! use dynkv_vclock::{CausalContext, Siblings};
//!
//! let mut store = Siblings::new();
//! let mut read = [CausalContext::new(), CausalContext::new()];
//! for n in 0..1_000 {
//!     let client = n % 2;
//!     store.put("x", &read[client], n)?;
//!     read[client] = store.context().clone();
//! }
//! assert!(store.values().eq(&[998, 999])); // each client's last, neither had read the other
//! assert_eq!(store.context().to_string(), "{x:1000}");
//! # Ok::<(), dynkv_vclock::PutError>(())
//! ```
//!
//! # The argument
//!
//! To a replica an event is *unseen*, *live* (its value is here) or *gone* (in the context, value not
//! here), and only ever moves on in this order. [`Siblings::sync`] takes for each event the later of
//! two replicas' stages: a maximum per event, therefore commutative, associative and idempotent.
//! Replicas that have heard of the same writes are equal, and an event goes only where somebody's
//! context contained it. What has to hold for this is that an event is one event: no two writes
//! share a dot. [`Siblings`] lists what that asks of the caller.
//!
//! # What this crate does not do
//!
//! * **No I/O, no clock, no randomness.** Time is passed in, and actors are whatever the caller picks.
//! * **It does not pick actors.** It cannot notice that a disk was wiped, restored or cloned and its
//!   actor is about to number its events from the start again.
//! * **It does not merge values.** Siblings are for the application to reconcile.
//! * **It does not decide when to forget.** [`Siblings::compact`] does it; when that is safe cannot be
//!   seen from one replica.
//! * **It does not bound anything.** How many siblings and actors are too many is the store's policy.
//! * **No authentication.** A context from a client is believed, so give clients contexts in a form
//!   they cannot alter, if you do not trust them.
//! * **No deltas.** Two replicas exchange whole states of a key, which are small.
//!
//! # Features
//!
//! `serde` (off by default) implements `Serialize` and `Deserialize` as short sequences without
//! field names. Reading normalizes or refuses, so hostile input cannot break an invariant; it takes
//! memory in proportion to the input, which is for the caller to limit.

mod canonical;
mod causality;
mod context;
mod dot;
mod hybrid;
#[cfg(feature = "serde")]
mod serde_impls;
mod siblings;
mod vector_clock;

pub use canonical::Canonical;
pub use causality::Causality;
pub use context::CausalContext;
pub use dot::Dot;
pub use hybrid::{HybridClock, HybridTime, SkewError};
pub use siblings::{Iter, PutError, Siblings, Written};
pub use vector_clock::{ClockEntry, VectorClock};

/// Runs the README's examples.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
