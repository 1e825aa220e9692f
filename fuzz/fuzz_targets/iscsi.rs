//! What an iSCSI portal answers: PDUs, their text, CHAP. Everything comes from the network.
#![no_main]

use multipath::fake::discover_from;
use multipath::{Chap, PortalSpec, Secret};

libfuzzer_sys::fuzz_target!(|answers: &[u8]| {
    let portal = PortalSpec::new(([127, 0, 0, 1], 3260).into());
    let initiator = "iqn.2026-01.lab:fuzz".parse().expect("a name");
    // The first byte chooses the kind of login.
    let Some((kind, answers)) = answers.split_first() else { return };
    let chap = |user, secret| Chap::new(user, Secret::from(secret)).expect("fine");
    let portal = match kind % 3 {
        0 => portal,
        1 => portal.with_chap(chap("us", "a secret of ours")),
        _ => portal.with_chap(chap("us", "a secret of ours")).with_target_chap(chap("them", "a secret of theirs")),
    };
    if let Ok(found) = discover_from(answers, &portal, &initiator) {
        for target in found {
            assert!(!target.target.as_str().contains('/'), "a name that is used in paths");
        }
    }
});
