//! The family `drbd2`, which DRBD 9 is to have inside of the kernel. **Experimental**: the numbers are those of a public work in progress
//! (`uapi/linux/drbd2.h`), no release has them yet and no module has seen what is written here.
//!
//! It says the same things as the family `drbd` of version 2 in other numbers. So messages are written and read as those of version 2, and
//! translated here, by tables, on their way: a request before it is sent, an answer when it has come.

use host::nl::genl::Family;
use host::nl::{Attribute, Message, NESTED, Reply, attributes};

use super::{Command, MANDATORY, NO_MINOR, decode_address, encode_address, nest};

/// The name of the family.
pub(crate) const FAMILY: &str = "drbd2";
/// The version it is translated from and to.
const NINE: u8 = 2;

/// How a field is written there.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// As in version 2.
    Same,
    /// A flag that is there or not; one byte in version 2.
    Flag,
    /// One byte; 32 bits in version 2.
    Byte,
}
use Form::{Byte, Flag, Same};

/// Commands: there, and in version 2.
const COMMANDS: &[(u8, Command)] = &[
    (1, Command::NEW_RESOURCE),
    (2, Command::DEL_RESOURCE),
    (3, Command::RESOURCE_OPTS),
    (4, Command::RENAME_RESOURCE),
    (5, Command::DOWN),
    (6, Command::PRIMARY),
    (7, Command::SECONDARY),
    (8, Command::SUSPEND_IO),
    (9, Command::RESUME_IO),
    (10, Command::NEW_MINOR),
    (11, Command::DEL_MINOR),
    (12, Command::ATTACH),
    (13, Command::DETACH),
    (14, Command::CHG_DISK_OPTS),
    (15, Command::RESIZE),
    (16, Command::OUTDATE),
    (17, Command::INVALIDATE),
    (18, Command::NEW_C_UUID),
    (19, Command::NEW_PEER),
    (20, Command::DEL_PEER),
    (21, Command::CONNECT),
    (22, Command::DISCONNECT),
    (23, Command::CHG_NET_OPTS),
    (24, Command::FORGET_PEER),
    (25, Command::NEW_PATH),
    (26, Command::DEL_PATH),
    (27, Command::CHG_PEER_DEVICE_OPTS),
    (28, Command::INVAL_PEER),
    (29, Command::PAUSE_SYNC),
    (30, Command::RESUME_SYNC),
    (31, Command::START_OV),
    (32, Command::GET_TIMEOUT_TYPE),
    (33, Command::GET_RESOURCES),
    (34, Command::GET_DEVICES),
    (35, Command::GET_CONNECTIONS),
    (36, Command::GET_PEER_DEVICES),
    (37, Command::GET_PATHS),
    (38, Command::GET_INITIAL_STATE),
    (40, Command::HELPER),
];
/// `DRBD_CMD_STATE_GET`, a dump of what `STATE_CHANGE_NTF` tells.
const STATE_GET: u8 = 38;
const STATE_CHANGE: u8 = 39;
const HELPER: u8 = 40;

/// Attributes of the outermost level.
const CONTEXT: u16 = 1;
const SET_DEFAULTS: u16 = 2;
const STATE_RESULT: u16 = 3;
const MESSAGE: u16 = 4;
const TIMEOUT_TYPE: u16 = 5;
const HELPER_INFO: u16 = 16;

/// A group of attributes: its number there and in version 2, and its fields: there, in version 2, and how they are written there.
struct Group {
    there: u16,
    nine: u16,
    fields: &'static [(u16, u16, Form)],
}

const fn group(there: u16, nine: u16, fields: &'static [(u16, u16, Form)]) -> Group {
    Group { there, nine, fields }
}

const DISK_CONF: &[(u16, u16, Form)] = &[
    (1, 1, Same),
    (2, 2, Same),
    (3, 3, Same),
    (4, 4, Same),
    (5, 6, Same),
    (6, 9, Same),
    (7, 10, Same),
    (8, 16, Same),
    (9, 17, Same),
    (10, 18, Same),
    (11, 19, Same),
    (12, 20, Same),
    (13, 21, Same),
    (14, 22, Same),
    (15, 25, Same),
    (16, 23, Same),
    (17, 24, Same),
    (18, 26, Same),
    (19, 27, Same),
];
/// Those of the nest whose numbers are the same in both.
const EQUAL: &[(u16, u16, Form)] = &[
    (1, 1, Same),
    (2, 2, Same),
    (3, 3, Same),
    (4, 4, Same),
    (5, 5, Same),
    (6, 6, Same),
    (7, 7, Same),
    (8, 8, Same),
    (9, 9, Same),
    (10, 10, Same),
    (11, 11, Same),
    (12, 12, Same),
    (13, 13, Same),
    (14, 14, Same),
    (15, 15, Same),
    (16, 16, Same),
];
const NET_CONF: &[(u16, u16, Form)] = &[
    (1, 1, Same),
    (2, 2, Same),
    (3, 3, Same),
    (4, 4, Same),
    (5, 5, Same),
    (6, 6, Same),
    (7, 7, Same),
    (8, 8, Same),
    (9, 9, Same),
    (10, 10, Same),
    (11, 11, Same),
    (12, 12, Same),
    (13, 13, Same),
    (14, 15, Same),
    (15, 17, Same),
    (16, 18, Same),
    (17, 19, Same),
    (18, 20, Same),
    (19, 21, Same),
    (20, 22, Same),
    (21, 23, Same),
    (22, 24, Same),
    (23, 26, Same),
    (24, 27, Same),
    (25, 29, Same),
    (26, 30, Same),
    (27, 31, Same),
    (28, 33, Same),
    (29, 34, Same),
    (30, 35, Same),
    (31, 36, Same),
    (32, 37, Same),
    (33, 38, Same),
    (34, 39, Same),
    (35, 40, Same),
    (36, 41, Same),
    (37, 42, Same),
    (38, 43, Same),
    (39, 44, Same),
];
const PEER_STATISTICS: &[(u16, u16, Form)] = &[
    (1, 1, Same),
    (2, 2, Same),
    (3, 3, Same),
    (4, 4, Same),
    (5, 5, Same),
    (6, 6, Same),
    (7, 7, Same),
    (8, 9, Same),
    (9, 10, Same),
    (10, 11, Same),
    (11, 12, Same),
    (12, 13, Same),
    (13, 14, Same),
    (14, 15, Same),
    (15, 16, Same),
    (16, 17, Same),
    (17, 18, Same),
    (18, 19, Same),
    (19, 20, Same),
    (20, 21, Same),
    (21, 22, Same),
    (22, 23, Same),
    (23, 24, Same),
];

/// What requests carry.
const PARAMETERS: &[Group] = &[
    group(6, nest::DISK_CONF, DISK_CONF),
    group(7, nest::RESOURCE_OPTS, EQUAL),
    group(8, nest::NET_CONF, NET_CONF),
    group(9, nest::SET_ROLE_PARMS, &[(1, 1, Flag)]),
    group(10, nest::RESIZE_PARMS, &[(1, 1, Same), (2, 2, Flag), (3, 3, Flag), (4, 4, Same), (5, 5, Same)]),
    group(11, nest::START_OV_PARMS, EQUAL),
    group(12, nest::NEW_C_UUID_PARMS, &[(1, 1, Flag), (2, 2, Flag)]),
    group(13, nest::DISCONNECT_PARMS, &[(1, 1, Flag)]),
    group(14, nest::DETACH_PARMS, &[(1, 1, Flag), (2, 2, Flag)]),
    group(15, nest::DEVICE_CONF, EQUAL),
    group(17, nest::INVALIDATE_PARMS, &[(1, 1, Same), (2, 2, Flag)]),
    group(18, nest::PEER_DEVICE_OPTS, EQUAL),
    group(19, nest::CONNECT_PARMS, &[(1, 1, Flag), (2, 2, Flag)]),
    group(20, nest::RENAME_RESOURCE_PARMS, EQUAL),
];

/// An object as dumps and events tell it: its number in a dump and in an event, the commands of version 2 for both, and its parts.
struct Object {
    in_dump: u16,
    in_event: u16,
    dump: Command,
    event: Command,
    parts: &'static [Group],
}

/// The context of an object, the first of its parts.
const OBJECT_CONTEXT: u16 = 1;
/// The paths of a connection, each a context with two addresses.
const PATHS: u16 = 5;

const OBJECTS: &[Object] = &[
    Object {
        in_dump: 23,
        in_event: 3,
        dump: Command::GET_RESOURCES,
        event: Command::RESOURCE_STATE,
        parts: &[
            group(2, nest::RESOURCE_INFO, EQUAL),
            group(3, 19, EQUAL),
            group(5, nest::RESOURCE_OPTS, EQUAL),
        ],
    },
    Object {
        in_dump: 24,
        in_event: 4,
        dump: Command::GET_DEVICES,
        event: Command::DEVICE_STATE,
        parts: &[
            group(
                2,
                nest::DEVICE_INFO,
                &[(1, 1, Same), (2, 2, Same), (3, 3, Same), (4, 5, Same), (5, 4, Same)],
            ),
            group(3, nest::DEVICE_STATISTICS, EQUAL),
            group(4, nest::DISK_CONF, DISK_CONF),
            group(5, nest::DEVICE_CONF, EQUAL),
        ],
    },
    Object {
        in_dump: 25,
        in_event: 5,
        dump: Command::GET_CONNECTIONS,
        event: Command::CONNECTION_STATE,
        parts: &[
            group(2, nest::CONNECTION_INFO, EQUAL),
            group(3, nest::CONNECTION_STATISTICS, EQUAL),
            group(4, nest::NET_CONF, NET_CONF),
        ],
    },
    Object {
        in_dump: 26,
        in_event: 6,
        dump: Command::GET_PEER_DEVICES,
        event: Command::PEER_DEVICE_STATE,
        parts: &[
            group(
                2,
                nest::PEER_DEVICE_INFO,
                &[
                    (1, 1, Same),
                    (2, 2, Same),
                    (3, 3, Byte),
                    (4, 4, Byte),
                    (5, 5, Byte),
                    (6, 6, Same),
                    (7, 7, Byte),
                ],
            ),
            group(3, nest::PEER_DEVICE_STATISTICS, PEER_STATISTICS),
            group(4, nest::PEER_DEVICE_OPTS, EQUAL),
        ],
    },
    Object {
        in_dump: 27,
        in_event: 7,
        dump: Command::GET_PATHS,
        event: Command::PATH_STATE,
        parts: &[group(2, nest::PATH_INFO, EQUAL)],
    },
];

/// The family as one of version 2: what is asked of it is asked in those numbers.
pub(crate) fn as_nine(mut family: Family) -> Family {
    family.version = NINE;
    let ours = |there: u32| COMMANDS.iter().find(|(number, _)| u32::from(*number) == there);
    for (number, _) in &mut family.operations {
        *number = ours(*number).map_or(u32::MAX, |(_, command)| u32::from(command.0));
    }
    family
}

fn field<'a>(nest: &Attribute<'a>, number: u16) -> Option<Attribute<'a>> {
    nest.nested().flatten().find(|field| field.kind == number)
}

/// Appends a nest of version 2 as one of there.
fn there(message: Message, group: &Group, nest: &Attribute<'_>) -> Message {
    message.with_nest(group.there | NESTED, |m| {
        nest.nested().flatten().fold(m, |m, field| {
            match group.fields.iter().find(|(_, nine, _)| *nine == field.kind) {
                Some((number, _, Same)) => m.with(*number, field.payload),
                Some((number, _, Flag)) if field.u8() != Some(0) => m.with(*number, &[]),
                Some((number, _, Byte)) => {
                    m.with_u8(*number, field.payload.first().copied().unwrap_or_default())
                }
                _ => m,
            }
        })
    })
}

/// Appends a nest of there as one of version 2.
fn nine(message: Message, group: &Group, nest: &Attribute<'_>) -> Message {
    message.with_nest(group.nine | NESTED, |m| {
        nest.nested().flatten().fold(m, |m, field| {
            match group.fields.iter().find(|(number, _, _)| *number == field.kind) {
                Some((_, number, Same)) => m.with(*number, field.payload),
                Some((_, number, Flag)) => m.with_u8(*number, 1),
                Some((_, number, Byte)) => m.with_u32(*number, field.u8().unwrap_or_default().into()),
                None => m,
            }
        })
    })
}

/// `ADDRESS`: family, port, and the address itself, each a field.
fn with_address(message: Message, kind: u16, raw: &[u8]) -> Message {
    let Some(address) = decode_address(raw) else { return message };
    message.with_nest(kind | NESTED, |m| {
        let family = raw.get(..2).unwrap_or_default();
        let m = m.with(1, family).with(2, &address.port().to_be_bytes());
        match address.ip() {
            std::net::IpAddr::V4(ip) => m.with(3, &ip.octets()),
            std::net::IpAddr::V6(ip) => m.with(4, &ip.octets()),
        }
    })
}

fn address(nest: &Attribute<'_>) -> Option<Vec<u8>> {
    let port = field(nest, 2)?.payload.get(..2)?.try_into().ok().map(u16::from_be_bytes)?;
    let four = field(nest, 3).and_then(|ip| Some(<[u8; 4]>::try_from(ip.payload.get(..4)?).ok()?.into()));
    let six = || field(nest, 4).and_then(|ip| Some(<[u8; 16]>::try_from(ip.payload.get(..16)?).ok()?.into()));
    Some(encode_address(&std::net::SocketAddr::new(four.or_else(six)?, port)))
}

/// A request of version 2 as one of there; as it is if it has no counterpart, which the kernel then refuses.
pub(crate) fn request(message: &Message) -> Message {
    let body = message.body();
    let word = |at: usize| body.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
    let command = COMMANDS.iter().find(|(_, command)| Some(&command.0) == body.first());
    let (Some((command, _)), Some(minor), Some(flags)) = (command, word(4), word(8)) else {
        return message.clone();
    };
    let nests: Vec<_> = attributes(body.get(12..).unwrap_or_default()).flatten().collect();
    let find = |kind: u16| nests.iter().find(|nest| nest.kind == kind);
    let mut out = Message::new(message.kind(), 0).with_header(&[*command, 1, 0, 0]);
    let context = Message::new(0, 0);
    let context = find(nest::CFG_CONTEXT).into_iter().flat_map(Attribute::nested).flatten().fold(
        context,
        |m, field| match field.kind {
            1 => m.with(2, field.payload),
            2 => m.with(1, field.payload),
            3 => with_address(m, 6, field.payload),
            4 => with_address(m, 7, field.payload),
            5 => m.with(5, field.payload),
            6 => m.with(4, field.payload),
            _ => m,
        },
    );
    let context = if minor == NO_MINOR { context } else { context.with_u32(3, minor) };
    // What stands in parameters of its own in version 2.
    let paths = find(nest::PATH_PARMS).into_iter().flat_map(Attribute::nested).flatten();
    let context = paths.fold(context, |m, field| with_address(m, 5 + field.kind.min(2), field.payload));
    let forgotten = find(nest::FORGET_PEER_PARMS).and_then(|nest| field(nest, 1));
    let context = forgotten.iter().fold(context, |m, node| m.with(4, node.payload));
    if !context.body().is_empty() {
        out = out.with(CONTEXT | NESTED, context.body());
    }
    if flags & super::SET_DEFAULTS != 0 {
        out = out.with(SET_DEFAULTS, &[]);
    }
    for group in PARAMETERS {
        out = find(group.nine).into_iter().fold(out, |out, nest| there(out, group, nest));
    }
    out
}

/// A message of version 2 from its parts.
fn packet(command: Command, minor: u32, code: i32) -> Message {
    let header = [&[command.0, NINE, 0, 0][..], &minor.to_ne_bytes(), &code.to_ne_bytes()].concat();
    Message::new(0, 0).with_header(&header)
}

const NO_ERROR: i32 = 101;

fn minor(context: Option<&Attribute<'_>>) -> u32 {
    context.and_then(|context| field(context, 3)?.u32()).unwrap_or(NO_MINOR)
}

fn with_context(message: Message, context: Option<&Attribute<'_>>) -> Message {
    let Some(context) = context else { return message };
    message.with_nest(nest::CFG_CONTEXT | NESTED, |m| {
        context.nested().flatten().fold(m, |m, field| match field.kind {
            1 => m.with(2 | MANDATORY, field.payload),
            2 => m.with(1 | MANDATORY, field.payload),
            4 => m.with(6 | MANDATORY, field.payload),
            5 => m.with(5, field.payload),
            6 | 7 => match address(&field) {
                Some(raw) => m.with((field.kind - 3) | MANDATORY, &raw),
                None => m,
            },
            _ => m,
        })
    })
}

fn object(command: Command, object: &Object, nest: &Attribute<'_>) -> Message {
    let parts: Vec<_> = nest.nested().flatten().collect();
    let context = parts.iter().find(|part| part.kind == OBJECT_CONTEXT);
    let mut out = with_context(packet(command, minor(context), NO_ERROR), context);
    for group in object.parts {
        out = parts
            .iter()
            .filter(|part| part.kind == group.there)
            .fold(out, |out, part| nine(out, group, part));
    }
    let paths = parts.iter().filter(|part| part.kind == PATHS && object.dump == Command::GET_CONNECTIONS);
    let ends = paths.flat_map(|path| [field(path, 6), field(path, 7)]).flatten();
    let ends: Vec<_> = ends.filter_map(|end| Some((end.kind - 5, address(&end)?))).collect();
    if ends.is_empty() {
        return out;
    }
    out.with_nest(nest::PATH_PARMS | NESTED, |m| ends.iter().fold(m, |m, (kind, raw)| m.with(*kind, raw)))
}

/// An answer or event of there as one of version 2; as it is if it is neither.
pub(crate) fn answer(mut reply: Reply) -> Reply {
    let Some(command) = reply.body.first().copied() else { return reply };
    let parts: Vec<_> = attributes(reply.body.get(4..).unwrap_or_default()).flatten().collect();
    let find = |kind: u16| parts.iter().find(|part| part.kind == kind);
    let translated = match command {
        STATE_GET | STATE_CHANGE => {
            let found = OBJECTS.iter().find_map(|object| Some((object, find(object.in_event)?)));
            let Some((of, nest)) = found else { return reply };
            // 0 to 3 are the same; 4 is a rename, 6 in version 2.
            let action = find(1).and_then(Attribute::u32).unwrap_or_default();
            let action = if action == 4 { 6 } else { action };
            let more = if find(2).is_some() { 0x8000 } else { 0 };
            object(of.event, of, nest)
                .with_nest(nest::NOTIFICATION_HEADER | NESTED, |m| m.with_u32(1, action | more))
        }
        HELPER => {
            let Some(info) = find(HELPER_INFO) else { return reply };
            let phase = field(info, 3).and_then(|phase| phase.u32()).unwrap_or_default();
            let context = find(CONTEXT);
            with_context(packet(Command::HELPER, minor(context), NO_ERROR), context)
                .with_nest(nest::HELPER | NESTED, |m| {
                    let fields = [field(info, 1), field(info, 2)];
                    fields.iter().flatten().fold(m, |m, field| m.with(field.kind, field.payload))
                })
                // 4 is a call, 5 its end.
                .with_nest(nest::NOTIFICATION_HEADER | NESTED, |m| m.with_u32(1, 4 + phase.min(1)))
        }
        number => {
            if let Some((of, nest)) = OBJECTS.iter().find_map(|of| Some((of, find(of.in_dump)?))) {
                object(of.dump, of, nest)
            } else {
                let Some((_, command)) = COMMANDS.iter().find(|(there, _)| *there == number) else {
                    return reply;
                };
                let code = match find(STATE_RESULT).and_then(Attribute::u32) {
                    None => NO_ERROR,
                    // 29 to 32 are the successes 1 to 4 of version 2, the others its errors without their sign.
                    Some(result) => match i32::try_from(result).unwrap_or(i32::MAX) {
                        result @ 29..=32 => result - 28,
                        result => result.saturating_neg(),
                    },
                };
                let context = find(CONTEXT);
                let out = with_context(packet(*command, minor(context), code), context);
                let texts = find(MESSAGE).and_then(Attribute::text).unwrap_or_default();
                let out = texts
                    .lines()
                    .fold(out, |out, text| out.with_nest(nest::CFG_REPLY | NESTED, |m| m.with_str(1, text)));
                let kind = find(TIMEOUT_TYPE);
                kind.iter().fold(out, |out, kind| {
                    out.with_nest(nest::TIMEOUT_PARMS | NESTED, |m| m.with(1, kind.payload))
                })
            }
        }
    };
    reply.body = translated.body().to_vec();
    reply
}
