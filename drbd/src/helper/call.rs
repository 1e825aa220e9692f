//! What a helper is told, and what it may answer.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use host::ParseError;

use crate::{Minor, ResourceName, Volume};

macro_rules! handlers {
    ($($(#[$doc:meta])* $variant:ident $word:literal,)*) => {
        /// What the kernel calls a helper for.
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Handler {
            $($(#[$doc])* $variant,)*
            /// Another word.
            Other(String),
        }

        impl From<&str> for Handler {
            fn from(word: &str) -> Self {
                match word {
                    $($word => Self::$variant,)*
                    other => Self::Other(other.to_owned()),
                }
            }
        }

        impl fmt::Display for Handler {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $word,)*
                    Self::Other(word) => word,
                })
            }
        }
    };
}

handlers! {
    /// This node is about to become the target of a resync. Any code but 0 drops the connection (`drbd_start_resync`, `drbd_worker.c`).
    BeforeResyncTarget "before-resync-target",
    /// This node is about to become the source of a resync. Codes but 0 and 3 drop the connection.
    BeforeResyncSource "before-resync-source",
    /// This node was the target of a resync that has ended. The code is ignored.
    AfterResyncTarget "after-resync-target",
    /// A verify has found blocks that differ. The code is ignored.
    OutOfSync "out-of-sync",
    /// The peer was lost, and `fencing` says that it must be outdated or switched off before this node goes on. The code is a [`Fenced`];
    /// any other leaves I/O standing still, or the promotion refused (`conn_try_outdate_peer`, `drbd_nl.c`).
    FencePeer "fence-peer",
    /// The peer, which was fenced, is in sync again. The code is ignored.
    UnfencePeer "unfence-peer",
    /// A split brain was found, and a policy may resolve it. The code is ignored.
    InitialSplitBrain "initial-split-brain",
    /// A split brain was found that nothing resolves: the connection is dropped. The code is ignored.
    SplitBrain "split-brain",
    /// This Primary must become the target of a sync: it should stop. The code is ignored.
    PriLost "pri-lost",
    /// The same, by a split brain's policy; expected to reboot the machine. The code is ignored.
    PriLostAfterSb "pri-lost-after-sb",
    /// This Primary has lost its last good data. The code is ignored.
    PriOnInconDegr "pri-on-incon-degr",
    /// The disk has failed (`on-io-error call-local-io-error`). The code is ignored.
    LocalIoError "local-io-error",
}

/// A call of a helper: `HELPER HANDLER minor-N` or `HELPER HANDLER RESOURCE`, with the peer's address in the environment (`drbd_khelper` and
/// `conn_khelper`, `drbd_nl.c`). drbdadm calls handlers without words and tells everything in the environment, which is read too.
///
/// The kernel waits for the answer, in places with the lock of all generic netlink commands held: **a helper must answer at once, and must
/// not ask DRBD anything.**
///
/// ```
/// use drbd::helper::{Call, Handler};
/// let call = Call::read(&["before-resync-target", "minor-3"], |name| {
///     (name == "DRBD_PEER_ADDRESS").then(|| "10.0.0.2".to_owned())
/// })?;
/// assert_eq!(call.handler, Handler::BeforeResyncTarget);
/// assert_eq!(call.minor, Some(drbd::Minor::new(3)?));
/// assert_eq!(call.neutral().code(), 0);
/// # Ok::<(), drbd::ParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Call {
    /// What for.
    pub handler: Handler,
    /// The device, if it is about one.
    pub minor: Option<Minor>,
    /// The resource, if it is told.
    pub resource: Option<ResourceName>,
    /// The volume, if it is told; only by drbdadm.
    pub volume: Option<Volume>,
    /// The peer, if there is a connection.
    pub peer: Option<IpAddr>,
}

impl Call {
    /// Reads a call: the words behind the program's name, and a way to look at the environment.
    ///
    /// # Errors
    /// There is no word that says what for.
    pub fn read(
        words: &[impl AsRef<str>],
        environment: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, ParseError> {
        fn parsed<T: FromStr>(text: Option<String>) -> Option<T> {
            text.and_then(|text| text.trim().parse().ok())
        }
        let mut words = words.iter().map(AsRef::as_ref);
        let none =
            || ParseError::new("call of DRBD's helper", "", "HANDLER and minor-N or RESOURCE expected");
        let handler = Handler::from(words.next().filter(|word| !word.is_empty()).ok_or_else(none)?);
        let object = words.next();
        let minor = object.and_then(|object| object.strip_prefix("minor-")).and_then(|n| n.parse().ok());
        let name = object.filter(|_| minor.is_none()).map(ResourceName::from_kernel);
        Ok(Self {
            handler,
            minor: minor.or_else(|| parsed(environment("DRBD_MINOR"))),
            resource: name.or_else(|| environment("DRBD_RESOURCE").map(ResourceName::from_kernel)),
            volume: parsed(environment("DRBD_VOLUME")),
            peer: parsed(environment("DRBD_PEER_ADDRESS")),
        })
    }

    /// The answer that changes nothing: no veto against a resync, no peer that is said to be fenced.
    #[must_use]
    pub fn neutral(&self) -> Answer {
        if self.handler == Handler::FencePeer { Answer::No } else { Answer::Yes }
    }
}

/// For a log: `before-resync-target of minor 3, peer 10.0.0.2`.
impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.handler)?;
        match (&self.resource, self.minor) {
            (Some(name), Some(minor)) => write!(f, " of {name} (minor {minor})")?,
            (Some(name), None) => write!(f, " of {name}")?,
            (None, Some(minor)) => write!(f, " of minor {minor}")?,
            (None, None) => {}
        }
        self.peer.map_or(Ok(()), |peer| write!(f, ", peer {peer}"))
    }
}

/// What a helper answers, as its exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Answer {
    /// 0: go on.
    Yes,
    /// 1: a veto against a resync; the peer is not fenced.
    No,
    /// 3 to 7: what became of the peer. Of [`Handler::FencePeer`] only.
    Fenced(Fenced),
}

impl Answer {
    /// The exit code.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Yes => 0,
            Self::No => 1,
            Self::Fenced(fenced) => match fenced {
                Fenced::Inconsistent => 3,
                Fenced::Outdated => 4,
                Fenced::Unreachable => 5,
                Fenced::Primary => 6,
                Fenced::Stonith => 7,
            },
        }
    }
}

/// What became of a peer that was to be fenced (`conn_try_outdate_peer`, `drbd_nl.c`; `P_INCONSISTENT` to `P_FENCING`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Fenced {
    /// Its data is of no use anyway.
    Inconsistent,
    /// It has outdated its data.
    Outdated,
    /// It cannot be reached, and **is known to be dead**: the kernel takes its data for old. A time-out is no such knowledge.
    Unreachable,
    /// It is Primary, and this node's data is the old one.
    Primary,
    /// It was switched off.
    Stonith,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn none(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn the_kernels_and_drbdadms_calls_are_read() -> Result<(), ParseError> {
        let call = Call::read(&["fence-peer", "r0"], |name| match name {
            "DRBD_PEER_ADDRESS" => Some("fe80:0000:0000:0000:0000:0000:0000:0001".to_owned()),
            "DRBD_PEER_AF" => Some("ipv6".to_owned()),
            _ => None,
        })?;
        assert_eq!(call.resource, Some("r0".parse()?));
        assert_eq!(call.to_string(), "fence-peer of r0, peer fe80::1");
        assert_eq!(call.neutral().code(), 1);
        let call = Call::read(&["split-brain"], |name| match name {
            "DRBD_RESOURCE" => Some("r1".to_owned()),
            "DRBD_MINOR" => Some("7".to_owned()),
            "DRBD_VOLUME" => Some("1".to_owned()),
            _ => None,
        })?;
        assert_eq!((call.volume, call.minor), (Some(Volume(1)), Some(Minor::new(7)?)));
        assert_eq!(call.to_string(), "split-brain of r1 (minor 7)");
        Ok(())
    }

    #[test]
    fn only_fencing_is_answered_with_no() -> Result<(), ParseError> {
        for word in
            ["before-resync-target", "before-resync-source", "split-brain", "pri-lost", "something-new"]
        {
            let call = Call::read(&[word, "minor-0"], none)?;
            assert_eq!((call.handler.to_string().as_str(), call.neutral().code()), (word, 0));
        }
        assert!(Call::read(&[""; 0], none).is_err() && Call::read(&[""], none).is_err());
        Ok(())
    }
}
