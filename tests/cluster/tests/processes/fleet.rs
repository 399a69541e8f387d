//! A cluster of processes, set up with `dyn cert`, `dyn node start` and `dyn cluster create` as its operator would.

use std::path::{Path, PathBuf};

use dynkv_tests::process::{Process, Ran, command, run};
use serde_json::Value;
use tempfile::TempDir;

use crate::{DYN, namespaces::Namespace};

/// Any free port of this machine.
const LOOPBACK: &str = "127.0.0.1:0";

/// The certificates and folders of nodes, three at first, and those of them that run.
pub(crate) struct Fleet {
    pub(crate) nodes: Vec<Option<Process>>,
    /// Where each listened last.
    addresses: Vec<Option<String>>,
    /// Where each runs, if not with the test.
    namespaces: Vec<Namespace>,
    // After the nodes, which have files open in it.
    pub(crate) dir: TempDir,
}

impl Fleet {
    /// Three nodes that wait to be founded.
    pub(crate) fn waiting() -> Fleet {
        Fleet::waiting_in(Vec::new())
    }

    fn waiting_in(namespaces: Vec<Namespace>) -> Fleet {
        let dir = tempfile::tempdir().unwrap();
        let mut fleet = Fleet { nodes: vec![None, None, None], addresses: vec![None; 3], namespaces, dir };
        fleet.run(&["cert", "ca", "--cluster", "fleet", "--dir", &fleet.text("ca")]).ok();
        for node in ["n1", "n2", "n3", "n4", "n5"] {
            fleet.run(&["cert", "node", node, "--ca", &fleet.text("ca"), "--out", &fleet.text("certs")]).ok();
        }
        for node in 0..3 {
            fleet.start_node(node);
        }
        fleet
    }

    /// Three nodes of a founded cluster.
    pub(crate) fn start() -> Fleet {
        Fleet::start_in(Vec::new())
    }

    /// The same, each node in a namespace of its own.
    pub(crate) fn start_in(namespaces: Vec<Namespace>) -> Fleet {
        let fleet = Fleet::waiting_in(namespaces);
        fleet.write_cluster_file();
        let created = fleet.create();
        assert_eq!(created.code, Some(0), "{created:?}");
        fleet
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("a temporary path is text").to_owned()
    }

    /// Runs `dyn` with the administrator's cluster file.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        run(command(DYN, self.dir.path()).env("DYN_CLUSTER", self.cluster_file()).args(args))
    }

    pub(crate) fn cluster_file(&self) -> PathBuf {
        self.path("admin.toml")
    }

    /// Writes the administrator's cluster file with the nodes' addresses of now.
    pub(crate) fn write_cluster_file(&self) {
        let (ca, out) = (self.text("ca"), self.text("admin.toml"));
        let mut args =
            vec!["cert", "client", "ops", "--role", "admin", "--force", "--ca", &ca, "--out", &out];
        for address in self.addresses.iter().flatten() {
            args.extend(["--seed", address]);
        }
        self.run(&args).ok();
    }

    pub(crate) fn create(&self) -> Ran {
        let member = |(node, address): (usize, &Option<String>)| {
            format!("n{}={}", node + 1, address.as_ref().expect("all nodes were started"))
        };
        let members: Vec<String> = self.addresses.iter().enumerate().map(member).collect();
        let mut args = vec!["cluster", "create", "--partitions", "16"];
        for member in &members {
            args.extend(["--member", member]);
        }
        self.run(&args)
    }

    /// The command that starts a node, with the data of `data` and the addresses of the others as seeds.
    pub(crate) fn node_command(&self, node: &str, data: &Path, listen: &str) -> std::process::Command {
        let mut start = command(DYN, self.dir.path());
        start.args(["node", "start", "--json", "--listen", listen, "--cache-bytes", "1000000"]);
        start.arg("--data-dir").arg(data).arg("--ca").arg(self.path("certs/ca.pem"));
        start.arg("--certificate").arg(self.path(&format!("certs/{node}.pem")));
        start.arg("--key").arg(self.path(&format!("certs/{node}.key")));
        for (index, address) in self.addresses.iter().enumerate() {
            if let Some(address) = address
                && self.nodes[index].is_some()
            {
                start.args(["--seed", address]);
            }
        }
        start
    }

    /// Starts a node on its data, at any free port.
    pub(crate) fn start_node(&mut self, node: usize) {
        self.start_node_with(node, &[]);
    }

    /// Starts a further node, with more arguments, and returns its number.
    pub(crate) fn add_node(&mut self, more: &[&str]) -> usize {
        self.nodes.push(None);
        self.addresses.push(None);
        self.start_node_with(self.nodes.len() - 1, more);
        self.nodes.len() - 1
    }

    fn start_node_with(&mut self, node: usize, more: &[&str]) {
        let name = format!("n{}", node + 1);
        let data = self.path(&format!("data-{name}"));
        let mut command = match self.namespaces.get(node) {
            Some(namespace) => namespace.enter(&self.node_command(&name, &data, &namespace.listen())),
            None => self.node_command(&name, &data, LOOPBACK),
        };
        let mut process = Process::start(command.args(more));
        let listening: Value = serde_json::from_str(&process.wait_for("listening")).unwrap();
        self.addresses[node] = listening["address"].as_str().map(str::to_owned);
        self.nodes[node] = Some(process);
    }

    pub(crate) fn address(&self, node: usize) -> &str {
        self.addresses[node].as_deref().expect("the node was started")
    }

    pub(crate) fn namespace(&self, node: usize) -> &Namespace {
        &self.namespaces[node]
    }

    pub(crate) fn process(&mut self, node: usize) -> &mut Process {
        self.nodes[node].as_mut().expect("the node runs")
    }

    /// Ends a node as a power cut would end it.
    pub(crate) fn kill(&mut self, node: usize) {
        self.process(node).kill();
        self.nodes[node] = None;
    }
}
