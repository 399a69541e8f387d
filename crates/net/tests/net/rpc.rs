//! Requests and answers, and what becomes of them when something goes wrong.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dynkv_net::{
    BindError, CallError, Class, ConnectError, Connection, Endpoint, Expect, Options, PeerName, Responder,
    Role,
};
use dynkv_proto::{FailureCode, Frame, Outcome};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::{Cluster, LONG, client_name, echo, failure, node_name, request, to_test};

async fn ask(connection: &Connection, body: impl Into<Bytes>) -> Result<Frame, CallError> {
    connection.call(Class::Foreground, request(body), LONG).await
}

#[tokio::test]
async fn answers_in_both_classes_and_knows_both_ends() {
    let handler = |peer: &Arc<PeerName>, frame: Frame, responder: Responder| {
        let answer = format!("{peer} {:?} {}", responder.class(), String::from_utf8_lossy(&frame.body));
        responder.send(request(answer));
    };
    let (node, client, connection) = Cluster::new().pair(handler).await;
    for class in [Class::Foreground, Class::Background] {
        let answer = connection.call(class, request("hello"), LONG).await.unwrap();
        let expected = format!("{} {class:?} hello", client_name(Role::Writer));
        assert_eq!(String::from_utf8_lossy(&answer.body), expected);
    }
    assert_eq!(**connection.peer(), node_name("n1"));
    assert_eq!(connection.remote_address(), node.addr());
    assert!(connection.rtt() > Duration::ZERO && !connection.is_closed());
    assert_eq!((client.open_connections(), node.endpoint.open_connections()), (1, 1));
}

#[tokio::test]
async fn a_connection_closes_with_its_last_clone() {
    let (_node, client, connection) = Cluster::new().pair(echo).await;
    let second = connection.clone();
    drop(connection);
    assert_eq!(&ask(&second, "x").await.unwrap().body[..], b"x");
    drop(second);
    timeout(LONG, client.close()).await.unwrap();
    assert_eq!(client.open_connections(), 0);
}

#[tokio::test]
async fn many_in_flight_each_get_their_own_answer() {
    // Answered in reverse, a hundred at a time, so that order proves nothing.
    let (handler, mut requests) = to_test();
    let (_node, _client, connection) = Cluster::new().pair(handler).await;
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Some((frame, responder)) = requests.recv().await {
            held.push((frame, responder));
            if held.len() == 100 {
                held.drain(..).rev().for_each(|(frame, responder): (Frame, Responder)| responder.send(frame));
            }
        }
    });
    let mut calls = JoinSet::new();
    for i in 0..1000u32 {
        let connection = connection.clone();
        // Sizes around the one from which bodies travel uncopied.
        let body = Bytes::from(i.to_be_bytes().repeat(1 + (i as usize * 37) % 8000));
        let class = if i % 2 == 0 { Class::Foreground } else { Class::Background };
        calls.spawn(async move {
            let answer = connection.call(class, request(body.clone()), LONG).await.unwrap();
            assert!(answer.body == body, "call {i} got another's answer");
        });
    }
    while let Some(done) = calls.join_next().await {
        done.unwrap();
    }
}

#[tokio::test]
async fn large_frames_pass_both_ways_while_small_ones_go_on() {
    let (_node, _client, connection) = Cluster::new().pair(echo).await;
    let body = Bytes::from((0..10 << 20).map(|i: u32| (i ^ (i >> 9)) as u8).collect::<Vec<_>>());
    let large = connection.call(Class::Background, request(body.clone()), LONG);
    let small = async {
        for _ in 0..100 {
            ask(&connection, "small").await.unwrap();
        }
    };
    let (large, ()) = tokio::join!(large, small);
    assert!(large.unwrap().body == body);
}

#[tokio::test]
async fn frames_over_the_limit_are_refused_before_they_are_sent() {
    let cluster = Cluster::new();
    let options = Options { frame_bytes_max: 10_000, ..Options::default() };
    let handler = |_: &Arc<PeerName>, frame: Frame, responder: Responder| {
        responder.send(request(frame.body.repeat(10)));
    };
    let node = cluster.node("n1", options.clone(), handler);
    let client = cluster.client(options);
    let connection = client.connect(node.addr(), Expect::AnyNode).await.unwrap();
    let error = ask(&connection, vec![0; 10_000]).await.unwrap_err();
    assert!(matches!(error, CallError::TooLarge { length_max: 10_000, .. }) && error.is_not_sent());
    // The answer would be too large: a failure says so, and the connection lives.
    let answer = failure(&ask(&connection, vec![0; 5000]).await.unwrap());
    assert_eq!((answer.code, answer.outcome), (FailureCode::TooLarge, Outcome::Unknown));
    assert_eq!(ask(&connection, vec![0; 500]).await.unwrap().body.len(), 5000);
}

#[tokio::test]
async fn a_request_that_left_and_timed_out_is_unknown() {
    let (handler, mut requests) = to_test();
    let (_node, _client, connection) = Cluster::new().pair(handler).await;
    let call = connection.call(Class::Foreground, request("y"), Duration::from_millis(50));
    let (result, received) = tokio::join!(call, requests.recv());
    let error = result.unwrap_err();
    assert!(matches!(error, CallError::TimedOut { timeout_ms: 50, .. }) && !error.is_not_sent(), "{error}");
    assert_eq!(&received.unwrap().0.body[..], b"y");
}

#[tokio::test]
async fn dropped_calls_free_their_slot_and_late_answers_reach_nobody() {
    let cluster = Cluster::new();
    let (handler, mut requests) = to_test();
    let node = cluster.node("n1", Options::default(), handler);
    let client = cluster.client(Options { in_flight_max: 1, ..Options::default() });
    let connection = client.connect(node.addr(), Expect::AnyNode).await.unwrap();
    let mut late = Vec::new();
    for i in 0..50 {
        tokio::select! {
            _ = ask(&connection, format!("dropped {i}")) => panic!("nobody answers"),
            request = requests.recv() => late.push(request.unwrap()),
        }
    }
    // All late answers arrive while the next call, in the same slot, waits.
    let call = ask(&connection, "the last");
    let answers = async {
        let (frame, responder) = requests.recv().await.unwrap();
        late.drain(..).for_each(|(frame, responder): (Frame, Responder)| responder.send(frame));
        tokio::task::yield_now().await;
        responder.send(frame);
    };
    let (answer, ()) = tokio::join!(call, answers);
    assert_eq!(&answer.unwrap().body[..], b"the last");
}

#[tokio::test]
async fn a_call_dropped_before_it_is_sent_never_is() {
    let (handler, mut requests) = to_test();
    let (_node, _client, connection) = Cluster::new().pair(handler).await;
    {
        let mut call = Box::pin(ask(&connection, "never"));
        // Polled once: queued, and the writer has not run.
        tokio::select! { biased; _ = &mut call => panic!("nobody answers"), () = std::future::ready(()) => {} }
    }
    let (answer, ()) = tokio::join!(ask(&connection, "sent"), async {
        let (frame, responder) = requests.recv().await.unwrap();
        responder.send(frame);
    });
    assert_eq!(&answer.unwrap().body[..], b"sent");
}

#[tokio::test]
async fn a_responder_dropped_without_an_answer_answers_with_a_failure() {
    let (_node, _client, connection) =
        Cluster::new().pair(|_: &Arc<PeerName>, _: Frame, responder: Responder| drop(responder)).await;
    let answer = failure(&ask(&connection, "x").await.unwrap());
    assert_eq!((answer.code, answer.outcome), (FailureCode::NoAnswer, Outcome::Unknown));
}

#[tokio::test]
async fn a_handler_that_panics_costs_its_connection_and_no_other() {
    let cluster = Cluster::new();
    let node =
        cluster.node("n1", Options::default(), |_: &Arc<PeerName>, frame: Frame, responder: Responder| {
            assert!(&frame.body[..] != b"panic", "asked to");
            responder.send(frame);
        });
    let client = cluster.client(Options::default());
    let (one, other) = (
        client.connect(node.addr(), Expect::AnyNode).await.unwrap(),
        client.connect(node.addr(), Expect::AnyNode).await.unwrap(),
    );
    // The request may be answered with a failure before the connection goes.
    let _ = ask(&one, "panic").await;
    timeout(LONG, one.closed()).await.unwrap();
    assert!(one.is_closed());
    assert!(ask(&other, "fine").await.is_ok());
}

#[tokio::test]
async fn too_many_in_flight_are_refused_on_either_side() {
    let cluster = Cluster::new();
    let (handler, mut requests) = to_test();
    let node = cluster.node("n1", Options { in_flight_max: 2, ..Options::default() }, handler);
    let client = cluster.client(Options { in_flight_max: 3, ..Options::default() });
    let connection = client.connect(node.addr(), Expect::AnyNode).await.unwrap();
    let (mut first, mut second) = (Box::pin(ask(&connection, "1")), Box::pin(ask(&connection, "2")));
    let mut held = Vec::new();
    while held.len() < 2 {
        tokio::select! {
            _ = &mut first => panic!("nobody answers"),
            _ = &mut second => panic!("nobody answers"),
            request = requests.recv() => held.push(request.unwrap()),
        }
    }
    // The node takes no third.
    let answer = failure(&ask(&connection, "3").await.unwrap());
    assert_eq!((answer.code, answer.outcome), (FailureCode::Overloaded, Outcome::NotDone));
    // The caller takes no fourth while three are under way.
    let third = ask(&connection, "3");
    let fourth = ask(&connection, "4");
    let (_, fourth) = tokio::join!(third, fourth);
    let error = fourth.unwrap_err();
    assert!(matches!(error, CallError::Busy { .. }) && error.is_not_sent(), "{error}");
    // The background has room of its own.
    let background = connection.call(Class::Background, request("5"), LONG);
    let (background, ()) = tokio::join!(background, async {
        let (frame, responder) = requests.recv().await.unwrap();
        responder.send(frame);
    });
    assert!(background.is_ok());
    held.drain(..).for_each(|(frame, responder): (Frame, Responder)| responder.send(frame));
    assert_eq!((&first.await.unwrap().body[..], &second.await.unwrap().body[..]), (&b"1"[..], &b"2"[..]));
}

#[tokio::test]
async fn a_reader_of_answers_that_lags_behind_stops_requests_and_loses_none() {
    let cluster = Cluster::new();
    let options = Options { queue_bytes_max: 100_000, ..Options::default() };
    let node = cluster.node("n1", options, echo);
    let client = cluster.client(Options::default());
    let connection = client.connect(node.addr(), Expect::AnyNode).await.unwrap();
    let body = Bytes::from(vec![7; 50_000]);
    let mut calls = JoinSet::new();
    for _ in 0..200 {
        let (connection, body) = (connection.clone(), body.clone());
        calls.spawn(async move { ask(&connection, body).await.unwrap().body.len() });
    }
    while let Some(length) = calls.join_next().await {
        assert_eq!(length.unwrap(), 50_000);
    }
}

#[tokio::test]
async fn closing_a_node_finishes_what_is_under_way() {
    let (handler, mut requests) = to_test();
    let (node, _client, connection) = Cluster::new().pair(handler).await;
    let call = ask(&connection, "x");
    let close = async {
        let (frame, responder) = requests.recv().await.unwrap();
        let endpoint = node.endpoint.clone();
        let closing = tokio::spawn(async move { endpoint.close().await });
        tokio::task::yield_now().await;
        responder.send(frame);
        closing.await.unwrap();
    };
    let (answer, ()) = tokio::join!(call, close);
    assert_eq!(&answer.unwrap().body[..], b"x");
    timeout(LONG, connection.closed()).await.unwrap();
    let error = ask(&connection, "y").await.unwrap_err();
    assert!(matches!(error, CallError::Closed { .. }) && error.is_not_sent(), "{error}");
}

#[tokio::test]
async fn closing_a_node_that_does_not_answer_leaves_the_call_unknown() {
    let cluster = Cluster::new();
    let (handler, mut requests) = to_test();
    let node = cluster.node("n1", Options { drain_timeout_ms: 20, ..Options::default() }, handler);
    let client = cluster.client(Options::default());
    let connection = client.connect(node.addr(), Expect::AnyNode).await.unwrap();
    let call = ask(&connection, "x");
    let close = async {
        let (_, responder) = requests.recv().await.unwrap();
        timeout(LONG, node.endpoint.close()).await.unwrap();
        responder
    };
    let (answer, responder) = tokio::join!(call, close);
    let error = answer.unwrap_err();
    assert!(matches!(error, CallError::Lost { .. }) && !error.is_not_sent(), "{error}");
    assert!(responder.is_closed());
    let error = ask(&connection, "y").await.unwrap_err();
    assert!(error.is_not_sent(), "{error}");
}

#[tokio::test]
async fn closing_a_connection_ends_its_calls() {
    let (handler, mut requests) = to_test();
    let (_node, _client, connection) = Cluster::new().pair(handler).await;
    let (answer, _) = tokio::join!(ask(&connection, "x"), async {
        let request = requests.recv().await;
        connection.close();
        request
    });
    assert!(matches!(answer, Err(CallError::Lost { .. })));
    assert!(connection.is_closed());
}

#[tokio::test]
async fn a_closed_endpoint_connects_to_nobody() {
    let cluster = Cluster::new();
    let node = cluster.node("n1", Options::default(), echo);
    let client = cluster.client(Options::default());
    client.close().await;
    let error = client.connect(node.addr(), Expect::AnyNode).await.unwrap_err();
    assert_eq!(error, ConnectError::EndpointClosed);
}

#[tokio::test]
async fn a_node_that_is_down_is_reported_in_time() {
    let client = Cluster::new().client(Options { connect_timeout_ms: 100, ..Options::default() });
    // Bound and never read: nobody else gets the port, and nobody answers.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let addr = silent.local_addr().unwrap();
    let error = timeout(LONG, client.connect(addr, Expect::AnyNode)).await.unwrap().unwrap_err();
    assert_eq!(error, ConnectError::Unreachable { addr, timeout_ms: 100 });
    let nowhere = "127.0.0.1:0".parse().unwrap();
    let error = client.connect(nowhere, Expect::AnyNode).await.unwrap_err();
    assert_eq!(error, ConnectError::Address { addr: nowhere });
}

#[tokio::test]
async fn binding_says_what_is_in_the_way() {
    let cluster = Cluster::new();
    let node = cluster.node("n1", Options::default(), echo);
    let bind =
        |addr, name: &PeerName, options| Endpoint::bind(addr, cluster.identity(name), options).unwrap_err();
    let error = bind(node.addr(), &node_name("n2"), Options::default());
    assert!(matches!(error, BindError::PortInUse { addr } if addr == node.addr()), "{error}");
    assert!(error.to_string().contains("in use"));
    let any = "127.0.0.1:0".parse().unwrap();
    let error = bind(any, &client_name(Role::Admin), Options::default());
    assert!(matches!(error, BindError::NotANode { .. }), "{error}");
    let error = bind(any, &node_name("n2"), Options { in_flight_max: 0, ..Options::default() });
    assert!(matches!(error, BindError::Options { .. }), "{error}");
    // An address for documentation only.
    let error = bind("192.0.2.1:0".parse().unwrap(), &node_name("n2"), Options::default());
    assert!(matches!(error, BindError::NotOurAddress { .. }), "{error}");
}

#[test]
fn binding_needs_a_runtime() {
    let cluster = Cluster::new();
    let identity = cluster.identity(&client_name(Role::Reader));
    assert!(matches!(Endpoint::client(identity, Options::default()), Err(BindError::NoRuntime)));
}

#[tokio::test]
async fn a_full_node_refuses_connections() {
    let cluster = Cluster::new();
    let node = cluster.node("n1", Options { connections_max: 2, ..Options::default() }, echo);
    let client = cluster.client(Options::default());
    // The second has to show that its address is real, the third is one too many.
    let first = client.connect(node.addr(), Expect::AnyNode).await.unwrap();
    let second = client.connect(node.addr(), Expect::AnyNode).await.unwrap();
    let error = client.connect(node.addr(), Expect::AnyNode).await.unwrap_err();
    assert_eq!(error, ConnectError::Busy { addr: node.addr() });
    assert!(ask(&first, "x").await.is_ok() && ask(&second, "x").await.is_ok());
}

#[tokio::test]
async fn a_closed_endpoint_has_left_its_port() {
    let identity = Cluster::new().identity(&node_name("n1"));
    let any = "127.0.0.1:0".parse().unwrap();
    let options = Options { drain_timeout_ms: 50, ..Options::default() };
    let endpoint = Endpoint::bind(any, identity, options).unwrap();
    // A handshake that is not answered goes on for longer than the endpoint waits.
    let silent = std::net::UdpSocket::bind(any).unwrap();
    let connecting = tokio::spawn({
        let (endpoint, silent) = (endpoint.clone(), silent.local_addr().unwrap());
        async move { endpoint.connect(silent, Expect::AnyNode).await.map(drop) }
    });
    while endpoint.open_connections() == 0 {
        tokio::task::yield_now().await;
    }
    endpoint.close().await;
    std::net::UdpSocket::bind(endpoint.local_addr()).expect("the port is free");
    timeout(LONG, connecting).await.unwrap().unwrap().unwrap_err();
}
