#include "harness/measure/prompts.h"

#include "base/xmalloc.h"
#include <math.h>
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
    const struct sparse_policy *policy, struct head_ledger *ledger, struct side *side)
{
    struct generate_args g = {.prompt = prompt->ids,
        .n_prompt = (int)prompt->n,
        .max_new = GUIDE_NEW_TOKENS,
        .policy = policy,
        .ledger = ledger,
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

/* The prompt's ids, behind the end of the context that it has room for. */
static enum status write_prompt(struct model *m, const struct prompt_context *context,
    const char *prompt, struct token_list *out)
{
    if (!context) return model_prompt(m, prompt, strlen(prompt), out);
    struct token_list before = {0};
    struct str text = {0};
    int room = context->max_tokens - (int)strlen(prompt) -
        4; /* a token has a byte at least; begin-of-text, a line end */
    enum status st =
        tokenizer_encode(m->tokenizer, context->text, context->len, false, &before, NULL);
    size_t skip = st == OK && before.n > (size_t)room ? before.n - (size_t)room : 0;
    if (st == OK)
        st = tokenizer_decode(m->tokenizer, before.ids + skip, before.n - skip, true, &text);
    if (st == OK) {
        str_addf(&text, "\n%s", prompt);
        st = model_prompt(m, str_get(&text), text.len, out);
    }
    token_list_clear(&before);
    str_clear(&text);
    return st;
}

static struct prompt_prefill sum_ledger(
    const struct head_ledger *ledger, size_t n_cells, size_t n_tokens)
{
    struct head_ledger total = {0};
    for (size_t i = 0; i < n_cells; i++) head_ledger_add(&total, &ledger[i]);
    return (struct prompt_prefill){
        (int)n_tokens, total.calls_dense_short ? NAN : ledger_sparsity(&total)};
}

enum status prompts_run(struct model *m, struct par *par, const struct sparse_policy *policy,
    const char *impl, const struct prompt_context *context, struct arena **arena,
    struct generation_record *rows, struct prompt_prefill *prefill)
{
    struct session *s = NULL;
    enum status st = OK;
    size_t n_cells = (size_t)m->weights.config.n_layers * (size_t)m->weights.config.n_heads;
    int longest = context ? context->max_tokens : 0;
    TRY(session_open(&s, &m->weights, par, (longest > 448 ? longest : 448) + 64, 0, impl));
    struct head_ledger *ledger = xcalloc(n_cells, sizeof *ledger);
    for (int i = 0; i < N_GUIDE_PROMPTS && st == OK; i++) {
        struct token_list prompt = {0};
        struct side dense = {.ids = {0}}, sparse = {.ids = {0}};
        memset(ledger, 0, n_cells * sizeof *ledger);
        st = write_prompt(m, context, prompts[i], &prompt);
        if (st == OK) st = run_prompt(m, s, &prompt, NULL, NULL, &dense);
        if (st == OK) st = run_prompt(m, s, &prompt, policy, ledger, &sparse);
        if (st == OK)
            rows[i] =
                (struct generation_record){i, prompts[i], arena_str(arena, str_get(&dense.text)),
                    arena_str(arena, str_get(&sparse.text)), sparse.result.n_new,
                    token_match(&dense, &sparse), text_similarity(&dense.text, &sparse.text)};
        if (st == OK && prefill) prefill[i] = sum_ledger(ledger, n_cells, prompt.n);
        token_list_clear(&prompt);
        str_clear(&dense.text);
        str_clear(&sparse.text);
    }
    free(ledger);
    session_close(&s);
    return st;
}
