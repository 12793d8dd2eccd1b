/* The map against its definition, and whether the kernel obeys it. */
#include "harness/measure/audit.h"
#include "harness/measure/definition.h"
#include "kernels/eight.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool kept(const struct tile_map *t, int head, int i, int j)
{
    return tile_map_row(t, head, i)[j / 64] >> (j % 64) & 1;
}

enum status audit_map(const struct attn_args *call, const struct mask_args *how, double doubt,
    struct audit_tiles *out)
{
    char written[32];
    /* the decimal that was asked for, not its float */
    snprintf(written, sizeof written, "%.7g", (double)how->topk);
    double topk = strtod(written, NULL), near;
    int n_blocks = (attn_n_kv(call) - 1) / call->block.k + 1;
    double *state = malloc(sizeof *state * definition_size(call));
    bool *keep = malloc((size_t)n_blocks * sizeof *keep);
    enum status st =
        state && keep ? OK : fail(ERR_MEMORY, "no memory to audit %d key blocks", n_blocks);
    for (int h = 0; h < call->n_heads && st == OK; h++) {
        if (call->head_sparse && !call->head_sparse[h]) continue;
        definition_prepare(call, h, how->smooth_k, state);
        for (int i = 0; i < call->tiles->n_qblocks; i++) {
            int n = definition_row(call, h, i, (double)how->heads[h].theta,
                (double)how->heads[h].tau, topk, state, keep, &near);
            out->n_rows++;
            out->n_doubtful += near < doubt;
            for (int j = 0; j < n && near >= doubt; j++)
                out->wrong += kept(call->tiles, h, i, j) != keep[j];
        }
    }
    free(state);
    free(keep);
    return st;
}

/* One query block of one head as a call of its own. */
struct block_call {
    struct attn_args a;
    struct tile_map map;
    float *k, *v, *o, *again;
    void *ws;
    int possible;
};

static void block_close(struct block_call *b)
{
    free(b->k);
    free(b->v);
    free(b->o);
    free(b->again);
    free(b->ws);
    free(b->map.bits);
}

static enum status block_open(struct block_call *b, const struct attn_args *call,
    const struct attn_impl *impl, int head, int i)
{
    size_t d = (size_t)call->head_dim;
    int first = i * call->block.q,
        rows = call->n_q - first < call->block.q ? call->n_q - first : call->block.q;
    int n_kv = call->q_start + first + rows, kv = head / (call->n_heads / call->n_kv_heads);
    *b = (struct block_call){.a = *call, .possible = (n_kv - 1) / call->block.k + 1};
    b->map = tile_map_shape(call->block, 1, call->q_start + first, rows);
    b->map.bits = calloc(1, tile_map_bytes(&b->map));
    b->k = malloc(sizeof *b->k * (size_t)n_kv * d);
    b->v = malloc(sizeof *b->v * (size_t)n_kv * d);
    b->o = malloc(sizeof *b->o * (size_t)rows * d);
    b->again = malloc(sizeof *b->again * (size_t)rows * d);
    struct attn_args *a = &b->a;
    a->n_q = rows;
    a->q_start = call->q_start + first;
    a->n_heads = a->n_kv_heads = 1;
    a->q = (const float *)call->q + first * call->q_row + head * call->q_head;
    a->k = b->k;
    a->v = b->v;
    a->o = b->o;
    a->k_row = a->v_row = a->o_row = (ptrdiff_t)d;
    a->k_head = a->v_head = (ptrdiff_t)((size_t)n_kv * d);
    a->o_head = (ptrdiff_t)d;
    a->tiles = &b->map;
    a->head_sparse = NULL;
    a->pv_threshold = call->pv_threshold ? call->pv_threshold + head : NULL;
    a->ledger = NULL;
    b->ws = aligned_alloc(64, (impl->workspace(a) + 127) / 64 * 64);
    if (!b->map.bits || !b->k || !b->v || !b->o || !b->again || !b->ws)
        return fail(ERR_MEMORY, "no memory to audit %d keys", n_kv);
    for (int j = 0; j < b->possible; j++)
        if (kept(call->tiles, head, i, j))
            tile_map_row(&b->map, 0, 0)[j / 64] |= (uint64_t)1 << (j % 64);
    for (int r = 0; r < n_kv; r++) {
        memcpy(b->k + (size_t)r * d, (const float *)call->k + kv * call->k_head + r * call->k_row,
            d * sizeof *b->k);
        memcpy(b->v + (size_t)r * d, (const float *)call->v + kv * call->v_head + r * call->v_row,
            d * sizeof *b->v);
    }
    return OK;
}

/* NaN over the rows of key block j; of the first keys not, where all keys are shifted by their
 * mean. */
static void poison(const struct block_call *b, float *x, int j)
{
    int n = attn_n_kv(&b->a), from = j * b->a.block.k,
        to = from + b->a.block.k < n ? from + b->a.block.k : n;
    if (x == b->k && b->a.qk != PRECISION_FULL && from < EIGHT_MEAN_KEYS) from = EIGHT_MEAN_KEYS;
    for (int i = from * b->a.head_dim; i < to * b->a.head_dim; i++) x[i] = NAN;
}

/* Stage 2 off: which unit it skips may hang on a last digit. */
static enum status try_output(
    struct block_call *b, const struct attn_impl *impl, struct par *par, struct audit_tiles *out)
{
    size_t n = (size_t)b->a.n_q * (size_t)b->a.head_dim;
    struct attn_args a = b->a;
    double *want = malloc(sizeof *want * n), off = 0, norm = 0;
    if (!want) return fail(ERR_MEMORY, "no memory to audit %d rows", a.n_q);
    a.pv_threshold = NULL;
    enum status st = impl->run(&a, b->ws, par, NULL);
    if (st == OK) st = definition_output(&a, want);
    for (size_t i = 0; i < n && st == OK; i++) {
        off += ((double)b->o[i] - want[i]) * ((double)b->o[i] - want[i]);
        norm += want[i] * want[i];
    }
    free(want);
    double apart = sqrt(norm > 0 ? off / norm : off);
    out->n_outputs++;
    if (!(apart <= out->apart)) out->apart = isfinite(apart) ? apart : INFINITY;
    return st;
}

/* Rows of a corrected tile in another order, the last `still` of them where they are: its mean
 * alone is in the output, and rounds a little otherwise. */
static void turn_round(const struct block_call *b, float *x, int j, int still)
{
    size_t d = (size_t)b->a.head_dim;
    for (int from = j * b->a.block.k, to = from + b->a.block.k - 1 - still; from < to; from++, to--)
        for (size_t c = 0; c < d; c++) {
            float kept_value = x[(size_t)from * d + c];
            x[(size_t)from * d + c] = x[(size_t)to * d + c];
            x[(size_t)to * d + c] = kept_value;
        }
}

static bool apart_by_more(const float *x, const float *y, size_t n)
{
    const double ROUNDING = 1e-3; /* of a tile's sums, to bf16 on a device */
    double off = 0, norm = 0;
    for (size_t i = 0; i < n; i++) {
        off += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        norm += (double)x[i] * (double)x[i];
    }
    return !(off <= ROUNDING * ROUNDING * norm);
}

static enum status try_left_out(
    struct block_call *b, const struct attn_impl *impl, struct par *par, struct audit_tiles *out)
{
    int n_left = 0;
    for (int j = 0; j < b->possible; j++) n_left += !kept(&b->map, 0, 0, j);
    if (!n_left) return OK;
    TRY(impl->run(&b->a, b->ws, par, NULL));
    for (int j = 0; j < b->possible; j++) {
        if (kept(&b->map, 0, 0, j)) continue;
        if (b->a.correct_mean) {
            turn_round(b, b->k, j, 0);
            turn_round(b, b->v, j, 1);
            continue;
        }
        poison(b, b->k, j);
        poison(b, b->v, j);
    }
    b->a.o = b->again;
    TRY(impl->run(&b->a, b->ws, par, NULL));
    b->a.o = b->o;
    out->n_left++;
    size_t n = (size_t)b->a.n_q * (size_t)b->a.head_dim;
    out->left_traces += b->a.correct_mean ? apart_by_more(b->o, b->again, n)
                                          : memcmp(b->o, b->again, sizeof *b->o * n) != 0;
    return OK;
}

/* The left-out ones hold NaN by now, and do not matter. Stage 2 off: it may leave out V of a kept
 * tile. */
static enum status try_kept(struct block_call *b, const struct attn_impl *impl, int j,
    const float *v, ptrdiff_t v_row, struct par *par, struct audit_tiles *out)
{
    size_t d = (size_t)b->a.head_dim, n = (size_t)b->a.n_q * d, seen = 0;
    poison(b, b->v, j);
    b->a.pv_threshold = NULL;
    TRY(impl->run(&b->a, b->ws, par, NULL));
    for (size_t i = 0; i < n; i++) seen += isnan(b->o[i]);
    for (int r = j * b->a.block.k; r < (j + 1) * b->a.block.k && r < attn_n_kv(&b->a); r++)
        memcpy(b->v + (size_t)r * d, v + r * v_row, d * sizeof *b->v);
    out->n_kept++;
    out->kept_traceless += seen == 0;
    return OK;
}

enum status audit_trace(const struct attn_args *call, const struct attn_impl *impl, int head,
    int n_blocks, struct par *par, struct audit_tiles *out)
{
    int kv = head / (call->n_heads / call->n_kv_heads), n = call->tiles->n_qblocks;
    const float *v = (const float *)call->v + kv * call->v_head;
    enum status st = OK;
    for (int x = 0; x < n_blocks && x < n && st == OK; x++) {
        struct block_call b;
        st = block_open(&b, call, impl, head, n - 1 - x * n / n_blocks);
        if (st == OK) st = try_output(&b, impl, par, out);
        if (st == OK) st = try_left_out(&b, impl, par, out);
        for (int j = 0; j < b.possible && st == OK; j++)
            if (kept(&b.map, 0, 0, j)) st = try_kept(&b, impl, j, v, call->v_row, par, out);
        block_close(&b);
    }
    return st;
}
