//! The crate `irqaff`: `/proc/interrupts` of a large machine on this one, counters and placing in a machine of 128 processors.

use std::fmt::Write;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use ::irqaff::wire::interrupts::Table;
use anyhow::{Context, Result, ensure};
use lab::{Cmd, Lab, Mode, Nic};

use crate::Goal;
use crate::report::Row;

const PARSE: Goal = Goal {
    name: "/proc/interrupts of 256 CPUs x 4000 IRQs read and summed (ms, host, warm): Table::parse vs irqbalance's algorithm in C at -O2",
    ratio: 2.0,
};
const SAMPLE: Goal = Goal {
    name: "counters of 8 queues, 128 CPUs (ms, lab, warm): Irqaff::sample vs Table::parse of /proc/interrupts",
    ratio: 10.0,
};
/// The script is given the numbers as article 1 has them written down: so it is compared with a plan that knows them, too.
const PLACE: Goal = Goal {
    name: "all movable IRQs of 4 cards, 128 CPUs, numbers known (ms, lab, warm): Irqaff::apply vs the Perl script of article 1",
    ratio: 50.0,
};
const ENSURE: Goal = Goal {
    name: "the same, found, planned and placed (ms, lab, warm): Irqaff::ensure vs the Perl script of article 1, which is given the numbers",
    ratio: 1.0,
};
/// What the kernel takes for it: whoever places these interrupts pays it.
const FLOOR: Goal = Goal {
    name: "the same against the kernel's part alone (ms, lab, warm): Irqaff::apply vs nothing but the 32 writes",
    ratio: 0.6,
};
/// What article 1's script takes before it has written anything.
const PERL: Goal = Goal {
    name: "the same against a script that writes nothing (ms, lab, warm): Irqaff::apply vs the start and end of perl",
    ratio: 1.0,
};
pub(crate) const GOALS: [Goal; 6] = [PARSE, SAMPLE, PLACE, FLOOR, PERL, ENSURE];

const CPUS: usize = 256;
const IRQS: usize = 4000;

/// Runs all comparisons; rows are added as they are done.
pub(crate) fn run(programs: &Path, runs: u32, rows: &mut Vec<Row>) -> Result<()> {
    if let Err(error) = parse(runs, rows) {
        println!("irqaff: {error:#}");
    }
    let lab = Lab::new("bench-irqaff")?;
    lab.install(&programs.join("bench"))?;
    let cable = lab.segment("s");
    let mut machine = lab.machine("n1").mode(Mode::Root).memory(1024).smp("128,sockets=2,cores=32,threads=2");
    // Two threads a core need another processor than the emulation's own.
    machine = machine.qemu(["-cpu", "max,vendor=GenuineIntel"]).boot_deadline(Duration::from_secs(600));
    for _ in 0..4 {
        machine = machine.nic_with(Nic::on(&cable).model("vmxnet3"));
    }
    let machine = machine.build()?;
    lab.boot_all(std::slice::from_ref(&machine))?;
    machine.sh(
        "install /lab/bin/bench /usr/local/bin/; modprobe vmxnet3; for n in 0 1 2 3; do ip link set eth$n up; done",
    )?;
    let command = format!("bench --guest irqaff-all --runs {runs} 2>&1");
    let output = machine.run(Cmd::sh(&command).deadline(Duration::from_secs(1200)))?;
    ensure!(output.success(), "{}", output.stdout);
    for goal in [SAMPLE, PLACE, FLOOR, PERL, ENSURE] {
        let values = |side: &str| -> Vec<f64> {
            let prefix = format!("{}\t{side}\t", goal.name);
            let lines = output.stdout.lines();
            lines.filter_map(|line| line.strip_prefix(prefix.as_str())?.parse().ok()).collect()
        };
        rows.push(Row::new(&goal, &values("ours"), &values("peer")));
    }
    Ok(())
}

/// As `show_interrupts` writes it (kernel/irq/proc.c); mostly zeros, as on real machines.
fn text() -> String {
    let mut text = String::from("     ");
    (0..CPUS).for_each(|cpu| write!(text, " {:>10}", format!("CPU{cpu}")).unwrap_or_default());
    for irq in 0..IRQS {
        write!(text, "\n{irq:>4}:").unwrap_or_default();
        for cpu in 0..CPUS {
            let count = if (irq + cpu) % 16 == 0 { irq * 7919 + cpu } else { 0 };
            write!(text, " {count:>10}").unwrap_or_default();
        }
        write!(text, "  IR-PCI-MSIX-0000:3b:00.0 {irq}-edge      mlx5_comp{irq}@pci:0000:3b:00.0")
            .unwrap_or_default();
    }
    text + "\n"
}

fn parse(runs: u32, rows: &mut Vec<Row>) -> Result<()> {
    let dir = std::env::temp_dir().join(format!("sankit-bench-irqaff-{}", std::process::id()));
    std::fs::create_dir(&dir)?;
    let result = (|| {
        let (source, program, file) = (dir.join("peer.c"), dir.join("peer"), dir.join("interrupts"));
        std::fs::write(&source, include_str!("irqbalance.c"))?;
        std::fs::write(&file, text())?;
        let built = Command::new("cc").args(["-O2", "-o"]).arg(&program).arg(&source).status()?;
        ensure!(built.success(), "the C program was not built");
        let output = Command::new(&program).arg(&file).arg(runs.to_string()).output()?;
        ensure!(output.status.success(), "the C program failed: {}", output.status);
        let (mut ours, mut theirs, mut sums) = (Vec::new(), Vec::new(), Vec::new());
        for line in String::from_utf8(output.stdout)?.lines() {
            let mut words = line.split(' ');
            theirs.push(words.next().context("a time")?.parse()?);
            sums.push(words.collect::<Vec<_>>().join(" "));
        }
        for round in 0..=runs {
            let started = Instant::now();
            let text = std::fs::read_to_string(&file)?;
            let table = Table::parse(&text)?;
            let (mut lines, mut all) = (0, 0_u64);
            for row in table.rows().filter(|row| row.irq.is_some()) {
                lines += 1;
                all += row.counts.iter().sum::<u64>();
            }
            let time = started.elapsed().as_secs_f64() * 1000.0;
            ensure!(sums.iter().all(|sum| *sum == format!("{lines} {all}")), "{lines} {all} and {sums:?}");
            if round > 0 {
                ours.push(time);
            }
        }
        rows.push(Row::new(&PARSE, &ours, &theirs));
        Ok(())
    })();
    std::fs::remove_dir_all(&dir)?;
    result
}

/// The part that runs in the guest.
pub(crate) mod guest {
    use crate::report::{say, timed};

    use ::irqaff::wire::interrupts::Table;
    use ::irqaff::{DeviceName, DeviceState, Irqaff, Policy, Step};
    use anyhow::{Result, ensure};
    use host::Host;

    use super::{Command, ENSURE, FLOOR, PERL, PLACE, SAMPLE};

    /// Article 1's script as far as it goes for these interrupts: their numbers, one processor each, above 32 with the commas it lacks.
    const SCRIPT: &str = r#"use strict; use warnings;
my $n = 0;
for my $irq (@ARGV) {
    my $cpu = $n++ % 128;
    my $hexmask = sprintf('%x', oct("0b1" . ("0" x ($cpu % 32)))) . (",00000000" x int($cpu / 32));
    open(OUT, ">/proc/irq/".$irq."/smp_affinity");
    print OUT $hexmask."\n";
    close(OUT);
}
"#;

    pub(crate) fn run(_: &str, runs: u32) -> Result<()> {
        let host = Host::live();
        let irqaff = Irqaff::on(&host)?;
        let names: Vec<DeviceName> = (0..4).map(|n| format!("eth{n}").parse()).collect::<Result<_, _>>()?;
        let mut devices = Vec::new();
        for name in &names {
            devices.extend(irqaff.get(name)?);
        }
        let movable = |device: &DeviceState| -> Vec<u32> {
            device.vectors.iter().filter(|v| v.role.queue().is_some()).map(|v| v.irq).collect()
        };
        let irqs: Vec<u32> = devices.iter().flat_map(movable).collect();
        ensure!(irqs.len() == 32, "{} interrupts of queues", irqs.len());
        let queues = devices.get(..1).unwrap_or_default();
        for round in 0..=runs {
            let ours = timed(|| irqaff.sample(queues).map(drop).map_err(Into::into))?;
            let peer = timed(|| {
                let text = host.tree().read("/proc/interrupts")?;
                let table = Table::parse(&text)?;
                let found = table.rows().filter(|row| row.irq.is_some_and(|irq| irqs.contains(&irq))).count();
                ensure!(found == irqs.len(), "{found} of them are in the file");
                Ok(())
            })?;
            if round > 0 {
                say(&SAMPLE, "ours", ours);
                say(&SAMPLE, "peer", peer);
            }
        }
        std::fs::write("/var/tmp/affinity.pl", SCRIPT)?;
        let policy = Policy::spread(names.clone()).over("0-127".parse()?);
        let elsewhere = Policy::spread(names.iter().rev().cloned()).over("0-127".parse()?);
        for round in 0..=runs {
            irqaff.ensure(&elsewhere)?;
            let whole = timed(|| {
                ensure!(irqaff.ensure(&policy)?, "there was nothing to do");
                Ok(())
            })?;
            ensure!(irqaff.verify(&policy)?.holds());
            irqaff.ensure(&elsewhere)?;
            let mut plan = Some(irqaff.plan(&policy)?);
            let ours = timed(|| irqaff.apply(plan.take().unwrap_or_default()).map(drop).map_err(Into::into))?;
            ensure!(irqaff.verify(&policy)?.holds());
            irqaff.ensure(&elsewhere)?;
            let writes: Vec<(String, String)> = irqaff
                .plan(&policy)?
                .into_steps()
                .iter()
                .filter_map(|step| match step {
                    Step::Affinity { irq, cpus, .. } => {
                        Some((format!("/proc/irq/{irq}/smp_affinity_list"), cpus.to_string()))
                    }
                    _ => None,
                })
                .collect();
            ensure!(writes.len() == irqs.len(), "{} of {} would move", writes.len(), irqs.len());
            let floor =
                timed(|| writes.iter().try_for_each(|(path, value)| Ok(std::fs::write(path, value)?)))?;
            ensure!(irqaff.verify(&policy)?.holds());
            let perl = timed(|| {
                let done = Command::new("perl").args(["-e", "use strict; use warnings;"]).status()?;
                ensure!(done.success(), "perl failed");
                Ok(())
            })?;
            irqaff.ensure(&elsewhere)?;
            let peer = timed(|| {
                let done = Command::new("perl")
                    .arg("/var/tmp/affinity.pl")
                    .args(irqs.iter().map(u32::to_string))
                    .status()?;
                ensure!(done.success(), "the script failed");
                Ok(())
            })?;
            if round > 0 {
                say(&PLACE, "ours", ours);
                say(&PLACE, "peer", peer);
                say(&FLOOR, "ours", ours);
                say(&FLOOR, "peer", floor);
                say(&PERL, "ours", ours);
                say(&PERL, "peer", perl);
                say(&ENSURE, "ours", whole);
                say(&ENSURE, "peer", peer);
            }
        }
        Ok(())
    }
}
