#!/bin/busybox sh
# First process of a machine: from the first root file system to the host's, which is shared read-only
# with an overlay on top. What follows is guest.sh.
/bin/busybox mkdir -p /dev /proc /sys /lower /upper /root
/bin/busybox --install -s /bin
export PATH=/bin
mount -t devtmpfs dev /dev
mount -t proc proc /proc
mount -t sysfs sys /sys
while read -r module; do insmod "/modules/$module" || echo "init: no $module"; done </order
mount -t virtiofs -o ro host /lower || poweroff -f
mount -t tmpfs -o size=60% upper /upper
mkdir /upper/top /upper/work
mount -t overlay -o lowerdir=/lower,upperdir=/upper/top,workdir=/upper/work root /root || poweroff -f
for folder in dev proc sys; do mount --move /$folder /root/$folder; done
mount -t tmpfs run /root/run
cp /job /root/run/job
. /job
exec switch_root /root /bin/sh "$HERE/guest.sh"
