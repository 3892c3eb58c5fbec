#!/usr/bin/env python3
"""Checks the tokenizer against Hugging Face: same merges, same file, same ids, same text back. Minutes; not in CI.

    python3 -m venv v && v/bin/pip install tokenizers==0.23.3 transformers==5.23.0
    v/bin/python scripts/compare_tokenizers.py --binary build/jambalaya --vocab-size 30000 TEXT...

Trains both on each TEXT (UTF-8), then compares tokenizer.json byte for byte, encodes the text and generated awkward
strings with both (which are also a corpus of their own), and loads our file with transformers. --unicode also checks
the tables of letters, numbers and blanks over all code points. --tokenizer FILE compares encodings with that file
instead of training; --sentencepiece with files of the shapes of the released Jamba models and of Llama, which the
reference library trains. Exit 1 at the first difference.
"""
import argparse, json, random, re, subprocess, sys, tempfile, time
from pathlib import Path
try:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
except ImportError:  # told after the command line is read: --help works without
    Tokenizer = None

PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")
SPECIALS = ["<|pad|>", "<|startoftext|>", "<|endoftext|>", "<|unk|>"]


def reference(text, vocab_size):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERN), behavior="isolated"),
                                               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    t.decoder = decoders.ByteLevel()
    t.train([str(text)], trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=SPECIALS, show_progress=False,
                                             initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    bos = SPECIALS[1]
    t.post_processor = processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, 1)])
    return t


def sentencepiece(text, vocab_size, dummy_blank):
    """The shape that conversion from SentencePiece gives, with merges learned inside words and lines."""
    bytes_ = [f"<0x{b:02X}>" for b in range(256)]
    t = Tokenizer(models.BPE(unk_token=SPECIALS[3], byte_fallback=True, fuse_unk=True))
    replace = normalizers.Replace(" ", "\u2581")
    t.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), replace]) if dummy_blank else replace
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    with open(text, encoding="utf8", newline="") as lines:
        t.train_from_iterator((line.rstrip("\r\n") for line in lines), trainers.BpeTrainer(
            vocab_size=vocab_size, special_tokens=SPECIALS + bytes_, show_progress=False, limit_alphabet=3000))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    t.decoder = decoders.Sequence(steps + [decoders.Strip(" ", 1, 0)] if dummy_blank else steps)
    bos = SPECIALS[1]
    t.post_processor = processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, 1)])
    file = json.loads(t.to_str())
    file["added_tokens"] = file["added_tokens"][:len(SPECIALS)]
    file["pre_tokenizer"] = None  # as the released files have it: a document is one word
    return json.dumps(file, ensure_ascii=False)


def awkward(seed, count):
    """Random mixtures of what splits are sensitive to; no line may be empty (a line is a case)."""
    r = random.Random(seed)
    pools = [" \t\r\n", "  ", "'", "''\u017f", "sSdDmMtTlLrRvVeE", "abcXYZ", "0123456789", ".,;:!?-_()[]{}\"", "éñüßøÅ", "абвЖ",
             "中文字", "हिंदी", "\u0301\u0308", "\u00a0\u2003\u3000\u0085\u2028\u200b", "😀👍🏽", "١٢½Ⅷ²", "\ufeff\u0000\u0007\U0010ffff"]
    for _ in range(count):
        few = r.sample(pools, r.randint(1, 6))
        yield "".join(r.choice(r.choice(few)) for _ in range(r.randint(1, 60)))
    yield from SPECIALS + ["x<|endoftext|>y <|pad|", "<|<|pad|>|>", "a" * 5000, "ab" * 3000, "-" * 777, " " * 999 + "x", "\n" * 333]


def run(binary, *arguments):
    return subprocess.run([binary, "tokenizer", *map(str, arguments)], check=True, capture_output=True).stdout


def our_ids(binary, tokenizer, path):
    return [int(i) for i in run(binary, "encode", "--tokenizer", tokenizer, path).split()]


def compare_text(binary, file, peer, name, text, folder):
    """One document: ids of our binary and of the peer, and what they decode to."""
    path = folder / "document.txt"
    path.write_bytes(text.encode())
    ours, theirs = our_ids(binary, file, path), peer.encode(text, add_special_tokens=False).ids
    if ours != theirs:
        at = next((i for i, (a, b) in enumerate(zip(ours, theirs)) if a != b), min(len(ours), len(theirs)))
        sys.exit(f"{name}: ids differ at token {at}: {ours[at:at + 8]} and {theirs[at:at + 8]} after "
                 f"{peer.decode(theirs[max(0, at - 8):at])!r}")
    ids = folder / "ids.txt"
    ids.write_text(" ".join(map(str, theirs)))
    if run(binary, "decode", "--tokenizer", file, ids).decode() != peer.decode(theirs, skip_special_tokens=False):
        sys.exit(f"{name}: the same ids decode to another text")
    return len(ours)


def compare_awkward(binary, file, peer, folder):
    # Line ends are part of the cases, so they are joined by a separator that no piece crosses in any pattern.
    cases = list(awkward(1, 20_000))
    text = "\nx<|endoftext|>x\n".join(cases)
    count = compare_text(binary, file, peer, "awkward strings", text, folder)
    print(f"  {len(cases)} awkward strings: same {count} ids")


def compare_transformers(file, peer, folder):
    from transformers import AutoTokenizer, PreTrainedTokenizerFast
    (folder / "hf").mkdir()
    (folder / "hf" / "tokenizer.json").write_bytes(Path(file).read_bytes())
    (folder / "hf" / "tokenizer_config.json").write_text(json.dumps(
        {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": SPECIALS[0], "bos_token": SPECIALS[1],
         "eos_token": SPECIALS[2], "unk_token": SPECIALS[3], "clean_up_tokenization_spaces": False}))
    for loaded in (AutoTokenizer.from_pretrained(folder / "hf"), PreTrainedTokenizerFast(tokenizer_file=str(file))):
        for case in awkward(2, 500):
            expected = [1] + peer.encode(case, add_special_tokens=False).ids
            if loaded(case)["input_ids"] != expected:
                sys.exit(f"transformers ({type(loaded).__name__}) gives other ids for {case!r}")
    print("  transformers loads the file: same ids, bos first")


def compare_unicode():
    """data/unicode_tables.cpp against the tables that Hugging Face's regular expressions use, code point by code point."""
    source = (Path(__file__).parent.parent / "data" / "unicode_tables.cpp").read_text()
    every = "".join(chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000)
    for name, pattern in (("kLetters", r"\p{L}"), ("kNumbers", r"\p{N}"), ("kSpaces", r"\s")):
        table = source.split(f"{name}[] = {{")[1].split("};")[0]
        ours = {c for a, b in re.findall(r"\{0x(\w+), 0x(\w+)\}", table) for c in range(int(a, 16), int(b, 16) + 1)}
        theirs = set(map(ord, every)) - set(map(ord, normalizers.Replace(Regex(pattern), "").normalize_str(every)))
        if ours != theirs:
            sys.exit(f"{pattern}: {len(ours)} and {len(theirs)} code points, first difference U+{min(ours ^ theirs):04X}")
        print(f"  {pattern}: the same {len(ours)} code points", flush=True)


def compare_sentencepiece(text, a):
    content = open(text, encoding="utf8", newline="").read()
    for dummy_blank in (False, True):
        with tempfile.TemporaryDirectory() as name:
            folder, file = Path(name), Path(name) / "tokenizer.json"
            file.write_text(sentencepiece(text, a.vocab_size, dummy_blank), encoding="utf8")
            peer = Tokenizer.from_file(str(file))
            shape = "Llama's shape" if dummy_blank else "Jamba's shape"
            print(f"{text}, {shape}: same {compare_text(a.binary, file, peer, text, content, folder)} ids of "
                  f"{len(content.encode()) / 1e6:.1f} MB, same text back", flush=True)
            compare_awkward(a.binary, file, peer, folder)


def compare(text, a):
    with tempfile.TemporaryDirectory() as name:
        folder, file = Path(name), a.tokenizer
        if file:
            peer = Tokenizer.from_file(file)
        else:
            file = folder / "ours.json"
            start = time.perf_counter()
            run(a.binary, "train", "--vocab-size", a.vocab_size, "--output", file, text)
            middle = time.perf_counter()
            peer = reference(text, a.vocab_size)
            end = time.perf_counter()
            peer.save(str(folder / "theirs.json"))
            print(f"{text}: ours {middle - start:.1f} s, Hugging Face {end - middle:.1f} s", flush=True)
            ours, theirs = (json.loads((folder / f).read_bytes())["model"] for f in ("ours.json", "theirs.json"))
            for i, (m, n) in enumerate(zip(ours["merges"], theirs["merges"])):
                if m != n:
                    sys.exit(f"merge {i} differs: {m} and {n}")
            if (folder / "ours.json").read_bytes() != (folder / "theirs.json").read_bytes():
                sys.exit(f"{text}: the merges agree, the files do not ({len(ours['merges'])} and {len(theirs['merges'])})")
            print(f"  {len(ours['merges'])} merges, tokenizer.json: identical")
        content = open(text, encoding="utf8", newline="").read()
        print(f"  whole text: same {compare_text(a.binary, file, peer, text, content, folder)} ids")
        compare_awkward(a.binary, file, peer, folder)
        if not a.tokenizer:
            compare_transformers(file, peer, folder)


a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
a.add_argument("--binary", required=True)
a.add_argument("--vocab-size", type=int, default=30_000)
a.add_argument("--tokenizer", help="compare with this tokenizer.json; do not train")
a.add_argument("--sentencepiece", action="store_true", help="compare with SentencePiece-shaped files that the reference library trains")
a.add_argument("--unicode", action="store_true")
a.add_argument("texts", nargs="+", metavar="TEXT")
a = a.parse_args()
if Tokenizer is None:
    print("compare_tokenizers: this Python has no package `tokenizers`: see --help for the versions", file=sys.stderr)
    sys.exit(2)
if a.unicode:
    compare_unicode()
with tempfile.TemporaryDirectory() as name:
    awkward_text = Path(name) / "awkward.txt"  # a corpus of its own: where its pieces end shows in the merges
    awkward_text.write_bytes("\n".join(awkward(3, 50_000)).encode())
    for text in [*a.texts, str(awkward_text)]:
        (compare_sentencepiece if a.sentencepiece else compare)(text, a)
print("identical")
