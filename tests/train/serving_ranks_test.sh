#!/usr/bin/env bash
# generate and evaluate under mpirun: the same tokens and scores as one rank, whatever the layout.
#
#   tests/train/serving_ranks_test.sh JAMBALAYA MPIRUN
set -euo pipefail
source "$(dirname "$0")/../support/small_run.sh" "$@"

# ranks N COMMAND...: the program on N ranks; its standard output alone.
ranks() {
  local n=$1
  shift
  "$mpirun" -n "$n" --oversubscribe --bind-to none "$jambalaya" "$@" 2>>serving.log </dev/null
}

questions() {
  for i in 1 2 3 4 5; do
    echo "{\"prompt\": \"tea noise $i\", \"choices\": [\" rail\", \" toast and tin\", \" s\"], \"answer\": 1}"
  done
}

# Three samples drawn at random, prompt in chunks of 5: each data rank has one or two, with 4 some have none.
generation=(generate run --prompt "this is a rather" --samples 3 --max-tokens 12 --prefill-chunk 5 --threads 1 --json)
ids() { tr -d ' \n' | grep -o '"ids":\[[0-9,]*\]'; }
scores() { tr -d ' \n' | tr ',{}[]' '\n' | grep -E '^("(held|acc|targets|questions)[^:]*":)?-?[0-9.e+-]+$' | sed 's/.*://'; }

same_tokens_and_scores() {
  local n=$1
  shift
  local options=() got
  for setting in "$@"; do options+=(--set "parallel.$setting"); done
  got=$(ranks "$n" "${generation[@]}" "${options[@]}" | ids) || fail "generate on $n ranks with $* ended with $?"
  [ "$got" = "$want_ids" ] || fail "generate on $n ranks with $* gave other tokens: $got"
  same_scores "$n" "$@"
}

same_scores() {
  local n=$1
  shift
  local options=()
  for setting in "$@"; do options+=(--set "parallel.$setting"); done
  ranks "$n" evaluate run --data data --choices questions.jsonl --sequence-length 24 --batch 1 --threads 1 --json \
    "${options[@]}" | scores >got.scores || fail "evaluate on $n ranks with $* ended with $?"
  paste want.scores got.scores | awk -v what="$n ranks, $*" '
    NF != 2 { bad = 1 }
    { d = $1 - $2; if (d < 0) d = -d; s = $1 < 0 ? -$1 : $1; if (d > worst * s) worst = d / s }
    END { print what ": largest relative difference of", NR, "scores", worst + 0; exit bad || NR < 15 || worst > 1e-5 }' ||
    fail "evaluate on $n ranks with $* gave other scores"
}

# refused CODE WORDS N COMMAND...
refused() {
  local code=0 want=$1 words=$2
  shift 2
  "$mpirun" -n "$1" --oversubscribe --bind-to none "$jambalaya" "${@:2}" >refused.log 2>&1 </dev/null || code=$?
  [ $code -eq "$want" ] || fail "${*:2} ended with $code, not $want"
  grep -q "$words" refused.log || fail "${*:2} does not say: $words"
}

# Commands that are one process: refused once, by one rank, before they write anything.
one_process_alone() {
  for command in "export run --output written" "tokenizer train --vocab-size 300 --output written text.txt" \
    "data encode --tokenizer tokenizer.json --output written text.txt" "inspect run"; do
    # shellcheck disable=SC2086
    refused 2 "this command is one process" 2 $command
    [ "$(grep -c "one process" refused.log)" -eq 1 ] || fail "$command was refused more than once"
    [ ! -e written ] || fail "$command wrote something all the same"
  done
}

prepare >prepare.log 2>&1 || fail "the data could not be made"
"$jambalaya" train config.yaml --set run.folder=run --set train.steps=4 >train.log 2>&1 || fail "training ended with $?"
questions >questions.jsonl
want_ids=$("$jambalaya" "${generation[@]}" 2>>serving.log | ids) || fail "generate on one rank ended with $?"
[ "$(wc -l <<<"$want_ids")" -eq 3 ] || fail "one rank gave no three samples: $want_ids"
"$jambalaya" evaluate run --data data --choices questions.jsonl --sequence-length 24 --batch 1 --threads 1 --json \
  2>>serving.log | scores >want.scores || fail "evaluate on one rank ended with $?"

same_tokens_and_scores 2 tensor=2
same_tokens_and_scores 2 tensor=2 sequence=false expert=2
same_tokens_and_scores 2 data=2
same_tokens_and_scores 4 tensor=2 expert=2 expert_tensor=2
same_tokens_and_scores 4 expert=4
# Held-out rows of 24 tokens are cut over context ranks.
same_scores 2 context=2
same_scores 4 context=2 tensor=2
same_scores 4 context=4 expert=2
one_process_alone
refused 6 "no such folder" 2 evaluate nowhere --data data
refused 4 "parallel.context" 2 "${generation[@]}" --set parallel.context=2
refused 4 "admi\|valid" 2 "${generation[@]}" --set parallel.tensor=3
refused 2 "only parallel" 2 "${generation[@]}" --set model.hidden_size=8
echo "serving ranks: all well"
