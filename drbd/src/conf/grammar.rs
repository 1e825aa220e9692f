//! Which statements may stand where, and which options a section takes (`user/v9/drbdadm_parser.c` of drbd-utils; what only 8.4 or only
//! 9 knows is taken too).

use super::Kind as Section;
use crate::options::OptionRow;
use crate::wire::conf::Statement;
use crate::wire::disk::{DISK, RESOURCE};
use crate::wire::nest;
use crate::wire::net::NET;

/// What a statement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Meaning {
    /// It has a block of statements.
    Block(Section),
    /// It has none.
    Plain(Shape),
    /// An option of the section it stands in.
    Option,
    /// It is passed over, with all it holds.
    Skipped,
}

/// What follows the keyword of a statement without a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Nothing,
    /// One word of any kind.
    Word,
    /// One or more words.
    Words,
    Number {
        min: u32,
        max: u32,
    },
    OneOf(&'static [&'static str]),
    /// `[ipv4|ipv6|...] ADDRESS:PORT`.
    Address,
    /// `/dev/drbdN`, `minor N` or both.
    Device,
    /// `internal`, a path, or a path and an index in brackets.
    MetaDisk,
    /// `NAME [address ADDRESS:PORT | port N] [via ...]`.
    Peer,
}

const ANY: Shape = Shape::Words;
const fn number(min: u32, max: u32) -> Meaning {
    Meaning::Plain(Shape::Number { min, max })
}
const fn block(section: Section) -> Meaning {
    Meaning::Block(section)
}
const YES_NO: &[&str] = &["yes", "no"];

/// What a statement is in its section; the error is what would be right there.
pub(super) fn meaning(section: Section, statement: &Statement<'_>) -> Result<Meaning, &'static str> {
    let (keyword, open) = (statement.keyword(), statement.has_block());
    // Whatever it holds.
    if keyword == "skip" {
        return Ok(Meaning::Skipped);
    }
    let found = match section {
        Section::File => top(keyword),
        Section::Global => global(keyword),
        Section::Common | Section::Resource => resource(section, keyword, open),
        Section::Host | Section::Floating => host(section, keyword, open),
        Section::Stacked => match keyword {
            "device" | "node-id" | "address" => host(Section::Host, keyword, open),
            "volume" => Some(block(Section::Volume)),
            "proxy" => Some(block(Section::ProxyEnds)),
            _ => None,
        },
        Section::Volume => volume(keyword, open),
        Section::Connection => connection(keyword),
        Section::PeerVolume => (keyword == "disk").then_some(block(Section::PeerDisk)),
        Section::Mesh => match keyword {
            "hosts" => Some(Meaning::Plain(Shape::Words)),
            "net" => Some(block(Section::Net)),
            _ => None,
        },
        Section::Path => ends(keyword),
        Section::ProxyEnds => match keyword {
            "inside" | "outside" => Some(Meaning::Plain(Shape::Address)),
            "options" => Some(block(Section::Proxy)),
            _ => None,
        },
        Section::Proxy => Some(if keyword == "plugin" { block(Section::Plugin) } else { Meaning::Option }),
        Section::Plugin => Some(Meaning::Plain(ANY)),
        _ => Some(Meaning::Option),
    };
    found.ok_or_else(|| expected(section))
}

fn top(keyword: &str) -> Option<Meaning> {
    Some(match keyword {
        "global" => block(Section::Global),
        "common" => block(Section::Common),
        "resource" => block(Section::Resource),
        "include" => Meaning::Plain(Shape::Word),
        word if word.starts_with("require-drbd-module-version-") => {
            let relation = word.rsplit('-').next().unwrap_or_default();
            ["eq", "ne", "gt", "ge", "lt", "le"].contains(&relation).then_some(Meaning::Plain(Shape::Word))?
        }
        _ => return None,
    })
}

fn global(keyword: &str) -> Option<Meaning> {
    Some(match keyword {
        "usage-count" => Meaning::Plain(Shape::OneOf(&["yes", "no", "ask"])),
        "minor-count" => number(1, 255),
        "dialog-refresh" => number(0, 600),
        "cmd-timeout-short" | "cmd-timeout-medium" | "cmd-timeout-long" => number(0, 900),
        "disable-ip-verification" | "udev-always-use-vnr" => Meaning::Plain(Shape::Nothing),
        _ => return None,
    })
}

fn resource(section: Section, keyword: &str, open: bool) -> Option<Meaning> {
    let has_hosts = section == Section::Resource;
    Some(match keyword {
        "protocol" => Meaning::Plain(Shape::OneOf(&["A", "B", "C", "a", "b", "c"])),
        "on" if has_hosts => block(Section::Host),
        "_this_host" if has_hosts => block(Section::Host),
        "floating" if has_hosts && open => block(Section::Floating),
        "floating" if has_hosts => Meaning::Plain(Shape::Address),
        "stacked-on-top-of" if has_hosts => block(Section::Stacked),
        "disk" if open => block(Section::Disk),
        "net" => block(Section::Net),
        "syncer" => block(Section::Syncer),
        "startup" => block(Section::Startup),
        "options" => block(Section::Options),
        "handlers" => block(Section::Handlers),
        "proxy" => block(Section::Proxy),
        "volume" => block(Section::Volume),
        "connection" => block(Section::Connection),
        "connection-mesh" => block(Section::Mesh),
        "template-file" => Meaning::Plain(Shape::Word),
        _ => return volume(keyword, open).filter(|_| keyword != "tiebreaker"),
    })
}

fn host(section: Section, keyword: &str, open: bool) -> Option<Meaning> {
    Some(match keyword {
        "address" if section == Section::Host => Meaning::Plain(Shape::Address),
        "node-id" => number(0, 31),
        "volume" => block(Section::Volume),
        "proxy" => block(Section::ProxyEnds),
        "options" => block(Section::Options),
        _ => return volume(keyword, open).filter(|_| keyword != "tiebreaker"),
    })
}

fn volume(keyword: &str, open: bool) -> Option<Meaning> {
    Some(match keyword {
        "disk" if open => block(Section::Disk),
        "disk" => Meaning::Plain(Shape::Word),
        "device" => Meaning::Plain(Shape::Device),
        "meta-disk" => Meaning::Plain(Shape::MetaDisk),
        "flexible-meta-disk" => Meaning::Plain(Shape::Word),
        "tiebreaker" => Meaning::Plain(Shape::OneOf(YES_NO)),
        _ => return None,
    })
}

fn connection(keyword: &str) -> Option<Meaning> {
    Some(match keyword {
        "net" => block(Section::Net),
        "disk" => block(Section::PeerDisk),
        "volume" => block(Section::PeerVolume),
        "path" => block(Section::Path),
        "_peer_node_id" => number(0, 31),
        "_cstate" => Meaning::Plain(Shape::Word),
        _ => return ends(keyword),
    })
}

/// An end of a connection or path; with `via proxy` it has a block.
fn ends(keyword: &str) -> Option<Meaning> {
    match keyword {
        "host" => Some(Meaning::Plain(Shape::Peer)),
        "address" | "_this_host" | "_remote_host" => Some(Meaning::Plain(Shape::Address)),
        _ => None,
    }
}

fn expected(section: Section) -> &'static str {
    match section {
        Section::File => {
            "global, common, resource, include, skip and require-drbd-module-version-{eq,ne,gt,ge,lt,le}"
        }
        Section::Global => {
            "usage-count, minor-count, dialog-refresh, cmd-timeout-short, cmd-timeout-medium, cmd-timeout-long, \
             disable-ip-verification and udev-always-use-vnr"
        }
        Section::Common => "protocol, net, disk, options, startup, handlers, proxy, syncer and skip",
        Section::Resource => {
            "protocol, on, floating, stacked-on-top-of, device, disk, meta-disk, volume, net, options, startup, handlers, \
             connection, connection-mesh, proxy, syncer, template-file and skip"
        }
        Section::Host => "address, node-id, device, disk, meta-disk, volume, options, proxy and skip",
        Section::Floating => "node-id, device, disk, meta-disk, volume, options and skip",
        Section::Stacked => "address, node-id, device, volume and proxy",
        Section::Volume => "device, disk, meta-disk, flexible-meta-disk, tiebreaker and skip",
        Section::Connection => "host, address, path, net, disk, volume and skip",
        Section::PeerVolume => "disk { }",
        Section::Mesh => "hosts and net",
        Section::Path => "host and address",
        Section::ProxyEnds => "inside, outside and options",
        _ => "options",
    }
}

/// An option of drbd.conf that no kernel has: name and values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Plain {
    Number { min: u64, max: u64 },
    Flag,
    Text,
}

const STARTUP: &[(&str, Plain)] = &[
    ("wfc-timeout", Plain::Number { min: 0, max: 300_000 }),
    ("degr-wfc-timeout", Plain::Number { min: 0, max: 300_000 }),
    ("outdated-wfc-timeout", Plain::Number { min: 0, max: 300_000 }),
    ("wait-after-sb", Plain::Flag),
    ("become-primary-on", Plain::Text),
    ("stacked-timeouts", Plain::Flag),
];
const HANDLERS: &[&str] = &[
    "pri-on-incon-degr",
    "pri-lost-after-sb",
    "pri-lost",
    "initial-split-brain",
    "split-brain",
    "outdate-peer",
    "fence-peer",
    "unfence-peer",
    "local-io-error",
    "before-resync-target",
    "after-resync-target",
    "before-resync-source",
    "out-of-sync",
    "quorum-lost",
    "disconnected",
];
const PROXY: &[(&str, Plain)] = &[
    ("memlimit", Plain::Text),
    ("read-loops", Plain::Number { min: 0, max: u64::MAX }),
    ("compression", Plain::Flag),
    ("bwlimit", Plain::Text),
    ("sndbuf-size", Plain::Text),
    ("rcvbuf-size", Plain::Text),
    ("ping-timeout", Plain::Number { min: 0, max: u64::MAX }),
];

/// An option that a statement sets: a row of the kernel's tables, or one of drbd-utils' own.
#[derive(Debug, Clone, Copy)]
pub(super) enum Known {
    Row(&'static OptionRow),
    Own(&'static str, Plain),
}

impl Known {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Row(row) => row.name,
            Self::Own(name, _) => name,
        }
    }
}

/// The option that a word names in a section, and whether the word says that it is off (`no-disk-flushes`).
pub(super) fn option(section: Section, word: &str) -> Option<(Known, bool)> {
    let (bare, off) = word.strip_prefix("no-").map_or((word, false), |rest| (rest, true));
    let alias = match (section, bare) {
        (Section::Handlers, "outdate-peer") => "fence-peer",
        (Section::Syncer | Section::Disk, "rate") => "resync-rate",
        (Section::Syncer | Section::Disk, "after") => "resync-after",
        (Section::PeerDisk, "bitmap") => "peer-bitmap",
        _ => bare,
    };
    let row = |rows: &'static [OptionRow]| rows.iter().find(|row| row.name == alias).map(Known::Row);
    let own = |list: &'static [(&'static str, Plain)]| {
        list.iter().find(|(name, _)| *name == alias).map(|(name, kind)| Known::Own(name, *kind))
    };
    let found = match section {
        Section::Net => row(NET),
        Section::Disk => row(DISK),
        Section::PeerDisk => {
            let rows = DISK.iter().filter(|row| row.in_9.is_some_and(|(n, _)| n == nest::PEER_DEVICE_OPTS));
            rows.clone().find(|row| row.name == alias).map(Known::Row)
        }
        Section::Options => row(RESOURCE),
        Section::Syncer => row(NET).or_else(|| row(DISK)).or_else(|| row(RESOURCE)),
        Section::Startup => own(STARTUP),
        Section::Handlers => {
            HANDLERS.iter().find(|name| **name == alias).map(|name| Known::Own(name, Plain::Text))
        }
        Section::Proxy => own(PROXY),
        _ => None,
    };
    found.map(|known| (known, off))
}
