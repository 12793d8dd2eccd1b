/* Searches bounds per layer, or per head, for the most sparsity that keeps an end-to-end target.
 *
 * The tuner gives a ladder: the same model tuned under rising bounds. A cell is a layer or a head.
 * A sensitivity pass runs one cell at a time sparse, the others dense, and measures what each rung
 * of each cell does to the logits. Heads that can stand in for each other look harmless that way:
 * cells can be priced instead by what their error does to the residual stream (by_stream), which
 * takes one dense pass. Small damages add up nearly, so the ladder of steps (cell, next rung) in
 * falling order of sparsity gained per damage is a path from all dense to all at the last rung. The
 * furthest point of the path that holds the target when the whole model runs is found by bisection
 * on search samples, then taken back along the path to where it holds on check samples too. Every
 * rung as one bound for all runs on those as well: what is taken is the sparsest of all points that
 * hold there, so no row of the table beats what is written. Held-out samples have no say in it:
 * what was taken runs on them once, and is judged with intervals.
 */
#ifndef SG_ENGINE_TUNER_OPTIMISE_H
#define SG_ENGINE_TUNER_OPTIMISE_H

#include "engine/tuner/tuner.h"

/* What sparsity did to the predictions, means over all positions. */
struct damage {
    double cosine;  /* 1 − cosine of dense and sparse logits */
    double kl;      /* KL(p‖p̃), nats */
    double log_ppl; /* mean NLL sparse − dense: the logarithm of the perplexity ratio */
};

/* Limits of the three; INFINITY where there is none. At least one is finite and all are above 0. */
struct optimise_target {
    struct damage most;
};

/* The largest of damage / limit: at most 1 where the target holds. Gains in perplexity count as no
 * damage. */
double damage_used(const struct damage *d, const struct optimise_target *t);

struct optimise_args {
    const struct weights *weights;
    struct par *par;
    /* method, block, smooth_k, min_sparse_tokens; its layers are those that may be sparse */
    const struct sparse_policy *policy;
    const struct tuned *rungs; /* [n_rungs], bounds rising, all of one rule */
    int n_rungs;
    bool by_head;   /* a cell is a head; else a layer */
    bool by_stream; /* price cells by what their error does to the residual stream, from one dense
                       pass, instead of running each alone; n_probes then plays no part */
    /* rungs that the sensitivity pass runs, the rest is interpolated; 1 … n_rungs */
    int n_probes;
    /* to search on, behind them those to check on, behind them those held out */
    const struct tune_sample *samples;
    int n_search, n_check, n_held_out; /* at least one of each */
    struct optimise_target target;
    const char *impl;
    void (*progress)(void *ctx, double share); /* 0 … 1 */
    void *progress_ctx;
    bool (*stop)(void *);
};

enum optimise_on { ON_SEARCH, ON_CHECK, ON_HELD_OUT };
enum optimise_judgement { TARGET_HOLDS, TARGET_OPEN, TARGET_BROKEN };

struct optimise_point {
    int step; /* along the path; -1: all cells at one rung, which is then `rung` */
    int rung;
    enum optimise_on on; /* these samples */
    double sparsity;     /* counted in these runs */
    /* hi and lo: 95 % interval over samples, Student's t, NAN for a single one */
    struct damage damage, lo, hi;
    bool holds; /* the target, by the means */
};

/* The same with the interval: holds when all of it does, is broken when none of it does. A single
 * sample leaves it open. */
enum optimise_judgement optimise_judge(
    const struct optimise_point *p, const struct optimise_target *t);

/* One cell sparse at one rung, all others dense. */
struct cell_rung {
    double sparsity;      /* of the cell, from its tuned heads */
    struct damage damage; /* on the samples searched on; by_stream: all three are the sum over its
                             heads of share² · rmse · tail, errors on the tuning samples */
    bool measured;        /* false: interpolated between rungs that were, or by_stream */
};

struct optimise_result {
    /* cell c has heads [c · heads_each, …) of all layers' heads in a row */
    int n_layers, n_cells, heads_each;
    int n_rungs, n_steps;
    struct cell_rung *cells; /* [n_cells, n_rungs] */
    int *rung;               /* [n_cells] chosen, -1 dense */
    /* [n_layers, n_heads] stream_share.h, NAN outside the layers; NULL unless by_stream */
    double *share;
    /* in the order they were run: path, checks, uniform rungs, the one held-out look */
    struct optimise_point *points;
    int n_points;
    int taken, chosen;       /* the point that was taken, on check samples and on held-out ones; -1:
                                nothing holds on       check samples, all dense */
    double uniform_sparsity; /* one bound for all cells at the cosine of `taken` on the check
                                samples, interpolated; NAN when the ladder does not reach there */
    double sensitivity_s, search_s, uniform_s;
};

/* The result's tuned file is made by optimise_apply. Clear with optimise_clear. */
enum status optimise(const struct optimise_args *a, struct optimise_result *out) MUST_USE;
void optimise_clear(struct optimise_result *r);

/* Thresholds of the chosen rungs; bounds recorded per head. out is initialised here. goal: see
 * struct tuned. */
enum status optimise_apply(const struct optimise_result *r, const struct tuned *rungs,
    const char *goal, struct tuned *out) MUST_USE;

#endif
