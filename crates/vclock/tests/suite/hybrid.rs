//! `HybridClock` and `HybridTime`.

use dynkv_vclock::{HybridClock, HybridTime, SkewError};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Now { wall_ms: u64 },
    Observe { remote: u64, wall_ms: u64, skew_ms_max: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    // Wall times that jump to and fro, remote times around them and anywhere.
    let remote = prop_oneof![
        (0..3_000u64, any::<u16>()).prop_map(|(ms, l)| HybridTime::from_parts(ms, l).as_u64()),
        any::<u64>(),
    ];
    prop_oneof![
        (0..2_000u64).prop_map(|wall_ms| Step::Now { wall_ms }),
        (remote, 0..2_000u64, 0..1_000u64).prop_map(|(remote, wall_ms, skew_ms_max)| Step::Observe {
            remote,
            wall_ms,
            skew_ms_max
        }),
    ]
}

proptest! {
    #[test]
    fn times_increase_and_exceed_what_was_observed(steps in vec(step(), 0..60)) {
        let mut clock = HybridClock::new();
        let mut greatest = HybridTime::MIN;
        for step in steps {
            match step {
                Step::Now { wall_ms } => {
                    let time = clock.now(wall_ms);
                    prop_assert!(time > greatest);
                    // The wall time if that is new, else the very next step.
                    let next = HybridTime::from_u64(greatest.as_u64() + 1);
                    prop_assert_eq!(time, next.max(HybridTime::from_parts(wall_ms, 0)));
                    greatest = time;
                }
                Step::Observe { remote, wall_ms, skew_ms_max } => {
                    let remote = HybridTime::from_u64(remote);
                    let refused = remote > greatest && remote.wall_ms() > wall_ms + skew_ms_max;
                    let result = clock.observe(remote, wall_ms, skew_ms_max);
                    if refused {
                        prop_assert_eq!(result, Err(SkewError { remote, wall_ms, skew_ms_max }));
                    } else {
                        prop_assert_eq!(result, Ok(()));
                        greatest = greatest.max(remote);
                    }
                }
            }
            prop_assert_eq!(clock.last(), greatest);
        }
    }

    #[test]
    fn a_time_is_its_parts(bits in any::<u64>(), other in any::<u64>()) {
        let time = HybridTime::from_u64(bits);
        prop_assert_eq!(time.as_u64(), bits);
        prop_assert_eq!(HybridTime::from_parts(time.wall_ms(), time.logical()), time);
        prop_assert_eq!(time < HybridTime::from_u64(other), bits < other);
    }
}

#[test]
fn the_logical_counter_carries_into_the_milliseconds() {
    let mut clock = HybridClock::new();
    for _ in 0..=u16::MAX {
        assert_eq!(clock.now(5).wall_ms(), 5);
    }
    assert_eq!(clock.now(5), HybridTime::from_parts(6, 0));
    assert_eq!(clock.now(6), HybridTime::from_parts(6, 1));
}

#[test]
fn the_bound_itself_is_allowed() {
    let mut clock = HybridClock::new();
    let remote = HybridTime::from_parts(150, u16::MAX);
    assert!(clock.observe(remote, 100, 49).is_err());
    assert_eq!(clock, HybridClock::new());
    assert_eq!(clock.observe(remote, 100, 50), Ok(()));
    // Set back by an hour, the clock still accepts what it has issued or seen itself.
    assert_eq!(clock.observe(remote, 0, 0), Ok(()));
}

#[test]
fn a_resumed_clock_goes_on_after_its_last_time() {
    let mut clock = HybridClock::resume(HybridTime::from_parts(1_000, 7));
    assert_eq!(clock.now(3), HybridTime::from_parts(1_000, 8));
}

#[test]
fn the_end_of_time_is_reached_without_a_panic() {
    let mut clock = HybridClock::new();
    clock.observe(HybridTime::MAX, u64::MAX, u64::MAX).unwrap();
    assert_eq!(clock.now(0), HybridTime::MAX);
    assert_eq!(HybridTime::from_parts(u64::MAX, u16::MAX), HybridTime::MAX);
}

#[test]
fn the_error_says_what_to_look_at() {
    let mut clock = HybridClock::new();
    let error = clock.observe(HybridTime::from_parts(900, 2), 100, 500).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the remote time 900.2 is 800 ms ahead of the local clock, more than the 500 ms allowed, \
         and was not taken over; check the clocks of both machines"
    );
}
