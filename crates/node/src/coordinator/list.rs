//! Coordinating a page of a listing: the pages of enough replicas, merged.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use dynkv_net::Class;
use dynkv_proto::{
    Blob, Digest, Failure, FailureCode, Frame, List, ListReply, ListedKey, ReplicaList, ReplicaListReply,
};
use dynkv_ring::{NodeId, PartitionId};
use futures_util::{StreamExt, stream, stream::FuturesUnordered};

use super::{Answer, Context, effective, failure, get::read_merged, quorum::Need};
use crate::{key::Key, replica::Page, shared::Shared};

/// Keys of one page at most: keeps a reply far below the longest header.
const PAGE_KEYS_MAX: u32 = 1000;

/// Keys on which replicas differ that are read at once.
const READS_AT_ONCE: usize = 32;

pub(super) async fn list(node: Arc<Shared>, context: Context, request: List, answer: Answer) {
    match page(&node, &context, &request).await {
        Ok(reply) => answer.done(&reply, Bytes::new()),
        Err(failure) => answer.failed(&failure),
    }
}

async fn page(node: &Arc<Shared>, context: &Context, request: &List) -> Result<ListReply, Failure> {
    let partition = PartitionId(request.partition);
    let mut homes = context.members.homes.to_vec();
    let properties = effective(context, homes.len(), |_| {})?;
    // Any acknowledged write is on w of the homes, so it is on one of any n - w + 1.
    let wanted = usize::from(properties.r).max(homes.len() + 1 - usize::from(properties.w));
    let limit = request.limit.clamp(1, PAGE_KEYS_MAX);
    let own = node.replica.list(
        partition,
        &request.bucket,
        &request.prefix,
        request.after.as_ref().map(|after| &after[..]),
        limit as usize,
    );
    homes.retain(|home| *home != node.cluster.me.id);
    node.peers.sort_by_latency(&mut homes);
    let mut pages: Vec<Page> = Vec::new();
    let mut errors = Vec::new();
    match own {
        Ok(page) => pages.push(page),
        Err(error) => errors.push(format!("{}: {error}", node.cluster.me.id)),
    }
    let mut homes = homes.into_iter();
    while pages.len() < wanted {
        let batch: Vec<NodeId> = homes.by_ref().take(wanted - pages.len()).collect();
        if batch.is_empty() {
            break;
        }
        let mut asked: FuturesUnordered<_> =
            batch.into_iter().map(|home| remote_page(node, context, request, limit, home)).collect();
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(page) => pages.push(page),
                Err(error) => errors.push(error),
            }
        }
    }
    if pages.is_empty() {
        let message = format!(
            "no replica of partition {partition} can be listed ({}): see `dyn status`",
            errors.join("; ")
        );
        return Err(failure(&context.view, FailureCode::Quorum, message));
    }
    let complete = pages.len() >= wanted;
    let need = Need { replicas: pages.len().min(wanted) as u8, durable: 0, homes: 0 };
    let Merged { keys, next } = merge(pages);
    let keys = stream::iter(keys)
        .map(|(key, live)| is_live(node, context, &request.bucket, need, key, live))
        .buffered(READS_AT_ONCE)
        .filter_map(|key| async move { key.transpose() })
        .collect::<Vec<Result<Blob, Failure>>>()
        .await
        .into_iter()
        .collect::<Result<Vec<Blob>, Failure>>()?;
    Ok(ListReply { keys, next, complete, view: context.view.digest })
}

async fn remote_page(
    node: &Shared,
    context: &Context,
    request: &List,
    limit: u32,
    home: NodeId,
) -> Result<Page, String> {
    let question = ReplicaList {
        bucket: request.bucket.clone(),
        partition: request.partition,
        prefix: request.prefix.clone(),
        after: request.after.clone(),
        limit,
    };
    let frame = Frame::new(&question, Bytes::new());
    // Half of what is left: another home can be asked in the other half.
    let timeout = context.time_left() / 2;
    let answer = node.peers.request::<ReplicaListReply>(home, Class::Foreground, frame, timeout).await;
    let (reply, _) = answer.map_err(|error| format!("{home}: {error}"))?;
    Ok(Page { keys: reply.keys, more: reply.more })
}

/// The key if it is live; a full read decides where the replicas do not agree.
async fn is_live(
    node: &Arc<Shared>,
    context: &Context,
    bucket: &str,
    need: Need,
    key: Blob,
    live: Option<bool>,
) -> Result<Option<Blob>, Failure> {
    let live = match live {
        Some(live) => live,
        None => {
            let whole = Key::new(bucket.to_owned(), key.0.clone(), context.view.membership.partitions());
            !read_merged(node, context, &whole, need).await?.is_absent()
        }
    };
    Ok(live.then_some(key))
}

struct Merged {
    /// Each key with whether it is live; `None` where only a read can tell.
    keys: Vec<(Blob, Option<bool>)>,
    /// After which key the next page begins.
    next: Option<Blob>,
}

/// Unites pages of several replicas, as far as all of them reach.
fn merge(pages: Vec<Page>) -> Merged {
    let replicas = pages.len();
    // A page that was cut off says nothing about keys behind its last one.
    let cut = pages
        .iter()
        .filter(|page| page.more)
        .filter_map(|page| page.keys.last())
        .map(|last| last.key.clone())
        .min();
    let mut keys: BTreeMap<Blob, Vec<(Digest, bool)>> = BTreeMap::new();
    for ListedKey { key, digest, live } in pages.into_iter().flat_map(|page| page.keys) {
        if cut.as_ref().is_none_or(|cut| key <= *cut) {
            keys.entry(key).or_default().push((digest, live));
        }
    }
    let verdict = |held: &[(Digest, bool)]| {
        let (first, live) = held[0];
        let agree = held.len() == replicas && held.iter().all(|(digest, _)| *digest == first);
        // A merge only removes: what is live nowhere is not live.
        let dead = held.iter().all(|(_, live)| !live);
        if agree { Some(live) } else { dead.then_some(false) }
    };
    Merged { keys: keys.into_iter().map(|(key, held)| (key, verdict(&held))).collect(), next: cut }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `"a1 b2- c3 >"`: keys with digests, `-` for dead ones, `>` for a page that was cut off.
    fn page(text: &'static str) -> Page {
        let keys = text.split_whitespace().filter(|word| *word != ">").map(|word| ListedKey {
            key: word.as_bytes()[..1].to_vec().into(),
            digest: Digest(word[1..2].parse().expect("a digit")),
            live: !word.ends_with('-'),
        });
        Page { keys: keys.collect(), more: text.ends_with('>') }
    }

    fn check(pages: &[&'static str], keys: &str, next: Option<&'static str>) {
        let merged = merge(pages.iter().map(|text| page(text)).collect());
        let shown: Vec<String> = merged
            .keys
            .iter()
            .map(|(key, live)| {
                let mark = match live {
                    Some(true) => "+",
                    Some(false) => "-",
                    None => "?",
                };
                format!("{}{mark}", String::from_utf8_lossy(key))
            })
            .collect();
        assert_eq!(shown.join(" "), keys, "{pages:?}");
        assert_eq!(merged.next, next.map(Blob::from), "{pages:?}");
    }

    #[test]
    fn pages_are_merged_as_far_as_all_reach() {
        check(&["a1 b2 c3", "a1 b2 c3"], "a+ b+ c+", None);
        check(&["a1 b2 >", "a1 b2 c3"], "a+ b+", Some("b"));
        check(&["a1 c2 >", "a1 b2 >"], "a+ b?", Some("b"));
        check(&["a1 b2", "a1"], "a+ b?", None);
        check(&["a1-", "a1-"], "a-", None);
        check(&["a1-", "a2"], "a?", None);
        check(&["a1-", "a2-"], "a-", None);
        check(&["a1-", ""], "a-", None);
        check(&[""], "", None);
    }
}
