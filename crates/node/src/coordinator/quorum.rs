//! Counting answers (paper, section 4.5): pure values, no I/O.

/// How many acknowledgements, and of which kind, a request needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// Acknowledgements in all (`r` or `w`).
    pub(crate) replicas: u8,
    /// How many of them from disk (`dw`; 0 for reads).
    pub(crate) durable: u8,
    /// How many of them from home replicas (`pr` or `pw`).
    pub(crate) homes: u8,
}

/// One replica that was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// Whether it was asked to answer from disk.
    pub(crate) durable: bool,
    /// Whether it is a home of the partition.
    pub(crate) home: bool,
}

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// More answers are needed, and may come.
    Waiting,
    /// Everything needed is there.
    Met,
    /// What is outstanding cannot be enough.
    Missed,
}

/// Answers so far and answers outstanding.
#[derive(Clone, Debug)]
pub(crate) struct Quorum {
    need: Need,
    got: Need,
    outstanding: Need,
}

const NONE: Need = Need { replicas: 0, durable: 0, homes: 0 };

impl Need {
    fn add(&mut self, asked: Asked) {
        self.replicas += 1;
        self.durable += u8::from(asked.durable);
        self.homes += u8::from(asked.home);
    }

    fn remove(&mut self, asked: Asked) {
        self.replicas -= 1;
        self.durable -= u8::from(asked.durable);
        self.homes -= u8::from(asked.home);
    }

    fn covers(&self, need: Need) -> bool {
        self.replicas >= need.replicas && self.durable >= need.durable && self.homes >= need.homes
    }
}

impl Quorum {
    pub(crate) fn new(need: Need) -> Quorum {
        Quorum { need, got: NONE, outstanding: NONE }
    }

    /// A distinct replica was asked.
    pub(crate) fn asked(&mut self, asked: Asked) {
        self.outstanding.add(asked);
    }

    /// It did what it was asked for.
    pub(crate) fn answered(&mut self, asked: Asked) {
        self.outstanding.remove(asked);
        self.got.add(asked);
    }

    /// It did not, and will not.
    pub(crate) fn failed(&mut self, asked: Asked) {
        self.outstanding.remove(asked);
    }

    /// Answers so far.
    pub(crate) fn got(&self) -> Need {
        self.got
    }

    pub(crate) fn verdict(&self) -> Verdict {
        let possible = Need {
            replicas: self.got.replicas + self.outstanding.replicas,
            durable: self.got.durable + self.outstanding.durable,
            homes: self.got.homes + self.outstanding.homes,
        };
        match (self.got.covers(self.need), possible.covers(self.need)) {
            (true, _) => Verdict::Met,
            (false, true) => Verdict::Waiting,
            (false, false) => Verdict::Missed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DISK: Asked = Asked { durable: true, home: true };
    const MEMORY: Asked = Asked { durable: false, home: true };
    const FALLBACK: Asked = Asked { durable: true, home: false };

    /// Asks `asked`, then lets them answer (`true`) or fail in order; returns the verdict at the start and after each.
    fn check(need: (u8, u8, u8), asked: &[Asked], answers: &[bool], verdicts: &str) {
        let mut quorum = Quorum::new(Need { replicas: need.0, durable: need.1, homes: need.2 });
        asked.iter().for_each(|&asked| quorum.asked(asked));
        let letter = |quorum: &Quorum| match quorum.verdict() {
            Verdict::Waiting => '.',
            Verdict::Met => 'M',
            Verdict::Missed => 'X',
        };
        let mut seen = String::from(letter(&quorum));
        for (&asked, &ok) in asked.iter().zip(answers) {
            if ok {
                quorum.answered(asked);
            } else {
                quorum.failed(asked);
            }
            seen.push(letter(&quorum));
        }
        assert_eq!(seen, verdicts, "{need:?} {asked:?} {answers:?}");
    }

    #[test]
    fn verdicts() {
        let (yes, no) = (true, false);
        // need (w, dw, pw); who is asked; who answers; verdict before and after each answer
        check((2, 1, 0), &[DISK, MEMORY, MEMORY], &[yes, yes, yes], "..MM");
        check((2, 1, 0), &[MEMORY, MEMORY, DISK], &[yes, yes, yes], "...M");
        check((2, 1, 0), &[DISK, MEMORY, MEMORY], &[no], ".X");
        check((2, 1, 0), &[DISK, MEMORY, MEMORY], &[yes, no, no], "...X");
        check((2, 2, 0), &[DISK, DISK, DISK], &[no, yes, yes], "...M");
        check((3, 0, 0), &[MEMORY, MEMORY, MEMORY], &[yes, yes, no], "...X");
        check((1, 0, 0), &[], &[], "X");
        check((2, 2, 2), &[DISK, DISK, FALLBACK], &[yes, no, yes], "..XX");
        check((2, 2, 1), &[DISK, DISK, FALLBACK], &[yes, no, yes], "...M");
        check((0, 0, 0), &[], &[], "M");
    }
}
