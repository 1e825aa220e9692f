//! What the tests of the node share: its file, and secrets to read it with.
#![allow(dead_code)] // Each test file uses a part.

use std::fs;

use tempfile::TempDir;

/// The files with secrets, and what is in them.
pub(crate) const SECRETS: [(&str, &str); 3] = [
    ("san", "written on the inside of the skull"),
    ("drbd", "a replication secret"),
    ("chap", "a chap secret of the test"),
];

/// A directory of secrets that goes away with it.
pub(crate) struct Keys(TempDir);

impl Keys {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory for secrets");
        SECRETS.iter().fold(Self(dir), |keys, (name, secret)| keys.with(name, secret))
    }

    /// Another secret.
    pub(crate) fn with(self, name: &str, secret: &str) -> Self {
        fs::write(self.0.path().join(name), secret).expect("a secret is written");
        self
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }
}

/// The file of a node with everything, its secrets in place.
pub(crate) fn article(keys: &Keys) -> String {
    include_str!("../fixtures/node.toml").replace("/run/keys", &keys.0.path().display().to_string())
}
