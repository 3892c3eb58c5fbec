#!/usr/bin/env bash
# The recorded models under every form of parallelism that each admits: the tolerances of one rank hold. What a
# model does not admit is named here and must be refused with the layouts that fit, so that nothing is skipped
# unseen.
#
#   tests/train/golden_layouts_test.sh JAMBALAYA MPIRUN GOLDENS
set -euo pipefail
goldens=$(cd "$3" && pwd)
source "$(dirname "$0")/../support/small_run.sh" "$1" "$2"

# Models without experts, with an odd number of them, with an odd number of heads.
declare -A inadmissible=(
  ["dense expert=2"]="expert"
  ["odd_sizes expert=2"]="expert"
  ["odd_sizes tensor=2"]="tensor"
)
# compare RANKS MODEL [option...]: the program's exit code; what it says is in compare.log.
compare() {
  local ranks=$1 model=$2 code=0
  shift 2
  "$mpirun" -n "$ranks" --oversubscribe --bind-to none "$jambalaya" compare "$goldens/$model" --threads 1 "$@" \
    >compare.log 2>&1 </dev/null || code=$?
  return $code
}

passed=0 refused=0
# holds RANKS MODEL "NAME=VALUE ..." [option...]: options of parallel, the first of which the table above knows.
holds() {
  local ranks=$1 model=$2 layout=$3 code=0 options=()
  for setting in $layout; do options+=(--set "parallel.$setting"); done
  compare "$ranks" "$model" "${options[@]}" "${@:4}" || code=$?
  local reason=${inadmissible["$model ${layout%% *}"]:-}
  if [ -n "$reason" ]; then
    [ $code -eq 4 ] || fail "$model admits no ${layout%% *}, but it ended with $code"
    grep -q "parallel: $reason = 2" compare.log || fail "$model, $layout: the refusal does not say that $reason = 2 does not fit"
    grep -Eq "data=[0-9]+ context=[0-9]+ tensor=[0-9]+ expert=[0-9]+" compare.log ||
      fail "$model, $layout: the refusal lists no layout that fits"
    refused=$((refused + 1))
    return
  fi
  [ $code -eq 0 ] || fail "$model on $ranks ranks with $layout ${*:4} ended with $code"
  grep -q "$model: passed" compare.log || fail "$model on $ranks ranks with $layout ${*:4} says nothing"
  passed=$((passed + 1))
}

models=()
for file in "$goldens"/*/expected.safetensors; do models+=("$(basename "$(dirname "$file")")"); done
[ ${#models[@]} -ge 9 ] || fail "only ${#models[@]} recorded models: ${models[*]}"
for model in "${models[@]}"; do
  holds 2 "$model" tensor=2
  holds 2 "$model" expert=2  # the experts of two data ranks
  holds 2 "$model" data=2
  holds 2 "$model" "data=2 sharding=full"
  holds 2 "$model" context=2
  # Rows are of equal length, so that two context ranks may meet where a document ends; three do not.
  holds 3 "$model" context=3
done
# bf16. Not hybrid_moe: rounding alone moves its near-cancelling gradients of 2 numbers beyond any useful bound.
for layout in tensor=2 "data=2 sharding=full" context=2; do holds 2 dense "$layout" --precision bf16; done
for layout in tensor=2 expert=2; do holds 2 tied_biased "$layout" --precision bf16; done
holds 3 tied_biased context=3 --precision bf16
holds 2 hybrid_moe "tensor=2 sequence=false expert_tensor=2"
holds 4 hybrid_moe "tensor=2 context=2 expert=2 sharding=optimizer"
[ $refused -eq ${#inadmissible[@]} ] || fail "$refused layouts were refused, not ${#inadmissible[@]}"
echo "recorded models under layouts: $passed passed, $refused refused as they must be"
