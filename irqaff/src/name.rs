//! Names of devices that have interrupts.

use std::fmt;
use std::str::FromStr;

use host::{IfName, ParseError};

/// A device whose interrupts are placed: a network interface, or a controller of disks.
///
/// | text | device |
/// |---|---|
/// | `int1`, `bond0.24`, `net:host0` | a network interface; a bond or VLAN stands for its physical ports. `net:` where the name has another meaning here |
/// | `0000:03:00.0` | a PCI device, by the address `lspci -D` shows |
/// | `nvme0` | an NVMe controller |
/// | `host2` | a SCSI host, as `lsscsi -H` shows it: the controller it belongs to |
///
/// ```
/// use irqaff::DeviceName;
/// let raid: DeviceName = "0000:03:00.0".parse()?;
/// assert_eq!(raid, DeviceName::Pci("0000:03:00.0".to_owned()));
/// assert_eq!("net:host0".parse::<DeviceName>()?.to_string(), "net:host0");
/// # Ok::<(), irqaff::ParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(try_from = "String", into = "String"))]
#[non_exhaustive]
pub enum DeviceName {
    /// A network interface (`/sys/class/net`).
    Link(IfName),
    /// A PCI device (`/sys/bus/pci/devices`).
    Pci(String),
    /// An NVMe controller (`/sys/class/nvme`).
    Nvme(u32),
    /// A SCSI host (`/sys/class/scsi_host`).
    ScsiHost(u32),
}

impl DeviceName {
    /// The network interface, where it is one.
    #[must_use]
    pub fn link(&self) -> Option<&IfName> {
        match self {
            Self::Link(name) => Some(name),
            _ => None,
        }
    }

    /// Where the kernel shows it.
    pub(crate) fn path(&self) -> String {
        match self {
            Self::Link(name) => format!("/sys/class/net/{name}"),
            Self::Pci(address) => format!("/sys/bus/pci/devices/{address}"),
            Self::Nvme(number) => format!("/sys/class/nvme/nvme{number}"),
            Self::ScsiHost(number) => format!("/sys/class/scsi_host/host{number}"),
        }
    }
}

/// `0000:03:00.0`: domain, bus, device, function.
fn is_pci(text: &str) -> bool {
    let hex = |part: &str, least: usize| part.len() >= least && part.chars().all(|c| c.is_ascii_hexdigit());
    match text.split(':').collect::<Vec<_>>()[..] {
        [domain, bus, rest] => {
            let place =
                rest.split_once('.').is_some_and(|(device, function)| hex(device, 2) && hex(function, 1));
            hex(domain, 4) && hex(bus, 2) && place
        }
        _ => false,
    }
}

/// What a text means beside the name of an interface.
fn controller(text: &str) -> Option<DeviceName> {
    let number = |prefix: &str| text.strip_prefix(prefix).and_then(|number| number.parse().ok());
    if is_pci(text) {
        return Some(DeviceName::Pci(text.to_ascii_lowercase()));
    }
    number("nvme").map(DeviceName::Nvme).or_else(|| number("host").map(DeviceName::ScsiHost))
}

impl FromStr for DeviceName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if let Some(link) = text.strip_prefix("net:") {
            return link.parse().map(Self::Link);
        }
        match controller(text) {
            Some(controller) => Ok(controller),
            None => text.parse().map(Self::Link),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Link(name) if controller(name.as_str()).is_some() => write!(f, "net:{name}"),
            Self::Link(name) => write!(f, "{name}"),
            Self::Pci(address) => f.write_str(address),
            Self::Nvme(number) => write!(f, "nvme{number}"),
            Self::ScsiHost(number) => write!(f, "host{number}"),
        }
    }
}

impl From<IfName> for DeviceName {
    fn from(name: IfName) -> Self {
        Self::Link(name)
    }
}

impl TryFrom<String> for DeviceName {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<DeviceName> for String {
    fn from(name: DeviceName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_comes_back_as_it_was() {
        for (text, shown) in [
            ("int1", "int1"),
            ("bond0.24", "bond0.24"),
            ("0000:3B:00.1", "0000:3b:00.1"),
            ("10000:01:00.0", "10000:01:00.0"),
            ("nvme12", "nvme12"),
            ("host3", "host3"),
            ("net:nvme0", "net:nvme0"),
            ("nvme0n1", "nvme0n1"),
            ("net:eth0", "eth0"),
        ] {
            let name: DeviceName = text.parse().unwrap_or_else(|e| panic!("{text}: {e}"));
            assert_eq!(name.to_string(), shown);
            assert_eq!(shown.parse(), Ok(name));
        }
        assert!("03:00.0".parse::<DeviceName>().is_err() && "net:".parse::<DeviceName>().is_err());
        assert!(matches!("nvme0n1".parse(), Ok(DeviceName::Link(_))));
    }
}
