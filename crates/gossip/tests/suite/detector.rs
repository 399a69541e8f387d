//! The failure detector.

use std::time::Duration;

use dynkv_gossip::{DetectorConfig, PhiAccrual};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::world::Random;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A detector that has heard heartbeats in these intervals, and the time of the last.
fn after(intervals_ms: &[u64]) -> (PhiAccrual, Duration) {
    let mut node = PhiAccrual::new(DetectorConfig::default(), ms(1_000), ms(0));
    let mut now = ms(0);
    for interval in intervals_ms {
        now += ms(*interval);
        node.heartbeat(now);
    }
    (node, now)
}

/// How long after the last heartbeat the node is suspected, in milliseconds.
fn patience_ms(node: &PhiAccrual, last: Duration) -> u64 {
    (0..).map(|tenth| tenth * 100).find(|silence| node.is_suspect(last + ms(*silence))).unwrap()
}

#[derive(Debug, Clone)]
enum Event {
    Heartbeat,
    Success,
    Failure,
    Excuse(u64),
}

fn event() -> impl Strategy<Value = (u64, Event)> {
    let event = prop_oneof![
        4 => Just(Event::Heartbeat),
        2 => Just(Event::Success),
        2 => Just(Event::Failure),
        1 => (0..100_000u64).prop_map(Event::Excuse),
    ];
    (prop_oneof![0..3_000u64, 0..1_000_000u64], event)
}

fn happen(node: &mut PhiAccrual, event: &Event, now: Duration) {
    match event {
        Event::Heartbeat => node.heartbeat(now),
        Event::Success => node.success(now),
        Event::Failure => node.failure(now),
        Event::Excuse(gap) => node.excuse(ms(*gap), now),
    }
}

proptest! {
    #[test]
    fn phi_grows_while_silent(events in vec(event(), 0..80), silences in vec(0..100_000u64, 1..20)) {
        let (mut node, mut now) = after(&[]);
        for (gap, event) in &events {
            now += ms(*gap);
            happen(&mut node, event, now);
        }
        let mut last = node.phi(now);
        for silence in silences {
            now += ms(silence);
            let phi = node.phi(now);
            prop_assert!(phi.is_finite() && phi >= last, "{phi} after {last}");
            last = phi;
        }
        // For ever is too long for anybody.
        prop_assert!(node.is_suspect(now + Duration::from_secs(100_000_000)));
    }

    #[test]
    fn successes_lower_and_failures_raise(events in vec(event(), 0..80), gap in 0..100_000u64) {
        let (mut node, mut now) = after(&[]);
        for (gap, event) in &events {
            now += ms(*gap);
            happen(&mut node, event, now);
        }
        now += ms(gap);
        let before = node.phi(now);
        let mut failed = node.clone();
        failed.failure(now);
        prop_assert!(failed.phi(now) >= before);
        let mut beating = node.clone();
        beating.heartbeat(now);
        prop_assert!(beating.phi(now) <= before);
        node.success(now);
        prop_assert_eq!(node.phi(now), 0.0);
    }

    #[test]
    fn recovers_from_anything(events in vec(event(), 0..80)) {
        let (mut node, mut now) = after(&[]);
        for (gap, event) in &events {
            now += ms(*gap);
            happen(&mut node, event, now);
        }
        for _ in 0..5 {
            now += ms(1_000);
            node.heartbeat(now);
        }
        prop_assert!(!node.is_suspect(now));
        // And from times that go back.
        node.heartbeat(ms(0));
        prop_assert!(!node.is_suspect(now));
    }
}

#[test]
fn patience_follows_the_intervals() {
    let (fast, fast_last) = after(&[500; 300]);
    let (slow, slow_last) = after(&[10_000; 300]);
    let (fast, slow) = (patience_ms(&fast, fast_last), patience_ms(&slow, slow_last));
    assert!((1_000..5_000).contains(&fast), "{fast}");
    assert!((12_000..20_000).contains(&slow), "{slow}");

    // Irregular intervals of the same mean ask for more of it.
    let irregular: Vec<u64> = (0..300).map(|n| if n % 2 == 0 { 100 } else { 900 }).collect();
    let (irregular, last) = after(&irregular);
    assert!(patience_ms(&irregular, last) > 2 * fast);
}

#[test]
fn follows_a_heart_that_slows_down() {
    let (mut node, mut now) = after(&[1_000; 300]);
    let mut suspicions = 0;
    for _ in 0..100 {
        now += ms(60_000);
        suspicions += u32::from(node.is_suspect(now));
        node.heartbeat(now);
    }
    assert!((1..30).contains(&suspicions), "{suspicions}");
    assert!(!node.is_suspect(now + ms(60_000)));
}

#[test]
fn one_long_partition_does_not_blind_it() {
    let (node, last) = after(&[1_000; 300]);
    let patience = patience_ms(&node, last);
    let (node, last) = after(&[&[1_000; 300][..], &[3_600_000], &[1_000; 100]].concat());
    assert!(patience_ms(&node, last) < 3 * patience);
}

/// As rare as it says: exponential intervals, the worst that gossip makes of a heart.
#[test]
fn false_suspicions_are_as_rare_as_promised() {
    for (threshold, beats) in [(2.0, 200_000u32), (3.0, 500_000)] {
        let mut config = DetectorConfig::default();
        config.threshold = threshold;
        config.pause = ms(0);
        let mut random = Random(1);
        let mut node = PhiAccrual::new(config, ms(1_000), ms(0));
        let (mut now, mut suspicions) = (ms(0), 0u32);
        for _ in 0..beats {
            let uniform = (random.next() as f64 + 1.0) / u64::MAX as f64;
            now += Duration::from_secs_f64(-uniform.ln() * 3.0);
            suspicions += u32::from(node.is_suspect(now));
            node.heartbeat(now);
        }
        let promised = f64::from(beats) * 10f64.powf(-threshold);
        assert!(f64::from(suspicions) < promised, "{suspicions} at {threshold}, promised {promised}");
        assert!(f64::from(suspicions) > promised / 50.0, "{suspicions} at {threshold}: too patient");
    }
}

#[test]
fn a_burst_of_failures_is_one_failure() {
    let (mut node, now) = after(&[1_000; 100]);
    for _ in 0..1_000 {
        node.failure(now + ms(200));
    }
    assert!(!node.is_suspect(now + ms(200)));
    for tenth in 3..=5 {
        assert!(!node.is_suspect(now + ms(100 * tenth - 1)));
        node.failure(now + ms(100 * tenth));
    }
    assert!(node.is_suspect(now + ms(500)));
}

#[test]
fn failures_outweigh_heartbeats_by_way_of_others() {
    let (mut node, mut now) = after(&[1_000; 100]);
    for _ in 0..60 {
        for _ in 0..5 {
            now += ms(200);
            node.failure(now);
        }
        node.heartbeat(now);
    }
    assert!(node.is_suspect(now));
    // No call is made any more: it is given another chance.
    for _ in 0..5 {
        now += ms(1_000);
        node.heartbeat(now);
    }
    assert!(!node.is_suspect(now));
}
