//! The syntax of drbd.conf: statements of words, each ended by `;` or by a block of statements. Nothing is lost: the text stays, and
//! what is found are places in it.
//!
//! The words are those of drbd-utils' scanner (`user/v9/drbdadm_scanner.fl`); `[`, `]` and `:` are taken as parts of words, so that
//! `/dev/sdb[0]` and `[fe80::1%eth0]:7789` are one. Which words may stand where is in [`conf`](crate::conf).

use std::borrow::Cow;

use host::ParseError;

/// A part of the text, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) start: u32,
    pub(crate) end: u32,
}

impl Span {
    pub(crate) fn of(self, text: &str) -> &str {
        let at = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        text.get(at(self.start)..at(self.end)).unwrap_or_default()
    }
}

/// A statement. The statements of a text are one list, each followed by those of its block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Node {
    /// Its words in the list of words.
    first_word: u32,
    end_word: u32,
    /// Where in the list the statement behind it and its block stands.
    next: u32,
    /// From the first word to the closing `;` or `}`.
    span: Span,
    line: u32,
    has_block: bool,
}

/// A text taken apart.
///
/// Not `Debug`: secrets may be in it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Syntax {
    text: String,
    words: Vec<Span>,
    nodes: Vec<Node>,
}

/// The longest word without and with quotes.
const WORD: usize = 128;
const QUOTED: usize = 255;
/// Deeper blocks exist in no configuration; the reader's recursion ends here.
const DEPTH: usize = 16;

struct Reader<'a> {
    file: &'a str,
    text: &'a str,
    at: usize,
    /// Where the last token began, for errors.
    begin: usize,
    line: u32,
    line_start: usize,
    out: Syntax,
}

enum Token {
    Word(Span),
    Open,
    Close,
    Semicolon,
    End,
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'_' | b'-' | b':' | b'[' | b']' | b'%')
}

fn number(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

impl Reader<'_> {
    fn wrong(&self, found: &str, reason: &str) -> ParseError {
        let column = self.begin.saturating_sub(self.line_start) + 1;
        let place = format!("{}:{}:{column}: {reason}", self.file, self.line);
        let found: String = found.chars().take(40).collect();
        ParseError::new("drbd.conf", found, place)
    }

    fn token(&mut self) -> Result<Token, ParseError> {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            self.begin = self.at;
            match byte {
                b'\n' => {
                    self.line += 1;
                    self.line_start = self.at + 1;
                }
                b' ' | b'\t' | b'\r' => {}
                b'#' => {
                    let rest = bytes.get(self.at..).unwrap_or_default();
                    self.at += rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len());
                    continue;
                }
                b'{' | b'}' | b';' => {
                    self.at += 1;
                    return Ok(match byte {
                        b'{' => Token::Open,
                        b'}' => Token::Close,
                        _ => Token::Semicolon,
                    });
                }
                b'"' => return self.quoted(),
                byte if is_word(byte) => {
                    let start = self.at;
                    let rest = bytes.get(start..).unwrap_or_default();
                    self.at += rest.iter().position(|b| !is_word(*b)).unwrap_or(rest.len());
                    if self.at - start > WORD {
                        self.at = start;
                        return Err(self.wrong(
                            self.text.get(start..).unwrap_or_default(),
                            "a word of more than 128 bytes; quote it",
                        ));
                    }
                    return Ok(Token::Word(Span { start: number(start), end: number(self.at) }));
                }
                _ => {
                    let found = self.text.get(self.at..).and_then(|rest| rest.chars().next()).unwrap_or('?');
                    return Err(self.wrong(
                        &found.to_string(),
                        "a word, ';', '{' or '}' expected; quote other characters",
                    ));
                }
            }
            self.at += 1;
        }
        self.begin = self.at;
        Ok(Token::End)
    }

    fn quoted(&mut self) -> Result<Token, ParseError> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        let mut at = start + 1;
        loop {
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') if bytes.get(at + 1).is_some_and(|b| *b != b'\n') => at += 2,
                None | Some(b'\n' | b'\\') => {
                    return Err(self.wrong("\"", "a text in quotes ends on its line"));
                }
                Some(_) => at += 1,
            }
        }
        if at - start - 1 > QUOTED {
            return Err(self.wrong("\"", "a text in quotes of more than 255 bytes"));
        }
        self.at = at + 1;
        Ok(Token::Word(Span { start: number(start), end: number(self.at) }))
    }

    /// Reads statements up to the end of their block.
    fn statements(&mut self, depth: usize) -> Result<(), ParseError> {
        loop {
            let first_word = number(self.out.words.len());
            let (mut start, mut line) = (0, 0);
            let place = self.out.nodes.len();
            let node = loop {
                let has_words = number(self.out.words.len()) > first_word;
                match self.token()? {
                    Token::Word(span) => {
                        if !has_words {
                            (start, line) = (span.start, self.line);
                        }
                        self.out.words.push(span);
                    }
                    Token::Semicolon if has_words => break self.node(first_word, start, line, false),
                    // drbdadm takes no stray ';' either.
                    Token::Semicolon => return Err(self.wrong(";", "a statement expected before ';'")),
                    Token::Open if has_words && depth < DEPTH => {
                        let node = self.node(first_word, start, line, true);
                        self.out.nodes.push(node);
                        self.statements(depth + 1)?;
                        let next = number(self.out.nodes.len());
                        break Node { next, span: Span { start, end: number(self.at) }, ..node };
                    }
                    Token::Open if has_words => return Err(self.wrong("{", "blocks nested too deep")),
                    Token::Open => return Err(self.wrong("{", "a word expected before '{'")),
                    Token::Close if has_words => return Err(self.wrong("}", "';' expected before '}'")),
                    Token::Close if depth > 0 => return Ok(()),
                    Token::Close => return Err(self.wrong("}", "it closes no block")),
                    Token::End if has_words => {
                        return Err(self.wrong("", "';' or '{' expected before the end of the file"));
                    }
                    Token::End if depth > 0 => {
                        return Err(self.wrong("", "'}' expected before the end of the file"));
                    }
                    Token::End => return Ok(()),
                }
            };
            match self.out.nodes.get_mut(place) {
                Some(begun) => *begun = node,
                None => self.out.nodes.push(Node { next: number(place) + 1, ..node }),
            }
        }
    }

    fn node(&self, first_word: u32, start: u32, line: u32, has_block: bool) -> Node {
        let end_word = number(self.out.words.len());
        Node { first_word, end_word, next: 0, span: Span { start, end: number(self.at) }, line, has_block }
    }
}

impl Syntax {
    /// Takes a text apart. `file` is for the error.
    pub(crate) fn parse(file: &str, text: String) -> Result<Self, ParseError> {
        if text.len() > 64 << 20 {
            return Err(ParseError::new("drbd.conf", file, "it is larger than 64 MiB"));
        }
        let out = Self {
            text: String::new(),
            words: Vec::with_capacity(text.len() / 8),
            nodes: Vec::with_capacity(text.len() / 20),
        };
        let mut reader = Reader { file, text: &text, at: 0, begin: 0, line: 1, line_start: 0, out };
        reader.statements(0)?;
        let mut out = reader.out;
        out.text = text;
        Ok(out)
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The outermost statements.
    pub(crate) fn statements(&self) -> Statements<'_> {
        Statements { syntax: self, at: 0, end: number(self.nodes.len()) }
    }

    /// The column of a place, from 1.
    pub(crate) fn column(&self, at: u32) -> u32 {
        let before = Span { start: 0, end: at }.of(&self.text);
        number(before.len() - before.rfind('\n').map_or(0, |newline| newline + 1)) + 1
    }
}

/// Statements one after the other.
#[derive(Clone)]
pub(crate) struct Statements<'a> {
    syntax: &'a Syntax,
    at: u32,
    end: u32,
}

impl<'a> Iterator for Statements<'a> {
    type Item = Statement<'a>;

    fn next(&mut self) -> Option<Statement<'a>> {
        if self.at >= self.end {
            return None;
        }
        let node = self.syntax.nodes.get(usize::try_from(self.at).ok()?)?;
        let statement = Statement { syntax: self.syntax, node, index: self.at };
        self.at = node.next;
        Some(statement)
    }
}

/// One statement.
#[derive(Clone, Copy)]
pub(crate) struct Statement<'a> {
    syntax: &'a Syntax,
    node: &'a Node,
    index: u32,
}

impl<'a> Statement<'a> {
    fn spans(&self) -> &'a [Span] {
        let at = |n: u32| usize::try_from(n).unwrap_or(usize::MAX);
        self.syntax.words.get(at(self.node.first_word)..at(self.node.end_word)).unwrap_or_default()
    }

    /// The n-th word as it stands there, with its quotes.
    pub(crate) fn raw(&self, n: usize) -> Option<&'a str> {
        self.spans().get(n).map(|span| span.of(&self.syntax.text))
    }

    /// Where the n-th word stands; the statement's beginning if there is none.
    pub(crate) fn span(&self, n: usize) -> Span {
        self.spans().get(n).copied().unwrap_or(Span { end: self.node.span.start, ..self.node.span })
    }

    /// From its first word to its closing `;` or `}`.
    pub(crate) fn whole(&self) -> Span {
        self.node.span
    }

    /// The first word if it is not quoted: a keyword or an option's name.
    pub(crate) fn keyword(&self) -> &'a str {
        self.raw(0).filter(|word| !word.starts_with('"')).unwrap_or_default()
    }

    /// The n-th word, without quotes and their escapes.
    pub(crate) fn word(&self, n: usize) -> Option<Cow<'a, str>> {
        self.raw(n).map(unquoted)
    }

    /// How many words it has.
    pub(crate) fn len(&self) -> usize {
        self.spans().len()
    }

    /// The words from the n-th on.
    pub(crate) fn words(&self, from: usize) -> impl Iterator<Item = Cow<'a, str>> + use<'a> {
        let text = &self.syntax.text;
        self.spans().iter().skip(from).map(|span| unquoted(span.of(text)))
    }

    pub(crate) fn has_block(&self) -> bool {
        self.node.has_block
    }

    /// The statements of its block.
    pub(crate) fn block(&self) -> Statements<'a> {
        let at = if self.node.has_block { self.index + 1 } else { self.node.next };
        Statements { syntax: self.syntax, at, end: self.node.next }
    }

    /// The first statement in its block that begins with a keyword.
    pub(crate) fn find(&self, keyword: &str) -> Option<Self> {
        self.block().find(|statement| statement.keyword() == keyword)
    }

    pub(crate) fn line(&self) -> u32 {
        self.node.line
    }
}

fn unquoted(word: &str) -> Cow<'_, str> {
    let Some(inner) = word.strip_prefix('"').and_then(|word| word.strip_suffix('"')) else {
        return Cow::Borrowed(word);
    };
    if !inner.contains('\\') {
        return Cow::Borrowed(inner);
    }
    let mut out = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        out.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    Cow::Owned(out)
}

/// A text as one word: as it is where it may stand so, else in quotes. `None` if no quotes help: it is too long or has a line break.
pub(crate) fn quoted(text: &str) -> Option<String> {
    if !text.is_empty() && text.len() <= WORD && text.bytes().all(is_word) {
        return Some(text.to_owned());
    }
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    (escaped.len() <= QUOTED && !text.contains('\n')).then(|| format!("\"{escaped}\""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn outline(statements: Statements<'_>) -> String {
        let parts = statements.map(|s| {
            let words: Vec<_> = s.words(0).collect();
            let block = if s.has_block() { format!("{{{}}}", outline(s.block())) } else { ";".to_owned() };
            format!("{}{block}", words.join(" "))
        });
        parts.collect::<Vec<_>>().join("")
    }

    #[test]
    fn statements_and_blocks_are_found() {
        let text = "# head\nglobal{usage-count no;}\ncommon { net { shared-secret \"a \\\"b\\\" #c\"; use-rle; } }\n\
            resource r0 { on a b { address ipv6 [fe80::1%eth0]:7789; disk /dev/x [0]; } } # end";
        let syntax = Syntax::parse("x", text.to_owned()).expect("reads");
        assert_eq!(
            outline(syntax.statements()),
            "global{usage-count no;}common{net{shared-secret a \"b\" #c;use-rle;}}\
             resource r0{on a b{address ipv6 [fe80::1%eth0]:7789;disk /dev/x [0];}}"
        );
        let resource = syntax.statements().nth(2).expect("three");
        assert_eq!((resource.line(), syntax.column(resource.span(1).start)), (4, 10));
        assert_eq!(resource.find("on").expect("one").line(), 4);
    }

    #[test]
    fn mistakes_are_told_with_their_place() {
        for (text, expected) in [
            ("a { b; ", "f:1:8: '}' expected"),
            ("a { b }", "';' expected before '}'"),
            ("a {\n }}", "f:2:3: it closes no block"),
            ("a \"b\nc\";", "f:1:3: a text in quotes"),
            ("a é;", "f:1:3: a word"),
            (";", "a statement expected"),
            ("{}", "a word expected"),
        ] {
            let error = Syntax::parse("f", text.to_owned()).err().expect(text).to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let deep = "a{".repeat(1000);
        assert!(Syntax::parse("f", deep).err().expect("deep").to_string().contains("too deep"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text: String) {
            let _ = Syntax::parse("f", text);
        }

        #[test]
        fn words_survive_quoting(text in "[ -~]{0,100}") {
            let word = quoted(&text).expect("short");
            let syntax = Syntax::parse("f", format!("a {word};")).expect("reads");
            let back = syntax.statements().next().and_then(|s| s.word(1)).expect("a word");
            prop_assert_eq!(&*back, text.as_str());
        }
    }
}
