//! Queue, NAPI, interrupt: what the kernel says itself (generic netlink family "netdev", Linux 6.8, Documentation/netlink/specs/netdev.yaml).
//!
//! Only drivers that call `netif_napi_set_irq` report an interrupt; for all others names of interrupts are read.

use std::collections::BTreeMap;
use std::time::Duration;

use host::nl::genl::Family;
use host::nl::{Error, Protocol, Reply, Socket, attributes};
use host::{Deadline, Host};

use crate::wire::role::Role;

const QUEUE_GET: u8 = 10;
const NAPI_GET: u8 = 11;
const PATIENCE: Duration = Duration::from_secs(5);

/// The roles of interrupts, by interface number and interrupt.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Napis(BTreeMap<(u32, u32), Role>);

impl Napis {
    /// Asks once for all cards. Kernels without the family, and processes that may not ask, get nothing.
    pub(crate) fn read(host: &Host) -> Self {
        match ask(host) {
            Ok((napis, queues)) => Self::of(&napis, &queues),
            Err(error) => {
                log::debug!("irqaff: the queues' interrupts are read from their names: {error}");
                Self::default()
            }
        }
    }

    /// What an interrupt of an interface is for.
    pub(crate) fn role(&self, interface: u32, irq: u32) -> Option<Role> {
        self.0.get(&(interface, irq)).copied()
    }

    fn of(napis: &[Reply], queues: &[Reply]) -> Self {
        // Which queues each NAPI serves: receive, transmit.
        let mut serves: BTreeMap<u32, (Option<u32>, Option<u32>)> = BTreeMap::new();
        for queue in queues {
            let [id, _, kind, napi] = numbers(queue);
            let (Some(id), Some(kind), Some(napi)) = (id, kind, napi) else { continue };
            let slots = serves.entry(napi).or_default();
            let slot = if kind == 0 { &mut slots.0 } else { &mut slots.1 };
            // The lowest: a transmit queue for each traffic class hangs on the same NAPI.
            *slot = Some(slot.map_or(id, |known: u32| known.min(id)));
        }
        let mut roles = BTreeMap::new();
        for napi in napis {
            let [interface, id, irq, _] = numbers(napi);
            let (Some(interface), Some(id), Some(irq)) = (interface, id, irq) else { continue };
            let role = match serves.get(&id) {
                Some((Some(rx), Some(_))) => Role::RxTx(*rx),
                Some((Some(rx), None)) => Role::Rx(*rx),
                Some((None, Some(tx))) => Role::Tx(*tx),
                _ => continue,
            };
            roles.insert((interface, irq), role);
        }
        Self(roles)
    }
}

fn ask(host: &Host) -> Result<(Vec<Reply>, Vec<Reply>), Error> {
    let deadline = Deadline::after(PATIENCE);
    let mut socket: Socket = host.nl().open(Protocol::Generic)?;
    let Some(family) = Family::resolve(&mut socket, "netdev", deadline)? else {
        return Ok(Default::default());
    };
    let napis = socket.dump(&family.message(NAPI_GET), deadline)?;
    // Most machines' drivers report none: then nobody needs the queues.
    if napis.iter().all(|napi| numbers(napi)[2].is_none()) {
        return Ok(Default::default());
    }
    let queues = socket.dump(&family.message(QUEUE_GET), deadline)?;
    Ok((napis, queues))
}

/// The attributes 1 to 4 of a message.
fn numbers(reply: &Reply) -> [Option<u32>; 4] {
    let mut found = [None; 4];
    for attribute in attributes(reply.body.get(4..).unwrap_or_default()).flatten() {
        let slot = usize::from(attribute.kind).checked_sub(1).and_then(|at| found.get_mut(at));
        if let Some(slot) = slot {
            *slot = attribute.u32();
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use host::nl::Message;

    use super::*;

    fn reply(values: [Option<u32>; 4]) -> Reply {
        let mut message = Message::new(40, 0).with_header(&[0; 4]);
        for (kind, value) in (1..).zip(values) {
            if let Some(value) = value {
                message = message.with_u32(kind, value);
            }
        }
        Reply::new(40, 0, 0, message.body().to_vec())
    }

    #[test]
    fn a_queue_is_found_by_its_napi() {
        let napis = [
            reply([Some(2), Some(513), Some(70), None]),
            reply([Some(2), Some(514), Some(71), None]),
            // A driver that does not say.
            reply([Some(3), Some(600), None, None]),
            // A NAPI without queues.
            reply([Some(2), Some(515), Some(72), None]),
        ];
        let queue = |id, kind, napi| reply([Some(id), Some(2), Some(kind), Some(napi)]);
        let queues = [
            queue(0, 0, 513),
            queue(1, 0, 514),
            queue(9, 1, 513),
            queue(0, 1, 513),
            reply([Some(0), Some(3), Some(0), None]),
        ];
        let roles = Napis::of(&napis, &queues);
        assert_eq!((roles.role(2, 70), roles.role(2, 71)), (Some(Role::RxTx(0)), Some(Role::Rx(1))));
        assert_eq!((roles.role(2, 72), roles.role(3, 70), roles.0.len()), (None, None, 2));
    }

    #[test]
    fn a_machine_without_netlink_has_none() {
        assert_eq!(Napis::read(&Host::fake()), Napis::default());
    }
}
