//! Who may do what, and peers that break the rules.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use dynkv_client::{Client, ClusterFile, ConnectError};
use dynkv_net::{
    Endpoint, Expect, Identity, Options, PeerName, Role,
    certs::{CertificateAuthority, Issued, Validity},
};
use dynkv_proto::{
    ALPN, FailureCode, Frame, Gossip, Outcome, PutId, PutSeen, ReplicaGet, ReplicaList, ReplicaPut, Stamp,
    kinds,
};
use dynkv_ring::{Change, NodeId};
use dynkv_tests::{
    cluster::{CLUSTER, Cluster, bucket_change, client_name, id},
    peer::{Peer, get, put},
    wait::in_time,
};
use quinn::crypto::rustls::QuicClientConfig;
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
};

use crate::support::{assert_refused, read};

/// Takes any node for good: these peers are the bad ones.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519, SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// Connects with whatever certificate, or none, sends `bytes` on a stream, and returns what comes back until the node ends
/// the connection or the stream; and the reason.
async fn send_raw(to: SocketAddr, show: Option<&Issued>, bytes: &[u8]) -> (Vec<u8>, String) {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer));
    let mut tls = match show {
        Some(issued) => {
            let cert = CertificateDer::from_pem_slice(issued.cert_pem.as_bytes()).unwrap();
            let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
            tls.with_client_auth_cert(vec![cert], key).unwrap()
        }
        None => tls.with_no_client_auth(),
    };
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut endpoint = quinn::Endpoint::client(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let config = QuicClientConfig::try_from(tls).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(config)));
    let talk = async {
        let connection = endpoint.connect(to, "dynkv").unwrap().await.map_err(|error| error.to_string())?;
        let (mut send, mut recv) = connection.open_bi().await.map_err(|error| error.to_string())?;
        // The node may have hung up before it has read everything.
        let _ = send.write_all(bytes).await;
        let _ = send.finish();
        let mut answer = Vec::new();
        let end = loop {
            match recv.read_chunk(4096, true).await {
                Ok(Some(chunk)) => answer.extend_from_slice(&chunk.bytes),
                Ok(None) => break String::new(),
                Err(error) => break error.to_string(),
            }
        };
        Ok::<_, String>((answer, connection.close_reason().map_or(end, |reason| reason.to_string())))
    };
    in_time("the node ends the conversation", talk).await.unwrap_or_else(|reason| (Vec::new(), reason))
}

fn a_whole_get() -> Vec<u8> {
    let mut wire = bytes::BytesMut::from(&[0][..]);
    Frame::new(&get("b", "k"), Bytes::new()).write(1, &mut wire);
    wire.to_vec()
}

#[tokio::test]
async fn nobody_without_a_good_certificate_is_answered() {
    let cluster = Cluster::start(3).await;
    let to = cluster.node(id("n1")).local_addr();
    let name = client_name(Role::Admin);
    // The same cluster's name and the same subject, but another authority.
    let foreign = CertificateAuthority::create(CLUSTER).unwrap().issue(&name, Validity::default()).unwrap();
    let other = CertificateAuthority::create("other").unwrap();
    let other_name = PeerName::client("other", "tester", Role::Admin).unwrap();
    let other = other.issue(&other_name, Validity::default()).unwrap();
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3600));
    let expired = cluster.ca().issue(&name, Validity::between(now - 2 * hour, now - hour)).unwrap();
    let early = cluster.ca().issue(&name, Validity::between(now + hour, now + 2 * hour)).unwrap();
    for (what, show) in [
        ("none", None),
        ("foreign", Some(&foreign)),
        ("other", Some(&other)),
        ("expired", Some(&expired)),
        ("early", Some(&early)),
    ] {
        let (answer, reason) = send_raw(to, show, &a_whole_get()).await;
        assert!(answer.is_empty() && !reason.is_empty(), "{what}: {answer:?} {reason}");
    }
    // The same bytes with a good one are answered.
    let (answer, _) = send_raw(to, Some(&cluster.issue(&name)), &a_whole_get()).await;
    assert!(answer.len() > 1);
}

#[tokio::test]
async fn a_cluster_file_of_another_authority_or_time_says_so() {
    let cluster = Cluster::start(1).await;
    let good = cluster.file(Role::Reader);
    let stranger = CertificateAuthority::create(CLUSTER).unwrap();
    let issued = stranger.issue(&client_name(Role::Reader), Validity::default()).unwrap();

    let connect = async |file: ClusterFile| Client::connect(&file).await.expect_err("connected").to_string();
    let mixed =
        ClusterFile { certificate: issued.cert_pem.clone(), key: issued.key_pem.clone(), ..good.clone() };
    let message = connect(mixed.clone()).await;
    assert!(message.contains("not issued by this cluster's CA"), "{message}");
    let whole = ClusterFile { ca: stranger.cert_pem().into(), ..mixed };
    let message = connect(whole.clone()).await;
    assert!(message.contains("not issued by this cluster's CA"), "{message}");
    // Trusts both, but the node does not.
    let both = ClusterFile { ca: format!("{}{}", good.ca, stranger.cert_pem()), ..whole };
    let message = connect(both).await;
    assert!(message.contains("does not accept our certificate"), "{message}");

    let now = SystemTime::now();
    let past = Validity::between(now - Duration::from_secs(7200), now - Duration::from_secs(3600));
    let expired = cluster.ca().issue(&client_name(Role::Reader), past).unwrap();
    let message =
        connect(ClusterFile { certificate: expired.cert_pem, key: expired.key_pem, ..good.clone() }).await;
    assert!(message.contains("expired on"), "{message}");
    let message = connect(ClusterFile { cluster: "other".into(), ..good.clone() }).await;
    assert!(message.contains("of cluster 'other'"), "{message}");
    let nobody = ClusterFile { seeds: vec!["127.0.0.1:1".into()], ..good };
    let unreachable = Client::connect(&nobody).await;
    assert!(matches!(unreachable, Err(ConnectError::Unreachable { .. })), "{unreachable:?}");
}

#[tokio::test]
async fn a_node_of_another_authority_cannot_join_in() {
    let cluster = Cluster::start(1).await;
    let stranger = CertificateAuthority::create(CLUSTER).unwrap();
    let issued = stranger.issue(&PeerName::node(CLUSTER, id("n2")).unwrap(), Validity::default()).unwrap();
    let both = format!("{}{}", cluster.ca().cert_pem(), stranger.cert_pem());
    let identity = Identity::from_pem(&both, &issued.cert_pem, &issued.key_pem).unwrap();
    let endpoint = Endpoint::client(identity, Options::default()).unwrap();
    let refused = endpoint.connect(cluster.node(id("n1")).local_addr(), Expect::AnyNode).await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn roles_are_held() {
    let cluster = Cluster::start(3).await;
    let reader = cluster.client(Role::Reader).await;
    let writer = cluster.client(Role::Writer).await;
    assert_refused(reader.put("b", "k", "v").await, FailureCode::Forbidden);
    assert_refused(reader.delete("b", "k").await, FailureCode::Forbidden);
    assert!(reader.get("b", "k").await.unwrap().is_absent());
    writer.put("b", "k", "v").await.unwrap();
    assert_eq!(read(&reader, "b", "k").await, ["v"]);
    reader.status(id("n1")).await.unwrap();
    reader.metrics(id("n1")).await.unwrap();

    for client in [&reader, &writer] {
        let change = bucket_change("b", "r=1").to_change();
        let error = assert_refused(client.propose(change, Vec::new()).await, FailureCode::Forbidden);
        assert!(error.to_string().contains("the role admin"), "{error}");
        assert_refused(client.propose(Change::Remove(id("n1")), Vec::new()).await, FailureCode::Forbidden);
    }
}

async fn code(peer: &Peer, frame: Frame) -> FailureCode {
    let answer = peer.call(frame).await;
    assert_eq!(answer.kind, kinds::FAILURE);
    let failure: dynkv_proto::Failure = answer.message().unwrap();
    assert_eq!(failure.outcome, Outcome::NotDone);
    failure.code
}

#[tokio::test]
async fn no_client_may_act_as_a_node() {
    let cluster = Cluster::start(3).await;
    let peer = cluster.connect(id("n1"), Role::Admin).await;
    let (bucket, key, stamp) = (String::from("b"), dynkv_proto::Blob::from("k"), Stamp::default());
    let frames = [
        Frame::new(
            &ReplicaGet { bucket: bucket.clone(), key: key.clone(), stamp, have: None, promise: false },
            Bytes::new(),
        ),
        Frame::new(
            &ReplicaPut { bucket: bucket.clone(), key: key.clone(), stamp, durable: false, hint_for: None },
            dynkv_proto::State::default().encode(),
        ),
        Frame::new(
            &ReplicaList { bucket: bucket.clone(), partition: 0, prefix: "".into(), after: None, limit: 1 },
            Bytes::new(),
        ),
        Frame::new(&PutSeen { bucket, key, put_id: PutId(1), attempt: 1, stamp }, Bytes::new()),
        Frame::new(&Gossip { reserved: 0 }, Bytes::new()),
    ];
    for frame in frames {
        let kind = frame.kind;
        assert_eq!(code(&peer, frame).await, FailureCode::Forbidden, "kind {kind}");
    }
}

#[tokio::test]
async fn messages_of_unknown_kinds_are_answered_as_such() {
    let cluster = Cluster::start(1).await;
    let node = id("n1");
    let client = cluster.connect(node, Role::Reader).await;
    let other: NodeId = id("n2");
    let as_node = cluster.connect_as(node, &PeerName::node(CLUSTER, other).unwrap()).await;
    let of_kind = |kind| Frame { kind, header: Bytes::from_static(b"\x80"), body: Bytes::new() };
    assert_eq!(code(&client, of_kind(99)).await, FailureCode::UnknownKind);
    assert_eq!(code(&as_node, of_kind(999)).await, FailureCode::UnknownKind);
    // Unknown to the client, and none of its business.
    assert_eq!(code(&client, of_kind(999)).await, FailureCode::Forbidden);
    // An answer that nobody asked for.
    assert_eq!(code(&as_node, of_kind(kinds::GET_REPLY)).await, FailureCode::UnknownKind);
}

#[tokio::test]
async fn headers_and_states_that_cannot_be_read_are_refused_and_the_connection_goes_on() {
    let cluster = Cluster::start(3).await;
    let node = id("n1");
    let peer = cluster.connect_as(node, &PeerName::node(CLUSTER, id("n2")).unwrap()).await;
    for kind in [kinds::GET, kinds::PUT, kinds::LIST, kinds::PROPOSE, kinds::REPLICA_PUT, kinds::GOSSIP] {
        for header in [&b""[..], b"\xff\xff", b"\x80", b"\x9f\x9f\x9f\x9f", b"\x81\x01"] {
            let frame = Frame { kind, header: Bytes::from_static(header), body: Bytes::new() };
            assert_eq!(code(&peer, frame).await, FailureCode::Invalid, "kind {kind}, {header:?}");
        }
    }
    let request = ReplicaPut {
        bucket: "b".into(),
        key: "k".into(),
        stamp: Stamp::default(),
        durable: true,
        hint_for: None,
    };
    for state in [&b""[..], b"junk", b"\0\0\0\0", b"\xff\xff\xff\xff"] {
        let frame = Frame::new(&request, Bytes::from_static(state));
        assert_eq!(code(&peer, frame).await, FailureCode::Invalid, "{state:?}");
    }
    assert!(!peer.connection().is_closed());
    peer.ask(&get("b", "k"), Bytes::new()).await.unwrap();
}

#[tokio::test]
async fn broken_framing_costs_its_sender_the_connection_and_nobody_else_anything() {
    let cluster = Cluster::start(1).await;
    let node = id("n1");
    let good = cluster.connect(node, Role::Writer).await;
    let issued = cluster.issue(&client_name(Role::Writer));
    let to = cluster.node(node).local_addr();
    for bytes in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0\xff\xff\xff\xff\0\0\0\0", &[0; 100], &a_whole_get()[..30]]
    {
        let (_, reason) = send_raw(to, Some(&issued), bytes).await;
        assert!(!reason.is_empty(), "the connection stayed open after {bytes:?}");
        good.ask(&put("b", "k", 1, b"v"), Bytes::from_static(b"v")).await.unwrap();
    }
}
