#!/usr/bin/env bash
# scripts/launch and scripts/slurm_train.sbatch against a made-up mpirun, jambalaya and scontrol that end as they are
# told: what is started again and what is not, with which words, and what is said of flight records.
#
#   tests/launch/launch_test.sh
set -euo pipefail
tree=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(mktemp -d "${TMPDIR:-/tmp}/jambalaya-test-XXXXXX")
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"

fail() {
  echo "FAILED: $*"
  for file in said codes words; do [ -e $file ] && echo "--- $file" && cat $file; done
  exit 1
}
expect_said() { grep -q -- "$1" said || fail "nothing was said of: $1"; }
expect_not_said() { ! grep -q -- "$1" said || fail "was said, but should not: $1"; }

# Ends with the next code of the file `codes`. `wait` instead of a code: until SIGUSR1, then 75. A code after `+`:
# saves a checkpoint first; after `s`: does a step first. A code after `!`: leaves flight records of ranks 0, 2 and 3
# first. Starts `true` unless there is a file `refuses`.
cat >mpirun <<'SH'
#!/usr/bin/env bash
[ "${!#}" != true ] || { echo asked >>asked; [ ! -e refuses ]; exit; }
printf '%s\n' "$@" >words
code=$(head -n 1 codes)
sed -i 1d codes
echo run >>runs
case $code in
  +*) mkdir -p run/checkpoints && echo "step-$(wc -l <runs)" >run/checkpoints/latest ;;
  s*) mkdir -p run && echo '{"step": 1}' >>run/metrics.jsonl ;;
  '!'*)
    mkdir -p run/logs
    echo '{"rank": 0, "host": "nodeA", "ranks": 4, "step": 12, "waiting": [{"group": "tensor", "kind": "all_reduce",
      "number": 4711, "seconds": 20.25}]}' >run/logs/flight-00000.json
    echo '{"rank": 2, "host": "nodeB", "ranks": 4, "step": 12, "waiting": []}' >run/logs/flight-00002.json
    echo '{"rank": 3, "host": "nodeB", "ranks": 4, "step": 12, "waiting": [{"group": "tensor", "kind": "all_gather",
      "number": 4710, "seconds": 19}]}' >run/logs/flight-00003.json
    ;;
  wait)
    trap 'exit 75' USR1
    echo ready >>ready
    while :; do sleep 0.05; done
    ;;
  hang) # behind a cut link: flight records, but no end, SIGTERM or not
    trap '' TERM
    mkdir -p run/logs
    echo '{"rank": 1, "waiting": []}' >run/logs/flight-00001.json
    sleep 60
    ;;
esac
exit "${code//[!0-9]/}"
SH
cat >jambalaya <<'SH'
#!/usr/bin/env bash
[ "$2" != bad.yaml ] || { echo "bad.yaml:1:1: unknown key" >&2; exit 2; }
echo '{"run": {"folder": "run"}}'
SH
cat >scontrol <<'SH'
#!/usr/bin/env bash
echo "$@" >requeued
SH
chmod +x mpirun jambalaya scontrol

# launch CODE... [-- OPTION...]: runs the script; mpirun ends with these codes, one run after the other.
launch() {
  rm -rf run runs ready asked
  : >codes
  while [ $# -gt 0 ] && [ "$1" != -- ]; do echo "$1" >>codes && shift; done
  [ $# -eq 0 ] || shift
  code=0
  "$tree/scripts/launch" --ranks 4 --mpirun ./mpirun --jambalaya ./jambalaya --pause 0.01 "$@" config.yaml \
    --set train.steps=3 2>said >out || code=$?
  count=$( (cat runs 2>/dev/null || true) | wc -l)
}

restarts_by_code() {
  for stop in 0 2 3 4 5 6 17 74 143; do
    launch "$stop" 0
    [ "$code $count" = "$stop 1" ] || fail "after $stop: ended with $code after $count runs"
  done
  for again in 1 7 75 137 139 205; do
    launch "$again" "$again" 0
    [ "$code $count" = "0 3" ] || fail "after $again: ended with $code after $count runs"
  done
  launch 7 5
  [ "$code $count" = "5 2" ] || fail "ended with $code after $count runs, not with 5 after 2"
}

an_mpirun_that_can_start_nothing_is_not_asked_again() {
  touch refuses
  launch 1 0
  [ "$code $count" = "1 1" ] || fail "mpirun refuses: ended with $code after $count runs"
  expect_said 'mpirun starts nothing on these hosts'
  # A rank that was there and is lost says nothing of mpirun; nor does a host that is lost later.
  launch 7 1 0
  [ "$code $count" = "1 2" ] || fail "a lost rank, then a refusal: ended with $code after $count runs"
  for won in s1 +1; do
    launch $won 1 0
    [ "$code $count" = "0 3" ] && [ ! -e asked ] || fail "after a step ($won): ended with $code after $count runs"
  done
  rm refuses
  launch 1 0
  [ "$code $count" = "0 2" ] && [ -e asked ] || fail "a rank failed: ended with $code after $count runs"
}

options_behind_the_config_are_pointed_out() {
  local dry=("$tree/scripts/launch" --jambalaya ./jambalaya --dry-run)
  for wrong in "config.yaml --gpus-per-node 2" "--ranks 2 config.yaml --host=a:2" "--ranks 2 config.yaml --set a=1 --dry-run"; do
    code=0
    # shellcheck disable=SC2086
    "${dry[@]}" $wrong >/dev/null 2>said || code=$?
    [ $code -eq 2 ] || fail "$wrong: ended with $code, not 2"
    expect_said 'stands behind the config'
  done
  for wrong in "--ranks -3" "--ranks 0" "--gpus-per-node 0" "--ranks two"; do
    code=0
    # shellcheck disable=SC2086
    "${dry[@]}" $wrong config.yaml >/dev/null 2>said || code=$?
    [ $code -eq 2 ] || fail "$wrong: ended with $code, not 2"
    expect_said "is not a whole number from 1 on"
  done
  code=0
  "${dry[@]}" >/dev/null 2>said || code=$?
  [ $code -eq 2 ] || fail "no config: ended with $code, not 2"
  expect_said 'required: config$'
}

restarts_have_a_limit() {
  launch 7 7 7 7 7 7 -- --restarts 2
  [ "$code $count" = "7 3" ] || fail "2 restarts: ended with $code after $count runs"
  expect_said "2 restarts within an hour"
  # Saves that were asked for are free while they win something.
  launch +75 +75 +75 +75 0 -- --restarts 2
  [ "$code $count" = "0 5" ] || fail "saves: ended with $code after $count runs"
  launch 75 75 75 75 0 -- --restarts 2
  [ "$code $count" = "75 3" ] || fail "empty saves: ended with $code after $count runs"
}

words_of_mpirun() {
  printf 'a slots=3\n# none\nb slots=2 max-slots=4\n' >hosts
  launch 0 -- --hostfile hosts --interface 10.0.0.0/24 --oversubscribe '--mpi=--mca btl tcp,self'
  grep -A1 '^-n$' words | grep -qx 4 || fail "--ranks does not win over the hosts"
  local line
  line=$(tr '\n' ' ' <words)
  for part in '--bind-to none' '--hostfile hosts' '--mca oob_tcp_if_include 10.0.0.0/24' '--mca btl tcp,self' \
    '--mca btl_tcp_if_include 10.0.0.0/24' '--oversubscribe --mca mpi_yield_when_idle 1' \
    'jambalaya train config.yaml --set train.steps=3 --resume auto '; do
    case $line in *"$part"*) ;; *) fail "mpirun was not given: $part" ;; esac
  done
  local dry=("$tree/scripts/launch" --jambalaya ./jambalaya --dry-run)
  "${dry[@]}" --hostfile hosts config.yaml | grep -q -- '-n 5 ' || fail "the slots of a hostfile are not added up"
  "${dry[@]}" --host a:2,b:4 config.yaml | grep -q -- '-n 6 ' || fail "the slots of --host are not added up"
  for wrong in "--host a,b config.yaml" "config.yaml" "--ranks 2 config.yaml --resume none"; do
    code=0
    # shellcheck disable=SC2086
    "${dry[@]}" $wrong >/dev/null 2>said || code=$?
    [ $code -eq 2 ] || fail "$wrong: ended with $code, not 2"
  done
}

one_rank_for_each_gpu() {
  printf 'a slots=96\nb\n' >hosts
  local dry=("$tree/scripts/launch" --jambalaya ./jambalaya --dry-run --gpus-per-node 8) line
  line=$(NCCL_DEBUG=WARN JAMBALAYA_ISA=avx2 JAMBALAYA_LAUNCH=x "${dry[@]}" --hostfile hosts --interface eth0 config.yaml)
  for part in ' -n 16 ' ' --bind-to none --map-by ppr:8:node:OVERSUBSCRIBE ' ' -x JAMBALAYA_ISA -x NCCL_DEBUG ' \
    ' -x NCCL_SOCKET_IFNAME=eth0 ' ' --hostfile hosts ' ' --mca btl_tcp_if_include eth0 '; do
    case $line in *"$part"*) ;; *) fail "mpirun was not given: $part, but $line" ;; esac
  done
  case $line in *JAMBALAYA_LAUNCH*) fail "handed on what is for this script" ;; esac
  line=$("${dry[@]}" --host a,b:2,c --interface 10.0.0.0/24 config.yaml)
  case $line in *' -n 24 '*' --host a:8,b:8,c:8 '*) ;; *) fail "hosts in one word: $line" ;; esac
  case $line in *NCCL_SOCKET_IFNAME*) fail "NCCL was given a range of addresses" ;; esac
  line=$(NCCL_SOCKET_IFNAME=ib0 "${dry[@]}" --host a --interface eth0 config.yaml)
  case $line in *' -x NCCL_SOCKET_IFNAME '*) ;; *) fail "the interface of the environment does not win: $line" ;; esac
  "${dry[@]}" config.yaml | grep -q -- ' -n 8 ' || fail "this host alone"
  SLURM_JOB_NUM_NODES=4 "${dry[@]}" config.yaml | grep -q -- ' -n 32 ' || fail "the hosts of a Slurm job"
  code=0
  "${dry[@]}" --ranks 12 --hostfile hosts config.yaml >/dev/null 2>said || code=$?
  [ $code -eq 2 ] || fail "12 ranks on 16 GPUs: ended with $code, not 2"
}

a_wrong_config_starts_nothing() {
  rm -f runs
  code=0
  "$tree/scripts/launch" --ranks 2 --mpirun ./mpirun --jambalaya ./jambalaya bad.yaml 2>said || code=$?
  [ $code -eq 2 ] && [ ! -e runs ] || fail "ended with $code"
}

flight_records_become_a_table() {
  launch '!7' 0
  expect_said 'mpirun ended with 7 (a rank was lost)'
  expect_said '0  nodeA    12  tensor all_reduce #4711 for 20.2 s'
  expect_said '1  ?         ?  LEFT NO RECORD'
  expect_said '2  nodeB    12  BEHIND: in no collective'
  expect_said '3  nodeB    12  BEHIND: tensor all_gather #4710 for 19.0 s'
  # Records of an earlier failure are not shown again.
  launch '!7' 137 0
  [ "$(grep -c 'all_reduce #4711' said)" -eq 1 ] || fail "old records were taken for new ones"
  launch 137 0
  expect_not_said 'LEFT NO RECORD'
}

an_mpirun_that_cannot_end_is_ended() {
  launch hang 0 -- --grace 0.1
  [ "$code $count" = "0 2" ] || fail "ended with $code after $count runs"
  expect_said 'mpirun has not ended 0.1 s after the first flight record'
}

# signalled COMMAND...: starts it with codes `wait 0`, sends SIGUSR1 when the run has begun; sets code and count.
signalled() {
  rm -rf run runs ready
  printf 'wait\n0\n' >codes
  "$@" 2>said >out &
  local job=$! tries=0
  until [ -e ready ]; do
    sleep 0.05
    tries=$((tries + 1))
    [ $tries -lt 400 ] || fail "the run did not begin"
  done
  kill -USR1 $job
  code=0
  wait $job || code=$?
  count=$(wc -l <runs)
}

a_signal_saves_and_starts_nothing_again() {
  signalled "$tree/scripts/launch" --ranks 2 --mpirun ./mpirun --jambalaya ./jambalaya config.yaml
  [ "$code $count" = "75 1" ] || fail "ended with $code after $count runs"
}

a_slurm_job_saves_and_queues_again() {
  mkdir scripts
  ln -s "$tree/scripts/launch" scripts/launch
  local job=(env SLURM_JOB_ID=17 SLURM_NTASKS=4 JAMBALAYA_TREE="$folder" PATH="$folder:$PATH"
    JAMBALAYA_LAUNCH="--mpirun ./mpirun --jambalaya ./jambalaya" bash "$tree/scripts/slurm_train.sbatch" config.yaml)
  signalled "${job[@]}"
  [ "$code $count" = "75 1" ] || fail "ended with $code after $count runs"
  [ "$(cat requeued)" = "requeue 17" ] || fail "the job was not queued again"
  rm requeued runs
  echo 0 >codes
  SLURM_GPUS_PER_NODE=h200:8 SLURM_JOB_NUM_NODES=2 "${job[@]}" >out 2>said || fail "a job with GPUs failed"
  tr '\n' ' ' <words | grep -q -- '^-n 16 .*ppr:8:node' || fail "GPUs of a job: mpirun $(cat words)"
  for end in 0 5 143; do
    echo $end >codes
    code=0
    "${job[@]}" >out 2>said || code=$?
    [ $code -eq $end ] && [ ! -e requeued ] || fail "$end: ended with $code"
  done
}

for check in restarts_by_code an_mpirun_that_can_start_nothing_is_not_asked_again restarts_have_a_limit \
  options_behind_the_config_are_pointed_out words_of_mpirun one_rank_for_each_gpu a_wrong_config_starts_nothing \
  flight_records_become_a_table an_mpirun_that_cannot_end_is_ended a_signal_saves_and_starts_nothing_again \
  a_slurm_job_saves_and_queues_again; do
  $check
  echo "passed: $check"
done
