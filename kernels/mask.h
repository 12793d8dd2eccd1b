/* Stage 1 of sparse attention: which tiles of each head are worth computing.
 *
 * A method is a predictor and a choice rule. The predictor ranks the key blocks of one query block
 * and is one file with one table (kernels/mask/); the rule says how many of the ranked ones are
 * kept, from one number a head (kernels/mask_rules.c), and goes with any predictor. What is kept is
 * always a prefix of the ranking: that is what error curves rest on. Each method names its source
 * (`list methods`).
 *
 * METHOD n, here and elsewhere, is section n of docs/method.md.
 *
 * A key block that reaches past its query block (64x128) is pooled over all keys that are there, so
 * with that shape a prefill in chunks may rank such a block otherwise than one done at once; the
 * other shapes cut alike.
 */
#ifndef SG_KERNELS_MASK_H
#define SG_KERNELS_MASK_H

#include "kernels/attn.h"

#include <stdbool.h>

/* How K is centred before its self-similarity is measured (METHOD 2.1). */
enum smooth_k { SMOOTH_K_RUNNING, SMOOTH_K_GLOBAL, SMOOTH_K_OFF };
const char *smooth_k_name(enum smooth_k s);
/* "running", "global" or "off"; false for anything else. */
bool smooth_k_parse(const char *text, enum smooth_k *out);

struct head_params {
    float theta; /* in [-1, 1]: a block is similar when its self-similarity is greater */
    /* how much to keep, as the rule reads it: in (0, 1] for top-p; 1 and above keep every tile */
    float tau;
    float lambda;   /* in [0, NEVER_SKIP], log2 units */
    bool is_sparse; /* false: the head runs dense */
    /* which of the method's parts ranks this head, where it has any (see mask_part); of minference:
     * a head_pattern */
    uint8_t part;
    int vertical, slash; /* of minference: keys and distances of the head; 0: the method's */
};
enum head_pattern { PATTERN_LINES, PATTERN_SHAPE, PATTERN_BLOCK };

struct mask_args {
    const struct attn_args *attn;    /* q, k and shapes; f32 */
    const struct head_params *heads; /* [n_heads] */
    enum smooth_k smooth_k;
    /* 0: use tau; else the fraction of possible tiles to keep */
    float topk;
    int window; /* tokens, for `window` */
    /* of the method's parameters, set by whoever calls its functions; NULL: defaults */
    const float *values;
};

/* The ranking of one query block. Arrays hold n = tiles_possible() entries. */
struct mask_row {
    int n;
    /* predicted probability of each key block, 0 where not eligible; sums to 1 or is all 0 */
    float *p;
    uint8_t *forced; /* force_reason bits; a forced tile is kept whatever its rank */
    /* its absolute query block, and the blocks of all that the call sees */
    int qb, n_qblocks, n_kblocks;
};

/* How many of the ranked tiles to keep, given one number in [0, 1] that keeps more when it is
 * larger, all from 1 on. */
struct mask_rule {
    const char *name;
    const char *reads; /* how it reads that number, for people */
    int (*count)(const struct mask_row *row, const int *order, int n_eligible, float keep);
};
/* ended by NULL; the first, top-p, is the default */
extern const struct mask_rule *const mask_rules[];
extern const struct mask_rule rule_top_p, rule_cover, rule_top_k, rule_relative, rule_spread,
    rule_falling, rule_level;

/* A number that a predictor takes beside the thresholds, as in "xattention+stride=16". */
struct mask_param {
    const char *name, *what;
    float value, least, most; /* the default, and the range */
    bool whole;
    const char *const *words; /* NULL, or what the values 0, 1, … are called; ended by NULL */
};
enum { MAX_MASK_PARAMS = 6, MAX_MASK_PARTS = 4 };

struct mask_method {
    /* stable: a key in the database */
    const char *name;
    /* false: every eligible tile is kept */
    bool ranked;
    const char *(*refuses)(const struct mask_args *); /* NULL: can run */
    /* bytes for one head, multiple of 64; pure */
    size_t (*workspace)(const struct mask_args *);
    /* everything that no threshold changes */
    void (*prepare)(const struct mask_args *, int head, void *ws);
    /* Rank query block i (of this call); p and forced are to be filled for out->n entries. `theta`
     * stands in for heads[head].theta so that a tuner can ask for many. */
    void (*row)(const struct mask_args *, int head, int i, float theta, const void *ws,
        struct mask_row *out);
    /* What may be left out (zero). */
    const char *what, *source;    /* a line for people, and where the rule was published */
    const struct mask_rule *rule; /* NULL: top-p */
    float keep;                   /* default of the number that the rule reads; 0: .98 */
    bool takes_theta;             /* theta means something to it */
    bool any_length;              /* see mask_looks_at_length */
    bool looks_ahead; /* later tokens of the prompt, beyond a block, may move its masks */
    /* what it leaves out becomes a pseudo-key (attn.h) */
    bool correct_mean;
    const struct mask_param *params; /* [n_params] */
    int n_params;
    /* of a method with parameters given: the one in mask_methods; NULL: itself */
    const struct mask_method *base;
    const float *values; /* [n_params] */
    /* [n_parts] of a mixture, from which every head has one; else NULL */
    const struct mask_method *const *parts;
    int n_parts;
};

extern const struct mask_method mask_sparge, mask_bound, mask_xattention, mask_flashprefill,
    mask_subblock, mask_minference, mask_flexprefill, mask_prism, mask_stem, mask_window,
    mask_a_shape, mask_tri_shape, mask_oracle;
/* `oracle` by masses that were made elsewhere: attn->q is no tensor but f32 [n_heads, query blocks
 * of this call, key blocks] on the host, in any unit; the other tensors are not looked at. Not in
 * the list below. */
extern const struct mask_method mask_masses;

/* What `bound` is asked for, for its other bodies. groups: of channels, as many as there are when
 * none share; deviation: spread is the standard deviation, else half of the range. */
struct bound_setting {
    int rows, keys, over, groups;
    bool deviation;
    float width;
};
struct bound_setting bound_setting_of(const struct mask_args *a);
/* How rows of a block join for `oracle`: 0 by mean, 1 by root mean square, 2 by the largest. */
int mask_oracle_over(const struct mask_args *a);

/* The marks every method sets: sink and diagonal. `qb` is the absolute query block. */
void mask_force_common(struct mask_row *row, struct block_shape b, int qb);

/* A method by its name as users and files write it:
 *   NAME[+PARAMETER=VALUE]…[+rule=RULE][+correct=mean]
 * or several joined by "/", all corrected or none: a mixture, of which the tuner gives every head
 * one. "topk" is sparge with a count. The same text always gives the same pointer,
 * whose `name` is the canonical text; it lives as long as the program. ERR_ARG names the method,
 * the parameter, the range. */
enum status mask_method_parse(const char *text, const struct mask_method **out) MUST_USE;
/* The same, NULL for whatever cannot be parsed. */
const struct mask_method *mask_method_find(const char *name);
/* Which of the predictors it is. */
static inline const struct mask_method *mask_base(const struct mask_method *m)
{
    return m->base ? m->base : m;
}
static inline const struct mask_rule *mask_rule_of(const struct mask_method *m)
{
    return m->rule ? m->rule : &rule_top_p;
}
/* What it keeps depends on the length of all that a call sees, so a prefill in chunks is another
 * one. */
static inline bool mask_looks_at_length(const struct mask_method *m)
{
    bool any = m->any_length || mask_rule_of(m) == &rule_falling;
    for (int i = 0; i < m->n_parts; i++)
        any |= m->parts[i]->any_length || mask_rule_of(m->parts[i]) == &rule_falling;
    return any;
}
static inline bool mask_looks_ahead(const struct mask_method *m)
{
    bool any = m->looks_ahead;
    for (int i = 0; i < m->n_parts; i++) any |= m->parts[i]->looks_ahead;
    return any;
}
/* What ranks a head of a method that may be a mixture. */
static inline const struct mask_method *mask_part(const struct mask_method *m, int part)
{
    return m->n_parts ? m->parts[part < m->n_parts ? part : 0] : m;
}
/* Does a part of it ask how alike the keys of a block are once a mean is taken off? */
static inline bool mask_takes_means(const struct mask_method *m)
{
    bool any = m->takes_theta;
    for (int i = 0; i < m->n_parts; i++) any |= m->parts[i]->takes_theta;
    return any;
}
static inline float mask_value(const struct mask_args *a, const struct mask_param *params, int i)
{
    return a->values ? a->values[i] : params[i].value;
}
/* All of them, ended by NULL. */
extern const struct mask_method *const mask_methods[];

/* Sort the eligible key blocks of a row by falling probability, ties by lower index, into order[0 …
 * n). Returns how many are eligible (p > 0). */
int mask_order(const struct mask_row *row, int *order);
/* How many of the ordered blocks τ keeps: the largest count whose running sum is ≤ τ, at least 1,
 * all for τ ≥ 1; 0 when none is eligible. The rule top-p. */
int mask_count(const struct mask_row *row, const int *order, int n_eligible, float tau);
/* The same by the rule of a method: all when it does not rank. */
int mask_keep(const struct mask_method *m, const struct mask_row *row, const int *order,
    int n_eligible, float keep);
/* ⌈fraction · n⌉, where the fraction is the decimal number that a user wrote: the shortest one that
 * reads as this float. */
int mask_topk_count(float fraction, int n);
/* The decimal number itself. */
double mask_decimal(float f);

/* Bytes for mask_predict with that many workers. */
size_t mask_workspace(const struct mask_method *m, const struct mask_args *a, int n_workers);
/* Fill `tiles` (shaped by tile_map_shape) and count forced tiles into a->attn->ledger when it is
 * there. Heads with is_sparse false get every possible tile and no forced counts. */
enum status mask_predict(const struct mask_method *m, const struct mask_args *a,
    struct tile_map *tiles, void *ws, struct par *par) MUST_USE;

#endif
