"""One user turn under the makers' chat templates, by transformers, for tests/unit/test_ruler.c.

    python3 make_chat.py chat.json

The templates are those of tokenizer_config.json as published, cut down to what one user turn reaches.
"""
import json
import sys

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

TEMPLATES = {
    # meta-llama/Meta-Llama-3-8B-Instruct
    "llama3": ("<|begin_of_text|>", "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
               "'<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}"
               "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
               "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"),
    # the ChatML template of transformers, which Qwen3 gives for one user turn without a system prompt
    "chatml": ("", "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' "
               "+ '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"),
    # mistralai/Mistral-7B-Instruct-v0.3
    "mistral": ("<s>", "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' + "
                "message['content'] + '[/INST]' }}{% endif %}{% endfor %}"),
}
PROMPTS = ["Hello", "two\nlines", "  spaces around \n", "", "[INST] <|eot_id|> {prompt} %s", "caf\u00e9 \u4e2d"]

rows = []
for name, (bos, template) in TEMPLATES.items():
    tok = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token=bos or None)
    tok.chat_template = template
    for prompt in PROMPTS:
        text = tok.apply_chat_template([{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True)
        rows.append({"format": name, "prompt": prompt, "text": text})
with open(sys.argv[1], "w") as f:
    f.write("[\n" + ",\n".join(json.dumps(r) for r in rows) + "\n]\n")
