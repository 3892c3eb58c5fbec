#include "train/commands/help_text.h"

#include "kernels/error.h"

namespace jambalaya {

namespace {

const HelpText kHelp[] = {
    {"", "Trains hybrid Transformer-Mamba-MoE language models (Jamba), from text to a model that generates.",
     R"(  jambalaya tokenizer train --vocab-size 4096 --output tokenizer.json books/*.txt
  jambalaya data encode --tokenizer tokenizer.json --output data books/*.txt
  mpirun -n 2 --bind-to none jambalaya train configs/readme.yaml --set data.folder=data
  jambalaya generate runs/readme --prompt "The whale")",
     "jambalaya COMMAND --help explains each command; exit codes are listed in docs/exit_codes.md."},
    {"tokenizer",
     "Make and use byte-level BPE tokenizers (tokenizer.json, as Hugging Face reads and writes it).",
     "  jambalaya tokenizer train --vocab-size 4096 --output tokenizer.json books/*.txt",
     "jambalaya tokenizer train --help"},
    {"tokenizer train", "Learn a byte-level BPE vocabulary from text.",
     "  jambalaya tokenizer train --vocab-size 4096 --output tokenizer.json books/*.txt",
     "encode the same text with `jambalaya data encode`. A vocabulary above the model's vocab_size cannot be "
     "trained on."},
    {"tokenizer encode", "Print the token ids of a text, one line for each document.",
     "  jambalaya tokenizer encode --tokenizer tokenizer.json chapter.txt",
     "compare with another tokenizer, or go on with `jambalaya data encode`."},
    {"tokenizer decode", "Print the text of token ids, a document for each line of ids.",
     R"(  jambalaya tokenizer encode --tokenizer tokenizer.json chapter.txt | jambalaya tokenizer decode --tokenizer tokenizer.json
  jambalaya tokenizer decode --tokenizer tokenizer.json --json documents.jsonl)",
     "without --json the texts are written exactly and nothing between them."},
    {"data", "Turn text into shards of token ids that training reads, and look at them.",
     "  jambalaya data encode --tokenizer tokenizer.json --output data books/*.txt",
     "jambalaya data encode --help"},
    {"data encode",
     "Encode text into checksummed shards of token ids, a part of the documents held out for evaluation.",
     R"(  jambalaya data encode --tokenizer tokenizer.json --output data books/*.txt
  jambalaya data encode --tokenizer tokenizer.json --output data --split-on blank-lines dictionary.txt.gz)",
     "`jambalaya data inspect data`, then `jambalaya train CONFIG --set data.folder=data`."},
    {"data inspect", "Show what an encoded folder holds: shards, documents, tokens, held-out part.",
     "  jambalaya data inspect data --tokenizer tokenizer.json --documents 3",
     "`jambalaya train CONFIG --set data.folder=data`."},
    {"train", "Pretrain a model as a config says; alone, or as the ranks of mpirun.",
     R"(  jambalaya train configs/readme.yaml --set train.steps=500
  mpirun -n 2 --bind-to none jambalaya train configs/readme.yaml --resume auto
  mpirun -n 8 --bind-to none jambalaya train configs/readme.yaml --device cuda)",
     "`jambalaya generate` and `jambalaya evaluate` on the run's folder. kill -USR1 saves and leaves with "
     "exit code 75; "
     "start again with --resume auto."},
    {"evaluate", "Measure a model: held-out nats/token and bits/byte, or multiple-choice questions.",
     R"(  jambalaya evaluate runs/readme --data data
  jambalaya evaluate runs/readme --choices questions.jsonl --json
  mpirun -n 4 --bind-to none jambalaya evaluate runs/readme --data data --set parallel.expert=2)",
     "compare two runs by bits/byte: it does not depend on the tokenizer."},
    {"generate", "Continue a prompt.",
     "  jambalaya generate runs/readme --prompt \"The whale\" --max-tokens 100 --temperature 0.8\n"
     "  mpirun -n 2 --bind-to none jambalaya generate runs/readme --prompt \"The whale\" --set "
     "parallel.expert=2",
     "`jambalaya export` makes the model usable elsewhere."},
    {"export", "Write a model in Hugging Face's layout (config.json, safetensors, tokenizer files).",
     "  jambalaya export runs/readme --output jambalaya-tiny --dtype bf16",
     "load it with transformers' JambaForCausalLM.from_pretrained. What Hugging Face cannot express: "
     "--format native."},
    {"import", "Make a checkpoint from a folder in Hugging Face's layout or from a native export.",
     "  jambalaya import Jamba-tiny-random --output checkpoints/tiny",
     "`jambalaya generate`, or fine-tune with `jambalaya train checkpoints/tiny/config.yaml --set "
     "data.folder=DATA`: "
     "docs/tutorials/5-fine-tune.md."},
    {"compare",
     "Compute what another implementation recorded (logits, losses, gradients) and show the worst error of "
     "each.",
     "  jambalaya compare goldens/hybrid_moe --precision bf16",
     "exit code 0 means that everything is within tolerance, 17 that something is not; docs/numerics.md "
     "explains the figures."},
    {"compare-runs",
     "Name the first step and the first tensor in which two runs differ: two layouts, devices, versions or "
     "repetitions.",
     R"(  jambalaya compare-runs runs/one-rank runs/four-ranks --tolerance 1e-5
  jambalaya compare-runs runs/first runs/repeated
  jambalaya compare-runs runs/a/checkpoints/step-00000100 runs/b/checkpoints/step-00000100)",
     R"(exit code 0 means equal, 17 different. What differs first tells where to look:
  - the loss of step 1: the weights at the start, the batch, or the forward pass;
  - the gradient norm of a step whose loss is equal: the backward pass or a sum over ranks;
  - a later loss: the update before it. Save more often around it (checkpoint.every=1, keep_last=100) and
    compare again: the first tensor's adam_m says that its gradient differed, param alone the update.
Several layouts add in other orders: 1e-6 to 1e-4 in fp32 is rounding and grows with the steps.)"},
    {"report",
     "Write a page of a run (one HTML file): curves, layers, samples, where the time went, config, "
     "environment.",
     "  jambalaya report runs/readme\n  jambalaya report runs/readme --output readme.html",
     "open the file in a browser. A run at work writes its page at checkpoints and at its end."},
    {"inspect", "Show what a checkpoint, a run, a config or a tokenizer is: layers, parameters, state, ids.",
     "  jambalaya inspect configs/jamba-v0.1.yaml\n  jambalaya inspect tokenizer.json",
     "`jambalaya config` prints every value of a config."},
    {"doctor",
     "Show what this machine offers (CPU, GPUs, threads, MPI, memory, disk, limits) and what to change.",
     "  jambalaya doctor\n  mpirun -n 2 --bind-to none jambalaya doctor\n"
     "  mpirun -n 4 --bind-to none jambalaya doctor config.yaml --set parallel.tensor=2",
     "follow its advice before a long run."},
    {"config", "Print the resolved config, every value written out, after checking it.",
     R"(  jambalaya config configs/readme.yaml --set model.notation=8/1:7
  jambalaya config --reference)",
     "`jambalaya train` with the same config and --set."},
    {"completion", "Print a script that completes commands, options and config keys in a shell.",
     R"(  source <(jambalaya completion bash)
  jambalaya completion zsh > ~/.zfunc/_jambalaya)",
     "an installed program has both scripts in their places (docs/install.md)."},
    {"man", "Print the manual page: every command, option and config key.",
     R"(  jambalaya man | man -l -
  jambalaya man > jambalaya.1)",
     "`man jambalaya` where the program is installed."},
};

}  // namespace

std::string HelpText::footer() const { return cat("\nExample:\n", example, "\n\nNext: ", next); }

const HelpText& help_of(const std::string& command) {
  for (const auto& help : kHelp)
    if (command == help.command) return help;
  JAMBALAYA_CHECK(false, "no help for the command ", command);
  return kHelp[0];
}

std::string version_text() { return "jambalaya " JAMBALAYA_VERSION; }

}  // namespace jambalaya
