//! The arithmetic of CHAP (RFC 1994, RFC 7143 section 12.1).

use std::fs::File;
use std::io::{self, Read};

use md5::Digest;

use host::Secret;

use crate::spec::{Chap, ChapDigest};

/// The longest binary value of a login (RFC 7143, 12.1.3: a challenge has at most 1024 bytes).
const MAX_BINARY: usize = 1024;

impl ChapDigest {
    /// Its number (RFC 7143, 12.1.3; IANA, PPP authentication algorithms).
    pub(crate) fn number(self) -> &'static str {
        match self {
            Self::Md5 => "5",
            Self::Sha1 => "6",
            Self::Sha256 => "7",
            Self::Sha3_256 => "8",
        }
    }

    fn from_number(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|digest| digest.number() == text.trim())
    }

    /// The response to a challenge: hash of identifier, secret, challenge.
    pub(crate) fn response(self, id: u8, secret: &Secret, challenge: &[u8]) -> Vec<u8> {
        fn hash<D: Digest>(id: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
            D::new().chain_update([id]).chain_update(secret).chain_update(challenge).finalize().to_vec()
        }
        let secret = secret.expose();
        match self {
            Self::Md5 => hash::<md5::Md5>(id, secret, challenge),
            Self::Sha1 => hash::<sha1::Sha1>(id, secret, challenge),
            Self::Sha256 => hash::<sha2::Sha256>(id, secret, challenge),
            Self::Sha3_256 => hash::<sha3::Sha3_256>(id, secret, challenge),
        }
    }
}

/// The numbers of these digests, as `CHAP_A` offers them.
pub(crate) fn offer(digests: &[ChapDigest]) -> String {
    digests.iter().map(|digest| digest.number()).collect::<Vec<_>>().join(",")
}

/// The digest that the other side chose, if it was offered.
pub(crate) fn chosen(text: &str, offered: &[ChapDigest]) -> Option<ChapDigest> {
    ChapDigest::from_number(text).filter(|digest| offered.contains(digest))
}

/// What the other side is to answer, to prove that it knows a secret.
#[derive(Debug)]
pub(crate) struct Challenge {
    pub(crate) id: u8,
    pub(crate) bytes: [u8; 32],
}

impl Challenge {
    /// A new one, from the kernel's random numbers.
    pub(crate) fn new() -> io::Result<Self> {
        let mut bytes = [0; 33];
        random(&mut bytes)?;
        let [id, bytes @ ..] = bytes;
        Ok(Self { id, bytes })
    }

    /// Whether an answer (`CHAP_R`) is the one of somebody who knows the secret.
    pub(crate) fn is_met(&self, by: &[u8], digest: ChapDigest, chap: &Chap) -> bool {
        Secret::new(digest.response(self.id, &chap.secret, &self.bytes)).same_as(by)
    }
}

/// Random bytes, from `/dev/urandom`.
pub(crate) fn random(into: &mut [u8]) -> io::Result<()> {
    File::open("/dev/urandom")?.read_exact(into)
}

/// Reads a binary value: `0x` and hexadecimal digits, or `0b` and base64; 1 to 1024 bytes.
pub(crate) fn binary(text: &str) -> Option<Vec<u8>> {
    if text.len() > 2 + 2 * MAX_BINARY {
        return None;
    }
    let bytes = match text.get(..2)? {
        "0x" | "0X" => hexadecimal(text.get(2..)?),
        "0b" | "0B" => base64(text.get(2..)?),
        _ => None,
    };
    bytes.filter(|bytes| (1..=MAX_BINARY).contains(&bytes.len()))
}

fn hexadecimal(digits: &str) -> Option<Vec<u8>> {
    let value = |byte: u8| char::from(byte).to_digit(16).and_then(|v| u8::try_from(v).ok());
    let mut values = digits.bytes().map(value).collect::<Option<Vec<u8>>>()?;
    if !values.len().is_multiple_of(2) {
        values.insert(0, 0);
    }
    Some(values.chunks(2).map(|pair| pair.iter().fold(0, |byte, v| byte << 4 | v)).collect())
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut bits, mut count) = (0_u32, 0);
    for byte in text.trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6 | u32::from(value)) & 0x00ff_ffff;
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from(bits >> count & 0xff).ok()?);
        }
    }
    Some(out)
}

/// Writes a binary value in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |text, b| text + &format!("{b:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn binaries_in_both_spellings() {
        assert_eq!(binary("0x0aFf"), Some(vec![0x0a, 0xff]));
        assert_eq!(binary("0xaFf"), Some(vec![0x0a, 0xff]));
        assert_eq!(binary("0bCv8="), Some(vec![0x0a, 0xff]));
        for wrong in ["12", "0xzz", "0x", "0b", "", "0", "é", "0x+1"] {
            assert_eq!(binary(wrong), None, "{wrong}");
        }
        assert_eq!(binary(&format!("0x{}", "ab".repeat(1024))).map(|b| b.len()), Some(1024));
        assert_eq!(binary(&format!("0x{}", "ab".repeat(1025))), None);
    }

    #[test]
    fn the_response_is_the_hash_of_the_three() {
        // Of "\x01" "secret" "challenge", computed with md5sum, sha1sum, sha256sum and openssl dgst -sha3-256.
        for (digest, sum) in [
            (ChapDigest::Md5, include_str!("../tests/fixtures/chap-md5.txt")),
            (ChapDigest::Sha1, include_str!("../tests/fixtures/chap-sha1.txt")),
            (ChapDigest::Sha256, include_str!("../tests/fixtures/chap-sha256.txt")),
            (ChapDigest::Sha3_256, include_str!("../tests/fixtures/chap-sha3-256.txt")),
        ] {
            let got = digest.response(1, &Secret::from("secret"), b"challenge");
            assert_eq!(hex(&got), format!("0x{}", sum.trim()), "{digest:?}");
        }
    }

    #[test]
    fn only_what_was_offered_can_be_chosen() {
        assert_eq!(chosen(" 7", &ChapDigest::DEFAULT), Some(ChapDigest::Sha256));
        assert_eq!(chosen("5", &[ChapDigest::Sha256]), None);
        assert_eq!(offer(&ChapDigest::DEFAULT), "8,7,6,5");
    }

    #[test]
    fn a_challenge_is_met_by_the_secret_alone() {
        let challenge = Challenge::new().expect("random numbers");
        let chap = Chap::new("target", Secret::from("twelve bytes or more")).expect("fine");
        let right = ChapDigest::Sha256.response(challenge.id, &chap.secret, &challenge.bytes);
        assert!(challenge.is_met(&right, ChapDigest::Sha256, &chap));
        assert!(!challenge.is_met(&right, ChapDigest::Sha1, &chap));
        assert!(!challenge.is_met(&challenge.bytes, ChapDigest::Sha256, &chap));
        assert!(!challenge.is_met(&[], ChapDigest::Sha256, &chap));
        assert_ne!(Challenge::new().expect("random numbers").bytes, challenge.bytes);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(bytes in proptest::collection::vec(any::<u8>(), 1..100)) {
            prop_assert_eq!(binary(&hex(&bytes)), Some(bytes));
        }
    }
}
