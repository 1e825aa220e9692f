//! Planning a target of 512 LUNs on the fake kernel: what this crate itself costs, without the kernel's part.

use divan::Bencher;
use lio::{BackstoreSpec, Host, Lio, TargetSpec};

fn main() {
    divan::main();
}

fn spec() -> Option<TargetSpec> {
    let mut spec = TargetSpec::new("iqn.2026-01.com.example:bench".parse().ok()?);
    for n in 0..512_u64 {
        let name = format!("disk{n}");
        let serial = format!("{n:08x}{:024x}", 0).parse().ok()?;
        spec = spec.with_lun(
            lio::Lun::try_from(n).ok()?,
            BackstoreSpec::block(name.parse().ok()?, format!("/dev/mapper/{name}")).with_serial(serial),
        );
    }
    Some(spec.with_portal("10.0.0.1:3260".parse().ok()?))
}

fn machine() -> Option<Lio> {
    let memory = lio::fake::configfs();
    memory.edit(|nodes| ["/var/target/pr", "/var/target/alua"].iter().for_each(|dir| nodes.put_dir(dir)));
    memory.tree().make_dir("/sys/kernel/config/target/iscsi").ok()?;
    Lio::on(&Host::fake().with_tree(memory.tree())).ok()
}

#[divan::bench]
fn of_512_luns_from_nothing(bencher: Bencher<'_, '_>) {
    let (Some(lio), Some(spec)) = (machine(), spec()) else { return };
    assert!(lio.plan(&spec).is_ok_and(|plan| plan.len() > 512));
    bencher.bench(|| lio.plan(&spec).map(|plan| plan.len()));
}
