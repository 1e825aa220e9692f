//! LUKS2's JSON: key slots, tokens, segments, digests and configuration (specification, chapter 3).
//!
//! What libcryptsetup refuses is refused here as well: a header that only one of them accepts would be a trap.

use serde_json::{Map, Value};

/// One key slot in use.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Keyslot {
    /// Its number: 0 to 7 (LUKS1), 0 to 31 (LUKS2).
    pub number: u32,
    /// The key derivation: "argon2id", "argon2i", "pbkdf2".
    pub kdf: String,
    /// Iterations (PBKDF2) or passes (Argon2).
    pub cost: u64,
    /// The memory it takes, in KiB (Argon2; 0 for PBKDF2).
    pub memory_kib: u64,
    /// Its lanes (Argon2; 1 for PBKDF2).
    pub lanes: u32,
    /// The order in which key slots are tried.
    pub priority: Priority,
    /// The size of the key it holds, in bytes.
    pub key_bytes: u32,
    /// How the key is encrypted on the disk: "aes-xts-plain64".
    pub cipher: String,
    /// Where its key material begins, in bytes from the header's begin.
    pub area_offset: u64,
    /// The size of its key material, in bytes.
    pub area_size: u64,
    /// It holds no key of the data (`cryptsetup luksAddKey --unbound`).
    pub unbound: bool,
}

/// When a key slot is tried; `cryptsetup config --priority`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
#[non_exhaustive]
pub enum Priority {
    /// First.
    Prefer,
    /// After the preferred ones; the default, and the only one of LUKS1.
    #[default]
    Normal,
    /// Only if the key slot is named.
    Ignore,
    /// A number that is not known; libcryptsetup never tries such a key slot unasked.
    Other(i64),
}

impl Priority {
    /// The number in a LUKS2 header and of libcryptsetup (`crypt_keyslot_priority`): 0 ignore, 1 normal, 2 prefer.
    #[must_use]
    pub fn number(self) -> i64 {
        match self {
            Self::Ignore => 0,
            Self::Normal => 1,
            Self::Prefer => 2,
            Self::Other(n) => n,
        }
    }

    pub(crate) fn of(number: i64) -> Self {
        match number {
            0 => Self::Ignore,
            1 => Self::Normal,
            2 => Self::Prefer,
            n => Self::Other(n),
        }
    }
}

/// A token: what says where a passphrase of key slots is to be had.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Token {
    /// Its number: 0 to 31.
    pub number: u32,
    /// Its kind: "luks2-keyring", "systemd-tpm2", "systemd-fido2", "clevis".
    pub kind: String,
    /// The key slots it opens.
    pub keyslots: Vec<u32>,
    /// All of it as JSON, with the fields that only its maker knows.
    pub json: String,
}

/// A part of the data.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Segment {
    /// Its number. Reencryption keeps what was and what will be under further numbers, with a flag "backup-...".
    pub number: u32,
    /// "crypt" or "linear" (not encrypted yet, or no more).
    pub kind: String,
    /// Where it begins, in bytes.
    pub offset: u64,
    /// How long it is, in bytes; `None` to the end of the device.
    pub size: Option<u64>,
    /// Its cipher: "aes-xts-plain64"; empty for a linear one.
    pub cipher: String,
    /// The size of an encryption sector, in bytes; 512 for a linear one.
    pub sector_size: u32,
    /// The integrity protection ("hmac(sha256)", "aead"), if it has one.
    pub integrity: Option<String>,
    /// What else is said of it: "in-reencryption", "backup-final".
    pub flags: Vec<String>,
}

impl Segment {
    /// Whether this is no part of the data but a note of reencryption's.
    #[must_use]
    pub fn is_backup(&self) -> bool {
        self.flags.iter().any(|flag| flag.starts_with("backup-"))
    }
}

/// What a volume key is recognised by.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Digest {
    /// Its number.
    pub number: u32,
    /// Its kind: "pbkdf2".
    pub kind: String,
    /// The key slots that hold this key.
    pub keyslots: Vec<u32>,
    /// The segments that are encrypted with it.
    pub segments: Vec<u32>,
}

/// A reencryption that was begun and has not ended; `cryptsetup reencrypt --resume-only` goes on with it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Reencryption {
    /// "reencrypt", "encrypt" or "decrypt".
    pub mode: String,
    /// "forward" or "backward".
    pub direction: String,
    /// How a crash is survived: "checksum", "journal", "datashift", "none".
    pub resilience: String,
    /// The cipher before; empty if the data were not encrypted.
    pub from: String,
    /// The cipher after; empty if the data will not be encrypted.
    pub to: String,
    /// How many bytes are done, where it goes forward.
    pub done: Option<u64>,
}

/// What the JSON of one copy says.
#[derive(Debug)]
pub(crate) struct Metadata {
    pub(crate) keyslots: Vec<Keyslot>,
    pub(crate) tokens: Vec<Token>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) digests: Vec<Digest>,
    pub(crate) flags: Vec<String>,
    pub(crate) requirements: Vec<String>,
    pub(crate) reencryption: Option<Reencryption>,
}

type Checked<T> = Result<T, String>;

/// Reads the JSON area of a copy of `size` bytes.
pub(crate) fn parse(area: &[u8], size: u64) -> Checked<Metadata> {
    if area.first() != Some(&b'{') {
        return Err("the JSON area begins with no object".to_owned());
    }
    let end = area.iter().position(|b| *b == 0).ok_or("the JSON has no end")?;
    let (body, rest) = area.split_at_checked(end).unwrap_or_default();
    if rest.iter().any(|b| *b != 0) {
        return Err("something stands behind the JSON".to_owned());
    }
    let json: Value = serde_json::from_slice(body).map_err(|error| format!("no JSON: {error}"))?;
    let part = |name: &str| object(json.get(name).ok_or_else(|| format!("{name} is missing"))?, name);
    let (slots, config) = (part("keyslots")?, part("config")?);
    if number(config, "json_size")?.checked_add(4096) != Some(size) {
        return Err("json_size is not that of the area".to_owned());
    }
    let segments = each(part("segments")?, "segment", segment)?;
    if segments.iter().all(Segment::is_backup) {
        return Err("no segment".to_owned());
    }
    let digests = each(part("digests")?, "digest", |number, digest| {
        let (keyslots, segments) = (names(digest, "keyslots")?, names(digest, "segments")?);
        Ok(Digest { number, kind: text(digest, "type")?, keyslots, segments })
    })?;
    let tokens = each(part("tokens")?, "token", |number, token| {
        let json = Value::Object(token.clone()).to_string();
        Ok(Token { number, kind: text(token, "type")?, keyslots: names(token, "keyslots")?, json })
    })?;
    let areas = each(slots, "key slot", area_of)?;
    let mut keyslots = each(slots, "key slot", |number, slot| {
        if slot.contains_key("kdf") || text(slot, "type")? == "luks2" {
            return keyslot(number, slot).map(Some);
        }
        Ok(None)
    })?
    .into_iter()
    .flatten()
    .collect::<Vec<_>>();
    for slot in &mut keyslots {
        slot.unbound = !digests.iter().any(|d| d.keyslots.contains(&slot.number) && !d.segments.is_empty());
    }
    references(slots, &segments, &digests, &tokens)?;
    places(&areas, size, number(config, "keyslots_size")?, &segments)?;
    let reencryption = slots
        .values()
        .filter_map(Value::as_object)
        .find(|slot| slot.get("type").and_then(Value::as_str) == Some("reencrypt"))
        .map(|slot| reencryption(slot, &segments, &digests));
    let requirements = match config.get("requirements") {
        Some(requirements) => words(object(requirements, "requirements")?, "mandatory")?,
        None => Vec::new(),
    };
    let flags = words(config, "flags")?;
    Ok(Metadata { keyslots, tokens, segments, digests, flags, requirements, reencryption })
}

type Object = Map<String, Value>;

fn object<'a>(value: &'a Value, name: &str) -> Checked<&'a Object> {
    value.as_object().ok_or_else(|| format!("{name} is no object"))
}

/// Reads each member of an object whose members are named by numbers from 0, in the order of these numbers.
fn each<T>(of: &Object, what: &str, read: impl Fn(u32, &Object) -> Checked<T>) -> Checked<Vec<T>> {
    let mut found = Vec::with_capacity(of.len());
    for (name, value) in of {
        let number = name.parse().map_err(|_| format!("{what} {name:?} has no number"))?;
        let value = object(value, what)?;
        found.push((number, read(number, value).map_err(|reason| format!("{what} {name}: {reason}"))?));
    }
    found.sort_by_key(|(number, _)| *number);
    Ok(found.into_iter().map(|(_, value)| value).collect())
}

fn text(of: &Object, key: &str) -> Checked<String> {
    of.get(key).and_then(Value::as_str).map(str::to_owned).ok_or_else(|| format!("{key} is no text"))
}

/// A 64-bit number, which JSON has as a text of decimal digits.
fn number(of: &Object, key: &str) -> Checked<u64> {
    let digits = of.get(key).and_then(Value::as_str).filter(|s| s.bytes().all(|b| b.is_ascii_digit()));
    digits.and_then(|s| s.parse().ok()).ok_or_else(|| format!("{key} is no number"))
}

/// A small number, which is a JSON integer.
fn small(of: &Object, key: &str) -> Checked<u32> {
    let value = of.get(key).and_then(Value::as_i64).and_then(|n| u32::try_from(n).ok());
    value.ok_or_else(|| format!("{key} is no number"))
}

/// A cost, which libcryptsetup checks only when it uses it: a negative one is none.
fn count(of: &Object, key: &str) -> Checked<u64> {
    let value = of.get(key).and_then(Value::as_i64).ok_or_else(|| format!("{key} is no number"))?;
    Ok(u64::try_from(value).unwrap_or_default())
}

/// A list of numbers as texts, which name other objects.
fn names(of: &Object, key: &str) -> Checked<Vec<u32>> {
    let list = of.get(key).and_then(Value::as_array).ok_or_else(|| format!("{key} is no list"))?;
    let number = |value: &Value| value.as_str().and_then(|s| s.parse().ok());
    list.iter().map(|value| number(value).ok_or_else(|| format!("{key} holds {value}"))).collect()
}

/// A list of words that may be missing.
fn words(of: &Object, key: &str) -> Checked<Vec<String>> {
    let Some(list) = of.get(key) else { return Ok(Vec::new()) };
    let list = list.as_array().ok_or_else(|| format!("{key} is no list"))?;
    let word = |value: &Value| value.as_str().map(str::to_owned);
    list.iter().map(|value| word(value).ok_or_else(|| format!("{key} holds {value}"))).collect()
}

fn segment(number_: u32, of: &Object) -> Checked<Segment> {
    let size = match text(of, "size")?.as_str() {
        "dynamic" => None,
        _ => Some(number(of, "size")?).filter(|size| *size > 0).map(Some).ok_or("size is 0")?,
    };
    let kind = text(of, "type")?;
    let is_crypt = kind == "crypt";
    if is_crypt {
        number(of, "iv_tweak")?;
    }
    let sector_size = if is_crypt { small(of, "sector_size")? } else { 512 };
    let cipher = if is_crypt { text(of, "encryption")? } else { String::new() };
    if is_crypt && cipher.is_empty() {
        return Err("encryption is empty".to_owned());
    }
    let offset = number(of, "offset")?;
    let unit = u64::from(sector_size);
    let is_whole = size.unwrap_or_default().checked_rem(unit) == Some(0);
    if !unit.is_multiple_of(512) || !offset.is_multiple_of(512) || !is_whole {
        return Err(format!("sectors of {sector_size} bytes do not fit its place"));
    }
    let integrity = match of.get("integrity") {
        Some(integrity) => {
            let integrity = object(integrity, "integrity")?;
            text(integrity, "journal_encryption")?;
            text(integrity, "journal_integrity")?;
            Some(text(integrity, "type")?)
        }
        None => None,
    };
    Ok(Segment {
        number: number_,
        offset,
        size,
        cipher,
        kind,
        sector_size,
        integrity,
        flags: words(of, "flags")?,
    })
}

/// Offset and size of a key slot's area; whatever the kind of the key slot, it has one.
fn area_of(_: u32, slot: &Object) -> Checked<(u64, u64)> {
    text(slot, "type")?;
    small(slot, "key_size")?;
    let area = object(slot.get("area").ok_or("area is missing")?, "area")?;
    text(area, "type")?;
    Ok((number(area, "offset")?, number(area, "size")?))
}

fn keyslot(number_: u32, slot: &Object) -> Checked<Keyslot> {
    let part = |name: &str| object(slot.get(name).ok_or_else(|| format!("{name} is missing"))?, name);
    let (kdf, area, af) = (part("kdf")?, part("area")?, part("af")?);
    let kind = text(kdf, "type")?;
    text(kdf, "salt")?;
    text(af, "type")?;
    let (cost, memory_kib, lanes) = match kind.as_str() {
        "pbkdf2" => {
            text(kdf, "hash")?;
            (count(kdf, "iterations")?, 0, 1)
        }
        "argon2i" | "argon2id" => (count(kdf, "time")?, count(kdf, "memory")?, count(kdf, "cpus")?),
        // One that is invented later: kept, and libcryptsetup will say that it cannot open it.
        _ => (0, 0, 1),
    };
    let priority = slot.get("priority").map_or(Priority::Normal, |n| Priority::of(n.as_i64().unwrap_or(-1)));
    Ok(Keyslot {
        number: number_,
        kdf: kind,
        cost,
        memory_kib,
        lanes: u32::try_from(lanes).unwrap_or(u32::MAX).max(1),
        priority,
        key_bytes: small(slot, "key_size")?,
        cipher: text(area, "encryption")?,
        area_offset: number(area, "offset")?,
        area_size: number(area, "size")?,
        unbound: false,
    })
}

/// What is named must be there.
fn references(slots: &Object, segments: &[Segment], digests: &[Digest], tokens: &[Token]) -> Checked<()> {
    let is_slot = |n: &u32| slots.contains_key(&n.to_string());
    let is_segment = |n: &u32| segments.iter().any(|segment| segment.number == *n);
    for digest in digests {
        if !digest.keyslots.iter().all(is_slot) || !digest.segments.iter().all(is_segment) {
            return Err(format!("digest {} names what is not there", digest.number));
        }
    }
    let named = |number: u32| digests.iter().any(|digest| digest.segments.contains(&number));
    if let Some(segment) = segments.iter().find(|s| s.kind == "crypt" && !named(s.number)) {
        return Err(format!("segment {} has no digest", segment.number));
    }
    match tokens.iter().find(|token| !token.keyslots.iter().all(is_slot)) {
        Some(token) => Err(format!("token {} names a key slot that is not there", token.number)),
        None => Ok(()),
    }
}

/// Key material stands behind both copies, before the data, and no two pieces of it in one place.
fn places(areas: &[(u64, u64)], size: u64, room: u64, segments: &[Segment]) -> Checked<()> {
    let begin = size.saturating_mul(2);
    let end = begin.checked_add(room).ok_or("keyslots_size is too large")?;
    if !room.is_multiple_of(4096) || room > 128 << 20 {
        return Err(format!("a keyslots_size of {room}"));
    }
    let parts: Vec<&Segment> = segments.iter().filter(|s| !s.is_backup()).collect();
    for (part, next) in parts.iter().zip(parts.iter().skip(1)) {
        // Only the last one can reach to the end of the device, wherever that is.
        if part.size.and_then(|size| part.offset.checked_add(size)).is_none_or(|end| end > next.offset) {
            return Err(format!("segment {} reaches into segment {}", part.number, next.number));
        }
    }
    // A detached header's data begin at 0, before everything.
    let data = parts.iter().map(|s| s.offset).min().unwrap_or_default();
    if data > 0 && end > data {
        return Err("the key slots reach into the data".to_owned());
    }
    let mut sorted: Vec<(u64, u64)> = Vec::with_capacity(areas.len());
    for (offset, length) in areas {
        let stop = offset.checked_add(*length).ok_or("an area is too large")?;
        if *length == 0 || *offset < begin || stop > end {
            return Err(format!("an area of key material at {offset} is not within {begin} to {end}"));
        }
        sorted.push((*offset, stop));
    }
    sorted.sort_unstable();
    match sorted.iter().zip(sorted.iter().skip(1)).find(|(a, b)| a.1 > b.0) {
        Some((_, (offset, _))) => Err(format!("two areas of key material at {offset}")),
        None => Ok(()),
    }
}

fn reencryption(slot: &Object, segments: &[Segment], digests: &[Digest]) -> Reencryption {
    let word = |of: Option<&Object>, key: &str| of.and_then(|of| text(of, key).ok()).unwrap_or_default();
    let marked = |mark: &str| segments.iter().find(|s| s.flags.iter().any(|flag| flag == mark));
    let digest = |s: &Segment| digests.iter().find(|d| d.segments.contains(&s.number)).map(|d| d.number);
    let (old, new) = (marked("backup-previous"), marked("backup-final"));
    let direction = word(Some(slot), "direction");
    let done = new.filter(|_| direction == "forward").map(|new| {
        let leading = segments.iter().filter(|s| !s.is_backup()).take_while(|s| {
            digest(s) == digest(new) && s.kind == new.kind && !s.flags.iter().any(|f| f == "in-reencryption")
        });
        leading.filter_map(|s| s.size).sum()
    });
    Reencryption {
        mode: word(Some(slot), "mode"),
        direction,
        resilience: word(slot.get("area").and_then(Value::as_object), "type"),
        from: old.map(|s| s.cipher.clone()).unwrap_or_default(),
        to: new.map(|s| s.cipher.clone()).unwrap_or_default(),
        done,
    }
}
