//! Lines into stanzas.

use host::Tree;

use super::Remark;
use crate::error::{Error, Result};

/// A line with its place.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) file: String,
    pub(super) number: usize,
    pub(super) text: String,
}

impl Line {
    pub(super) fn remark(&self, reason: impl Into<String>) -> Remark {
        let (file, text) = (self.file.clone(), self.text.clone());
        Remark { file, line: self.number, text, reason: reason.into() }
    }

    pub(super) fn invalid(&self, reason: impl Into<String>) -> Error {
        let object = format!("{}:{}: {}", self.file, self.number, self.text);
        Error::Invalid { object, reason: reason.into() }
    }

    /// The first word, and the rest.
    pub(super) fn split(&self) -> (&str, &str) {
        let (first, rest) = self.text.split_once(char::is_whitespace).unwrap_or((&self.text, ""));
        (first, rest.trim())
    }
}

/// One `iface` stanza.
#[derive(Debug, Clone)]
pub(super) struct Stanza {
    pub(super) head: Line,
    pub(super) name: String,
    pub(super) family: String,
    pub(super) method: String,
    /// Key and value, the key with dashes for underscores.
    pub(super) options: Vec<(String, String, Line)>,
}

/// All that the files say.
#[derive(Debug, Clone, Default)]
pub(super) struct Stanzas {
    pub(super) ifaces: Vec<Stanza>,
    /// Brought up at boot or when they appear.
    pub(super) auto: Vec<String>,
    pub(super) left_out: Vec<Remark>,
}

/// Gives the files of a `source` line; `None` if there is nothing to read from.
type Sources<'a> = dyn FnMut(&Line, &str) -> Result<Option<Vec<(String, String)>>> + 'a;

/// How deep files may source files.
const DEEPEST: usize = 16;

pub(super) fn read(name: &str, text: &str, sources: &mut Sources<'_>) -> Result<Stanzas> {
    let mut all = Stanzas::default();
    read_into(name, text, sources, &mut all, 0)?;
    Ok(all)
}

/// A file and all that it sources.
pub(super) fn read_file(tree: &Tree, path: &str) -> Result<Stanzas> {
    let text = tree.read(path).map_err(Error::File)?;
    read(path, &text, &mut |line, pattern| {
        let (word, _) = line.split();
        // Relative to the file's own directory.
        let base = line.file.rsplit_once('/').map_or("", |(dir, _)| dir);
        let pattern = if pattern.starts_with('/') { pattern.to_owned() } else { format!("{base}/{pattern}") };
        let (dir, last) = match word {
            "source-directory" => (pattern.as_str(), None),
            _ => match pattern.rsplit_once('/') {
                Some((dir, last)) => (dir, Some(last)),
                None => return Err(line.invalid("not a path")),
            },
        };
        if dir.contains(['*', '?', '[']) {
            return Err(line.invalid("wildcards are read in the last part of the path only"));
        }
        let mut names: Vec<String> = tree
            .list_opt(dir)
            .map_err(Error::File)?
            .into_iter()
            .map(|entry| entry.name)
            .filter(|name| match last {
                Some(pattern) => matches(pattern.as_bytes(), name.as_bytes()),
                // As run-parts takes them.
                None => name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b)),
            })
            .collect();
        names.sort();
        let mut files = Vec::new();
        for name in names {
            let path = format!("{dir}/{name}");
            if let Some(text) = tree.read_opt(&path).map_err(Error::File)? {
                files.push((path, text));
            }
        }
        Ok(Some(files))
    })
}

/// Whether a name fits a pattern of `*` and `?`.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        ([b'*', rest @ ..], _) => {
            // As the shell does it: a leading dot is not meant.
            matches(rest, name) || matches!(name, [_, tail @ ..] if matches(pattern, tail))
        }
        ([b'?', rest @ ..], [_, tail @ ..]) => matches(rest, tail),
        ([p, rest @ ..], [n, tail @ ..]) if p == n => matches(rest, tail),
        _ => false,
    }
}

fn read_into(
    name: &str,
    text: &str,
    sources: &mut Sources<'_>,
    all: &mut Stanzas,
    depth: usize,
) -> Result<()> {
    // What the options that follow belong to: an iface, or something that is passed over.
    let mut open = Open::Nothing;
    for line in lines(name, text) {
        let (word, rest) = line.split();
        match word {
            "iface" => {
                let words: Vec<&str> = rest.split_whitespace().collect();
                let [iface, family, method, more @ ..] = words.as_slice() else {
                    return Err(line.invalid("an iface stanza has a name, a family and a method"));
                };
                if !more.is_empty() {
                    let reason = "templates (inherits) are not read; write the options out";
                    all.left_out.push(line.remark(reason));
                }
                all.ifaces.push(Stanza {
                    name: (*iface).to_owned(),
                    family: (*family).to_owned(),
                    method: (*method).to_owned(),
                    options: Vec::new(),
                    head: line.clone(),
                });
                open = Open::Iface;
            }
            "auto" | "allow-auto" | "allow-hotplug" => {
                all.auto.extend(rest.split_whitespace().map(str::to_owned));
                open = Open::Nothing;
            }
            "source" | "source-directory" => {
                open = Open::Nothing;
                if depth >= DEEPEST {
                    return Err(line.invalid("files source each other in a circle"));
                }
                match sources(&line, rest)? {
                    None => all.left_out.push(line.remark("other files are not read here")),
                    Some(files) => {
                        for (name, text) in files {
                            read_into(&name, &text, sources, all, depth + 1)?;
                        }
                    }
                }
            }
            "mapping" | "rename" | "template" => {
                all.left_out.push(line.remark("only auto, allow-hotplug, iface and source are read"));
                open = Open::PassedOver;
            }
            "no-auto-down" | "no-scripts" => {
                all.left_out.push(line.remark("it has no meaning without ifupdown"));
                open = Open::Nothing;
            }
            _ if word.starts_with("allow-") => {
                all.left_out.push(line.remark("only auto and hotplug are read"));
                open = Open::Nothing;
            }
            _ => match (&open, all.ifaces.last_mut()) {
                (Open::Iface, Some(stanza)) => {
                    let (key, value) = (word.replace('_', "-"), rest.to_owned());
                    stanza.options.push((key, value, line.clone()));
                }
                (Open::PassedOver, _) => {}
                _ => return Err(line.invalid("an option outside of any iface stanza")),
            },
        }
    }
    Ok(())
}

enum Open {
    Nothing,
    Iface,
    PassedOver,
}

/// The lines that say something: without comments, continued lines joined.
fn lines(name: &str, text: &str) -> Vec<Line> {
    let mut out: Vec<Line> = Vec::new();
    let mut continued: Option<Line> = None;
    for (number, raw) in (1..).zip(text.lines()) {
        let (part, more) = match raw.strip_suffix('\\') {
            Some(part) => (part, true),
            None => (raw, false),
        };
        match &mut continued {
            Some(line) => line.text.push_str(part),
            None => {
                let text = part.trim_start();
                // A comment is a line of its own, and is not continued.
                if text.starts_with('#') || (text.is_empty() && !more) {
                    continue;
                }
                continued = Some(Line { file: name.to_owned(), number, text: text.to_owned() });
            }
        }
        if !more {
            out.extend(continued.take());
        }
    }
    out.extend(continued);
    for line in &mut out {
        line.text = line.text.trim().to_owned();
    }
    out.retain(|line| !line.text.is_empty());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_joined_and_comments_dropped() {
        let text = "# a\n\nauto eth0 \\\n  eth1\n  # b \\\niface eth0 inet manual\n\tmtu 9000\n";
        let texts: Vec<_> = lines("f", text).into_iter().map(|l| (l.number, l.text)).collect();
        let expected = [(3, "auto eth0   eth1"), (6, "iface eth0 inet manual"), (7, "mtu 9000")];
        assert_eq!(texts, expected.map(|(n, t)| (n, t.to_owned())));
        assert!(matches(b"*", b"a") && matches(b"*.conf", b"x.conf") && !matches(b"*.conf", b"x.con"));
        assert!(matches(b"a?c*", b"abcd") && !matches(b"a?", b"a"));
    }
}
