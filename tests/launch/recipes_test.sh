#!/usr/bin/env bash
# The recipes of docs/cuda.md and docs/multi_node.md, as they stand there: each is started with as many ranks as it asks
# for, on emulated devices with the memory that its comment names, and must come through every check of layout and memory
# up to the data, which are not there. Several hosts become one with all their ranks.
#
#   tests/launch/recipes_test.sh JAMBALAYA MPIRUN EMULATED_LIBRARY [NCCL_LIBRARY]
set -euo pipefail
tree=$(cd "$(dirname "$0")/../.." && pwd)
jambalaya=$1 mpirun=$2
export JAMBALAYA_CUDA_LIBRARY=$3 JAMBALAYA_EMULATED_OPS=cpu OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
[ $# -lt 4 ] || export JAMBALAYA_NCCL_LIBRARY=$4
folder=$(mktemp -d "${TMPDIR:-/tmp}/jambalaya-test-XXXXXX")
trap 'rm -rf "$folder"' EXIT
cd "$folder"
ln -s "$tree/configs" configs

fail() {
  echo "FAILED: $*"
  [ ! -e said ] || cut -c 1-400 said
  exit 1
}

# Commands of a page, each on one line with its comment; a prompt before it is left out.
recipes() { sed -e ':a' -e '/\\$/{N;s/ *\\\n */ /;ba' -e '}' "$1" | sed -n 's/^\(\$ \)\{0,1\}\(\(scripts\/launch\|sbatch\) .*\)/\2/p'; }

# start RANKS BYTES OPTION...: ends as the program does; its words in `said`.
start() {
  local ranks=$1
  export JAMBALAYA_EMULATED_DEVICES=$1 JAMBALAYA_EMULATED_MEMORY=$2
  shift 2
  code=0
  "$tree/scripts/launch" --jambalaya "$jambalaya" --mpirun "$mpirun" --restarts 0 --gpus-per-node "$ranks" "$@" \
    >said 2>&1 </dev/null || code=$?
}

# recipe COMMAND # HOSTS hosts, RANKS GPUs each with N GB
recipe() {
  [[ $1 =~ ^(.*[^ ])\ +\#\ ([0-9]+)\ hosts?,\ ([0-9]+)\ (GPUs|ranks)\ each\ with\ ([0-9]+)\ GB$ ]] ||
    fail "no comment names hosts, GPUs or ranks, and GB: $1"
  local command=${BASH_REMATCH[1]} hosts=${BASH_REMATCH[2]} each=${BASH_REMATCH[3]} what=${BASH_REMATCH[4]}
  local gigabytes=${BASH_REMATCH[5]} words
  case "$what $command" in
    *sbatch*"--nodes=$hosts "*"--ntasks-per-node=$each "* | 'GPUs '*"launch --gpus-per-node $each "* | 'ranks '*launch*) ;;
    *) fail "words and comment differ: $1" ;;
  esac
  read -ra words <<<"configs/${command#* configs/}"
  start $((hosts * each)) $((gigabytes * 1000000000)) "${words[@]}"
  [ $code -eq 3 ] && grep -q 'data: no manifest.json' said || fail "ended with $code, not at the data: $1"
  echo "passed: $command"
}

all_recipes() {
  local page line
  for page in cuda multi_node; do
    recipes "$tree/docs/$page.md" >"$page"
    [ "$(wc -l <$page)" -ge 2 ] || fail "docs/$page.md has fewer than two recipes"
    while IFS= read -r line; do recipe "$line"; done <"$page"
  done
}

# What the page says of layouts that do not fit.
what_does_not_fit_is_refused() {
  start 8 80000000000 configs/jamba-v0.1.yaml --set data.folder=data --set parallel.tensor=8
  [ $code -eq 2 ] && grep -q '1 rank on GPU .* would need 78[0-9]\{4\} MiB' said || fail "experts left whole: ended with $code"
  start 8 80000000000 configs/jamba-v0.1.yaml --set data.folder=data --set parallel.expert=8 --set parallel.sharding=full
  [ $code -eq 2 ] && grep -q '1 rank on GPU .* would need 11[0-9]\{4\} MiB' said || fail "8 GPUs of 80 GB: ended with $code"
}

for check in all_recipes what_does_not_fit_is_refused; do
  $check
  echo "passed: $check"
done
