//! Who a peer is: the name inside its certificate.

use std::fmt;
use std::str::FromStr;

use dynkv_ring::NodeId;
use thiserror::Error;

/// The scheme of the URI in every certificate of a cluster.
pub(crate) const SCHEME: &str = "dynkv://";

/// The most bytes a cluster's or client's name has.
pub const LABEL_BYTES_MAX: usize = 32;

/// What a client may do. Ordered: a greater role may do all that a smaller one may.
///
/// ```
/// use dynkv_net::Role;
///
/// assert!(Role::Reader < Role::Writer && Role::Writer < Role::Admin);
/// assert!(!Role::Reader.can_write() && Role::Admin.can_write());
/// assert_eq!("writer".parse(), Ok(Role::Writer));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Reads values and the state of the cluster.
    Reader,
    /// Reads, puts and deletes.
    Writer,
    /// Also changes the cluster's membership and the properties of buckets.
    Admin,
}

impl Role {
    /// Whether puts and deletes are allowed.
    pub fn can_write(self) -> bool {
        self >= Role::Writer
    }

    /// Whether changes of membership and bucket properties are allowed.
    pub fn can_administer(self) -> bool {
        self == Role::Admin
    }

    /// The role as it stands in a certificate.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Reader => "reader",
            Role::Writer => "writer",
            Role::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Role, NameError> {
        match text {
            "reader" => Ok(Role::Reader),
            "writer" => Ok(Role::Writer),
            "admin" => Ok(Role::Admin),
            _ => Err(NameError::Role { text: excerpt(text) }),
        }
    }
}

/// The name of a node or a client, as it stands in the SAN URI of its certificate.
///
/// ```
/// use dynkv_net::{PeerName, Role};
///
/// let name: PeerName = "dynkv://shop/client/importer?role=writer".parse()?;
/// assert_eq!(name, PeerName::client("shop", "importer", Role::Writer)?);
/// assert_eq!(name.cluster(), "shop");
/// assert_eq!(name.to_string(), "dynkv://shop/client/importer?role=writer");
///
/// let node: PeerName = "dynkv://shop/node/n1".parse()?;
/// assert!(node.node_id().is_some());
/// # Ok::<(), dynkv_net::NameError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PeerName {
    /// `dynkv://<cluster>/node/<id>`: a member of the cluster, which may do everything.
    Node {
        /// The cluster's name.
        cluster: String,
        /// The node's id.
        id: NodeId,
    },
    /// `dynkv://<cluster>/client/<name>?role=<role>`.
    Client {
        /// The cluster's name.
        cluster: String,
        /// The client's name, for logs and audits.
        name: String,
        /// What the client may do.
        role: Role,
    },
}

impl PeerName {
    /// The name of node `id` in `cluster`.
    ///
    /// # Errors
    /// [`NameError::Label`] when `cluster` is not 1 to 32 bytes of `[a-z0-9._-]` that begin with a letter or digit.
    pub fn node(cluster: &str, id: NodeId) -> Result<PeerName, NameError> {
        Ok(PeerName::Node { cluster: label("cluster", cluster)?, id })
    }

    /// The name of a client of `cluster`.
    ///
    /// # Errors
    /// [`NameError::Label`] when `cluster` or `name` is not 1 to 32 bytes of `[a-z0-9._-]` that begin with a letter
    /// or digit.
    pub fn client(cluster: &str, name: &str, role: Role) -> Result<PeerName, NameError> {
        Ok(PeerName::Client { cluster: label("cluster", cluster)?, name: label("client", name)?, role })
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        match self {
            PeerName::Node { cluster, .. } | PeerName::Client { cluster, .. } => cluster,
        }
    }

    /// The node's id, unless this is a client.
    pub fn node_id(&self) -> Option<&NodeId> {
        match self {
            PeerName::Node { id, .. } => Some(id),
            PeerName::Client { .. } => None,
        }
    }

    /// Whether this is a node.
    pub fn is_node(&self) -> bool {
        self.node_id().is_some()
    }

    /// Whether puts and deletes are allowed: to nodes, writers and admins.
    pub fn can_write(&self) -> bool {
        self.role().is_none_or(Role::can_write)
    }

    /// Whether changes of membership and bucket properties are allowed: to nodes and admins.
    pub fn can_administer(&self) -> bool {
        self.role().is_none_or(Role::can_administer)
    }

    fn role(&self) -> Option<Role> {
        match self {
            PeerName::Node { .. } => None,
            PeerName::Client { role, .. } => Some(*role),
        }
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PeerName::Node { cluster, id } => write!(f, "{SCHEME}{cluster}/node/{id}"),
            PeerName::Client { cluster, name, role } => {
                write!(f, "{SCHEME}{cluster}/client/{name}?role={role}")
            }
        }
    }
}

impl FromStr for PeerName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<PeerName, NameError> {
        let shape = || NameError::Shape { text: excerpt(text) };
        let rest = text.strip_prefix(SCHEME).ok_or_else(shape)?;
        let (cluster, path) = rest.split_once('/').ok_or_else(shape)?;
        if let Some(id) = path.strip_prefix("node/") {
            let id = id.parse().map_err(|_| NameError::Label { what: "node", text: excerpt(id) })?;
            return PeerName::node(cluster, id);
        }
        let (name, role) =
            path.strip_prefix("client/").and_then(|client| client.split_once("?role=")).ok_or_else(shape)?;
        PeerName::client(cluster, name, role.parse()?)
    }
}

/// A text that is no name of a peer.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum NameError {
    /// The text is neither of the two URIs.
    #[error(
        "{text:?} is no peer's name: write dynkv://<cluster>/node/<id> or dynkv://<cluster>/client/<name>?role=<role>"
    )]
    Shape {
        /// The text, shortened.
        text: String,
    },
    /// A part of the name has other characters or another length than allowed.
    #[error(
        "{text:?} is no {what} name: use 1 to 32 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit"
    )]
    Label {
        /// Which part: `cluster`, `node` or `client`.
        what: &'static str,
        /// The text, shortened.
        text: String,
    },
    /// There is no such role.
    #[error("{text:?} is no role: use reader, writer or admin")]
    Role {
        /// The text, shortened.
        text: String,
    },
}

/// Checks one part of a name, the same way as node ids are.
pub(crate) fn label(what: &'static str, text: &str) -> Result<String, NameError> {
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(b);
    let bytes = text.as_bytes();
    let begins = bytes.first().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    if begins && bytes.len() <= LABEL_BYTES_MAX && bytes.iter().all(inner) {
        Ok(text.to_owned())
    } else {
        Err(NameError::Label { what, text: excerpt(text) })
    }
}

/// The beginning of a text from elsewhere, so that no error repeats a megabyte.
pub(crate) fn excerpt(text: &str) -> String {
    text.chars().take(96).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn roles_allow_what_they_say() {
        let can = |role: Role| (role.can_write(), role.can_administer());
        assert_eq!(
            [Role::Reader, Role::Writer, Role::Admin].map(can),
            [(false, false), (true, false), (true, true)]
        );
        let node: PeerName = "dynkv://c/node/n".parse().unwrap();
        assert!(node.can_write() && node.can_administer() && node.is_node());
        let reader = PeerName::client("c", "r", Role::Reader).unwrap();
        assert!(!reader.can_write() && !reader.can_administer() && !reader.is_node());
    }

    #[test]
    fn refuses_what_is_no_name() {
        for text in [
            "",
            "dynkv://",
            "dynkv:///node/n1",
            "dynkv://c/node/",
            "dynkv://c/node/n1/",
            "dynkv://c/node/N1",
            "dynkv://c/node/n1?role=admin",
            "dynkv://c/client/x",
            "dynkv://c/client/x?role=",
            "dynkv://c/client/x?role=root",
            "dynkv://c/client/x?role=reader&role=admin",
            "dynkv://c/client/?role=admin",
            "dynkv://c/client/x y?role=admin",
            "dynkv://-c/node/n1",
            "dynkv://c/ca",
            "DYNKV://c/node/n1",
            "https://c/node/n1",
            "dynkv://aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa/node/n1",
        ] {
            assert!(text.parse::<PeerName>().is_err(), "{text:?} was taken for a name");
        }
    }

    proptest! {
        #[test]
        fn names_survive_their_text(cluster in "[a-z0-9][a-z0-9._-]{0,31}", part in "[a-z0-9][a-z0-9._-]{0,31}", kind in 0..4) {
            let name = match kind {
                0 => PeerName::node(&cluster, part.parse().unwrap()).unwrap(),
                1 => PeerName::client(&cluster, &part, Role::Reader).unwrap(),
                2 => PeerName::client(&cluster, &part, Role::Writer).unwrap(),
                _ => PeerName::client(&cluster, &part, Role::Admin).unwrap(),
            };
            prop_assert_eq!(name.to_string().parse(), Ok(name));
        }

        #[test]
        fn any_text_is_refused_or_stands_for_itself(text in ".{0,80}") {
            for text in [text.clone(), format!("dynkv://{text}"), format!("dynkv://c/client/{text}")] {
                if let Ok(name) = text.parse::<PeerName>() {
                    prop_assert_eq!(name.to_string(), text);
                }
            }
        }
    }
}
