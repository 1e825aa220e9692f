//! A kernel parameter as it is wanted.

/// A kernel parameter.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct SysctlSpec {
    /// Its name with dots, as `sysctl` takes it; a dot inside an interface's name is written as a slash (`net.ipv4.conf.eth0/5.rp_filter`).
    pub key: String,
    /// Its value; several numbers are separated by blanks.
    pub value: String,
    /// Whether a larger value of the machine is left as it is.
    pub bound: SysctlBound,
    /// Whether it is set even if that is known to do harm ([`sysctl::explain`](crate::sysctl::explain)).
    #[cfg_attr(feature = "serde", serde(default))]
    pub force: bool,
}

/// How a [`SysctlSpec`] is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum SysctlBound {
    /// Exactly this value.
    #[default]
    Exactly,
    /// At least this, number by number: a machine that has more keeps it.
    AtLeast,
}

impl SysctlSpec {
    /// A parameter that is to have exactly this value; `sysctl -w KEY=VALUE`.
    ///
    /// # Errors
    /// The key leads out of `/proc/sys` or is empty.
    pub fn exactly(key: impl Into<String>, value: impl Into<String>) -> Result<Self, host::ParseError> {
        Self::of(key.into(), value.into(), SysctlBound::Exactly)
    }

    /// A parameter that is to have at least this value.
    ///
    /// # Errors
    /// As [`exactly`](Self::exactly), or the value is not made of numbers.
    pub fn at_least(key: impl Into<String>, value: impl Into<String>) -> Result<Self, host::ParseError> {
        Self::of(key.into(), value.into(), SysctlBound::AtLeast)
    }

    fn of(key: String, value: String, bound: SysctlBound) -> Result<Self, host::ParseError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-/".contains(&b);
        if key.is_empty()
            || !key.bytes().all(allowed)
            || key.split('.').any(str::is_empty)
            || key.contains("//")
        {
            return Err(host::ParseError::new(
                "sysctl name",
                key,
                "write it with dots, for example net.core.rmem_max",
            ));
        }
        let numbers = value.split_whitespace().all(|word| word.parse::<i64>().is_ok());
        if value.trim().is_empty() || (bound == SysctlBound::AtLeast && !numbers) {
            return Err(host::ParseError::new(
                "sysctl value",
                value,
                "one or more numbers, separated by blanks",
            ));
        }
        Ok(Self { key, value: value.split_whitespace().collect::<Vec<_>>().join(" "), bound, force: false })
    }

    /// Sets it even if that is known to do harm.
    #[must_use]
    pub fn forced(mut self) -> Self {
        self.force = true;
        self
    }

    /// The file below `/proc/sys`.
    #[must_use]
    pub fn path(&self) -> String {
        let swapped: String = self
            .key
            .chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                c => c,
            })
            .collect();
        format!("/proc/sys/{swapped}")
    }

    /// The value to write over `current`; `None` if nothing needs to be written.
    #[must_use]
    pub fn wanted_over(&self, current: &str) -> Option<String> {
        let now: Vec<_> = current.split_whitespace().collect();
        let want: Vec<_> = self.value.split_whitespace().collect();
        let chosen: Vec<&str> = match self.bound {
            SysctlBound::Exactly => want,
            SysctlBound::AtLeast => {
                let larger = |(index, w): (usize, &&'_ str)| {
                    let have = now.get(index).and_then(|n| n.parse::<i64>().ok());
                    match (have, w.parse::<i64>()) {
                        (Some(have), Ok(wanted)) if have >= wanted => index < now.len(),
                        _ => false,
                    }
                };
                let keep: Vec<bool> = want.iter().enumerate().map(larger).collect();
                want.iter()
                    .enumerate()
                    .map(|(i, w)| match keep.get(i) {
                        Some(true) => now.get(i).copied().unwrap_or(w),
                        _ => w,
                    })
                    .collect()
            }
        };
        (chosen != now).then(|| chosen.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_keeps_what_is_larger_number_by_number() {
        let floor = SysctlSpec::at_least("net.ipv4.tcp_rmem", "131072 524288 33554432").expect("good");
        assert_eq!(floor.wanted_over("4096\t131072\t67108864\n").as_deref(), Some("131072 524288 67108864"));
        assert_eq!(floor.wanted_over("131072 524288 33554432"), None);
        let exact = SysctlSpec::exactly("net.ipv4.conf.eth0/5.rp_filter", "2").expect("good");
        assert_eq!(exact.path(), "/proc/sys/net/ipv4/conf/eth0.5/rp_filter");
        assert_eq!((exact.wanted_over("2\n"), exact.wanted_over("1").as_deref()), (None, Some("2")));
        assert!(SysctlSpec::exactly("a..b", "1").is_err() && SysctlSpec::exactly("", "1").is_err());
        assert!(SysctlSpec::at_least("kernel.core_pattern", "core").is_err());
    }
}
