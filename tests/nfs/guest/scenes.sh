# What is tried. Sourced by `main`; each scene leaves rows for the table.

ALL=(mounts nfs42 delegated nfs40 shared smb)
ROWS=()
# Faults to strike; empty: all.
FAULTS=$(cat "$JOB/faults")

# row WHAT VERDICT SEEN
row() {
    ROWS+=("$1|$2|$3")
    printf '>> %s: %s: %s\n' "$1" "$2" "$3"
}

cleanup() {
    stop a b
    heal a
    heal b
    mkdir -p "$JOB/out/$1"
    cp "$WORK"/[ab].log "$WORK/facts" "$WORK/marks" "$JOB/out/$1/" 2>/dev/null
    unmount a
    unmount b
}

# pair_up: what `pair_init` has made comes into service.
pair_up() {
    start a
    within 60 flowing_state a || say "a is $(state a)"
    start b
    in_sync a 120
}

flowing_state() { case $(state "$1") in ACTIVE | STANDALONE) ;; *) return 1 ;; esac }

# strike WHAT MOST FAULT [SECONDS]: under load, FAULT_begin ACTIVE, then either until messages flow again or for so
# many seconds, FAULT_end ACTIVE. MOST: the longest time without a confirm, in seconds.
strike() {
    local what=$1 most=$2 fault=$3 seconds=${4:-} target words verdict=ok gap
    [ -z "$FAULTS" ] || [[ " $FAULTS " == *" $fault "* ]] || return
    in_sync a 120 || {
        row "$what" FAILED "the pair is not in sync before it: a $(state a), b $(state b)"
        return
    }
    target=$(active)
    say "$what: the active is $target"
    load_begin "$fault"
    sleep 2
    local began
    began=$(ticks)
    "${fault}_begin" "$target"
    if [ -n "$seconds" ]; then
        sleep "$seconds"
    else
        within 120 flowing || say "nothing flows after $(seconds_since "$began")"
    fi
    say "after $(seconds_since "$began"): a $(state a), b $(state b)"
    "${fault}_end" "$target"
    in_sync a 120 || {
        verdict=FAILED
        say "not in sync again: a $(state a), b $(state b)"
    }
    words=$(load_end) || verdict=FAILED
    gap=$(sed -n 's/.*longest gap \([0-9]*\)\..*/\1/p' <<<"$words")
    [ "${gap:-999}" -lt "$most" ] || verdict=FAILED
    row "$what" "$verdict" "$(tr '\n' ' ' <<<"$words")"
    mkdir -p "$JOB/out/$fault"
    cp "$WORK/facts" "$JOB/out/$fault/"
}

kill_begin() { kill_server "$1"; }
kill_end() { start "$1"; }
share_begin() { cut_off "$1" share; }
share_end() { heal "$1"; }
shares_begin() { cut_off a share && cut_off b share; }
shares_end() { heal a && heal b; }
link_begin() { cut_off "$1" peer; }
link_end() { heal "$1"; }
alone_begin() { cut_off "$1" share peer; }
alone_end() { heal "$1"; }
dark_begin() { cut_off "$1" all; }
dark_end() { heal "$1"; }
power_begin() {
    cut_off "$1" all
    kill -9 $(pgrep -P "$(pid_of "$1")") "$(pid_of "$1")"
    mark "kill $1"
}
power_end() {
    heal "$1"
    start "$1"
}
pause_begin() { kill -STOP $(pgrep -P "$(pid_of "$1")") "$(pid_of "$1")"; }
pause_end() { kill -CONT "$(pid_of "$1")" $(pgrep -P "$(pid_of "$1")"); }
restart_begin() {
    nfs_down
    sleep 2
    nfs_up
}
restart_end() { :; }
grace_begin() {
    restart_begin
    sleep 2
    kill_server "$1"
}
grace_end() { start "$1"; }
gateway_begin() {
    nfs_down
    sleep 2
    kill_server "$1"
    sleep 10
    nfs_up
}
gateway_end() { start "$1"; }

# --- Which mounts are refused.

# looks MACHINE: what `check` says of the lock file's mount.
looks() { as "$1" timeout 100 twinmq check -p /etc/twinmq/profile.toml >"$WORK/check.out" 2>&1; }

# mount_says WHAT EXPECTED-TEXT: EXPECTED "" means nothing bad.
mount_says() {
    local verdict=ok seen
    looks a
    seen=$(sed -n '/^lock file/,/^gateway/p' "$WORK/check.out" | grep -E '^  (BAD|WARN)' | head -2 | cut -c1-150 | tr '\n' ' ')
    if [ -z "$2" ]; then
        grep -q '^  ok .* lies on /mnt/twinmq (' "$WORK/check.out" && [ -z "$seen" ] || verdict=FAILED
        seen=${seen:-no fault}
    else
        grep -q -- "$2" "$WORK/check.out" || verdict=FAILED
        # No other fault than the one that is named.
        grep '^  BAD' "$WORK/check.out" | grep -qv -- "$2" && verdict=FAILED
    fi
    options_of a
    [ $verdict = ok ] || cat "$WORK/check.out"
    row "$1" "$verdict" "$seen"
    unmount a
}

tries_nfs() {
    if mount_nfs a "$2" 2>"$WORK/mount.err"; then
        mount_says "mount $1" "$3"
    else
        row "mount $1" "-" "not mounted: $(head -1 "$WORK/mount.err")"
    fi
}

scene_mounts() {
    nfs_begin y
    pair_init
    local fresh=actimeo=0,lookupcache=none
    tries_nfs "vers=4.2, as documented" "$NFS_OPTIONS" ""
    tries_nfs "vers=4.1, as documented" "vers=4.1,$fresh" ""
    tries_nfs "vers=4.0, as documented" "vers=4.0,$fresh" ""
    tries_nfs "vers=4.2, cached" "vers=4.2" "may show an old listing"
    tries_nfs "vers=4.2, lookups cached" "vers=4.2,actimeo=0" ""
    tries_nfs "vers=4.2, local_lock=all" "vers=4.2,local_lock=all,$fresh" ""
    tries_nfs "vers=3" "vers=3,$fresh" "NFS before version 4"
    tries_nfs "vers=3, nolock" "vers=3,nolock,$fresh" "other machines do not see the lock"
    tries_nfs "vers=3, local_lock=all" "vers=3,local_lock=all,$fresh" "other machines do not see the lock"
    tries_nfs "vers=3, local_lock=posix" "vers=3,local_lock=posix,$fresh" "other machines do not see the lock"
    nfs_down
}

# Both machines at once.
checks_with_peer() {
    local machine verdict=ok pids=()
    [ -z "$FAULTS" ] || [[ " $FAULTS " == *" check "* ]] || return
    for machine in a b; do
        as "$machine" timeout 200 twinmq check -p /etc/twinmq/profile.toml --with-peer >"$WORK/check.$machine" 2>&1 &
        pids+=($!)
    done
    wait "${pids[@]}"
    for machine in a b; do
        sed -n '/^lock file/,/^without service/p' "$WORK/check.$machine" | grep -v '^without'
        grep -q '^  BAD' "$WORK/check.$machine" && verdict=FAILED
    done
    row "$1: check --with-peer" "$verdict" \
        "$(grep -h 'answered within\|is refused, and\|deletes is' "$WORK/check.a" "$WORK/check.b" | sed 's/^ *//' | tr '\n' ';' | cut -c1-300)"
}

# --- The pair on a share.

faults_of_a_pair() {
    local on=$1
    strike "$on: kill -9 of the active" 5 kill
    strike "$on: active cut from the share" 2 share 20
    strike "$on: both cut from the share" 2 shares 20
    strike "$on: link between the servers cut" 4 link 10
    strike "$on: active cut from share and peer" 12 alone 25
    strike "$on: active cut from everything" 12 dark 25
    strike "$on: active loses power" 12 power
    strike "$on: active paused with its watchdog" 12 pause 12
}

scene_nfs42() {
    nfs_begin n
    delegations 0
    mount_nfs a "$NFS_OPTIONS"
    mount_nfs b "$NFS_OPTIONS"
    pair_init
    checks_with_peer "NFS 4.2"
    pair_up
    faults_of_a_pair "NFS 4.2"
    strike "NFS 4.2: NFS server restarted" 2 restart 25
    strike "NFS 4.2: kill -9 in its grace period" 30 grace
    strike "NFS 4.2: kill -9 while it is down" 60 gateway
    nfs_down
}

# What the file server does unless it is told otherwise: the lock file is delegated to its holder, and whoever
# opens it then waits until the holder gives it back, or until its lease is over.
scene_delegated() {
    nfs_begin n
    delegations 1
    mount_nfs a "$NFS_OPTIONS"
    mount_nfs b "$NFS_OPTIONS"
    pair_init
    pair_up
    strike "delegated: kill -9 of the active" 5 kill
    strike "delegated: active cut from everything" 40 dark 40
    strike "delegated: active loses power" 40 power
    nfs_down
}

scene_nfs40() {
    local NFS_OPTIONS=${NFS_OPTIONS/4.2/4.0}
    nfs_begin n
    delegations 0
    mount_nfs a "$NFS_OPTIONS"
    mount_nfs b "$NFS_OPTIONS"
    pair_init
    checks_with_peer "NFS 4.0"
    pair_up
    faults_of_a_pair "NFS 4.0"
    strike "NFS 4.0: NFS server restarted" 2 restart 25
    nfs_down
}

# One store on the share, by lock only: who is cut off keeps it until the file server's lease is over.
scene_shared() {
    nfs_begin n
    delegations 0
    mount_nfs a "$NFS_OPTIONS"
    mount_nfs b "$NFS_OPTIONS"
    pair_init --mode shared --db-path /mnt/twinmq/store
    refuses_lost_locks
    checks_with_peer "shared store"
    pair_up
    strike "shared store: kill -9 of the active" 8 kill
    strike "shared store: link between the servers cut" 4 link 10
    strike "shared store: active cut from the share" 60 share
    strike "shared store: active cut from everything" 60 dark
    strike "shared store: active loses power" 60 power
    strike "shared store: NFS server restarted" 60 restart 40
    nfs_down
}

# The start with nfs.recover_lost_locks=Y, which must be refused.
refuses_lost_locks() {
    local switch=/sys/module/nfs/parameters/recover_lost_locks verdict=FAILED code
    echo Y >"$switch"
    as a timeout 60 twinmq run -p /etc/twinmq/profile.toml >"$WORK/check.out" 2>&1
    code=$?
    echo N >"$switch"
    [ $code -ne 0 ] && [ $code -ne 124 ] && grep -q 'recover_lost_locks is Y' "$WORK/check.out" && verdict=ok
    row "shared store: recover_lost_locks=Y is refused" $verdict "code $code: $(tail -1 "$WORK/check.out" | cut -c1-120)"
}

scene_smb() {
    modprobe cifs
    smb_begin
    pair_init
    if ! mount_smb a "$SMB_OPTIONS"; then
        row "SMB: mount" FAILED "$(dmesg | tail -3 | tr '\n' ' ')"
        return
    fi
    mount_says "SMB, as documented" "whether a lost lock is noticed"
    sed -n '/^lock file/,/^gateway/p' "$WORK/check.out"
    mount_smb a "$SMB_OPTIONS,nobrl" && mount_says "SMB, nobrl" "other machines do not see the lock"
    mount_smb a "$SMB_OPTIONS"
    mount_smb b "$SMB_OPTIONS"
    checks_with_peer "SMB"
    pair_up
    faults_of_a_pair "SMB"
}
