//! Virtual machines.

mod builder;
mod qemu;

pub use builder::{MachineBuilder, Mode, Nic};

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::client::{Client, WENT_DOWN};
use crate::command::{Cmd, Output, Running};
use crate::guard::{Proc, locked};
use crate::hub::{Cable, Carrier};
use crate::proto::{CHUNK, Encoder, Kind};
use crate::qmp::Qmp;

/// A machine of the lab, on or off. Cloning gives another handle to the same machine.
#[derive(Debug, Clone)]
pub struct Machine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    spec: MachineBuilder,
    cables: Vec<Cable>,
    up: Mutex<Option<Up>>,
}

/// What exists while the machine is on.
#[derive(Debug)]
struct Up {
    qemu: Proc,
    client: Client,
    monitor: Arc<Mutex<Qmp>>,
    ports: HashMap<String, UnixStream>,
}

impl Carrier for Inner {
    fn set_link(&self, index: usize, up: bool) -> Result<()> {
        self.monitor("set_link", json!({ "name": format!("nic{index}"), "up": up })).map(drop)
    }
}

impl Inner {
    fn monitor(&self, command: &str, arguments: Value) -> Result<Value> {
        let monitor = match &*locked(&self.up) {
            Some(up) => Arc::clone(&up.monitor),
            None => bail!("{} is off", self.spec.name),
        };
        let answer = locked(&monitor).execute(command, arguments);
        answer.with_context(|| format!("monitor of {}", self.spec.name))
    }

    fn client(&self) -> Result<Client> {
        match &*locked(&self.up) {
            Some(up) => Ok(up.client.clone()),
            None => bail!("{} is off", self.spec.name),
        }
    }
}

impl Machine {
    fn new(spec: MachineBuilder, cables: Vec<Cable>) -> Result<Self> {
        let machine = Self(Arc::new(Inner { spec, cables, up: Mutex::new(None) }));
        for (index, cable) in machine.0.cables.iter().enumerate() {
            let weak: Weak<Inner> = Arc::downgrade(&machine.0);
            cable.set_owner(weak, index);
        }
        machine.0.spec.context.register(&machine)?;
        Ok(machine)
    }

    /// Its name, which is the guest's host name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.spec.name
    }

    /// The cable of a network card, counted from 0 in the order of the builder.
    ///
    /// # Errors
    /// If there is no such card.
    pub fn cable(&self, index: usize) -> Result<Cable> {
        builder::nth(&self.0.cables, index, self.name())
    }

    /// Switches the machine on and waits until its agent answers. Disks and cables are those of before.
    ///
    /// # Errors
    /// If it is on already, or does not come up in time; the text has the end of the serial log.
    pub fn boot(&self) -> Result<()> {
        let mut slot = locked(&self.0.up);
        if let Some(mut up) = slot.take() {
            if up.qemu.poll().is_none() {
                *slot = Some(up);
                bail!("{} is on already", self.name());
            }
            // It has ended by itself, which is no power cut for its disks.
            drop(up);
            self.0.spec.disks.iter().for_each(crate::Disk::power_off);
        }
        let mut outcome = self.start();
        // The emulator of QEMU 7.2 has crashed by itself (general protection fault) in one boot of some hundred.
        if outcome.as_ref().is_err_and(|error| error.to_string() == WENT_DOWN) {
            eprintln!("lab: QEMU ended while {} booted; it is started once more", self.name());
            self.0.spec.disks.iter().for_each(crate::Disk::power_off);
            outcome = self.start();
        }
        match outcome {
            Ok(up) => {
                *slot = Some(up);
                Ok(())
            }
            Err(error) => {
                self.0.spec.context.fail();
                self.0.spec.disks.iter().for_each(crate::Disk::power_cut);
                let log = self.0.spec.context.path().join(format!("{}.qemu", self.name()));
                let log = fs::read_to_string(log).unwrap_or_default();
                let serial = self.serial_tail(40);
                bail!("{} does not boot: {error:#}\n--- QEMU\n{log}--- serial log\n{serial}", self.name())
            }
        }
    }

    fn start(&self) -> Result<Up> {
        let spec = &self.0.spec;
        let context = &spec.context;
        let boot = context.boot_files(spec.kernel)?;
        let accel = context.accel(&boot)?;
        let socket = |what: &str| context.sockets().join(format!("{}.{what}", self.name()));
        let ports = spec.ports.iter().enumerate();
        let sockets = qemu::Sockets {
            monitor: socket("q"),
            agent: socket("a"),
            ports: ports.map(|(i, name)| (name.clone(), socket(&format!("v{i}")))).collect(),
        };
        let monitor = listen(&sockets.monitor)?;
        let agent = listen(&sockets.agent)?;
        let listeners: Result<Vec<_>> =
            sockets.ports.iter().map(|(n, p)| Ok((n.clone(), listen(p)?))).collect();
        let mut drives = Vec::new();
        for (number, disk) in spec.disks.iter().enumerate() {
            drives.push(disk.power_on(&format!("disk{number}"))?);
        }
        let command = qemu::command(spec, accel, &boot, &sockets, &self.0.cables, &drives)?;
        let deadline = Instant::now() + spec.deadline;
        let mut qemu = Proc::spawn(self.name(), command)?;
        let client = Client::new(self.name(), accept(&agent, &mut qemu, deadline)?)?;
        let monitor = Qmp::new(accept(&monitor, &mut qemu, deadline)?)?;
        let mut streams = HashMap::new();
        for (name, listener) in listeners? {
            streams.insert(name, accept(&listener, &mut qemu, deadline)?);
        }
        while !client.ready(Duration::from_millis(100))? {
            if let Some(status) = qemu.poll() {
                bail!("QEMU ended: {status}");
            }
            if Instant::now() > deadline {
                bail!("the agent did not answer in {} s", spec.deadline.as_secs());
            }
        }
        Ok(Up { qemu, client, monitor: Arc::new(Mutex::new(monitor)), ports: streams })
    }

    /// Whether QEMU runs.
    #[must_use]
    pub fn is_on(&self) -> bool {
        locked(&self.0.up).as_mut().is_some_and(|up| up.qemu.poll().is_none())
    }

    /// Takes the power away: QEMU and the write caches of its disks end at the same moment. Nothing is said
    /// to anybody: no FIN, no flush.
    pub fn power_cut(&self) {
        let Some(mut up) = locked(&self.0.up).take() else { return };
        // Stopped first, so that the guest never sees its disks fail before it dies.
        let _ = up.qemu.signal(Signal::SIGSTOP);
        self.0.spec.disks.iter().for_each(crate::Disk::power_cut);
        up.qemu.kill();
    }

    /// Flushes everything in the guest and switches it off.
    ///
    /// # Errors
    /// If it does not go off in 60 s; it is off then all the same.
    pub fn shutdown(&self) -> Result<()> {
        self.0.client()?.open()?.send(Kind::PowerOff, [])?;
        self.wait_off(Duration::from_secs(60))
    }

    /// Waits until the guest has switched itself off, rebooted or panicked, and clears up. A reboot switches
    /// off: [`Machine::boot`] switches on again.
    ///
    /// # Errors
    /// If the deadline passes; the machine is switched off then.
    pub fn wait_off(&self, deadline: Duration) -> Result<()> {
        let end = Instant::now() + deadline;
        while self.is_on() {
            if Instant::now() > end {
                self.power_cut();
                self.0.spec.context.fail();
                bail!("{} was not off after {} s", self.name(), deadline.as_secs());
            }
            thread::sleep(Duration::from_millis(10));
        }
        drop(locked(&self.0.up).take());
        self.0.spec.disks.iter().for_each(crate::Disk::power_off);
        Ok(())
    }

    /// Stops the guest's time, as a hung machine would; its peers hear nothing.
    ///
    /// # Errors
    /// If it is off.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    /// Lets a frozen guest go on, as if no time had passed for it.
    ///
    /// # Errors
    /// If it is off.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        match &*locked(&self.0.up) {
            Some(up) => up.qemu.signal(signal),
            None => bail!("{} is off", self.name()),
        }
    }

    /// The process id of QEMU on the host; None if it is off.
    #[must_use]
    pub fn qemu_pid(&self) -> Option<i32> {
        locked(&self.0.up).as_ref().map(|up| up.qemu.id())
    }

    /// Runs a command of QEMU's monitor (QMP) and returns its answer.
    ///
    /// # Errors
    /// If the machine is off or QEMU refuses.
    pub fn qmp(&self, command: &str, arguments: Value) -> Result<Value> {
        self.0.monitor(command, arguments)
    }

    /// Starts a command in the guest.
    ///
    /// # Errors
    /// If the machine is off. That the program does not exist is seen by the first use of the result.
    pub fn spawn(&self, command: impl Into<Cmd>) -> Result<Running> {
        Running::start(self.0.client()?.open()?, &command.into())
    }

    /// Runs a command in the guest to its end, whatever its exit code.
    ///
    /// # Errors
    /// If it cannot be started, passes its deadline (120 s by default), or the machine goes down.
    pub fn run(&self, command: impl Into<Cmd>) -> Result<Output> {
        self.spawn(command)?.wait()
    }

    /// Runs a command in the guest; anything but exit code 0 is an error.
    ///
    /// # Errors
    /// As [`Machine::run`], and for another exit code: shows the command and all it said.
    pub fn run_ok(&self, command: impl Into<Cmd>) -> Result<Output> {
        let command = command.into();
        let what = command.to_string();
        let result = self.run(command);
        if !result.as_ref().is_ok_and(Output::success) {
            self.0.spec.context.fail();
        }
        let output = result?;
        if output.success() {
            return Ok(output);
        }
        let Output { code, stdout, stderr, .. } = output;
        bail!("{}: `{what}` ended with {code}\n--- stdout\n{stdout}\n--- stderr\n{stderr}", self.name())
    }

    /// Runs a script with `/bin/sh -e` and returns its standard output.
    ///
    /// # Errors
    /// As [`Machine::run_ok`].
    pub fn sh(&self, script: &str) -> Result<String> {
        Ok(self.run_ok(Cmd::sh(script))?.stdout)
    }

    /// Measures a round trip to the agent.
    ///
    /// # Errors
    /// If there is no answer in 10 s.
    pub fn ping(&self) -> Result<Duration> {
        let start = Instant::now();
        let channel = self.0.client()?.open()?;
        channel.send(Kind::Ping, [])?;
        let answer = channel.receive(Duration::from_secs(10));
        answer.map_err(|e| anyhow!("{}: no answer of the agent: {e}", self.name()))?;
        Ok(start.elapsed())
    }

    /// Writes a file in the guest, with the directories above it. `mode` is such as `0o644`.
    ///
    /// # Errors
    /// If the guest cannot write it.
    pub fn push(&self, path: &str, content: impl AsRef<[u8]>, mode: u32) -> Result<()> {
        let channel = self.0.client()?.open()?;
        channel.send(Kind::Write, Encoder::default().text(path).number(mode).done())?;
        for part in content.as_ref().chunks(CHUNK) {
            channel.send(Kind::Stdin, part)?;
        }
        channel.send(Kind::StdinEnd, [])?;
        self.collect(&channel, &format!("write of {path}")).map(drop)
    }

    /// Reads a file of the guest.
    ///
    /// # Errors
    /// If the guest cannot read it.
    pub fn pull(&self, path: &str) -> Result<Vec<u8>> {
        let channel = self.0.client()?.open()?;
        channel.send(Kind::Read, Encoder::default().text(path).done())?;
        self.collect(&channel, &format!("read of {path}"))
    }

    fn collect(&self, channel: &crate::client::Channel, what: &str) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        loop {
            let event = channel.receive(crate::command::DEADLINE);
            let event = event.map_err(|e| anyhow!("{}: {what}: {e}", self.name()))?;
            match event.kind {
                Kind::Exit => return Ok(content),
                Kind::Stdout => content.extend(event.body),
                _ => bail!("{}: {what}: {}", self.name(), String::from_utf8_lossy(&event.body)),
            }
        }
    }

    /// Takes the host's end of a data port that the builder declared. What the guest writes to
    /// `/dev/virtio-ports/NAME` is here when its write returns; a power cut is seen as the end of the stream.
    /// Every boot makes a new one.
    ///
    /// # Errors
    /// If the machine is off, the port was not declared, or it was taken since the last boot.
    pub fn port(&self, name: &str) -> Result<DataPort> {
        match &mut *locked(&self.0.up) {
            Some(up) => {
                let stream = up.ports.remove(name);
                let stream = stream.with_context(|| format!("{}: no (more) port {name}", self.name()))?;
                Ok(DataPort(stream))
            }
            None => bail!("{} is off", self.name()),
        }
    }

    /// The file with everything the guest wrote to its serial console since the last boot.
    #[must_use]
    pub fn serial_log(&self) -> PathBuf {
        self.0.spec.context.serial(self.name())
    }

    /// The last lines of the serial log.
    #[must_use]
    pub fn serial_tail(&self, lines: usize) -> String {
        let text = fs::read(self.serial_log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all.get(all.len().saturating_sub(lines)..).unwrap_or_default().join("\n")
    }

    /// Opens a channel for `lab shell` and `lab exec`.
    pub(crate) fn client(&self) -> Result<Client> {
        self.0.client()
    }
}

/// The host's end of a data port. Reading blocks until the guest writes; dropping it closes it.
#[derive(Debug)]
pub struct DataPort(UnixStream);

impl DataPort {
    /// Sets how long a read may wait; None is for ever. A read that waits longer fails with `WouldBlock`.
    ///
    /// # Errors
    /// If the duration is zero.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.0.set_read_timeout(timeout)
    }
}

impl Read for DataPort {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for DataPort {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn listen(path: &Path) -> Result<UnixListener> {
    let _ = fs::remove_file(path);
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen at {}", path.display()))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Waits until QEMU has connected.
fn accept(listener: &UnixListener, qemu: &mut Proc, deadline: Instant) -> Result<UnixStream> {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false)?;
                return Ok(stream);
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e).context("cannot accept QEMU's connection"),
        }
        if let Some(status) = qemu.poll() {
            bail!("QEMU ended: {status}");
        }
        if Instant::now() > deadline {
            bail!("QEMU does not connect");
        }
        thread::sleep(Duration::from_millis(2));
    }
}
