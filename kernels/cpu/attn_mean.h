/* Pseudo-keys that stand for left-out tiles (attn_args.correct_mean): means of key blocks, laid out
 * so that one group of them goes with one word of a tile map. */
#ifndef SG_KERNELS_CPU_ATTN_MEAN_H
#define SG_KERNELS_CPU_ATTN_MEAN_H

#include "kernels/cpu/cpu_ops.h"

enum { MEAN_GROUP = 64 }; /* pseudo-keys: a word of a tile map */

/* Of one kv head, for its first n_tiles key blocks, all of them whole. */
struct attn_means {
    int n_tiles, block, d;
    float *kt; /* [groups, d, MEAN_GROUP] mean keys */
    float *v;  /* [groups · MEAN_GROUP, d] mean values */
};

/* Floats behind `memory` for that many tiles; a multiple of 16. */
size_t attn_means_floats(int n_tiles, int d);
struct attn_means attn_means_at(float *memory, int n_tiles, int block, int d);
/* Fills group g; k and v are the head's first rows. */
void attn_means_pool(const struct attn_means *m, const struct cpu_ops *ops, int g, const float *k,
    ptrdiff_t k_row, const float *v, ptrdiff_t v_row);

/* Which of group g's tiles stand before the query block and are not in `kept`, the map's word. */
static inline uint64_t attn_means_left(uint64_t kept, int g, int n_before)
{
    int n = n_before - g * MEAN_GROUP;
    if (n <= 0) return 0;
    return ~kept & (n >= 64 ? ~(uint64_t)0 : ((uint64_t)1 << n) - 1);
}

/* The unit's scores against group g in u->s, [64, SCORE_STRIDE], as if a pseudo-key stood there as
 * often as its tile has keys; MEAN_ABSENT where its bit in `left` is not set. top: [n_rows] largest
 * of each row. n: pseudo-keys that are looked at. */
#define MEAN_ABSENT (-1e30f)
void attn_means_scores(const struct attn_means *m, const struct cpu_ops *ops, struct attn_unit *u,
    int g, uint64_t left, int n, float *top);
/* All left-out tiles of a row of a map join the unit's output; returns how many. */
int attn_means_join(const struct attn_means *m, const struct cpu_ops *ops, struct attn_unit *u,
    const uint64_t *tiles, int n_before);

#endif
