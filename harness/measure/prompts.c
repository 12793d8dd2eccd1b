#include "harness/measure/prompts.h"

#include "base/xmalloc.h"
#include <stdlib.h>
#include <string.h>

static const char *const prompts[N_GUIDE_PROMPTS] = {
    "The capital of France is", "In machine learning,", "Once upon a time,"};

static double text_similarity(const struct str *a, const struct str *b)
{
    if (a->len + b->len == 0) return 1;
    /* row[j]: LCS of a's first i bytes and b's first j */
    int *row = xcalloc(b->len + 1, sizeof *row);
    for (size_t i = 0; i < a->len; i++)
        for (size_t j = 0, diagonal = 0; j < b->len; j++) {
            size_t above = (size_t)row[j + 1];
            if (a->data[i] == b->data[j]) row[j + 1] = (int)diagonal + 1;
            else if (row[j] > row[j + 1]) row[j + 1] = row[j];
            diagonal = above;
        }
    double similarity = 2.0 * row[b->len] / (double)(a->len + b->len);
    free(row);
    return similarity;
}

struct side {
    int32_t ids[GUIDE_NEW_TOKENS];
    struct generate_result result;
    struct str text;
};

static enum status run_prompt(struct model *m, struct session *s, const struct token_list *prompt,
    const struct sparse_policy *policy, struct side *side)
{
    struct generate_args g = {.prompt = prompt->ids,
        .n_prompt = (int)prompt->n,
        .max_new = GUIDE_NEW_TOKENS,
        .policy = policy,
        .sampler = {.top_p = 1}};
    TRY(generate(s, &g, side->ids, &side->result));
    return tokenizer_decode(m->tokenizer, side->ids, (size_t)side->result.n_new, true, &side->text);
}

static double token_match(const struct side *a, const struct side *b)
{
    int n = a->result.n_new > b->result.n_new ? a->result.n_new : b->result.n_new, same = 0;
    for (int i = 0; i < a->result.n_new && i < b->result.n_new; i++) same += a->ids[i] == b->ids[i];
    return n ? (double)same / n : 1;
}

enum status prompts_run(struct model *m, struct par *par, const struct sparse_policy *policy,
    const char *impl, struct arena **arena, struct generation_record *rows)
{
    struct session *s = NULL;
    enum status st = OK;
    TRY(session_open(&s, &m->weights, par, 512, 0, impl));
    for (int i = 0; i < N_GUIDE_PROMPTS && st == OK; i++) {
        struct token_list prompt = {0};
        struct side dense = {.ids = {0}}, sparse = {.ids = {0}};
        st = model_prompt(m, prompts[i], strlen(prompts[i]), &prompt);
        if (st == OK) st = run_prompt(m, s, &prompt, NULL, &dense);
        if (st == OK) st = run_prompt(m, s, &prompt, policy, &sparse);
        if (st == OK)
            rows[i] =
                (struct generation_record){i, prompts[i], arena_str(arena, str_get(&dense.text)),
                    arena_str(arena, str_get(&sparse.text)), sparse.result.n_new,
                    token_match(&dense, &sparse), text_similarity(&dense.text, &sparse.text)};
        token_list_clear(&prompt);
        str_clear(&dense.text);
        str_clear(&sparse.text);
    }
    session_close(&s);
    return st;
}
