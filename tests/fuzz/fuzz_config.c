/* Any text as config.json and as generation_config.json: refused, or numbers in the documented
 * ranges and finite frequencies. */
#include "engine/checkpoint/config.h"
#include "engine/rope.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_frequencies(const struct llama_config *c, int seq_len)
{
    float *f = malloc((size_t)c->head_dim / 2 * sizeof *f);
    rope_frequencies(c, 0, seq_len, f);
    for (int i = 0; i < c->head_dim / 2; i++) require(isfinite(f[i]) && f[i] >= 0);
    free(f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct llama_config c;
    /* json_parse() takes a length; the byte behind must not be looked at */
    char *text = malloc(size + 1);
    memcpy(text, data, size);
    text[size] = '{';
    if (llama_config_parse(&c, "input", text, size) == OK) {
        require(c.hidden_size > 0 && c.intermediate_size > 0 && c.n_layers > 0 && c.vocab_size > 0);
        require(c.n_kv_heads > 0 && c.n_heads % c.n_kv_heads == 0);
        require(c.head_dim > 0 && c.head_dim % 2 == 0 && c.max_position > 0);
        require(c.n_eos >= 0 && c.n_eos <= LLAMA_MAX_EOS && c.bos_id >= -1);
        require(llama_config_parameters(&c) > 0);
        check_frequencies(&c, 1);
        check_frequencies(&c, INT32_MAX);
    }
    c = (struct llama_config){0};
    if (llama_generation_config_parse(&c, "input", text, size) == OK)
        require(c.n_eos >= 0 && c.n_eos <= LLAMA_MAX_EOS);
    free(text);
    return 0;
}
