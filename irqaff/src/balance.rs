//! irqbalance, which moves interrupts every ten seconds: whether it runs, what it leaves alone, and making it leave ours alone.

use std::collections::BTreeSet;
use std::io::{self, Read};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

use host::{Deadline, Tree};

use crate::error::{Error, Result};
use crate::name::DeviceName;
use crate::sys;

/// Where its sockets are; `/run/irqbalance/irqbalance123.sock` is that of process 123.
const SOCKETS: &str = "/run/irqbalance";

/// A running irqbalance. It leaves an interrupt alone from [`ban`](Self::ban) until it is started anew; give it the script of
/// [`policy_script`] for good.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Irqbalance {
    /// Its process.
    pub pid: u32,
}

pub(crate) fn find(tree: &Tree) -> Result<Option<Irqbalance>> {
    let pid_of = |name: &str| name.strip_prefix("irqbalance")?.strip_suffix(".sock")?.parse().ok();
    let is_it = |pid: u32| -> Result<bool> {
        // A process that has ended meanwhile is none; ESRCH and ENOENT.
        let comm = tree.read_opt(format!("/proc/{pid}/comm")).unwrap_or_default();
        Ok(comm.is_some_and(|name| name.trim() == "irqbalance"))
    };
    for entry in tree.list_opt(SOCKETS)? {
        if let Some(pid) = pid_of(&entry.name)
            && is_it(pid)?
        {
            return Ok(Some(Irqbalance { pid }));
        }
    }
    // Its socket may be an abstract one.
    for entry in tree.list_opt("/proc")? {
        if let Ok(pid) = entry.name.parse()
            && is_it(pid)?
        {
            return Ok(Some(Irqbalance { pid }));
        }
    }
    Ok(None)
}

impl Irqbalance {
    fn failed(&self) -> impl Fn(io::Error) -> Error {
        let pid = self.pid;
        move |source| Error::Irqbalance { pid, source }
    }

    fn connect(&self) -> io::Result<UnixStream> {
        match UnixStream::connect(format!("{SOCKETS}/irqbalance{}.sock", self.pid)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let name = format!("irqbalance{}.sock", self.pid);
                UnixStream::connect_addr(&SocketAddr::from_abstract_name(name)?)
            }
            other => other,
        }
    }

    /// One command a connection; it closes when it has answered.
    fn command(&self, text: &str, deadline: Deadline) -> io::Result<String> {
        let mut socket = self.connect()?;
        let left = deadline.left().max(Duration::from_millis(1));
        socket.set_write_timeout(Some(left))?;
        socket.set_read_timeout(Some(left))?;
        sys::send_with_credentials(&socket, text)?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// The interrupts it leaves alone because it was told to.
    ///
    /// # Errors
    /// [`Error::Irqbalance`] if it does not answer in time: it is built without its socket, or the caller is not root.
    pub fn banned(&self, deadline: Deadline) -> Result<BTreeSet<u32>> {
        self.command("setup", deadline).map(|answer| banned(&answer)).map_err(self.failed())
    }

    /// Makes it leave these interrupts alone too; says whether it had to be told. `irqbalance --banirq=N`, without a restart.
    ///
    /// # Errors
    /// [`Error::Irqbalance`], as [`banned`](Self::banned), or if it has not taken the list over.
    pub fn ban(&self, irqs: &BTreeSet<u32>, deadline: Deadline) -> Result<bool> {
        let before = self.banned(deadline)?;
        if irqs.is_subset(&before) {
            return Ok(false);
        }
        // The command replaces the list. Its parser ends at interrupt 0, the timer, which nobody moves.
        let all: BTreeSet<u32> = before.union(irqs).copied().filter(|irq| *irq != 0).collect();
        let list: Vec<String> = all.iter().map(u32::to_string).collect();
        self.command(&format!("settings ban irqs {}", list.join(" ")), deadline).map_err(self.failed())?;
        // It says nothing to a change.
        let after = self.banned(deadline)?;
        match all.difference(&after).next() {
            None => Ok(true),
            Some(missing) => {
                let reason = format!("irqbalance has not taken over the ban of interrupt {missing}");
                Err(self.failed()(io::Error::other(reason)))
            }
        }
    }
}

/// The numbers after `IRQ` in the answer to `setup` (`sock_handle` in irqbalance.c):
/// `SLEEP 10 IRQ 24 LOAD 0 DIFF 0 CLASS 4 BANNED 00000000`.
fn banned(answer: &str) -> BTreeSet<u32> {
    let words: Vec<&str> = answer.split_whitespace().collect();
    let after = |(word, next): (&&str, &&str)| (*word == "IRQ").then(|| next.parse().ok()).flatten();
    words.iter().zip(words.iter().skip(1)).filter_map(after).collect()
}

/// Writes a script for irqbalance's `--policyscript` that makes it leave the interrupts of these devices alone, whatever their numbers: put it
/// to `/usr/local/libexec/irqbalance-policy` with mode 0755, and `IRQBALANCE_ARGS="--policyscript=/usr/local/libexec/irqbalance-policy"` into
/// `/etc/default/irqbalance`. Name physical devices ([`Irqaff::devices_of`](crate::Irqaff::devices_of)).
///
/// ```
/// let script = irqaff::policy_script(&["int1".parse()?, "0000:03:00.0".parse()?]);
/// assert!(script.starts_with("#!/bin/sh\n") && script.contains("/sys/class/net/int1/device"));
/// # Ok::<(), irqaff::ParseError>(())
/// ```
#[must_use]
pub fn policy_script(devices: &[DeviceName]) -> String {
    let paths: Vec<String> = devices
        .iter()
        .map(|device| match device {
            DeviceName::Pci(_) => device.path(),
            _ => format!("{}/device", device.path()),
        })
        .collect();
    format!(
        "#!/bin/sh\n\
         # irqbalance --policyscript: called with the device's directory and an interrupt's number.\n\
         for device in {}; do\n\
         \x20   dir=$(readlink -f \"$device\") || continue\n\
         \x20   case \"$dir\" in\n\
         \x20   */\"${{1##*/}}\" | */\"${{1##*/}}\"/virtio* | */\"${{1##*/}}\"/host* | */\"${{1##*/}}\"/ata*) echo ban=true ;;\n\
         \x20   esac\n\
         done\n\
         exit 0\n",
        paths.join(" ")
    )
}

#[cfg(test)]
mod tests {
    use host::fake::Memory;

    use super::*;

    #[test]
    fn the_answer_of_irqbalance_is_understood() {
        let answer = "SLEEP 10 IRQ 24 LOAD 120 DIFF 0 CLASS 4 IRQ 31 LOAD 0 DIFF 0 CLASS 5 BANNED 00000000";
        assert_eq!(banned(answer), BTreeSet::from([24, 31]));
        assert!(banned("SLEEP 10 BANNED 0").is_empty() && banned("IRQ").is_empty());
    }

    #[test]
    fn a_process_is_found_by_its_socket_or_its_name() {
        let memory = Memory::new();
        memory.edit(|nodes| {
            nodes.put("/proc/17/comm", "irqbalance-ui\n");
            nodes.put("/proc/19/comm", "bash\n");
            // What a killed one has left behind.
            nodes.put("/run/irqbalance/irqbalance19.sock", "");
        });
        assert_eq!(find(&memory.tree()).expect("read"), None);
        memory.edit(|nodes| nodes.put("/proc/23/comm", "irqbalance\n"));
        assert_eq!(find(&memory.tree()).expect("read"), Some(Irqbalance { pid: 23 }));
        let gone = Irqbalance { pid: 4_000_001 };
        let error = gone.banned(Deadline::after(Duration::from_secs(1))).expect_err("nobody is there");
        assert!(error.to_string().contains("4000001"), "{error}");
    }
}
