//! What operators ask about replicas reaches the node that is named, as it was meant.

mod support;

use std::time::Duration;

use bytes::Bytes;
use dynkv_client::proto::{
    Diff, DiffReply, Failure, FailureCode, Frame, Held, HeldReply, LimitTransfers, LimitTransfersReply,
    Message, Repair, RepairStatus, RepairStatusReply, StopVerify, StopVerifyReply, Transfers, TransfersReply,
    Trees, TreesReply, Verify, VerifyStatus, VerifyStatusReply, kinds,
};
use dynkv_client::proto::{Digest, Outcome};
use support::*;

fn answer<M: Message>(message: &M) -> Option<Reaction> {
    Some(Reaction::Answer(Frame::new(message, Bytes::new())))
}

fn asked<M: Message>(cluster: &FakeCluster) -> Vec<M> {
    let requests = cluster.requests(M::KIND);
    assert!(requests.iter().all(|(id, _)| *id == node(2)), "another node was asked");
    requests.iter().map(|(_, frame)| frame.message().unwrap()).collect()
}

#[tokio::test]
async fn what_is_asked_of_one_node_is_asked_as_it_was_meant() {
    let cluster = FakeCluster::founded(3).await;
    let client = cluster.client().await;
    let me = node(2);
    cluster.script(me, move |frame| match frame.kind {
        kinds::TREES => answer(&TreesReply {
            node: me,
            view: Digest(1),
            trees: vec![],
            more: false,
            partitions: 0,
            building: 0,
        }),
        kinds::DIFF => answer(&DiffReply {
            node: me,
            shared: 1,
            skipped: vec![],
            differing: vec![],
            keys: vec![],
            more: false,
        }),
        kinds::HELD => answer(&HeldReply { node: me, home: true, states: vec![], damaged: vec![] }),
        kinds::REPAIR_STATUS => answer(&RepairStatusReply { node: me, run: None }),
        kinds::VERIFY_STATUS => answer(&VerifyStatusReply { node: me, run: None }),
        kinds::TRANSFERS => answer(&TransfersReply {
            node: me,
            limit_bytes: Some(4096),
            to_receive: 0,
            to_give_up: 0,
            transfers: vec![],
            misplaced: false,
        }),
        kinds::LIMIT_TRANSFERS => answer(&LimitTransfersReply { before_bytes: None }),
        kinds::STOP_VERIFY => answer(&StopVerifyReply { stopped: false, run: None }),
        kinds::REPAIR | kinds::VERIFY => Some(Reaction::Answer(no(FailureCode::Forbidden))),
        _ => None,
    });
    client.trees(me).after(7).limit(9).await.unwrap();
    client.trees(me).partition(3).await.unwrap();
    assert_eq!(
        asked::<Trees>(&cluster),
        [
            Trees { partition: None, after: Some(7), limit: 9 },
            Trees { partition: Some(3), after: None, limit: 1000 }
        ]
    );
    client.diff(me, node(3)).timeout(Duration::from_secs(10)).await.unwrap();
    client.diff(me, node(3)).partition(4).keys(5).await.unwrap();
    let diffs = asked::<Diff>(&cluster);
    assert!((1..=9000).contains(&diffs[0].timeout_ms), "{diffs:?}");
    let plain: Vec<_> = diffs.iter().map(|diff| (diff.peer, diff.partition, diff.keys, diff.limit)).collect();
    assert_eq!(plain, [(node(3), None, false, 0), (node(3), Some(4), true, 5)]);
    client.held(me, "carts", "alice").await.unwrap();
    assert_eq!(asked::<Held>(&cluster), [Held { bucket: "carts".into(), key: "alice".into() }]);
    assert!(client.repair_status(me).await.unwrap().run.is_none());
    assert!(client.verify_status(me).await.unwrap().run.is_none());
    assert_eq!(client.transfers(me).await.unwrap().limit_bytes, Some(4096));
    assert_eq!(client.limit_transfers(me, Some(2048)).await.unwrap().before_bytes, None);
    assert_eq!(asked::<LimitTransfers>(&cluster), [LimitTransfers { limit_bytes: Some(2048) }]);
    assert_eq!(asked::<Transfers>(&cluster).len(), 1);
    assert!(!client.stop_verify(me).await.unwrap().stopped);
    assert_eq!(
        (
            asked::<RepairStatus>(&cluster).len(),
            asked::<VerifyStatus>(&cluster).len(),
            asked::<StopVerify>(&cluster).len()
        ),
        (1, 1, 1)
    );
    for (code, outcome) in [
        client.repair(me).partition(6).await.map(drop).map_err(|error| (error.code(), error.outcome())),
        client.verify(me).rate(77).await.map(drop).map_err(|error| (error.code(), error.outcome())),
    ]
    .map(Result::unwrap_err)
    {
        assert_eq!((code, outcome), (Some(FailureCode::Forbidden), Outcome::NotDone));
    }
    assert_eq!(asked::<Repair>(&cluster), [Repair { partition: Some(6) }]);
    assert_eq!(asked::<Verify>(&cluster), [Verify { rate_bytes: Some(77) }]);
}

#[tokio::test]
async fn a_comparison_that_fails_is_not_made_again() {
    let cluster = FakeCluster::founded(3).await;
    let client = cluster.client().await;
    cluster.script(node(2), |frame| {
        (frame.kind == kinds::DIFF).then(|| {
            let failure = Failure::not_done(FailureCode::NoAnswer, "n3 does not answer");
            Reaction::Answer(Frame::new(&failure, Bytes::new()))
        })
    });
    let error = client.diff(node(2), node(3)).await.unwrap_err();
    assert_eq!((error.code(), error.outcome()), (Some(FailureCode::NoAnswer), Outcome::NotDone));
    assert_eq!(asked::<Diff>(&cluster).len(), 1);
}
