#!/usr/bin/env python3
"""Loads an exported folder with Hugging Face transformers and compares it with a golden (a longer check, not in CI).

    compare_transformers.py EXPORTED [GOLDEN]
    compare_transformers.py EXPORTED --record TEXT

Fails unless no key is missing, unexpected or mismatched; with GOLDEN, unless every tensor is equal to its
model.safetensors and the fp32 logits are within 1e-4 of its expected.safetensors. With --record, writes what
transformers computes for the first tokens of TEXT into EXPORTED/expected.safetensors: logits and loss, which
`jambalaya compare EXPORTED` then computes itself and compares. Needs torch, transformers and safetensors from PyPI.
"""
import sys

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer


def record(folder, model, text):
    """Two rows of 64 tokens, or of as many as the text has."""
    ids = AutoTokenizer.from_pretrained(folder)(text)["input_ids"][:128]
    ids = torch.tensor(ids[:len(ids) // 2 * 2]).reshape(2, -1)
    with torch.no_grad():
        out = model.eval()(ids, labels=ids, output_router_logits=model.config.num_experts > 1)
    tensors = {"input_ids": ids.int(), "labels": ids.int(), "logits": out.logits.float(), "loss": out.loss.reshape(1).float()}
    if out.aux_loss is not None:
        tensors["aux_loss"] = out.aux_loss.reshape(1).float()
    save_file({name: t.contiguous() for name, t in tensors.items()}, f"{folder}/expected.safetensors")
    print(f"{folder}/expected.safetensors: logits of {ids.numel()} tokens, loss {out.loss.item():.4f}")


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
    if sys.argv[2] == "--record":
        return record(exported, model, open(sys.argv[3], encoding="utf8").read())
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
