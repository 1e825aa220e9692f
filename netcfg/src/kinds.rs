//! Links other than bonds: VLANs, bridges, macvlans, veth pairs.

use std::collections::BTreeMap;
use std::fmt;

use host::{IfName, ParseError};

use crate::VlanId;

/// A VLAN (`net/8021q`). Parent, number and protocol of a living one cannot change; flags and priority maps can.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct VlanSpec {
    /// The link it is on.
    pub parent: IfName,
    /// Its number.
    pub id: VlanId,
    /// The tag's protocol; 802.1Q by default.
    #[cfg_attr(feature = "serde", serde(default))]
    pub protocol: VlanProtocol,
    /// Flags to set or clear; those not named stay as they are. The kernel makes a VLAN with `reorder_hdr` on and the others off.
    #[cfg_attr(feature = "serde", serde(default))]
    pub flags: BTreeMap<VlanFlag, bool>,
    /// What priority a tag gets, by the packet's own (`SO_PRIORITY`); those not named stay as they are, 0 at first.
    #[cfg_attr(feature = "serde", serde(default))]
    pub egress_qos: BTreeMap<u32, u32>,
    /// What priority a packet gets, by its tag's (0 to 7).
    #[cfg_attr(feature = "serde", serde(default))]
    pub ingress_qos: BTreeMap<u32, u32>,
}

impl VlanSpec {
    /// An 802.1Q VLAN on a link.
    #[must_use]
    pub fn new(parent: IfName, id: VlanId) -> Self {
        let (flags, egress_qos, ingress_qos) = Default::default();
        Self { parent, id, protocol: VlanProtocol::default(), flags, egress_qos, ingress_qos }
    }

    /// Chooses the tag's protocol; `ip link add ... type vlan protocol 802.1ad`.
    #[must_use]
    pub fn with_protocol(mut self, protocol: VlanProtocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// Sets or clears a flag; `ip link set ... type vlan gvrp on`.
    #[must_use]
    pub fn with_flag(mut self, flag: VlanFlag, on: bool) -> Self {
        self.flags.insert(flag, on);
        self
    }

    /// Gives outgoing packets of a priority (`SO_PRIORITY`) this priority in their tag, 0 to 7; `egress-qos-map FROM:TO`.
    #[must_use]
    pub fn with_egress_qos(mut self, from: u32, to: u32) -> Self {
        self.egress_qos.insert(from, to);
        self
    }

    /// Gives incoming packets of a tag's priority (0 to 7) this priority; `ingress-qos-map FROM:TO`.
    #[must_use]
    pub fn with_ingress_qos(mut self, from: u32, to: u32) -> Self {
        self.ingress_qos.insert(from, to);
        self
    }
}

/// A flag of a VLAN (`enum vlan_flags`, `include/uapi/linux/if_vlan.h`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum VlanFlag {
    /// `reorder_hdr`: the tag is taken out before others see the frame. On by default.
    ReorderHdr,
    /// `gvrp`: tell switches by GVRP that this VLAN is wanted here.
    Gvrp,
    /// `loose_binding`: up and down are its own, whatever its parent's are.
    LooseBinding,
    /// `mvrp`: tell switches by MVRP.
    Mvrp,
    /// `bridge_binding`: carrier follows the bridge's ports that are in this VLAN.
    BridgeBinding,
}

impl VlanFlag {
    /// All flags.
    pub const ALL: [Self; 5] =
        [Self::ReorderHdr, Self::Gvrp, Self::LooseBinding, Self::Mvrp, Self::BridgeBinding];

    /// The flag of a name in `ip link set type vlan`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|flag| flag.to_string() == name)
    }

    /// The kernel's bit.
    #[must_use]
    pub fn bit(self) -> u32 {
        match self {
            Self::ReorderHdr => 1,
            Self::Gvrp => 2,
            Self::LooseBinding => 4,
            Self::Mvrp => 8,
            Self::BridgeBinding => 16,
        }
    }
}

impl fmt::Display for VlanFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReorderHdr => "reorder_hdr",
            Self::Gvrp => "gvrp",
            Self::LooseBinding => "loose_binding",
            Self::Mvrp => "mvrp",
            Self::BridgeBinding => "bridge_binding",
        })
    }
}

/// The protocol of a VLAN's tag: its Ethernet type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum VlanProtocol {
    /// 802.1Q, 0x8100.
    #[default]
    #[cfg_attr(feature = "serde", serde(rename = "802.1Q"))]
    Dot1Q,
    /// 802.1ad, 0x88a8: the outer tag of two.
    #[cfg_attr(feature = "serde", serde(rename = "802.1ad"))]
    Dot1Ad,
    /// Another one a kernel may have.
    #[cfg_attr(feature = "serde", serde(skip))]
    Other(u16),
}

impl VlanProtocol {
    /// The Ethernet type.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::Dot1Q => 0x8100,
            Self::Dot1Ad => 0x88a8,
            Self::Other(number) => number,
        }
    }

    /// The protocol of an Ethernet type; an unknown one is kept.
    #[must_use]
    pub fn from_number(number: u16) -> Self {
        match number {
            0x8100 => Self::Dot1Q,
            0x88a8 => Self::Dot1Ad,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for VlanProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dot1Q => f.write_str("802.1Q"),
            Self::Dot1Ad => f.write_str("802.1ad"),
            Self::Other(number) => write!(f, "0x{number:04x}"),
        }
    }
}

/// How a macvlan deals with its siblings on one card (`enum macvlan_mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
#[non_exhaustive]
pub enum MacvlanMode {
    /// They do not see each other.
    Private,
    /// They see each other through a switch that reflects. The kernel's default.
    #[default]
    Vepa,
    /// They see each other directly.
    Bridge,
    /// One macvlan has the card for itself. Cannot be left or entered on a living one.
    Passthru,
    /// Frames from listed addresses only.
    Source,
    /// A mode of a newer kernel.
    #[cfg_attr(feature = "serde", serde(skip))]
    Other(u32),
}

const MACVLAN_MODES: [(MacvlanMode, &str, u32); 5] = [
    (MacvlanMode::Private, "private", 1),
    (MacvlanMode::Vepa, "vepa", 2),
    (MacvlanMode::Bridge, "bridge", 4),
    (MacvlanMode::Passthru, "passthru", 8),
    (MacvlanMode::Source, "source", 16),
];

impl MacvlanMode {
    /// The kernel's number.
    #[must_use]
    pub fn number(self) -> u32 {
        match self {
            Self::Other(number) => number,
            mode => MACVLAN_MODES.iter().find(|(m, ..)| *m == mode).map_or(0, |(.., number)| *number),
        }
    }

    /// The mode of a kernel's number; an unknown one is kept.
    #[must_use]
    pub fn from_number(number: u32) -> Self {
        MACVLAN_MODES.iter().find(|(.., n)| *n == number).map_or(Self::Other(number), |(mode, ..)| *mode)
    }
}

impl fmt::Display for MacvlanMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match MACVLAN_MODES.iter().find(|(mode, ..)| mode == self) {
            Some((_, name, _)) => f.write_str(name),
            None => write!(f, "{}", self.number()),
        }
    }
}

/// A bridge (`net/bridge`): its ports and what it is told.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct BridgeSpec {
    /// Its ports. Others that it has are left alone: virtual machines come and go.
    pub ports: Vec<IfName>,
    /// Options; what is not named is left as it is, or as the kernel makes it.
    #[cfg_attr(feature = "serde", serde(default))]
    pub options: BTreeMap<BridgeAttribute, u32>,
}

impl BridgeSpec {
    /// A bridge without ports, without spanning tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a port; `ip link set PORT master BRIDGE`.
    #[must_use]
    pub fn with_port(mut self, port: IfName) -> Self {
        self.ports.push(port);
        self
    }

    /// Sets an option; `ip link set BRIDGE type bridge OPTION VALUE`. The plan checks it.
    #[must_use]
    pub fn with_option(mut self, option: BridgeAttribute, value: u32) -> Self {
        self.options.insert(option, value);
        self
    }
}

/// An option of a bridge (`IFLA_BR_*`), in the units of `ip`: times in hundredths of a second.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum BridgeAttribute {
    /// How long a new port listens and learns before it forwards; default 1500. With spanning tree 200 to 3000.
    ForwardDelay,
    /// How often the root speaks; default 200. 100 to 1000.
    HelloTime,
    /// How long what the root said holds; default 2000. 600 to 4000.
    MaxAge,
    /// How long an address is remembered; default 30000.
    AgeingTime,
    /// Spanning tree: 0 (the default) or 1.
    StpState,
    /// The bridge's priority in the tree; default 32768.
    Priority,
    /// Whether ports have VLANs: 0 (the default) or 1.
    VlanFiltering,
    /// Whether multicast goes only to those who asked for it: 1 (the default) or 0.
    McastSnooping,
    /// The VLAN that untagged frames are in; default 1. 0 to 4094.
    VlanDefaultPvid,
}

/// What is known of a bridge's option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct BridgeOptionInfo {
    pub(crate) attribute: BridgeAttribute,
    /// `IFLA_BR_*`.
    pub(crate) number: u16,
    /// Bytes on the wire.
    pub(crate) width: usize,
    pub(crate) ip: &'static str,
    range: (u32, u32),
}

const fn row(
    attribute: BridgeAttribute,
    number: u16,
    width: usize,
    ip: &'static str,
    range: (u32, u32),
) -> BridgeOptionInfo {
    BridgeOptionInfo { attribute, number, width, ip, range }
}

const FORWARD_DELAY: BridgeOptionInfo = row(BridgeAttribute::ForwardDelay, 1, 4, "forward_delay", (0, 3000));

pub(crate) const BRIDGE_OPTIONS: [BridgeOptionInfo; 9] = [
    FORWARD_DELAY,
    row(BridgeAttribute::HelloTime, 2, 4, "hello_time", (100, 1000)),
    row(BridgeAttribute::MaxAge, 3, 4, "max_age", (600, 4000)),
    row(BridgeAttribute::AgeingTime, 4, 4, "ageing_time", (0, 100_000_000)),
    row(BridgeAttribute::StpState, 5, 4, "stp_state", (0, 1)),
    row(BridgeAttribute::Priority, 6, 2, "priority", (0, 65_535)),
    row(BridgeAttribute::VlanFiltering, 7, 1, "vlan_filtering", (0, 1)),
    row(BridgeAttribute::McastSnooping, 23, 1, "mcast_snooping", (0, 1)),
    row(BridgeAttribute::VlanDefaultPvid, 39, 2, "vlan_default_pvid", (0, 4094)),
];

impl BridgeAttribute {
    pub(crate) fn info(self) -> &'static BridgeOptionInfo {
        // Every option has its row; a test counts them.
        BRIDGE_OPTIONS.iter().find(|info| info.attribute == self).unwrap_or(&FORWARD_DELAY)
    }

    /// The option of a name in `ip link set type bridge`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        BRIDGE_OPTIONS.iter().find(|info| info.ip == name).map(|info| info.attribute)
    }

    /// Checks a value.
    ///
    /// # Errors
    /// It is out of range; the text says what would be right.
    pub fn check(self, value: u32) -> Result<(), ParseError> {
        let info = self.info();
        let (least, most) = info.range;
        if (least..=most).contains(&value) {
            return Ok(());
        }
        Err(ParseError::new(info.ip, value.to_string(), format!("{least} to {most}")))
    }
}

impl fmt::Display for BridgeAttribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.info().ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_and_flag_has_its_own_number() {
        for (at, info) in BRIDGE_OPTIONS.iter().enumerate() {
            assert_eq!(info.attribute.info(), info);
            assert!(BRIDGE_OPTIONS.iter().skip(at + 1).all(|o| o.number != info.number && o.ip != info.ip));
        }
        assert!(BridgeAttribute::HelloTime.check(50).is_err() && BridgeAttribute::StpState.check(2).is_err());
        assert_eq!(VlanFlag::ALL.iter().map(|flag| flag.bit()).sum::<u32>(), 31);
        for number in [1, 2, 4, 8, 16, 32] {
            assert_eq!(MacvlanMode::from_number(number).number(), number);
        }
        for number in [0x8100, 0x88a8, 0x9100] {
            assert_eq!(VlanProtocol::from_number(number).number(), number);
        }
    }
}
