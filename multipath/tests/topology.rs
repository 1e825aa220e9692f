//! Maps of the kernel and of multipathd, joined with sessions and cards, judged and drawn: all in memory.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing)] // It is a test.

use std::time::Duration;

use host::fake::Memory;
use multipath::fake::{FakeMapper, FakeMultipathd, Faults, Generation};
use multipath::{
    Bytes, CheckerState, Difference, Error, GroupPhase, GroupState, Health, Host, Initiator, IscsiRoute,
    Kernel, Lack, MapState, MapTopology, Nic, PathInfo, PathState, Queueing, Route, Topology, Transport,
    Warning,
};

type Outcome = Result<(), Box<dyn std::error::Error>>;

const WWID: &str = "36001405a1b2c3d4e5f60718293a4b5c6";
const TABLE: &str = "1 queue_if_no_path 1 alua 1 1 service-time 0 2 2 8:16 1 1 8:32 1 1";

/// Two paths over two sessions, on two VLANs of one bond.
fn memory() -> Memory {
    let memory = Memory::new();
    memory.edit(|nodes| {
        for (n, disk, number) in [(2, "sdb", "8:16"), (3, "sdc", "8:32")] {
            let device = format!("/sys/devices/platform/host{n}/session{n}/target{n}:0:0/{n}:0:0:1");
            nodes.put_link(&format!("/sys/dev/block/{number}"), &format!("{device}/block/{disk}"));
            // The tree in memory does not go through links: both places have what is read there.
            let (block, class) = (format!("/sys/block/{disk}"), format!("/sys/class/block/{disk}"));
            nodes.put(&format!("{block}/size"), "2048\n");
            nodes.put(&format!("{block}/ro"), "0\n");
            nodes.put_dir(&format!("{block}/holders/dm-0"));
            nodes.put(&format!("{class}/size"), "2048\n");
            nodes.put(&format!("{class}/dev"), format!("{number}\n"));
            nodes.put(&format!("{class}/device/wwid"), "naa.6001405a1b2c3d4e5f60718293a4b5c6\n");
            for (file, value) in [
                ("state", "running\n"),
                ("vendor", "LIO-ORG \n"),
                ("model", "vmstor1         \n"),
                ("rev", "4.0 \n"),
                ("wwid", "naa.6001405a1b2c3d4e5f60718293a4b5c6\n"),
            ] {
                nodes.put(&format!("{block}/device/{file}"), value);
            }
            let session = format!("/sys/class/iscsi_session/session{n}");
            nodes.put(&format!("{session}/targetname"), "iqn.2026-01.a:one\n");
            nodes.put(&format!("{session}/state"), "LOGGED_IN\n");
            nodes.put(&format!("{session}/recovery_tmo"), "5\n");
            nodes.put_dir(&format!("{session}/device/target{n}:0:0/{n}:0:0:1/block/{disk}"));
            let connection = format!("/sys/class/iscsi_connection/connection{n}:0");
            for (file, value) in [
                ("persistent_address", format!("10.1.2{n}.10\n")),
                ("persistent_port", "3260\n".to_owned()),
                ("state", "up\n".to_owned()),
                ("recv_tmo", "5\n".to_owned()),
                ("ping_tmo", "5\n".to_owned()),
            ] {
                nodes.put(&format!("{connection}/{file}"), &value);
            }
            nodes.put(&format!("/sys/class/iscsi_host/host{n}/ipaddress"), format!("10.1.2{n}.1\n"));
        }
        nodes.put_dir("/sys/block/dm-0/holders/dm-1");
    });
    memory
}

fn mapper() -> FakeMapper {
    FakeMapper::new()
        .with_map("mpatha", &format!("mpath-{WWID}"), 2048, TABLE)
        .with_map("other", "LVM-x", 2048, "0 0 0 0")
}

fn host(mapper: &FakeMapper) -> Host {
    let mapper = host::dm::Backend::of(mapper.clone());
    Host::fake().with_tree(memory().tree()).with_dm(mapper).with_run_dir("/tmp/sankit-test")
}

/// What multipathd says of the same map.
fn daemon() -> FakeMultipathd {
    let path = |device: &str, number: &str| {
        PathInfo::new(device, number, PathState::Active)
            .with_target("iqn.2026-01.a:one")
            .with_checker("directio", CheckerState::Ready)
    };
    let paths = [path("sdb", "8:16"), path("sdc", "8:32")];
    let map = MapState::new("mpatha", WWID, "dm-0")
        .with_product("LIO-ORG", "vmstor1")
        .with_queueing(Queueing::Retries(24))
        .with_group(GroupState::new(GroupPhase::Active, 50, "service-time 0", paths));
    FakeMultipathd::new().with_generation(Generation::V0_14).with_map(map)
}

fn topology(host: &Host, daemon: &FakeMultipathd) -> multipath::Result<Topology> {
    Initiator::on(host)?.with_multipath(daemon.multipath()).topology()
}

#[test]
fn the_kernel_alone_tells_of_maps_and_their_paths() -> Outcome {
    let mapper = mapper();
    let kernel = Kernel::on(&host(&mapper));
    let maps = kernel.list()?;
    assert_eq!(maps.len(), 1, "what is no multipath map is none");
    let map = &maps[0];
    assert_eq!((map.name.as_str(), map.wwid.as_str(), map.node.as_str()), ("mpatha", WWID, "dm-0"));
    assert_eq!((map.size, map.open_count, map.handler.as_str()), (Some(Bytes(1 << 20)), Some(0), "1 alua"));
    assert_eq!(
        (map.vendor.as_str(), map.product.as_str(), map.revision.as_str()),
        ("LIO-ORG", "vmstor1", "4.0")
    );
    let path = &map.groups[0].paths[1];
    assert_eq!((path.device.as_str(), path.lun, path.failures), ("sdc", Some(1), Some(0)));
    assert_eq!(path.hctl.map(|hctl| hctl.to_string()).as_deref(), Some("3:0:0:1"));
    assert_eq!(kernel.get(&WWID.parse()?)?.as_ref(), Some(map));
    assert_eq!(kernel.get_by_name(&"mpatha".parse()?)?.as_ref(), Some(map));
    assert!(kernel.get_by_name(&"other".parse()?)?.is_none() && kernel.get(&"3600".parse()?)?.is_none());
    assert!(kernel.table(&"none".parse()?)?.is_none());
    Ok(())
}

#[test]
fn faults_are_counted_and_queueing_changes() -> Outcome {
    let mapper = mapper();
    let host = host(&mapper);
    let (kernel, faults) = (Kernel::on(&host), Faults::on(&host));
    let name = "mpatha".parse()?;
    faults.fail(&name, &"8:16".parse()?)?;
    let map = kernel.get_by_name(&name)?.ok_or("no map")?;
    assert_eq!((map.working(), map.groups[0].paths[0].failures), (1, Some(1)));
    faults.reinstate(&name, &"8:16".parse()?)?;
    faults.offline("sdb")?;
    kernel.set_when_no_path(&name, multipath::WhenNoPath::Fail)?;
    let map = kernel.get_by_name(&name)?.ok_or("no map")?;
    assert_eq!((map.working(), &map.queueing, map.features.as_str()), (2, &Queueing::Off, "0"));
    assert_eq!(map.groups[0].paths[0].device_state, multipath::DeviceState::Offline);
    let error = faults.fail(&name, &"8:99".parse()?).expect_err("no such path");
    assert_eq!(error.errno(), Some(libc::EINVAL));
    Ok(())
}

#[test]
fn a_map_is_joined_down_to_its_portals() -> Outcome {
    let mapper = mapper();
    let topology = topology(&host(&mapper), &daemon())?;
    assert_eq!(topology.maps.len(), 1);
    let map = &topology.maps[0];
    assert_eq!(map.used_by, ["dm-1"]);
    assert_eq!((map.map.size, &map.map.queueing), (Some(Bytes(1 << 20)), &Queueing::Retries(24)));
    let route = map.routes[1].iscsi().ok_or("no session")?;
    assert_eq!((route.session, route.portal), (3, Some("10.1.23.10:3260".parse()?)));
    assert_eq!((route.local, route.failover()), (Some("10.1.23.1".parse()?), Some(Duration::from_secs(16))));
    assert!(map.routes[1].used_by.is_empty() && map.routes[1].path.checker == CheckerState::Ready);
    assert_eq!((&map.health, map.warnings.as_slice()), (&Health::Healthy, [].as_slice()));
    let text = topology.to_string();
    for line in [
        "mpatha (36001405a1b2c3d4e5f60718293a4b5c6) dm-0 LIO-ORG,vmstor1",
        "size=1.0M features='1 queue_if_no_path' hwhandler='1 alua' wp=rw",
        "`-+- policy='service-time 0' prio=50 status=enabled",
        "  |- 2:0:0:1 sdb 8:16 active ready running  session 2 LOGGED_IN portal 10.1.22.10:3260 from 10.1.22.1",
        "  `- 3:0:0:1 sdc 8:32 active ready running  session 3 LOGGED_IN portal 10.1.23.10:3260 from 10.1.23.1",
        "  used by dm-1",
        "  healthy",
    ] {
        assert!(text.lines().any(|l| l == line), "{line:?} is not in\n{text}");
    }
    let json: serde_json::Value = serde_json::from_str(&topology.to_json()?)?;
    let route = &json["maps"][0]["routes"][0]["transport"]["Iscsi"];
    assert_eq!(route["portal"], "10.1.22.10:3260");
    assert_eq!(json["maps"][0]["map"]["size"], 1 << 20);
    Ok(())
}

#[test]
fn one_source_is_enough_and_none_is_an_error() -> Outcome {
    let daemon = daemon();
    let mapper = mapper();
    let no_kernel = host(&mapper).with_dm(host::dm::Backend::none());
    let seen = topology(&no_kernel, &daemon)?;
    assert_eq!(
        seen.maps[0].routes[0].path.hctl.map(|hctl| hctl.host),
        Some(2),
        "sysfs completes what multipathd says"
    );
    daemon.die();
    let seen = topology(&host(&mapper), &daemon)?;
    assert_eq!(seen.maps[0].map.queueing, Queueing::Forever);
    let error = topology(&no_kernel, &daemon).expect_err("nobody");
    assert!(matches!(error, Error::Mapper { .. }), "{error}");
    Ok(())
}

fn map(queueing: Queueing) -> MapState {
    let mut map = MapState::new("m", WWID, "dm-0").with_queueing(queueing);
    map.counters = Some(multipath::Counters::default());
    map.size = Some(Bytes(4096));
    map
}

fn route(device: &str, state: PathState, portal: &str, nic: Option<Nic>) -> Route {
    let path = PathInfo::new(device, "8:0", state).with_checker("directio", CheckerState::Ready);
    let mut iscsi =
        IscsiRoute::new(1, "iqn.2026-01.a:one".parse().expect("a name"), portal.parse().ok(), nic);
    iscsi.recovery = Some(Duration::from_secs(5));
    Route::new(path, 0).with_transport(Transport::Iscsi(Box::new(iscsi)))
}

fn judged(map: MapState, routes: Vec<Route>) -> MapTopology {
    MapTopology::new(map, vec![], routes)
}

const A: &str = "10.0.0.1:3260";
const B: &str = "10.0.1.1:3260";

#[test]
fn health_is_told_with_its_reason() {
    let up =
        |device: &str, portal: &str, nic: &str| route(device, PathState::Active, portal, Some(Nic::new(nic)));
    let down = |device: &str| route(device, PathState::Failed, A, None);
    let of = |queueing: Queueing, routes: Vec<Route>| judged(map(queueing), routes).health;
    use Queueing::{Forever, Off, Retries, Seconds};
    assert_eq!(of(Off, vec![up("sda", A, "eth0"), up("sdb", B, "eth1")]), Health::Healthy);
    assert_eq!(of(Off, vec![up("sda", A, "eth0")]), Health::NoRedundancy(vec![Lack::OnePath]));
    assert_eq!(
        of(Off, vec![up("sda", A, "eth0"), up("sdb", A, "eth0")]),
        Health::NoRedundancy(vec![Lack::SamePortal(A.to_owned()), Lack::SameNic("eth0".to_owned())])
    );
    assert_eq!(of(Off, vec![up("sda", A, "eth0"), down("sdb")]), Health::Degraded { failed: 1, working: 1 });
    assert_eq!(of(Off, vec![down("sda"), down("sdb")]), Health::Failed);
    assert_eq!(of(Forever, vec![down("sda")]), Health::Queueing { left: None });
    assert_eq!(of(Seconds(40), vec![down("sda")]), Health::Queueing { left: Some(Duration::from_secs(40)) });
    assert!(!of(Retries(12), vec![]).serves());
    let mut suspended = map(Off);
    suspended.suspended = true;
    assert_eq!(judged(suspended, vec![up("sda", A, "eth0")]).health, Health::Suspended);
}

#[test]
fn cards_are_judged_by_what_is_at_the_bottom() {
    let on = |name: &str, ports: &[&str], switch: Option<&str>| {
        let mut nic = Nic::new(name);
        nic.ports = ports.iter().map(|port| (*port).to_owned()).collect();
        nic.switches = switch.into_iter().map(str::to_owned).collect();
        Some(nic)
    };
    let of = |one, other| {
        let routes = vec![route("sda", PathState::Active, A, one), route("sdb", PathState::Active, B, other)];
        judged(map(Queueing::Off), routes).health
    };
    // Two VLANs of one bond of two cards stand on two cards, two VLANs of one card on one.
    let bond = ["eth0", "eth1"];
    assert_eq!(of(on("bond0.24", &bond, None), on("bond0.25", &bond, None)), Health::Healthy);
    assert_eq!(
        of(on("eth0.24", &["eth0"], None), on("eth0.25", &["eth0"], None)),
        Health::NoRedundancy(vec![Lack::SameNic("eth0".to_owned())])
    );
    assert_eq!(
        of(on("eth0", &["eth0"], Some("ab12")), on("eth1", &["eth1"], Some("ab12"))),
        Health::NoRedundancy(vec![Lack::SameSwitch("ab12".to_owned())])
    );
    assert_eq!(of(on("eth0", &["eth0"], Some("ab12")), on("eth1", &["eth1"], None)), Health::Healthy);
    assert_eq!(of(on("eth0", &["eth0"], None), None), Health::Healthy, "of an unknown card nothing follows");
}

#[test]
fn paths_that_do_not_fit_are_the_worst() -> Outcome {
    let mut other = route("sdb", PathState::Active, B, None);
    other.wwid = Some("36001405ffffffffffffffffffffffff".parse()?);
    other.size = Some(Bytes(8192));
    let mut read_only = route("sdc", PathState::Failed, B, None);
    read_only.read_only = Some(true);
    let mut map = map(Queueing::Off);
    map.read_only = Some(false);
    let Health::Inconsistent(found) = judged(map, vec![other, read_only]).health else {
        panic!("consistent")
    };
    assert_eq!(found.len(), 3);
    assert!(matches!(&found[0], Difference::Disk { device, .. } if device == "sdb"));
    assert_eq!(found[1], Difference::Size { device: "sdb".to_owned(), found: Bytes(8192) });
    assert_eq!(found[2], Difference::ReadOnly { device: "sdc".to_owned() });
    Ok(())
}

#[test]
fn what_will_go_wrong_is_warned_of() {
    let edit = |device: &str, change: &dyn Fn(&mut Route, &mut IscsiRoute)| {
        let mut route = route(device, PathState::Active, A, None);
        let Transport::Iscsi(mut iscsi) = route.transport.clone() else { panic!("iSCSI") };
        change(&mut route, &mut iscsi);
        route.with_transport(Transport::Iscsi(iscsi))
    };
    let plain = edit("sda", &|_, _| {});
    let warnings = |map: MapState, other: Route| judged(map, vec![plain.clone(), other]).warnings;
    let quiet = || map(Queueing::Retries(24));
    assert_eq!(warnings(quiet(), plain.clone()), []);
    assert_eq!(warnings(map(Queueing::Forever), plain.clone()), [Warning::QueuesForever]);
    let lio = quiet().with_product("LIO-ORG", "x");
    let tur = edit("sdb", &|route, _| route.path.checker_name = "tur".to_owned());
    assert_eq!(warnings(lio, tur), [Warning::WrongChecker { checker: "tur".to_owned() }]);
    let differs = warnings(quiet(), edit("sdb", &|_, iscsi| iscsi.recovery = None));
    assert!(matches!(differs[0], Warning::RecoveryDiffers { .. }), "{differs:?}");
    assert_eq!(differs[1], Warning::NoRecovery { device: "sdb".to_owned() });
    let slow = edit("sdb", &|_, iscsi| {
        (iscsi.ping_interval, iscsi.ping_timeout) =
            (Some(Duration::from_secs(30)), Some(Duration::from_secs(30)));
    });
    let short =
        Warning::QueueingTooShort { queueing: Duration::from_secs(60), failover: Duration::from_secs(66) };
    assert_eq!(warnings(map(Queueing::Retries(12)), slow), [short]);
    let used = edit("sdb", &|route, _| route.used_by = vec!["dm-9".to_owned()]);
    let text = warnings(quiet(), used)[0].to_string();
    assert_eq!(text, "dm-9 uses sdb and not the map; exclude sdb from it");
    let late = edit("sdb", &|route, _| route.path.checker = CheckerState::TimedOut);
    assert_eq!(warnings(quiet(), late), [Warning::CheckTimedOut { device: "sdb".to_owned() }]);
    let gone = edit("", &|_, _| {});
    assert!(warnings(quiet(), gone).contains(&Warning::DeviceGone { number: "8:0".to_owned() }));
}

#[cfg(feature = "embedded")]
#[test]
fn a_map_without_multipathd_is_made_once_and_removed() -> Outcome {
    let mapper = FakeMapper::new();
    // A machine without a directory for locks is no live one: nobody looks for multipathd.
    let host = Host::fake().with_tree(memory().tree()).with_dm(host::dm::Backend::of(mapper.clone()));
    let kernel = Kernel::on(&host);
    let spec = |paths: &[&str]| {
        let paths = paths.iter().map(|path| path.parse().expect("a path"));
        multipath::MapSpec::new("disk0".parse().expect("a name"), WWID.parse().expect("a disk"), paths)
    };
    for (paths, complaint) in [
        (&["sdb", "8:16"][..], "named twice"),
        (&["sdz"][..], "no such block device"),
        (&[][..], "at least one path"),
    ] {
        let error = kernel.create(&spec(paths)).expect_err("refused");
        assert!(error.to_string().contains(complaint), "{error}");
    }
    let mut wrong = spec(&["sdb"]);
    wrong.wwid = "36001405ffffffffffffffffffffffff".parse()?;
    assert!(kernel.create(&wrong).is_err_and(|error| error.to_string().contains("it is disk 3600")));
    assert!(kernel.list()?.is_empty(), "nothing was made");
    let map = kernel.create(&spec(&["sdb"]).with_group(["sdc".parse()?]).with_handler("alua"))?;
    assert_eq!((map.groups.len(), map.size, map.working()), (2, Some(Bytes(1 << 20)), 2));
    assert!(matches!(kernel.create(&spec(&["sdb"])), Err(Error::Exists { .. })));
    mapper.hold("disk0", 1);
    let name = "disk0".parse()?;
    assert!(kernel.remove(&name).expect_err("held").is_busy());
    mapper.hold("disk0", 0);
    assert!(kernel.remove(&name)? && !kernel.remove(&name)?);
    let theirs = Kernel::on(&host.with_dm(host::dm::Backend::of(self::mapper())));
    let error = theirs.remove(&"mpatha".parse()?).expect_err("multipathd's");
    assert!(error.to_string().contains("through multipathd"), "{error}");
    Ok(())
}
