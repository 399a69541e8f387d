//! Which nodes of a walk are home.

use std::collections::BTreeSet;

use crate::Ring;
use crate::strategy::domains::Domains;

/// The failure domains of the members that own tokens.
struct Places {
    zone_of: Vec<u32>,
    host_of: Vec<u32>,
    zones: usize,
    hosts: usize,
    owners: usize,
    /// By zone: nodes and hosts in it.
    nodes_in: Vec<usize>,
    hosts_in: Vec<usize>,
}

impl Places {
    fn of(ring: &Ring) -> Self {
        let mut domains = Domains::default();
        let (mut zone_of, mut host_of) = (vec![0; ring.members().len()], vec![0; ring.members().len()]);
        let mut pairs = BTreeSet::new();
        let mut nodes_in = Vec::new();
        for (index, (member, _)) in ring.shares().enumerate().filter(|(_, (_, load))| load.tokens > 0) {
            let (zone, host) = domains.enter(member);
            (zone_of[index], host_of[index]) = (zone, host);
            pairs.insert((zone, host));
            nodes_in.resize(nodes_in.len().max(zone as usize + 1), 0);
            nodes_in[zone as usize] += 1;
        }
        let mut hosts_in = vec![0; nodes_in.len()];
        for (zone, _) in pairs {
            hosts_in[zone as usize] += 1;
        }
        let owners = nodes_in.iter().sum();
        Self { zone_of, host_of, zones: domains.zones(), hosts: domains.hosts(), owners, nodes_in, hosts_in }
    }

    /// How little a node adds to the diversity of those chosen; the least is best.
    fn rank(&self, chosen: &[u32], node: u32) -> Rank {
        let (zone, host) = (self.zone_of[node as usize], self.host_of[node as usize]);
        let zone_uses = chosen.iter().filter(|&&c| self.zone_of[c as usize] == zone).count();
        let host_uses = chosen.iter().filter(|&&c| self.host_of[c as usize] == host).count();
        (zone_uses > 0, host_uses > 0, zone_uses, host_uses)
    }

    /// A lower bound of the rank of anybody who can still be chosen: the walk may stop when it is met.
    fn best_rank(&self, chosen: &[u32]) -> Rank {
        let zones = distinct(chosen, &self.zone_of);
        if zones < self.zones {
            return (false, false, 0, 0);
        }
        let zone_uses = |zone: u32| chosen.iter().filter(|&&c| self.zone_of[c as usize] == zone).count();
        let all_zones = || chosen.iter().map(|&c| self.zone_of[c as usize]);
        if distinct(chosen, &self.host_of) < self.hosts {
            let with_free_host = all_zones().filter(|&zone| {
                let here: Vec<u32> =
                    chosen.iter().copied().filter(|&c| self.zone_of[c as usize] == zone).collect();
                distinct(&here, &self.host_of) < self.hosts_in[zone as usize]
            });
            return (true, false, with_free_host.map(zone_uses).min().unwrap_or(1), 0);
        }
        let with_free_node = all_zones().filter(|&zone| zone_uses(zone) < self.nodes_in[zone as usize]);
        (true, true, with_free_node.map(zone_uses).min().unwrap_or(1), 1)
    }
}

/// Zone used, host used, uses of the zone, uses of the host.
type Rank = (bool, bool, usize, usize);

fn distinct(chosen: &[u32], domain_of: &[u32]) -> usize {
    let domain = |c: &u32| domain_of[*c as usize];
    (0..chosen.len()).filter(|&i| chosen[..i].iter().all(|c| domain(c) != domain(&chosen[i]))).count()
}

pub(crate) fn choose_homes(ring: &Ring) -> Vec<u32> {
    let places = Places::of(ring);
    let mut homes = Vec::with_capacity(ring.token_total() * ring.home_count());
    for partition in 0..ring.token_total() {
        let begin = homes.len();
        for _ in 0..ring.home_count().min(places.owners) {
            let next = next_home(ring, &places, partition, &homes[begin..]);
            homes.push(next);
        }
        for nth in 0..ring.home_count().saturating_sub(places.owners) {
            homes.extend(ring.spare_at(partition, nth));
        }
    }
    homes
}

fn next_home(ring: &Ring, places: &Places, partition: usize, chosen: &[u32]) -> u32 {
    let best_possible = places.best_rank(chosen);
    let mut best: Option<(Rank, u32)> = None;
    let mut seen = 0;
    for steps in 0..ring.token_total() {
        let Some(node) = ring.first_visit(partition, steps) else { continue };
        seen += 1;
        if !chosen.contains(&node) {
            let rank = places.rank(chosen, node);
            if best.is_none_or(|(least, _)| rank < least) {
                best = Some((rank, node));
                if rank <= best_possible {
                    break;
                }
            }
        }
        if seen == places.owners {
            break;
        }
    }
    best.map(|(_, node)| node).expect("fewer are chosen than own tokens")
}
