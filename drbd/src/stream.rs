//! Events for tokio.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use host::{Deadline, Watch};
use tokio::io::unix::AsyncFd;

use crate::{Error, Event, Result, sys};

/// A [`watch`](crate::Drbd::watch) for programs on tokio: [`next`](Self::next) waits without blocking its thread.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let mut events = drbd::Events::new(drbd::Drbd::new()?.watch()?)?;
/// loop {
///     println!("{:?}", events.next().await?);
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Events {
    watch: Watch<Event, Error>,
    /// A duplicate of the watch's descriptor: the watch may close its own and go on with another.
    ready: AsyncFd<OwnedFd>,
}

impl Events {
    /// How long the watch is left alone: a message that is missing is noticed by the clock, not by the descriptor.
    const PATIENCE: Duration = Duration::from_millis(250);

    /// Takes a watch over.
    ///
    /// # Errors
    /// The descriptor cannot be duplicated, or the runtime cannot take it.
    ///
    /// # Panics
    /// Outside a runtime with I/O and time enabled, as everything of tokio does.
    pub fn new(watch: Watch<Event, Error>) -> io::Result<Self> {
        let ready = Self::register(&watch)?;
        Ok(Self { watch, ready })
    }

    fn register(watch: &Watch<Event, Error>) -> io::Result<AsyncFd<OwnedFd>> {
        sys::readable(watch.as_fd().try_clone_to_owned()?)
    }

    /// The next event. May be dropped while it waits: no event is lost.
    ///
    /// # Errors
    /// As the watch; the events stay usable.
    pub async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.watch.next_before(Deadline::after(Duration::ZERO))? {
                if event == Event::Resynchronised {
                    // It may be because the module came back, and then it is another socket. Where that fails the clock is left.
                    if let Ok(ready) = Self::register(&self.watch) {
                        self.ready = ready;
                    }
                }
                return Ok(event);
            }
            let ready = tokio::time::timeout(Self::PATIENCE, self.ready.readable()).await;
            if let Ok(ready) = ready {
                let failed = |source| Error::Netlink {
                    command: "watch",
                    object: "all resources".to_owned(),
                    source: host::nl::Error::Io { what: "wait for the descriptor", source },
                };
                // What arrives after this is readable again; what arrived before is read now.
                ready.map_err(failed)?.clear_ready();
            }
        }
    }
}
