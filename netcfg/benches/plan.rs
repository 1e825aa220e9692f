//! Planning 1000 VLANs on the fake kernel: what this crate itself costs.

use divan::Bencher;
use netcfg::fake::FakeNet;
use netcfg::{LinkSpec, NetSpec, Netcfg};

fn main() {
    divan::main();
}

fn spec() -> Option<NetSpec> {
    let mut spec = NetSpec::default();
    for id in 1..=1000_u16 {
        let name = format!("int1.{id}").parse().ok()?;
        spec = spec.with_link(LinkSpec::vlan(name, "int1".parse().ok()?, id.try_into().ok()?));
    }
    Some(spec)
}

#[divan::bench]
fn of_1000_vlans_from_nothing(bencher: Bencher<'_, '_>) {
    let fake = FakeNet::new(&["int1"]);
    let (Ok(net), Some(spec)) = (Netcfg::on(&fake.host()), spec()) else { return };
    assert!(net.plan(&spec).is_ok_and(|plan| plan.len() >= 1000));
    bencher.bench(|| net.plan(&spec).map(|plan| plan.len()));
}
