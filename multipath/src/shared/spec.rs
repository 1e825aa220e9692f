//! What is wanted: how the lock managers run on this host, how a volume is used, what a new volume is.

use std::fmt;
use std::time::Duration;

use host::{Bytes, ParseError};

use super::{HostId, LvName};

/// Whether something that is there already may be written over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Overwrite {
    /// It is refused with what it is. The default.
    #[default]
    Never,
    /// It is lost.
    Always,
}

/// What guarantees that a host which lost its leases stops writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Watchdog {
    /// wdmd and a watchdog device: the host is reset 60 s after its leases are lost, unless its volumes are off by then. The default.
    #[default]
    Required,
    /// Nothing: a host that lost its leases may go on writing while another one takes its volumes over. For tests.
    None,
}

/// How the lock managers run on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LockManager {
    /// This host's number; `None`: that of `/etc/lvm/lvmlocal.conf`.
    pub host_id: Option<HostId>,
    /// sanlock's I/O timeout, of which all its times are multiples; whole seconds, 1 to 60. Default 10 s.
    pub io_timeout: Duration,
    /// What stops this host when its leases are lost; default [`Watchdog::Required`].
    pub watchdog: Watchdog,
}

impl Default for LockManager {
    fn default() -> Self {
        Self { host_id: None, io_timeout: Duration::from_secs(10), watchdog: Watchdog::Required }
    }
}

impl LockManager {
    /// sanlock's own times, a watchdog, the host's number of `/etc/lvm/lvmlocal.conf`.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets this host's number, whatever `/etc/lvm/lvmlocal.conf` says.
    #[must_use]
    pub fn with_host_id(mut self, id: HostId) -> Self {
        self.host_id = Some(id);
        self
    }

    /// Sets sanlock's I/O timeout: `lvmlockd --sanlock-timeout SECONDS`. A longer one lets storage be away for longer and makes everybody wait
    /// longer for the volumes of a dead host; see [`LeaseTimes`]. It counts from the next start of the lockspace.
    ///
    /// # Errors
    /// It is not whole seconds from 1 to 60.
    pub fn with_io_timeout(mut self, timeout: Duration) -> Result<Self, ParseError> {
        let whole = timeout.subsec_nanos() == 0 && (1..=60).contains(&timeout.as_secs());
        if !whole {
            let reason = "whole seconds from 1 to 60; sanlock's own is 10";
            return Err(ParseError::new("sanlock's I/O timeout", format!("{timeout:?}"), reason));
        }
        self.io_timeout = timeout;
        Ok(self)
    }

    /// Sets what stops this host when its leases are lost.
    #[must_use]
    pub fn with_watchdog(mut self, watchdog: Watchdog) -> Self {
        self.watchdog = watchdog;
        self
    }

    /// The times that follow from the I/O timeout.
    #[must_use]
    pub fn times(&self) -> LeaseTimes {
        LeaseTimes::of(self.io_timeout)
    }
}

/// sanlock's times, all multiples of its I/O timeout (sanlock, `src/timeouts.c`); those of the default, 10 s, in parentheses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct LeaseTimes {
    /// A host renews its lease this often (20 s).
    pub renewal: Duration,
    /// Storage may be away this long and no lease is lost, wherever between two renewals the outage begins (60 s).
    pub outage: Duration,
    /// A host that could not renew for this long has lost its leases (80 s): `lvmlockctl --kill` runs, and the watchdog is no longer fed.
    pub lost: Duration,
    /// Others may take over this long after the last renewal (140 s): the watchdog's 60 s later, when the host has been reset.
    pub taken_over: Duration,
}

impl LeaseTimes {
    /// The times for an I/O timeout.
    #[must_use]
    pub fn of(io_timeout: Duration) -> Self {
        Self {
            renewal: io_timeout * 2,
            outage: io_timeout * 6,
            lost: io_timeout * 8,
            taken_over: io_timeout * 8 + Duration::from_secs(60),
        }
    }

    /// The smallest I/O timeout, in whole seconds, with which storage may be away longer than `outage`. Default 10 s are kept if they do.
    #[must_use]
    pub fn fitting(outage: Duration) -> Duration {
        Duration::from_secs((outage.as_secs() / 6 + 1).max(10))
    }
}

/// How a host uses a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
pub enum Activation {
    /// Alone: no other host can activate it.
    Exclusive,
    /// Together with other hosts that activate it so: for the moment of a live migration, or for a program that coordinates its writes itself.
    Shared,
}

impl fmt::Display for Activation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Exclusive => "exclusive",
            Self::Shared => "shared",
        })
    }
}

/// A volume that is to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LvSpec {
    /// Its name.
    pub name: LvName,
    /// Its size; LVM rounds it up to whole extents (4 MiB by default).
    pub size: Bytes,
    /// How it is activated on this host when it is made; default `None`: not at all.
    pub activation: Option<Activation>,
}

impl LvSpec {
    /// A linear volume, not activated.
    #[must_use]
    pub fn new(name: LvName, size: Bytes) -> Self {
        Self { name, size, activation: None }
    }

    /// Sets how it is activated when it is made.
    #[must_use]
    pub fn with_activation(mut self, activation: Activation) -> Self {
        self.activation = Some(activation);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn the_times_are_multiples_of_the_io_timeout() {
        let times = LockManager::new().times();
        assert_eq!(
            [times.renewal, times.outage, times.lost, times.taken_over],
            [20, 60, 80, 140].map(seconds)
        );
    }

    #[test]
    fn an_io_timeout_is_found_that_outlasts_the_queueing() {
        for (queueing, timeout) in [(0, 10), (59, 10), (60, 11), (120, 21)] {
            assert_eq!(LeaseTimes::fitting(seconds(queueing)), seconds(timeout), "{queueing} s");
            assert!(LeaseTimes::of(seconds(timeout)).outage > seconds(queueing), "{queueing} s");
        }
    }

    #[test]
    fn the_io_timeout_is_whole_seconds() {
        assert!(LockManager::new().with_io_timeout(seconds(21)).is_ok());
        for bad in [Duration::ZERO, seconds(61), Duration::from_millis(1500)] {
            assert!(LockManager::new().with_io_timeout(bad).is_err(), "{bad:?}");
        }
    }
}
