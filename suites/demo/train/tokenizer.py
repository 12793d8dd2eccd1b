"""Train the bundled tokenizer: byte-level BPE with the Llama-3 split pattern, 4096 ids with BOS and EOS.

    python3 tokenizer.py OUT_DIR BPE_TABLE CHRONICLES.txt BOOKS.txt

BPE_TABLE is the same vocabulary as plain numbers, for gen.c: 256 byte ids, then one `left right id` per merge.
"""
import json
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

PATTERN = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
           r"|\s*[\r\n]+|\s+(?!\S)|\s+")
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"


def byte_symbols():
    """GPT-2's printable stand-in for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {b: chr(b) for b in plain} | {b: chr(256 + i) for i, b in enumerate(rest)}


def main(out_dir, table, *files):
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(PATTERN), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    special = [AddedToken(s, special=True, normalized=False) for s in (BOS, EOS)]
    trainer = trainers.BpeTrainer(vocab_size=4096, special_tokens=special, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())

    def pieces():
        for name in files:
            with open(name, encoding="utf-8", errors="ignore") as f:
                while text := f.read(1 << 16):
                    yield text.replace("\0", "\n")

    tok.train_from_iterator(pieces(), trainer)
    tok.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B:1", special_tokens=[(BOS, tok.token_to_id(BOS))])
    tok.save(f"{out_dir}/tokenizer.json", pretty=False)
    with open(f"{out_dir}/tokenizer_config.json", "w") as f:
        json.dump({"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BOS, "eos_token": EOS,
                   "clean_up_tokenization_spaces": False, "model_max_length": 8192,
                   "model_input_names": ["input_ids", "attention_mask"]}, f, indent=2)
        f.write("\n")
    model = json.loads(tok.to_str())["model"]
    vocab = model["vocab"]
    with open(table, "w") as f:
        symbols = byte_symbols()
        print(*(vocab[symbols[b]] for b in range(256)), file=f)
        for a, b in model["merges"]:
            print(vocab[a], vocab[b], vocab[a + b], file=f)


main(*sys.argv[1:])
