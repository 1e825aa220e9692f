//! Processor sets of a large machine, in the two ways the kernel writes them.

use divan::{Bencher, black_box};
use host::CpuSet;

fn main() {
    divan::main();
}

/// Every other processor of 256: the longest list.
fn list() -> String {
    (0..256).step_by(2).map(|cpu| cpu.to_string()).collect::<Vec<_>>().join(",")
}

#[divan::bench]
fn parse_list(bencher: Bencher<'_, '_>) {
    let text = list();
    bencher.bench(|| black_box(&text).parse::<CpuSet>());
}

#[divan::bench]
fn mask_and_back(bencher: Bencher<'_, '_>) {
    let set: CpuSet = list().parse().unwrap_or_default();
    bencher.bench(|| CpuSet::from_mask(&black_box(&set).to_mask()));
}
