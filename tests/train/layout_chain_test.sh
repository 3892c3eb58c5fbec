#!/usr/bin/env bash
# One run that changes its ranks, layout and sharding at every third step, continued from its checkpoints, and one
# that stays on one rank: the same rows of text, losses, gradient norms and, within rounding, weights.
#
#   tests/train/layout_chain_test.sh JAMBALAYA MPIRUN
set -euo pipefail
source "$(dirname "$0")/../support/small_run.sh" "$@"

# Loss, gradient norm and checksum of the rows read, of each step.
figures() {
  sed -n 's/.*"rows_crc32c": *\([^,]*\),.*"loss": *\([^,]*\),.*"grad_norm": *\([^,]*\),.*/\2 \3 \1/p' "$1/metrics.jsonl"
}

# go RANKS STEPS MICRO_BATCH [parallel option...]: the run up to that step. Each step reads four rows.
go() {
  local ranks=$1 steps=$2 rows=$3
  shift 3
  local command=("$jambalaya" train config.yaml --resume auto --set run.folder=chain --set train.steps="$steps"
    --set data.micro_batch="$rows" --set checkpoint.every=3)
  for option in "$@"; do command+=(--set "parallel.$option"); done
  if [ "$ranks" -gt 1 ]; then command=("$mpirun" -n "$ranks" --oversubscribe --bind-to none "${command[@]}"); fi
  "${command[@]}" >>chain.log 2>&1 </dev/null || fail "$ranks ranks ended with $? before step $steps ($*)"
  grep -q "\"world_size\": $ranks" "$(printf 'chain/checkpoints/step-%08d/manifest.json' "$steps")" ||
    fail "there were not $ranks ranks"
}

prepare >prepare.log 2>&1 || fail "the data could not be made"
"$jambalaya" train config.yaml --set run.folder=one --set data.micro_batch=4 --set train.steps=24 \
  --set checkpoint.every=3 >one.log 2>&1 ||
  fail "one rank ended with $?"
go 4 3 1 sharding=optimizer
go 4 6 2 tensor=2 sharding=full
go 4 9 1 expert=2 sharding=full shard=2
go 4 12 2 tensor=2 expert=2 expert_tensor=2 sequence=false
go 4 15 2 context=2 sharding=full
go 1 18 4
go 2 21 2 sharding=full
go 4 24 1
paste <(figures one) <(figures chain) | awk '
  function off(a, b) { return a > b ? (a - b) / b : (b - a) / a }
  $1 > 0 && $2 > 0 && $3 > 0 && $4 > 0 && $5 > 0 && $6 > 0 {
    steps++
    if (off($1, $4) > loss) loss = off($1, $4)
    if (off($2, $5) > norm) norm = off($2, $5)
    others += $3 != $6
    rows[$3]++
  }
  END {
    print "largest relative differences over", steps, "steps: losses", loss + 0 ", gradient norms", norm + 0 "; steps with other rows:", others + 0
    exit !(steps == 24 && length(rows) == 24 && !others && loss < 1e-6 && norm < 1e-5)
  }' || fail "the chain of layouts does not train as one rank does"
# Tokens, rows and place in the data alike at every step, weights and moments as near as sums in another order come.
"$jambalaya" compare-runs one chain --tolerance 1e-3 >runs.log 2>&1 || fail "compare-runs ended with $?"
cat runs.log
