//! `dyn cert`

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use dynkv_client::ClusterFile;
use dynkv_client::net::certs::{CertificateAuthority, Validity};
use dynkv_client::net::{PeerName, Role};
use dynkv_client::ring::NodeId;

use crate::error::CliError;
use crate::exit::Exit;
use crate::files::{self, Access, refuse_existing};
use crate::member::address_arg;
use crate::output;

/// Ten thousand years would not fit into a certificate; a hundred are enough.
const DAYS_MAX: i64 = 36_500;

/// Make a cluster's certificates
///
/// Every node and client proves by a certificate of the cluster's own authority who it is and what it may do.
#[derive(Debug, Args)]
pub(crate) struct Cert {
    #[command(subcommand)]
    command: CertCommand,
}

#[derive(Debug, Subcommand)]
enum CertCommand {
    Ca(Ca),
    Node(Node),
    Client(Client),
}

/// Make a cluster's certificate authority: DIR/ca.pem and DIR/ca.key
///
/// Whoever has ca.key owns the cluster: keep it off the nodes.
#[derive(Debug, Args)]
struct Ca {
    /// The cluster's name: 1 to 32 of a-z, 0-9, '.', '_' and '-'
    #[arg(long, value_name = "NAME")]
    cluster: String,
    /// The folder to write to
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    #[command(flatten)]
    issue: Issue<3650>,
}

/// Issue a node's certificate: DIR/ID.pem, DIR/ID.key and a copy of ca.pem
#[derive(Debug, Args)]
struct Node {
    /// The node's id, unique for ever: 1 to 32 of a-z, 0-9, '.', '_' and '-'
    id: NodeId,
    /// The folder of the authority, as `dyn cert ca` wrote it
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// The folder to write to
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    issue: Issue<730>,
}

/// Issue a client's certificate, in a cluster file: all that `dyn --cluster FILE` and the client library need
#[derive(Debug, Args)]
struct Client {
    /// The client's name: 1 to 32 of a-z, 0-9, '.', '_' and '-'
    name: String,
    /// What it may do: a reader reads, a writer also writes, an admin also changes the cluster
    #[arg(long, value_name = "reader|writer|admin")]
    role: Role,
    /// The folder of the authority, as `dyn cert ca` wrote it
    #[arg(long, value_name = "DIR")]
    ca: PathBuf,
    /// Where a node is; may be repeated, one that answers is enough
    #[arg(long, required = true, value_name = "HOST:PORT", value_parser = address_arg)]
    seed: Vec<String>,
    /// The cluster file to write
    #[arg(long, value_name = "FILE.toml")]
    out: PathBuf,
    #[command(flatten)]
    issue: Issue<730>,
}

#[derive(Debug, Args)]
struct Issue<const DAYS: i64> {
    /// Days until it expires
    #[arg(long, value_name = "DAYS", default_value_t = DAYS, value_parser = clap::value_parser!(i64).range(0..=DAYS_MAX))]
    days: i64,
    /// Overwrite what is there: the old key is lost
    #[arg(long)]
    force: bool,
}

impl<const DAYS: i64> Issue<DAYS> {
    fn validity(&self) -> Validity {
        // In range: clap has checked it.
        Validity::days(u32::try_from(self.days).unwrap_or(0))
    }
}

impl Cert {
    pub(crate) fn run(self) -> Result<Exit, CliError> {
        match self.command {
            CertCommand::Ca(ca) => ca.run(),
            CertCommand::Node(node) => node.run(),
            CertCommand::Client(client) => client.run(),
        }?;
        Ok(Exit::Ok)
    }
}

/// Where an authority is kept in its folder.
fn ca_paths(dir: &Path) -> [PathBuf; 2] {
    [dir.join("ca.pem"), dir.join("ca.key")]
}

/// Reads the authority that `dyn cert ca` wrote to `dir`.
pub(crate) fn load_ca(dir: &Path) -> Result<CertificateAuthority, CliError> {
    let [cert, key] = ca_paths(dir);
    if !cert.exists() {
        let dir = dir.display();
        return Err(CliError::Usage(format!(
            "there is no authority in {dir}: name the folder of one, or make it with `dyn cert ca --cluster NAME --dir {dir}`"
        )));
    }
    Ok(CertificateAuthority::from_pem(&files::read_text(&cert)?, &files::read_text(&key)?)?)
}

/// Writes an authority to `dir`.
pub(crate) fn save_ca(ca: &CertificateAuthority, dir: &Path) -> Result<(), CliError> {
    let [cert, key] = ca_paths(dir);
    files::write(&key, ca.key_pem().as_bytes(), Access::Private)?;
    files::write(&cert, ca.cert_pem().as_bytes(), Access::Public)
}

impl Ca {
    fn run(self) -> Result<(), CliError> {
        let ca = CertificateAuthority::create_with(&self.cluster, self.issue.validity())?;
        refuse_existing(&ca_paths(&self.dir), self.issue.force)?;
        save_ca(&ca, &self.dir)?;
        output::line(format_args!("{0}/ca.pem\n{0}/ca.key", self.dir.display()))?;
        output::confirm("next, for each node: dyn cert node ID --ca DIR --out DIR");
        Ok(())
    }
}

impl Node {
    fn run(self) -> Result<(), CliError> {
        let ca = load_ca(&self.ca)?;
        let issued = ca.issue(&PeerName::node(ca.cluster(), self.id)?, self.issue.validity())?;
        let paths = ["pem", "key"].map(|extension| self.out.join(format!("{}.{extension}", self.id)));
        refuse_existing(&paths, self.issue.force)?;
        let ca_copy = self.out.join("ca.pem");
        let same_ca = ca_copy.exists() && files::read_text(&ca_copy)? == ca.cert_pem();
        if !same_ca {
            // Another authority's certificate may be what other nodes' keys beside it need.
            refuse_existing(std::slice::from_ref(&ca_copy), self.issue.force)?;
            files::write(&ca_copy, ca.cert_pem().as_bytes(), Access::Public)?;
        }
        let [cert, key] = &paths;
        files::write(key, issued.key_pem.as_bytes(), Access::Private)?;
        files::write(cert, issued.cert_pem.as_bytes(), Access::Public)?;
        output::line(format_args!("{}\n{}\n{}", cert.display(), key.display(), ca_copy.display()))?;
        output::confirm(
            "next, on the node's host: dyn node config > node.toml, then dyn node start --config node.toml",
        );
        Ok(())
    }
}

impl Client {
    fn run(self) -> Result<(), CliError> {
        let ca = load_ca(&self.ca)?;
        let name = PeerName::client(ca.cluster(), &self.name, self.role)?;
        let issued = ca.issue(&name, self.issue.validity())?;
        refuse_existing(std::slice::from_ref(&self.out), self.issue.force)?;
        let file = ClusterFile {
            cluster: ca.cluster().to_owned(),
            seeds: self.seed,
            ca: ca.cert_pem().to_owned(),
            certificate: issued.cert_pem,
            key: issued.key_pem,
        };
        file.save(&self.out).map_err(CliError::ClusterFile)?;
        output::line(self.out.display())?;
        output::confirm(format_args!("next: dyn status --cluster {}", self.out.display()));
        Ok(())
    }
}
