#!/bin/sh
# First process on the root file system: the few services that the tools need, then the agent. No init system.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8
umask 022
exec </dev/console >/dev/console 2>&1
mkdir -p /run/lock/iscsi /run/lock/lvm /run/drbd /run/dbus /run/sendsigs.omit.d /run/resource-agents /run/udev
mkdir -p /etc/target/pr /var/target/pr /var/lib/drbd /run/crm
chown hacluster:haclient /run/crm 2>/dev/null && chmod 750 /run/crm
mount -t cgroup2 cgroup2 /sys/fs/cgroup 2>/dev/null
read -r host </proc/sys/kernel/hostname
echo "$host" >/etc/hostname
echo "127.0.1.1 $host" >>/etc/hosts
# udev makes a bond's or bridge's hardware address of it (MACAddressPolicy=persistent): two machines must not have the same.
printf '%s' "$host" | md5sum | cut -c 1-32 >/etc/machine-id
ip link set lo up
modprobe -a -q configfs
mount -t configfs configfs /sys/kernel/config 2>/dev/null

# `lab.systemd`: what a boot of Debian does with units. /lab/bin/HOST.boot, if it is there, lays the machine out before.
case " $(cat /proc/cmdline) " in *" lab.systemd "*)
    [ ! -x "/lab/bin/$host.boot" ] || "/lab/bin/$host.boot" || echo "root: $host.boot failed"
    mkdir -p /run/systemd/system/lab.target.wants
    cat >/run/systemd/system/lab-agent.service <<END
[Unit]
DefaultDependencies=no
[Service]
Environment=HOME=/root TERM=linux
ExecStart=/run/lab/agent
KillMode=process
END
    cat >/run/systemd/system/lab.target <<END
[Unit]
Requires=basic.target lab-agent.service
After=basic.target
AllowIsolate=yes
END
    exec /lib/systemd/systemd --unit=lab.target
    ;;
esac

/lib/systemd/systemd-udevd --daemon --resolve-names=never
# Only what tests use: a cold plug of every device of the machine costs seconds under emulation.
udevadm trigger --action=add --subsystem-match=block --subsystem-match=net --subsystem-match=virtio-ports \
    --subsystem-match=scsi_device --subsystem-match=scsi_host --subsystem-match=misc --subsystem-match=nvme
udevadm settle --timeout=60
dbus-uuidgen --ensure 2>/dev/null
dbus-daemon --system --fork 2>/dev/null || echo "root: no dbus"
export HOME=/root TERM=linux
exec /run/lab/agent init
