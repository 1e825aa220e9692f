//! `san-node` on a real kernel: killed in the middle of its work, and faced with what goes wrong on real machines. What it cannot do it says,
//! and it leaves everything as it was.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::indexing_slicing)] // It is a test.

#[path = "common/nodes.rs"]
mod nodes;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use nodes::{Nodes, UNITS};

/// What the machine is, as far as `san-node` could have changed it. Counters, timers and the connection to an absent peer come and go.
fn look(nodes: &Nodes) -> Result<String> {
    nodes.machines[0].sh(
        "ip -o link | sed -E 's/ (qlen|state|qdisc) [^ ]+//g; s/<[^>]*(UP)?[^>]*>//'; ip -o -4 addr; ip route; dmsetup ls | sort; \
         drbdsetup status 2>/dev/null | grep -v connection: || true; find /sys/kernel/config/target 2>/dev/null | sort; \
         cat /proc/sys/net/ipv4/tcp_reordering /proc/sys/net/core/rmem_max",
    )
}

/// Runs `san-node`, which must fail, say these words, and change nothing.
fn must_fail(nodes: &Nodes, words: &str, says: &[&str]) -> Result<()> {
    let before = look(nodes)?;
    let output = nodes.try_san_node(0, words)?;
    println!("san-node {words}: {}", output.stdout.trim());
    ensure!(!output.success(), "san-node {words} succeeded: {}", output.stdout);
    for part in says {
        ensure!(output.stdout.contains(part), "san-node {words} does not say {part:?}: {}", output.stdout);
    }
    let after = look(nodes)?;
    let differ: Vec<_> = before
        .lines()
        .filter(|line| !after.lines().any(|other| other == *line))
        .map(|line| format!("- {line}"))
        .chain(after.lines().filter(|l| !before.lines().any(|o| o == *l)).map(|line| format!("+ {line}")))
        .collect();
    ensure!(differ.is_empty(), "san-node {words} changed something:\n{}", differ.join("\n"));
    Ok(())
}

fn steps_to_go(nodes: &Nodes) -> Result<usize> {
    let plan = nodes.san_node(0, "plan")?;
    let count = plan.lines().last().and_then(|line| line.strip_suffix(" steps"));
    count.and_then(|count| count.parse().ok()).with_context(|| format!("no number of steps in {plan}"))
}

#[test]
fn san_node_survives_what_happens_to_it() -> Result<()> {
    let started = Instant::now();
    let nodes = Nodes::boot("node", &lab::programs(&[&["-p", "sankit-examples", "--bins"]])?, 1)?;
    let machine = &nodes.machines[0];
    let phase = |text: &str| println!("[{:5.1} s] {text}", started.elapsed().as_secs_f64());

    phase("without the target's module");
    machine.sh("echo install target_core_mod /bin/false > /etc/modprobe.d/no-lio.conf")?;
    must_fail(
        &nodes,
        "apply",
        &["the kernel module target_core_mod is not loaded", "modprobe target_core_mod"],
    )?;
    machine.sh("rm /etc/modprobe.d/no-lio.conf")?;

    phase("with a disk that is open under another name");
    machine.sh("cryptsetup open --key-file /run/keys/san /dev/disk/by-id/virtio-n1-b old_name")?;
    must_fail(&nodes, "apply", &[UNITS[1].1[0], "/dev/mapper/old_name", "cryptsetup close old_name"])?;
    machine.sh("cryptsetup close old_name")?;

    phase("killed after ten different steps");
    let total = steps_to_go(&nodes)?;
    let mut killed = 0;
    for tenth in 1..=10 {
        // Each time from nothing; what was up before stays up, which makes the plan shorter by some steps.
        let steps = steps_to_go(&nodes)?;
        let after = (steps * tenth / 10).max(1);
        let output = nodes.try_san_node(0, &format!("apply --create-metadata --kill-after {after}"))?;
        ensure!(output.code == 137, "not killed after step {after} but {}: {}", output.code, output.stdout);
        killed += 1;
        nodes
            .san_node(0, "apply --create-metadata")
            .with_context(|| format!("after a kill after step {after}"))?;
        ensure!(
            steps_to_go(&nodes)? == 0,
            "after a kill after step {after} of {steps} there is something left to do"
        );
        phase(&format!("killed after step {after} of {steps}, applied again, 0 steps to go"));
        if tenth < 10 {
            nodes.san_node(0, "destroy")?;
        }
    }
    println!("killed after {killed} of {total} steps");
    let second = nodes.san_node(0, "apply")?;
    ensure!(second.contains("nothing to do, 0 steps"), "a second apply did something: {second}");

    phase("without its peer");
    let unit = UNITS[0].0;
    must_fail(
        &nodes,
        &format!("serve {unit}"),
        &["n2 does not answer", "does not mean it is dead", "--peer-is-dead"],
    )?;
    must_fail(&nodes, "serve VM_STORAGE_3", &["has no unit \"VM_STORAGE_3\"", "VM_STORAGE_1, VM_STORAGE_2"])?;

    phase("without the link of a portal's address");
    // The first sync makes this disk the truth, which nothing takes back; so that is done before.
    nodes.san_node(0, &format!("serve {unit} --peer-is-dead --first-sync"))?;
    nodes.san_node(0, &format!("release {unit}"))?;
    machine.sh("ip link del eth1.25")?;
    let serve = format!("serve {unit} --peer-is-dead");
    must_fail(&nodes, &serve, &["10.1.25.10/24 on eth1.25", "no interface of this name"])?;
    nodes.san_node(0, "apply")?;

    phase("with a wrong passphrase");
    machine.sh("drbdsetup down VM_STORAGE_2; cryptsetup close VM_STORAGE_2; cp -p /run/keys/san /run/keys/good; echo wrong > /run/keys/san")?;
    must_fail(&nodes, "apply", &["/dev/vd", "no key slot opens with this passphrase"])?;
    machine.sh("mv /run/keys/good /run/keys/san")?;
    nodes.san_node(0, "apply")?;

    phase("without rights");
    // The secrets are root's: that is what others are told first.
    let nobody = "setpriv --reuid 65534 --regid 65534 --clear-groups san-node";
    let refused = machine.run(lab::Cmd::sh(&format!("{nobody} apply 2>&1")))?;
    ensure!(
        refused.stdout.contains("/run/keys/") && refused.stdout.contains("Permission denied"),
        "{}",
        refused.stdout
    );
    // With secrets that they may read they fail at the first step, whichever facility it is of.
    machine.sh("chmod 755 /run/keys; chmod 644 /run/keys/*")?;
    nodes.machines[0].sh("ip addr flush dev bond_drbd scope global")?;
    let before = look(&nodes)?;
    let refused = machine.run(lab::Cmd::sh(&format!("{nobody} apply 2>&1")))?;
    println!("nobody: {}", refused.stdout.trim());
    ensure!(!refused.success(), "nobody may apply: {}", refused.stdout);
    ensure!(refused.stdout.contains("root"), "nobody is not told what is missing: {}", refused.stdout);
    ensure!(look(&nodes)? == before, "nobody changed something");
    machine.sh("chmod 700 /run/keys; chmod 600 /run/keys/*")?;
    nodes.san_node(0, "apply")?;

    phase("taken down");
    nodes.san_node(0, "destroy")?;
    let left = machine.sh("(dmsetup ls; drbdsetup status; ls /sys/class/net) | grep -E 'VM_|[.]' || true")?;
    ensure!(left.is_empty(), "destroy left something: {left}");
    phase("done");
    Ok(())
}
