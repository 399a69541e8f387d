//! Starting, founding and stopping nodes, and everything that is refused on the way.

use std::net::UdpSocket;

use dynkv_tests::process::{Process, run};
use serde_json::Value;

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

    // A fourth one, with a good certificate, waits and says how it joins.
    let mut late = Process::start(&mut fleet.node_command("n4", &fleet.path("data-n4"), "127.0.0.1:0"));
    late.wait_for("waiting");
    late.terminate();
    let (status, errors) = late.ended();
    assert_eq!(status.code(), Some(0), "{errors}");

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

#[test]
fn changes_of_members_are_planned_applied_and_shown() {
    let mut fleet = Fleet::start();
    for key in ["a", "b", "c"] {
        fleet.run(&["put", &format!("carts/{key}"), "2 apples", "-w", "3"]).ok();
    }
    // Ends when all nodes have the same history, with the disks of all: nothing moves it by itself from here on.
    fleet.run(&["bucket", "set", "carts", "w=2"]).ok();
    // Shown, and nothing done.
    let join = ["cluster", "plan", "--join", "n4=127.0.0.1:1", "--zone", "n4=b"];
    let shown = fleet.run(&join).ok();
    assert!(shown.starts_with("n4 joins (weight 1, zone b)"), "{shown}");
    assert!(shown.contains("FROM  TO  PARTITIONS  RECORDS"), "{shown}");
    assert!(shown.contains("plan ") && shown.contains("nothing has been done"), "{shown}");
    let plan = |args: &[&str]| -> Value {
        let ran = fleet.run(&[&["cluster", "plan", "--json"], args].concat());
        serde_json::from_str(&ran.ok()).unwrap()
    };
    let planned = plan(&["--join", "n4=127.0.0.1:1", "--partitions"]);
    let of = |name: &str| planned[name].as_u64().unwrap();
    assert!(
        of("replicas_moved") >= of("replicas_moved_least") && of("replicas_moved_least") > 0,
        "{planned}"
    );
    let copies =
        planned["partitions"].as_array().unwrap().iter().map(|p| p["moves"].as_array().unwrap().len());
    assert_eq!(copies.sum::<usize>() as u64, of("replicas_moved"));

    // What is no good plan, or another one.
    let id = planned["plan"].as_str().unwrap();
    fleet.run(&["cluster", "apply", "--plan", id, "--join", "n5"]).fails(2, "not the changes of plan");
    fleet.run(&["cluster", "plan", "--leave", "n3"]).fails(3, "let others join first");
    fleet.run(&["cluster", "plan", "--leave", "n9"]).fails(2, "no such member");
    fleet.run(&["cluster", "plan", "--weight", "n1=101"]).fails(2, "use 1 to 100");
    fleet.run(&["cluster", "plan"]).fails(2, "nothing is to be changed");

    // Who goes at once is typed out again.
    let replace = ["--replace", "n3=n4"];
    let planned = plan(&replace);
    let apply = ["cluster", "apply", "--plan", planned["plan"].as_str().unwrap(), "--replace", "n3=n4"];
    fleet.run(&apply).fails(2, "add --yes-remove n3");
    fleet.run(&[&apply[..], &["--yes-remove", "n2"]].concat()).fails(2, "does not remove node n2");

    // What moves nothing is done; a plan that was made before that comes too late.
    let host = plan(&["--host", "n1=rack 7"]);
    let late = plan(&["--host", "n2=rack-8"]);
    let (host, late) = (host["plan"].as_str().unwrap(), late["plan"].as_str().unwrap());
    let applied = fleet.run(&["cluster", "apply", "--plan", host, "--host", "n1=rack 7"]).ok();
    assert!(
        applied.contains("n1 is in zone default, host rack 7") && applied.contains("is applied"),
        "{applied}"
    );
    fleet.run(&["cluster", "apply", "--plan", late, "--host", "n2=rack-8"]).fails(3, "plan again");
    fleet.run(&["bucket", "set", "carts", "r=1"]).ok();
    assert!(fleet.run(&["ring", "show"]).ok().contains("rack 7"));

    let all: Value = serde_json::from_str(&fleet.run(&["cluster", "history", "--json"]).ok()).unwrap();
    let mut kinds: Vec<&str> =
        all["entries"].as_array().unwrap().iter().map(|e| e["entry"]["change"].as_str().unwrap()).collect();
    assert_eq!(kinds.len(), 8, "{all}");
    kinds.retain(|kind| *kind != "disk");
    assert_eq!(kinds, ["found", "feature", "bucket", "place", "bucket"]);
    assert!(all["entries"].as_array().unwrap().iter().all(|entry| entry["effect"] == true), "{all}");
    let page = fleet.run(&["cluster", "history", "--after", "6", "--limit", "1"]).ok();
    let lines: Vec<&str> = page.lines().collect();
    assert!(lines[1].contains("n1 is in zone default, host rack 7") && lines[1].ends_with("yes"), "{page}");
    assert!(lines[2].starts_with("8 entries") && lines[2].ends_with("--after 7"), "{page}");

    // A new cluster has what its nodes know.
    let features = fleet.run(&["cluster", "features"]).ok();
    assert!(features.lines().nth(1).unwrap().starts_with("moving   on "), "{features}");
    assert!(fleet.run(&["cluster", "enable", "moving"]).ok().contains("was switched on before"));
    fleet.run(&["cluster", "enable", "mooving"]).fails(2, "use one of moving");

    // A node that is down: what it is known to keep, and what the others have, is said.
    fleet.kill(2);
    let dead = fleet.run(&["cluster", "plan", "--replace", "n3=n4", "--yes-remove", "n3"]);
    dead.fails(2, "--yes-remove");
    let dead = fleet.run(&["cluster", "plan", "--replace", "n3=n4"]).ok();
    assert!(dead.contains("warning: no answer from n3") && dead.contains("most homes answer"), "{dead}");
}
