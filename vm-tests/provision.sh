#!/bin/sh
# Runs what the Vagrantfile provisions with, in a bare Debian or Ubuntu: all of it but the kernel, which is
# this one, and what the boxes bring along.
#
# usage: vm-tests/provision.sh [SUITE [MIRROR [SCRIPT]]]     as root; what debootstrap takes, or trixie
#
# Ends with 0 when all went well, with 77 and a reason where it cannot be tried here (packaging/bare.sh).
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
here=$root/packaging
# shellcheck source=packaging/bare.sh
. "$here/bare.sh"

commands=$(sed -n 's/.*config\.vm\.provision "shell", inline: "\(.*\)"$/\1/p' "$root/Vagrantfile")
[ -n "$commands" ] || {
    echo "provision.sh: the Vagrantfile has no such line any more" >&2
    exit 1
}
if [ $# -eq 0 ]; then set -- trixie; fi
make_tree "$@"
mkdir "$tree/agentwatch"
cd "$root"
git ls-files -z --cached --others --exclude-standard | tar -c --null -T - | tar -x -C "$tree/agentwatch"
# Where this host's pip finds packages, and whom it trusts: the bundle is made anew of the second folder.
if [ -e /etc/pip.conf ]; then cp /etc/pip.conf "$tree/etc"; fi
mkdir -p "$tree/etc/ssl/certs" "$tree/usr/local/share/ca-certificates"
for copy in etc/ssl/certs/ca-certificates.crt usr/local/share/ca-certificates/host.crt; do
    cp -L /etc/ssl/certs/ca-certificates.crt "$tree/$copy" 2>/dev/null || true
done
in_tree "" sh -c "$commands"
echo "provision.sh: all is well"
