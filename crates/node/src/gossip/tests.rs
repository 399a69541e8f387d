//! Gossipers that talk to each other without connections.

use dynkv_ring::Change;
use tokio::time::advance;

use super::*;
use crate::{
    cluster::tests::{info, load},
    storage::MemoryStorage,
};

struct Run {
    gossiper: Gossiper,
    cluster: Arc<Cluster>,
    metrics: Arc<Metrics>,
}

fn id(text: &str) -> NodeId {
    text.parse().expect("a good id")
}

/// A run of node `text` on a disk of its own; `random` is where its random numbers begin.
fn start(text: &str, boot: u64, address: &str, random: u64) -> Run {
    start_on(&Arc::default(), text, boot, address, random)
}

fn start_on(storage: &Arc<MemoryStorage>, text: &str, boot: u64, address: &str, random: u64) -> Run {
    let cluster = Arc::new(load(storage, info(text, boot, random, address)));
    let counter = std::sync::atomic::AtomicU64::new(random);
    let env = Env::new(|| 0, move || counter.fetch_add(1 << 40, Ordering::Relaxed));
    let metrics = Arc::new(Metrics::new());
    let gossiper = Gossiper::new(cluster.clone(), Arc::new(env), metrics.clone());
    Run { gossiper, cluster, metrics }
}

impl Run {
    fn id(&self) -> NodeId {
        self.cluster.me.id
    }

    fn refused(&self) -> Option<String> {
        self.cluster.refused().map(ToString::to_string)
    }

    /// An exchange with `other`, to its end.
    fn talk(&self, other: &Run) {
        if self.gossiper.is_silent() {
            return;
        }
        let mut message = self.gossiper.open();
        loop {
            let answer = other.gossiper.handle(self.id(), &message).expect("it can be read");
            let Some(answer) = answer else { break };
            let next = self.gossiper.handle(other.id(), &answer).expect("it can be read");
            let Some(next) = next else { break };
            message = next;
        }
        self.gossiper.contacted();
    }

    fn review(&self) {
        self.gossiper.review(|| (1000, 5000));
    }
}

/// Enough exchanges, of each with each, that all that can be known is.
fn talk(runs: &[&Run]) {
    for _ in 0..3 {
        for one in runs {
            for other in runs.iter().filter(|other| !std::ptr::eq(**other, *one)) {
                one.talk(other);
            }
            one.review();
        }
    }
}

async fn seconds(count: u64) {
    advance(Duration::from_secs(count)).await;
}

#[tokio::test(start_paused = true)]
async fn addresses_and_entries_travel_and_an_operators_word_yields() {
    let (one, two, three) = (start("n1", 1, "a:1", 1), start("n2", 1, "b:1", 2), start("n3", 5, "c:1", 3));
    one.gossiper.introduce(vec![info("n3", 0, 0, "told:1")]);
    let entry = Entry::new(7, id("n1"), Change::Other { kind: 300, payload: vec![1] }).expect("short");
    one.gossiper.carry(entry.clone());
    talk(&[&one, &two]);
    assert_eq!(two.cluster.nodes()[2].address, "told:1");
    talk(&[&two, &three]);
    talk(&[&one, &two]);
    for run in [&one, &two, &three] {
        let known = [info("n1", 1, 1, "a:1"), info("n2", 1, 2, "b:1"), info("n3", 5, 3, "c:1")];
        assert_eq!(run.cluster.nodes(), known);
        let news = run.gossiper.news_for(&run.cluster.view().history);
        assert_eq!(news.entries().collect::<Vec<_>>(), [&entry]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_is_known_again_whatever_became_of_its_disk() {
    let others = [start("n2", 1, "b:1", 2), start("n3", 1, "c:1", 3)];
    let first = start("n1", 7, "a:1", 10);
    talk(&[&first, &others[0], &others[1]]);
    let mut random = 20;
    // Restarted elsewhere; wiped; restored; a copy that counts alike.
    for boot in [8, 1, 3, 8] {
        seconds(30).await;
        random += 10;
        let next = start("n1", boot, &format!("a:{random}"), random);
        next.talk(&others[0]);
        next.talk(&others[1]);
        talk(&[&next, &others[0], &others[1]]);
        assert_eq!(next.refused(), None);
        for other in &others {
            let known = other.cluster.node(&id("n1")).expect("known");
            assert_eq!(known.address, format!("a:{random}"), "boot {boot}");
            assert_eq!(known.boot, next.cluster.own_boot());
            assert!(known.boot >= 8);
        }
        assert_eq!(others[0].metrics.identity_conflicts.get(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_boot_that_was_taken_outlives_the_run() {
    let other = start("n2", 1, "b:1", 2);
    start("n1", 7, "a:1", 10).talk(&other);
    let disk = Arc::default();
    let wiped = start_on(&disk, "n1", 1, "a:2", 20);
    wiped.talk(&other);
    assert_eq!(wiped.cluster.own_boot(), 8);
    drop(wiped);
    let again = start_on(&disk, "n1", 2, "a:3", 30);
    assert_eq!(again.cluster.own_boot(), 9);
    again.talk(&other);
    assert_eq!(other.cluster.node(&id("n1")).expect("known").address, "a:3");
}

/// Of two live runs the older one goes on, and the newer one says why it does not.
async fn check_clone(original_boot: u64, clone_boot: u64) {
    let others = [start("n2", 1, "b:1", 2), start("n3", 1, "c:1", 3)];
    let original = start("n1", original_boot, "a:1", 10);
    talk(&[&original, &others[0], &others[1]]);
    seconds(60).await;
    let clone = start("n1", clone_boot, "a:2", 20);
    for _ in 0..5 {
        talk(&[&clone, &others[0]]);
        talk(&[&original, &others[0], &others[1]]);
        seconds(1).await;
    }
    assert_eq!(original.refused(), None, "{original_boot} and {clone_boot}");
    let reason = clone.refused().expect("the newer one refuses");
    assert!(reason.contains("another process runs as node n1 at a:1 and was there first"), "{reason}");
    assert!(reason.contains("restart"), "{reason}");
    assert!(clone.cluster.serving(&clone.cluster.view()).is_err());
    assert!(clone.gossiper.is_silent());
    assert_eq!(clone.gossiper.handle(id("n2"), &others[0].gossiper.open()), Ok(None));
    for run in [&original, &others[0], &others[1]] {
        assert_eq!(run.cluster.node(&id("n1")).expect("known").address, "a:1");
        assert!(run.metrics.identity_conflicts.get() > 0);
    }
}

#[tokio::test(start_paused = true)]
async fn of_two_live_runs_the_newer_one_refuses() {
    for (original, clone) in [(5, 6), (5, 5), (9, 4), (9, 1), (5, 70)] {
        check_clone(original, clone).await;
    }
}

#[tokio::test(start_paused = true)]
async fn two_runs_that_meet_directly_need_nobody_else() {
    let original = start("n1", 5, "a:1", 10);
    original.gossiper.contacted();
    seconds(60).await;
    let clone = start("n1", 1, "a:2", 20);
    clone.talk(&original);
    assert_eq!(original.refused(), None);
    assert!(clone.refused().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_run_that_talks_to_itself_is_one_run() {
    let run = start("n1", 5, "a:1", 10);
    run.talk(&run);
    assert_eq!((run.refused(), run.cluster.own_boot()), (None, 5));
}

#[tokio::test(start_paused = true)]
async fn of_two_that_start_at_once_one_goes_on() {
    let other = start("n2", 1, "b:1", 2);
    let (first, second) = (start("n1", 5, "a:1", 10), start("n1", 5, "a:2", 20));
    first.talk(&other);
    seconds(1).await;
    for _ in 0..30 {
        first.talk(&other);
        first.review();
        second.talk(&other);
        second.review();
        seconds(1).await;
    }
    // The one that was in touch a second earlier.
    assert_eq!(first.refused(), None);
    assert!(second.refused().is_some());
    assert_eq!(other.cluster.node(&id("n1")).expect("known").address, "a:1");
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_stopped_rejects_nobody() {
    let other = start("n2", 1, "b:1", 2);
    let old = start("n1", 5, "a:1", 10);
    talk(&[&old, &other]);
    seconds(60).await;
    old.gossiper.stop();
    let next = start("n1", 6, "a:2", 20);
    next.talk(&other);
    // A call of the old run is still under way, and is answered now.
    let answer = other.gossiper.open();
    assert_eq!(old.gossiper.handle(other.id(), &answer), Ok(None));
    talk(&[&next, &other]);
    assert_eq!(next.refused(), None);
}

#[tokio::test(start_paused = true)]
async fn loads_are_told_roughly_and_now_and_then() {
    let (one, two) = (start("n1", 1, "a:1", 1), start("n2", 1, "b:1", 2));
    one.gossiper.set_hints(17, Some(40));
    assert_eq!(one.gossiper.own_load().hints, 17);
    talk(&[&one, &two]);
    let load = two.gossiper.opinion(id("n1")).load.expect("told");
    assert_eq!(load, NodeLoad { records: 896, disk_bytes: 4096, hints: 16, oldest_hint_s: Some(40) });
    // Not a new state for every key.
    let before = two.gossiper.lock().gossip.states().digest();
    one.gossiper.review(|| (1001, 5000));
    seconds(31).await;
    one.gossiper.review(|| (1002, 5010));
    talk(&[&one, &two]);
    assert_eq!(two.gossiper.lock().gossip.states().digest(), before);
    seconds(31).await;
    one.gossiper.review(|| (2000, 5010));
    one.talk(&two);
    assert_eq!(two.gossiper.opinion(id("n1")).load.expect("told").records, 1792);
}

#[tokio::test(start_paused = true)]
async fn failed_calls_make_a_suspect_and_an_answer_clears_it() {
    let (one, two) = (start("n1", 1, "a:1", 1), start("n2", 1, "b:1", 2));
    talk(&[&one, &two]);
    let node = id("n2");
    for _ in 0..4 {
        assert!(!one.gossiper.is_suspect(node));
        one.gossiper.call_failed(node);
        advance(Duration::from_millis(150)).await;
    }
    let opinion = one.gossiper.opinion(node);
    assert!(opinion.suspected && opinion.phi >= 8.0 && opinion.silent.is_some(), "{opinion:?}");
    one.gossiper.call_succeeded(node, one.gossiper.now());
    assert!(!one.gossiper.is_suspect(node));
    assert_eq!(one.gossiper.opinion(node).silent, Some(Duration::ZERO));
    // Nobody has heard of this one.
    assert!(one.gossiper.opinion(id("n9")).silent.is_none());
}

#[test]
fn numbers_are_rounded_down_to_three_bits() {
    let rounded = [0, 1, 7, 8, 9, 15, 16, 19, 20, 1000, u64::MAX].map(rough);
    assert_eq!(rounded, [0, 1, 7, 8, 8, 14, 16, 16, 20, 896, 7 << 61]);
}

/// A history at its limit arrives in bounded messages.
#[tokio::test(start_paused = true)]
async fn a_full_history_travels_in_pieces() {
    let (full, empty) = (start("n1", 1, "a:1", 1), start("n2", 1, "b:1", 2));
    for time in 0..History::MAX_ENTRIES as u64 {
        let change = Change::Other { kind: 300, payload: time.to_be_bytes().to_vec() };
        full.gossiper.carry(Entry::new(time, id("n1"), change).expect("short"));
    }
    let (mut exchanges, mut longest) = (0, 0);
    let count = |run: &Run| run.gossiper.lock().gossip.payload().0.len();
    while count(&empty) < History::MAX_ENTRIES {
        exchanges += 1;
        let mut message = empty.gossiper.open();
        while let Some(answer) = full.gossiper.handle(empty.id(), &message).expect("it can be read") {
            longest = longest.max(answer.len()).max(message.len());
            let next = empty.gossiper.handle(full.id(), &answer).expect("it can be read");
            let Some(next) = next else { break };
            message = next;
        }
        assert!(exchanges < 100, "{} entries have arrived", count(&empty));
    }
    assert!(longest < 1024 * 1024, "{longest} bytes");
    let digest = |run: &Run| run.gossiper.lock().gossip.payload().0.digest();
    assert_eq!(digest(&empty), digest(&full));
    println!("{exchanges} exchanges, messages of up to {longest} bytes");
}
