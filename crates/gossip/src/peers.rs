//! The other nodes: who they are, their heartbeats, and how suspicious they are.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::time::Duration;

use crate::{Config, Heartbeat, PhiAccrual};

/// A heartbeat is passed on so many times before a newer one is heard, and no more if none is: the dead take no room.
const PASSES: u8 = 3;

/// All nodes known, but for this one.
#[derive(Debug, Clone)]
pub(crate) struct Peers<N> {
    table: BTreeMap<N, Peer>,
    /// The keys of `table`, for drawing one.
    ids: Vec<N>,
    /// Whose heartbeat was sent last: the next message goes on behind it.
    sent: Option<N>,
}

#[derive(Debug, Clone)]
pub(crate) struct Peer {
    /// Boot counter and rounds, as last heard.
    heartbeat: (u64, u64),
    /// How many more times it is passed on.
    passes: u8,
    pub(crate) detector: PhiAccrual,
}

impl<N: Ord + Clone> Peers<N> {
    pub(crate) fn new() -> Self {
        Self { table: BTreeMap::new(), ids: Vec::new(), sent: None }
    }

    pub(crate) fn get(&self, id: &N) -> Option<&Peer> {
        self.table.get(id)
    }

    pub(crate) fn get_mut(&mut self, id: &N) -> Option<&mut Peer> {
        self.table.get_mut(id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&N, &Peer)> {
        self.table.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.table.values_mut()
    }

    /// Adds a node that is not known yet, if there is room.
    pub(crate) fn add(&mut self, id: &N, config: &Config, now: Duration) {
        if self.table.len() >= config.nodes_max || self.table.contains_key(id) {
            return;
        }
        // In a round one hears from about two nodes, of as many hearts as fit into a message; in a large cluster
        // that is not everybody. Twice that, for a node that has just been added spreads slowly at first.
        let nodes_per_beat = (self.table.len() + 1).div_ceil(config.heartbeats_max.max(1));
        let expected =
            config.interval.saturating_mul(2 * u32::try_from(nodes_per_beat).unwrap_or(u32::MAX / 2));
        let detector = PhiAccrual::new(config.detector, expected, now);
        self.table.insert(id.clone(), Peer { heartbeat: (0, 0), passes: 0, detector });
        self.ids.push(id.clone());
    }

    pub(crate) fn remove(&mut self, id: &N) {
        if self.table.remove(id).is_some() {
            self.ids.retain(|other| other != id);
        }
    }

    /// Takes in what is news of the heartbeat; `false` if the node is not known.
    pub(crate) fn hear(&mut self, beat: &Heartbeat<N>, now: Duration) -> bool {
        let Some(peer) = self.table.get_mut(&beat.id) else { return false };
        if (beat.boot, beat.count) > peer.heartbeat {
            peer.heartbeat = (beat.boot, beat.count);
            peer.passes = PASSES;
            peer.detector.heartbeat(now);
        }
        true
    }

    /// Up to `max` heartbeats that were heard lately, each node in its turn.
    pub(crate) fn fresh(&mut self, max: usize) -> Vec<Heartbeat<N>> {
        let mut beats = Vec::new();
        let after = self.sent.clone().map_or(Bound::Unbounded, Bound::Excluded);
        let until = self.sent.clone().map_or(Bound::Unbounded, Bound::Included);
        let wraps = self.sent.is_some();
        take(self.table.range_mut((after, Bound::Unbounded)), max, &mut beats);
        if wraps {
            take(self.table.range_mut((Bound::Unbounded, until)), max, &mut beats);
        }
        if let Some(last) = beats.last() {
            self.sent = Some(last.id.clone());
        }
        beats
    }

    /// One eligible node by a random number: one that is not suspected, if a few draws find any.
    pub(crate) fn draw(
        &self,
        now: Duration,
        random: &mut impl FnMut() -> u64,
        eligible: impl Fn(&N) -> bool,
    ) -> Option<&N> {
        const DRAWS: usize = 8;
        let mut drawn = None;
        for _ in 0..DRAWS {
            let first = draw(self.ids.len(), random);
            // The next one in a circle: uniform while all are eligible, and nearly so while most are.
            let (before, from) = self.ids.split_at(first.min(self.ids.len()));
            drawn = Some(from.iter().chain(before).find(|id| eligible(id))?);
            if drawn.is_some_and(|id| !self.table[id].detector.is_suspect(now)) {
                break;
            }
        }
        drawn
    }
}

fn take<'a, N: Clone + 'a>(
    peers: impl Iterator<Item = (&'a N, &'a mut Peer)>,
    max: usize,
    beats: &mut Vec<Heartbeat<N>>,
) {
    for (id, peer) in peers.filter(|(_, peer)| peer.passes > 0).take(max - beats.len()) {
        peer.passes -= 1;
        let (boot, count) = peer.heartbeat;
        beats.push(Heartbeat { id: id.clone(), boot, count });
    }
}

/// A number below `bound` by a random one; 0 if there is none.
pub(crate) fn draw(bound: usize, random: &mut impl FnMut() -> u64) -> usize {
    // The high half of the product is uniform, as near as 64 bits allow.
    ((u128::from(random()) * bound as u128) >> 64) as usize
}
