#include "kernels/mask/last_rows.h"

#include "kernels/cpu/cpu_ops.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int last_rows_sums(
    const struct mask_args *a, int head, int n_rows, float *row, float *by_key, float *by_distance)
{
    const struct attn_args *t = a->attn;
    int n_kv = attn_n_kv(t), first = t->n_q > n_rows ? t->n_q - n_rows : 0;
    const float *k = (const float *)t->k + head / (t->n_heads / t->n_kv_heads) * t->k_head;
    memset(by_key, 0, sizeof *by_key * (size_t)n_kv);
    memset(by_distance, 0, sizeof *by_distance * (size_t)n_kv);
    for (int r = first; r < t->n_q; r++) {
        const float *q = (const float *)t->q + head * t->q_head + r * t->q_row;
        int last = t->q_start + r;
        float top = -INFINITY;
        double sum = 0;
        for (int j = 0; j <= last; j++) {
            row[j] = cpu_ops()->dot(q, k + j * t->k_row, t->head_dim) * t->scale;
            top = row[j] > top ? row[j] : top;
        }
        for (int j = 0; j <= last; j++) sum += (double)(row[j] = expf(row[j] - top));
        for (int j = 0; j <= last; j++) {
            float p = (float)((double)row[j] / sum);
            by_key[j] += p;
            by_distance[last - j] += p;
        }
    }
    return t->n_q - first;
}

static int compare(const void *a, const void *b)
{
    const struct last_rows_rank *x = a, *y = b;
    if (x->value != y->value) return x->value < y->value ? 1 : -1;
    return (x->at > y->at) - (x->at < y->at);
}

void last_rows_sort(const float *values, int n, struct last_rows_rank *out)
{
    for (int i = 0; i < n; i++) out[i] = (struct last_rows_rank){values[i], i};
    qsort(out, (size_t)n, sizeof *out, compare);
}
