//! Child processes and directories that never outlive the lab process.
//!
//! Three nets, one below the other: dropping a [`Proc`] kills its process; SIGINT and SIGTERM kill everything
//! registered and remove the directories; and if the lab itself is killed, the kernel kills its children
//! (`PR_SET_PDEATHSIG`). That signal is sent when the *thread* that forked ends, so one thread that lives as
//! long as the process starts all children. Directories of a killed lab are swept by the next one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::{fs, io, thread};

use anyhow::{Context, Result, anyhow};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What has to go when the process goes.
#[derive(Debug, Default)]
struct Live {
    processes: BTreeSet<i32>,
    directories: BTreeSet<PathBuf>,
}

static LIVE: Mutex<Live> = Mutex::new(Live { processes: BTreeSet::new(), directories: BTreeSet::new() });

/// Locks; the data of these mutexes stays usable when a thread that held one has panicked.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Job {
    command: Command,
    reply: Sender<io::Result<Child>>,
}

/// A child process that is killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Proc {
    name: String,
    child: Child,
    pid: Pid,
    ended: Option<ExitStatus>,
}

impl Proc {
    /// Starts a command from the thread that never ends.
    pub(crate) fn spawn(name: &str, mut command: Command) -> Result<Self> {
        crate::sys::die_with_parent(&mut command);
        let (reply, answer) = channel();
        let program = command.get_program().to_string_lossy().into_owned();
        spawner()?.send(Job { command, reply }).map_err(|_| anyhow!("the spawner thread is gone"))?;
        let child = match answer.recv().map_err(|_| anyhow!("the spawner thread is gone"))? {
            Ok(child) => child,
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                return Err(anyhow!("the host has no program {program:?}; {}", crate::deps::hint(&program)));
            }
            Err(e) => return Err(e).with_context(|| format!("cannot start {program} for {name}")),
        };
        let pid = i32::try_from(child.id()).context("process id out of range")?;
        locked(&LIVE).processes.insert(pid);
        Ok(Self { name: name.to_owned(), child, pid: Pid::from_raw(pid), ended: None })
    }

    /// The process id on the host.
    pub(crate) fn id(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Sends a signal, unless the process has been reaped.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        if self.ended.is_some() {
            return Ok(());
        }
        kill(self.pid, signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Returns the exit status if the process has ended.
    pub(crate) fn poll(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            // Under the lock: the signal handler must never kill an id that is free again.
            let mut live = locked(&LIVE);
            if let Ok(Some(status)) = self.child.try_wait() {
                live.processes.remove(&self.pid.as_raw());
                self.ended = Some(status);
            }
        }
        self.ended
    }

    /// Kills with SIGKILL and reaps.
    pub(crate) fn kill(&mut self) {
        if self.poll().is_none() {
            let _ = kill(self.pid, Signal::SIGKILL);
            let _ = self.child.wait().map(|status| self.ended = Some(status));
            locked(&LIVE).processes.remove(&self.pid.as_raw());
        }
    }
}

impl Drop for Proc {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A directory that is removed with everything in it when it is dropped or when the process is told to end.
#[derive(Debug)]
pub(crate) struct Dir(PathBuf);

impl Dir {
    /// Creates the directory and the ones above it.
    pub(crate) fn create(path: PathBuf) -> Result<Self> {
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        locked(&LIVE).directories.insert(path.clone());
        spawner()?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        locked(&LIVE).directories.remove(&self.0);
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Starts the spawner and the signal thread at the first call.
fn spawner() -> Result<Sender<Job>> {
    static SPAWNER: OnceLock<Mutex<Option<Sender<Job>>>> = OnceLock::new();
    let cell = SPAWNER.get_or_init(|| Mutex::new(None));
    let mut cell = locked(cell);
    if let Some(sender) = &*cell {
        return Ok(sender.clone());
    }
    let (sender, jobs) = channel::<Job>();
    let work = move || {
        for mut job in jobs {
            let _ = job.reply.send(job.command.spawn());
        }
    };
    thread::Builder::new().name("lab-spawner".to_owned()).spawn(work).context("cannot start a thread")?;
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot handle signals")?;
    let watch = move || {
        if let Some(signal) = signals.forever().next() {
            clear();
            std::process::exit(128 + signal);
        }
    };
    thread::Builder::new().name("lab-signals".to_owned()).spawn(watch).context("cannot start a thread")?;
    *cell = Some(sender.clone());
    Ok(sender)
}

/// Kills and removes everything that is registered.
fn clear() {
    let live = locked(&LIVE);
    for pid in &live.processes {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    }
    for directory in &live.directories {
        let _ = fs::remove_dir_all(directory);
    }
    // The lock is kept on purpose until the process exits: nothing new may start now.
    std::mem::forget(live);
}
