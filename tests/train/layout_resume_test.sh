#!/usr/bin/env bash
# Exact to the bit, under each form of parallelism: a run that is stopped and resumed; a checkpoint that is loaded
# and saved by another layout and comes back; and the run that goes on from there.
#
#   tests/train/layout_resume_test.sh JAMBALAYA MPIRUN
set -euo pipefail
source "$(dirname "$0")/../support/small_run.sh" "$@"

declare -A options=(
  [tensor]="tensor=2" [context]="context=2" [expert]="expert=2" [full]="sharding=full" [one]=""
)
# train LAYOUT RUN STEPS [option...]: two ranks, or one for the layout "one".
train() {
  local layout=$1 run=$2 steps=$3 ranks=2 settings=()
  shift 3
  [ "$layout" != one ] || ranks=1
  for option in ${options[$layout]}; do settings+=(--set "parallel.$option"); done
  "$mpirun" -n $ranks --oversubscribe --bind-to none "$jambalaya" train config.yaml --resume auto \
    --set run.folder="$run" --set train.steps="$steps" --set checkpoint.every=3 --set data.micro_batch=2 \
    "${settings[@]}" "$@" >>"$run.log" 2>&1 </dev/null || fail "$run ended with $? before step $steps"
}
# saved_anew LAYOUT FROM RUN: step 3 of run FROM, loaded and saved under a layout without a step in between.
saved_anew() { train "$1" "$3" 3 --set train.branch_from="$2/checkpoints/step-00000003"; }
same_bits() { "$jambalaya" compare-runs "$1" "$2" >same.log 2>&1 || fail "$1 and $2 differ: exit code $?"; }
step() { printf '%s/checkpoints/step-%08d' "$1" "$2"; }

prepare >prepare.log 2>&1 || fail "the data could not be made"
roundtrip() {
  local layout=$1 other=$2
  train "$layout" "$layout" 6
  train "$layout" "$layout-resumed" 3
  train "$layout" "$layout-resumed" 6
  grep -q "continues from" "$layout-resumed.log" || fail "$layout-resumed was not resumed"
  same_bits "$layout" "$layout-resumed"
  saved_anew "$other" "$layout" "$layout-there"
  saved_anew "$layout" "$layout-there" "$layout-back"
  same_bits "$(step "$layout" 3)" "$(step "$layout-there" 3)"
  same_bits "$(step "$layout" 3)" "$(step "$layout-back" 3)"
  train "$layout" "$layout-back" 6
  same_bits "$(step "$layout" 6)" "$(step "$layout-back" 6)"
}
roundtrip tensor context
roundtrip context expert
roundtrip expert full
roundtrip full tensor
saved_anew one full one-there
same_bits "$(step full 3)" "$(step one-there 3)"
# The check can fail: three steps on two layouts do not sum in the same order.
code=0
"$jambalaya" compare-runs "$(step tensor 6)" "$(step context 6)" >differ.log 2>&1 || code=$?
[ $code -eq 17 ] || fail "runs of two layouts cannot be the same to the bit: compare-runs ended with $code"
echo "layouts resume: the same bits"
