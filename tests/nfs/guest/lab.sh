# The machines of the guest, and what can be done to them. Sourced by `scenes`.
#
# The guest itself is the gateway, 10.0.0.9, which exports the share. `a` (10.0.0.1) and `b` (10.0.0.2) are the
# two servers, `c` (10.0.0.20) has the clients. Each is a network, mount and UTS namespace: to the file server
# they are different clients, and each has its own /etc/twinmq, /var/lib/twinmq and /mnt/twinmq.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C
JOB=/job
WORK=/lab
declare -A HOLDER ADDRESS=([a]=10.0.0.1 [b]=10.0.0.2 [c]=10.0.0.20)
declare -A ROLE=([a]=primary [b]=secondary) CLIENT_PORT=([a]=1856 [b]=1956) ADMIN=([a]=1858 [b]=1859)
NFS_OPTIONS=rw,hard,vers=4.2,actimeo=0,lookupcache=none
# Lease and grace of the NFS server, as in docs/lock-share.md.
LEASE=15

say() { printf '   %s\n' "$*"; }

# Hundredths of a second of CLOCK_BOOTTIME.
ticks() {
    local up
    read -r up _ </proc/uptime
    echo $((10#${up/./}))
}

seconds_since() {
    local passed=$(($(ticks) - $1))
    printf '%d.%02d s' $((passed / 100)) $((passed % 100))
}

# within SECONDS COMMAND...: tries until it succeeds.
within() {
    local until=$(($(ticks) + $1 * 100))
    shift
    until "$@"; do
        [ "$(ticks)" -lt "$until" ] || return 1
        sleep 0.2
    done
}

# on MACHINE COMMAND...: as root.
on() {
    local machine=$1
    shift
    nsenter -t "${HOLDER[$machine]}" -n -m -u -- "$@"
}

# as MACHINE COMMAND...: as the user of the servers.
as() {
    local machine=$1
    shift
    on "$machine" setpriv --reuid 780 --regid 780 --clear-groups -- "$@"
}

# All that is written lies in memory: a disk of the guest is one of the host's, on the host's clock.
places() {
    local folder
    for folder in "$WORK" /var/lib/nfs /var/lib/samba /var/cache/samba /var/log /run; do
        mkdir -p "$folder"
        mount -t tmpfs -o mode=0755 tmpfs "$folder"
    done
    mkdir -p /var/lib/nfs/{nfsdcld,sm,sm.bak,v4recovery} /var/lib/samba/private /var/log/samba /run/{samba,lock}
    touch /var/lib/nfs/{etab,rmtab,state}
    truncate -s 600M "$WORK/share.img"
    mkfs.ext4 -q "$WORK/share.img"
    mkdir -p /srv/twinmq
    modprobe loop
    mount -o loop "$WORK/share.img" /srv/twinmq
    cp "$JOB/twinmq" "$JOB/client.py" "$WORK/"
    ln -sf "$WORK/twinmq" /usr/local/bin/twinmq
    cat "$WORK/twinmq" >/dev/null
}

network() {
    useradd --system --uid 780 --no-create-home --shell /usr/sbin/nologin twinmq
    install -d -m 1777 "$WORK" "$WORK/run"
    hostname gateway
    ip link set lo up
    ip link add br0 type bridge
    ip addr add 10.0.0.9/24 dev br0
    ip link set br0 up
    local machine
    for machine in a b c; do
        mkdir -p "$WORK/$machine"/{etc,lib}
        unshare -n -m -u sh -c "hostname $machine; exec sleep infinity" &
        HOLDER[$machine]=$!
        within 5 sh -c "[ \$(readlink /proc/$!/ns/net) != $(readlink /proc/$$/ns/net) ]"
        ip link add "to-$machine" type veth peer name eth0 netns "${HOLDER[$machine]}"
        ip link set "to-$machine" master br0 up
        on "$machine" ip link set lo up
        on "$machine" ip addr add "${ADDRESS[$machine]}/24" dev eth0
        on "$machine" ip link set eth0 up
        # Two kernels have two boots.
        cat /proc/sys/kernel/random/uuid >"$WORK/$machine/boot_id"
        on "$machine" mount --make-rprivate /
        on "$machine" mount --bind "$WORK/$machine/boot_id" /proc/sys/kernel/random/boot_id
        mkdir -p /etc/twinmq /var/lib/twinmq /mnt/twinmq
        on "$machine" mount --bind "$WORK/$machine/etc" /etc/twinmq
        on "$machine" mount --bind "$WORK/$machine/lib" /var/lib/twinmq
    done
}

# --- The file servers.

nfs_begin() {
    modprobe nfsd
    mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd
    mkdir -p /run/rpc_pipefs
    mountpoint -q /run/rpc_pipefs || mount -t rpc_pipefs sunrpc /run/rpc_pipefs
    printf '[nfsd]\nvers3=%s\nlease-time=%s\ngrace-time=%s\n' "$1" "$LEASE" "$LEASE" >/etc/nfs.conf
    printf '%s\n' "/srv/twinmq 10.0.0.1(rw,sync,no_subtree_check) 10.0.0.2(rw,sync,no_subtree_check)" >/etc/exports
    install -d -o twinmq -g twinmq -m 0700 /srv/twinmq
    pgrep -x rpcbind >/dev/null || rpcbind -w
    pgrep -x nfsdcld >/dev/null || nfsdcld
    pgrep -x rpc.mountd >/dev/null || rpc.mountd
    pgrep -x rpc.statd >/dev/null || rpc.statd
    exportfs -ra
    rpc.nfsd 4
}

# Whether the NFS server delegates files to its clients: 1 or 0.
delegations() { echo "$1" >/proc/sys/fs/leases-enable; }

nfs_down() { rpc.nfsd 0; }
nfs_up() { rpc.nfsd 4; }

# mount_nfs MACHINE OPTIONS
mount_nfs() { on "$1" mount -t nfs -o "$2" 10.0.0.9:/srv/twinmq /mnt/twinmq; }

smb_begin() {
    cat >/etc/samba/smb.conf <<'CONF'
[global]
   server role = standalone server
   disable netbios = yes
   map to guest = never
[twinmq]
   path = /srv/twinmq
   valid users = twinmq
   force user = twinmq
   read only = no
   browseable = no
   guest ok = no
   # locks must be real, and nobody may cache the files
   locking = yes
   strict locking = yes
   posix locking = yes
   oplocks = no
   level2 oplocks = no
CONF
    [ -f "$WORK/smb.extra" ] && cat "$WORK/smb.extra" >>/etc/samba/smb.conf
    install -d -o twinmq -g twinmq -m 0700 /srv/twinmq
    printf 'secret\nsecret\n' | smbpasswd -s -a twinmq
    printf 'username=twinmq\npassword=secret\n' >/etc/smb.cred
    chmod 600 /etc/smb.cred
    smbd -D
    within 20 sh -c 'ss -ltn | grep -q ":445 "'
}

SMB_OPTIONS=rw,vers=3.1.1,credentials=/etc/smb.cred,uid=780,gid=780,file_mode=0600,dir_mode=0700,cache=none,actimeo=0
mount_smb() { on "$1" mount -t cifs -o "$2" //10.0.0.9/twinmq /mnt/twinmq; }

unmount() { on "$1" umount -f /mnt/twinmq 2>/dev/null || on "$1" umount -l /mnt/twinmq; }

# What the kernel says of it.
options_of() { say "$(on "$1" grep ' /mnt/twinmq ' /proc/mounts | tail -1 | cut -d' ' -f3,4)"; }

# --- The pair.

# pair_init MORE...: a new pair, with an empty share.
pair_init() {
    rm -rf "$WORK/pair" /srv/twinmq/* /srv/twinmq/.??* "$WORK"/[ab]/{etc,lib}/* "$WORK"/[ab].log
    : >"$WORK/marks"
    twinmq pair init "$WORK/pair" --primary 10.0.0.1 --secondary 10.0.0.2 --gateway 10.0.0.9 \
        --lock-file /mnt/twinmq/pair.lck --allow-anonymous "$@" >"$WORK/init.out"
    local machine
    for machine in a b; do
        cp "$WORK/pair/${ROLE[$machine]}"/* "$WORK/$machine/etc/"
        chown -R twinmq: "$WORK/$machine"/{etc,lib}
        chmod 700 "$WORK/$machine"/{etc,lib}
    done
}

# start MACHINE...: as the unit does: what ends by itself is started again, with a second between.
start() {
    local machine
    for machine in "$@"; do
        rm -f "$WORK/$machine.stop"
        (
            while :; do
                # Its own process, not a wrapper's, is what `kill_server` must find.
                as "$machine" sh -c 'echo $$ >/lab/run/$1.pid; shift; exec twinmq run -p /etc/twinmq/profile.toml "$@"' \
                    sh "$machine" $RUN_WITH >>"$WORK/$machine.log" 2>&1
                code=$?
                echo "lab: ended with $code" >>"$WORK/$machine.log"
                [ $code -eq 137 ] || [ -f "$WORK/$machine.stop" ] && break
                sleep 1
            done
        ) &
    done
}

pid_of() { cat "$WORK/run/$1.pid" 2>/dev/null; }

# kill_server MACHINE: with its watchdog's word to the peer, as for a process that ends.
kill_server() {
    kill -9 "$(pid_of "$1")"
    mark "kill $1"
}

mark() { echo "{\"event\": \"mark\", \"at\": $(ticks)0000000, \"name\": \"$1\"}" >>"$WORK/marks"; }

stop() {
    local machine pid
    for machine in "$@"; do
        touch "$WORK/$machine.stop"
        pid=$(pid_of "$machine")
        [ -n "$pid" ] && kill -9 "$pid" 2>/dev/null
    done
    for machine in "$@"; do
        pid=$(pid_of "$machine")
        within 30 sh -c "! [ -d /proc/${pid:-none} ]" || say "server of $machine does not end"
    done
}

status() { on "$1" timeout 10 twinmq status -p /etc/twinmq/profile.toml --json 2>/dev/null; }
state() { status "$1" | jq -r '.state // "?"' 2>/dev/null; }
is_in_state() { [ "$(state "$1")" = "$2" ]; }
in_sync() { on "$1" twinmq wait -p /etc/twinmq/profile.toml --in-sync --timeout "${2:-120}" >/dev/null 2>&1; }

active() {
    local machine
    for machine in a b; do
        case $(state "$machine") in ACTIVE | STANDALONE) echo "$machine" && return ;; esac
    done
    return 1
}

other() { [ "$1" = a ] && echo b || echo a; }

# cut_off MACHINE WHAT...: packets are gone without a word. share: to the file server; peer; clients; all.
cut_off() {
    local machine=$1 what
    shift
    for what in "$@"; do
        case $what in
            share) lose "$machine" 10.0.0.9 ;;
            peer) lose "$machine" "${ADDRESS[$(other "$machine")]}" ;;
            clients) lose "$machine" 10.0.0.20 ;;
            all) lose "$machine" 10.0.0.0/24 ;;
        esac
    done
}

lose() {
    on "$1" iptables -w -A INPUT -s "$2" -j DROP
    on "$1" iptables -w -A OUTPUT -d "$2" -j DROP
}

heal() { on "$1" iptables -w -F; }

# --- Load.

load_begin() {
    rm -f "$WORK/load.in"
    : >"$WORK/facts"
    mkfifo "$WORK/load.in"
    on c python3 "$WORK/client.py" run 10.0.0.1:1856,10.0.0.2:1956 "/queue/$1" "$WORK/facts" <"$WORK/load.in" &
    LOAD=$!
    exec 9>"$WORK/load.in"
    within 30 flowing
}

receipts() { grep -c '"event": "receipt"' "$WORK/facts" 2>/dev/null || true; }

# flowing [MORE]: whether messages are confirmed now.
flowing() {
    local before
    before=$(receipts)
    sleep 0.5
    [ "$(receipts)" -gt "${before:-0}" ]
}

load_end() {
    exec 9>&-
    wait "$LOAD"
    python3 "$WORK/client.py" judge "$WORK/facts" "$WORK/marks" "$WORK"/[ab].log
}
