//! Merkle trees: arbitrary bytes are survived as saved trees and as messages, a request has an answer within the limits, and a comparison
//! takes or refuses a reply.
#![no_main]

use std::collections::BTreeMap;

use dynkv_merkle::{Comparison, Entry, Reply, Request, Roots, RootsReply, RootsRequest, Span, Tree};
use libfuzzer_sys::fuzz_target;

/// A store of some hundred entries, in few leaves, and its tree.
fn side(count: u128, depth: u8) -> (BTreeMap<u128, u128>, Tree) {
    let store: BTreeMap<u128, u128> = (0..count).map(|i| (i * i << 108, i)).collect();
    let entries = store.iter().map(|(&position, &digest)| Entry { position, digest });
    let tree = Tree::from_entries(Span::ALL, depth, entries).expect("all positions");
    (store, tree)
}

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_first() else { return };
    let (store, tree) = side(400, 6);
    match which % 5 {
        0 => {
            if let Ok(tree) = Tree::from_bytes(data) {
                assert_eq!(Tree::from_bytes(&tree.to_bytes()), Ok(tree));
            }
        }
        1 => {
            let Ok(request) = Request::from_bytes(data) else { return };
            assert_eq!(Request::from_bytes(&request.to_bytes()).as_ref(), Ok(&request));
            if let Ok(reply) = tree.answer(&request, &store) {
                let bytes = reply.to_bytes();
                assert!(bytes.len() <= Reply::BYTES_MAX);
                assert_eq!(Reply::from_bytes(&bytes), Ok(reply));
            }
        }
        2 => {
            // One reply to each request of a comparison, as far as the bytes last.
            let (other_store, other) = side(450, 7);
            let mut comparison = Comparison::new(&tree, 7, 1, 1);
            for lie in data.chunks(64) {
                let Ok(Some(request)) = comparison.next_request(&tree, &store) else { break };
                let honest = other.answer(&request, &other_store).expect("the same span");
                let mut bytes = honest.to_bytes();
                for (byte, lie) in bytes.iter_mut().skip(3).zip(lie) {
                    *byte ^= lie;
                }
                let mut found = Vec::new();
                let taken = Reply::from_bytes(&bytes)
                    .is_ok_and(|reply| comparison.handle(&tree, &reply, &mut found).is_ok());
                assert!(found.iter().all(|found| found.here != found.there));
                if !taken {
                    assert!(found.is_empty());
                    comparison.handle(&tree, &honest, &mut found).expect("the honest reply");
                }
            }
        }
        3 => {
            if let Ok(reply) = Reply::from_bytes(data) {
                assert_eq!(Reply::from_bytes(&reply.to_bytes()), Ok(reply));
            }
        }
        _ => {
            let roots = Roots::new(0, [&tree]).expect("one tree");
            if let Ok(request) = RootsRequest::from_bytes(data) {
                let _ = roots.answer(&request);
            }
            if let Ok(reply) = RootsReply::from_bytes(data) {
                let _ = roots.compare(&roots.request(1), &reply);
            }
        }
    }
});
