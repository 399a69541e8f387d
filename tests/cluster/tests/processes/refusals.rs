//! Starting, founding and stopping nodes, and everything that is refused on the way.

use std::net::UdpSocket;

use dynkv_tests::process::run;

use crate::fleet::Fleet;

#[test]
fn a_cluster_is_founded_once_and_its_nodes_stop_in_order() {
    let mut fleet = Fleet::waiting();
    for node in 0..3 {
        fleet.process(node).wait_for("waiting");
    }
    fleet.write_cluster_file();
    fleet.run(&["get", "b/k"]).fails(3, "has not been founded");
    let created = fleet.create();
    assert_eq!(created.code, Some(0), "{created:?}");
    for node in 0..3 {
        fleet.process(node).wait_for("serving");
    }
    fleet.create().fails(3, "belongs to a founded cluster");
    fleet.run(&["put", "b/k", "v", "-w", "3"]).ok();

    // A fourth one, with a good certificate, never serves and says why.
    let late = run(&mut fleet.node_command("n4", &fleet.path("data-n4"), "127.0.0.1:0"));
    assert_eq!(late.code, Some(3), "{late:?}");
    // Behind what the node has logged.
    let reason = late.stderr.lines().last().unwrap_or_default();
    assert!(reason.starts_with("dyn: node n4 is not a member of cluster fleet"), "{late:?}");

    for node in 0..3 {
        fleet.process(node).terminate();
        let (status, errors) = fleet.process(node).ended();
        assert_eq!(status.code(), Some(0), "{errors}");
        fleet.process(node).wait_for("stopped");
        fleet.nodes[node] = None;
    }
    fleet.run(&["get", "b/k", "--timeout", "500ms"]).fails(6, "no node of cluster 'fleet' answers");
    for node in 0..3 {
        fleet.start_node(node);
    }
    fleet.write_cluster_file();
    fleet.process(2).wait_for("serving");
    assert_eq!(fleet.run(&["get", "b/k"]).stdout, b"v");
}

#[test]
fn what_a_node_must_not_use_it_refuses_at_its_start() {
    let mut fleet = Fleet::waiting();
    let any = "127.0.0.1:0";
    let start = |fleet: &Fleet, node: &str, data: &str, listen: &str| {
        run(&mut fleet.node_command(node, &fleet.path(data), listen))
    };
    start(&fleet, "n1", "data-n1", any).fails(3, "in use by another process");
    fleet.kill(0);
    start(&fleet, "n2", "data-n1", any).fails(3, "belongs to node n1, this is node n2");

    let taken = UdpSocket::bind(any).unwrap();
    let address = taken.local_addr().unwrap().to_string();
    start(&fleet, "n1", "data-n1", &address).fails(3, "in use");

    let described = fleet.path("data-n1/node.json");
    let text = std::fs::read_to_string(&described).unwrap();
    assert!(text.contains("\"format\": 1"), "{text}");
    std::fs::write(&described, text.replace("\"format\": 1", "\"format\": 2")).unwrap();
    start(&fleet, "n1", "data-n1", any).fails(3, "of format 2, this version knows format 1");
    std::fs::write(&described, text.replace("fleet", "flotte")).unwrap();
    start(&fleet, "n1", "data-n1", any).fails(3, "belongs to cluster flotte");
    std::fs::write(&described, &text).unwrap();

    start(&fleet, "n1", "data-n1", "0.0.0.0:0").fails(3, "--advertise");
    start(&fleet, "n9", "data-n9", any).fails(2, "n9.pem");
    // None of that has harmed it.
    fleet.start_node(0);
}

#[test]
fn a_member_that_does_not_answer_stops_a_founding() {
    let mut fleet = Fleet::waiting();
    fleet.write_cluster_file();
    fleet.kill(2);
    let refused = fleet.create();
    refused.fails(6, "nothing was founded");
    fleet.start_node(2);
    fleet.write_cluster_file();
    let created = fleet.create();
    assert_eq!(created.code, Some(0), "{created:?}");
    assert!(fleet.address(2).starts_with("127.0.0.1:"));
}
