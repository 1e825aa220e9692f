//! Debian's initiators against what we made: open-iscsi with every kind of CHAP over IPv4 and IPv6, sg3-utils for what VMware asks of a disk,
//! `iscsi-test-cu` of libiscsi on our LUN and on targetcli's.

use std::collections::BTreeMap;
use std::process::{Child, Command};
use std::time::Duration;

use host::Tree;
use lio::{
    AclSpec, BackstoreSpec, Bytes, ConfigSpec, Deadline, IscsiSpec, Lio, Others, Secret, TargetSpec,
    UnitSerial, Wwid,
};

use super::{targetcli, tool};
use crate::conformance::{Bench, Outcome, iqn};

const FORTH: &str = "a long secret";
const BACK: &str = "another secret";
pub const PORTALS: [&str; 2] = ["127.0.0.1:13370", "[::1]:13370"];

/// A name, what the target says, what the initiator is told, and whether it gets in.
type Case<'a, S> = (&'a str, S, &'a [(&'a str, &'a str)], bool);

pub fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// iscsid, with the name of `host1`.
pub struct Daemon<'a> {
    bench: &'a Bench,
    child: Child,
}

impl<'a> Daemon<'a> {
    pub fn start(bench: &'a Bench) -> Result<Self, Box<dyn std::error::Error>> {
        tool("/sbin/modprobe", &["iscsi_tcp"])?;
        let name = format!("InitiatorName={}\n", iqn("host1"));
        bench.host.tree().replace("/etc/iscsi/initiatorname.iscsi", name, 0o600)?;
        bench.host.tree().ensure_dir("/run/lock/iscsi")?;
        let child = Command::new("/sbin/iscsid").arg("-f").spawn()?;
        Ok(Self { bench, child })
    }

    /// Retries while iscsid is not up yet.
    pub fn admin(&self, words: &[&str]) -> Result<String, Box<dyn std::error::Error>> {
        let deadline = soon();
        loop {
            match tool("/usr/sbin/iscsiadm", words) {
                Err(error)
                    if error.to_string().contains("connect to iSCSI daemon")
                        && deadline.pause(Duration::from_millis(200)) => {}
                other => return other,
            }
        }
    }

    /// Makes a record of a target and logs in with these settings.
    pub fn log_in(
        &self,
        target: &lio::Iqn,
        portal: &str,
        chap: &[(&str, &str)],
    ) -> Result<String, Box<dyn std::error::Error>> {
        let record = ["-m", "node", "-T", target.as_str(), "-p", portal];
        self.admin(&[&record[..], &["-o", "new"]].concat())?;
        let once = [("session.initial_login_retry_max", "1"), ("conn[0].timeo.login_timeout", "10")];
        for (key, value) in once.iter().chain(chap) {
            self.admin(
                &[&record[..], &["-o", "update", "-n", &format!("node.{key}"), "-v", value]].concat(),
            )?;
        }
        self.admin(&[&record[..], &["--login"]].concat())
    }

    pub fn log_out(&self, target: &lio::Iqn) {
        // A login that failed leaves nothing to log out of.
        for words in [["--logout"].as_slice(), &["-o", "delete"]] {
            tool("/usr/sbin/iscsiadm", &[&["-m", "node", "-T", target.as_str()][..], words].concat()).ok();
        }
    }

    /// The SCSI disk of an identifier.
    pub fn disk(&self, wwid: &Wwid) -> Result<String, Box<dyn std::error::Error>> {
        let (tree, deadline) = (self.bench.host.tree(), soon());
        loop {
            let found = tree.list("/sys/class/block")?.into_iter().find(|disk| {
                let text =
                    tree.read_opt(format!("/sys/class/block/{}/device/wwid", disk.name)).ok().flatten();
                text.and_then(|text| Wwid::from_sysfs(&text).ok()).is_some_and(|seen| seen == *wwid)
            });
            if let Some(disk) =
                found.filter(|disk| std::path::Path::new(&format!("/dev/{}", disk.name)).exists())
            {
                return Ok(format!("/dev/{}", disk.name));
            }
            if !deadline.pause(Duration::from_millis(200)) {
                return Err(format!("no disk {wwid}").into());
            }
        }
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).ok();
    }
}

fn disk(name: &str, mib: u64) -> BackstoreSpec {
    BackstoreSpec::ramdisk(name.parse().unwrap(), Bytes(mib << 20))
        .with_serial(UnitSerial::derived_from(name))
}

pub fn with_portals(target: TargetSpec) -> TargetSpec {
    PORTALS.iter().fold(target, |target, portal| target.with_portal(portal.parse().unwrap()))
}

/// None, one-way, mutual; right passwords get in and wrong ones do not, and who tried and why is told.
pub fn chap(bench: &Bench) -> Outcome {
    let (before, lio, daemon) = (bench.snapshot(), bench.lio(), Daemon::start(bench)?);
    let acl = || AclSpec::new(iqn("host1"));
    let one = || acl().with_chap("user".parse().unwrap(), Secret::from(FORTH));
    let both = one().with_mutual_chap("target".parse()?, Secret::from(BACK));
    let user = [
        ("session.auth.authmethod", "CHAP"),
        ("session.auth.username", "user"),
        ("session.auth.password", FORTH),
    ];
    let target = [("session.auth.username_in", "target"), ("session.auth.password_in", BACK)];
    let wrong = [user[0], user[1], ("session.auth.password", "a wrong secret")];
    let mutual = [&user[..], &target[..]].concat();
    let impostor = [&user[..], &[target[0], ("session.auth.password_in", "not its secret")]].concat();
    let cases: [Case<'_, AclSpec>; 8] = [
        ("none", acl(), &[], true),
        ("one-way", one(), &user, true),
        ("one-way, wrong", one(), &wrong, false),
        ("one-way, none given", one(), &[], false),
        ("mutual", both.clone(), &mutual, true),
        ("mutual, not asked for", both.clone(), &user, true),
        ("mutual, wrong", both, &impostor, false),
        ("no ACL", AclSpec::new(iqn("host2")), &[], false),
    ];
    let spec = with_portals(TargetSpec::new(iqn("chap")).with_lun(0, disk("chap", 4)));
    for (what, acl, settings, gets_in) in cases {
        lio.ensure(&spec.clone().with_acl(acl))?;
        for portal in PORTALS {
            let before_it = lio.usage(&spec.iqn)?.logins;
            let answer = daemon.log_in(&spec.iqn, portal, settings);
            let sessions = lio.sessions(&spec.iqn)?;
            let logins = lio.usage(&spec.iqn)?.logins;
            daemon.log_out(&spec.iqn);
            assert_eq!(
                (answer.is_ok(), sessions.len()),
                (gets_in, usize::from(gets_in)),
                "{what} at {portal}: {answer:?} {sessions:?}"
            );
            // Who failed last and why is told, but open-iscsi goes on trying in the background, and a try that is broken off is a failure
            // of another kind: what must hold is that it was counted.
            match what {
                "one-way, wrong" | "one-way, none given" => {
                    assert!(logins.wrong_password > before_it.wrong_password, "{what}: {logins:?}");
                }
                "no ACL" => assert!(logins.forbidden > before_it.forbidden, "{what}: {logins:?}"),
                _ => continue,
            }
            assert!(logins.last_failure.is_some(), "{what}: {logins:?}");
        }
        lio.remove(&spec.iqn)?;
    }
    bench.same(&before, "removed");
    Ok(())
}

/// The kernel shows the newest session of an initiator; the other one is seen all the same.
pub fn two_sessions(bench: &Bench) -> Outcome {
    let (before, lio, daemon) = (bench.snapshot(), bench.lio(), Daemon::start(bench)?);
    let spec = with_portals(TargetSpec::new(iqn("twice")).with_lun(0, disk("twice", 4)))
        .with_acl(AclSpec::new(iqn("host1")));
    lio.ensure(&spec)?;
    for portal in PORTALS {
        daemon.log_in(&spec.iqn, portal, &[])?;
    }
    let outcome = (|| -> Outcome {
        let sessions = lio.sessions(&spec.iqn)?;
        let mut addresses: Vec<_> =
            sessions.iter().flat_map(|one| &one.connections).map(|one| one.address.clone()).collect();
        addresses.sort();
        assert_eq!(addresses, ["127.0.0.1", "::1"], "{sessions:?}");
        assert!(sessions.iter().all(|one| one.initiator == iqn("host1")), "{sessions:?}");
        assert_eq!(lio.usage(&spec.iqn)?.session_count, 2);
        Ok(())
    })();
    daemon.log_out(&spec.iqn);
    lio.remove(&spec.iqn)?;
    outcome?;
    bench.same(&before, "removed");
    Ok(())
}

/// Discovery without a password, with one, and with one for each side.
pub fn discovery(bench: &Bench) -> Outcome {
    let (before, lio, daemon) = (bench.snapshot(), bench.lio(), Daemon::start(bench)?);
    let spec = with_portals(TargetSpec::new(iqn("scout")).with_acl(AclSpec::new(iqn("host1"))));
    lio.ensure(&spec)?;
    let one = || IscsiSpec::new().with_discovery_chap("scout".parse().unwrap(), Secret::from(FORTH));
    let both = one().with_mutual_discovery_chap("target".parse()?, Secret::from(BACK));
    let user = [("authmethod", "CHAP"), ("username", "scout"), ("password", FORTH)];
    let mutual = [&user[..], &[("username_in", "target"), ("password_in", BACK)]].concat();
    let cases: [Case<'_, IscsiSpec>; 5] = [
        ("none", IscsiSpec::new(), &[], true),
        ("one-way", one(), &user, true),
        ("one-way, wrong", one(), &[user[0], user[1], ("password", "a wrong secret")], false),
        ("mutual", both.clone(), &mutual, true),
        (
            "mutual, wrong",
            both,
            &[&user[..], &[("username_in", "target"), ("password_in", "not its secret")]].concat(),
            false,
        ),
    ];
    let own = "/etc/iscsi/iscsid.conf";
    let kept = bench.host.tree().read(own)?;
    let outcome = (|| -> Outcome {
        for (what, shared, settings, finds) in cases {
            lio.ensure_iscsi(&shared)?;
            for portal in PORTALS {
                let mut conf =
                    kept.clone() + "\ndiscovery.sendtargets.iscsi.MaxRecvDataSegmentLength = 32768\n";
                settings.iter().for_each(|(key, value)| {
                    conf += &format!("discovery.sendtargets.auth.{key} = {value}\n")
                });
                bench.host.tree().replace(own, conf, 0o600)?;
                let answer = daemon.admin(&["-m", "discovery", "-t", "sendtargets", "-p", portal, "-P", "1"]);
                let found = answer.as_ref().is_ok_and(|text| text.contains(spec.iqn.as_str()));
                tool(
                    "/usr/sbin/iscsiadm",
                    &["-m", "discoverydb", "-t", "sendtargets", "-p", portal, "-o", "delete"],
                )
                .ok();
                assert_eq!(found, finds, "{what} at {portal}: {answer:?}");
            }
        }
        Ok(())
    })();
    bench.host.tree().replace(own, kept, 0o600)?;
    lio.ensure_iscsi(&IscsiSpec::new())?;
    lio.remove(&spec.iqn)?;
    daemon.log_out(&spec.iqn);
    outcome?;
    bench.same(&before, "removed");
    Ok(())
}

/// What VMware's VAAI asks of a disk, by the SCSI commands that ask it; what goes through is counted; a larger file is a larger disk.
pub fn vmware(bench: &Bench) -> Outcome {
    let (before, lio, daemon) = (bench.snapshot(), bench.lio(), Daemon::start(bench)?);
    let file = |mib: u64| {
        BackstoreSpec::file("vmware".parse().unwrap(), "/tmp/vmware.img", Bytes(mib << 20))
            .with_serial(UnitSerial::derived_from("vmware"))
    };
    bench.host.tree().unlink("/tmp/vmware.img")?;
    let spec = with_portals(TargetSpec::new(iqn("vmware")))
        .with_lun(0, file(16).with_attribute("emulate_tpu", 1).with_attribute("emulate_tpws", 1))
        .with_acl(AclSpec::new(iqn("host1")))
        .for_vmware();
    assert!(spec.vmware_findings().is_empty(), "{:?}", spec.vmware_findings());
    lio.ensure(&spec)?;
    let seen = lio.get(&spec.iqn)?.expect("there");
    let acl = &seen.group(lio::Tag(1)).expect("its group").acls[&iqn("host1")];
    assert_eq!(acl.queue_depth, Some(128));
    daemon.log_in(&spec.iqn, PORTALS[0], &[])?;
    let wwid = file(16).wwid().expect("a serial");
    let outcome = (|| -> Outcome {
        let disk = daemon.disk(&wwid)?;
        tool("/sbin/modprobe", &["sg"])?;
        let inquiry = tool("/usr/bin/sg_inq", &[&disk])?;
        // The end of the serial, which was made from the name.
        let serial = UnitSerial::derived_from("vmware").to_string();
        let product = format!("Product identification: {}", &serial[serial.len() - 8..]);
        assert!(inquiry.contains(&product), "{product}: {inquiry}");
        // Large bursts, the first of them without a round trip.
        let session = daemon.admin(&["-m", "session", "-P", "2"])?;
        for line in
            ["FirstBurstLength: 262144", "MaxBurstLength: 524288", "ImmediateData: Yes", "InitialR2T: No"]
        {
            assert!(session.contains(line), "{line}: {session}");
        }
        // Device identification is the one that we computed.
        let id = tool("/usr/bin/sg_vpd", &["--page=di", &disk])?;
        assert!(id.contains(wwid.as_str().get(1..).expect("a digit and more")), "{id}");
        // ATS, full copy, block zero and delete: the limits of VPD B0, the provisioning of B2.
        let limits = tool("/usr/bin/sg_vpd", &["--page=bl", &disk])?;
        for line in [
            "Maximum compare and write length: 1 block",
            "Maximum unmap LBA count",
            "Maximum write same length",
        ] {
            assert!(limits.contains(line), "{line}: {limits}");
        }
        assert!(
            !limits.contains("Maximum unmap LBA count: 0")
                && !limits.contains("Maximum write same length: 0x0 "),
            "{limits}"
        );
        let thin = tool("/usr/bin/sg_vpd", &["--page=lbpv", &disk])?;
        assert!(thin.contains("Unmap command supported (LBPU): 1"), "{thin}");
        let features = tool("/usr/bin/sg_inq", &["--all", &disk])
            .or_else(|_| tool("/usr/bin/sg_inq", &["-d", &disk]))?;
        assert!(features.contains("3PC=1") || inquiry.contains("3PC=1"), "{inquiry}");
        // Compare and write: what is there, then what is not.
        let page = |path: &str, parts: [u8; 2]| {
            let bytes: Vec<u8> = parts.iter().flat_map(|byte| vec![*byte; 512]).collect();
            Tree::live().replace(path, bytes, 0o600)
        };
        page("/tmp/caw", [0, 7])?;
        let caw = ["--lba=8", "--num=1", "--xferlen=1024", "--in=/tmp/caw"];
        tool("/usr/bin/sg_compare_and_write", &[&caw[..], &[disk.as_str()]].concat())?;
        let again = tool("/usr/bin/sg_compare_and_write", &[&caw[..], &[disk.as_str()]].concat())
            .expect_err("a miscompare");
        assert!(again.to_string().to_lowercase().contains("miscompare"), "{again}");
        tool("/usr/bin/sg_write_same", &["--lba=0", "--num=64", "--xferlen=512", "--in=/dev/zero", &disk])?;
        tool("/usr/bin/sg_unmap", &["--lba=128", "--num=64", "--force", &disk])
            .or_else(|_| tool("/usr/bin/sg_unmap", &["--lba=128", "--num=64", &disk]))?;
        let name = disk.rsplit('/').next().expect("a name");
        let generic = bench.host.tree().dirs(format!("/sys/class/block/{name}/device/scsi_generic"))?;
        let generic = format!("/dev/{}", generic.first().expect("the module sg is there"));
        let copy = [format!("if={generic}"), format!("of={generic}")];
        tool("/usr/bin/sg_xcopy", &[&copy[0], &copy[1], "bs=512", "count=64", "skip=0", "seek=1024"])?;
        // What went through is counted, and what comes in between two looks is a rate.
        let mut sampler = lio.sampler(spec.iqn.clone());
        let first = sampler.sample()?;
        assert!(first.luns.is_empty() && first.usage.session_count == 1);
        tool(
            "/usr/bin/dd",
            &["if=/dev/zero", &format!("of={disk}"), "bs=1M", "count=8", "oflag=direct", "status=none"],
        )?;
        let second = sampler.sample()?;
        let key = (lio::Tag(1), lio::Lun::from(0));
        let counted = second.usage.luns[&key].since(first.usage.luns[&key]);
        assert_eq!((counted.written_mib, counted.commands >= 8), (8, true), "{second:?}");
        assert!(second.luns[&key].written_mib > 0.0, "{second:?}");
        assert!(second.initiators[&(iqn("host1"), lio::Lun::from(0))].commands > 0.0, "{second:?}");
        // A larger disk is seen after a look.
        let size = || -> Result<u64, Box<dyn std::error::Error>> {
            let name = disk.rsplit('/').next().expect("a name");
            Ok(bench.host.tree().read(format!("/sys/class/block/{name}/size"))?.trim().parse()?)
        };
        assert_eq!(size()?, 16 << 11);
        Ok(())
    })();
    daemon.log_out(&spec.iqn);
    lio.remove(&spec.iqn)?;
    bench.host.tree().unlink("/tmp/vmware.img")?;
    outcome?;
    bench.same(&before, "removed");
    Ok(())
}

/// A block device that grows below a LUN: the initiator sees it when it looks again.
pub fn resize(bench: &Bench) -> Outcome {
    let (before, lio, daemon) = (bench.snapshot(), bench.lio(), Daemon::start(bench)?);
    let run = |program: &str, words: &[&str]| tool(program, words);
    run("/sbin/modprobe", &["loop"])?;
    run("/usr/bin/truncate", &["-s", "16M", "/tmp/grows.img"])?;
    let device = run("/sbin/losetup", &["--find", "--show", "/tmp/grows.img"])?.trim().to_owned();
    let backstore =
        BackstoreSpec::block("grows".parse()?, &device).with_serial(UnitSerial::derived_from("grows"));
    let wwid = backstore.wwid().expect("a serial");
    let spec = with_portals(
        TargetSpec::new(iqn("grows")).with_lun(0, backstore).with_acl(AclSpec::new(iqn("host1"))),
    );
    lio.ensure(&spec)?;
    daemon.log_in(&spec.iqn, PORTALS[1], &[])?;
    let outcome = (|| -> Outcome {
        let disk = daemon.disk(&wwid)?;
        let name = disk.rsplit('/').next().expect("a name").to_owned();
        let size = || -> Result<u64, Box<dyn std::error::Error>> {
            Ok(bench.host.tree().read(format!("/sys/class/block/{name}/size"))?.trim().parse()?)
        };
        assert_eq!(size()?, 16 << 11);
        run("/usr/bin/truncate", &["-s", "32M", "/tmp/grows.img"])?;
        run("/sbin/losetup", &["--set-capacity", &device])?;
        assert_eq!(size()?, 16 << 11, "LIO tells nobody");
        daemon.admin(&["-m", "session", "--rescan"])?;
        let deadline = soon();
        while size()? != 32 << 11 {
            assert!(deadline.pause(Duration::from_millis(100)), "the initiator has {} sectors", size()?);
        }
        assert!(!lio.ensure(&spec)?, "there is nothing to do for it");
        Ok(())
    })();
    daemon.log_out(&spec.iqn);
    lio.remove(&spec.iqn)?;
    run("/sbin/losetup", &["--detach", &device])?;
    bench.host.tree().unlink("/tmp/grows.img")?;
    outcome?;
    bench.same(&before, "removed");
    Ok(())
}

/// Each test of `iscsi-test-cu` and how it ended: passed, or not (failed or skipped).
fn libiscsi(url: &str) -> Result<BTreeMap<String, bool>, Box<dyn std::error::Error>> {
    let output = Command::new("/usr/bin/iscsi-test-cu")
        .args(["--dataloss", "--allow-sanitize", "-t", "ALL", "-i", iqn("host1").as_str(), url])
        .output()?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let mut found = BTreeMap::new();
    let (mut suite, mut open) = (String::new(), None::<String>);
    // "Suite: X" and "  Test: Y ...passed", what a test prints in between its name and its end.
    for line in text.lines() {
        if let Some(name) = line.trim().strip_prefix("Suite: ") {
            suite = name.to_owned();
        }
        if let Some((name, rest)) =
            line.trim().strip_prefix("Test: ").and_then(|rest| rest.split_once(" ..."))
        {
            open = Some(format!("{suite}.{name}"));
            if rest.is_empty() {
                continue;
            }
        }
        let passed = line.trim_end().ends_with("passed");
        let over = passed || line.trim_end().ends_with("FAILED");
        if let Some(name) = open.take_if(|_| over) {
            found.insert(name, passed);
        }
    }
    match found.len() {
        0..20 => Err(format!("iscsi-test-cu said too little: {text}").into()),
        _ => Ok(found),
    }
}

/// No test fails on our LUN that passes on the same LUN of targetcli's.
pub fn conformance(bench: &Bench) -> Outcome {
    let (before, lio) = (bench.snapshot(), Lio::on(&bench.host)?);
    let name = iqn("suite");
    let url = format!("iscsi://127.0.0.1:13380/{name}/0");
    let group = format!("/iscsi/{name}/tpg1");
    targetcli(&["set", "global", "auto_add_default_portal=false", "auto_save_on_exit=false"])?;
    targetcli(&["/backstores/ramdisk", "create", "suite", "100M"])?;
    targetcli(&["/iscsi", "create", name.as_str()])?;
    targetcli(&[&format!("{group}/luns"), "create", "/backstores/ramdisk/suite"])?;
    targetcli(&[&format!("{group}/portals"), "create", "127.0.0.1", "13380"])?;
    targetcli(&[&format!("{group}/acls"), "create", iqn("host1").as_str()])?;
    targetcli(&[&group, "set", "attribute", "authentication=0"])?;
    let theirs = libiscsi(&url);
    lio.ensure_config(&ConfigSpec::new(), Others::Remove)?;
    let spec = TargetSpec::new(name.clone())
        .with_lun(0, disk("suite", 100).with_attribute("emulate_model_alias", 1))
        .with_portal("127.0.0.1:13380".parse()?)
        .with_acl(AclSpec::new(iqn("host1")));
    lio.ensure(&spec)?;
    let ours = libiscsi(&url);
    lio.remove(&name)?;
    let (theirs, ours) = (theirs?, ours?);
    let passed = |of: &BTreeMap<String, bool>| of.values().filter(|passed| **passed).count();
    eprintln!(
        "iscsi-test-cu: {} of {} pass on ours, {} of {} on targetcli's",
        passed(&ours),
        ours.len(),
        passed(&theirs),
        theirs.len()
    );
    for (name, passed) in &ours {
        let word = |passed: Option<&bool>| match passed {
            Some(true) => "passed",
            Some(false) => "FAILED",
            None => "did not run",
        };
        eprintln!("  {name}: ours {}, targetcli's {}", word(Some(passed)), word(theirs.get(name)));
    }
    let worse: Vec<_> = theirs
        .iter()
        .filter(|(name, passed)| **passed && ours.get(*name) != Some(&true))
        .map(|(name, _)| name)
        .collect();
    assert!(worse.is_empty(), "these pass on targetcli's and not on ours: {worse:?}");
    bench.same(&before, "removed");
    Ok(())
}
