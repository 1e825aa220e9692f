//! The family `drbd2`: no recording of it exists. What is sent and read here is written by hand from the numbers of `uapi/linux/drbd2.h`.
#![allow(clippy::expect_used, clippy::indexing_slicing)] // A test.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use host::nl::fake::{Answer, FakeKernel, Responder};
use host::nl::genl::CONTROLLER;
use host::nl::{Message, NESTED, Protocol, Reply, attributes};
use host::{Deadline, Host, Sectors};

use crate::nine::{Command, Connecting, Force, NodeId, Peer, PeerSpec, ResourceSpec};
use crate::{
    ConnState, Detach, Dialect, DiskOptions, DiskState, Drbd, Error, Event, MetaDisk, Minor, NetOptions,
    Phase, ReplState, ResourceName, ResourceOptions, Result, Role, Volume, VolumeSpec,
};

const ID: u16 = 0x21;

/// The bodies of the commands that were sent.
type Sent = Arc<Mutex<Vec<Vec<u8>>>>;

/// A kernel with the family, with one resource that has a peer.
#[derive(Debug, Default)]
struct Kernel {
    sent: Sent,
}

fn body(command: u8, fill: impl FnOnce(Message) -> Message) -> Reply {
    let message = fill(Message::new(ID, 0).with_header(&[command, 1, 0, 0]));
    Reply::new(ID, 0, 0, message.body().to_vec())
}

fn address(message: Message, kind: u16, last: u8) -> Message {
    message.with_nest(kind | NESTED, |m| {
        m.with(1, &2_u16.to_ne_bytes()).with(2, &7000_u16.to_be_bytes()).with(3, &[10, 0, 0, last])
    })
}

fn context(message: Message, parts: &str) -> Message {
    message.with_nest(1 | NESTED, |mut m| {
        m = m.with_str(1, "r0");
        for part in parts.chars() {
            m = match part {
                'v' => m.with_u32(2, 0).with_u32(3, 5),
                'n' => m.with_u32(4, 1),
                'c' => m.with_str(5, "n2"),
                _ => address(address(m, 6, 1), 7, 2),
            };
        }
        m
    })
}

/// The objects: kinds in dumps 23 to 27, in events 3 to 7.
fn resource(m: Message, kind: u16, role: u32) -> Message {
    m.with_nest(kind | NESTED, |m| {
        context(m, "")
            .with_nest(2, |m| m.with_u32(1, role).with_u8(2, 0).with_u8(5, 1))
            .with_nest(3, |m| m.with_u32(1, 2))
            .with_nest(5, |m| m.with_u32(4, 0).with_u32(11, 1024))
    })
}

fn device(m: Message, kind: u16, disk: u32) -> Message {
    m.with_nest(kind | NESTED, |m| {
        context(m, "v")
            .with_nest(2, |m| m.with_u32(1, disk).with_u8(2, 0).with_u8(3, 1).with_u8(4, 1))
            .with_nest(3, |m| m.with_u64(1, 4096).with_u64(12, 0x1234))
            .with_nest(4, |m| {
                let m =
                    m.with_str(1, "/dev/vdb").with_str(2, "/dev/vdb").with_u32(3, (-3_i32).cast_unsigned());
                m.with_u32(5, 0).with_u32(7, 67)
            })
    })
}

fn connection(m: Message, kind: u16, state: u32) -> Message {
    m.with_nest(kind | NESTED, |m| {
        context(m, "nc")
            .with_nest(2, |m| m.with_u32(1, state).with_u32(2, 2))
            .with_nest(4, |m| m.with_u32(6, 3).with_u32(31, 4096).with_str(30, "tcp"))
            .with_nest(5, |m| address(address(m, 6, 1), 7, 2))
    })
}

fn peer_device(m: Message, kind: u16, repl: u32) -> Message {
    m.with_nest(kind | NESTED, |m| {
        context(m, "vnc")
            .with_nest(2, |m| m.with_u32(1, repl).with_u32(2, 5).with_u8(3, 1).with_u8(4, 0))
            .with_nest(3, |m| m.with_u64(5, 64).with_u64(9, 128))
            .with_nest(4, |m| m.with_u32(5, 40_960))
    })
}

fn path(m: Message, kind: u16) -> Message {
    m.with_nest(kind | NESTED, |m| context(m, "nca").with_nest(2, |m| m.with_u8(1, 1)))
}

impl Responder for Kernel {
    fn answer(&mut self, _: Protocol, request: &Reply) -> Answer {
        if request.kind == CONTROLLER {
            let asked = |name: &str| attributes(&request.body[4..]).flatten().any(|a| a.text() == Some(name));
            let operations = |m: Message| {
                (1..=38).fold(m, |m, id: u32| m.with_nest(1, |m| m.with_u32(1, id).with_u32(2, 0x0c)))
            };
            // The old family is there too, for old tools.
            let version = if asked("drbd2") || asked("drbd") { 1 } else { 0 };
            if version == 0 {
                return Answer::status(2, None);
            }
            let (name, id) = if asked("drbd2") { ("drbd2", ID) } else { ("drbd", 0x20) };
            let family = Message::new(CONTROLLER, 0)
                .with_header(&[1, 2, 0, 0])
                .with_str(2, name)
                .with_u16(1, id)
                .with_u32(3, version)
                .with_nest(6, operations)
                .with_nest(7, |m| m.with_nest(1, |m| m.with_u32(2, 7).with_str(1, "events")));
            return Answer::one(Reply::new(CONTROLLER, 0, 0, family.body().to_vec()));
        }
        assert_eq!((request.kind, request.body[1]), (ID, 1), "the family and version asked for");
        let dump = |reply: Reply| Answer::dump(vec![reply]);
        let action = |m: Message, action: u32| m.with_u32(1, action);
        match request.body[0] {
            33 => dump(body(33, |m| resource(m, 23, 2))),
            34 => dump(body(34, |m| device(m, 24, 9))),
            35 => dump(body(35, |m| connection(m, 25, 9))),
            36 => dump(body(36, |m| peer_device(m, 26, 16))),
            37 => dump(body(37, |m| path(m, 27))),
            38 => {
                let mut answer = Answer::dump(vec![
                    body(39, |m| resource(action(m, 0), 3, 2)),
                    body(39, |m| connection(action(m, 0), 5, 9)),
                    body(39, |m| path(action(m, 0), 7)),
                    body(39, |m| device(action(m, 0), 4, 9)),
                    body(39, |m| peer_device(action(m, 0), 6, 10)),
                ]);
                let event = |seq: u32, reply: Reply| (7, Reply::new(ID, 0, seq, reply.body));
                answer.events = vec![
                    // Two that belong together, a helper, and the end.
                    event(3, body(39, |m| resource(action(m, 2).with(2, &[]), 3, 1))),
                    event(4, body(39, |m| device(action(m, 2), 4, 6))),
                    event(
                        5,
                        body(40, |m| {
                            context(m, "vnc")
                                .with_nest(16, |m| m.with_str(1, "split-brain").with_u32(2, 0).with_u32(3, 0))
                        }),
                    ),
                    event(6, body(39, |m| resource(action(m, 3), 3, 1))),
                ];
                answer
            }
            command => {
                self.sent.lock().expect("whole").push(request.body.clone());
                match command {
                    // Primary: no UpToDate data.
                    6 => Answer::one(body(6, |m| context(m, "").with_u32(3, 2).with_str(4, "one\ntwo"))),
                    7 => Answer::one(body(7, |m| context(m, "").with_u32(3, 30))),
                    // An errno in the place of a code.
                    12 => Answer::status(libc::EBUSY, Some("lower device is already claimed")),
                    _ => Answer::one(body(command, |m| context(m, "").with_u32(3, 29))),
                }
            }
        }
    }
}

fn drbd() -> Result<(Drbd, Sent)> {
    let kernel = Kernel::default();
    let sent = Arc::clone(&kernel.sent);
    let memory = host::fake::Memory::new();
    memory.edit(|nodes| nodes.put("/dev/vdb", vec![0; 1 << 20]));
    let host = Host::fake().with_tree(memory.tree()).with_nl(FakeKernel::new(kernel).transport());
    Ok((Drbd::on(&host)?, sent))
}

fn r0() -> Result<ResourceName> {
    Ok("r0".parse()?)
}

#[test]
fn the_new_family_is_preferred_and_its_tables_are_read() -> Result<()> {
    let (drbd, _) = drbd()?;
    assert_eq!(drbd.dialect(), Dialect::Drbd9);
    let all = drbd.list()?;
    let [state] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!((state.name.as_str(), state.role, state.node_id), ("r0", Role::Secondary, Some(0)));
    assert!(state.suspended.quorum && !state.suspended.user);
    let quorum = state.options.as_ref().and_then(|options| options.get("quorum"));
    assert_eq!(quorum.as_deref(), Some("majority"));
    let volume = &state.volumes[0];
    assert_eq!((volume.minor.get(), volume.disk, volume.size), (5, DiskState::UpToDate, Sectors(4096)));
    assert_eq!((volume.current_uuid, volume.has_quorum), (0x1234, Some(true)));
    assert_eq!(volume.disk_path.as_deref(), Some(std::path::Path::new("/dev/vdb")));
    let disk = volume.options.as_ref().expect("attached");
    assert_eq!(
        (disk.get("on-io-error").as_deref(), disk.get("al-extents").as_deref()),
        (Some("pass_on"), Some("67"))
    );
    let peer = &state.connections[0];
    assert_eq!(
        (peer.node_id, peer.peer_name.as_deref(), peer.state),
        (Some(1), Some("n2"), ConnState::Connected)
    );
    assert_eq!(peer.peer.to_string(), "10.0.0.2:7000");
    assert!(peer.paths.len() == 1 && peer.paths[0].is_established);
    let net = peer.options.as_ref().expect("configured");
    assert_eq!(
        (net.get("protocol").as_deref(), net.get("max-buffers").as_deref()),
        (Some("C"), Some("4096"))
    );
    let there = &peer.volumes[0];
    assert_eq!((there.repl, there.peer_disk), (ReplState::SyncSource, DiskState::Inconsistent));
    assert!(there.paused.user && !there.paused.peer);
    assert_eq!(there.out_of_sync, Sectors(64));
    assert_eq!(there.resync.map(|progress| progress.total.0), Some(128 * 512));
    let options = there.options.as_ref().expect("told");
    assert_eq!(options.get("c-max-rate").as_deref(), Some("40960"));
    Ok(())
}

#[test]
fn a_module_of_8_4_is_not_asked_for_it() -> Result<()> {
    let memory = host::fake::Memory::new();
    memory.edit(|nodes| nodes.put("/sys/module/drbd/version", "8.4.11\n"));
    let kernel = FakeKernel::new(Kernel::default());
    let host = Host::fake().with_tree(memory.tree()).with_nl(kernel.transport());
    assert_eq!(Drbd::on(&host)?.dialect(), Dialect::Drbd84);
    Ok(())
}

#[test]
fn its_events_are_read_to_the_end_of_the_resource() -> Result<()> {
    let mut watch = drbd()?.0.watch()?;
    let deadline = Deadline::after(Duration::from_secs(10));
    let mut next = || watch.next_before(deadline).map(|event| event.expect("in time"));
    let Event::Snapshot(states) = next()? else { panic!("no snapshot") };
    assert_eq!(states[0].connections[0].volumes[0].repl, ReplState::Established);
    let Event::Changed { old, new } = next()? else { panic!("no change") };
    assert_eq!((old.role, old.volumes[0].disk), (Role::Secondary, DiskState::UpToDate));
    assert_eq!((new.role, new.volumes[0].disk), (Role::Primary, DiskState::Outdated));
    let Event::Helper(helper) = next()? else { panic!("no helper") };
    assert_eq!((helper.name.as_str(), helper.phase), ("split-brain", Phase::Call));
    assert!(matches!(next()?, Event::SplitBrain(_)));
    assert!(matches!(next()?, Event::Removed(_)));
    Ok(())
}

#[test]
fn commands_are_written_in_its_numbers() -> Result<()> {
    let (drbd, sent) = drbd()?;
    let peer = || -> Result<Peer> { Ok(Peer::new(r0()?, NodeId(1))) };
    let ends = ("10.0.0.1:7000".parse().expect("an address"), "10.0.0.2:7000".parse().expect("an address"));
    let minor = Minor::new(5)?;
    let named = |m: Message| m.with_nest(1 | NESTED, |m| m.with_str(1, "r0"));
    let to_peer = |m: Message| m.with_nest(1 | NESTED, |m| m.with_str(1, "r0").with_u32(4, 1));
    let on_minor = |m: Message| m.with_nest(1 | NESTED, |m| m.with_u32(3, 5));
    let expected = [
        (
            Command::NewResource(r0()?, NodeId(3), ResourceOptions::new()),
            body(1, |m| named(m).with_nest(7 | NESTED, |m| m.with_u32(4, 3))),
        ),
        (
            Command::AllResourceOptions(r0()?, ResourceOptions::new().with("quorum", "all")?),
            body(3, |m| named(m).with(2, &[]).with_nest(7 | NESTED, |m| m.with_u32(11, 1025))),
        ),
        (
            Command::NewPath(peer()?, ends.0, ends.1),
            body(25, |m| {
                m.with_nest(1 | NESTED, |m| address(address(m.with_str(1, "r0").with_u32(4, 1), 6, 1), 7, 2))
            }),
        ),
        (
            Command::NetOptions(peer()?, NetOptions::new().with("max-buffers", "4096")?),
            body(23, |m| to_peer(m).with_nest(8 | NESTED, |m| m.with_u32(31, 4096))),
        ),
        (
            Command::Connect(peer()?, Connecting::DiscardMyData),
            body(21, |m| to_peer(m).with_nest(19 | NESTED, |m| m.with(2, &[]))),
        ),
        (
            Command::Detach(minor, Detach::Force),
            body(13, |m| on_minor(m).with_nest(14 | NESTED, |m| m.with(1, &[]))),
        ),
        (Command::ForgetPeer(peer()?), body(24, to_peer)),
        (
            Command::Verify(peer()?, Volume(0), Some(Sectors(8)), None),
            body(31, |m| {
                m.with_nest(1 | NESTED, |m| m.with_str(1, "r0").with_u32(4, 1).with_u32(2, 0))
                    .with_nest(11 | NESTED, |m| m.with_u64(1, 8))
            }),
        ),
    ];
    for (command, body) in expected {
        assert!(drbd.run_9(&command)?, "{command}");
        assert_eq!(sent.lock().expect("whole").pop(), Some(body.body), "{command}");
    }
    Ok(())
}

#[test]
fn its_refusals_are_those_of_drbd_9() -> Result<()> {
    let (drbd, _) = drbd()?;
    let error = drbd.run_9(&Command::Primary(r0()?, Force::No)).expect_err("refused");
    assert_eq!(error.refusal(), Some(crate::Refusal::NoUpToDateData));
    assert!(error.to_string().contains("one") && error.to_string().contains("two"), "{error}");
    assert!(!drbd.run_9(&Command::Secondary(r0()?, Force::No))?, "nothing to do");
    let attach = Command::Attach(Minor::new(5)?, "/dev/vdb".into(), MetaDisk::Internal, DiskOptions::new());
    let error = drbd.run_9(&attach).expect_err("refused");
    assert!(matches!(error, Error::Netlink { .. }), "{error}");
    Ok(())
}

#[test]
fn a_plan_is_carried_out_in_it() -> Result<()> {
    let (drbd, sent) = drbd()?;
    let ends = ("10.0.0.1:7000".parse().expect("an address"), "10.0.0.2:7000".parse().expect("an address"));
    let spec = ResourceSpec::new(r0()?, NodeId(0))
        .with_volume(VolumeSpec::new(Volume(0), Minor::new(5)?, "/dev/vdb"))
        .with_disk(DiskOptions::new().with("on-io-error", "pass_on")?.with("al-extents", "67")?)
        .with_peer(
            PeerSpec::new(NodeId(1), "n2")
                .with_path(ends.0, ends.1)
                .with_net(NetOptions::new().with("max-buffers", "4096")?),
        );
    // What it has that the spec does not ask for goes back to its defaults.
    assert!(drbd.ensure_9(&spec)?);
    let commands: Vec<_> = sent.lock().expect("whole").iter().map(|body| body[0]).collect();
    assert_eq!(commands, [3, 27], "resource and peer device options");
    Ok(())
}
