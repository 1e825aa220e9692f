//! Sets of processors, of any size.

use std::fmt;
use std::str::FromStr;

use crate::ParseError;

/// The largest processor number that is accepted: far above the kernel's limit of 8192, low enough that a typo allocates nothing big.
const MAX_CPU: u32 = 65_535;

/// A set of processors, as `/proc/irq/N/smp_affinity_list` and LIO's `cpus_allowed_list` show it.
///
/// Reads lists (`0-3,8`, `0-31:2/4`, empty) by [`FromStr`] and hexadecimal masks (`ff,00000000`) by [`from_mask`](Self::from_mask);
/// displays as the shortest list. Has no upper size: masks of several comma groups are written as the kernel wants them.
///
/// ```
/// let cpus: host::CpuSet = "0-2,5".parse()?;
/// assert_eq!(cpus.iter().collect::<Vec<_>>(), [0, 1, 2, 5]);
/// assert_eq!(cpus.to_mask(), "27");
/// # Ok::<(), host::ParseError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct CpuSet {
    /// One bit a processor; never ends in a zero word, so that equality of sets is equality of vectors.
    words: Vec<u64>,
}

impl CpuSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The set of one processor.
    #[must_use]
    pub fn single(cpu: u32) -> Self {
        std::iter::once(cpu).collect()
    }

    /// Adds a processor. Numbers above 65535 are ignored; no kernel has them.
    pub fn insert(&mut self, cpu: u32) {
        if cpu > MAX_CPU {
            return;
        }
        let (word, bit) = (cpu as usize / 64, cpu % 64);
        if self.words.len() <= word {
            self.words.resize(word + 1, 0);
        }
        if let Some(w) = self.words.get_mut(word) {
            *w |= 1 << bit;
        }
    }

    /// Whether the processor is in the set.
    #[must_use]
    pub fn contains(&self, cpu: u32) -> bool {
        self.words.get(cpu as usize / 64).is_some_and(|w| w & (1 << (cpu % 64)) != 0)
    }

    /// How many processors there are in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.words.iter().map(|w| w.count_ones() as usize).sum()
    }

    /// Whether the set is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// The processors, in rising order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..).zip(&self.words).flat_map(|(index, word)| {
            let word = *word;
            (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| index * 64 + bit)
        })
    }

    /// The processors that are in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        Self { words: self.words.iter().zip(&other.words).map(|(a, b)| a & b).collect() }.trimmed()
    }

    /// The processors of this set that are not in `other`.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let others = other.words.iter().copied().chain(std::iter::repeat(0));
        Self { words: self.words.iter().zip(others).map(|(a, b)| a & !b).collect() }.trimmed()
    }

    /// The processors that are in either.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        self.iter().chain(other.iter()).collect()
    }

    /// The hexadecimal mask as `/proc/irq/N/smp_affinity` takes it: groups of 8 digits, comma separated, no leading zero group
    /// (the kernel answers EOVERFLOW to more than 8 digits without a comma and to a group above its last processor).
    #[must_use]
    pub fn to_mask(&self) -> String {
        let halves = self.words.iter().flat_map(|w| [w & 0xffff_ffff, w >> 32]);
        let mut groups: Vec<u64> = halves.collect();
        while groups.last() == Some(&0) {
            groups.pop();
        }
        let mut out = match groups.pop() {
            None => return "0".to_owned(),
            Some(first) => format!("{first:x}"),
        };
        for group in groups.iter().rev() {
            out.push_str(&format!(",{group:08x}"));
        }
        out
    }

    /// Reads a hexadecimal mask as the kernel prints it.
    ///
    /// # Errors
    /// A group is no hexadecimal number of at most 8 digits.
    pub fn from_mask(text: &str) -> Result<Self, ParseError> {
        let mut set = Self::new();
        for (index, group) in (0u32..).zip(text.trim().rsplit(',')) {
            let bad = || {
                ParseError::new(
                    "processor mask",
                    text,
                    "groups of up to 8 hexadecimal digits, comma separated",
                )
            };
            if group.is_empty() || group.len() > 8 {
                return Err(bad());
            }
            let bits = u32::from_str_radix(group, 16).map_err(|_| bad())?;
            for bit in (0..32).filter(|bit| bits & (1 << bit) != 0) {
                set.insert(index.saturating_mul(32).saturating_add(bit));
            }
        }
        Ok(set)
    }

    fn trimmed(mut self) -> Self {
        while self.words.last() == Some(&0) {
            self.words.pop();
        }
        self
    }
}

impl FromIterator<u32> for CpuSet {
    fn from_iter<I: IntoIterator<Item = u32>>(cpus: I) -> Self {
        let mut set = Self::new();
        for cpu in cpus {
            set.insert(cpu);
        }
        set
    }
}

impl FromStr for CpuSet {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bad = |reason: &str| ParseError::new("processor list", text, reason);
        let number = |s: &str| s.parse::<u32>().ok().filter(|n| *n <= MAX_CPU);
        let mut set = Self::new();
        let text_ = text.trim();
        // nohz_full reads "(null)" on 6.1 and 6.12, and is empty on newer kernels.
        if text_.is_empty() || text_ == "(null)" {
            return Ok(set);
        }
        for part in text_.split(',') {
            let (range, stride) = match part.split_once(':') {
                None => (part, None),
                Some((range, stride)) => (range, Some(stride)),
            };
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let (first, last) = number(first.trim())
                .zip(number(last.trim()))
                .ok_or_else(|| bad("write numbers and ranges, for example 0-3,8"))?;
            if first > last {
                return Err(bad("a range runs from the lower to the higher number"));
            }
            let (used, group) = match stride.map(|s| s.split_once('/')) {
                None => (1, 1),
                Some(pair) => pair
                    .and_then(|(u, g)| number(u).zip(number(g)))
                    .filter(|(u, g)| *u > 0 && u <= g)
                    .ok_or_else(|| bad("a stride is written first-last:used/group, for example 0-31:2/4"))?,
            };
            (first..=last).filter(|cpu| (cpu - first) % group < used).for_each(|cpu| set.insert(cpu));
        }
        Ok(set)
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while cpus.peek() == Some(&(last + 1)) {
                last += 1;
                cpus.next();
            }
            match last - first {
                0 => write!(f, "{separator}{first}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuSet({self})")
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for CpuSet {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(feature = "serde")]
impl<'de> serde::Deserialize<'de> for CpuSet {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lists_as_the_kernel_prints_them() {
        for (text, cpus) in [
            ("", vec![]),
            ("(null)\n", vec![]),
            ("0", vec![0]),
            ("0-3,8\n", vec![0, 1, 2, 3, 8]),
            ("0-3:1/2", vec![0, 2]),
            ("0-7:2/4", vec![0, 1, 4, 5]),
        ] {
            assert_eq!(text.parse::<CpuSet>().expect(text).iter().collect::<Vec<_>>(), cpus, "{text}");
        }
    }

    #[test]
    fn masks_as_the_kernel_prints_them() {
        let forty: CpuSet = CpuSet::from_mask("01,00000000").expect("40 processors");
        assert_eq!(forty.to_string(), "32");
        assert_eq!(forty.to_mask(), "1,00000000");
        assert_eq!(CpuSet::from_mask("00000003").expect("two").to_string(), "0-1");
        assert_eq!(CpuSet::new().to_mask(), "0");
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["x", "3-1", "1-", "0-3:0/2", "0-3:3/2", "99999999999", "-1", "1,,2"] {
            assert!(text.parse::<CpuSet>().is_err(), "{text}");
        }
        for text in ["", "0x3", "000000003", "g"] {
            assert!(CpuSet::from_mask(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn list_and_mask_round_trip(cpus in proptest::collection::vec(0u32..5000, 0..64)) {
            let set: CpuSet = cpus.iter().copied().collect();
            prop_assert_eq!(&set.to_string().parse::<CpuSet>().expect("own list"), &set);
            prop_assert_eq!(&CpuSet::from_mask(&set.to_mask()).expect("own mask"), &set);
            prop_assert_eq!(set.len(), set.iter().count());
        }
    }
}
