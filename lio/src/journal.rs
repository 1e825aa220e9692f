//! The note of what is being done, for the case that the process dies in the middle of it.
//!
//! One file in `/run/sankit`, written before the first step and removed after the last: which steps there are, and what takes each back. How
//! far a dead process came is not noted, since the tree shows it: a directory or link is there or is not, a value is the old one or is not.
//! Passwords are in no journal: a step that changed one is reported as lost.

use std::path::PathBuf;

use host::{Host, Plan};

use crate::apply;
use crate::error::{Error, Result};
use crate::plan::{Link, Step};
use crate::wire::alua;

/// Which way out of a plan that a dead process left half done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Recovery {
    /// What was done is undone: the state before the plan.
    RollBack,
    /// What was not done is done: the state the plan was for.
    Complete,
}

/// What came of a recovery.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Recovered {
    /// The changes that were made, as shell lines.
    pub done: Vec<String>,
    /// What could not be done, with the reason: passwords that no journal holds, changes that the kernel refused.
    pub lost: Vec<String>,
}

fn path(host: &Host) -> Option<PathBuf> {
    host.run_dir().map(|dir| dir.join("lio.journal"))
}

/// Notes a plan; does nothing for a plan of one change, which is done or not, and on machines without a place for it.
pub(crate) fn begin(host: &Host, plan: &Plan<Step>) -> Result<bool> {
    let Some(path) = path(host) else { return Ok(false) };
    if crate::plan::changes(plan.steps()) < 2 {
        return Ok(false);
    }
    let mut text = String::new();
    plan.steps().iter().for_each(|step| write(step, 0, &mut text));
    host.tree().replace(&path, text, 0o600).map_err(Error::unreadable)?;
    Ok(true)
}

/// Takes the note away.
pub(crate) fn end(host: &Host) -> Result<()> {
    match path(host) {
        Some(path) => host.tree().unlink(path).map(drop).map_err(Error::unreadable),
        None => Ok(()),
    }
}

/// The plan that a dead process left; `None` if there is none.
pub(crate) fn left(host: &Host) -> Result<Option<Plan<Step>>> {
    let Some(path) = path(host) else { return Ok(None) };
    let text = host.tree().read_opt(path).map_err(Error::unreadable)?;
    Ok(text.map(|text| Plan::new(parse(&text))))
}

/// Goes one way or the other, as far as it goes.
pub(crate) fn recover(host: &Host, plan: Plan<Step>, way: Recovery) -> Result<Recovered> {
    let steps = flat(plan.into_steps());
    let mut out = Recovered::default();
    match way {
        Recovery::Complete => {
            for step in steps.iter().filter(|step| !done(host, step)) {
                carry_out(host, step, &mut out);
            }
        }
        Recovery::RollBack => {
            for step in steps.iter().rev().filter(|step| touched(host, step)) {
                for back in host::plan::Step::undo(step) {
                    carry_out(host, &back, &mut out);
                }
            }
        }
    }
    end(host)?;
    Ok(out)
}

fn carry_out(host: &Host, step: &Step, out: &mut Recovered) {
    match step {
        Step::WriteSecret { path, .. } | Step::ClearSecret { path, .. } => {
            out.lost.push(format!("{path}: no journal holds passwords; apply the specification"));
        }
        _ => match apply::run(host.tree(), step) {
            Ok(()) => out.done.push(step.to_string()),
            Err(error) => out.lost.push(format!("{step}: {error}")),
        },
    }
}

/// The lanes of steps that are done together, one after the other: they do not depend on each other.
fn flat(steps: Vec<Step>) -> Vec<Step> {
    let mut out = Vec::new();
    for step in steps {
        match step {
            Step::Together { lanes } => out.extend(lanes.into_iter().flat_map(flat)),
            step => out.push(step),
        }
    }
    out
}

/// What a file says, in the form in which it is written.
fn now(host: &Host, path: &str) -> Option<String> {
    let text = host.tree().read_opt(path).ok().flatten()?;
    let (dir, file) = path.rsplit_once('/').unwrap_or(("", path));
    Some(match file {
        "alua_tg_pt_gp" | "alua_lu_gp" => alua::alias(&text).unwrap_or_default(),
        "rtpi" => u16::from_str_radix(text.trim().trim_start_matches("0x"), 16).unwrap_or(0).to_string(),
        "vpd_unit_serial" => crate::wire::after_colon(&text).unwrap_or_default(),
        _ if dir.contains("/alua/") => alua::number(file, &text),
        _ => match text.trim() {
            "" => "NULL".to_owned(),
            text => text.to_owned(),
        },
    })
}

fn there(host: &Host, path: &str) -> bool {
    host.tree().exists(path).unwrap_or(false)
}

/// Whether a step has been done.
fn done(host: &Host, step: &Step) -> bool {
    match step {
        Step::MakeDir { path } | Step::Link { link: Link { path, .. } } => there(host, path),
        Step::RemoveDir { path, .. } | Step::Unlink { link: Link { path, .. }, .. } => !there(host, path),
        // What is written and cannot be read: enable says whether it came to anything.
        Step::Write { path, .. } if path.ends_with("/control") => {
            let enable = path.replace("/control", "/enable");
            now(host, &enable).as_deref() == Some("1")
        }
        Step::Write { path, value, .. } => now(host, path).as_deref() == Some(value),
        Step::WriteSecret { path, .. } => now(host, path).is_some_and(|text| text != "NULL"),
        Step::ClearSecret { path, .. } => now(host, path).as_deref() == Some("NULL"),
        Step::Together { .. } => false,
    }
}

/// Whether a step has left something to take back.
fn touched(host: &Host, step: &Step) -> bool {
    match step {
        Step::Write { path, before: Some(before), .. } => now(host, path).is_some_and(|now| now != *before),
        // Of a new object: it goes with it.
        Step::Write { before: None, .. } => false,
        Step::WriteSecret { path, .. } | Step::ClearSecret { path, .. } => there(host, path),
        step => done(host, step),
    }
}

/// One line a step, with as many blanks before it as it is deep; what restores follows what it restores.
fn write(step: &Step, depth: usize, out: &mut String) {
    let mut line = |words: &[&str]| {
        out.extend(std::iter::repeat_n(' ', depth));
        let words: Vec<_> = words.iter().map(|word| word.escape_default().to_string()).collect();
        out.push_str(&words.join("\t"));
        out.push('\n');
    };
    let restores = match step {
        Step::MakeDir { path } => return line(&["make", path]),
        Step::Link { link } => return line(&["link", &link.target, &link.path]),
        Step::WriteSecret { path, .. } => return line(&["secret", path]),
        Step::ClearSecret { path, .. } => return line(&["clear", path]),
        Step::Write { path, value, before: None } => return line(&["write", path, value]),
        Step::Write { path, value, before: Some(before) } => return line(&["write", path, value, before]),
        Step::Together { lanes } => return lanes.iter().flatten().for_each(|step| write(step, depth, out)),
        Step::RemoveDir { path, restore } => {
            line(&["remove", path]);
            restore
        }
        Step::Unlink { link, restore } => {
            line(&["unlink", &link.target, &link.path]);
            restore
        }
    };
    restores.iter().for_each(|step| write(step, depth + 1, out));
}

/// Reads it back. A line that was cut off is no step: the process died before it had begun.
fn parse(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in text.lines() {
        let words: Vec<String> = line.trim_start_matches(' ').split('\t').map(unescape).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let step = match words[..] {
            ["make", path] => Step::make(path),
            ["link", target, path] => Step::Link { link: Link::new(target, path) },
            ["write", path, value] => Step::write(path, value, None),
            ["write", path, value, before] => Step::write(path, value, Some(before.to_owned())),
            ["secret" | "clear", path] => Step::ClearSecret { path: path.to_owned(), before: None },
            ["remove", path] => Step::remove(path, Vec::new()),
            ["unlink", target, path] => Step::Unlink { link: Link::new(target, path), restore: Vec::new() },
            _ => continue,
        };
        match (line.starts_with(' '), steps.last_mut()) {
            (true, Some(Step::RemoveDir { restore, .. } | Step::Unlink { restore, .. })) => {
                restore.push(step)
            }
            _ => steps.push(step),
        }
    }
    steps
}

/// What `escape_default` made.
fn unescape(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text.chars());
    while let Some(c) = rest.next() {
        let other = if c == '\\' { rest.next() } else { None };
        match other {
            None => out.push(c),
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('r') => out.push('\r'),
            Some('u') => {
                let digits: String = rest.by_ref().take_while(|c| *c != '}').filter(|c| *c != '{').collect();
                out.extend(u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32));
            }
            Some(other) => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_without_passwords() {
        let restore = vec![
            Step::write("/a/b", "x y\t\u{fc}\\", None),
            Step::ClearSecret { path: "/a/p".into(), before: None },
        ];
        let steps = vec![
            Step::make("/a"),
            Step::write("/a/b", "'1'", Some("NULL".to_owned())),
            Step::remove("/c", restore.clone()),
            Step::Unlink { link: Link::new("/t", "/l"), restore },
            Step::Link { link: Link::new("/t", "/l") },
        ];
        let mut text = String::new();
        steps.iter().for_each(|step| write(step, 0, &mut text));
        assert_eq!(parse(&text), steps);
        assert_eq!(parse("make\t/a\nwri"), [Step::make("/a")]);
    }
}
