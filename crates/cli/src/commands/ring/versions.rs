//! `dyn ring locate --versions`: what each node holds of one key, side by side.

use dynkv_client::Client;
use dynkv_client::proto::{Digest, HeldReply, HeldState, HeldVersion};
use dynkv_client::ring::NodeId;
use serde_json::{Value, json};

use crate::address::Address;
use crate::each::{Row, ask_each, names, silence, silent};
use crate::error::CliError;
use crate::output;

/// Digits of a digest that are shown to people: enough to tell two apart.
const DIGEST_DIGITS: usize = 12;

/// What the nodes hold of a key.
pub(super) struct Versions {
    homes: Vec<NodeId>,
    rows: Vec<Row<HeldReply>>,
}

/// How a state stands to what all nodes together hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It has all that any of them has.
    Latest,
    /// Another one has all that it has, and more.
    Behind,
    /// It has something that no other one has, and lacks something.
    Concurrent,
}

impl Standing {
    fn text(self) -> &'static str {
        match self {
            Standing::Latest => "latest",
            Standing::Behind => "behind",
            Standing::Concurrent => "concurrent",
        }
    }
}

impl Versions {
    /// Asks all of `nodes`, the homes first.
    pub(super) async fn ask(
        client: &Client,
        address: &Address,
        homes: &[NodeId],
        nodes: &[NodeId],
    ) -> Versions {
        let limit = client.options().timeout.min(super::ANSWER_WITHIN);
        let held = |node| client.held(node, address.bucket.clone(), address.key.clone()).timeout(limit);
        let mut rows = ask_each(nodes, held).await;
        // In the order of the preference list, like everything else about a key.
        rows.sort_by_key(|row| nodes.iter().position(|node| *node == row.node));
        Versions { homes: homes.to_vec(), rows }
    }

    fn states(&self) -> impl Iterator<Item = &HeldState> {
        self.rows.iter().filter_map(Row::answered).flat_map(|(_, reply)| &reply.states)
    }

    fn standing(&self, state: &HeldState) -> Standing {
        if self.states().all(|other| state.covers(other)) {
            Standing::Latest
        } else if self.states().any(|other| other.covers(state) && !state.covers(other)) {
            Standing::Behind
        } else {
            Standing::Concurrent
        }
    }

    /// A line for each state, and for each node that is a home, is damaged, or does not answer.
    pub(super) fn as_table(&self) -> String {
        let mut lines = Vec::new();
        for Row { node, answer } in &self.rows {
            let role = if self.homes.contains(node) { "home" } else { "fallback" };
            let plain = |role: &str, state: &str, note: String| {
                let dash = || "-".to_owned();
                [node.to_string(), role.into(), state.into(), dash(), dash(), note]
            };
            let reply = match answer {
                Ok(reply) => reply,
                Err(error) => {
                    lines.push(plain(role, "no answer", silence(error)));
                    continue;
                }
            };
            let own = reply.states.iter().any(|state| state.hint_for.is_none());
            if role == "home" && !own && reply.damaged.is_empty() {
                lines.push(plain(role, "nothing", String::new()));
            }
            for state in &reply.states {
                let role = match state.hint_for {
                    Some(target) => format!("hint for {target}"),
                    None if role == "home" => role.into(),
                    None => "no home".into(),
                };
                let digest = state.digest.to_string();
                lines.push([
                    node.to_string(),
                    role,
                    self.standing(state).text().into(),
                    digest[..DIGEST_DIGITS].into(),
                    output::bytes(state.bytes),
                    versions_text(&state.versions),
                ]);
            }
            lines.extend(reply.damaged.iter().map(|what| plain(role, "damaged", what.clone())));
        }
        output::table(["node", "role", "state", "digest", "bytes", "versions"], &[4], lines)
    }

    /// What there is to see, in a line.
    pub(super) fn summary(&self) -> String {
        let silent = silent(&self.rows);
        let mut parts = Vec::new();
        let homes = self.rows.iter().filter(|row| self.homes.contains(&row.node)).filter_map(Row::answered);
        let own = |reply: &HeldReply| {
            let own = reply.states.iter().find(|state| state.hint_for.is_none());
            own.map(|state| (state.digest, self.standing(state)))
        };
        let homes: Vec<(NodeId, Option<(Digest, Standing)>)> =
            homes.map(|(node, reply)| (node, own(reply))).collect();
        let nobody = self.states().next().is_none() && self.damaged() == 0;
        let not_latest = homes.iter().filter(|(_, own)| !matches!(own, Some((_, Standing::Latest))));
        let not_latest: Vec<String> = not_latest.map(|(node, _)| node.to_string()).collect();
        if nobody {
            parts.push("no node that answers holds anything of it".to_owned());
        } else if not_latest.is_empty() {
            let (answering, all) = (homes.len(), self.homes.len());
            parts.push(match answering == all {
                true => format!("all {all} homes hold the same"),
                false => format!("the {answering} of {all} homes that answer hold the same"),
            });
        } else {
            let lack = if not_latest.len() == 1 { "lacks" } else { "lack" };
            parts.push(format!(
                "{} {lack} what others hold: hints, reads and the comparison of replicas bring it, `dyn repair start` at once",
                not_latest.join(", ")
            ));
        }
        let hints = self.states().filter(|state| state.hint_for.is_some()).count() as u64;
        if hints > 0 {
            parts.push(format!("{} to be delivered", waiting(hints)));
        }
        if self.damaged() > 0 {
            parts.push("what is damaged is healed from the other homes".into());
        }
        if !silent.is_empty() {
            parts.push(format!("what {} may hold is not known", names(&silent)));
        }
        parts.join("; ")
    }

    fn damaged(&self) -> usize {
        self.rows.iter().filter_map(Row::answered).map(|(_, reply)| reply.damaged.len()).sum()
    }

    /// That some node did not answer.
    pub(super) fn problem(&self) -> Option<CliError> {
        let silent = silent(&self.rows);
        (!silent.is_empty()).then(|| {
            CliError::Unknown(format!("no answer from {}: see `dyn status`, then repeat", names(&silent)))
        })
    }

    pub(super) fn as_json(&self) -> Value {
        let nodes = self.rows.iter().map(|Row { node, answer }| {
            let home = self.homes.contains(node);
            match answer {
                Err(error) => json!({
                    "node": node.to_string(), "home": home, "answers": false, "error": error.to_string(),
                }),
                Ok(reply) => json!({
                    "node": node.to_string(),
                    "home": home,
                    "answers": true,
                    "states": reply.states.iter().map(|state| self.state_json(state)).collect::<Vec<_>>(),
                    "damaged": reply.damaged,
                }),
            }
        });
        nodes.collect()
    }

    fn state_json(&self, state: &HeldState) -> Value {
        let versions = state.versions.iter().map(|version| {
            json!({
                "dot": dot(version),
                "time_ms": version.time_ms,
                "tombstone": version.tombstone,
                "bytes": version.len,
            })
        });
        json!({
            "hint_for": state.hint_for.map(|target| target.to_string()),
            "state": self.standing(state).text(),
            "digest": state.digest.to_string(),
            "bytes": state.bytes,
            "context": state.context.to_string(),
            "versions": versions.collect::<Vec<_>>(),
        })
    }
}

fn waiting(hints: u64) -> String {
    if hints == 1 { "1 hint waits".into() } else { format!("{hints} hints wait") }
}

fn dot(version: &HeldVersion) -> String {
    format!("{}:{}", version.actor, version.counter)
}

fn versions_text(versions: &[HeldVersion]) -> String {
    let one = |version: &HeldVersion| {
        let what = if version.tombstone { "deleted".into() } else { output::bytes(version.len) };
        format!("{} {what}", dot(version))
    };
    versions.iter().map(one).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use dynkv_client::Error;
    use dynkv_client::proto::Actor;
    use dynkv_vclock::Dot;

    use super::*;
    use crate::exit::Exit;

    fn id(text: &str) -> NodeId {
        text.parse().unwrap()
    }

    /// A state that has seen `seen` counters of each actor, and holds one version of each actor in `held`.
    fn state(hint_for: Option<&str>, seen: &[(u64, u64)], held: &[u64]) -> HeldState {
        let context = seen.iter().flat_map(|&(actor, counter)| {
            (1..=counter).map(move |counter| Dot { actor: Actor(actor, 0), counter })
        });
        let versions = held.iter().map(|&actor| HeldVersion {
            actor: Actor(actor, 0),
            counter: seen.iter().find(|(known, _)| *known == actor).map_or(0, |(_, counter)| *counter),
            time_ms: 5,
            tombstone: actor == 9,
            len: 4,
        });
        HeldState {
            hint_for: hint_for.map(id),
            digest: Digest(
                seen.iter().map(|(actor, counter)| u128::from(actor * 16 + counter)).sum::<u128>() << 100,
            ),
            bytes: 80,
            context: context.collect(),
            versions: versions.collect(),
        }
    }

    fn row(node: &str, states: Vec<HeldState>) -> Row<HeldReply> {
        let home = node != "n4";
        Row { node: id(node), answer: Ok(HeldReply { node: id(node), home, states, damaged: vec![] }) }
    }

    fn versions(rows: Vec<Row<HeldReply>>) -> Versions {
        Versions { homes: ["n1", "n2", "n3"].map(id).to_vec(), rows }
    }

    fn lines(versions: &Versions) -> Vec<String> {
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        versions.as_table().lines().skip(1).map(words).collect()
    }

    #[test]
    fn who_is_behind_is_marked_and_hints_have_their_targets() {
        let all = versions(vec![
            row("n1", vec![state(None, &[(1, 2)], &[1])]),
            row("n2", vec![state(None, &[(1, 1)], &[1])]),
            row("n3", vec![]),
            row("n4", vec![state(Some("n3"), &[(1, 2)], &[1])]),
        ]);
        let lines = lines(&all);
        assert!(
            lines[0].starts_with("n1 home latest") && lines[0].ends_with("0000000000000001.0:2 4 B"),
            "{lines:?}"
        );
        assert!(lines[1].starts_with("n2 home behind"), "{lines:?}");
        assert!(lines[2].starts_with("n3 home nothing"), "{lines:?}");
        assert!(lines[3].starts_with("n4 hint for n3 latest"), "{lines:?}");
        let summary = all.summary();
        assert!(summary.starts_with("n2, n3 lack what others hold"), "{summary}");
        assert!(summary.ends_with("1 hint waits to be delivered"), "{summary}");
        assert!(all.problem().is_none());
        let json = all.as_json();
        assert_eq!(
            (&json[1]["states"][0]["state"], &json[3]["states"][0]["hint_for"]),
            (&"behind".into(), &"n3".into())
        );
    }

    #[test]
    fn concurrent_states_are_neither_latest_nor_behind_until_they_are_united() {
        let apart = versions(vec![
            row("n1", vec![state(None, &[(1, 1)], &[1])]),
            row("n2", vec![state(None, &[(2, 1)], &[2])]),
            row("n3", vec![state(None, &[(1, 1)], &[1])]),
        ]);
        assert!(lines(&apart).iter().all(|line| line.contains("home concurrent")), "{:?}", lines(&apart));
        let united = versions(vec![
            row("n1", vec![state(None, &[(1, 1)], &[1])]),
            row("n2", vec![state(None, &[(1, 1), (2, 1)], &[1, 2])]),
        ]);
        assert!(lines(&united)[0].contains("behind") && lines(&united)[1].contains("latest"));
    }

    #[test]
    fn equal_homes_tombstones_and_silence() {
        let same = || vec![state(None, &[(9, 1)], &[9])];
        let all = versions(vec![row("n1", same()), row("n2", same()), row("n3", same()), row("n4", vec![])]);
        assert_eq!(all.summary(), "all 3 homes hold the same");
        let lines = lines(&all);
        assert_eq!(lines.len(), 3, "{lines:?}");
        assert!(lines[0].ends_with(":1 deleted"), "{lines:?}");
        let down = Row { node: id("n3"), answer: Err(Error::Connect { message: "long".into() }) };
        let part = versions(vec![row("n1", same()), row("n2", same()), down]);
        assert_eq!(
            part.summary(),
            "the 2 of 3 homes that answer hold the same; what n3 may hold is not known"
        );
        assert_eq!(part.problem().map(|error| error.exit()), Some(Exit::Unknown));
        let none = versions(vec![row("n1", vec![]), row("n2", vec![]), row("n3", vec![])]);
        assert_eq!(none.summary(), "no node that answers holds anything of it");
    }
}
