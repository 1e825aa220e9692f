//! A machine's files in memory, for tests without root and for users of the crates.
//!
//! [`Memory`] is the generic tree: directories, files, links, with the errnos of a plain file system. What a facility does on top (the
//! default groups that a `mkdir` in configfs brings, the values an attribute refuses) is put in as [`Rules`] by the facility's crate.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Tree;
use crate::tree::{Entry, Files, Kind};

/// An error number.
pub type Errno = i32;

/// What stands at a path of a [`Memory`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Node {
    /// A directory.
    Dir,
    /// A file and its content.
    File(Vec<u8>),
    /// A link and where it leads (absolute).
    Link(String),
}

/// The paths of a fake machine and what stands at them. Paths are absolute text without a trailing slash.
#[derive(Debug, Clone, Default)]
pub struct Nodes(BTreeMap<String, Node>);

impl Nodes {
    /// What stands at a path.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<&Node> {
        self.0.get(path)
    }

    /// The content of a file as text.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<String> {
        match self.0.get(path) {
            Some(Node::File(data)) => Some(String::from_utf8_lossy(data).into_owned()),
            _ => None,
        }
    }

    /// Puts a directory and all above it.
    pub fn put_dir(&mut self, path: &str) {
        self.put_parents(path);
        self.0.insert(path.to_owned(), Node::Dir);
    }

    /// Puts a file, with the directories above it.
    pub fn put(&mut self, path: &str, content: impl AsRef<[u8]>) {
        self.put_parents(path);
        self.0.insert(path.to_owned(), Node::File(content.as_ref().to_vec()));
    }

    /// Puts a link, with the directories above it.
    pub fn put_link(&mut self, path: &str, target: &str) {
        self.put_parents(path);
        self.0.insert(path.to_owned(), Node::Link(target.to_owned()));
    }

    fn put_parents(&mut self, path: &str) {
        for (index, _) in path.match_indices('/').filter(|(index, _)| *index > 0) {
            if let Some(parent) = path.get(..index) {
                self.0.entry(parent.to_owned()).or_insert(Node::Dir);
            }
        }
    }

    /// Takes a path and everything below it away.
    pub fn take(&mut self, path: &str) {
        let below = format!("{path}/");
        self.0.retain(|key, _| key != path && !key.starts_with(&below));
    }

    /// The names directly below a directory, with what they are, sorted.
    #[must_use]
    pub fn children(&self, path: &str) -> Vec<(String, Node)> {
        let below = if path == "/" { "/".to_owned() } else { format!("{path}/") };
        self.0
            .range(below.clone()..)
            .take_while(|(key, _)| key.starts_with(&below))
            .filter_map(|(key, node)| key.strip_prefix(&below).map(|name| (name, node)))
            .filter(|(name, _)| !name.is_empty() && !name.contains('/'))
            .map(|(name, node)| (name.to_owned(), node.clone()))
            .collect()
    }

    /// The paths of links that lead to this path.
    #[must_use]
    pub fn links_to(&self, path: &str) -> Vec<String> {
        self.0
            .iter()
            .filter(|(_, node)| matches!(node, Node::Link(target) if target == path))
            .map(|(key, _)| key.clone())
            .collect()
    }

    /// All paths and what stands at them, sorted by path: what two fakes are compared by.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Node)> {
        self.0.iter().map(|(path, node)| (path.as_str(), node))
    }

    fn parent_is_dir(&self, path: &str) -> Result<(), Errno> {
        let parent = path.rsplit_once('/').map(|(parent, _)| parent).filter(|p| !p.is_empty());
        match parent.map(|parent| self.0.get(parent)) {
            None | Some(Some(Node::Dir)) => Ok(()),
            Some(Some(_)) => Err(libc::ENOTDIR),
            Some(None) => Err(libc::ENOENT),
        }
    }

    /// Follows links in the directory part and, if `last` too, at the end; as the kernel does on every call.
    fn resolve(&self, path: &Path, last: bool) -> Result<String, Errno> {
        let mut rest: Vec<String> = path
            .components()
            .rev()
            .filter_map(|c| match c {
                std::path::Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
                std::path::Component::ParentDir => Some("..".to_owned()),
                _ => None,
            })
            .collect();
        let mut at = String::new();
        let mut followed = 0;
        while let Some(name) = rest.pop() {
            if name == ".." {
                // The way leads through the directory: it has to be there.
                match self.0.get(&at) {
                    None if !at.is_empty() => return Err(libc::ENOENT),
                    Some(Node::File(_)) => return Err(libc::ENOTDIR),
                    _ => {}
                }
                at.truncate(at.rfind('/').unwrap_or(0));
                continue;
            }
            let next = format!("{at}/{name}");
            match self.0.get(&next) {
                Some(Node::Link(target)) if last || !rest.is_empty() => {
                    followed += 1;
                    if followed > 40 {
                        return Err(libc::ELOOP);
                    }
                    let parts: Vec<_> =
                        target.split('/').filter(|p| !p.is_empty()).map(str::to_owned).collect();
                    if target.starts_with('/') {
                        at.clear();
                    }
                    rest.extend(parts.into_iter().rev());
                }
                _ => at = next,
            }
        }
        if at.is_empty() {
            at.push('/');
        }
        Ok(at)
    }
}

/// What a facility does with file operations. Each method gets the resolved path and does the whole operation; the defaults are those of
/// a plain file system. A crate overrides what differs and calls the default (the free functions of this module) for the rest.
pub trait Rules: fmt::Debug + Send {
    /// `read(2)` of a file.
    ///
    /// # Errors
    /// The errno of the kernel.
    fn read(&mut self, nodes: &mut Nodes, path: &str) -> Result<Vec<u8>, Errno> {
        plain_read(nodes, path)
    }

    /// `write(2)` to a file.
    ///
    /// # Errors
    /// The errno of the kernel.
    fn write(&mut self, nodes: &mut Nodes, path: &str, data: &[u8]) -> Result<(), Errno> {
        plain_write(nodes, path, data)
    }

    /// `mkdir(2)`.
    ///
    /// # Errors
    /// The errno of the kernel.
    fn make_dir(&mut self, nodes: &mut Nodes, path: &str) -> Result<(), Errno> {
        plain_make_dir(nodes, path)
    }

    /// `rmdir(2)`.
    ///
    /// # Errors
    /// The errno of the kernel.
    fn remove_dir(&mut self, nodes: &mut Nodes, path: &str) -> Result<(), Errno> {
        plain_remove_dir(nodes, path)
    }

    /// `symlink(2)`; `target` is resolved and absolute.
    ///
    /// # Errors
    /// The errno of the kernel.
    fn link(&mut self, nodes: &mut Nodes, target: &str, path: &str) -> Result<(), Errno> {
        plain_link(nodes, target, path)
    }

    /// `unlink(2)`.
    ///
    /// # Errors
    /// The errno of the kernel.
    fn unlink(&mut self, nodes: &mut Nodes, path: &str) -> Result<(), Errno> {
        plain_unlink(nodes, path)
    }
}

/// Reads as a plain file system does.
///
/// # Errors
/// ENOENT, EISDIR.
pub fn plain_read(nodes: &Nodes, path: &str) -> Result<Vec<u8>, Errno> {
    match nodes.0.get(path) {
        Some(Node::File(data)) => Ok(data.clone()),
        Some(_) => Err(libc::EISDIR),
        None => Err(libc::ENOENT),
    }
}

/// Writes to an existing file.
///
/// # Errors
/// ENOENT, EISDIR.
pub fn plain_write(nodes: &mut Nodes, path: &str, data: &[u8]) -> Result<(), Errno> {
    match nodes.0.get_mut(path) {
        Some(Node::File(content)) => {
            *content = data.to_vec();
            Ok(())
        }
        Some(_) => Err(libc::EISDIR),
        None => Err(libc::ENOENT),
    }
}

/// Makes a directory.
///
/// # Errors
/// EEXIST, ENOENT, ENOTDIR.
pub fn plain_make_dir(nodes: &mut Nodes, path: &str) -> Result<(), Errno> {
    if nodes.0.contains_key(path) {
        return Err(libc::EEXIST);
    }
    nodes.parent_is_dir(path)?;
    nodes.0.insert(path.to_owned(), Node::Dir);
    Ok(())
}

/// Removes an empty directory.
///
/// # Errors
/// ENOENT, ENOTDIR, ENOTEMPTY.
pub fn plain_remove_dir(nodes: &mut Nodes, path: &str) -> Result<(), Errno> {
    match nodes.0.get(path) {
        None => Err(libc::ENOENT),
        Some(Node::Dir) if nodes.children(path).is_empty() => {
            nodes.0.remove(path);
            Ok(())
        }
        Some(Node::Dir) => Err(libc::ENOTEMPTY),
        Some(_) => Err(libc::ENOTDIR),
    }
}

/// Makes a link.
///
/// # Errors
/// EEXIST, ENOENT, ENOTDIR.
pub fn plain_link(nodes: &mut Nodes, target: &str, path: &str) -> Result<(), Errno> {
    if nodes.0.contains_key(path) {
        return Err(libc::EEXIST);
    }
    nodes.parent_is_dir(path)?;
    nodes.0.insert(path.to_owned(), Node::Link(target.to_owned()));
    Ok(())
}

/// Removes a link or file.
///
/// # Errors
/// ENOENT, EISDIR.
pub fn plain_unlink(nodes: &mut Nodes, path: &str) -> Result<(), Errno> {
    match nodes.0.get(path) {
        None => Err(libc::ENOENT),
        Some(Node::Dir) => Err(libc::EISDIR),
        Some(_) => {
            nodes.0.remove(path);
            Ok(())
        }
    }
}

/// The rules of a plain file system.
#[derive(Debug, Clone, Copy, Default)]
pub struct Plain;

impl Rules for Plain {}

#[derive(Debug)]
struct Inner {
    nodes: Nodes,
    rules: Vec<(String, Box<dyn Rules>)>,
}

/// A tree of files in memory. Cheap to clone; clones are the same tree.
#[derive(Debug, Clone)]
pub struct Memory(Arc<Mutex<Inner>>);

impl Memory {
    /// An empty machine: `/sys`, `/proc`, `/dev`, `/etc`, `/run`, `/var/lib`.
    #[must_use]
    pub fn new() -> Self {
        let mut nodes = Nodes::default();
        ["/sys", "/proc", "/dev", "/etc", "/run", "/var/lib"].iter().for_each(|dir| nodes.put_dir(dir));
        Self(Arc::new(Mutex::new(Inner { nodes, rules: Vec::new() })))
    }

    /// Puts a facility's rules over everything below `prefix` (`/sys/kernel/config/target`). The longest prefix wins.
    #[must_use]
    pub fn with_rules(self, prefix: impl Into<String>, rules: impl Rules + 'static) -> Self {
        let mut inner = self.lock();
        inner.rules.push((prefix.into(), Box::new(rules)));
        inner.rules.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        drop(inner);
        self
    }

    /// Looks at or changes the paths directly, past the rules: how a test plants a state.
    pub fn edit<T>(&self, f: impl FnOnce(&mut Nodes) -> T) -> T {
        f(&mut self.lock().nodes)
    }

    /// This memory as the files of a [`Host`](crate::Host).
    #[must_use]
    pub fn tree(&self) -> Tree {
        Tree::of(self.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run<T>(
        &self,
        path: &Path,
        follow: bool,
        f: impl FnOnce(&mut dyn Rules, &mut Nodes, &str) -> Result<T, Errno>,
    ) -> io::Result<T> {
        let mut inner = self.lock();
        let Inner { nodes, rules } = &mut *inner;
        let path = nodes.resolve(path, follow).map_err(io::Error::from_raw_os_error)?;
        let covers =
            |prefix: &str| path == prefix || path.strip_prefix(prefix).is_some_and(|r| r.starts_with('/'));
        let found = rules.iter_mut().find(|(prefix, _)| covers(prefix)).map(|(_, rules)| &mut **rules);
        let result = match found {
            Some(rules) => f(rules, nodes, &path),
            None => f(&mut Plain, nodes, &path),
        };
        result.map_err(io::Error::from_raw_os_error)
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

impl Files for Memory {
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        self.run(path, true, |rules, nodes, path| rules.read(nodes, path))
    }

    fn write(&self, path: &Path, data: &[u8]) -> io::Result<()> {
        self.run(path, true, |rules, nodes, path| rules.write(nodes, path, data))
    }

    fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.run(path, false, |rules, nodes, path| rules.make_dir(nodes, path))
    }

    fn remove_dir(&self, path: &Path) -> io::Result<()> {
        self.run(path, false, |rules, nodes, path| rules.remove_dir(nodes, path))
    }

    fn link(&self, target: &Path, path: &Path) -> io::Result<()> {
        self.run(path, false, |rules, nodes, path| {
            let target = nodes.resolve(target, true)?;
            rules.link(nodes, &target, path)
        })
    }

    fn unlink(&self, path: &Path) -> io::Result<()> {
        self.run(path, false, |rules, nodes, path| rules.unlink(nodes, path))
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.run(path, true, |_, nodes, path| match (path, nodes.get(path)) {
            ("/", _) | (_, Some(Node::Dir)) => Ok(nodes
                .children(path)
                .into_iter()
                .map(|(name, node)| Entry::new(name, kind_of(&node)))
                .collect()),
            (_, Some(_)) => Err(libc::ENOTDIR),
            (_, None) => Err(libc::ENOENT),
        })
    }

    fn read_link(&self, path: &Path) -> io::Result<PathBuf> {
        self.run(path, false, |_, nodes, path| match nodes.get(path) {
            Some(Node::Link(target)) => Ok(PathBuf::from(target)),
            Some(_) => Err(libc::EINVAL),
            None => Err(libc::ENOENT),
        })
    }

    fn kind(&self, path: &Path) -> io::Result<Option<Kind>> {
        self.run(path, false, |_, nodes, path| Ok(nodes.get(path).map(kind_of)))
    }

    fn replace(&self, path: &Path, data: &[u8], _mode: u32) -> io::Result<()> {
        self.run(path, true, |_, nodes, path| {
            nodes.put(path, data);
            Ok(())
        })
    }
}

fn kind_of(node: &Node) -> Kind {
    match node {
        Node::Dir => Kind::Dir,
        Node::File(_) => Kind::File,
        Node::Link(_) => Kind::Link,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Secret;
    use crate::tree::{Change, Fault};

    #[test]
    fn the_memory_answers_as_a_file_system() -> Result<(), Box<dyn std::error::Error>> {
        let memory = Memory::new();
        let tree = memory.tree();
        tree.make_dir("/sys/a")?;
        memory.edit(|nodes| nodes.put("/sys/a/value", "1\n"));
        tree.link("/sys/a", "/sys/l")?;
        assert_eq!(tree.read("/sys/l/value")?, "1\n");
        tree.write("/sys/l/value", "2")?;
        assert_eq!(tree.read("/sys/a/value")?, "2");
        for (result, errno) in [
            (tree.make_dir("/sys/a"), libc::EEXIST),
            (tree.make_dir("/sys/none/b"), libc::ENOENT),
            (tree.remove_dir("/sys/a").map(drop), libc::ENOTEMPTY),
            (tree.write("/sys/none", "x"), libc::ENOENT),
            (tree.unlink("/sys/a").map(drop), libc::EISDIR),
        ] {
            assert_eq!(result.expect_err("refused").errno(), Some(errno));
        }
        assert_eq!(tree.read_link("/sys/l")?, Path::new("/sys/a"));
        Ok(())
    }

    #[test]
    fn a_record_hides_secrets_and_a_dry_run_changes_nothing() -> Result<(), Box<dyn std::error::Error>> {
        let memory = Memory::new();
        memory.edit(|nodes| nodes.put("/sys/password", ""));
        let (tree, record) = memory.tree().recording();
        tree.write_secret("/sys/password", &Secret::from("hunter2"))?;
        assert_eq!(record.changes(), [Change::Write("/sys/password".into(), "***".into())]);
        assert_eq!(tree.read("/sys/password")?, "hunter2");
        let (tree, record) = memory.tree().dry_run();
        tree.make_dir("/sys/new")?;
        assert_eq!(record.to_string(), "mkdir /sys/new\n");
        assert!(!memory.tree().exists("/sys/new")?);
        Ok(())
    }

    #[test]
    fn faults_fail_once_or_stop_for_good() -> Result<(), Box<dyn std::error::Error>> {
        let memory = Memory::new();
        let tree = memory.tree().with_fault(Fault::Fail { nth: 2, errno: libc::EIO });
        tree.make_dir("/sys/1")?;
        assert_eq!(tree.make_dir("/sys/2").expect_err("second").errno(), Some(libc::EIO));
        tree.make_dir("/sys/3")?;
        let tree = memory.tree().with_fault(Fault::Stop { nth: 1 });
        assert!(tree.exists("/sys/1")?);
        assert!(tree.make_dir("/sys/4").expect_err("stopped").is_stopped());
        assert!(tree.exists("/sys/1").expect_err("still stopped").is_stopped());
        Ok(())
    }
}
