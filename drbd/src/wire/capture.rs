//! The codec against a recording of drbdsetup and a kernel (`tests/fixtures/drbd-8.4.11-linux-6.1.192.txt`): what this crate sends is,
//! byte for byte, what drbdsetup sent but for the order of the options, and what the kernel answered is read as it was meant.
#![allow(clippy::expect_used, clippy::indexing_slicing)] // A test: fixtures are whole.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use host::nl::attributes;
use host::nl::fake::{Answer, FakeKernel, Responder};
use host::nl::genl::CONTROLLER;
use host::nl::{Protocol, Reply};
use host::{Deadline, Host, Sectors};

use crate::wire::Command;
use crate::{
    ConnState, DiskOptions, DiskState, Drbd, Error, Event, MetaDisk, Minor, NetOptions, Promote,
    Protocol as Replication, Refusal, ReplState, ResourceSpec, ResourceState, Role, Step, Volume, VolumeSpec,
};

const TEXT: &str = include_str!("../../tests/fixtures/drbd-8.4.11-linux-6.1.192.txt");

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|n| u8::try_from(n).ok()).expect("hexadecimal");
    hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// The requests of a section of the recording: type and body, without the family's resolution.
fn requests(section: &str) -> Vec<Reply> {
    lines(section, "->")
        .map(|hex| Reply::parse_all(&bytes(hex)).next().expect("one").expect("whole"))
        .filter(|request| request.kind != CONTROLLER)
        .collect()
}

fn lines<'a>(section: &'a str, direction: &'a str) -> impl Iterator<Item = &'a str> {
    let prefix = format!("{section} {direction} ");
    TEXT.lines()
        .filter_map(move |line| line.strip_prefix(prefix.as_str()))
        .filter_map(|l| l.rsplit(' ').next())
}

fn replies(section: &str) -> Vec<Vec<u8>> {
    lines(section, "<-").map(bytes).collect()
}

/// A kernel that answers from the recording, and remembers what it was asked.
#[derive(Debug, Default)]
struct Replay {
    seen: Arc<Mutex<Vec<Reply>>>,
}

impl Responder for Replay {
    fn answer(&mut self, _: Protocol, request: &Reply) -> Answer {
        let command = request.body[0];
        if request.kind == CONTROLLER {
            let is_drbd = attributes(&request.body[4..]).flatten().any(|a| a.text() == Some("drbd"));
            return match is_drbd {
                true => Answer::one(Reply::new(CONTROLLER, 0, 0, replies("NR").remove(0))),
                false => Answer::status(2, None),
            };
        }
        self.seen.lock().expect("unbroken").push(request.clone());
        let of = |section: &str| -> Vec<Reply> {
            let all = replies(section).into_iter().filter(|body| body[0] == command);
            all.map(|body| Reply::new(0x20, 0, 0, body)).collect()
        };
        if command == Command::GET_INITIAL_STATE.0 {
            let all = replies("EVNOW").into_iter().skip(1);
            let mut answer = Answer::dump(Vec::new());
            answer.replies.splice(0..0, all.map(|body| Reply::new(0x20, 0, 0, body)));
            return answer;
        }
        match command {
            7 => Answer::one(of("NR").remove(0)),
            // The recording has none of it; a resource without volumes makes the reader take the four tables.
            2 => Answer::dump(vec![Reply::new(
                0x20,
                0,
                0,
                [&[2, 1, 0, 0], &[0xff; 4][..], &101_u32.to_ne_bytes()].concat(),
            )]),
            10 => Answer::one(of("CONN").remove(0)),
            12 => Answer::one(of("ATTACH").remove(0)),
            14 => Answer::one(of("ERR").remove(0)),
            _ => Answer::dump(of("STATUS")),
        }
    }
}

fn replay() -> (Drbd, Arc<Mutex<Vec<Reply>>>) {
    let responder = Replay::default();
    let seen = Arc::clone(&responder.seen);
    let host = Host::fake().with_nl(FakeKernel::new(responder).transport());
    (Drbd::on(&host).expect("the recording has the family"), seen)
}

/// A header and the nests behind it.
type Normal = (Vec<u8>, Vec<(u16, BTreeMap<u16, Vec<u8>>)>);

/// Header, then each nest as its raw fields by number: the order of options is the caller's.
fn normal(request: &Reply) -> Normal {
    let nests = attributes(&request.body[12..]).flatten().map(|nest| {
        let fields = nest.nested().flatten().map(|field| (field.raw_kind, field.payload.to_vec()));
        (nest.raw_kind, fields.collect())
    });
    (request.body[..12].to_vec(), nests.collect())
}

fn volume() -> VolumeSpec {
    VolumeSpec::new(Volume(0), Minor::new(0).expect("small"), "/dev/loop0")
}

#[test]
fn requests_are_those_of_drbdsetup() -> Result<(), Error> {
    let (drbd, seen) = replay();
    let (local, peer) = ([127, 0, 0, 1].into(), [127, 0, 0, 1].into());
    let spec = ResourceSpec::new(
        "r0".parse()?,
        (std::net::IpAddr::V4(local), 7788).into(),
        (std::net::IpAddr::V4(peer), 7789).into(),
    );
    let net = NetOptions::new()
        .with_protocol(Replication::B)
        .with("shared-secret", "secret")?
        .with("cram-hmac-alg", "sha1")?
        .with("verify-alg", "crc32c")?
        .with("sndbuf-size", "1024k")?
        .with("max-buffers", "8192")?
        .with("unplug-watermark", "8192")?;
    let disk = DiskOptions::new()
        .with("c-plan-ahead", "0")?
        .with("resync-rate", "400M")?
        .with("al-extents", "6433")?
        .with("disk-barrier", "no")?
        .with("disk-flushes", "no")?;
    for (section, step) in [
        ("NR", Step::NewResource { name: spec.name.clone(), options: crate::ResourceOptions::new() }),
        (
            "ATTACH",
            Step::Attach {
                minor: volume().minor,
                disk: volume().disk,
                meta: MetaDisk::Internal,
                options: disk,
            },
        ),
        ("CONN", Step::Connect { name: spec.name.clone(), local: spec.local, peer: spec.peer, options: net }),
    ] {
        drbd.apply(host::Plan::new(vec![step]))?;
        let sent = seen.lock().expect("unbroken").pop().expect("a request");
        let theirs = requests(section).pop().expect("a request");
        assert_eq!(normal(&sent), normal(&theirs), "{section}");
        assert_eq!((sent.kind, sent.body.len()), (theirs.kind, theirs.body.len()), "{section}");
        if section == "NR" {
            assert_eq!(sent.body, theirs.body);
        }
    }
    Ok(())
}

#[test]
fn a_refused_promotion_is_read() -> Result<(), Error> {
    let (drbd, seen) = replay();
    let error = drbd.promote(&"r0".parse()?, Promote::IfSafe).expect_err("refused");
    assert_eq!(error.refusal(), Some(Refusal::NoUpToDateData));
    assert!(error.to_string().contains("state: Primary, volume 0 UpToDate"), "{error}");
    let sent = seen.lock().expect("unbroken");
    let primary = sent.iter().find(|request| request.body[0] == Command::PRIMARY.0).expect("asked");
    assert_eq!(primary.body, requests("ERR").pop().expect("a request").body);
    Ok(())
}

#[test]
fn tables_are_read_and_joined() -> Result<(), Error> {
    let (drbd, seen) = replay();
    let all = drbd.list()?;
    let [r0, r1] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!((r0.name.as_str(), r0.role, r1.role), ("r0", Role::Primary, Role::Secondary));
    let volume = &r0.volumes[0];
    assert_eq!((volume.disk, volume.size), (DiskState::UpToDate, Sectors(0x1_ffb0)));
    assert_eq!(volume.current_uuid, 0x7d62_56cc_ff69_f923);
    assert_eq!(volume.disk_path.as_deref(), Some(std::path::Path::new("/dev/loop0")));
    assert_eq!(volume.meta_disk, Some(MetaDisk::Internal));
    let options = volume.options.as_ref().expect("attached");
    assert_eq!(options.get("al-extents").as_deref(), Some("6433"));
    assert_eq!(options.get("resync-after").as_deref(), Some("-1"));
    // r0 is StandAlone after an error of its own; r1 waits for it.
    assert_eq!((r0.connections.len(), r0.peer_is_secondary()), (0, None));
    let connection = &r1.connections[0];
    assert_eq!((connection.local.port(), connection.peer.port()), (7789, 7788));
    assert_eq!((connection.state, connection.peer_role), (ConnState::Connecting, Role::Unknown));
    let net = connection.options.as_ref().expect("configured");
    // Every option r1 shows has its default, but for the order of the tables: so the defaults are the kernel's.
    assert_eq!(
        net.differences(&NetOptions::new().with("protocol", net.get("protocol").as_deref().unwrap_or("C"))?),
        [""; 0]
    );
    let peer = &connection.volumes[0];
    assert_eq!(
        (peer.repl, peer.peer_disk, peer.out_of_sync),
        (ReplState::Off, DiskState::DUnknown, Sectors(0x1_ffb0))
    );
    let dump = seen.lock().expect("unbroken").iter().find(|r| r.body[0] == 30).cloned().expect("asked");
    assert_eq!(dump.body, requests("STATUS")[0].body);
    Ok(())
}

#[test]
fn the_initial_state_is_read() -> Result<(), Error> {
    let (drbd, _) = replay();
    let mut watch = drbd.watch()?;
    let event = watch.next_before(Deadline::after(std::time::Duration::from_secs(5)))?;
    let Some(Event::Snapshot(all)) = event else { panic!("{event:?}") };
    let told: Vec<_> = all.iter().map(ResourceState::summary).collect();
    assert_eq!(
        told,
        [
            "Primary, volume 0 UpToDate, StandAlone",
            "Secondary, volume 0 Inconsistent, 127.0.0.1:7788 Connecting, peer Unknown, peer volume 0 DUnknown Off",
        ]
    );
    Ok(())
}
