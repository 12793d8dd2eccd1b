#!/usr/bin/env python3
"""Write tests/golden/tokenizer_*.json: what Hugging Face `tokenizers` makes of hostile texts.

    python3 tests/golden/make_tokenizer.py [SHARED_FOLDER]

Trains five small tokenizers of the LLaMA families on text that comes with Python, and stores each with the
ids and offsets of all texts in tokenizer_texts.json (hexadecimal: they hold zero bytes and worse). With
SHARED_FOLDER also the ids of data/story-llama, whose tokenizer.json is not stored here.
Needs `tokenizers` 0.23; the texts and the training are deterministic.
"""
import json
import os
import pydoc_data.topics
import random
import sys

import tokenizers
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors, trainers)

HERE = os.path.dirname(os.path.abspath(__file__))
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
LINES = ["Привет, как дела? Всё хорошо, спасибо.", "你好世界，今天天气很好。", "こんにちは世界、元気ですか。",
         "안녕하세요 세계 여러분", "مرحبا بالعالم", "שלום עולם", "नमस्ते दुनिया", "naïve café résumé Straße Ærø",
         "👩‍👩‍👧‍👦 🏳️‍🌈 😀😀 👍🏽", "if x == 10:\r\n\treturn    y\n\n\n", "12345 67890 3.14159 ½ ² Ⅳ ٣"]

SPACES = ["\t", "\n", "\r", "\r\n", " ", "\v", "\f", "\x1c", "\x85", "\xa0", "\u1680", "\u180e", "\u2003",
          "\u200b", "\u2028", "\u2029", "\u202f", "\u205f", "\u3000", "\ufeff", "\0"]
SHORT = ["'s", "'S", "'\u017f", "'RE", "'ll", "\u2019s", "a\u0301", "a\u0323\u0301", "\u1100\u1161\u11a8",
         "각", "ก็", "क्षि", "ﬃ", "①", "½", "²", "Ⅳ", "٣", "𝟘", "𒐀", "🄰", "İ", "ß", "Ǆ", "ſ", "K", "Å", "ｶﾞ",
         "\u0344", "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪", "ﷺ", "שָׁ", "<|begin|>", "<|end|>", "<s>", "</s>", "<unk>",
         "<m>", "<l>", "lamb", "lam", "<0x41>", "▁", "ĠĊ", "0", "1234567", "x", "Hello", " world",
         "www.example.org", "##", "_"]
PLANES = [(0, 0x80), (0x80, 0x300), (0x300, 0x370), (0x370, 0x600), (0x600, 0x900), (0x900, 0x1100),
          (0x1100, 0x1200), (0x1200, 0x2000), (0x2000, 0x2E00), (0x2E00, 0x4E00), (0x4E00, 0xA000),
          (0xA000, 0xD800), (0xE000, 0x10000), (0x10000, 0x11000), (0x11000, 0x17000), (0x1B000, 0x1F000),
          (0x1F000, 0x20000), (0x20000, 0x32000), (0x40000, 0xE0000), (0xE0000, 0xE0200), (0xF0000, 0x110000)]


def texts():
    rng = random.Random(20240607)
    out = [b"", b" ", b"a", b"\0", b"\xff", b"\xed\xa0\x80", b"\xf0\x9f\x98", b"\xf0\x9f\x98x", b"\xc0\x80",
           b"\xe2\x82 \xf4\x90\x80\x80", b"caf\xe9 na\xefve", b"\xf8\x88\x80\x80\x80",
           b"\xef\xbf\xbd\xef\xbf", ("a" * 400).encode(), (" " * 300).encode(),
           ("\n" * 70 + " \n" * 9 + "x").encode(), b"  x   y    z     ", ("ab" * 200).encode(),
           "\r\n\r\n \r\n\t\r\n".encode(), ("é" * 90).encode(), "🏳️‍🌈".encode() * 9,
           b"The quick brown fox can't jump; they'LL say it's 1234567 times.", ("\u0301\u0323" * 40).encode(),
           b"<|begin|><|begin|> <|end|>x<|end|>", b" <m> x <m>y<m> ", b"lamb lambda Mary's lamb",
           b"<s><s> </s>"]
    out += [line.encode() for line in LINES]
    out += [s.encode() for s in SPACES]
    out += [("x" + s * 3 + "y" + s).encode() for s in SPACES]
    out += [s.encode() for s in SHORT]

    def part():
        kind = rng.random()
        if kind < .25:
            return rng.choice(SPACES) * rng.choice([1, 1, 2, 3])
        if kind < .6:
            return rng.choice(SHORT)
        first, last = rng.choice(PLANES)
        return "".join(chr(rng.randrange(first, last)) for _ in range(rng.randrange(1, 4)))

    out += ["".join(part() for _ in range(rng.randrange(2, 7))).encode() for _ in range(160)]
    return out


def corpus():
    topics = sorted(pydoc_data.topics.topics.values())
    lines = [line for topic in topics for line in topic.split("\n") if line.strip()]
    return lines[:4000] + LINES * 12


def bytelevel(vocab_size, pattern, **bpe):
    t = Tokenizer(models.BPE(**bpe))
    own = pattern is None
    level = pre_tokenizers.ByteLevel(add_prefix_space=own, use_regex=own)
    t.pre_tokenizer = level if own else pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(pattern), "isolated"), level])
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(corpus(), trainers.BpeTrainer(
        vocab_size=vocab_size, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    t.add_special_tokens([AddedToken(s, normalized=False) for s in ("<|begin|>", "<|end|>")])
    begin = t.token_to_id("<|begin|>")
    t.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin|> $A", pair="<|begin|> $A <|begin|> $B:1",
                                      special_tokens=[("<|begin|>", begin)])])
    return t


def metaspace(vocab_size):
    t = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.pre_tokenizer = pre_tokenizers.Metaspace()
    names = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    t.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=names,
                                                        limit_alphabet=110, show_progress=False))
    tree = json.loads(t.to_str())
    tree["added_tokens"] = tree["added_tokens"][:3]
    t = Tokenizer.from_str(json.dumps(tree))
    t.pre_tokenizer = None
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B:1", special_tokens=[("<s>", 1)])
    t.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                   decoders.Strip(content=" ", left=1, right=0)])
    return t


def llama2():
    t = metaspace(640)
    t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return t


def added():
    """Metaspace pre-tokenizer, NFKC, BOS and EOS, and every flag that added tokens can have."""
    t = metaspace(420)
    t.normalizer = normalizers.NFKC()
    t.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=True)
    t.add_tokens([AddedToken("lamb", single_word=True), AddedToken("lam", single_word=True, normalized=False),
                  AddedToken("<m>", lstrip=True, rstrip=True, special=True, normalized=False),
                  AddedToken("<l>", lstrip=True), AddedToken("  ", normalized=False), AddedToken("①")])
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A $B", special_tokens=[("<s>", 1), ("</s>", 2)])
    t.decoder = decoders.Metaspace(prepend_scheme="first")
    return t


def ignore_merges():
    """Whole words that no merge can build any more."""
    tree = json.loads(bytelevel(500, LLAMA3, ignore_merges=True).to_str())
    tree["model"]["merges"] = [m for i, m in enumerate(tree["model"]["merges"]) if i % 3]
    return Tokenizer.from_str(json.dumps(tree))


def golden(t, name, tree=None, legacy_merges=False):
    rng = random.Random(7)
    ids, begins, decoded = [], [], []
    for raw in texts():
        text = raw.decode("utf-8", "replace")
        offsets = [0]
        for c in text:
            offsets.append(offsets[-1] + len(c.encode()))
        e = t.encode(text)
        ids.append(e.ids)
        begins.append([offsets[b] for b, _ in e.offsets])
    size = t.get_vocab_size()
    specials = {i for i, a in t.get_added_tokens_decoder().items() if a.special and a.normalized}
    for _ in range(40):
        some = [i for i in (rng.randrange(size) for _ in range(rng.randrange(1, 12))) if i not in specials]
        decoded.append([some, t.decode(some, skip_special_tokens=False).encode().hex(),
                        t.decode(some, skip_special_tokens=True).encode().hex()])
    if tree and legacy_merges:
        tree["model"]["merges"] = [" ".join(m) for m in tree["model"]["merges"]]
    if name == "added":  # under NFKC ours are coarser on purpose, see tokenizer.h
        begins = None
    out = {"made_with": f"tokenizers {tokenizers.__version__}", "tokenizer": tree, "ids": ids,
           "begin": begins, "decoded": decoded}
    write(name, out)


def write(name, tree):
    path = os.path.join(HERE, f"tokenizer_{name}.json")
    with open(path, "w", encoding="utf-8") as f:
        json.dump(tree, f, ensure_ascii=False, separators=(",", ":"))
        f.write("\n")
    print(path, os.path.getsize(path))


def main():
    write("texts", [raw.hex() for raw in texts()])
    made = {"llama3": bytelevel(700, LLAMA3), "ignore_merges": ignore_merges(), "gpt2": bytelevel(450, None),
            "llama2": llama2(), "added": added()}
    for name, t in made.items():
        golden(t, name, json.loads(t.to_str()), legacy_merges=name == "llama2")
    if len(sys.argv) > 1:
        path = os.path.join(sys.argv[1], "data", "story-llama", "tokenizer.json")
        golden(Tokenizer.from_file(path), "story")


main()
