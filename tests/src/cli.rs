//! The commands of the `lab` program.

mod attach;
mod fault;
mod images;
mod test;
mod topology;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};

use crate::image::Kernel;
use crate::machine::Mode;

/// Virtual machines with real kernels for the tests of sankit.
#[derive(Debug, Parser)]
#[command(name = "lab", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make all guest images, and say how long each took.
    Images,
    /// Print the Debian packages the lab needs, one per line.
    Deps {
        /// Install those that are missing, with apt-get.
        #[arg(long)]
        install: bool,
    },
    /// Boot the machines of a TOML file and keep them until Ctrl-C.
    Up {
        /// The machines, segments and disks.
        file: PathBuf,
    },
    /// Open a terminal in a machine of a running `lab up`.
    Shell {
        /// The machine.
        node: String,
        /// Which lab, if several are up (the name or the beginning of its directory).
        #[arg(long)]
        lab: Option<String>,
    },
    /// Run a command in a machine of a running `lab up`.
    Exec {
        /// The machine.
        node: String,
        /// Which lab, if several are up (the name or the beginning of its directory).
        #[arg(long)]
        lab: Option<String>,
        /// Program and arguments, after `--`.
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Cut the power of a machine of a running `lab up`, switch it on or off, let it hang.
    Power {
        /// The machine.
        node: String,
        /// What happens to it.
        #[arg(value_enum)]
        action: fault::Power,
        /// Which lab, if several are up (the name or the beginning of its directory).
        #[arg(long)]
        lab: Option<String>,
    },
    /// Cut, unplug or disturb a cable of a machine of a running `lab up`.
    Cable {
        /// The machine.
        node: String,
        /// Its network card, counted from 0: that of eth0 is 0.
        nic: usize,
        /// What happens to the cable.
        #[command(subcommand)]
        action: fault::Cable,
        /// Which lab, if several are up (the name or the beginning of its directory).
        #[arg(long)]
        lab: Option<String>,
    },
    /// Build the kernel tests of a crate (`tests/kernel_*.rs`) and run them in a virtual machine.
    Test(TestArguments),
}

/// What `lab test` is asked to do.
#[derive(Debug, clap::Args)]
struct TestArguments {
    /// The crate, without `sankit-`.
    package: String,
    /// The kernel to run on: 6.1 or 6.12.
    #[arg(long, default_value = "6.1")]
    kernel: Kernel,
    /// What to boot into.
    #[arg(long, value_enum, default_value = "tiny")]
    mode: ModeName,
    /// Run only tests whose name contains this.
    #[arg(long)]
    filter: Option<String>,
    /// Features of the crate, separated by commas; all by default.
    #[arg(long)]
    features: Option<String>,
    /// Run this program instead of building anything. May be given several times.
    #[arg(long)]
    program: Vec<PathBuf>,
    /// Seconds a test program may take.
    #[arg(long, default_value_t = 600)]
    deadline: u64,
    /// Arguments for the test programs, after `--`.
    #[arg(last = true)]
    arguments: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ModeName {
    Tiny,
    Root,
}

impl From<ModeName> for Mode {
    fn from(name: ModeName) -> Self {
        match name {
            ModeName::Tiny => Self::Tiny,
            ModeName::Root => Self::Root,
        }
    }
}

/// Runs the `lab` program.
///
/// # Errors
/// Whatever went wrong, for the caller to print.
pub fn main() -> Result<ExitCode> {
    match Arguments::parse().command {
        Command::Images => images::make(),
        Command::Deps { install: false } => {
            for dependency in crate::deps::DEPENDENCIES {
                println!("{}", dependency.package);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Deps { install: true } => crate::deps::install().map(|()| ExitCode::SUCCESS),
        Command::Up { file } => up::run(&file),
        Command::Shell { node, lab } => attach::shell(&node, lab.as_deref()),
        Command::Exec { node, lab, command } => attach::exec(&node, lab.as_deref(), command),
        Command::Power { node, action, lab } => {
            fault::send(&node, lab.as_deref(), fault::Order::Power(action))
        }
        Command::Cable { node, nic, action, lab } => {
            fault::send(&node, lab.as_deref(), fault::Order::Cable(nic, action))
        }
        Command::Test(arguments) => test::run(&arguments),
    }
}
