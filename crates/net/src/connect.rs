//! Why connecting failed.

use std::net::SocketAddr;

use quinn::{ConnectionError as Quic, TransportErrorCode};
use thiserror::Error;

use crate::connection::describe;
use crate::options::Options;
use crate::verify::CertificateError;
use crate::wire::StreamError;

/// Why a node could not be connected to. Nothing was asked of it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// Nobody answers there.
    #[error(
        "no answer from {addr} within {timeout_ms} ms: the node is down, the address is wrong, or UDP is blocked on the way"
    )]
    Unreachable {
        /// The address tried.
        addr: SocketAddr,
        /// The time allowed, in milliseconds.
        timeout_ms: u32,
    },
    /// Whoever answers is not whom we look for.
    #[error("the certificate of {addr} is not accepted: {problem}")]
    Certificate {
        /// The address tried.
        addr: SocketAddr,
        /// What is wrong with the certificate of the one who answered.
        #[source]
        problem: CertificateError,
    },
    /// The node does not accept our certificate.
    #[error("{addr} does not accept our certificate: {refusal}")]
    Refused {
        /// The address tried.
        addr: SocketAddr,
        /// What the node let us know.
        refusal: Refusal,
    },
    /// The node serves as many connections as it may.
    #[error("{addr} takes no more connections: use another node, or raise its connections_max")]
    Busy {
        /// The address tried.
        addr: SocketAddr,
    },
    /// Whoever answers speaks something else.
    #[error(
        "{addr} does not speak this version of dynkv ({reason}): check the address and the node's version"
    )]
    Protocol {
        /// The address tried.
        addr: SocketAddr,
        /// What does not fit.
        reason: String,
    },
    /// The connection broke while it was being set up.
    #[error("the connection to {addr} broke while it was set up ({reason}): try again")]
    Lost {
        /// The address tried.
        addr: SocketAddr,
        /// Why.
        reason: String,
    },
    /// Nothing can be sent to that address.
    #[error("{addr} cannot be connected to: give an address of this endpoint's family with a port")]
    Address {
        /// The address tried.
        addr: SocketAddr,
    },
    /// Our endpoint has been closed.
    #[error("this endpoint has been closed: open another")]
    EndpointClosed,
    /// The identity cannot be used for TLS.
    #[error("cannot set up TLS ({reason}): issue a new certificate")]
    Tls {
        /// What the library said.
        reason: String,
    },
}

/// Why a node does not accept a certificate, as far as TLS lets it say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Error)]
#[non_exhaustive]
pub enum Refusal {
    /// Not issued by the node's CA.
    #[error("it was not issued by that node's CA: use a certificate of its cluster")]
    Foreign,
    /// Not in force now, by the node's clock.
    #[error("it has expired or is not in force yet: issue a new one, and check the clocks")]
    NotInForce,
    /// Not issued for a connecting peer.
    #[error("it was not issued for this use: issue one with the cluster's CA")]
    Purpose,
    /// The name in it is missing or of another cluster.
    #[error("the name in it is not one of that node's cluster: use a certificate of its cluster")]
    Name,
    /// None was shown.
    #[error("the node saw none: present one")]
    Missing,
    /// Something else.
    #[error("the node found it unreadable: issue a new one")]
    Unreadable,
}

impl Refusal {
    /// What a TLS alert says about our certificate, if it is about that.
    fn from_alert(alert: u8) -> Option<Refusal> {
        match alert {
            // unknown_ca; decrypt_error, for a CA of the same name and another key.
            48 | 51 => Some(Refusal::Foreign),
            // certificate_expired covers both ends of its time.
            45 => Some(Refusal::NotInForce),
            // unsupported_certificate
            43 => Some(Refusal::Purpose),
            // access_denied: ours for a name that does not fit.
            49 => Some(Refusal::Name),
            // certificate_required
            116 => Some(Refusal::Missing),
            // bad_certificate, certificate_revoked, certificate_unknown
            42 | 44 | 46 => Some(Refusal::Unreadable),
            _ => None,
        }
    }
}

/// What ended an attempt.
#[derive(Debug)]
pub(crate) enum Refused {
    Connect(quinn::ConnectError),
    Quic(Quic),
    Certificate(CertificateError),
    Protocol(String),
}

impl From<quinn::ConnectError> for Refused {
    fn from(error: quinn::ConnectError) -> Refused {
        Refused::Connect(error)
    }
}

impl From<Quic> for Refused {
    fn from(error: Quic) -> Refused {
        Refused::Quic(error)
    }
}

impl From<quinn::ClosedStream> for Refused {
    fn from(error: quinn::ClosedStream) -> Refused {
        Refused::Protocol(error.to_string())
    }
}

impl From<quinn::WriteError> for Refused {
    fn from(error: quinn::WriteError) -> Refused {
        match error {
            quinn::WriteError::ConnectionLost(error) => Refused::Quic(error),
            other => Refused::Protocol(other.to_string()),
        }
    }
}

impl From<StreamError> for Refused {
    fn from(error: StreamError) -> Refused {
        match error {
            StreamError::Read(quinn::ReadError::ConnectionLost(error)) => Refused::Quic(error),
            other => Refused::Protocol(other.to_string()),
        }
    }
}

impl ConnectError {
    pub(crate) fn new(
        addr: SocketAddr,
        refused: Refused,
        verdict: Option<&CertificateError>,
        options: &Options,
    ) -> ConnectError {
        if let Some(problem) = verdict {
            return ConnectError::Certificate { addr, problem: problem.clone() };
        }
        let lost = match refused {
            Refused::Certificate(problem) => return ConnectError::Certificate { addr, problem },
            Refused::Protocol(reason) => return ConnectError::Protocol { addr, reason },
            Refused::Connect(quinn::ConnectError::EndpointStopping) => return ConnectError::EndpointClosed,
            Refused::Connect(quinn::ConnectError::InvalidRemoteAddress(_)) => {
                return ConnectError::Address { addr };
            }
            Refused::Connect(error) => return ConnectError::Lost { addr, reason: error.to_string() },
            Refused::Quic(error) => error,
        };
        let reason = describe(&lost);
        match lost {
            Quic::TimedOut => ConnectError::Unreachable { addr, timeout_ms: options.connect_timeout_ms },
            Quic::LocallyClosed => ConnectError::EndpointClosed,
            Quic::VersionMismatch => ConnectError::Protocol { addr, reason },
            Quic::ConnectionClosed(close) => {
                let alert = alert(u64::from(close.error_code));
                match alert.and_then(Refusal::from_alert) {
                    Some(refusal) => ConnectError::Refused { addr, refusal },
                    None if alert == Some(ALERT_NO_APPLICATION_PROTOCOL) => {
                        ConnectError::Protocol { addr, reason }
                    }
                    None if close.error_code == TransportErrorCode::CONNECTION_REFUSED => {
                        ConnectError::Busy { addr }
                    }
                    None => ConnectError::Lost { addr, reason },
                }
            }
            Quic::TransportError(error) if alert(u64::from(error.code)).is_some() => {
                ConnectError::Protocol { addr, reason }
            }
            _ => ConnectError::Lost { addr, reason },
        }
    }
}

const ALERT_NO_APPLICATION_PROTOCOL: u8 = 120;

/// The TLS alert in a QUIC error code (RFC 9001, section 4.8).
fn alert(code: u64) -> Option<u8> {
    u8::try_from(code.checked_sub(0x100)?).ok()
}
