#!/usr/bin/env python3
"""Writes tokenizer.json, joined.json, variants.json and cases.jsonl: what Hugging Face tokenizers 0.23.3 makes of
texts with tokenizers of the shape that conversion from SentencePiece gives (characters, bytes for those that the
vocabulary lacks, U+2581 for blanks).

    v/bin/pip install tokenizers==0.23.3;  v/bin/python make_golden.py

tokenizer.json has the released Jamba models' shape: special ids 0 to 3, no blank put first, no pre-tokenizer. Its
merges were learned inside words; those of joined.json also across blanks. variants.json: for each name a file and
what changes in it: an RFC 7386 merge patch for "model", other members as they replace those of the file. A line of cases.jsonl: the variant, a text, its ids (the post-processor only puts id 1
first), the ids decoded with special tokens and without, null where that is the text; or the variant, null, random ids,
and the same.
"""
import json, random
from pathlib import Path
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = Path(__file__).parent
SPECIALS = ["<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|unk|>"]
OTHER = "Die Straße führt über die Brücke. Les élèves étaient là. Привет, мир! Дом стоит у реки. ¿Dónde está? η θάλασσα "
POOLS = ["   ", " \t\n\r", "\u2581", "abcde", "the river ", "ABCXYZ", "0123456789", ".,;:!?-_()[]{}\"'<>|/", "éñüßøÅ", "абвЖ", "中文字",
         "हिंदी", "\u0301", "\u00a0\u2003\u3000\u0085\u2028", "😀👍🏽", "<0x41>", "\ufeff\u0000\U0010ffff"]
TEXTS = ["", " ", "  ", "a", " a", "a ", "  two  blanks  ", "\u2581", "\u2581a", "a\u2581b \u2581", "\n", "a\nb\n\n c", "\tindented",
         "The river runs.", " The river runs.", "don't 1234567 3.14", "Straße 中文 हिंदी 😀", "中文 中 文", "<0x41><0xE4>", "<0x0A>",
         "<|endoftext|>", "x<|endoftext|>y", "x <|endoftext|> y", " <|pad|> <|pad|>", "<|pad|", "<|unk|>中", "a<mask>b", "a <mask> b",
         " \n<mask>\u3000 b", "<mask><mask>", " <mask> <mask> ", "left<r> <l>", "<r> <mask>", "word words wordword", " word",
         "\u2581word", "new word new", "<r>   ", "   <l>", "\u00e9\u00e8 caf\u00e9", "a" * 130, "ab " * 40, " " * 70, "e\u0301" * 20]


def trained(corpus, vocab_size, inside_words):
    t = Tokenizer(models.BPE(unk_token=SPECIALS[3], byte_fallback=True, fuse_unk=True))
    t.normalizer = normalizers.Replace(" ", "\u2581")
    if inside_words:
        t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    specials = SPECIALS + [f"<0x{b:02X}>" for b in range(256)]  # in the vocabulary; special while training alone
    t.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=specials, show_progress=False,
                                                      limit_alphabet=200))
    file = json.loads(t.to_str())
    bos = SPECIALS[1]
    t.post_processor = processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, 1)])
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    file = json.loads(t.to_str())
    file["added_tokens"] = file["added_tokens"][:4]
    file["pre_tokenizer"] = None
    return file


def patched(value, patch):
    """RFC 7386."""
    if not isinstance(patch, dict):
        return patch
    out = dict(value) if isinstance(value, dict) else {}
    for key, change in patch.items():
        if change is None:
            out.pop(key, None)
        else:
            out[key] = patched(out.get(key), change)
    return out


def metaspace(scheme, split):
    return {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": split}


def variants(size):
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    prepend = {"type": "Prepend", "prepend": "\u2581"}
    back = [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    llama = {"normalizer": {"type": "Sequence", "normalizers": [prepend, replace]},
             "decoder": {"type": "Sequence", "decoders": back + [strip]}}
    chain = lambda *steps: {"type": "Sequence", "decoders": list(steps)}

    def added(first, *tokens):
        keys = ("content", "lstrip", "rstrip", "normalized", "special")
        four = [dict(zip(keys, (s, False, False, False, True)), id=i, single_word=False) for i, s in enumerate(SPECIALS)]
        return four + [dict(zip(keys, t), id=first + i, single_word=False) for i, t in enumerate(tokens)]
    tokens = (("<mask>", True, False, False, True), ("<r>", False, True, False, True), ("<l>", True, False, False, False),
              ("word", False, False, True, False), ("new word", False, False, True, False), (" word", False, False, True, True))
    return {
        "jamba": ["tokenizer.json", {}],
        "llama": ["tokenizer.json", llama],
        "metaspace_always": ["tokenizer.json", {"normalizer": None, "pre_tokenizer": metaspace("always", True),
                                                "decoder": metaspace("always", True)}],
        "metaspace_first": ["tokenizer.json", {"normalizer": None, "pre_tokenizer": metaspace("first", False),
                                               "decoder": chain({"type": "ByteFallback"}, metaspace("first", False))}],
        "metaspace_first_normalized": ["tokenizer.json", {"pre_tokenizer": metaspace("first", True), "added_tokens": added(size, *tokens)}],
        "metaspace_never": ["tokenizer.json", {"normalizer": None, "decoder": chain(back[1], back[2], metaspace("never", True)), "pre_tokenizer":
                            {"type": "Sequence", "pretokenizers": [metaspace("never", True)]}}],
        "unknown_fused": ["tokenizer.json", {"model": {"byte_fallback": False}}],
        "unknown_single": ["tokenizer.json", {"model": {"byte_fallback": False, "fuse_unk": False}}],
        "unknown_left_out": ["tokenizer.json", {"model": {"byte_fallback": False, "unk_token": None}}],
        "some_bytes": ["tokenizer.json", {"model": {"vocab": {"<0xE4>": None, "<one>": 4 + 0xE4}}}],
        "whole_pieces": ["tokenizer.json", {"pre_tokenizer": metaspace("never", True), "model": {
            "ignore_merges": True, "vocab": {"\u2581zqzqj": size, "qzq": size + 1}}}],
        "whole_text": ["tokenizer.json", {"model": {"ignore_merges": True, "vocab": {"\u2581two\u2581words": size}}}],
        "added": ["tokenizer.json", {"added_tokens": added(size, *tokens)}],
        "added_llama": ["tokenizer.json", llama | {"added_tokens": added(size, *tokens)}],
        "joined": ["joined.json", {}],
        "joined_unknown": ["joined.json", {"model": {"byte_fallback": False, "fuse_unk": False}}],
        "decoder_order": ["tokenizer.json", {"decoder": chain({"type": "Fuse"}, back[0], {"type": "Strip", "content": "e", "start": 2, "stop": 0})}],
    }


def texts(seed, count):
    r = random.Random(seed)
    yield from TEXTS
    for _ in range(count):
        few = r.sample(POOLS + ["<mask>", " word", "<|endoftext|>"], r.randint(1, 5))
        yield "".join(r.choice(few) if r.random() < 0.3 else r.choice(r.choice(few)) for _ in range(r.randint(1, 25)))


def line(name, text, ids, t):
    decoded = (t.decode(ids, skip_special_tokens=False), t.decode(ids))
    return json.dumps([name, text, ids, *(None if d == text else d for d in decoded)], ensure_ascii=False, separators=(",", ":"))


corpus = (HERE.parent / "tokenizer" / "corpus.txt").read_text(encoding="utf8").split("\n\n") + OTHER.split(". ") * 5
files = {"tokenizer.json": trained(corpus, 1400, True), "joined.json": trained(corpus, 900, False)}
for name, file in files.items():
    (HERE / name).write_text(json.dumps(file, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
table = variants(len(files["tokenizer.json"]["model"]["vocab"]))
(HERE / "variants.json").write_text(json.dumps(table, indent=1, ensure_ascii=False) + "\n", encoding="utf8")
with open(HERE / "cases.jsonl", "w", encoding="utf8") as out:
    for n, (name, (file, patch)) in enumerate(table.items()):
        t = Tokenizer.from_str(json.dumps(files[file] | patch | {"model": patched(files[file]["model"], patch.get("model", {}))}))
        for text in [*texts(n, 30), *(["two words", " zqzqj zqzqj", "a zqzqjx qzq"] if name.startswith("whole") else [])]:
            ids = t.encode(text, add_special_tokens=False).ids
            assert t.encode(text).ids == [1] + ids
            print(line(name, text, ids, t), file=out)
        r = random.Random(n)
        for _ in range(20):  # bytes that are no UTF-8 among them
            ids = [r.choice([r.randrange(t.get_vocab_size()), 4 + r.randrange(256)]) for _ in range(r.randint(1, 12))]
            print(line(name, None, ids, t), file=out)
