//! The corpora of the fuzz targets, replayed: each file's name says what is to be read in it.
#![allow(clippy::expect_used, clippy::panic)] // It is a test.

mod common;

use std::io::Cursor;

use luks::Header;
use luks::header::{Identity, Parsed};
use proptest::prelude::*;

/// What the name of a file says: "good-", "bad-" or "none-".
fn verdict(parsed: &Parsed) -> &'static str {
    match parsed {
        Parsed::Header(_) => "good",
        Parsed::Damaged(_) => "bad",
        _ => "none",
    }
}

#[test]
fn every_header_of_the_corpus_is_judged_as_its_name_says() {
    for (name, bytes) in common::corpus("luks_header") {
        let parsed = Header::parse(&mut Cursor::new(&bytes)).expect("reads");
        assert!(name.starts_with(verdict(&parsed)), "{name}: {parsed:?}");
        let identity = Identity::parse(&mut Cursor::new(&bytes)).expect("reads");
        if let Parsed::Header(header) = parsed {
            assert_eq!(identity.map(|i| i.uuid), Some(header.uuid), "{name}");
        }
    }
}

#[test]
fn all_metadata_of_the_corpus_are_judged_as_their_names_say() {
    let mut wrong = Vec::new();
    for (name, json) in common::corpus("luks_metadata") {
        let parsed = Header::parse(&mut Cursor::new(common::luks2_around(&json))).expect("reads");
        if !name.starts_with(verdict(&parsed)) {
            let shown = if let Parsed::Damaged(why) = &parsed { why.to_string() } else { String::new() };
            wrong.push(format!("{name}: {shown}"));
        }
    }
    assert!(wrong.is_empty(), "{} are judged wrongly:\n{}", wrong.len(), wrong.join("\n"));
}

fn good() -> Vec<u8> {
    let corpus = common::corpus("luks_header");
    corpus.into_iter().find(|(name, _)| name == "good-luks2").expect("is there").1
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever happens within one copy, the other one is read, and the damage is seen.
    #[test]
    fn one_spoiled_copy_is_seen_and_survived(at in 0_usize..0x4000, flip in 1_u8.., second in any::<bool>()) {
        let whole = good();
        let Ok(Parsed::Header(healthy)) = Header::parse(&mut Cursor::new(&whole)) else { panic!("good") };
        let mut bytes = whole;
        bytes[if second { at + 0x4000 } else { at }] ^= flip;
        let parsed = Header::parse(&mut Cursor::new(bytes)).expect("reads");
        if let Parsed::Damaged(copies) = &parsed {
            // A first copy of an unknown version is not passed over.
            prop_assert!((6..8).contains(&at) && !second, "{}", copies);
            return Ok(());
        }
        let Parsed::Header(header) = parsed else { panic!("{parsed:?}") };
        // Bytes 480 to 511 are behind a sha256 in the field of the checksum, which no checksum covers.
        let covered = !(480..512).contains(&at);
        prop_assert_eq!(header.needs_repair, covered);
        prop_assert_eq!(header.copies[usize::from(second)].damage.is_some(), covered);
        prop_assert_eq!(header.copies[usize::from(!second)].damage.is_none(), true);
        prop_assert_eq!((header.uuid, header.keyslots, header.tokens), (healthy.uuid, healthy.keyslots, healthy.tokens));
    }

    /// A header cut anywhere is a header whose second copy is damaged, or is none, and nothing else.
    #[test]
    fn a_cut_header_is_never_taken_for_a_whole_one(length in 0_usize..0x8000) {
        let parsed = Header::parse(&mut Cursor::new(&good()[..length])).expect("reads");
        match parsed {
            Parsed::Header(header) => prop_assert!(header.needs_repair && length >= 0x4000),
            Parsed::Damaged(_) => prop_assert!((6..0x4000).contains(&length)),
            other => prop_assert!(length < 6, "{:?}", other),
        }
    }
}
