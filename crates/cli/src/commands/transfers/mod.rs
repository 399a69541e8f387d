//! `dyn transfers`

mod amounts;
mod limit;

use std::collections::BTreeSet;
use std::time::Duration;

use clap::{Args, Subcommand};
use dynkv_client::Client;
use dynkv_client::proto::{Transfer, TransferState, TransfersReply};
use dynkv_client::ring::NodeId;
use serde_json::{Value, json};

use self::amounts::{Held, is_received};
use super::repair::asked;
use crate::connection::{Connection, block_on};
use crate::each::{Row, ask_each, silence};
use crate::error::CliError;
use crate::exit::Exit;
use crate::output;

/// A node that is up answers sooner; waiting longer for one that is down helps nobody.
const ANSWER_WITHIN: Duration = Duration::from_millis(2500);

/// Show what moves between nodes: after they joined, left, or got another weight, zone or host
///
/// Each node tells which partitions it receives and gives up, a line for each other node. PARTITIONS counts those that were read to the end, and all of them.
/// RECORDS and BYTES are what is there of what the other node has; after a ~ stands an estimate. RATE is that of the last ten seconds; IDLE, for how long nothing has moved: what
/// has not for a minute is stalled. A node that receives reads partitions from all their members, so that lines overlap; its total counts each partition once. Asking affects
/// nothing.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Transfers {
    #[command(subcommand)]
    command: Option<TransfersCommand>,
    /// Only this node's [default: all nodes']
    #[arg(long, value_name = "NODE")]
    node: Option<NodeId>,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
enum TransfersCommand {
    Limit(limit::Limit),
}

impl Transfers {
    pub(crate) fn run(self) -> Result<Exit, CliError> {
        match self.command {
            Some(TransfersCommand::Limit(limit)) => block_on(limit.run()),
            None => block_on(self.show()),
        }
    }

    async fn show(self) -> Result<Exit, CliError> {
        let client = self.connection.client().await?;
        let nodes = asked(&client.view(), self.node)?;
        let rows = ask(&client, &nodes).await;
        let receives = rows.iter().filter_map(Row::answered).any(|(_, reply)| reply.to_receive > 0);
        let held = if receives { Held::ask(&client).await } else { Held::default() };
        if self.json {
            output::json(&as_json(&rows, &held))?;
        } else {
            output::line(as_text(&rows, &held))?;
        }
        Ok(Exit::Ok)
    }
}

/// Asks nodes what they receive and give up.
async fn ask(client: &Client, nodes: &[NodeId]) -> Vec<Row<TransfersReply>> {
    let limit = client.options().timeout.min(ANSWER_WITHIN);
    ask_each(nodes, |node| client.transfers(node).timeout(limit)).await
}

fn as_text(rows: &[Row<TransfersReply>], held: &Held) -> String {
    let mut lines = Vec::new();
    let table: Vec<_> = rows.iter().flat_map(|row| table_rows(row, held)).collect();
    if !table.is_empty() {
        let header =
            ["node", "state", "with", "partitions", "records", "bytes", "rate", "left", "idle", "note"];
        lines.push(output::table(header, &[3, 4, 5, 6, 7, 8], table));
    }
    for (_, reply) in rows.iter().filter_map(Row::answered) {
        lines.extend(summary(reply, held));
    }
    let all = rows.iter().filter_map(Row::answered);
    if all.map(|(_, reply)| reply.to_receive + reply.to_give_up).sum::<u32>() == 0 {
        let missing = rows.iter().filter(|row| row.answer.is_err()).count();
        let begins = rows.iter().filter_map(Row::answered).any(|(_, reply)| reply.misplaced);
        lines.push(match missing {
            _ if begins => {
                "about to move: those who are to receive have not heard of it yet, or cannot be asked".into()
            }
            0 => "nothing moves: every partition is where it should be".into(),
            _ => "nothing moves, as far as nodes answer".into(),
        });
    }
    lines.join("\n")
}

fn table_rows(Row { node, answer }: &Row<TransfersReply>, held: &Held) -> Vec<[String; 10]> {
    let dash = || "-".to_owned();
    match answer {
        Err(error) => {
            let mut row = [(); 10].map(|()| dash());
            (row[0], row[1], row[9]) = (node.to_string(), "no answer".into(), silence(error));
            vec![row]
        }
        Ok(reply) => {
            let row = |transfer: &Transfer| {
                let count = transfer.partitions.len();
                let receiving = transfer.state == TransferState::Receiving;
                let moves = receiving || transfer.state == TransferState::HandingOver;
                let amount = is_received(transfer.state).then(|| held.received(reply, transfer));
                let state = match transfer.stalled {
                    true => format!("stalled ({})", state_text(transfer.state)),
                    false => state_text(transfer.state).into(),
                };
                [
                    node.to_string(),
                    state,
                    transfer.peer.to_string(),
                    match receiving {
                        true => format!("{}/{count}", transfer.read.len()),
                        false => count.to_string(),
                    },
                    match &amount {
                        Some(amount) => format!("{} of ~{}", amount.records_here, amount.records),
                        None if moves => transfer.records.to_string(),
                        None => dash(),
                    },
                    match &amount {
                        Some(amount) => {
                            let [here, all] = [amount.bytes_here, amount.bytes].map(output::bytes);
                            format!("~{here} of ~{all}")
                        }
                        None if moves => output::bytes(transfer.bytes),
                        None => dash(),
                    },
                    if moves { format!("{}/s", output::bytes(transfer.rate_bytes)) } else { dash() },
                    match amount.filter(|_| receiving).and_then(|amount| amount.eta_ms(transfer.rate_bytes)) {
                        Some(eta_ms) => format!("~{}", output::duration(eta_ms)),
                        None => dash(),
                    },
                    output::duration(transfer.idle_ms),
                    transfer.reason.clone(),
                ]
            };
            reply.transfers.iter().map(row).collect()
        }
    }
}

fn state_text(state: TransferState) -> &'static str {
    match state {
        TransferState::Receiving => "receiving",
        TransferState::Received => "received",
        TransferState::Serving => "still serving",
        TransferState::HandingOver => "handing over",
    }
}

/// What one node receives and gives up, and its limit.
fn summary(reply: &TransfersReply, held: &Held) -> Vec<String> {
    let TransfersReply { node, limit_bytes, to_receive, to_give_up, .. } = reply;
    let mut lines = Vec::new();
    if *to_receive > 0 {
        let (amount, rate_bytes) = (held.received_in_all(reply), rate(reply));
        let mut line = format!(
            "{node} receives {}: {} of ~{} records, ~{} left",
            output::count((*to_receive).into(), "partition"),
            amount.records_here,
            amount.records,
            output::bytes(amount.bytes_left())
        );
        if let Some(eta_ms) = amount.eta_ms(rate_bytes) {
            line.push_str(&format!(", at {}/s ~{}", output::bytes(rate_bytes), output::duration(eta_ms)));
        }
        lines.push(line);
        let nowhere = to_receive.saturating_sub(received(reply).len() as u32);
        if nowhere > 0 {
            lines.push(format!(
                "{node}: of {} no other node has the data: bring a node back that has",
                output::count(nowhere.into(), "partition")
            ));
        }
    }
    if *to_give_up > 0 {
        lines.push(format!("{node} gives up {}", output::count((*to_give_up).into(), "partition")));
    }
    if limit_bytes.is_some() {
        lines.push(format!("{node} is limited to {}, until it is restarted", limit::text(*limit_bytes)));
    }
    lines
}

/// The partitions that come to the node from somewhere.
fn received(reply: &TransfersReply) -> BTreeSet<u32> {
    let received = reply.transfers.iter().filter(|transfer| is_received(transfer.state));
    received.flat_map(|transfer| transfer.partitions.iter().copied()).collect()
}

/// Bytes that a node receives in a second.
fn rate(reply: &TransfersReply) -> u64 {
    let received = reply.transfers.iter().filter(|transfer| is_received(transfer.state));
    received.map(|transfer| transfer.rate_bytes).sum()
}

fn as_json(rows: &[Row<TransfersReply>], held: &Held) -> Value {
    let nodes = rows.iter().map(|Row { node, answer }| match answer {
        Err(error) => json!({"node": node.to_string(), "answers": false, "error": error.to_string()}),
        Ok(reply) => {
            let amount = held.received_in_all(reply);
            json!({
                "node": node.to_string(),
                "answers": true,
                "limit_bytes": reply.limit_bytes,
                "to_receive": reply.to_receive,
                "to_give_up": reply.to_give_up,
                "misplaced": reply.misplaced,
                "records": amount.records_here,
                "records_estimated": amount.records,
                "bytes_left_estimated": amount.bytes_left(),
                "rate_bytes": rate(reply),
                "eta_ms": amount.eta_ms(rate(reply)),
                "transfers": reply.transfers.iter().map(|transfer| transfer_json(reply, transfer, held)).collect::<Vec<_>>(),
            })
        }
    });
    json!({ "nodes": nodes.collect::<Vec<_>>() })
}

fn transfer_json(reply: &TransfersReply, transfer: &Transfer, held: &Held) -> Value {
    let amount = is_received(transfer.state).then(|| held.received(reply, transfer));
    let (here, there) = (reply.node.to_string(), transfer.peer.to_string());
    let (from, to) = if is_received(transfer.state) { (there, here) } else { (here, there) };
    json!({
        "state": match transfer.state {
            TransferState::Receiving => "receiving",
            TransferState::Received => "received",
            TransferState::Serving => "serving",
            TransferState::HandingOver => "handing_over",
        },
        "from": from,
        "to": to,
        "partitions": transfer.partitions,
        "partitions_read": transfer.read,
        "records_moved": transfer.records,
        "bytes_moved": transfer.bytes,
        "records": amount.map(|amount| amount.records_here),
        "records_estimated": amount.map(|amount| amount.records),
        "bytes_estimated": amount.map(|amount| amount.bytes),
        "rate_bytes": transfer.rate_bytes,
        "eta_ms": amount.and_then(|amount| amount.eta_ms(transfer.rate_bytes)),
        "idle_ms": transfer.idle_ms,
        "stalled": transfer.stalled,
        "reason": transfer.reason,
    })
}

#[cfg(test)]
mod tests {
    use dynkv_client::Error;

    use super::*;

    fn transfer(state: TransferState, peer: &str, partitions: &[u32], read: &[u32]) -> Transfer {
        Transfer {
            state,
            peer: peer.parse().unwrap(),
            partitions: partitions.to_vec(),
            read: read.to_vec(),
            records: 0,
            bytes: 0,
            rate_bytes: 0,
            idle_ms: 2000,
            stalled: false,
            reason: String::new(),
        }
    }

    fn reply(node: &str, to_receive: u32, to_give_up: u32, transfers: Vec<Transfer>) -> Row<TransfersReply> {
        let node = node.parse().unwrap();
        Row {
            node,
            answer: Ok(TransfersReply {
                node,
                limit_bytes: None,
                to_receive,
                to_give_up,
                transfers,
                misplaced: false,
            }),
        }
    }

    fn words(line: &str) -> String {
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_is_there_is_told_for_each_pair_and_once_for_each_node() {
        let mut fast = transfer(TransferState::Receiving, "n1", &[0, 1], &[0]);
        (fast.records, fast.bytes, fast.rate_bytes) = (20, 20 << 10, 10 << 10);
        let mut slow = transfer(TransferState::Receiving, "n2", &[0, 1], &[]);
        (slow.stalled, slow.idle_ms, slow.reason) = (true, 61_000, "n2 is out of reach".into());
        let mut waits = transfer(TransferState::Serving, "n4", &[0, 1], &[]);
        waits.reason = "until n4 serves them".into();
        let rows = [
            reply("n1", 0, 2, vec![waits]),
            Row { node: "n3".parse().unwrap(), answer: Err(Error::Connect { message: "long".into() }) },
            reply("n4", 2, 0, vec![fast, slow]),
        ];
        let held = Held::with(&[(0, "n1", 10), (1, "n1", 30), (0, "n4", 10), (1, "n4", 10)], 1.0);
        let text = as_text(&rows, &held);
        let lines: Vec<String> = text.lines().map(words).collect();
        assert_eq!(lines[1], "n1 still serving n4 2 - - - - 2s until n4 serves them", "{text}");
        assert!(lines[2].starts_with("n3 no answer"), "{text}");
        assert_eq!(
            lines[3], "n4 receiving n1 1/2 20 of ~40 ~20.0 KiB of ~40.0 KiB 10.0 KiB/s ~2s 2s",
            "{text}"
        );
        // What n2 holds is not known: as much as the one with most.
        assert_eq!(
            lines[4],
            "n4 stalled (receiving) n2 0/2 20 of ~40 ~20.0 KiB of ~40.0 KiB 0 B/s - 1m 1s n2 is out of reach",
            "{text}"
        );
        assert_eq!(lines[5], "n1 gives up 2 partitions");
        assert_eq!(
            lines[6],
            "n4 receives 2 partitions: 20 of ~40 records, ~20.0 KiB left, at 10.0 KiB/s ~2s"
        );
        assert_eq!(lines.len(), 7, "{text}");
        let json = as_json(&rows, &held);
        assert_eq!(
            (&json["nodes"][2]["eta_ms"], &json["nodes"][1]["answers"]),
            (&2000.into(), &false.into())
        );
        let pair = &json["nodes"][2]["transfers"][0];
        assert_eq!((&pair["from"], &pair["to"], &pair["records"]), (&"n1".into(), &"n4".into(), &20.into()));
    }

    #[test]
    fn that_nothing_moves_is_said_and_limits_are() {
        let mut row = reply("n1", 0, 0, vec![]);
        let nothing = "nothing moves: every partition is where it should be";
        assert_eq!(as_text(&[reply("n2", 0, 0, vec![])], &Held::default()), nothing);
        if let Ok(reply) = &mut row.answer {
            reply.limit_bytes = Some(1 << 20);
        }
        let text = as_text(std::slice::from_ref(&row), &Held::default());
        assert_eq!(text, format!("n1 is limited to 1.0 MiB/s, until it is restarted\n{nothing}"));
        if let Ok(reply) = &mut row.answer {
            reply.misplaced = true;
        }
        assert!(as_text(&[row], &Held::default()).contains("about to move"));
    }

    #[test]
    fn that_nobody_has_the_data_is_said() {
        let row = reply("n4", 3, 0, vec![transfer(TransferState::Received, "n1", &[0], &[])]);
        let text = as_text(&[row], &Held::with(&[(0, "n1", 10)], 100.0));
        assert!(text.contains("of 2 partitions no other node has the data"), "{text}");
        assert!(text.contains("receives 3 partitions: 10 of ~10 records, ~0 B left"), "{text}");
    }
}
