//! Founding members on the command line.

use std::str::FromStr;

use dynkv_client::ring::{InvalidMember, InvalidNodeId, Member, NodeId};
use thiserror::Error;

/// A founding member and where it is: `n1=HOST:PORT[,zone=Z][,host=H][,weight=W]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MemberSpec {
    pub(crate) member: Member,
    pub(crate) address: String,
}

/// Why a text describes no member.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum MemberError {
    #[error("'{text}' is no member: write ID=HOST:PORT[,zone=ZONE][,host=HOST][,weight=1..100]")]
    Shape { text: String },
    #[error("'{text}' is no member: {source}")]
    Id { text: String, source: InvalidNodeId },
    #[error("'{address}' is no address: write HOST:PORT, for example 10.0.0.1:7401 or [::1]:7401")]
    Address { address: String },
    #[error("'{option}' is no option of a member: use zone=ZONE, host=HOST or weight=1..100, each once")]
    Option { option: String },
    #[error("{id}: {source}")]
    Invalid { id: NodeId, source: InvalidMember },
}

impl FromStr for MemberSpec {
    type Err = MemberError;

    fn from_str(text: &str) -> Result<MemberSpec, MemberError> {
        let (id, rest) = text.split_once('=').ok_or_else(|| MemberError::Shape { text: text.into() })?;
        let id = NodeId::try_from(id).map_err(|source| MemberError::Id { text: text.into(), source })?;
        let mut parts = rest.split(',');
        // Splitting gives one part at least.
        let address = check_address(parts.next().unwrap_or_default())?.to_owned();
        let mut member = Member::new(id);
        let mut seen = Vec::new();
        for option in parts {
            let wrong = || MemberError::Option { option: option.into() };
            let (name, value) = option.split_once('=').ok_or_else(wrong)?;
            if seen.contains(&name) || value.is_empty() {
                return Err(wrong());
            }
            seen.push(name);
            member = match name {
                "zone" => member.with_zone(value),
                "host" => member.with_host(value),
                "weight" => member.with_weight(value.parse().map_err(|_| wrong())?),
                _ => return Err(wrong()),
            };
        }
        member.validate().map_err(|source| MemberError::Invalid { id, source })?;
        Ok(MemberSpec { member, address })
    }
}

/// Whether `address` has the form `HOST:PORT`; names are looked up later.
pub(crate) fn check_address(address: &str) -> Result<&str, MemberError> {
    let wrong = || MemberError::Address { address: address.into() };
    let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
    let bare_ipv6 = host.contains(':') && !(host.starts_with('[') && host.ends_with(']'));
    let odd = host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/' || c == '=');
    match port.parse::<u16>() {
        Ok(1..) if !odd && !bare_ipv6 => Ok(address),
        _ => Err(wrong()),
    }
}

/// [`check_address`] for clap.
pub(crate) fn address_arg(address: &str) -> Result<String, MemberError> {
    check_address(address).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, address: &str, member: Member) {
        assert_eq!(text.parse(), Ok(MemberSpec { member, address: address.into() }), "{text}");
    }

    #[test]
    fn members_with_and_without_options() {
        let n1 = || Member::new("n1".parse().unwrap());
        check("n1=10.0.0.1:7401", "10.0.0.1:7401", n1());
        check("n1=db-1.example:7401,zone=eu-a", "db-1.example:7401", n1().with_zone("eu-a"));
        check(
            "n1=[::1]:7401,weight=3,host=rack 7,zone=b",
            "[::1]:7401",
            n1().with_weight(3).with_host("rack 7").with_zone("b"),
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let error = |text: &str| text.parse::<MemberSpec>().unwrap_err();
        assert!(matches!(error("n1"), MemberError::Shape { .. }));
        assert!(matches!(error("10.0.0.1:7401"), MemberError::Shape { .. }));
        assert!(matches!(error("N1=h:1"), MemberError::Id { .. }));
        assert!(matches!(error("=h:1"), MemberError::Id { .. }));
        for address in ["", "h", "h:", ":7401", "h:0", "h:65536", "h:x", "::1:7401", "h /:1", "h:7401 "] {
            assert!(matches!(error(&format!("n1={address}")), MemberError::Address { .. }), "{address}");
        }
        for option in
            ["", "zone", "zone=", "color=red", "weight=x", "weight=-1", "zone=a,zone=b", "weight=1,"]
        {
            assert!(matches!(error(&format!("n1=h:1,{option}")), MemberError::Option { .. }), "{option}");
        }
        for option in ["weight=0".to_owned(), "weight=101".into(), format!("zone={}", "z".repeat(65))] {
            assert!(matches!(error(&format!("n1=h:1,{option}")), MemberError::Invalid { .. }), "{option}");
        }
    }
}
