#include "harness/measure/worst_tokens.h"

#include "base/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CONTEXT_TOKENS = 24, TOP = 5 };

enum status worst_tokens_init(struct worst_tokens *w, int n_kept, int width)
{
    *w = (struct worst_tokens){.cap = n_kept, .width = width};
    if (!n_kept) return OK;
    w->entries = calloc((size_t)n_kept, sizeof *w->entries);
    bool ok = w->entries != NULL;
    for (int i = 0; ok && i < 2 * n_kept; i++) {
        w->entries[i / 2].hidden[i % 2] = malloc(sizeof(float) * (size_t)width);
        ok = w->entries[i / 2].hidden[i % 2] != NULL;
    }
    if (ok) return OK;
    worst_tokens_clear(w);
    return fail(ERR_MEMORY, "no memory to keep %d tokens", n_kept);
}

void worst_tokens_clear(struct worst_tokens *w)
{
    for (int i = 0; w->entries && i < w->cap; i++) {
        free(w->entries[i].hidden[0]);
        free(w->entries[i].hidden[1]);
    }
    free(w->entries);
    *w = (struct worst_tokens){0};
}

/* A total order, so that the kept ones do not depend on the order in which samples come. */
static bool before(double kl, int sample, int position, const struct worst_entry *e)
{
    if (kl != (double)e->metrics.kl) return kl > (double)e->metrics.kl;
    return sample != e->sample ? sample < e->sample : position < e->position;
}

enum status worst_tokens_offer(struct worst_tokens *w, int sample, int n,
    const struct token_metrics *tokens, const struct resident *dense, const struct resident *sparse,
    const double *row_sparsity, int block_q)
{
    size_t width = (size_t)w->width;
    for (int t = 0; w->cap && t < n; t++) {
        double kl = (double)tokens[t].kl;
        if (kl <= 0 || (w->n == w->cap && !before(kl, sample, t, &w->entries[w->n - 1]))) continue;
        if (w->n < w->cap) w->n++;
        struct worst_entry e = w->entries[w->n - 1]; /* its buffers are reused */
        int at = w->n - 1;
        for (; at > 0 && before(kl, sample, t, &w->entries[at - 1]); at--)
            w->entries[at] = w->entries[at - 1];
        e.sample = sample;
        e.position = t;
        e.metrics = tokens[t];
        e.row_sparsity = row_sparsity ? row_sparsity[t / block_q] : 0;
        w->entries[at] = e;
    }
    for (int i = 0; i < w->n; i++) { /* those that stay, once */
        const struct worst_entry *e = &w->entries[i];
        if (e->sample != sample) continue;
        TRY(resident_read(dense, (size_t)e->position * width, width, e->hidden[0]));
        TRY(resident_read(sparse, (size_t)e->position * width, width, e->hidden[1]));
    }
    return OK;
}

/* The best five of a row of logits, and the sum of exponentials over that of the best. */
struct top_five {
    int ids[TOP], n;
    float logits[TOP];
    double sum;
};

struct top_rows {
    const float *logits; /* [rows, vocab] */
    int vocab;
    struct top_five *out;
};

static void find_top(void *ctx, int row, int worker)
{
    const struct top_rows *x = ctx;
    const float *logits = x->logits + (size_t)row * (size_t)x->vocab;
    struct top_five *out = &x->out[row];
    int top[TOP] = {0}, n = 0;
    (void)worker;
    for (int i = 0; i < x->vocab; i++) {
        if (n == TOP && logits[i] <= logits[top[TOP - 1]]) continue;
        int at = n < TOP ? n++ : TOP - 1;
        for (; at > 0 && logits[top[at - 1]] < logits[i]; at--) top[at] = top[at - 1];
        top[at] = i;
    }
    double sum = 0;
    for (int i = 0; i < x->vocab; i++) sum += exp((double)logits[i] - (double)logits[top[0]]);
    *out = (struct top_five){.n = n, .sum = sum};
    for (int i = 0; i < n; i++) out->ids[i] = top[i], out->logits[i] = logits[top[i]];
}

/* Of both sides of every entry a row of logits, as many at a time as there are threads. */
static enum status find_all_tops(
    const struct worst_tokens *w, struct session *s, int vocab, struct top_five *out)
{
    struct par *par = session_par(s);
    int at_once = par_threads(par), n = 2 * w->n;
    size_t width = (size_t)w->width;
    float *logits = malloc(sizeof *logits * (size_t)vocab * (size_t)at_once),
          *hidden = malloc(sizeof *hidden * width * (size_t)at_once);
    enum status st =
        logits && hidden ? OK : fail(ERR_MEMORY, "no memory for %d rows of logits", at_once);
    for (int first = 0; first < n && st == OK; first += at_once) {
        int rows = n - first < at_once ? n - first : at_once;
        for (int i = 0; i < rows; i++)
            memcpy(hidden + (size_t)i * width, w->entries[(first + i) / 2].hidden[(first + i) % 2],
                sizeof *hidden * width);
        st = session_logits(s, rows, hidden, logits);
        struct top_rows x = {logits, vocab, out + first};
        if (st == OK) par_for(par, rows, find_top, &x);
    }
    free(logits);
    free(hidden);
    return st;
}

static enum status top_json(
    const struct model *m, const struct top_five *top, struct arena **arena, const char **out)
{
    cJSON *array = cJSON_CreateArray();
    struct str text = {0};
    enum status st = OK;
    for (int i = 0; i < top->n && st == OK; i++) {
        str_reset(&text);
        int32_t id = top->ids[i];
        st = tokenizer_decode(m->tokenizer, &id, 1, false, &text);
        cJSON *o = cJSON_CreateObject();
        cJSON_AddNumberToObject(o, "id", id);
        cJSON_AddStringToObject(o, "text", str_get(&text));
        cJSON_AddNumberToObject(
            o, "p", exp((double)top->logits[i] - (double)top->logits[0]) / top->sum);
        cJSON_AddItemToArray(array, o);
    }
    char *printed = cJSON_PrintUnformatted(array);
    *out = arena_str(arena, printed);
    cJSON_free(printed);
    cJSON_Delete(array);
    str_clear(&text);
    return st;
}

enum status worst_tokens_records(const struct worst_tokens *w, const struct model *m,
    const struct sample_set *set, struct session *s, struct arena **arena,
    struct worst_token_record **out)
{
    struct worst_token_record *rows = arena_alloc(arena, sizeof *rows * (size_t)(w->n ? w->n : 1));
    struct top_five *tops = malloc(sizeof *tops * (size_t)(2 * w->n + 1));
    if (!tops) return fail(ERR_MEMORY, "no memory for the best of %d rows", 2 * w->n);
    struct str text = {0};
    enum status st = find_all_tops(w, s, m->weights.config.vocab_size, tops);
    for (int i = 0; i < w->n && st == OK; i++) {
        const struct worst_entry *e = &w->entries[i];
        const int32_t *ids = set->samples[e->sample].ids;
        int from = e->position + 1 > CONTEXT_TOKENS ? e->position + 1 - CONTEXT_TOKENS : 0;
        rows[i] = (struct worst_token_record){
            .sample = e->sample,
            .position = e->position,
            .token = e->metrics.next,
            .kl = (double)e->metrics.kl,
            .cosine = (double)e->metrics.cosine,
            .nll_dense = (double)e->metrics.nll_dense,
            .nll_sparse = (double)e->metrics.nll_sparse,
            .row_sparsity = e->row_sparsity,
        };
        str_reset(&text);
        TRY_GOTO(st, done,
            tokenizer_decode(
                m->tokenizer, ids + from, (size_t)(e->position + 1 - from), false, &text));
        rows[i].context = arena_str(arena, str_get(&text));
        str_reset(&text);
        if (e->metrics.next >= 0)
            TRY_GOTO(st, done, tokenizer_decode(m->tokenizer, &e->metrics.next, 1, false, &text));
        rows[i].token_text = arena_str(arena, str_get(&text));
        TRY_GOTO(st, done, top_json(m, &tops[2 * i], arena, &rows[i].top_dense));
        TRY_GOTO(st, done, top_json(m, &tops[2 * i + 1], arena, &rows[i].top_sparse));
    }
    *out = rows;
done:
    str_clear(&text);
    free(tops);
    return st;
}
