//! Streams of changes, without an async runtime and without a thread.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};

use crate::Deadline;

/// Where the items of a [`Watch`] come from; the sibling crates implement it.
pub trait Source {
    /// What is delivered.
    type Item;
    /// What can go wrong.
    type Error;

    /// The descriptor that becomes readable when [`next`](Self::next) has something to do.
    fn fd(&self) -> BorrowedFd<'_>;

    /// The next item, `None` when the deadline passes first.
    ///
    /// # Errors
    /// Whatever the facility reports; the watch stays usable unless the error's documentation says otherwise.
    fn next(&mut self, deadline: Deadline) -> Result<Option<Self::Item>, Self::Error>;
}

/// A stream of changes: a blocking iterator with a descriptor, to be used alone, with `poll(2)`, or, by a duplicate of the
/// descriptor, in any async runtime (a watch may close its descriptor and go on with another).
///
/// Dropping it ends the watching and changes nothing else.
pub struct Watch<T, E>(Box<dyn Source<Item = T, Error = E> + Send>);

impl<T, E> Watch<T, E> {
    /// Makes a watch of a source.
    #[must_use]
    pub fn new(source: impl Source<Item = T, Error = E> + Send + 'static) -> Self {
        Self(Box::new(source))
    }

    /// The next item, `None` when the deadline passes first.
    ///
    /// # Errors
    /// Whatever the facility reports.
    pub fn next_before(&mut self, deadline: Deadline) -> Result<Option<T>, E> {
        self.0.next(deadline)
    }
}

impl<T, E> Iterator for Watch<T, E> {
    type Item = Result<T, E>;

    fn next(&mut self) -> Option<Result<T, E>> {
        self.0.next(Deadline::never()).transpose()
    }
}

impl<T, E> AsFd for Watch<T, E> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.fd()
    }
}

impl<T, E> fmt::Debug for Watch<T, E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Watch").field(&self.0.fd()).finish()
    }
}
