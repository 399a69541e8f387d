//! Peers with valid certificates that break every other rule.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use dynkv_net::{CallError, Class, ConnectError, Connection, Expect, Options, PeerName, Responder, Role};
use dynkv_proto::{ALPN, Frame, HEADER_BYTES_MAX};
use proptest::prelude::*;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::support::{Cluster, LONG, client_name, echo, node_name, raw_connect, raw_server, request};

/// Opens a stream to `addr`, sends `bytes`, and returns how the connection ended: the node's close code and reason, or
/// `None` if the node merely ended the stream.
async fn send_raw(cluster: &Cluster, addr: std::net::SocketAddr, bytes: &[u8]) -> Option<(u64, String)> {
    let issued = cluster.issue(&client_name(Role::Reader));
    let (_endpoint, connection) = raw_connect(addr, Some(&issued), ALPN).await.unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    // The node may close before it has read everything.
    let _ = send.write_all(bytes).await;
    let _ = send.finish();
    let _ = timeout(LONG, recv.read_to_end(64 << 20)).await.unwrap();
    match connection.close_reason()? {
        quinn::ConnectionError::ApplicationClosed(close) => {
            Some((close.error_code.into_inner(), String::from_utf8_lossy(&close.reason).into_owned()))
        }
        other => panic!("{other}"),
    }
}

/// A foreground stream that begins with these fields of a frame.
fn frame_head(length: u32, header_length: u32) -> Vec<u8> {
    let mut wire = vec![0];
    wire.put_u32(length);
    wire.put_u32(header_length);
    wire.put_slice(&[0; 12]);
    wire
}

#[tokio::test]
async fn broken_framing_closes_the_connection_with_a_reason() {
    let cluster = Cluster::new();
    let node = cluster.node("n1", Options { frame_bytes_max: 1 << 20, ..Options::default() }, echo);
    let good = cluster.client(Options::default()).connect(node.addr(), Expect::AnyNode).await.unwrap();
    let mut torn = vec![0];
    let mut whole = BytesMut::new();
    request("torn").write(1, &mut whole);
    torn.extend_from_slice(&whole[..whole.len() - 1]);
    for (bytes, reason) in [
        (frame_head(u32::MAX, 0), "limit is 1048576"),
        (frame_head(1 << 20, 0), "limit is 1048576"),
        (frame_head(3, 0), "declares 7 bytes"),
        (frame_head(16, 1), "header declares 1 bytes"),
        (frame_head(16, u32::MAX), "header declares 4294967295 bytes"),
        (vec![2], "no class"),
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "no class"),
        (torn, "inside a frame"),
    ] {
        let (code, said) = send_raw(&cluster, node.addr(), &bytes).await.expect("the connection stayed open");
        assert_eq!(code, 1, "{said}");
        assert!(said.contains(reason), "{said:?} for {reason:?}");
    }
    // A stream that ends between frames is in order.
    assert_eq!(send_raw(&cluster, node.addr(), &[0]).await, None);
    assert!(good.call(Class::Foreground, request("x"), LONG).await.is_ok());
}

#[tokio::test]
async fn a_header_above_its_limit_is_never_taken() {
    let cluster = Cluster::new();
    let node = cluster.node("n1", Options::default(), echo);
    let header = HEADER_BYTES_MAX as u32 + 1;
    let mut bytes = frame_head(header + 16, header);
    bytes.resize(bytes.len() + header as usize, 0);
    let (code, said) = send_raw(&cluster, node.addr(), &bytes).await.expect("the connection stayed open");
    assert!(code == 1 && said.contains("header declares"), "{said}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn no_bytes_bring_a_node_down(
        class in 0..3u8,
        length in prop_oneof![any::<u32>(), 16..100u32],
        rest in prop::collection::vec(any::<u8>(), 0..3000),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let cluster = Cluster::new();
            let node = cluster.node("n1", Options::default(), echo);
            let good = cluster.client(Options::default()).connect(node.addr(), Expect::AnyNode).await.unwrap();
            let mut bytes = vec![class];
            bytes.put_u32(length);
            bytes.extend(rest);
            if let Some((code, said)) = send_raw(&cluster, node.addr(), &bytes).await {
                assert_eq!(code, 1, "{said}");
            }
            assert!(good.call(Class::Foreground, request("x"), LONG).await.is_ok());
        });
    }
}

#[tokio::test]
async fn a_caller_that_reads_no_answers_is_read_no_further() {
    const REQUESTS: usize = 400;
    const ANSWER_BYTES: usize = 50_000;
    let cluster = Cluster::new();
    let handled = Arc::new(AtomicUsize::new(0));
    let count = handled.clone();
    let options = Options { queue_bytes_max: 100_000, ..Options::default() };
    let node = cluster.node("n1", options, move |_: &Arc<PeerName>, _: Frame, responder: Responder| {
        count.fetch_add(1, Ordering::Relaxed);
        responder.send(request(vec![0; ANSWER_BYTES]));
    });
    let issued = cluster.issue(&client_name(Role::Reader));
    let (_endpoint, connection) = raw_connect(node.addr(), Some(&issued), ALPN).await.unwrap();
    let (mut send, mut recv) = connection.open_bi().await.unwrap();
    let mut wire = BytesMut::from(&[0][..]);
    (0..REQUESTS as u64).for_each(|id| request("x").write(id, &mut wire));
    send.write_all(&wire).await.unwrap();
    // Time enough for a node without bounds to handle them all.
    let good = cluster.client(Options::default()).connect(node.addr(), Expect::AnyNode).await.unwrap();
    for _ in 0..50 {
        good.call(Class::Foreground, request("y"), LONG).await.unwrap();
    }
    let of_good = 50;
    // quinn's default window takes 1.25 MB, the batch under way 256 KiB and more, and the queue 100 KB and one more.
    let unread = handled.load(Ordering::Relaxed) - of_good;
    assert!(
        unread > 0 && unread < REQUESTS / 4,
        "{unread} requests were handled for a caller that reads nothing"
    );
    // Once it reads, it gets everything.
    send.finish().unwrap();
    let all = timeout(LONG, recv.read_to_end(64 << 20)).await.unwrap().unwrap();
    let answer_bytes = request(vec![0; ANSWER_BYTES]).wire_len();
    assert_eq!(all.len(), 1 + REQUESTS * answer_bytes);
}

/// A node that accepts one connection and both its streams, then sends `answer` in the foreground and reads nothing.
async fn rude_node(
    cluster: &Cluster,
    classes: [u8; 2],
    answer: Bytes,
) -> (Result<Connection, ConnectError>, JoinHandle<()>) {
    let server = raw_server(&cluster.issue(&node_name("n1")), ALPN);
    let addr = server.local_addr().unwrap();
    let running = tokio::spawn(async move {
        let connection = server.accept().await.unwrap().await.unwrap();
        let (mut foreground, _unread) = connection.accept_bi().await.unwrap();
        let (mut background, _unread_too) = connection.accept_bi().await.unwrap();
        foreground.write_all(&classes[..1]).await.unwrap();
        background.write_all(&classes[1..]).await.unwrap();
        // The caller may hang up in the middle.
        let _ = foreground.write_all(&answer).await;
        connection.closed().await;
    });
    let client = cluster.client(Options { frame_bytes_max: 1 << 24, ..Options::default() });
    (client.connect(addr, Expect::AnyNode).await, running)
}

#[tokio::test]
async fn answers_that_are_no_frames_end_the_connection() {
    let cluster = Cluster::new();
    let mut oversize = BytesMut::new();
    oversize.put_u32(u32::MAX);
    for answer in [oversize.freeze(), Bytes::from_static(b"\0\0\0\x10\xff\xff\xff\xff............")] {
        let (connection, _running) = rude_node(&cluster, [0, 1], answer).await;
        let connection = connection.unwrap();
        timeout(LONG, connection.closed()).await.unwrap();
        let error = connection.call(Class::Foreground, request("x"), LONG).await.unwrap_err();
        assert!(error.to_string().contains("declares") && error.is_not_sent(), "{error}");
        assert!(connection.is_closed());
    }
}

#[tokio::test]
async fn answers_that_nobody_asked_for_are_ignored() {
    let cluster = Cluster::new();
    let mut answers = BytesMut::new();
    for id in [0, 1, 7 << 32, u64::MAX] {
        request("unasked").write(id, &mut answers);
    }
    let (connection, _running) = rude_node(&cluster, [0, 1], answers.freeze()).await;
    let connection = connection.unwrap();
    let error =
        connection.call(Class::Background, request("x"), Duration::from_millis(20)).await.unwrap_err();
    assert!(matches!(error, CallError::TimedOut { .. }), "{error}");
    assert!(!connection.is_closed());
}

#[tokio::test]
async fn a_node_that_mixes_up_the_streams_is_no_node() {
    for classes in [[1, 0], [0, 7]] {
        let (result, _running) = rude_node(&Cluster::new(), classes, Bytes::new()).await;
        assert!(matches!(result, Err(ConnectError::Protocol { .. })), "{result:?}");
    }
}

#[tokio::test]
async fn what_a_stalled_node_has_not_taken_was_not_sent() {
    let cluster = Cluster::new();
    let (connection, _running) = rude_node(&cluster, [0, 1], Bytes::new()).await;
    let connection = connection.unwrap();
    let brief = Duration::from_millis(50);
    // More than the windows hold: its writer waits for a reader that never comes.
    let (large, small) = tokio::join!(
        connection.call(Class::Foreground, request(vec![0; 12 << 20]), brief),
        connection.call(Class::Foreground, request("small"), brief),
    );
    let error = large.unwrap_err();
    assert!(matches!(error, CallError::TimedOut { timeout_ms: 50, .. }) && !error.is_not_sent(), "{error}");
    let error = small.unwrap_err();
    assert!(
        matches!(error, CallError::NotSentInTime { timeout_ms: 50, .. }) && error.is_not_sent(),
        "{error}"
    );
    // The background is not held up.
    let error = connection.call(Class::Background, request("x"), brief).await.unwrap_err();
    assert!(matches!(error, CallError::TimedOut { .. }), "{error}");
}
