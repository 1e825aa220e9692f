//! Changes in place: only the words that change are touched.

use super::grammar::{Known, option};
use super::{At, Conf, Kind};
use crate::wire::conf::{Span, Syntax, quoted};
use crate::{Error, ResourceName, Result};

/// A part of a file's text and what comes in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Edit {
    pub(super) file: usize,
    pub(super) span: Span,
    pub(super) text: String,
}

impl Conf {
    /// Sets an option of a resource, or of all (`None`: in `common`), in a section (`net`, `disk`, `options`, `handlers`, `startup`). Where it
    /// stands it gets the new value; else it is added to the section, and that if need be to the resource. All else stays as it is.
    ///
    /// # Errors
    /// [`Error::NotFound`] if there is no such resource; [`Error::Option`] if there is no such option or it does not take the value, and with
    /// `common` if there is none.
    pub fn set_option(
        &mut self,
        resource: Option<&ResourceName>,
        section: &str,
        name: &str,
        value: &str,
    ) -> Result<()> {
        let (kind, known) = known(section, name)?;
        let is_secret = super::lint::is_secret(known);
        let shown = if is_secret { "***" } else { value };
        if let Known::Row(row) = known
            && row.name != "resync-after"
            && row.parse_any(value).is_err()
        {
            return Err(Error::option(name, shown, format!("it takes {}", row.range_any())));
        }
        let word = quoted(value).ok_or_else(|| {
            Error::option(name, shown, "a value has at most 255 bytes and no line break".to_owned())
        })?;
        let body = self.body(resource, name)?;
        let place = body.block().find(|at| at.statement.keyword() == section && at.statement.has_block());
        let edit = match place {
            Some(at) => match at.block().find(|at| {
                option(kind, at.statement.keyword()).is_some_and(|(k, _)| k.name() == known.name())
            }) {
                Some(at) => replace_value(at, name, &word),
                None => add(at, &format!("{name} {word};")),
            },
            None => add(body, &format!("{section} {{ {name} {word}; }}")),
        };
        self.edit(vec![edit])
    }

    /// Takes an option away, so that what is inherited or the kernel's default holds; says whether it was there.
    ///
    /// # Errors
    /// As [`set_option`](Self::set_option).
    pub fn remove_option(
        &mut self,
        resource: Option<&ResourceName>,
        section: &str,
        name: &str,
    ) -> Result<bool> {
        let (kind, known) = known(section, name)?;
        let body = self.body(resource, name)?;
        let sections = body.block().filter(|at| at.statement.keyword() == section);
        let edits: Vec<_> = sections
            .flat_map(At::block)
            .filter(|at| option(kind, at.statement.keyword()).is_some_and(|(k, _)| k.name() == known.name()))
            .map(remove)
            .collect();
        let any = !edits.is_empty();
        self.edit(edits)?;
        Ok(any)
    }

    fn body(&self, resource: Option<&ResourceName>, option: &str) -> Result<At<'_>> {
        match resource {
            Some(name) => self
                .resource(name.as_str())
                .filter(|at| at.statement.has_block())
                .ok_or_else(|| Error::NotFound { name: name.clone() }),
            None => self.sections("common").next().ok_or_else(|| {
                Error::option(option, "", "the configuration has no section common { }".to_owned())
            }),
        }
    }

    /// Carries out edits that do not overlap, and reads the files again.
    pub(super) fn edit(&mut self, mut edits: Vec<Edit>) -> Result<()> {
        edits.sort_by_key(|edit| std::cmp::Reverse((edit.file, edit.span.start, edit.span.end)));
        for (number, file) in self.files.iter_mut().enumerate() {
            let mut text = file.syntax.text().to_owned();
            let mut any = false;
            for edit in edits.iter().filter(|edit| edit.file == number) {
                let at = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
                text.replace_range(at(edit.span.start)..at(edit.span.end), &edit.text);
                any = true;
            }
            if any {
                file.syntax = Syntax::parse(&file.path.display().to_string(), text)?;
                file.changed = true;
            }
        }
        Ok(())
    }
}

fn known(section: &str, name: &str) -> Result<(Kind, Known)> {
    let kind = match section {
        "net" => Kind::Net,
        "disk" => Kind::Disk,
        "options" => Kind::Options,
        "handlers" => Kind::Handlers,
        "startup" => Kind::Startup,
        other => return Err(Error::option(name, "", format!("there is no section {other:?} for options"))),
    };
    match option(kind, name) {
        Some((known, false)) => Ok((kind, known)),
        _ => Err(Error::option(name, "", format!("no DRBD has an option of this name in {section} {{ }}"))),
    }
}

/// A new value for an option that is there, with or without one.
fn replace_value(at: At<'_>, name: &str, word: &str) -> Edit {
    let whole = at.statement.whole();
    let is_plain = at.statement.keyword() == name && at.statement.len() == 2;
    let (span, text) = match is_plain {
        true => (at.statement.span(1), word.to_owned()),
        false => (whole, format!("{name} {word};")),
    };
    Edit { file: at.index, span, text }
}

/// A statement more at the end of a block, on a line of its own where the others are.
pub(super) fn add(at: At<'_>, statement: &str) -> Edit {
    let text = at.file.syntax.text();
    let close = at.statement.whole().end.saturating_sub(1);
    let last = at.statement.block().last();
    let before = Span { start: 0, end: close }.of(text);
    let is_line = before.rsplit('\n').next().is_some_and(|line| line.trim().is_empty());
    let indent = |at: u32| -> String {
        let line = Span { start: 0, end: at }.of(text).rsplit('\n').next().unwrap_or_default();
        line.chars().take_while(|c| c.is_whitespace()).collect()
    };
    let own = indent(at.statement.whole().start);
    if !is_line {
        let gap = if before.ends_with(' ') { "" } else { " " };
        return Edit {
            file: at.index,
            span: Span { start: close, end: close },
            text: format!("{gap}{statement} "),
        };
    }
    let inner = last.map_or_else(|| format!("{own}    "), |last| indent(last.whole().start));
    let begin = u32::try_from(before.rfind('\n').map_or(0, |at| at + 1)).unwrap_or(close);
    Edit { file: at.index, span: Span { start: begin, end: begin }, text: format!("{inner}{statement}\n") }
}

/// A statement less, with its line and comment if it stands there alone.
pub(super) fn remove(at: At<'_>) -> Edit {
    let text = at.file.syntax.text();
    let Span { start, end } = at.statement.whole();
    let index = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
    let line_start = text.get(..index(start)).and_then(|t| t.rfind('\n')).map_or(0, |at| at + 1);
    let rest = text.get(index(end)..).unwrap_or_default();
    let line_end = index(end) + rest.find('\n').map_or(rest.len(), |at| at + 1);
    let before = text.get(line_start..index(start)).unwrap_or_default();
    let behind = text.get(index(end)..line_end).unwrap_or_default().trim();
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    let span = if before.trim().is_empty() && (behind.is_empty() || behind.starts_with('#')) {
        Span { start: number(line_start), end: number(line_end) }
    } else {
        // Nor two spaces in its place.
        let gap = u32::from(behind.len() < rest.len() && rest.starts_with(' '));
        Span { start, end: end + gap }
    };
    Edit { file: at.index, span, text: String::new() }
}
