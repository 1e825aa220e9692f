//! `lab up`: boots a topology and serves `lab shell`, `lab exec`, `lab power` and `lab cable`.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};

use super::fault;
use super::topology::Topology;
use crate::client::Event;
use crate::proto::{Encoder, Frame, Kind};
use crate::{Cmd, Lab, Machine};

/// The name of the control socket in the sockets directory.
pub(super) const CONTROL: &str = "control";

/// Boots the machines of a file and serves until a signal ends the process.
pub(super) fn run(file: &Path) -> Result<ExitCode> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
    let topology = Topology::parse(&text).with_context(|| format!("in {}", file.display()))?;
    let lab = Lab::new(&topology.name)?;
    let control = lab.sockets().join(CONTROL);
    let listener = UnixListener::bind(&control).context("cannot make the control socket")?;
    let (machines, scripts): (Vec<Machine>, Vec<Vec<String>>) = topology.build(&lab)?.into_iter().unzip();
    let start = Instant::now();
    lab.boot_all(&machines)?;
    for (machine, scripts) in machines.iter().zip(&scripts) {
        for script in scripts {
            machine.run_ok(Cmd::sh(script))?;
        }
    }
    println!(
        "{} is up after {:.1} s in {}",
        topology.name,
        start.elapsed().as_secs_f64(),
        lab.path().display()
    );
    for machine in &machines {
        println!("  lab shell {}    (serial log {})", machine.name(), machine.serial_log().display());
    }
    println!("Ctrl-C ends it.");
    for stream in listener.incoming() {
        let (stream, machines) = (stream.context("control socket")?, lab.machines());
        thread::spawn(move || {
            if let Err(error) = serve(&stream, &machines) {
                let _ = Frame::new(0, Kind::Error, format!("{error:#}")).write(&mut &stream);
            }
        });
    }
    Ok(ExitCode::SUCCESS)
}

/// Relays one conversation between a control client and an agent.
fn serve(stream: &UnixStream, machines: &[Machine]) -> Result<()> {
    let first = Frame::read(&mut &*stream)?.context("the client said nothing")?;
    let name = String::from_utf8_lossy(&first.body).into_owned();
    let machine = machines.iter().find(|m| m.name() == name).with_context(|| {
        let names: Vec<&str> = machines.iter().map(Machine::name).collect();
        format!("no machine {name:?}, there are {}", names.join(", "))
    })?;
    if first.kind != Kind::Node {
        bail!("the client did not say which machine");
    }
    let request = Frame::read(&mut &*stream)?.context("the client asked for nothing")?;
    if request.kind == Kind::Order {
        let text = fault::obey(machine, &request.body)?;
        Frame::new(0, Kind::Stdout, text).write(&mut &*stream)?;
        let success = Encoder::default().number(0).number(0).done();
        return Ok(Frame::new(0, Kind::Exit, success).write(&mut &*stream)?);
    }
    let channel = machine.client()?.open()?;
    let (send, mut input) = (channel.sender(), stream.try_clone()?);
    send(request.kind, request.body)?;
    thread::spawn(move || {
        while let Ok(Some(frame)) = Frame::read(&mut input) {
            if send(frame.kind, frame.body).is_err() {
                return;
            }
        }
        // The client is gone: what runs for it learns that its terminal has hung up.
        let _ = send(Kind::Signal, Encoder::default().number(1).done());
    });
    loop {
        // A shell may be silent for hours; the end of the machine is seen as a disconnected channel.
        let Event { kind, body } = match channel.receive(Duration::from_secs(3600)) {
            Ok(event) => event,
            Err(std::sync::mpsc::RecvTimeoutError::Timeout) => continue,
            Err(e) => return Err(anyhow!("{name} went down: {e}")),
        };
        if Frame::new(0, kind, body).write(&mut &*stream).is_err() || matches!(kind, Kind::Exit | Kind::Error)
        {
            let _ = stream.shutdown(std::net::Shutdown::Both);
            return Ok(());
        }
    }
}
