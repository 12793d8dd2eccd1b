#include "kernels/compare.h"

#include "kernels/cpu/cpu_ops.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    /* positions per task at most: each weight panel is widened once per so many rows, packed once
       per side */
    ROWS = 512,
    /* ids per chunk: 2 x 512 x 512 logits are 2 MiB, much of which stays in a core's L2 */
    VOCAB = 512,
};

struct work {
    const struct linear *head;
    int n_rows, n_tasks;
    const float *dense, *sparse;
    const int32_t *next;
    struct token_metrics *out;
    struct tensor_sums *sums; /* [tasks]; added up in order, so that threads do not change a bit */
    int *bad;                 /* [tasks] first bad row; -1: none */
    char *ws;
    size_t stride;
};

/* Floats of one side's hidden states: a copy, so that both sides stand alike in memory. */
static size_t side_floats(const struct linear *head)
{
    return ((size_t)ROWS * (size_t)head->k + 15) / 16 * 16;
}

static size_t worker_bytes(const struct linear *head)
{
    size_t floats = 2 * side_floats(head) + 2 * (size_t)ROWS * VOCAB;
    return (floats * sizeof(float) + ROWS * sizeof(struct logit_row) + 2 * ROWS * sizeof(float) +
               63) /
        64 * 64 +
        linear_workspace(head->k, 1);
}

size_t compare_workspace(const struct linear *head, int n_threads)
{
    return worker_bytes(head) * (size_t)n_threads;
}

void logit_row_begin(struct logit_row *row)
{
    *row = (struct logit_row){.m = {-INFINITY, -INFINITY}};
    for (int side = 0; side < 2; side++)
        for (int i = 0; i < 5; i++) {
            row->top[side][i] = -INFINITY;
            row->top_id[side][i] = -1;
        }
}

static double cosine(double dot, double a, double b)
{
    if (a <= 0 || b <= 0) return a == b; /* two zero vectors point the same way */
    double c = dot / sqrt(a * b);
    return c > 1 ? 1 : c < -1 ? -1 : c;
}

void logit_row_finish(const struct logit_row *row, int vocab, int32_t next, const float z_next[2],
    struct token_metrics *m)
{
    double n = vocab;
    double lse0 = (double)row->m[0] + log((double)row->s[0]),
           lse1 = (double)row->m[1] + log((double)row->s[1]);
    double kl = (double)row->t / (double)row->s[0] - lse0 + lse1;
    m->kl = kl > 0 ? (float)kl : 0;
    m->cosine = (float)cosine(row->dot, row->sq[0], row->sq[1]);
    m->cosine_centred = (float)cosine(row->dot - row->sum[0] * row->sum[1] / n,
        row->sq[0] - row->sum[0] * row->sum[0] / n, row->sq[1] - row->sum[1] * row->sum[1] / n);
    m->logits_l1 = (float)(row->abs_diff / n);
    m->logits_rmse = (float)sqrt(row->sq_diff / n);
    m->top1_dense = row->top_id[0][0];
    m->top1_sparse = row->top_id[1][0];
    m->top1_agree = m->top1_dense == m->top1_sparse;
    m->top5_overlap = 0;
    for (int i = 0; i < 5; i++)
        for (int j = 0; j < 5; j++)
            m->top5_overlap += row->top_id[0][i] >= 0 && row->top_id[0][i] == row->top_id[1][j];
    m->next = next;
    m->nll_dense = m->nll_sparse = m->delta_p = 0;
    if (next < 0) return;
    double p0 = (double)z_next[0] - lse0, p1 = (double)z_next[1] - lse1;
    m->nll_dense = (float)-p0;
    m->nll_sparse = (float)-p1;
    m->delta_p = (float)(exp(p1) - exp(p0));
}

void logit_row_sum(const struct logit_row *row, int vocab, struct tensor_sums *s)
{
    s->dot += row->dot;
    s->dense_sq += row->sq[0];
    s->sparse_sq += row->sq[1];
    s->abs_diff += row->abs_diff;
    s->sq_diff += row->sq_diff;
    s->n += vocab;
}

static void hidden_metrics(
    const float *a, const float *b, int k, struct token_metrics *m, struct tensor_sums *s)
{
    const struct cpu_ops *ops = cpu_ops();
    double dot = (double)ops->dot(a, b, k), aa = (double)ops->dot(a, a, k),
           bb = (double)ops->dot(b, b, k), l1 = 0;
    for (int i = 0; i < k; i++) l1 += fabs((double)a[i] - (double)b[i]);
    m->hidden_cosine = (float)cosine(dot, aa, bb);
    m->hidden_l1 = (float)(l1 / k);
    s->hidden_dot += dot;
    s->hidden_dense_sq += aa;
    s->hidden_sparse_sq += bb;
    s->hidden_abs_diff += l1;
    s->hidden_n += k;
}

/* An even number of even tasks, so that two threads end together. */
static int count_tasks(int n_rows)
{
    return n_rows <= ROWS / 2 ? 1 : (n_rows + 2 * ROWS - 1) / (2 * ROWS) * 2;
}

static int task_begin(const struct work *w, int item)
{
    return (int)((int64_t)w->n_rows * item / w->n_tasks);
}

static void rows_task(void *ctx, int item, int worker)
{
    struct work *w = ctx;
    int row0 = task_begin(w, item), n = task_begin(w, item + 1) - row0, k = w->head->k;
    int n_sides = w->dense == w->sparse ? 1 : 2;
    char *own = w->ws + w->stride * (size_t)worker;
    float *x[2], *z[2];
    for (int side = 0; side < 2; side++) {
        x[side] = (float *)own + side_floats(w->head) * (size_t)side;
        z[side] = (float *)own + side_floats(w->head) * 2 +
            (size_t)ROWS * VOCAB * (size_t)(side % n_sides);
        if (side < n_sides)
            memcpy(x[side], (side ? w->sparse : w->dense) + (size_t)row0 * (size_t)k,
                sizeof **x * (size_t)n * (size_t)k);
    }
    float(*z_next)[2] =
        (void *)((float *)own + side_floats(w->head) * 2 + 2 * (size_t)ROWS * VOCAB);
    struct logit_row *rows = (void *)(z_next + ROWS);
    void *panel = own + w->stride - linear_workspace(k, 1);
    for (int r = 0; r < n; r++) logit_row_begin(&rows[r]);
    for (int first = 0; first < w->head->m; first += VOCAB) {
        int ids = w->head->m - first < VOCAB ? w->head->m - first : VOCAB;
        struct linear part = linear_rows(w->head, first, first + ids);
        linear_run_sides(&part, n, n_sides, (const float *const *)x, z, VOCAB, panel);
        for (int r = 0; r < n; r++) {
            const float *dense = z[0] + (size_t)r * VOCAB, *sparse = z[1] + (size_t)r * VOCAB;
            cpu_ops()->logit_fold(&rows[r], dense, sparse, ids, first);
            int32_t next = w->next[row0 + r];
            assert(next < w->head->m);
            if (next >= first && next < first + ids) {
                z_next[r][0] = dense[next - first];
                z_next[r][1] = sparse[next - first];
            }
        }
    }
    struct tensor_sums sums = {0};
    int bad = -1;
    for (int r = 0; r < n; r++) {
        struct token_metrics *m = &w->out[row0 + r];
        logit_row_finish(&rows[r], w->head->m, w->next[row0 + r], z_next[r], m);
        hidden_metrics(w->dense + (size_t)(row0 + r) * (size_t)k,
            w->sparse + (size_t)(row0 + r) * (size_t)k, k, m, &sums);
        logit_row_sum(&rows[r], w->head->m, &sums);
        if (rows[r].bad && bad < 0) bad = row0 + r;
    }
    w->sums[item] = sums;
    w->bad[item] = bad;
}

enum status compare_logits(const struct linear *head, int n_rows, const float *hidden_dense,
    const float *hidden_sparse, const int32_t *next, struct token_metrics *out,
    struct tensor_sums *sums, void *ws, struct par *par)
{
    int n_tasks = count_tasks(n_rows), first_bad = -1;
    struct work w = {.head = head,
        .n_rows = n_rows,
        .n_tasks = n_tasks,
        .dense = hidden_dense,
        .sparse = hidden_sparse,
        .next = next,
        .out = out,
        .ws = ws,
        .stride = worker_bytes(head)};
    w.sums = malloc(sizeof *w.sums * (size_t)n_tasks);
    w.bad = malloc(sizeof *w.bad * (size_t)n_tasks);
    if (w.sums && w.bad) par_for(par, n_tasks, rows_task, &w);
    for (int t = 0; w.sums && w.bad && t < n_tasks; t++) {
        for (size_t i = 0; i < sizeof *sums / sizeof(double); i++)
            ((double *)sums)[i] += ((const double *)&w.sums[t])[i];
        if (first_bad < 0) first_bad = w.bad[t];
    }
    enum status st =
        w.sums && w.bad ? OK : fail(ERR_MEMORY, "no memory for the sums of %d positions", n_rows);
    if (st == OK && first_bad >= 0)
        st = fail(ERR_NUMERIC,
            "logits of position %d hold NaN or infinity; check the weights with `info --check`",
            first_bad);
    free(w.sums);
    free(w.bad);
    return st;
}
