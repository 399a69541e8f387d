//! Zones and hosts as numbers.

use std::collections::BTreeMap;

use crate::{Member, NodeId};

/// A machine: named by several members, or a member's own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Host {
    Named(String),
    Own(NodeId),
}

/// The failure domains of the members, numbered, with how many members each one has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Domains {
    zones: Numbers<String>,
    hosts: Numbers<Host>,
}

impl Domains {
    /// Counts a member in; the numbers of its zone and host.
    pub(crate) fn enter(&mut self, member: &Member) -> (u32, u32) {
        let host =
            if member.host.is_empty() { Host::Own(member.id) } else { Host::Named(member.host.clone()) };
        (self.zones.enter(member.zone_name().to_owned()), self.hosts.enter(host))
    }

    /// Counts a member out.
    pub(crate) fn release(&mut self, zone: u32, host: u32) {
        self.zones.release(zone);
        self.hosts.release(host);
    }

    /// The number of zones with members.
    pub(crate) fn zones(&self) -> usize {
        self.zones.inhabited
    }

    /// The number of hosts with members.
    pub(crate) fn hosts(&self) -> usize {
        self.hosts.inhabited
    }
}

#[derive(Debug, Clone)]
struct Numbers<K> {
    numbers: BTreeMap<K, u32>,
    population: Vec<u32>,
    inhabited: usize,
}

impl<K> Default for Numbers<K> {
    fn default() -> Self {
        Self { numbers: BTreeMap::new(), population: Vec::new(), inhabited: 0 }
    }
}

impl<K: Ord> Numbers<K> {
    fn enter(&mut self, key: K) -> u32 {
        let next = self.population.len() as u32;
        let number = *self.numbers.entry(key).or_insert(next);
        if number == next {
            self.population.push(0);
        }
        let population = &mut self.population[number as usize];
        self.inhabited += usize::from(*population == 0);
        *population += 1;
        number
    }

    fn release(&mut self, number: u32) {
        let population = &mut self.population[number as usize];
        *population -= 1;
        self.inhabited -= usize::from(*population == 0);
    }
}
