//! The options of a bond: one table that drives encoding, decoding, checks, names and documentation.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use host::ParseError;

use crate::BondMode;

/// An option of a bond besides its mode and its primary port (`IFLA_BOND_*`, `include/uapi/linux/if_link.h`; the rules are those of
/// `drivers/net/bonding/bond_options.c`). What each one takes is in [`BondAttribute::info`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "snake_case"))]
#[non_exhaustive]
pub enum BondAttribute {
    /// How often the carrier of each port is looked at, in ms; 0 never.
    Miimon,
    /// How long a port must have carrier before it is used, in ms; a multiple of `miimon`.
    UpDelay,
    /// How long a port may lack carrier before it is given up, in ms; a multiple of `miimon`.
    DownDelay,
    /// Ask the driver for the carrier (1, the default) or its registers (0); newer kernels know only 1.
    UseCarrier,
    /// How often ARP requests are sent to the targets, in ms; 0 never. Excludes `miimon`.
    ArpInterval,
    /// Whom ARP requests ask: at most 16 IPv4 addresses.
    ArpTargets,
    /// Which answers count.
    ArpValidate,
    /// Whether any target or all must answer.
    ArpAllTargets,
    /// When the primary port takes over again.
    PrimaryReselect,
    /// Whose hardware address the bond has after a failover. Only while it has no ports.
    FailOverMac,
    /// What is hashed to choose a port (balance-xor, 802.3ad, balance-tlb).
    XmitHashPolicy,
    /// Reports of multicast membership after a failover: 0 to 255.
    ResendIgmp,
    /// Gratuitous ARPs and neighbour advertisements after a failover: 0 to 255. One setting for both families.
    PeerNotices,
    /// Whether frames on ports that are not in use are taken.
    AllPortsActive,
    /// How many ports must be up for the bond to have carrier.
    MinLinks,
    /// Seconds between learning packets (balance-tlb, balance-alb).
    LearnInterval,
    /// Packets sent through a port before the next (balance-rr); 0 is at random.
    PacketsPerPort,
    /// How often the partner is to speak (802.3ad): slow 30 s, fast 1 s.
    LacpRate,
    /// Which aggregator is chosen.
    AdSelect,
    /// System priority (802.3ad).
    AdActorSystemPriority,
    /// Upper bits of the port's key (802.3ad).
    AdUserPortKey,
    /// System identity (802.3ad): a hardware address.
    AdActorSystem,
    /// Whether flows are shuffled by load (balance-tlb, balance-alb).
    TlbDynamic,
    /// Milliseconds between the notices after a failover; a multiple of `miimon`.
    PeerNoticeDelay,
    /// Whether LACP speaks first (802.3ad).
    LacpActive,
    /// ARP requests without an answer before a port is given up: 1 to 255.
    MissedMax,
    /// Whom neighbour solicitations ask: at most 16 IPv6 addresses.
    NsTargets,
    /// Whether receiving and sending are switched together (802.3ad); since Linux 6.6.
    CoupledControl,
}

/// What an option is set to.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(untagged))]
#[non_exhaustive]
pub enum BondValue {
    /// A number, or the number of a named choice.
    Number(u32),
    /// Targets.
    Addresses(Vec<IpAddr>),
    /// A hardware address.
    Mac([u8; 6]),
}

impl From<u32> for BondValue {
    fn from(n: u32) -> Self {
        Self::Number(n)
    }
}

impl From<bool> for BondValue {
    fn from(on: bool) -> Self {
        Self::Number(on.into())
    }
}

impl From<Duration> for BondValue {
    /// Milliseconds.
    fn from(t: Duration) -> Self {
        Self::Number(u32::try_from(t.as_millis()).unwrap_or(u32::MAX))
    }
}

impl From<[u8; 6]> for BondValue {
    fn from(mac: [u8; 6]) -> Self {
        Self::Mac(mac)
    }
}

impl From<Vec<IpAddr>> for BondValue {
    fn from(addresses: Vec<IpAddr>) -> Self {
        Self::Addresses(addresses)
    }
}

/// Options with their values.
pub type BondOptions = BTreeMap<BondAttribute, BondValue>;

/// An option's number, if it is there and has one.
pub(crate) fn number(options: &BondOptions, option: BondAttribute) -> Option<u32> {
    match options.get(&option) {
        Some(BondValue::Number(n)) => Some(*n),
        _ => None,
    }
}

/// The options without those that the kernel refuses beside others, though they say nothing then.
pub(crate) fn settable(options: &BondOptions) -> BondOptions {
    let mut options = options.clone();
    // Delays without miimon, even zero ones (bond_option_updelay_set: EPERM without a word).
    if number(&options, BondAttribute::Miimon) == Some(0) {
        for delay in BondAttribute::DELAYS {
            options.remove(&delay);
        }
    }
    // A monitor that is off beside one that is on ("ARP monitoring cannot be used with MII monitoring").
    for monitor in [BondAttribute::Miimon, BondAttribute::ArpInterval] {
        if number(&options, monitor) == Some(0) && options.len() > 1 {
            let other = match monitor {
                BondAttribute::Miimon => BondAttribute::ArpInterval,
                _ => BondAttribute::Miimon,
            };
            if number(&options, other).is_some_and(|n| n > 0) {
                options.remove(&monitor);
            }
        }
    }
    options
}

/// How an option travels in netlink.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BondWire {
    /// One byte.
    U8,
    /// Two bytes.
    U16,
    /// Four bytes.
    U32,
    /// Six bytes.
    Mac,
    /// A nest of IPv4 addresses.
    Targets4,
    /// A nest of IPv6 addresses.
    Targets6,
}

/// When an option of a living bond can be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum BondChange {
    /// At any time.
    Any,
    /// Only while the bond is down (`BOND_OPTFLAG_IFDOWN`: EBUSY).
    Down,
    /// Only while it has no ports (`BOND_OPTFLAG_NOSLAVES`: ENOTEMPTY).
    Empty,
}

/// What is known of an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BondOptionInfo {
    /// The option.
    pub attribute: BondAttribute,
    /// `IFLA_BOND_*`.
    pub number: u16,
    /// How it travels.
    pub wire: BondWire,
    /// Its name in `ip link set type bond`.
    pub ip: &'static str,
    /// Its keys in `interfaces(5)`; the first is written.
    pub interfaces: &'static [&'static str],
    /// Its key in section `[Bond]` of systemd.netdev(5).
    pub networkd: Option<&'static str>,
    /// Its key among the parameters of a netplan bond.
    pub netplan: Option<&'static str>,
    /// The names of its numbers from 0 on; empty if it is a plain number.
    pub names: &'static [&'static str],
    /// Smallest and largest number.
    pub range: (u32, u32),
    /// The modes in which the kernel takes it (EACCES in others); bit n is mode n.
    pub modes: u8,
    /// When it can be changed.
    pub change: BondChange,
}

const ALL: u8 = 0x7f;
const LACP: u8 = 1 << 4;
const RR: u8 = 1;
const TLB_ALB: u8 = 1 << 5 | 1 << 6;
const NOT_LACP_TLB_ALB: u8 = ALL & !(LACP | TLB_ALB);
/// The kernel's `INT_MAX`.
const MOST: u32 = 0x7fff_ffff;
const SWITCH: &[&str] = &["off", "on"];

const MIIMON: BondOptionInfo = BondOptionInfo {
    attribute: BondAttribute::Miimon,
    number: 3,
    wire: BondWire::U32,
    ip: "miimon",
    interfaces: &["bond-miimon"],
    networkd: Some("MIIMonitorSec"),
    netplan: Some("mii-monitor-interval"),
    names: &[],
    range: (0, MOST),
    modes: ALL,
    change: BondChange::Any,
};

/// A row that differs from [`MIIMON`] in what is given.
macro_rules! row {
    ($attribute:ident, $number:literal, $wire:ident, $ip:literal, $interfaces:expr, $networkd:expr, $netplan:expr $(, $field:ident: $value:expr)*) => {
        BondOptionInfo {
            attribute: BondAttribute::$attribute,
            number: $number,
            wire: BondWire::$wire,
            ip: $ip,
            interfaces: $interfaces,
            networkd: $networkd,
            netplan: $netplan,
            $($field: $value,)*
            ..MIIMON
        }
    };
}

/// All options, in the order the kernel applies them (`bond_changelink`).
#[rustfmt::skip]
const TABLE: &[BondOptionInfo] = &[
    MIIMON,
    row!(UpDelay, 4, U32, "updelay", &["bond-updelay"], Some("UpDelaySec"), Some("up-delay")),
    row!(DownDelay, 5, U32, "downdelay", &["bond-downdelay"], Some("DownDelaySec"), Some("down-delay")),
    row!(PeerNoticeDelay, 28, U32, "peer_notify_delay", &["bond-peer-notif-delay"], None, None, range: (0, 300_000)),
    row!(UseCarrier, 6, U8, "use_carrier", &["bond-use-carrier"], None, None, names: SWITCH, range: (0, 1)),
    row!(ArpInterval, 7, U32, "arp_interval", &["bond-arp-interval"], Some("ARPIntervalSec"), Some("arp-interval"),
        modes: NOT_LACP_TLB_ALB),
    row!(ArpTargets, 8, Targets4, "arp_ip_target", &["bond-arp-ip-target"], Some("ARPIPTargets"), Some("arp-ip-targets")),
    row!(NsTargets, 31, Targets6, "ns_ip6_target", &["bond-ns-ip6-target"], None, None),
    row!(ArpValidate, 9, U32, "arp_validate", &["bond-arp-validate"], Some("ARPValidate"), Some("arp-validate"),
        names: &["none", "active", "backup", "all", "filter", "filter_active", "filter_backup"], range: (0, 6), modes: NOT_LACP_TLB_ALB),
    row!(ArpAllTargets, 10, U32, "arp_all_targets", &["bond-arp-all-targets"], Some("ARPAllTargets"), Some("arp-all-targets"),
        names: &["any", "all"], range: (0, 1)),
    row!(PrimaryReselect, 12, U8, "primary_reselect", &["bond-primary-reselect"], Some("PrimaryReselectPolicy"),
        Some("primary-reselect-policy"), names: &["always", "better", "failure"], range: (0, 2)),
    row!(FailOverMac, 13, U8, "fail_over_mac", &["bond-fail-over-mac"], Some("FailOverMACPolicy"), Some("fail-over-mac-policy"),
        names: &["none", "active", "follow"], range: (0, 2), change: BondChange::Empty),
    row!(XmitHashPolicy, 14, U8, "xmit_hash_policy", &["bond-xmit-hash-policy"], Some("TransmitHashPolicy"), Some("transmit-hash-policy"),
        names: &["layer2", "layer3+4", "layer2+3", "encap2+3", "encap3+4", "vlan+srcmac"], range: (0, 5)),
    row!(ResendIgmp, 15, U32, "resend_igmp", &["bond-resend-igmp"], Some("ResendIGMP"), Some("resend-igmp"), range: (0, 255)),
    row!(PeerNotices, 16, U8, "num_grat_arp", &["bond-num-grat-arp", "bond-num-unsol-na"], Some("GratuitousARP"), Some("gratuitous-arp"),
        range: (0, 255)),
    row!(AllPortsActive, 17, U8, "all_slaves_active", &["bond-all-slaves-active"], Some("AllSlavesActive"), Some("all-members-active"),
        names: SWITCH, range: (0, 1)),
    row!(MinLinks, 18, U32, "min_links", &["bond-min-links"], Some("MinLinks"), Some("min-links")),
    row!(LearnInterval, 19, U32, "lp_interval", &["bond-lp-interval"], Some("LearnPacketIntervalSec"), Some("learn-packet-interval"),
        range: (1, MOST)),
    row!(PacketsPerPort, 20, U32, "packets_per_slave", &["bond-packets-per-slave"], Some("PacketsPerSlave"), Some("packets-per-member"),
        range: (0, 65_535), modes: RR),
    row!(LacpActive, 29, U8, "lacp_active", &["bond-lacp-active"], None, None,
        names: SWITCH, range: (0, 1), modes: LACP, change: BondChange::Down),
    row!(LacpRate, 21, U8, "lacp_rate", &["bond-lacp-rate"], Some("LACPTransmitRate"), Some("lacp-rate"),
        names: &["slow", "fast"], range: (0, 1), modes: LACP, change: BondChange::Down),
    row!(AdSelect, 22, U8, "ad_select", &["bond-ad-select"], Some("AdSelect"), Some("ad-select"),
        names: &["stable", "bandwidth", "count"], range: (0, 2), change: BondChange::Down),
    row!(AdActorSystemPriority, 24, U16, "ad_actor_sys_prio", &["bond-ad-actor-sys-prio"], Some("AdActorSystemPriority"), None,
        range: (1, 65_535), modes: LACP),
    row!(AdUserPortKey, 25, U16, "ad_user_port_key", &["bond-ad-user-port-key"], Some("AdUserPortKey"), None,
        range: (0, 1023), modes: LACP, change: BondChange::Down),
    row!(AdActorSystem, 26, Mac, "ad_actor_system", &["bond-ad-actor-system"], Some("AdActorSystem"), None, modes: LACP),
    row!(TlbDynamic, 27, U8, "tlb_dynamic_lb", &["bond-tlb-dynamic-lb"], Some("DynamicTransmitLoadBalancing"), None,
        names: SWITCH, range: (0, 1), modes: TLB_ALB, change: BondChange::Down),
    row!(MissedMax, 30, U8, "arp_missed_max", &["bond-arp-missed-max"], Some("ARPMissedMax"), None,
        range: (1, 255), modes: NOT_LACP_TLB_ALB),
    row!(CoupledControl, 32, U8, "coupled_control", &["bond-coupled-control"], None, None,
        names: SWITCH, range: (0, 1), modes: LACP, change: BondChange::Down),
];

impl BondAttribute {
    /// Those that are multiples of `miimon` and cannot be set without it. The kernel rescales them silently when it changes.
    pub(crate) const DELAYS: [Self; 3] = [Self::UpDelay, Self::DownDelay, Self::PeerNoticeDelay];

    /// All options.
    pub fn all() -> impl Iterator<Item = &'static BondOptionInfo> {
        TABLE.iter()
    }

    /// What is known of this option.
    #[must_use]
    pub fn info(self) -> &'static BondOptionInfo {
        // Every option has its row; a test counts them.
        TABLE.iter().find(|info| info.attribute == self).unwrap_or(&MIIMON)
    }

    /// The option of a kernel's number; `None` for one this table does not know.
    #[must_use]
    pub fn from_number(number: u16) -> Option<&'static BondOptionInfo> {
        TABLE.iter().find(|info| info.number == number)
    }

    /// The option of a name in `ip link set type bond` or in `interfaces(5)`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<&'static BondOptionInfo> {
        TABLE.iter().find(|info| info.ip == name || info.interfaces.contains(&name))
    }
}

impl fmt::Display for BondAttribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.info().ip)
    }
}

/// The port rules of one moment: what the kernel looks at before it takes an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BondMoment {
    /// The bond's mode.
    pub mode: BondMode,
    /// Whether it is up.
    pub up: bool,
    /// Whether it has ports.
    pub has_ports: bool,
}

impl BondMoment {
    /// A bond of a mode, up or down, with ports or without.
    #[must_use]
    pub fn new(mode: BondMode, up: bool, has_ports: bool) -> Self {
        Self { mode, up, has_ports }
    }
}

impl BondOptionInfo {
    /// Whether a bond of this mode has the option.
    #[must_use]
    pub fn is_of(&self, mode: BondMode) -> bool {
        1_u8.checked_shl(mode.number().into()).is_some_and(|bit| self.modes & bit != 0)
    }

    /// Why the kernel refuses the option at this moment, whatever its value, and with which errno; `None` if it does not. The kernel
    /// refuses some even with the value they have.
    #[must_use]
    pub fn refusal(&self, moment: BondMoment) -> Option<(i32, String)> {
        // bond_opt_check_deps looks at these in this order.
        if !self.is_of(moment.mode) {
            return Some((libc::EACCES, format!("{} is not for mode {}", self.ip, moment.mode)));
        }
        match self.change {
            BondChange::Empty if moment.has_ports => {
                Some((libc::ENOTEMPTY, format!("{} can only be set while the bond has no ports", self.ip)))
            }
            BondChange::Down if moment.up => {
                Some((libc::EBUSY, format!("{} can only be set while the bond is down", self.ip)))
            }
            _ => None,
        }
    }

    /// Checks a value by itself.
    ///
    /// # Errors
    /// It is out of range, or not of the option's kind; the text says what would be right.
    pub fn check(&self, value: &BondValue) -> Result<(), ParseError> {
        let bad = |reason: String| Err(ParseError::new(self.ip, self.show(value), reason));
        match (self.wire, value) {
            (BondWire::U8 | BondWire::U16 | BondWire::U32, BondValue::Number(n)) => {
                let (least, most) = self.range;
                if (least..=most).contains(n) {
                    Ok(())
                } else if self.names.is_empty() {
                    bad(format!("{least} to {most}"))
                } else {
                    bad(format!("one of {}", self.names.join(", ")))
                }
            }
            (BondWire::Mac, BondValue::Mac([first, ..])) => {
                if first & 1 == 1 {
                    return bad("a hardware address of one card, not of a group".to_owned());
                }
                Ok(())
            }
            (BondWire::Targets4, BondValue::Addresses(all)) => self.targets(all, |address| {
                matches!(address, IpAddr::V4(a) if !a.is_unspecified() && !a.is_broadcast())
            }),
            (BondWire::Targets6, BondValue::Addresses(all)) => self.targets(all, |address| {
                matches!(address, IpAddr::V6(a) if !a.is_unspecified() && !a.is_multicast() && !a.is_loopback())
            }),
            (BondWire::Mac, _) => bad("a hardware address such as 02:00:00:00:00:01".to_owned()),
            (BondWire::Targets4, _) => bad("IPv4 addresses".to_owned()),
            (BondWire::Targets6, _) => bad("IPv6 addresses".to_owned()),
            _ => bad("a number".to_owned()),
        }
    }

    fn targets(&self, all: &[IpAddr], good: impl Fn(&IpAddr) -> bool) -> Result<(), ParseError> {
        let bad = |text: String, reason| Err(ParseError::new(self.ip, text, reason));
        if all.len() > 16 {
            return bad(all.len().to_string(), "at most 16 targets");
        }
        for (number, address) in all.iter().enumerate() {
            if !good(address) {
                return bad(address.to_string(), "an address of one machine, of the option's family");
            }
            if all.iter().take(number).any(|other| other == address) {
                return bad(address.to_string(), "each target once");
            }
        }
        Ok(())
    }

    /// Reads a value as `ip` and `interfaces(5)` write it: a name, a number, addresses separated by commas or blanks, a hardware address.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn parse(&self, text: &str) -> Result<BondValue, ParseError> {
        let bad = |reason: String| ParseError::new(self.ip, text, reason);
        let value = match self.wire {
            BondWire::Mac => {
                let octets: Option<Vec<u8>> =
                    text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
                let mac = octets.and_then(|o| <[u8; 6]>::try_from(o).ok());
                BondValue::Mac(
                    mac.ok_or_else(|| bad("a hardware address such as 02:00:00:00:00:01".to_owned()))?,
                )
            }
            BondWire::Targets4 | BondWire::Targets6 => {
                let words = text.split([',', ' ', '\t']).filter(|word| !word.is_empty());
                let all: Result<Vec<IpAddr>, _> = words.map(str::parse).collect();
                BondValue::Addresses(all.map_err(|_| bad("addresses separated by commas".to_owned()))?)
            }
            _ => {
                let named = self.names.iter().zip(0_u32..).find(|(name, _)| **name == text).map(|(_, n)| n);
                let switch = match text {
                    "yes" | "true" if self.names == SWITCH => Some(1),
                    "no" | "false" if self.names == SWITCH => Some(0),
                    _ => None,
                };
                let number = named.or(switch).or_else(|| text.parse().ok());
                BondValue::Number(number.ok_or_else(|| match self.names {
                    [] => bad(format!("a number, {} to {}", self.range.0, self.range.1)),
                    names => bad(format!("one of {}", names.join(", "))),
                })?)
            }
        };
        self.check(&value).map(|()| value)
    }

    /// Writes a value as `ip` takes it.
    #[must_use]
    pub fn show(&self, value: &BondValue) -> String {
        match value {
            BondValue::Number(n) => {
                let name = usize::try_from(*n).ok().and_then(|n| self.names.get(n));
                name.map_or_else(|| n.to_string(), |name| (*name).to_owned())
            }
            BondValue::Addresses(all) => all.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
            BondValue::Mac(mac) => mac.map(|octet| format!("{octet:02x}")).join(":"),
        }
    }

    /// The value as bytes of a netlink attribute; targets one by one.
    pub(crate) fn encode(&self, value: &BondValue) -> Encoded {
        match (self.wire, value) {
            (BondWire::U8, BondValue::Number(n)) => Encoded::Bytes(vec![u8::try_from(*n).unwrap_or(u8::MAX)]),
            (BondWire::U16, BondValue::Number(n)) => {
                Encoded::Bytes(u16::try_from(*n).unwrap_or(u16::MAX).to_ne_bytes().to_vec())
            }
            (_, BondValue::Number(n)) => Encoded::Bytes(n.to_ne_bytes().to_vec()),
            (_, BondValue::Mac(mac)) => Encoded::Bytes(mac.to_vec()),
            (_, BondValue::Addresses(all)) => Encoded::Nest(
                all.iter()
                    .map(|address| match address {
                        IpAddr::V4(a) => a.octets().to_vec(),
                        IpAddr::V6(a) => a.octets().to_vec(),
                    })
                    .collect(),
            ),
        }
    }

    /// The value of a netlink attribute; `None` if it has not the option's form.
    pub(crate) fn decode(&self, payload: &[u8]) -> Option<BondValue> {
        Some(match self.wire {
            BondWire::U8 => BondValue::Number(payload.first().copied()?.into()),
            BondWire::U16 => BondValue::Number(u16::from_ne_bytes(payload.try_into().ok()?).into()),
            BondWire::U32 => BondValue::Number(u32::from_ne_bytes(payload.try_into().ok()?)),
            BondWire::Mac => BondValue::Mac(payload.try_into().ok()?),
            BondWire::Targets4 | BondWire::Targets6 => {
                let address = |payload: &[u8]| match payload.len() {
                    4 => Some(IpAddr::V4(Ipv4Addr::from(<[u8; 4]>::try_from(payload).ok()?))),
                    16 => Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(payload).ok()?))),
                    _ => None,
                };
                BondValue::Addresses(
                    host::nl::attributes(payload).flatten().filter_map(|a| address(a.payload)).collect(),
                )
            }
        })
    }
}

/// An encoded value.
pub(crate) enum Encoded {
    /// Of a plain attribute.
    Bytes(Vec<u8>),
    /// Of the children of a nest, numbered from 0.
    Nest(Vec<Vec<u8>>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_has_its_row_and_every_number_and_name_is_its_own() {
        for (number, info) in TABLE.iter().enumerate() {
            assert_eq!(info.attribute.info(), info);
            assert_eq!(BondAttribute::from_number(info.number), Some(info));
            assert_eq!(BondAttribute::from_name(info.ip), Some(info));
            for other in TABLE.iter().skip(number + 1) {
                assert_ne!((info.number, info.ip), (other.number, other.ip));
                assert!(info.number != other.number && info.ip != other.ip);
            }
            assert!(
                info.names.is_empty() || info.names.len() == usize::try_from(info.range.1).expect("fits") + 1
            );
        }
        assert_eq!((TABLE.len(), BondAttribute::Miimon.info().number), (28, 3));
        assert_eq!(BondAttribute::CoupledControl.info().number, 32);
    }

    #[test]
    fn values_are_read_as_they_are_written() {
        for (attribute, text) in [
            (BondAttribute::LacpRate, "fast"),
            (BondAttribute::XmitHashPolicy, "layer3+4"),
            (BondAttribute::ArpTargets, "10.0.0.1,10.0.0.2"),
            (BondAttribute::NsTargets, "fd00::1"),
            (BondAttribute::AdActorSystem, "02:00:00:00:00:0a"),
            (BondAttribute::MinLinks, "2"),
            (BondAttribute::TlbDynamic, "off"),
        ] {
            let info = attribute.info();
            assert_eq!(info.show(&info.parse(text).expect(text)), text);
        }
        for (attribute, text, hint) in [
            (BondAttribute::LacpRate, "quick", "one of slow, fast"),
            (BondAttribute::LacpRate, "2", "one of slow, fast"),
            (BondAttribute::MissedMax, "0", "1 to 255"),
            (BondAttribute::ArpTargets, "10.0.0.1,10.0.0.1", "each target once"),
            (BondAttribute::ArpTargets, "fd00::1", "of the option's family"),
            (BondAttribute::AdActorSystem, "01:00:00:00:00:0a", "not of a group"),
            (BondAttribute::AdActorSystem, "01:00", "hardware address"),
        ] {
            let error = attribute.info().parse(text).expect_err(text).to_string();
            assert!(error.contains(hint), "{error}");
        }
    }
}
