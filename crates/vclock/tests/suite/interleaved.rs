//! The interleaved writers on whom server-side vector clocks founder.

use dynkv_vclock::{CausalContext, Siblings};

const WRITES: usize = 100_000;

/// Two clients in step: both read, both write, so each write misses the other's latest.
#[test]
fn alternating_writers_at_one_replica_have_two_siblings() {
    let mut store: Siblings<u64, usize> = Siblings::new();
    let mut read = [CausalContext::new(), CausalContext::new()];
    for n in 0..WRITES {
        let client = n % 2;
        store.put(1, &read[client], n).unwrap();
        assert!(store.len() <= 2);
        assert!(store.values().any(|value| *value == n), "the latest write is never lost");
        // The other client has read before this write; this one reads now, for its next.
        read[client] = store.context().clone();
        assert_eq!(read[client].len(), 1, "and what they carry does not grow");
    }
    assert!(store.values().eq(&[WRITES - 2, WRITES - 1]));
}

/// As above, each client at a replica of its own; the replicas exchange their states now and then.
#[test]
fn alternating_writers_at_two_replicas_have_two_siblings() {
    let mut stores: [Siblings<u64, usize>; 2] = [Siblings::new(), Siblings::new()];
    let mut read = [CausalContext::new(), CausalContext::new()];
    for n in 0..WRITES {
        let client = n % 2;
        stores[client].put(client as u64, &read[client], n).unwrap();
        if n % 3 == 0 {
            let [x, y] = &mut stores;
            x.sync(y.clone());
            y.sync(x.clone());
            assert_eq!(x, y);
        }
        assert!(stores[client].len() <= 2);
        assert!(stores[client].values().any(|value| *value == n));
        read[client] = stores[client].context().clone();
        assert!(read[client].len() <= 2);
    }
}

/// Clients that never read, but go on with what their writes returned, do not explode either. (What
/// they carry grows, since they really know only every other write.)
#[test]
fn alternating_writers_that_never_read_have_two_siblings() {
    let mut store: Siblings<u64, usize> = Siblings::new();
    let mut known = [CausalContext::new(), CausalContext::new()];
    for n in 0..2_000 {
        let client = n % 2;
        known[client] = store.put(1, &known[client], n).unwrap().context;
        assert!(store.len() <= 2);
    }
    assert!(store.values().eq(&[1_998, 1_999]));
    assert_eq!((store.context().len(), known[0].len()), (1, 1_000));
}
