/* A session on the CPU (session_cpu.c) and its element-wise steps, which threads share by rows
 * (session_cpu_rows.c). */
#ifndef SG_ENGINE_SESSION_CPU_PARTS_H
#define SG_ENGINE_SESSION_CPU_PARTS_H

#include "base/par.h"
#include "engine/session.h"

#include <stdatomic.h>

struct session_cpu {
    const struct weights *w;
    struct par *par;
    const char *impl;
    struct session_plan plan;
    float *kv;            /* [n_layers][2][n_kv_heads][capacity][head_dim] */
    float *x, *norm;      /* [chunk, hidden] residual stream and normed copy */
    float *q, *attn;      /* [chunk, n_heads * head_dim] */
    float *kv_rows;       /* [chunk, n_kv_heads * head_dim] on the way to the cache */
    float *gate, *up;     /* [MLP_ROWS, intermediate] */
    float *cosine, *sine; /* [rope_count][chunk, head_dim / 2] */
    float *inv_freq;      /* [rope_count][head_dim / 2] */
    void *linear_ws;
    void *slab;
    void *scratch; /* attention and prediction, grows to the largest call */
    size_t scratch_bytes;
    /* of the call under way */
    int position;
    struct str *impls;
    struct forward_times *times; /* NULL: nobody asked */
    atomic_bool not_finite;      /* seen in the stream */
};

/* What a step works on. */
struct rows_job {
    struct session_cpu *s;
    const float *weight;
    const int32_t *tokens;
    int n, position;
    int n_heads;      /* of the rows to rotate, to cache or to pick … */
    size_t head_rows; /* … rows that a head has in the cache */
    int from_heads;   /* … and heads in a row of `from` */
    int dim;          /* of what rows_part_norm takes as one, n_heads of them in a row */
    int rope;         /* which rotation */
    const float *from;
    float *to;
    float *branch; /* what a layer adds, before its norm */
    bool rotate;
};

/* The step on rows [0, n) of the job. */
void for_rows(struct session_cpu *s, struct rows_job *j, par_body *step);

par_body rows_embed;     /* to [n, hidden]: the embeddings of `tokens` */
par_body rows_copy;      /* to [n, hidden] = from */
par_body rows_norm;      /* to [n, hidden]: RMSNorm of from, times weight */
par_body rows_angles;    /* cosine and sine of that rotation, of the positions from `position` on */
par_body rows_rotate;    /* to [n, n_heads, head_dim] by these, in place */
par_body rows_part_norm; /* RMSNorm over parts of `dim` of to, times weight, in place */
par_body rows_behind;    /* to [n, hidden] += RMSNorm of branch, times weight; branch changes */
par_body rows_cache;     /* from [n, from_heads, head_dim] into the cache at `position`, rotated? */
par_body rows_finite;    /* sets not_finite where from [n, hidden] holds NaN or infinity */
par_body rows_silu;      /* to [n, intermediate] = SiLU(to) * from */
par_body rows_pick; /* to [n, n_heads, head_dim]: those heads of from, whose rows have from_heads */

#endif
