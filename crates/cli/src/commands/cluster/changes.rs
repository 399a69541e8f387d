//! Changes of members on the command line.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use clap::Args;
use dynkv_client::proto::NodeInfo;
use dynkv_client::ring::{Change, Member, Membership, NodeId};

use crate::error::CliError;
use crate::member::{MemberError, MemberSpec};

/// The changes, by kind. They are made in this order: those that join come before those that go, so that nothing moves to a
/// node that goes.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Changes {
    /// A node that joins; where it is, if it was not started yet. May be repeated, as all of these
    #[arg(long, value_name = "NODE[=HOST:PORT]", help_heading = "Changes")]
    join: Vec<Newcomer>,
    /// A node that joins in the place of another one, which is gone at once; with the other's weight and zone, unless told
    /// otherwise
    #[arg(long, value_name = "OLD=NEW[=HOST:PORT]", help_heading = "Changes")]
    replace: Vec<Replacement>,
    /// The zone of a node
    #[arg(long, value_name = "NODE=ZONE", value_parser = of_node::<String>, help_heading = "Changes")]
    zone: Vec<(NodeId, String)>,
    /// The host of a node: nodes on one host fail together
    #[arg(long, value_name = "NODE=HOST", value_parser = of_node::<String>, help_heading = "Changes")]
    host: Vec<(NodeId, String)>,
    /// The weight of a node, 1 to 100: its share of the keys beside the others'
    #[arg(long, value_name = "NODE=WEIGHT", value_parser = of_node::<u32>, help_heading = "Changes")]
    weight: Vec<(NodeId, u32)>,
    /// A node that hands over what it has, and goes
    #[arg(long, value_name = "NODE", help_heading = "Changes")]
    leave: Vec<NodeId>,
    /// A dead node that is gone at once
    #[arg(long, value_name = "NODE", help_heading = "Changes")]
    remove: Vec<NodeId>,
}

/// A node that joins: `n4`, or `n4=HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Newcomer {
    node: NodeId,
    address: Option<String>,
}

impl FromStr for Newcomer {
    type Err = MemberError;

    fn from_str(text: &str) -> Result<Newcomer, MemberError> {
        if text.contains('=') {
            // The same as for founding, but zone, host and weight have options of their own here.
            let MemberSpec { member, address } = text.parse()?;
            if member == Member::new(member.id) && !text.contains(',') {
                return Ok(Newcomer { node: member.id, address: Some(address) });
            }
            return Err(MemberError::Option { option: text.split_once(',').unwrap_or_default().1.into() });
        }
        let node = NodeId::try_from(text).map_err(|source| MemberError::Id { text: text.into(), source })?;
        Ok(Newcomer { node, address: None })
    }
}

/// A node that takes the place of another one: `n3=n4`, or `n3=n4=HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Replacement {
    old: NodeId,
    new: Newcomer,
}

impl FromStr for Replacement {
    type Err = String;

    fn from_str(text: &str) -> Result<Replacement, String> {
        let (old, new) =
            text.split_once('=').ok_or_else(|| format!("'{text}' replaces nothing: write OLD=NEW"))?;
        let old = old.parse().map_err(|error| format!("'{old}': {error}"))?;
        Ok(Replacement { old, new: new.parse().map_err(|error: MemberError| error.to_string())? })
    }
}

/// Reads `NODE=VALUE`.
fn of_node<T: FromStr>(text: &str) -> Result<(NodeId, T), String> {
    let (node, value) = text.split_once('=').ok_or_else(|| format!("'{text}': write NODE=VALUE"))?;
    let node = node.parse().map_err(|error| format!("'{node}': {error}"))?;
    let value = value.parse().map_err(|_| format!("'{value}' is no value for node {node}"))?;
    Ok((node, value))
}

impl Changes {
    /// The changes as entries of the history, for the members as they are.
    pub(super) fn resolve(&self, membership: &Membership) -> Result<Vec<Change>, CliError> {
        self.check_once()?;
        let set = |mut member: Member| {
            let of = |pairs: &[(NodeId, String)]| find(pairs, member.id);
            let (zone, host, weight) = (of(&self.zone), of(&self.host), find(&self.weight, member.id));
            member.zone = zone.unwrap_or(member.zone);
            member.host = host.unwrap_or(member.host);
            member.weight = weight.unwrap_or(member.weight);
            member
        };
        let mut changes = Vec::new();
        let mut new = BTreeSet::new();
        for Newcomer { node, .. } in &self.join {
            new.insert(*node);
            changes.push(Change::Join(set(Member::new(*node))));
        }
        for Replacement { old, new: Newcomer { node, .. } } in &self.replace {
            new.insert(*node);
            let mut member = Member::new(*node);
            // On another machine most often, so the host is not taken over.
            if let Some(state) = membership.member(old) {
                member = member.with_weight(state.member.weight).with_zone(&*state.member.zone);
            }
            changes.push(Change::Replace { old: *old, new: set(member) });
        }
        let placed: BTreeSet<NodeId> = self
            .zone
            .iter()
            .chain(&self.host)
            .map(|(node, _)| *node)
            .filter(|node| !new.contains(node))
            .collect();
        for node in placed {
            let known = membership.member(&node).map(|state| state.member.clone());
            let Member { zone, host, .. } = set(known.unwrap_or_else(|| Member::new(node)));
            changes.push(Change::Place { node, zone, host });
        }
        let weights = self.weight.iter().filter(|(node, _)| !new.contains(node));
        changes.extend(weights.map(|&(node, weight)| Change::Weight { node, weight }));
        changes.extend(self.leave.iter().copied().map(Change::Leave));
        changes.extend(self.remove.iter().copied().map(Change::Remove));
        if changes.is_empty() {
            return Err(CliError::Usage(
                "nothing is to be changed: name changes, for example --join n4=10.0.0.4:7400 or --leave n3"
                    .into(),
            ));
        }
        Ok(changes)
    }

    /// Where the new nodes are, as far as it was said. Each of them knows better: boot counter 0 gives way.
    pub(super) fn addresses(&self) -> Vec<NodeInfo> {
        let newcomers = self.join.iter().chain(self.replace.iter().map(|replacement| &replacement.new));
        let info = |newcomer: &Newcomer| {
            let address = newcomer.address.clone()?;
            Some(NodeInfo { id: newcomer.node, address, boot: 0, disk: 0, version: String::new() })
        };
        newcomers.filter_map(info).collect()
    }

    /// The options again, as they can be given to another command.
    pub(super) fn arguments(&self) -> String {
        let newcomer = |Newcomer { node, address }: &Newcomer| match address {
            Some(address) => format!("{node}={address}"),
            None => node.to_string(),
        };
        let mut arguments = Vec::new();
        let mut add = |option: &str, values: Vec<String>| {
            arguments.extend(values.iter().map(|value| format!("--{option} {}", quoted(value))));
        };
        add("join", self.join.iter().map(newcomer).collect());
        let replacement =
            |replacement: &Replacement| format!("{}={}", replacement.old, newcomer(&replacement.new));
        add("replace", self.replace.iter().map(replacement).collect());
        add("zone", self.zone.iter().map(|(node, zone)| format!("{node}={zone}")).collect());
        add("host", self.host.iter().map(|(node, host)| format!("{node}={host}")).collect());
        add("weight", self.weight.iter().map(|(node, weight)| format!("{node}={weight}")).collect());
        add("leave", self.leave.iter().map(NodeId::to_string).collect());
        add("remove", self.remove.iter().map(NodeId::to_string).collect());
        arguments.join(" ")
    }

    /// Nobody is named twice in one kind of change, nor goes in two ways.
    fn check_once(&self) -> Result<(), CliError> {
        let mut seen: BTreeMap<(&str, NodeId), ()> = BTreeMap::new();
        let newcomers = self.join.iter().chain(self.replace.iter().map(|replacement| &replacement.new));
        let going = self.replace.iter().map(|replacement| replacement.old);
        let going = going.chain(self.leave.iter().copied()).chain(self.remove.iter().copied());
        let named = newcomers
            .map(|newcomer| ("to join", newcomer.node))
            .chain(going.map(|node| ("to go", node)))
            .chain(self.zone.iter().map(|(node, _)| ("with a zone", *node)))
            .chain(self.host.iter().map(|(node, _)| ("with a host", *node)))
            .chain(self.weight.iter().map(|(node, _)| ("with a weight", *node)));
        for (what, node) in named {
            if seen.insert((what, node), ()).is_some() {
                return Err(CliError::Usage(format!("node {node} is named twice {what}: name it once")));
            }
        }
        Ok(())
    }
}

fn find<T: Clone>(pairs: &[(NodeId, T)], wanted: NodeId) -> Option<T> {
    pairs.iter().find(|(node, _)| *node == wanted).map(|(_, value)| value.clone())
}

/// For a shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-=:[],/".contains(c);
    if text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use clap::{FromArgMatches, Parser};
    use dynkv_client::ring::{Entry, Founding, History, PartitionCount};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        changes: Changes,
    }

    fn parse(line: &str) -> Result<Changes, clap::Error> {
        let words = std::iter::once("x").chain(line.split_whitespace());
        let command = Changes::augment_args(clap::Command::new("x"));
        Changes::from_arg_matches(&command.try_get_matches_from(words)?)
    }

    fn id(text: &str) -> NodeId {
        text.parse().unwrap()
    }

    fn membership() -> Membership {
        let member = |node: &str| Member::new(id(node)).with_zone("a").with_host("rack").with_weight(3);
        let founding = Founding {
            cluster: "c".into(),
            partitions: PartitionCount::new(16).unwrap(),
            replicas: 3,
            members: ["n1", "n2", "n3"].map(member).to_vec(),
        };
        let mut history = History::new();
        history.insert(Entry::new(1, id("n1"), Change::Found(founding)).unwrap()).unwrap();
        Membership::fold(&history)
    }

    fn resolved(line: &str) -> Vec<Change> {
        parse(line).unwrap().resolve(&membership()).unwrap()
    }

    #[test]
    fn changes_are_made_in_an_order_of_their_own() {
        assert!(Line::try_parse_from(["x"]).unwrap().changes.resolve(&membership()).is_err());
        let changes = resolved(
            "--remove n9 --leave n3 --weight n1=2 --join n4=h:1 --weight n4=5 --zone n4=b --zone n2=b",
        );
        assert_eq!(
            changes,
            [
                Change::Join(Member::new(id("n4")).with_weight(5).with_zone("b")),
                Change::Place { node: id("n2"), zone: "b".into(), host: "rack".into() },
                Change::Weight { node: id("n1"), weight: 2 },
                Change::Leave(id("n3")),
                Change::Remove(id("n9")),
            ]
        );
    }

    #[test]
    fn a_replacement_has_weight_and_zone_of_the_old_one() {
        let new = Member::new(id("n4")).with_weight(3).with_zone("a");
        assert_eq!(resolved("--replace n1=n4"), [Change::Replace { old: id("n1"), new: new.clone() }]);
        let elsewhere = new.with_zone("b").with_host("h7");
        let line = "--replace n1=n4=10.0.0.4:7400 --zone n4=b --host n4=h7";
        assert_eq!(resolved(line), [Change::Replace { old: id("n1"), new: elsewhere }]);
        let addresses = parse(line).unwrap().addresses();
        assert_eq!((addresses[0].id, addresses[0].address.as_str()), (id("n4"), "10.0.0.4:7400"));
    }

    #[test]
    fn what_is_printed_can_be_given_again() {
        let line = "--join n4=10.0.0.4:7400 --join n5 --replace n1=n6=[::1]:1 --zone n2=b --host n2=h --weight n3=4 --leave n7 --remove n8";
        assert_eq!(parse(line).unwrap().arguments(), line);
        let odd = Changes { host: vec![(id("n2"), "rack 7's".into())], ..Changes::default() };
        assert_eq!(odd.arguments(), "--host 'n2=rack 7'\\''s'");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for wrong in [
            "--join N4",
            "--join n4=h",
            "--join n4=h:1,zone=b",
            "--replace n1",
            "--replace n1=N2",
            "--zone n1",
            "--weight n1=x",
            "--weight n1=-1",
            "--leave N1",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        for twice in ["--join n4 --replace n1=n4", "--leave n1 --remove n1", "--zone n1=a --zone n1=b"] {
            let error = parse(twice).unwrap().resolve(&membership()).unwrap_err();
            assert!(error.to_string().contains("named twice"), "{error}");
        }
    }
}
