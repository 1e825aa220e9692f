//! Listing twenty resources of the fake kernel: what joining the dumps costs.

use divan::Bencher;
use drbd::fake::FakeDrbd;
use drbd::{Drbd, Minor, ResourceSpec, Volume, VolumeSpec};
use host::Bytes;

fn main() {
    divan::main();
}

fn machine(fake: &FakeDrbd) -> Option<Drbd> {
    let drbd = Drbd::on(&fake.host()).ok()?;
    for n in 0..20_u16 {
        let disk = format!("/dev/d{n}");
        fake.add_disk(&disk, Bytes(64 << 20));
        let volume = VolumeSpec::new(Volume(0), Minor::try_from(u32::from(n)).ok()?, &disk);
        let port = 7000 + n;
        let (local, peer) = (format!("10.0.0.1:{port}"), format!("10.0.0.2:{port}"));
        let spec = ResourceSpec::new(format!("r{n}").parse().ok()?, local.parse().ok()?, peer.parse().ok()?);
        drbd.ensure(&spec.with_volume(volume)).ok()?;
    }
    Some(drbd)
}

#[divan::bench]
fn list_20_resources(bencher: Bencher<'_, '_>) {
    let fake = FakeDrbd::new();
    let drbd = machine(&fake);
    assert!(drbd.as_ref().is_some_and(|drbd| drbd.list().is_ok_and(|list| list.len() == 20)));
    let Some(drbd) = drbd else { return };
    bencher.bench(|| drbd.list().map(|list| list.len()));
}
