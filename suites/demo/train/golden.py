"""Write the golden logits of the bundled model: transformers, f32 arithmetic on the CPU over the bf16 weights.

    python3 golden.py MODEL_DIR OUT_PREFIX

OUT_PREFIX.json holds the token ids and the positions, OUT_PREFIX.f32 the logits there: little endian, [position][vocab].
"""
import json
import sys

import torch
import transformers
from transformers import AutoTokenizer, LlamaForCausalLM

TEXT = ("It was at the mill at Harrow that Mara left the brass lantern. The old clerk, who could neither read nor "
        "count, looked out over the river and said nothing for a long while. Snow hides the ditch and not the cow.\n\n"
        "Question: Where did Mara leave the brass lantern? Answer: the mill")
POSITIONS = [0, 1, 31, 63]

model_dir, prefix = sys.argv[1:]
ids = AutoTokenizer.from_pretrained(model_dir)(TEXT)["input_ids"][:64]
assert len(ids) == 64
model = LlamaForCausalLM.from_pretrained(model_dir, dtype=torch.float32, attn_implementation="eager").eval()
with torch.no_grad():
    logits = model(torch.tensor([ids])).logits[0]
picked = logits[POSITIONS].contiguous()
picked.numpy().astype("<f4").tofile(prefix + ".f32")
nll = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:]), reduction="none")
with open(prefix + ".json", "w") as f:
    json.dump({"made_by": f"transformers {transformers.__version__}, f32, eager attention, bf16 weights", "ids": ids,
               "positions": POSITIONS, "vocab": logits.shape[1], "argmax": logits.argmax(-1).tolist(),
               "nll": [round(x, 5) for x in nll.tolist()]}, f)
    f.write("\n")
