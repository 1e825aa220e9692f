//! The conformance checks on the kernel of a lab guest, and what `ip` says of the result.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_types,
    clippy::indexing_slicing
)] // It is a test.

mod conformance;

use std::process::{Command, ExitCode};
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use netcfg::{
    BondMode, BondSpec, Deadline, Event, FloatingAddr, Host, IfName, LinkSpec, NetSpec, Netcfg, Obstacle,
    probe_path,
};

fn in_guest() -> bool {
    let line = Host::live().tree().read("/proc/cmdline").unwrap_or_default();
    line.contains("lab.mode=")
}

/// The error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |error| error.source());
    causes.fold(error.to_string(), |text, cause| text + ": " + &cause.to_string())
}

fn cards() -> Result<(IfName, IfName), Failed> {
    Ok(("eth0".parse()?, "eth1".parse()?))
}

fn main() -> ExitCode {
    #[cfg(feature = "confirm")]
    {
        netcfg::confirm::guard();
        if let Some(n) = std::env::var_os(KILLED) {
            killed(&n.to_string_lossy());
        }
    }
    let arguments = Arguments::from_args();
    let ready = in_guest();
    let mut trials: Vec<Trial> = conformance::ALL
        .iter()
        .map(|(name, check)| {
            Trial::test(*name, move || {
                let (host, (a, b)) = (Host::live(), cards()?);
                conformance::clean(&host, &a, &b).map_err(|e| e.to_string())?;
                check(&host, &a, &b).map_err(|e| chain(&*e))?;
                conformance::clean(&host, &a, &b).map_err(|e| e.to_string().into())
            })
            .with_ignored_flag(!ready)
        })
        .collect();
    trials.push(Trial::test("ip_shows_what_we_made", ip_agrees).with_ignored_flag(!ready));
    #[cfg(feature = "json")]
    trials.push(Trial::test("our_json_is_that_of_ip", json_agrees).with_ignored_flag(!ready || !has_json()));
    trials.push(Trial::test("a_watch_tells_of_a_failover", failover).with_ignored_flag(!ready));
    trials.push(Trial::test("an_announcement_leaves_the_machine", announcement).with_ignored_flag(!ready));
    trials.push(Trial::test("somebody_who_has_the_address_is_found", duplicate).with_ignored_flag(!ready));
    #[cfg(feature = "confirm")]
    trials.push(Trial::test("a_guard_outlives_what_it_guards", guarded).with_ignored_flag(!ready));
    // busybox's ip knows no namespaces.
    let namespaces = ready && has_netns();
    trials.push(Trial::test("a_hole_for_large_packets_is_named", black_hole).with_ignored_flag(!namespaces));
    trials.push(Trial::test("a_neighbour_learns_of_a_claim_at_once", learned).with_ignored_flag(!namespaces));
    if !ready {
        println!("kernel tests are ignored here: they need a lab guest, run `lab test netcfg`");
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn ip(args: &[&str]) -> Result<String, Failed> {
    let output = Command::new("ip").args(args).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn ip_agrees() -> Result<(), Failed> {
    let (host, (a, b)) = (Host::live(), cards()?);
    conformance::clean(&host, &a, &b).map_err(|e| e.to_string())?;
    Netcfg::on(&host)?.ensure(&conformance::article(&a, &b))?;
    let mut shown = ip(&["-d", "link", "show", "bond_vlan2"])?;
    if shown.is_empty() {
        shown = ip(&["link", "show", "bond_vlan2"])?;
    }
    // busybox's ip shows no details; iproute2's does.
    if shown.contains("bond mode") {
        for part in ["mtu 1500", "bond mode active-backup", "miimon 100", "updelay 200", "primary eth0.2"] {
            assert!(shown.contains(part), "{part} is not in: {shown}");
        }
        let vlan = ip(&["-d", "link", "show", "eth0.24"])?;
        assert!(vlan.contains("mtu 9000") && vlan.contains("vlan protocol 802.1Q id 24"), "{vlan}");
    } else {
        assert!(shown.contains("bond_vlan2"), "{shown}");
    }
    assert!(ip(&["addr", "show", "bond_vlan2"])?.contains("10.1.0.100/24"));
    conformance::clean(&host, &a, &b).map_err(|e| e.to_string().into())
}

/// busybox's ip has no JSON.
#[cfg(feature = "json")]
fn has_json() -> bool {
    Command::new("ip").args(["-j", "link"]).output().is_ok_and(|output| output.stdout.starts_with(b"["))
}

/// All that we say, `ip` says too.
#[cfg(feature = "json")]
fn json_agrees() -> Result<(), Failed> {
    use serde_json::Value;
    fn is_part(ours: &Value, theirs: &Value) -> bool {
        match (ours, theirs) {
            (Value::Object(ours), Value::Object(theirs)) => {
                ours.iter().all(|(key, value)| theirs.get(key).is_some_and(|other| is_part(value, other)))
            }
            (Value::Array(ours), Value::Array(theirs)) => {
                ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(a, b)| is_part(a, b))
            }
            (ours, theirs) => ours == theirs,
        }
    }
    let (host, (a, b)) = (Host::live(), cards()?);
    conformance::clean(&host, &a, &b).map_err(|e| e.to_string())?;
    let net = Netcfg::on(&host)?;
    net.ensure(&conformance::article(&a, &b))?;
    net.wait_ready(&["bond_vlan2".parse()?], Deadline::after(Duration::from_secs(30)))?;
    let differing = || -> Result<Option<String>, Failed> {
        let ours = net.list()?.to_ip_json();
        let theirs: Value = serde_json::from_str(&ip(&["-d", "-j", "addr", "show"])?)?;
        let (ours, theirs) = (ours.as_array().ok_or("a list")?, theirs.as_array().ok_or("a list")?);
        assert!(ours.len() == theirs.len() && ours.len() >= 8, "{} and {}", ours.len(), theirs.len());
        for link in ours {
            let other = theirs.iter().find(|other| other["ifindex"] == link["ifindex"]).ok_or("a link")?;
            if !is_part(link, other) {
                return Ok(Some(format!("{link:#}\nis not in\n{other:#}")));
            }
        }
        Ok(None)
    };
    // Carriers come and go between the two looks, until all has settled.
    let deadline = Deadline::after(Duration::from_secs(30));
    while let Some(text) = differing()? {
        assert!(deadline.pause(Duration::from_millis(500)), "{text}");
    }
    conformance::clean(&host, &a, &b).map_err(|e| e.to_string().into())
}

fn failover() -> Result<(), Failed> {
    let (host, (a, b)) = (Host::live(), cards()?);
    conformance::clean(&host, &a, &b).map_err(|e| e.to_string())?;
    let net = Netcfg::on(&host)?;
    let bond = |primary: &IfName| -> Result<NetSpec, Failed> {
        let bond = BondSpec::new(BondMode::ActiveBackup)
            .with_port(a.clone())
            .with_port(b.clone())
            .with_primary(primary.clone());
        Ok(NetSpec::default().with_link(LinkSpec::bond("bond9".parse()?, bond)))
    };
    net.ensure(&bond(&a)?)?;
    net.wait_ready(&["bond9".parse()?], Deadline::after(Duration::from_secs(20)))?;
    let mut watch = net.watch()?;
    net.ensure(&bond(&b)?)?;
    let deadline = Deadline::after(Duration::from_secs(30));
    let told = loop {
        let event = watch.next_before(deadline)?.ok_or("no failover was told")?;
        if let Event::Failover { bond, from, to } = event {
            break (bond, from, to);
        }
    };
    assert_eq!(told, ("bond9".to_owned(), Some(a.to_string()), Some(b.to_string())));
    // More than the socket's buffer holds: nothing is missing in the end.
    let batch: String = (1..=1500).map(|n| format!("link set bond9 mtu {}\n", 1500 - n % 2 * 100)).collect();
    host.tree().replace("/tmp/flood", batch + "link set bond9 mtu 1234\n", 0o600)?;
    let flooded = Command::new("ip").args(["-batch", "/tmp/flood"]).output()?;
    let mut last = 0;
    while let Some(event) = watch.next_before(Deadline::after(Duration::from_millis(500)))? {
        if let Event::LinkChanged { new, .. } = event
            && new.name == "bond9"
        {
            last = new.mtu;
        }
    }
    // busybox's ip has no -batch.
    assert!(!flooded.status.success() || last == 1234, "{last}");
    conformance::clean(&host, &a, &b).map_err(|e| e.to_string().into())
}

/// Says to a process of this program that it is to apply and to be killed after so many steps.
#[cfg(feature = "confirm")]
const KILLED: &str = "NETCFG_TEST_KILLED";

#[cfg(feature = "confirm")]
fn killed(steps: &str) -> ! {
    let (a, b) = ("eth0".parse().expect("name"), "eth1".parse().expect("name"));
    let point = host::plan::KillPoint::KillAfter(steps.parse().expect("a number"));
    let net = Netcfg::on(&Host::live().with_kill_point(point)).expect("netlink");
    let plan = net.plan(&conformance::article(&a, &b)).expect("a plan");
    let result = net.apply_on_trial(plan, Duration::from_secs(2));
    panic!("not killed: {result:?}");
}

#[cfg(feature = "confirm")]
fn guarded() -> Result<(), Failed> {
    let (host, (a, b)) = (Host::live(), cards()?);
    conformance::clean(&host, &a, &b).map_err(|e| e.to_string())?;
    let net = Netcfg::on(&host)?;
    let before = conformance::picture(&host).map_err(|e| e.to_string())?;
    let back = || -> Result<(), Failed> {
        let deadline = Deadline::after(Duration::from_secs(90));
        while net.trial()?.is_some() {
            assert!(deadline.pause(Duration::from_millis(100)), "the guard has not taken it back");
        }
        assert_eq!(conformance::picture(&host).map_err(|e| e.to_string())?, before);
        Ok(())
    };
    // Nobody confirms.
    let plan = net.plan(&conformance::article(&a, &b))?;
    net.apply_on_trial(plan.clone(), Duration::from_secs(3))?;
    assert!(net.plan(&conformance::article(&a, &b))?.is_empty() || net.trial()?.is_none());
    back()?;
    // The process is killed in the middle, and at its end.
    for steps in [1, plan.len() / 2, plan.len()] {
        let ended = Command::new(std::env::current_exe()?).env(KILLED, steps.to_string()).output()?.status;
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9), "{ended}");
        back()?;
    }
    Ok(())
}

fn announcement() -> Result<(), Failed> {
    let (host, (a, b)) = (Host::live(), cards()?);
    conformance::clean(&host, &a, &b).map_err(|e| e.to_string())?;
    let sent = || -> Result<u64, Failed> {
        Ok(host.tree().read(format!("/sys/class/net/{a}/statistics/tx_packets"))?.trim().parse()?)
    };
    let net = Netcfg::on(&host)?;
    net.ensure(&NetSpec::default().with_link(LinkSpec::existing(a.clone())))?;
    net.wait_ready(std::slice::from_ref(&a), Deadline::after(Duration::from_secs(10)))?;
    let address = FloatingAddr::new(a.clone(), "10.9.9.9/24".parse()?);
    address.claim(&host)?;
    let before = sent()?;
    address.announce(&host)?;
    let after = sent()?;
    address.release(&host)?;
    assert!(after >= before + 2, "{before} -> {after}");
    Ok(())
}

fn has_netns() -> bool {
    Command::new("ip").args(["netns", "list"]).output().is_ok_and(|output| output.status.success())
}

fn duplicate() -> Result<(), Failed> {
    let (host, (a, b)) = (Host::live(), cards()?);
    conformance::clean(&host, &a, &b).map_err(|e| e.to_string())?;
    let net = Netcfg::on(&host)?;
    let (near, far): (IfName, IfName) = ("near".parse()?, "far".parse()?);
    let pair = NetSpec::default().with_link(LinkSpec::veth(near.clone(), far.clone())).with_link(
        LinkSpec::veth(far.clone(), near.clone())
            .with_address("10.90.0.1/24".parse()?)
            .with_address_spec(netcfg::AddressSpec::new("fd00:90::1/64".parse()?).without_dad()),
    );
    net.ensure(&pair)?;
    net.wait_ready(&[near.clone(), far.clone()], Deadline::after(Duration::from_secs(20)))?;
    let owner = net.get(&far)?.ok_or("no far end")?.mac;
    let patience = Duration::from_secs(6);
    for (taken, free) in [("10.90.0.1/24", "10.90.0.2/24"), ("fd00:90::1/64", "fd00:90::2/64")] {
        let found = FloatingAddr::new(near.clone(), taken.parse()?).probe(&host, patience)?;
        assert_eq!(found.map(|mac| mac.to_vec()), Some(owner.clone()), "{taken}");
        let nobody =
            FloatingAddr::new(near.clone(), free.parse()?).probe(&host, Duration::from_millis(600))?;
        assert_eq!(nobody, None, "{free}");
    }
    conformance::clean(&host, &a, &b).map_err(|e| e.to_string().into())
}

/// This machine, a switch and a peer, as namespaces: `here` - `sw0` bridge `sw1` - `there`.
fn laid_out() -> Result<(), Failed> {
    // What a test before left when it failed.
    laid_away()?;
    for line in [
        "netns add switch",
        "netns add peer",
        "link add here mtu 9000 type veth peer name sw0 mtu 9000 netns switch",
        "-n switch link add sw1 mtu 9000 type veth peer name there mtu 9000 netns peer",
        "-n switch link add br0 type bridge forward_delay 0",
        "-n switch link set sw0 master br0 up",
        "-n switch link set sw1 master br0 up",
        "-n switch link set br0 up",
        "-n peer addr add 10.91.0.2/24 dev there",
        "-n peer addr add fd00:91::2/64 dev there nodad",
        "-n peer link set there up",
        "addr add 10.91.0.1/24 dev here",
        "addr add fd00:91::1/64 dev here nodad",
        "link set here up",
    ] {
        let words: Vec<&str> = line.split(' ').collect();
        let output = Command::new("ip").args(&words).output()?;
        if !output.status.success() {
            return Err(format!("ip {line}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
    }
    let net = Netcfg::on(&Host::live())?;
    Ok(net.wait_ready(&["here".parse()?], Deadline::after(Duration::from_secs(20)))?)
}

fn laid_away() -> Result<(), Failed> {
    for name in ["switch", "peer"] {
        ip(&["netns", "del", name])?;
    }
    ip(&["link", "del", "here"])?;
    Ok(())
}

fn black_hole() -> Result<(), Failed> {
    laid_out()?;
    let host = Host::live();
    let patience = Duration::from_millis(700);
    for peer in ["10.91.0.2", "fd00:91::2"] {
        let peer = peer.parse()?;
        let ask = |wanted: u32| probe_path(&host, peer, wanted, None, patience);
        assert!(ask(9000)?.is_good(), "{}", ask(9000)?);
        ip(&["-n", "switch", "link", "set", "sw1", "mtu", "1500"])?;
        let report = ask(9000)?;
        // A bridge leaves room for a tag: it passes on 4 bytes more than its port's MTU (is_skb_forwardable).
        assert_eq!((report.passes, &report.obstacle), (1504, &Some(Obstacle::BlackHole)), "{report}");
        ip(&["-n", "switch", "link", "set", "sw1", "mtu", "9000"])?;
        ip(&["link", "set", "here", "mtu", "1400"])?;
        let report = ask(9000)?;
        assert_eq!(
            (report.passes, &report.obstacle),
            (1400, &Some(Obstacle::OwnLink { mtu: 1400 })),
            "{report}"
        );
        ip(&["link", "set", "here", "mtu", "9000"])?;
    }
    let report = probe_path(&host, "10.91.0.77".parse()?, 9000, None, Duration::from_millis(200))?;
    assert_eq!(report.obstacle, Some(Obstacle::Unreachable), "{report}");
    laid_away()
}

fn learned() -> Result<(), Failed> {
    laid_out()?;
    let host = Host::live();
    let mac = host.tree().read("/sys/class/net/here/address")?.trim().to_owned();
    let mut took = Vec::new();
    for number in 50..55 {
        let address = format!("10.91.0.{number}");
        // The peer knows it at another machine.
        let known =
            ["neigh", "replace", &address, "lladdr", "02:00:00:00:00:99", "dev", "there", "nud", "reachable"];
        ip(&[&["-n", "peer"], &known[..]].concat())?;
        let floating = FloatingAddr::new("here".parse()?, format!("{address}/24").parse()?);
        let claimed = std::time::Instant::now();
        floating.claim(&host)?;
        floating.announce(&host)?;
        let deadline = Deadline::after(Duration::from_secs(30));
        while !ip(&["-n", "peer", "neigh", "show", &address])?.contains(&mac) {
            assert!(!deadline.is_over(), "the peer has not learnt it");
        }
        took.push(claimed.elapsed());
        floating.release(&host)?;
    }
    took.sort();
    println!(
        "from claim to the peer's new neighbour entry, with the asking: median {:?}, longest {:?}",
        took[2], took[4]
    );
    assert!(took[4] < Duration::from_secs(10), "{took:?}");
    laid_away()
}
