//! Segments and cables between machines.
#![allow(clippy::print_stdout)]

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Impair, Lab, Machine, Nic};

/// Whether one ping gets through in a second.
fn reaches(from: &Machine, address: &str) -> Result<bool> {
    Ok(from.run(["ping", "-c", "1", "-W", "1", address])?.success())
}

fn up(machine: &Machine, address: &str) -> Result<()> {
    machine.sh(&format!("ip addr add {address}/24 dev eth0; ip link set eth0 mtu 9000 up")).map(drop)
}

#[test]
fn cables_are_cut_and_restored_and_survive_a_restart() -> Result<()> {
    let lab = Lab::new("link")?;
    let segment = lab.segment("san1");
    let machines = [lab.machine("n1").nic(&segment).build()?, lab.machine("n2").nic(&segment).build()?];
    lab.boot_all(&machines)?;
    let [n1, n2] = &machines;
    up(n1, "10.0.0.1")?;
    up(n2, "10.0.0.2")?;
    ensure!(reaches(n1, "10.0.0.2")?);
    ensure!(n1.sh("cat /sys/class/net/eth0/address")?.trim() == n1.cable(0)?.mac());

    // Jumbo frames and VLAN tags pass.
    ensure!(n1.run(["ping", "-c", "1", "-W", "2", "-s", "8900", "10.0.0.2"])?.success(), "jumbo frame");
    for (machine, address) in [(n1, "10.9.0.1"), (n2, "10.9.0.2")] {
        machine.sh("modprobe 8021q; ip link add link eth0 name v101 type vlan id 101")?;
        machine.sh(&format!("ip addr add {address}/24 dev v101; ip link set v101 up"))?;
    }
    ensure!(reaches(n1, "10.9.0.2")?, "VLAN");

    // A cut is silent, a pulled plug is seen.
    let cable = n2.cable(0)?;
    cable.cut();
    ensure!(!reaches(n1, "10.0.0.2")?, "the cut cable carries frames");
    ensure!(n2.sh("cat /sys/class/net/eth0/carrier")?.trim() == "1");
    cable.restore();
    ensure!(reaches(n1, "10.0.0.2")?, "the restored cable carries nothing");
    cable.unplug()?;
    n2.sh(
        "for i in $(seq 50); do [ $(cat /sys/class/net/eth0/carrier) = 0 ] && exit; sleep 0.1; done; exit 1",
    )?;
    cable.plug()?;
    n2.sh(
        "for i in $(seq 50); do [ $(cat /sys/class/net/eth0/carrier) = 1 ] && exit; sleep 0.1; done; exit 1",
    )?;

    // Delay is felt, and goes again.
    cable.impair(Impair { delay: Duration::from_millis(100), ..Impair::default() });
    let text = n1.run_ok(["ping", "-c", "2", "-i", "0.3", "10.0.0.2"])?.stdout;
    println!("{text}");
    let best: f64 = text.rsplit("= ").next().and_then(|t| t.split('/').next()?.parse().ok()).unwrap_or(0.0);
    ensure!(best >= 200.0, "{best} ms with 100 ms in each direction");
    cable.impair(Impair::default());

    // A capture has the frames of a ping: ether type and protocol of each are where they belong.
    let file = lab.path().join("san1.pcap");
    segment.capture(&file)?;
    ensure!(reaches(n1, "10.0.0.2")?);
    segment.stop_capture();
    let bytes = std::fs::read(&file)?;
    let icmp = bytes.windows(12).filter(|w| w.starts_with(&[8, 0, 0x45]) && w.last() == Some(&1)).count();
    ensure!(icmp >= 2, "{icmp} ICMP packets in {} bytes", bytes.len());

    // A machine that dies finds its cable again.
    n2.power_cut();
    ensure!(!reaches(n1, "10.0.0.2")?);
    n2.boot()?;
    up(n2, "10.0.0.2")?;
    ensure!(reaches(n1, "10.0.0.2")?, "the restarted machine has no network");

    // A frozen machine is silent and goes on where it was.
    n2.freeze()?;
    ensure!(!reaches(n1, "10.0.0.2")?);
    n2.thaw()?;
    ensure!(reaches(n1, "10.0.0.2")?);
    Ok(())
}

#[test]
fn every_card_model_works_on_a_segment() -> Result<()> {
    let lab = Lab::new("cards")?;
    let segment = lab.segment("san1");
    let vm = lab
        .machine("n1")
        .nic_with(Nic::on(&segment).mtu(9216))
        .nic_with(Nic::on(&segment).model("e1000e"))
        .nic_with(Nic::on(&segment).model("vmxnet3"))
        .boot()?;
    let tap = segment.tap()?;
    for number in 0..3 {
        let mac = vm.cable(number)?.mac().to_owned();
        let name = vm.sh(&format!("basename $(dirname $(grep -l {mac} /sys/class/net/*/address))"))?;
        let name = name.trim();
        let mtu = vm.sh(&format!("cat /sys/class/net/{name}/mtu"))?;
        ensure!(mtu.trim() == if number == 0 { "9216" } else { "1500" }, "MTU of card {number} is {mtu}");
        // e1000e takes seconds to find its carrier.
        let carrier = format!(
            "for i in $(seq 100); do [ $(cat /sys/class/net/{name}/carrier) = 1 ] && break; sleep 0.1; done"
        );
        vm.sh(&format!("ip addr add 10.{number}.0.1/24 dev {name}; ip link set {name} up; {carrier}"))?;
        vm.run(["arping", "-c", "1", "-w", "1", "-I", name, &format!("10.{number}.0.2")])?;
        let source: Vec<u8> = mac.split(':').filter_map(|part| u8::from_str_radix(part, 16).ok()).collect();
        let mut seen = false;
        while let Some(frame) = tap.receive(Duration::from_millis(300))? {
            seen |= frame.get(6..12) == Some(source.as_slice());
        }
        ensure!(seen, "no frame of {name} ({mac})");
    }
    Ok(())
}
