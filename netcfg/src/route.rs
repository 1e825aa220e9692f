//! Addresses with all that can be said of them, routes, and the rules that choose a table of routes.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use host::IfName;

use crate::Prefix;

/// `RT_TABLE_MAIN`.
pub(crate) const MAIN_TABLE: u32 = 254;

/// An address of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct AddressSpec {
    /// The address with its prefix length.
    pub prefix: Prefix,
    /// How long it is valid and may be used for new connections; `None` leaves this as it is, or for ever. An address that is there and ends
    /// no later is as wanted: it is not given new life by every `ensure`.
    #[cfg_attr(feature = "serde", serde(default))]
    pub lifetime: Option<Lifetime>,
    /// The kernel makes no route to the address's network (`IFA_F_NOPREFIXROUTE`).
    #[cfg_attr(feature = "serde", serde(default))]
    pub no_prefix_route: bool,
    /// An IPv6 address is used at once, without looking whether another machine has it (`IFA_F_NODAD`). Counts when it is added.
    #[cfg_attr(feature = "serde", serde(default))]
    pub no_dad: bool,
}

/// How long an address lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Lifetime {
    /// Until it goes away by itself; whole seconds.
    pub valid: Duration,
    /// Until no new connection uses it; whole seconds, at most `valid`.
    pub preferred: Duration,
}

impl Lifetime {
    /// An address that is valid and preferred for so long.
    #[must_use]
    pub fn new(valid: Duration, preferred: Duration) -> Self {
        Self { valid, preferred }
    }
}

impl AddressSpec {
    /// An address for ever, with the route to its network.
    #[must_use]
    pub fn new(prefix: Prefix) -> Self {
        Self { prefix, lifetime: None, no_prefix_route: false, no_dad: false }
    }

    /// Lets it end by itself; `ip addr add ... valid_lft SECONDS preferred_lft SECONDS`.
    #[must_use]
    pub fn with_lifetime(mut self, lifetime: Lifetime) -> Self {
        self.lifetime = Some(lifetime);
        self
    }

    /// Adds it without the route to its network; `ip addr add ... noprefixroute`.
    #[must_use]
    pub fn without_prefix_route(mut self) -> Self {
        self.no_prefix_route = true;
        self
    }

    /// Uses an IPv6 address at once; `ip addr add ... nodad`.
    #[must_use]
    pub fn without_dad(mut self) -> Self {
        self.no_dad = true;
        self
    }
}

impl From<Prefix> for AddressSpec {
    fn from(prefix: Prefix) -> Self {
        Self::new(prefix)
    }
}

impl fmt::Display for AddressSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.prefix.fmt(f)
    }
}

/// A route through a link.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct RouteSpec {
    /// Where it leads; `None` is the default route.
    pub destination: Option<Prefix>,
    /// The next hop; `None` for a directly connected network.
    pub gateway: Option<IpAddr>,
    /// The table it is in: 254, the main one, by default. 1 to 252 are free for [`RuleSpec`]s.
    #[cfg_attr(feature = "serde", serde(default = "main_table"))]
    pub table: u32,
    /// Of two routes to one network the one with the smaller metric is used; `None` is the kernel's: 0, 1024 for IPv6.
    #[cfg_attr(feature = "serde", serde(default))]
    pub metric: Option<u32>,
    /// The address that packets of this machine get if they have none (`src`).
    #[cfg_attr(feature = "serde", serde(default))]
    pub source: Option<IpAddr>,
}

#[cfg(feature = "serde")]
fn main_table() -> u32 {
    MAIN_TABLE
}

impl RouteSpec {
    /// The default route; `ip route add default via GATEWAY`.
    #[must_use]
    pub fn default_via(gateway: IpAddr) -> Self {
        Self { destination: None, gateway: Some(gateway), table: MAIN_TABLE, metric: None, source: None }
    }

    /// A route to a network; `ip route add DESTINATION via GATEWAY`.
    #[must_use]
    pub fn new(destination: Prefix, gateway: Option<IpAddr>) -> Self {
        Self { destination: Some(destination), gateway, table: MAIN_TABLE, metric: None, source: None }
    }

    /// Puts it into another table; `ip route add ... table NUMBER`.
    #[must_use]
    pub fn with_table(mut self, table: u32) -> Self {
        self.table = table;
        self
    }

    /// Sets its metric; `ip route add ... metric NUMBER`.
    #[must_use]
    pub fn with_metric(mut self, metric: u32) -> Self {
        self.metric = Some(metric);
        self
    }

    /// Sets the address packets get; `ip route add ... src ADDRESS`. This machine must have it.
    #[must_use]
    pub fn with_source(mut self, source: IpAddr) -> Self {
        self.source = Some(source);
        self
    }

    /// Whether it is a route of IPv6.
    #[must_use]
    pub fn is_v6(&self) -> bool {
        self.destination.map(|d| d.address).or(self.gateway).is_some_and(|address| address.is_ipv6())
    }
}

impl fmt::Display for RouteSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.destination {
            Some(destination) => destination.fmt(f)?,
            None => f.write_str("default")?,
        }
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        Ok(())
    }
}

/// Which packets look into which table of routes (`ip rule`). A portal's answers leave through the portal's own network if its address has
/// a rule and a table: see [`NetSpec::with_source_routing`](crate::NetSpec::with_source_routing).
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct RuleSpec {
    /// Rules are asked from the smallest number up: 1 to 32765. 0 is `local`, 32766 `main`.
    pub priority: u32,
    /// From where; `None` from anywhere.
    #[cfg_attr(feature = "serde", serde(default))]
    pub from: Option<Prefix>,
    /// To where; `None` to anywhere.
    #[cfg_attr(feature = "serde", serde(default))]
    pub to: Option<Prefix>,
    /// Through which link the packet came in; its own packets come through `lo`.
    #[cfg_attr(feature = "serde", serde(default))]
    pub incoming: Option<IfName>,
    /// The table.
    pub table: u32,
    /// Of IPv6; follows from the prefixes where there are any.
    #[cfg_attr(feature = "serde", serde(default))]
    pub v6: bool,
}

impl RuleSpec {
    /// Packets from here look into a table; `ip rule add from PREFIX table NUMBER priority NUMBER`.
    #[must_use]
    pub fn from(priority: u32, from: Prefix, table: u32) -> Self {
        let v6 = from.address.is_ipv6();
        Self { priority, from: Some(from), to: None, incoming: None, table, v6 }
    }

    /// Packets to there look into a table; `ip rule add to PREFIX table NUMBER priority NUMBER`.
    #[must_use]
    pub fn to(priority: u32, to: Prefix, table: u32) -> Self {
        let v6 = to.address.is_ipv6();
        Self { priority, from: None, to: Some(to), incoming: None, table, v6 }
    }

    /// Only packets that came in through a link; `iif LINK`.
    #[must_use]
    pub fn with_incoming(mut self, link: IfName) -> Self {
        self.incoming = Some(link);
        self
    }
}

impl fmt::Display for RuleSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(from) = self.from {
            write!(f, "from {from} ")?;
        }
        if let Some(to) = self.to {
            write!(f, "to {to} ")?;
        }
        if let Some(link) = &self.incoming {
            write!(f, "iif {link} ")?;
        }
        write!(f, "table {} priority {}", self.table, self.priority)
    }
}
