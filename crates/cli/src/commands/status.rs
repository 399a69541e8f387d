//! `dyn status`

use std::time::Duration;

use clap::Args;
use dynkv_client::proto::{Digest, FeatureSet, Features, NodeInfo, PeerStatus, StatusReply};
use dynkv_client::ring::NodeId;
use dynkv_client::{Client, ClusterView, Error};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::commands::cluster::features::{self, Known};
use crate::connection::{Connection, block_on};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output;

/// A node that is up answers sooner; waiting longer for one that is down helps nobody.
const ANSWER_WITHIN: Duration = Duration::from_millis(2500);

/// Nodes in a matrix of who sees whom; of larger clusters only what deserves attention is listed.
const MATRIX_MAX: usize = 12;

/// Show how every node is, and who sees whom
///
/// Every node is asked about itself, and what it thinks of the others: up; suspect, if its failure detector has reason to;
/// or down, if there is no connection. Phi says how surprising the other's silence is: from 8 on it is suspected.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Ask only this node, and show in full what it thinks of the others
    #[arg(long, value_name = "NODE")]
    from: Option<NodeId>,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// A node and what it answered.
pub(crate) struct Row {
    pub(crate) info: NodeInfo,
    pub(crate) answer: Result<StatusReply, Error>,
}

impl Status {
    pub(crate) fn run(self) -> Result<Exit, CliError> {
        block_on(async {
            let client = self.connection.client().await?;
            if let Some(node) = self.from {
                let limit = client.options().timeout.min(ANSWER_WITHIN);
                let status = client.status(node).timeout(limit).await;
                let status = status.map_err(CliError::of(format!("status of {node}")))?;
                if self.json {
                    let row = Row { info: status.node.clone(), answer: Ok(status) };
                    output::json(&as_json(&client, &[row]))?;
                } else {
                    output::line(summary(&client))?;
                    output::line(opinions(&status))?;
                }
                return Ok(Exit::Ok);
            }
            let rows = ask_all(&client, ANSWER_WITHIN).await;
            if self.json {
                output::json(&as_json(&client, &rows))?;
            } else {
                output::line(summary(&client))?;
                let view = client.view();
                output::line(as_table(view.digest(), view.features(), &rows))?;
                if let Some(seen) = who_sees_whom(&rows) {
                    output::line(format_args!("\n{seen}"))?;
                }
            }
            Ok(Exit::Ok)
        })
    }
}

/// Asks all nodes at once: one that is down must not hold up the others, and none longer than `limit`.
pub(crate) async fn ask_all(client: &Client, limit: Duration) -> Vec<Row> {
    let limit = client.options().timeout.min(limit);
    let mut asked = JoinSet::new();
    for info in nodes(&client.view()) {
        let status = client.status(info.id).timeout(limit);
        asked.spawn(async move { Row { info, answer: status.await } });
    }
    let mut rows = asked.join_all().await;
    rows.sort_by_key(|row| row.info.id);
    rows
}

/// The members, or before the founding all nodes that are known. Nodes that merely once said hello are nobody's concern.
pub(crate) fn nodes(view: &ClusterView) -> Vec<NodeInfo> {
    let membership = view.membership();
    let belongs = |info: &&NodeInfo| !membership.founded() || membership.member(&info.id).is_some();
    view.nodes().filter(belongs).cloned().collect()
}

/// One line about the cluster.
pub(crate) fn summary(client: &Client) -> String {
    let view = client.view();
    let membership = view.membership();
    if !membership.founded() {
        return format!("cluster {}: not founded yet, run `dyn cluster create`", client.cluster());
    }
    let members = output::count(membership.members().len() as u64, "member");
    let (partitions, replicas) = (membership.partitions(), membership.replicas());
    format!("cluster {}: {members}, {partitions} partitions, {replicas} replicas each", client.cluster())
}

fn as_table(view: Digest, on: &Features, rows: &[Row]) -> String {
    let known = Known::all(rows);
    let asked: Vec<NodeId> = rows.iter().map(|row| row.info.id).collect();
    let rows = rows.iter().zip(&known).map(|(Row { info, answer }, knows)| {
        let lacks = features::lacks(on, &known, knows);
        let (id, address) = (info.id.to_string(), info.address.clone());
        match answer {
            Ok(status) => [
                id,
                address,
                if status.serving { "serving" } else { "not serving" }.into(),
                output::duration(status.uptime_ms),
                status.node.boot.to_string(),
                status.records.to_string(),
                output::bytes(status.disk_bytes),
                hints(status.hints, status.oldest_hint_s),
                status.node.version.clone(),
                note(view, &asked, status, lacks),
            ],
            Err(error) => {
                let none = String::new;
                let note = match error {
                    // What was tried in vain, and why, is for --json.
                    Error::Connect { .. } => "is down, or cannot be reached from here".into(),
                    other => other.to_string(),
                };
                let note = [Some(note), lacks].into_iter().flatten().collect::<Vec<_>>().join("; ");
                let boot = info.boot.to_string();
                let state = "no answer".into();
                [id, address, state, none(), boot, none(), none(), none(), info.version.clone(), note]
            }
        }
    });
    let header = ["node", "address", "state", "up", "boot", "records", "disk", "hints", "version", "note"];
    output::table(header, &[3, 4, 5, 6], rows.collect())
}

/// How many hints, and how old the oldest is.
fn hints(hints: u64, oldest_s: Option<u64>) -> String {
    match (hints, oldest_s) {
        (0, _) => "-".into(),
        (hints, None) => hints.to_string(),
        (hints, Some(oldest_s)) => {
            format!("{hints}, {}", output::duration(oldest_s.saturating_mul(1000)))
        }
    }
}

/// One node's opinion of another, in a word.
fn opinion(peer: &PeerStatus) -> &'static str {
    match (peer.connected, peer.suspected) {
        (false, _) => "down",
        (true, true) => "suspect",
        (true, false) => "up",
    }
}

fn phi(peer: &PeerStatus) -> String {
    // Beyond that it only says how long ago it was.
    if peer.phi_milli >= 100_000 { "99+".into() } else { format!("{:.1}", peer.phi_milli as f64 / 1000.0) }
}

/// What one node thinks of all others.
fn opinions(status: &StatusReply) -> String {
    let rows = status.peers.iter().map(|peer| {
        let dash = || "-".to_owned();
        let load = peer.load.as_ref();
        let rtt = if peer.connected { format!("{:.1}ms", peer.rtt_us as f64 / 1000.0) } else { dash() };
        [
            peer.id.to_string(),
            peer.address.clone(),
            opinion(peer).into(),
            phi(peer),
            rtt,
            peer.silent_ms.map_or_else(|| "never".into(), |ms| format!("{} ago", output::duration(ms))),
            peer.boot.to_string(),
            load.map_or_else(dash, |load| load.records.to_string()),
            load.map_or_else(dash, |load| output::bytes(load.disk_bytes)),
            load.map_or_else(dash, |load| hints(load.hints, load.oldest_hint_s)),
            peer.version.clone(),
            peer.last_error.clone(),
        ]
    });
    let header = [
        "node",
        "address",
        "seen",
        "phi",
        "rtt",
        "heard",
        "boot",
        "~records",
        "~disk",
        "~hints",
        "version",
        "last error",
    ];
    output::table(header, &[3, 4, 5, 6, 7, 8], rows.collect())
}

/// Who sees whom: all of it, or in a large cluster whom somebody does not see as up.
fn who_sees_whom(rows: &[Row]) -> Option<String> {
    let ids: Vec<NodeId> = rows.iter().map(|row| row.info.id).collect();
    let seen = |status: &StatusReply, id: NodeId| {
        status.peers.iter().find(|peer| peer.id == id).map(|peer| (opinion(peer), phi(peer)))
    };
    let answers: Vec<&StatusReply> = rows.iter().filter_map(|row| row.answer.as_ref().ok()).collect();
    if ids.len() < 2 || answers.is_empty() {
        return None;
    }
    if ids.len() <= MATRIX_MAX {
        let header: Vec<String> =
            std::iter::once("SEEN BY".to_owned()).chain(ids.iter().map(NodeId::to_string)).collect();
        let line = |status: &&StatusReply| {
            let cell = |&id: &NodeId| match seen(status, id) {
                _ if id == status.node.id => "-".to_owned(),
                Some((opinion, phi)) => format!("{opinion} {phi}"),
                None => "?".to_owned(),
            };
            std::iter::once(status.node.id.to_string()).chain(ids.iter().map(cell)).collect()
        };
        return Some(output::table_of(header, &[], answers.iter().map(line).collect()));
    }
    let missed = answers.iter().flat_map(|status| {
        ids.iter().filter_map(|&id| {
            let (opinion, phi) = seen(status, id)?;
            (opinion != "up").then(|| [status.node.id.to_string(), id.to_string(), opinion.into(), phi])
        })
    });
    let missed: Vec<_> = missed.collect();
    (!missed.is_empty()).then(|| output::table(["seen by", "node", "is", "phi"], &[3], missed))
}

/// What deserves attention.
fn note(view: Digest, asked: &[NodeId], status: &StatusReply, lacks: Option<String>) -> String {
    let mut notes = Vec::new();
    if !status.reason.is_empty() {
        notes.push(status.reason.clone());
    }
    if !status.store_failed.is_empty() {
        notes.push(status.store_failed.clone());
    }
    notes.extend(lacks);
    for (seen, text) in [("down", "no connection to"), ("suspect", "suspects")] {
        let peers = status.peers.iter().filter(|peer| opinion(peer) == seen && asked.contains(&peer.id));
        let peers: Vec<String> = peers.map(|peer| peer.id.to_string()).collect();
        if !peers.is_empty() {
            notes.push(format!("{text} {}", peers.join(", ")));
        }
    }
    if status.view != view {
        notes.push("its view of the cluster differs".into());
    }
    if !status.settling_paused.is_empty() {
        notes.push(format!("settling pauses: {}", status.settling_paused));
    }
    notes.join("; ")
}

fn as_json(client: &Client, rows: &[Row]) -> Value {
    let view = client.view();
    let nodes = rows.iter().map(|Row { info, answer }| {
        let mut node = json!({"node": info.id.to_string(), "address": info.address});
        let more = match answer {
            Err(error) => json!({"answers": false, "error": error.to_string()}),
            Ok(status) => json!({
                "answers": true,
                "serving": status.serving,
                "reason": status.reason,
                "uptime_ms": status.uptime_ms,
                "records": status.records,
                "disk_bytes": status.disk_bytes,
                "version": status.node.version,
                "boot": status.node.boot,
                "view": status.view.to_string(),
                "hints": status.hints,
                "oldest_hint_s": status.oldest_hint_s,
                "settling_paused": status.settling_paused,
                "store_failed": status.store_failed,
                "features": names(view.features(), &status.features),
                "peers": status.peers.iter().map(|peer| json!({
                    "node": peer.id.to_string(),
                    "address": peer.address,
                    "seen": opinion(peer),
                    "connected": peer.connected,
                    "phi": peer.phi_milli as f64 / 1000.0,
                    "rtt_us": peer.rtt_us,
                    "silent_ms": peer.silent_ms,
                    "boot": peer.boot,
                    "version": peer.version,
                    "load": peer.load.as_ref().map(|load| json!({
                        "records": load.records,
                        "disk_bytes": load.disk_bytes,
                        "hints": load.hints,
                        "oldest_hint_s": load.oldest_hint_s,
                    })),
                    "features": peer.features.as_ref().map(|known| names(view.features(), known)),
                    "last_error": peer.last_error,
                })).collect::<Vec<_>>(),
            }),
        };
        if let (Value::Object(node), Value::Object(more)) = (&mut node, more) {
            node.extend(more);
        }
        node
    });
    json!({
        "cluster": client.cluster(),
        "founded": view.membership().founded(),
        "partitions": view.membership().partitions().get(),
        "replicas": view.membership().replicas(),
        "view": view.digest().to_string(),
        "features": view.features().iter().map(|change| &change.name).collect::<Vec<_>>(),
        "nodes": nodes.collect::<Vec<_>>(),
    })
}

fn names(on: &Features, known: &FeatureSet) -> Vec<String> {
    known.numbers().map(|number| features::name(on, number)).collect()
}

#[cfg(test)]
mod tests {
    use dynkv_client::proto::NodeLoad;

    use super::*;

    fn info(id: &str) -> NodeInfo {
        let address = format!("{id}.example:7401");
        NodeInfo { id: id.parse().unwrap(), address, boot: 4, disk: 0, version: "0.1.0".into() }
    }

    fn peer(id: &str, connected: bool, phi_milli: u64) -> PeerStatus {
        PeerStatus {
            id: id.parse().unwrap(),
            connected,
            rtt_us: 90,
            last_error: String::new(),
            suspected: phi_milli >= 8000,
            phi_milli,
            silent_ms: Some(1500),
            address: format!("{id}.example:7401"),
            boot: 7,
            version: "0.1.0".into(),
            load: Some(NodeLoad { records: 896, disk_bytes: 2048, hints: 3, oldest_hint_s: Some(61) }),
            features: Some(FeatureSet::known()),
        }
    }

    fn status(id: &str, peers: Vec<PeerStatus>) -> StatusReply {
        StatusReply {
            node: info(id),
            cluster: "c".into(),
            serving: true,
            reason: String::new(),
            uptime_ms: 61_000,
            view: Digest(1),
            records: 12,
            disk_bytes: 2048,
            peers,
            hints: 3,
            oldest_hint_s: Some(61),
            settling_paused: String::new(),
            store_failed: String::new(),
            features: FeatureSet::known(),
        }
    }

    #[test]
    fn the_table_shows_what_deserves_attention() {
        let peers = vec![
            peer("n2", true, 400),
            peer("n3", false, 9000),
            peer("n4", true, 8000),
            peer("stranger", false, 0),
        ];
        let rows = [
            Row { info: info("n1"), answer: Ok(status("n1", peers)) },
            Row { info: info("n3"), answer: Err(Error::Connect { message: "long".into() }) },
            Row { info: info("n4"), answer: Err(Error::Connect { message: "long".into() }) },
        ];
        let nothing_on = Features::default();
        let table = as_table(Digest(2), &nothing_on, &rows);
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4, "{table}");
        assert!(lines[1].contains("serving") && lines[1].contains("2.0 KiB"), "{table}");
        assert!(lines[1].contains("3, 1m 1s"), "{table}");
        let note = "no connection to n3; suspects n4; its view of the cluster differs";
        assert!(lines[1].contains(note), "{table}");
        assert!(lines[2].contains("no answer") && lines[2].contains("is down"), "{table}");
        let table = as_table(Digest(1), &nothing_on, &rows);
        assert!(!table.contains("differs") && !table.contains("lacks"), "{table}");
    }

    #[test]
    fn what_a_node_lacks_of_what_others_know_is_said() {
        let none = FeatureSet::default();
        let peers =
            vec![peer("n2", true, 0), PeerStatus { features: Some(none.clone()), ..peer("n3", true, 0) }];
        let rows = |first: &FeatureSet| {
            [
                Row {
                    info: info("n1"),
                    answer: Ok(StatusReply { features: first.clone(), ..status("n1", peers.clone()) }),
                },
                Row { info: info("n2"), answer: Ok(status("n2", vec![])) },
                Row { info: info("n3"), answer: Err(Error::Connect { message: "long".into() }) },
            ]
        };
        let table = as_table(Digest(1), &Features::default(), &rows(&none));
        let line = |at: usize| table.lines().nth(at).unwrap();
        assert!(line(1).ends_with("lacks moving") && !line(2).contains("lacks"), "{table}");
        assert!(line(3).ends_with("from here; lacks moving"), "{table}");
    }

    #[test]
    fn one_nodes_opinions_are_shown_in_full() {
        let never = PeerStatus { silent_ms: None, load: None, ..peer("n3", false, 250_000) };
        let table = opinions(&status("n1", vec![peer("n2", true, 1234), never]));
        let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ");
        let lines: Vec<String> = table.lines().map(words).collect();
        assert_eq!(lines[1], "n2 n2.example:7401 up 1.2 0.1ms 1s ago 7 896 2.0 KiB 3, 1m 1s 0.1.0");
        assert_eq!(lines[2], "n3 n3.example:7401 down 99+ - never 7 - - - 0.1.0");
    }

    #[test]
    fn who_sees_whom_is_a_matrix_or_a_list_of_what_is_wrong() {
        let row = |id: &str, peers| Row { info: info(id), answer: Ok(status(id, peers)) };
        let rows = [
            row("n1", vec![peer("n2", true, 100)]),
            row("n2", vec![peer("n1", true, 8200)]),
            Row { info: info("n3"), answer: Err(Error::Connect { message: "long".into() }) },
        ];
        let matrix = who_sees_whom(&rows).unwrap();
        let lines: Vec<&str> = matrix.lines().collect();
        assert_eq!(lines.len(), 3, "{matrix}");
        assert_eq!(lines[1].split_whitespace().collect::<Vec<_>>(), ["n1", "-", "up", "0.1", "?"]);
        assert_eq!(lines[2].split_whitespace().collect::<Vec<_>>(), ["n2", "suspect", "8.2", "-", "?"]);
        assert!(who_sees_whom(&rows[2..]).is_none());

        let ids: Vec<String> = (1..=20).map(|number| format!("n{number}")).collect();
        let many: Vec<Row> =
            ids.iter().map(|id| row(id, ids.iter().map(|other| peer(other, true, 0)).collect())).collect();
        assert!(who_sees_whom(&many).is_none());
        let mut many = many;
        many[3] = row("n4", vec![peer("n9", false, 9100)]);
        let list = who_sees_whom(&many).unwrap();
        let line: Vec<&str> = list.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(line, ["n4", "n9", "down", "9.1"]);
    }
}
