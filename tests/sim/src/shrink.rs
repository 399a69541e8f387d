//! Making a failing plan smaller: faults, clients and steps are left out while the same promise stays broken.

use std::time::{Duration, Instant};

use crate::{
    plan::{Plan, Work},
    report::Report,
    run::run_plan,
};

/// What came of shrinking.
#[derive(Debug)]
pub struct Shrunk {
    /// The smallest run found that breaks the same promise.
    pub report: Report,
    /// Runs it took.
    pub runs: usize,
}

/// Shrinks the plan of a run that failed, for at most about `budget` of real time.
///
/// Leaving something out changes the fates of all datagrams that follow, so a candidate that passes proves nothing; it is
/// merely not taken.
pub fn shrink(report: Report, budget: Duration) -> Shrunk {
    let mut search = Search { best: report, runs: 0, until: Instant::now() + budget };
    loop {
        let before = search.best.plan.clone();
        search.leave_out(|plan| &mut plan.faults);
        search.leave_out(|plan| &mut plan.sessions);
        for at in 0..search.best.plan.sessions.len() {
            if matches!(search.best.plan.sessions[at].work, Work::Steps(_)) {
                search.leave_out(|plan| match &mut plan.sessions[at].work {
                    Work::Steps(steps) => steps,
                    Work::Random => unreachable!("only what is left out changes"),
                });
            }
        }
        search.leave_out(|plan| &mut plan.keys);
        search.shorten();
        if search.best.plan == before || search.is_over() {
            return Shrunk { report: search.best, runs: search.runs };
        }
    }
}

struct Search {
    best: Report,
    runs: usize,
    until: Instant,
}

impl Search {
    fn is_over(&self) -> bool {
        Instant::now() >= self.until
    }

    /// Takes `plan` for the best if it breaks the same promise.
    fn try_plan(&mut self, plan: &Plan) -> bool {
        let report = run_plan(plan);
        self.runs += 1;
        let promise = |report: &Report| report.verdict.as_ref().err().map(|violation| violation.promise);
        let same = promise(&report) == promise(&self.best);
        if same {
            self.best = report;
        }
        same
    }

    /// Leaves out halves, quarters and so on down to single ones of a list.
    fn leave_out<T: Clone>(&mut self, list: impl Fn(&mut Plan) -> &mut Vec<T>) {
        let mut size = list(&mut self.best.plan.clone()).len().div_ceil(2);
        while size > 0 {
            let mut at = 0;
            loop {
                let mut plan = self.best.plan.clone();
                let items = list(&mut plan);
                // The last one may go as well, where a plan can do without; one key or session must stay.
                if at >= items.len() || self.is_over() {
                    break;
                }
                items.drain(at..(at + size).min(items.len()));
                if !(is_runnable(&plan) && self.try_plan(&plan)) {
                    at += size;
                }
            }
            size /= 2;
        }
    }

    /// Ends the work earlier.
    fn shorten(&mut self) {
        while !self.is_over() {
            let mut plan = self.best.plan.clone();
            plan.duration_ms = plan.duration_ms * 3 / 4;
            plan.faults.retain(|fault| fault.at_ms < plan.duration_ms);
            if plan.duration_ms < 500 || !self.try_plan(&plan) {
                return;
            }
        }
    }
}

fn is_runnable(plan: &Plan) -> bool {
    !plan.sessions.is_empty() && !plan.keys.is_empty()
}
