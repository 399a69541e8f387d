//! Clusters that grow and shrink while they keep everything: nodes join, leave, die and are replaced.

use std::{io::Write, path::Path, process::Command};

use dynkv_tests::{process::run, wait::eventually};
use serde_json::Value;

use crate::{
    fleet::Fleet,
    namespaces::{self, Own},
    survival::runtime,
};

const KEYS: usize = 3000;

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// Three nodes with many keys.
fn filled() -> Fleet {
    let fleet = Fleet::start();
    let line = |key| format!("{{\"key\": \"k{key}\", \"value\": \"{key} {}\"}}\n", "x".repeat(200));
    std::fs::write(fleet.path("keys.ndjson"), (0..KEYS).map(line).collect::<String>()).unwrap();
    let told = fleet.run(&["import", &fleet.text("keys.ndjson"), "--bucket", "b", "--json"]).ok();
    assert_eq!(json(&told)["stored"], KEYS, "{told}");
    fleet
}

/// Holds that every key is there with its value.
fn check_all(fleet: &Fleet) {
    let import = ["import", &fleet.text("keys.ndjson"), "--bucket", "b", "--verify", "--json"];
    let told = json(&fleet.run(&import).ok());
    let counts = ["unchanged", "verified", "different"].map(|name| told[name].as_u64());
    assert_eq!(counts, [Some(KEYS as u64), Some(KEYS as u64), Some(0)], "{told}");
}

fn transfers(fleet: &Fleet) -> Vec<Value> {
    json(&fleet.run(&["transfers", "--json"]).ok())["nodes"].as_array().unwrap().clone()
}

/// Waits until so many nodes are members, and nothing moves.
fn settled(fleet: &Fleet, nodes: usize) {
    runtime().block_on(eventually("nothing moves any more", async || {
        let told = transfers(fleet);
        let still =
            |node: &Value| node["to_receive"] == 0 && node["to_give_up"] == 0 && node["misplaced"] == false;
        (told.len() == nodes && told.iter().all(still)).then_some(())
    }));
    let text = fleet.run(&["transfers"]).ok();
    assert_eq!(text, "nothing moves: every partition is where it should be\n");
}

/// Plans and applies changes; what the second said.
fn apply(fleet: &Fleet, changes: &[&str], more: &[&str]) -> String {
    let planned = json(&fleet.run(&[&["cluster", "plan", "--json"], changes].concat()).ok());
    let plan = planned["plan"].as_str().unwrap();
    fleet.run(&[&["cluster", "apply", "--plan", plan], changes, more].concat()).ok()
}

fn counted(fleet: &Fleet, node: &str, metric: &str) -> f64 {
    let text = fleet.run(&["metrics", node]).ok();
    let line = text.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {metric} in {text}")).parse().unwrap()
}

#[test]
fn a_node_joins_by_itself_and_another_leaves_and_every_key_is_there() {
    let mut fleet = filled();
    let fourth = fleet.add_node(&["--join", "--zone", "b", "--weight", "2"]);
    fleet.process(fourth).wait_for("joined");
    fleet.process(fourth).wait_for("serving");
    settled(&fleet, 4);
    check_all(&fleet);
    assert!(counted(&fleet, "n4", "dynkv_transfer_bytes_received_total") > 0.0);
    assert_eq!(counted(&fleet, "n4", "dynkv_partitions_to_receive"), 0.0);
    let given_up = ["n1", "n2", "n3"].map(|node| counted(&fleet, node, "dynkv_partitions_given_up_total"));
    assert!(given_up.iter().sum::<f64>() > 0.0, "{given_up:?}");
    let ring = fleet.run(&["ring", "show"]).ok();
    assert!(ring.lines().any(|line| line.starts_with("n4 ") && line.contains(" b ")), "{ring}");

    // To join again is to do nothing.
    fleet.process(fourth).terminate();
    fleet.process(fourth).ended();
    let members = fleet.run(&["cluster", "history"]).ok();
    let again = fleet.path("data-n4");
    let mut command = fleet.node_command("n4", &again, "127.0.0.1:0");
    let mut again = dynkv_tests::process::Process::start(command.arg("--join"));
    again.wait_for("serving");
    assert_eq!(fleet.run(&["cluster", "history"]).ok(), members);

    let applied = apply(&fleet, &["--leave", "n1"], &[]);
    assert!(applied.contains("n1 leaves") && applied.contains("do not stop it before that"), "{applied}");
    fleet.process(0).wait_for("\"left\"");
    let (status, errors) = fleet.process(0).ended();
    assert_eq!(status.code(), Some(0), "{errors}");
    fleet.nodes[0] = None;
    settled(&fleet, 3);
    check_all(&fleet);
    assert!(fleet.run(&["cluster", "history"]).ok().contains("n1 has left"));
    for join in [&[][..], &["--join"]] {
        let gone = run(fleet.node_command("n1", &fleet.path("data-n1"), "127.0.0.1:0").args(join));
        assert_eq!(gone.code, Some(3), "{gone:?}");
        assert!(gone.stderr.contains("n1 has left") && gone.stderr.contains("never comes back"), "{gone:?}");
    }
}

#[test]
fn what_moves_is_shown_and_limited_and_dead_nodes_are_replaced_and_removed() {
    let mut fleet = filled();
    let fourth = fleet.add_node(&[]);
    fleet.process(fourth).wait_for("waiting");
    fleet.run(&["transfers", "limit", "1"]).fails(2, "or none");
    let limit = fleet.run(&["transfers", "limit", "32KiB", "--node", "n4"]).ok();
    assert!(limit.contains("32.0 KiB/s"), "{limit}");
    let applied = apply(&fleet, &["--join", "n4"], &[]);
    assert!(applied.contains("move now, by themselves: watch with `dyn transfers`"), "{applied}");
    runtime().block_on(eventually("it waits for its limit", async || {
        let told = transfers(&fleet);
        let fourth = told.iter().find(|node| node["node"] == "n4")?;
        let (here, all) = (fourth["records"].as_u64()?, fourth["records_estimated"].as_u64()?);
        let waits =
            fourth["transfers"].as_array()?.iter().any(|pair| pair["reason"] == "waits for the limit");
        (waits && 0 < here && here < all && fourth["limit_bytes"] == 32 * 1024).then_some(())
    }));
    let text = fleet.run(&["transfers"]).ok();
    for expected in ["receiving", "still serving", "n4 receives", "n4 is limited to 32.0 KiB/s"] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    let unserved = || {
        let told = transfers(&fleet);
        told.iter()
            .find(|node| node["node"] == "n4")
            .and_then(|fourth| fourth["to_receive"].as_u64())
            .unwrap()
    };
    let all = unserved();
    runtime().block_on(eventually("it serves what it has while it reads the rest", async || {
        let left = unserved();
        assert!(left > 0, "the limit is so low that it takes minutes");
        (left < all).then_some(())
    }));
    check_all(&fleet);
    fleet.run(&["transfers", "limit", "none"]).ok();
    settled(&fleet, 4);
    check_all(&fleet);

    fleet.kill(1);
    let fifth = fleet.add_node(&[]);
    fleet.process(fifth).wait_for("waiting");
    let planned = json(&fleet.run(&["cluster", "plan", "--json", "--replace", "n2=n5"]).ok());
    let plan = planned["plan"].as_str().unwrap();
    let replace = ["cluster", "apply", "--plan", plan, "--replace", "n2=n5"];
    fleet.run(&replace).fails(2, "what only n2 has");
    let applied = fleet.run(&[&replace[..], &["--yes-remove", "n2"]].concat()).ok();
    assert!(applied.contains("n2 is gone for ever"), "{applied}");
    fleet.process(fifth).wait_for("serving");
    settled(&fleet, 4);
    check_all(&fleet);
    let gone = run(&mut fleet.node_command("n2", &fleet.path("data-n2"), "127.0.0.1:0"));
    assert!(gone.code == Some(3) && gone.stderr.contains("n2 was replaced by n5"), "{gone:?}");

    fleet.kill(2);
    apply(&fleet, &["--remove", "n3"], &["--yes-remove", "n3"]);
    settled(&fleet, 3);
    check_all(&fleet);
}

/// The disk of a node that joins fills: it takes no more and says why, the others serve on, and with room it goes on after a restart.
#[test]
fn the_disk_of_a_node_that_joins_fills() {
    if !namespaces::inside("moving::the_disk_of_a_node_that_joins_fills", Own::FileSystems) {
        return;
    }
    let mut fleet = filled();
    std::fs::create_dir(fleet.path("data-n4")).unwrap();
    let mount = ["-t", "tmpfs", "-o", "size=64m", "tmpfs", &fleet.text("data-n4")];
    run(Command::new("mount").args(mount)).ok();
    let fourth = fleet.add_node(&[]);
    fleet.process(fourth).wait_for("waiting");
    let ballast = fleet.path("data-n4/ballast");
    fill_up(&ballast, 256 * 1024);
    apply(&fleet, &["--join", "n4"], &[]);
    let node = |told: &Value| told["nodes"].as_array().unwrap().iter().find(|of| of["node"] == "n4").cloned();
    runtime().block_on(eventually("it says why nothing moves", async || {
        let joins = node(&json(&fleet.run(&["transfers", "--json"]).ok()))?;
        let says_why = |pair: &Value| pair["reason"].as_str().unwrap().contains("No space left");
        let transfers = joins["transfers"].as_array()?;
        (!transfers.is_empty() && transfers.iter().all(says_why)).then_some(())
    }));
    let status = node(&json(&fleet.run(&["status", "--json"]).ok())).unwrap();
    assert!(status["store_failed"].as_str().unwrap().contains("restart the node"), "{status}");
    assert_eq!(counted(&fleet, "n4", "dynkv_store_failed"), 1.0);
    check_all(&fleet);

    std::fs::remove_file(ballast).unwrap();
    fleet.process(fourth).terminate();
    fleet.process(fourth).ended();
    fleet.start_node(fourth);
    settled(&fleet, 4);
    check_all(&fleet);
    fleet.run(&["verify", "n4"]).ok();
}

/// Writes a file until there are but `left` bytes on its disk.
fn fill_up(path: &Path, left: u64) {
    let mut file = std::fs::File::create(path).unwrap();
    let mut bytes = 0;
    while file.write_all(&[0; 4096]).is_ok() {
        bytes += 4096;
        assert!(bytes < 1 << 30, "the disk never fills");
    }
    file.set_len(bytes - left).unwrap();
}
