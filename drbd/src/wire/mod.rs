//! Messages of the generic netlink family `drbd`, version 1 (DRBD 8.4) and 2 (DRBD 9), as bytes. Pure: no I/O.
//!
//! `include/linux/drbd_genl.h` and `genl_magic_func.h`, Linux 6.1: `nlmsghdr | genlmsghdr | drbd_genlmsghdr { u32 minor; u32 flags or
//! s32 ret_code } | nests`. Nests are sent with `NLA_F_NESTED`, without which generic netlink answers EINVAL; what comes back may
//! or may not carry it, so types are masked on receipt.

pub(crate) mod activity_log;
#[cfg(all(test, feature = "fake"))]
mod capture;
#[cfg(all(test, feature = "fake"))]
mod capture_9;
#[cfg(all(test, feature = "fake"))]
mod capture_drbd2;
pub(crate) mod conf;
pub(crate) mod disk;
pub(crate) mod drbd2;
pub(crate) mod dump;
pub(crate) mod net;
pub(crate) mod superblock;
pub(crate) mod table;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

use host::ParseError;
use host::nl::genl::Family;
use host::nl::{Attribute, Message, NESTED, Reply, attributes};

/// `DRBD_GENLA_F_MANDATORY`: an attribute that must not be ignored by a kernel that does not know it.
pub(crate) const MANDATORY: u16 = 0x4000;
/// `DRBD_GENL_F_SET_DEFAULTS`: a change of options starts from the defaults, not from the current values.
pub(crate) const SET_DEFAULTS: u32 = 1;
/// The minor of a message that is not about one.
pub(crate) const NO_MINOR: u32 = u32::MAX;

/// A command number with its name in messages to people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Command(pub(crate) u8, pub(crate) &'static str);

macro_rules! commands {
    ($($name:ident = $number:literal $text:literal),* $(,)?) => {
        impl Command { $(pub(crate) const $name: Self = Self($number, $text);)* }
    };
}

commands! {
    GET_STATUS = 2 "show status of", NEW_MINOR = 5 "create device", DEL_MINOR = 6 "delete device",
    NEW_RESOURCE = 7 "create resource", DEL_RESOURCE = 8 "delete resource", RESOURCE_OPTS = 9 "set options of",
    CONNECT = 10 "connect", DISCONNECT = 11 "disconnect", ATTACH = 12 "attach", RESIZE = 13 "resize",
    PRIMARY = 14 "promote", SECONDARY = 15 "demote", NEW_C_UUID = 16 "begin a new generation of", START_OV = 17 "verify",
    DETACH = 18 "detach", INVALIDATE = 19 "invalidate", INVAL_PEER = 20 "invalidate the peer's data of",
    PAUSE_SYNC = 21 "pause the resync of", RESUME_SYNC = 22 "resume the resync of", SUSPEND_IO = 23 "suspend I/O of",
    RESUME_IO = 24 "resume I/O of", OUTDATE = 25 "outdate", GET_TIMEOUT_TYPE = 26 "ask for the kind of start of",
    DOWN = 27 "take down", CHG_DISK_OPTS = 28 "set disk options of",
    CHG_NET_OPTS = 29 "set net options of", GET_RESOURCES = 30 "list resources", GET_DEVICES = 31 "list devices of",
    GET_CONNECTIONS = 32 "list connections of", GET_PEER_DEVICES = 33 "list peer devices of",
    RESOURCE_STATE = 34 "resource state", DEVICE_STATE = 35 "device state", CONNECTION_STATE = 36 "connection state",
    PEER_DEVICE_STATE = 37 "peer device state", GET_INITIAL_STATE = 38 "watch", HELPER = 40 "helper",
    INITIAL_STATE_DONE = 41 "end of the initial state",
    FORGET_PEER = 42 "forget the peer of", CHG_PEER_DEVICE_OPTS = 43 "set peer device options of", NEW_PEER = 44 "create connection of",
    NEW_PATH = 45 "create path of", DEL_PEER = 46 "delete connection of", DEL_PATH = 47 "delete path of", PATH_STATE = 48 "path state",
    RENAME_RESOURCE = 49 "rename", GET_PATHS = 50 "list paths of",
}

/// Numbers of the nests.
pub(crate) mod nest {
    pub(crate) const CFG_REPLY: u16 = 1;
    pub(crate) const CFG_CONTEXT: u16 = 2;
    pub(crate) const DISK_CONF: u16 = 3;
    pub(crate) const RESOURCE_OPTS: u16 = 4;
    pub(crate) const NET_CONF: u16 = 5;
    pub(crate) const SET_ROLE_PARMS: u16 = 6;
    pub(crate) const RESIZE_PARMS: u16 = 7;
    pub(crate) const STATE_INFO: u16 = 8;
    pub(crate) const START_OV_PARMS: u16 = 9;
    pub(crate) const NEW_C_UUID_PARMS: u16 = 10;
    pub(crate) const TIMEOUT_PARMS: u16 = 11;
    pub(crate) const DISCONNECT_PARMS: u16 = 12;
    pub(crate) const DETACH_PARMS: u16 = 13;
    /// Of DRBD 9.
    pub(crate) const DEVICE_CONF: u16 = 14;
    pub(crate) const RESOURCE_INFO: u16 = 15;
    pub(crate) const DEVICE_INFO: u16 = 16;
    pub(crate) const CONNECTION_INFO: u16 = 17;
    pub(crate) const PEER_DEVICE_INFO: u16 = 18;
    #[cfg(feature = "fake")]
    pub(crate) const RESOURCE_STATISTICS: u16 = 19;
    pub(crate) const DEVICE_STATISTICS: u16 = 20;
    pub(crate) const CONNECTION_STATISTICS: u16 = 21;
    pub(crate) const PEER_DEVICE_STATISTICS: u16 = 22;
    pub(crate) const NOTIFICATION_HEADER: u16 = 23;
    pub(crate) const HELPER: u16 = 24;
    // Of DRBD 9.
    pub(crate) const INVALIDATE_PARMS: u16 = 25;
    pub(crate) const FORGET_PEER_PARMS: u16 = 26;
    pub(crate) const PEER_DEVICE_OPTS: u16 = 27;
    pub(crate) const PATH_PARMS: u16 = 28;
    pub(crate) const CONNECT_PARMS: u16 = 29;
    pub(crate) const PATH_INFO: u16 = 30;
    pub(crate) const RENAME_RESOURCE_PARMS: u16 = 31;
}

/// Which object a message is about: `struct drbd_cfg_context`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Context {
    pub(crate) volume: Option<u16>,
    pub(crate) resource: Option<String>,
    /// Of DRBD 9: the peer, by its node id and by its name.
    pub(crate) node_id: Option<u32>,
    pub(crate) peer_name: Option<String>,
    /// Local and peer.
    pub(crate) addresses: Option<(SocketAddr, SocketAddr)>,
}

impl Context {
    pub(crate) fn resource(name: &str) -> Self {
        Self { resource: Some(name.to_owned()), ..Self::default() }
    }

    pub(crate) fn volume(name: &str, volume: u16) -> Self {
        Self { volume: Some(volume), ..Self::resource(name) }
    }

    /// A peer of DRBD 9.
    pub(crate) fn peer(name: &str, node_id: u32) -> Self {
        Self { node_id: Some(node_id), ..Self::resource(name) }
    }

    /// A connection by its addresses alone: 8.4 answers 162 if a resource name stands beside them (`drbd_adm_prepare`, `drbd_nl.c`).
    pub(crate) fn connection(local: SocketAddr, peer: SocketAddr) -> Self {
        Self { addresses: Some((local, peer)), ..Self::default() }
    }

    pub(crate) fn encode(&self, message: Message, flag: u16) -> Message {
        message.with_nest(nest::CFG_CONTEXT | NESTED, |mut m| {
            // In the order of drbdsetup.
            if let Some(name) = &self.resource {
                m = m.with_str(2 | flag, name);
            }
            if let Some(node_id) = self.node_id {
                m = m.with_u32(6 | flag, node_id);
            }
            if let Some(volume) = self.volume {
                m = m.with_u32(1 | flag, u32::from(volume));
            }
            if let Some((local, peer)) = &self.addresses {
                m = m.with(3 | flag, &encode_address(local)).with(4 | flag, &encode_address(peer));
            }
            m
        })
    }

    fn decode(nest: &Attribute<'_>) -> Result<Self, ParseError> {
        let mut context = Self::default();
        let (mut local, mut peer) = (None, None);
        for field in nest.nested() {
            let field = field?;
            match field.kind {
                // An unset volume is -1 (VOLUME_UNSPECIFIED).
                1 => context.volume = field.u32().and_then(|n| u16::try_from(n).ok()),
                2 => context.resource = field.text().map(str::to_owned),
                3 => local = decode_address(field.payload),
                4 => peer = decode_address(field.payload),
                5 => context.peer_name = field.text().map(str::to_owned),
                6 => context.node_id = field.u32(),
                _ => {}
            }
        }
        context.addresses = local.zip(peer);
        Ok(context)
    }
}

/// A raw `sockaddr_in` (16 bytes) or `sockaddr_in6` (28 bytes).
pub(crate) fn encode_address(address: &SocketAddr) -> Vec<u8> {
    const AF_INET: u16 = 2;
    const AF_INET6: u16 = 10;
    let mut out = Vec::with_capacity(28);
    match address {
        SocketAddr::V4(v4) => {
            out.extend(AF_INET.to_ne_bytes());
            out.extend(v4.port().to_be_bytes());
            out.extend(v4.ip().octets());
            out.extend([0; 8]);
        }
        SocketAddr::V6(v6) => {
            out.extend(AF_INET6.to_ne_bytes());
            out.extend(v6.port().to_be_bytes());
            out.extend(v6.flowinfo().to_be_bytes());
            out.extend(v6.ip().octets());
            out.extend(v6.scope_id().to_ne_bytes());
        }
    }
    out
}

/// Reads an address by its layout: SDP and SSOCKS have that of IPv4.
pub(crate) fn decode_address(bytes: &[u8]) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    if let Some(rest) = bytes.get(..28) {
        let flow = u32::from_be_bytes(rest.get(4..8)?.try_into().ok()?);
        let ip: [u8; 16] = rest.get(8..24)?.try_into().ok()?;
        let scope = u32::from_ne_bytes(rest.get(24..28)?.try_into().ok()?);
        return Some(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(ip), port, flow, scope)));
    }
    let ip: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
    Some(SocketAddr::new(IpAddr::V4(Ipv4Addr::from(ip)), port))
}

/// Begins a message.
pub(crate) fn request(family: &Family, command: Command, minor: u32, flags: u32) -> Message {
    let header: Vec<u8> = minor.to_ne_bytes().into_iter().chain(flags.to_ne_bytes()).collect();
    family.message(command.0).with_header(&header)
}

/// A message from the kernel, taken apart into its nests.
#[derive(Debug, Clone)]
pub(crate) struct Packet<'a> {
    pub(crate) command: u8,
    pub(crate) minor: u32,
    /// 101 is "no error"; 1 to 4 are successes of a state change; else see [`Refusal`](crate::Refusal).
    pub(crate) code: i32,
    pub(crate) context: Context,
    nests: Vec<Attribute<'a>>,
}

impl<'a> Packet<'a> {
    pub(crate) fn parse(reply: &'a Reply) -> Result<Self, ParseError> {
        let short = || ParseError::new("message of the DRBD family", "", "shorter than its header");
        let number = |at: usize| -> Option<u32> {
            Some(u32::from_ne_bytes(reply.body.get(at..at + 4)?.try_into().ok()?))
        };
        let command = *reply.body.first().ok_or_else(short)?;
        let minor = number(4).ok_or_else(short)?;
        let code = number(8).ok_or_else(short)?.cast_signed();
        let nests = attributes(reply.body.get(12..).unwrap_or_default()).collect::<Result<Vec<_>, _>>()?;
        let found = nests.iter().find(|nest| nest.kind == nest::CFG_CONTEXT);
        let context = found.map(Context::decode).transpose()?.unwrap_or_default();
        Ok(Self { command, minor, code, context, nests })
    }

    pub(crate) fn is_success(&self) -> bool {
        matches!(self.code, 1..=4 | 101)
    }

    pub(crate) fn nest(&self, kind: u16) -> Option<&Attribute<'a>> {
        self.nests.iter().find(|nest| nest.kind == kind)
    }

    /// One field of a nest.
    pub(crate) fn field(&self, kind: u16, number: u16) -> Option<Attribute<'a>> {
        self.nest(kind)?.nested().flatten().find(|field| field.kind == number)
    }

    /// What the kernel says beside the code, one text each.
    pub(crate) fn texts(&self) -> Vec<String> {
        self.nests
            .iter()
            .filter(|nest| nest.kind == nest::CFG_REPLY)
            .flat_map(|nest| nest.nested().flatten())
            .filter(|field| field.kind == 1)
            .filter_map(|field| field.text().map(|text| text.trim().to_owned()))
            .filter(|text| !text.is_empty())
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn addresses_survive(ip: [u8; 16], v4: [u8; 4], port: u16, scope: u32) {
            let six = SocketAddr::V6(SocketAddrV6::new(ip.into(), port, 0, scope));
            prop_assert_eq!(decode_address(&encode_address(&six)), Some(six));
            let four = SocketAddr::new(IpAddr::V4(v4.into()), port);
            prop_assert_eq!(decode_address(&encode_address(&four)), Some(four));
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>) {
            let reply = Reply::new(0x20, 0, 0, bytes);
            if let Ok(packet) = Packet::parse(&reply) {
                let _ = (packet.texts(), packet.field(nest::NET_CONF, 1));
            }
        }
    }
}
