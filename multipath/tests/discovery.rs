//! Discovery and probe against a portal in this process: CHAP of all kinds, redirects, long lists, and portals that mean us harm.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // It is a test.

use std::time::{Duration, Instant};

use multipath::fake::{FakeTarget, Fault, discover_from};
use multipath::{
    Authentication, Chap, ChapDigest, Deadline, Error, Iqn, PortalSpec, Secret, discover_by, probe,
};
use proptest::prelude::*;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn me() -> Iqn {
    "iqn.2026-01.lab:hv".parse().expect("a name")
}

fn target() -> Iqn {
    "iqn.2026-01.a:one".parse().expect("a name")
}

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(10))
}

fn ours() -> Chap {
    Chap::new("hv1", Secret::from("a secret of ours")).expect("fine")
}

fn theirs() -> Chap {
    Chap::new("san", Secret::from("a secret of theirs")).expect("fine")
}

fn portal() -> std::io::Result<FakeTarget> {
    Ok(FakeTarget::new()?.with_target("iqn.2026-01.a:one", &["10.1.24.10:3260,1", "[fd00::10]:3260,2"]))
}

#[test]
fn both_families_and_portal_groups_are_found() -> Outcome {
    let portal = portal()?.with_target("iqn.2026-01.a:two", &[]);
    let found = discover_by(&portal.spec(), &me(), soon())?;
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].groups()[&2], ["[fd00::10]:3260".parse()?]);
    assert_eq!(found[1].portals, [(portal.address(), 1)], "it told no address, so it is where we asked");
    assert!(portal.heard().iter().any(|text| text.starts_with("SendTargets=All")));
    Ok(())
}

#[test]
fn lists_come_back_whole_however_they_are_cut() -> Outcome {
    for part in [1, 7, 512, 8192, 262_144] {
        let mut portal = FakeTarget::new()?.with_parts_of(part);
        let count = if part < 100 { 3 } else { 300 };
        for n in 0..count {
            portal = portal.with_target(&format!("iqn.2026-01.a:t{n}"), &["10.1.24.10:3260,1"]);
        }
        let found = discover_by(&portal.spec(), &me(), soon())?;
        assert_eq!(found.len(), count, "in parts of {part}");
        assert!(found.iter().all(|target| target.portals.len() == 1));
    }
    Ok(())
}

#[test]
fn chap_with_each_digest_one_way_and_mutual() -> Outcome {
    for digest in ChapDigest::ALL {
        let portal = portal()?.with_chap(ours()).with_own_chap(theirs()).with_digests(&[digest]);
        let spec = portal.spec().with_chap(ours());
        assert_eq!(discover_by(&spec, &me(), soon())?.len(), 1, "{digest}");
        let seen = probe(&spec, &me(), &target(), soon())?;
        assert_eq!(seen.authentication, Some(Authentication::Chap(digest)));
        let spec = spec.with_target_chap(theirs());
        let seen = probe(&spec, &me(), &target(), soon())?;
        assert_eq!(seen.authentication, Some(Authentication::Mutual(digest)));
        assert_eq!(portal.logins(), 3);
        assert!(portal.heard().iter().all(|text| !text.contains("a secret")), "secrets stay home");
    }
    Ok(())
}

#[test]
fn the_portal_that_does_not_prove_itself_is_left() -> Outcome {
    let stranger = Chap::new("san", Secret::from("not the secret of theirs"))?;
    let other_name = Chap::new("nas", Secret::from("a secret of theirs"))?;
    for (portal, words) in [
        (portal()?.with_own_chap(stranger), "does not know the secret"),
        (portal()?.with_own_chap(other_name), "under another name"),
        (portal()?.with_own_chap(theirs()).with_fault(Fault::Reflects), "does not know the secret"),
        (portal()?.with_own_chap(theirs()).with_fault(Fault::NoProof), "does not prove itself"),
        (portal()?.with_fault(Fault::SkipsChap), "does not prove itself"),
        (portal()?.with_fault(Fault::UnknownDigest), "a CHAP digest that was not offered"),
        (portal()?.with_fault(Fault::BadChallenge), "challenge cannot be read"),
    ] {
        let portal = portal.with_chap(ours());
        let spec = portal.spec().with_chap(ours()).with_target_chap(theirs());
        let error = discover_by(&spec, &me(), soon()).expect_err(words);
        assert!(error.to_string().contains(words), "{error}");
        assert_eq!(portal.logins(), 0, "{words}");
    }
    Ok(())
}

#[test]
fn a_spec_that_cannot_work_sends_nothing() -> Outcome {
    let portal = portal()?;
    for spec in [
        portal.spec().with_target_chap(theirs()),
        portal.spec().with_chap(ours()).with_target_chap(ours()),
        portal.spec().with_chap(ours()).with_digests([]),
        portal.spec().with_source("::1".parse()?),
    ] {
        let error = discover_by(&spec, &me(), soon()).expect_err("wrong");
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
    }
    assert!(portal.heard().is_empty());
    Ok(())
}

#[test]
fn each_status_is_explained() -> Outcome {
    let mut seen = std::collections::BTreeSet::new();
    for (class, details) in [(2, 0..=11), (3, 0..=2)] {
        for detail in details {
            let portal = portal()?.with_status(class, detail);
            let probed = probe(&portal.spec(), &me(), &target(), soon())?;
            assert!(!probed.status.is_success() && probed.status.is_retryable() == (class == 3));
            assert!(seen.insert(probed.status.meaning()), "{probed} says what another status says");
            let error = discover_by(&portal.spec(), &me(), soon()).expect_err("refused");
            assert!(matches!(error, Error::Login { status, .. } if status == (class, detail)), "{error}");
        }
    }
    let wants_chap = portal()?.with_chap(ours());
    let error = discover_by(&wants_chap.spec(), &me(), soon()).expect_err("no CHAP");
    assert!(error.to_string().contains("it wants CHAP; give a user"), "{error}");
    let wrong = wants_chap.spec().with_chap(Chap::new("hv1", Secret::from("another secret"))?);
    let error = discover_by(&wrong, &me(), soon()).expect_err("wrong secret");
    assert!(error.to_string().contains("wrong CHAP user or secret"), "{error}");
    Ok(())
}

#[test]
fn redirects_are_followed_and_remembered() -> Outcome {
    let end = portal()?;
    let middle = FakeTarget::new()?.with_redirect(2, &format!("{},1", end.address()));
    let begin = FakeTarget::new()?.with_redirect(1, &middle.address().to_string());
    assert_eq!(discover_by(&begin.spec(), &me(), soon())?.len(), 1);
    let probed = probe(&begin.spec(), &me(), &target(), soon())?;
    assert_eq!(probed.portal, end.address());
    let hops: Vec<_> = probed.redirects.iter().map(|hop| (hop.from, hop.status.detail)).collect();
    assert_eq!(hops, [(begin.address(), 1), (middle.address(), 2)]);
    assert!(probed.connected <= probed.answered && probed.tag == Some(1));
    assert_eq!(probed.alias.as_deref(), Some("fake"));
    Ok(())
}

#[test]
fn redirects_in_a_circle_and_without_end_are_refused() -> Outcome {
    let (one, two) = (FakeTarget::new()?, FakeTarget::new()?);
    let one = one.with_redirect(1, &two.address().to_string());
    let _two = two.with_redirect(1, &one.address().to_string());
    let error = discover_by(&one.spec(), &me(), soon()).expect_err("a circle");
    assert!(error.to_string().contains("a circle"), "{error}");
    let mut chain = vec![portal()?];
    for _ in 0..6 {
        let next = chain.last().map(FakeTarget::address).ok_or("none")?;
        chain.push(FakeTarget::new()?.with_redirect(1, &next.to_string()));
    }
    let begin = chain.last().ok_or("none")?;
    let error = probe(&begin.spec(), &me(), &target(), soon()).expect_err("too many");
    assert!(error.to_string().contains("5th portal that sends us on"), "{error}");
    for (to, words) in [("san.example:3260", "look it up"), ("]nonsense[", "no address")] {
        let portal = FakeTarget::new()?.with_redirect(1, to);
        let error = discover_by(&portal.spec(), &me(), soon()).expect_err("nowhere");
        assert!(error.to_string().contains(words), "{error}");
    }
    Ok(())
}

#[test]
fn hostile_portals_come_to_an_end() -> Outcome {
    for (fault, words) in [
        (Fault::HangUp, "it wants CHAP"),
        (Fault::HugePdu, "more than the"),
        (Fault::WrongOpcode, "opcode 0x25"),
        (Fault::WrongTask, "which is not ours"),
        (Fault::Reject, "rejected our PDU (reason 0x04)"),
        (Fault::EndlessLogin, "the login does not end"),
        (Fault::EndlessText, "64 KiB of login text"),
        (Fault::EndlessList, "more than 4 MiB"),
        (Fault::EmptyParts, "does not end"),
        (Fault::NoTransferTag, "does not say how to ask"),
        (Fault::Pings, "talks without answering"),
    ] {
        let portal = FakeTarget::new()?.with_parts_of(10).with_fault(fault);
        let portal = portal.with_target("iqn.2026-01.a:one", &["10.1.24.10:3260,1"]);
        let started = Instant::now();
        let error = discover_by(&portal.spec(), &me(), soon()).expect_err(words);
        assert!(error.to_string().contains(words), "{fault:?}: {error}");
        assert!(started.elapsed() < Duration::from_secs(8), "{fault:?} took {:?}", started.elapsed());
    }
    let polite = portal()?.with_fault(Fault::OnePing);
    assert_eq!(discover_by(&polite.spec(), &me(), soon())?.len(), 1, "a ping is answered");
    let asks = portal()?.with_fault(Fault::Proposes);
    assert_eq!(discover_by(&asks.spec(), &me(), soon())?.len(), 1, "what it proposes is answered");
    assert!(probe(&asks.spec(), &me(), &target(), soon())?.status.is_success());
    Ok(())
}

#[test]
fn neither_silence_nor_a_byte_now_and_then_outlasts_the_deadline() -> Outcome {
    for fault in [Fault::Silent, Fault::Slow] {
        let portal = portal()?.with_fault(fault);
        let started = Instant::now();
        let deadline = Deadline::after(Duration::from_millis(300));
        let error = discover_by(&portal.spec(), &me(), deadline).expect_err("silent");
        let took = started.elapsed();
        assert!(error.is_retryable() && took >= Duration::from_millis(290), "{error}");
        assert!(took < Duration::from_secs(2), "{fault:?} took {took:?}");
    }
    Ok(())
}

#[test]
fn connections_come_from_where_they_are_told_to() -> Outcome {
    let portal = portal()?;
    let spec = portal.spec().with_source("127.0.0.9".parse()?);
    assert_eq!(discover_by(&spec, &me(), soon())?.len(), 1);
    let nowhere = portal.spec().with_source("192.0.2.1".parse()?);
    let error = discover_by(&nowhere, &me(), soon()).expect_err("not our address");
    assert_eq!(error.errno(), Some(99), "EADDRNOTAVAIL: {error}");
    let gone = portal.spec().with_interface("no-such-if0".parse()?);
    let error = discover_by(&gone, &me(), soon()).expect_err("no such interface");
    assert!(matches!(error.errno(), Some(19 | 1)), "ENODEV, or EPERM for those who may not bind: {error}");
    Ok(())
}

proptest! {
    #[test]
    fn any_bytes_are_a_list_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let spec = PortalSpec::new("127.0.0.1:3260".parse().expect("an address")).with_chap(ours());
        if let Ok(found) = discover_from(&bytes, &spec, &me()) {
            prop_assert!(found.len() <= bytes.len());
        }
    }
}
