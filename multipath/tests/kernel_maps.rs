//! Real maps in a lab guest, over `scsi_debug`: two paths a disk, without a network. What we read is what multipathd, dmsetup and lsblk say.
//! 4 disks, or 200 where `SANKIT_LAB_LONG` is set.
#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    clippy::disallowed_types,
    clippy::disallowed_methods
)] // It is a test.

use std::collections::{BTreeMap, BTreeSet};
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};
use multipath::fake::Faults;
use multipath::table::{Status, Table};
use multipath::{
    Deadline, DeviceState, Error, Event, Health, Host, Initiator, Kernel, Lack, MapSpec, MapState, Multipath,
    PathState, Queueing, Watch, WhenNoPath,
};

type Outcome = Result<(), Failed>;

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let tree = Host::live().tree().clone();
    let guest = tree.read("/proc/cmdline").unwrap_or_default().contains("lab.mode=");
    let daemon =
        ["/usr/sbin/multipathd", "/sbin/multipathd"].iter().any(|tool| std::path::Path::new(tool).exists());
    let reason = match (guest, daemon) {
        (false, _) => Some("they need a lab guest, run `lab test multipath --mode root`"),
        (true, false) => Some("there is no multipathd in this guest, use --mode root"),
        (true, true) => None,
    };
    if let Some(reason) = reason {
        println!("kernel tests are ignored here: {reason}");
    }
    let trials = [
        ("a_we_see_what_multipathd_sees", same_as_multipathd as fn() -> Outcome),
        ("b_we_see_what_dmsetup_and_lsblk_see", same_as_dmsetup),
        ("c_the_tree_is_that_of_multipath", same_tree),
        ("d_every_command_is_understood", commands),
        ("d_a_daemon_that_hangs_does_not_hold_the_kernel_up", hanging),
        ("e_faults_are_seen_and_healed", faults),
        ("e_what_happens_is_told", watched),
        ("f_we_are_there_sooner", sooner),
        ("g_maps_are_made_and_removed_without_multipathd", embedded),
        ("h_nothing_is_left", ended),
    ];
    let long = std::env::var_os("SANKIT_LAB_LONG").is_some();
    if reason.is_none() && !long {
        println!("{LONG:?} are ignored here: they wait for multipathd's checks, set SANKIT_LAB_LONG=1");
    }
    let skipped = |name| reason.is_some() || !long && LONG.contains(&name);
    let trials = trials.map(|(name, test)| Trial::test(name, test).with_ignored_flag(skipped(name)));
    // One machine, one set of maps: in this order.
    let arguments = Arguments { test_threads: Some(1), ..arguments };
    libtest_mimic::run(&arguments, trials.into()).exit_code()
}

/// Tests that take half a minute each on an emulated processor.
const LONG: [&str; 2] = ["e_faults_are_seen_and_healed", "f_we_are_there_sooner"];

fn sh(script: &str) -> Result<String, Failed> {
    let output = Command::new("/bin/sh").args(["-ec", script]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    match output.status.success() {
        true => Ok(text),
        false => Err(format!("{script}\n{text}{}", String::from_utf8_lossy(&output.stderr)).into()),
    }
}

/// How many disks, each with two paths.
fn count() -> usize {
    if std::env::var_os("SANKIT_LAB_LONG").is_some() { 200 } else { 4 }
}

fn soon(seconds: u64) -> Deadline {
    Deadline::after(Duration::from_secs(seconds))
}

/// Looks until it is so; the states of multipathd have no event.
fn until(what: &str, seconds: u64, mut is: impl FnMut() -> Result<bool, Failed>) -> Outcome {
    // Two hundred maps keep an emulated processor busy, and multipathd looks at their paths less often.
    let deadline = soon(if count() > 4 { seconds * 3 } else { seconds });
    loop {
        if is()? {
            return Ok(());
        }
        if !deadline.pause(Duration::from_millis(if count() > 4 { 500 } else { 50 })) {
            return Err(format!("not in {seconds} s: {what}").into());
        }
    }
}

/// Disks with two paths, and the daemon with a map of each.
fn prepare() -> Result<(Multipath, Kernel), Failed> {
    let (maps, kernel) = (Multipath::new()?.with_timeout(Duration::from_secs(20)), Kernel::new());
    let fresh = !std::path::Path::new("/sys/bus/pseudo/drivers/scsi_debug").exists();
    if fresh {
        sh(&format!(
            r"
            mkdir -p /etc/multipath /run/lock
            cat > /etc/multipath.conf <<END
defaults {{
    find_multipaths greedy
    user_friendly_names yes
    path_checker directio
    detect_checker no
    reservation_key file
    polling_interval {}
    no_path_retry 12
}}
END
            modprobe -a dm_multipath dm_service_time
            modprobe scsi_debug add_host=2 num_tgts=1 max_luns={} vpd_use_hostno=0 dev_size_mb=8 delay=0 dsense=1
            ",
            if count() > 4 { 8 } else { 2 },
            count()
        ))?;
    }
    match sh("pidof multipathd") {
        Err(_) => sh("multipathd").map(drop)?,
        // Another program's daemon, with another configuration.
        Ok(_) if fresh => maps.reconfigure(soon(60))?,
        Ok(_) => {}
    }
    let whole = || -> Result<bool, Failed> {
        // The kernel first: to draw a list of all keeps the daemon from making more.
        if kernel.list()?.iter().filter(|map| map.working() == 2).count() < count() {
            return Ok(false);
        }
        match maps.list() {
            Ok(list) => {
                let two = |map: &MapState| map.working() == 2 && map.paths().count() == 2;
                Ok(list.iter().filter(|map| map.vendor == "Linux").count() == count() && list.iter().all(two))
            }
            Err(error) if error.is_retryable() => Ok(false),
            Err(Error::Daemon { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    };
    if until("a map of every disk, with two working paths", 120 + count() as u64, whole).is_err() {
        let seen = sh(
            "multipathd show paths; multipathd show topology; multipathd show config local; lsblk; dmesg | tail -20",
        )?;
        return Err(format!("there is not a map of every disk, with two working paths:\n{seen}").into());
    }
    // udev reads each new map, and the kernel makes a group active with its first read.
    sh("udevadm settle --timeout=900")?;
    Ok((maps, kernel))
}

/// What both know of a map, in words.
fn known(map: &MapState) -> Vec<String> {
    let mut lines = vec![format!(
        "{} {} {} {} {} {} {} {} {} {:?}",
        map.name,
        map.wwid,
        map.node,
        map.features,
        map.handler,
        map.suspended,
        map.vendor,
        map.product,
        map.revision,
        map.read_only
    )];
    for group in &map.groups {
        lines.push(format!("{} {}", group.selector, group.state));
        for path in &group.paths {
            lines.push(format!(
                "{} {} {} {} {:?}",
                path.device, path.number, path.state, path.device_state, path.lun
            ));
        }
    }
    lines
}

fn by_name(maps: Vec<MapState>) -> BTreeMap<String, MapState> {
    maps.into_iter().map(|map| (map.name.clone(), map)).collect()
}

fn same_as_multipathd() -> Outcome {
    let (maps, kernel) = prepare()?;
    let version = maps.version()?;
    println!("multipathd {version}, {} maps", count());
    // multipathd knows a group's state as of its last look at a path of it.
    let mut differs = String::new();
    let (mut ours, mut theirs) = (BTreeMap::new(), BTreeMap::new());
    let alike = until("the same maps", 60, || {
        (ours, theirs) = (by_name(kernel.list()?), by_name(maps.list()?));
        let other = ours.iter().find(|(name, map)| theirs.get(*name).map(known) != Some(known(map)));
        differs = other
            .map(|(name, map)| format!("{:?}\n{:?}", known(map), theirs.get(name).map(known)))
            .unwrap_or_default();
        Ok(other.is_none())
    });
    alike.map_err(|error| format!("{error:?}: {differs}"))?;
    assert_eq!(ours.len(), count());
    assert_eq!(ours.keys().collect::<Vec<_>>(), theirs.keys().collect::<Vec<_>>());
    for (name, map) in &ours {
        assert!(
            map.size == Some(multipath::Bytes(8 << 20)) && map.paths().all(|path| path.failures == Some(0))
        );
        let seen = &theirs[name];
        assert_eq!(seen.queueing, Queueing::Retries(12));
        assert!(seen.paths().all(|path| path.checker_name == "directio" && path.priority >= 0), "{seen:?}");
        let one = maps.get_by_name(&name.parse()?)?.ok_or("no such map")?;
        assert_eq!(known(&one), known(seen));
        assert_eq!(kernel.get(&map.wwid.parse()?)?.map(|map| map.name), Some(name.clone()));
    }
    // The raw lists have the same, field by field, from another part of the daemon.
    let format = "%n|%w|%d|%Q|%S|%r".parse()?;
    let list = multipath::Command::ShowMapsFormat(multipath::daemon::Columns::Raw, format);
    let lines = maps.client().text(&list, soon(20))?;
    assert_eq!(lines.lines().count(), count());
    for line in lines.lines() {
        let fields: Vec<_> = line.trim().split('|').map(str::trim).collect();
        let map = &ours[fields[0]];
        let expected = [map.name.as_str(), &map.wwid, &map.node, "12 chk", "8.0M", "rw"];
        assert_eq!(fields, expected);
    }
    Ok(())
}

fn same_as_dmsetup() -> Outcome {
    let (_, kernel) = prepare()?;
    let ours = by_name(kernel.list()?);
    let params = |text: String| -> BTreeMap<String, String> {
        let line = |line: &str| {
            let (name, rest) = line.split_once(": ")?;
            let words: Vec<_> = rest.splitn(4, ' ').collect();
            Some((name.to_owned(), (*words.get(3)?).to_owned()))
        };
        text.lines().filter_map(line).collect()
    };
    let tables = params(sh("dmsetup table --target multipath")?);
    let states = params(sh("dmsetup status --target multipath")?);
    assert_eq!(tables.len(), count());
    for (name, text) in &tables {
        let table: Table = text.parse()?;
        assert_eq!(kernel.table(&name.parse()?)?, Some(table.clone()), "{text}");
        // What we write is what the kernel writes.
        assert_eq!(&table.to_string(), text.trim());
        // The selector's words are bytes under way: multipathd checks while we look.
        let steady = |mut status: Status| {
            status
                .groups
                .iter_mut()
                .flat_map(|group| &mut group.paths)
                .for_each(|path| path.selector.clear());
            status.groups
        };
        let status: Status = states[name].parse()?;
        assert!(status.groups.iter().flat_map(|group| &group.paths).all(|path| path.selector.len() == 2));
        assert_eq!(kernel.status(&name.parse()?)?.map(steady), Some(steady(status)));
        assert_eq!(table.groups.len(), ours[name].groups.len());
    }
    // lsblk draws each map under each of its paths.
    let json: serde_json::Value = serde_json::from_str(&sh("lsblk -J -b -o NAME,KNAME,SIZE,TYPE,HCTL")?)?;
    let mut seen: BTreeMap<String, BTreeSet<(String, String)>> = BTreeMap::new();
    for disk in json["blockdevices"].as_array().ok_or("no devices")? {
        for child in
            disk["children"].as_array().into_iter().flatten().filter(|child| child["type"] == "mpath")
        {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            let map = &ours[&text(&child["name"])];
            assert_eq!(child["size"].as_u64(), map.size.map(|size| size.0));
            assert_eq!(text(&child["kname"]), map.node);
            seen.entry(map.name.clone()).or_default().insert((text(&disk["kname"]), text(&disk["hctl"])));
        }
    }
    for (name, map) in &ours {
        let paths: BTreeSet<_> = map
            .paths()
            .map(|path| (path.device.clone(), path.hctl.map(|hctl| hctl.to_string()).unwrap_or_default()))
            .collect();
        assert_eq!(seen.get(name), Some(&paths));
    }
    Ok(())
}

fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn same_tree() -> Outcome {
    let (_, _) = prepare()?;
    let topology = Initiator::new()?.topology()?;
    let ours: BTreeSet<_> = topology.to_string().lines().map(words).collect();
    // As multipath has it, without the log lines it may print first.
    let theirs = sh("multipath -ll")?;
    let lines: Vec<_> = theirs.lines().filter(|line| !line.contains(" | ")).map(words).collect();
    assert_eq!(lines.len(), count() * (2 + topology.maps[0].map.groups.len() + 2), "{theirs}");
    for line in lines {
        assert!(ours.contains(&line), "{line:?} is not in\n{topology}");
    }
    // Two hosts of scsi_debug are no two networks, but nothing says so: no session, no card.
    assert!(topology.maps.iter().all(|map| map.health == Health::Healthy), "{topology}");
    let json: serde_json::Value = serde_json::from_str(&topology.to_json()?)?;
    assert_eq!(json["maps"].as_array().map(Vec::len), Some(count()));
    Ok(())
}

/// Each command of the grammar that may be given on a machine in use, to the real daemon: none is answered with the help text.
fn commands() -> Outcome {
    use multipath::daemon::{Columns, ReservationKey};
    use multipath::{Command as C, Reply};
    let (maps, kernel) = prepare()?;
    let first = kernel.list()?.into_iter().next().ok_or("no map")?;
    let name: multipath::MapName = first.name.parse()?;
    let path: multipath::PathName = first.groups[0].paths[0].device.parse()?;
    let (raw, format): (_, multipath::Format) = (Columns::Raw, "%d %D %t".parse()?);
    let client = maps.client();
    for command in [
        C::ShowPaths,
        C::ShowPathsFormat(raw, format.clone()),
        C::ShowPathsFormat(Columns::Named, format),
        C::ShowPath(path.clone()),
        C::ShowMaps,
        C::ShowMapsStatus,
        C::ShowMapsStats,
        C::ShowTopology,
        C::ShowMapTopology(name.clone()),
        C::ShowMapFormat(name.clone(), raw, "%n".parse()?),
        C::ShowConfig,
        C::ShowConfigLocal,
        C::ShowBlacklist,
        C::ShowDevices,
        C::ShowWildcards,
        C::ShowReservation(name.clone()),
    ] {
        let reply = client.run(&command, soon(20))?;
        assert!(matches!(&reply, Reply::Text(text) if !text.is_empty()), "{command}: {reply:?}");
    }
    let key = ReservationKey::new(0x5a11);
    for command in [
        C::ResetMapsStats,
        C::ResetMapStats(name.clone()),
        C::ReloadMap(name.clone()),
        C::ResizeMap(name.clone()),
        C::SuspendMap(name.clone()),
        C::ResumeMap(name.clone()),
        C::DisableQueueing(name.clone()),
        C::RestoreQueueing(name.clone()),
        C::DisableQueueingAll,
        C::RestoreQueueingAll,
        C::ForceQueueingDaemon,
        C::RestoreQueueingDaemon,
        C::SetMarginal(path.clone()),
        C::UnsetMarginal(path.clone()),
        C::UnsetMarginalMap(name.clone()),
        C::FailPath(path.clone()),
        C::ReinstatePath(path.clone()),
        C::SwitchGroup(name.clone(), std::num::NonZeroU32::MIN),
        C::SetReservation(name.clone()),
        C::UnsetReservation(name.clone()),
        C::SetReservationKey(name.clone(), key),
    ] {
        let reply = client.run(&command, soon(20))?;
        assert_eq!(reply, Reply::Ok, "{command}");
    }
    assert_eq!(client.reservation_key(&name, soon(20))?, Some(key));
    assert_eq!(client.expect(&C::UnsetReservationKey(name.clone()), soon(20))?, Reply::Ok);
    assert_eq!(client.reservation_key(&name, soon(20))?, None);
    assert!(client.state(soon(20))?.pid > 1);
    until("multipathd has settled", 60, || Ok(!client.status(soon(20))?.busy))?;
    assert_eq!(client.status(soon(20))?.paths, u32::try_from(2 * count())?);
    maps.reconfigure(soon(60))?;
    // What does not exist is refused, by name.
    assert!(matches!(maps.fail_path(&"sdzzz".parse()?), Err(Error::Daemon { .. })));
    assert_eq!(maps.get_by_name(&"no-such-map".parse()?)?, None);
    assert!(!maps.remove(&"no-such-map".parse()?)?);
    Ok(())
}

/// What a watch told of one map, in short, until it has told this last.
fn told(watch: &mut Watch<Event, Error>, map: &str, last: &str) -> Result<Vec<String>, Failed> {
    let mut told = Vec::new();
    let deadline = soon(20);
    while told.last().map(String::as_str) != Some(last) {
        match watch.next_before(deadline)? {
            Some(Event::PathFailed { map: of, device, left, .. }) if of == map => {
                told.push(format!("{device} failed, {left} left"));
            }
            Some(Event::PathReinstated { map: of, device, left, .. }) if of == map => {
                told.push(format!("{device} back, {left} left"));
            }
            Some(Event::LastPathLost { map: of }) if of == map => told.push("lost".to_owned()),
            Some(_) => {}
            None => return Err(format!("not told in time: {last}, only {told:?}").into()),
        }
    }
    Ok(told)
}

fn watched() -> Outcome {
    let (maps, kernel) = prepare()?;
    let faults = Faults::on(&Host::live());
    let first = kernel.list()?.into_iter().next().ok_or("no map")?;
    let name = first.name.parse()?;
    let [one, other] = [0, 1].map(|n| first.paths().nth(n).expect("two paths").clone());
    let mut watch = kernel.watch()?;
    let Some(Event::Snapshot(list)) = watch.next_before(soon(5))? else { return Err("no snapshot".into()) };
    assert_eq!(list.len(), count());
    // Through the daemon, one by one and both: each is told, with what is left.
    maps.fail_path(&one.device.parse()?)?;
    let last = format!("{} failed, 1 left", one.device);
    assert_eq!(told(&mut watch, &first.name, &last)?, [last]);
    maps.fail_path(&other.device.parse()?)?;
    assert_eq!(
        told(&mut watch, &first.name, "lost")?,
        [format!("{} failed, 0 left", other.device), "lost".to_owned()]
    );
    until("both paths work again", 30, || {
        maps.reinstate_path(&one.device.parse()?)?;
        maps.reinstate_path(&other.device.parse()?)?;
        Ok(kernel.get_by_name(&name)?.is_some_and(|map| map.working() == 2))
    })?;
    let seen = told(&mut watch, &first.name, &format!("{} back, 2 left", other.device))?;
    assert!(seen.contains(&format!("{} back, 1 left", one.device)), "{seen:?}");
    // Many times in a row, as fast as the kernel takes them: each failure and each return is told. udev works on each of these events too, half
    // a second long on an emulated processor, and the next test waits for it.
    let times = if count() > 4 { 100 } else { 20 };
    let begun = Instant::now();
    for _ in 0..times {
        faults.fail(&name, &one.number.parse()?)?;
        faults.reinstate(&name, &one.number.parse()?)?;
    }
    let flapping = begun.elapsed();
    let (mut down, mut up) = (0, 0);
    let deadline = soon(30);
    while up < times {
        match watch.next_before(deadline)? {
            Some(Event::PathFailed { map, .. }) if map == first.name => down += 1,
            Some(Event::PathReinstated { map, .. }) if map == first.name => up += 1,
            Some(_) => {}
            None => return Err(format!("{down} failures and {up} returns of {times} were told").into()),
        }
    }
    println!(
        "{times} failures in {flapping:?}, told {:?} after the first; {down} failures, {up} returns",
        begun.elapsed()
    );
    assert!(down == up, "a path that is back has failed as often");
    // A map that goes and comes back, as the daemon makes it.
    assert!(maps.remove(&first.name.parse()?)?);
    let gone = |event: &Event| matches!(event, Event::MapRemoved(map) if map.name == first.name);
    let back = |event: &Event| matches!(event, Event::MapAdded(map) if map.wwid == first.wwid);
    let mut wait = |what: &str, is: &dyn Fn(&Event) -> bool| -> Outcome {
        let deadline = soon(30);
        while let Some(event) = watch.next_before(deadline)? {
            if is(&event) {
                return Ok(());
            }
        }
        Err(format!("not told: {what}").into())
    };
    wait("the map is gone", &gone)?;
    maps.reconfigure(soon(60))?;
    wait("the map is back", &back)
}

fn faults() -> Outcome {
    let (maps, kernel) = prepare()?;
    let host = Host::live();
    let faults = Faults::on(&host);
    let first = kernel.list()?.into_iter().next().ok_or("no map")?;
    let (name, path) = (first.name.parse()?, first.groups[0].paths[0].clone());
    let look = || kernel.get_by_name(&name)?.ok_or_else(|| Failed::from("the map is gone"));
    // By the daemon: it stays failed, because nobody checks it.
    maps.fail_path(&path.device.parse()?)?;
    let seen = look()?;
    // Tests before this one have failed it too.
    assert_eq!((seen.working(), seen.groups[0].paths[0].failures), (1, path.failures.map(|n| n + 1)));
    let topology = Initiator::new()?.topology()?;
    let one = topology.maps.iter().find(|map| map.map.name == first.name).ok_or("no map")?;
    assert_eq!(one.health, Health::Degraded { failed: 1, working: 1 });
    until("the path works again", 30, || {
        maps.reinstate_path(&path.device.parse()?)?;
        Ok(look()?.working() == 2)
    })?;
    // By the kernel: the daemon's checker finds it well and reinstates it.
    faults.fail(&name, &path.number.parse()?)?;
    assert_eq!(look()?.paths().filter(|path| path.state == PathState::Failed).count(), 1);
    until("multipathd has reinstated it", 30, || Ok(look()?.working() == 2))?;
    // By the device: both see it, and it comes back.
    faults.offline(&path.device)?;
    until("the kernel and multipathd have failed it", 30, || {
        let theirs = maps.get_by_name(&name.as_str().parse()?)?.ok_or("no map")?;
        Ok(look()?.working() == 1 && theirs.working() == 1)
    })?;
    assert_eq!(look()?.paths().filter(|path| path.device_state == DeviceState::Offline).count(), 1);
    faults.online(&path.device)?;
    until("it works again", 40, || Ok(look()?.working() == 2))?;
    // Queueing as the kernel has it.
    kernel.set_when_no_path(&name, WhenNoPath::Fail)?;
    assert_eq!(look()?.queueing, Queueing::Off);
    kernel.set_when_no_path(&name, WhenNoPath::Queue)?;
    assert_eq!(look()?.queueing, Queueing::Forever);
    let before = kernel.queue_timeout()?;
    kernel.set_queue_timeout(Some(Duration::from_secs(120)))?;
    assert_eq!(kernel.queue_timeout()?, Some(Duration::from_secs(120)));
    kernel.set_queue_timeout(before)?;
    Ok(())
}

/// The daemon is stopped as it would be by a path that hangs: its answers end at the deadline, the kernel's do not wait for it.
fn hanging() -> Outcome {
    let (maps, kernel) = prepare()?;
    sh("kill -STOP $(pidof multipathd)")?;
    let begun = Instant::now();
    let hangs = maps.clone().with_timeout(Duration::from_millis(500)).list();
    let waited = begun.elapsed();
    let begun = Instant::now();
    let list = kernel.list();
    let took = begun.elapsed();
    sh("kill -CONT $(pidof multipathd)")?;
    println!("multipathd gave up after {waited:?}, the kernel told of {} maps in {took:?}", count());
    assert!(matches!(hangs, Err(Error::TimedOut { .. })), "{hangs:?}");
    assert!(waited < Duration::from_secs(5) && list?.len() == count());
    assert_eq!(maps.list()?.len(), count(), "the next question gets its own answer");
    Ok(())
}

/// What is read in this process is had sooner than by starting a tool, with however few maps.
fn sooner() -> Outcome {
    let (maps, kernel) = prepare()?;
    let name: multipath::MapName = kernel.list()?.first().ok_or("no map")?.name.parse()?;
    let median = |act: &dyn Fn() -> Outcome| -> Result<Duration, Failed> {
        let mut times = Vec::new();
        for _ in 0..7 {
            let begun = Instant::now();
            act()?;
            times.push(begun.elapsed());
        }
        times.sort();
        Ok(times[times.len() / 2])
    };
    let tool = |words: &[&str]| -> Outcome {
        let output = Command::new(words[0]).args(&words[1..]).output()?;
        if output.status.success() { Ok(()) } else { Err(format!("{words:?} failed").into()) }
    };
    let pairs = [
        (
            "Kernel::list and multipath -ll",
            median(&|| Ok(kernel.list().map(drop)?))?,
            median(&|| tool(&["multipath", "-ll"]))?,
        ),
        (
            "get_by_name on the open socket and multipathd show map json",
            median(&|| Ok(maps.get_by_name(&name).map(drop)?))?,
            median(&|| tool(&["multipathd", "show", "map", name.as_str(), "json"]))?,
        ),
    ];
    for (what, ours, theirs) in pairs {
        println!("{} maps, {what}: {ours:?} and {theirs:?}", count());
        assert!(ours * 4 < theirs, "{what}: {ours:?} and {theirs:?}");
    }
    Ok(())
}

fn embedded() -> Outcome {
    let (maps, kernel) = prepare()?;
    let first = kernel.list()?.into_iter().next().ok_or("no map")?;
    let paths: Vec<_> = first.paths().map(|path| path.device.clone()).collect();
    let spec = |paths: &[String]| -> Result<MapSpec, Failed> {
        let paths: Result<Vec<_>, _> = paths.iter().map(|path| path.parse()).collect();
        Ok(MapSpec::new("sankit0".parse()?, first.wwid.parse()?, paths?))
    };
    let error = kernel.create(&spec(&paths)?).expect_err("multipathd runs");
    assert!(error.to_string().contains("multipathd runs here"), "{error}");
    assert!(maps.remove(&first.name.parse()?)?);
    sh("multipathd shutdown; while pidof multipathd >/dev/null; do sleep 0.1; done")?;
    let whole = spec(&paths)?.with_when_no_path(WhenNoPath::Queue);
    let map = kernel.create(&whole)?;
    println!("made {map:?}");
    assert_eq!((map.working(), map.size, map.wwid.as_str()), (2, first.size, first.wwid.as_str()));
    assert_eq!(map.groups.iter().map(|group| group.paths.len()).collect::<Vec<_>>(), [2]);
    assert!(matches!(kernel.create(&whole), Err(Error::Exists { .. })));
    let table: Table =
        sh("dmsetup table sankit0")?.splitn(4, ' ').nth(3).unwrap_or_default().trim().parse()?;
    assert_eq!(kernel.table(&map.name.parse()?)?, Some(table));
    // It takes I/O, over a failed path as well, and gives back what it took.
    sh("udevadm settle; dd if=/dev/urandom of=/tmp/data bs=64k count=16 2>/dev/null
        dd if=/tmp/data of=/dev/mapper/sankit0 bs=64k oflag=direct 2>/dev/null")?;
    let name = map.name.parse()?;
    kernel.fail_path(&name, &map.groups[0].paths[0].number.parse()?)?;
    sh(
        "dd if=/dev/mapper/sankit0 of=/tmp/back bs=64k count=16 iflag=direct 2>/dev/null; cmp /tmp/data /tmp/back",
    )?;
    kernel.reinstate_path(&name, &map.groups[0].paths[0].number.parse()?)?;
    let held = std::fs::File::open("/dev/mapper/sankit0")?;
    assert!(kernel.remove(&name).expect_err("held").is_busy());
    drop(held);
    // A path that is in use elsewhere: refused, and nothing is left.
    assert!(kernel.remove(&name)? && !kernel.remove(&name)?);
    let other = kernel.list()?.into_iter().next().ok_or("no other map")?;
    let theirs = spec(&[other.groups[0].paths[0].device.clone()])?;
    let error = kernel.create(&theirs).expect_err("multipathd's map is on it");
    assert!(error.is_busy() && error.to_string().contains(&other.node), "{error}");
    let error = kernel.remove(&other.name.parse()?).expect_err("multipathd's");
    assert!(error.to_string().contains("through multipathd"), "{error}");
    assert!(sh("dmsetup info sankit0 2>&1").is_err());
    let one = kernel.create(&spec(&paths[..1])?)?;
    let topology = Initiator::new()?.topology()?;
    let one = topology.maps.iter().find(|map| map.map.name == one.name).ok_or("no map")?;
    assert_eq!(one.health, Health::NoRedundancy(vec![Lack::OnePath]));
    assert!(kernel.remove(&name)?);
    Ok(())
}

/// As the next program of this guest finds it.
fn ended() -> Outcome {
    sh("pidof multipathd >/dev/null || multipathd")?;
    let maps = Multipath::new()?.with_timeout(Duration::from_secs(20));
    until("no map is left", 60, || {
        // It may be starting, or udev may have a map open for a moment.
        let list = match maps.list() {
            Ok(list) => list,
            Err(error) if error.is_retryable() || matches!(error, Error::Daemon { .. }) => return Ok(false),
            Err(error) => return Err(error.into()),
        };
        for map in list {
            if let Err(error) = maps.remove(&map.name.parse()?) {
                println!("{}: {error}", map.name);
            }
        }
        Ok(Kernel::new().list()?.is_empty())
    })?;
    sh("multipathd shutdown; while pidof multipathd >/dev/null; do sleep 0.1; done
        udevadm settle; rm -f /etc/multipath.conf; rmmod scsi_debug")?;
    assert!(Initiator::new()?.topology()?.maps.is_empty());
    Ok(())
}
