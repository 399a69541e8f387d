//! A plan, for people and for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use dynkv_client::ring::{NodeId, Plan, PlannedShare, Spread, Status};
use serde_json::{Value, json};

use super::describe;
use super::estimate::{Estimate, Load, time_ms};
use super::risk::Risk;
use crate::output;

/// Bytes that a node is taken to send, and to receive, in a second where clients ask for nothing.
const RATE: u64 = 32 << 20;

/// The same beside so many requests that background work gives way all the time: what each of three new nodes received where six shared two processors with 1,800 requests a second was 107 to 123 KiB.
const RATE_BESIDE_REQUESTS: u64 = 128 << 10;

/// A plan with what there is to say about it.
pub(super) struct Shown {
    pub(super) plan: Plan,
    pub(super) estimate: Estimate,
    pub(super) risks: Vec<Risk>,
    /// Bytes in a second and node, if somebody has said it.
    pub(super) rate: Option<u64>,
    /// What makes these changes.
    pub(super) command: String,
    /// New nodes of which nobody knows where they are.
    pub(super) unknown: Vec<NodeId>,
    /// Nodes that did not answer.
    pub(super) silent: Vec<NodeId>,
}

impl Shown {
    pub(super) fn text(&self, partitions: bool) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let mut line = |text: &str| {
            let _ = writeln!(out, "{text}");
        };
        self.plan.changes().iter().for_each(|change| line(&output::one_line(&describe::text(change))));
        line("");
        if self.plan.keeps_placement() {
            line("every partition keeps its homes: nothing moves");
        } else {
            if partitions {
                line(&self.partitions_table());
                line("");
            }
            if !self.plan.moves().is_empty() {
                line(&self.moves_table());
            }
            line(&self.total());
        }
        line("");
        line(&self.shares_table());
        line(&spread_text(self.plan.spread()));
        let warnings = self.warnings();
        if !warnings.is_empty() {
            line("");
            warnings.iter().for_each(|warning| line(&format!("warning: {warning}")));
        }
        line("");
        line(&format!(
            "plan {}: nothing has been done. To make these changes, and no others:",
            self.plan.id()
        ));
        line(&format!("  {}", self.command()));
        out
    }

    /// The command, with the names to type out as gaps.
    fn command(&self) -> String {
        let mut command = self.command.clone();
        if !self.risks.is_empty() {
            command.push_str(" --yes-remove NODE");
            if self.risks.len() > 1 {
                command.push_str(" ...");
            }
        }
        command
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings: Vec<String> = self.plan.warnings().iter().map(ToString::to_string).collect();
        warnings.extend(self.risks.iter().flat_map(Risk::lines));
        if !self.unknown.is_empty() {
            warnings.push(format!(
                "nobody knows where {} is: start it with a member as its seed, or say it as NODE=HOST:PORT",
                names(&self.unknown)
            ));
        }
        if !self.silent.is_empty() {
            warnings.push(format!("no answer from {}: estimates are without it", names(&self.silent)));
        }
        warnings
    }

    fn moves_table(&self) -> String {
        let rows = self.estimate.by_pair(&self.plan).into_iter().map(|((from, to), load)| {
            let about = format!("about {}", output::bytes(load.bytes));
            [from.to_string(), to.to_string(), load.replicas.to_string(), load.records.to_string(), about]
        });
        output::table(["from", "to", "partitions", "records", "bytes"], &[2, 3, 4], rows.collect())
    }

    fn partitions_table(&self) -> String {
        let rows = self.plan.partitions().iter().map(|change| {
            let id = change.partition;
            let moves = self.plan.moves();
            let begin = moves.partition_point(|planned| planned.partition < id);
            let here = moves[begin..].iter().take_while(|planned| planned.partition == id);
            let copies: Vec<String> =
                here.map(|planned| format!("{} -> {}", planned.from, planned.to)).collect();
            let load = self.estimate.of_replica(id.0);
            let about = format!("about {}", output::bytes(load.bytes));
            [
                id.to_string(),
                names(&change.before),
                names(&change.after),
                copies.join(", "),
                load.records.to_string(),
                about,
            ]
        });
        let header = ["partition", "homes", "homes after", "copies", "records", "bytes"];
        output::table(header, &[0, 4, 5], rows.collect())
    }

    fn total(&self) -> String {
        let pairs = self.estimate.by_pair(&self.plan);
        let total = Load::sum(pairs.values().copied());
        let moved = output::count(self.plan.moves().len() as u64, "replica");
        let changed = output::count(self.plan.partitions().len() as u64, "partition");
        if total.replicas == 0 {
            return format!("nothing moves: {changed} get their homes in another order");
        }
        let least = match self.plan.least_moves() {
            least if least == total.replicas => "no more than these shares need".to_owned(),
            least => {
                format!("{least} would do for these shares; the others keep zones, hosts and nodes apart")
            }
        };
        format!(
            "{moved} move, of {changed} that change ({least}): about {}, {}",
            output::bytes(total.bytes),
            self.times(&pairs)
        )
    }

    fn times(&self, pairs: &BTreeMap<(NodeId, NodeId), Load>) -> String {
        let at =
            |rate| format!("about {} at {}/s", output::duration(time_ms(pairs, rate)), output::bytes(rate));
        match self.rate {
            Some(rate) => format!("{} for each node", at(rate)),
            None => {
                format!("{} for each node, or {} beside many requests", at(RATE), at(RATE_BESIDE_REQUESTS))
            }
        }
    }

    fn shares_table(&self) -> String {
        let q = f64::from(self.plan.after().partitions().get());
        let rows = self.plan.shares().into_iter().map(|share| {
            let PlannedShare { node, before, after, due, .. } = share;
            let state = self.plan.after().member(&node).or_else(|| self.plan.before().member(&node));
            let member = state.map(|state| &state.member);
            let tokens = |load: Option<dynkv_client::ring::Load>| load.map_or(0, |load| load.tokens);
            let replicas = |load: Option<dynkv_client::ring::Load>| load.map_or(0, |load| load.replicas);
            let percent = |load| format!("{:.1} %", f64::from(tokens(load)) / q * 100.0);
            [
                node.to_string(),
                state_text(&share).into(),
                member.map(|member| member.weight.to_string()).unwrap_or_default(),
                member.map(|member| member.zone_name().to_owned()).unwrap_or_default(),
                arrow(tokens(before), tokens(after)),
                format!("{due:.1}"),
                arrow(replicas(before), replicas(after)),
                arrow(percent(before), percent(after)),
            ]
        });
        let header = ["node", "state", "weight", "zone", "tokens", "due", "partitions", "share"];
        output::table(header, &[2, 4, 5, 6, 7], rows.collect())
    }

    pub(super) fn as_json(&self, cluster: &str, partitions: bool) -> Value {
        let Shown { plan, estimate, risks, rate, unknown, silent, .. } = self;
        let pairs = estimate.by_pair(plan);
        let total = Load::sum(pairs.values().copied());
        let moves = pairs.iter().map(|((from, to), load)| {
            json!({
                "from": from.to_string(),
                "to": to.to_string(),
                "partitions": load.replicas,
                "records": load.records,
                "bytes_estimated": load.bytes,
            })
        });
        let load = |load: Option<dynkv_client::ring::Load>| {
            load.map(|load| json!({"tokens": load.tokens, "partitions": load.replicas}))
        };
        let shares = plan.shares().into_iter().map(|share| {
            json!({
                "node": share.node.to_string(),
                "state": state_text(&share),
                "before": load(share.before),
                "after": load(share.after),
                "tokens_due": share.due,
            })
        });
        let spread =
            |spread: Spread| json!({"nodes": spread.nodes, "zones": spread.zones, "hosts": spread.hosts});
        let (before, after) = plan.spread();
        let ids = |nodes: &[NodeId]| nodes.iter().map(NodeId::to_string).collect::<Vec<_>>();
        let mut value = json!({
            "cluster": cluster,
            "plan": plan.id().to_string(),
            "changes": plan.changes().iter().map(describe::as_json).collect::<Vec<_>>(),
            "moves": moves.collect::<Vec<_>>(),
            "partitions_changed": plan.partitions().len(),
            "replicas_moved": total.replicas,
            "replicas_moved_least": plan.least_moves(),
            "bytes_estimated": total.bytes,
            "rate_bytes": rate.unwrap_or(RATE),
            "time_estimated_ms": time_ms(&pairs, rate.unwrap_or(RATE)),
            "time_beside_requests_ms": time_ms(&pairs, RATE_BESIDE_REQUESTS),
            "shares": shares.collect::<Vec<_>>(),
            "spread": {"before": spread(before), "after": spread(after)},
            "warnings": self.warnings(),
            "risks": risks.iter().map(Risk::as_json).collect::<Vec<_>>(),
            "unknown": ids(unknown),
            "silent": ids(silent),
            "command": self.command(),
        });
        if partitions {
            value["partitions"] = self.partitions_json();
        }
        value
    }

    fn partitions_json(&self) -> Value {
        let ids = |nodes: &[NodeId]| nodes.iter().map(NodeId::to_string).collect::<Vec<_>>();
        let each = self.plan.partitions().iter().map(|change| {
            let moves = self.plan.moves().iter().filter(|planned| planned.partition == change.partition);
            let load = self.estimate.of_replica(change.partition.0);
            json!({
                "partition": change.partition.0,
                "before": ids(&change.before),
                "after": ids(&change.after),
                "moves": moves.map(|planned| json!({"from": planned.from.to_string(), "to": planned.to.to_string()})).collect::<Vec<_>>(),
                "records": load.records,
                "bytes_estimated": load.bytes,
            })
        });
        each.collect()
    }
}

fn state_text(share: &PlannedShare) -> &'static str {
    match (share.before, share.status) {
        (None, _) => "new",
        (_, Some(Status::Active)) => "stays",
        (_, Some(Status::Leaving)) => "leaves",
        (_, None) => "gone",
    }
}

fn arrow<T: PartialEq + std::fmt::Display>(before: T, after: T) -> String {
    if before == after { after.to_string() } else { format!("{before} -> {after}") }
}

fn spread_text((before, after): (Spread, Spread)) -> String {
    format!(
        "different homes of each partition, at least: nodes {}, hosts {}, zones {}",
        arrow(before.nodes, after.nodes),
        arrow(before.hosts, after.hosts),
        arrow(before.zones, after.zones)
    )
}

fn names(nodes: &[NodeId]) -> String {
    nodes.iter().map(NodeId::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
pub(super) mod tests {
    use dynkv_client::proto::{Digest, FeatureSet, NodeInfo, NodeLoad, PeerStatus, StatusReply};
    use dynkv_client::ring::{Change, Entry, Founding, History, Member, PartitionCount};

    use super::*;
    use crate::commands::status::Row;

    pub(in super::super) fn id(text: &str) -> NodeId {
        text.parse().unwrap()
    }

    fn info(node: &str) -> NodeInfo {
        NodeInfo { id: id(node), address: format!("{node}:1"), boot: 1, disk: 1, version: String::new() }
    }

    pub(in super::super) fn status(node: &str) -> StatusReply {
        StatusReply {
            node: info(node),
            cluster: "c".into(),
            serving: true,
            reason: String::new(),
            uptime_ms: 0,
            view: Digest(1),
            records: 480,
            disk_bytes: 480 * 1024,
            peers: vec![],
            hints: 0,
            oldest_hint_s: None,
            settling_paused: String::new(),
            store_failed: String::new(),
            features: FeatureSet::known(),
        }
    }

    /// What n1 thinks of another node that keeps so many hints.
    fn heard(node: &str, hints: u64) -> PeerStatus {
        PeerStatus {
            id: id(node),
            connected: false,
            rtt_us: 0,
            last_error: String::new(),
            suspected: true,
            phi_milli: 9000,
            silent_ms: None,
            address: String::new(),
            boot: 1,
            version: String::new(),
            load: Some(NodeLoad { records: 1, disk_bytes: 1, hints, oldest_hint_s: None }),
            features: Some(FeatureSet::known()),
        }
    }

    /// Four nodes of which n4 does not answer.
    fn shown(changes: impl IntoIterator<Item = Change>) -> Shown {
        let founding = Founding {
            cluster: "c".into(),
            partitions: PartitionCount::new(16).unwrap(),
            replicas: 3,
            members: ["n1", "n2", "n3", "n4"].map(|node| Member::new(id(node)).with_zone("a")).to_vec(),
        };
        let mut history = History::new();
        history.insert(Entry::new(1, id("n1"), Change::Found(founding)).unwrap()).unwrap();
        let plan = Plan::new(&history, changes).unwrap();
        let mut first = status("n1");
        first.peers.push(heard("n4", 7));
        let rows: Vec<Row> = [first, status("n2"), status("n3")]
            .map(|status| Row { info: status.node.clone(), answer: Ok(status) })
            .into();
        Shown {
            estimate: Estimate::default(),
            risks: Risk::all(&plan, &rows),
            rate: None,
            command: "dyn cluster apply --plan X".into(),
            unknown: vec![],
            silent: vec![id("n4")],
            plan,
        }
    }

    #[test]
    fn a_join_shows_what_moves_and_who_keeps_what() {
        let text = shown([Change::Join(Member::new(id("n5")).with_zone("b"))]).text(false);
        assert!(text.starts_with("n5 joins (weight 1, zone b)\n\nFROM"), "{text}");
        let row = |begin: &str| text.lines().find(|line| line.starts_with(begin)).unwrap().to_owned();
        assert!(text.contains("n5    new         1  b     0 -> 3  3.2     0 -> 16"), "{text}");
        assert!(row("n1 ").contains("n5"), "{text}");
        assert!(row("different homes").ends_with("nodes 3, hosts 3, zones 1 -> 2"), "{text}");
        assert!(text.contains("warning: there are fewer zones (2) than replicas (3)"), "{text}");
        assert!(text.contains("warning: no answer from n4"), "{text}");
        assert!(
            text.ends_with(
                "nothing has been done. To make these changes, and no others:\n  dyn cluster apply --plan X\n"
            ),
            "{text}"
        );
        assert!(!text.contains("PARTITION "), "{text}");
        let text = shown([Change::Join(Member::new(id("n5")))]).text(true);
        assert!(text.contains("PARTITION  HOMES") && text.contains(" -> n5"), "{text}");
    }

    #[test]
    fn the_time_is_that_without_requests_and_beside_many_or_that_at_the_rate_asked_for() {
        let mut shown = shown([Change::Join(Member::new(id("n5")).with_zone("b"))]);
        shown.estimate = Estimate::of(&[&status("n1"), &status("n2"), &status("n3")], 48, &[]);
        let text = shown.text(false);
        let times = "about 14ms at 32.0 MiB/s for each node, or about 3s at 128.0 KiB/s beside many requests";
        assert!(text.contains(&format!("about 480.0 KiB, {times}\n")), "{text}");
        let json = shown.as_json("c", false);
        assert_eq!(json["time_estimated_ms"], 14);
        assert_eq!(json["time_beside_requests_ms"], 3750);
        shown.rate = Some(48 << 10);
        let text = shown.text(false);
        assert!(text.contains("about 480.0 KiB, about 10s at 48.0 KiB/s for each node\n"), "{text}");
        assert_eq!(shown.as_json("c", false)["time_estimated_ms"], 10_000);
    }

    #[test]
    fn what_moves_nothing_says_so() {
        let place = Change::Place { node: id("n1"), zone: "a".into(), host: "rack".into() };
        let shown = shown([place]);
        assert!(shown.text(true).contains("every partition keeps its homes: nothing moves"));
        let json = shown.as_json("c", true);
        assert_eq!((&json["replicas_moved"], &json["partitions_changed"]), (&0.into(), &0.into()));
    }

    #[test]
    fn a_removal_lists_what_could_be_lost() {
        let removed = shown([Change::Remove(id("n4"))]);
        let text = removed.text(false);
        assert!(text.contains("7 hints that n4 keeps for others are lost"), "{text}");
        assert!(text.contains("most homes answer"), "{text}");
        assert!(text.ends_with("--plan X --yes-remove NODE\n"), "{text}");
        let json = removed.as_json("c", false);
        assert_eq!((&json["risks"][0]["hints"], &json["risks"][0]["answers"]), (&7.into(), &false.into()));
        let alive = shown([Change::Replace { old: id("n1"), new: Member::new(id("n5")) }]).text(false);
        assert!(alive.contains("n1 answers: with --leave"), "{alive}");
        assert!(alive.contains("n1 keeps no hints"), "{alive}");
        // Beside n4, which does not answer, one more is most of three.
        assert!(alive.contains("have no majority of homes left that answers"), "{alive}");
    }
}
