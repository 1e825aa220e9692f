//! Persistent reservations over a move, with `sg_persist` through open-iscsi: read where the kernel keeps them, given to the next node, in force
//! there; refused where a node could not have those of the other.

use std::time::Duration;

use lio::{AclSpec, HaMode, HaNode, HaPair, Side, Tag, TargetSpec, Wwid};

use super::initiator::{Daemon, PORTALS, soon, with_portals};
use super::tool;
use crate::conformance::{Bench, Outcome, iqn};

/// Goes on while the target is away, or has news to tell first.
fn persist(words: &[&str], disk: &str) -> Result<String, Box<dyn std::error::Error>> {
    let deadline = soon();
    loop {
        let answer = tool("/usr/bin/sg_persist", &[words, &[disk]].concat());
        let passing = |text: &str| {
            ["unit attention", "transport", "no such device", "not ready", "input/output"]
                .iter()
                .any(|words| text.to_lowercase().contains(words))
        };
        match answer {
            Err(error) if passing(&error.to_string()) && deadline.pause(Duration::from_millis(200)) => {}
            other => return other,
        }
    }
}

fn write_to(disk: &str) -> Outcome {
    let of = format!("of={disk}");
    tool("/usr/bin/dd", &["if=/dev/zero", &of, "bs=4096", "count=1", "oflag=direct", "status=none"]).map(drop)
}

/// Another initiator on the same machine.
struct Other<'a>(&'a Daemon<'a>);

impl<'a> Other<'a> {
    fn new(daemon: &'a Daemon<'a>) -> Result<Self, Box<dyn std::error::Error>> {
        let iface = ["-m", "iface", "-I", "other"];
        let new = Self(daemon);
        daemon.admin(&[&iface[..], &["-o", "new"]].concat())?;
        let host = iqn("host2");
        let name = ["-o", "update", "-n", "iface.initiatorname", "-v", host.as_str()];
        daemon.admin(&[&iface[..], &name[..]].concat())?;
        Ok(new)
    }

    fn log_in(&self, target: &lio::Iqn) -> Outcome {
        let record = ["-m", "node", "-T", target.as_str(), "-p", PORTALS[0], "-I", "other"];
        self.0.admin(&[&record[..], &["-o", "new"]].concat())?;
        self.0.admin(&[&record[..], &["--login"]].concat()).map(drop)
    }
}

impl Drop for Other<'_> {
    fn drop(&mut self) {
        self.0.admin(&["-m", "iface", "-I", "other", "-o", "delete"]).ok();
    }
}

pub fn carried(bench: &Bench) -> Outcome {
    let (before, lio, daemon) = (bench.snapshot(), bench.lio(), Daemon::start(bench)?);
    let acl = |name| AclSpec::new(iqn(name));
    let disk = bench.disk(0, "reserve").with_attribute("force_pr_aptpl", 1);
    let serial = disk.serial.clone().expect("a serial");
    let wwid = disk.wwid().expect("a serial");
    let pair = |disk| {
        let target = TargetSpec::new(iqn("reserve")).with_lun(0, disk);
        HaPair::floating(with_portals(target.with_acl(acl("host1")).with_acl(acl("host2"))))
    };
    let one = pair(disk.clone());
    let name = one.target.iqn.clone();
    lio.takeover(&one, Side::One, soon())?;
    daemon.log_in(&name, PORTALS[0], &[])?;
    let mut other = None;
    let outcome = (|| -> Outcome {
        let mine = daemon.disk(&wwid)?;
        persist(&["--out", "--register", "--param-sark=0x1234"], &mine)?;
        // Those who are registered write, all read.
        persist(&["--out", "--reserve", "--param-rk=0x1234", "--prout-type=5"], &mine)?;
        let kept = lio.reservations(&serial)?;
        assert_eq!(kept.len(), 1, "{kept:?}");
        let registration = kept.first().expect("one");
        assert_eq!(
            (&registration.initiator, registration.key, registration.holds),
            (&iqn("host1"), 0x1234, Some(5)),
            "{registration:?}"
        );
        assert!(lio.standby(&one, Side::One, soon())?);
        assert_eq!(lio.reservations(&serial)?, kept, "an orderly stop leaves what was written last");
        // The next node has no such file.
        let dir = bench.host.tree().read("/sys/kernel/config/target/dbroot")?;
        bench.host.tree().unlink(format!("{}/pr/aptpl_{serial}", dir.trim()))?;
        assert_eq!(lio.reservations(&serial)?, []);
        let two = pair(disk.clone().with_reservations(kept));
        assert_eq!(two.mode(), HaMode::Floating);
        lio.takeover(&two, Side::Two, soon())?;
        // The session comes back by itself, and what it had is there.
        let keys = persist(&["--in", "--read-keys"], &mine)?;
        assert!(keys.contains("0x1234"), "{keys}");
        let held = persist(&["--in", "--read-reservation"], &mine)?;
        assert!(held.contains("Key=0x1234") && held.contains("Write Exclusive, registrants only"), "{held}");
        write_to(&mine)?;
        // Somebody else is kept away from writing.
        other.insert(Other::new(&daemon)?).log_in(&name)?;
        let theirs = second_disk(bench, &wwid, &mine)?;
        let held = persist(&["--in", "--read-reservation"], &theirs)?;
        assert!(held.contains("Key=0x1234"), "{held}");
        let refused = write_to(&theirs).expect_err("it is reserved").to_string();
        assert!(!refused.contains("No such"), "{refused}");
        // And the holder is the holder: it lets go, and everybody writes.
        persist(&["--out", "--release", "--param-rk=0x1234", "--prout-type=5"], &mine)?;
        write_to(&theirs)?;
        // What is registered from now on the kernel writes down here.
        persist(&["--out", "--register", "--param-sark=0x99"], &theirs)?;
        let keys: Vec<u64> = lio.reservations(&serial)?.iter().map(|one| one.key).collect();
        assert!(keys.len() == 2 && keys.contains(&0x99) && keys.contains(&0x1234), "{keys:?}");
        Ok(())
    })();
    daemon.log_out(&name);
    drop(other);
    lio.remove(&name)?;
    let dir = bench.host.tree().read("/sys/kernel/config/target/dbroot")?;
    bench.host.tree().unlink(format!("{}/pr/aptpl_{serial}", dir.trim()))?;
    outcome?;
    bench.same(&before, "removed");
    Ok(())
}

/// The other SCSI disk of an identifier.
fn second_disk(bench: &Bench, wwid: &Wwid, first: &str) -> Result<String, Box<dyn std::error::Error>> {
    let (tree, deadline) = (bench.host.tree(), soon());
    loop {
        let found = tree.list("/sys/class/block")?.into_iter().find(|disk| {
            let text = tree.read_opt(format!("/sys/class/block/{}/device/wwid", disk.name)).ok().flatten();
            let same = text.and_then(|text| Wwid::from_sysfs(&text).ok()).is_some_and(|seen| seen == *wwid);
            same && format!("/dev/{}", disk.name) != first
        });
        match found.map(|disk| format!("/dev/{}", disk.name)) {
            Some(node) if std::path::Path::new(&node).exists() => return Ok(node),
            _ if deadline.pause(Duration::from_millis(200)) => {}
            _ => return Err(format!("no second disk {wwid}").into()),
        }
    }
}

/// In the ALUA mode initiators are told that there are none, and a specification that brings some is refused.
pub fn refused(bench: &Bench) -> Outcome {
    let (before, lio, daemon) = (bench.snapshot(), bench.lio(), Daemon::start(bench)?);
    let nodes = [(1, "127.0.0.1:13371"), (2, "127.0.0.1:13372")]
        .map(|(tag, portal)| HaNode::new(Tag(tag)).with_portal(portal.parse().expect("a portal")));
    let disk = bench.disk(0, "noreserve");
    let wwid = disk.wwid().expect("a serial");
    let target =
        |disk| TargetSpec::new(iqn("noreserve")).with_lun(0, disk).with_acl(AclSpec::new(iqn("host1")));
    let pair = HaPair::alua(target(disk.clone()), nodes.clone());
    lio.ensure_ha(&pair, Side::One)?;
    lio.takeover(&pair, Side::One, soon())?;
    daemon.log_in(&pair.target.iqn, "127.0.0.1:13371", &[])?;
    let outcome = (|| -> Outcome {
        let mine = daemon.disk(&wwid)?;
        write_to(&mine)?;
        for words in [&["--out", "--register", "--param-sark=0x1234"][..], &["--in", "--read-keys"]] {
            let answer = persist(words, &mine).expect_err("there are none").to_string().to_lowercase();
            assert!(
                answer.contains("invalid opcode")
                    || answer.contains("illegal request")
                    || answer.contains("not supported"),
                "{answer}"
            );
        }
        Ok(())
    })();
    daemon.log_out(&pair.target.iqn);
    lio.remove_ha(&pair, Side::One, soon())?;
    outcome?;
    let with = HaPair::alua(target(disk.with_attribute("emulate_pr", 1)), nodes);
    let error = lio.ensure_ha(&with, Side::One).expect_err("it cannot keep them");
    assert!(
        error.to_string().contains("each kernel would keep persistent reservations of its own"),
        "{error}"
    );
    bench.same(&before, "removed");
    Ok(())
}
