#!/bin/sh
# Installs a built package on a bare Debian and has it do its work there, then removes it.
#
# usage: packaging/check.sh DEB [SUITE]     as root; SUITE is trixie where it is not given
#
# Ends with 0 when all went well, with 77 and a reason where it cannot be tried here (bare.sh).
set -eu
unset AGENTWATCH_SOCKET # the caller's: the daemon in the tree is at its own place

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
inside=usr/local/check

# --- Outside: a tree, and what is to be tried in it ---------------------------------------------

prepare() {
    make_tree "$suite"
    mkdir "$tree/$inside"
    cp "$deb" "$tree/$inside/agentwatch.deb"
    cp "$here/check.sh" "$here/exercise.py" "$tree/$inside"
}

# within STAGE [unshare's options]: run a stage with the tree as root, its cgroup as that of cgroup v2.
within() {
    in_tree "${2:-}" sh "/$inside/check.sh" --stage "$1"
}

# --- Inside, stage by stage -------------------------------------------------------------------------

export DEBIAN_FRONTEND=noninteractive

listing() {
    find / -xdev \( -path "/$inside" -o -path /var/lib/dpkg -o -path /var/lib/apt -o -path /var/cache \
        -o -path /var/log -o -path /etc/ld.so.cache -o -name .updated -o -name '__pycache__' -o -name '*-' \) -prune \
        -o -print | sort
    find /var/cache/agentwatch /var/log/agentwatch 2>/dev/null || true
    getent group agentwatch || true
}

stage_install() {
    apt-get -q update
    # What it depends on first, so that the listings differ by agentwatch alone.
    # shellcheck disable=SC2046  # a list of package names
    apt-get -q -y install --no-install-recommends systemd bash passwd crun \
        $(dpkg-deb -f "/$inside/agentwatch.deb" Depends | tr ',' '\n' | sed 's/|.*//; s/(.*//')
    listing >"/$inside/before"
    dpkg -i "/$inside/agentwatch.deb"
    getent group agentwatch
    agentwatch --version
    systemd-analyze verify --man=no /usr/lib/systemd/system/agentwatch.service
    bash -c '. /usr/share/bash-completion/completions/agentwatch && complete -p agentwatch'
    # Without a service manager, but with no more capabilities than the unit gives.
    agentwatch doctor
}

# The daemon under the unit's capabilities, started again whenever it ends, in the host's PID namespace.
stage_capabilities() {
    unit=/usr/lib/systemd/system/agentwatch.service
    bounding=$(sed -n 's/^CapabilityBoundingSet=//p' "$unit" | tr A-Z a-z | sed 's/cap_/+/g; s/ /,/g')
    rm -rf /var/cache/agentwatch
    while [ ! -e /run/stop ]; do
        setpriv --no-new-privs --bounding-set "-all,$bounding" agentwatch daemon || true
    done &
    python3 -c 'import time, pathlib
while not pathlib.Path("/run/agentwatch/control.sock").exists(): time.sleep(0.1)'
    code=0
    /usr/lib/agentwatch/bin/python3 -I "/$inside/exercise.py" || code=1
    touch /run/stop
    kill "$(agentwatch status | sed -n 's/.*process \([0-9]*\),.*/\1/p')"
    wait
    return $code
}

# systemd as process 1 of a PID namespace, and the unit as it was shipped.
stage_systemd() {
    cat >/run/check.service <<EOF
[Unit]
DefaultDependencies=no
SuccessAction=exit-force
FailureAction=exit-force
[Service]
Type=oneshot
ExecStart=/bin/sh /$inside/check.sh --stage unit
StandardOutput=file:/$inside/said
StandardError=file:/$inside/said
EOF
    mount -t proc proc /proc
    mkdir -p /run/systemd/system
    mv /run/check.service /run/systemd/system
    export container=other
    exec /lib/systemd/systemd --system --unit=check.service --log-target=null --show-status=0
}

stage_unit() {
    [ "$(systemctl is-enabled agentwatch)" = disabled ]
    systemctl start agentwatch
    systemctl --no-pager status agentwatch
    /usr/lib/agentwatch/bin/python3 -I "/$inside/exercise.py"
    # An upgrade: the same package once more. What runs is started anew.
    before=$(systemctl show -P MainPID agentwatch)
    dpkg -i "/$inside/agentwatch.deb"
    [ "$(systemctl show -P MainPID agentwatch)" != "$before" ]
    systemctl is-active agentwatch
    systemctl enable agentwatch
    dpkg -r agentwatch
    ! systemctl is-active agentwatch
    [ -e /etc/agentwatch/agentwatch.toml ]
    dpkg -P agentwatch
    echo "removed and purged"
}

stage_purged() {
    listing >"/$inside/after"
    diff "/$inside/before" "/$inside/after"
}

case $1 in
--stage) "stage_$2" ;;
*)
    # shellcheck source=packaging/bare.sh
    . "$here/bare.sh"
    deb=$1 suite=${2:-trixie}
    prepare
    within install
    within capabilities
    code=0
    within systemd "--pid --fork" || code=$?
    cat "$tree/$inside/said"
    [ "$code" -eq 0 ]
    within purged
    echo "check: all is well"
    ;;
esac
