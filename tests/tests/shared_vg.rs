//! Two hypervisors share a volume group on a disk of one node, over two portals: lvmlockd and sanlock with a watchdog, through `san-attach --vg` and
//! the crate's own verbs. One volume at a time is somebody's; it moves as in a live migration while fio writes and verifies; the holder loses its
//! power, and the other has the volume only after the lease is gone.
#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout, clippy::indexing_slicing)] // It is a test.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use lab::{Cmd, Kernel, Lab, Machine, Mode, Running, Segment};

const TARGET: &str = "iqn.2026-01.lab.sankit:vms";
const PORTALS: [&str; 2] = ["10.1.24.10", "10.1.25.10"];
const PATIENCE: Duration = Duration::from_secs(420);
/// sanlock's times with its default I/O timeout of 10 s: others take over so long after the last renewal, and a host renews so often.
const TAKEN_OVER: f64 = 140.0;
const RENEWAL: f64 = 20.0;
/// A write in flight for every verb of the migration.
const FIO: &str = "fio --name=vm --filename=/dev/mapper/vms-vm1 --direct=1 --ioengine=libaio --iodepth=4 --rw=randwrite --bs=4k --size=48m \
                   --verify=crc32c --verify_backlog=64 --verify_fatal=1 --thinktime=2000 --output-format=terse";
/// A part of the volume that nobody else writes to.
const KEPT: &str = "fio --name=kept --filename=/dev/mapper/vms-vm1 --direct=1 --bs=64k --offset=64m --size=8m --verify=crc32c --verify_fatal=1";

/// What a hypervisor's files say.
const SETTLED: &str = r#"# The lab's udev looks up no names of groups; sanlock's user is in the group disk.
             echo 'SUBSYSTEM=="block", GROUP="6", MODE="0660"' > /etc/udev/rules.d/90-disk.rules
             sed -i 's/# use_lvmlockd = 0/use_lvmlockd = 1/' /etc/lvm/lvm.conf"#;

/// Its name and addresses.
fn addresses(number: usize) -> String {
    format!(
        "echo InitiatorName=iqn.2026-01.lab.sankit:hv{number} > /etc/iscsi/initiatorname.iscsi
             for i in 0 1; do ip addr add 10.1.2$((4+i)).{number}/24 dev eth$i; ip link set eth$i up; done"
    )
}

struct Vms {
    lab: Lab,
    lan: [Segment; 2],
    node: Machine,
    hosts: [Machine; 2],
    started: Instant,
}

impl Vms {
    fn boot(kernel: Kernel) -> Result<Self> {
        let programs = lab::programs(&[
            &["-p", "sankit-examples", "--bin", "san-attach"],
            &["-p", "sankit-multipath", "--features", "lvm", "--example", "shared_vg"],
        ])?;
        let lab = Lab::new("shared-vg")?;
        for program in ["san-attach", "examples/shared_vg"] {
            lab.install(&programs.join(program))?;
        }
        let lan = [lab.segment("san1"), lab.segment("san2")];
        let machine =
            |name: &str| lab.machine(name).kernel(kernel).memory(768).cpus(1).nic(&lan[0]).nic(&lan[1]);
        let node = machine("node").mode(Mode::Root).disk(&lab.plain_disk("vms", 1 << 30)?).build()?;
        let host = |name: &str| machine(name).root("shared-vg").build();
        let hosts = [host("hv1")?, host("hv2")?];
        lab.boot_all(&[node.clone(), hosts[0].clone(), hosts[1].clone()])?;
        Ok(Self { lab, lan, node, hosts, started: Instant::now() })
    }

    /// A hypervisor as `hv1`, which is off, that boots with systemd: the unit is enabled, and so are the daemons of the path to the disk.
    fn with_systemd(&self, unit: &str) -> Result<Machine> {
        let script = format!(
            "#!/bin/sh -e
             install /lab/bin/san-attach /lab/bin/shared_vg /usr/bin/
             {SETTLED}
             {}
             modprobe -a iscsi_tcp dm_multipath dm_service_time scsi_dh_alua softdog
             cat > /etc/systemd/system/san-attach-vms.service <<'END'\n{unit}\nEND
             wants=/run/systemd/system/lab.target.wants; mkdir -p $wants
             ln -s /etc/systemd/system/san-attach-vms.service $wants/
             ln -s /lib/systemd/system/multipathd.service /lib/systemd/system/iscsid.service $wants/\n",
            addresses(1)
        );
        let file = self.lab.share().join("bin/again.boot");
        std::fs::write(&file, script)?;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755))?;
        let machine = self.lab.machine("again").memory(768).cpus(2).nic(&self.lan[0]).nic(&self.lan[1]);
        let machine = machine.root("shared-vg").systemd().boot_deadline(Duration::from_secs(400)).build()?;
        machine.boot()?;
        Ok(machine)
    }

    fn say(&self, text: &str) {
        println!("[{:5.1} s] {text}", self.started.elapsed().as_secs_f64());
    }

    /// Runs a script; what it printed and complained, and how it ended.
    fn try_run(&self, machine: &Machine, script: &str) -> Result<(i32, String)> {
        let output = machine.run(Cmd::sh(&format!("{{ {script}; }} 2>&1")).deadline(PATIENCE))?;
        Ok((output.code, output.stdout.trim().to_owned()))
    }

    fn run(&self, machine: &Machine, script: &str) -> Result<String> {
        let (code, said) = self.try_run(machine, script)?;
        ensure!(code == 0, "{}: {script}: code {code}: {said}", machine.name());
        Ok(said)
    }

    /// What a hypervisor has after a boot.
    fn equip(&self, host: usize) -> Result<()> {
        let number = host + 1;
        let script = format!(
            "hostname hv{number}; install /lab/bin/san-attach /lab/bin/shared_vg /usr/bin/
             {SETTLED}
             {}
             udevadm control --reload
             modprobe -a iscsi_tcp dm_multipath dm_service_time scsi_dh_alua softdog; iscsid; multipathd
             for i in $(seq 300); do multipathd show daemon 2>/dev/null | grep -q pid && break; sleep 0.1; done",
            addresses(number)
        );
        self.run(&self.hosts[host], &script).map(drop)
    }

    fn serve(&self) -> Result<()> {
        let script = format!(
            "hostname node; for i in 0 1; do ip addr add 10.1.2$((4+i)).10/24 dev eth$i; ip link set eth$i up; done
             modprobe -a target_core_mod iscsi_target_mod
             targetcli set global auto_add_default_portal=false
             targetcli /backstores/block create vms /dev/disk/by-id/virtio-vms
             targetcli /iscsi create {TARGET}
             targetcli /iscsi/{TARGET}/tpg1/luns create /backstores/block/vms
             for portal in {}; do targetcli /iscsi/{TARGET}/tpg1/portals create $portal; done
             targetcli /iscsi/{TARGET}/tpg1 set attribute authentication=0 generate_node_acls=1 demo_mode_write_protect=0 cache_dynamic_acls=1",
            PORTALS.join(" ")
        );
        self.run(&self.node, &script).map(drop)
    }

    fn attach(&self, host: usize, words: &str) -> Result<(i32, String)> {
        let portals = PORTALS.map(|portal| format!("-p {portal}:3260")).join(" ");
        self.try_run(&self.hosts[host], &format!("san-attach {TARGET} {portals} {words}"))
    }

    /// A verb of the crate; how long it took, and what it said.
    fn try_vg(&self, host: usize, verb: &str) -> Result<(i32, String, f64)> {
        let since = Instant::now();
        let (code, said) = self.try_run(&self.hosts[host], &format!("shared_vg vms {} {verb}", host + 1))?;
        let took = since.elapsed().as_secs_f64();
        self.say(&format!("hv{} {verb}: {took:.1} s, code {code}", host + 1));
        Ok((code, said, took))
    }

    fn vg(&self, host: usize, verb: &str) -> Result<(String, f64)> {
        let (code, said, took) = self.try_vg(host, verb)?;
        ensure!(code == 0, "hv{} {verb}: code {code}: {said}", host + 1);
        Ok((said, took))
    }

    /// A verb that must be refused, with these words.
    fn refused(&self, host: usize, verb: &str, words: &[&str]) -> Result<f64> {
        let (code, said, took) = self.try_vg(host, verb)?;
        ensure!(code != 0, "hv{} {verb} was not refused: {said}", host + 1);
        for word in words {
            ensure!(said.contains(word), "hv{} {verb}: {word:?} is not in {said:?}", host + 1);
        }
        Ok(took)
    }

    /// A virtual machine's disk in use: returns when it is.
    fn write(&self, host: usize, seconds: u32) -> Result<Running> {
        let fio = Cmd::sh(&format!("exec {FIO} --time_based --runtime={seconds}")).deadline(PATIENCE);
        let fio = self.hosts[host].spawn(fio)?;
        let used = "for i in $(seq 300); do dmsetup info -c --noheadings -o open vms-vm1 | grep -q '[1-9]' && exit 0; sleep 0.2; done; exit 1";
        self.run(&self.hosts[host], &format!("( {used} )")).context("fio does not open the volume")?;
        Ok(fio)
    }

    fn wrote(&self, host: usize, mut fio: Running) -> Result<()> {
        let mut said = Vec::new();
        let exit = fio.wait_with(|chunk| match chunk {
            lab::Chunk::Stdout(bytes) | lab::Chunk::Stderr(bytes) => said.extend(bytes),
        })?;
        let said = String::from_utf8_lossy(&said);
        ensure!(exit.code == 0 && !said.contains("verify failed"), "fio on hv{}: {exit:?}: {said}", host + 1);
        self.say(&format!("hv{}: fio has written and verified", host + 1));
        Ok(())
    }
}

/// The queueing time is refused, then right; the first host makes the group, the second joins it under a number of its own.
fn made_and_joined(vms: &Vms) -> Result<()> {
    vms.serve()?;
    vms.equip(0)?;
    vms.equip(1)?;
    // As attached without a word of a group, I/O waits 120 s: longer than the leases last.
    let (code, said) = vms.attach(0, "")?;
    ensure!(code == 0, "{said}");
    let map = vms.run(&vms.hosts[0], "ls /dev/mapper/3*")?;
    let (code, said) = vms.try_run(&vms.hosts[0], &format!("shared_vg vms 1 preflight {map}"))?;
    ensure!(
        code != 0 && said.contains("queueing is 120 s"),
        "a queueing time of 120 s was not refused: {said}"
    );
    for host in [0, 1] {
        let (code, said) = vms.attach(host, &format!("--vg vms --host-id {} --preflight", host + 1))?;
        ensure!(code == 0 && said.contains("this host is fit"), "{said}");
    }
    let plain = vms.run(&vms.hosts[0], "multipathd show paths raw format %d | head -n 1")?;
    let (code, said) = vms.try_run(&vms.hosts[0], &format!("shared_vg vms 1 preflight /dev/{plain}"))?;
    ensure!(code != 0 && said.contains("no multipath map"), "a path was taken for a map: {said}");
    // A disk that holds something is refused and not touched.
    vms.run(&vms.hosts[0], &format!("mkfs.ext4 -q {map} 64M"))?;
    vms.refused(0, &format!("create {map}"), &["holds an ext file system"])?;
    vms.run(&vms.hosts[0], &format!("e2fsck -fn {map} && wipefs -qa {map}"))?;
    let (_, took) = vms.vg(0, &format!("create {map}"))?;
    let watched = vms.run(&vms.hosts[0], "sanlock client status -D | grep use_watchdog=1; pidof wdmd")?;
    ensure!(!watched.is_empty(), "no watchdog");
    vms.refused(0, &format!("create {map}"), &["already"])?;
    // Its number is the first one's.
    let (code, said) = vms.try_run(&vms.hosts[1], "shared_vg vms 1 preflight")?;
    ensure!(code != 0 && said.contains("1 is the number of hv1, which is alive"), "{said}");
    let (code, said) = vms.try_run(&vms.hosts[1], "shared_vg vms - preflight")?;
    ensure!(code != 0 && said.contains("host number is not set"), "{said}");
    let since = Instant::now();
    let (code, said) = vms.try_run(&vms.hosts[1], "shared_vg vms 1 join")?;
    let noticed = since.elapsed().as_secs_f64();
    ensure!(code != 0 && said.contains("host number 1 is in use by hv1"), "{said}");
    let left = vms.run(&vms.hosts[1], "pidof wdmd sanlock lvmlockd || true")?;
    ensure!(left.is_empty(), "daemons were left running: {left}");
    let since = Instant::now();
    let (code, said) = vms.attach(1, "--vg vms --host-id 2")?;
    ensure!(code == 0 && said.contains("joined"), "{said}");
    vms.say(&format!(
        "made in {took:.1} s, a number that is taken noticed in {noticed:.1} s, attached and joined in {:.1} s",
        since.elapsed().as_secs_f64()
    ));
    Ok(())
}

/// Alone, refused elsewhere; then from the one host to the other, in use all the time.
fn migrated(vms: &Vms) -> Result<()> {
    vms.vg(0, "create-lv vm1 64M ex")?;
    vms.refused(1, "activate vm1 ex", &["vm1 is in use by host 1 (hv1, exclusive)"])?;
    vms.refused(1, "activate vm1 sh", &["host 1 (hv1, exclusive)"])?;
    vms.refused(1, "grow-lv vm1 128M", &["host 1 (hv1, exclusive)"])?;
    vms.refused(1, "remove-lv vm1", &["host 1 (hv1, exclusive)"])?;
    let fio = vms.write(0, 40)?;
    vms.refused(0, "deactivate vm1", &["in use on this host"])?;
    vms.refused(0, "leave", &["in use on this host"])?;
    let mut times = vec![("to shared", vms.vg(0, "activate vm1 sh")?.1)];
    times.push(("shared on the other", vms.vg(1, "activate vm1 sh")?.1));
    vms.refused(1, "activate vm1 ex", &["host 1 (hv1, shared)"])?;
    vms.wrote(0, fio)?;
    // The machine runs on the other host now.
    let fio = vms.write(1, 30)?;
    times.push(("deactivated", vms.vg(0, "deactivate vm1")?.1));
    times.push(("to exclusive", vms.vg(1, "activate vm1 ex")?.1));
    vms.refused(0, "activate vm1 sh", &["host 2 (hv2, exclusive)"])?;
    vms.wrote(1, fio)?;
    let times: Vec<_> = times.iter().map(|(what, took)| format!("{what} {took:.1} s")).collect();
    vms.say(&format!("migration: {}", times.join(", ")));
    // What the first wrote, the second finds, and back.
    vms.vg(1, "grow-lv vm1 96M")?;
    let size = vms.run(&vms.hosts[1], "blockdev --getsize64 /dev/mapper/vms-vm1")?;
    ensure!(size == "100663296", "vm1 has {size} bytes");
    vms.vg(1, "deactivate vm1")?;
    vms.vg(0, "activate vm1 ex")?;
    vms.run(&vms.hosts[0], &format!("{KEPT} --rw=write --do_verify=0"))?;
    Ok(())
}

/// The holder loses its power. The other takes over when the lease is gone, and not before; what was acknowledged is there.
fn holder_killed(vms: &Vms) -> Result<()> {
    let fio = vms.write(0, 600)?;
    std::thread::sleep(Duration::from_secs(5));
    vms.hosts[0].power_cut();
    drop(fio);
    let since = Instant::now();
    vms.refused(1, "activate vm1 ex", &["host 1 (hv1, exclusive)"])?;
    vms.vg(1, "wait vm1 ex")?;
    let took = since.elapsed().as_secs_f64();
    vms.say(&format!("power cut: the volume was free {took:.1} s later"));
    // The last renewal was at most a renewal before the cut.
    ensure!(took >= TAKEN_OVER - RENEWAL - 1.0, "after {took:.1} s the lease cannot have been gone");
    ensure!(took <= TAKEN_OVER + RENEWAL + 40.0, "it took {took:.1} s");
    vms.run(&vms.hosts[1], &format!("{KEPT} --rw=read")).context("what was written before the cut")?;
    // The dead one comes back under its own number.
    vms.hosts[0].boot()?;
    vms.equip(0)?;
    let since = Instant::now();
    let (code, said) = vms.attach(0, "--vg vms --host-id 1")?;
    ensure!(code == 0, "{said}");
    vms.say(&format!("joined after the power cut in {:.1} s", since.elapsed().as_secs_f64()));
    vms.refused(0, "activate vm1 ex", &["host 2 (hv2, exclusive)"])?;
    Ok(())
}

/// Everything goes in order, and nothing is left.
fn taken_down(vms: &Vms) -> Result<()> {
    vms.refused(1, "remove", &["volumes vm1"])?;
    vms.vg(1, "remove-lv vm1")?;
    vms.refused(1, "remove", &["group vms is in use"])?;
    let (code, said) = vms.attach(0, "--vg vms --host-id 1 -d")?;
    ensure!(code == 0 && said.contains("detached"), "{said}");
    vms.vg(1, "remove")?;
    vms.vg(1, "stop")?;
    for (host, machine) in vms.hosts.iter().enumerate() {
        let left = vms.run(machine, "pidof sanlock lvmlockd || true; ls /dev/mapper | grep vms || true")?;
        ensure!(left.is_empty(), "hv{} has {left} left", host + 1);
    }
    Ok(())
}

fn scenario(kernel: Kernel) -> Result<()> {
    let vms = Vms::boot(kernel)?;
    let outcome = made_and_joined(&vms)
        .and_then(|()| migrated(&vms))
        .and_then(|()| holder_killed(&vms))
        .and_then(|()| taken_down(&vms));
    if let Err(error) = outcome {
        for machine in vms.hosts.iter().filter(|machine| machine.is_on()) {
            let look = "multipath -ll; lvmlockctl -i; sanlock client status; sanlock client gets -h 1; tail -n 30 /var/log/sanlock.log; dmesg | tail -n 30; true";
            println!(
                "{}: {}",
                machine.name(),
                vms.run(machine, look).unwrap_or_else(|error| format!("{error:#}"))
            );
        }
        return Err(error);
    }
    vms.lab.forgive();
    Ok(())
}

/// The first host has made the group.
fn one_host() -> Result<Vms> {
    let vms = Vms::boot(Kernel::V6_1)?;
    vms.serve()?;
    vms.equip(0)?;
    let (code, said) = vms.attach(0, "--vg vms --host-id 1 --create")?;
    ensure!(code == 0 && said.contains("group vms made"), "{said}");
    Ok(vms)
}

/// One host alone: made, nothing in it, removed; the disk is as it was.
#[test]
fn a_group_of_one_host_is_made_and_removed() -> Result<()> {
    let vms = one_host()?;
    vms.vg(0, "remove")?;
    vms.vg(0, "stop")?;
    let script =
        "pidof sanlock lvmlockd || true; ls /dev/mapper | grep vms || true; wipefs -n /dev/mapper/3*";
    let left = vms.run(&vms.hosts[0], script)?;
    ensure!(left.is_empty(), "{left}");
    let (code, said) = vms.attach(0, "-d")?;
    ensure!(code == 0 && said.contains("detached"), "{said}");
    vms.lab.forgive();
    Ok(())
}

/// systemd starts the unit at boot and ends it in order.
#[test]
fn its_unit_attaches_and_joins_at_boot() -> Result<()> {
    let vms = one_host()?;
    let (code, said) = vms.attach(0, "--vg vms --host-id 1 --create --unit")?;
    let unit = said.find("# /etc/systemd").and_then(|at| said.get(at..)).unwrap_or_default().to_owned();
    ensure!(code == 0 && unit.contains("WantedBy="), "{said}");
    let (code, said) = vms.attach(0, "--vg vms --host-id 1 -d")?;
    ensure!(code == 0, "{said}");
    vms.hosts[0].power_cut();
    let host = vms.with_systemd(&unit)?;
    let outcome = at_boot(&vms, &host);
    if outcome.is_err() {
        let look = "systemctl --no-pager status san-attach-vms || true; systemctl list-jobs; journalctl --no-pager -b | tail -n 60; lvmlockctl -i || true; sanlock client status || true";
        println!("{}", vms.run(&host, look).unwrap_or_else(|error| format!("{error:#}")));
    }
    outcome?;
    vms.lab.forgive();
    Ok(())
}

fn at_boot(vms: &Vms, host: &Machine) -> Result<()> {
    let script = "for i in $(seq 400); do s=$(systemctl is-active san-attach-vms || true); case $s in active|failed) break; esac; sleep 1; done; echo $s";
    let state = vms.run(host, script)?;
    ensure!(state == "active", "the unit is {state}");
    let took = "systemctl show -p ActiveEnterTimestampMonotonic --value san-attach-vms";
    vms.say(&format!("the unit was there {} us after the boot", vms.run(host, took)?));
    // Its own lines, and none of them a mistake.
    let verified =
        vms.run(host, "systemd-analyze verify --man=no /etc/systemd/system/san-attach-vms.service")?;
    ensure!(!verified.contains("san-attach-vms"), "{verified}");
    let seen = vms.run(host, "lvmlockctl -i; vgs --noheadings -o vg_name,vg_lock_type")?;
    ensure!(seen.contains("vms") && seen.contains("sanlock"), "{seen}");
    vms.run(host, "shared_vg vms 1 create-lv vm1 64M ex")?;
    vms.run(
        host,
        "dd if=/dev/zero of=/dev/mapper/vms-vm1 bs=1M count=1 oflag=direct && shared_vg vms 1 deactivate vm1",
    )?;
    // Room for more locks.
    vms.run(host, "shared_vg vms 1 grow-locks 320M")?;
    let size = vms.run(host, "lvs --noheadings --nosuffix --units m -a -o lv_size vms/lvmlock")?;
    ensure!(size.trim() == "320.00", "lvmlock has {size} MiB");
    vms.run(host, "systemctl stop san-attach-vms")?;
    let result = vms.run(host, "systemctl show -p Result -p ActiveState san-attach-vms")?;
    ensure!(result.contains("Result=success") && result.contains("ActiveState=inactive"), "{result}");
    let left = "pidof sanlock lvmlockd || true; ls /dev/mapper | grep -v control || true; ls /sys/class/iscsi_session";
    let left = vms.run(host, left)?;
    ensure!(left.is_empty(), "{left}");
    Ok(())
}

#[test]
fn a_volume_is_one_hosts_until_it_is_given_or_its_lease_is_gone() -> Result<()> {
    scenario(Kernel::V6_1)
}

#[test]
fn on_the_newer_kernel_too() -> Result<()> {
    scenario(Kernel::V6_12)
}
