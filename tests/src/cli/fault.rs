//! `lab power` and `lab cable`: what befalls a machine of a running `lab up`.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Subcommand, ValueEnum};
use serde::{Deserialize, Serialize};

use super::attach;
use crate::Machine;
use crate::hub::Impair;
use crate::proto::Kind;

/// What happens to the power of a machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub(super) enum Power {
    /// Take it away at once; what was not flushed to the disks is lost.
    Cut,
    /// Switch the machine on and wait until it answers.
    On,
    /// Flush everything and switch the machine off.
    Off,
    /// Stop the machine's time, as if it hung.
    Freeze,
    /// Let a frozen machine go on.
    Thaw,
}

/// What happens to the cable of a network card.
#[derive(Debug, Clone, Copy, PartialEq, Subcommand, Serialize, Deserialize)]
pub(super) enum Cable {
    /// Drop every frame; the machine sees no loss of carrier.
    Cut,
    /// End a cut.
    Restore,
    /// Pull the plug; the machine sees the carrier go.
    Unplug,
    /// Put the plug back.
    Plug,
    /// Disturb the frames in both directions; without options, no longer.
    Impair {
        /// Milliseconds added to the way of each frame.
        #[arg(long, default_value_t = 0.0)]
        delay_ms: f64,
        /// Share of frames lost, 0.0 to 1.0.
        #[arg(long, default_value_t = 0.0)]
        loss: f64,
        /// Bytes per second in each direction.
        #[arg(long)]
        rate: Option<u64>,
    },
    /// Print how many frames went over it.
    Count,
}

/// An order to `lab up`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub(super) enum Order {
    Power(Power),
    Cable(usize, Cable),
}

/// Sends an order and waits until it is carried out.
pub(super) fn send(node: &str, lab: Option<&str>, order: Order) -> Result<ExitCode> {
    attach::ask(node, lab, Kind::Order, serde_json::to_vec(&order)?)
}

/// Carries out an order; what it has to say.
pub(super) fn obey(machine: &Machine, order: &[u8]) -> Result<String> {
    let cable = match serde_json::from_slice(order).context("the client is of another version")? {
        Order::Power(power) => {
            match power {
                Power::Cut => machine.power_cut(),
                Power::On => machine.boot()?,
                Power::Off => machine.shutdown()?,
                Power::Freeze => machine.freeze()?,
                Power::Thaw => machine.thaw()?,
            }
            return Ok(String::new());
        }
        Order::Cable(index, cable) => (machine.cable(index)?, cable),
    };
    match cable {
        (port, Cable::Cut) => port.cut(),
        (port, Cable::Restore) => port.restore(),
        (port, Cable::Unplug) => port.unplug()?,
        (port, Cable::Plug) => port.plug()?,
        (port, Cable::Impair { delay_ms, loss, rate }) => {
            anyhow::ensure!((0.0..=1.0).contains(&loss), "loss {loss} is not between 0.0 and 1.0");
            anyhow::ensure!(rate != Some(0), "a rate of 0 is a cut: use `cut`");
            let delay = Duration::try_from_secs_f64(delay_ms / 1000.0).context("delay")?;
            port.impair(Impair { delay, loss, rate });
        }
        (port, Cable::Count) => {
            let count = port.counters();
            let (mac, segment) = (port.mac(), port.segment());
            let (received, sent, dropped) = (count.received, count.sent, count.dropped);
            return Ok(format!(
                "{mac} on {segment}: {received} from the machine, {sent} to it, {dropped} dropped\n"
            ));
        }
    }
    Ok(String::new())
}
