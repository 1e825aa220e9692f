//! Processes that die in the middle, and what they leave noted; what may be done to those who use a target.

use host::plan::KillPoint;
use host::tree::Fault;
use lio::{
    Access, AclSpec, ConfigSpec, Disruption, ErrorKind, Lio, Others, Recovery, Secret, Tag, TargetSpec,
};

use super::{Bench, Outcome, chain, iqn, ramdisk, shown};

/// A host that notes what it does.
fn noting(bench: &Bench, point: KillPoint) -> Lio {
    let dir = bench.run_dir.path();
    bench.host.tree().ensure_dir("/tmp").expect("a place for places");
    bench.host.tree().ensure_dir(dir).expect("a place for the journal");
    Lio::on(&bench.host.clone().with_run_dir(dir).with_kill_point(point)).expect("LIO is there")
}

pub fn rolled_back(bench: &Bench) -> Outcome {
    let (before, spec) = (bench.snapshot(), bench.full("rollback"));
    let lio = noting(bench, KillPoint::Never);
    let length = lio.plan(&spec)?.len();
    assert!(lio.interrupted()?.is_none());
    for n in bench.chosen(length) {
        noting(bench, KillPoint::StopAfter(n)).ensure(&spec).expect_err("stops");
        let left = lio.interrupted()?.expect("it is noted");
        assert!(!left.to_string().contains("first secret"));
        let recovered = lio.recover(Recovery::RollBack)?.expect("it is noted");
        assert!(
            recovered.lost.iter().all(|lost| lost.contains("no journal holds passwords")),
            "{recovered:?}"
        );
        bench.same(&before, &format!("rolled back after {n}"));
        assert!(lio.interrupted()?.is_none() && lio.recover(Recovery::RollBack)?.is_none());
    }
    // A change of what is there goes back to what was there.
    lio.ensure(&spec)?;
    let made = bench.snapshot();
    let other =
        bench.full("rollback").with_parameter("DefaultTime2Wait", 4).with_attribute("login_timeout", 12);
    let mut other = other;
    other.portals = vec!["127.0.0.1:13261".parse()?];
    let length = lio.plan(&other)?.len();
    for n in 0..length {
        noting(bench, KillPoint::StopAfter(n)).ensure(&other).expect_err("stops");
        lio.recover(Recovery::RollBack)?.expect("it is noted");
        bench.same(&made, &format!("changed back after {n}"));
    }
    assert!(!lio.ensure(&spec)?);
    // And so does a removal, but for the passwords.
    let length = lio.plan_removal(&spec.iqn)?.len();
    for n in bench.chosen(length) {
        noting(bench, KillPoint::StopAfter(n)).remove(&spec.iqn).expect_err("stops");
        lio.recover(Recovery::RollBack)?.expect("it is noted");
        lio.ensure(&spec)?;
        bench.same(&made, &format!("removal rolled back after {n}"));
    }
    lio.remove(&spec.iqn)?;
    bench.same(&before, "removed");
    Ok(())
}

pub fn completed(bench: &Bench) -> Outcome {
    let (before, spec) = (bench.snapshot(), bench.full("complete"));
    let lio = noting(bench, KillPoint::Never);
    lio.ensure(&spec)?;
    let wanted = bench.snapshot();
    lio.remove(&spec.iqn)?;
    let length = lio.plan(&spec)?.len();
    for n in bench.chosen(length) {
        noting(bench, KillPoint::StopAfter(n)).ensure(&spec).expect_err("stops");
        let recovered = lio.recover(Recovery::Complete)?.expect("it is noted");
        assert!(
            recovered.lost.iter().all(|lost| lost.contains("no journal holds passwords")),
            "{recovered:?}"
        );
        assert!(!recovered.done.is_empty());
        // The passwords come from the specification.
        lio.ensure(&spec)?;
        bench.same(&wanted, &format!("completed after {n}"));
        noting(bench, KillPoint::StopAfter(1)).remove(&spec.iqn).expect_err("stops");
        lio.recover(Recovery::Complete)?.expect("it is noted");
        bench.same(&before, &format!("removal completed after {n}"));
    }
    Ok(())
}

/// A process that dies in the middle of a file operation, also within what is done together.
pub fn stopped_changes(bench: &Bench) -> Outcome {
    let (before, spec) = (bench.snapshot(), bench.full("within"));
    let lio = noting(bench, KillPoint::Never);
    let total = lio::plan::changes(lio.plan(&spec)?.steps());
    for n in bench.chosen(total) {
        let dir = bench.run_dir.path();
        // The first change is the note itself.
        let tree = bench.host.tree().with_fault(Fault::Stop { nth: n + 2 });
        let dead = Lio::on(&bench.host.clone().with_tree(tree).with_run_dir(dir))?;
        dead.ensure(&spec).expect_err("stops");
        lio.recover(Recovery::RollBack)?.expect("it is noted");
        bench.same(&before, &format!("stopped at change {}", n + 1));
    }
    eprintln!("stopped within {} of {total} changes", bench.chosen(total).len());
    Ok(())
}

pub fn disruption(bench: &Bench) -> Outcome {
    let before = bench.snapshot();
    let lio = bench.lio();
    let acl = |depth: u16| AclSpec::new(iqn("host1")).with_queue_depth(depth);
    let spec = |depth| TargetSpec::new(iqn("disrupt")).with_acl(acl(depth)).with_lun(0, ramdisk("disrupt"));
    lio.ensure(&spec(32))?;
    // Nobody is logged in: nobody is disturbed.
    assert!(lio.ensure(&spec(16))?);
    if (bench.log_in)(bench, &iqn("disrupt"), &iqn("host1")) {
        let error = lio.ensure(&spec(64)).expect_err("a session would be dropped");
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("Disruption::Sessions"), "{error}");
        assert!(!lio.ensure(&spec(16))?);
        let config = ConfigSpec::new().with_target(spec(64));
        let error = lio.ensure_config(&config, Others::Remove).expect_err("a session would be dropped");
        assert!(error.to_string().contains("Disruption::Sessions"), "{error}");
        assert!(lio.clone().with_disruption(Disruption::Sessions).ensure(&spec(64))?);
    }
    lio.remove(&iqn("disrupt"))?;
    bench.same(&before, "removed");
    Ok(())
}

pub fn unexported(bench: &Bench) -> Outcome {
    let before = bench.snapshot();
    let lio = bench.lio();
    let allowed = lio.clone().with_disruption(Disruption::Unexport);
    let spec = |disk| {
        TargetSpec::new(iqn("unexport")).with_lun(0, disk).with_lun(1, ramdisk("unexport1")).with_acl(
            AclSpec::new(iqn("host1"))
                .with_lun(4, 0, Access::ReadOnly)
                .with_chap("u".parse().unwrap(), Secret::from("a long enough one")),
        )
    };
    lio.ensure(&spec(bench.disk(0, "unexport0")))?;
    let made = bench.snapshot();
    for disk in [
        bench.disk(0, "unexport0").with_attribute("block_size", 4096),
        bench.disk(0, "unexport0").with_serial("abc123".parse()?).with_product("other".parse()?),
        bench.disk(1, "unexport0"),
        ramdisk("unexport2"),
    ] {
        let wanted = spec(disk);
        assert_eq!(lio.ensure(&wanted).expect_err("exported").kind(), ErrorKind::Conflict);
        let plan = allowed.plan(&wanted)?;
        let lines = shown(&plan);
        assert!(lines[0].contains("echo -n '0'") && lines.last().unwrap().contains("echo -n '1'"), "{plan}");
        assert!(!plan.to_string().contains("lun_1 "), "the other LUN stays: {plan}");
        let undo = allowed.apply(plan)?;
        assert!(!lio.ensure(&wanted)?, "{}", lio.plan(&wanted)?);
        let mapped = lio.get(&wanted.iqn)?.expect("there").group(Tag(1)).expect("group").acls[&iqn("host1")]
            .luns
            .clone();
        assert!(mapped.values().all(|mapped| mapped.write_protected && mapped.link.is_some()), "{mapped:?}");
        allowed.apply(undo.into_plan())?;
        let back = spec(bench.disk(0, "unexport0"));
        allowed.ensure(&back)?;
        assert!(!lio.ensure(&back)?);
    }
    bench.same(&made, "and back");
    // Of a disk that another target exports too nothing is taken away.
    let other = TargetSpec::new(iqn("unexport2")).with_lun(0, bench.disk(0, "unexport0"));
    lio.ensure(&other)?;
    let error =
        allowed.plan(&spec(bench.disk(0, "unexport0").with_attribute("block_size", 4096))).expect_err("two");
    assert!(error.kind() == ErrorKind::Conflict && chain(&error).contains("unexport2"), "{}", chain(&error));
    lio.remove(&other.iqn)?;
    lio.remove(&iqn("unexport"))?;
    bench.same(&before, "removed");
    Ok(())
}

/// The same in a plan of a whole configuration.
pub fn configuration_unexported(bench: &Bench) -> Outcome {
    let before = bench.snapshot();
    let lio = bench.lio();
    let allowed = lio.clone().with_disruption(Disruption::Unexport);
    let config = |disk| {
        let acl = AclSpec::new(iqn("host1"));
        let target = |name: &str, disk| TargetSpec::new(iqn(name)).with_lun(0, disk).with_acl(acl.clone());
        ConfigSpec::new().with_target(target("whole1", disk)).with_target(target("whole2", ramdisk("whole2")))
    };
    lio.ensure_config(&config(bench.disk(0, "whole1")), Others::Keep)?;
    for disk in [
        bench.disk(0, "whole1").with_attribute("block_size", 4096),
        bench.disk(1, "whole1"),
        ramdisk("whole3"),
    ] {
        let wanted = config(disk);
        let error = lio.ensure_config(&wanted, Others::Keep).expect_err("exported");
        assert_eq!(error.kind(), ErrorKind::Conflict, "{}", chain(&error));
        assert!(allowed.ensure_config(&wanted, Others::Keep)? && !lio.ensure_config(&wanted, Others::Keep)?);
        allowed.ensure_config(&config(bench.disk(0, "whole1")), Others::Keep)?;
    }
    lio.remove(&iqn("whole1"))?;
    lio.remove(&iqn("whole2"))?;
    bench.same(&before, "removed");
    Ok(())
}
