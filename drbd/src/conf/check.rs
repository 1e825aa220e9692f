//! What a configuration says wrong by itself: statements in the wrong place, options and values that do not exist, things given twice.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::grammar::{Known, Meaning, Plain, Shape, meaning, option};
use super::{At, Conf, Finding, Kind, Severity};
use crate::wire::table::Kind as Values;

impl Conf {
    /// Finds what drbdadm would refuse: statements where they may not stand, options that neither generation of DRBD has, values out of
    /// range, the same option twice. A configuration without an error here can be used, perhaps not wisely: see [`lint`](Self::lint).
    #[must_use]
    #[doc(alias = "drbdadm sh-nop")]
    pub fn check(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let mut resources: HashMap<String, At<'_>> = HashMap::new();
        for at in self.tops() {
            statement(Kind::File, at, &mut findings);
            let name = at.statement.word(1).filter(|_| at.statement.keyword() == "resource");
            let Some(name) = name else { continue };
            if let Err(error) = name.parse::<crate::ResourceName>() {
                findings.push(wrong(at, 1, "bad-name", error.to_string(), "give the resource another name"));
            }
            if let Some(before) = resources.insert(name.clone().into_owned(), at) {
                let what = format!("the resource {name} is there twice");
                findings.push(Finding {
                    also: Some(before.place(1)),
                    ..wrong(at, 1, "resource-twice", what, "rename or remove one of them")
                });
            }
        }
        findings
    }
}

/// An error about the n-th word of a statement.
pub(super) fn wrong(
    at: At<'_>,
    word: usize,
    code: &'static str,
    what: impl Into<String>,
    fix: impl Into<String>,
) -> Finding {
    let (what, fix) = (what.into(), fix.into());
    Finding { severity: Severity::Error, code, place: at.place(word), also: None, what, fix }
}

fn statement(section: Kind, at: At<'_>, findings: &mut Vec<Finding>) {
    let statement = &at.statement;
    let keyword = statement.word(0).unwrap_or_default();
    match meaning(section, statement) {
        Err(expected) => {
            let what = format!("{keyword:?} may not stand here");
            findings.push(wrong(at, 0, "unexpected", what, format!("expected are {expected}")));
        }
        Ok(Meaning::Skipped) => {}
        Ok(Meaning::Option) if keyword == "_unknown" => {}
        Ok(Meaning::Option) => {
            findings.extend(value(section, at));
        }
        Ok(Meaning::Plain(shape)) => {
            let words: Vec<_> = statement.words(1).collect();
            let words: Vec<&str> = words.iter().map(AsRef::as_ref).collect();
            // Only an end of a connection may have one: "via proxy on NAME { }".
            let is_proxy = matches!(shape, Shape::Peer | Shape::Address) && words.contains(&"via");
            let fitting = if statement.has_block() && !is_proxy { None } else { Some(fits(shape, &words)) };
            match fitting {
                None => {
                    let what = format!("{keyword} takes no block");
                    findings.push(wrong(at, 0, "unexpected", what, "end it with ';'"));
                }
                Some(Err(expected)) => {
                    let what = format!("{keyword} cannot be {:?}", words.join(" "));
                    findings.push(wrong(at, 1, "bad-value", what, format!("it takes {expected}")));
                }
                Some(Ok(())) if is_proxy => body(Kind::ProxyEnds, at, findings),
                Some(Ok(())) => {}
            }
        }
        Ok(Meaning::Block(kind)) => {
            if statement.has_block() {
                body(kind, at, findings);
            } else {
                let what = format!("{keyword} needs a block");
                findings.push(wrong(at, 0, "unexpected", what, format!("write {keyword} {{ ... }}")));
            }
        }
    }
}

fn body(kind: Kind, at: At<'_>, findings: &mut Vec<Finding>) {
    let mut options: Vec<(&'static str, At<'_>)> = Vec::new();
    for inner in at.block() {
        statement(kind, inner, findings);
        let Some((known, _)) = option(kind, inner.statement.keyword()) else { continue };
        let Some((name, before)) = options.iter().find(|(name, _)| *name == known.name()) else {
            options.push((known.name(), inner));
            continue;
        };
        let shown = |at: At<'_>| at.statement.words(1).collect::<Vec<_>>().join(" ");
        let what = format!("{name} is given twice in one section: {} and {}", shown(*before), shown(inner));
        let fix = "keep one: drbdadm of 9 refuses the file, that of 8.4 takes one of them in silence";
        findings.push(Finding { also: Some(before.place(0)), ..wrong(inner, 0, "option-twice", what, fix) });
    }
}

/// What is wrong with an option, if anything is.
fn value(section: Kind, at: At<'_>) -> Option<Finding> {
    let word = at.statement.keyword();
    let Some((known, off)) = option(section, word) else {
        let what = format!("no DRBD has an option {word:?} in this section");
        return Some(wrong(at, 0, "unknown-option", what, "remove it, or correct its name"));
    };
    let Some(text) = at.statement.word(1) else {
        let is_flag = match known {
            Known::Row(row) => matches!(row.kind, Values::Flag { .. }),
            Known::Own(_, kind) => kind == Plain::Flag,
        };
        return if is_flag { None } else { Some(bad(at, known, "")) };
    };
    if at.statement.has_block() || off {
        let fix = format!("write {} with its value", known.name());
        return Some(wrong(at, 0, "unexpected", format!("{word} takes no value or block"), fix));
    }
    if at.statement.len() > 2 && known.name() != "become-primary-on" {
        return Some(wrong(
            at,
            2,
            "unexpected",
            format!("{word} takes one value"),
            "quote a value with spaces",
        ));
    }
    let good = match known {
        // A resource, whose volume it is; the kernel's number is its minor.
        Known::Row(row) if row.name == "resync-after" => true,
        Known::Row(row) => row.parse_any(&text).is_ok(),
        Known::Own(_, Plain::Number { min, max }) => {
            text.parse::<u64>().is_ok_and(|number| (min..=max).contains(&number))
        }
        Known::Own(_, Plain::Flag) => matches!(&*text, "yes" | "no"),
        Known::Own(_, Plain::Text) => true,
    };
    if good { None } else { Some(bad(at, known, &text)) }
}

fn bad(at: At<'_>, known: Known, text: &str) -> Finding {
    let (name, takes, is_secret) = match known {
        Known::Row(row) => (row.name, row.range_any(), matches!(row.kind, Values::Secret { .. })),
        Known::Own(name, Plain::Number { min, max }) => (name, format!("{min} to {max}"), false),
        Known::Own(name, Plain::Flag) => (name, "yes or no".to_owned(), false),
        Known::Own(name, Plain::Text) => (name, "a text".to_owned(), false),
    };
    let text = if is_secret { "***" } else { text };
    wrong(at, 1, "bad-value", format!("{name} cannot be {text:?}"), format!("it takes {takes}"))
}

fn fits(shape: Shape, words: &[&str]) -> Result<(), String> {
    let is = |good: bool, expected: &str| if good { Ok(()) } else { Err(expected.to_owned()) };
    match shape {
        Shape::Nothing => is(words.is_empty(), "no value"),
        Shape::Word => is(words.len() == 1, "one word"),
        Shape::Words => is(!words.is_empty(), "at least one word"),
        Shape::Number { min, max } => {
            let number = words.first().and_then(|word| word.parse::<u32>().ok()).filter(|_| words.len() == 1);
            match number.is_some_and(|number| (min..=max).contains(&number)) {
                true => Ok(()),
                false => Err(format!("{min} to {max}")),
            }
        }
        Shape::OneOf(all) => match words {
            [word] if all.contains(word) => Ok(()),
            _ => Err(format!("one of {}", all.join(", "))),
        },
        Shape::Address => endpoint(words).map(drop),
        Shape::Device => device(words).map(drop),
        Shape::MetaDisk => {
            is(meta_disk(words).is_some(), "internal, a path, or a path and an index in brackets")
        }
        Shape::Peer => match words {
            [_, "address", rest @ ..] => endpoint(rest).map(drop),
            [_, "port", port, ..] => {
                is(port.parse::<u16>().is_ok_and(|port| port > 0), "a port from 1 to 65535")
            }
            [_] | [_, "via", ..] => Ok(()),
            _ => Err("NAME, NAME address ADDRESS:PORT or NAME port PORT".to_owned()),
        },
    }
}

/// An address: its family, itself without brackets, its port. Words behind it (`via ...`) are passed over.
pub(super) fn endpoint(words: &[&str]) -> Result<(&'static str, String, u16), String> {
    const FORM: &str = "IPV4:PORT or ipv6 [ADDRESS]:PORT";
    let (family, rest) = match words {
        ["ipv4", rest @ ..] => ("ipv4", rest),
        ["ipv6", rest @ ..] => ("ipv6", rest),
        ["sdp", rest @ ..] => ("sdp", rest),
        ["ssocks" | "sci", rest @ ..] => ("ssocks", rest),
        rest => ("ipv4", rest),
    };
    let text: String = rest.iter().take_while(|word| **word != "via").copied().collect();
    let (address, port) = text.rsplit_once(':').ok_or(FORM)?;
    let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or("a port from 1 to 65535")?;
    let address = if family == "ipv6" {
        let inner = address.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).ok_or(FORM)?;
        let plain = inner.split_once('%').map_or(inner, |(plain, _)| plain);
        plain.parse::<Ipv6Addr>().map_err(|_| FORM)?;
        inner
    } else {
        address.parse::<Ipv4Addr>().map_err(|_| FORM)?;
        address
    };
    Ok((family, address.to_owned(), port))
}

/// The minor that a `device` statement names; `None` if only udev knows it.
pub(super) fn device(words: &[&str]) -> Result<Option<u32>, String> {
    const FORM: &str = "/dev/drbdN, minor N, or both";
    const LIMIT: u32 = 1 << 20;
    let number = |text: &str| text.parse::<u32>().ok().filter(|minor| *minor < LIMIT);
    let named = |path: &str| path.strip_prefix("/dev/drbd").or_else(|| path.strip_prefix("drbd")).map(number);
    match words {
        ["minor", minor] => number(minor).map(Some).ok_or_else(|| "a minor below 1048576".to_owned()),
        [path] => named(path).flatten().map(Some).ok_or_else(|| FORM.to_owned()),
        [path, "minor", minor] => {
            let minor = number(minor).ok_or(FORM)?;
            match named(path).ok_or(FORM)? {
                Some(other) if other != minor => Err(format!("{path} and minor {minor} to be the same")),
                _ => Ok(Some(minor)),
            }
        }
        _ => Err(FORM.to_owned()),
    }
}

/// Where metadata is: the device and, in brackets, the index.
pub(super) fn meta_disk(words: &[&str]) -> Option<(String, Option<u16>)> {
    let text: String = words.concat();
    match text.split_once('[') {
        Some((path, rest)) => Some((path.to_owned(), Some(rest.strip_suffix(']')?.parse().ok()?))),
        None => (!text.is_empty()).then_some((text, None)),
    }
}
