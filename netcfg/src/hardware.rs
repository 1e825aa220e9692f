//! What a network card does in hardware and in its driver: rings, queues, interrupt moderation, pause frames, offloads. `ethtool`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use host::ParseError;

/// A setting of a card that is a number (`ethtool -G`, `-L`, `-C`, `-A`). Many drivers switch the card off and on for a moment when rings or
/// channels change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum HardwareAttribute {
    /// How many received packets wait in a queue; `ethtool -G IF rx N`. A ring that is too small loses packets in bursts.
    RxRing,
    /// How many packets to be sent wait in a queue; `ethtool -G IF tx N`.
    TxRing,
    /// Receive queues; `ethtool -L IF rx N`. Their interrupts are new ones afterwards: place them again.
    RxChannels,
    /// Transmit queues; `ethtool -L IF tx N`.
    TxChannels,
    /// Queues for both directions; `ethtool -L IF combined N`.
    CombinedChannels,
    /// How long a received packet may wait for its interrupt, in microseconds; `ethtool -C IF rx-usecs N`. More spares interrupts, and adds to
    /// every answer's latency.
    RxUsecs,
    /// After how many received packets the interrupt comes at the latest; `ethtool -C IF rx-frames N`.
    RxFrames,
    /// The same for sent packets, in microseconds; `ethtool -C IF tx-usecs N`.
    TxUsecs,
    /// The same for sent packets, in packets; `ethtool -C IF tx-frames N`.
    TxFrames,
    /// Whether the driver adapts the receiving side itself: 0 or 1; `ethtool -C IF adaptive-rx on`.
    AdaptiveRx,
    /// Whether it adapts the sending side: 0 or 1; `ethtool -C IF adaptive-tx on`.
    AdaptiveTx,
    /// Whether pause frames are agreed upon with the other end of the cable: 0 or 1; `ethtool -A IF autoneg on`.
    PauseAutoneg,
    /// Whether pause frames that come are heeded: 0 or 1; `ethtool -A IF rx on`.
    PauseRx,
    /// Whether pause frames are sent when the ring is full: 0 or 1; `ethtool -A IF tx on`.
    PauseTx,
}

/// A message of the family "ethtool" that carries some of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Group {
    Rings,
    Channels,
    Coalesce,
    Pause,
}

impl Group {
    pub(crate) const ALL: [Self; 4] = [Self::Rings, Self::Channels, Self::Coalesce, Self::Pause];

    /// `ETHTOOL_MSG_*_GET`; the one that sets follows it.
    pub(crate) fn get(self) -> u8 {
        match self {
            Self::Rings => 15,
            Self::Channels => 17,
            Self::Coalesce => 19,
            Self::Pause => 21,
        }
    }

    fn letter(self) -> char {
        match self {
            Self::Rings => 'G',
            Self::Channels => 'L',
            Self::Coalesce => 'C',
            Self::Pause => 'A',
        }
    }
}

/// What is known of a setting.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Info {
    pub(crate) attribute: HardwareAttribute,
    pub(crate) group: Group,
    /// `ETHTOOL_A_*`.
    pub(crate) number: u16,
    /// The attribute with the most the card takes, if there is one.
    pub(crate) most: Option<u16>,
    /// A switch, one byte on the wire; else four.
    pub(crate) switch: bool,
    /// Its word for ethtool.
    pub(crate) word: &'static str,
}

const fn number(
    attribute: HardwareAttribute,
    group: Group,
    number: u16,
    most: Option<u16>,
    word: &'static str,
) -> Info {
    Info { attribute, group, number, most, switch: false, word }
}

const fn switch(attribute: HardwareAttribute, group: Group, number: u16, word: &'static str) -> Info {
    Info { attribute, group, number, most: None, switch: true, word }
}

const RX_RING: Info = number(HardwareAttribute::RxRing, Group::Rings, 6, Some(2), "rx");

/// Numbers of `include/uapi/linux/ethtool_netlink.h`.
pub(crate) const ATTRIBUTES: [Info; 14] = [
    RX_RING,
    number(HardwareAttribute::TxRing, Group::Rings, 9, Some(5), "tx"),
    number(HardwareAttribute::RxChannels, Group::Channels, 6, Some(2), "rx"),
    number(HardwareAttribute::TxChannels, Group::Channels, 7, Some(3), "tx"),
    number(HardwareAttribute::CombinedChannels, Group::Channels, 9, Some(5), "combined"),
    number(HardwareAttribute::RxUsecs, Group::Coalesce, 2, None, "rx-usecs"),
    number(HardwareAttribute::RxFrames, Group::Coalesce, 3, None, "rx-frames"),
    number(HardwareAttribute::TxUsecs, Group::Coalesce, 6, None, "tx-usecs"),
    number(HardwareAttribute::TxFrames, Group::Coalesce, 7, None, "tx-frames"),
    switch(HardwareAttribute::AdaptiveRx, Group::Coalesce, 11, "adaptive-rx"),
    switch(HardwareAttribute::AdaptiveTx, Group::Coalesce, 12, "adaptive-tx"),
    switch(HardwareAttribute::PauseAutoneg, Group::Pause, 2, "autoneg"),
    switch(HardwareAttribute::PauseRx, Group::Pause, 3, "rx"),
    switch(HardwareAttribute::PauseTx, Group::Pause, 4, "tx"),
];

impl HardwareAttribute {
    pub(crate) fn info(self) -> &'static Info {
        // Every attribute has its row; a test counts them.
        ATTRIBUTES.iter().find(|info| info.attribute == self).unwrap_or(&RX_RING)
    }

    fn shown(self, value: u32) -> String {
        match (self.info().switch, value) {
            (true, 0) => "off".to_owned(),
            (true, _) => "on".to_owned(),
            (false, value) => value.to_string(),
        }
    }
}

impl fmt::Display for HardwareAttribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let info = self.info();
        write!(f, "ethtool -{} {}", info.group.letter(), info.word)
    }
}

/// Names that ethtool has for features beside the kernel's own.
const SHORT: &[(&str, &str)] = &[
    ("gro", "rx-gro"),
    ("lro", "rx-lro"),
    ("gso", "tx-generic-segmentation"),
    ("tso", "tx-tcp-segmentation"),
    ("rx", "rx-checksum"),
    ("rxvlan", "rx-vlan-hw-parse"),
    ("txvlan", "tx-vlan-hw-insert"),
    ("rxhash", "rx-hashing"),
    ("ntuple", "rx-ntuple-filter"),
    ("sg", "tx-scatter-gather"),
];

/// What a card is to do. What is not named stays as it is.
///
/// ```
/// use netcfg::{HardwareAttribute, HardwareSpec};
/// let storage = HardwareSpec::default()
///     .with(HardwareAttribute::RxRing, 4096)
///     .with(HardwareAttribute::PauseRx, 1)
///     .with_feature("lro", false);
/// assert_eq!(storage.to_string(), "ethtool -G rx 4096; ethtool -A rx on; ethtool -K rx-lro off");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct HardwareSpec {
    /// Numbers and switches.
    #[cfg_attr(feature = "serde", serde(default))]
    pub values: BTreeMap<HardwareAttribute, u32>,
    /// Features by the kernel's name (`ethtool -k` shows it), on or off.
    #[cfg_attr(feature = "serde", serde(default))]
    pub features: BTreeMap<String, bool>,
}

impl HardwareSpec {
    /// Sets a number, or a switch to 0 or 1. The plan checks it against what the card takes.
    #[must_use]
    pub fn with(mut self, attribute: HardwareAttribute, value: u32) -> Self {
        self.values.insert(attribute, value);
        self
    }

    /// Sets a feature on or off, by the kernel's name or ethtool's short one (gro, lro, gso, tso, rx, rxvlan, txvlan, rxhash, ntuple, sg);
    /// `ethtool -K`.
    #[must_use]
    pub fn with_feature(mut self, name: &str, on: bool) -> Self {
        let name = SHORT.iter().find(|(short, _)| *short == name).map_or(name, |(_, long)| long);
        self.features.insert(name.to_owned(), on);
        self
    }

    /// Whether it names nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty() && self.features.is_empty()
    }

    /// The commands of `ethtool` for a link.
    pub(crate) fn commands(&self, link: &str) -> String {
        let mut commands = Vec::new();
        for group in Group::ALL {
            let words: String = self
                .values
                .iter()
                .filter(|(attribute, _)| attribute.info().group == group)
                .map(|(attribute, value)| format!(" {} {}", attribute.info().word, attribute.shown(*value)))
                .collect();
            if !words.is_empty() {
                commands.push(format!("ethtool -{}{link}{words}", group.letter()));
            }
        }
        let words: String = self
            .features
            .iter()
            .map(|(name, on)| format!(" {name} {}", if *on { "on" } else { "off" }))
            .collect();
        if !words.is_empty() {
            commands.push(format!("ethtool -K{link}{words}"));
        }
        commands.join("; ")
    }
}

impl fmt::Display for HardwareSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.commands(""))
    }
}

/// What a card does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct HardwareState {
    /// Numbers and switches, as far as its driver has them.
    pub values: BTreeMap<HardwareAttribute, u32>,
    /// The most the card takes, where the driver says so.
    pub most: BTreeMap<HardwareAttribute, u32>,
    /// All features that are on, or off and can be switched on.
    pub features: BTreeMap<String, bool>,
    /// Those of them that nobody can switch (`[fixed]`).
    pub fixed: BTreeSet<String>,
}

impl HardwareState {
    /// What of a spec is not so: what it was and what it is to be.
    pub(crate) fn differing(
        &self,
        spec: &HardwareSpec,
    ) -> Result<Option<(HardwareSpec, HardwareSpec)>, ParseError> {
        let (mut from, mut to) = (HardwareSpec::default(), HardwareSpec::default());
        for (attribute, value) in &spec.values {
            let bad =
                |reason: String| ParseError::new("card setting", format!("{attribute} {value}"), reason);
            let Some(now) = self.values.get(attribute) else {
                return Err(bad("the card's driver has no such setting; leave it out".to_owned()));
            };
            let most = if attribute.info().switch { Some(&1) } else { self.most.get(attribute) };
            if let Some(most) = most.filter(|most| *most < value) {
                return Err(bad(format!("the card takes {most} at most")));
            }
            if now != value {
                from.values.insert(*attribute, *now);
                to.values.insert(*attribute, *value);
            }
        }
        for (name, on) in &spec.features {
            let bad = |reason: &str| ParseError::new("feature of a card", name.clone(), reason);
            match self.features.get(name) {
                None if *on => return Err(bad("the card cannot do that; ethtool -k shows what it can")),
                // Off, and nobody can switch it on.
                None => {}
                Some(now) if now == on => {}
                Some(_) if self.fixed.contains(name) => return Err(bad("the driver lets nobody change it")),
                Some(now) => {
                    from.features.insert(name.clone(), *now);
                    to.features.insert(name.clone(), *on);
                }
            }
        }
        Ok((!to.is_empty()).then_some((from, to)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_has_its_row() {
        let all: BTreeSet<_> = ATTRIBUTES.iter().map(|info| info.attribute).collect();
        assert_eq!(all.len(), ATTRIBUTES.len());
        assert!(ATTRIBUTES.iter().all(|info| info.attribute.info().number == info.number));
        let wire: BTreeSet<_> = ATTRIBUTES.iter().map(|info| (info.group, info.number)).collect();
        assert_eq!(wire.len(), ATTRIBUTES.len(), "no number is there twice");
    }

    #[test]
    fn only_what_differs_is_set_and_what_cannot_be_is_refused() {
        let state = HardwareState {
            values: [(HardwareAttribute::RxRing, 256), (HardwareAttribute::PauseRx, 0)].into(),
            most: [(HardwareAttribute::RxRing, 1024)].into(),
            features: [("rx-gro", true), ("rx-lro", false), ("highdma", true)]
                .map(|(name, on)| (name.to_owned(), on))
                .into(),
            fixed: ["highdma".to_owned()].into(),
        };
        let spec = HardwareSpec::default().with(HardwareAttribute::RxRing, 512).with_feature("gro", true);
        let (from, to) = state.differing(&spec).expect("possible").expect("something");
        assert_eq!(
            (from.to_string(), to.commands(" eth0")),
            ("ethtool -G rx 256".to_owned(), "ethtool -G eth0 rx 512".to_owned())
        );
        let refused = |spec: HardwareSpec| state.differing(&spec).expect_err("refused").to_string();
        assert!(
            refused(HardwareSpec::default().with(HardwareAttribute::RxRing, 2048)).contains("1024 at most")
        );
        assert!(
            refused(HardwareSpec::default().with(HardwareAttribute::TxRing, 1)).contains("no such setting")
        );
        assert!(refused(HardwareSpec::default().with(HardwareAttribute::PauseRx, 2)).contains("1 at most"));
        assert!(refused(HardwareSpec::default().with_feature("highdma", false)).contains("nobody"));
        assert!(refused(HardwareSpec::default().with_feature("tls-hw-record", true)).contains("cannot do"));
        let same = HardwareSpec::default().with_feature("lro", false).with_feature("tls-hw-record", false);
        assert_eq!(state.differing(&same), Ok(None));
    }
}
