//! Cards found by what they are, not by the name they happen to have.

use host::IfName;

use crate::error::{Error, Result};
use crate::export::ConfigFile;
use crate::spec::LinkKind;
use crate::state::{LinkKindState, LinkState, NetState};
use crate::{NetSpec, Plan, Step};

/// What a card is known by, whatever its name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum CardMatch {
    /// The hardware address it was made with (`ethtool -P`): it stays when the card is put into another slot.
    Mac([u8; 6]),
    /// Its place, as `udevadm info` shows it behind `pci-` or `usb-`: `0000:03:00.0`. It stays when a broken card is replaced.
    Bus(String),
}

impl CardMatch {
    /// Whether this is the card.
    #[must_use]
    pub fn is(&self, link: &LinkState) -> bool {
        link.kind == LinkKindState::Physical
            && match self {
                // A driver that does not say what the card was made with has never changed it.
                Self::Mac(mac) if link.permanent_mac.is_empty() => link.mac == mac,
                Self::Mac(mac) => link.permanent_mac == mac,
                Self::Bus(place) => link.bus_name.as_ref() == Some(place),
            }
    }

    /// Finds the card. `None` if it is not there, or if several are (then their addresses are no identity).
    #[must_use]
    pub fn find<'a>(&self, state: &'a NetState) -> Option<&'a LinkState> {
        let mut found = state.links.values().filter(|link| self.is(link));
        found.next().filter(|_| found.next().is_none())
    }

    /// The file for `/etc/systemd/network` that gives the card this name at every boot and whenever it is plugged in (systemd.link(5)).
    /// Replaces `/etc/udev/rules.d/70-persistent-net.rules`.
    ///
    /// # Errors
    /// [`Error::Invalid`]: the place is neither on PCI nor on USB (`virtio0`), and systemd has no word for it; match by hardware address.
    pub fn link_file(&self, name: &IfName) -> Result<ConfigFile> {
        let is_pci = |place: &str| place.matches(':').count() == 2 && place.contains('.');
        // udev's ID_PATH: "pci-0000:03:00.0" and, for the kernel's "2-1.3:1.0", "pci-0000:00:14.0-usb-0:1.3:1.0".
        let condition = match self {
            Self::Mac(mac) => format!("PermanentMACAddress={}", shown(*mac)),
            Self::Bus(place) => match place.split_once('-') {
                Some((_, port)) => format!("Path=*-usb-0:{port}"),
                None if is_pci(place) => format!("Path=pci-{place}"),
                None => {
                    let reason =
                        format!("systemd cannot find a card at {place}; match it by its hardware address");
                    return Err(Error::Invalid { object: name.to_string(), reason });
                }
            },
        };
        Ok(ConfigFile {
            name: format!("10-{name}.link"),
            text: format!("[Match]\n{condition}\n\n[Link]\nName={name}\n"),
        })
    }
}

impl std::fmt::Display for CardMatch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mac(mac) => write!(f, "hardware address {}", shown(*mac)),
            Self::Bus(place) => write!(f, "place {place}"),
        }
    }
}

fn shown([a, b, c, d, e, f]: [u8; 6]) -> String {
    format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
}

/// The steps that give the cards of a spec their names, and the state as it is then.
pub(crate) fn rename(state: &NetState, spec: &NetSpec, plan: &mut Plan<Step>) -> Result<Option<NetState>> {
    let mut renamed: Option<NetState> = None;
    for link in &spec.links {
        let Some(card) = &link.card else { continue };
        let bad = |reason: String| Err(Error::Invalid { object: link.name.to_string(), reason });
        if link.kind != LinkKind::Existing {
            return bad("only a network card is found by its address or place".to_owned());
        }
        let now = renamed.as_ref().unwrap_or(state);
        let Some(found) = card.find(now) else {
            return bad(format!("there is no card with {card}, or more than one"));
        };
        if found.name == link.name.as_str() {
            continue;
        }
        if let Some(other) = now.link(&link.name) {
            let reason = format!(
                "the card with {card} is {}, and another link (number {}) has the name {}; rename that first",
                found.name, other.index, link.name
            );
            return bad(reason);
        }
        let from: IfName = found.name.parse()?;
        let (index, was_up) = (found.index, found.up);
        // The kernel renames only what is down (dev_change_name).
        if was_up {
            plan.push(Step::SetUp { name: from.clone(), up: false });
        }
        plan.push(Step::Rename { from, to: link.name.clone() });
        if was_up {
            plan.push(Step::SetUp { name: link.name.clone(), up: true });
        }
        let next = renamed.get_or_insert_with(|| state.clone());
        if let Some(card) = next.links.get_mut(&index) {
            card.name = link.name.to_string();
        }
    }
    Ok(renamed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_written_as_udev_calls_it() {
        let name: IfName = "int1".parse().expect("name");
        let file = |place: &str| CardMatch::Bus(place.to_owned()).link_file(&name);
        for (place, condition) in
            [("0000:03:00.0", "Path=pci-0000:03:00.0\n"), ("2-1.3:1.0", "Path=*-usb-0:1.3:1.0\n")]
        {
            assert!(file(place).expect(place).text.contains(condition));
        }
        let error = file("virtio0").expect_err("no word for it").to_string();
        assert!(error.contains("match it by its hardware address"), "{error}");
    }
}
