# What tests of the program under mpirun share: a folder of their own with text, tokenizer, data and a config, all
# small. Sourced with the arguments JAMBALAYA MPIRUN.
jambalaya=$1 mpirun=$2
folder=$(mktemp -d "${TMPDIR:-/tmp}/jambalaya-test-XXXXXX")
readonly folder  # removed at the end: no test may give the name another meaning
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$folder"' EXIT
source "$(dirname "${BASH_SOURCE[0]}")/made_up_data.sh"
cd "$folder"
export HOME=${HOME:-$folder}
export JAMBALAYA_CUDA_LIBRARY=$folder/none  # these tests compute on the CPU, whatever the machine has
export OMPI_MCA_mpi_yield_when_idle=1  # two ranks may share one core
if [ "$(id -u)" = 0 ]; then export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1; fi

fail() {
  echo "FAILED: $*"
  for log in "$folder"/*.log; do [ -s "$log" ] && echo "--- ${log##*/}" && tail -n 20 "$log"; done
  exit 1
}

# prepare: text of made-up words, a tokenizer of 300 ids, encoded documents and a config, all small.
prepare() {
  made_up_data 120 20
  cat >config.yaml <<'YAML'
schema_version: 1
run: {threads: 1}
model:
  vocab_size: 300
  hidden_size: 16
  intermediate_size: 24
  num_hidden_layers: 3
  mixer_pattern: MAM
  channel_pattern: EDE
  num_attention_heads: 2
  num_key_value_heads: 1
  num_experts: 4
  num_experts_per_tok: 2
  router_aux_loss_coef: 0.01
  mamba_d_state: 4
data: {folder: data, sequence_length: 32, micro_batch: 2}
# The rate does not depend on how many steps a run is given. With the usual eps Adam's first step would turn the
# last bit of a gradient that is nearly zero into a whole step.
optimizer: {lr: 1e-3, warmup_steps: 2, schedule: constant, eps: 1e-4}
train: {steps: 8}
checkpoint: {every: 4, keep_last: 100}
log: {every: 1, evaluate_every: 4, evaluate_tokens: 200}
YAML
}
