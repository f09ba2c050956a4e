# A bare Debian or Ubuntu in a temporary folder, and commands in it as if it were the whole system, on this
# kernel. For scripts that `set -eu`, set `here` to this folder and source it:
#
#   make_tree SUITE [MIRROR [SCRIPT]]    sets `tree`; what debootstrap takes. It is removed at the exit
#   in_tree "OPTION..." COMMAND...       options of unshare, for more namespaces; a command with a path
#
# What is made is in one temporary folder and one cgroup, in namespaces of their own: mount points vanish
# with them.

# Ends the script: with 77, and a reason.
skip() {
    echo "${0##*/}: not tried: $*" >&2
    exit 77
}

make_tree() {
    [ "$(id -u)" -eq 0 ] || skip "it needs root"
    command -v debootstrap >/dev/null || skip "there is no debootstrap"
    if [ $# -eq 1 ]; then
        mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -m1 '/debian/$') ||
            skip "apt here knows no mirror of Debian"
        set -- "$1" "$mirror"
    fi
    case $2 in
    */ubuntu*) components=main,universe ;;
    *) components=main ;;
    esac
    mount=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)
    [ -n "$mount" ] || skip "cgroup v2 is not mounted"
    tree=$(mktemp -d /tmp/agentwatch-bare.XXXXXX)
    chmod 755 "$tree" # the agent there may not be root
    cgroup=$mount/${tree##*/}
    mkdir "$cgroup"
    trap clean EXIT
    trap 'exit 1' INT TERM
    echo "${0##*/}: a bare $1 in $tree"
    suite=$1
    shift
    unshare --mount debootstrap --variant=minbase --components="$components" "$suite" "$tree" "$@" \
        >"$tree.log" 2>&1 || {
        tail -n 3 "$tree.log" >&2
        skip "debootstrap failed"
    }
    cp -L /etc/resolv.conf "$tree/etc"
}

clean() {
    echo 1 2>/dev/null >"$cgroup/cgroup.kill" || true
    rm -rf "$tree" "$tree.log"
    find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null || true
}

# In a cgroup of its own that is the root of cgroup v2 there.
in_tree() {
    options=$1
    shift
    # shellcheck disable=SC2016,SC2086  # expanded by the shells within; a list of options
    sh -c 'echo $$ >"$0/cgroup.procs"; exec unshare --mount --cgroup --propagation private "$@"' "$cgroup" \
        $options sh -euc '. "$1"; shift; enter "$@"' sh "$here/bare.sh" "$tree" "$@"
}

# A root of its own, not a chroot: paths that the kernel tells begin where those of the tree do.
enter() {
    mount --bind "$1" "$1"
    cd "$1"
    mount -t proc proc proc
    mount --rbind /dev dev
    mount -t sysfs sysfs sys
    mount -t cgroup2 none sys/fs/cgroup
    mount -t tracefs none sys/kernel/tracing
    mount -t tmpfs tmpfs run
    mount -t tmpfs tmpfs tmp
    shift
    pivot_root . mnt
    exec chroot . sh -c 'umount -l /mnt; cd /; exec "$@"' sh "$@"
}
