//! Questions to the network itself: does somebody have this address, and how large a packet gets through.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use host::{Deadline, Host, IfName};

use crate::error::{Error, Result};
use crate::floating::FloatingAddr;
use crate::sys::{Echo, Frames, Pinger};
use crate::wire::announce;

/// How often a question is asked before silence counts as an answer (RFC 5227: three times).
const TIMES: u32 = 3;

impl FloatingAddr {
    /// Asks the network whether another machine has this address, before [`claim`](Self::claim): its hardware address, or `None` if nobody
    /// answers within the time. `arping -D`; the kernel does this by itself for IPv6 only, and only if it may wait.
    ///
    /// The question is asked three times, evenly spread over `patience`; an answer ends the wait. A second is enough for a machine that is
    /// alive on a switched network. A link without carrier has nobody to ask, and is an error.
    ///
    /// # Errors
    /// The link is not there, is not Ethernet, or is down, or the process lacks `CAP_NET_RAW`.
    #[doc(alias = "arping -D")]
    pub fn probe(&self, host: &Host, patience: Duration) -> Result<Option<[u8; 6]>> {
        let (link, mac) = self.ethernet(host)?;
        if !link.carrier {
            let reason = "it has no carrier: there is nobody to ask; bring it up and wait until it is ready"
                .to_owned();
            return Err(Error::Invalid { object: self.link.to_string(), reason });
        }
        if host.run_dir().is_none() {
            // A machine in memory has no wire.
            return Ok(None);
        }
        let address = self.prefix.address;
        let failed =
            |source: io::Error| Error::Probe { object: format!("{} on {}", self.prefix, self.link), source };
        let frames = Frames::open(link.index, announce::ethertype(address)).map_err(failed)?;
        for _ in 0..TIMES {
            frames.send(&announce::probe(address, mac)).map_err(failed)?;
            let deadline = Deadline::after(patience / TIMES);
            while let Some(frame) = frames.receive(deadline).map_err(failed)? {
                if let Some(owner) = announce::claimant(&frame, address, mac) {
                    return Ok(Some(owner));
                }
            }
        }
        Ok(None)
    }
}

/// How large a packet gets to a peer, and what stops larger ones.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct PathReport {
    /// The peer.
    pub peer: IpAddr,
    /// The size that was wanted: bytes of the whole IP packet.
    pub wanted: u32,
    /// The largest size that got there and back; 0 if none did.
    pub passes: u32,
    /// What stops larger ones.
    pub obstacle: Option<Obstacle>,
}

/// Where packets that are too large end.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Obstacle {
    /// On this machine: the MTU of the link towards the peer.
    OwnLink {
        /// That MTU in bytes; 0 if the kernel did not say.
        mtu: u32,
    },
    /// At a router, which says so.
    Router {
        /// Its address.
        address: IpAddr,
        /// What it can pass on, in bytes.
        mtu: u32,
    },
    /// Somewhere on the way without a word: a switch, or the peer's card. The black hole that makes a bulk transfer hang while ping works.
    BlackHole,
    /// Nothing gets there, however small.
    Unreachable,
}

impl PathReport {
    /// Whether the wanted size gets there.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.obstacle.is_none()
    }
}

impl fmt::Display for PathReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { peer, wanted, passes, .. } = self;
        match &self.obstacle {
            None => write!(f, "packets of {wanted} bytes reach {peer}"),
            Some(Obstacle::OwnLink { mtu }) => write!(
                f,
                "packets of {wanted} bytes to {peer} do not leave this machine: the link towards it has mtu {mtu}; raise that"
            ),
            Some(Obstacle::Router { address, mtu }) => write!(
                f,
                "packets of {wanted} bytes to {peer} end at the router {address}, which passes {mtu}: raise its mtu, or lower that of the link"
            ),
            Some(Obstacle::BlackHole) => write!(
                f,
                "packets of {wanted} bytes vanish on the way to {peer} without a word, {passes} bytes get there: a switch between here and there, or {peer}'s own card, has no jumbo frames"
            ),
            Some(Obstacle::Unreachable) => write!(f, "{peer} does not answer, however small the packet"),
        }
    }
}

/// Finds out how large a packet reaches a peer: echo requests with fragments forbidden, of the wanted size first, and if that is lost, by
/// halving what remains. `ping -M do -s SIZE`, tried by hand. `through` binds it to a link; `patience` is the wait for one answer, asked
/// for three times before it counts as lost.
///
/// The largest possible number of questions is three times the bits of the size: for jumbo frames 14 sizes.
///
/// # Errors
/// The process lacks `CAP_NET_RAW`, or the link is not there.
#[doc(alias = "ping -M do")]
pub fn probe_path(
    host: &Host,
    peer: IpAddr,
    wanted: u32,
    through: Option<&IfName>,
    patience: Duration,
) -> Result<PathReport> {
    let report = |passes, obstacle| PathReport { peer, wanted, passes, obstacle };
    if host.run_dir().is_none() {
        return Ok(report(wanted, None));
    }
    let failed = |source: io::Error| Error::Probe { object: format!("the path to {peer}"), source };
    let mut pinger = Pinger::open(peer, through.map(IfName::as_str)).map_err(failed)?;
    let mut ask = |size: u32| -> Result<Echo> {
        let mut last = Echo::Silent;
        for _ in 0..TIMES {
            last = pinger.echo(size, Deadline::after(patience)).map_err(failed)?;
            if last != Echo::Silent {
                break;
            }
        }
        Ok(last)
    };
    let obstacle = match ask(wanted)? {
        Echo::Answered => return Ok(report(wanted, None)),
        Echo::TooLongHere(mtu) => Obstacle::OwnLink { mtu },
        Echo::TooLongAt(address, mtu) => Obstacle::Router { address, mtu },
        Echo::Silent => Obstacle::BlackHole,
        Echo::Unreachable(_) => Obstacle::Unreachable,
    };
    // The smallest that every network must carry: 68 bytes (RFC 791), 1280 (RFC 8200).
    let least = if peer.is_ipv4() { 68 } else { 1280 }.min(wanted);
    if obstacle == Obstacle::Unreachable || ask(least)? != Echo::Answered {
        return Ok(report(0, Some(Obstacle::Unreachable)));
    }
    let (mut passes, mut lost) = (least, wanted);
    while lost - passes > 1 {
        let middle = passes + (lost - passes) / 2;
        match ask(middle)? {
            Echo::Answered => passes = middle,
            _ => lost = middle,
        }
    }
    Ok(report(passes, Some(obstacle)))
}
