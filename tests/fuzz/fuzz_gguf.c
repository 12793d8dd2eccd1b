/* A GGUF file from a stranger: it opens as a model, or it is refused. */
#include "engine/checkpoint/config.h"
#include "engine/checkpoint/gguf.h"
#include "engine/tokenizer/tokenizer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct gguf g;
    struct str config = {0}, json = {0}, settings = {0};
    if (gguf_parse(&g, "x.gguf", data, size) != OK) return 0;
    struct llama_config c;
    struct safetensors tensors;
    struct tokenizer *t = NULL;
    if (gguf_config(&g, &config) == OK &&
        llama_config_parse(&c, "x.gguf", str_get(&config), config.len) != OK)
        str_reset(&config);
    if (gguf_tensors(&g, &(struct reading_watch){0}, &tensors) == OK) safetensors_close(&tensors);
    if (gguf_tokenizer(&g, &json, &settings) == OK &&
        tokenizer_parse(&t, "x.gguf", str_get(&json), json.len, str_get(&settings), settings.len) ==
            OK)
        tokenizer_close(&t);
    gguf_close(&g);
    str_clear(&config);
    str_clear(&json);
    str_clear(&settings);
    return 0;
}
