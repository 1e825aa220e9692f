#!/bin/sh
# First process of every guest. In the tiny mode it stays here, in the root mode it switches to the root disk.
export PATH=/bin:/sbin:/usr/bin:/usr/sbin HOME=/root LC_ALL=C
umask 022
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev 2>/dev/null
exec </dev/console >/dev/console 2>&1
mkdir -p /dev/pts /dev/shm
# What systemd makes at boot, and shell scripts with <(...) need.
ln -sfn /proc/self/fd /dev/fd
for n in 0:stdin 1:stdout 2:stderr; do ln -sfn "/proc/self/fd/${n%:*}" "/dev/${n#*:}"; done
mount -t devpts -o gid=5,mode=620,ptmxmode=666 devpts /dev/pts
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=1777 tmpfs /tmp

mode=tiny host=lab
read -r line </proc/cmdline
for word in $line; do
    case $word in
    lab.mode=*) mode=${word#*=} ;;
    lab.host=*) host=${word#*=} ;;
    esac
done
echo "$host" >/proc/sys/kernel/hostname

# First what sits on PCI (virtio_pci brings the virtio bus), then what sits on the virtio bus. Sorted, so that
# network interfaces get their numbers in the order of the command line.
pass() {
    set -- $(cat $1 2>/dev/null)
    [ $# -eq 0 ] || modprobe -a -b -q "$@" 2>/dev/null
}
pass '/sys/bus/pci/devices/*/modalias'
pass '/sys/bus/virtio/devices/*/modalias'

if [ "$mode" = probe ]; then
    echo lab-probe-ok
    echo o >/proc/sysrq-trigger
    sleep 60
fi

# The host's directory. A machine without it works, so a failure is only said.
modprobe -a -q 9pnet_virtio 9p
mkdir -p /lab/host
mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000,ro lab /lab/host || echo "init: no directory of the host"

if [ "$mode" = root ]; then
    modprobe -q ext4
    root= modules=
    for block in /sys/block/vd*; do
        read -r serial <"$block/serial"
        case $serial in
        lab-root) root=/dev/${block##*/} ;;
        lab-modules) modules=/dev/${block##*/} ;;
        esac
    done
    mkdir -p /new
    mount -t ext4 -o rw,noatime "$root" /new || { echo "init: cannot mount the root disk"; poweroff -f; }
    mount -t ext4 -o ro,noatime "$modules" /new/usr/lib/modules || echo "init: no modules disk"
    mount --move /lab/host /new/lab 2>/dev/null
    mkdir -p /run/lab
    cp /lab/agent /lab/root.sh /run/lab/
    mount --move /run /new/run
    mount --move /tmp /new/tmp
    mount --move /dev /new/dev
    mount --move /sys /new/sys
    mount --move /proc /new/proc
    exec switch_root /new /run/lab/root.sh
fi

mkdir -p /run/lab /run/lock /run/drbd /var/lib/drbd /var/lock /etc/target/pr /var/target/pr
cp /lab/agent /run/lab/agent
# What programs look for is /lab/bin, in both modes.
ln -s host/bin /lab/bin
ln -s host/lib /lab/lib
mount -t configfs configfs /sys/kernel/config 2>/dev/null
ip link set lo up
# There is no udev here: the names that it would make for disks.
mkdir -p /dev/disk/by-id
for block in /sys/block/vd*; do
    # The kernel ends the serial number without a newline, for which read answers "end of file".
    read -r serial <"$block/serial"
    [ -z "$serial" ] || ln -s "../../${block##*/}" "/dev/disk/by-id/virtio-$serial"
done 2>/dev/null
# Libraries of the tested program come from the host; the initramfs's own come first.
export LD_LIBRARY_PATH=/lib/x86_64-linux-gnu:/lab/lib
exec /run/lab/agent init
