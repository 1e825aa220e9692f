//! Plans that break off: at each step, at each file, in the middle, and the way back.

use host::plan::KillPoint;
use host::tree::Fault;
use lio::{AclSpec, Enabled, ErrorKind, Lio, Plan, Secret, Step, TargetSpec};

use super::{Bench, Outcome, chain, iqn, ramdisk};

pub fn failing_steps(bench: &Bench) -> Outcome {
    let spec = bench.full("failing");
    let before = bench.snapshot();
    let length = bench.lio().plan(&spec)?.len();
    for n in bench.chosen(length) {
        let lio = bench.broken_at(KillPoint::FailAfter(n));
        let error = lio.ensure(&spec).expect_err("fails");
        let text = chain(&error);
        assert!(text.contains(&format!("step {} of {length} failed", n + 1)), "{text}");
        assert!(!text.contains("could not be undone"), "{text}");
        bench.same(&before, &format!("failed after {n}"));
    }
    eprintln!("{length} steps, {} of them failed one by one", bench.chosen(length).len());
    Ok(())
}

pub fn stopped_steps(bench: &Bench) -> Outcome {
    let spec = bench.full("stopped");
    let before = bench.snapshot();
    let length = bench.lio().plan(&spec)?.len();
    let whole = bench.host.clone().with_kill_point(KillPoint::Never);
    Lio::on(&whole)?.ensure(&spec)?;
    assert_eq!(whole.steps_done(), length, "a plan has as many steps as are done");
    let wanted = bench.snapshot();
    bench.lio().remove(&spec.iqn)?;
    for n in bench.chosen(length) {
        let error = bench.broken_at(KillPoint::StopAfter(n)).ensure(&spec).expect_err("stops");
        assert_eq!(error.kind(), ErrorKind::Stopped);
        bench.lio().ensure(&spec).map_err(|e| format!("after a stop at {n}: {}", chain(&e)))?;
        bench.same(&wanted, &format!("converged after {n}"));
        assert!(!bench.lio().ensure(&spec)?, "a third run has nothing to do");
        bench.lio().remove(&spec.iqn)?;
        bench.same(&before, &format!("removed after {n}"));
        // And without a second run: what a broken run left can be removed, but for a backstore that has no note of whose it is yet.
        if nameless(&bench.lio().plan(&spec)?, n) {
            continue;
        }
        bench.broken_at(KillPoint::StopAfter(n)).ensure(&spec).expect_err("stops");
        bench.lio().remove(&spec.iqn)?;
        bench.same(&before, &format!("removed at {n}"));
    }
    eprintln!("{length} steps, stopped after {} of them", bench.chosen(length).len());
    Ok(())
}

/// Whether the n-th step makes a backstore.
fn nameless(plan: &Plan<Step>, n: usize) -> bool {
    let last = n.checked_sub(1).and_then(|n| plan.steps().get(n));
    matches!(last, Some(Step::MakeDir { path }) if path.contains("/core/") && path.split('/').count() == 8)
}

pub fn failing_removal(bench: &Bench) -> Outcome {
    let spec = bench.full("failrm");
    let lio = bench.lio();
    lio.ensure(&spec)?;
    let before = bench.snapshot();
    let length = lio.plan_removal(&spec.iqn)?.len();
    for n in bench.chosen(length) {
        let error = bench.broken_at(KillPoint::FailAfter(n)).remove(&spec.iqn).expect_err("fails");
        let text = chain(&error);
        assert!(!text.contains("could not be undone"), "{text}");
        bench.same(&before, &format!("removal failed after {n}"));
        assert!(!lio.ensure(&spec)?, "all is as specified, passwords too");
    }
    lio.remove(&spec.iqn)?;
    eprintln!("removal has {length} steps, {} failed one by one", bench.chosen(length).len());
    Ok(())
}

pub fn stopped_removal(bench: &Bench) -> Outcome {
    let spec = bench.full("stoprm");
    let lio = bench.lio();
    let before = bench.snapshot();
    lio.ensure(&spec)?;
    let length = lio.plan_removal(&spec.iqn)?.len();
    for n in bench.chosen(length) {
        lio.ensure(&spec)?;
        bench.broken_at(KillPoint::StopAfter(n)).remove(&spec.iqn).expect_err("stops");
        assert!(lio.remove(&spec.iqn)?, "something was left after {n}");
        bench.same(&before, &format!("removal stopped after {n}"));
        // And forward again from the middle of a removal.
        lio.ensure(&spec)?;
        bench.broken_at(KillPoint::StopAfter(n)).remove(&spec.iqn).expect_err("stops");
        lio.ensure(&spec)?;
        assert!(!lio.ensure(&spec)?);
    }
    lio.remove(&spec.iqn)?;
    bench.same(&before, "removed");
    Ok(())
}

/// Every single file operation fails once, also one within a batch of links.
pub fn failing_changes(bench: &Bench) -> Outcome {
    let spec = bench.full("changes");
    let before = bench.snapshot();
    let plan = bench.lio().plan(&spec)?;
    let total = lio::plan::changes(plan.steps());
    for n in bench.chosen(total) {
        let tree = bench.host.tree().with_fault(Fault::Fail { nth: n + 1, errno: libc::EIO });
        let error = Lio::on(&bench.host.clone().with_tree(tree))?.ensure(&spec).expect_err("fails");
        assert_eq!(error.errno(), Some(libc::EIO), "{}", chain(&error));
        bench.same(&before, &format!("change {} failed", n + 1));
    }
    eprintln!("{total} file changes in {} steps", plan.len());
    Ok(())
}

pub fn undo_leads_back(bench: &Bench) -> Outcome {
    let lio = bench.lio();
    let (before, spec) = (bench.snapshot(), bench.full("undo"));
    let undo = lio.apply(lio.plan(&spec)?)?;
    lio.apply(undo.into_plan())?;
    bench.same(&before, "undone");
    // From one specification to another and back.
    lio.ensure(&spec)?;
    let before = bench.snapshot();
    let other = TargetSpec::new(spec.iqn.clone())
        .with_lun(5, ramdisk("full5"))
        .with_lun(6, ramdisk("undo6"))
        .with_portal("127.0.0.1:13261".parse()?)
        .with_acl(AclSpec::new(iqn("host1")).with_chap("someone".parse()?, Secret::from("new secret 123")))
        .with_parameter("DefaultTime2Wait", 3)
        .enabled(Enabled::No);
    let undo = lio.apply(lio.plan(&other)?)?;
    assert!(lio.plan(&other)?.is_empty(), "{}", lio.plan(&other)?);
    lio.apply(undo.into_plan())?;
    bench.same(&before, "undone to the first specification");
    assert!(!lio.ensure(&spec)?);
    lio.remove(&spec.iqn)?;
    Ok(())
}

pub fn orphan(bench: &Bench) -> Outcome {
    let before = bench.snapshot();
    let spec = TargetSpec::new(iqn("orphan")).with_lun(0, ramdisk("orphan"));
    // Adapter, backstore, control, alias, enable.
    let skipped =
        bench.lio().plan(&spec)?.steps().iter().position(|s| s.path().contains("/core/")).unwrap_or(0);
    bench.broken_at(KillPoint::StopAfter(skipped + 5)).ensure(&spec).expect_err("stops");
    assert!(bench.lio().get(&spec.iqn)?.is_none());
    assert!(bench.lio().backstores()?.iter().any(|b| b.id.name == "orphan" && b.enabled));
    assert!(bench.lio().remove(&spec.iqn)?);
    bench.same(&before, "removed");
    Ok(())
}
