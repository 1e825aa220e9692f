//! One change of the configfs tree.

use std::fmt;

use host::plan::Impact;

use crate::name::ChapSecret;

/// A symbolic link and where it leads, both absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Link {
    /// The directory it leads to.
    pub target: String,
    /// Where it stands.
    pub path: String,
}

impl Link {
    /// A link that leads to `target` and stands at `path`.
    #[must_use]
    pub fn new(target: impl Into<String>, path: impl Into<String>) -> Self {
        Self { target: target.into(), path: path.into() }
    }
}

/// One change. `Display` is the shell line that does the same, passwords shown as `***`.
///
/// Serialising a step that holds a password fails: journals hold none.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Step {
    /// Makes a directory, and thereby a kernel object.
    MakeDir {
        /// Which.
        path: String,
    },
    /// Removes a directory.
    RemoveDir {
        /// Which.
        path: String,
        /// The steps after making it anew that give it what it had.
        restore: Vec<Self>,
    },
    /// Writes a value, without a line break.
    Write {
        /// The file.
        path: String,
        /// The value.
        value: String,
        /// The value to write back; `None` where the object itself is new or the value cannot be taken back.
        before: Option<String>,
    },
    /// Writes a password, without a line break: the kernel would store it.
    #[cfg_attr(feature = "serde", serde(skip))]
    WriteSecret {
        /// The file.
        path: String,
        /// The password.
        secret: ChapSecret,
        /// The password to write back; `None` for none.
        before: Option<ChapSecret>,
    },
    /// Takes a password away, by the word `NULL`.
    ClearSecret {
        /// The file.
        path: String,
        /// The password to write back.
        #[cfg_attr(feature = "serde", serde(skip))]
        before: Option<ChapSecret>,
    },
    /// Makes a link.
    Link {
        /// Which.
        link: Link,
    },
    /// Removes a link.
    Unlink {
        /// Which.
        link: Link,
        /// The steps after making it anew.
        restore: Vec<Self>,
    },
    /// Does several things at the same time, the steps of each lane in their order: what costs the kernel a grace period of 10 to 30 ms
    /// then shares it. As a whole or not at all.
    Together {
        /// What is done beside each other.
        lanes: Vec<Vec<Self>>,
    },
}

impl Step {
    pub(crate) fn make(path: impl Into<String>) -> Self {
        Self::MakeDir { path: path.into() }
    }

    pub(crate) fn remove(path: impl Into<String>, restore: Vec<Self>) -> Self {
        Self::RemoveDir { path: path.into(), restore }
    }

    pub(crate) fn write(path: impl Into<String>, value: impl Into<String>, before: Option<String>) -> Self {
        Self::Write { path: path.into(), value: value.into(), before }
    }

    /// One step for several lanes; none for none, and the steps themselves where there is nothing to do beside them.
    pub(crate) fn together(lanes: impl IntoIterator<Item = Vec<Self>>) -> Vec<Self> {
        let mut lanes: Vec<_> = lanes.into_iter().filter(|lane| !lane.is_empty()).collect();
        match lanes.len() {
            0 => Vec::new(),
            1 => lanes.remove(0),
            _ => vec![Self::Together { lanes }],
        }
    }

    /// The file or directory that is changed; the first one of several.
    #[must_use]
    pub fn path(&self) -> &str {
        match self {
            Self::MakeDir { path }
            | Self::RemoveDir { path, .. }
            | Self::Write { path, .. }
            | Self::WriteSecret { path, .. }
            | Self::ClearSecret { path, .. } => path,
            Self::Link { link } | Self::Unlink { link, .. } => &link.path,
            Self::Together { lanes } => lanes.iter().flatten().next().map_or("", Self::path),
        }
    }
}

impl host::plan::Step for Step {
    fn undo(&self) -> Vec<Self> {
        match self {
            Self::MakeDir { path } => vec![Self::remove(path, Vec::new())],
            Self::RemoveDir { path, restore } => {
                std::iter::once(Self::make(path)).chain(restore.iter().cloned()).collect()
            }
            Self::Write { path, value, before } => {
                let back = before.as_ref().map(|before| Self::write(path, before, Some(value.clone())));
                back.into_iter().collect()
            }
            Self::WriteSecret { path, secret, before } => vec![match before {
                Some(before) => Self::WriteSecret {
                    path: path.clone(),
                    secret: before.clone(),
                    before: Some(secret.clone()),
                },
                None => Self::ClearSecret { path: path.clone(), before: Some(secret.clone()) },
            }],
            Self::ClearSecret { path, before } => {
                let back = before.as_ref().map(|before| Self::WriteSecret {
                    path: path.clone(),
                    secret: before.clone(),
                    before: None,
                });
                back.into_iter().collect()
            }
            Self::Link { link } => vec![Self::Unlink { link: link.clone(), restore: Vec::new() }],
            Self::Unlink { link, restore } => {
                std::iter::once(Self::Link { link: link.clone() }).chain(restore.iter().cloned()).collect()
            }
            Self::Together { lanes } => Self::together(
                lanes.iter().map(|lane| lane.iter().rev().flat_map(host::plan::Step::undo).collect()),
            ),
        }
    }

    fn impact(&self) -> Impact {
        match self {
            Self::Together { lanes } => {
                lanes.iter().flatten().map(Self::impact).max().unwrap_or(Impact::Online)
            }
            Self::RemoveDir { path, .. } if path.contains("/core/rd_mcp_") => Impact::DestroysData,
            Self::RemoveDir { path, .. } if path.contains("/acls/") => Impact::DropsSessions,
            Self::Unlink { .. } => Impact::DropsSessions,
            Self::Write { path, value, .. } if path.ends_with("/enable") && value == "0" => {
                Impact::DropsSessions
            }
            // core_tpg_set_initiator_node_queue_depth shuts the sessions down when the depth changes (target_core_tpg.c).
            Self::Write { path, before: Some(_), .. } if path.ends_with("/cmdsn_depth") => {
                Impact::DropsSessions
            }
            _ => Impact::Online,
        }
    }
}

/// A path as a shell takes it: the brackets of an IPv6 portal would be a pattern.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.contains(['[', ' ']) {
            true => write!(f, "'{}'", self.0),
            false => f.write_str(self.0),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MakeDir { path } => write!(f, "mkdir {}", Quoted(path)),
            Self::RemoveDir { path, .. } => write!(f, "rmdir {}", Quoted(path)),
            Self::Write { path, value, .. } => write!(f, "echo -n '{value}' > {}", Quoted(path)),
            Self::WriteSecret { path, .. } => write!(f, "echo -n '***' > {}", Quoted(path)),
            Self::ClearSecret { path, .. } => write!(f, "echo -n NULL > {}", Quoted(path)),
            Self::Link { link } => write!(f, "ln -s {} {}", Quoted(&link.target), Quoted(&link.path)),
            Self::Unlink { link, .. } => write!(f, "unlink {}", Quoted(&link.path)),
            Self::Together { lanes } => {
                for lane in lanes {
                    let (open, close) = if lane.len() > 1 { ("(", ")") } else { ("", "") };
                    f.write_str(open)?;
                    for (number, step) in lane.iter().enumerate() {
                        write!(f, "{}{step}", if number > 0 { " && " } else { "" })?;
                    }
                    write!(f, "{close} & ")?;
                }
                f.write_str("wait")
            }
        }
    }
}

/// How many kernel files a list of steps changes; one that does several things together counts each.
#[must_use]
pub fn changes(steps: &[Step]) -> usize {
    steps
        .iter()
        .map(|step| match step {
            Step::Together { lanes } => lanes.iter().map(|lane| changes(lane)).sum(),
            _ => 1,
        })
        .sum()
}
