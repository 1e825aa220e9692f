//! The arithmetic of CHAP (RFC 1994, RFC 7143 section 12.1).

use md5::Digest;

use host::Secret;

/// The algorithms we offer, in the order we prefer them: SHA-256 (7), SHA-1 (6), MD5 (5).
pub(crate) const OFFER: &str = "7,6,5";

/// The response to a challenge: hash of identifier, secret, challenge. `None` for an algorithm we did not offer.
pub(crate) fn response(algorithm: &str, id: u8, secret: &Secret, challenge: &[u8]) -> Option<Vec<u8>> {
    fn hash<D: Digest>(id: u8, secret: &[u8], challenge: &[u8]) -> Vec<u8> {
        D::new().chain_update([id]).chain_update(secret).chain_update(challenge).finalize().to_vec()
    }
    let secret = secret.expose();
    match algorithm.trim() {
        "5" => Some(hash::<md5::Md5>(id, secret, challenge)),
        "6" => Some(hash::<sha1::Sha1>(id, secret, challenge)),
        "7" => Some(hash::<sha2::Sha256>(id, secret, challenge)),
        _ => None,
    }
}

/// Reads a binary value: `0x` and hexadecimal digits, or `0b` and base64.
pub(crate) fn binary(text: &str) -> Option<Vec<u8>> {
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        let padded = if digits.len().is_multiple_of(2) { digits.to_owned() } else { format!("0{digits}") };
        let pair = |i: usize| padded.get(i..i + 2).and_then(|p| u8::from_str_radix(p, 16).ok());
        return (0..padded.len()).step_by(2).map(pair).collect();
    }
    base64(text.strip_prefix("0b").or_else(|| text.strip_prefix("0B"))?)
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

    #[test]
    fn binaries_in_both_spellings() {
        assert_eq!(binary("0x0aFf"), Some(vec![0x0a, 0xff]));
        assert_eq!(binary("0bCv8="), Some(vec![0x0a, 0xff]));
        assert_eq!((binary("12"), binary("0xzz")), (None, None));
    }

    #[test]
    fn the_response_is_the_hash_of_the_three() {
        // md5("\x01" "secret" "challenge"), computed with md5sum.
        let got = response("5", 1, &Secret::from("secret"), b"challenge").expect("offered");
        assert_eq!(hex(&got), format!("0x{}", MD5.trim()));
        assert_eq!(response("8", 1, &Secret::from("secret"), b"challenge"), None);
        assert_eq!(response("7", 1, &Secret::from("secret"), b"x").map(|r| r.len()), Some(32));
    }

    const MD5: &str = include_str!("../tests/fixtures/chap-md5.txt");
}
