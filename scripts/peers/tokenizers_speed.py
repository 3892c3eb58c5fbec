#!/usr/bin/env python3
"""Times BPE training and encoding by tokenizers, and encoding by tiktoken, and prints one line of JSON.

    tokenizers_speed.py TEXT --tokenizer tokenizer.json

TEXT is UTF-8. The vocabulary that encodes is read from tokenizer.json (ours: both train the same merges), the size to
train is its size. Threads: RAYON_NUM_THREADS. Needs tokenizers and tiktoken (see scripts/bench).
"""
import argparse
import json
import time

import tiktoken
import tokenizers
from tokenizers import Regex, models, pre_tokenizers, trainers


def bytes_of_characters():
    """Byte-level BPE writes bytes as printable characters: those that print stand for themselves, others from U+0100 on."""
    printable = [b for b in range(256) if chr(b).isprintable() and not chr(b).isspace()]
    others = [b for b in range(256) if b not in printable]
    return {**{chr(b): b for b in printable}, **{chr(256 + i): b for i, b in enumerate(others)}}


def train(text, stored):
    tokenizer = tokenizers.Tokenizer(models.BPE())
    pattern = stored["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
                                                       pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.train([text], trainers.BpeTrainer(vocab_size=len(stored["model"]["vocab"]), show_progress=False,
                                                special_tokens=[t["content"] for t in stored["added_tokens"]],
                                                initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))


def tiktoken_of(stored):
    specials = {t["content"]: t["id"] for t in stored["added_tokens"]}
    back = bytes_of_characters()
    ranks = {bytes(back[c] for c in word): i for word, i in stored["model"]["vocab"].items() if word not in specials}
    pattern = stored["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]
    return tiktoken.Encoding("benchmark", pat_str=pattern, special_tokens=specials, mergeable_ranks=ranks)


def timed(work):
    start = time.perf_counter()
    answer = work()
    return time.perf_counter() - start, answer


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("text")
    p.add_argument("--tokenizer", required=True)
    a = p.parse_args()
    stored = json.load(open(a.tokenizer, encoding="utf8"))
    text = open(a.text, encoding="utf8", newline="").read()
    pieces = [text[i:i + 100_000] for i in range(0, len(text), 100_000)]
    train_seconds, _ = timed(lambda: train(a.text, stored))
    ours = tokenizers.Tokenizer.from_file(a.tokenizer)
    encode_seconds, encoded = timed(lambda: ours.encode_batch_fast(pieces, add_special_tokens=False))
    tik = tiktoken_of(stored)
    tik_seconds, tik_encoded = timed(lambda: [tik.encode_ordinary(piece) for piece in pieces])
    print(json.dumps({"train_seconds": train_seconds, "encode_seconds": encode_seconds, "tiktoken_encode_seconds": tik_seconds,
                      "bytes": len(text.encode()), "tokens": sum(len(e.ids) for e in encoded),
                      "tiktoken_same_ids": sum(e.ids == t for e, t in zip(encoded, tik_encoded)) / len(pieces),
                      "versions": {"tokenizers": tokenizers.__version__, "tiktoken": tiktoken.__version__}}))


main()
