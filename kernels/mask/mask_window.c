/* The sink and the last w tokens: what a sliding-window model would see. No prediction, no
 * threshold. */
#include "kernels/mask.h"

static const char *refuses(const struct mask_args *a)
{
    return a->window > 0 ? NULL : "needs --window TOKENS, at least 1";
}

static size_t workspace(const struct mask_args *a)
{
    (void)a;
    return 0;
}

static void prepare(const struct mask_args *a, int head, void *ws)
{
    (void)a;
    (void)head;
    (void)ws;
}

static void row(
    const struct mask_args *a, int head, int i, float theta, const void *ws, struct mask_row *out)
{
    (void)head;
    (void)theta;
    (void)ws;
    struct block_shape b = a->attn->block;
    int qb = a->attn->q_start / b.q + i;
    int oldest = qb * b.q - a->window + 1; /* the first row of the block still sees this key */
    mask_force_common(out, b, qb);
    for (int j = 0; j < out->n; j++) out->p[j] = (j + 1) * b.k > oldest ? 1 : 0;
}

const struct mask_method mask_window = {
    .name = "window",
    .refuses = refuses,
    .workspace = workspace,
    .prepare = prepare,
    .row = row,
    .what = "sink block and the last tokens (--window)",
    .source = "StreamingLLM, arXiv 2309.17453",
};
