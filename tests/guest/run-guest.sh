#!/bin/bash
# run-guest.sh - run a command as root in a small virtual machine with a stock Debian kernel.
#
#   run-guest.sh [-t SECONDS] [-m MIB] [-k "MODULE..."] [-w DIR]... [--] COMMAND [ARG...]
#   run-guest.sh --prepare      only fill the cache (see below); fails if it cannot
#
#   -t  time limit for everything, boot included (default 300)
#   -m  the guest's memory (default 2048); what the guest writes to files lives there too
#   -k  kernel modules to load first (default: see "modules" below); file systems, dm targets
#       and the like load by themselves on first use
#   -w  a directory that the guest shares read-write with the host (may be given again)
#
# COMMAND starts in the caller's directory with the caller's environment and reads /dev/null.
# Its stdout and stderr come out, merged, on stdout. It sees the host's root file system, read-only
# under a RAM overlay: what it writes is lost, save under a -w DIR. Other mounts of the host are
# not there. A server on the host's 127.0.0.1 is at 10.0.2.2 in the guest, which has no route to
# anything else. There is no udev: /dev/sda appears, /dev/disk/by-* does not.
#
# Exit code: COMMAND's; 124 if time ran out; 125 if the guest died or never started (the end of
# its console then goes to stderr).
#
# Needs root and: apt-get install --no-install-recommends qemu-system-x86 busybox-static kmod
# xz-utils iproute2. The first call downloads the kernel package and unpacks it into the cache
# (nothing gets installed). The cache (RUN_GUEST_CACHE, default ~/.cache/run-guest) has to be on
# the root file system, and so has the caller's directory unless a -w DIR holds it.
set -eu
PATH=$PATH:/usr/sbin:/sbin

cache=$(realpath -m "${RUN_GUEST_CACHE:-${HOME:-/root}/.cache/run-guest}")
kernel=${RUN_GUEST_KERNEL:-linux-image-6.12-cloud-amd64}    # a Debian meta package
modules="iscsi_tcp sd_mod sg nbd ublk_drv loop"

die() { echo "run-guest: $*" >&2; exit 125; }

# --- once: fill the cache with the kernel, its modules and an initramfs -----------------------

# download DIR: the kernel's package, of which the meta package knows the name
download() {
    local package
    package=$(apt-cache depends "$kernel" | awk '/Depends: linux-image-/ {print $2; exit}')
    [ -n "$package" ] && (cd "$1" && apt-get -qq -o APT::Sandbox::User=root download "$package" >&2)
}

prepare() {
    local new=$cache/new package version
    rm -rf "$new"; mkdir -p "$new/initramfs"/{bin,dev,proc,sys,host,ram,root}
    if ! download "$new"; then      # the lists may be old, or missing
        apt-get -qq update >&2 || true
        download "$new" || die "apt cannot download $kernel"
    fi
    package=$(basename "$new"/*.deb); package=${package%%_*}
    version=${package#linux-image-}
    dpkg-deb -x "$new/$package"_*.deb "$new"
    rm -r "$new/$package"_*.deb "$new/usr"
    find "$new/lib" -name '*.ko.xz' -print0 | xargs -0 -r -n 200 xz -d # slow in the guest
    depmod -b "$new" "$version"

    cp /bin/busybox "$new/initramfs/bin/"
    find "$new/lib" -name overlay.ko -exec cp {} "$new/initramfs/" \;
    cat > "$new/initramfs/init" <<'INIT'
#!/bin/busybox sh
run() { /bin/busybox "$@" || { echo "init failed: $*"; echo b > /proc/sysrq-trigger; }; }
run mount -t proc proc /proc
run mount -t sysfs sys /sys
run mount -t devtmpfs dev /dev
exec < /dev/null > /dev/console 2>&1
run insmod /overlay.ko
run mount -t virtiofs -o ro host /host
run mount -t tmpfs -o mode=755,size=90% ram /ram
run mkdir /ram/upper /ram/work
run mount -t overlay -o lowerdir=/host,upperdir=/ram/upper,workdir=/ram/work root /root
for dir in proc sys dev; do run mount --move /$dir /root/$dir; done
exec /bin/busybox switch_root /root /bin/bash "$RUN_GUEST" --guest
INIT
    chmod +x "$new/initramfs/init"
    (cd "$new/initramfs" && find . | busybox cpio -o -H newc 2>/dev/null) > "$new/initramfs.cpio"
    mv "$new/lib" "$new/initramfs.cpio" "$cache/"
    mv "$new/boot/vmlinuz-$version" "$cache/vmlinuz"
    rm -r "$new"
}

# --- in the guest, as process 1 (RUN_GUEST_DIR comes from the kernel's command line) ----------

guest() {
    local version i rc
    set +e
    . "$RUN_GUEST_DIR/settings"
    version=$(uname -r)
    mkdir -p /dev/pts /dev/shm "/lib/modules/$version"
    mount --bind "$cache/lib/modules/$version" "/lib/modules/$version"
    mount -t devpts devpts /dev/pts
    mount -t tmpfs shm /dev/shm
    mount -t tmpfs -o mode=755 run /run
    mkdir /run/lock
    for i in "${!share[@]}"; do mkdir -p "${share[i]}"; mount -t virtiofs "share$i" "${share[i]}"; done
    ln -s /proc/self/fd /dev/fd
    for i in 0:stdin 1:stdout 2:stderr; do ln -s "fd/${i%:*}" "/dev/${i#*:}"; done
    modprobe -a virtio_net $modules
    echo 16777216 > /proc/sys/net/core/rmem_max # for iscsid's node.conn[0].tcp.window_size
    ip link set lo up
    ip link set eth0 up
    ip address add 10.0.2.15/24 dev eth0

    mkfifo /run/output              # unlike the port, it can be opened again as /dev/stdout
    cat /run/output > "$(echo /dev/vport*p1)" &
    (cd "$directory" && . "$RUN_GUEST_DIR/environment" && exec setsid "${command[@]}") \
        < /dev/null > /run/output 2>&1
    rc=$?
    for i in {1..10}; do kill -0 $! 2>/dev/null || break; sleep 0.1; done # a daemon may hold it
    for i in "${share[@]}"; do umount "$i"; done
    echo $rc > "$(echo /dev/vport*p2)"
    echo b > /proc/sysrq-trigger    # unlike a shutdown, it doesn't wait for dead disks
}

# --- on the host ------------------------------------------------------------------------------

# serve DIR SOCKET ro|rw CACHE: share DIR (without the mounts in it) until QEMU hangs up
serve() {
    local i
    mkdir "$2.root"
    unshare -m sh -c 'mount --bind "$1" "$2.root" && mount -o "remount,bind,$3" "$2.root" &&
        exec /usr/lib/qemu/virtiofsd --socket-path="$2" -o "source=$2.root,sandbox=chroot,cache=$4"' \
        sh "$@" > "$2.log" 2>&1 &
    helpers+=($!)
    for i in {1..100}; do [ -S "$2" ] && return; sleep 0.05; done
    die "virtiofsd did not start: $(cat "$2.log")"
}

cleanup() {
    local dir
    [ ${#helpers[@]} = 0 ] || kill "${helpers[@]}" 2>/dev/null || true
    for dir in "$run"/*.root; do    # mounted in the servers' own name spaces only: not here
        [ ! -d "$dir" ] || rmdir "$dir" || return
    done
    rm -rf "$run"
}

fill_cache() {
    local i
    for i in qemu-system-x86_64 /usr/lib/qemu/virtiofsd busybox depmod xz ip; do
        command -v "$i" > /dev/null || die "$i is not installed (see the top of $0)"
    done
    mkdir -p "$cache"
    (flock 9; [ -e "$cache/vmlinuz" ] || prepare) 9> "$cache/lock"
}

main() {
    local limit=300 memory=2048 share=() devices=() i rc=0
    while getopts t:m:k:w: i; do
        case $i in
            t) limit=$OPTARG;;
            m) memory=$OPTARG;;
            k) modules=$OPTARG;;
            w) share+=("$(realpath "$OPTARG")");;
            *) exit 125;;
        esac
    done
    shift $((OPTIND - 1))
    [ $# -gt 0 ] || die "no command (see the top of $0)"
    fill_cache

    helpers=()
    run=$(mktemp -d "$cache/run.XXXXXX")
    trap cleanup EXIT
    trap 'exit 125' INT TERM HUP
    local directory=$PWD command=("$@")
    cp "$0" "$run/run-guest"        # the guest runs it before it has any other directory
    declare -p cache modules share directory command > "$run/settings"
    export -p > "$run/environment"

    serve / "$run/host" ro always
    devices+=(-chardev "socket,id=host,path=$run/host" -device vhost-user-fs-pci,chardev=host,tag=host)
    for i in "${!share[@]}"; do
        serve "${share[i]}" "$run/share$i" rw auto
        devices+=(-chardev "socket,id=share$i,path=$run/share$i"
                  -device "vhost-user-fs-pci,chardev=share$i,tag=share$i")
    done

    # thread=single: with one thread for each CPU, about one boot in 20 dies in patched kernel code
    exec 3> >(exec cat)
    local cat=$!
    timeout -k 5 "$limit" qemu-system-x86_64 \
        -nodefaults -no-user-config -display none -no-reboot \
        -M q35,memory-backend=ram -object memory-backend-memfd,id=ram,size="${memory}M",share=on \
        -m "$memory" -smp 1 -accel tcg,thread=single -cpu Nehalem,+rdrand \
        -kernel "$cache/vmlinuz" -initrd "$cache/initramfs.cpio" -append "console=ttyS0 quiet \
panic=-1 mitigations=off tsc=reliable RUN_GUEST=$run/run-guest RUN_GUEST_DIR=$run" \
        -serial file:"$run/console" \
        "${devices[@]}" \
        -netdev user,id=net,ipv6=off -device virtio-net-pci,netdev=net,romfile= \
        -device virtio-serial-pci \
        -chardev file,id=out,path=/dev/fd/3 -device virtserialport,nr=1,chardev=out \
        -chardev file,id=rc,path="$run/rc" -device virtserialport,nr=2,chardev=rc \
        < /dev/null 2> "$run/qemu.log" &
    helpers+=($!)
    exec 3>&-
    wait $! || rc=$?
    wait "$cat" || true
    if [ -s "$run/rc" ]; then
        rc=$(cat "$run/rc")
    else
        { echo "run-guest: qemu's exit code was $rc; the end of its log and of the guest's console:"
          tail -n 5 "$run/qemu.log"; tail -n 40 "$run/console"; } >&2
        [ "$rc" = 124 ] || rc=125
    fi
    exit "$rc"
}

case "${1-}" in
    --guest) guest;;
    --prepare) fill_cache;;
    *) main "$@";;
esac
