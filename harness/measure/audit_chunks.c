/* Prefill at once against prefill in chunks: the same states, and the same tiles? */
#include "harness/measure/audit.h"

#include <math.h>
#include <stdlib.h>

double audit_rows_apart(const float *x, const float *y, int from, int to, int width)
{
    double worst = 0;
    for (int r = from; r < to; r++) {
        double diff = 0, norm = 0;
        for (int i = 0; i < width; i++) {
            double p = (double)x[(size_t)r * (size_t)width + (size_t)i],
                   q = (double)y[(size_t)r * (size_t)width + (size_t)i];
            diff += (p - q) * (p - q);
            norm += p * p;
        }
        double apart = norm > 0 ? sqrt(diff / norm) : sqrt(diff);
        if (!isfinite(apart)) return INFINITY; /* fmax would pass over a NaN */
        worst = fmax(worst, apart);
    }
    return worst;
}

static enum status keep_map(void *ctx, const struct layer_view *view)
{
    return map_log_add(ctx, view);
}

static enum status prefill(const struct weights *w, struct par *par, const int32_t *ids, int n,
    const struct sparse_policy *policy, int chunk, float *hidden, struct map_log *log)
{
    struct session *s;
    TRY(session_open(&s, w, par, n, chunk, NULL));
    enum status st = session_forward(s,
        &(struct forward_args){.tokens = ids,
            .n = n,
            .policy = policy,
            .hidden = hidden,
            .hook = keep_map,
            .hook_ctx = log,
            .hook_tiles_only = true});
    session_close(&s);
    return st;
}

enum status audit_chunks(const struct weights *w, struct par *par, const int32_t *ids, int n,
    const struct sparse_policy *policy, int chunk, struct audit_chunks *out)
{
    int width = w->config.hidden_size;
    size_t rows = (size_t)n * (size_t)width;
    struct map_log logs[2] = {{0}};
    float *whole = malloc(2 * rows * sizeof *whole);
    *out = (struct audit_chunks){0};
    enum status st =
        whole ? OK : fail(ERR_MEMORY, "no memory to audit the prefill of %d tokens", n);
    if (st == OK) st = prefill(w, par, ids, n, policy, (n + 127) / 128 * 128, whole, &logs[0]);
    if (st == OK) st = prefill(w, par, ids, n, policy, chunk, whole + rows, &logs[1]);
    if (st == OK && policy->method) st = map_log_compare(&logs[0], &logs[1], policy, &out->masks);
    if (st == OK) {
        out->worst_row = audit_rows_apart(whole, whole + rows, 0, n, width);
        /* as one vector, row by row: a count of floats may be more than an int holds */
        double diff = 0, norm = 0;
        for (size_t i = 0; i < rows; i++) {
            double d = (double)whole[i] - (double)whole[rows + i];
            diff += d * d;
            norm += (double)whole[i] * (double)whole[i];
        }
        out->all = norm > 0 ? sqrt(diff / norm) : sqrt(diff);
        if (!isfinite(out->all)) out->all = INFINITY;
    }
    for (int i = 0; i < 2; i++) map_log_clear(&logs[i]);
    free(whole);
    return st;
}
