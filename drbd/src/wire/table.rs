//! Options: what a row of the tables says, and what follows from it: parsing, checking, printing, encoding, decoding.
//!
//! The rows are in [`net`](super::net) and [`disk`](super::disk); one row is all that one option needs.

use host::Secret;
use host::nl::{Attribute, Message};

use super::MANDATORY;

/// What one unit of an option's number is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Unit {
    /// A plain count.
    One,
    /// Seconds.
    Seconds,
    /// Tenths of a second.
    Deciseconds,
    /// Thousandths of a second.
    Milliseconds,
    /// KiB per second.
    KibPerSecond,
    /// Sectors of 512 bytes.
    Sectors,
    /// Bytes.
    Bytes,
}

impl Unit {
    /// The power of two that one unit stands for, in the arithmetic of drbd.conf's suffixes.
    fn shift(self) -> u32 {
        match self {
            Self::KibPerSecond => 10,
            Self::Sectors => 9,
            Self::One | Self::Seconds | Self::Deciseconds | Self::Milliseconds | Self::Bytes => 0,
        }
    }

    /// How the unit is written in an error message.
    fn text(self) -> &'static str {
        match self {
            Self::One => "",
            Self::Seconds => " seconds",
            Self::Deciseconds => " tenths of a second",
            Self::Milliseconds => " milliseconds",
            Self::KibPerSecond => " KiB/s",
            Self::Sectors => " sectors of 512 bytes",
            Self::Bytes => " bytes",
        }
    }
}

/// The kind of value an option takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Kind {
    /// A number. In text it may end in `s` (512 bytes), `K`, `M` or `G`, as in drbd.conf.
    Number {
        /// The least value.
        min: u64,
        /// The greatest value.
        max: u64,
        /// What the kernel takes if the option is not given.
        default: u64,
        /// What one is.
        unit: Unit,
    },
    /// A number of 64 bits on the wire.
    Wide {
        /// The greatest value.
        max: u64,
        /// What one is.
        unit: Unit,
    },
    /// A device minor, or -1 for none.
    MinorOrNone,
    /// `yes` or `no`.
    Flag {
        /// What the kernel takes if the option is not given.
        default: bool,
    },
    /// One word of several.
    Choice {
        /// The words and their numbers on the wire.
        words: &'static [(&'static str, u32)],
        /// What the kernel takes if the option is not given.
        default: u32,
    },
    /// A number, or one of several words that stand for others.
    NumberOrWord {
        /// The least number.
        min: u32,
        /// The greatest number.
        max: u32,
        /// The words and their numbers on the wire.
        words: &'static [(&'static str, u32)],
        /// What the kernel takes if the option is not given.
        default: u32,
    },
    /// A text of at most this many bytes. Empty by default.
    Text {
        /// The most bytes, without the closing NUL.
        max: usize,
    },
    /// A secret of at most this many bytes. None by default.
    Secret {
        /// The most bytes, without the closing NUL.
        max: usize,
    },
}

/// One option: a row of the tables that drive parsing, range checks, encoding, decoding and comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct OptionRow {
    /// The number of the attribute in its nest (`include/linux/drbd_genl.h`). An option of DRBD 9 alone has the number it has there, with
    /// the number of its nest times 256 if that is another one.
    pub number: u16,
    /// The name in drbd.conf.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Whether it holds for one attach or connect only and cannot be changed later (`DRBD_F_INVARIANT`).
    pub once: bool,
    /// Whether DRBD 8.4 has it.
    pub in_84: bool,
    /// Where DRBD 9 has it: the number of the nest and that of the attribute in it (`drbd_genl.h` of drbd-headers); `None` if nowhere.
    pub in_9: Option<(u16, u16)>,
    /// What it takes in DRBD 9, where that is something else.
    pub kind_9: Option<Kind>,
    /// What it does.
    pub doc: &'static str,
}

impl OptionRow {
    /// A row of a nest, with the same number in both generations of DRBD.
    pub(crate) const fn new(
        nest: u16,
        number: u16,
        name: &'static str,
        kind: Kind,
        doc: &'static str,
    ) -> Self {
        Self { number, name, kind, once: false, in_84: true, in_9: Some((nest, number)), kind_9: None, doc }
    }

    /// DRBD 9 has it elsewhere.
    pub(crate) const fn moved(mut self, nest: u16, number: u16) -> Self {
        self.in_9 = Some((nest, number));
        self
    }

    /// DRBD 9 has it no more.
    pub(crate) const fn only_84(mut self) -> Self {
        self.in_9 = None;
        self
    }

    /// DRBD 8.4 does not have it yet.
    pub(crate) const fn only_9(mut self) -> Self {
        self.in_84 = false;
        self
    }

    /// DRBD 9 takes other values.
    pub(crate) const fn with_9(mut self, kind: Kind) -> Self {
        self.kind_9 = Some(kind);
        self
    }

    pub(crate) const fn once(mut self) -> Self {
        self.once = true;
        self
    }

    /// What the option takes, in words: `1 to 300 tenths of a second, default 5`.
    #[must_use]
    pub fn range(&self) -> String {
        let yes = |flag: bool| if flag { "yes" } else { "no" };
        match self.kind {
            Kind::Number { min, max, default, unit } => {
                format!("{min} to {max}{}, default {default}", unit.text())
            }
            Kind::Wide { max, unit } => format!("0 to {max}{}", unit.text()),
            Kind::MinorOrNone => "a minor number, or -1 for none, which is the default".to_owned(),
            Kind::Flag { default } => format!("yes or no, default {}", yes(default)),
            Kind::Choice { words, default } => {
                let all: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                let default = words.iter().find(|(_, n)| *n == default).map_or("none", |(word, _)| *word);
                format!("one of {}, default {default}", all.join(", "))
            }
            Kind::NumberOrWord { min, max, words, default } => {
                let all: Vec<_> = words.iter().map(|(word, _)| *word).collect();
                let default = words.iter().find(|(_, n)| *n == default).map_or("none", |(word, _)| *word);
                format!("{min} to {max}, or one of {}, default {default}", all.join(", "))
            }
            Kind::Text { max } => format!("a text of at most {max} bytes, default empty"),
            Kind::Secret { max } => format!("1 to {max} bytes without NUL"),
        }
    }

    /// What the kernel takes if the option is not given.
    pub(crate) fn default_value(&self) -> Value {
        match self.kind {
            Kind::Number { default, .. } => Value::Number(default),
            Kind::Wide { .. } => Value::Number(0),
            Kind::MinorOrNone => Value::Number(u64::from(u32::MAX)),
            Kind::Flag { default } => Value::Flag(default),
            Kind::Choice { default, .. } | Kind::NumberOrWord { default, .. } => {
                Value::Number(u64::from(default))
            }
            Kind::Text { .. } => Value::Text(String::new()),
            Kind::Secret { .. } => Value::Secret(Secret::from("")),
        }
    }

    /// Reads a value as drbd.conf has it; the error is what the option takes.
    pub(crate) fn parse(&self, text: &str) -> Result<Value, String> {
        let taken = || format!("it takes {}", self.range());
        match self.kind {
            Kind::Number { min, max, unit, .. } => {
                let number = number(text, unit).ok_or_else(taken)?;
                if (min..=max).contains(&number) { Ok(Value::Number(number)) } else { Err(taken()) }
            }
            Kind::Wide { max, unit } => {
                number(text, unit).filter(|n| *n <= max).map(Value::Number).ok_or_else(taken)
            }
            Kind::MinorOrNone if text == "-1" => Ok(self.default_value()),
            Kind::MinorOrNone => {
                text.parse().ok().filter(|n| *n < 1 << 20).map(Value::Number).ok_or_else(taken)
            }
            Kind::Flag { .. } => match text {
                "yes" | "true" | "" => Ok(Value::Flag(true)),
                "no" | "false" => Ok(Value::Flag(false)),
                _ => Err(taken()),
            },
            Kind::Choice { words, .. } => {
                let found = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text));
                found.map(|(_, n)| Value::Number(u64::from(*n))).ok_or_else(taken)
            }
            Kind::NumberOrWord { min, max, words, .. } => {
                let word = words.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, n)| *n);
                let number = || text.parse().ok().filter(|n| (min..=max).contains(n));
                word.or_else(number).map(|n| Value::Number(u64::from(n))).ok_or_else(taken)
            }
            Kind::Text { max } => match text.len() <= max && !text.contains('\0') {
                true => Ok(Value::Text(text.to_owned())),
                false => Err(taken()),
            },
            Kind::Secret { .. } => self.secret(&Secret::from(text)),
        }
    }

    /// Whether DRBD 9 has it in that nest.
    pub(crate) fn is_in_9(&self, nest: u16) -> bool {
        self.in_9.is_some_and(|(place, _)| place == nest)
    }

    /// The option as DRBD 9 has it, if that differs.
    fn nine(&self) -> Option<Self> {
        self.kind_9.map(|kind| Self { kind, kind_9: None, ..*self })
    }

    /// Reads a value that one generation of DRBD or the other takes; the error is what they take.
    pub(crate) fn parse_any(&self, text: &str) -> Result<Value, String> {
        let nine = || self.nine().and_then(|row| row.parse(text).ok());
        self.parse(text).or_else(|taken| nine().ok_or(taken))
    }

    /// Whether DRBD 8.4 takes a value.
    pub(crate) fn takes_84(&self, value: &Value) -> bool {
        self.in_84 && (matches!(value, Value::Secret(_)) || self.parse(&self.print(value)).is_ok())
    }

    /// What both generations take, in words.
    pub(crate) fn range_any(&self) -> String {
        match self.kind_9 {
            Some(kind) => format!("{}; in DRBD 9 {}", self.range(), Self { kind, ..*self }.range()),
            None => self.range(),
        }
    }

    /// Takes a secret.
    pub(crate) fn secret(&self, secret: &Secret) -> Result<Value, String> {
        match self.kind {
            Kind::Secret { max } if (1..=max).contains(&secret.len()) && !secret.expose().contains(&0) => {
                Ok(Value::Secret(secret.share()))
            }
            _ => Err(format!("it takes {}", self.range())),
        }
    }

    /// Prints a value as drbd.conf has it; `***` for a secret.
    pub(crate) fn print(&self, value: &Value) -> String {
        match (value, self.kind) {
            (Value::Number(n), Kind::Choice { words, .. } | Kind::NumberOrWord { words, .. }) => {
                let word = words.iter().find(|(_, number)| u64::from(*number) == *n);
                let nine = || self.nine().map(|row| row.print(value));
                word.map(|(word, _)| (*word).to_owned()).or_else(nine).unwrap_or_else(|| n.to_string())
            }
            (Value::Number(n), Kind::MinorOrNone) if *n == u64::from(u32::MAX) => "-1".to_owned(),
            (Value::Number(n), Kind::Wide { unit, .. } | Kind::Number { unit, .. }) => {
                // A sector count says so: drbd.conf would read a bare number of another option in that option's unit.
                if unit == Unit::Sectors { format!("{n}s") } else { n.to_string() }
            }
            (Value::Number(n), _) => n.to_string(),
            (Value::Flag(flag), _) => if *flag { "yes" } else { "no" }.to_owned(),
            (Value::Text(text), _) => text.clone(),
            (Value::Secret(_), _) => "***".to_owned(),
        }
    }

    /// Appends the option to its nest. Bit 14 makes an old kernel refuse an option it does not know, where it would ignore it.
    pub(crate) fn encode(&self, value: &Value, message: Message) -> Message {
        self.encode_as(self.number | MANDATORY, value, message)
    }

    fn encode_as(&self, kind: u16, value: &Value, message: Message) -> Message {
        match (value, self.kind) {
            (Value::Number(n), Kind::Wide { .. }) => message.with_u64(kind, *n),
            // Range-checked on the way in; what came from the kernel fits as it came.
            (Value::Number(n), _) => message.with_u32(kind, u32::try_from(*n).unwrap_or(u32::MAX)),
            (Value::Flag(flag), _) => message.with_u8(kind, u8::from(*flag)),
            (Value::Text(text), _) => message.with_str(kind, text),
            (Value::Secret(secret), _) => {
                let mut bytes = secret.expose().to_vec();
                bytes.push(0);
                message.with(kind, &bytes)
            }
        }
    }

    /// Appends the option to its nest of DRBD 9, with bit 14 where drbdsetup sets it.
    pub(crate) fn encode_9(&self, value: &Value, message: Message) -> Message {
        let Some((nest, number)) = self.in_9 else { return message };
        // The attributes that came with 9 (and the last ones of 8.4) are not mandatory in drbd-headers.
        let is_mandatory = match nest {
            3 => number <= 22,
            4 => number <= 7,
            5 => number <= 31,
            27 => number <= 6,
            29 => true,
            _ => false,
        };
        let row = Self { number, kind: self.kind_9.unwrap_or(self.kind), ..*self };
        row.encode_as(number | if is_mandatory { MANDATORY } else { 0 }, value, message)
    }

    /// Reads the option from its nest; `None` if the payload is too short for its kind.
    pub(crate) fn decode(&self, attribute: &Attribute<'_>) -> Option<Value> {
        match self.kind {
            Kind::Number { .. } | Kind::Choice { .. } | Kind::NumberOrWord { .. } | Kind::MinorOrNone => {
                attribute.u32().map(|n| Value::Number(u64::from(n)))
            }
            Kind::Wide { .. } => attribute.u64().map(Value::Number),
            Kind::Flag { .. } => attribute.u8().map(|n| Value::Flag(n != 0)),
            Kind::Text { .. } => {
                let bytes = until_nul(attribute.payload);
                Some(Value::Text(String::from_utf8_lossy(bytes).into_owned()))
            }
            Kind::Secret { .. } => Some(Value::Secret(Secret::new(until_nul(attribute.payload).to_vec()))),
        }
    }
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

/// Reads a number with drbd.conf's suffixes into units; a size that is no whole number of units is rounded up.
fn number(text: &str, unit: Unit) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let shift = match suffix {
        "" => unit.shift(),
        "s" => 9,
        "k" | "K" => 10,
        "m" | "M" => 20,
        "g" | "G" => 30,
        _ => return None,
    };
    match shift.checked_sub(unit.shift()) {
        Some(up) => number.checked_mul(1 << up),
        None => Some(number.div_ceil(1 << (unit.shift() - shift))),
    }
}

/// A value of an option.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Number(u64),
    Flag(bool),
    Text(String),
    Secret(Secret),
}

impl Clone for Value {
    fn clone(&self) -> Self {
        match self {
            Self::Number(n) => Self::Number(*n),
            Self::Flag(flag) => Self::Flag(*flag),
            Self::Text(text) => Self::Text(text.clone()),
            Self::Secret(secret) => Self::Secret(secret.share()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_those_of_drbd_conf() {
        for (text, unit, expected) in [
            ("20M", Unit::KibPerSecond, Some(20 * 1024)),
            ("250", Unit::KibPerSecond, Some(250)),
            ("3s", Unit::KibPerSecond, Some(2)),
            ("1M", Unit::Sectors, Some(2048)),
            ("100", Unit::Sectors, Some(100)),
            ("1024k", Unit::Bytes, Some(1 << 20)),
            ("8s", Unit::Bytes, Some(4096)),
            ("8K", Unit::One, Some(8192)),
            ("99999999999G", Unit::Bytes, None),
            ("", Unit::One, None),
            ("1.5M", Unit::One, None),
            ("-1", Unit::One, None),
        ] {
            assert_eq!(number(text, unit), expected, "{text}");
        }
    }
}
