# just, https://just.systems: every recipe is a command that can also be typed.

# What must hold before a commit; changes nothing.
verify:
    .ci/run

# Formats, and applies what clippy can.
fix:
    cargo fmt
    cargo clippy --all-targets --fix --allow-dirty --allow-staged

# The README's test command.
test:
    cargo test

# A random schedule of kills of both servers under load; SEED repeats a run.
kills KILLS="500" SEED="":
    TWINMQ_KILLS={{KILLS}} {{ if SEED == "" { "" } else { "TWINMQ_SEED=" + SEED } }} \
        cargo test --test cluster -- --nocapture schedule

# Kills at POINTS chosen calls of the transitions; SEED repeats the choice.
crash-points POINTS="500" SEED="":
    TWINMQ_CRASH_POINTS={{POINTS}} {{ if SEED == "" { "" } else { "TWINMQ_SEED=" + SEED } }} \
        cargo test --test cluster -- --nocapture crash_points

# So many disks after a power cut.
power IMAGES="50000" SEED="":
    TWINMQ_IMAGES={{IMAGES}} {{ if SEED == "" { "" } else { "TWINMQ_SEED=" + SEED } }} \
        cargo test --test power -- --nocapture images

# Schedules of faults in the simulation, from SEED on.
simulate SCHEDULES="20000" SEED="1":
    cargo test --release --test simulation -- --seed {{SEED}} --schedules {{SCHEDULES}}

# Every search of the HA machine, or the one of this name (docs/proofs.md).
model NAME="all":
    TWINMQ_MODEL={{NAME}} cargo test --release --test model -- --nocapture budgets

# The other faults, many of each.
nemesis STOPS="100" CUTS="300" ARBITER="100":
    TWINMQ_STOPS={{STOPS}} TWINMQ_CUTS={{CUTS}} TWINMQ_ARBITER_FAULTS={{ARBITER}} \
        cargo test --test cluster -- --nocapture nemesis

# A pair on real NFS and SMB mounts, in a guest (tests/nfs/README.md); all scenes or these.
shares *SCENES:
    tests/nfs/run {{SCENES}}

# Every benchmark, or one of them.
bench *NAME:
    cargo bench {{ if NAME == "" { "" } else { "--bench " + NAME } }}

# Each fuzz target for SECONDS; needs a nightly toolchain and cargo-fuzz.
fuzz SECONDS="60":
    for target in $(cargo +nightly fuzz list); do \
        cargo +nightly fuzz run "$target" -- -max_total_time={{SECONDS}} || exit 1; \
    done

# Writes the files that are generated from the code anew.
bless:
    TWINMQ_BLESS=1 cargo test --lib
