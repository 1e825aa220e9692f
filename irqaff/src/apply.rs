//! Carrying out steps, and saying what a refusal means.

use host::{Tree, TreeError};

use crate::error::{Error, Result};
use crate::plan::Step;
use crate::state::vectors_of;

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It was done.
    Done,
    /// The interrupt of this number cannot be moved, by anybody.
    NotMovable(u32),
}

pub(crate) fn run(tree: &Tree, step: &Step) -> Result<Outcome> {
    let Step::Affinity { irq, action, cpus, .. } = step else {
        tree.write(step.path(), step.value()).map_err(|error| refused(step, error))?;
        return Ok(Outcome::Done);
    };
    // Under each interrupt the kernel keeps a directory with the name of each of its users (register_handler_proc, kernel/irq/proc.c). The
    // way through it opens the file only while the interrupt is still its device's: no look before, and no time between look and open.
    let through = (!action.is_empty()).then(|| format!("/proc/irq/{irq}/{action}/../smp_affinity_list"));
    let direct = through.map(|file| tree.write(file, cpus.to_string()));
    let (irq, written) = match direct {
        Some(written) if !written.as_ref().is_err_and(TreeError::is_not_found) => (*irq, written),
        _ => {
            let irq = number(tree, step)?;
            (irq, tree.write(format!("/proc/irq/{irq}/smp_affinity_list"), cpus.to_string()))
        }
    };
    match written {
        Ok(()) => Ok(Outcome::Done),
        // write_irq_affinity answers EIO on 6.1 and EPERM on 6.12 where irq_can_set_affinity_usr is false: managed by its driver, or a timer.
        // A user who is not root is stopped by EACCES when the file is opened.
        Err(error) if matches!(error.errno(), Some(libc::EIO | libc::EPERM)) => Ok(Outcome::NotMovable(irq)),
        Err(error) => Err(refused(step, error)),
    }
}

/// The interrupt's number now: that of the step, unless another interrupt has got it since.
fn number(tree: &Tree, step: &Step) -> Result<u32> {
    let Step::Affinity { device, irq, index, action, .. } = step else { return Ok(0) };
    let named = |irq: u32| tree.read_opt(format!("/sys/kernel/irq/{irq}/actions"));
    match named(*irq) {
        Ok(Some(now)) if now.trim() != action => {}
        Ok(None) if tree.exists("/sys/kernel/irq")? => {}
        Ok(_) => return Ok(*irq),
        Err(error) => return Err(error.into()),
    }
    // The driver was loaded anew: the same place in the same device, if it has the same name.
    let now = vectors_of(tree, device)?;
    let same = now.get(*index).copied();
    if let Some(irq) = same
        && named(irq)?.is_some_and(|name| name.trim() == action)
    {
        return Ok(irq);
    }
    Err(Error::Invalid {
        what: format!("interrupt {irq} of {device} ({action})"),
        reason: "the device has no such interrupt any more; make a new plan".to_owned(),
    })
}

fn refused(step: &Step, source: TreeError) -> Error {
    let what = match step {
        Step::Affinity { device, irq, role, cpus, .. } => {
            format!("cannot bind interrupt {irq} ({device} {role}) to processors {cpus}")
        }
        Step::Xps { device, queue, cpus, .. } => {
            format!("cannot let processors {cpus} send by queue {queue} of {device}")
        }
        Step::Rps { device, queue, cpus, .. } => {
            format!("cannot hand packets of queue {queue} of {device} on to processors {cpus}")
        }
        Step::Flows { device, queue, count, .. } => {
            format!("cannot follow {count} flows of queue {queue} of {device}")
        }
        Step::FlowTable { count, .. } => format!("cannot follow {count} flows"),
    };
    let reason = match source.errno() {
        Some(libc::EACCES) => "this needs root",
        Some(libc::EINVAL) if matches!(step, Step::Flows { .. } | Step::FlowTable { .. }) => {
            "the kernel takes no such number; ask for fewer"
        }
        Some(libc::EINVAL) => "none of these processors is online",
        Some(libc::ENOMEM) => "there is no memory for so many; ask for fewer",
        Some(libc::ERANGE | libc::EOVERFLOW) => "this machine has no such processor",
        Some(libc::ENOSPC) => "the processor has no free interrupt vector; use more processors",
        Some(libc::ENOENT) => "it is gone; the driver may have been loaded anew",
        _ if source.is_stopped() => "stopped here on purpose",
        _ => "the kernel refuses",
    };
    Error::Refused { what, reason: reason.to_owned(), source }
}
