//! Reading /proc/interrupts of a large machine.

use std::fmt::Write;

use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

/// The file of a machine with so many processors and interrupts.
fn text(cpus: usize, interrupts: usize) -> String {
    let mut text = String::from("     ");
    for cpu in 0..cpus {
        let _ = write!(text, " {:>10}", format!("CPU{cpu}"));
    }
    for irq in 0..interrupts {
        let _ = write!(text, "\n{irq:>4}:");
        for cpu in 0..cpus {
            let _ = write!(text, " {:>10}", (irq * cpu) % 1_000_000);
        }
        let _ = write!(text, "  IR-PCI-MSIX-0000:3b:00.0 {irq}-edge      mlx5_comp{irq}@pci:0000:3b:00.0");
    }
    text + "\n"
}

#[divan::bench(sample_count = 10)]
fn parse_256_cpus_1000_interrupts(bencher: Bencher<'_, '_>) {
    let text = text(256, 1000);
    assert!(irqaff::wire::interrupts::parse(&text).is_ok_and(|lines| lines.len() == 1000));
    bencher.bench(|| irqaff::wire::interrupts::parse(black_box(&text)).map(|lines| lines.len()));
}

#[divan::bench(sample_count = 10)]
fn table_of_256_cpus_1000_interrupts(bencher: Bencher<'_, '_>) {
    let text = text(256, 1000);
    bencher
        .bench(|| irqaff::wire::interrupts::Table::parse(black_box(&text)).map(|table| table.rows().count()));
}
