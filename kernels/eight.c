#include "kernels/eight.h"

static const char *const names[] = {"full", "int8", "fp8"};

const char *precision_name(enum precision p) { return names[p]; }

bool precision_parse(const char *name, enum precision *p)
{
    for (int i = 0; i < 3; i++)
        if (strcmp(name, names[i]) == 0) {
            *p = (enum precision)i;
            return true;
        }
    return false;
}

const char *eight_refuses(const struct attn_args *a)
{
    if (attn_is_full(a)) return NULL;
    if (a->pv == PRECISION_INT8) return "P·V in int8 is not defined";
    if (a->window > 0) return "eight bits have no sliding window";
    return a->q_start % EIGHT_ROWS ? "a call with eight bits starts on a unit of 64 rows" : NULL;
}

float eight_scale(enum precision p, float largest)
{
    if (p == PRECISION_FP8) return ldexpf(1, eight_exponent(largest));
    return largest > 0x1p-100f ? largest / 127.0f : 1;
}

void eight_round(enum precision p, float scale, const float *x, const float *mean, float *to, int n)
{
    /* A power of two divides exactly; for int8 the inverse is one rounding, then the product
     * another. */
    float inverse = 1 / scale;
    for (int i = 0; i < n; i++) {
        float y = (x[i] - (mean ? mean[i] : 0)) * inverse;
        float q = p == PRECISION_FP8 ? e4m3_round(y) : rintf(y);
        if (p == PRECISION_INT8) q = q < -127 ? -127 : q > 127 ? 127 : q; /* NaN stays */
        to[i] = q * scale;
    }
}

struct job {
    const struct attn_args *a;
    enum precision precision;
    const float *from;
    float *to;
    ptrdiff_t row, head;
    int n_rows, n_blocks;
    bool centred;
};

static void mean_of(const float *x, ptrdiff_t row, int n, int d, float *mean)
{
    for (int i = 0; i < d; i++) {
        double sum = 0;
        for (int r = 0; r < n; r++) sum += (double)x[r * row + i];
        mean[i] = (float)(sum / n);
    }
}

static void block_task(void *ctx, int item, int worker)
{
    (void)worker;
    const struct job *j = ctx;
    int head = item / j->n_blocks, r0 = item % j->n_blocks * EIGHT_ROWS, d = j->a->head_dim;
    int n = j->n_rows - r0 < EIGHT_ROWS ? j->n_rows - r0 : EIGHT_ROWS;
    const float *x = j->from + head * j->head;
    float mean[256] = {0}, largest = 0;
    if (j->centred)
        mean_of(x, j->row, j->n_rows < EIGHT_MEAN_KEYS ? j->n_rows : EIGHT_MEAN_KEYS, d, mean);
    x += r0 * j->row;
    for (int r = 0; r < n; r++)
        for (int i = 0; i < d; i++) largest = fmaxf(largest, fabsf(x[r * j->row + i] - mean[i]));
    float scale = eight_scale(j->precision, largest);
    float *to = j->to + ((size_t)head * (size_t)j->n_rows + (size_t)r0) * (size_t)d;
    for (int r = 0; r < n; r++)
        eight_round(j->precision, scale, x + r * j->row, mean, to + (size_t)r * (size_t)d, d);
}

static void run_job(struct job *j, int heads, struct par *par)
{
    j->n_blocks = (j->n_rows + EIGHT_ROWS - 1) / EIGHT_ROWS;
    for (int i = 0; !par && i < heads * j->n_blocks; i++) block_task(j, i, 0);
    if (par) par_for(par, heads * j->n_blocks, block_task, j);
}

/* Heads that share one q are one head of it. */
static int query_heads(const struct attn_args *a) { return a->q_head ? a->n_heads : 1; }

static size_t q_floats(const struct attn_args *a)
{
    return a->qk ? (size_t)query_heads(a) * (size_t)a->n_q * (size_t)a->head_dim : 0;
}

static size_t kv_floats(const struct attn_args *a)
{
    return (size_t)a->n_kv_heads * (size_t)attn_n_kv(a) * (size_t)a->head_dim;
}

static size_t lines(size_t floats) { return (floats * sizeof(float) + 63) / 64 * 64; }

size_t eight_bytes(const struct attn_args *a)
{
    return (a->qk ? lines(q_floats(a)) + lines(kv_floats(a)) : 0) +
        (a->pv ? lines(kv_floats(a)) : 0);
}

void eight_inputs(const struct attn_args *a, void *ws, struct par *par, struct attn_args *to)
{
    char *at = ws;
    *to = *a;
    ptrdiff_t d = a->head_dim, n_kv = attn_n_kv(a);
    if (a->qk) {
        float *q = (float *)at, *k = (float *)(at + lines(q_floats(a)));
        at += lines(q_floats(a)) + lines(kv_floats(a));
        run_job(&(struct job){a, a->qk, a->q, q, a->q_row, a->q_head, a->n_q, 0, false},
            query_heads(a), par);
        run_job(&(struct job){a, a->qk, a->k, k, a->k_row, a->k_head, (int)n_kv, 0, true},
            a->n_kv_heads, par);
        to->q = q, to->q_row = d, to->q_head = a->q_head ? a->n_q * d : 0;
        to->k = k, to->k_row = d, to->k_head = n_kv * d;
    }
    if (a->pv) {
        float *v = (float *)at;
        run_job(&(struct job){a, a->pv, a->v, v, a->v_row, a->v_head, (int)n_kv, 0, false},
            a->n_kv_heads, par);
        to->v = v, to->v_row = d, to->v_head = n_kv * d;
    }
}
