#!/usr/bin/env bash
# Two hosts, made of network namespaces with a bridge between them, train the README's config under scripts/launch:
#   1. four ranks on both hosts, over TCP;
#   2. a rank is killed: started again from the last checkpoint;
#   3. a rank is stopped: the watchdog ends the job with 7, that rank is named, started again;
#   4. the link is cut: the same, and once it is back the run ends as one that was never disturbed.
# Everything happens in namespaces of its own and is gone at the end. Needs root, or user namespaces that may have
# networks; where they are not permitted it ends with 77, which CTest shows as skipped.
#
#   tests/launch/two_hosts_test.sh JAMBALAYA MPIRUN
set -euo pipefail
jambalaya=$1 mpirun=$2
tree=$(cd "$(dirname "$0")/../.." && pwd)
source "$tree/tests/support/made_up_data.sh"

if [ -z "${JAMBALAYA_INSIDE:-}" ]; then
  for tool in unshare ip mount python3; do
    command -v $tool >/dev/null || { echo "SKIPPED: no $tool"; exit 77; }
  done
  namespaces=(--net --mount --pid --fork --mount-proc --kill-child)
  [ "$(id -u)" = 0 ] || namespaces+=(--user --map-root-user)
  if ! why=$(unshare "${namespaces[@]}" bash -c '
      mount -t tmpfs none /run && mkdir /run/netns && ip netns add probe &&
      ip link add probe-br type bridge && ip link add probe-a type veth peer name probe-b netns probe' 2>&1); then
    echo "SKIPPED: network namespaces are not permitted here: ${why//$'\n'/; }"
    exit 77
  fi
  JAMBALAYA_INSIDE=1 exec unshare "${namespaces[@]}" "$0" "$@"
fi

folder=$(mktemp -d "${TMPDIR:-/tmp}/jambalaya-test-XXXXXX")
trap 'rm -rf "$folder"' EXIT  # processes end with the namespace
cd "$folder"
export HOME=$folder OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_orte_tmpdir_base=$folder

fail() {
  echo "FAILED: $*"
  for log in *.log; do echo "--- $log" && tail -n 40 "$log"; done
  exit 1
}

# Hosts 10.77.0.1 and .2; this script, and so mpirun, is a third on the bridge.
make_hosts() {
  mount -t tmpfs none /run && mkdir /run/netns
  ip link set lo up
  ip link add bridge0 type bridge
  ip addr add 10.77.0.254/24 dev bridge0
  ip link set bridge0 up
  for i in 1 2; do
    ip netns add host$i
    ip link add port$i type veth peer name eth0 netns host$i
    ip link set port$i master bridge0 up
    ip -n host$i addr add 10.77.0.$i/24 dev eth0
    ip -n host$i link set eth0 up
    ip -n host$i link set lo up
  done
  # What ssh does on real hosts: runs a command on the one named first.
  cat >agent <<'SH'
#!/usr/bin/env bash
host=$1
shift
exec ip netns exec "host${host##*.}" unshare --uts bash -c "hostname node${host##*.}; $*"
SH
  chmod +x agent
  printf '10.77.0.1 slots=2\n10.77.0.2 slots=2\n' >hosts
}

prepare() {
  made_up_data 150 25
}

deadline=4
mpi="--mca plm rsh --mca plm_rsh_agent $folder/agent --mca btl self,tcp --mca pml ob1"
# The README's config, its rows short and its steps few: what is tested is who talks to whom.
settings=(--set data.folder=data --set data.sequence_length=32 --set data.micro_batch=1 --set data.global_batch=4
  --set run.threads=1 --set train.steps=40 --set checkpoint.every=5 --set log.evaluate_every=1000 --set log.every=5
  --set parallel.deadline_s=$deadline)

# train RUN: both hosts, in the background, its words in RUN.log; sets job.
train() {
  "$tree/scripts/launch" --jambalaya "$jambalaya" --mpirun "$mpirun" --hostfile hosts --interface 10.77.0.0/24 \
    --oversubscribe --mpi="$mpi" --pause 1 --grace 5 "$tree/configs/readme.yaml" "${settings[@]}" \
    --set run.folder="$1" >"$1.log" 2>&1 &
  job=$!
}
# wait_for WHAT COMMAND...: until the command succeeds.
wait_for() {
  local what=$1 tries=0
  shift
  until "$@" 2>/dev/null; do
    sleep 0.1
    tries=$((tries + 1))
    [ $tries -lt 1200 ] || fail "waited in vain for $what"
    kill -0 $job 2>/dev/null || "$@" 2>/dev/null || fail "the launcher ended before $what"
  done
}
saved() { grep -q "step-000000$2" "$1/checkpoints/latest"; }
steps_beyond() { [ "$(wc -l <"$1/metrics.jsonl")" -gt "$2" ]; }
said() { grep -q -- "$2" "$1.log"; }
# The processes of jambalaya on a host, one a line.
ranks_on() {
  local pid
  for pid in $(ip netns pids "host$1"); do
    [ "$(readlink "/proc/$pid/exe")" = "$(readlink -f "$jambalaya")" ] && echo "$pid"
  done
}
# same_numbers RUN: each step once, and as in the run that was not disturbed.
same_numbers() {
  [ "$(wc -l <"$1/metrics.jsonl")" -eq 40 ] || fail "$1 has not one line for each of 40 steps"
  "$jambalaya" compare-runs calm "$1" >compare.log 2>&1 || fail "$1 and the undisturbed run differ"
}
ends_well() {
  local code=0
  wait $job || code=$?
  [ $code -eq 0 ] || fail "the launcher of $1 ended with $code"
}

two_hosts_train() {
  train calm
  wait_for "the first step" steps_beyond calm 0
  for host in 1 2; do
    [ "$(ranks_on $host | wc -l)" -eq 2 ] || fail "there are not two ranks on host $host"
  done
  ends_well calm
  same_numbers calm
}

a_killed_rank() {
  train killed
  wait_for "a checkpoint" saved killed 05
  kill -KILL "$(ranks_on 2 | tail -n 1)"
  ends_well killed
  said killed 'starts again from step-' || fail "the run was not started again from a checkpoint"
  same_numbers killed
}

a_stopped_rank() {
  train stopped
  wait_for "a checkpoint" saved stopped 05
  local start=$SECONDS
  kill -STOP "$(ranks_on 2 | tail -n 1)"
  wait_for "the end of the job" said stopped 'mpirun ended with 7'
  [ $((SECONDS - start)) -le $((deadline + 15)) ] || fail "the job ended after $((SECONDS - start)) s"
  ends_well stopped
  # mpirun wakes a stopped rank to end it: then there may be a record, of an earlier collective than the others'.
  [ "$(grep -c -E 'LEFT NO RECORD|BEHIND' stopped.log)" -eq 1 ] || fail "the stopped rank, and it alone, is not named"
  said stopped 'starts again from step-' || fail "the run was not started again from a checkpoint"
  same_numbers stopped
}

a_cut_link() {
  train cut
  wait_for "a checkpoint" saved cut 05
  ip link set port2 down
  wait_for "the end of the job" said cut 'mpirun ended with 7'
  ip link set port2 up
  ends_well cut
  said cut 'starts again from step-' || fail "the run was not started again from a checkpoint"
  same_numbers cut
}

make_hosts
prepare >prepare.log 2>&1 || fail "the data could not be made"
checks=(two_hosts_train a_killed_rank a_stopped_rank a_cut_link)
for check in "${checks[@]}"; do
  start=$SECONDS
  $check
  echo "passed: $check ($((SECONDS - start)) s)"
done
