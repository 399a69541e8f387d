//! `kill -9`: what was acknowledged is there.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use dynkv_client::{Client, ClusterFile};
use dynkv_tests::{
    process::{Process, command},
    wait::{LONG, eventually, in_time},
};
use serde_json::Value;
use tokio::task::JoinSet;

use crate::{DYN, dev::write_tree, fleet::Fleet};

#[test]
fn an_import_goes_on_while_a_node_is_killed() {
    const FILES: usize = 400;
    let mut fleet = Fleet::start();
    let tree = fleet.path("tree");
    write_tree(&tree, FILES);
    let tree = tree.to_str().unwrap();
    let mut import =
        Process::start(command(DYN, fleet.dir.path()).env("DYN_CLUSTER", fleet.cluster_file()).args([
            "import",
            tree,
            "--bucket",
            "files",
            "--concurrency",
            "2",
            "--json",
        ]));
    // In the middle of it.
    let runtime = runtime();
    runtime.block_on(async {
        let client = Client::connect(&ClusterFile::load(fleet.cluster_file()).unwrap()).await.unwrap();
        eventually("the import has begun", async || {
            let mut list = client.list("files");
            list.next().await?.ok().filter(|page| !page.keys.is_empty())
        })
        .await;
    });
    fleet.kill(1);
    assert!(import.runs(), "the import was done before the node was killed: give it more files");
    let told: Value = serde_json::from_str(&import.wait_for("stored")).unwrap();
    let (status, errors) = import.ended();
    assert_eq!(status.code(), Some(0), "{errors}");
    assert_eq!((&told["stored"], &told["unknown"]), (&FILES.into(), &0.into()), "{errors}");

    fleet.start_node(1);
    fleet.process(1).wait_for("serving");
    let verified = fleet.run(&["import", tree, "--bucket", "files", "--verify", "--json"]).ok();
    let told: Value = serde_json::from_str(&verified).unwrap();
    assert_eq!(
        (&told["unchanged"], &told["verified"], &told["different"]),
        (&FILES.into(), &FILES.into(), &0.into())
    );
}

#[test]
fn what_was_acknowledged_outlives_the_death_of_all_nodes() {
    const ACKNOWLEDGED: usize = 200;
    let mut fleet = Fleet::start();
    let runtime = runtime();
    let acknowledged = runtime.block_on(async {
        let client = Client::connect(&ClusterFile::load(fleet.cluster_file()).unwrap()).await.unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        let mut writers = JoinSet::new();
        for writer in 0..8 {
            let (client, count) = (client.clone(), count.clone());
            writers.spawn(async move {
                let mut acknowledged = Vec::new();
                for number in 0.. {
                    let key = format!("{writer}.{number}");
                    let put =
                        client.put("b", key.clone(), key.clone()).dw(1).timeout(Duration::from_millis(500));
                    // The first that is not acknowledged is the one that met the dead nodes.
                    if put.await.is_err() {
                        break;
                    }
                    acknowledged.push(key);
                    count.fetch_add(1, Ordering::Relaxed);
                }
                acknowledged
            });
        }
        eventually("enough is acknowledged", async || {
            (count.load(Ordering::Relaxed) >= ACKNOWLEDGED).then_some(())
        })
        .await;
        for node in 0..3 {
            fleet.kill(node);
        }
        in_time("the writers notice", writers.join_all()).await.concat()
    });
    assert!(acknowledged.len() >= ACKNOWLEDGED);

    for node in 0..3 {
        fleet.start_node(node);
    }
    for node in 0..3 {
        fleet.process(node).wait_for("serving");
    }
    fleet.write_cluster_file();
    runtime.block_on(async {
        let client = Client::connect(&ClusterFile::load(fleet.cluster_file()).unwrap()).await.unwrap();
        for key in acknowledged {
            let fetched = client.get("b", key.clone()).timeout(LONG).await;
            let fetched = fetched.unwrap_or_else(|error| panic!("{key}: {error}"));
            assert_eq!(fetched.value().map(|value| &value[..]), Some(key.as_bytes()), "{key} is lost");
        }
    });
}

#[test]
fn a_node_that_hangs_holds_nobody_up() {
    let mut fleet = Fleet::start();
    let hung = 2;
    runtime().block_on(async {
        let client = Client::connect(&ClusterFile::load(fleet.cluster_file()).unwrap()).await.unwrap();
        client.put("b", "warm", "up").w(3).await.unwrap();
        // It answers nothing and closes nothing: only time tells.
        fleet.process(hung).signal("STOP");
        for number in 0..40 {
            let key = format!("k{number}");
            client.put("b", key.clone(), key.clone()).await.unwrap_or_else(|error| panic!("{key}: {error}"));
            let fetched = client.get("b", key.clone()).await.unwrap_or_else(|error| panic!("{key}: {error}"));
            assert_eq!(fetched.value().unwrap(), key.as_bytes());
        }
        fleet.process(hung).signal("CONT");
        eventually("it is back", async || client.put("b", "back", "v").w(3).await.ok()).await;
    });
}

#[test]
fn a_node_that_hangs_is_missed_and_comes_back_by_itself() {
    let mut fleet = Fleet::start();
    // Nobody asks for anything; only status is looked at.
    let seen = |fleet: &Fleet| -> String {
        let status = fleet.run(&["status", "--from", "n1", "--json"]).ok();
        let status: Value = serde_json::from_str(&status).unwrap();
        let peers = status["nodes"][0]["peers"].as_array().unwrap().clone();
        let hung = peers.iter().find(|peer| peer["node"] == "n3").unwrap();
        hung["seen"].as_str().unwrap().to_owned()
    };
    runtime().block_on(async {
        eventually("all are up", async || (seen(&fleet) == "up").then_some(())).await;
        fleet.process(2).signal("STOP");
        eventually("it is missed", async || (seen(&fleet) != "up").then_some(())).await;
        let table = fleet.run(&["status"]).ok();
        assert!(table.contains("no answer") && table.contains("SEEN BY"), "{table}");
        fleet.process(2).signal("CONT");
        eventually("it is back", async || (seen(&fleet) == "up").then_some(())).await;
    });
}

#[test]
fn a_certificate_that_is_used_twice_serves_once_and_the_second_process_says_why() {
    let mut fleet = Fleet::start();
    runtime().block_on(async {
        eventually("the first has been there for a while", async || {
            let status: Value = serde_json::from_str(&fleet.run(&["status", "--json"]).ok()).unwrap();
            (status["nodes"][1]["uptime_ms"].as_u64() > Some(6000)).then_some(())
        })
        .await;
    });
    let mut twin = Process::start(&mut fleet.node_command("n2", &fleet.path("twin"), "127.0.0.1:0"));
    twin.wait_for("refusing");
    fleet.run(&["put", "b/k", "v", "-w", "3"]).ok();
    let status: Value = serde_json::from_str(&fleet.run(&["status", "--json"]).ok()).unwrap();
    for node in status["nodes"].as_array().unwrap() {
        assert_eq!(node["serving"], true, "{status}");
    }
    assert_eq!(status["nodes"][1]["address"], fleet.address(1), "{status}");
    assert!(twin.runs());
    twin.terminate();
    let (ended, errors) = twin.ended();
    assert_eq!(ended.code(), Some(3), "{errors}");
    assert!(
        errors.contains("another process runs as node n2") && errors.contains("stop one of the two"),
        "{errors}"
    );
    assert!(fleet.process(1).runs());
}

pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}
