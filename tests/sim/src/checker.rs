//! The promises of the store, held against what clients did and saw.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use dynkv_proto::{Actor, PutId};
use dynkv_vclock::{Dot, HybridTime};

use crate::{
    buckets::{Bucket, SIBLINGS_MAX},
    history::{Ending, GetRecord, HeldVersion, History, Key, PutRecord},
    run::REPLICAS,
};

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq)]
pub struct Violation {
    /// Which one.
    pub promise: &'static str,
    /// The key concerned, if it is one.
    pub key: Option<Key>,
    /// What was seen.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = self.key.as_ref().map(|key| format!(" at {key}")).unwrap_or_default();
        write!(f, "\"{}\" is broken{key}: {}", self.promise, self.what)
    }
}

/// What a run did that bears on what may be expected of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// Machines lost power: what was acknowledged from memory alone may be gone.
    pub power_lost: bool,
    /// So many disks were wiped, had an old copy put in their place, or bits of them have flipped, before others had what they held.
    pub disks_lost: u32,
    /// The first or the second of these: such a disk does not know what it lacks. One that rots does, and does not answer.
    pub disk_replaced: bool,
    /// Buckets that can write to two disks do.
    pub two_disks: bool,
    /// Old tombstones and context entries go.
    pub settles: bool,
}

/// Checks everything. `last` are reads of every key from all replicas, made after all faults were over, and `held` what all
/// replicas had then.
///
/// # Errors
/// The first promise found broken.
pub fn check(
    history: &History,
    last: &[GetRecord],
    held: &[HeldVersion],
    circumstances: Circumstances,
) -> Result<(), Violation> {
    let Circumstances { power_lost, disks_lost, disk_replaced, two_disks, settles } = circumstances;
    let disk_lost = disks_lost > 0;
    for (key, seen) in &group(history, last, held) {
        let violation = |promise, what: String| Violation { promise, key: Some((*key).clone()), what };
        nothing_from_nowhere(seen).map_err(|what| violation("only what was written is read", what))?;
        one_dot_one_value(seen).map_err(|what| violation("one dot is one value", what))?;
        contexts_are_what_was_read(seen)
            .map_err(|what| violation("a put returns what its writer has read, and itself", what))?;
        not_earlier_than_what_it_replaces(key, seen)
            .map_err(|what| violation("a put is not stamped earlier than what it replaces", what))?;
        foreign_contexts_are_refused(seen)
            .map_err(|what| violation("a context of another key is refused", what))?;
        one_value_per_put(seen).map_err(|what| violation("one put is one value", what))?;
        // Of two processes of one name only one is asked about a retry.
        if !disk_lost {
            one_dot_per_put(seen).map_err(|what| violation("an unflagged put is one version", what))?;
        }
        // A disk that lost something may have lost it before the answer came, and what settles may have gone.
        if !power_lost && !disk_lost && !settles {
            acknowledged_by_enough(key, seen)
                .map_err(|what| violation("an acknowledged write has as many copies as was said", what))?;
        }
        siblings_are_bounded(key, seen).map_err(|what| violation("siblings are bounded", what))?;
        // What was on no disk goes with the power, what was on d disks with d of them.
        let disks_lost = disks_lost + u32::from(power_lost && key.bucket.disks(two_disks) == 0);
        if disks_lost == 0 || disks_lost < key.bucket.disks(two_disks) {
            acknowledged_survive(key, seen, settles)
                .map_err(|what| violation("an acknowledged write survives", what))?;
            let last: Vec<_> = seen.last.into_iter().collect();
            nothing_comes_back(seen, &last)
                .map_err(|what| violation("what was replaced does not come back", what))?;
        }
        // What a reader saw from memory may go with the memory.
        if !power_lost && !disk_lost {
            seen_survive(key, seen).map_err(|what| violation("a value vanishes only by cause", what))?;
        }
        let fresh = key.bucket.quorums_meet() && !disk_replaced && (key.bucket.is_durable() || !power_lost);
        if fresh {
            reads_are_fresh(seen, settles)
                .map_err(|what| violation("a read returns what was acknowledged before", what))?;
            nothing_comes_back(seen, &seen.gets)
                .map_err(|what| violation("what was replaced is not read again", what))?;
        }
        // A stale read gives a context that does not cover the session's own last put.
        if key.owner.is_some() && fresh {
            alone_sees_one(seen).map_err(|what| violation("a lone session sees one value", what))?;
        }
    }
    Ok(())
}

#[derive(Default)]
struct Seen<'a> {
    puts: Vec<&'a PutRecord>,
    gets: Vec<&'a GetRecord>,
    last: Option<&'a GetRecord>,
    held: Vec<&'a HeldVersion>,
}

fn group<'a>(
    history: &'a History,
    last: &'a [GetRecord],
    held: &'a [HeldVersion],
) -> BTreeMap<&'a Key, Seen<'a>> {
    let mut by_key: BTreeMap<&Key, Seen<'_>> = BTreeMap::new();
    for put in &history.puts {
        by_key.entry(&put.key).or_default().puts.push(put);
    }
    for get in history.gets.iter().chain(last) {
        by_key.entry(&get.key).or_default().gets.push(get);
    }
    for get in last {
        by_key.entry(&get.key).or_default().last = Some(get);
    }
    for version in held {
        by_key.entry(&version.key).or_default().held.push(version);
    }
    by_key
}

/// A value that is read was written by somebody, and not refused.
fn nothing_from_nowhere(seen: &Seen<'_>) -> Result<(), String> {
    for version in seen.gets.iter().flat_map(|get| &get.versions) {
        let put = seen.puts.iter().find(|put| put.put_id == version.put_id);
        match put {
            Some(put) if put.value.as_deref() != Some(&version.value) => {
                return Err(format!("{} was read for {:?}", version.value, put.value));
            }
            Some(put) if put.ending == Ending::NotDone => {
                return Err(format!(
                    "{} was read, but its put was refused as certainly not done",
                    version.value
                ));
            }
            Some(_) => {}
            None => return Err(format!("{} was read, nobody wrote it", version.value)),
        }
    }
    Ok(())
}

fn one_dot_one_value(seen: &Seen<'_>) -> Result<(), String> {
    let mut values: BTreeMap<Dot<Actor>, PutId> = BTreeMap::new();
    let read = seen.gets.iter().flat_map(|get| &get.versions).map(|version| (version.dot, version.put_id));
    let acknowledged = seen.puts.iter().filter_map(|put| match put.ending {
        Ending::Done { dot, .. } => Some((dot, put.put_id)),
        _ => None,
    });
    for (dot, put_id) in read.chain(acknowledged) {
        let first = *values.entry(dot).or_insert(put_id);
        if first != put_id {
            return Err(format!("{dot} is {first} and {put_id}"));
        }
    }
    Ok(())
}

/// The context of an answer would otherwise cover siblings that the writer has not seen. A retry may find twins of itself.
fn contexts_are_what_was_read(seen: &Seen<'_>) -> Result<(), String> {
    for put in &seen.puts {
        let Ending::Done { dot, context, possible_duplicate, .. } = &put.ending else { continue };
        let mut expected = put.context.clone();
        expected.insert(*dot);
        if put.attempts == 1 && !possible_duplicate && *context != expected {
            return Err(format!("{:?} had read {}, got {}", put.value, put.context, context));
        }
    }
    Ok(())
}

/// Only `lww` buckets order by time; in the others a clock may be too far behind to exceed a past. Equal is what a retry is
/// answered that finds its version covered already, and clients retry unseen.
fn not_earlier_than_what_it_replaces(key: &Key, seen: &Seen<'_>) -> Result<(), String> {
    for put in seen.puts.iter().filter(|_| key.bucket == Bucket::Lww) {
        if let Ending::Done { time, .. } = put.ending
            && time < put.context_time
        {
            return Err(format!("{:?} is of {time}, what it replaces of {}", put.value, put.context_time));
        }
    }
    Ok(())
}

fn foreign_contexts_are_refused(seen: &Seen<'_>) -> Result<(), String> {
    match seen.puts.iter().find(|put| put.foreign && put.ending != Ending::NotDone) {
        Some(put) => Err(format!("{:?} was put with one and is {:?}", put.value, put.ending)),
        None => Ok(()),
    }
}

/// Each home refuses a put that would add one at the limit; merges are never refused, so as many homes as there are may have
/// added up to theirs before they met. Twice that, since a home that has forgotten its own after a crash may add them again.
fn siblings_are_bounded(key: &Key, seen: &Seen<'_>) -> Result<(), String> {
    let limit = 2 * SIBLINGS_MAX as usize * usize::from(REPLICAS);
    match seen.gets.iter().find(|get| key.bucket == Bucket::One && get.versions.len() > limit) {
        Some(get) => Err(format!("{} were read, the limit is {SIBLINGS_MAX}", get.versions.len())),
        None => Ok(()),
    }
}

/// A put that was answered without "possible duplicate" exists under the dot of its answer only: a twin would come back as a
/// sibling after the other was replaced.
fn one_dot_per_put(seen: &Seen<'_>) -> Result<(), String> {
    let read = seen.gets.iter().flat_map(|get| &get.versions).map(|version| (version.put_id, version.dot));
    let held = seen.held.iter().map(|version| (version.put_id, version.dot));
    let versions: BTreeSet<(PutId, Dot<Actor>)> = read.chain(held).collect();
    for put in &seen.puts {
        let Ending::Done { dot, possible_duplicate: false, .. } = put.ending else { continue };
        let first = Dot { actor: Actor(0, 0), counter: 0 };
        let all = versions.range((put.put_id, first)..).take_while(|(put_id, _)| *put_id == put.put_id);
        if let Some((_, twin)) = all.into_iter().find(|(_, other)| *other != dot) {
            return Err(format!("{:?} was answered as {dot} and is {twin}, too", put.value));
        }
    }
    Ok(())
}

fn one_value_per_put(seen: &Seen<'_>) -> Result<(), String> {
    for get in &seen.gets {
        let ids: BTreeSet<PutId> = get.versions.iter().map(|version| version.put_id).collect();
        if ids.len() != get.versions.len() {
            return Err(format!("{:?} were read at once", get.versions));
        }
    }
    Ok(())
}

/// Whether some write that may have happened had read `dot`.
fn is_covered(seen: &Seen<'_>, dot: &Dot<Actor>, but: PutId) -> bool {
    seen.puts
        .iter()
        .any(|put| put.put_id != but && put.ending != Ending::NotDone && put.context.contains(dot))
}

/// Each for another home, by another node.
fn acknowledged_by_enough(key: &Key, seen: &Seen<'_>) -> Result<(), String> {
    match seen.puts.iter().find(|put| put.missing.is_some_and(|missing| missing > 0)) {
        Some(put) => {
            let (missing, wanted) = (put.missing.unwrap_or_default(), key.bucket.copies());
            Err(format!(
                "of {:?} {missing} of {wanted} copies were missing when it was acknowledged, or later",
                put.value
            ))
        }
        None => Ok(()),
    }
}

/// Whatever becomes of the tombstone that has replaced it.
fn nothing_comes_back(seen: &Seen<'_>, gets: &[&GetRecord]) -> Result<(), String> {
    for get in gets {
        for version in &get.versions {
            let replaced = seen.puts.iter().find(|put| {
                let done = matches!(put.ending, Ending::Done { .. })
                    && put.ended_at.is_some_and(|ended_at| ended_at <= get.began_at);
                done && put.context.contains(&version.dot)
            });
            if let Some(put) = replaced {
                return Err(format!(
                    "{} ({}) was read after {:?} had replaced it",
                    version.dot, version.value, put.value
                ));
            }
        }
    }
    Ok(())
}

/// With `settles`, nobody need know of it any more, once it is replaced.
fn acknowledged_survive(key: &Key, seen: &Seen<'_>, settles: bool) -> Result<(), String> {
    let Some(last) = seen.last else { return Ok(()) };
    for put in &seen.puts {
        let Ending::Done { dot, time, .. } = &put.ending else { continue };
        if !settles && !last.context.contains(dot) {
            return Err(format!("no replica knows {dot} ({:?}) any more", put.value));
        }
        let visible = last.versions.iter().any(|version| version.dot == *dot || version.put_id == put.put_id);
        let outlived =
            key.bucket == Bucket::Lww && (last.time >= *time || settles && was_outlived(seen, put, *time));
        if put.value.is_some() && !visible && !outlived && !is_covered(seen, dot, put.put_id) {
            return Err(format!("{dot} ({:?}) is gone, and no write had read it", put.value));
        }
    }
    Ok(())
}

/// Whether there was a put with a later time, or one of which that is not known: its outcome is not, or it may have been done twice.
fn was_outlived(seen: &Seen<'_>, put: &PutRecord, time: HybridTime) -> bool {
    seen.puts.iter().filter(|other| other.put_id != put.put_id).any(|other| match other.ending {
        Ending::Done { time: other, possible_duplicate, .. } => other >= time || possible_duplicate,
        Ending::NotDone => false,
        Ending::Unknown => true,
    })
}

fn seen_survive(key: &Key, seen: &Seen<'_>) -> Result<(), String> {
    let Some(last) = seen.last else { return Ok(()) };
    if key.bucket == Bucket::Lww {
        return Ok(());
    }
    for version in seen.gets.iter().flat_map(|get| &get.versions) {
        let visible = last.versions.iter().any(|now| now.dot == version.dot || now.put_id == version.put_id);
        if !visible && !is_covered(seen, &version.dot, version.put_id) {
            return Err(format!(
                "{} ({}) was read once and is gone, and no write had read it",
                version.dot, version.value
            ));
        }
    }
    Ok(())
}

/// With `settles`, what was replaced need not be known any more: only that it is not shown can be checked.
fn reads_are_fresh(seen: &Seen<'_>, settles: bool) -> Result<(), String> {
    for get in &seen.gets {
        for put in &seen.puts {
            let (Ending::Done { dot, .. }, Some(ended_at)) = (&put.ending, put.ended_at) else { continue };
            let gone = settles && (put.value.is_none() || is_covered(seen, dot, put.put_id));
            if ended_at <= get.began_at && !get.context.contains(dot) && !gone {
                return Err(format!(
                    "s{} read without {dot} ({:?}), which s{} had been acknowledged before",
                    get.session, put.value, put.session
                ));
            }
        }
    }
    Ok(())
}

/// Applies while every put of the session was answered, and none as a possible duplicate.
fn alone_sees_one(seen: &Seen<'_>) -> Result<(), String> {
    let certain = seen.puts.iter().all(|put| match put.ending {
        Ending::Done { possible_duplicate, .. } => !possible_duplicate,
        Ending::NotDone => true,
        Ending::Unknown => false,
    });
    match seen.gets.iter().find(|get| get.versions.len() > 1) {
        Some(get) if certain => Err(format!("it read {:?}", get.versions)),
        _ => Ok(()),
    }
}
