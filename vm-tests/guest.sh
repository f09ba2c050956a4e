#!/bin/sh
# Second stage in a machine: mounts what a booted system has, runs the job, powers off.
# Standard output of the job is the second serial port, where vmtests.machine listens.
. /run/job
export HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb LC_ALL=C.UTF-8
# Tests want a folder of one file system: st_dev on the overlay is not the device that the kernel tells.
case $ROOT in
/tmp/*)
    mkdir /run/tmp
    export TMPDIR=/run/tmp
    ;;
*) mount -t tmpfs tmp /tmp ;;
esac
mkdir -p /dev/pts /dev/shm
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
ln -sf /proc/self/fd /dev/fd
mkdir -p /lib/modules
ln -sfn "$MODULES" "/lib/modules/$(uname -r)"
mkdir -p -m 700 /var/cache/agentwatch/probes
cp "$PROBES"/*.probes /var/cache/agentwatch/probes/
if [ -n "$HEADERS" ]; then
    ln -s "$HEADERS"/usr/src/linux-headers-* /usr/src/
    cp -a "$HEADERS/lib/modules/$(uname -r)/build" "$MODULES/build"
fi
mount -t securityfs security /sys/kernel/security
mount -t tracefs tracing /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
if [ "$CGROUP" = hybrid ]; then
    mount -t tmpfs cgroups /sys/fs/cgroup
    for controller in memory cpu pids; do
        mkdir "/sys/fs/cgroup/$controller"
        mount -t cgroup -o "$controller" cgroup "/sys/fs/cgroup/$controller"
    done
    mkdir /sys/fs/cgroup/unified
    mount -t cgroup2 cgroup2 /sys/fs/cgroup/unified
else
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
fi
ip link set lo up
cd "$ROOT" || exit
export PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PYTHONPATH="$ROOT:$HERE"
stty -F /dev/ttyS1 raw -echo
setsid .venv/bin/python -m vmtests.inside $JOB </dev/null >/dev/ttyS1
echo o >/proc/sysrq-trigger
sleep 60
