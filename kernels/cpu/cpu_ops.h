/* The CPU bodies: one source, compiled once per instruction set, chosen at run time.
 *
 * Everything here is serial; callers cut the work and run pieces through base/par.h. All data f32.
 */
#ifndef SG_KERNELS_CPU_CPU_OPS_H
#define SG_KERNELS_CPU_CPU_OPS_H

#include "kernels/attn.h"
#include "kernels/compare.h"
#include "kernels/eight.h"

#include <stdbool.h>

/* One unit of at most PV_UNIT_ROWS query rows on its walk over key blocks. */
struct attn_unit {
    int n_rows, head_dim;
    bool p_e4m3;   /* probabilities are rounded to e4m3 before P·V */
    int first_pos; /* position of row 0 */
    int window;    /* > 0: a row sees this many keys, itself included (attn.h) */
    float *q;      /* [64, head_dim] rows scaled by scale·log2(e); rows past n_rows zero */
    float *o;      /* [64, head_dim] unnormalised output */
    float *s;      /* [64, 128] scores, then probabilities */
    float m[PV_UNIT_ROWS], l[PV_UNIT_ROWS]; /* running max (log2 units) and sum */
};

/* Running reduction of two logit rows over vocabulary chunks. */
struct logit_row {
    float m[2], s[2]; /* max (natural units) and sum of exp(z - m), dense and sparse */
    float t;          /* sum of exp(z - m) (z - z̃) */
    double dot, sq[2], sum[2], abs_diff, sq_diff;
    float top[2][5]; /* falling */
    int32_t top_id[2][5];
    bool bad; /* a NaN or an infinity was seen */
};

struct cpu_ops {
    const char *name;

    /* attention */
    void (*pack_keys)(const float *k, ptrdiff_t k_row, int n, int d, int block, float *kt);
    /* kt [d, block] = the n ≤ block rows of k transposed, zero behind n */
    void (*unit_begin)(struct attn_unit *u, const float *q, ptrdiff_t q_row, float scale);
    /* s = q·kt for the n_keys (≤ block) keys from position `pos`, masked; m_local[r] = row maxima,
     * -inf when the row sees none of them; NaN is passed over, and comes back in unit_accumulate */
    void (*unit_scores)(
        struct attn_unit *u, const float *kt, int block, int pos, int n_keys, float *m_local);
    /* some row sees a score that is NaN or infinite */
    bool (*unit_tainted)(const struct attn_unit *u, int block, int pos, int n_keys);
    /* P·V of the scores above into o, m, l; a row that sees NaN or +inf becomes NaN */
    void (*unit_accumulate)(struct attn_unit *u, const float *v, ptrdiff_t v_row, int block,
        int pos, int n_keys, const float *m_local);
    void (*unit_end)(const struct attn_unit *u, float *o, ptrdiff_t o_row);
    /* mass[r] += sum of 2^(s - m[r]) over the unit's scores */
    void (*unit_mass)(const struct attn_unit *u, int block, int pos, int n_keys, float *mass);
    /* One query row against n keys, no packing: decode. scores: n floats of scratch. */
    void (*attend_row)(const float *q, float scale, const float *k, ptrdiff_t k_row, const float *v,
        ptrdiff_t v_row, int n, int d, float *scores, float *o);

    /* prediction: over n rows of x: sum[d] += x; unit[d] += (x - centre)/‖x - centre‖ (zero rows
     * add nothing) */
    void (*pool_sum)(const float *x, ptrdiff_t row, int n, int d, float *sum);
    void (*pool_unit)(
        const float *x, ptrdiff_t row, int n, int d, const float *centre, float *unit);

    /* tuner: merge the partial (m, l, o) of `from` into `to` for n rows */
    void (*merge_partial)(int n, int d, float *to_m, float *to_l, float *to_o, const float *m,
        const float *l, const float *o);
    /* per row r: õ = o/l; abs_diff[r] = Σ_d |õ - exact|, sq_diff[r] = Σ_d (õ - exact)², sq[r] = Σ_d
     * õ² */
    void (*row_errors)(int n, int d, const float *l, const float *o, const float *exact,
        ptrdiff_t exact_row, float *abs_diff, float *sq_diff, float *sq);

    /* vectors */
    float (*dot)(const float *a, const float *b, int n);
    float (*dot_weight)(const float *x, const void *w, enum dtype dtype, int n);
    void (*widen)(const void *from, enum dtype dtype, float *to, size_t n);
    void (*rmsnorm)(const float *x, const float *weight, float eps, int n, float *y);
    void (*silu_mul)(float *gate, const float *up, size_t n); /* gate = silu(gate) · up */

    /* comparison: fold n logits of ids first … first+n-1 into the row */
    void (*logit_fold)(
        struct logit_row *row, const float *dense, const float *sparse, int n, int first);
};

/* A row before its first logit, and what it says when it has seen all `vocab` of them; z_next: the
 * logits of `next`. The hidden-state fields of *m are left alone. */
void logit_row_begin(struct logit_row *row);
void logit_row_finish(const struct logit_row *row, int vocab, int32_t next, const float z_next[2],
    struct token_metrics *m);
/* Add the row's share to the flattened sums. */
void logit_row_sum(const struct logit_row *row, int vocab, struct tensor_sums *sums);

extern const struct cpu_ops cpu_ops_avx512, cpu_ops_avx2, cpu_ops_base;

/* The best table this processor can run and cpu_ops_choose allows. */
const struct cpu_ops *cpu_ops(void);
/* "avx512", "avx2", "base" or "auto". Nothing better than it is used from then on.
 * ERR_UNSUPPORTED when the processor lacks it. Call before any work. */
enum status cpu_ops_choose(const char *name) MUST_USE;
/* NULL when this processor cannot run it or cpu_ops_choose rules it out. */
const struct cpu_ops *cpu_ops_find(const char *name);

#endif
