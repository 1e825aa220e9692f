//! Points in time after which a call gives up.

use std::time::{Duration, Instant};

/// The moment at which a call gives up. Every call of the family that can block takes one or has a documented default.
///
/// A deadline is absolute, so handing the same one to ten calls bounds all ten together, which a timeout would not.
///
/// ```
/// use std::time::Duration;
/// let deadline = host::Deadline::after(Duration::from_secs(5));
/// assert!(!deadline.is_over());
/// assert!(deadline.left() <= Duration::from_secs(5));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// Now plus `timeout`; saturates far in the future instead of overflowing.
    #[must_use]
    pub fn after(timeout: Duration) -> Self {
        const FAR: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
        let now = Instant::now();
        Self(now.checked_add(timeout.min(FAR)).unwrap_or(now))
    }

    /// A hundred years from now, for callers who mean to wait for ever and say so.
    #[must_use]
    pub fn never() -> Self {
        Self::after(Duration::MAX)
    }

    /// The time left, zero when it is over.
    #[must_use]
    pub fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether the moment has passed.
    #[must_use]
    pub fn is_over(self) -> bool {
        self.left().is_zero()
    }

    /// The earlier of this and `timeout` from now: the bound of one part of a longer call.
    #[must_use]
    pub fn or_after(self, timeout: Duration) -> Self {
        self.min(Self::after(timeout))
    }

    /// Waits for `step` or until the deadline, whichever comes first; says whether time is left.
    ///
    /// Only for what the kernel does not notify of. Everything else polls a descriptor.
    #[must_use]
    pub fn pause(self, step: Duration) -> bool {
        let left = self.left();
        if left.is_zero() {
            return false;
        }
        #[allow(clippy::disallowed_methods)] // The one place of the family that sleeps.
        std::thread::sleep(step.min(left));
        !self.is_over()
    }

    /// The time left as `poll(2)` wants it: milliseconds, rounded up, at most `i32::MAX`.
    #[must_use]
    pub fn poll_millis(self) -> i32 {
        let left = self.left();
        let millis = left.as_millis() + u128::from(!left.subsec_nanos().is_multiple_of(1_000_000));
        i32::try_from(millis).unwrap_or(i32::MAX)
    }
}
