//! `dyn ring`

mod versions;

use std::time::Duration;

use clap::{Args, Subcommand};
use dynkv_client::ring::{NodeId, Position, Status};
use dynkv_client::{Client, ClusterView};
use serde_json::{Value, json};

use self::versions::Versions;
use crate::address::Address;
use crate::commands::status::summary;
use crate::connection::{Connection, block_on};
use crate::error::CliError;
use crate::exit::Exit;
use crate::{json, output};

/// A node that is up answers sooner; waiting longer for one that is down helps nobody.
const ANSWER_WITHIN: Duration = Duration::from_millis(2500);

/// Show who keeps what
#[derive(Debug, Args)]
pub(crate) struct Ring {
    #[command(subcommand)]
    command: RingCommand,
}

#[derive(Debug, Subcommand)]
enum RingCommand {
    Show(Show),
    Locate(Locate),
}

/// Show the members and their shares
#[derive(Debug, Args)]
struct Show {
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Show where a key is kept: its position, partition, home replicas, and the fallbacks behind them
///
/// With --versions every node is asked what it holds of the key, in its record and in hints for others. That is no read: nothing is
/// merged or repaired by it. Exit code 5 if some node did not answer.
#[derive(Debug, Args)]
struct Locate {
    /// BUCKET/KEY, divided at the first slash; without one the bucket is `default`
    key: String,
    /// The key is given in hexadecimal
    #[arg(long)]
    key_hex: bool,
    /// Show what each node holds of it, side by side, and who is behind
    #[arg(long)]
    versions: bool,
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

impl Ring {
    pub(crate) fn run(self) -> Result<Exit, CliError> {
        match self.command {
            RingCommand::Show(show) => block_on(show.run()),
            RingCommand::Locate(locate) => locate.run(),
        }
    }
}

/// Before the founding there is no ring.
pub(crate) fn check_founded(client: &Client) -> Result<(), CliError> {
    if client.view().membership().founded() { Ok(()) } else { Err(CliError::Refused(summary(client))) }
}

fn address_of(view: &ClusterView, node: &NodeId) -> String {
    view.node(node).map(|info| info.address.clone()).unwrap_or_default()
}

impl Show {
    async fn run(self) -> Result<Exit, CliError> {
        let client = self.connection.client().await?;
        check_founded(&client)?;
        let view = client.view();
        if self.json {
            output::json(&show_json(&client, &view))?;
        } else {
            output::line(summary(&client))?;
            output::line(show_table(&view))?;
        }
        Ok(Exit::Ok)
    }
}

fn status_text(status: Status) -> &'static str {
    match status {
        Status::Active => "active",
        Status::Leaving => "leaving",
    }
}

fn show_table(view: &ClusterView) -> String {
    let ring = view.ring();
    let rows = view.membership().members().map(|state| {
        let member = &state.member;
        let load = ring.load(&member.id);
        [
            member.id.to_string(),
            address_of(view, &member.id),
            member.zone_name().to_owned(),
            member.host.clone(),
            member.weight.to_string(),
            status_text(state.status).into(),
            load.tokens.to_string(),
            load.replicas.to_string(),
            format!("{:.1} %", ring.share(&member.id) * 100.0),
        ]
    });
    let header = ["node", "address", "zone", "host", "weight", "status", "tokens", "replicas", "share"];
    output::table(header, &[4, 6, 7, 8], rows.collect())
}

fn show_json(client: &Client, view: &ClusterView) -> Value {
    let (membership, ring) = (view.membership(), view.ring());
    let members = membership.members().map(|state| {
        let member = &state.member;
        let load = ring.load(&member.id);
        json!({
            "node": member.id.to_string(),
            "address": address_of(view, &member.id),
            "zone": member.zone_name(),
            "host": member.host,
            "weight": member.weight,
            "status": status_text(state.status),
            "tokens": load.tokens,
            "replicas": load.replicas,
            "share": ring.share(&member.id),
        })
    });
    json!({
        "cluster": client.cluster(),
        "partitions": membership.partitions().get(),
        "replicas": membership.replicas(),
        "view": view.digest().to_string(),
        "members": members.collect::<Vec<_>>(),
        "gone": membership.gone().map(|(id, _)| id.to_string()).collect::<Vec<_>>(),
    })
}

impl Locate {
    fn run(self) -> Result<Exit, CliError> {
        let address = Address::parse(&self.key, self.key_hex)?;
        block_on(async {
            let client = self.connection.client().await?;
            check_founded(&client)?;
            let view = client.view();
            let ring = view.ring();
            let position = Position::of(&address.bucket, &address.key);
            let partition = position.partition(ring.partitions());
            let homes = ring.homes(partition);
            let fallbacks =
                ring.preference(partition).map(|member| member.id).filter(|id| !homes.contains(id));
            let places: Vec<(&str, NodeId)> =
                homes.iter().map(|&id| ("home", id)).chain(fallbacks.map(|id| ("fallback", id))).collect();
            let versions = match self.versions {
                true => {
                    let nodes: Vec<NodeId> = places.iter().map(|(_, id)| *id).collect();
                    Some(Versions::ask(&client, &address, homes, &nodes).await)
                }
                false => None,
            };
            if self.json {
                let list = |wanted: &str| -> Vec<Value> {
                    let of_kind = places.iter().filter(|(kind, _)| *kind == wanted);
                    of_kind
                        .map(|(_, id)| json!({"node": id.to_string(), "address": address_of(&view, id)}))
                        .collect()
                };
                let mut more = json!({
                    "position": position.to_string(),
                    "partition": partition.0,
                    "homes": list("home"),
                    "fallbacks": list("fallback"),
                });
                if let Some(versions) = &versions {
                    more["nodes"] = versions.as_json();
                }
                output::json(&json::of_key(&address, more))?;
            } else {
                output::line(format_args!("{address}: position {position}, partition {partition}"))?;
                match &versions {
                    Some(versions) => {
                        output::line(versions.as_table())?;
                        output::line(versions.summary())?;
                    }
                    None => output::line(places_table(&view, &places))?,
                }
            }
            versions.and_then(|versions| versions.problem()).map_or(Ok(Exit::Ok), Err)
        })
    }
}

fn places_table(view: &ClusterView, places: &[(&str, NodeId)]) -> String {
    let rows = places.iter().map(|(kind, id)| {
        let member = view.ring().member(id);
        let zone = member.map(|member| member.zone_name().to_owned()).unwrap_or_default();
        [(*kind).to_owned(), id.to_string(), address_of(view, id), zone]
    });
    output::table(["role", "node", "address", "zone"], &[], rows.collect())
}
