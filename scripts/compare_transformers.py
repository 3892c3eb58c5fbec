#!/usr/bin/env python3
"""Loads an exported folder with Hugging Face transformers and compares it with a golden (a longer check, not in CI).

    compare_transformers.py EXPORTED [GOLDEN]

Fails unless no key is missing, unexpected or mismatched; with GOLDEN, unless every tensor is equal to its
model.safetensors and the fp32 logits are within 1e-4 of its expected.safetensors. Needs torch, transformers and
safetensors from PyPI.
"""
import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM


def main():
    exported = sys.argv[1]
    model, info = AutoModelForCausalLM.from_pretrained(
        exported, output_loading_info=True, dtype=torch.float32, attn_implementation="eager",
        experts_implementation="eager")  # the grouped product refuses rows that are not multiples of 16 bytes
    for key in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info[key]:
            sys.exit(f"{exported}: {key}: {sorted(info[key])[:5]}")
    print(f"{exported}: loaded, no missing, unexpected or mismatched keys")
    if len(sys.argv) < 3:
        return
    golden = sys.argv[2]
    reference = AutoModelForCausalLM.from_pretrained(golden, dtype=torch.float32).state_dict()
    for name, tensor in model.state_dict().items():
        if not torch.equal(tensor, reference[name]):
            sys.exit(f"{name}: differs from {golden}")
    expected = load_file(f"{golden}/expected.safetensors")
    with torch.no_grad():
        logits = model.eval()(expected["input_ids"].long()).logits
    worst = (logits.double() - expected["logits"].double()).abs().max().item()
    print(f"all tensors equal; largest logit difference {worst:.2e}")
    if not worst <= 1e-4:
        sys.exit("logits differ by more than 1e-4")


if __name__ == "__main__":
    main()
