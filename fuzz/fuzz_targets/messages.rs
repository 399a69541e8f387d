//! Arbitrary headers never make a message decoder panic.
#![no_main]

use bytes::Bytes;
use dynkv_proto::*;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    fn one<M: Message>(data: &[u8]) {
        let _ = Frame { kind: M::KIND, header: Bytes::copy_from_slice(data), body: Bytes::new() }.message::<M>();
    }
    let Some((which, data)) = data.split_first() else { return };
    match which % 27 {
        0 => one::<Get>(data),
        1 => one::<GetReply>(data),
        2 => one::<Put>(data),
        3 => one::<PutReply>(data),
        4 => one::<ListReply>(data),
        5 => one::<ViewReply>(data),
        6 => one::<StatusReply>(data),
        7 => one::<Propose>(data),
        8 => one::<ReplicaGet>(data),
        9 => one::<ReplicaPut>(data),
        10 => one::<ReplicaListReply>(data),
        11 => one::<PutSeenReply>(data),
        12 => one::<Gossip>(data),
        13 => one::<HintsReply>(data),
        14 => one::<TreesReply>(data),
        15 => one::<Diff>(data),
        16 => one::<DiffReply>(data),
        17 => one::<Held>(data),
        18 => one::<HeldReply>(data),
        19 => one::<RepairStatusReply>(data),
        20 => one::<VerifyStatusReply>(data),
        21 => one::<SettlePrepare>(data),
        22 => one::<SettlePrepareReply>(data),
        23 => one::<SettleDrop>(data),
        24 => one::<SettleMarksReply>(data),
        25 => one::<AdmitReply>(data),
        _ => one::<Failure>(data),
    }
});
