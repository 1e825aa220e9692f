//! `lio-ls` beside `targetcli ls`, on a configuration that targetcli made with everything it can make; `lio-export` beside both.
#![allow(clippy::expect_used, clippy::print_stdout)] // It is a test.

use std::time::Duration;

use anyhow::{Result, ensure};
use lab::{Cmd, Kernel, Lab, Machine, Mode};

const PATIENCE: Duration = Duration::from_secs(600);

/// Something of everything that targetcli can make.
const SCRIPT: &str = "set global auto_add_default_portal=false auto_save_on_exit=false
/backstores/block create disk0 /dev/disk/by-id/virtio-d0
/backstores/block create disk1 /dev/disk/by-id/virtio-d1 readonly=true
/backstores/fileio create file1 /tmp/file1 4M write_back=false
/backstores/fileio create file2 /var/tmp/file2 8M write_back=true
/backstores/ramdisk create ram1 4M
/backstores/ramdisk create ram2 1M nullio=true
/backstores/ramdisk create unused 1M
/backstores/ramdisk/ram1/alua create node1 7
/backstores/ramdisk/ram1/alua/node1 set alua alua_access_state=1
/backstores/ramdisk/ram1/alua create node2 8
/backstores/ramdisk/ram1/alua/node2 set alua alua_access_state=2
/iscsi set discovery_auth userid=scout password=whomayaskforit mutual_userid=me mutual_password=sayssoitself enable=1
/iscsi create iqn.2026-01.org.sankit:one
/iscsi/iqn.2026-01.org.sankit:one create 2
/iscsi/iqn.2026-01.org.sankit:one create 3
/iscsi/iqn.2026-01.org.sankit:one/tpg1/luns create /backstores/block/disk0 0
/iscsi/iqn.2026-01.org.sankit:one/tpg1/luns create /backstores/ramdisk/ram1 5
/iscsi/iqn.2026-01.org.sankit:one/tpg1/luns/lun5 set alua alua_tg_pt_gp_name=node1
/iscsi/iqn.2026-01.org.sankit:one/tpg1/luns create /backstores/ramdisk/ram2 10
/iscsi/iqn.2026-01.org.sankit:one/tpg1/luns create /backstores/block/disk1 11
/iscsi/iqn.2026-01.org.sankit:one/tpg1/portals create 127.0.0.1 13360
/iscsi/iqn.2026-01.org.sankit:one/tpg1/portals create ::1 13360
/iscsi/iqn.2026-01.org.sankit:one/tpg1/acls create iqn.2026-01.org.sankit:host1
/iscsi/iqn.2026-01.org.sankit:one/tpg1/acls create iqn.2026-01.org.sankit:host2 false
/iscsi/iqn.2026-01.org.sankit:one/tpg1/acls/iqn.2026-01.org.sankit:host2 create 3 5 true
/iscsi/iqn.2026-01.org.sankit:one/tpg1/acls create iqn.2026-01.org.sankit:host3
/iscsi/iqn.2026-01.org.sankit:one/tpg1/acls/iqn.2026-01.org.sankit:host1 set auth userid=user1 password=firstsecret1 mutual_userid=target1 mutual_password=othersecret1
/iscsi/iqn.2026-01.org.sankit:one/tpg1/acls/iqn.2026-01.org.sankit:host3 set auth userid=user3 password=firstsecret3
/iscsi/iqn.2026-01.org.sankit:one/tpg1/acls tag iqn.2026-01.org.sankit:host2 rack
/iscsi/iqn.2026-01.org.sankit:one/tpg1 set attribute authentication=1
/iscsi/iqn.2026-01.org.sankit:one/tpg2/luns create /backstores/fileio/file1 0
/iscsi/iqn.2026-01.org.sankit:one/tpg2/portals create 127.0.0.1 13361
/iscsi/iqn.2026-01.org.sankit:one/tpg2 set attribute generate_node_acls=1 authentication=1 demo_mode_write_protect=0
/iscsi/iqn.2026-01.org.sankit:one/tpg2 set auth userid=anybody password=asecretforall
/iscsi/iqn.2026-01.org.sankit:one/tpg2 enable
/iscsi/iqn.2026-01.org.sankit:one/tpg3 disable
/iscsi create iqn.2026-01.org.sankit:open
/iscsi/iqn.2026-01.org.sankit:open/tpg1 set attribute generate_node_acls=1 authentication=0
/loopback create naa.5001405aabbccdd1
/loopback/naa.5001405aabbccdd1/luns create /backstores/fileio/file2 2
exit
";

fn run(machine: &Machine, script: &str) -> Result<String> {
    let output = machine.run(Cmd::sh(&format!("{script} 2>&1")).deadline(PATIENCE))?;
    ensure!(output.success(), "{script}: code {}: {}", output.code, output.stdout);
    Ok(output.stdout)
}

/// Whether a line is one that both show: not that of a fabric which is not ours and has nothing.
fn is_shared(line: &str) -> bool {
    let fabric = line.strip_prefix("  o- ").and_then(|rest| rest.split(' ').next());
    let ours = |name: &str| ["backstores", "iscsi", "loopback", "vhost"].contains(&name);
    fabric.is_none_or(ours) || !line.ends_with("[Targets: 0]")
}

/// The tree without the dots that fill its lines, which follow the terminal.
fn meaning(tree: &str) -> Vec<String> {
    let filled = |word: &str| !word.is_empty() && word.chars().all(|c| c == '.');
    let plain = |line: &str| line.split(' ').filter(|word| !filled(word)).collect::<Vec<_>>().join(" ");
    let lines = tree.lines().map(str::trim_end).filter(|line| line.contains("o- "));
    lines.filter(|line| is_shared(line)).map(plain).collect()
}

fn both(machine: &Machine) -> Result<(Vec<String>, Vec<String>)> {
    let (theirs, ours) = (run(machine, "targetcli ls")?, run(machine, "lio-ls")?);
    Ok((meaning(&theirs), meaning(&ours)))
}

fn alike(machine: &Machine, what: &str) -> Result<usize> {
    let (theirs, ours) = both(machine)?;
    let only = |of: &[String], other: &[String]| -> Vec<String> {
        of.iter().filter(|line| !other.contains(line)).cloned().collect()
    };
    ensure!(
        theirs == ours,
        "{what}: only targetcli shows {:#?}, only lio-ls {:#?}",
        only(&theirs, &ours),
        only(&ours, &theirs)
    );
    Ok(ours.len())
}

#[test]
fn the_tree_is_that_of_targetcli() -> Result<()> {
    let programs = lab::programs(&[&["-p", "sankit-examples", "--bin", "lio-ls", "--bin", "lio-export"]])?;
    let lab = Lab::new("lio-programs")?;
    for name in ["lio-ls", "lio-export"] {
        lab.install(&programs.join(name))?;
    }
    let mut machine = lab.machine("n1").mode(Mode::Root).kernel(Kernel::V6_1).memory(768).cpus(2);
    for name in ["d0", "d1"] {
        machine = machine.disk(&lab.plain_disk(name, 64 << 20)?);
    }
    let machine = machine.boot()?;
    run(&machine, "install /lab/bin/lio-ls /lab/bin/lio-export /usr/local/bin/; modprobe target_core_mod")?;
    let lines = alike(&machine, "nothing")?;
    machine.push("/tmp/script", SCRIPT, 0o600)?;
    let said = run(&machine, "targetcli < /tmp/script")?;
    ensure!(!said.contains("rror") && !said.contains("annot"), "{said}");
    let all = alike(&machine, "everything that targetcli can make")?;
    ensure!(all > lines + 50, "{all} lines");
    println!("lio-ls and targetcli ls draw the same {all} lines");
    // As JSON it is all there, but for passwords.
    let json: serde_json::Value = serde_json::from_str(&run(&machine, "lio-ls --json")?)?;
    let count = |key: &str| json.get(key).and_then(serde_json::Value::as_array).map_or(0, Vec::len);
    ensure!((count("backstores"), count("targets")) == (7, 3), "{json:#}");
    for secret in ["firstsecret1", "othersecret1", "asecretforall", "sayssoitself"] {
        ensure!(!json.to_string().contains(secret), "a password is shown");
    }
    run(&machine, "targetctl clear")?;
    // One command for what takes targetcli six.
    run(
        &machine,
        "lio-export /dev/disk/by-id/virtio-d0 --iqn iqn.2026-01.org.sankit:exported --portal 127.0.0.1:13370 --initiator iqn.2026-01.org.sankit:host1",
    )?;
    alike(&machine, "exported")?;
    let text = run(&machine, "targetcli ls /iscsi")?;
    for words in
        ["iqn.2026-01.org.sankit:exported", "127.0.0.1:13370", "iqn.2026-01.org.sankit:host1", "lun0"]
    {
        ensure!(text.contains(words), "targetcli does not show {words}: {text}");
    }
    lab.forgive();
    Ok(())
}
