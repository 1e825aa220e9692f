//! The judge: from what the writers reported and what was read back, what was lost, and how long they waited.

use std::collections::BTreeMap;
use std::time::Instant;

/// One record of a writer, with the moment the host process had it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record {
    /// About to be written: from now on the block may hold it.
    Submitted { sequence: u64, block: u64 },
    /// The kernel has acknowledged it: from now on the block must hold it, or something later.
    Acknowledged { sequence: u64, block: u64, nanos: u64 },
    /// The kernel refused it.
    Failed { sequence: u64, errno: u64 },
}

/// What a writer reported, in order.
#[derive(Debug, Clone, Default)]
pub(crate) struct Journal {
    pub(crate) records: Vec<(Instant, Record)>,
}

impl Journal {
    /// Reads records of 32 bytes; says which unit each is of.
    pub(crate) fn decode(bytes: &[u8]) -> Option<(u64, Record)> {
        let word = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let (head, sequence, block, value) = (word(0)?, word(8)?, word(16)?, word(24)?);
        let record = match head & 0xffff_ffff {
            0 => Record::Submitted { sequence, block },
            1 => Record::Acknowledged { sequence, block, nanos: value },
            2 => Record::Failed { sequence, errno: value },
            _ => return None,
        };
        Some((head >> 32, record))
    }

    pub(crate) fn acknowledged(&self) -> impl Iterator<Item = (Instant, u64, u64, u64)> + '_ {
        self.records.iter().filter_map(|(at, record)| match record {
            Record::Acknowledged { sequence, block, nanos } => Some((*at, *sequence, *block, *nanos)),
            _ => None,
        })
    }

    /// The writes that failed, and when.
    pub(crate) fn errors(&self) -> Vec<(Instant, String)> {
        let failed = self.records.iter().filter_map(|(at, record)| match record {
            Record::Failed { sequence, errno } => {
                Some((*at, format!("write {sequence} failed with errno {errno}")))
            }
            _ => None,
        });
        failed.collect()
    }

    /// The longest time without an acknowledgement that overlaps `from..until`, in seconds.
    pub(crate) fn gap(&self, from: Instant, until: Instant) -> f64 {
        let mut last: Option<Instant> = None;
        let mut longest = 0.0_f64;
        for (at, ..) in self.acknowledged() {
            if let Some(last) = last.filter(|last| at >= from && *last <= until) {
                longest = longest.max((at - last).as_secs_f64());
            }
            last = Some(at);
        }
        // Nothing came any more: it still lasts.
        if let Some(last) = last.filter(|last| *last < until) {
            longest = longest.max((until - last).as_secs_f64());
        }
        longest
    }
}

/// What stands in each block, as `san-writer read` prints it.
pub(crate) fn parse_blocks(text: &str) -> BTreeMap<u64, String> {
    let line = |line: &str| {
        let (block, found) = line.split_once(' ')?;
        Some((block.parse().ok()?, found.to_owned()))
    };
    text.lines().filter_map(line).collect()
}

/// Compares what must be there with what is: each complaint is a block that lost an acknowledged write.
pub(crate) fn lost(journal: &Journal, blocks: &BTreeMap<u64, String>) -> Vec<String> {
    let mut acknowledged: BTreeMap<u64, u64> = BTreeMap::new();
    let mut submitted: BTreeMap<u64, u64> = BTreeMap::new();
    for (_, record) in &journal.records {
        match record {
            Record::Submitted { sequence, block } => drop(submitted.insert(*block, *sequence)),
            Record::Acknowledged { sequence, block, .. } => drop(acknowledged.insert(*block, *sequence)),
            Record::Failed { .. } => {}
        }
    }
    let mut complaints = Vec::new();
    for (block, must) in &acknowledged {
        let may = submitted.get(block).copied().unwrap_or(*must);
        match blocks.get(block).map(|found| (found, found.parse::<u64>())) {
            None => complaints.push(format!("block {block} was not read back")),
            Some((_, Ok(found))) if found >= *must && found <= may => {}
            Some((_, Ok(found))) => {
                complaints.push(format!(
                    "block {block} holds write {found}, acknowledged was {must}, submitted {may}"
                ));
            }
            Some((found, Err(_))) => {
                complaints.push(format!("block {block} is {found}, acknowledged was {must}"))
            }
        }
    }
    complaints
}

/// Median and maximum.
pub(crate) fn median_max(values: &[f64]) -> (f64, f64) {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
    (median, sorted.last().copied().unwrap_or(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn journal(records: &[(u64, Record)]) -> Journal {
        let start = Instant::now();
        let at = |millis: &u64| start + Duration::from_millis(*millis);
        Journal { records: records.iter().map(|(millis, record)| (at(millis), *record)).collect() }
    }

    fn two_writes() -> Journal {
        journal(&[
            (0, Record::Submitted { sequence: 1, block: 1 }),
            (10, Record::Acknowledged { sequence: 1, block: 1, nanos: 5 }),
            (20, Record::Submitted { sequence: 2, block: 1 }),
            (1520, Record::Acknowledged { sequence: 2, block: 1, nanos: 5 }),
            (1530, Record::Submitted { sequence: 3, block: 1 }),
        ])
    }

    #[test]
    fn a_block_may_hold_the_acknowledged_write_or_a_later_submitted_one() {
        for good in ["1 2\n", "1 3\n"] {
            assert!(lost(&two_writes(), &parse_blocks(good)).is_empty(), "{good}");
        }
    }

    #[test]
    fn a_lost_a_stale_a_foreign_and_an_impossible_block_are_seen() {
        for bad in ["1 empty\n", "1 1\n", "1 foreign\n", "1 broken\n", "1 4\n", "2 2\n"] {
            assert_eq!(lost(&two_writes(), &parse_blocks(bad)).len(), 1, "{bad}");
        }
    }

    #[test]
    fn a_failed_write_is_an_error_and_no_promise() {
        let journal = journal(&[
            (0, Record::Submitted { sequence: 1, block: 1 }),
            (5, Record::Failed { sequence: 1, errno: 5 }),
        ]);
        assert_eq!(journal.errors()[0].1, "write 1 failed with errno 5");
        assert!(lost(&journal, &parse_blocks("1 empty\n")).is_empty());
    }

    #[test]
    fn the_gap_is_the_longest_wait_in_the_window() {
        let journal = two_writes();
        let start = journal.records[0].0;
        let gap = journal.gap(start + Duration::from_millis(100), start + Duration::from_millis(1600));
        assert!((gap - 1.51).abs() < 0.001, "{gap}");
        // A writer that never comes back is a gap to the end of the window.
        let gap = journal.gap(start + Duration::from_secs(2), start + Duration::from_secs(9));
        assert!(gap > 7.0, "{gap}");
    }

    #[test]
    fn median_and_maximum() {
        assert_eq!(median_max(&[3.0, 1.0, 2.0]), (2.0, 3.0));
        assert_eq!(median_max(&[]), (0.0, 0.0));
    }
}
