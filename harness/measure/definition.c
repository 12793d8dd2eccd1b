#include "harness/measure/definition.h"

#include <assert.h>
#include <math.h>
#include <string.h>

enum { MOST_BLOCKS = 1 << 13, MOST_DIM = 256 };

static int last_key(const struct attn_args *a) { return a->q_start + a->n_q - 1; }
static int blocks_of(const struct attn_args *a) { return last_key(a) / a->block.k + 1; }

/* state: means [blocks, d], then similarities [blocks] */
size_t definition_size(const struct attn_args *a)
{
    return (size_t)blocks_of(a) * ((size_t)a->head_dim + 1);
}

static const float *key(const struct attn_args *a, int head, int row)
{
    int group = a->n_heads / a->n_kv_heads;
    return (const float *)a->k + (head / group) * a->k_head + row * a->k_row;
}

static const float *query(const struct attn_args *a, int head, int row)
{
    return (const float *)a->q + head * a->q_head + (row - a->q_start) * a->q_row;
}

/* Mean over all pairs of rows of their cosine, rows taken from `centre`: the squared length of the
 * mean unit row. */
static double alike(const float *(*row_of)(const struct attn_args *, int, int),
    const struct attn_args *a, int head, int from, int to, const double *centre)
{
    double mean[MOST_DIM] = {0}, sum = 0;
    for (int r = from; r < to; r++) {
        const float *x = row_of(a, head, r);
        double length = 0;
        for (int c = 0; c < a->head_dim; c++)
            length += ((double)x[c] - centre[c]) * ((double)x[c] - centre[c]);
        length = sqrt(length);
        for (int c = 0; length > 0 && c < a->head_dim; c++)
            mean[c] += ((double)x[c] - centre[c]) / length;
    }
    for (int c = 0; c < a->head_dim; c++) sum += mean[c] / (to - from) * (mean[c] / (to - from));
    return sum;
}

void definition_prepare(const struct attn_args *a, int head, enum smooth_k smooth, double *state)
{
    int n = last_key(a) + 1, blocks = blocks_of(a), d = a->head_dim;
    double so_far[MOST_DIM] = {0}, all[MOST_DIM] = {0}, centre[MOST_DIM];
    for (int r = 0; r < n; r++)
        for (int c = 0; c < d; c++) all[c] += (double)key(a, head, r)[c] / n;
    for (int j = 0; j < blocks; j++) {
        int from = j * a->block.k, to = from + a->block.k < n ? from + a->block.k : n;
        double *mean = state + j * d;
        memset(mean, 0, sizeof *mean * (size_t)d);
        for (int r = from; r < to; r++)
            for (int c = 0; c < d; c++) {
                mean[c] += (double)key(a, head, r)[c] / (to - from);
                so_far[c] += (double)key(a, head, r)[c];
            }
        for (int c = 0; c < d; c++)
            centre[c] = smooth == SMOOTH_K_RUNNING ? so_far[c] / to
                : smooth == SMOOTH_K_GLOBAL        ? all[c]
                                                   : 0;
        state[blocks * d + j] = alike(key, a, head, from, to, centre);
    }
}

static void doubt_of(double distance, double *doubt)
{
    if (doubt && fabs(distance) < *doubt) *doubt = fabs(distance);
}

int definition_row(const struct attn_args *a, int head, int i, double theta, double tau,
    double topk, const double *state, bool *keep, double *doubt)
{
    int block = a->q_start / a->block.q + i, first = block * a->block.q, d = a->head_dim,
        blocks = blocks_of(a);
    int end = first + a->block.q <= last_key(a) ? first + a->block.q : last_key(a) + 1,
        possible = (end - 1) / a->block.k + 1;
    double mean[MOST_DIM] = {0}, nothing[MOST_DIM] = {0}, p[MOST_BLOCKS], total = 0,
           top = -INFINITY;
    const double *similarity = state + blocks * d;
    for (int r = first; r < end; r++)
        for (int c = 0; c < d; c++) mean[c] += (double)query(a, head, r)[c] / (end - first);
    double own = alike(query, a, head, first, end, nothing);
    if (doubt) *doubt = INFINITY;
    doubt_of(own - theta, doubt);
    for (int j = 0; j < possible; j++) {
        p[j] = -INFINITY;
        doubt_of(similarity[j] - theta, doubt);
        if (!(similarity[j] > theta)) continue;
        p[j] = 0;
        for (int c = 0; c < d; c++) p[j] += mean[c] * state[j * d + c];
        p[j] *= (double)a->scale;
        top = fmax(top, p[j]);
    }
    assert(possible > 0);
    for (int j = 0; j < possible; j++) total += p[j] = p[j] == -INFINITY ? 0 : exp(p[j] - top);
    int eligible = 0, taken = 0, most = (int)ceil(topk * possible);
    for (int j = 0; j < possible; j++) {
        eligible += similarity[j] > theta;
        /* no similar query block, no similar key block, the sink, the diagonal: these are kept
         * whatever is chosen */
        keep[j] =
            !(own > theta) || !(similarity[j] > theta) || j == 0 || (j + 1) * a->block.k > first;
    }
    bool chosen[MOST_BLOCKS] = {false};
    double sum = 0, last = 0;
    for (; taken < eligible; taken++) { /* the largest that is left, the lower of two alike */
        int best = -1;
        for (int j = 0; j < possible; j++)
            if (similarity[j] > theta && !chosen[j] && (best < 0 || p[j] > p[best])) best = j;
        assert(best >= 0); /* eligible ones are counted above */
        sum += p[best] / total;
        if (!(topk > 0) && tau < 1 && taken > 0) doubt_of(sum - tau, doubt);
        if (topk > 0 ? taken >= most : tau < 1 && taken > 0 && sum > tau) {
            doubt_of((last - p[best]) / last, doubt); /* which of two nearly alike comes first */
            break;
        }
        chosen[best] = true;
        keep[best] = true;
        last = p[best];
    }
    return possible;
}

static const char *refuses(const struct mask_args *a)
{
    return a->attn->head_dim > MOST_DIM || blocks_of(a->attn) > MOST_BLOCKS
        ? "longer than the definition is meant for"
        : NULL;
}

static size_t workspace(const struct mask_args *a)
{
    return (definition_size(a->attn) * sizeof(double) + 63) / 64 * 64;
}
static void prepare(const struct mask_args *a, int head, void *ws)
{
    definition_prepare(a->attn, head, a->smooth_k, ws);
}

static void row(
    const struct mask_args *a, int head, int i, float theta, const void *ws, struct mask_row *out)
{
    bool keep[MOST_BLOCKS];
    int n = definition_row(a->attn, head, i, (double)theta, (double)a->heads[head].tau,
        (double)a->topk, ws, keep, NULL);
    for (int j = 0; j < n && j < out->n; j++) {
        out->p[j] = 0;
        out->forced[j] = keep[j] ? FORCE_THETA_Q : 0;
    }
}

const struct mask_method definition_method = {
    .name = "definition",
    .ranked = true,
    .refuses = refuses,
    .workspace = workspace,
    .prepare = prepare,
    .row = row,
    .what = "METHOD 2 in fp64",
    .takes_theta = true,
};
