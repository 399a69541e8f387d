//! The `serde` feature: messages are byte strings.

use std::fmt::Debug;

use dynkv_merkle::{Comparison, Reply, Request, Roots, RootsReply, RootsRequest, Span};
use serde_json::json;

use crate::{Side, keys};

fn cbor<T: serde::Serialize>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    ciborium::into_writer(value, &mut bytes).unwrap();
    bytes
}

/// Comes back from CBOR, there with a head of at most 5 bytes, and from JSON.
fn check<T: serde::Serialize + serde::de::DeserializeOwned + PartialEq + Debug>(value: &T, len: usize) {
    let bytes = cbor(value);
    assert!(bytes.len() <= len + 5);
    assert_eq!(ciborium::from_reader::<T, _>(bytes.as_slice()).unwrap(), *value);
    let json = serde_json::to_string(value).unwrap();
    assert_eq!(serde_json::from_str::<T>(&json).unwrap(), *value);
}

#[test]
fn messages_come_back() {
    let here = Side::new(Span::ALL, 11, keys(Span::ALL, 3000));
    let there = Side::new(Span::ALL, 11, keys(Span::ALL, 3500));
    let mut comparison = Comparison::new(&here.tree, 11, 1, 1);
    let (mut found, mut largest) = (Vec::new(), 0);
    while let Some(request) = comparison.next_request(&here.tree, &here.store).unwrap() {
        check(&request, request.to_bytes().len());
        let reply = there.tree.answer(&request, &there.store).unwrap();
        check(&reply, reply.to_bytes().len());
        largest = largest.max(reply.to_bytes().len());
        comparison.handle(&here.tree, &reply, &mut found).unwrap();
    }
    assert_eq!(found.len(), 500);
    assert!(largest > 4096, "longer than what formats lend");

    let (mine, yours) = (Roots::new(0, [&here.tree]).unwrap(), Roots::new(0, [&there.tree]).unwrap());
    let request = mine.request(1);
    check(&request, request.to_bytes().len());
    for reply in [mine.answer(&request).unwrap(), yours.answer(&request).unwrap()] {
        check(&reply, reply.to_bytes().len());
    }
}

#[test]
fn what_is_no_message_is_refused() {
    fn refuses<T: serde::de::DeserializeOwned>(bytes_max: usize) {
        for value in [json!([]), json!([1]), json!("x"), json!(vec![1; bytes_max + 1]), json!([1, 1, 300])] {
            assert!(serde_json::from_value::<T>(value.clone()).is_err());
            assert!(ciborium::from_reader::<T, _>(cbor(&value).as_slice()).is_err());
        }
        // A head that claims 2^62 bytes.
        let lie = [0x5b, 0x40, 0, 0, 0, 0, 0, 0, 0, 1, 1];
        assert!(ciborium::from_reader::<T, _>(lie.as_slice()).is_err());
    }
    refuses::<Request>(Request::BYTES_MAX);
    refuses::<Reply>(Reply::BYTES_MAX);
    refuses::<RootsRequest>(RootsRequest::BYTES_MAX);
    refuses::<RootsReply>(RootsReply::BYTES_MAX);
}
