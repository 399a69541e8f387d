//! The first division of the circle.

use std::cmp::Reverse;
use std::collections::BTreeMap;

/// What matters of a founding member.
pub(crate) struct Candidate {
    pub(crate) zone: u32,
    pub(crate) host: u32,
    pub(crate) weight: u32,
}

/// Deals the tokens to the candidates, by index: zones take turns in proportion to their tokens, within a zone
/// the hosts, within a host the nodes. Where it can be, `apart` turns lie between two of the same.
pub(crate) fn deal(tokens: u32, candidates: &[Candidate], apart: u32) -> Vec<u32> {
    let due = largest_remainder(tokens, candidates);
    let mut zones: BTreeMap<u32, BTreeMap<u32, Turns<u32>>> = BTreeMap::new();
    for (index, (candidate, due)) in candidates.iter().zip(due).enumerate() {
        let hosts = zones.entry(candidate.zone).or_default();
        hosts.entry(candidate.host).or_insert_with(|| Turns::new(candidate.host)).add(due, index as u32);
    }
    let mut circle = Turns::new(0);
    for (zone, hosts) in zones {
        let mut zone = Turns::new(zone);
        for host in hosts.into_values() {
            zone.add(host.total, host);
        }
        circle.add(zone.total, zone);
    }
    (0..tokens).map(|_| *circle.next(apart).next(apart).next(apart)).collect()
}

/// Whole tokens in proportion to weight: everyone's due rounded down, and one more for those with the largest
/// remainders (of equal ones, the first) until none is left.
fn largest_remainder(tokens: u32, candidates: &[Candidate]) -> Vec<u32> {
    let total: u64 = candidates.iter().map(|c| u64::from(c.weight)).sum();
    let scaled = |c: &Candidate| u64::from(tokens) * u64::from(c.weight);
    let mut due: Vec<u32> = candidates.iter().map(|c| (scaled(c) / total) as u32).collect();
    let mut by_remainder: Vec<usize> = (0..candidates.len()).collect();
    by_remainder.sort_by_key(|&i| Reverse(scaled(&candidates[i]) % total));
    let left = tokens - due.iter().sum::<u32>();
    for &index in by_remainder.iter().take(left as usize) {
        due[index] += 1;
    }
    due
}

/// Weighted turns: after as many as there are tokens in all, everybody had exactly its own number, and at any time
/// everybody has had its due within one turn.
///
/// The k-th of a seat's `due` turns is released at `k * total / due` and must come before the next one is; among
/// those released, the one that must come first does (Tijdeman, "The chairman assignment problem", 1980). Two
/// tokens of a heavy seat so lie as far apart as they can: `a b a c`, not `a b c a`.
///
/// Seats that are equal in that (all of a round, if all are due the same) have their turns in an order that differs
/// from round to round. In a fixed order everybody would always have the same neighbours, and they alone
/// would bear its load when it fails; the paper wants that load spread over all (section 4.2).
struct Turns<T> {
    seats: Vec<Seat<T>>,
    total: u32,
    turn: u32,
    /// Keeps the zones from going through their nodes in lockstep.
    salt: u32,
}

struct Seat<T> {
    due: u32,
    had: u32,
    /// When it may have its next turn, if nothing is more urgent.
    rested_at: u32,
    holder: T,
}

impl<T> Turns<T> {
    /// With another `salt` equal seats have their turns in another order.
    fn new(salt: u32) -> Self {
        Self { seats: Vec::new(), total: 0, turn: 0, salt }
    }

    fn add(&mut self, due: u32, holder: T) {
        // Nobody without tokens ever has a turn.
        if due > 0 {
            self.seats.push(Seat { due, had: 0, rested_at: 0, holder });
            self.total += due;
        }
    }

    fn next(&mut self, apart: u32) -> &mut T {
        let (turn, total) = (u64::from(self.turn), u64::from(self.total));
        let released = |seat: &Seat<T>| u64::from(seat.had) * total <= turn * u64::from(seat.due);
        // Turns are whole, so deadlines are rounded up.
        let deadline = |seat: &Seat<T>| (u64::from(seat.had + 1) * total).div_ceil(u64::from(seat.due));
        let waits = |seat: &Seat<T>| seat.rested_at.saturating_sub(self.turn);
        let seats = self.seats.len() as u32;
        let candidates = self.seats.iter_mut().enumerate().filter(|(_, seat)| released(seat));
        let first = candidates.min_by_key(|(index, seat)| {
            let order = shuffle(self.salt, seat.had, *index as u32);
            (deadline(seat), waits(seat), Reverse(seat.due), order, *index)
        });
        let (_, seat) = first.expect("some seat has had less than its due until the last turn");
        seat.had += 1;
        // Half of the others at least come in between, which leaves the other half to choose from; but a heavy
        // seat cannot rest longer than its turns allow.
        seat.rested_at = self.turn + apart.max(seats / 2).min(self.total / seat.due);
        self.turn += 1;
        &mut seat.holder
    }
}

/// A fixed arbitrary order of the seats for each round (the finishing mix of MurmurHash3).
fn shuffle(salt: u32, round: u32, index: u32) -> u64 {
    let mut hash = u64::from(round) << 32 | u64::from(index);
    hash = hash.wrapping_add((u64::from(salt) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turns(dues: &[u32], apart: u32) -> Vec<usize> {
        let mut turns = Turns::new(0);
        for (index, &due) in dues.iter().enumerate() {
            turns.add(due, index);
        }
        (0..turns.total).map(|_| *turns.next(apart)).collect()
    }

    #[test]
    fn turns_are_spread() {
        let found = turns(&[2, 1, 0, 1], 3);
        assert_eq!((found[0], found[2]), (0, 0), "{found:?}");
        // Three and not more to choose from: the same order again and again.
        let found = turns(&[5, 5, 5], 3);
        assert!(found.chunks(3).all(|round| round == &found[..3]), "{found:?}");
    }

    #[test]
    fn rounds_differ_but_keep_apart() {
        let found = turns(&[50; 10], 3);
        for (at, seat) in found.iter().enumerate() {
            assert!(found[at + 1..].iter().take(4).all(|other| other != seat), "{found:?}");
        }
        let successors = found.windows(2).filter(|w| w[0] == 0).map(|w| w[1]);
        assert_eq!(successors.collect::<std::collections::BTreeSet<_>>().len(), 9);
    }

    #[test]
    fn everybody_is_always_within_one_turn_of_its_due() {
        for dues in [&[5, 3, 2, 2, 1][..], &[100, 1, 1], &[7, 7, 7, 1], &[1; 13], &[64, 63, 1]] {
            let total: u32 = dues.iter().sum();
            let mut had = vec![0; dues.len()];
            for (turn, seat) in (1..).zip(turns(dues, 3)) {
                had[seat] += 1;
                for (had, due) in had.iter().zip(dues) {
                    let off = i64::from(*had) * i64::from(total) - turn * i64::from(*due);
                    assert!(off.abs() < i64::from(total), "{dues:?} after {turn} turns");
                }
            }
            assert_eq!(had, dues);
        }
    }

    #[test]
    fn remainders_go_to_the_largest() {
        let check = |tokens, weights: &[u32], expected: &[u32]| {
            let of = |weight: &u32| Candidate { zone: 0, host: 0, weight: *weight };
            let candidates: Vec<Candidate> = weights.iter().map(of).collect();
            assert_eq!(largest_remainder(tokens, &candidates), expected);
        };
        check(8, &[1, 1, 1], &[3, 3, 2]);
        check(8, &[1, 2, 2], &[2, 3, 3]);
        check(16, &[100, 1, 1], &[16, 0, 0]);
        check(1, &[1, 3], &[0, 1]);
    }
}
