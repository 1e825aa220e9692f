//! Reading files, with those they include.

use std::collections::BTreeSet;
use std::path::{Component, Path, PathBuf};

use host::{Host, ParseError, Tree};

use super::{Conf, File};
use crate::wire::conf::Syntax;
use crate::{Error, Result};

/// Includes within includes end here.
const DEPTH: usize = 10;

impl Conf {
    /// Where Debian's drbd-utils keeps it.
    pub const PATH: &'static str = "/etc/drbd.conf";

    /// Reads a file and those it includes: patterns are relative to the file they stand in, a file is read once, a pattern that fits
    /// nothing is passed over. Usually [`PATH`](Self::PATH).
    ///
    /// # Errors
    /// A file cannot be read, is missing without having been named by a pattern, or is no list of statements.
    pub fn load(host: &Host, path: impl AsRef<Path>) -> Result<Self> {
        let mut conf = Self { files: Vec::new(), order: Vec::new() };
        let mut seen = BTreeSet::new();
        conf.include(host.tree(), path.as_ref(), &mut seen, 0)?;
        Ok(conf)
    }

    /// Writes the files that were changed, each by a new file that takes the old one's place.
    ///
    /// # Errors
    /// A file cannot be written; those before it are.
    pub fn save(&mut self, host: &Host) -> Result<bool> {
        let mut any = false;
        for file in self.files.iter_mut().filter(|file| file.changed) {
            host.tree().replace(&file.path, file.syntax.text().as_bytes(), 0o600)?;
            file.changed = false;
            any = true;
        }
        Ok(any)
    }

    fn include(
        &mut self,
        tree: &Tree,
        path: &Path,
        seen: &mut BTreeSet<PathBuf>,
        depth: usize,
    ) -> Result<()> {
        if !seen.insert(path.to_path_buf()) {
            return Ok(());
        }
        let shown = path.display().to_string();
        if depth > DEPTH {
            return Err(
                ParseError::new("drbd.conf", shown, "files include each other more than ten deep").into()
            );
        }
        let syntax = Syntax::parse(&shown, tree.read(path)?)?;
        let includes: Vec<_> = syntax
            .statements()
            .map(|s| {
                (s.keyword() == "include").then(|| s.word(1).map(std::borrow::Cow::into_owned)).flatten()
            })
            .collect();
        let file = self.files.len();
        self.files.push(File { path: path.to_path_buf(), syntax, changed: false });
        for (number, pattern) in includes.into_iter().enumerate() {
            self.order.push((file, number));
            let Some(pattern) = pattern else { continue };
            let pattern = path.parent().unwrap_or(Path::new("/")).join(pattern);
            let is_pattern = pattern.to_string_lossy().contains(['*', '?', '[']);
            let found = glob(tree, &pattern)?;
            if found.is_empty() && !is_pattern {
                let reason = format!("{shown} includes it, and it is not there");
                return Err(Error::from(ParseError::new("drbd.conf", pattern.display().to_string(), reason)));
            }
            for path in found {
                self.include(tree, &path, seen, depth + 1)?;
            }
        }
        Ok(())
    }
}

/// The files that a pattern fits, by name.
fn glob(tree: &Tree, pattern: &Path) -> Result<Vec<PathBuf>> {
    let mut found = vec![PathBuf::new()];
    for component in pattern.components() {
        let name = component.as_os_str().to_string_lossy();
        let is_plain = !matches!(component, Component::Normal(_)) || !name.contains(['*', '?', '[']);
        let mut next = Vec::new();
        for at in found {
            if is_plain {
                next.push(at.join(component));
                continue;
            }
            let mut names: Vec<_> = tree.list_opt(&at)?.into_iter().map(|entry| entry.name).collect();
            names.sort_unstable();
            next.extend(names.iter().filter(|entry| fits(&name, entry)).map(|entry| at.join(entry)));
        }
        found = next;
    }
    let mut out = Vec::new();
    for path in found {
        if tree.exists(&path)? {
            out.push(path);
        }
    }
    Ok(out)
}

/// Whether a name fits a pattern of `*`, `?` and sets in brackets (glob(7)).
fn fits(pattern: &str, name: &str) -> bool {
    let pattern: Vec<char> = pattern.chars().collect();
    let name: Vec<char> = name.chars().collect();
    // A hidden file is never meant by a pattern that begins otherwise.
    if name.first() == Some(&'.') && pattern.first() != Some(&'.') {
        return false;
    }
    fits_from(&pattern, &name)
}

fn fits_from(pattern: &[char], name: &[char]) -> bool {
    match pattern.split_first() {
        None => name.is_empty(),
        Some(('*', rest)) => {
            (0..=name.len()).any(|skip| name.get(skip..).is_some_and(|name| fits_from(rest, name)))
        }
        Some(('[', rest)) => {
            let Some(end) = rest.iter().skip(1).position(|c| *c == ']').map(|at| at + 1) else {
                return name.first() == Some(&'[') && name.get(1..).is_some_and(|name| fits_from(rest, name));
            };
            let (set, rest) = (rest.get(..end).unwrap_or_default(), rest.get(end + 1..).unwrap_or_default());
            name.split_first().is_some_and(|(c, name)| in_set(set, *c) && fits_from(rest, name))
        }
        Some((wanted, rest)) => name
            .split_first()
            .is_some_and(|(c, name)| (wanted == c || *wanted == '?') && fits_from(rest, name)),
    }
}

fn in_set(set: &[char], c: char) -> bool {
    let (set, negated) = match set.split_first() {
        Some(('!' | '^', rest)) => (rest, true),
        _ => (set, false),
    };
    let mut found = false;
    let mut rest = set;
    while let Some((from, more)) = rest.split_first() {
        match more {
            ['-', to, behind @ ..] => {
                found |= (*from..=*to).contains(&c);
                rest = behind;
            }
            _ => {
                found |= *from == c;
                rest = more;
            }
        }
    }
    found != negated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("*.res", "r0.res", true),
            ("*.res", ".r0.res", false),
            ("*.res", "r0.res.bak", false),
            ("r?.res", "r0.res", true),
            ("r[0-3x].res", "r2.res", true),
            ("r[0-3x].res", "rx.res", true),
            ("r[!0-3].res", "r2.res", false),
            ("r[.res", "r[.res", true),
            ("", "", true),
        ] {
            assert_eq!(fits(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[cfg(feature = "fake")]
    #[test]
    fn files_are_read_where_they_are_included_and_once() -> Result<()> {
        let host = Host::fake();
        let tree = host.tree();
        for dir in ["/etc", "/etc/drbd.d"] {
            tree.ensure_dir(dir)?;
        }
        for (path, text) in [
            ("/etc/drbd.conf", "include \"drbd.d/*.res\";\ninclude \"drbd.d/*.none\";\nresource last { }\n"),
            ("/etc/drbd.d/b.res", "resource b { }\n"),
            ("/etc/drbd.d/a.res", "include \"b.res\";\nresource a { }\n"),
        ] {
            tree.replace(path, text, 0o644)?;
        }
        let conf = Conf::load(&host, Conf::PATH)?;
        let names: Vec<_> = conf.resources().iter().map(ToString::to_string).collect();
        assert_eq!(names, ["b", "a", "last"]);
        tree.replace("/etc/drbd.conf", "include \"gone.res\";\n", 0o644)?;
        let error = Conf::load(&host, Conf::PATH).expect_err("gone");
        let error = std::error::Error::source(&error).expect("the reason").to_string();
        assert!(error.contains("/etc/gone.res") && error.contains("is not there"), "{error}");
        Ok(())
    }
}
