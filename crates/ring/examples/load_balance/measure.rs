//! The measurements: exact for uniform popularity, over a set of keys for skewed.

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt;

use dynkv_ring::strategy::{EqualTokens, RandomPartitions, RandomTokens, efficiency};
use dynkv_ring::{InvalidPartitionCount, Member, NodeId, PartitionCount, Position};

const NODES: usize = 30;
const REPLICAS: u8 = 3;
/// Partitions of strategy 2: many more than tokens, as in the paper.
const FINE_PARTITIONS: u32 = 65_536;
const KEYS: u32 = 100_000;
const ZIPF_EXPONENT: f64 = 0.8;

/// Tokens per node of strategies 1 and 2.
const TOKENS: [u32; 8] = [1, 3, 10, 30, 100, 200, 300, 500];
/// Partitions of strategy 3.
const PARTITIONS: [u32; 8] = [128, 256, 512, 1024, 2048, 4096, 8192, 16_384];

/// How many drawings of tokens (uniform), and of popular keys too (skewed), are averaged.
const DRAWINGS: u64 = 100;
const DRAWINGS_SKEWED: u64 = 12;

/// What to expect under uniform popularity, by tokens and by partitions.
const REFERENCE_RANDOM: [(u32, f64); 4] = [(1, 0.44), (10, 0.73), (100, 0.89), (500, 0.95)];
const REFERENCE_EQUAL: [(u32, f64); 4] = [(128, 0.85), (256, 0.95), (1024, 0.975), (4096, 0.997)];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strategy {
    Random,
    RandomPartitions,
    Equal,
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Random => "1: random tokens",
            Self::RandomPartitions => "2: random tokens, equal partitions",
            Self::Equal => "3: equal partitions, Q/S tokens each",
        })
    }
}

/// One setting of one strategy.
#[derive(Debug, Clone)]
pub(crate) struct Measurement {
    pub(crate) strategy: Strategy,
    /// T, tokens per node, or Q, partitions.
    pub(crate) parameter: u32,
    /// Entries every node keeps.
    pub(crate) metadata: usize,
    /// Efficiency with uniform popularity.
    pub(crate) uniform: f64,
    /// Efficiency with skewed popularity.
    pub(crate) skewed: f64,
}

impl Measurement {
    /// What to expect under uniform popularity, if it is known for this setting.
    pub(crate) fn reference(&self) -> Option<f64> {
        let reference = match self.strategy {
            Strategy::Random => &REFERENCE_RANDOM,
            Strategy::RandomPartitions => return None,
            Strategy::Equal => &REFERENCE_EQUAL,
        };
        reference.iter().find(|(parameter, _)| *parameter == self.parameter).map(|(_, value)| *value)
    }
}

/// Every setting of every strategy.
pub(crate) fn all() -> Result<Vec<Measurement>, Box<dyn Error>> {
    let nodes = nodes();
    let popular: Vec<Popular> = (0..DRAWINGS_SKEWED).map(popular_keys).collect();
    let mut measurements = Vec::new();
    for tokens in TOKENS {
        measurements.push(random(&nodes, &popular, tokens));
    }
    for tokens in TOKENS {
        measurements.push(random_partitions(&nodes, &popular, tokens)?);
    }
    for partitions in PARTITIONS {
        measurements.push(equal(&nodes, &popular, partitions)?);
    }
    Ok(measurements)
}

fn nodes() -> Vec<Member> {
    (0..NODES).map(|n| Member::new(format!("n{n:02}").parse().expect("a valid id"))).collect()
}

/// Positions of keys with the requests for each, as a share of all.
type Popular = Vec<(Position, f64)>;

fn popular_keys(drawing: u64) -> Popular {
    let weight = |rank: u32| f64::from(rank).powf(-ZIPF_EXPONENT);
    let total: f64 = (1..=KEYS).map(weight).sum();
    let bucket = format!("drawing {drawing}");
    (1..=KEYS).map(|rank| (Position::of(&bucket, &rank.to_be_bytes()), weight(rank) / total)).collect()
}

fn random(nodes: &[Member], popular: &[Popular], tokens: u32) -> Measurement {
    let place = |seed| RandomTokens::new(REPLICAS, nodes, tokens, seed);
    Measurement {
        strategy: Strategy::Random,
        parameter: tokens,
        metadata: place(0).token_count(),
        uniform: mean((0..DRAWINGS).map(|seed| efficiency(place(seed).loads()))),
        skewed: mean((0..).zip(popular).map(|(seed, keys)| {
            let placed = place(seed);
            skewed_efficiency(nodes, keys, |position| placed.homes(position))
        })),
    }
}

fn random_partitions(
    nodes: &[Member],
    popular: &[Popular],
    tokens: u32,
) -> Result<Measurement, InvalidPartitionCount> {
    let partitions = PartitionCount::new(FINE_PARTITIONS)?;
    let place = |seed| RandomPartitions::new(partitions, REPLICAS, nodes, tokens, seed);
    Ok(Measurement {
        strategy: Strategy::RandomPartitions,
        parameter: tokens,
        metadata: place(0).token_count(),
        uniform: mean((0..DRAWINGS).map(|seed| efficiency(place(seed).loads()))),
        skewed: mean((0..).zip(popular).map(|(seed, keys)| {
            let placed = place(seed);
            skewed_efficiency(nodes, keys, |position| placed.homes_at(position))
        })),
    })
}

fn equal(nodes: &[Member], popular: &[Popular], partitions: u32) -> Result<Measurement, Box<dyn Error>> {
    let count = PartitionCount::new(partitions)?;
    let ring = EqualTokens::found(count, REPLICAS, nodes.iter().cloned())?.ring();
    let homes = |position: Position| ring.homes(position.partition(count)).to_vec();
    Ok(Measurement {
        strategy: Strategy::Equal,
        parameter: partitions,
        metadata: partitions as usize,
        uniform: efficiency(ring.shares().map(|(_, load)| f64::from(load.replicas))),
        skewed: mean(popular.iter().map(|keys| skewed_efficiency(nodes, keys, homes))),
    })
}

fn skewed_efficiency(
    nodes: &[Member],
    keys: &[(Position, f64)],
    homes: impl Fn(Position) -> Vec<NodeId>,
) -> f64 {
    let mut loads: BTreeMap<NodeId, f64> = nodes.iter().map(|node| (node.id, 0.0)).collect();
    for (position, share) in keys {
        for home in homes(*position) {
            *loads.entry(home).or_default() += share;
        }
    }
    efficiency(loads.into_values())
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (count, sum) = values.fold((0, 0.0), |(count, sum), value| (count + 1, sum + value));
    sum / f64::from(count)
}
