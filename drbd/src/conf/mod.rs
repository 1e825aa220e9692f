//! drbd.conf: read without losing a comment, checked, explained, changed in place, and brought from 8.4 to 9.
//!
//! ```
//! use drbd::conf::Conf;
//! let mut conf = Conf::parse("r0.res", "resource r0 {\n  net { timeout 5; }   # quick\n}\n")?;
//! conf.set_option(Some(&"r0".parse()?), "net", "timeout", "50")?;
//! assert_eq!(conf.text(0), Some("resource r0 {\n  net { timeout 50; }   # quick\n}\n"));
//! # Ok::<(), drbd::Error>(())
//! ```

mod check;
mod compare;
mod convert;
mod edit;
mod grammar;
mod lint;
mod load;
mod model;
mod nine;
mod write;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::wire::conf::{Statement, Syntax};
use crate::{ResourceName, Result};

pub use convert::Change;
pub use write::resource_text;

/// A configuration: a file and those it includes, each with its text as it is.
#[derive(Debug, Clone)]
#[doc(alias = "drbdadm dump")]
pub struct Conf {
    files: Vec<File>,
    /// The outermost statements in the order in which they count, those of included files in the place of their `include`: file and
    /// number.
    order: Vec<(usize, usize)>,
}

#[derive(Clone)]
struct File {
    path: PathBuf,
    syntax: Syntax,
    /// Whether the text is another than that of the file on disk.
    changed: bool,
}

/// Without the text: secrets may be in it.
impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File")
            .field("path", &self.path)
            .field("changed", &self.changed)
            .finish_non_exhaustive()
    }
}

/// The kinds of sections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    File,
    Global,
    Common,
    Resource,
    Host,
    Floating,
    Stacked,
    Volume,
    Connection,
    PeerVolume,
    Mesh,
    Path,
    Net,
    Disk,
    PeerDisk,
    Options,
    Startup,
    Handlers,
    Syncer,
    ProxyEnds,
    Proxy,
    Plugin,
}

/// A place in a configuration, from 1.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The line.
    pub line: u32,
    /// The column, in bytes.
    pub column: u32,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.file.display(), self.line, self.column)
    }
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub enum Severity {
    /// Worth knowing.
    Note,
    /// It works, and is not what was meant, or will not work with another version.
    Warning,
    /// It works until the day on which it costs data.
    Danger,
    /// It cannot be used.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Danger => "danger",
            Self::Error => "error",
        })
    }
}

/// Something about a configuration that its owner should know. `Display`: `FILE:LINE:COLUMN: danger: WHAT; FIX`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// A short name of the kind of finding, stable: `option-twice`, `no-flushes`.
    pub code: &'static str,
    /// Where it is.
    pub place: Place,
    /// Where else one must look.
    pub also: Option<Place>,
    /// What it is.
    pub what: String,
    /// What to do.
    pub fix: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.severity, self.what)?;
        if let Some(also) = &self.also {
            write!(f, " (see {also})")?;
        }
        write!(f, "; {}", self.fix)
    }
}

impl Conf {
    /// Reads one text; what it includes is left out. `file` is its name in findings.
    ///
    /// # Errors
    /// [`Error::Parse`](crate::Error::Parse) with file, line and column, if the text is no list of statements. What the statements mean is
    /// told by [`check`](Self::check).
    pub fn parse(file: impl Into<PathBuf>, text: impl Into<String>) -> Result<Self> {
        let path = file.into();
        let syntax = Syntax::parse(&path.display().to_string(), text.into())?;
        let order = (0..syntax.statements().count()).map(|number| (0, number)).collect();
        Ok(Self { files: vec![File { path, syntax, changed: false }], order })
    }

    /// The files, the one that was asked for first.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// The text of the n-th file as it is now: byte for byte what was read, but for what was changed.
    #[must_use]
    pub fn text(&self, file: usize) -> Option<&str> {
        self.files.get(file).map(|file| file.syntax.text())
    }

    /// The names of the resources, in their order. A name that the kernel would refuse is left out, and told by
    /// [`check`](Self::check).
    #[must_use]
    #[doc(alias = "drbdadm sh-resources")]
    pub fn resources(&self) -> Vec<ResourceName> {
        self.sections("resource").filter_map(|s| s.statement.word(1)?.parse().ok()).collect()
    }

    /// The outermost statements, with their files.
    fn tops(&self) -> Vec<At<'_>> {
        let lists: Vec<Vec<Statement<'_>>> =
            self.files.iter().map(|file| file.syntax.statements().collect()).collect();
        self.order
            .iter()
            .filter_map(|(file, number)| {
                Some(At {
                    file: self.files.get(*file)?,
                    index: *file,
                    statement: *lists.get(*file)?.get(*number)?,
                })
            })
            .collect()
    }

    fn sections<'a>(&'a self, keyword: &'a str) -> impl Iterator<Item = At<'a>> {
        self.tops().into_iter().filter(move |at| at.statement.keyword() == keyword)
    }

    fn resource(&self, name: &str) -> Option<At<'_>> {
        self.sections("resource").find(|at| at.statement.word(1).is_some_and(|word| word == name))
    }
}

/// A statement and its file.
#[derive(Clone, Copy)]
struct At<'a> {
    file: &'a File,
    index: usize,
    statement: Statement<'a>,
}

impl<'a> At<'a> {
    fn with(self, statement: Statement<'a>) -> Self {
        Self { statement, ..self }
    }

    /// The statements of its block.
    fn block(self) -> impl Iterator<Item = At<'a>> {
        self.statement.block().map(move |statement| self.with(statement))
    }

    /// Where its n-th word stands.
    fn place(self, word: usize) -> Place {
        let span = self.statement.span(word);
        let line =
            if word == 0 { self.statement.line() } else { line_of(self.file.syntax.text(), span.start) };
        Place { file: self.file.path.clone(), line, column: self.file.syntax.column(span.start) }
    }
}

fn line_of(text: &str, at: u32) -> u32 {
    let before = text.get(..usize::try_from(at).unwrap_or(usize::MAX)).unwrap_or_default();
    u32::try_from(before.matches('\n').count()).unwrap_or(u32::MAX).saturating_add(1)
}
