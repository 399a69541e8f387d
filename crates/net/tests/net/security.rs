//! Who gets in, who does not, and what they are told.

use std::time::{Duration, SystemTime};

use dynkv_net::certs::{CertificateAuthority, Issued, Validity};
use dynkv_net::{CertificateError, Class, ConnectError, Endpoint, Expect, Identity, Options, Refusal, Role};
use dynkv_proto::ALPN;
use rcgen::ExtendedKeyUsagePurpose::{ClientAuth, ServerAuth};

use crate::support::{
    CLUSTER, Cluster, LONG, client_name, echo, node_name, raw_connect, raw_server, request,
};

/// What a client of `cluster` says of a node that shows `issued`.
async fn verdict_on_node(cluster: &Cluster, issued: &Issued, expect: Expect) -> CertificateError {
    let server = raw_server(issued, ALPN);
    let addr = server.local_addr().unwrap();
    let accepting = tokio::spawn(async move {
        while let Some(incoming) = server.accept().await {
            // The client hangs up in the middle.
            let _ = incoming.await;
        }
    });
    let error = cluster.client(Options::default()).connect(addr, expect).await.unwrap_err();
    accepting.abort();
    match error {
        ConnectError::Certificate { addr: at, problem } => {
            assert_eq!(at, addr);
            problem
        }
        other => panic!("not about the certificate: {other}"),
    }
}

/// Connects to a node of `cluster` with `issued` or no certificate, sends a request all the same, and returns the TLS
/// alert that came back - after making sure that nothing else did.
async fn alert_to_client(cluster: &Cluster, issued: Option<&Issued>) -> u8 {
    let node = cluster.node("n1", Options::default(), echo);
    let error = match raw_connect(node.addr(), issued, ALPN).await {
        Err(error) => error,
        Ok((_endpoint, connection)) => {
            // In TLS 1.3 the client's handshake is complete before the node has looked at its certificate.
            let mut wire = bytes::BytesMut::from(&[0u8][..]);
            request("x").write(0, &mut wire);
            let received = async {
                let (mut send, mut recv) = connection.open_bi().await?;
                send.write_all(&wire).await?;
                let mut answer = [0; 64];
                let read = recv.read(&mut answer).await?;
                Ok::<_, Box<dyn std::error::Error>>(read)
            };
            assert!(received.await.is_err(), "the node served somebody without a valid certificate");
            let error = connection.closed().await;
            let frames = connection.stats().frame_rx;
            assert_eq!(
                (frames.stream, frames.datagram, frames.max_streams_bidi),
                (0, 0, 0),
                "bytes were served"
            );
            error
        }
    };
    let quinn::ConnectionError::ConnectionClosed(close) = error else {
        panic!("not refused by TLS: {error}")
    };
    u8::try_from(u64::from(close.error_code) - 0x100).unwrap()
}

fn foreign(cluster: &str) -> CertificateAuthority {
    CertificateAuthority::create(cluster).unwrap()
}

fn past() -> Validity {
    let now = SystemTime::now();
    Validity::between(now - Duration::from_secs(7200), now - Duration::from_secs(3600))
}

#[tokio::test]
async fn nobody_without_a_valid_certificate_is_served_a_byte() {
    let cluster = Cluster::new();
    let client = client_name(Role::Admin);
    assert_eq!(alert_to_client(&cluster, None).await, 116, "certificate_required");
    let stranger =
        foreign("c2").issue(&"dynkv://c2/client/x?role=admin".parse().unwrap(), Validity::default());
    assert_eq!(alert_to_client(&cluster, Some(&stranger.unwrap())).await, 48, "unknown_ca");
    let same_name = foreign(CLUSTER).issue(&client, Validity::default()).unwrap();
    let alert = alert_to_client(&cluster, Some(&same_name)).await;
    assert!(alert == 48 || alert == 51, "unknown_ca or decrypt_error, not {alert}");
    let expired = cluster.ca.issue(&client, past()).unwrap();
    assert_eq!(alert_to_client(&cluster, Some(&expired)).await, 45, "certificate_expired");
    let server_only = cluster.forge(&["dynkv://c1/node/n1"], &[ServerAuth]);
    assert_eq!(alert_to_client(&cluster, Some(&server_only)).await, 43, "unsupported_certificate");
}

#[tokio::test]
async fn nobody_without_a_name_of_this_cluster_is_served_a_byte() {
    let cluster = Cluster::new();
    for uris in [
        &[][..],
        &["dynkv://c2/client/x?role=admin"],
        &["dynkv://c2/node/n1"],
        &["dynkv://c1/ca"],
        &["dynkv://c1/client/x?role=root"],
        &["dynkv://c1/client/x?role=admin", "dynkv://c1/client/y?role=admin"],
        &["https://c1/client/x?role=admin"],
    ] {
        let issued = cluster.forge(uris, &[ClientAuth, ServerAuth]);
        assert_eq!(alert_to_client(&cluster, Some(&issued)).await, 49, "access_denied for {uris:?}");
    }
    // The same way of asking, with a name that fits, is served.
    let node = cluster.node("n1", Options::default(), echo);
    let issued = cluster.forge(&["dynkv://c1/client/x?role=reader", "https://example.org"], &[ClientAuth]);
    let (_endpoint, connection) = raw_connect(node.addr(), Some(&issued), ALPN).await.unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    send.write_all(&[0]).await.unwrap();
    let mut class = [9];
    recv.read_exact(&mut class).await.unwrap();
    assert_eq!(class, [0]);
}

#[tokio::test]
async fn only_the_expected_node_of_this_cluster_is_talked_to() {
    let cluster = Cluster::new();
    let any = Expect::AnyNode;
    let name = node_name("n1");

    for authority in [foreign("c2"), foreign(CLUSTER)] {
        let name = format!("dynkv://{}/node/n1", authority.cluster()).parse().unwrap();
        let issued = authority.issue(&name, Validity::default()).unwrap();
        assert_eq!(verdict_on_node(&cluster, &issued, any).await, CertificateError::Foreign);
    }
    let expired = cluster.ca.issue(&name, past()).unwrap();
    assert!(matches!(verdict_on_node(&cluster, &expired, any).await, CertificateError::Expired { .. }));

    let other_cluster = cluster.forge(&["dynkv://c2/node/n1"], &[ServerAuth, ClientAuth]);
    let (expected, found) = ("c1".to_owned(), "c2".to_owned());
    assert_eq!(
        verdict_on_node(&cluster, &other_cluster, any).await,
        CertificateError::OtherCluster { expected, found }
    );

    let (expected, found) = ("n2".parse().unwrap(), "n1".parse().unwrap());
    let verdict = verdict_on_node(&cluster, &cluster.issue(&name), Expect::Node(expected)).await;
    assert_eq!(verdict, CertificateError::WrongNode { expected, found });
    assert_eq!(
        verdict_on_node(&cluster, &cluster.forge(&[], &[ServerAuth]), any).await,
        CertificateError::NoName
    );
}

#[tokio::test]
async fn a_clients_certificate_cannot_act_as_a_node() {
    let cluster = Cluster::new();
    let name = client_name(Role::Admin);
    let verdict = verdict_on_node(&cluster, &cluster.issue(&name), Expect::AnyNode).await;
    assert_eq!(verdict, CertificateError::Purpose);
    // Not even when it was issued for servers by mistake.
    let issued = cluster.forge(&[&name.to_string()], &[ServerAuth, ClientAuth]);
    assert_eq!(
        verdict_on_node(&cluster, &issued, Expect::AnyNode).await,
        CertificateError::NotANode { name }
    );
}

#[tokio::test]
async fn a_client_learns_why_its_certificate_is_refused() {
    let cluster = Cluster::new();
    let node = cluster.node("n1", Options::default(), echo);
    // It trusts the node's CA, but was issued by another.
    let other = foreign("c1");
    let issued = other.issue(&client_name(Role::Reader), Validity::default()).unwrap();
    let both = format!("{}{}", cluster.ca.cert_pem(), other.cert_pem());
    let identity = Identity::from_pem(&both, &issued.cert_pem, &issued.key_pem).unwrap();
    let client = Endpoint::client(identity, Options::default()).unwrap();
    let error = client.connect(node.addr(), Expect::AnyNode).await.unwrap_err();
    assert_eq!(error, ConnectError::Refused { addr: node.addr(), refusal: Refusal::Foreign });
}

#[tokio::test]
async fn another_protocol_is_told_apart() {
    let cluster = Cluster::new();
    let node = cluster.node("n1", Options::default(), echo);
    let issued = cluster.issue(&client_name(Role::Reader));
    let error = raw_connect(node.addr(), Some(&issued), b"dynkv/2").await.unwrap_err();
    assert!(error.to_string().contains("protocol"), "{error}");

    let server = raw_server(&cluster.issue(&node_name("n1")), b"h3");
    let addr = server.local_addr().unwrap();
    tokio::spawn(async move {
        if let Some(incoming) = server.accept().await {
            let _ = incoming.await;
        }
    });
    let error = cluster.client(Options::default()).connect(addr, Expect::AnyNode).await.unwrap_err();
    assert!(matches!(error, ConnectError::Protocol { .. }), "{error}");
}

#[tokio::test]
async fn a_node_serves_nodes_too() {
    let cluster = Cluster::new();
    let one = cluster.node("n1", Options::default(), echo);
    let two = cluster.node("n2", Options::default(), echo);
    let there = one.endpoint.connect(two.addr(), Expect::Node("n2".parse().unwrap())).await.unwrap();
    let back = two.endpoint.connect(one.addr(), Expect::Node("n1".parse().unwrap())).await.unwrap();
    for connection in [there, back] {
        assert!(connection.call(Class::Background, request("x"), LONG).await.is_ok());
    }
}
