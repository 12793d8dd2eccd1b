"""Scores of written answers by the benchmarks' own scorers, for tests/unit/test_judge.c.

    git clone https://github.com/NVIDIA/RULER https://github.com/THUDM/LongBench \
              https://github.com/OpenBMB/InfiniteBench   # each into DIR/NAME
    python3 make_judge.py DIR judge.json

What they import and these scores do not need (jieba, fuzzywuzzy, rouge, evaluate, openai, ...) is replaced by empty
modules; no function of theirs is changed.
"""
import importlib.util
import json
import sys
import types
from pathlib import Path
from unittest.mock import MagicMock

ROOT = Path(sys.argv[1])
for name in ["jieba", "fuzzywuzzy", "rouge", "evaluate", "tqdm", "args", "openai", "tiktoken", "datasets",
             "torch", "torch.multiprocessing", "transformers"]:
    sys.modules[name] = MagicMock()


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def function_of(path, name):
    """One function of a script that opens files when it is imported."""
    text = path.read_text()
    at = text.index(f"def {name}(")
    end = text.index("\ndef ", at + 1)
    module = types.ModuleType(name)
    exec("import re\n" + text[at:end], module.__dict__)
    return getattr(module, name)


ruler = load(ROOT / "RULER/scripts/eval/synthetic/constants.py")
bench = load(ROOT / "LongBench/LongBench/metrics.py")
infinite = load(ROOT / "InfiniteBench/src/compute_scores.py")
letter = function_of(ROOT / "LongBench/pred.py", "extract_answer")

ROWS = {}


def add(judge, text, answers, score):
    """Two scorers that go by one name here must agree."""
    row = ROWS.setdefault((judge, tuple(answers)), {})
    assert row.setdefault(text, float(score)) == float(score), (judge, text, answers)


TEXTS = ["", " ", "4512345", " 4512345, and 99.", "The number is 4512345.\n", "45123456 or 4512345", "no", "THE Answer",
         "The answer: a cat, an owl and the dog.", "cat owl dog", "dog dog dog cat", "A", "A.", "B) the ferry",
         "The correct answer is (C)", "the correct answer is (C)", "The correct answer is **(B)**.", "The correct answer is D",
         "The correct answer is (E). The correct answer is A", "I think that the answer is: B. two", "answer is C", "Option: D",
         "my answer is", "word \"abc-def\", other", "{abc-def}", "ABC", "Paragraph 12", "12 and 13", "paragraphs 12, 12, 7",
         "3.5", "x3.50", "value 7", "-7", "7 is it", "it is 7.", "it is '7'", "mr. smith", "SMITH?", "John Smith",
         "na\u00efve caf\u00e9", "NA\u00cfVE", "Description of a person", "Human\nindividual", "Individual group",
         "yes\nno", "\nyes\nno", "unanswerable", "E=mc2; 10,000", "a the an", "\u00bfqu\u00e9?", "4512345\u00014512346"]

for text in TEXTS:
    for refs in [["4512345"], ["4512345", "99"], ["ABC", "abc-def"], ["the answer"], ["na\u00efve"]]:
        add("all", text, refs, ruler.string_match_all([text], [refs]) / 100)
        add("any", text, refs, ruler.string_match_part([text], [refs]) / 100)
    for refs in [["a cat, an owl and the dog"], ["dog"], ["yes", "no"], ["unanswerable"], ["na\u00efve caf\u00e9"], ["the"]]:
        add("f1", text, refs, max(bench.qa_f1_score(text, r) for r in refs))
        add("f1", text, refs, infinite.qa_f1_score(text, refs))
        add("exact", text, refs, any(bench.normalize_answer(text) == bench.normalize_answer(r) for r in refs))
    for right in ["12", "7", "4512345"]:
        add("numbers", text, [right], bench.count_score(text, right))
        add("numbers", text, [right], bench.retrieval_score(text, f"Paragraph {right}"))
        add("first_int", text, [right], infinite.get_score_one_passkey(text, right, "x"))
        add("first_int", text, [right], infinite.get_score_one_number_string(text, [right], "x"))
        add("last_int", text, [right], infinite.get_score_one_code_run(text, [int(right)], "x"))
    for right in ["abc-def", "7", "cat"]:
        add("word", text, [right], infinite.get_score_one_kv_retrieval(text, right, "x"))
    for right in ["SMITH", "DOG"]:
        add("name", text, [right], infinite.get_score_one_longdialogue_qa_eng(text, [right], "x"))
    for right in [3.5, 7.0]:
        add("first_real", text, [repr(right)], infinite.get_score_one_math_find(text, [right], "x"))
    for right in "ABCD":
        add("letter", text, [right], letter(text.strip()) == right)
        add("option", text, ["the ferry" if right == "B" else "two", right],
            infinite.get_score_one_longbook_choice_eng(text, ["the ferry" if right == "B" else "two", right], "x"))
    classes = ["Individual", "Description of a person", "Human", "person", "group", "Human individual", "Individual group"]
    for right in ["Description of a person", "Individual", "Individual group"]:
        add("class", text, [right] + classes, bench.classification_score(text, right, all_classes=classes))

with open(sys.argv[2], "w") as f:
    rows = [json.dumps({"judge": judge, "answers": answers, "scores": [round(row[t], 12) for t in TEXTS]})
            for (judge, answers), row in ROWS.items()]
    f.write('{"texts": ' + json.dumps(TEXTS) + ',\n"rows": [\n' + ",\n".join(rows) + "\n]}\n")
print(len(ROWS) * len(TEXTS), "scores")
