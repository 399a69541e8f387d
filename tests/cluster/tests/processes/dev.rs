//! `dyn dev`, and every command against it.

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use dynkv_client::ClusterFile;
use dynkv_net::{
    PeerName, Role,
    certs::{CertificateAuthority, Validity},
};
use dynkv_tests::{
    files::copy_folder,
    process::{Process, Ran, command, run},
    wait::{LONG, TICK},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::DYN;

/// A home in which `dyn dev` runs.
struct Home {
    dir: TempDir,
}

impl Home {
    fn new() -> Home {
        Home { dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Starts `dyn dev` and waits until it is ready.
    fn dev(&self) -> Process {
        let mut dev = Process::start(command(DYN, self.dir.path()).args(["dev", "--json"]));
        let ready: Value = serde_json::from_str(&dev.wait_for("ready")).unwrap();
        assert_eq!(ready["nodes"].as_array().unwrap().len(), 3);
        dev
    }

    fn run(&self, args: &[&str]) -> Ran {
        run(command(DYN, self.dir.path()).args(args))
    }

    fn json(&self, args: &[&str]) -> Value {
        let ran = self.run(&[args, &["--json"]].concat());
        serde_json::from_slice(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {ran:?}"))
    }

    /// Waits until so many nodes have anything of a key.
    fn until_held(&self, key: &str, wanted: usize) {
        let give_up = Instant::now() + LONG;
        loop {
            let shown = self.json(&["ring", "locate", key, "--versions"]);
            let nodes = shown["nodes"].as_array().unwrap();
            let states = nodes.iter().map(|node| node["states"].as_array());
            let held = states.clone().flatten().filter(|states| !states.is_empty()).count();
            if held == wanted && states.clone().all(|states| states.is_some()) {
                return;
            }
            assert!(Instant::now() < give_up, "not {wanted} nodes have something of {key}: {shown}");
        }
    }

    fn cluster_file(&self) -> PathBuf {
        self.path("data/dynkv/dev/cluster.toml")
    }
}

/// Returns what it said on stderr.
fn stop(mut dev: Process) -> String {
    dev.terminate();
    let (status, errors) = dev.ended();
    assert_eq!(status.code(), Some(0), "{errors}");
    assert!(errors.contains("stopping on SIGTERM"), "{errors}");
    errors
}

#[test]
fn values_go_in_and_come_out_and_outlive_a_restart() {
    let home = Home::new();
    let dev = home.dev();
    home.run(&["put", "carts/alice", "2 apples"]).ok();
    assert_eq!(home.run(&["get", "carts/alice"]).stdout, b"2 apples");
    home.run(&["put", "alone", "in the default bucket"]).ok();
    assert_eq!(home.json(&["get", "default/alone"])["siblings"][0]["value"], "in the default bucket");

    let bytes: Vec<u8> = (0..=255).collect();
    std::fs::write(home.path("in"), &bytes).unwrap();
    home.run(&["put", "b/bytes", &format!("@{}", home.path("in").display())]).ok();
    assert_eq!(home.run(&["get", "b/bytes"]).stdout, bytes);
    home.run(&["get", "b/bytes", "-o", home.path("out").to_str().unwrap()]).ok();
    assert_eq!(std::fs::read(home.path("out")).unwrap(), bytes);

    home.run(&["put", "carts/bob", "x"]).ok();
    home.run(&["delete", "carts/bob"]).ok();
    let gone = home.run(&["get", "carts/bob"]);
    assert_eq!((gone.code, gone.stdout.len()), (Some(1), 0), "{gone:?}");
    home.run(&["delete", "carts/bob"]).fails(1, "nothing was deleted");
    let absent = home.json(&["get", "carts/bob"]);
    assert!(absent["siblings"].as_array().unwrap().is_empty());
    let context = absent["context"].as_str().unwrap();
    home.run(&["put", "carts/bob", "back", "--context", context]).ok();

    let listed = home.run(&["ls", "carts"]);
    let mut keys: Vec<_> = std::str::from_utf8(&listed.stdout).unwrap().lines().collect();
    keys.sort_unstable();
    assert_eq!((listed.code, keys), (Some(0), vec!["alice", "bob"]));
    assert!(listed.stderr.contains("complete") && !listed.stderr.contains("incomplete"), "{}", listed.stderr);
    stop(dev);

    let dev = home.dev();
    assert_eq!(home.run(&["get", "carts/alice"]).stdout, b"2 apples");
    stop(dev);
}

#[test]
fn siblings_are_listed_and_resolved() {
    let home = Home::new();
    let _dev = home.dev();
    home.run(&["put", "b/k", "one", "--blind"]).ok();
    home.run(&["put", "b/k", "two", "--blind"]).ok();
    let both = home.run(&["get", "b/k"]);
    assert_eq!((both.code, both.stdout.len()), (Some(4), 0), "{both:?}");
    assert!(both.stderr.contains("2 siblings") && both.stderr.contains("--context TOKEN"), "{}", both.stderr);

    let shown = home.json(&["get", "b/k"]);
    let mut values: Vec<_> =
        shown["siblings"].as_array().unwrap().iter().map(|s| s["value"].as_str().unwrap()).collect();
    values.sort_unstable();
    assert_eq!(values, ["one", "two"]);
    let context = shown["context"].as_str().unwrap();

    // Damaged on the way, or another key's: refused, and nothing changes.
    home.run(&["put", "b/k", "x", "--context", &context[..context.len() - 3]]).fails(2, "--context");
    let flipped = context.replacen(&context[10..11], if &context[10..11] == "A" { "B" } else { "A" }, 1);
    home.run(&["put", "b/k", "x", "--context", &flipped]).fails(2, "context");
    home.run(&["put", "b/other", "x", "--context", context]).fails(2, "another key");
    assert_eq!(home.run(&["get", "b/k"]).code, Some(4));

    home.run(&["put", "b/k", "three", "--context", context]).ok();
    assert_eq!(home.run(&["get", "b/k"]).stdout, b"three");
    // Without a context `put` reads first, and says what it replaced.
    home.run(&["put", "b/k", "four", "--blind"]).ok();
    let replaced = home.run(&["put", "b/k", "five"]);
    assert!(replaced.stderr.contains("replaced 2 siblings"), "{replaced:?}");
    assert_eq!(home.run(&["get", "b/k"]).stdout, b"five");
}

#[test]
fn bad_input_is_one_line_with_the_right_exit_code() {
    let home = Home::new();
    let missing = home.path("none.toml");
    home.run(&["get", "b/k"]).fails(2, "dyn dev");
    home.run(&["get", "b/k", "--cluster", missing.to_str().unwrap()]).fails(2, "none.toml");

    let dev = home.dev();
    home.run(&["put", "b/k", "kept"]).ok();
    home.run(&["put", "b/", "v"]).fails(2, "empty");
    home.run(&["put", "b/k"]).fails(2, "VALUE");
    home.run(&["get", "b/k", "-r", "4"]).fails(2, "above n = 3");
    home.run(&["put", "b/k", "v", "-w", "4"]).fails(2, "above n = 3");
    home.run(&["put", &format!("b/{}", "k".repeat(1025)), "v"]).fails(3, "the limit");
    std::fs::write(home.path("large"), vec![0; 1024 * 1024 + 1]).unwrap();
    home.run(&["put", "b/k", &format!("@{}", home.path("large").display())]).fails(3, "limit");
    home.run(&["put", "b/k", "@/no/such/file"]).fails(2, "/no/such/file");
    home.run(&["bucket", "set", "b", "q=1"]).fails(2, "no bucket property 'q'");
    home.run(&["bucket", "set", "b", "w=4"]).fails(2, "w = 4 is above n = 3");
    home.run(&["bucket", "set", "b", "conflict=maybe"]).fails(2, "siblings or lww");
    home.run(&["bucket", "set", "b", "conflict=siblings"]).ok();
    home.run(&["bucket", "set", "b", "conflict=lww"]).fails(2, "fixed when it was first set");
    home.run(&["ring", "locate", "b/k"]).ok();
    home.run(&["status"]).ok();
    home.run(&["metrics"]).ok();
    assert_eq!(home.run(&["get", "b/k"]).stdout, b"kept");

    // Another one in the same folder, for other nodes, and a file of another cluster.
    home.run(&["dev"]).fails(3, "already runs");
    home.run(&["dev", "--nodes", "5"]).fails(2, "--nodes 3");
    let file = ClusterFile::load(home.cluster_file()).unwrap();
    let other = home.path("other.toml");
    let with = |file: &ClusterFile| {
        file.save(&other).unwrap();
        home.run(&["get", "b/k", "--timeout", "2s", "--cluster", other.to_str().unwrap()])
    };
    assert_eq!(with(&file).stdout, b"kept");
    with(&ClusterFile { cluster: "prod".into(), ..file.clone() }).fails(2, "of cluster 'prod'");
    with(&ClusterFile { seeds: Vec::new(), ..file.clone() }).fails(2, "no seeds");
    with(&ClusterFile { key: String::new(), ..file.clone() }).fails(2, "private key");

    let ca = CertificateAuthority::create("dev").unwrap();
    let name = PeerName::client("dev", "stranger", Role::Admin).unwrap();
    let issued = ca.issue(&name, Validity::default()).unwrap();
    let (certificate, key) = (issued.cert_pem, issued.key_pem);
    with(&ClusterFile { certificate: certificate.clone(), key: key.clone(), ..file.clone() }).fails(2, "CA");
    let stranger = ClusterFile { ca: ca.cert_pem().into(), certificate, key, ..file.clone() };
    with(&stranger).fails(6, "not issued by this cluster's CA");
    // Trusts our nodes, which do not trust it.
    with(&ClusterFile { ca: format!("{}{}", file.ca, ca.cert_pem()), ..stranger })
        .fails(6, "does not accept");
    std::fs::write(&other, "cluster = ").unwrap();
    home.run(&["get", "b/k", "--cluster", other.to_str().unwrap()]).fails(2, "is not a cluster file");
    stop(dev);

    home.run(&["get", "b/k", "--timeout", "500ms"]).fails(6, "no node of cluster 'dev' answers");
    home.run(&["put", "b/k", "v", "--timeout", "500ms"]).fails(6, "no node of cluster 'dev' answers");
}

#[test]
fn operators_see_replicas_and_have_them_repaired_and_verified() {
    let home = Home::new();
    let dev = home.dev();
    for key in ["alice", "bob", "carol"] {
        home.run(&["put", &format!("carts/{key}"), "2 apples", "-w", "3"]).ok();
    }
    home.run(&["delete", "carts/bob", "-w", "3"]).ok();

    for node in ["n1", "n2", "n3"] {
        let give_up = Instant::now() + LONG;
        while home.json(&["merkle", "roots", node])["building"] != 0 {
            assert!(Instant::now() < give_up, "{node} does not build its trees");
            std::thread::sleep(TICK);
        }
    }
    let trees = home.json(&["merkle", "roots", "n1"]);
    let entries: u64 =
        trees["trees"].as_array().unwrap().iter().map(|t| t["entries"].as_u64().unwrap()).sum();
    assert_eq!(
        (entries, trees["trees"].as_array().unwrap().len() as u64),
        (3, trees["partitions"].as_u64().unwrap())
    );
    let one = home.run(&["merkle", "roots", "n1", "--partition", "3"]).ok();
    assert!(one.lines().nth(1).unwrap().contains("ready") && one.contains("all trees ready"), "{one}");
    assert!(home.run(&["merkle", "diff", "n1", "n2", "--keys"]).ok().contains(": equal"));
    let same = home.json(&["merkle", "diff", "n3", "n2", "--keys"]);
    assert_eq!((&same["differing"], &same["keys"]), (&Value::Array(vec![]), &Value::Array(vec![])));

    let none = home.run(&["repair", "status"]).ok();
    assert!(none.contains("none was ordered"), "{none}");
    assert!(home.run(&["repair", "start", "--node", "n2", "--partition", "3"]).ok().contains("begun at n2"));
    let done = home.json(&["repair", "start", "--wait"]);
    for node in done["nodes"].as_array().unwrap() {
        assert_eq!((&node["run"]["state"], &node["run"]["errors"]), (&"done".into(), &0.into()), "{done}");
        assert_eq!(node["run"]["compared"], node["run"]["comparisons"], "{done}");
    }
    assert!(home.run(&["repair", "stop"]).ok().contains("no repair was under way"));

    let verified = home.json(&["verify"]);
    assert_eq!(
        (&verified["records"], &verified["damaged"], &verified["complete"]),
        (&9.into(), &0.into(), &true.into())
    );
    assert!(home.run(&["verify", "n3", "--rate", "1MiB/s"]).ok().contains("done"));

    let versions = home.run(&["ring", "locate", "carts/alice", "--versions"]).ok();
    assert_eq!(versions.matches(" latest ").count(), 3, "{versions}");
    assert!(versions.contains("all 3 homes hold the same"), "{versions}");
    let deleted = home.json(&["ring", "locate", "carts/bob", "--versions"]);
    assert_eq!(deleted["nodes"][0]["states"][0]["versions"][0]["tombstone"], true, "{deleted}");

    home.run(&["merkle", "diff", "n1", "n1"]).fails(2, "name two nodes");
    home.run(&["merkle", "roots", "n9"]).fails(1, "use one of n1, n2, n3");
    home.run(&["merkle", "roots", "n1", "--partition", "70000"]).fails(2, "no home of partition");
    home.run(&["repair", "start", "--partition", "70000"]).fails(2, "counted from 0");
    home.run(&["verify", "n9"]).fails(1, "use one of");
    home.run(&["verify", "--rate", "none"]).fails(2, "8MiB");
    stop(dev);
}

#[test]
fn a_folder_is_imported_verified_and_imported_again_for_nothing() {
    let home = Home::new();
    let _dev = home.dev();
    let tree = home.path("tree");
    write_tree(&tree, 60);
    std::fs::write(tree.join("too-large"), vec![0; 1024 * 1024 + 1]).unwrap();
    let tree = tree.to_str().unwrap();
    let first = home.run(&["import", tree, "--bucket", "files", "--verify", "--json"]);
    // What cannot be imported is named, and the rest goes on.
    assert_eq!(first.code, Some(3), "{first:?}");
    assert!(first.stderr.contains("too-large"), "{}", first.stderr);
    let told: Value = serde_json::from_slice(&first.stdout).unwrap();
    assert_eq!((&told["stored"], &told["verified"], &told["refused"]), (&60.into(), &60.into(), &1.into()));
    let again = home.json(&["import", tree, "--bucket", "files"]);
    assert_eq!((&again["stored"], &again["unchanged"]), (&0.into(), &60.into()));
    assert_eq!(home.run(&["get", "files/d3/f3"]).stdout, b"file 3");
}

#[test]
fn a_node_whose_disk_is_an_old_copy_is_started_again_with_an_empty_one() {
    let home = Home::new();
    let dev = home.dev();
    home.run(&["bucket", "set", "b", "grace_ms=1"]).ok();
    for key in ["b/deleted", "b/kept"] {
        home.run(&["put", key, "v", "-w", "3"]).ok();
    }
    stop(dev);
    let (folder, copy) = (home.path("data/dynkv/dev/n3/data"), home.path("copy"));
    copy_folder(&folder, &copy);
    let dev = home.dev();
    home.run(&["delete", "b/deleted", "-w", "3"]).ok();
    home.until_held("b/deleted", 0);
    stop(dev);

    std::fs::remove_dir_all(&folder).unwrap();
    std::fs::rename(&copy, &folder).unwrap();
    let dev = home.dev();
    let is_aside = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.unwrap().file_name().to_string_lossy().starts_with("store.aside-")
    };
    let give_up = Instant::now() + LONG;
    while !std::fs::read_dir(&folder).unwrap().any(is_aside) {
        assert!(Instant::now() < give_up, "the old disk is not found out");
        std::thread::sleep(TICK);
    }
    home.until_held("b/kept", 3);
    home.until_held("b/deleted", 0);
    assert_eq!(home.run(&["get", "b/deleted"]).code, Some(1));
    home.run(&["put", "b/deleted", "again", "-w", "3"]).ok();
    let errors = stop(dev);
    assert_eq!(errors.matches("node n3 starts again").count(), 1, "{errors}");
}

/// `count` small files in ten folders.
pub(crate) fn write_tree(tree: &Path, count: usize) {
    for number in 0..count {
        let folder = tree.join(format!("d{}", number % 10));
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("f{number}")), format!("file {number}")).unwrap();
    }
}
