//! How far a resync is. Checked arithmetic throughout: the kernel's counters are read one after the other while they change.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use host::{Bytes, Sectors};

/// How far a resync is.
#[derive(Debug, Clone, Copy, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Progress {
    /// The part that is done, 0.0 to 1.0.
    pub done: f64,
    /// What is left.
    pub left: Bytes,
    /// What there was to do.
    pub total: Bytes,
    /// Bytes per second over the last ten seconds, if known.
    pub rate: Option<Bytes>,
    /// The time it will take at that rate, if known.
    pub eta: Option<Duration>,
}

impl Progress {
    /// Of sectors: all there were, those that still differ, and those that could not be synced and will not be tried again.
    pub(crate) fn new(total: Sectors, out_of_sync: Sectors, failed: Sectors) -> Self {
        let left = out_of_sync.0.saturating_sub(failed.0);
        // New writes of the Primary can raise what is left above what there was.
        let total = total.0.max(left);
        let bytes = |sectors: u64| Bytes(sectors.saturating_mul(512));
        Self { done: part(total, left), left: bytes(left), total: bytes(total), rate: None, eta: None }
    }

    /// Several volumes together; `None` of none.
    pub(crate) fn sum(parts: &[Self]) -> Option<Self> {
        let add = |f: fn(&Self) -> u64| parts.iter().map(f).fold(0u64, u64::saturating_add);
        let (left, total) = (add(|part| part.left.0), add(|part| part.total.0));
        let (done, left, total) = (part(total, left), Bytes(left), Bytes(total));
        (!parts.is_empty()).then_some(Self { done, left, total, rate: None, eta: None })
    }
}

fn part(total: u64, left: u64) -> f64 {
    if total == 0 {
        return 1.0;
    }
    #[allow(clippy::cast_precision_loss)] // A part to 15 digits is enough.
    let part = total.saturating_sub(left) as f64 / total as f64;
    part.clamp(0.0, 1.0)
}

/// Gives progress its rate and eta from what it saw before.
#[derive(Debug, Default)]
pub(crate) struct Speedometer {
    seen: VecDeque<(Instant, u64)>,
}

impl Speedometer {
    const WINDOW: Duration = Duration::from_secs(10);

    pub(crate) fn measure(&mut self, progress: Progress, now: Instant) -> Progress {
        while self.seen.front().is_some_and(|(at, _)| now.duration_since(*at) > Self::WINDOW)
            && self.seen.len() > 1
        {
            self.seen.pop_front();
        }
        let rate = self.seen.front().and_then(|(at, left)| {
            let millis = u64::try_from(now.duration_since(*at).as_millis()).ok().filter(|m| *m > 0)?;
            Some(left.checked_sub(progress.left.0)?.saturating_mul(1000) / millis)
        });
        self.seen.push_back((now, progress.left.0));
        let rate = rate.filter(|rate| *rate > 0);
        let eta = rate.map(|rate| Duration::from_secs(progress.left.0.div_ceil(rate)));
        Progress { rate: rate.map(Bytes), eta, ..progress }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stay_between_nothing_and_all() {
        for (total, left, failed, done) in [
            (100, 100, 0, 0.0),
            (100, 25, 0, 0.75),
            (100, 0, 0, 1.0),
            (0, 0, 0, 1.0),
            (100, 250, 0, 0.0),
            (100, 10, 20, 1.0),
        ] {
            let progress = Progress::new(Sectors(total), Sectors(left), Sectors(failed));
            assert!((progress.done - done).abs() < 1e-9, "{total} {left} {failed}: {progress:?}");
        }
        assert_eq!(Progress::new(Sectors(u64::MAX), Sectors(u64::MAX), Sectors(0)).left, Bytes(u64::MAX));
    }

    #[test]
    fn the_rate_is_what_two_looks_say() {
        let mut meter = Speedometer::default();
        let begin = Instant::now();
        let at = |left| Progress::new(Sectors(8000), Sectors(left), Sectors(0));
        assert_eq!(meter.measure(at(8000), begin).rate, None);
        let second = meter.measure(at(6000), begin + Duration::from_secs(2));
        assert_eq!((second.rate, second.eta), (Some(Bytes(512_000)), Some(Duration::from_secs(6))));
        // What grew has no rate.
        assert_eq!(meter.measure(at(8001), begin + Duration::from_secs(3)).rate, None);
    }

    #[test]
    fn volumes_add_up() {
        let parts = [(100, 50), (300, 150)]
            .map(|(total, left)| Progress::new(Sectors(total), Sectors(left), Sectors(0)));
        let sum = Progress::sum(&parts).expect("two");
        assert_eq!((sum.left, sum.total), (Bytes(200 * 512), Bytes(400 * 512)));
        assert_eq!(Progress::sum(&[]), None);
    }
}
