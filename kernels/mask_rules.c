/* Choice rules: how many of the ranked tiles of a row are kept. All of them keep a prefix of the
 * ranking, and more of it for a larger number. */
#include "kernels/mask.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

double mask_decimal(float f)
{
    char text[32];
    for (int digits = 1; digits < 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)f);
        if (strtof(text, NULL) == f) return strtod(text, NULL);
    }
    return (double)f;
}

/* A decimal of at most nine digits times n is a whole number or at least 1e-9 off one, and the
 * double product within n · 1e-16 of it. */
static int share_of(double fraction, int n)
{
    int count = (int)ceil(fraction * n - 1e-10);
    return count < n ? count : n;
}

int mask_topk_count(float fraction, int n) { return share_of(mask_decimal(fraction), n); }

int mask_count(const struct mask_row *row, const int *order, int n_eligible, float tau)
{
    if (tau >= 1 || n_eligible == 0) return n_eligible;
    double sum = row->p[order[0]];
    int n = 1;
    while (n < n_eligible && (sum += row->p[order[n]]) <= tau) n++;
    return n;
}

/* XAttention's: the fewest whose sum reaches the share, with what is kept anyhow counted first. */
static int count_cover(const struct mask_row *row, const int *order, int n_eligible, float keep)
{
    if (keep >= 1) return n_eligible;
    double sum = 0;
    int n = 0;
    for (int i = 0; i < n_eligible; i++) sum += row->forced[order[i]] ? row->p[order[i]] : 0;
    for (; n < n_eligible && sum < keep; n++) sum += row->forced[order[n]] ? 0 : row->p[order[n]];
    return n;
}

static int count_share(const struct mask_row *row, const int *order, int n_eligible, float keep)
{
    (void)order;
    int want = mask_topk_count(keep, row->n);
    return want < n_eligible ? want : n_eligible;
}

static int count_above(const struct mask_row *row, const int *order, int n_eligible, double least)
{
    int n = 0;
    while (n < n_eligible && row->p[order[n]] >= least) n++;
    return n;
}

static int count_relative(const struct mask_row *row, const int *order, int n_eligible, float keep)
{
    if (keep >= 1 || n_eligible == 0) return n_eligible;
    return count_above(row, order, n_eligible, (1 - (double)keep) * row->p[order[0]]);
}

/* Scores are logarithms of probabilities: the spread of the probabilities themselves is that of
 * their largest few. */
static int count_spread(const struct mask_row *row, const int *order, int n_eligible, float keep)
{
    if (keep >= 1 || n_eligible == 0) return n_eligible;
    double sum = 0, squares = 0, beta = 4 + log2(1 - (double)keep);
    for (int i = 0; i < n_eligible; i++) {
        double s = log((double)row->p[order[i]]);
        sum += s;
        squares += s * s;
    }
    double mean = sum / n_eligible, deviation = sqrt(fmax(0, squares / n_eligible - mean * mean));
    int n = count_above(row, order, n_eligible, exp(mean + beta * deviation));
    return n ? n : 1;
}

/* Stem's: a budget in tiles, of all the blocks there are, that falls in a line to FALLS of itself
 * at the last row. */
static int count_falling(const struct mask_row *row, const int *order, int n_eligible, float keep)
{
    (void)order;
    const double FALLS = .7;
    if (keep >= 1) return n_eligible;
    double now = 1 - (1 - FALLS) * row->qb / row->n_qblocks;
    int want = (int)ceil(mask_decimal(keep) * row->n_kblocks * now - 1e-9);
    return want < n_eligible ? want : n_eligible;
}

/* For rankings that are levels in [0, 1] already, not shares of one sum. */
static int count_level(const struct mask_row *row, const int *order, int n_eligible, float keep)
{
    return keep >= 1 ? n_eligible : count_above(row, order, n_eligible, 1 - (double)keep);
}

const struct mask_rule rule_top_p = {
    "top-p", "most tiles whose predicted mass stays within it", mask_count};
const struct mask_rule rule_cover = {
    "cover", "fewest tiles whose predicted mass, forced tiles first, reaches it", count_cover};
const struct mask_rule rule_top_k = {
    "top-k", "the fraction of a row's possible tiles", count_share};
const struct mask_rule rule_relative = {
    "max-relative", "1 - alpha: tiles of at least alpha times the row's largest", count_relative};
const struct mask_rule rule_spread = {
    "mean-std", "1 - 2^(beta - 4): log scores of at least mean + beta std", count_spread};
const struct mask_rule rule_falling = {"falling",
    "share of all blocks in the first row, falling to .7 of it in the last", count_falling};
const struct mask_rule rule_level = {"level", "1 - the lowest level kept", count_level};

const struct mask_rule *const mask_rules[] = {&rule_top_p, &rule_cover, &rule_top_k, &rule_relative,
    &rule_spread, &rule_falling, &rule_level, NULL};
