//! Addresses that move between machines.

use std::time::Duration;

use host::nl::{self, Socket};
use host::{Deadline, Host, IfName};

use crate::Prefix;
use crate::error::{Error, Result};
use crate::route::AddressSpec;
use crate::state::LinkState;
use crate::sys;
use crate::wire::{address, announce, link};

const ONE: Duration = Duration::from_secs(10);

/// An address that one of several machines has at a time: claimed when this one serves, released before another does.
///
/// Replaces `IPaddr2` and `send_arp`. Adding an address announces nothing by itself (`arp_notify` acts on link-up only), so after
/// [`claim`](Self::claim) call [`announce`](Self::announce), and again a little later: a frame can be lost.
///
/// ```no_run
/// use host::{Host, IfName};
/// let address = netcfg::FloatingAddr::new("int1.24".parse::<IfName>()?, "10.1.24.10/24".parse()?);
/// let host = Host::live();
/// address.claim(&host)?;
/// address.announce(&host)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct FloatingAddr {
    /// The link that has it while this machine does.
    pub link: IfName,
    /// The address with its network's prefix length: the network must be reachable even where the link has no other address.
    pub prefix: Prefix,
}

impl FloatingAddr {
    /// An address on a link.
    #[must_use]
    pub fn new(link: IfName, prefix: Prefix) -> Self {
        Self { link, prefix }
    }

    /// Takes the address; `false` if this machine had it. `ip addr add`. IPv6 addresses are usable at once (no duplicate detection: the
    /// caller knows that the other machine has let go).
    ///
    /// Sets `promote_secondaries` on the link first: without it the kernel drops the *other* addresses of the network when the one that
    /// came first is removed (`__inet_del_ifa`, `net/ipv4/devinet.c`), so releasing one unit's address would take away another's.
    ///
    /// # Errors
    /// The link is not there, or the kernel refuses.
    pub fn claim(&self, host: &Host) -> Result<bool> {
        self.keep_others(host)?;
        let (mut socket, index) = self.open(host)?;
        let spec = AddressSpec::new(self.prefix).without_dad();
        match socket.request(&address::add(index, &spec), Deadline::after(ONE)) {
            Ok(()) => Ok(true),
            Err(e) if e.errno() == Some(libc::EEXIST) => Ok(false),
            Err(source) => Err(self.refused("add", source)),
        }
    }

    /// Tells the neighbours where the address is now: gratuitous ARP in both forms, or an unsolicited neighbour advertisement.
    ///
    /// # Errors
    /// The link is not there or is not Ethernet, or the process lacks `CAP_NET_RAW`.
    pub fn announce(&self, host: &Host) -> Result<()> {
        Self::announce_all(host, std::slice::from_ref(self))
    }

    /// Announces several addresses at once. The kernel waits for a grace period whenever a packet socket is closed (`packet_release`,
    /// `net/packet/af_packet.c`): tens to hundreds of milliseconds. Here that is paid once, after the last frame has left.
    ///
    /// # Errors
    /// As [`announce`](Self::announce).
    pub fn announce_all(host: &Host, addresses: &[Self]) -> Result<()> {
        let mut socket = host.nl().open(nl::Protocol::Route).map_err(Error::Read)?;
        let mut frames = Vec::new();
        for address in addresses {
            let (link, mac) = address.ethernet_over(&mut socket)?;
            let all = announce::frames(address.prefix.address, mac);
            frames.extend(all.into_iter().map(|frame| (link.index, frame)));
        }
        // A machine in memory has no wire; its indices would mean other links on the machine that runs the test.
        if host.run_dir().is_none() {
            return Ok(());
        }
        sys::send_frames(&frames).map_err(|source| {
            let shown: Vec<_> = addresses.iter().map(|a| format!("{} on {}", a.prefix, a.link)).collect();
            Error::Announce { object: shown.join(", "), source }
        })
    }

    /// Lets go of the address; `false` if this machine did not have it. `ip addr del`. Packets to it are dropped from then on, silently.
    ///
    /// # Errors
    /// The kernel refuses.
    pub fn release(&self, host: &Host) -> Result<bool> {
        self.keep_others(host)?;
        let (mut socket, index) = match self.open(host) {
            Err(e) if e.errno() == Some(libc::ENODEV) => return Ok(false),
            other => other?,
        };
        match socket.request(&address::delete(index, &self.prefix), Deadline::after(ONE)) {
            Ok(()) => Ok(true),
            Err(e) if e.errno() == Some(libc::EADDRNOTAVAIL) => Ok(false),
            Err(source) => Err(self.refused("remove", source)),
        }
    }

    /// Whether this machine has the address now, on this link.
    ///
    /// # Errors
    /// The kernel's table cannot be read.
    pub fn is_held(&self, host: &Host) -> Result<bool> {
        let (mut socket, index) = match self.open(host) {
            Err(e) if e.errno() == Some(libc::ENODEV) => return Ok(false),
            other => other?,
        };
        let replies = socket.dump(&address::dump(), Deadline::after(ONE)).map_err(Error::Read)?;
        for reply in &replies {
            if let Some((on, state)) = address::parse(reply)?
                && on == index
                && state.prefix.address == self.prefix.address
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn keep_others(&self, host: &Host) -> Result<()> {
        if self.prefix.address.is_ipv6() {
            return Ok(());
        }
        let path = format!("/proc/sys/net/ipv4/conf/{}/promote_secondaries", self.link);
        match host.tree().read_opt(&path).map_err(Error::Sysctl)? {
            Some(now) if now.trim() == "0" => host.tree().write(&path, "1").map_err(Error::Sysctl),
            _ => Ok(()),
        }
    }

    /// Its link and the link's hardware address.
    pub(crate) fn ethernet(&self, host: &Host) -> Result<(LinkState, [u8; 6])> {
        self.ethernet_over(&mut host.nl().open(nl::Protocol::Route).map_err(Error::Read)?)
    }

    fn ethernet_over(&self, socket: &mut Socket) -> Result<(LinkState, [u8; 6])> {
        let reply =
            socket.ask(&link::get(&self.link), Deadline::after(ONE)).map_err(|e| self.refused("find", e))?;
        let link = link::parse(&reply)?;
        match <[u8; 6]>::try_from(link.mac.as_slice()) {
            Ok(mac) => Ok((link, mac)),
            Err(_) => Err(Error::Invalid {
                object: self.link.to_string(),
                reason: "it is no Ethernet link: there is nobody to announce to".to_owned(),
            }),
        }
    }

    fn open(&self, host: &Host) -> Result<(Socket, u32)> {
        let mut socket = host.nl().open(nl::Protocol::Route).map_err(Error::Read)?;
        let reply =
            socket.ask(&link::get(&self.link), Deadline::after(ONE)).map_err(|e| self.refused("find", e))?;
        Ok((socket, link::parse(&reply)?.index))
    }

    fn refused(&self, verb: &str, source: nl::Error) -> Error {
        let hint = match source.errno() {
            Some(libc::ENODEV) => Some("there is no interface of this name"),
            Some(libc::EPERM | libc::EACCES) => Some("it needs CAP_NET_ADMIN: run as root"),
            _ => None,
        };
        Error::Kernel { what: format!("{verb} {} on {}", self.prefix, self.link), hint, source }
    }
}
