//! Metadata as text, in the format of `drbdmeta dump-md` and `restore-md`: keywords, numbers and blocks, comments from `#` on.
//!
//! The bitmap is a list of 64-bit words for each peer. A run of at least eight equal words whose halves are equal too is written as
//! `N times 0x...;`, N being a multiple of four.

use std::collections::BTreeSet;
use std::io::{self, Write};

use host::{ParseError, Sectors};

use super::superblock::{Format, Metadata, MetadataFlags, PeerMetadata, SLOTS};

/// Words on a line.
const LINE: usize = 4;

/// Writes the text but for the bitmaps. `offsets` are those of superblock, log and bitmap in bytes, for the comments.
pub(crate) fn head(
    m: &Metadata,
    offsets: [u64; 3],
    bitmap_bytes: u64,
    out: &mut dyn Write,
) -> io::Result<()> {
    writeln!(out, "# DRBD meta data dump\n#\n\nversion \"{}\";\n", m.format)?;
    if m.format == Format::V09 {
        writeln!(out, "max-peers {};", m.max_peers)?;
    }
    let [superblock, log, bitmap] = offsets;
    writeln!(
        out,
        "# md_size_sect {}\n# md_offset {superblock}\n# al_offset {log}\n# bm_offset {bitmap}\n",
        m.md_sectors
    )?;
    match m.format {
        Format::V08 => {
            let uuids = [m.current_uuid, m.peers.first().map_or(0, |peer| peer.bitmap_uuid)];
            let uuids = uuids.iter().chain(&m.history).map(|uuid| format!("0x{uuid:016X};"));
            writeln!(out, "uuid {{\n    {}", uuids.collect::<Vec<_>>().join(" "))?;
            writeln!(out, "    flags 0x{:08X};\n}}", m.flags.0)?;
        }
        Format::V09 => {
            writeln!(
                out,
                "node-id {};\ncurrent-uuid 0x{:016X};\nflags 0x{:08X};",
                m.node_id, m.current_uuid, m.flags.0
            )?;
            for (number, peer) in m.peers.iter().enumerate() {
                writeln!(out, "peer[{number}] {{\n    bitmap-index {};", peer.bitmap_index)?;
                writeln!(
                    out,
                    "    bitmap-uuid 0x{:016X};\n    bitmap-dagtag 0x{:016X};",
                    peer.bitmap_uuid, peer.dagtag
                )?;
                writeln!(out, "    flags 0x{:08X};\n}}", peer.flags)?;
            }
            write!(out, "history-uuids {{")?;
            for (number, uuid) in m.history.iter().enumerate() {
                write!(out, "{}0x{uuid:016X};", if number % LINE == 0 { "\n        " } else { " " })?;
            }
            writeln!(out, "\n}}")?;
        }
    }
    writeln!(
        out,
        "# al-extents {};\nla-size-sect {};\nbm-byte-per-bit {};",
        m.log_extents, m.size.0, m.bytes_per_bit
    )?;
    writeln!(out, "device-uuid 0x{:016X};\nla-peer-max-bio-size {};", m.device_uuid, m.peer_max_bio_size)?;
    writeln!(
        out,
        "al-stripes {};\nal-stripe-size-4k {};\n# bm-bytes {bitmap_bytes};",
        m.stripes, m.stripe_pages
    )
}

/// Writes the bitmap of one peer; returns how many bits are set.
pub(crate) fn bitmap(
    format: Format,
    peer: usize,
    peers: usize,
    words: &[u64],
    out: &mut dyn Write,
) -> io::Result<u64> {
    match format {
        Format::V08 => write!(out, "bm {{")?,
        Format::V09 => write!(out, "bitmap[{peer}] {{")?,
    }
    let mut at = 0;
    while let Some(first) = words.get(at) {
        // drbdmeta's own comment: it counts halves of words over all peers.
        let half = 2 * at * peers;
        if half.is_multiple_of(64) {
            write!(out, "\n   # at {}kB", 128 * half)?;
        }
        write!(out, "\n   ")?;
        let equal = words.iter().skip(at).take_while(|word| *word == first).count() / LINE * LINE;
        let run = if first >> 32 == first & 0xffff_ffff && equal > LINE { equal } else { 0 };
        if run > 0 {
            write!(out, " {run} times 0x{first:016X};")?;
        } else {
            for word in words.iter().skip(at).take(LINE) {
                write!(out, " 0x{word:016X};")?;
            }
        }
        at += run.max(LINE);
    }
    writeln!(out, "\n}}")?;
    Ok(words.iter().map(|word| u64::from(word.count_ones())).sum())
}

/// A run of equal words of a peer's bitmap.
pub(crate) type Run = (u64, u64);

/// What a text says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dump {
    /// Without places, which follow from the disk.
    pub(crate) metadata: Metadata,
    /// The bitmaps of the peers: how often each word.
    pub(crate) bitmaps: Vec<Vec<Run>>,
}

/// The words of a text.
struct Words<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Words<'a> {
    fn skip(&mut self) {
        loop {
            let trimmed = self.rest.trim_start();
            self.line +=
                self.rest.get(..self.rest.len() - trimmed.len()).unwrap_or_default().matches('\n').count();
            self.rest = trimmed;
            if !self.rest.starts_with('#') {
                return;
            }
            self.rest = self.rest.find('\n').and_then(|end| self.rest.get(end..)).unwrap_or_default();
        }
    }

    fn next(&mut self) -> &'a str {
        self.skip();
        let is_word = |c: char| c.is_ascii_alphanumeric() || "-_\"".contains(c);
        let length = match self.rest.find(|c| !is_word(c)) {
            Some(0) => self.rest.chars().next().map_or(0, char::len_utf8),
            Some(length) => length,
            None => self.rest.len(),
        };
        let (word, rest) = self.rest.split_at_checked(length).unwrap_or((self.rest, ""));
        self.rest = rest;
        word
    }

    fn wrong(&self, found: &str, expected: &str) -> ParseError {
        ParseError::new("dump of DRBD's metadata", found, format!("line {}: {expected} expected", self.line))
    }

    fn expect(&mut self, words: &[&str]) -> Result<(), ParseError> {
        words.iter().try_for_each(|expected| match self.next() {
            found if found == *expected => Ok(()),
            found => Err(self.wrong(found, expected)),
        })
    }

    fn number<T: TryFrom<i128>>(&mut self) -> Result<T, ParseError> {
        let found = self.next();
        let parsed = found.parse::<i128>().ok().and_then(|n| T::try_from(n).ok());
        parsed.ok_or_else(|| self.wrong(found, "a number in range"))
    }

    fn hex(&mut self, digits: usize) -> Result<u64, ParseError> {
        let found = self.next();
        let parsed = found.strip_prefix("0x").filter(|hex| hex.len() == digits);
        let parsed = parsed.and_then(|hex| u64::from_str_radix(hex, 16).ok());
        parsed.ok_or_else(|| self.wrong(found, &format!("0x and {digits} digits")))
    }

    fn hex32(&mut self) -> Result<u32, ParseError> {
        Ok(u32::try_from(self.hex(8)?).unwrap_or(u32::MAX))
    }

    /// `KEY VALUE;`
    fn field<T>(
        &mut self,
        key: &str,
        value: impl Fn(&mut Self) -> Result<T, ParseError>,
    ) -> Result<T, ParseError> {
        self.expect(&[key])?;
        let value = value(self)?;
        self.expect(&[";"])?;
        Ok(value)
    }

    fn uuid(&mut self) -> Result<u64, ParseError> {
        let uuid = self.hex(16)?;
        self.expect(&[";"])?;
        Ok(uuid)
    }

    fn peer(&mut self, seen: &mut BTreeSet<usize>) -> Result<(usize, PeerMetadata), ParseError> {
        self.expect(&["peer", "["])?;
        let slot: usize = self.number()?;
        if slot >= SLOTS || !seen.insert(slot) {
            return Err(self.wrong(&slot.to_string(), "each peer from 0 to 31 once"));
        }
        self.expect(&["]", "{"])?;
        let peer = PeerMetadata {
            bitmap_index: self.field("bitmap-index", Self::number)?,
            bitmap_uuid: self.field("bitmap-uuid", |w| w.hex(16))?,
            dagtag: self.field("bitmap-dagtag", |w| w.hex(16))?,
            flags: self.field("flags", Self::hex32)?,
        };
        self.expect(&["}"])?;
        Ok((slot, peer))
    }

    fn bitmap(&mut self) -> Result<Vec<Run>, ParseError> {
        self.expect(&["{"])?;
        let mut runs = Vec::new();
        loop {
            self.skip();
            if self.rest.starts_with("0x") {
                runs.push((1, self.uuid()?));
            } else if self.rest.starts_with('}') {
                self.expect(&["}"])?;
                return Ok(runs);
            } else {
                let count: u64 = self.number()?;
                self.expect(&["times"])?;
                runs.push((count, self.uuid()?));
            }
        }
    }
}

/// Reads a text.
pub(crate) fn parse(text: &str) -> Result<Dump, ParseError> {
    let mut words = Words { rest: text, line: 1 };
    words.expect(&["version"])?;
    let format = match words.next() {
        "\"v08\"" => Format::V08,
        "\"v09\"" => Format::V09,
        other => return Err(words.wrong(other, "\"v08\" or \"v09\"")),
    };
    words.expect(&[";"])?;
    let (mut max_peers, mut node_id) = (1, -1);
    let (mut peers, mut history) = (vec![PeerMetadata::default(); SLOTS], Vec::new());
    let (current_uuid, flags);
    if format == Format::V08 {
        words.expect(&["uuid", "{"])?;
        current_uuid = words.uuid()?;
        peers = vec![PeerMetadata { bitmap_uuid: words.uuid()?, ..PeerMetadata::default() }];
        history.extend([words.uuid()?, words.uuid()?]);
        flags = words.field("flags", Words::hex32)?;
        words.expect(&["}"])?;
    } else {
        max_peers = words.field("max-peers", Words::number)?;
        if !(1..32).contains(&max_peers) {
            return Err(words.wrong(&max_peers.to_string(), "1 to 31 peers"));
        }
        node_id = words.field("node-id", Words::number)?;
        current_uuid = words.field("current-uuid", |w| w.hex(16))?;
        flags = words.field("flags", Words::hex32)?;
        let mut seen = BTreeSet::new();
        for _ in 0..SLOTS {
            let (slot, peer) = words.peer(&mut seen)?;
            peers.iter_mut().skip(slot).take(1).for_each(|place| *place = peer);
        }
        words.expect(&["history-uuids", "{"])?;
        for _ in 0..SLOTS {
            history.push(words.uuid()?);
        }
        words.expect(&["}"])?;
    }
    let metadata = Metadata {
        format,
        size: Sectors(words.field("la-size-sect", Words::number)?),
        bytes_per_bit: words.field("bm-byte-per-bit", Words::number)?,
        device_uuid: words.field("device-uuid", |w| w.hex(16))?,
        peer_max_bio_size: words.field("la-peer-max-bio-size", Words::number)?,
        stripes: words.field("al-stripes", Words::number)?,
        stripe_pages: words.field("al-stripe-size-4k", Words::number)?,
        current_uuid,
        is_clean: true,
        flags: MetadataFlags(flags),
        members: 0,
        md_sectors: 0,
        log_at: 0,
        log_extents: 257,
        bitmap_at: 0,
        max_peers,
        node_id,
        peers,
        history,
    };
    let mut bitmaps = Vec::new();
    for peer in 0..max_peers {
        match format {
            Format::V08 => words.expect(&["bm"])?,
            Format::V09 => words.expect(&["bitmap", "[", &peer.to_string(), "]"])?,
        }
        bitmaps.push(words.bitmap()?);
    }
    match words.next() {
        "" => Ok(Dump { metadata, bitmaps }),
        more => Err(words.wrong(more, "the end")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Written by drbdmeta 9.22.0 (Debian 12) for a device of 8 MiB.
    const DRBDMETA: &str = r#"# DRBD meta data dump
# 2026-11-21 07:12:36 +0000 [1795245156]
# vm> drbdmeta 0 v08 /dev/loop1 internal dump-md
#

version "v08";

# md_size_sect 80
# md_offset 8384512
# al_offset 8351744
# bm_offset 8347648

uuid {
    0x0000000000000004; 0x0000000000000000; 0x0000000000000000; 0x0000000000000000;
    flags 0x00000000;
}
# al-extents 257;
la-size-sect 0;
bm-byte-per-bit 4096;
device-uuid 0x0000000000000000;
la-peer-max-bio-size 0;
al-stripes 1;
al-stripe-size-4k 8;
# bm-bytes 0;
bm {
}
# bits-set 0;
"#;

    fn words(runs: &[Run]) -> Vec<u64> {
        runs.iter().flat_map(|(count, word)| (0..*count).map(|_| *word)).collect()
    }

    #[test]
    fn a_text_of_drbdmeta_is_read_and_written_the_same() {
        let dump = parse(DRBDMETA).expect("reads");
        assert_eq!((dump.metadata.current_uuid, dump.metadata.stripe_pages), (4, 8));
        let mut out = Vec::new();
        let metadata = Metadata { md_sectors: 80, ..dump.metadata };
        head(&metadata, [8_384_512, 8_351_744, 8_347_648], 0, &mut out).expect("a vector");
        bitmap(Format::V08, 0, 1, &[], &mut out).expect("a vector");
        let plain = |text: &str| {
            text.lines().skip(3).map(str::to_owned).filter(|l| !l.starts_with("# bits")).collect::<Vec<_>>()
        };
        let ours = String::from_utf8(out).expect("text");
        let ours: Vec<String> = ours.lines().skip(1).map(str::to_owned).collect();
        assert_eq!(ours, plain(DRBDMETA));
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (from, to, expected) in [
            ("\"v08\"", "\"v07\"", "line 6"),
            ("0x0000000000000004;", "0x4;", "16 digits"),
            ("al-stripes 1;", "al-stripes 1", "; expected"),
            ("bm {\n}", "bm {\n", "a number in range expected"),
            ("bm {\n}", "bm {\n} x", "the end"),
            ("version \"", "This_is_an_unclean_meta_data_dump version \"", "version expected"),
        ] {
            let error = parse(&DRBDMETA.replacen(from, to, 1)).expect_err(to).to_string();
            assert!(error.contains(expected), "{to}: {error}");
        }
    }

    proptest! {
        #[test]
        fn bitmaps_survive(runs in proptest::collection::vec((1..40_u64, prop_oneof![Just(0), Just(u64::MAX), any::<u64>()]), 0..9)) {
            let all = words(&runs);
            let mut out = Vec::new();
            let set = bitmap(Format::V08, 0, 1, &all, &mut out).expect("a vector");
            prop_assert_eq!(set, all.iter().map(|word| u64::from(word.count_ones())).sum::<u64>());
            let text = String::from_utf8(out).expect("text");
            let dump = parse(&DRBDMETA.replace("bm {\n}\n", &text)).expect("reads");
            prop_assert_eq!(words(&dump.bitmaps[0]), all);
        }

        #[test]
        fn any_text_is_read_without_panic(text: String) {
            let _ = parse(&text);
            let _ = parse(&format!("version \"v09\"; max-peers 3; {text}"));
        }
    }
}
