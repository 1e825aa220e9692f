//! The way to the kernel: one socket, kept open, on a thread of its own.
//!
//! DRBD 8.4 carries a command out inside `sendmsg(2)`, under the lock of all generic netlink commands: a disk that hangs makes the send
//! hang, and no `poll(2)` bounds it. So the send happens on a worker thread, and the caller stops waiting at its deadline. The worker is
//! given up then; the next call gets a new one. A job that has not begun by its deadline is never begun.

use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use host::nl::genl::Family;
use host::nl::{Message, Protocol, Reply, Socket, flags};
use host::{Deadline, Host};

use crate::state::Dialect;
use crate::wire::{Command, Packet, drbd2};
use crate::{Error, Refusal, Result};

/// The name of the family (`GENL_MAGIC_FAMILY`, `include/linux/drbd_genl_api.h`).
pub(crate) const FAMILY: &str = "drbd";

type NlResult<T> = std::result::Result<T, host::nl::Error>;

/// In which words a kernel is spoken to. Messages are those of the family `drbd` everywhere else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Speech {
    /// As they are.
    #[default]
    Plain,
    /// Translated to and from the family `drbd2`.
    Drbd2,
}

impl Speech {
    /// The family of a kernel, and how it is spoken to. One that has both offers the old one for old tools only.
    pub(crate) fn resolve(
        host: &Host,
        socket: &mut Socket,
        deadline: Deadline,
    ) -> NlResult<Option<(Family, Self)>> {
        let plain = Family::resolve(socket, FAMILY, deadline)?;
        // Asked for a family that it does not have, the kernel runs modprobe (ctrl_getfamily, net/netlink/genetlink.c). 8.4 and the module
        // from outside of the kernel have one family only.
        let version = host.tree().read_opt("/sys/module/drbd/version").ok().flatten().unwrap_or_default();
        let is_alone = version.starts_with("8.") || plain.as_ref().is_some_and(|family| family.version == 2);
        let new = if plain.is_some() && is_alone {
            None
        } else {
            Family::resolve(socket, drbd2::FAMILY, deadline)?
        };
        Ok(match new {
            Some(family) => Some((drbd2::as_nine(family), Self::Drbd2)),
            None => plain.map(|family| (family, Self::Plain)),
        })
    }

    /// The name of the family.
    pub(crate) fn family(self) -> &'static str {
        match self {
            Self::Plain => FAMILY,
            Self::Drbd2 => drbd2::FAMILY,
        }
    }

    pub(crate) fn request(self, message: Message) -> Message {
        match self {
            Self::Plain => message,
            Self::Drbd2 => drbd2::request(&message),
        }
    }

    pub(crate) fn answer(self, reply: Reply) -> Reply {
        match self {
            Self::Plain => reply,
            Self::Drbd2 => drbd2::answer(reply),
        }
    }
}

enum Job {
    Resolve(Back<Option<(Family, Speech)>>),
    Ask(Message, Speech, Back<Reply>),
    /// One table after the other: a socket has one dump at a time.
    Dump(Vec<Message>, Speech, Back<Vec<Vec<Reply>>>),
}

/// What the worker has to say to the caller who waits.
#[derive(Debug)]
enum Said<T> {
    Nothing,
    Answer(NlResult<T>),
    /// It never will: the job was dropped.
    Gone,
}

/// The way of one answer from the worker to the caller. A channel of the standard library would do; this one takes three system calls less.
#[derive(Debug)]
struct Slot<T>(Mutex<Said<T>>, Condvar);

/// The worker's end, and whether it has answered.
struct Back<T>(Arc<Slot<T>>, bool);

impl<T> Slot<T> {
    fn said(&self) -> MutexGuard<'_, Said<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The answer, `None` if there is none before the deadline or will never be.
    fn wait(&self, deadline: Deadline) -> Option<NlResult<T>> {
        let mut said = self.said();
        loop {
            match std::mem::replace(&mut *said, Said::Nothing) {
                Said::Answer(answer) => return Some(answer),
                Said::Gone => return None,
                Said::Nothing => {}
            }
            let left = deadline.left();
            if left.is_zero() {
                return None;
            }
            said = self.1.wait_timeout(said, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl<T> Back<T> {
    fn answer(mut self, answer: NlResult<T>) {
        *self.0.said() = Said::Answer(answer);
        self.1 = true;
        self.0.1.notify_one();
    }
}

impl<T> Drop for Back<T> {
    fn drop(&mut self) {
        // The caller may be about to look.
        if !self.1 {
            *self.0.said() = Said::Gone;
            self.0.1.notify_one();
        }
    }
}

#[derive(Debug, Default)]
struct Shared {
    worker: Option<Sender<(Job, Deadline)>>,
    family: Option<Family>,
    speech: Speech,
}

/// The way to the kernel.
#[derive(Debug)]
pub(crate) struct Link {
    host: Host,
    shared: Mutex<Shared>,
}

/// What a call is about, for its error.
#[derive(Debug, Clone, Copy)]
pub(crate) struct About<'a> {
    pub(crate) command: Command,
    pub(crate) object: &'a str,
    pub(crate) deadline: Deadline,
}

impl About<'_> {
    pub(crate) fn timeout(&self) -> Error {
        Error::Timeout { command: self.command.1, object: self.object.to_owned(), info: Vec::new() }
    }

    pub(crate) fn failed(&self, source: host::nl::Error) -> Error {
        match source {
            host::nl::Error::TimedOut => self.timeout(),
            source => Error::Netlink { command: self.command.1, object: self.object.to_owned(), source },
        }
    }

    pub(crate) fn refused(&self, code: i32, info: Vec<String>) -> Error {
        let refusal = Refusal::from_code(code);
        Error::Refused { command: self.command.1, object: self.object.to_owned(), refusal, info }
    }
}

impl Link {
    pub(crate) fn new(host: &Host) -> Self {
        Self { host: host.clone(), shared: Mutex::default() }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks the kernel for the family and remembers it; `None` if DRBD is not loaded.
    pub(crate) fn resolve(&self, about: About<'_>) -> Result<Option<Family>> {
        let (family, speech) = self.run(about, Job::Resolve)?.unzip();
        if let Some(version) =
            family.as_ref().map(|f| f.version).filter(|v| Dialect::of_version(*v).is_none())
        {
            return Err(Error::Unsupported { version });
        }
        let mut shared = self.shared();
        shared.family.clone_from(&family);
        shared.speech = speech.unwrap_or_default();
        Ok(family)
    }

    /// The remembered family.
    pub(crate) fn family(&self, about: About<'_>) -> Result<Family> {
        if let Some(family) = self.shared().family.clone() {
            return Ok(family);
        }
        self.resolve(about)?.ok_or(Error::NotLoaded { source: None })
    }

    /// Sends a command and returns its answer, whatever its code.
    pub(crate) fn ask(&self, about: About<'_>, build: impl Fn(&Family) -> Message) -> Result<Reply> {
        self.call(about, |family, speech, back| Job::Ask(build(family), speech, back))
    }

    /// Asks for a table.
    pub(crate) fn dump(&self, about: About<'_>, build: impl Fn(&Family) -> Message) -> Result<Vec<Reply>> {
        self.dumps(about, |family| vec![build(family)]).map(|tables| tables.into_iter().flatten().collect())
    }

    /// Asks for several tables: what the worker's thread and the caller's have to tell each other is told once.
    pub(crate) fn dumps(
        &self,
        about: About<'_>,
        build: impl Fn(&Family) -> Vec<Message>,
    ) -> Result<Vec<Vec<Reply>>> {
        self.call(about, |family, speech, back| Job::Dump(build(family), speech, back))
    }

    /// Sends a command until it is carried out or refused for good; returns the code of success. A connection that is just changing its
    /// state (-18) is waited for, 62.5 ms at first and twice as long each time, as drbdsetup does.
    pub(crate) fn change(&self, about: About<'_>, build: impl Fn(&Family) -> Message) -> Result<i32> {
        // The commands of 8.4 name their objects otherwise, and what DRBD 9 would make of them is not known.
        let version = self.family(about)?.version;
        if Dialect::of_version(version) != Some(Dialect::Drbd84) {
            return Err(Error::Unsupported { version });
        }
        self.change_9(about, build)
    }

    /// As [`change`](Self::change), whatever the dialect: the message has to be of it.
    pub(crate) fn change_9(&self, about: About<'_>, build: impl Fn(&Family) -> Message) -> Result<i32> {
        let mut pause = std::time::Duration::from_micros(62_500);
        loop {
            let reply = self.ask(about, &build)?;
            let packet = Packet::parse(&reply)?;
            log::debug!("{} {}: code {}", about.command.1, about.object, packet.code);
            if packet.is_success() {
                return Ok(packet.code);
            }
            let error = about.refused(packet.code, packet.texts());
            let transient = packet.code == Refusal::InTransientState.code();
            if !transient || !about.deadline.pause(pause) {
                return Err(error);
            }
            pause = pause.saturating_mul(2).min(std::time::Duration::from_secs(10));
        }
    }

    fn call<T>(&self, about: About<'_>, job: impl Fn(&Family, Speech, Back<T>) -> Job) -> Result<T> {
        let family = self.family(about)?;
        let speech = self.shared().speech;
        match self.run(about, |back| job(&family, speech, back)) {
            // The number of the family is no more: the module was unloaded, and perhaps loaded again.
            Err(Error::Netlink { source: host::nl::Error::Kernel { errno: libc::ENOENT, .. }, .. }) => {
                self.shared().family = None;
                let family = self.family(about)?;
                let speech = self.shared().speech;
                self.run(about, |back| job(&family, speech, back))
            }
            other => other,
        }
    }

    fn run<T>(&self, about: About<'_>, job: impl FnOnce(Back<T>) -> Job) -> Result<T> {
        let slot = Arc::new(Slot(Mutex::new(Said::Nothing), Condvar::new()));
        self.submit(job(Back(Arc::clone(&slot), false)), about.deadline);
        // The worker answers a little after the deadline where the kernel is merely slow to answer a message already taken.
        match slot.wait(about.deadline) {
            Some(result) => result.map_err(|error| about.failed(error)),
            // The time is over, or the worker skipped the job because it was, or could not go on.
            None => {
                self.shared().worker = None;
                Err(about.timeout())
            }
        }
    }

    fn submit(&self, job: Job, deadline: Deadline) {
        let mut shared = self.shared();
        let job = match &shared.worker {
            None => (job, deadline),
            Some(worker) => match worker.send((job, deadline)) {
                Ok(()) => return,
                // It ended; a new one takes the job.
                Err(mpsc::SendError(job)) => job,
            },
        };
        let (jobs, inbox) = mpsc::channel::<(Job, Deadline)>();
        let host = self.host.clone();
        let spawned = std::thread::Builder::new().name("drbd-netlink".to_owned()).spawn(move || {
            let mut socket = None;
            for (job, deadline) in inbox {
                if !deadline.is_over() {
                    job.carry_out(&host, &mut socket, deadline);
                }
            }
        });
        match spawned {
            Ok(_) => {
                // The receiver is alive: the thread has just been made.
                if jobs.send(job).is_ok() {
                    shared.worker = Some(jobs);
                }
            }
            Err(error) => log::debug!("cannot start a thread: {error}"),
        }
    }
}

impl Job {
    fn carry_out(self, host: &Host, socket: &mut Option<Socket>, deadline: Deadline) {
        match self {
            Self::Resolve(back) => {
                back.answer(with(host, socket, |s| Speech::resolve(host, s, deadline)));
            }
            Self::Ask(message, speech, back) => {
                let message = speech.request(message);
                let reply = with(host, socket, |s| s.ask(&message, deadline));
                back.answer(reply.map(|reply| speech.answer(reply)));
            }
            Self::Dump(messages, speech, back) => {
                let tables = messages.into_iter().map(|message| {
                    let message = speech.request(message);
                    dump(host, socket, &message, speech, deadline)
                });
                back.answer(tables.collect());
            }
        }
    }
}

/// Runs an exchange on the one socket, which is opened by the first.
fn with<T>(
    host: &Host,
    socket: &mut Option<Socket>,
    f: impl FnOnce(&mut Socket) -> NlResult<T>,
) -> NlResult<T> {
    let socket = match socket {
        Some(socket) => socket,
        None => socket.insert(host.nl().open(Protocol::Generic)?),
    };
    f(socket)
}

/// Asks for a table.
///
/// A filter that names no resource makes the kernel repeat its refusal for ever (`drbd_adm_dump_devices` and its kin leave the
/// dump where it stands, `drbd_nl.c`), so the first refusal ends the reading, and closing the socket ends the dump.
fn dump(
    host: &Host,
    socket: &mut Option<Socket>,
    message: &Message,
    speech: Speech,
    deadline: Deadline,
) -> NlResult<Vec<Reply>> {
    const ERROR: u16 = 2;
    const DONE: u16 = 3;
    let seq = with(host, socket, |s| s.send(&message.clone().with_flags(flags::DUMP)))?;
    let mut replies = Vec::new();
    loop {
        let reply = with(host, socket, |s| s.event(deadline))?.ok_or(host::nl::Error::TimedOut);
        let reply = match reply {
            Ok(reply) if reply.seq != seq => continue,
            Ok(reply) => reply,
            Err(error) => {
                // A dump that still runs would stand in the way of the next.
                *socket = None;
                return Err(error);
            }
        };
        match reply.kind {
            ERROR | DONE => {
                let code = reply.body.get(..4).and_then(|b| b.try_into().ok()).map_or(0, i32::from_ne_bytes);
                if code < 0 {
                    return Err(host::nl::Error::Kernel {
                        errno: code.saturating_neg(),
                        message: None,
                        offset: None,
                    });
                }
                return Ok(replies);
            }
            _ => {
                let reply = speech.answer(reply);
                let is_refusal = !Packet::parse(&reply)?.is_success();
                replies.push(reply);
                if is_refusal {
                    *socket = None;
                    return Ok(replies);
                }
            }
        }
    }
}
