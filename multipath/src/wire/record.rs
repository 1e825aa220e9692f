//! open-iscsi's records: `key = value` lines (open-iscsi 2.1.8, `usr/idbm.c`, `idbm_recinfo_config`). What is not changed stays byte for byte.

use std::collections::BTreeMap;
use std::fmt;

use host::Secret;

/// The line by which a record of ours is known. open-iscsi passes over comments, and writes none: who changes a record makes it theirs.
const MARK: &str = "# Written by sankit.";

/// What a key is to be.
#[derive(Debug)]
pub(crate) enum Value<'a> {
    /// This text.
    Text(String),
    /// This secret.
    Hidden(&'a Secret),
    /// Not there: open-iscsi's built-in default.
    Absent,
}

impl Value<'_> {
    pub(crate) fn text(text: impl ToString) -> Self {
        Self::Text(text.to_string())
    }

    fn bytes(&self) -> Option<&[u8]> {
        match self {
            Self::Text(text) => Some(text.as_bytes()),
            Self::Hidden(secret) => Some(secret.expose()),
            Self::Absent => None,
        }
    }
}

/// A record, which may hold secrets.
pub(crate) struct Record(Secret);

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Record").field(&self.values()).finish()
    }
}

fn is_secret(key: &str) -> bool {
    key.contains("password") || key.contains("secret")
}

/// A line's key and value, as open-iscsi reads them. `None` for comments and what it passes over.
fn pair(line: &[u8]) -> Option<(&str, &[u8])> {
    let line = line.trim_ascii();
    if line.starts_with(b"#") {
        return None;
    }
    let at = line.iter().position(|b| *b == b'=' || b.is_ascii_whitespace())?;
    let (key, rest) = line.split_at_checked(at)?;
    let value = rest.trim_ascii_start().strip_prefix(b"=")?.trim_ascii();
    let key = std::str::from_utf8(key).ok().filter(|key| !key.is_empty())?;
    (!value.is_empty()).then_some((key, value))
}

impl Record {
    /// Takes over a file's bytes; any bytes are a record.
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(Secret::new(bytes))
    }

    /// A record of ours with nothing in it.
    pub(crate) fn ours() -> Self {
        Self::new(format!("# BEGIN RECORD\n{MARK}\n# END RECORD\n").into_bytes())
    }

    /// All of it, for the one call that writes it.
    pub(crate) fn expose(&self) -> &[u8] {
        self.0.expose()
    }

    fn lines(&self) -> impl Iterator<Item = &[u8]> {
        self.expose().split_inclusive(|b| *b == b'\n')
    }

    /// Whether we wrote it, and nobody else since.
    pub(crate) fn is_ours(&self) -> bool {
        self.lines().any(|line| line.trim_ascii() == MARK.as_bytes())
    }

    /// A key's value; of a key given twice the last counts. Secrets are never told.
    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        if is_secret(key) {
            return None;
        }
        let values = self.lines().filter_map(pair).filter(|(k, _)| *k == key);
        values.last().and_then(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// All values but the secrets, which are `***`.
    pub(crate) fn values(&self) -> BTreeMap<String, String> {
        let shown = |(key, value): (&str, &[u8])| {
            let value = if is_secret(key) { "***".into() } else { String::from_utf8_lossy(value) };
            (key.to_owned(), value.into_owned())
        };
        self.lines().filter_map(pair).map(shown).collect()
    }

    /// The record with these keys changed: in the line where they stand, or else before the end mark.
    pub(crate) fn with(&self, changes: &[(&str, Value<'_>)]) -> Self {
        let room = self.0.len()
            + changes.iter().map(|(k, v)| k.len() + v.bytes().map_or(0, <[u8]>::len) + 4).sum::<usize>();
        // One allocation: a vector that grows leaves copies of secrets behind.
        let mut out = Vec::with_capacity(room * 2 + 64);
        let push = |out: &mut Vec<u8>, key: &str, value: &Value<'_>| {
            if let Some(value) = value.bytes() {
                [key.as_bytes(), b" = ", value, b"\n"].iter().for_each(|part| out.extend_from_slice(part));
            }
        };
        let mut done = vec![false; changes.len()];
        let rest = |out: &mut Vec<u8>, done: &mut Vec<bool>| {
            for ((key, value), done) in changes.iter().zip(done).filter(|(_, done)| !**done) {
                push(out, key, value);
                *done = true;
            }
        };
        for line in self.lines() {
            let known =
                pair(line).and_then(|(key, _)| changes.iter().zip(&mut done).find(|((k, _), _)| *k == key));
            match known {
                Some(((key, value), done)) => {
                    // A second line of the same key would win over the first.
                    push(&mut out, key, value);
                    *done = true;
                }
                None => {
                    if line.starts_with(b"# END RECORD") {
                        rest(&mut out, &mut done);
                    }
                    out.extend_from_slice(line);
                    if !line.ends_with(b"\n") {
                        out.push(b'\n');
                    }
                }
            }
        }
        rest(&mut out, &mut done);
        Self::new(out)
    }

    /// The record with the lines of another file that begin with one of these words and are not in it yet: the defaults of `iscsid.conf`.
    pub(crate) fn with_defaults(&self, other: &Self, begins: &[&str]) -> Self {
        let mut defaults: Vec<(&str, Value<'_>)> = Vec::new();
        let hidden: Vec<(&str, Secret)> = other
            .lines()
            .filter_map(pair)
            .filter(|(key, _)| begins.iter().any(|begin| key.starts_with(begin)))
            .filter(|(key, _)| !self.lines().filter_map(pair).any(|(k, _)| k == *key))
            .map(|(key, value)| (key, Secret::new(value.to_vec())))
            .collect();
        for (key, value) in &hidden {
            defaults.retain(|(k, _)| k != key);
            defaults.push((key, Value::Hidden(value)));
        }
        self.with(&defaults)
    }

    pub(crate) fn same_as(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(text: &str) -> Record {
        Record::new(text.as_bytes().to_vec())
    }

    fn text(record: &Record) -> String {
        String::from_utf8_lossy(record.expose()).into_owned()
    }

    #[test]
    fn known_keys_change_and_the_rest_stays() {
        let before = record(
            "# BEGIN RECORD 2.1.8\nnode.name = iqn.a\nnode.startup = manual\nodd line\n\tnode.tpgt=1\n# END RECORD\n",
        );
        let secret = Secret::from("hunter2 and more");
        let after = before.with(&[
            ("node.startup", Value::text("automatic")),
            ("node.session.auth.password", Value::Hidden(&secret)),
            ("node.tpgt", Value::Absent),
        ]);
        assert_eq!(
            text(&after),
            "# BEGIN RECORD 2.1.8\nnode.name = iqn.a\nnode.startup = automatic\nodd line\nnode.session.auth.password = hunter2 and more\n# END RECORD\n"
        );
        assert!(!after.is_ours() && !format!("{after:?}").contains("hunter2"));
        assert_eq!(after.get("node.session.auth.password"), None, "secrets are not told");
        assert!(before.with(&[]).same_as(&before));
    }

    #[test]
    fn a_key_given_twice_changes_twice() {
        let after = record("a = 1\na = 2").with(&[("a", Value::text(3))]);
        assert_eq!((text(&after).as_str(), after.get("a")), ("a = 3\na = 3\n", Some("3")));
    }

    #[test]
    fn what_we_wrote_is_known_and_takes_defaults_of_the_configuration() {
        let conf = record(
            "# node.startup = x\nnode.startup = automatic\nnode.session.queue_depth = 64\niscsid.startup = y\n",
        );
        let ours =
            Record::ours().with(&[("node.startup", Value::text("manual"))]).with_defaults(&conf, &["node."]);
        assert!(ours.is_ours());
        let values = ours.values();
        assert_eq!(values.get("node.startup").map(String::as_str), Some("manual"));
        assert_eq!(values.get("node.session.queue_depth").map(String::as_str), Some("64"));
        assert_eq!(values.len(), 2);
    }

    proptest! {
        #[test]
        fn any_bytes_are_kept(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let record = Record::new(bytes.clone());
            let mut kept = record.with(&[]).expose().to_vec();
            if !bytes.ends_with(b"\n") && !bytes.is_empty() {
                prop_assert_eq!(kept.pop(), Some(b'\n'));
            }
            prop_assert_eq!(kept, bytes);
        }

        #[test]
        fn what_is_set_is_read(key in "[a-z.]{1,20}", value in "[!-~]{1,30}", noise in "[a-z =\n#]{0,80}") {
            let key = format!("node.{key}");
            let after = record(&noise).with(&[(&key, Value::text(&value))]);
            prop_assert!(is_secret(&key) || after.get(&key) == Some(value.as_str()));
        }
    }
}
