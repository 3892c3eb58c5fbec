#!/usr/bin/env bash
# TensorBoard's own reader comes to the numbers of metrics.jsonl, also of a run that was killed and continued.
# 77 where Python has no tensorboard package (JAMBALAYA_PYTHON names another Python).
#
#   tests/train/tensorboard_reader_test.sh JAMBALAYA MPIRUN
set -euo pipefail
reader=$(cd "$(dirname "$0")" && pwd)/tensorboard_reader.py
python=${JAMBALAYA_PYTHON:-python3}
"$python" -c 'import tensorboard' 2>/dev/null || { echo "$python has no tensorboard"; exit 77; }
source "$(dirname "$0")/../support/small_run.sh" "$@"
prepare

"$jambalaya" train config.yaml --set run.folder=run >run.log 2>&1 || fail "a run"
"$python" "$reader" run 8 || fail "events of a run"
# Killed after it had said more than its newest checkpoint holds.
rm -r run/checkpoints/step-00000008
"$jambalaya" train config.yaml --set run.folder=run --set train.steps=6 --resume auto >>run.log 2>&1 || fail "a resume"
"$python" "$reader" run 6 || fail "events of a continued run"
