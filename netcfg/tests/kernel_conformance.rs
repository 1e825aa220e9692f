//! The conformance checks on the kernel of a lab guest, and what `ip` says of the result.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::disallowed_types)] // It is a test.

mod conformance;

use std::process::{Command, ExitCode};
use std::time::Duration;

use libtest_mimic::{Arguments, Failed, Trial};
use netcfg::{BondMode, BondSpec, Deadline, Event, FloatingAddr, Host, IfName, LinkSpec, NetSpec, Netcfg};

fn in_guest() -> bool {
    let line = Host::live().tree().read("/proc/cmdline").unwrap_or_default();
    line.contains("lab.mode=")
}

fn cards() -> Result<(IfName, IfName), Failed> {
    Ok(("eth0".parse()?, "eth1".parse()?))
}

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let ready = in_guest();
    let mut trials: Vec<Trial> = conformance::ALL
        .iter()
        .map(|(name, check)| {
            Trial::test(*name, move || {
                let (host, (a, b)) = (Host::live(), cards()?);
                conformance::clean(&host, &a, &b).map_err(|e| e.to_string())?;
                check(&host, &a, &b).map_err(|e| e.to_string())?;
                conformance::clean(&host, &a, &b).map_err(|e| e.to_string().into())
            })
            .with_ignored_flag(!ready)
        })
        .collect();
    trials.push(Trial::test("ip_shows_what_we_made", ip_agrees).with_ignored_flag(!ready));
    trials.push(Trial::test("a_watch_tells_of_a_failover", failover).with_ignored_flag(!ready));
    trials.push(Trial::test("an_announcement_leaves_the_machine", announcement).with_ignored_flag(!ready));
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
