//! Doing it again: at boot, when a driver is loaded anew, when a card gets other queues, when a processor comes back.

/// Writes a systemd unit that runs a command which places interrupts: put it to `/etc/systemd/system/bind-irqs.service` and enable it. The
/// command may run as often as it likes: what is so already is not written.
///
/// ```
/// let unit = irqaff::service("/usr/local/sbin/bind-irqs --cpus 0-5 int1 int2");
/// assert!(unit.contains("ExecStart=/usr/local/sbin/bind-irqs --cpus 0-5 int1 int2\n"));
/// ```
#[must_use]
pub fn service(command: &str) -> String {
    format!(
        "[Unit]\n\
         Description=Interrupts to processors\n\
         After=network-pre.target systemd-udev-settle.service\n\
         # irqbalance would undo it: started first, it is told to leave these interrupts alone.\n\
         After=irqbalance.service\n\
         StartLimitIntervalSec=0\n\
         \n\
         [Service]\n\
         Type=oneshot\n\
         ExecStart={command}\n\
         \n\
         [Install]\n\
         WantedBy=multi-user.target\n"
    )
}

/// Writes udev rules that start a unit again when interrupts may have moved: put them to `/etc/udev/rules.d/90-bind-irqs.rules`. A card that
/// comes, queues that are added (`ethtool -L`), a processor that comes or goes: the kernel says so, and takes bindings along with a processor.
///
/// ```
/// assert!(irqaff::udev_rules("bind-irqs.service").contains("start bind-irqs.service"));
/// ```
#[must_use]
pub fn udev_rules(unit: &str) -> String {
    let run = format!("RUN+=\"/usr/bin/systemctl --no-block start {unit}\"");
    [
        "ACTION==\"add\", SUBSYSTEM==\"net\", DEVPATH!=\"/devices/virtual/*\"",
        "ACTION==\"add\", SUBSYSTEM==\"queues\", KERNEL==\"rx-*\"",
        "ACTION==\"online|offline\", SUBSYSTEM==\"cpu\"",
    ]
    .map(|when| format!("{when}, {run}\n"))
    .concat()
}
