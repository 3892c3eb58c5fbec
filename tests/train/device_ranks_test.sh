#!/usr/bin/env bash
# The program on the emulated device, whose ops are the CPU's: each command, alone and as ranks that share the device
# (staged transport), says and writes what it does on the CPU, bit by bit.
#
#   tests/train/device_ranks_test.sh JAMBALAYA MPIRUN EMULATED_LIBRARY
set -euo pipefail
library=$3
source "$(dirname "$0")/../support/small_run.sh" "$1" "$2"
export JAMBALAYA_CUDA_LIBRARY=$library JAMBALAYA_EMULATED_OPS=cpu

# train DEVICE RUN RANKS [OPTION...]
train() {
  local device=$1 run=$2 ranks=$3
  shift 3
  local launch=()
  [ "$ranks" -gt 1 ] && launch=("$mpirun" -n "$ranks" --oversubscribe --bind-to none)
  "${launch[@]}" "$jambalaya" train config.yaml --device "$device" --set run.folder="$run" "$@" >"$run.log" 2>&1 </dev/null
}
# All that a step says but what belongs to the machine and the moment; every tensor's hash, with its name and place.
said() { sed 's/"timing".*//' "$1/metrics.jsonl"; }
hashes() { sed -n '/"tensors"/,$p' "$(printf '%s/checkpoints/step-%08d/manifest.json' "$1" "$2")" |
  grep -E '"(name|dataset|offset|hash)"'; }
# same WHAT RUN RUN STEPS
same() {
  [ "$(said "$2" | wc -l)" -eq "$4" ] || fail "$1: $2 did not write a line for each of $4 steps"
  [ "$(said "$2")" = "$(said "$3")" ] || fail "$1: metrics.jsonl of $2 and $3 differ"
  [ "$(hashes "$2" "$4" | grep -c '"hash": "[0-9a-f]\{32\}"')" -ge 60 ] || fail "$1: no hashes in the checkpoint of $2"
  [ "$(hashes "$2" "$4")" = "$(hashes "$3" "$4")" ] || fail "$1: the checkpoints of $2 and $3 differ"
}

# layout RANKS SETTING...: trained under it on either device.
layout() {
  local ranks=$1 name=$1 options=()
  shift
  for setting in "$@"; do
    options+=(--set "parallel.$setting")
    name+=-${setting/=/}
  done
  train cpu "cpu-$name" "$ranks" --set train.steps=4 "${options[@]}" || fail "$name on the CPU ended with $?"
  train cuda "cuda-$name" "$ranks" --set train.steps=4 "${options[@]}" || fail "$name on the device ended with $?"
  grep -q "device cuda: " "cuda-$name.log" || fail "$name does not tell its device"
  same "$name" "cpu-$name" "cuda-$name" 4
  echo "$name: the CPU's bits"
}

# Tokens, scores and files of a checkpoint.
serving() {
  local device
  echo '{"prompt": "tea noise", "choices": [" rail", " toast and tin"], "answer": 1}' >questions.jsonl
  for device in cpu cuda; do
    "$jambalaya" generate one-cuda --device $device --prompt "this is a rather" --samples 2 --max-tokens 10 \
      --prefill-chunk 5 --threads 1 --json 2>>serving.log </dev/null | tr -d ' \n' | grep -o '"ids":\[[0-9,]*\]' \
      >$device.ids || fail "generate on $device ended with $?"
    "$jambalaya" evaluate one-cuda --device $device --data data --choices questions.jsonl --sequence-length 24 --batch 1 \
      --threads 1 --json >$device.scores 2>>serving.log </dev/null || fail "evaluate on $device ended with $?"
    "$jambalaya" export "one-$device" --output "export-$device" >>serving.log 2>&1 || fail "export ended with $?"
  done
  [ "$(wc -l <cpu.ids)" -eq 2 ] && cmp cpu.ids cuda.ids || fail "generate gives other tokens on the device"
  [ "$(wc -c <cpu.scores)" -gt 100 ] && cmp cpu.scores cuda.scores || fail "evaluate gives other scores on the device"
  cmp export-cpu/model.safetensors export-cuda/model.safetensors || fail "export gives other weights"
  echo "serving: the CPU's tokens, scores and weights"
}

# refused CODE WORDS COMMAND...
refused() {
  local code=0 want=$1 words=$2
  shift 2
  "$@" >refused.log 2>&1 </dev/null || code=$?
  [ $code -eq "$want" ] || fail "$* ended with $code, not $want"
  grep -q "$words" refused.log || fail "$* does not say: $words"
}

# What is asked for and not there is refused with the reason; what was left open is told.
choice_of_device() {
  refused 2 "device cuda: no CUDA library here.*; --device cpu (or auto) computes on the CPU" env JAMBALAYA_CUDA_LIBRARY=/nowhere "$jambalaya" train config.yaml \
    --device cuda --set run.folder=refused
  refused 4 "parallel.transport = nccl cannot be used" "$mpirun" -n 2 --oversubscribe --bind-to none "$jambalaya" train \
    config.yaml --device cuda --set run.folder=refused --set parallel.transport=nccl
  refused 2 "1 rank on GPU [0-9a-f:.]* (emulated device) of host .* would need [0-9]* MiB" "$jambalaya" train config.yaml \
    --device cuda --set run.folder=refused --set model.hidden_size=16384 --set model.intermediate_size=65536
  # FAKE_NCCL: a NCCL for the emulated device, where there is one.
  [ -z "${FAKE_NCCL:-}" ] ||
    refused 2 "1 rank on GPU .* would need [0-9]* MiB (256 MiB of it an estimate of NCCL's own buffers), [0-9]* MiB are" \
      env "JAMBALAYA_NCCL_LIBRARY=$FAKE_NCCL" "$mpirun" -n 2 --oversubscribe --bind-to none "$jambalaya" train config.yaml \
      --device cuda --set run.folder=refused --set parallel.transport=nccl --set model.hidden_size=16384 \
      --set model.intermediate_size=65536
  # Without a GPU there is nothing that NCCL could move.
  for device in cpu auto; do
    refused 4 "parallel.transport = nccl cannot be used: .* compute on the cpu" env JAMBALAYA_CUDA_LIBRARY=/nowhere \
      "$mpirun" -n 2 --oversubscribe --bind-to none "$jambalaya" train config.yaml --device $device \
      --set run.folder=refused --set parallel.transport=nccl
  done
  [ ! -e refused/metrics.jsonl ] || fail "a refused run began"
  JAMBALAYA_CUDA_LIBRARY=/nowhere train auto auto 1 --set train.steps=3 || fail "auto without a library ended with $?"
  grep -q "device cpu (not cuda: .*no CUDA library here" auto.log || fail "auto does not say why it is not cuda"
  train auto auto2 1 --set train.steps=3 || fail "auto with a device ended with $?"
  grep -q "device cuda: " auto2.log || fail "auto did not take the device"
  JAMBALAYA_CUDA_LIBRARY=/nowhere "$jambalaya" doctor >doctor.log 2>&1 || fail "doctor ended with $?"
  grep -q "^gpu  *none: no CUDA library here" doctor.log || fail "doctor does not say why there is no GPU"
  "$jambalaya" doctor >doctor.log 2>&1 || fail "doctor ended with $?"
  grep -q "^gpu 0 .*compute capability" doctor.log || fail "doctor does not show the GPU"
  grep -q "^environment JAMBALAYA_CUDA_LIBRARY=" doctor.log || fail "doctor does not show the library's variable"
  if grep -q "^environment CUDA_MODULE_LOADING" doctor.log; then fail "doctor shows what nobody set"; fi
  JAMBALAYA_ISA=avx9 "$jambalaya" doctor >isa.log 2>&1 || fail "doctor ended with $?"
  grep -q "^advice  *JAMBALAYA_ISA=avx9: not an" isa.log || fail "doctor does not name the variable"
  if grep -q "this CPU has no AVX-512" isa.log; then fail "doctor judges the CPU by a wrong variable"; fi
  echo "devices are chosen and refused as documented"
}

# A GPU that the library has no kernels for: refused where it was asked for, told where it was not.
device_without_kernels() {
  local why="GPU 0 (emulated device) has compute capability 7.5"
  local -x JAMBALAYA_EMULATED_CAPABILITY=75
  refused 2 "device cuda: $why.*; --device cpu (or auto)" "$jambalaya" train config.yaml --device cuda --set run.folder=refused
  refused 2 "device cuda: $why.*; --device cpu (or auto)" "$jambalaya" evaluate one-cuda --device cuda --data data
  train auto auto3 1 --set train.steps=3 || fail "auto without kernels for the GPU ended with $?"
  grep -q "device cpu (not cuda: $why" auto3.log || fail "auto does not say why it is not cuda"
  "$jambalaya" evaluate one-cuda --data data --sequence-length 24 --batch 1 --threads 1 --json >auto.scores 2>auto4.log \
    </dev/null || fail "evaluate ended with $?"
  grep -q "warning: computing on the CPU, not on the GPU: $why" auto4.log || fail "evaluate does not warn"
  "$jambalaya" doctor >doctor.log 2>&1 || fail "doctor ended with $?"
  grep -q "^gpu 0  *cannot be used: $why" doctor.log || fail "doctor does not say why the GPU cannot be used"
  grep -q "^rank 0 .* cpu, " doctor.log || fail "doctor places a rank on a GPU that cannot be used"
  "$jambalaya" doctor --json | tr -d '\n ' | grep -q '"gpus":\[{"problem":"GPU0(' || fail "doctor --json lacks the reason"
  echo "a GPU without kernels: told"
}

# doctor_says WORDS OPTION...: as two ranks.
doctor_says() {
  local words=$1
  shift
  "$mpirun" -n 2 --oversubscribe --bind-to none "$jambalaya" doctor config.yaml "$@" >doctor.log 2>&1 ||
    fail "doctor $* ended with $?"
  grep -q "$words" doctor.log || fail "doctor $* does not say: $words"
}

# How tensors travel is told: before a run by doctor, and by its first lines.
choice_of_transport() {
  local -x JAMBALAYA_NCCL_LIBRARY=/nowhere/libnccl.so
  grep -q "^library  *kernels for .*; attention by own kernels alone" doctor.log || fail "doctor does not show the library"
  doctor_says "^transport  *over host memory and MPI" --set run.device=cuda
  doctor_says "^advice  *parallel.transport = nccl, but rank 0 on host .*: training would end with exit code 4" \
    --set run.device=cuda --set parallel.transport=nccl
  doctor_says "^advice  *parallel.transport = nccl, but the ranks compute on the CPU: .* exit code 4" \
    --set run.device=cpu --set parallel.transport=nccl
  train cuda staged 2 --set train.steps=3 --set parallel.transport=staged || fail "staged ended with $?"
  grep -q "device cuda: .*; tensors travel over host memory and MPI (parallel.transport = staged)" staged.log ||
    fail "a run does not tell that it is staged"
  if [ -n "${FAKE_NCCL:-}" ]; then
    JAMBALAYA_NCCL_LIBRARY=$FAKE_NCCL
    doctor_says "^transport  *NCCL" --set run.device=cuda --set parallel.transport=nccl
    train cuda nccl 2 --set train.steps=3 --set parallel.transport=nccl || fail "NCCL ended with $?"
    grep -q "device cuda: .*; tensors travel by NCCL [0-9]" nccl.log || fail "a run does not tell that it uses NCCL"
  fi
  echo "transports are told"
}

prepare >prepare.log 2>&1 || fail "the data could not be made"
for device in cpu cuda; do train $device one-$device 1 || fail "one rank on $device ended with $?"; done
same "one rank" one-cpu one-cuda 8
serving
choice_of_device
choice_of_transport
device_without_kernels
JAMBALAYA_EMULATED_DEVICES=1 layout 2 data=2  # both ranks on one GPU
layout 2 tensor=2
layout 2 expert=2
layout 2 context=2
layout 2 sharding=full
layout 2 sharding=optimizer
layout 4 tensor=2 expert=2 sharding=full
echo "device: all well"
