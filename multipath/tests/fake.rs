//! Maps from a scripted daemon, discovery from a scripted portal, sessions from a captured tree.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // It is a test.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use multipath::fake::FakeMultipathd;
use multipath::{Chap, Deadline, Error, Iqn, Secret, discover};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const MAPS: &str = include_str!("fixtures/maps-0.9.4.json");

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(5))
}

#[test]
fn maps_are_listed_and_found_by_disk() -> Outcome {
    let daemon = FakeMultipathd::new();
    assert!(daemon.multipath().list()?.is_empty());
    let daemon = daemon.with_answer("show maps json", MAPS);
    let maps = daemon.multipath();
    assert_eq!(maps.list()?.len(), 1);
    assert!(maps.get(&"36001405a1b2c3d4e5f60718293a4b5c6".parse()?)?.is_some());
    assert!(maps.get(&"36001405000000000000000000000000".parse()?)?.is_none());
    let broken = daemon.clone().with_answer("show maps json", "fail\n").multipath();
    assert!(matches!(broken.list(), Err(Error::Daemon { .. })));
    daemon.die();
    let error = maps.list().expect_err("dead");
    assert!(error.is_retryable() && error.to_string().contains("start it"), "{error}");
    Ok(())
}

/// A portal that answers one connection with these PDUs: (opcode, flags, status class, detail, data).
fn portal(
    answers: Vec<(u8, u8, u8, u8, Vec<u8>)>,
) -> std::io::Result<(SocketAddr, std::thread::JoinHandle<Vec<Vec<u8>>>)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a caller");
        let mut heard = Vec::new();
        for (opcode, flags, class, detail, data) in answers {
            let mut header = [0; 48];
            if stream.read_exact(&mut header).is_err() {
                break;
            }
            let length = usize::from(header[6]) << 8 | usize::from(header[7]);
            let mut body = vec![0; length.next_multiple_of(4)];
            stream.read_exact(&mut body).expect("a body");
            body.truncate(length);
            heard.push(body);
            let mut answer = [0; 48];
            (answer[0], answer[1], answer[36], answer[37]) = (opcode, flags, class, detail);
            answer[6] = u8::try_from(data.len() >> 8).expect("short");
            answer[7] = u8::try_from(data.len() & 0xff).expect("short");
            answer[16..20].copy_from_slice(&header[16..20]);
            answer[20..24].copy_from_slice(&[0, 0, 0, 1]);
            let mut bytes = answer.to_vec();
            bytes.extend(&data);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            stream.write_all(&bytes).expect("sends");
        }
        heard
    });
    Ok((address, thread))
}

fn me() -> Iqn {
    "iqn.2026-01.lab:hv".parse().expect("a name")
}

#[test]
fn discovery_joins_answers_cut_in_the_middle() -> Outcome {
    let (address, thread) = portal(vec![
        (0x23, 0x81, 0, 0, b"AuthMethod=None\0".to_vec()),
        (0x23, 0x87, 0, 0, vec![]),
        (0x24, 0x00, 0, 0, b"TargetName=iqn.2026-01.a:one\0TargetAddr".to_vec()),
        (0x24, 0x80, 0, 0, b"ess=10.0.0.1:3260,1\0".to_vec()),
        (0x26, 0x80, 0, 0, vec![]),
    ])?;
    let found = discover(address, &me(), None, soon())?;
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].target.as_str(), found[0].portals.len()), ("iqn.2026-01.a:one", 1));
    let heard = thread.join().expect("portal");
    assert!(String::from_utf8_lossy(&heard[0]).contains("SessionType=Discovery"));
    assert_eq!(heard[2], b"SendTargets=All\0");
    assert!(heard[3].is_empty());
    Ok(())
}

#[test]
fn chap_is_answered_and_the_secret_stays_home() -> Outcome {
    let (address, thread) = portal(vec![
        (0x23, 0x81, 0, 0, b"AuthMethod=CHAP\0".to_vec()),
        (0x23, 0x00, 0, 0, b"CHAP_A=7\0CHAP_I=5\0CHAP_C=0x0102030405060708\0".to_vec()),
        (0x23, 0x81, 0, 0, vec![]),
        (0x23, 0x87, 0, 0, vec![]),
        (0x24, 0x80, 0, 0, vec![]),
        (0x26, 0x80, 0, 0, vec![]),
    ])?;
    let chap = Chap::new("hv1", Secret::from("a secret of sixteen"))?;
    assert!(discover(address, &me(), Some(&chap), soon())?.is_empty());
    let heard: Vec<_> =
        thread.join().expect("portal").iter().map(|b| String::from_utf8_lossy(b).into_owned()).collect();
    assert!(heard[2].contains("CHAP_N=hv1") && heard[2].contains("CHAP_R=0x"), "{heard:?}");
    assert!(heard.iter().all(|text| !text.contains("a secret")));
    Ok(())
}

#[test]
fn a_refused_login_says_what_to_do() -> Outcome {
    for (class, detail, words, again) in [
        (2, 1, "wrong CHAP user or secret", false),
        (2, 2, "add its name to the target's ACLs", false),
        (3, 1, "try again", true),
    ] {
        let (address, thread) = portal(vec![(0x23, 0x81, class, detail, vec![])])?;
        let error = discover(address, &me(), None, soon()).expect_err("refused");
        assert!(error.to_string().contains(words) && error.is_retryable() == again, "{error}");
        thread.join().expect("portal");
    }
    let error = discover("127.0.0.1:1".parse()?, &me(), None, soon()).expect_err("nobody");
    assert!(error.to_string().contains("portal 127.0.0.1:1 cannot be reached"), "{error}");
    Ok(())
}

#[test]
fn a_silent_portal_ends_at_the_deadline() -> Outcome {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let started = std::time::Instant::now();
    let deadline = Deadline::after(Duration::from_millis(200));
    let error = discover(listener.local_addr()?, &me(), None, deadline).expect_err("silent");
    assert!(error.is_retryable() && started.elapsed() < Duration::from_secs(3), "{error}");
    Ok(())
}

#[test]
fn sessions_are_read_from_sysfs() -> Outcome {
    let memory = host::fake::Memory::new();
    memory.edit(|nodes| {
        let session = "/sys/class/iscsi_session/session3";
        for (file, value) in
            [("targetname", "iqn.2026-01.a:one\n"), ("state", "LOGGED_IN\n"), ("recovery_tmo", "5\n")]
        {
            nodes.put(&format!("{session}/{file}"), value);
        }
        let connection = "/sys/class/iscsi_connection/connection3:0";
        nodes.put(&format!("{connection}/persistent_address"), "10.1.24.10\n");
        nodes.put(&format!("{connection}/persistent_port"), "3260\n");
        let unit = format!("{session}/device/target2:0:0/2:0:0:0");
        nodes.put(&format!("{unit}/wwid"), "naa.6001405a1b2c3d4e5f60718293a4b5c6\n");
        nodes.put_dir(&format!("{unit}/block/sdb"));
    });
    let host = host::Host::fake().with_tree(memory.tree()).with_run_dir("/tmp/sankit-test");
    let sessions = multipath::Initiator::on(&host)?.sessions()?;
    assert_eq!(sessions.len(), 1);
    assert_eq!(sessions[0].portal, Some("10.1.24.10:3260".parse()?));
    assert_eq!((sessions[0].recovery, sessions[0].disks[0].device.as_str()), (Some(5), "sdb"));
    assert_eq!(sessions[0].disks[0].wwid, Some("36001405a1b2c3d4e5f60718293a4b5c6".parse()?));
    Ok(())
}
