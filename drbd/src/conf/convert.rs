//! From 8.4 to 9: the same configuration in the words of the other generation.

use std::collections::BTreeMap;
use std::fmt;

use super::edit::{Edit, add, remove};
use super::grammar::{Known, option};
use super::model::{Group, section_sets};
use super::{At, Conf, Kind, Place};
use crate::Result;
use crate::wire::conf::quoted;

/// Something that the conversion to DRBD 9 changed, or that remains to be done. `Display`: `FILE:LINE:COLUMN: WHAT`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Change {
    /// Where it was in the configuration of 8.4.
    pub place: Place,
    /// What was done, and why.
    pub what: String,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.what)
    }
}

#[derive(Default)]
struct Work {
    edits: Vec<Edit>,
    changes: Vec<Change>,
    /// Statements that come into a section of the resource, by its name.
    pending: BTreeMap<&'static str, Vec<String>>,
}

impl Work {
    fn say(&mut self, at: At<'_>, what: impl Into<String>) {
        self.changes.push(Change { place: at.place(0), what: what.into() });
    }
}

impl Conf {
    /// The configuration as DRBD 9 takes it, with a list of what changed. Comments and order stay. One that DRBD 9 takes already comes back
    /// as it is, with an empty list.
    ///
    /// Options that moved are moved (`fencing` to `net`, those of `syncer` to where they belong), old spellings become new ones
    /// (`no-disk-flushes`), an option that is given twice in a section stays once with the value that 8.4 took, options that 9 does not have
    /// are removed, hosts get node ids in their order. What remains to be done on the disks is in the list too.
    ///
    /// # Errors
    /// A value cannot be written: it is longer than drbd.conf takes.
    #[doc(alias = "drbdadm dump")]
    pub fn to_9(&self) -> Result<(Self, Vec<Change>)> {
        let mut work = Work::default();
        for at in self.tops() {
            match at.statement.keyword() {
                "common" if at.statement.has_block() => body(at, &mut work),
                "resource" if at.statement.has_block() => {
                    body(at, &mut work);
                    hosts(at, &mut work);
                }
                _ => {}
            }
        }
        let mut conf = self.clone();
        conf.edit(work.edits)?;
        if let Some(at) = self.sections("resource").next().filter(|_| !work.changes.is_empty()) {
            let what = "on both nodes, with the resources down: the metadata of 8.4 becomes that of 9 with \"drbdadm create-md\", which offers to \
                        convert it and keeps the data; the disk loses a few sectors more if there are more peers";
            work.changes.push(Change { place: at.place(0), what: what.to_owned() });
        }
        Ok((conf, work.changes))
    }
}

fn body(at: At<'_>, work: &mut Work) {
    work.pending.clear();
    let has = |section: &str, name: &str| {
        let sections = at.block().filter(|inner| inner.statement.keyword() == section);
        sections.flat_map(At::block).any(|inner| inner.statement.keyword() == name)
    };
    for inner in at.block() {
        match inner.statement.keyword() {
            "protocol" => {
                let value = inner.statement.raw(1).unwrap_or_default();
                if !has("net", "protocol") {
                    work.pending.entry("net").or_default().push(format!("protocol {value};"));
                }
                work.edits.push(remove(inner));
                work.say(inner, format!("protocol {value} moved into net {{ }}"));
            }
            "syncer" => {
                for set in section_sets(Kind::Syncer, inner) {
                    let section = match set.group {
                        Group::Net => "net",
                        Group::Options => "options",
                        _ => "disk",
                    };
                    let known = !has(section, set.name());
                    let value = quoted(&set.value).filter(|_| known);
                    let statement = value.map(|value| format!("{} {value};", set.name()));
                    work.pending.entry(section).or_default().extend(statement);
                }
                work.edits.push(remove(inner));
                work.say(
                    inner,
                    "the section syncer is gone: its options moved into disk { }, net { } and options { }",
                );
            }
            "net" => section(Kind::Net, inner, work),
            "disk" if inner.statement.has_block() => section(Kind::Disk, inner, work),
            "handlers" => section(Kind::Handlers, inner, work),
            "startup" => section(Kind::Startup, inner, work),
            "volume" | "on" | "floating" => nested(inner, work),
            _ => {}
        }
    }
    let pending = std::mem::take(&mut work.pending);
    let mut fresh = Vec::new();
    for (name, statements) in pending.iter().filter(|(_, statements)| !statements.is_empty()) {
        let is_it = |inner: &At<'_>| inner.statement.keyword() == *name && inner.statement.has_block();
        match at.block().find(is_it) {
            Some(place) => work.edits.push(lines(place, statements)),
            None => fresh.push(format!("{name} {{ {} }}", statements.join(" "))),
        }
    }
    if !fresh.is_empty() {
        work.edits.push(lines(at, &fresh));
    }
}

/// Several statements at the end of a block.
fn lines(at: At<'_>, statements: &[String]) -> Edit {
    let (first, rest) =
        statements.split_first().map_or(("", &[][..]), |(first, rest)| (first.as_str(), rest));
    let mut edit = add(at, first);
    for statement in rest {
        let more = add(at, statement);
        edit.text.push_str(more.text.strip_prefix(' ').unwrap_or(&more.text));
    }
    edit
}

/// Sections of disks in volumes and hosts.
fn nested(at: At<'_>, work: &mut Work) {
    for inner in at.block() {
        match inner.statement.keyword() {
            "disk" if inner.statement.has_block() => section(Kind::Disk, inner, work),
            "volume" => nested(inner, work),
            _ => {}
        }
    }
}

fn section(kind: Kind, at: At<'_>, work: &mut Work) {
    let mut seen: Vec<(&'static str, String)> = Vec::new();
    for inner in at.block() {
        let word = inner.statement.keyword();
        let Some((known, off)) = option(kind, word) else { continue };
        let name = known.name();
        let value = inner.statement.words(1).collect::<Vec<_>>().join(" ");
        let raw = inner.statement.raw(1).unwrap_or(if off { "no" } else { "yes" });
        let is_gone = matches!(known, Known::Row(row) if row.in_9.is_none());
        if let Some((_, kept)) = seen.iter().find(|(other, _)| *other == name) {
            work.say(
                inner,
                format!(
                    "{name} {value} removed: it was there twice, and the first, {kept}, is what 8.4 took"
                ),
            );
            work.edits.push(remove(inner));
            continue;
        }
        seen.push((name, value.clone()));
        if name == "fencing" && kind == Kind::Disk {
            work.pending.entry("net").or_default().push(format!("fencing {raw};"));
            work.edits.push(remove(inner));
            work.say(inner, "fencing moved from disk { } to net { }");
        } else if is_gone {
            work.edits.push(remove(inner));
            work.say(
                inner,
                format!(
                    "{name} removed: DRBD 9 has no such option, and drbdadm refuses the file because of it"
                ),
            );
        } else if name == "become-primary-on" {
            work.edits.push(remove(inner));
            work.say(
                inner,
                "become-primary-on removed: DRBD 9 promotes a node when its device is opened (auto-promote)",
            );
        } else if word != name && kind != Kind::PeerDisk {
            let text = format!("{name} {raw};");
            work.say(inner, format!("{word} is {name} now"));
            work.edits.push(Edit { file: inner.index, span: inner.statement.whole(), text });
        }
    }
}

/// Node ids for the hosts that have none.
fn hosts(at: At<'_>, work: &mut Work) {
    let all: Vec<_> =
        at.block().filter(|inner| inner.statement.keyword() == "on" && inner.statement.has_block()).collect();
    let id = |host: &At<'_>| host.statement.find("node-id").and_then(|s| s.word(1)?.parse::<u32>().ok());
    let taken: Vec<_> = all.iter().filter_map(id).collect();
    let mut free = (0..32).filter(|id| !taken.contains(id));
    for host in all.iter().filter(|host| host.statement.find("node-id").is_none()) {
        let Some(id) = free.next() else { return };
        work.edits.push(add(*host, &format!("node-id {id};")));
        let names = host.statement.words(1).collect::<Vec<_>>().join(" ");
        work.say(
            *host,
            format!("{names} got the node-id {id}; it must be the same in the files of both nodes"),
        );
    }
}
