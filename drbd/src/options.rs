//! Options of connections, disks and resources, by their names in drbd.conf.

#[cfg(feature = "serde")]
use std::collections::BTreeMap;
use std::fmt;

use host::Secret;
use host::nl::{Attribute, Message};

use crate::Error;
use crate::wire::disk::{DISK, RESOURCE};
use crate::wire::net::NET;
use crate::wire::table::Value;
pub use crate::wire::table::{Kind, OptionRow, Unit};

/// Set options, ordered by attribute number: the order of a message and of a comparison.
#[derive(Clone, PartialEq, Eq, Default)]
pub(crate) struct Values(Vec<(u16, Value)>);

impl Values {
    fn place(&self, number: u16) -> Result<usize, usize> {
        // The kernel sends them nearly in order, and so do most programs.
        match self.0.last() {
            Some((last, _)) if *last >= number => self.0.binary_search_by_key(&number, |(number, _)| *number),
            _ => Err(self.0.len()),
        }
    }

    fn get(&self, number: u16) -> Option<&Value> {
        self.0.get(self.place(number).ok()?).map(|(_, value)| value)
    }

    fn insert(&mut self, number: u16, value: Value) {
        match self.place(number) {
            Ok(place) => self.0.iter_mut().skip(place).take(1).for_each(|entry| entry.1 = value.clone()),
            Err(place) => self.0.insert(place, (number, value)),
        }
    }

    /// Whether two sets have the same effect for an option, a missing one counted as its default.
    fn agree(&self, other: &Self, row: &OptionRow) -> bool {
        match (self.get(row.number), other.get(row.number)) {
            (None, None) => true,
            (Some(a), Some(b)) => a == b,
            (Some(set), None) | (None, Some(set)) => *set == row.default_value(),
        }
    }

    fn effective(&self, row: &OptionRow) -> Value {
        self.get(row.number).cloned().unwrap_or_else(|| row.default_value())
    }

    fn differences(&self, other: &Self, rows: &'static [OptionRow]) -> Vec<&'static str> {
        rows.iter()
            .filter(|row| !row.once && row.in_84)
            // Without CAP_SYS_ADMIN the kernel leaves secrets out of its answers; what cannot be seen cannot be compared.
            .filter(|row| !matches!(row.kind, Kind::Secret { .. }) || self.get(row.number).is_some())
            .filter(|row| !self.agree(other, row))
            .map(|row| row.name)
            .collect()
    }

    fn encode(&self, rows: &[OptionRow], once: bool, mut message: Message) -> Message {
        for row in rows.iter().filter(|row| row.in_84 && (once || !row.once)) {
            match self.get(row.number) {
                // An empty secret is what the kernel shows for none.
                Some(Value::Secret(secret)) if secret.is_empty() => {}
                Some(value) => message = row.encode(value, message),
                None => {}
            }
        }
        message
    }

    /// Those that DRBD 9 has in a nest.
    fn encode_9(&self, rows: &[OptionRow], nest: u16, mut message: Message) -> Message {
        for row in rows.iter().filter(|row| row.is_in_9(nest)) {
            if let Some(value) = self.get(row.number) {
                message = row.encode_9(value, message);
            }
        }
        message
    }

    /// The options of a nest of DRBD 9 that differ from those there are, defaults counted in, and what they were.
    fn changes_9(&self, rows: &[OptionRow], nest: u16, before: &Self) -> Option<(Self, Self)> {
        let (mut to, mut from) = (Self::default(), Self::default());
        for row in rows.iter().filter(|row| row.is_in_9(nest) && !row.once) {
            let is_hidden = matches!(row.kind, Kind::Secret { .. }) && before.get(row.number).is_none();
            if !is_hidden && !before.agree(self, row) {
                to.insert(row.number, self.effective(row));
                from.insert(row.number, before.effective(row));
            }
        }
        (!to.0.is_empty()).then_some((to, from))
    }

    /// Takes those that a nest of DRBD 9 has.
    fn absorb_9(&mut self, rows: &[OptionRow], number: u16, nest: &Attribute<'_>) {
        for field in nest.nested().flatten() {
            let row = rows.iter().find(|row| row.in_9 == Some((number, field.kind)));
            if let Some((row, value)) = row.and_then(|row| Some((row, row.decode(&field)?))) {
                self.insert(row.number, value);
            }
        }
    }

    fn decode(rows: &[OptionRow], nest: &Attribute<'_>) -> Self {
        let mut values = Self(Vec::with_capacity(rows.len()));
        for field in nest.nested().flatten() {
            let row =
                rows.binary_search_by_key(&field.kind, |row| row.number).ok().and_then(|at| rows.get(at));
            if let Some(value) = row.and_then(|row| row.decode(&field)) {
                values.insert(field.kind, value);
            }
        }
        values
    }

    #[cfg(feature = "fake")]
    fn encode_all(&self, rows: &[OptionRow], mut message: Message) -> Message {
        for row in rows.iter().filter(|row| row.in_84) {
            message = row.encode(&self.effective(row), message);
        }
        message
    }
}

macro_rules! options {
    ($(#[$doc:meta])* $name:ident, $rows:ident, $section:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Default)]
        pub struct $name(Values);

        impl $name {
            /// No option set: the kernel's defaults.
            #[must_use]
            pub fn new() -> Self {
                Self::default()
            }

            /// All options there are, of 8.4 and of 9 ([`OptionRow::in_84`], [`OptionRow::in_9`]), with their ranges, defaults and what they do.
            #[must_use]
            pub fn table() -> &'static [OptionRow] {
                $rows
            }

            /// Sets an option by its name in drbd.conf to a text as it stands there.
            ///
            /// # Errors
            /// [`Error::Option`] names the option, the value and what it takes.
            pub fn set(&mut self, name: &str, value: &str) -> Result<(), Error> {
                let row = Self::row(name, value)?;
                let parsed = row.parse_any(value).map_err(|reason| {
                    let shown = if matches!(row.kind, Kind::Secret { .. }) { "***" } else { value };
                    Error::option(name, shown, reason)
                })?;
                self.0.insert(row.number, parsed);
                Ok(())
            }

            /// The same options with one more.
            ///
            /// # Errors
            /// As [`set`](Self::set).
            pub fn with(mut self, name: &str, value: &str) -> Result<Self, Error> {
                self.set(name, value)?;
                Ok(self)
            }

            /// Takes options as pairs of name and value, as a configuration file has them.
            ///
            /// # Errors
            /// As [`set`](Self::set); a name that stands there twice is refused too, since two programs would take different ones.
            pub fn from_pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, Error> {
                let mut options = Self::new();
                for (name, value) in pairs {
                    if options.is_set(name) {
                        let reason = "it is given twice in the same section; keep one".to_owned();
                        return Err(Error::option(name, value, reason));
                    }
                    options.set(name, value)?;
                }
                Ok(options)
            }

            /// The value an option has, set or by default, as drbd.conf would show it; `***` for a secret, `None` if there is no
            /// such option.
            #[must_use]
            pub fn get(&self, name: &str) -> Option<String> {
                let row = $rows.iter().find(|row| row.name == name)?;
                Some(row.print(&self.0.effective(row)))
            }

            /// Whether an option is set, be it to its default.
            #[must_use]
            pub fn is_set(&self, name: &str) -> bool {
                let row = $rows.iter().find(|row| row.name == name);
                row.is_some_and(|row| self.0.get(row.number).is_some())
            }

            /// Whether none is set.
            #[must_use]
            pub fn is_empty(&self) -> bool {
                self.0.0.is_empty()
            }

            /// The options that are set, with their values as drbd.conf would show them; `***` for a secret.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
                $rows
                    .iter()
                    .filter_map(|row| self.0.get(row.number).map(|value| (row.name, row.print(value))))
            }

            /// The names of the options in which `wanted` differs from these, defaults counted in. Options that hold for one attach
            /// or connect only are left out, and so is a secret that the kernel did not show.
            #[must_use]
            pub fn differences(&self, wanted: &Self) -> Vec<&'static str> {
                self.0.differences(&wanted.0, $rows)
            }

            /// Whether DRBD 8.4 takes all options that are set.
            pub(crate) fn check_84(&self) -> Result<(), Error> {
                for row in $rows {
                    let reason = match self.0.get(row.number) {
                        Some(_) if !row.in_84 => {
                            concat!("DRBD 8.4 has no option of this name in ", $section).to_owned()
                        }
                        Some(value) if !row.takes_84(value) => format!("DRBD 8.4 takes {}", row.range()),
                        _ => continue,
                    };
                    let value = self.get(row.name).unwrap_or_default();
                    return Err(Error::option(row.name, &value, reason));
                }
                Ok(())
            }

            /// Whether DRBD 9 has all options that are set.
            pub(crate) fn check_9(&self) -> Result<(), Error> {
                match $rows.iter().find(|row| row.in_9.is_none() && self.0.get(row.number).is_some()) {
                    None => Ok(()),
                    Some(row) => {
                        let reason = concat!("DRBD 9 has no option of this name in ", $section).to_owned();
                        let value = self.get(row.name).unwrap_or_default();
                        Err(Error::option(row.name, &value, reason))
                    }
                }
            }

            /// What is to be sent to DRBD 9 for one nest, and what takes it back; `None` if nothing differs.
            pub(crate) fn changes_9(&self, nest: u16, before: &Self) -> Option<(Self, Self)> {
                let (to, from) = self.0.changes_9($rows, nest, &before.0)?;
                Some((Self(to), Self(from)))
            }

            /// As arguments of drbdsetup: those that DRBD 9 has in a nest.
            pub(crate) fn arguments_9(&self, nest: u16) -> String {
                let set = $rows.iter().filter(|row| row.is_in_9(nest));
                let set = set.filter_map(|row| self.0.get(row.number).map(|value| (row, value)));
                set.map(|(row, value)| format!(" --{}={}", row.name, row.print(value))).collect()
            }

            fn row(name: &str, value: &str) -> Result<&'static OptionRow, Error> {
                $rows.iter().find(|row| row.name == name).ok_or_else(|| {
                    let reason = concat!("DRBD has no option of this name in ", $section).to_owned();
                    Error::option(name, value, reason)
                })
            }

            /// Appends the options to their nest; those that hold once only where asked for.
            pub(crate) fn encode(&self, once: bool, message: Message) -> Message {
                self.0.encode($rows, once, message)
            }

            pub(crate) fn decode(nest: &Attribute<'_>) -> Self {
                Self(Values::decode($rows, nest))
            }

            pub(crate) fn encode_9(&self, nest: u16, message: Message) -> Message {
                self.0.encode_9($rows, nest, message)
            }

            pub(crate) fn absorb_9(&mut self, number: u16, nest: &Attribute<'_>) {
                self.0.absorb_9($rows, number, nest);
            }

            /// As the kernel shows them: all of them.
            #[cfg(feature = "fake")]
            pub(crate) fn encode_all(&self, message: Message) -> Message {
                self.0.encode_all($rows, message)
            }

            /// As arguments of drbdsetup: ` --name=value` each, in front of each a space.
            pub(crate) fn arguments(&self) -> String {
                self.iter().map(|(name, value)| format!(" --{name}={value}")).collect()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_map().entries(self.iter()).finish()
            }
        }

        #[cfg(feature = "serde")]
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let secret = |name: &str| {
                    $rows.iter().any(|row| row.name == name && matches!(row.kind, Kind::Secret { .. }))
                };
                serializer.collect_map(self.iter().filter(|(name, _)| !secret(name)))
            }
        }

        #[cfg(feature = "serde")]
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let pairs = BTreeMap::<String, String>::deserialize(deserializer)?;
                let pairs = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
                Self::from_pairs(pairs).map_err(serde::de::Error::custom)
            }
        }
    };
}

options! {
    /// Options of a connection: `net { }` of drbd.conf.
    ///
    /// What is not set has the kernel's default; [`ensure`](crate::Drbd::ensure) brings a changed connection back to it. Serialised
    /// options hold no shared secret.
    ///
    /// ```
    /// use drbd::{NetOptions, Protocol, Secret};
    /// let net = NetOptions::new()
    ///     .with_protocol(Protocol::B)
    ///     .with_shared_secret(&Secret::from("correct horse"))?
    ///     .with("cram-hmac-alg", "sha1")?
    ///     .with("sndbuf-size", "1024k")?
    ///     .with("ping-timeout", "2")?;
    /// assert_eq!(net.get("sndbuf-size").as_deref(), Some("1048576"));
    /// assert_eq!(net.get("ko-count").as_deref(), Some("7"));
    /// let error = net.with("ping-timeout", "301").unwrap_err();
    /// assert_eq!(error.to_string(),
    ///     "option ping-timeout cannot be \"301\": it takes 1 to 300 tenths of a second, default 5");
    /// # Ok::<(), drbd::Error>(())
    /// ```
    #[doc(alias = "drbdsetup net-options")]
    NetOptions, NET, "net { }"
}

options! {
    /// Options of a volume's disk: `disk { }` of drbd.conf, in 8.4 with the resync speed and the fencing policy.
    ///
    /// What is not set has the kernel's default; [`ensure`](crate::Drbd::ensure) brings a changed disk back to it.
    ///
    /// ```
    /// let disk = drbd::DiskOptions::new().with("resync-rate", "33M")?.with("c-plan-ahead", "0")?;
    /// assert_eq!(disk.get("resync-rate").as_deref(), Some("33792"));
    /// # Ok::<(), drbd::Error>(())
    /// ```
    #[doc(alias = "drbdsetup disk-options")]
    DiskOptions, DISK, "disk { }"
}

options! {
    /// Options of a resource: `options { }` of drbd.conf.
    #[doc(alias = "drbdsetup resource-options")]
    ResourceOptions, RESOURCE, "options { }"
}

/// When a write counts as done (`protocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Protocol {
    /// On the local disk and in the send buffer. A failover loses what was in it.
    A,
    /// On the local disk and received by the peer.
    B,
    /// On both disks; the kernel's default.
    #[default]
    C,
}

/// What happens before a node writes on without its peer (`fencing`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Fencing {
    /// Nothing; the kernel's default.
    #[default]
    DontCare,
    /// The handler `fence-peer` is called.
    ResourceOnly,
    /// The handler is called and I/O stands still until it has succeeded.
    ResourceAndStonith,
}

impl NetOptions {
    /// Sets the replication protocol.
    #[must_use]
    pub fn with_protocol(mut self, protocol: Protocol) -> Self {
        let number = match protocol {
            Protocol::A => 1,
            Protocol::B => 2,
            Protocol::C => 3,
        };
        self.0.insert(6, Value::Number(number));
        self
    }

    /// Sets the shared secret, 1 to 63 bytes. It goes to the kernel by netlink and never into an argument list or a log.
    ///
    /// # Errors
    /// It is empty, longer, or holds a NUL byte.
    pub fn with_shared_secret(mut self, secret: &Secret) -> Result<Self, Error> {
        let row = Self::row("shared-secret", "***")?;
        let value = row.secret(secret).map_err(|reason| Error::option(row.name, "***", reason))?;
        self.0.insert(row.number, value);
        Ok(self)
    }

    /// The shared secret, if it is set or the kernel showed it.
    #[must_use]
    pub fn shared_secret(&self) -> Option<Secret> {
        match self.0.get(1) {
            Some(Value::Secret(secret)) if !secret.is_empty() => Some(secret.share()),
            _ => None,
        }
    }

    /// Whether both nodes may be Primary (`allow-two-primaries`).
    #[must_use]
    pub fn two_primaries(&self) -> bool {
        matches!(self.0.get(24), Some(Value::Flag(true)))
    }

    /// Whether this node's data is thrown away at the next connect (`discard-my-data`).
    #[must_use]
    pub fn discards_my_data(&self) -> bool {
        matches!(self.0.get(25), Some(Value::Flag(true)))
    }

    /// Throws this node's changes away at the next connect, after split brain (`discard-my-data`). Destroys data.
    #[must_use]
    #[doc(alias = "drbdadm connect --discard-my-data")]
    pub fn with_discard_my_data(mut self) -> Self {
        self.0.insert(25, Value::Flag(true));
        self
    }
}

impl DiskOptions {
    /// The same with the options that are set in others.
    pub(crate) fn overlaid(&self, over: &Self) -> Self {
        let mut all = self.clone();
        over.0.0.iter().for_each(|(number, value)| all.0.insert(*number, value.clone()));
        all
    }

    /// Sets the fencing policy.
    #[must_use]
    pub fn with_fencing(mut self, fencing: Fencing) -> Self {
        let number = match fencing {
            Fencing::DontCare => 0,
            Fencing::ResourceOnly => 1,
            Fencing::ResourceAndStonith => 2,
        };
        self.0.insert(7, Value::Number(number));
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use host::nl::{NESTED, attributes};

    /// The whole configuration of a published two-node set-up, in its own words.
    const NET_CONF: &[(&str, &str)] = &[
        ("protocol", "B"),
        ("sndbuf-size", "1024k"),
        ("rcvbuf-size", "1024k"),
        ("max-buffers", "8192"),
        ("max-epoch-size", "8192"),
        ("unplug-watermark", "8192"),
        ("timeout", "100"),
        ("ping-int", "15"),
        ("ping-timeout", "60"),
        ("connect-int", "15"),
        ("verify-alg", "sha1"),
        ("csums-alg", "sha1"),
        ("data-integrity-alg", "crc32c"),
        ("cram-hmac-alg", "sha1"),
        ("shared-secret", "secret"),
        ("use-rle", "yes"),
    ];

    #[test]
    fn every_row_has_its_own_number_and_name_and_parses_its_default() {
        for rows in [NET, DISK, RESOURCE] {
            for (index, row) in rows.iter().enumerate() {
                assert!(
                    rows[..index].iter().all(|r| r.number < row.number && r.name != row.name),
                    "{}",
                    row.name
                );
                if !matches!(row.kind, Kind::Secret { .. }) {
                    let default = row.default_value();
                    assert_eq!(row.parse(&row.print(&default)), Ok(default), "{}", row.name);
                }
                assert!(row.doc.ends_with('.'), "{}", row.name);
            }
        }
    }

    #[test]
    fn options_survive_the_wire() -> Result<(), Error> {
        let net = NetOptions::from_pairs(NET_CONF.iter().copied())?;
        let message = Message::new(0, 0).with_nest(5 | NESTED, |m| net.encode(true, m));
        let nest = attributes(message.body()).next().expect("one").expect("whole");
        assert!(nest.nested().all(|f| f.is_ok_and(|f| f.raw_kind == f.kind | 0x4000)));
        assert_eq!(NetOptions::decode(&nest), net);
        Ok(())
    }

    #[test]
    fn differences_count_defaults_in_and_once_only_options_out() -> Result<(), Error> {
        let seen = NetOptions::new().with("timeout", "60")?.with("discard-my-data", "yes")?;
        assert!(seen.differences(&NetOptions::new()).is_empty());
        assert_eq!(seen.differences(&NetOptions::new().with("timeout", "61")?), ["timeout"]);
        Ok(())
    }

    #[test]
    fn a_hidden_secret_is_no_difference_and_a_shown_one_is() -> Result<(), Error> {
        let wanted = NetOptions::new().with_shared_secret(&Secret::from("a"))?;
        assert!(NetOptions::new().differences(&wanted).is_empty());
        let shown = NetOptions::new().with_shared_secret(&Secret::from("b"))?;
        assert_eq!(shown.differences(&wanted), ["shared-secret"]);
        assert!(!format!("{wanted:?}{}", wanted.arguments()).contains("\"a\""));
        Ok(())
    }

    #[test]
    fn mistakes_name_option_value_and_range() {
        for (name, value, expected) in [
            ("timeout", "0", "1 to 600 tenths of a second"),
            ("protocol", "D", "one of A, B, C, default C"),
            ("use-rle", "maybe", "yes or no"),
            ("al-extents", "1237", "no option of this name in net { }"),
            ("shared-secret", "", "1 to 63 bytes"),
        ] {
            let error = NetOptions::new().with(name, value).expect_err(name).to_string();
            assert!(error.contains(name) && error.contains(expected), "{error}");
        }
        let twice = NetOptions::from_pairs([("timeout", "100"), ("timeout", "50")]).expect_err("twice");
        assert!(twice.to_string().contains("given twice"), "{twice}");
    }

    #[cfg(feature = "serde")]
    #[test]
    fn serialised_options_hold_no_secret() -> Result<(), Box<dyn std::error::Error>> {
        let net = NetOptions::from_pairs(NET_CONF.iter().copied())?;
        let text = serde_json::to_string(&net)?;
        assert!(!text.contains("secret"), "{text}");
        let back: NetOptions = serde_json::from_str(&text)?;
        assert_eq!(back.with("shared-secret", "secret")?, net);
        Ok(())
    }
}
