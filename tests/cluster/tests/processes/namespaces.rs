//! Namespaces: a test has file systems of its own, or each node a network of its own, whose links can be cut.
//!
//! ```text
//!   node 1: eth0 10.77.0.1 ---- port1 \
//!   node 2: eth0 10.77.0.2 ---- port2 -- bridge 10.77.0.254: the test, in a namespace of its own, too
//!   node 3: eth0 10.77.0.3 ---- port3 /
//! ```
//!
//! None has a name: each is gone with the processes in it, whatever becomes of the test.

use std::process::{Command, Stdio};

use dynkv_tests::process::{Process, run};

/// Tells the test that it is inside.
const INSIDE: &str = "DYNKV_TEST_NAMESPACE";

/// Ends a namespace whose test was killed, in seconds.
const HOLD_S: &str = "300";

/// What a test may have of its own.
pub(crate) enum Own {
    /// Networks.
    Networks,
    /// File systems.
    FileSystems,
}

impl Own {
    fn flag(&self) -> &'static str {
        match self {
            Own::Networks => "--net",
            Own::FileSystems => "--mount",
        }
    }

    /// What a test needs, tried where it harms nobody.
    fn probe(&self) -> &'static str {
        match self {
            Own::Networks => {
                "ip link add bridge type bridge && ip link add port type veth peer name eth0 && nsenter --version"
            }
            Own::FileSystems => "mount -t tmpfs -o size=64k tmpfs /mnt",
        }
    }
}

/// Runs the calling test again in a namespace of its own, unless this is that run: `true` says so, and the test goes on.
/// Where there are no such namespaces the test is skipped, with the reason on stderr.
///
/// # Panics
/// When the test fails in there.
pub(crate) fn inside(test: &str, own: Own) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    // As its own root nobody needs to be the machine's.
    let mut reason = String::new();
    for flags in [&["--map-root-user", own.flag()][..], &[own.flag()]] {
        let probe =
            Command::new("unshare").args(flags).args(["sh", "-c", own.probe()]).stdin(Stdio::null()).output();
        match probe {
            Ok(probe) if probe.status.success() => {
                let this = std::env::current_exe().expect("this program has a path");
                let mut again = Command::new("unshare");
                again.args(flags).arg(this).args(["--exact", test, "--nocapture"]).env(INSIDE, "1");
                let again = again.stdin(Stdio::null()).output().expect("it has just been started");
                let told = String::from_utf8_lossy(&again.stderr).into_owned();
                assert!(again.status.success(), "{}{told}", String::from_utf8_lossy(&again.stdout));
                eprint!("{told}");
                return false;
            }
            Ok(probe) => reason = String::from_utf8_lossy(&probe.stderr).trim().replace('\n', "; "),
            Err(error) => reason = format!("unshare: {error}"),
        }
    }
    eprintln!("{test} was skipped, for there are no namespaces for it here: {reason}");
    false
}

/// The network of one node.
pub(crate) struct Namespace {
    number: usize,
    /// Keeps it in being.
    _holder: Process,
    path: String,
}

/// Makes so many of them around the bridge, which is in the namespace of the test.
pub(crate) fn create(count: usize) -> Vec<Namespace> {
    ip("link set lo up");
    ip("link add bridge type bridge");
    ip("address add 10.77.0.254/24 dev bridge");
    ip("link set bridge up");
    (1..=count).map(Namespace::create).collect()
}

impl Namespace {
    fn create(number: usize) -> Namespace {
        // The shell becomes the sleeper: the process keeps its number.
        let hold = format!("ip link set lo up && echo $$ && exec sleep {HOLD_S}");
        let mut holder = Process::start(Command::new("unshare").args(["--net", "sh", "-c", &hold]));
        let pid = holder.wait_for("");
        ip(&format!("link add port{number} type veth peer name eth0 netns {pid}"));
        ip(&format!("link set port{number} master bridge up"));
        let namespace = Namespace { number, _holder: holder, path: format!("/proc/{pid}/ns/net") };
        namespace.ip(&format!("address add {}/24 dev eth0", namespace.address()));
        namespace.ip("link set eth0 up");
        namespace
    }

    fn address(&self) -> String {
        format!("10.77.0.{}", self.number)
    }

    /// Where a node listens in here.
    pub(crate) fn listen(&self) -> String {
        format!("{}:0", self.address())
    }

    /// The same command, in here.
    pub(crate) fn enter(&self, command: &Command) -> Command {
        let mut entered = Command::new("nsenter");
        entered.arg(format!("--net={}", self.path)).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => entered.env(name, value),
                None => entered.env_remove(name),
            };
        }
        entered
    }

    /// Pulls the plug.
    pub(crate) fn unplug(&self) {
        ip(&format!("link set port{} down", self.number));
    }

    /// Puts it in again.
    pub(crate) fn plug(&self) {
        ip(&format!("link set port{} up", self.number));
    }

    /// From now on what this one sends to `other` is lost, unnoticed; what `other` sends arrives.
    pub(crate) fn lose_to(&self, other: &Namespace) {
        // A station that is not there: no filter, and no module of the kernel, is needed.
        self.ip(&format!(
            "neighbour replace {} lladdr 02:00:00:00:00:99 dev eth0 nud permanent",
            other.address()
        ));
    }

    /// No longer.
    pub(crate) fn restore_to(&self, other: &Namespace) {
        self.ip(&format!("neighbour delete {} dev eth0", other.address()));
    }

    fn ip(&self, args: &str) {
        let mut command = Command::new("ip");
        command.args(args.split(' '));
        run(&mut self.enter(&command)).ok();
    }
}

/// Runs `ip` in the namespace of the test.
fn ip(args: &str) {
    run(Command::new("ip").args(args.split(' '))).ok();
}
