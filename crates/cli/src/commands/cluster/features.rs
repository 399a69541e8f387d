//! `dyn cluster features`

use std::collections::BTreeSet;

use clap::Args;
use dynkv_client::proto::{Feature, FeatureSet, Features};
use dynkv_client::ring::NodeId;
use serde_json::{Value, json};

use super::ANSWER_WITHIN;
use crate::commands::ring::check_founded;
use crate::commands::status::{Row, ask_all};
use crate::connection::Connection;
use crate::error::CliError;
use crate::exit::Exit;
use crate::output;

/// Show which features are switched on, which may be, and who does not know them
///
/// A feature is something that all nodes have to know before any of them does it. A new cluster has all that its nodes know; after an upgrade of all nodes
/// `dyn cluster enable` switches on what is new.
#[derive(Debug, Args)]
pub(crate) struct FeaturesCommand {
    /// Print it as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    connection: Connection,
}

/// What is known of what a node knows.
#[derive(Debug)]
pub(crate) struct Known {
    node: NodeId,
    version: String,
    /// By its own account, or as others last heard of it; `None`: nobody has, since he was started.
    features: Option<FeatureSet>,
}

impl Known {
    /// Of each node, in the order of `rows`.
    pub(crate) fn all(rows: &[Row]) -> Vec<Known> {
        let answers = || rows.iter().filter_map(|row| row.answer.as_ref().ok());
        let of = |Row { info, answer }: &Row| {
            let (node, own) = (info.id, answer.as_ref().ok());
            let heard = answers().flat_map(|status| &status.peers).filter(|peer| peer.id == node);
            let latest = heard.filter(|peer| peer.features.is_some()).max_by_key(|peer| peer.boot);
            let version = own.map(|status| &status.node.version).or(latest.map(|peer| &peer.version));
            Known {
                node,
                version: version.unwrap_or(&info.version).clone(),
                features: own
                    .map(|status| status.features.clone())
                    .or(latest.and_then(|peer| peer.features.clone())),
            }
        };
        rows.iter().map(of).collect()
    }

    fn knows(&self, number: u16) -> Option<bool> {
        self.features.as_ref().map(|features| features.numbers().any(|known| known == number))
    }
}

/// What `node` does not know of what is switched on, or known to others.
pub(crate) fn lacks(on: &Features, all: &[Known], node: &Known) -> Option<String> {
    let lacking = numbers(on, all).into_iter().filter(|number| node.knows(*number) == Some(false));
    let names: Vec<String> = lacking.map(|number| name(on, number)).collect();
    (!names.is_empty()).then(|| format!("lacks {}", names.join(", ")))
}

/// The features that there are for these nodes.
fn numbers(on: &Features, all: &[Known]) -> BTreeSet<u16> {
    let known = all.iter().filter_map(|known| known.features.as_ref()).flat_map(FeatureSet::numbers);
    on.iter().map(|change| change.number).chain(known).collect()
}

/// What a feature is called, also one of a later version than this.
pub(crate) fn name(on: &Features, number: u16) -> String {
    let switched_on = || on.iter().find(|change| change.number == number).map(|change| change.name.clone());
    let known = Feature::from_number(number).map(|feature| feature.name().to_owned());
    known.or_else(switched_on).unwrap_or_else(|| format!("feature {number}"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    On,
    Ready,
    Off,
}

impl State {
    fn text(self) -> &'static str {
        match self {
            State::On => "on",
            State::Ready => "ready",
            State::Off => "off",
        }
    }
}

/// A feature, and how the cluster stands to it.
#[derive(Debug)]
struct Line {
    number: u16,
    name: String,
    state: State,
    /// Who does not know it, with the version.
    lacking: Vec<String>,
    /// Who has not been heard of.
    unheard: Vec<String>,
}

impl Line {
    fn all(on: &Features, known: &[Known]) -> Vec<Line> {
        let mut numbers = numbers(on, known);
        numbers.extend(Feature::ALL.map(Feature::number));
        let of = |number| {
            let those =
                |wanted: Option<bool>| known.iter().filter(move |known| known.knows(number) == wanted);
            let lacking = those(Some(false)).map(|known| format!("{} (dynkv {})", known.node, known.version));
            let (lacking, unheard): (Vec<_>, Vec<_>) =
                (lacking.collect(), those(None).map(|known| known.node.to_string()).collect());
            let state = match on.iter().any(|change| change.number == number) {
                true => State::On,
                false if lacking.is_empty() && unheard.is_empty() => State::Ready,
                false => State::Off,
            };
            Line { number, name: name(on, number), state, lacking, unheard }
        };
        numbers.into_iter().map(of).collect()
    }

    fn note(&self) -> String {
        let mut notes = Vec::new();
        match Feature::from_number(self.number) {
            Some(feature) if self.state == State::Ready => {
                notes.push(format!("switch it on with `dyn cluster enable {feature}`"));
            }
            Some(_) => {}
            None => notes.push("this `dyn` is of an older version: upgrade it".into()),
        }
        if !self.lacking.is_empty() {
            let so = if self.state == State::On { ", and serves nothing" } else { "" };
            notes.push(format!("not known to {}{so}: upgrade", self.lacking.join(", ")));
        }
        if !self.unheard.is_empty() && self.state != State::On {
            notes.push(format!("nothing heard of {}: start", self.unheard.join(", ")));
        }
        notes.join("; ")
    }

    fn as_json(&self) -> Value {
        json!({
            "feature": self.name,
            "number": self.number,
            "state": self.state.text(),
            "lacking": self.lacking,
            "unheard": self.unheard,
        })
    }
}

impl FeaturesCommand {
    pub(super) async fn run(self) -> Result<Exit, CliError> {
        let client = self.connection.client().await?;
        check_founded(&client)?;
        let rows = ask_all(&client, ANSWER_WITHIN).await;
        let view = client.view();
        let lines = Line::all(view.features(), &Known::all(&rows));
        if self.json {
            let features: Vec<Value> = lines.iter().map(Line::as_json).collect();
            output::json(&json!({"cluster": client.cluster(), "features": features}))?;
            return Ok(Exit::Ok);
        }
        output::line(table(&lines))?;
        Ok(Exit::Ok)
    }
}

fn table(lines: &[Line]) -> String {
    let rows = lines.iter().map(|line| {
        let what = Feature::from_number(line.number).map_or("", Feature::description);
        [line.name.clone(), line.state.text().into(), what.into(), line.note()]
    });
    output::table(["feature", "state", "for", "note"], &[], rows.collect())
}

#[cfg(test)]
mod tests {
    use dynkv_client::proto::FeatureChange;
    use dynkv_client::ring::{Change, Entry, History, Membership};

    use super::*;

    fn known(node: &str, features: Option<FeatureSet>) -> Known {
        Known { node: node.parse().unwrap(), version: "0.1.0".into(), features }
    }

    fn on(changes: impl IntoIterator<Item = Change>) -> Features {
        let mut history = History::new();
        for (time, change) in (1..).zip(changes) {
            history.insert(Entry::new(time, "n1".parse().unwrap(), change).unwrap()).unwrap();
        }
        Features::fold(&Membership::fold(&history))
    }

    fn check(on: &Features, nodes: &[Known], state: &str, note: &str) {
        let lines = Line::all(on, nodes);
        assert_eq!((lines[0].name.as_str(), lines[0].state.text()), ("moving", state));
        assert_eq!(lines[0].note(), note);
        assert_eq!(lines[0].as_json()["state"], state);
    }

    #[test]
    fn who_stands_in_the_way_is_named() {
        let (all, none) = (|| Some(FeatureSet::known()), || Some(FeatureSet::default()));
        let (off, on) = (on([]), on([Feature::Moving.to_change()]));
        let new = [known("n1", all()), known("n2", all())];
        check(&off, &new, "ready", "switch it on with `dyn cluster enable moving`");
        check(&on, &new, "on", "");
        let mixed = [known("n1", all()), known("n2", none()), known("n3", None)];
        check(&off, &mixed, "off", "not known to n2 (dynkv 0.1.0): upgrade; nothing heard of n3: start");
        check(&on, &mixed, "on", "not known to n2 (dynkv 0.1.0), and serves nothing: upgrade");
        // Nobody has what is not switched on either: nothing is lacking, but it is listed.
        let old = [known("n1", none())];
        assert_eq!(lacks(&off, &old, &old[0]), None);
        assert_eq!(lacks(&on, &old, &old[0]).as_deref(), Some("lacks moving"));
        check(&off, &old, "off", "not known to n1 (dynkv 0.1.0): upgrade");
    }

    #[test]
    fn features_of_later_versions_are_listed_too() {
        let later = FeatureChange { number: 900, name: "flying".into(), since: "9.0.0".into() };
        let on = on([later.to_change()]);
        let nodes = [known("n1", Some(FeatureSet::known()))];
        let table = table(&Line::all(&on, &nodes));
        let line = table.lines().nth(2).unwrap();
        assert!(line.starts_with("flying") && line.contains("upgrade it"), "{table}");
        assert_eq!(lacks(&on, &nodes, &nodes[0]).as_deref(), Some("lacks flying"));
    }
}
