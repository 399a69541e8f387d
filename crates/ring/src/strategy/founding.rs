//! The first division of the circle.

use std::collections::BTreeMap;

/// What matters of a founding member.
pub(crate) struct Candidate {
    pub(crate) zone: u32,
    pub(crate) host: u32,
    pub(crate) weight: u32,
}

/// Deals the tokens to the candidates, by index: zones take turns in proportion to their tokens, within a zone
/// the hosts, within a host the nodes.
pub(crate) fn deal(tokens: u32, candidates: &[Candidate]) -> Vec<u32> {
    let due = largest_remainder(tokens, candidates);
    let mut zones: BTreeMap<u32, BTreeMap<u32, Turns<u32>>> = BTreeMap::new();
    for (index, (candidate, due)) in candidates.iter().zip(due).enumerate() {
        let host = zones.entry(candidate.zone).or_default().entry(candidate.host).or_default();
        host.add(due, index as u32);
    }
    let mut circle = Turns::default();
    for hosts in zones.into_values() {
        let mut zone = Turns::default();
        for host in hosts.into_values() {
            zone.add(host.total, host);
        }
        circle.add(zone.total, zone);
    }
    (0..tokens).map(|_| *circle.next().next().next()).collect()
}

/// Whole tokens in proportion to weight: everyone's due rounded down, and one more for those with the largest
/// remainders (of equal ones, the first) until none is left.
fn largest_remainder(tokens: u32, candidates: &[Candidate]) -> Vec<u32> {
    let total: u64 = candidates.iter().map(|c| u64::from(c.weight)).sum();
    let scaled = |c: &Candidate| u64::from(tokens) * u64::from(c.weight);
    let mut due: Vec<u32> = candidates.iter().map(|c| (scaled(c) / total) as u32).collect();
    let mut by_remainder: Vec<usize> = (0..candidates.len()).collect();
    by_remainder.sort_by_key(|&i| std::cmp::Reverse(scaled(&candidates[i]) % total));
    let left = tokens - due.iter().sum::<u32>();
    for &index in by_remainder.iter().take(left as usize) {
        due[index] += 1;
    }
    due
}

/// Smooth weighted round robin: after as many turns as there are tokens in all, everybody had exactly its own
/// number, spread as evenly as possible.
struct Turns<T> {
    seats: Vec<Seat<T>>,
    total: u32,
}

struct Seat<T> {
    due: u32,
    credit: i64,
    holder: T,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { seats: Vec::new(), total: 0 }
    }
}

impl<T> Turns<T> {
    fn add(&mut self, due: u32, holder: T) {
        // Nobody without tokens ever has a turn.
        if due > 0 {
            self.seats.push(Seat { due, credit: 0, holder });
            self.total += due;
        }
    }

    fn next(&mut self) -> &mut T {
        let mut chosen = 0;
        for index in 0..self.seats.len() {
            self.seats[index].credit += i64::from(self.seats[index].due);
            if self.seats[index].credit > self.seats[chosen].credit {
                chosen = index;
            }
        }
        let seat = &mut self.seats[chosen];
        seat.credit -= i64::from(self.total);
        &mut seat.holder
    }
}
