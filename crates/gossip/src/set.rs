//! A set that only grows.

use std::fmt;

use crate::Limits;
use crate::reconcile::MapMessage;
use crate::{Digest, Element, MapFull, Payload, Reply, Versioned, VersionedMap};

/// A set that nodes merge by union; nothing is ever taken out.
///
/// Elements are known by their [`Digest`], so two sets find out what is missing where without sending
/// elements that both have, however large those are.
///
/// # Examples
///
/// ```
/// use dynkv_gossip::{GrowSet, Payload};
///
/// let mut a: GrowSet<String> = GrowSet::new();
/// let mut b = GrowSet::new();
/// a.insert("n1 joins".to_owned())?;
/// b.insert("n2 joins".to_owned())?;
///
/// let mut message = Some(a.open());
/// while let Some(question) = message {
///     let Some(answer) = b.handle(question).answer else { break };
///     message = a.handle(answer).answer;
/// }
/// assert_eq!(a, b);
/// assert_eq!(a.len(), 2);
/// # Ok::<(), dynkv_gossip::MapFull>(())
/// ```
#[derive(Clone)]
pub struct GrowSet<T> {
    elements: VersionedMap<Digest, Only<T>>,
}

/// An element as a value that has one version.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
pub struct Only<T>(T);

impl<T> Only<T> {
    /// The value.
    pub fn get(&self) -> &T {
        &self.0
    }
}

impl<T> From<T> for Only<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T: Element> Versioned for Only<T> {
    type Version = ();

    fn version(&self) {}

    fn merge(&mut self, _: Self) {}

    fn size_bytes(&self) -> usize {
        self.0.size_bytes()
    }
}

impl<T: Element> GrowSet<T> {
    /// An empty set with the default limits.
    #[must_use]
    pub fn new() -> Self {
        Self::with_limits(Limits::default())
    }

    /// An empty set.
    #[must_use]
    pub fn with_limits(limits: Limits) -> Self {
        Self { elements: VersionedMap::with_limits(limits) }
    }

    /// Adds an element; `false` if it was there already.
    ///
    /// # Errors
    ///
    /// If the element is new and the set is full; nothing has changed then.
    pub fn insert(&mut self, element: T) -> Result<bool, MapFull> {
        self.elements.insert(Digest::of(&element), Only(element))
    }

    /// Whether the element is in the set.
    #[must_use]
    pub fn contains(&self, element: &T) -> bool {
        self.elements.get(&Digest::of(element)).is_some()
    }

    /// All elements, in an order that is the same everywhere, and of no meaning.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &T> {
        self.elements.iter().map(|(_, element)| element.get())
    }

    /// The number of elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.elements.len()
    }

    /// Whether there is no element.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty()
    }

    /// The digest of all elements.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.elements.digest()
    }

    /// How many elements others sent that were refused: for want of room, or for a wrong digest.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.elements.refused()
    }
}

impl<T: Element> Payload for GrowSet<T> {
    type Message = MapMessage<Digest, Only<T>, ()>;

    fn open(&mut self) -> Self::Message {
        self.elements.open()
    }

    fn handle(&mut self, mut message: Self::Message) -> Reply<Self::Message> {
        // Under a wrong digest an element could be there twice, and never where it is looked for.
        message.values.retain(|(digest, element)| {
            let right = *digest == Digest::of(element.get());
            if !right {
                self.elements.count_refused();
            }
            right
        });
        self.elements.handle(message)
    }
}

impl<T: Element> Default for GrowSet<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> PartialEq for GrowSet<T> {
    fn eq(&self, other: &Self) -> bool {
        self.elements == other.elements
    }
}

impl<T> Eq for GrowSet<T> {}

impl<T: fmt::Debug> fmt::Debug for GrowSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.elements.iter().map(|(_, element)| element.get())).finish()
    }
}
