#!/usr/bin/env bash
# Runs docs/tutorials as they stand: every block marked ```bash, in order, in a folder with the repository's files.
# STEPS scales the trainings down, nothing else is changed. Blocks marked ```bash transformers are skipped, and it is
# said, where Python (JAMBALAYA_PYTHON, else python3) lacks torch or transformers.
#
#   tests/tutorials/tutorials_test.sh JAMBALAYA
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
python=$(command -v "${JAMBALAYA_PYTHON:-python3}" || true)
folder=$(mktemp -d "${TMPDIR:-/tmp}/jambalaya-test-XXXXXX")
readonly root folder python
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/bin" "$folder/clone"
ln -s "$(realpath "$1")" "$folder/bin/jambalaya"
[ -z "$python" ] || printf '#!/bin/sh\nexec "%s" "$@"\n' "$python" >"$folder/bin/python3"
[ -z "$python" ] || chmod +x "$folder/bin/python3"
cd "$folder/clone"
for name in configs docs scripts tests; do ln -s "$root/$name" $name; done
export PATH=$folder/bin:$PATH STEPS=${STEPS:-8} HOME=${HOME:-$folder}
export JAMBALAYA_CUDA_LIBRARY=$folder/none  # on the CPU, whatever the machine has

fail() {
  echo "FAILED: $*"
  [ ! -s log ] || tail -n 30 log
  exit 1
}

have_transformers=no
if [ -n "$python" ] && "$python" -c 'import torch, transformers, safetensors' 2>/dev/null; then have_transformers=yes; fi

# blocks FILE: a shell script of the file's bash blocks; each says where it stands, so that a failure names the line.
blocks() {
  awk -v file="$1" -v have="$have_transformers" '
    /^```bash( transformers)?$/ && !inside {
      inside = 1; skip = /transformers/ && have == "no"; count++
      if (skip) printf "echo \"SKIPPED: %s:%d needs torch and transformers\" >&3\n", file, NR
      else printf "echo \"== %s:%d\"; line=%d\n", file, NR, NR
      next
    }
    /^```/ && inside { inside = 0; next }
    /^```/ { other = !other; next }
    inside && !skip { print }
    END { if (inside || other) { print "exit 99" }; if (!count) print "exit 98" }' "$1"
}

# run FILE: its blocks in one shell.
run() {
  { echo 'set -euo pipefail'; echo 'trap "echo stopped in the block of line \$line" ERR'; blocks "$1"; } >"$folder/script"
  bash "$folder/script" 3>&2 >log 2>&1 || fail "$1 (exit code $?)"
}
# said PATTERN: the tutorial that was just run printed it.
said() { grep -Eq -- "$1" log || fail "nothing was said of: $1"; }
bits() { grep -oE '[0-9.]+ bits/byte' "$1" | head -n 1 | cut -d ' ' -f 1; }

cd "$folder/clone"
tutorials=$(cd docs/tutorials && ls [0-9]*.md)
[ "$(echo "$tutorials" | wc -l)" = 5 ] || fail "five tutorials are known here, there are: $tutorials"
for name in $tutorials; do
  grep -q "($name)" docs/tutorials/README.md || fail "docs/tutorials/README.md does not name $name"
  started=$SECONDS
  run "docs/tutorials/$name"
  case $name in
    1-*)
      said "step $STEPS/$STEPS .* held-out [0-9.]+ bits/byte"
      said '^LOVE, n\.' ;;
    2-*)
      said 'refused with exit code 3'
      said 'Dear reader' ;;
    3-*)
      said '"prompt": *"LOVE, n\."'
      said 'exit code 17: they differ' ;;
    4-*)
      said '^LOVE, n\.'
      [ $have_transformers = no ] || said 'huggingface: passed' ;;
    5-*)
      said 'SentencePiece-shaped'
      ! grep -q 'another tokenizer' log || fail "training warned of the model's own tokenizer"
      awk -v a="$(bits runs/tutorial/before.txt)" -v b="$(bits runs/tutorial/after.txt)" 'BEGIN { exit !(b + 0 > 0 && b < a) }' ||
        fail "held-out bits/byte before and after fine-tuning: $(bits runs/tutorial/before.txt), $(bits runs/tutorial/after.txt)"
      [ $have_transformers = no ] || said 'tuned-huggingface: passed' ;;
  esac
  echo "$name: ok ($((SECONDS - started)) s)"
done
