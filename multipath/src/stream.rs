//! Events for tokio.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use host::{Deadline, Watch};
use tokio::io::unix::AsyncFd;

use crate::error::{Error, Result};
use crate::watch::Event;

/// A [`watch`](crate::Kernel::watch) for programs on tokio: [`next`](Self::next) waits without blocking its thread.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let mut events = multipath::Events::new(multipath::Kernel::new().watch()?)?;
/// loop {
///     println!("{:?}", events.next().await?);
/// }
/// # }
/// ```
#[derive(Debug)]
pub struct Events {
    watch: Watch<Event, Error>,
    ready: AsyncFd<OwnedFd>,
}

impl Events {
    /// Takes a watch over.
    ///
    /// # Errors
    /// The descriptor cannot be duplicated, or the runtime cannot take it.
    ///
    /// # Panics
    /// Outside a runtime with I/O enabled, as everything of tokio does.
    pub fn new(watch: Watch<Event, Error>) -> io::Result<Self> {
        let ready = crate::sys::readable(watch.as_fd().try_clone_to_owned()?)?;
        Ok(Self { watch, ready })
    }

    /// The next event. May be dropped while it waits: no event is lost. Reading the state of what changed takes some system calls, in which the
    /// thread is not given back.
    ///
    /// # Errors
    /// As the watch; the events stay usable.
    pub async fn next(&mut self) -> Result<Event> {
        loop {
            if let Some(event) = self.watch.next_before(Deadline::after(Duration::ZERO))? {
                return Ok(event);
            }
            // What arrives after this is readable again; what arrived before is read now.
            self.ready.readable().await.map_err(Error::Watch)?.clear_ready();
        }
    }
}
