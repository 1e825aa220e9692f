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

/// Reads the text. Columns are online processors only, so their numbers come from the head line.
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
    let mut lines = text.lines();
    let head = lines.next().unwrap_or_default();
    let bad = |line: &str, reason: &str| ParseError::new("line of /proc/interrupts", line, reason);
    let cpus = head
        .split_whitespace()
        .map(|word| word.strip_prefix("CPU").and_then(|number| number.parse().ok()))
        .collect::<Option<Vec<u32>>>()
        .filter(|cpus| !cpus.is_empty())
        .ok_or_else(|| bad(head, "the first line names the processors: CPU0 CPU1 ..."))?;
    lines
        .filter(|line| !line.trim().is_empty())
        .map(|line| one(line, &cpus).ok_or_else(|| bad(line, "NAME: one count a processor")))
        .collect()
}

fn one(line: &str, cpus: &[u32]) -> Option<Line> {
    let (name, rest) = line.split_once(':')?;
    let name = name.trim().to_owned();
    let irq = name.parse().ok();
    let mut words = rest.split_whitespace().peekable();
    let mut counts = Vec::with_capacity(cpus.len());
    // ERR and MIS have one count for all.
    for cpu in cpus {
        match words.peek().map(|word| word.parse()) {
            Some(Ok(count)) => counts.push((*cpu, count)),
            _ if irq.is_none() => break,
            _ => return None,
        }
        words.next();
    }
    if irq.is_none() {
        return Some(Line { name, irq, counts, chip: String::new(), actions: Vec::new() });
    }
    let chip = words.next().unwrap_or_default().to_owned();
    let rest: Vec<_> = words.collect();
    // Hardware number and trigger stand between the chip and the actions: "49152-edge", "2-edge", "24  Edge" on arm.
    let is_trigger = |word: &str| {
        let word = word.to_ascii_lowercase();
        word.ends_with("edge") || word.ends_with("level") || word.ends_with("fasteoi")
    };
    let after = rest.iter().position(|word| is_trigger(word)).map_or(0, |at| at + 1);
    let text = rest.get(after..).unwrap_or_default().join(" ");
    let actions = text.split(',').map(str::trim).filter(|action| !action.is_empty()).map(str::to_owned);
    Some(Line { name, irq, counts, chip, actions: actions.collect() })
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
