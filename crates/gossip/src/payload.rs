//! What gossip carries.

/// Something that nodes merge until all have the same.
///
/// A payload reconciles by a conversation, which [`Gossip`](crate::Gossip) carries: one side sends what
/// [`open`](Self::open) says, each answers what [`handle`](Self::handle) returns, until one has nothing to
/// add. Both have everything then, unless a message got lost or a limit was reached: the next exchange
/// goes on from there.
///
/// Ready-made: [`GrowSet`](crate::GrowSet), a set that only grows, and [`VersionedMap`](crate::VersionedMap), a
/// map in which for each key the greatest version wins. Tuples of up to four payloads are payloads - of one, too, for
/// those who expect more to come - and `()` is one that carries nothing.
///
/// # What an implementation must hold to
///
/// * Merging is commutative, associative and idempotent; messages get lost, doubled and reordered, and come
///   from exchanges long over.
/// * `open` is short, for it is sent in every round, changed or not: a digest, and for some rounds after a change
///   perhaps what is new. (That is why it may change something: what is no longer new.)
/// * To the opening of an equal payload, `handle` answers nothing.
/// * Messages are bounded, whatever the other side sent, and so is what is stored.
///
/// # Examples
///
/// The greatest number seen anywhere:
///
/// ```
/// use dynkv_gossip::{Payload, Reply};
///
/// struct Greatest(u64);
///
/// impl Payload for Greatest {
///     type Message = u64;
///
///     fn open(&mut self) -> u64 {
///         self.0
///     }
///
///     fn handle(&mut self, theirs: u64) -> Reply<u64> {
///         let changed = theirs > self.0;
///         self.0 = self.0.max(theirs);
///         // Whoever has less is told; whoever has more or the same needs nothing.
///         Reply { changed, answer: (self.0 > theirs).then_some(self.0) }
///     }
/// }
///
/// let (mut a, mut b) = (Greatest(7), Greatest(9));
/// let answer = b.handle(a.open()).answer.expect("a is behind");
/// assert!(a.handle(answer).changed);
/// assert_eq!(a.0, 9);
/// ```
pub trait Payload {
    /// What the two sides of a conversation send each other.
    type Message;

    /// The first message of a conversation: short, see above.
    fn open(&mut self) -> Self::Message;

    /// Takes a message in, and says what to answer.
    fn handle(&mut self, message: Self::Message) -> Reply<Self::Message>;
}

/// What a [`Payload`] made of a message.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reply<M> {
    /// What to send back, if anything.
    pub answer: Option<M>,
    /// Whether the payload is another now.
    pub changed: bool,
}

/// Nothing changed, and there is nothing to answer.
impl<M> Default for Reply<M> {
    fn default() -> Self {
        Self { answer: None, changed: false }
    }
}

/// Nothing to carry.
impl Payload for () {
    type Message = ();

    fn open(&mut self) {}

    fn handle(&mut self, (): ()) -> Reply<()> {
        Reply::default()
    }
}

macro_rules! tuple {
    ($($part:ident $at:tt),+) => {
        /// Each part has its own conversation; they share the messages.
        impl<$($part: Payload),+> Payload for ($($part,)+) {
            type Message = ($(Option<$part::Message>,)+);

            fn open(&mut self) -> Self::Message {
                ($(Some(self.$at.open()),)+)
            }

            fn handle(&mut self, message: Self::Message) -> Reply<Self::Message> {
                let replies = ($(message.$at.map(|part| self.$at.handle(part)).unwrap_or_default(),)+);
                let changed = $(replies.$at.changed)||+;
                let answered = $(replies.$at.answer.is_some())||+;
                Reply { answer: answered.then(|| ($(replies.$at.answer,)+)), changed }
            }
        }
    };
}

tuple!(A 0);
tuple!(A 0, B 1);
tuple!(A 0, B 1, C 2);
tuple!(A 0, B 1, C 2, D 3);
