#!/usr/bin/env python3
"""Writes pieces.jsonl: how Hugging Face tokenizers 0.23.3 splits awkward strings by three patterns.

    v/bin/pip install tokenizers==0.23.3;  v/bin/python make_pieces.py > pieces.jsonl
A line: the pattern's name, the text, the length of each piece in bytes.
"""
import json, random
from tokenizers import Regex, pre_tokenizers

TAIL = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PATTERNS = {
    "default": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|" + TAIL,
    "llama3": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|" + TAIL,
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
}
POOLS = [" \t\r\n", "  ", "'", "''\u017f", "sSdDmMtTlLrRvVeE", "abcXYZ", "0123456789", ".,;:!?-_()[]{}\"", "éñüßøÅ", "абвЖ", "中文字",
         "हिंदी", "\u0301\u0308", "\u00a0\u2003\u3000\u0085\u2028\u200b", "😀👍🏽", "١٢½Ⅷ²", "\ufeff\u0000\u0007\U0010ffff",
         # from Unicode 15.1 and 16: a letter, a number; unassigned in 16
         "\U0002ebf0\U0001e5d0\u1c89", "\U0001ccf0\U00010d40", "\U0001ccfa\u0378"]
r = random.Random(7)
texts = ["", " ", "x", "\n", "don't DON'T '\u017f x'\u017ft 'LL 'lL 'l", "a\r\n\r\n b\n\n", "\n\n  \n  x  ", "2024-01-31 1234567 ١٢٣", "a" * 70,
         "abcdefghijklmnopé", "abcdefghijklmnop1", "The quick brown fox\u2019s 3.5 km"]
for _ in range(300):
    few = r.sample(POOLS, r.randint(1, 5))
    texts.append("".join(r.choice(r.choice(few)) for _ in range(r.randint(1, 24))))
for name, pattern in PATTERNS.items():
    split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    for text in texts:
        print(json.dumps([name, text, [len(p.encode()) for p, _ in split.pre_tokenize_str(text)]]))
