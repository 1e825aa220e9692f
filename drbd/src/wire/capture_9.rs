//! The dialect of DRBD 9 against a recording of drbdsetup and a module (`tests/fixtures/drbd-9.3.3-linux-6.1.192.txt`).
#![allow(clippy::expect_used, clippy::indexing_slicing)] // A test: fixtures are whole.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use host::nl::fake::{Answer, FakeKernel, Responder};
use host::nl::genl::CONTROLLER;
use host::nl::{Message, Protocol, Reply, attributes};
use host::{Deadline, Host, Sectors};

use crate::nine::{Command, Connecting, Force, NodeId, Peer, PeerSpec, ResourceSpec, Step, diff};
use crate::wire::Command as Wire;
use crate::{
    Bitmap, ConnState, Detach, Dialect, DiskOptions, DiskState, Drbd, Error, Event, MetaDisk, Minor,
    NetOptions, Promote, Protocol as Replication, Refusal, ReplState, ResourceName, ResourceOptions,
    ResourceState, Result, Role, Volume, VolumeSpec,
};

const TEXT: &str = include_str!("../../tests/fixtures/drbd-9.3.3-linux-6.1.192.txt");

/// The other commands, each once, from the node with the id 1.
const COMMANDS: &str = include_str!("../../tests/fixtures/drbd-9.3.3-commands.txt");

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|n| u8::try_from(n).ok()).expect("hexadecimal");
    hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// The messages of a section: what was sent whole, what came back without its netlink header.
fn lines(section: &str, direction: &str) -> Vec<Vec<u8>> {
    let prefix = format!("{section} {direction} ");
    let found = TEXT.lines().filter_map(|line| line.strip_prefix(prefix.as_str()));
    found.map(|line| bytes(line.rsplit(' ').next().expect("a word"))).collect()
}

/// The module: what it said to the commands of the recording, its dumps, and its events.
#[derive(Debug, Default)]
struct Replay {
    dumps: &'static str,
    events: bool,
    /// A command that is refused.
    refuses: Option<Wire>,
    /// The commands that changed something, in order.
    ran: Arc<Mutex<Vec<u8>>>,
}

fn family() -> Message {
    let operation = |m: Message, id: u32| m.with_nest(1, |m| m.with_u32(1, id).with_u32(2, 0x0c));
    Message::new(CONTROLLER, 0)
        .with_header(&[1, 2, 0, 0])
        .with_str(2, "drbd")
        .with_u16(1, 0x20)
        .with_u32(3, 2)
        .with_u32(4, 8)
        .with_u32(5, 34)
        .with_nest(6, |m| [30, 31, 32, 33, 38].into_iter().fold(m, operation))
        .with_nest(7, |m| m.with_nest(1, |m| m.with_u32(2, 7).with_str(1, "events")))
}

impl Responder for Replay {
    fn answer(&mut self, _: Protocol, request: &Reply) -> Answer {
        let command = request.body[0];
        if request.kind == CONTROLLER {
            let is_drbd = attributes(&request.body[4..]).flatten().any(|a| a.text() == Some("drbd"));
            return match is_drbd {
                true => Answer::one(Reply::new(CONTROLLER, 0, 0, family().body().to_vec())),
                false => Answer::status(2, None),
            };
        }
        let reply = |body: Vec<u8>| Reply::new(0x20, 0, 0, body);
        if command == Wire::GET_INITIAL_STATE.0 {
            let mut answer = Answer::dump(Vec::new());
            answer.replies.splice(0..0, lines("13-events2", "<-").into_iter().map(reply));
            if self.events {
                let later = lines("EV", "<-").into_iter().skip(6).zip(3..);
                answer.events = later.map(|(body, seq)| (7, Reply::new(0x20, 0, seq, body))).collect();
            }
            return answer;
        }
        let dump: Vec<_> =
            lines(self.dumps, "<-").into_iter().filter(|body| body[0] == command).map(reply).collect();
        match command {
            30..=33 => Answer::dump(dump),
            _ => {
                let plain =
                    |code: i32| reply([&[command, 2, 0, 0, 0, 0, 0, 0][..], &code.to_ne_bytes()].concat());
                if self.refuses.is_some_and(|refused| refused.0 == command) {
                    return Answer::one(plain(104));
                }
                self.ran.lock().expect("whole").push(command);
                let all = TEXT.lines().filter_map(|line| line.split_once(" <- ").map(|(section, _)| section));
                let found = all.filter(|section| section.ends_with("@1") == self.dumps.ends_with("@1"));
                let answers = found.flat_map(|section| lines(section, "<-"));
                let answer = answers.into_iter().find(|body| body[0] == command).map(reply);
                Answer::one(answer.unwrap_or_else(|| plain(101)))
            }
        }
    }
}

fn replay(dumps: &'static str, events: bool) -> Drbd {
    let replay = Replay { dumps, events, ..Replay::default() };
    let host = Host::fake().with_nl(FakeKernel::new(replay).transport());
    Drbd::on(&host).expect("the recording has the family")
}

/// A header and the nests behind it, each as its raw fields by number: the order of options is the caller's.
type Normal = (Vec<u8>, Vec<(u16, BTreeMap<u16, Vec<u8>>)>);

fn normal(body: &[u8]) -> Normal {
    let nests = attributes(&body[12..]).flatten().map(|nest| {
        let fields = nest.nested().flatten().map(|field| (field.raw_kind, field.payload.to_vec()));
        (nest.raw_kind, fields.collect())
    });
    (body[..12].to_vec(), nests.collect())
}

fn r0() -> Result<ResourceName> {
    Ok("r0".parse()?)
}

fn peer() -> Result<Peer> {
    Ok(Peer::new(r0()?, NodeId(1)))
}

/// The commands of the recording.
fn recorded() -> Result<Vec<(&'static str, Command)>> {
    let minor = Minor::new(0)?;
    let net = NetOptions::new()
        .with("_name", "n2")?
        .with_protocol(Replication::C)
        .with("transport", "lb-tcp")?
        .with("ping-timeout", "5")?;
    let address = |text: &str| text.parse().expect("an address");
    Ok(vec![
        ("01-new-resource", Command::NewResource(r0()?, NodeId(0), ResourceOptions::new())),
        ("02-new-minor", Command::NewMinor(r0()?, Volume(0), minor, DiskOptions::new())),
        ("03-new-peer", Command::NewPeer(peer()?, net)),
        (
            "04-new-path",
            Command::NewPath(peer()?, address("192.168.123.1:7001"), address("192.168.123.2:7001")),
        ),
        (
            "05-peer-device-options",
            Command::PeerDeviceOptions(peer()?, Volume(0), DiskOptions::new().with("c-max-rate", "40M")?),
        ),
        (
            "06-attach",
            Command::Attach(
                minor,
                "/dev/vdb".into(),
                MetaDisk::Internal,
                DiskOptions::new().with("on-io-error", "detach")?,
            ),
        ),
        ("07-connect", Command::Connect(peer()?, Connecting::Usual)),
        ("10-primary", Command::Primary(r0()?, Force::Yes)),
        (
            "14-resource-options",
            Command::ResourceOptions(
                r0()?,
                ResourceOptions::new().with("quorum", "majority")?.with("on-no-quorum", "io-error")?,
            ),
        ),
        ("15-net-options", Command::NetOptions(peer()?, NetOptions::new().with("max-buffers", "4096")?)),
        ("16-disk-options", Command::DiskOptions(minor, DiskOptions::new().with("on-io-error", "pass_on")?)),
        ("17-pause-sync", Command::PauseSync(peer()?, Volume(0))),
        ("18-resume-sync", Command::ResumeSync(peer()?, Volume(0))),
    ])
}

#[test]
fn every_recorded_command_is_written_byte_for_byte() -> Result<()> {
    let family = replay("08-status", false).link.family(crate::link::About {
        command: Wire::DOWN,
        object: "",
        deadline: Deadline::after(Duration::from_secs(5)),
    })?;
    for (section, command) in recorded()? {
        let ours = command.encode(&family)?;
        let theirs = lines(section, "->").remove(0);
        let (header, body) = theirs.split_at(16);
        assert_eq!(ours.body().len(), body.len(), "{section}");
        assert_eq!(normal(ours.body()), normal(body), "{section}");
        // The order of options is that of drbdsetup's command line; where there is none to choose, every byte is the same.
        if !["03-new-peer", "06-attach"].contains(&section) {
            assert_eq!(ours.body(), body, "{section}");
        }
        assert_eq!((ours.kind(), &header[4..6]), (0x20, &[0x20, 0][..]), "{section}");
    }
    let all: Vec<_> = recorded()?.into_iter().map(|(section, _)| section).collect();
    let others = ["08-status", "09-status", "11-status", "12-show", "13-events2", "13-primary@1"];
    for line in TEXT.lines().filter_map(|line| line.split_once(" -> ")) {
        assert!(all.contains(&line.0) || others.contains(&line.0), "{} is not compared", line.0);
    }
    Ok(())
}

/// The commands of the other recording.
fn others() -> Result<Vec<(&'static str, Command)>> {
    let (zero, seven) = (Minor::new(0)?, Minor::new(7)?);
    let r9 = || -> Result<ResourceName> { Ok("r9".parse()?) };
    let peer = || -> Result<Peer> { Ok(Peer::new(r0()?, NodeId(0))) };
    let address = |text: &str| text.parse().expect("an address");
    let ends = (address("10.9.0.2:7789"), address("10.9.0.1:7789"));
    let small = DiskOptions::new().with("max-bio-size", "4096")?;
    let all = ResourceOptions::new().with("quorum", "all")?;
    Ok(vec![
        ("20-primary", Command::Primary(r0()?, Force::No)),
        ("21-secondary", Command::Secondary(r0()?, Force::No)),
        ("22-secondary-force", Command::Secondary(r0()?, Force::Yes)),
        ("23-new-current-uuid", Command::NewCurrentUuid(zero, Bitmap::Keep)),
        ("24-new-current-uuid-clear-bitmap", Command::NewCurrentUuid(zero, Bitmap::Clear)),
        ("25-suspend-io", Command::SuspendIo(zero)),
        ("26-resume-io", Command::ResumeIo(zero)),
        ("27-connect-tentative", Command::Connect(peer()?, Connecting::Tentative)),
        ("28-disconnect", Command::Disconnect(peer()?, Force::No)),
        ("29-connect-discard-my-data", Command::Connect(peer()?, Connecting::DiscardMyData)),
        ("30-disconnect-force", Command::Disconnect(peer()?, Force::Yes)),
        ("31-verify", Command::Verify(peer()?, Volume(0), None, None)),
        ("32-verify-part", Command::Verify(peer()?, Volume(0), Some(Sectors(8)), Some(Sectors(80)))),
        ("33-invalidate", Command::Invalidate(zero, None)),
        ("34-invalidate-from", Command::Invalidate(zero, Some(NodeId(0)))),
        ("35-invalidate-remote", Command::InvalidatePeer(peer()?, Volume(0))),
        ("36-outdate", Command::Outdate(zero)),
        ("37-resize", Command::Resize(zero, None)),
        ("38-resize-to", Command::Resize(zero, Some(Sectors(81_920)))),
        ("39-resource-options-all", Command::AllResourceOptions(r0()?, all)),
        ("40-detach", Command::Detach(zero, Detach::Graceful)),
        ("41-detach-force", Command::Detach(zero, Detach::Force)),
        ("42-new-path", Command::NewPath(peer()?, ends.0, ends.1)),
        ("43-del-path", Command::DelPath(peer()?, ends.0, ends.1)),
        ("44-new-minor-block-size", Command::NewMinor(r0()?, Volume(3), seven, small)),
        ("45-del-minor", Command::DelMinor(seven)),
        ("46-del-peer", Command::DelPeer(peer()?, Force::No)),
        ("47-forget-peer", Command::ForgetPeer(peer()?)),
        ("48-del-peer-force", Command::DelPeer(peer()?, Force::Yes)),
        ("49-rename-resource", Command::Rename(r0()?, r9()?)),
        ("50-del-minor", Command::DelMinor(zero)),
        ("51-del-resource", Command::DelResource(r9()?)),
        ("52-down", Command::Down(r0()?)),
    ])
}

#[test]
fn every_command_there_is_has_a_recording_and_is_written_byte_for_byte() -> Result<()> {
    let family = replay("08-status", false).link.family(crate::link::About {
        command: Wire::DOWN,
        object: "",
        deadline: Deadline::after(Duration::from_secs(5)),
    })?;
    let commands = others()?;
    let mut recorded_once = Vec::new();
    for line in COMMANDS.lines().filter(|line| !line.starts_with('#')) {
        let (section, rest) = line.split_once(' ').expect("a section");
        let (_, command) = commands.iter().find(|(name, _)| *name == section).expect("compared");
        let theirs = bytes(rest.rsplit(' ').next().expect("a word"));
        if rest.starts_with("->") {
            assert_eq!(command.encode(&family)?.body(), &theirs[16..], "{section}");
            recorded_once.push(section);
        } else {
            // The answer echoes what it is about.
            let reply = Reply::new(0x20, 0, 0, theirs);
            let packet = crate::wire::Packet::parse(&reply)?;
            let context = command.context().unwrap_or_default();
            assert_eq!((packet.command, packet.context), (command.wire().0, context), "{section}");
        }
    }
    let names: Vec<_> = commands.iter().map(|(name, _)| *name).collect();
    assert_eq!(recorded_once, names);
    // Each kind of command is in one of the two recordings.
    let all: Vec<_> =
        recorded()?.into_iter().chain(commands).map(|(_, c)| std::mem::discriminant(&c)).collect();
    let kinds = all.iter().collect::<std::collections::HashSet<_>>().len();
    assert_eq!(kinds, KINDS);
    Ok(())
}

/// How many variants [`Command`] has.
const KINDS: usize = 32;

#[test]
fn the_modules_answers_are_read() -> Result<()> {
    let drbd = replay("08-status", false);
    assert_eq!(drbd.dialect(), Dialect::Drbd9);
    for (section, command) in recorded()? {
        assert!(drbd.run_9(&command)?, "{section}");
    }
    // The peer was no data's owner yet.
    let refused =
        replay("13-primary@1", false).run_9(&Command::Primary(r0()?, Force::No)).expect_err("refused");
    assert_eq!(refused.refusal(), Some(Refusal::NoUpToDateData), "{refused}");
    // The same by the verbs that both have.
    drbd.promote(&r0()?, Promote::Force)?;
    drbd.demote(&r0()?)?;
    let replay = Replay { dumps: "08-status", refuses: Some(Wire::PRIMARY), ..Replay::default() };
    let host = Host::fake().with_nl(FakeKernel::new(replay).transport());
    let refused = Drbd::on(&host)?.promote(&r0()?, Promote::IfSafe).expect_err("refused").to_string();
    assert!(refused.contains("state: Secondary, volume 0 Inconsistent"), "{refused}");
    Ok(())
}

#[test]
fn verbs_of_84_refuse_drbd_9_and_the_other_way_round() -> Result<()> {
    let drbd = replay("08-status", false);
    assert!(matches!(drbd.generations(&r0()?), Err(Error::Unsupported { version: 2 })));
    assert!(matches!(drbd.suspend_io(&r0()?), Err(Error::Unsupported { version: 2 })));
    let fake = crate::fake::FakeDrbd::new();
    let drbd = Drbd::on(&fake.host())?;
    assert!(matches!(drbd.run_9(&Command::Down(r0()?)), Err(Error::Unsupported { version: 1 })));
    Ok(())
}

fn check(state: &ResourceState, connection: ConnState, role: Role) {
    assert_eq!((state.name.as_str(), state.role), ("r0", role));
    let volume = &state.volumes[0];
    assert_eq!((volume.minor.get(), volume.size), (0, Sectors(0x1_ff98)));
    assert_eq!(volume.has_quorum, Some(true));
    let peer = &state.connections[0];
    assert_eq!((peer.node_id, peer.peer_name.as_deref(), peer.state), (Some(1), Some("n2"), connection));
    assert_eq!(peer.local.to_string(), "192.168.123.1:7001");
    assert_eq!((peer.paths.len(), peer.peer.port()), (1, 7001));
}

#[test]
fn tables_are_read_and_joined() -> Result<()> {
    let all = replay("08-status", false).list()?;
    let [state] = all.as_slice() else { panic!("{all:?}") };
    check(state, ConnState::Connected, Role::Secondary);
    let (volume, connection) = (&state.volumes[0], &state.connections[0]);
    assert_eq!(volume.disk, DiskState::Inconsistent);
    assert_eq!(volume.disk_path.as_deref(), Some(std::path::Path::new("/dev/vdb")));
    assert_eq!((volume.current_uuid, volume.meta_disk.clone()), (4, Some(MetaDisk::Internal)));
    assert_eq!((connection.volumes[0].repl, connection.peer_role), (ReplState::Established, Role::Secondary));
    // What the module shows without having been told otherwise is what the tables say.
    let net = connection.options.as_ref().expect("configured");
    let set = NetOptions::new().with("protocol", "C")?.with("_name", "n2")?.with("transport", "lb-tcp")?;
    for row in NetOptions::table().iter().filter(|row| row.in_9.is_some_and(|(nest, _)| nest == 5)) {
        let shown = net.get(row.name).expect("known");
        assert_eq!(Some(shown), set.get(row.name), "{}", row.name);
    }
    assert_eq!(state.options.as_ref().and_then(|options| options.get("quorum")).as_deref(), Some("off"));
    assert_eq!(state.node_id, Some(0));
    // Primary, UpToDate.
    let all = replay("11-status", false).list()?;
    assert_eq!((all[0].role, all[0].volumes[0].disk), (Role::Primary, DiskState::UpToDate));
    assert_eq!(replay("11-status", false).role(&r0()?)?, Role::Primary);
    Ok(())
}

#[test]
fn events_are_read_to_the_end_of_the_resource() -> Result<()> {
    let mut watch = replay("11-status", true).watch()?;
    let mut words = Vec::new();
    let until = Deadline::after(Duration::from_secs(10));
    while let Some(event) = watch.next_before(until)? {
        words.push(match event {
            Event::Snapshot(all) => {
                check(&all[0], all[0].connections[0].state, all[0].role);
                format!("snapshot {}", all[0].role)
            }
            Event::Changed { new, .. } => match new.connections.first() {
                Some(c) => format!("{} {}", new.role, c.state),
                None => format!(
                    "{} {}",
                    new.role,
                    new.volumes.first().map_or("none".to_owned(), |v| v.disk.to_string())
                ),
            },
            Event::Helper(helper) => format!("helper {}", helper.name),
            Event::Removed(_) => "removed".to_owned(),
            other => format!("{other:?}"),
        });
        if words.last().is_some_and(|word| word == "removed") {
            break;
        }
    }
    let text = words.join(", ");
    for part in [
        "snapshot Primary",
        "Disconnecting, helper disconnected, helper disconnected",
        "Secondary StandAlone",
        "Secondary Detaching",
        "Secondary Diskless",
        "removed",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    Ok(())
}

/// The resource of the recording.
fn wanted() -> Result<ResourceSpec> {
    let address = |text: &str| text.parse().expect("an address");
    let net = NetOptions::new()
        .with_protocol(Replication::C)
        .with("transport", "lb-tcp")?
        .with("ping-timeout", "5")?;
    let disk = DiskOptions::new().with("c-max-rate", "40M")?.with("on-io-error", "detach")?;
    let peer = PeerSpec::new(NodeId(1), "n2").with_net(net);
    Ok(ResourceSpec::new(r0()?, NodeId(0))
        .with_volume(VolumeSpec::new(Volume(0), Minor::new(0)?, "/dev/vdb"))
        .with_disk(disk)
        .with_peer(peer.with_path(address("192.168.123.1:7001"), address("192.168.123.2:7001"))))
}

/// What the commands of a plan send.
fn sent(plan: &host::Plan<Step>) -> Result<Vec<Normal>> {
    let family = replay("08-status", false).link.family(crate::link::About {
        command: Wire::DOWN,
        object: "",
        deadline: Deadline::after(Duration::from_secs(5)),
    })?;
    let commands = plan.steps().iter().filter_map(|step| match step {
        Step::Run { command, .. } => Some(command),
        Step::ApplyAl { .. } => None,
    });
    commands.map(|command| Ok(normal(command.encode(&family)?.body()))).collect()
}

fn recorded_body(section: &str) -> Normal {
    normal(&lines(section, "->").remove(0)[16..])
}

#[test]
fn a_plan_from_nothing_sends_what_drbdsetup_sent() -> Result<()> {
    let plan = diff(None, &wanted()?)?;
    let theirs = [
        "01-new-resource",
        "02-new-minor",
        "03-new-peer",
        "04-new-path",
        "05-peer-device-options",
        "06-attach",
        "07-connect",
    ];
    assert_eq!(sent(&plan)?, theirs.map(recorded_body));
    let text = plan.to_string();
    let words: Vec<_> = text.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    assert_eq!(words[1..4], ["new-minor", "new-peer", "new-path"]);
    assert!(text.contains("drbdmeta 0 v09 /dev/vdb internal apply-al\n"), "{text}");
    assert!(
        text.contains("new-peer r0 1 --protocol=C --ping-timeout=5 --_name=n2 --transport=lb-tcp\n")
            || text.contains("new-peer r0 1 --protocol=C --ping-timeout=5 --transport=lb-tcp --_name=n2\n"),
        "{text}"
    );
    Ok(())
}

#[test]
fn what_was_set_up_so_needs_nothing_and_what_differs_is_sent_alone() -> Result<()> {
    let drbd = replay("08-status", false);
    let plan = drbd.plan_9(&wanted()?)?;
    assert!(plan.is_empty(), "{plan}");
    assert!(!drbd.ensure_9(&wanted()?)?);
    let mut other = wanted()?;
    other.options = other.options.with("quorum", "majority")?.with("on-no-quorum", "io-error")?;
    other.peers[0].net = other.peers[0].net.clone().with("max-buffers", "4096")?;
    other.disk = other.disk.with("on-io-error", "pass_on")?;
    let plan = drbd.plan_9(&other)?;
    assert_eq!(sent(&plan)?, ["14-resource-options", "15-net-options", "16-disk-options"].map(recorded_body));
    assert!(drbd.ensure_9(&other)?);
    // Another way to the peer, and another peer in its place.
    let mut other = wanted()?;
    other.peers[0].paths[0].1 = "192.168.124.2:7001".parse().expect("an address");
    let text = drbd.plan_9(&other)?.to_string();
    let at = "r0 1 ipv4:192.168.123.1:7001";
    assert_eq!(
        text,
        format!(
            "  1. drbdsetup new-path {at} ipv4:192.168.124.2:7001\n  2. drbdsetup del-path {at} ipv4:192.168.123.2:7001\n"
        )
    );
    other.peers[0].node = NodeId(2);
    let plan = drbd.plan_9(&other)?;
    let verbs: Vec<_> = plan.steps().iter().map(|step| step.to_string()).collect();
    let verbs: Vec<_> = verbs.iter().filter_map(|line| line.split(' ').nth(1)).collect();
    assert_eq!(verbs, ["disconnect", "del-peer", "new-peer", "new-path", "peer-device-options", "connect"]);
    assert_eq!(plan.impact(), host::Impact::DropsSessions);
    // What cannot be changed in place.
    let mut other = wanted()?;
    other.node = NodeId(3);
    assert!(matches!(drbd.plan_9(&other), Err(Error::Conflict { .. })));
    let mut other = wanted()?;
    other.peers[0].net = other.peers[0].net.clone().with("transport", "rdma")?;
    let error = drbd.plan_9(&other).expect_err("another transport").to_string();
    assert!(error.contains("transport \"lb-tcp\", not \"rdma\""), "{error}");
    Ok(())
}

#[test]
fn a_step_that_fails_takes_back_those_before_it() -> Result<()> {
    let ran = Arc::default();
    let replay =
        Replay { dumps: "none", refuses: Some(Wire::ATTACH), ran: Arc::clone(&ran), ..Replay::default() };
    let memory = host::fake::Memory::new();
    memory.edit(|nodes| nodes.put("/dev/vdb", vec![0; 1 << 20]));
    let host = Host::fake().with_tree(memory.tree()).with_nl(FakeKernel::new(replay).transport());
    let error = Drbd::on(&host)?.ensure_9(&wanted()?).expect_err("refused");
    let Error::Apply { failed } = &error else { panic!("{error}") };
    assert_eq!((failed.number, failed.total), (7, 8));
    let names = [
        Wire::NEW_RESOURCE,
        Wire::NEW_MINOR,
        Wire::NEW_PEER,
        Wire::NEW_PATH,
        Wire::CHG_PEER_DEVICE_OPTS,
        Wire::DEL_PATH,
        Wire::DEL_PEER,
        Wire::DEL_MINOR,
        Wire::DEL_RESOURCE,
    ];
    assert_eq!(*ran.lock().expect("whole"), names.map(|command| command.0));
    Ok(())
}

#[test]
fn mistakes_of_a_spec_are_named() -> Result<()> {
    let twice = PeerSpec::new(NodeId(0), "n3");
    let lonely = PeerSpec::new(NodeId(40), "n3");
    for (spec, expected) in [
        (wanted()?.with_peer(twice), "the node id 0 is given twice"),
        (wanted()?.with_peer(lonely), "the peer 40 (n3) has no path"),
        (wanted()?.with_disk(DiskOptions::new().with("fencing", "resource-only")?), "DRBD 9 has no option"),
    ] {
        let error = diff(None, &spec).expect_err(expected).to_string();
        assert!(error.contains(expected), "{error}");
    }
    Ok(())
}
