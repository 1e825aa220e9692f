//! Where interrupts really fire: counters twice, and the difference.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use host::Tree;

use crate::error::{Error, Result};
use crate::name::DeviceName;
use crate::state::DeviceState;
use crate::wire::interrupts::Table;
use crate::wire::role::Role;

/// The counters of some interrupts at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sample {
    at: Instant,
    /// By interrupt; the index is the processor.
    counts: BTreeMap<u32, Vec<u64>>,
}

/// How often one interrupt came, on each processor.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct VectorLoad {
    /// The device.
    pub device: DeviceName,
    /// The interrupt.
    pub irq: u32,
    /// What it is for.
    pub role: Role,
    /// Times a second; the index is the processor.
    pub rates: Vec<f64>,
}

/// How often the interrupts of some devices came between two samples. `Display` is a map of letters, a line an interrupt, a column a
/// processor: the darker, the more.
#[derive(Debug, Clone, PartialEq, Default)]
#[cfg_attr(feature = "serde", derive(serde::Serialize))]
#[non_exhaustive]
pub struct Load {
    /// Each interrupt that serves a queue.
    pub vectors: Vec<VectorLoad>,
    /// Between the samples.
    pub time: Duration,
}

/// Reads the counters of these devices' queues: a small file for each interrupt (`/sys/kernel/irq/N/per_cpu_count`), and `/proc/interrupts`, which
/// has all counters of the machine, only where there is none.
pub(crate) fn sample(tree: &Tree, devices: &[DeviceState]) -> Result<Sample> {
    let mut counts = BTreeMap::new();
    let mut table = None;
    let vectors = devices.iter().flat_map(|device| &device.vectors).filter(|v| v.role.queue().is_some());
    for vector in vectors {
        let file = format!("/sys/kernel/irq/{}/per_cpu_count", vector.irq);
        let row = match tree.read_opt(&file)? {
            Some(text) => text
                .trim()
                .split(',')
                .map(|count| count.parse().map_err(|_| Error::invalid(&file, "a count is no number")))
                .collect::<Result<Vec<u64>>>()?,
            None => {
                if table.is_none() {
                    table = Some(tree.read("/proc/interrupts")?);
                }
                from_table(table.as_deref().unwrap_or_default(), vector.irq)?
            }
        };
        counts.insert(vector.irq, row);
    }
    Ok(Sample { at: Instant::now(), counts })
}

/// An interrupt's counts by processor, of the file that has all.
fn from_table(text: &str, irq: u32) -> Result<Vec<u64>> {
    let table = Table::parse(text)?;
    let mut all = Vec::new();
    for row in table.rows().filter(|row| row.irq == Some(irq)) {
        for (cpu, count) in table.cpus.iter().zip(row.counts) {
            let at = usize::try_from(*cpu).unwrap_or(usize::MAX);
            if all.len() <= at {
                all.resize(at + 1, 0);
            }
            if let Some(slot) = all.get_mut(at) {
                *slot = *count;
            }
        }
    }
    Ok(all)
}

impl Sample {
    /// What came since an earlier sample.
    #[must_use]
    pub fn since(&self, earlier: &Self, devices: &[DeviceState]) -> Load {
        let time = self.at.saturating_duration_since(earlier.at);
        let seconds = time.as_secs_f64().max(0.001);
        let mut vectors = Vec::new();
        for device in devices {
            for vector in &device.vectors {
                let (Some(now), Some(before)) =
                    (self.counts.get(&vector.irq), earlier.counts.get(&vector.irq))
                else {
                    continue;
                };
                let before = before.iter().copied().chain(std::iter::repeat(0));
                let rate = |(now, before): (&u64, u64)| {
                    // Counters begin anew when a driver asks for its interrupts again.
                    let more = u32::try_from(now.saturating_sub(before)).unwrap_or(u32::MAX);
                    f64::from(more) / seconds
                };
                let rates = now.iter().zip(before).map(rate).collect();
                let (device, irq, role) = (device.name.clone(), vector.irq, vector.role);
                vectors.push(VectorLoad { device, irq, role, rates });
            }
        }
        Load { vectors, time }
    }
}

impl Load {
    /// Interrupts a second on each processor, all vectors together.
    #[must_use]
    pub fn by_cpu(&self) -> Vec<f64> {
        let widest = self.vectors.iter().map(|vector| vector.rates.len()).max().unwrap_or(0);
        let mut sums = vec![0.0; widest];
        for vector in &self.vectors {
            sums.iter_mut().zip(&vector.rates).for_each(|(sum, rate)| *sum += rate);
        }
        sums
    }

    /// How uneven it is: the busiest processor's share over the mean of those that got any. 1.0 is even; `None` if nothing came.
    #[must_use]
    pub fn skew(&self) -> Option<f64> {
        let busy: Vec<f64> = self.by_cpu().into_iter().filter(|rate| *rate > 0.0).collect();
        let most = busy.iter().copied().reduce(f64::max)?;
        let count = u32::try_from(busy.len()).unwrap_or(u32::MAX);
        Some(most * f64::from(count) / busy.iter().sum::<f64>())
    }

    /// The largest rate of one interrupt on one processor.
    fn most(&self) -> f64 {
        self.vectors.iter().flat_map(|vector| &vector.rates).copied().fold(0.0, f64::max)
    }

    /// The same map as a picture.
    #[must_use]
    pub fn to_svg(&self) -> String {
        const CELL: usize = 18;
        const LEFT: usize = 150;
        let cpus = self.by_cpu().len();
        let (width, height) = (LEFT + cpus * CELL + 80, (self.vectors.len() + 2) * CELL);
        let mut out = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" font-family=\"sans-serif\" font-size=\"11\">\n"
        );
        let most = self.most();
        for cpu in 0..cpus {
            let x = LEFT + cpu * CELL + CELL / 2;
            out.push_str(&format!("<text x=\"{x}\" y=\"12\" text-anchor=\"middle\">{cpu}</text>\n"));
        }
        for (row, vector) in self.vectors.iter().enumerate() {
            let y = (row + 1) * CELL;
            let (device, role, total) = (&vector.device, vector.role, vector.rates.iter().sum::<f64>());
            out.push_str(&format!("<text x=\"4\" y=\"{}\">{device} {role}</text>\n", y + 13));
            for (cpu, rate) in vector.rates.iter().enumerate() {
                let (x, side) = (LEFT + cpu * CELL, CELL - 2);
                let dark = if most > 0.0 { rate / most } else { 0.0 };
                out.push_str(&format!(
                    "<rect x=\"{x}\" y=\"{y}\" width=\"{side}\" height=\"{side}\" fill=\"#b02a1c\" fill-opacity=\"{:.3}\" stroke=\"#ccc\"><title>{device} {role} on {cpu}: {rate:.0}/s</title></rect>\n",
                    dark.sqrt()
                ));
            }
            let x = LEFT + cpus * CELL + 6;
            out.push_str(&format!("<text x=\"{x}\" y=\"{}\">{total:.0}/s</text>\n", y + 13));
        }
        out + "</svg>\n"
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// From none to most; every other a factor of about three.
        const SHADES: [char; 8] = ['.', ':', '-', '=', '+', '*', '#', '@'];
        let most = self.most();
        let shade = |rate: f64| {
            if rate <= 0.0 {
                return ' ';
            }
            let below = (rate / most).log2().abs();
            let steps = SHADES.iter().rev();
            steps
                .zip([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])
                .find(|(_, edge)| below < *edge)
                .map_or('.', |(c, _)| *c)
        };
        for vector in &self.vectors {
            let map: String = vector.rates.iter().map(|rate| shade(*rate)).collect();
            let name = format!("{} {}", vector.device, vector.role);
            writeln!(f, "{name:<20} |{map}| {:>9.0}/s", vector.rates.iter().sum::<f64>())?;
        }
        match self.skew() {
            Some(skew) => writeln!(f, "busiest processor: {skew:.2} times the mean"),
            None => writeln!(f, "no interrupt in {:.1} s", self.time.as_secs_f64()),
        }
    }
}
