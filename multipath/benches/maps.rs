//! Reading multipathd's answer with 200 maps.

use divan::Bencher;
use multipath::fake::FakeMultipathd;

fn main() {
    divan::main();
}

/// A captured answer with its map repeated under other names.
fn answer(count: usize) -> Option<String> {
    const ONE: &str = include_str!("../tests/fixtures/maps-0.9.4.json");
    let mut answer: serde_json::Value = serde_json::from_str(ONE).ok()?;
    let maps = answer.get_mut("maps")?.as_array_mut()?;
    let first = maps.first()?.clone();
    for n in maps.len()..count {
        let mut map = first.clone();
        *map.get_mut("uuid")? = format!("36001405{n:025x}").into();
        *map.get_mut("name")? = format!("mpath{n}").into();
        maps.push(map);
    }
    serde_json::to_string(&answer).ok()
}

#[divan::bench]
fn list_200(bencher: Bencher<'_, '_>) {
    let Some(answer) = answer(200) else { return };
    let daemon = FakeMultipathd::new().with_answer("show maps json", &answer);
    let multipath = daemon.multipath();
    assert!(multipath.list().is_ok_and(|maps| maps.len() == 200));
    bencher.bench(|| multipath.list().map(|maps| maps.len()));
}
