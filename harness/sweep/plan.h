/* What a sweep will run: axes multiplied out to cells.
 *
 * An axis is a list of values joined by commas, given once or several times. Numbers may be ranges
 * as llama-bench writes them: "first-last+step" adds, "first-last*factor" multiplies, both ends
 * included. A pv_l1 may follow its l1: "l1+.01". A plan file is a JSON object with the same axes; a
 * value is a text in this syntax, a number, or an array of those.
 */
#ifndef SG_HARNESS_SWEEP_PLAN_H
#define SG_HARNESS_SWEEP_PLAN_H

#include "engine/tuner/tuned.h"
#include "base/str.h"
#include "base/arena.h"

struct plan_axes {
    struct text_list suite;      /* SPEC; not split at commas */
    struct text_list max_length; /* tokens */
    /* as `--method` takes them, with :FRACTION behind one that ranks and window:TOKENS */
    struct text_list method;
    struct text_list block;     /* 128x64 */
    struct text_list layers;    /* as --layers of eval with "-" and "+", each, all-but-each */
    struct text_list heads;     /* all, each, or numbers: one head of the sparse layers */
    struct text_list qk, pv;    /* full, int8 (of Q·K), fp8 */
    struct text_list rule;      /* l1, tail, cosine, rmse, both */
    struct text_list l1, pv_l1; /* bounds of tuning; none: fixed thresholds */
    /* fixed thresholds, where nothing is tuned */
    struct text_list theta, tau, lambda;
    int repeat; /* every cell so many times; 1 and less: once */
};

struct plan_cell {
    const char *suite;
    int max_length;
    const char *method; /* sparge, oracle, topk, window, dense */
    double topk;        /* 0: none */
    int window;         /* 0: none */
    struct block_shape block;
    const char *layers; /* canonical, as policy_layers_text() */
    int first_layer;    /* the first sparse one */
    int head;           /* -1: all */
    enum precision qk, pv;
    bool tuned;
    enum tune_rule rule;       /* with l1 and pv_l1, when tuned */
    double l1, pv_l1;          /* NAN untuned */
    double theta, tau, lambda; /* NAN: the defaults */
    int repeat;                /* 0, 1, … */
};

struct plan {
    struct plan_cell *cells;
    int n, cap;
    int n_pruned;    /* pairs with pv_l1 not above l1, left out */
    int n_duplicate; /* cells equal to an earlier one, left out */
    struct arena *arena;
};

/* ERR_ARG names axis, value and what is expected. On failure *out is empty. */
enum status plan_expand(
    const struct plan_axes *axes, int n_layers, int n_heads, struct plan *out) MUST_USE;
void plan_clear(struct plan *p);

/* A plan file. Axes that it names are added to those in *axes; texts live in the arena. Settings
 * that are there already, on the command line, stay: `beaten` gets the names of those that the file
 * sets otherwise, appended. */
struct plan_settings {
    const char *name, *model, *score; /* NULL: not set */
    int num_samples, seed;            /* PLAN_UNSET: not set; as is axes->repeat */
};
enum { PLAN_UNSET = -1 };
enum status plan_read(const char *path, struct plan_axes *axes, struct plan_settings *s,
    struct arena **arena, struct str *beaten) MUST_USE;

/* "sparge 128x64 layers 8-15 l1 .06/.07 at 4096 of chronicle"; appended. */
void plan_cell_describe(const struct plan_cell *c, struct str *out);

/* The policy of a cell, thresholds of `tuned` put in when it is not NULL. */
enum status plan_cell_policy(const struct plan_cell *c, const struct weights *w,
    const char *model_fingerprint, enum smooth_k smooth_k, int min_sparse_tokens,
    const struct tuned *tuned, struct sparse_policy *out) MUST_USE;

#endif
