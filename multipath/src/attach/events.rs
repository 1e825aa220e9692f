//! Waiting: for the kernel's device events, and for calls that may hang.

use std::io;
use std::sync::mpsc;
use std::time::Duration;

use host::nl::{Protocol, Socket};
use host::{Deadline, Host};

use crate::error::{Error, Result};

/// Wakes on each of the kernel's device events, so that nothing here waits longer than what it waits for.
pub(super) struct Events(Socket);

impl Events {
    pub(super) fn open(host: &Host) -> Result<Self> {
        let mut socket = host.nl().open(Protocol::KobjectUevent).map_err(Error::Events)?;
        // Group 1: the kernel's own, in the initial network namespace.
        socket.join(1).map_err(Error::Events)?;
        Ok(Self(socket))
    }

    /// Calls `look` after each event until it answers, or the deadline passes: then what `seen` says goes into the error.
    pub(super) fn until<T>(
        &mut self,
        what: &str,
        deadline: Deadline,
        mut look: impl FnMut() -> Result<Option<T>>,
        seen: impl Fn() -> String,
    ) -> Result<T> {
        loop {
            if let Some(answer) = look()? {
                return Ok(answer);
            }
            if deadline.is_over() {
                return Err(Error::TimedOut { what: what.to_owned(), seen: seen() });
            }
            // multipathd's own state has no uevent: a look every 50 ms covers it. A uevent is no netlink message, so a datagram that cannot
            // be read as one is an event all the same.
            match self.0.event(deadline.or_after(Duration::from_millis(50))) {
                Ok(_) | Err(host::nl::Error::Malformed(_) | host::nl::Error::Overrun) => {}
                Err(error) => return Err(Error::Events(error)),
            }
        }
    }
}

/// Runs a call that the kernel may hold (a read of a device without paths, a delete of a blocked disk) on a thread, and waits for it until the
/// deadline. What is held then ends with the kernel's own time-out.
pub(super) fn bounded<T: Send + 'static>(
    what: &str,
    deadline: Deadline,
    call: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<io::Result<T>> {
    let (tell, hear) = mpsc::channel();
    std::thread::spawn(move || {
        if tell.send(call()).is_err() {
            log::debug!("multipath: a call ended after its deadline");
        }
    });
    let held = || Error::TimedOut { what: what.to_owned(), seen: "the kernel holds the call".to_owned() };
    hear.recv_timeout(deadline.left()).map_err(|_| held())
}
