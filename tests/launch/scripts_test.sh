#!/usr/bin/env bash
# What is not meant starts nothing: scripts explain themselves and refuse what they do not know with 2, and a wrong
# option of the CUDA build ends the configuration instead of becoming a build for the CPU.
#
#   tests/launch/scripts_test.sh CMAKE
set -euo pipefail
cmake=$1 python=$(python3 -c 'import sys; print(sys.executable)')
tree=$(cd "$(dirname "$0")/../.." && pwd)
folder=$(mktemp -d "${TMPDIR:-/tmp}/jambalaya-test-XXXXXX")
trap 'rm -rf "$folder"' EXIT
cd "$folder"

fail() {
  echo "FAILED: $*"
  [ ! -e said ] || cat said
  exit 1
}
# said CODE WORDS COMMAND...: ends with this code and says these words. Programs that a script would start are not found.
said() {
  local want=$1 words=$2 code=0
  shift 2
  env PATH="$folder/programs" "$@" >said 2>&1 </dev/null || code=$?
  [ $code -eq "$want" ] || fail "$* ended with $code, not $want"
  grep -q -- "$words" <<<"$(tr -s '\n ' ' ' <said)" || fail "$* does not say: $words"
}

# Only what reads and prints: a script that goes on finds no compiler, no package manager and no mpirun.
mkdir programs
for tool in bash sed dirname; do ln -s "$(command -v $tool)" programs/$tool; done

scripts_explain_themselves_and_refuse_typos() {
  local script
  for script in build test quickstart; do
    said 0 "scripts/$script" bash "$tree/scripts/$script" --help
    said 2 "$script: unknown .* --hlep (see --help)" bash "$tree/scripts/$script" --hlep
  done
  said 2 "build: unknown option -x" bash "$tree/scripts/build" jambalaya -x
  STEPS=many said 2 "STEPS=many is not a whole number" bash "$tree/scripts/quickstart"
  said 2 "not in a Slurm job" bash "$tree/scripts/slurm_train.sbatch" config.yaml
  said 0 "usage: " "$python" "$tree/scripts/launch" --help
  # -S: without installed packages.
  said 0 "pip install tokenizers" "$python" -S "$tree/scripts/compare_tokenizers.py" --help
  said 2 "no package .tokenizers." "$python" -S "$tree/scripts/compare_tokenizers.py" --binary x text
}

# option CODE WORDS OPTION...: of the CUDA build, beside the usual ones.
option() {
  local want=$1 words=$2
  shift 2
  said "$want" "$words" "$cmake" -DJAMBALAYA_CUDA=auto -DJAMBALAYA_CUDA_ARCHITECTURES=90 "$@" -P "$tree/kernels/cuda/options.cmake"
}

wrong_options_of_the_build_are_refused() {
  unset CUDACXX
  option 0 ""
  option 1 "JAMBALAYA_CUDA=yes: give auto" -DJAMBALAYA_CUDA=yes
  option 0 "" -DJAMBALAYA_CUDA=OFF -DJAMBALAYA_CUDA_ARCHITECTURES=
  option 0 "" "-DJAMBALAYA_CUDA_ARCHITECTURES=80;100"
  local wrong
  for wrong in 70 abc 9 90x "80;75" 8.0; do
    option 1 "is not a compute capability of 80 or higher .* give it as \"80;90\"" "-DJAMBALAYA_CUDA_ARCHITECTURES=$wrong"
  done
  option 1 "JAMBALAYA_CUDA_ARCHITECTURES is empty" -DJAMBALAYA_CUDA_ARCHITECTURES=
  option 1 "JAMBALAYA_CUDNN_FRONTEND=/nosuch: neither" -DJAMBALAYA_CUDNN_FRONTEND=/nosuch
  mkdir -p frontend/include && touch frontend/include/cudnn_frontend.h
  option 0 "" -DJAMBALAYA_CUDNN_FRONTEND="$folder/frontend"
  option 0 "" -DJAMBALAYA_CUDNN_FRONTEND="$folder/frontend/include"
  export CUDACXX=/nosuch/nvcc
  option 1 "CUDACXX=/nosuch/nvcc: no such program"
  option 0 "" -DJAMBALAYA_CUDA=off
  CUDACXX=
  option 0 ""
  CUDACXX="sed -n"
  option 0 ""
}

for check in scripts_explain_themselves_and_refuse_typos wrong_options_of_the_build_are_refused; do
  $check
  echo "passed: $check"
done
