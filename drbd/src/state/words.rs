//! States as the kernel numbers them and as drbdsetup prints them.

use std::fmt;

/// Which of DRBD's netlink interfaces a kernel speaks. What differs between them is decided by this type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum Dialect {
    /// Family `drbd` version 1: DRBD 8.4, in the kernel since 2.6.33.
    #[default]
    Drbd84,
    /// Family `drbd` version 2: DRBD 9, a module from outside of the kernel.
    Drbd9,
}

impl Dialect {
    /// The dialect of a version of the family `drbd`; `None` if it is not supported.
    #[must_use]
    pub fn of_version(version: u8) -> Option<Self> {
        match version {
            1 => Some(Self::Drbd84),
            2 => Some(Self::Drbd9),
            _ => None,
        }
    }
}

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$each:meta])* $number:literal $variant:ident,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$each])* $variant,)*
            /// A number this crate does not know.
            Other(u32),
        }

        impl $name {
            pub(crate) fn from_number(number: u32) -> Self {
                match number {
                    $($number => Self::$variant,)*
                    other => Self::Other(other),
                }
            }

            #[cfg(feature = "fake")]
            pub(crate) fn number(self) -> u32 {
                match self {
                    $(Self::$variant => $number,)*
                    Self::Other(number) => number,
                }
            }
        }

        /// The word drbdsetup prints.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $(Self::$variant => f.pad(stringify!($variant)),)*
                    Self::Other(number) => write!(f, "{number}"),
                }
            }
        }

        #[cfg(feature = "serde")]
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

words! {
    /// What a node may do with the data (`enum drbd_role`).
    Role {
        /// Not known: the peer is not connected.
        0 Unknown,
        /// It may be read and written. One node at a time, unless allow-two-primaries.
        1 Primary,
        /// It only receives.
        2 Secondary,
    }
}

words! {
    /// The state of a disk, from worst to best (`enum drbd_disk_state`; DRBD 9 numbers them differently).
    DiskState {
        /// There is no disk.
        0 Diskless,
        /// The metadata is being read.
        1 Attaching,
        /// The disk failed and is being detached.
        2 Failed,
        /// Attached while connected: the nodes are finding out who has the newer data.
        3 Negotiating,
        /// The data is of no use by itself: new, or in the middle of a resync.
        4 Inconsistent,
        /// The data is whole but known to be old.
        5 Outdated,
        /// The peer's disk, without a connection.
        6 DUnknown,
        /// The data is whole; whether it is the newest is decided when the peer is reached.
        7 Consistent,
        /// The data is whole and the newest.
        8 UpToDate,
        /// It is being taken away. Of DRBD 9, which has no number of 8.4 for it.
        256 Detaching,
    }
}

words! {
    /// The state of a connection (`enum drbd_conns` up to `C_CONNECTED`).
    ConnState {
        /// There is none and none is tried.
        0 StandAlone,
        /// It is being ended.
        1 Disconnecting,
        /// About to try.
        2 Unconnected,
        /// The peer did not answer in time.
        3 Timeout,
        /// The connection broke.
        4 BrokenPipe,
        /// The network failed.
        5 NetworkFailure,
        /// The peer said something wrong.
        6 ProtocolError,
        /// The peer is ending it.
        7 TearDown,
        /// Waiting for the peer.
        8 Connecting,
        /// Connected.
        9 Connected,
    }
}

words! {
    /// What a volume does with its counterpart on the peer (`enum drbd_conns` from `C_CONNECTED` on).
    ReplState {
        /// Not connected.
        9 Off,
        /// Replicating; nothing to sync.
        10 Established,
        /// A full sync as source is about to begin.
        11 StartingSyncS,
        /// A full sync as target is about to begin.
        12 StartingSyncT,
        /// Exchanging bitmaps, as source.
        13 WFBitMapS,
        /// Exchanging bitmaps, as target.
        14 WFBitMapT,
        /// Waiting for the source's identifier.
        15 WFSyncUUID,
        /// This node's data goes to the peer.
        16 SyncSource,
        /// The peer's data comes here.
        17 SyncTarget,
        /// Comparing, as source.
        18 VerifyS,
        /// Comparing, as target.
        19 VerifyT,
        /// A sync as source that waits.
        20 PausedSyncS,
        /// A sync as target that waits.
        21 PausedSyncT,
        /// Not replicating, only marking what differs (on-congestion pull-ahead).
        22 Ahead,
        /// The peer is ahead.
        23 Behind,
    }
}

impl ReplState {
    /// Whether a resync is going on or paused.
    #[must_use]
    pub fn is_syncing(self) -> bool {
        matches!(self, Self::SyncSource | Self::SyncTarget | Self::PausedSyncS | Self::PausedSyncT)
    }

    /// Whether an online verify is going on.
    #[must_use]
    pub fn is_verifying(self) -> bool {
        matches!(self, Self::VerifyS | Self::VerifyT)
    }

    /// Whether a resync is about to begin, going on or paused.
    #[must_use]
    pub fn is_sync_pending(self) -> bool {
        self.is_syncing()
            || matches!(
                self,
                Self::StartingSyncS
                    | Self::StartingSyncT
                    | Self::WFBitMapS
                    | Self::WFBitMapT
                    | Self::WFSyncUUID
                    | Self::Behind
                    | Self::Ahead
            )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_drbdsetup_and_unknown_numbers_stay() {
        assert_eq!(DiskState::from_number(8).to_string(), "UpToDate");
        assert_eq!(ReplState::from_number(15).to_string(), "WFSyncUUID");
        assert_eq!(ConnState::from_number(42), ConnState::Other(42));
        assert_eq!(ConnState::Other(42).to_string(), "42");
    }
}
