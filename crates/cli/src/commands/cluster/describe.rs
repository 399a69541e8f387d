//! Changes of the history, for people and for programs.

use dynkv_client::proto::{BUCKET_CHANGE_KIND, BucketChange, FEATURE_CHANGE_KIND, FeatureChange};
use dynkv_client::ring::{Change, Member};
use serde_json::{Value, json};

use crate::output;

/// A change in a few words.
pub(super) fn text(change: &Change) -> String {
    match change {
        Change::Found(founding) => {
            let members: Vec<String> = founding.members.iter().map(|member| member.id.to_string()).collect();
            format!(
                "cluster {} is founded: {}, {} replicas, by {}",
                founding.cluster,
                output::count(founding.partitions.get().into(), "partition"),
                founding.replicas,
                members.join(", ")
            )
        }
        Change::Join(member) => format!("{} joins ({})", member.id, properties(member)),
        Change::Leave(node) => format!("{node} leaves"),
        Change::Left(node) => format!("{node} has left"),
        Change::Remove(node) => format!("{node} is removed"),
        Change::Replace { old, new } => format!("{} takes the place of {old} ({})", new.id, properties(new)),
        Change::Weight { node, weight } => format!("{node} gets weight {weight}"),
        Change::Place { node, zone, host } => {
            let place = Member::new(*node).with_zone(zone).with_host(host);
            format!("{node} is in {}", domains(&place))
        }
        Change::Disk { node, disk } => format!("{node} stores on disk {disk:016x}"),
        Change::Other { kind, payload } => match (bucket(change), feature(change)) {
            (Some(change), _) => {
                let set = set_properties(&change).into_iter().map(|(name, value)| format!("{name}={value}"));
                format!("bucket {}: {}", change.bucket, set.collect::<Vec<_>>().join(" "))
            }
            (None, Some(change)) => format!("the feature {} is switched on", change.name),
            (None, None) => format!(
                "a change of kind {kind} that this version does not know, {}",
                output::bytes(payload.len() as u64)
            ),
        },
    }
}

fn properties(member: &Member) -> String {
    format!("weight {}, {}", member.weight, domains(member))
}

fn domains(member: &Member) -> String {
    match member.host.as_str() {
        "" => format!("zone {}", member.zone_name()),
        host => format!("zone {}, host {host}", member.zone_name()),
    }
}

/// The change of a bucket's properties, if it is one.
pub(super) fn bucket(change: &Change) -> Option<BucketChange> {
    match change {
        Change::Other { kind: BUCKET_CHANGE_KIND, payload } => BucketChange::from_payload(payload).ok(),
        _ => None,
    }
}

/// The feature that is switched on, if it is that.
fn feature(change: &Change) -> Option<FeatureChange> {
    match change {
        Change::Other { kind: FEATURE_CHANGE_KIND, payload } => FeatureChange::from_payload(payload).ok(),
        _ => None,
    }
}

fn set_properties(change: &BucketChange) -> Vec<(&'static str, String)> {
    let BucketChange {
        bucket: _,
        r,
        w,
        dw,
        pr,
        pw,
        conflict,
        key_bytes_max,
        value_bytes_max,
        siblings_max,
        grace_ms,
    } = change;
    let number = |value: &Option<u8>| value.map(|value| value.to_string());
    let size = |value: &Option<u32>| value.map(|value| value.to_string());
    let all = [
        ("r", number(r)),
        ("w", number(w)),
        ("dw", number(dw)),
        ("pr", number(pr)),
        ("pw", number(pw)),
        ("conflict", conflict.map(|conflict| conflict.to_string())),
        ("key_bytes_max", size(key_bytes_max)),
        ("value_bytes_max", size(value_bytes_max)),
        ("siblings_max", size(siblings_max)),
        ("grace_ms", grace_ms.map(|grace_ms| grace_ms.to_string())),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn member_json(member: &Member) -> Value {
    json!({"node": member.id.to_string(), "weight": member.weight, "zone": member.zone_name(), "host": member.host})
}

/// A change with its kind in `change`.
pub(super) fn as_json(change: &Change) -> Value {
    let of_member = |kind: &str, member: &Member| {
        let mut value = member_json(member);
        value["change"] = kind.into();
        value
    };
    match change {
        Change::Found(founding) => json!({
            "change": "found",
            "cluster": founding.cluster,
            "partitions": founding.partitions.get(),
            "replicas": founding.replicas,
            "members": founding.members.iter().map(member_json).collect::<Vec<_>>(),
        }),
        Change::Join(member) => of_member("join", member),
        Change::Leave(node) => json!({"change": "leave", "node": node.to_string()}),
        Change::Left(node) => json!({"change": "left", "node": node.to_string()}),
        Change::Remove(node) => json!({"change": "remove", "node": node.to_string()}),
        Change::Replace { old, new } => {
            let mut value = of_member("replace", new);
            value["old"] = old.to_string().into();
            value
        }
        Change::Weight { node, weight } => {
            json!({"change": "weight", "node": node.to_string(), "weight": weight})
        }
        Change::Place { node, zone, host } => {
            json!({"change": "place", "node": node.to_string(), "zone": zone, "host": host})
        }
        Change::Disk { node, disk } => {
            json!({"change": "disk", "node": node.to_string(), "disk": format!("{disk:016x}")})
        }
        Change::Other { kind, payload } => match (bucket(change), feature(change)) {
            (Some(change), _) => {
                let set =
                    set_properties(&change).into_iter().map(|(name, value)| (name.to_owned(), value.into()));
                json!({"change": "bucket", "bucket": change.bucket, "set": Value::Object(set.collect())})
            }
            (None, Some(change)) => {
                json!({"change": "feature", "feature": change.name, "number": change.number, "since": change.since})
            }
            (None, None) => json!({"change": "other", "kind": kind, "bytes": payload.len()}),
        },
    }
}

#[cfg(test)]
mod tests {
    use dynkv_client::proto::Feature;

    use super::*;

    #[test]
    fn changes_read_as_sentences() {
        let node = "n4".parse().unwrap();
        let new = Member::new(node).with_zone("b").with_host("h7");
        let mut carts = BucketChange::new("carts");
        carts.set("r", "1").unwrap();
        carts.set("conflict", "lww").unwrap();
        carts.set("grace_ms", "60000").unwrap();
        for (change, expected, kind) in [
            (Change::Join(new.clone()), "n4 joins (weight 1, zone b, host h7)", "join"),
            (
                Change::Replace { old: "n1".parse().unwrap(), new },
                "n4 takes the place of n1 (weight 1, zone b, host h7)",
                "replace",
            ),
            (
                Change::Place { node, zone: String::new(), host: String::new() },
                "n4 is in zone default",
                "place",
            ),
            (Change::Disk { node, disk: 10 }, "n4 stores on disk 000000000000000a", "disk"),
            (Feature::Moving.to_change(), "the feature moving is switched on", "feature"),
            (carts.to_change(), "bucket carts: r=1 conflict=lww grace_ms=60000", "bucket"),
            (
                Change::Other { kind: 300, payload: vec![0; 5] },
                "a change of kind 300 that this version does not know, 5 B",
                "other",
            ),
        ] {
            assert_eq!(text(&change), expected);
            assert_eq!(as_json(&change)["change"], kind);
        }
    }
}
