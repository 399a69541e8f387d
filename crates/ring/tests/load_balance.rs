//! The paper's section 6.2 with S = 30 and N = 3: load-balancing efficiency (mean over greatest load) under
//! uniform popularity, at points worked out beforehand.

use dynkv_ring::strategy::{EqualTokens, RandomPartitions, RandomTokens, efficiency};
use dynkv_ring::{Member, PartitionCount};

fn nodes() -> Vec<Member> {
    (0..30).map(|n| Member::new(format!("n{n}").parse().unwrap())).collect()
}

fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let count = values.len() as f64;
    values.sum::<f64>() / count
}

fn check(what: &str, found: f64, expected: f64, tolerance: f64) {
    assert!((found - expected).abs() <= tolerance, "{what}: {found:.4}, expected {expected} ± {tolerance}");
}

/// Tokens per node, efficiency, drawings. A drawing of one token per node varies by 0.07 (standard deviation),
/// one of 500 by 0.01.
#[test]
fn strategy_1_gets_better_with_tokens() {
    for (tokens, expected, drawings) in [(1, 0.44, 100), (10, 0.73, 40), (100, 0.89, 10), (500, 0.95, 4)] {
        let efficiencies = (0..drawings)
            .map(|seed: u32| efficiency(RandomTokens::new(3, &nodes(), tokens, seed.into()).loads()));
        check(&format!("T = {tokens}"), mean(efficiencies), expected, 0.03);
    }
}

#[test]
fn strategy_2_is_no_better() {
    let partitions = PartitionCount::new(16_384).unwrap();
    for (tokens, expected, drawings) in [(1, 0.44, 50), (10, 0.73, 20), (100, 0.89, 6)] {
        let efficiencies = (0..drawings).map(|seed: u32| {
            efficiency(RandomPartitions::new(partitions, 3, &nodes(), tokens, seed.into()).loads())
        });
        check(&format!("T = {tokens}"), mean(efficiencies), expected, 0.04);
    }
}

/// Founded at once, and grown to the same size one node at a time: nothing is random, so the tolerance is that
/// of the points' own rounding.
#[test]
fn strategy_3_is_as_good_as_whole_tokens_allow() {
    for (partitions, expected) in [(128, 0.85), (256, 0.95), (1024, 0.975), (4096, 0.997)] {
        let count = PartitionCount::new(partitions).unwrap();
        let founded = EqualTokens::found(count, 3, nodes()).unwrap();
        let mut grown = EqualTokens::found(count, 3, nodes().into_iter().take(3)).unwrap();
        for node in nodes().into_iter().skip(3) {
            grown.join(node).unwrap();
        }
        for (how, tokens) in [("founded", founded), ("grown", grown)] {
            let ring = tokens.ring();
            let primary = efficiency(ring.shares().map(|(_, load)| f64::from(load.tokens)));
            let replicas = efficiency(ring.shares().map(|(_, load)| f64::from(load.replicas)));
            check(&format!("Q = {partitions}, {how}, tokens"), primary, expected, 0.005);
            check(&format!("Q = {partitions}, {how}, replicas"), replicas, expected, 0.005);
        }
    }
}
