#!/usr/bin/env python3
"""Times training steps of transformers' Jamba at the shape of configs/benchmark.yaml and prints one line of JSON.

    train_transformers.py --precision bf16 --path mambapy --threads 2 --steps 3

The library's own loop over tokens is not offered: its backward costs the square of the length (170 s a step at 512
tokens). What users can turn to instead:
    mambapy    use_mambapy = True: a parallel scan in torch
    compile    torch.compile of the whole model over torch's associative scan; minutes of compilation
Tokens are random: the speed does not depend on them. Needs torch, transformers and mambapy (see scripts/bench).
"""
import argparse
import json
import statistics
import sys
import time

import torch
import transformers

ROWS, LENGTH = 4, 512


def benchmark_config(path):
    """configs/benchmark.yaml in transformers' words."""
    return transformers.JambaConfig(
        vocab_size=8192, hidden_size=256, intermediate_size=512, num_hidden_layers=8, num_attention_heads=4, num_key_value_heads=2,
        attn_layer_period=8, attn_layer_offset=4, expert_layer_period=2, expert_layer_offset=1, num_experts=4, num_experts_per_tok=2,
        mamba_d_state=16, mamba_d_conv=4, mamba_expand=2, router_aux_loss_coef=0.01, tie_word_embeddings=True, use_mambapy=path == "mambapy")


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    p.add_argument("--path", choices=("mambapy", "compile"), default="mambapy")
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--steps", type=int, default=3, help="timed steps, after one that warms up")
    return p.parse_args()


def main():
    a = arguments()
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(a.threads)
    torch.manual_seed(1)
    model = transformers.JambaForCausalLM(benchmark_config(a.path)).train()
    forward = torch.compile(model) if a.path == "compile" else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, foreach=True)
    tokens = torch.randint(4, 8192, (ROWS, LENGTH))

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=a.precision == "bf16"):
            loss = forward(input_ids=tokens, labels=tokens, output_router_logits=True, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.item()

    warm_up = time.perf_counter()
    step()
    warm_up = time.perf_counter() - warm_up
    wall, cpu = [], []
    for _ in range(a.steps):
        wall_start, cpu_start = time.perf_counter(), time.process_time()
        loss = step()
        wall.append(time.perf_counter() - wall_start)
        cpu.append(time.process_time() - cpu_start)
        print(f"{wall[-1]:.2f} s, {cpu[-1]:.2f} s of CPU, loss {loss:.3f}", file=sys.stderr, flush=True)
    print(json.dumps({"seconds": wall, "cpu_seconds": statistics.median(cpu), "warm_up_seconds": warm_up, "tokens": ROWS * LENGTH,
                      "parameters": sum(p.numel() for p in model.parameters()),
                      "versions": {"torch": torch.__version__, "transformers": transformers.__version__}}))


main()
