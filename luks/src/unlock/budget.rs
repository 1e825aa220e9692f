//! How much memory and how many processors key derivations may take at once.

use std::sync::{Condvar, Mutex, PoisonError};

use host::{Bytes, Deadline, Host};

/// The most lanes in flight: libcryptsetup of 2.7 and newer, built with OpenSSL's Argon2, takes them from one pool of eight threads, and
/// derivations that wait for each other there never end (udisks issue 1489).
const MAX_LANES: u32 = 8;

/// The memory and the processors that key derivations may take at once.
///
/// A header says what its key slots need; a header on a network's disk says whatever its writer likes. What needs more than
/// [`memory`](Self::memory) runs alone, what needs more than [`limit`](Self::limit) is not tried at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Budget {
    /// The memory of all derivations at once.
    pub memory: Bytes,
    /// The most memory one derivation may take.
    pub limit: Bytes,
    /// The lanes of all derivations at once: as many as there are processors, at most 8.
    pub lanes: u32,
}

impl Budget {
    /// So much memory at once, on so many processors; one derivation may take all of it.
    #[must_use]
    pub fn new(memory: Bytes, lanes: u32) -> Self {
        Self { memory, limit: memory, lanes: lanes.clamp(1, MAX_LANES) }
    }

    /// What this machine has: half of the memory that is available to this process (`MemAvailable`, and what the control groups it is in
    /// leave of their `memory.max`), all of it for a single derivation; its processors, at most 8.
    #[must_use]
    pub fn of(host: &Host) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, |n| u32::try_from(n.get()).unwrap_or(1));
        let available = available(host).unwrap_or(1 << 30);
        Self { limit: Bytes(available), ..Self::new(Bytes(available / 2), cpus) }
    }

    /// Sets the most memory that one derivation may take.
    #[must_use]
    pub fn with_limit(mut self, limit: Bytes) -> Self {
        self.limit = limit;
        self
    }
}

/// The memory in bytes that this process can have without pushing others out.
fn available(host: &Host) -> Option<u64> {
    let tree = host.tree();
    let free = parse_meminfo(&tree.read_opt("/proc/meminfo").ok()??)?;
    let own = tree.read_opt("/proc/self/cgroup").ok().flatten().unwrap_or_default();
    let mut group = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default().trim();
    let mut least = free;
    // Each group above bounds it, too. The root has no such files.
    while group.len() > 1 {
        let number = |file: &str| -> Option<u64> {
            tree.read_opt(format!("/sys/fs/cgroup{group}/{file}")).ok()??.trim().parse().ok()
        };
        if let (Some(max), Some(used)) = (number("memory.max"), number("memory.current")) {
            least = least.min(max.saturating_sub(used));
        }
        group = group.rsplit_once('/').map_or("", |(above, _)| above);
    }
    Some(least)
}

/// `MemAvailable` in bytes.
fn parse_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

#[derive(Debug, Default)]
struct InUse {
    memory: u64,
    lanes: u32,
}

/// Lets derivations in as long as the budget lasts.
#[derive(Debug)]
pub(super) struct Gate {
    budget: Budget,
    used: Mutex<InUse>,
    freed: Condvar,
}

/// A derivation's part of the budget; given back when dropped.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    gate: &'a Gate,
    memory: u64,
    lanes: u32,
}

impl Gate {
    pub(super) fn new(budget: Budget) -> Self {
        Self { budget, used: Mutex::default(), freed: Condvar::new() }
    }

    /// Waits for room; `None` if there is none before the deadline. One that needs more than there is waits until it is alone.
    pub(super) fn enter(&self, memory: u64, lanes: u32, deadline: Deadline) -> Option<Pass<'_>> {
        let lanes = lanes.clamp(1, self.budget.lanes);
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let fits = used.lanes + lanes <= self.budget.lanes
                && used.memory.saturating_add(memory) <= self.budget.memory.0;
            if deadline.is_over() {
                return None;
            }
            if fits || used.lanes == 0 {
                used.memory += memory;
                used.lanes += lanes;
                return Some(Pass { gate: self, memory, lanes });
            }
            let waited = self.freed.wait_timeout(used, deadline.left());
            used = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until nothing else runs, and keeps everything else out.
    pub(super) fn alone(&self, deadline: Deadline) -> Option<Pass<'_>> {
        self.enter(self.budget.memory.0, self.budget.lanes, deadline)
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        let mut used = self.gate.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.memory -= self.memory;
        used.lanes -= self.lanes;
        self.gate.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn soon() -> Deadline {
        Deadline::after(Duration::from_millis(10))
    }

    #[test]
    fn the_gate_keeps_memory_and_lanes_within_the_budget() {
        let gate = Gate::new(Budget::new(Bytes(1100), 4));
        let first = gate.enter(500, 1, soon()).expect("room");
        let second = gate.enter(500, 1, soon()).expect("room");
        assert!(gate.enter(500, 1, soon()).is_none(), "no memory is left");
        assert!(gate.enter(10, 3, soon()).is_none(), "two lanes are left");
        let third = gate.enter(10, 2, soon()).expect("room");
        drop((first, second));
        assert!(gate.alone(soon()).is_none() && gate.enter(5000, 1, soon()).is_none());
        drop(third);
        // Larger than all: alone.
        let large = gate.enter(5000, 99, soon()).expect("nobody else is there");
        assert!(gate.enter(1, 1, soon()).is_none());
        drop(large);
        assert!(gate.alone(soon()).is_some());
    }

    #[test]
    #[allow(clippy::disallowed_methods)] // The files are the test's own.
    fn available_memory_is_bounded_by_the_groups_around() {
        let text = "MemTotal:       24685012 kB\nMemFree:         19291344 kB\nMemAvailable:   23610776 kB\n";
        assert_eq!(parse_meminfo(text), Some(23_610_776 * 1024));
        assert_eq!(parse_meminfo("MemTotal: 5 kB\n"), None);
        let dir = tempfile::tempdir().expect("a directory");
        let put = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        put("proc/meminfo", text);
        put("proc/self/cgroup", "1:name=systemd:/x\n0::/pods/one\n");
        put("sys/fs/cgroup/pods/one/memory.max", "max\n");
        put("sys/fs/cgroup/pods/one/memory.current", "700\n");
        put("sys/fs/cgroup/pods/memory.max", "1048576\n");
        put("sys/fs/cgroup/pods/memory.current", "48576\n");
        let budget = Budget::of(&Host::at(dir.path()));
        assert_eq!((budget.limit, budget.memory), (Bytes(1_000_000), Bytes(500_000)));
        assert!((1..=8).contains(&budget.lanes));
    }
}
