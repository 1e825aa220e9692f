//! Tokens whose passphrase is fetched here: what stands in their JSON.

use serde_json::Value;

/// The description of the key in the kernel's keyring that a token "luks2-keyring" names (LUKS2 specification, 3.5.1).
pub(crate) fn description(token: &str) -> Option<String> {
    let token: Value = serde_json::from_str(token).ok()?;
    Some(token.get("key_description")?.as_str()?.to_owned())
}

/// What clevis encrypted for a TPM, a Tang server, or several of them, in the compact form that `clevis decrypt` reads: its five parts with points between them (RFC 7516, 7.1).
/// The token has it as an object (7.2.2), in which a part that is empty may be missing.
pub(crate) fn message(token: &str) -> Option<String> {
    let token: Value = serde_json::from_str(token).ok()?;
    let jwe = token.get("jwe")?.as_object()?;
    let part = |name: &str| jwe.get(name).map_or(Some(""), Value::as_str);
    // Both are never empty.
    part("protected").zip(part("ciphertext")).filter(|(a, b)| !a.is_empty() && !b.is_empty())?;
    let parts = ["protected", "encrypted_key", "iv", "ciphertext", "tag"].map(part);
    let parts: Option<Vec<&str>> = parts.into_iter().collect();
    parts.map(|parts| parts.join("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_of_a_token_is_written_in_one_line() {
        let token = r#"{"type":"clevis","keyslots":["1"],"jwe":{"ciphertext":"c","iv":"i","protected":"p","tag":"t","encrypted_key":""}}"#;
        assert_eq!(message(token).as_deref(), Some("p..i.c.t"));
        let full = token.replace(r#""encrypted_key":"""#, r#""encrypted_key":"k""#);
        assert_eq!(message(&full).as_deref(), Some("p.k.i.c.t"));
    }

    #[test]
    fn a_token_without_its_fields_has_none() {
        let keyring = r#"{"type":"luks2-keyring","keyslots":["0"],"key_description":"san:disk"}"#;
        assert_eq!(description(keyring).as_deref(), Some("san:disk"));
        assert_eq!(description(r#"{"type":"luks2-keyring","keyslots":["0"]}"#), None);
        for bad in [
            "",
            "[]",
            r#"{"type":"clevis","keyslots":["0"]}"#,
            r#"{"jwe":"p..i.c.t"}"#,
            r#"{"jwe":{"protected":"p","ciphertext":7}}"#,
            r#"{"jwe":{"protected":"","ciphertext":"c"}}"#,
        ] {
            assert_eq!(message(bad), None, "{bad}");
        }
    }
}
