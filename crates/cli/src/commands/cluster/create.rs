//! `dyn cluster create`

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Args;
use dynkv_client::proto::{Digest, Feature, FeatureSet, NodeInfo, StatusReply};
use dynkv_client::ring::{Founding, History, PartitionCount};
use dynkv_client::{Client, Error};
use serde_json::json;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::connection::{Connection, block_on, parse_duration};
use crate::error::CliError;
use crate::exit::Exit;
use crate::member::MemberSpec;
use crate::output;

/// How often the members are asked whether they serve.
const ASK_EVERY: Duration = Duration::from_millis(100);

/// Found the cluster, with nodes that were started and wait for it
///
/// The founding goes to one of the members, from which the others learn it; this command waits until all serve. Takes an
/// admin's cluster file (`dyn cert client NAME --role admin`).
#[derive(Debug, Args)]
pub(super) struct Create {
    /// A founding member; may be repeated
    #[arg(long, required = true, value_name = "ID=HOST:PORT[,zone=Z][,host=H][,weight=W]")]
    member: Vec<MemberSpec>,
    /// Parts that the keys are divided into, a power of two, for ever
    #[arg(long, value_name = "Q", default_value = "256")]
    partitions: PartitionCount,
    /// How many nodes keep each key
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    replicas: u8,
    /// Found the cluster although some members cannot be reached; they serve once they run and find the others
    #[arg(long)]
    force_unreachable: bool,
    /// How long to wait until all members serve
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_duration)]
    wait: Duration,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// Each id and each address once.
fn check_distinct(members: &[MemberSpec]) -> Result<(), CliError> {
    let (mut ids, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for MemberSpec { member, address } in members {
        if !ids.insert(member.id) {
            return Err(CliError::Usage(format!("member {} is named twice: name each once", member.id)));
        }
        if !addresses.insert(address) {
            return Err(CliError::Usage(format!(
                "two members have the address {address}: each needs its own"
            )));
        }
    }
    Ok(())
}

impl Create {
    pub(super) fn run(self) -> Result<Exit, CliError> {
        check_distinct(&self.member)?;
        let mut file = self.connection.file()?;
        // Before the founding no node knows another: the members themselves are the surest seeds.
        for MemberSpec { address, .. } in &self.member {
            if !file.seeds.contains(address) {
                file.seeds.push(address.clone());
            }
        }
        block_on(async {
            let client = self.connection.client_of(&file).await?;
            let reachable = self.check_members(&client).await?;
            // Answers mean that there is at least one: otherwise the client would not have connected, or all were refused.
            let Some((first, _)) = reachable.first() else {
                return Err(CliError::Unreachable("none of the members answers: start them first".into()));
            };
            let features = self.features(&reachable);
            self.found(&client, first, &features).await?;
            let reachable: Vec<&MemberSpec> = reachable.into_iter().map(|(spec, _)| spec).collect();
            let late = self.wait_serving(&client, &reachable).await;
            let members = output::count(self.member.len() as u64, "member");
            if self.json {
                output::json(&json!({
                    "cluster": client.cluster(),
                    "members": self.member.iter().map(|spec| spec.member.id.to_string()).collect::<Vec<_>>(),
                    "partitions": self.partitions.get(),
                    "replicas": self.replicas,
                    "features": features.iter().map(|feature| feature.name()).collect::<Vec<_>>(),
                    "serving": late.is_empty(),
                }))?;
            }
            if !late.is_empty() {
                return Err(CliError::Unknown(format!(
                    "cluster {} is founded with {members}, but after {} some do not serve yet ({}): see `dyn status`",
                    client.cluster(),
                    output::duration(self.wait.as_millis() as u64),
                    late.join("; ")
                )));
            }
            let skipped = self.member.len() - reachable.len();
            if skipped > 0 {
                output::note(format_args!(
                    "{} did not answer and will serve once started",
                    output::count(skipped as u64, "member")
                ));
            }
            for feature in Feature::ALL.into_iter().filter(|feature| !features.contains(feature)) {
                output::note(format_args!(
                    "the feature {feature} is off, since not every member has said that it knows it: see `dyn cluster features`"
                ));
            }
            if usize::from(self.replicas) > self.member.len() {
                output::note(format_args!(
                    "{} replicas are wanted and there are {members}: each key is kept by all of them",
                    self.replicas
                ));
            }
            if !self.json {
                output::line(format_args!(
                    "cluster {} is founded with {members} and serves",
                    client.cluster()
                ))?;
            }
            Ok(Exit::Ok)
        })
    }

    /// Asks every member who it is; returns those that answered, and what they know.
    async fn check_members(&self, client: &Client) -> Result<Vec<(&MemberSpec, FeatureSet)>, CliError> {
        let mut reachable = Vec::new();
        let mut silent = Vec::new();
        for (index, answer) in ask(client, &self.member.iter().collect::<Vec<_>>()).await {
            let spec = &self.member[index];
            match answer {
                Ok(status) => {
                    check_member(spec, &status)?;
                    reachable.push((spec, status.features));
                }
                Err(error) => silent.push(format!("{}: {error}", spec.member.id)),
            }
        }
        if !silent.is_empty() && !self.force_unreachable {
            return Err(CliError::Unreachable(format!(
                "nothing was founded, because members do not answer ({}): start them, or go on without with --force-unreachable",
                silent.join("; ")
            )));
        }
        Ok(reachable)
    }

    /// What the cluster begins with: what all members know. One that does not answer may be of any version.
    fn features(&self, answered: &[(&MemberSpec, FeatureSet)]) -> Vec<Feature> {
        let all_know = |feature: &Feature| answered.iter().all(|(_, knows)| knows.contains(*feature));
        match answered.len() == self.member.len() {
            true => Feature::ALL.into_iter().filter(all_know).collect(),
            false => Vec::new(),
        }
    }

    async fn found(&self, client: &Client, at: &MemberSpec, features: &[Feature]) -> Result<(), CliError> {
        let founding = Founding {
            cluster: client.cluster().to_owned(),
            partitions: self.partitions,
            replicas: self.replicas,
            members: self.member.iter().map(|spec| spec.member.clone()).collect(),
        };
        // Each node knows better: boot counter 0 gives way to whatever it says itself.
        let info = |spec: &MemberSpec| NodeInfo {
            id: spec.member.id,
            address: spec.address.clone(),
            boot: 0,
            disk: 0,
            version: String::new(),
        };
        let nodes = self.member.iter().map(info).collect();
        let found = client.found(founding, features.iter().copied(), nodes).at(&at.address);
        found.await.map(drop).map_err(CliError::of("cluster create"))
    }

    /// Waits until all of `members` serve; what those that do not say after the time is up.
    async fn wait_serving(&self, client: &Client, members: &[&MemberSpec]) -> Vec<String> {
        let deadline = Instant::now() + self.wait;
        let mut late: Vec<&MemberSpec> = members.to_vec();
        loop {
            let mut reasons = Vec::new();
            let mut waiting = Vec::new();
            for (index, answer) in ask(client, &late).await {
                let spec = late[index];
                let reason = match answer {
                    Ok(status) if status.serving => continue,
                    Ok(status) => status.reason,
                    Err(error) => error.to_string(),
                };
                reasons.push(format!("{}: {reason}", spec.member.id));
                waiting.push(spec);
            }
            if waiting.is_empty() || Instant::now() >= deadline {
                return reasons;
            }
            late = waiting;
            sleep(ASK_EVERY).await;
        }
    }
}

/// The status of each of `members`, asked all at once, in their order.
async fn ask(client: &Client, members: &[&MemberSpec]) -> Vec<(usize, Result<StatusReply, Error>)> {
    let mut asked = JoinSet::new();
    for (index, spec) in members.iter().enumerate() {
        let status = client.status_at(&spec.address);
        asked.spawn(async move { (index, status.await) });
    }
    let mut answers = asked.join_all().await;
    answers.sort_by_key(|(index, _)| *index);
    answers
}

/// Whether the node at a member's address is that member, and waits to be founded.
fn check_member(spec: &MemberSpec, status: &StatusReply) -> Result<(), CliError> {
    let id = spec.member.id;
    if status.node.id != id {
        return Err(CliError::Usage(format!(
            "at {} is node {}, not {id}: correct the ids and addresses of the members",
            spec.address, status.node.id
        )));
    }
    let nothing = Digest(u128::from_be_bytes(History::new().digest()));
    if status.serving || status.view != nothing {
        return Err(CliError::Refused(format!(
            "nothing was founded: {id} belongs to a founded cluster {} already, see `dyn ring show`",
            status.cluster
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(texts: &[&str]) -> Vec<MemberSpec> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn members_are_distinct() {
        assert!(check_distinct(&members(&["n1=h:1", "n2=h:2"])).is_ok());
        for twice in [["n1=h:1", "n1=h:2"], ["n1=h:1", "n2=h:1"]] {
            assert_eq!(check_distinct(&members(&twice)).unwrap_err().exit(), Exit::Usage);
        }
    }

    #[test]
    fn a_member_must_be_itself_and_without_a_cluster() {
        let spec: MemberSpec = "n1=h:1".parse().unwrap();
        let nothing = Digest(u128::from_be_bytes(History::new().digest()));
        let status = |id: &str, serving, view| StatusReply {
            node: NodeInfo {
                id: id.parse().unwrap(),
                address: "h:1".into(),
                boot: 1,
                disk: 1,
                version: String::new(),
            },
            cluster: "c".into(),
            serving,
            reason: String::new(),
            uptime_ms: 0,
            view,
            records: 0,
            disk_bytes: 0,
            peers: vec![],
            hints: 0,
            oldest_hint_s: None,
            settling_paused: String::new(),
            store_failed: String::new(),
            features: FeatureSet::known(),
        };
        assert!(check_member(&spec, &status("n1", false, nothing)).is_ok());
        let exit = |status| check_member(&spec, &status).unwrap_err().exit();
        assert_eq!(exit(status("n2", false, nothing)), Exit::Usage);
        assert_eq!(exit(status("n1", true, nothing)), Exit::Refused);
        // A member of another founding does not serve, yet its history is not empty.
        assert_eq!(exit(status("n1", false, Digest(7))), Exit::Refused);
    }
}
