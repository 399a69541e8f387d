//! How a run ended, for people.

use std::{collections::BTreeMap, fmt::Write as _, process::Command};

use crate::{checker::Violation, history::Key, log::Line, plan::Plan, replicas::Replica};

/// What was seen in a run, and how often: a harmless one proves nothing.
pub type Sightings = BTreeMap<String, u64>;

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Report {
    /// What the plan was.
    pub plan: Plan,
    /// What happened in it.
    pub seen: Sightings,
    /// The values of each key at the end.
    pub last: BTreeMap<Key, Vec<String>>,
    /// The broken promise, if one was.
    pub verdict: Result<(), Violation>,
    /// Every event.
    pub log: Vec<Line>,
    /// What the nodes hold at the end of the key on which a promise was broken.
    pub replicas: Vec<Replica>,
}

impl Report {
    /// Every event, as text.
    pub fn trace(&self) -> String {
        self.log.iter().fold(String::new(), |text, line| text + &line.to_string() + "\n")
    }

    /// Faults, what was done to the key on which a promise was broken, and what the nodes hold of it; everything when no
    /// key is concerned.
    pub fn trace_of_key(&self) -> String {
        let mut text = String::new();
        let key = self.verdict.as_ref().err().and_then(|violation| violation.key.as_ref());
        for line in
            self.log.iter().filter(|line| key.is_none() || line.key.is_none() || line.key.as_ref() == key)
        {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{line}");
        }
        if let Some(key) = key {
            let _ = writeln!(text, "at the end {key} is:");
            for replica in &self.replicas {
                let _ = writeln!(text, "  {replica}");
            }
        }
        text
    }

    /// What a person wants to know of a failure; empty when every promise held.
    pub fn failure(&self) -> String {
        let Err(violation) = &self.verdict else { return String::new() };
        let commit = commit().unwrap_or_else(|| "unknown".into());
        format!(
            "{}\n{}seed {}, commit {commit}: {violation}\n",
            self.trace_of_key(),
            self.plan,
            self.plan.seed
        )
    }
}

/// The commit of the working directory, when there is a repository and git.
fn commit() -> Option<String> {
    // Cargo says where the package is, to a test and to what it runs.
    let directory = std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| ".".into());
    let mut git = Command::new("git");
    git.arg("-C").arg(directory).args(["describe", "--always", "--dirty", "--abbrev=12"]);
    let output = git.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    (output.status.success() && !text.trim().is_empty()).then(|| text.trim().to_owned())
}

/// Adds up what several runs saw.
pub fn add(sum: &mut Sightings, seen: &Sightings) {
    for (what, count) in seen {
        *sum.entry(what.clone()).or_default() += count;
    }
}

/// What must have happened in a batch of some hundred runs, or the batch proves nothing.
pub const SOMETIMES: [&str; 46] = [
    // Faults.
    "kills",
    "power losses",
    "blackouts",
    "pauses",
    "cuts",
    "splits",
    "storms",
    "slow nodes",
    "slow disks",
    "failing disks",
    "full disks",
    "clock jumps",
    "moves",
    "wiped disks",
    "restored disks",
    "cloned disks",
    "rotten disks",
    "drifted indexes",
    "restarts",
    // What clients saw.
    "puts done",
    "puts refused",
    "puts unknown",
    "possible duplicates",
    "foreign contexts refused",
    "gets done",
    "gets failed",
    "gets with siblings",
    // What nodes counted.
    "nodes: hedged_reads",
    "nodes: read_repairs",
    "nodes: puts_repeated",
    "nodes: incarnations_renewed",
    "nodes: lww_discarded",
    "nodes: puts_refused_siblings",
    "nodes: comparisons_equal",
    "nodes: states_pulled",
    "nodes: states_pushed",
    "nodes: records_healed",
    "nodes: tree_drifts",
    "nodes: settle_decided",
    "nodes: settle_abandoned",
    "nodes: tombstones_dropped",
    "nodes: contexts_compacted",
    "nodes: messages_behind",
    "nodes: disks_set_aside",
    "nodes: disks_admitted",
    "repairs after healing",
];

/// Which of [`SOMETIMES`] did not happen.
pub fn never(seen: &Sightings) -> Vec<&'static str> {
    SOMETIMES.into_iter().filter(|what| seen.get(*what).is_none_or(|count| *count == 0)).collect()
}
