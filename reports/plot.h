/* Pictures by gnuplot through a pipe: NAME.svg and NAME.png, with NAME.gp (the script, data inside)
 * and NAME.sql (the query the data came from) beside them. Distinct markers beside colours that the
 * colour-blind tell apart. What a mark stands for is in the SVG, as the <title> of a circle over it
 * (reports/plot_svg.h).
 */
#ifndef SG_REPORTS_PLOT_H
#define SG_REPORTS_PLOT_H

#include "reports/view.h"

/* The gnuplot that draws the pictures of one folder: the first of them starts it. {0}: none yet. */
struct plot_drawer {
    int pid, talk, messages;
};
void plot_drawer_close(struct plot_drawer *d);

struct plot_out {
    const char *dir;            /* made when missing */
    const char *db;             /* path shown in NAME.sql; NULL = none */
    bool no_png;                /* SVG alone */
    struct plot_drawer *drawer; /* NULL: one for each picture */
};

/* OK, or ERR_UNSUPPORTED with how to get gnuplot. */
enum status plot_available(void) MUST_USE;

/* Each: ERR_UNSUPPORTED without gnuplot (script and SQL are written all the same), ERR_ARG when the
 * data hold nothing to draw (the message says what is missing). `name` is the file name without
 * suffix. */

/* Sparsity against what is lost: 1 - cosine, KL or perplexity above dense. One frontier per method,
 * rule and data set, with intervals; what another of the same method beats is pale. */
enum status plot_frontier(const struct plot_out *o, const char *name, const struct run_list *runs,
    enum frontier_axis axis) MUST_USE;
/* What 1 … 6 runs lost, in percent on a logarithmic axis: answers, tokens, perplexity, the guide's
 * cosines. */
enum status plot_losses(const struct plot_out *o, const char *name,
    const struct run_view *const *views, size_t n) MUST_USE;

enum heat { HEAT_SPARSITY, HEAT_L1_TUNE, HEAT_L1_HELD_OUT, HEAT_L1_ISOLATED, HEAT_L1_PROPAGATED };
/* Layer x head, small. The last two are measured in the run itself (eval --attribution), with dense
 * inputs and with what the layers before made of them; heads that ran dense are left grey where
 * their error is 0 by construction. */
enum status plot_heads(
    const struct plot_out *o, const char *name, const struct run_view *v, enum heat heat) MUST_USE;
/* Isolated and propagated error of the attention output by layer (eval --attribution). */
enum status plot_layers(
    const struct plot_out *o, const char *name, const struct run_view *v) MUST_USE;
/* A metric by token position, a line per run: mean with its interval, and the worst hundredth. */
enum status plot_positions(const struct plot_out *o, const char *name,
    const struct run_view *const *views, size_t n, const char *metric) MUST_USE;
/* Distribution of a metric from its stored quantiles, a line per run. */
enum status plot_distribution(const struct plot_out *o, const char *name,
    const struct run_view *const *views, size_t n, const char *metric) MUST_USE;
/* Answers right by depth and length of one run, or of its dense side, small, on the axes that all n
 * share. Only for answers on a grid: with more than 16 depths or lengths it is ERR_ARG, and
 * plot_distance is the picture to draw. */
enum status plot_needle(const struct plot_out *o, const char *name,
    const struct run_view *const *views, size_t n, size_t at, bool dense) MUST_USE;
/* Share of right answers by tokens between the evidence and the question, length * (1 - depth), in
 * doublings: dense, and a line per run. ERR_ARG when the runs have no such answers. */
enum status plot_distance(const struct plot_out *o, const char *name,
    const struct run_view *const *views, size_t n) MUST_USE;
/* Error against kept fraction, one line per theta, with the bound and the tuner's choice. */
struct error_curve {
    double theta;
    const double *kept, *error; /* n points, kept ascending */
    size_t n;
};
struct curve_set {
    const struct error_curve *curves;
    size_t n;
    const char *label; /* what the error is, and whose */
    double bound;      /* NAN: none */
    bool has_choice;   /* the point that was chosen, on the same sample: */
    double choice_theta, choice_tau, choice_kept, choice_error;
};
enum status plot_curves(
    const struct plot_out *o, const char *name, const struct curve_set *c) MUST_USE;
/* Dense and sparse prefill against length on logarithmic axes, with break-even when they cross. */
enum status plot_latency(const struct plot_out *o, const char *name,
    const struct run_view *const *views, size_t n) MUST_USE;
/* Stacked bars, dense and sparse by length: prediction, QK, PV (or both as attention), linear
 * layers, rest. */
enum status plot_breakdown(const struct plot_out *o, const char *name,
    const struct run_view *const *views, size_t n) MUST_USE;
/* The tiles that one stored mask computes, small, with its head's thresholds. */
enum status plot_mask(
    const struct plot_out *o, const char *name, const struct run_view *v, size_t index) MUST_USE;

/* What the heads of one layer compute together, small: the more of them a tile, the darker. Under
 * it the distance in tokens (from the middle of the queries to the middle of the keys) within which
 * half of the computed tiles lie. */
enum status plot_layer(
    const struct plot_out *o, const char *name, const struct run_view *v, int layer) MUST_USE;
/* That distance; dense: as if every tile were computed. 0 without a mask of the layer. */
int layer_reach(const struct run_view *v, int layer, bool dense);

/* Of a sweep, in the settings that vary (reports/axes.h): */
enum sweep_value { SWEEP_SPARSITY, SWEEP_KL };
/* A value over two axes, small, of the runs that are equal to `like` on all others. ERR_ARG with
 * fewer than two levels each. */
struct run_axes;
struct run_axis;
enum status plot_sweep_map(const struct plot_out *o, const char *name, const struct run_axes *axes,
    const struct run_axis *x, const struct run_axis *y, const struct run_record *like,
    enum sweep_value value) MUST_USE;
/* A value along one axis: a line for each combination of the others, levels evenly spaced.
 * `follows`: an axis that has one level for each of x's; NULL without. */
enum status plot_sweep_lines(const struct plot_out *o, const char *name,
    const struct run_axes *axes, const struct run_axis *x, const struct run_axis *follows,
    enum sweep_value value) MUST_USE;

#endif
