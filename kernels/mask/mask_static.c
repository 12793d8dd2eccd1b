/* Masks that look at no tensor: sink and window (StreamingLLM, A-shape), and the tri-shape of
 * TriangleMix and MInference, where the last rows of the prompt also see everything. `layers`, from
 * which a layer on they hold, is --layers. */
#include "kernels/mask/sheet.h"

enum { PARAM_SINK, PARAM_WINDOW, PARAM_LAST, N_PARAMS };
static const struct mask_param params[N_PARAMS] = {
    {"sink", "first tokens", 100, 1, 1 << 20, true, NULL},
    {"window", "last tokens", 800, 1, 1 << 20, true, NULL},
    {"last", "last rows of the prompt that see everything", 0, 0, 1 << 20, true, NULL},
};
static const struct mask_param tri_params[N_PARAMS] = {
    {"sink", "first tokens", 100, 1, 1 << 20, true, NULL},
    {"window", "last tokens", 800, 1, 1 << 20, true, NULL},
    {"last", "last rows of the prompt that see everything", 100, 0, 1 << 20, true, NULL},
};

static const char *refuses(const struct mask_args *a)
{
    (void)a;
    return NULL;
}

static size_t workspace(const struct mask_args *a)
{
    (void)a;
    return 0;
}

static void prepare(const struct mask_args *a, int head, void *ws)
{
    (void)a, (void)head, (void)ws;
}

static void fill(const struct mask_args *a, const struct mask_param *p, int i, struct mask_row *out)
{
    struct block_shape b = a->attn->block;
    int qb = a->attn->q_start / b.q + i, n_kv = attn_n_kv(a->attn),
        end = (qb + 1) * b.q < n_kv ? (qb + 1) * b.q : n_kv;
    int oldest = qb * b.q - (int)mask_value(a, p, PARAM_WINDOW) +
        1; /* the first row of the block still sees this key */
    bool all = end > n_kv - (int)mask_value(a, p, PARAM_LAST);
    mask_force_common(out, b, qb);
    for (int j = 0; j < out->n; j++)
        out->p[j] =
            all || j * b.k < (int)mask_value(a, p, PARAM_SINK) || (j + 1) * b.k > oldest ? 1 : 0;
}

static void a_row(
    const struct mask_args *a, int head, int i, float theta, const void *ws, struct mask_row *out)
{
    (void)head, (void)theta, (void)ws;
    fill(a, params, i, out);
}

static void tri_row(
    const struct mask_args *a, int head, int i, float theta, const void *ws, struct mask_row *out)
{
    (void)head, (void)theta, (void)ws;
    fill(a, tri_params, i, out);
}

const struct mask_method mask_a_shape = {
    .name = "a-shape",
    .refuses = refuses,
    .workspace = workspace,
    .prepare = prepare,
    .row = a_row,
    .what = "sink and window",
    .source = "StreamingLLM, arXiv 2309.17453; MInference",
    .params = params,
    .n_params = N_PARAMS - 1,
};

const struct mask_method mask_tri_shape = {
    .name = "tri-shape",
    .refuses = refuses,
    .workspace = workspace,
    .prepare = prepare,
    .row = tri_row,
    .what = "sink, window, and last rows that see everything",
    .source = "TriangleMix, arXiv 2507.21526",
    .any_length = true,
    .params = tri_params,
    .n_params = N_PARAMS,
};
