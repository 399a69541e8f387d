//! The whole story against one node that keeps everything in memory.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use dynkv_client::net::certs::{CertificateAuthority, Validity};
use dynkv_client::net::{self, Endpoint, Identity, PeerName, Responder, Role};
use dynkv_client::proto::{
    Actor, Conflict, ContextToken, Digest, Failure, FailureCode, Frame, Get, GetReply, NodeInfo, Put,
    PutReply, Version, VersionHeader, ViewReply, kinds,
};
use dynkv_client::ring::{Change, Entry, Founding, History, Member, PartitionCount, Position};
use dynkv_client::{Client, ClusterFile};
use dynkv_example_cart::{StoryError, tell};
use dynkv_vclock::{HybridTime, Siblings};

const CLUSTER: &str = "test";

struct Node {
    conflict: Conflict,
    states: BTreeMap<Position, Siblings<Actor, Version>>,
    view: ViewReply,
    time: u64,
}

impl Node {
    fn answer(&mut self, frame: &Frame) -> Frame {
        match frame.kind {
            kinds::VIEW => Frame::new(&self.view, Bytes::new()),
            kinds::GET => {
                let get: Get = frame.message().unwrap();
                let position = Position::of(&get.bucket, &get.key);
                let state = self.states.entry(position).or_default();
                let token = ContextToken::new(position, state.context().clone(), HybridTime::MIN, None);
                let visible = || state.iter().filter(|(_, version)| !version.tombstone);
                let mut body = BytesMut::new();
                visible().for_each(|(_, version)| body.extend_from_slice(&version.value));
                let versions = visible().map(|(dot, version)| VersionHeader::new(dot, version)).collect();
                let context = token.encode().into();
                Frame::new(
                    &GetReply {
                        context,
                        versions,
                        replicas: 1,
                        homes: 1,
                        view: self.view.view,
                        coordinator: None,
                    },
                    body.freeze(),
                )
            }
            kinds::PUT => {
                let put: Put = frame.message().unwrap();
                let position = Position::of(&put.bucket, &put.key);
                let mut token = ContextToken::decode_for(&put.context, position).unwrap();
                self.time += 1;
                let version = Version {
                    time: HybridTime::from_u64(self.time),
                    put_id: put.put_id,
                    tombstone: put.tombstone,
                    content_type: put.content_type,
                    meta: put.meta,
                    value: frame.body.clone(),
                    hash: put.hash,
                };
                let state = self.states.entry(position).or_default();
                let dot = state.put(Actor(1, 0), &token.context, version).unwrap().dot;
                if self.conflict == Conflict::Lww {
                    state.retain(|other, _| *other == dot);
                }
                token.context.insert(dot);
                let reply = PutReply {
                    context: token.encode().into(),
                    actor: dot.actor,
                    counter: dot.counter,
                    replicas: 1,
                    homes: 1,
                    durable: 0,
                    possible_duplicate: false,
                    view: self.view.view,
                    coordinator: None,
                };
                Frame::new(&reply, Bytes::new())
            }
            _ => Frame::new(&Failure::not_done(FailureCode::UnknownKind, "not here"), Bytes::new()),
        }
    }
}

/// A node and two clients of it.
async fn start(conflict: Conflict) -> (Endpoint, Client, Client) {
    let ca = CertificateAuthority::create(CLUSTER).unwrap();
    let id = "n1".parse().unwrap();
    let issued = ca.issue(&PeerName::node(CLUSTER, id).unwrap(), Validity::default()).unwrap();
    let identity = Identity::from_pem(ca.cert_pem(), &issued.cert_pem, &issued.key_pem).unwrap();
    let endpoint = Endpoint::bind("127.0.0.1:0".parse().unwrap(), identity, net::Options::default()).unwrap();

    let founding = Founding {
        cluster: CLUSTER.into(),
        partitions: PartitionCount::new(4).unwrap(),
        replicas: 1,
        members: vec![Member::new(id)],
    };
    let mut history = History::new();
    history.insert(Entry::new(1, id, Change::Found(founding)).unwrap()).unwrap();
    let address = endpoint.local_addr().to_string();
    let view = ViewReply {
        view: Digest(u128::from_be_bytes(history.digest())),
        history: Some(history.to_bytes().into()),
        nodes: vec![NodeInfo { id, address: address.clone(), boot: 1, disk: 1, version: "test".into() }],
    };
    let node = Mutex::new(Node { conflict, states: BTreeMap::new(), view, time: 0 });
    let handler = move |_: &Arc<PeerName>, frame: Frame, responder: Responder| {
        let answer = node.lock().unwrap().answer(&frame);
        responder.send(answer);
    };
    let serving = endpoint.clone();
    tokio::spawn(async move { serving.serve(Arc::new(handler)).await });

    let issued =
        ca.issue(&PeerName::client(CLUSTER, "shop", Role::Writer).unwrap(), Validity::default()).unwrap();
    let file = ClusterFile {
        cluster: CLUSTER.into(),
        seeds: vec![address],
        ca: ca.cert_pem().into(),
        certificate: issued.cert_pem,
        key: issued.key_pem,
    };
    (endpoint, Client::connect(&file).await.unwrap(), Client::connect(&file).await.unwrap())
}

#[tokio::test]
async fn nothing_is_lost() {
    let (_endpoint, phone, laptop) = start(Conflict::Siblings).await;
    for run in 1..=2 {
        let mut out = Vec::new();
        tell(&phone, &laptop, &mut out).await.unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches("2 siblings").count(), 2, "{text}");
        assert_eq!(text.contains("earlier run"), run == 2, "{text}");
        assert_eq!(phone.get("carts", "example").await.unwrap().siblings.len(), 1);
    }
}

#[tokio::test]
async fn a_bucket_that_keeps_the_last_write_only_is_noticed() {
    let (_endpoint, phone, laptop) = start(Conflict::Lww).await;
    let error = tell(&phone, &laptop, &mut Vec::new()).await.unwrap_err();
    assert!(matches!(&error, StoryError::Lost { .. }), "{error}");
}
