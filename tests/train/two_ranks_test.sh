#!/usr/bin/env bash
# The command itself as two ranks under mpirun: they train as one rank does on the whole batch, a run that was
# continued or stopped by a signal ends in the bits of the undisturbed one.
#
#   tests/train/two_ranks_test.sh JAMBALAYA MPIRUN
set -euo pipefail
source "$(dirname "$0")/../support/small_run.sh" "$@"

# train RUN [OPTION...]: one rank. ranks RUN [OPTION...]: two.
train() {
  local run=$1
  shift
  "$jambalaya" train config.yaml --set run.folder="$run" "$@" >>"$run.log" 2>&1 </dev/null
}
ranks() {
  local run=$1
  shift
  exec "$mpirun" -n 2 --oversubscribe --bind-to none "$jambalaya" train config.yaml --set run.folder="$run" "$@" \
    >>"$run.log" 2>&1 </dev/null
}

# Loss and gradient norm of each step.
figures() { sed -n 's/.*"loss": *\([^,]*\),.*"grad_norm": *\([^,]*\),.*/\1 \2/p' "$1/metrics.jsonl"; }
# All that a step says but what belongs to the machine and the moment.
said() { sed 's/"timing".*//' "$1/metrics.jsonl"; }
# hashes RUN STEP: of every tensor of a checkpoint, with its name and place.
hashes() {
  sed -n '/"tensors"/,$p' "$(printf '%s/checkpoints/step-%08d/manifest.json' "$1" "$2")" |
    grep -E '"(name|dataset|offset|hash)"' || true
}
# same_end WANT GOT STEP: two runs said the same and saved the same.
same_end() {
  local want got
  want=$(hashes "$1" "$3") got=$(hashes "$2" "$3")
  [ "$(grep -c '"hash": "[0-9a-f]\{32\}"' <<<"$want")" -ge 60 ] || fail "no hashes in the checkpoint of $1"
  [ "$want" = "$got" ] || fail "the checkpoints of $1 and $2 at step $3 differ"
  [ "$(said "$1" | wc -l)" -eq "$3" ] || fail "$1 did not write a line for each of $3 steps"
  [ "$(said "$1")" = "$(said "$2")" ] || fail "metrics.jsonl of $1 and $2 differ"
}

two_ranks_train_as_one() {
  (train one --set data.micro_batch=4) || fail "one rank ended with $?"
  (ranks straight) || fail "two ranks ended with $?"
  grep -q '"world_size": 2' straight/checkpoints/step-00000008/manifest.json || fail "there were no two ranks"
  paste <(figures one) <(figures straight) | awk '
    function off(a, b) { return a > b ? (a - b) / b : (b - a) / a }
    $1 > 0 && $2 > 0 && $3 > 0 && $4 > 0 {
      steps++
      if (off($1, $3) > loss) loss = off($1, $3)
      if (off($2, $4) > norm) norm = off($2, $4)
    }
    END {
      print "largest relative differences over", steps, "steps: losses", loss + 0 ", gradient norms", norm + 0
      exit !(steps == 8 && loss < 1e-6 && norm < 1e-5)
    }' || fail "two ranks do not train as one does on their whole batch"
}

resume_is_bit_exact() {
  (ranks resumed --set train.steps=4) || fail "the first half ended with $?"
  [ -d resumed/checkpoints/step-00000004 ] && [ ! -e resumed/checkpoints/step-00000008 ] || fail "no half-way checkpoint"
  (ranks resumed --resume auto) || fail "the second half ended with $?"
  same_end straight resumed 8
}

# The signal comes as soon as the first step is in the log, long before the last: these steps are few, so that
# ranks that share a core need not take turns too often, and large, so that a fast machine is not through already.
signal_saves_and_a_later_run_goes_on() {
  local steps=40 job code=0 tries=0
  local shape=(--set train.steps=$steps --set data.sequence_length=512 --set data.micro_batch=4
    --set checkpoint.every=20 --set log.evaluate_every=20)
  (ranks calm "${shape[@]}") || fail "the undisturbed run ended with $?"
  ranks stopped "${shape[@]}" &
  job=$!
  until [ -s stopped/metrics.jsonl ]; do
    sleep 0.02
    tries=$((tries + 1))
    [ $tries -lt 3000 ] || fail "the run did not begin"
  done
  kill -USR1 $job
  wait $job || code=$?
  [ $code -eq 75 ] || fail "a run stopped by SIGUSR1 ended with $code, not 75"
  local done
  done=$(wc -l <stopped/metrics.jsonl)
  [ "$done" -lt $steps ] || fail "the run was over before the signal"
  [ -d "$(printf 'stopped/checkpoints/step-%08d' "$done")" ] || fail "stopped after step $done, which was not saved"
  echo "stopped after step $done of $steps"
  (ranks stopped "${shape[@]}" --resume auto) || fail "the continued run ended with $?"
  same_end calm stopped $steps
}

prepare >prepare.log 2>&1 || fail "the data could not be made"
two_ranks_train_as_one
resume_is_bit_exact
signal_saves_and_a_later_run_goes_on
echo "two ranks: all well"
