//! `/proc/interrupts` (`show_interrupts`, kernel/irq/proc.c).

use host::ParseError;

/// One line: an interrupt, or a counter of the architecture (`NMI`, `LOC`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub struct Line {
    /// What stands before the colon.
    pub name: String,
    /// The interrupt's number; `None` for a counter of the architecture.
    pub irq: Option<u32>,
    /// How often it came, by processor, with the processor's number.
    pub counts: Vec<(u32, u64)>,
    /// The interrupt controller, for example `PCI-MSI`.
    pub chip: String,
    /// What is registered for it: names of drivers, several where a line is shared.
    pub actions: Vec<String>,
}

/// The whole file, with all counts in one block: what to read on a machine with hundreds of processors and thousands of interrupts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Table<'a> {
    /// The processors of the columns: those that are online.
    pub cpus: Vec<u32>,
    rows: Vec<Head<'a>>,
    counts: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Head<'a> {
    name: &'a str,
    irq: Option<u32>,
    /// Where its counts end in the block; they begin where those of the row before end.
    end: usize,
    rest: &'a str,
}

/// One line of a [`Table`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Row<'a> {
    /// What stands before the colon.
    pub name: &'a str,
    /// The interrupt's number; `None` for a counter of the architecture.
    pub irq: Option<u32>,
    /// How often it came on each of [`Table::cpus`]; fewer where the line has one count for all (`ERR`).
    pub counts: &'a [u64],
    /// The rest of the line: controller, trigger, names.
    pub rest: &'a str,
}

impl<'a> Table<'a> {
    /// Reads the text. Columns are online processors only, so their numbers come from the head line.
    ///
    /// # Errors
    /// As [`parse`].
    pub fn parse(text: &'a str) -> Result<Self, ParseError> {
        let (head, body) = text.split_once('\n').unwrap_or((text, ""));
        let bad = |line: &str, reason: &str| ParseError::new("line of /proc/interrupts", line, reason);
        let cpus = head
            .split_whitespace()
            .map(|word| word.strip_prefix("CPU").and_then(|number| number.parse().ok()))
            .collect::<Option<Vec<u32>>>()
            .filter(|cpus| !cpus.is_empty())
            .ok_or_else(|| bad(head, "the first line names the processors: CPU0 CPU1 ..."))?;
        // The columns make nearly all of the text.
        let counts = Vec::with_capacity(body.len() / COLUMN.len());
        let mut table = Self { cpus, rows: Vec::new(), counts };
        for line in body.lines() {
            if !line.trim_ascii_start().is_empty() && !table.line(line) {
                return Err(bad(line, "NAME: one count a processor"));
            }
        }
        Ok(table)
    }

    /// Adds a line; `false` if it is none.
    fn line(&mut self, line: &'a str) -> bool {
        let Some((name, rest)) = line.split_once(':') else { return false };
        let (name, bytes) = (name.trim_ascii(), rest.as_bytes());
        let irq = name.parse().ok();
        let mut at = 0;
        for _ in 0..self.cpus.len() {
            if bytes.get(at..at + COLUMN.len()) == Some(COLUMN.as_slice())
                && bytes.get(at + COLUMN.len()) == Some(&b' ')
            {
                self.counts.push(0);
                at += COLUMN.len();
                continue;
            }
            match count(bytes, &mut at) {
                Some(count) => self.counts.push(count),
                // ERR and MIS have one count for all.
                None if irq.is_none() => break,
                None => return false,
            }
        }
        let rest = rest.get(at..).unwrap_or_default();
        self.rows.push(Head { name, irq, end: self.counts.len(), rest });
        true
    }

    /// The lines, from top to bottom.
    pub fn rows(&self) -> impl Iterator<Item = Row<'_>> {
        let mut begin = 0;
        self.rows.iter().map(move |head| {
            let counts = self.counts.get(begin..head.end).unwrap_or_default();
            begin = head.end;
            Row { name: head.name, irq: head.irq, counts, rest: head.rest }
        })
    }
}

/// A count of nothing, as every kernel writes it (`" %10u"`): on a large machine nearly all of them.
const COLUMN: &[u8; 11] = b"          0";

/// The count that begins at `at`, which moves behind it; `None` if there is no number.
fn count(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut here = *at;
    while bytes.get(here) == Some(&b' ') {
        here += 1;
    }
    let begin = here;
    let mut number: u64 = 0;
    while let Some(digit) = bytes.get(here).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
        number = number.checked_mul(10)?.checked_add(digit.into())?;
        here += 1;
    }
    // A word that only begins with digits is no count: "2-edge".
    let ends = bytes.get(here).is_none_or(|byte| *byte == b' ');
    if here == begin || !ends {
        return None;
    }
    *at = here;
    Some(number)
}

/// Reads the text, line by line, with the names taken apart.
///
/// ```
/// let text = "           CPU0       CPU2\n 24:         12          0   PCI-MSI 49152-edge      virtio0-config\nNMI:          0          0   Non-maskable interrupts\n";
/// let lines = irqaff::wire::interrupts::parse(text)?;
/// assert_eq!(lines[0].irq, Some(24));
/// assert_eq!(lines[0].counts, [(0, 12), (2, 0)]);
/// assert_eq!(lines[0].actions, ["virtio0-config"]);
/// # Ok::<(), irqaff::ParseError>(())
/// ```
///
/// # Errors
/// The head line names no processors, or a count is no number.
pub fn parse(text: &str) -> Result<Vec<Line>, ParseError> {
    let table = Table::parse(text)?;
    Ok(table.rows().map(|row| one(&row, &table.cpus)).collect())
}

fn one(row: &Row<'_>, cpus: &[u32]) -> Line {
    let counts = cpus.iter().copied().zip(row.counts.iter().copied()).collect();
    let mut line =
        Line { name: row.name.to_owned(), irq: row.irq, counts, chip: String::new(), actions: Vec::new() };
    if row.irq.is_none() {
        return line;
    }
    let mut words = row.rest.split_whitespace();
    line.chip = words.next().unwrap_or_default().to_owned();
    let rest: Vec<_> = words.collect();
    // Hardware number and trigger stand between the chip and the actions: "49152-edge", "2-edge", "24  Edge" on arm.
    let is_trigger = |word: &str| {
        let word = word.to_ascii_lowercase();
        word.ends_with("edge") || word.ends_with("level") || word.ends_with("fasteoi")
    };
    let after = rest.iter().position(|word| is_trigger(word)).map_or(0, |at| at + 1);
    let text = rest.get(after..).unwrap_or_default().join(" ");
    line.actions =
        text.split(',').map(str::trim).filter(|action| !action.is_empty()).map(str::to_owned).collect();
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Linux 6.1.0-56-amd64 in QEMU 7.2, 4 processors, processor 1 offline.
    const TEXT: &str = "            CPU0       CPU2       CPU3       
   0:         48          0          0   IO-APIC   2-edge      timer
   9:          0          0          0   IO-APIC   9-fasteoi   acpi
  23:          0          5          0   IO-APIC  23-fasteoi   eth1, ehci_hcd:usb1
  24:          0          0          0   PCI-MSI 65536-edge      PCIe PME, aerdrv, pciehp
  26:          0          0       1200   PCI-MSIX-0000:00:02.0   1-edge      virtio0-input.0
 NMI:          0          0          0   Non-maskable interrupts
 ERR:          7
";

    #[test]
    fn a_captured_text_is_understood() {
        let lines = parse(TEXT).expect("the text");
        assert_eq!(lines.len(), 7);
        assert_eq!(lines[2].actions, ["eth1", "ehci_hcd:usb1"]);
        assert_eq!(lines[2].counts, [(0, 0), (2, 5), (3, 0)]);
        assert_eq!(lines[3].actions, ["PCIe PME", "aerdrv", "pciehp"]);
        assert_eq!((lines[4].chip.as_str(), lines[4].counts[2]), ("PCI-MSIX-0000:00:02.0", (3, 1200)));
        assert_eq!((lines[6].irq, lines[6].counts.clone()), (None, vec![(0, 7)]));
    }

    #[test]
    fn a_table_has_every_count_of_a_large_machine() {
        let mut text = String::from("      ");
        (0..256).for_each(|cpu| text.push_str(&format!("CPU{cpu}       ")));
        for irq in 0..50_u64 {
            text.push_str(&format!("\n{irq:>4}:"));
            (0..256_u64).for_each(|cpu| {
                text.push_str(&format!("{:>10} ", if cpu % 7 == 0 { irq * cpu * 12_345_678 } else { 0 }))
            });
            text.push_str("  IR-PCI-MSIX-0000:3b:00.0    1-edge      mlx5_comp1");
        }
        text.push_str("\n ERR:          3\n");
        let table = Table::parse(&text).expect("the text");
        assert_eq!((table.cpus.len(), table.rows().count()), (256, 51));
        for (row, irq) in table.rows().take(50).zip(0_u64..) {
            let expected: Vec<u64> =
                (0..256).map(|cpu| if cpu % 7 == 0 { irq * cpu * 12_345_678 } else { 0 }).collect();
            assert_eq!(row.counts, expected, "{irq}");
            assert!(row.rest.trim_start().starts_with("IR-PCI-MSIX"), "{row:?}");
        }
        assert_eq!(table.rows().last().map(|row| row.counts.to_vec()), Some(vec![3]));
        let lines = parse(&text).expect("the text");
        assert_eq!(lines.get(7).map(|line| line.actions.clone()), Some(vec!["mlx5_comp1".to_owned()]));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "no processors\n", "  CPU0 CPU1\n 24:  1\n", "  CPU0\nline without colon\n"] {
            assert!(parse(text).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(CPU[0-9] ?){0,4}\n([ -~]{0,40}\n){0,5}") {
            if let Ok(lines) = parse(&text) {
                prop_assert!(lines.len() < 6);
            }
        }
    }
}
