//! The grammar of `scst.conf` (scstadmin): blocks in braces, `key value` lines, comments with `#`, values in quotes where they have blanks.

use host::ParseError;

/// A block: `KIND NAME {`, or a line without braces.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Block {
    /// The words of the line that begins it: `TARGET`, `iqn...`; or `filename`, `/dev/drbd0`.
    pub words: Vec<String>,
    /// What is in its braces.
    pub inner: Vec<Self>,
}

impl Block {
    /// The first word.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.words.first().map_or("", String::as_str)
    }

    /// The second word.
    #[must_use]
    pub fn name(&self) -> &str {
        self.words.get(1).map_or("", String::as_str)
    }

    /// The value of a key: the rest of its line.
    #[must_use]
    pub fn value(&self, key: &str) -> Option<String> {
        let line = self.inner.iter().find(|line| line.kind() == key)?;
        Some(line.words.get(1..).unwrap_or_default().join(" "))
    }

    /// The blocks of a kind.
    pub fn of<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Self> + 'a {
        self.inner.iter().filter(move |block| block.kind() == kind)
    }
}

/// Reads the text into one block without a name.
///
/// # Errors
/// A brace or a quote without its other one; the line is named.
pub fn parse(text: &str) -> Result<Block, ParseError> {
    let mut open = vec![Block::default()];
    for (number, line) in text.lines().enumerate() {
        // With the number instead of the text: it may be a password.
        let bad = |reason: &str| ParseError::new("scst.conf", format!("line {}", number + 1), reason);
        let mut words = words(line).ok_or_else(|| bad("a quote that does not end"))?;
        while !words.is_empty() {
            let brace = words.iter().position(|(word, quoted)| !quoted && (word == "{" || word == "}"));
            let rest = words.split_off(brace.map_or(words.len(), |at| at));
            let block = Block { words: words.into_iter().map(|(word, _)| word).collect(), inner: Vec::new() };
            let opens = rest.first().is_some_and(|(word, _)| word == "{");
            match (opens, open.last_mut()) {
                (true, _) => open.push(block),
                (false, Some(last)) if !block.words.is_empty() => last.inner.push(block),
                _ => {}
            }
            if rest.first().is_some_and(|(word, _)| word == "}") {
                let done = open.pop().unwrap_or_default();
                open.last_mut().ok_or_else(|| bad("a closing brace too many"))?.inner.push(done);
            }
            words = rest.into_iter().skip(1).collect();
        }
    }
    match (open.pop(), open.len()) {
        (Some(all), 0) => Ok(all),
        (Some(block), _) => Err(ParseError::new("scst.conf", block.kind(), "its closing brace is missing")),
        (None, _) => Ok(Block::default()),
    }
}

/// The words of a line, and whether each was quoted; `None` for a quote that does not end.
fn words(line: &str) -> Option<Vec<(String, bool)>> {
    let mut found = Vec::new();
    let mut rest = line.trim_start();
    while let Some(first) = rest.chars().next() {
        match first {
            '#' => break,
            '"' => {
                let (word, after) = rest.get(1..)?.split_once('"')?;
                found.push((word.to_owned(), true));
                rest = after.trim_start();
            }
            '{' | '}' => {
                found.push((first.to_string(), false));
                rest = rest.get(1..)?.trim_start();
            }
            _ => {
                let end = rest.find(|c: char| c.is_whitespace() || "{}\"".contains(c)).unwrap_or(rest.len());
                found.push((rest.get(..end)?.to_owned(), false));
                rest = rest.get(end..)?.trim_start();
            }
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_lines_quotes_and_comments() {
        let text = "# made by scstadmin\nHANDLER vdisk_blockio {\n  DEVICE d0 {\n\tfilename \"/dev/a b\" # here\n  }\n DEVICE d1 { blocksize 512 }\n}\nsetup_id 0x1\n";
        let all = parse(text).expect("it is well formed");
        let handler = all.of("HANDLER").next().expect("one");
        assert_eq!(handler.name(), "vdisk_blockio");
        let names: Vec<_> =
            handler.of("DEVICE").map(|device| (device.name(), device.value("filename"))).collect();
        assert_eq!(names, [("d0", Some("/dev/a b".to_owned())), ("d1", None)]);
        assert_eq!(all.value("setup_id").as_deref(), Some("0x1"));
    }

    #[test]
    fn what_does_not_end_is_named_without_its_text() {
        for (text, words) in [("A {\n", "missing"), ("A }\n", "too many"), ("A \"secret\nB", "line 1")] {
            let error = parse(text).expect_err(words).to_string();
            assert!(error.contains(words) && !error.contains("secret"), "{error}");
        }
    }
}
