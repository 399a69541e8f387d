//! Which operations a phase consists of: the shapes of the Yahoo! Cloud Serving Benchmark (Cooper et al., SoCC 2010).

use std::fmt;
use std::str::FromStr;

use rand::{Rng, RngExt};
use thiserror::Error;

use super::keys::Popularity;

/// A part of a benchmark, run and reported by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Every key is written once.
    Load,
    /// Half gets, half puts.
    A,
    /// 95 % gets, 5 % puts.
    B,
    /// Gets only.
    C,
    /// 95 % gets, mostly of what was written last, 5 % puts of new keys.
    D,
    /// 95 % short listings, 5 % puts of new keys.
    E,
    /// Half gets, half read-modify-write.
    F,
}

/// What one turn does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Get,
    /// A put of a key that is there.
    Update,
    /// A put of a new key.
    Insert,
    List,
    /// A get, and a put under the context it returned.
    Modify,
}

/// Not one of the phases.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("'{0}' is no phase: use load, a, b, c, d, e or f")]
pub(crate) struct UnknownPhase(String);

impl Phase {
    const ALL: [Phase; 7] = [Phase::Load, Phase::A, Phase::B, Phase::C, Phase::D, Phase::E, Phase::F];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Phase::Load => "load",
            Phase::A => "a",
            Phase::B => "b",
            Phase::C => "c",
            Phase::D => "d",
            Phase::E => "e",
            Phase::F => "f",
        }
    }

    /// The more frequent action, how often it comes, and the other one.
    fn mix(self) -> (Action, f64, Action) {
        match self {
            Phase::Load => (Action::Insert, 1.0, Action::Insert),
            Phase::A => (Action::Get, 0.5, Action::Update),
            Phase::B => (Action::Get, 0.95, Action::Update),
            Phase::C => (Action::Get, 1.0, Action::Get),
            Phase::D => (Action::Get, 0.95, Action::Insert),
            Phase::E => (Action::List, 0.95, Action::Insert),
            Phase::F => (Action::Get, 0.5, Action::Modify),
        }
    }

    pub(crate) fn draw(self, rng: &mut impl Rng) -> Action {
        let (often, share, otherwise) = self.mix();
        if rng.random_bool(share) { often } else { otherwise }
    }

    /// Which keys are popular unless the command line says otherwise.
    pub(crate) fn popularity(self) -> Popularity {
        if self == Phase::D { Popularity::Latest } else { Popularity::Zipfian }
    }
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Phase {
    type Err = UnknownPhase;

    fn from_str(text: &str) -> Result<Phase, UnknownPhase> {
        Phase::ALL
            .into_iter()
            .find(|phase| phase.name().eq_ignore_ascii_case(text))
            .ok_or_else(|| UnknownPhase(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn names_lead_back() {
        for phase in Phase::ALL {
            assert_eq!(phase.to_string().parse(), Ok(phase));
        }
        assert_eq!("A".parse(), Ok(Phase::A));
        assert!("g".parse::<Phase>().unwrap_err().to_string().contains("load, a"));
    }

    #[test]
    fn mixes_have_their_shares() {
        for (phase, action, share) in [
            (Phase::Load, Action::Insert, 1.0),
            (Phase::A, Action::Update, 0.5),
            (Phase::B, Action::Update, 0.05),
            (Phase::C, Action::Get, 1.0),
            (Phase::D, Action::Insert, 0.05),
            (Phase::E, Action::List, 0.95),
            (Phase::F, Action::Modify, 0.5),
        ] {
            let mut rng = SmallRng::seed_from_u64(1);
            let hits = (0..20_000).filter(|_| phase.draw(&mut rng) == action).count();
            let seen = hits as f64 / 20_000.0;
            assert!((seen - share).abs() < 0.01, "{phase}: {seen} instead of {share}");
        }
    }
}
