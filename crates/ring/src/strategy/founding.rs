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

/// Weighted turns: after as many as there are tokens in all, everybody had exactly its own number, and at any time
/// everybody has had its due within one turn.
///
/// The k-th of a seat's `due` turns is released at `k * total / due` and must come before the next one is; among
/// those released, the one that must come first does (Tijdeman, "The chairman assignment problem", 1980). Two
/// tokens of a heavy seat so lie as far apart as they can: `a b a c`, not `a b c a`.
struct Turns<T> {
    seats: Vec<Seat<T>>,
    total: u32,
    turn: u32,
}

struct Seat<T> {
    due: u32,
    had: u32,
    holder: T,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { seats: Vec::new(), total: 0, turn: 0 }
    }
}

impl<T> Turns<T> {
    fn add(&mut self, due: u32, holder: T) {
        // Nobody without tokens ever has a turn.
        if due > 0 {
            self.seats.push(Seat { due, had: 0, holder });
            self.total += due;
        }
    }

    fn next(&mut self) -> &mut T {
        let (turn, total) = (u64::from(self.turn), u64::from(self.total));
        let released = |seat: &Seat<T>| u64::from(seat.had) * total <= turn * u64::from(seat.due);
        // Turns are whole, so deadlines are rounded up.
        let deadline = |seat: &Seat<T>| (u64::from(seat.had + 1) * total).div_ceil(u64::from(seat.due));
        let first = self.seats.iter_mut().filter(|seat| released(seat)).min_by_key(|seat| deadline(seat));
        let seat = first.expect("some seat has had less than its due until the last turn");
        seat.had += 1;
        self.turn += 1;
        &mut seat.holder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The turns of seats with these dues, as letters.
    fn check(dues: &[u32], expected: &str) {
        let mut turns = Turns::default();
        for (&due, letter) in dues.iter().zip('a'..) {
            turns.add(due, letter);
        }
        let found: String = (0..turns.total).map(|_| *turns.next()).collect();
        assert_eq!(found, expected, "{dues:?}");
    }

    #[test]
    fn turns_are_spread() {
        check(&[1, 1, 1], "abc");
        check(&[2, 2, 2], "abcabc");
        check(&[2, 1, 1], "abac");
        check(&[1, 0, 3], "cacc");
        check(&[4, 2, 1], "abacaba");
    }

    #[test]
    fn everybody_is_always_within_one_turn_of_its_due() {
        for dues in [&[5, 3, 2, 2, 1][..], &[100, 1, 1], &[7, 7, 7, 1], &[1; 13], &[64, 63, 1]] {
            let mut turns = Turns::default();
            for (index, &due) in dues.iter().enumerate() {
                turns.add(due, index);
            }
            let mut had = vec![0; dues.len()];
            for turn in 1..=turns.total {
                had[*turns.next()] += 1;
                for (had, due) in had.iter().zip(dues) {
                    let off = i64::from(*had) * i64::from(turns.total) - i64::from(turn) * i64::from(*due);
                    assert!(off.abs() < i64::from(turns.total), "{dues:?} after {turn} turns");
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
