//! Addresses with a prefix length, and VLAN numbers.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use host::ParseError;

/// An address with the length of its network part: `10.1.0.100/24`, `fd00::1/64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub struct Prefix {
    /// The address.
    pub address: IpAddr,
    /// The bits of its network part: 0 to 32, or 0 to 128.
    pub length: u8,
}

impl Prefix {
    /// An address with a prefix length.
    ///
    /// # Errors
    /// The length is above 32 (IPv4) or 128 (IPv6).
    pub fn new(address: IpAddr, length: u8) -> Result<Self, ParseError> {
        let most = if address.is_ipv4() { 32 } else { 128 };
        if length > most {
            let reason = format!("the prefix length is at most {most}");
            return Err(ParseError::new("address", format!("{address}/{length}"), reason));
        }
        Ok(Self { address, length })
    }

    /// The bytes of the address, in network order.
    #[must_use]
    pub fn octets(&self) -> Vec<u8> {
        match self.address {
            IpAddr::V4(a) => a.octets().to_vec(),
            IpAddr::V6(a) => a.octets().to_vec(),
        }
    }

    /// The network it is in: the address with all bits behind the prefix cleared.
    #[must_use]
    pub fn network(&self) -> Self {
        let address = match self.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.length)).unwrap_or(0);
                IpAddr::V4((u32::from(address) & mask).into())
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0);
                IpAddr::V6((u128::from(address) & mask).into())
            }
        };
        Self { address, length: self.length }
    }

    /// Whether the other address lies in this one's network.
    #[must_use]
    pub fn contains(&self, other: IpAddr) -> bool {
        let bits = |a: IpAddr| match a {
            IpAddr::V4(a) => u128::from(u32::from(a)) << 96,
            IpAddr::V6(a) => u128::from(a),
        };
        let mask = u128::MAX.checked_shl(128 - u32::from(self.length)).unwrap_or(0);
        self.address.is_ipv4() == other.is_ipv4() && (bits(self.address) ^ bits(other)) & mask == 0
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl FromStr for Prefix {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = |reason: &str| ParseError::new("address", text, reason);
        let (address, length) = text
            .split_once('/')
            .ok_or_else(|| bad("write it with its prefix length, for example 10.1.0.100/24"))?;
        let address = address.parse().map_err(|_| bad("not an IPv4 or IPv6 address"))?;
        let length = length.parse().map_err(|_| bad("the prefix length is a number"))?;
        Self::new(address, length)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for Prefix {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for Prefix {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The number of a VLAN: 1 to 4094. The kernel answers ERANGE above; 0 is a priority tag and no VLAN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(
    feature = "serde",
    derive(serde::Serialize, serde::Deserialize),
    serde(try_from = "u16", into = "u16")
)]
pub struct VlanId(u16);

impl VlanId {
    /// A VLAN number.
    ///
    /// # Errors
    /// It is not 1 to 4094.
    pub fn new(id: u16) -> Result<Self, ParseError> {
        match id {
            1..=4094 => Ok(Self(id)),
            _ => Err(ParseError::new("VLAN number", id.to_string(), "1 to 4094")),
        }
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for VlanId {
    type Error = ParseError;
    fn try_from(id: u16) -> Result<Self, ParseError> {
        Self::new(id)
    }
}

impl From<VlanId> for u16 {
    fn from(id: VlanId) -> Self {
        id.0
    }
}

impl fmt::Display for VlanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes() {
        let net: Prefix = "10.1.24.10/24".parse().expect("good");
        assert!(net.contains("10.1.24.255".parse().expect("good")));
        assert!(
            !net.contains("10.1.25.1".parse().expect("good")) && !net.contains("::1".parse().expect("good"))
        );
        assert_eq!(net.network().to_string(), "10.1.24.0/24");
        let six: Prefix = "fd00::1:2:3/64".parse().expect("good");
        assert_eq!((six.network().to_string().as_str(), net.network().length), ("fd00::/64", 24));
        let all: Prefix = "::/0".parse().expect("good");
        assert!(all.contains("fe80::1".parse().expect("good")));
        for bad in ["10.0.0.1", "10.0.0.1/33", "::1/129", "10.0.0/8", "x/8"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
        assert!(VlanId::new(0).is_err() && VlanId::new(4095).is_err() && VlanId::new(4094).is_ok());
    }
}
