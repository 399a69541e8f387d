//! Which node is asked first: smoothed latencies and recent failures, without I/O or a clock.

use std::collections::BTreeMap;
use std::time::Duration;

use dynkv_ring::NodeId;
use tokio::time::Instant;

/// A sample older than this says little: the node is asked again now and then, so that one that has recovered is found.
const STALE: Duration = Duration::from_secs(10);
/// While a stale node is being tried, others wait this long before they try it, too.
const TRIAL: Duration = Duration::from_secs(1);
const PENALTY_FIRST: Duration = Duration::from_millis(500);
const PENALTY_MAX: Duration = Duration::from_secs(8);
const PENALTY_HALF_LIFE: Duration = Duration::from_secs(2);
/// A penalty below this no longer keeps a node from being tried.
const PENALTY_FORGOTTEN: Duration = Duration::from_millis(50);

/// Whether a connection to a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reach {
    /// It stands.
    Up,
    /// It would have to be made first.
    Unknown,
    /// The last attempt to make one failed.
    Down,
}

#[derive(Clone, Copy, Debug, Default)]
struct Node {
    /// Exponentially weighted mean of the latencies.
    latency: Duration,
    sampled_at: Option<Instant>,
    tried_at: Option<Instant>,
    penalty: Duration,
    failed_at: Option<Instant>,
}

impl Node {
    fn penalty(&self, now: Instant) -> Duration {
        let Some(failed_at) = self.failed_at else { return Duration::ZERO };
        let age = now.saturating_duration_since(failed_at).as_secs_f64();
        self.penalty.mul_f64((-age / PENALTY_HALF_LIFE.as_secs_f64()).exp2())
    }

    fn cost(&self, now: Instant) -> Duration {
        self.latency + self.penalty(now)
    }

    fn is_stale(&self, now: Instant) -> bool {
        let older = |at: Option<Instant>, age| at.is_none_or(|at| now.saturating_duration_since(at) >= age);
        older(self.sampled_at, STALE) && older(self.tried_at, TRIAL) && self.penalty(now) < PENALTY_FORGOTTEN
    }
}

/// What the client has seen of each node.
#[derive(Debug, Default)]
pub(crate) struct Health {
    nodes: BTreeMap<NodeId, Node>,
}

impl Health {
    /// A call to `node` was answered after `latency`.
    pub(crate) fn answered(&mut self, node: NodeId, latency: Duration, now: Instant) {
        let node = self.nodes.entry(node).or_default();
        // The usual gain of 1/8 (RFC 6298), but a stale mean gives way at once.
        let stale = node.sampled_at.is_none_or(|at| now.saturating_duration_since(at) >= STALE);
        node.latency = if stale { latency } else { (node.latency * 7 + latency) / 8 };
        node.sampled_at = Some(now);
        node.failed_at = None;
    }

    /// A call to `node` failed in a way that makes another node the better choice for a while.
    pub(crate) fn failed(&mut self, node: NodeId, now: Instant) {
        let node = self.nodes.entry(node).or_default();
        node.penalty = (node.penalty(now) * 2).clamp(PENALTY_FIRST, PENALTY_MAX);
        node.failed_at = Some(now);
    }

    /// Whether `node` has failed lately.
    fn is_suspect(&self, node: NodeId, now: Instant) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.penalty(now) >= PENALTY_FORGOTTEN)
    }

    /// Sorts `candidates`, best first: those with a connection before those without, then by latency and recent failures.
    /// `preferred` comes first unless it is down or has failed lately. Otherwise a node that has not been measured for a while
    /// is put first now and then.
    pub(crate) fn rank(
        &mut self,
        candidates: &mut [(NodeId, Reach)],
        preferred: Option<NodeId>,
        now: Instant,
    ) {
        let cost = |id: NodeId| self.nodes.get(&id).map_or(Duration::ZERO, |node| node.cost(now));
        candidates.sort_by_cached_key(|&(id, reach)| (reach, cost(id)));
        let preferred = preferred
            .filter(|&id| !self.is_suspect(id, now))
            .and_then(|id| candidates.iter().position(|&(other, reach)| other == id && reach != Reach::Down));
        if let Some(at) = preferred {
            candidates[..=at].rotate_right(1);
            return;
        }
        let trial = |&(id, reach): &(NodeId, Reach)| {
            reach == Reach::Up && self.nodes.get(&id).is_none_or(|node| node.is_stale(now))
        };
        if let Some(at) = candidates.iter().position(trial) {
            self.nodes.entry(candidates[at].0).or_default().tried_at = Some(now);
            candidates[..=at].rotate_right(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn node(n: usize) -> NodeId {
        format!("n{n}").parse().unwrap()
    }

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn order(health: &mut Health, preferred: Option<usize>, now: Instant) -> Vec<NodeId> {
        let mut nodes = [1, 2, 3].map(|n| (node(n), Reach::Up));
        health.rank(&mut nodes, preferred.map(node), now);
        nodes.map(|(id, _)| id).to_vec()
    }

    /// All three nodes measured: n1 slowest, n3 fastest.
    fn measured(now: Instant) -> Health {
        let mut health = Health::default();
        for (n, latency) in [(1, ms(30)), (2, ms(20)), (3, ms(10))] {
            health.answered(node(n), latency, now);
        }
        health
    }

    #[test]
    fn the_fastest_comes_first_unless_another_is_preferred() {
        let now = Instant::now();
        let mut health = measured(now);
        assert_eq!(order(&mut health, None, now), [node(3), node(2), node(1)]);
        assert_eq!(order(&mut health, Some(1), now), [node(1), node(3), node(2)]);
        assert_eq!(order(&mut health, Some(9), now), [node(3), node(2), node(1)]);
        health.failed(node(1), now);
        assert_eq!(order(&mut health, Some(1), now), [node(3), node(2), node(1)]);
    }

    #[test]
    fn means_move_smoothly() {
        let now = Instant::now();
        let mut health = measured(now);
        health.answered(node(3), ms(80), now); // (7 * 10 + 80) / 8 = 18.75
        assert_eq!(order(&mut health, None, now)[0], node(3));
        health.answered(node(3), ms(80), now);
        assert_eq!(order(&mut health, None, now)[0], node(2));
    }

    #[test]
    fn failures_weigh_and_are_forgotten() {
        let mut now = Instant::now();
        let mut health = measured(now);
        health.failed(node(3), now);
        assert_eq!(order(&mut health, None, now), [node(2), node(1), node(3)]);
        // Its penalty decays below the others' 20 and 30 ms; they are kept fresh meanwhile.
        for _ in 0..20 {
            now += ms(1000);
            health.answered(node(1), ms(30), now);
            health.answered(node(2), ms(20), now);
        }
        assert_eq!(order(&mut health, None, now)[0], node(3));
    }

    #[test]
    fn repeated_failures_weigh_more_up_to_a_bound() {
        let now = Instant::now();
        let mut health = measured(now);
        for _ in 0..100 {
            health.failed(node(3), now);
        }
        let cost = health.nodes[&node(3)].cost(now);
        assert_eq!(cost, PENALTY_MAX + ms(10));
    }

    #[test]
    fn a_slow_node_is_tried_again_once_in_a_while() {
        let mut now = Instant::now();
        let mut health = measured(now);
        health.answered(node(1), ms(9000), now);
        now += STALE;
        health.answered(node(2), ms(20), now);
        health.answered(node(3), ms(10), now);
        assert_eq!(order(&mut health, None, now)[0], node(1));
        // One request is enough until it has answered.
        assert_eq!(order(&mut health, None, now)[0], node(3));
        assert_eq!(order(&mut health, None, now + TRIAL)[0], node(1));
        health.answered(node(1), ms(5), now + TRIAL);
        assert_eq!(order(&mut health, None, now + TRIAL)[0], node(1));
    }

    proptest! {
        #[test]
        fn ranking_permutes_and_reach_decides(
            reach in prop::collection::vec(0..3u8, 0..6),
            failed in prop::collection::vec(0..6usize, 0..8),
            preferred in prop::option::of(0..6usize),
        ) {
            let now = Instant::now();
            let mut health = Health::default();
            for &n in &failed {
                health.failed(node(n), now);
            }
            let reaches = [Reach::Up, Reach::Unknown, Reach::Down];
            let before: Vec<_> =
                reach.iter().enumerate().map(|(n, &r)| (node(n), reaches[usize::from(r)])).collect();
            let mut after = before.clone();
            health.rank(&mut after, preferred.map(node), now);
            let sorted = |mut nodes: Vec<_>| { nodes.sort(); nodes };
            prop_assert_eq!(sorted(before), sorted(after.clone()));
            // The first may be a trial or preferred, but never one that is down while others are not.
            let reach_of: Vec<_> = after.iter().map(|&(_, reach)| reach).collect();
            prop_assert!(reach_of.iter().skip(1).is_sorted());
            if reach_of.iter().any(|&r| r != Reach::Down) {
                prop_assert!(reach_of[0] != Reach::Down);
            }
        }
    }
}
