#include "suites/chat.h"

#include "base/file.h"
#include "suites/text_file.h"

#include <stdlib.h>
#include <string.h>

/* As the makers publish them, for one user turn without a system prompt: Llama 3, ChatML, Mistral
 * v3. Templates that put a system prompt or a date of their own in front (Llama 3.1, Qwen2.5) are
 * given by a file. */
// clang-format off
static const struct {
    const char *name, *before, *after;
    bool trims;
} formats[] = {
    {"llama3", "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n",
               "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", true},
    {"chatml", "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", false},
    {"mistral", "<s>[INST] ", "[/INST]", false},
};
// clang-format on
enum { N_FORMATS = sizeof formats / sizeof *formats };

#define PLACE "{prompt}"

static enum status read_format(struct chat *c, const char *path)
{
    struct text_file file;
    TRY(text_file_open(&file, path));
    char *text = str_format("%.*s", (int)file.len, file.text);
    text_file_close(&file);
    char *at = strstr(text, PLACE), *again = at ? strstr(at + 1, PLACE) : NULL;
    size_t len = strlen(text);
    enum status st = OK;
    if (!at || again)
        st = fail(ERR_FORMAT, "%s: \"" PLACE "\" stands in it %s, expected one place", path,
            at ? "more than once" : "nowhere");
    else {
        if (len && text[len - 1] == '\n') text[--len] = 0;
        *at = 0;
        c->before = str_dup(text);
        c->after = str_dup(at + strlen(PLACE));
        c->name = str_dup(path);
    }
    free(text);
    return st;
}

enum status chat_open(struct chat *c, const char *name)
{
    *c = (struct chat){0};
    for (int i = 0; i < N_FORMATS; i++) {
        if (strcmp(formats[i].name, name)) continue;
        *c = (struct chat){
            str_dup(name), str_dup(formats[i].before), str_dup(formats[i].after), formats[i].trims};
        return OK;
    }
    if (!file_exists(name))
        return fail(ERR_ARG,
            "--chat %s: no such format and no such file; known: llama3, chatml, mistral, or a file "
            "with " PLACE " where the prompt goes",
            name);
    return read_format(c, name);
}

enum status chat_check(const struct chat *c, const struct tokenizer *t)
{
    bool named = false;
    for (int i = 0; c->name && i < N_FORMATS; i++) named |= !strcmp(formats[i].name, c->name);
    for (int half = 0; named && half < 2; half++) {
        const char *at = half ? c->after : c->before;
        while ((at = strpbrk(at, "<["))) { /* "<|im_end|>", "[INST]" */
            size_t n = strcspn(at, ">]") + 1;
            char *token = str_format("%.*s", (int)n, at);
            enum status st = tokenizer_find(t, token) >= 0
                ? OK
                : fail(ERR_ARG,
                      "--chat %s: this model's vocabulary has no %s, so it was made for another "
                      "chat; name that, or a file with " PLACE " where the prompt goes",
                      c->name, token);
            free(token);
            TRY(st);
            at += n;
        }
    }
    return OK;
}

static bool white(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

void chat_wrap(const struct chat *c, struct str *text)
{
    if (!c || !c->name) return;
    const char *prompt = str_get(text);
    size_t n = text->len;
    while (c->trims && n && white(prompt[n - 1])) n--;
    while (c->trims && n && white(*prompt)) prompt++, n--;
    struct str out = {0};
    str_add(&out, c->before);
    str_add_bytes(&out, prompt, n);
    str_add(&out, c->after);
    str_clear(text);
    *text = out;
}

void chat_clear(struct chat *c)
{
    free(c->name);
    free(c->before);
    free(c->after);
    *c = (struct chat){0};
}
