//! What DRBD answers when it refuses: `enum drbd_ret_code` and `enum drbd_state_rv` (include/linux/drbd.h, Linux 6.1) as one type.

use std::fmt;

macro_rules! refusals {
    ($($(#[$doc:meta])* $code:literal $name:ident $text:literal;)*) => {
        /// Why the kernel refused a command. `Display` is an explanation with what to do about it.
        ///
        /// Codes from 102 come from checks before the command, codes below 1 from the state machine.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Refusal {
            $($(#[$doc])* #[doc = concat!("Code ", $code, ": ", $text, ".")] $name,)*
            /// A code that DRBD 8.4 does not have.
            Other(i32),
        }

        impl Refusal {
            /// Reads a code of a DRBD 8.4 kernel.
            #[must_use]
            pub fn from_code(code: i32) -> Self {
                match code {
                    $($code => Self::$name,)*
                    other => Self::Other(other),
                }
            }

            /// The kernel's number.
            #[must_use]
            pub fn code(self) -> i32 {
                match self {
                    $(Self::$name => $code,)*
                    Self::Other(code) => code,
                }
            }

            fn text(self) -> Option<&'static str> {
                match self {
                    $(Self::$name => Some($text),)*
                    Self::Other(_) => None,
                }
            }
        }

        #[cfg(test)]
        const ALL: &[Refusal] = &[$(Refusal::$name),*];
    };
}

refusals! {
    102 LocalAddressInUse "the local address is used by another connection; give each resource its own port";
    103 PeerAddressInUse "the peer's address is used by another connection; give each resource its own port";
    104 CannotOpenDisk "the backing device cannot be opened; is it there, and not mounted or in use?";
    105 CannotOpenMetaDisk "the metadata device cannot be opened";
    107 DiskNotBlockDevice "the backing device is no block device";
    108 MetaDiskNotBlockDevice "the metadata device is no block device";
    111 DiskTooSmall "the backing device is smaller than it was, or than the size asked for";
    112 MetaDiskTooSmall "the metadata device is too small";
    114 DiskClaimed "the backing device is in use by somebody else (mounted, part of another device, or another resource's)";
    115 MetaDiskClaimed "the metadata device is in use by somebody else";
    116 BadMetaIndex "this combination of backing device, metadata device and index does not work";
    118 MetaDataIo "the metadata could not be read or written";
    119 NoMetaData "the disk has no valid DRBD metadata; create it once with Metadata::create (drbdadm create-md)";
    120 BadHmacAlg "the kernel does not have this cram-hmac-alg; see /proc/crypto";
    121 HmacAlgNotDigest "cram-hmac-alg is no digest";
    122 OutOfMemory "the kernel has not enough memory";
    123 DiscardOnPrimary "a Primary cannot discard its data; demote it first";
    124 AlreadyAttached "a disk is attached already; detach it first";
    125 AlreadyConnected "the resource has a connection already; disconnect it first";
    126 BadAttribute "an option is missing, unknown or cannot be changed now";
    127 UnknownMinor "there is no such device; create it first";
    129 Interrupted "the command was interrupted by a signal";
    130 ResizeDuringResync "the size cannot change during a resync";
    131 ResizeNeedsPrimary "one of the nodes must be Primary to resize";
    132 BadResyncAfter "resync-after names no device";
    133 ResyncAfterCycle "resync-after leads round in a circle";
    134 PauseAlreadySet "the resync is paused already";
    135 PauseAlreadyCleared "the resync is not paused by this node";
    137 UnknownPacket "the kernel does not know this packet";
    138 NoDisk "the device has no disk; attach one first";
    139 NeedsProtocolC "allow-two-primaries needs protocol C";
    140 NoBitmapMemory "the kernel has not enough memory for the bitmap";
    141 BadIntegrityAlg "the kernel does not have this data-integrity-alg; see /proc/crypto";
    142 IntegrityAlgNotDigest "data-integrity-alg is no digest";
    143 BadCpuMask "cpu-mask is no hexadecimal number, or names no CPU that is there";
    144 BadCsumsAlg "the kernel does not have this csums-alg; see /proc/crypto";
    145 CsumsAlgNotDigest "csums-alg is no digest";
    146 BadVerifyAlg "the kernel does not have this verify-alg; see /proc/crypto";
    147 VerifyAlgNotDigest "verify-alg is no digest";
    148 CsumsDuringResync "csums-alg cannot change during a resync";
    149 VerifyRunning "verify-alg cannot change during a verify";
    150 NotTheLostData "a Primary without data takes only the data it lost last";
    151 NeedsStandAlone "the connection must be StandAlone; disconnect first";
    152 NoPermission "the caller lacks CAP_NET_ADMIN";
    153 PeerTooOldForAssumeClean "the peer is too old for assume-clean";
    154 StonithNeedsProtocolB "fencing resource-and-stonith needs protocol B or C";
    155 PullAheadNeedsProtocolA "on-congestion pull-ahead needs protocol A";
    156 PausedByDependency "the pause is cleared, but resync-after still holds the resync";
    157 PausedByPeer "the pause is cleared, but the peer still pauses the resync";
    158 UnknownResource "there is no such resource";
    159 ResourceInUse "the resource still has devices or connections";
    160 MinorConfigured "the device still has a disk or is Primary";
    161 MinorOrVolumeExists "the minor or the volume number exists already";
    162 InvalidRequest "the request is not valid";
    163 PeerTooOldForChange "the peer is too old to change this while connected";
    164 TwoPrimariesInUse "both nodes are Primary, so allow-two-primaries cannot be switched off; demote one first";
    165 UncleanMetaData "the activity log is not clean; replay it first (Metadata::apply_al; drbdadm apply-al)";
    166 LayoutChangeConnected "the metadata's layout cannot change while connected";
    167 MetaDataTooBig "the new metadata does not fit";
    168 MetaDataTooSmall "the new activity log is too small";
    169 MetaDataNoFit "the new metadata does not fit on the device";
    170 ImplicitShrink "the device would shrink without having been asked to";
    171 BadPeerNodeId "there is no peer of this node id, or it is this node's own";
    172 NoTransport "the transport cannot be made; is its module there (drbd_transport_tcp)?";
    173 AddressPairInUse "the pair of addresses is used by another connection";
    174 Exists "it exists already";
    175 ProtocolTooOld "the peer's protocol is too old for it";
    176 PathCollision "another path of the connection has these addresses";
    0 Unknown "the state machine gave no reason";
    -1 TwoPrimaries "the peer is Primary already, and allow-two-primaries is no";
    -2 NoUpToDateData "there is no UpToDate data in reach; let it sync, connect the peer that has it, or use Promote::Force if this node's data shall win";
    -4 NoLocalDisk "it needs a local disk, and there is none";
    -5 NoRemoteDisk "it needs the peer's disk, and there is none";
    -6 ConnectedOutdates "the disk cannot be outdated while connected to a Primary";
    -7 PeerNotOutdated "fencing is on, and the peer could not be outdated; a Primary without its peer would risk split brain";
    -8 ResyncRunning "a resync or verify is running already";
    -9 AlreadyStandAlone "there is no connection to end";
    -10 RefusedByPeer "the peer refused";
    -11 Diskless "the peer would have no data left: it is Primary and its disk is not UpToDate, or there is no disk";
    -12 DeviceInUse "the device is held open";
    -13 NoNetConfig "the resource has no net configuration; connect it first";
    -14 NoVerifyAlg "there is no verify-alg";
    -15 NeedsConnection "it needs a connection to the peer";
    -16 LowerThanOutdated "the disk is worse than Outdated already";
    -17 PeerNotSupported "the peer does not support it";
    -18 InTransientState "the connection is changing its state just now; try again";
    -19 ConcurrentChange "another change of state was going on; try again";
    -20 OtherVolumePrimary "another volume is Primary on the peer";
    -21 OutdateNeedsConnection "outdating the peer needs a connection (in DRBD 9: it was interrupted)";
    -22 PrimaryReader "a node that reads as Primary is in the way";
    -23 StateTimeout "the nodes did not agree in time";
    -24 WeaklyConnected "a node is connected to some of the others only";
    -25 NoQuorum "there is no quorum: too few nodes are reachable";
    -26 DisklessPeerAttach "a peer without a disk may not attach one now";
    -27 HandshakeDisconnect "the nodes do not fit together: the handshake ended the connection";
    -28 HandshakeRetry "the handshake has to be repeated";
}

impl Refusal {
    /// Whether the same command may succeed a moment later without anything being changed.
    #[must_use]
    pub fn is_retryable(self) -> bool {
        matches!(
            self,
            Self::InTransientState | Self::ConcurrentChange | Self::Interrupted | Self::OutOfMemory
        )
    }

    /// Whether somebody uses the object.
    #[must_use]
    pub fn is_busy(self) -> bool {
        matches!(
            self,
            Self::DeviceInUse
                | Self::DiskClaimed
                | Self::MetaDiskClaimed
                | Self::ResourceInUse
                | Self::MinorConfigured
        )
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.text() {
            Some(text) => write!(f, "{text} (code {})", self.code()),
            None => write!(f, "a reason that this crate does not know (code {})", self.code()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_reasons_are_one_to_one() {
        for refusal in ALL {
            assert_eq!(Refusal::from_code(refusal.code()), *refusal);
        }
        assert_eq!(Refusal::from_code(-99), Refusal::Other(-99));
        assert_eq!(Refusal::Other(-99).code(), -99);
    }
}
