//! Where the machine is: its kernel files, its netlink, its device-mapper, its programs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::plan::{Control, KillPoint, StepEvent};
use crate::{Deadline, Lock, LockError, Tree};

/// A machine: cheap to clone, the first argument of every handle of the family.
///
/// [`live`](Self::live) is this machine. [`at`](Self::at) is a captured tree of files under a directory. [`fake`](Self::fake)
/// (feature `fake`) is a machine in memory, to which the crates' own `fake` modules add what their facility answers.
#[derive(Debug, Clone)]
pub struct Host {
    tree: Tree,
    /// Where locks and journals live; `None` on a fake.
    run_dir: Option<Arc<Path>>,
    control: Control,
    #[cfg(feature = "nl")]
    nl: crate::nl::Transport,
    #[cfg(feature = "dm")]
    dm: crate::dm::Backend,
    #[cfg(feature = "exec")]
    exec: crate::exec::Runner,
}

impl Host {
    /// This machine.
    #[must_use]
    pub fn live() -> Self {
        Self {
            tree: Tree::live(),
            run_dir: Some(Arc::from(Path::new("/run/sankit"))),
            control: Control::default(),
            #[cfg(feature = "nl")]
            nl: crate::nl::Transport::live(),
            #[cfg(feature = "dm")]
            dm: crate::dm::Backend::live(),
            #[cfg(feature = "exec")]
            exec: crate::exec::Runner::live(),
        }
    }

    /// The files of another machine, captured under `dir` (`dir/sys`, `dir/proc`, ...). It has no netlink, no device-mapper and no
    /// programs: calls that need them answer "not supported here".
    #[must_use]
    pub fn at(dir: impl Into<PathBuf>) -> Self {
        Self::without_kernel(Tree::rooted(dir))
    }

    /// A machine in memory, empty but for `/`, `/sys`, `/proc`, `/dev`, `/etc` and `/run`.
    #[cfg(feature = "fake")]
    #[must_use]
    pub fn fake() -> Self {
        Self::without_kernel(crate::fake::Memory::new().tree())
    }

    fn without_kernel(tree: Tree) -> Self {
        Self {
            tree,
            run_dir: None,
            control: Control::default(),
            #[cfg(feature = "nl")]
            nl: crate::nl::Transport::none(),
            #[cfg(feature = "dm")]
            dm: crate::dm::Backend::none(),
            #[cfg(feature = "exec")]
            exec: crate::exec::Runner::none(),
        }
    }

    /// The same machine with other files: recording, fault-injecting, or a fake's.
    #[must_use]
    pub fn with_tree(mut self, tree: Tree) -> Self {
        self.tree = tree;
        self
    }

    /// The same machine, breaking off at a point; see [`KillPoint`]. The count starts anew.
    #[must_use]
    pub fn with_kill_point(mut self, kill: KillPoint) -> Self {
        self.control.kill = kill;
        self.control.done = Arc::default();
        self
    }

    /// The same machine, telling `observer` of each step of every plan that is applied on it.
    #[must_use]
    pub fn with_observer(mut self, observer: impl Fn(&StepEvent<'_>) + Send + Sync + 'static) -> Self {
        self.control.observer = Some(Arc::new(observer));
        self
    }

    /// The same machine with locks and journals in another directory (default `/run/sankit`).
    #[must_use]
    pub fn with_run_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.run_dir = Some(Arc::from(dir.as_ref()));
        self
    }

    /// How many steps have been carried out on this machine since it was made or since its kill point was set.
    #[must_use]
    pub fn steps_done(&self) -> usize {
        self.control.done.load(std::sync::atomic::Ordering::SeqCst)
    }

    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    /// Kernel files.
    #[must_use]
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// Takes the lock of a facility ("lio", "drbd", ...), so that two processes never apply at once. Released when dropped.
    ///
    /// A fake or captured machine has no other processes: its lock is always had.
    ///
    /// # Errors
    /// [`LockError::Held`] names the holder when the lock is not had before the deadline.
    pub fn lock(&self, facility: &str, deadline: Deadline) -> Result<Lock, LockError> {
        match &self.run_dir {
            Some(dir) => Lock::take(&dir.join(format!("{facility}.lock")), deadline),
            None => Ok(Lock::none()),
        }
    }

    /// Where locks and journals live; `None` on a machine that is not live.
    #[must_use]
    pub fn run_dir(&self) -> Option<&Path> {
        self.run_dir.as_deref()
    }

    /// How netlink sockets are opened.
    #[cfg(feature = "nl")]
    #[must_use]
    pub fn nl(&self) -> &crate::nl::Transport {
        &self.nl
    }

    /// The same machine with another kernel behind its netlink sockets: a fake or a recording.
    #[cfg(feature = "nl")]
    #[must_use]
    pub fn with_nl(mut self, nl: crate::nl::Transport) -> Self {
        self.nl = nl;
        self
    }

    /// Device-mapper.
    #[cfg(feature = "dm")]
    #[must_use]
    pub fn dm(&self) -> &crate::dm::Backend {
        &self.dm
    }

    /// The same machine with another device-mapper.
    #[cfg(feature = "dm")]
    #[must_use]
    pub fn with_dm(mut self, dm: crate::dm::Backend) -> Self {
        self.dm = dm;
        self
    }

    /// Child processes.
    #[cfg(feature = "exec")]
    #[must_use]
    pub fn exec(&self) -> &crate::exec::Runner {
        &self.exec
    }

    /// The same machine with other programs.
    #[cfg(feature = "exec")]
    #[must_use]
    pub fn with_exec(mut self, exec: crate::exec::Runner) -> Self {
        self.exec = exec;
        self
    }
}

impl Default for Host {
    fn default() -> Self {
        Self::live()
    }
}
