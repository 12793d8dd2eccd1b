/* Pictures by gnuplot through a pipe: NAME.svg and NAME.png, with NAME.gp (the script, data inside)
 * and NAME.sql (the query the data came from) beside them. Okabe-Ito colours and distinct markers
 * on a white card.
 */
#ifndef SG_REPORTS_PLOT_H
#define SG_REPORTS_PLOT_H

#include "reports/view.h"

struct plot_out {
    const char *dir; /* made when missing */
    const char *db;  /* path shown in NAME.sql; NULL = none */
    bool no_png;     /* SVG alone */
};

/* OK, or ERR_UNSUPPORTED with how to get gnuplot. */
enum status plot_available(void) MUST_USE;

/* Each: ERR_UNSUPPORTED without gnuplot (script and SQL are written all the same), ERR_ARG when the
 * data hold nothing to draw (the message says what is missing). `name` is the file name without
 * suffix. */

/* Sparsity against cosine, KL or perplexity ratio: one series per method and rule, intervals,
 * frontier line, knee named, dominated points pale. */
enum status plot_frontier(const struct plot_out *o, const char *name, const struct run_list *runs,
    enum frontier_axis axis) MUST_USE;
/* Groups of bars: the guide's accuracy numbers of 2 … 6 runs. */
enum status plot_bars(const struct plot_out *o, const char *name,
    const struct run_view *const *views, size_t n) MUST_USE;

enum heat { HEAT_SPARSITY, HEAT_L1_TUNE, HEAT_L1_HELD_OUT, HEAT_L1_ISOLATED, HEAT_L1_PROPAGATED };
/* Layer x head. The last two are measured in the run itself (eval --attribution), with dense inputs
 * and with what the layers before made of them; heads that ran dense are left grey where their
 * error is 0 by construction. */
enum status plot_heads(
    const struct plot_out *o, const char *name, const struct run_view *v, enum heat heat) MUST_USE;
/* Isolated and propagated error of the attention output by layer (eval --attribution). */
enum status plot_layers(
    const struct plot_out *o, const char *name, const struct run_view *v) MUST_USE;
/* A metric by token position, a line per run: median or mean with its 1st/99th percentile band. */
enum status plot_positions(const struct plot_out *o, const char *name,
    const struct run_view *const *views, size_t n, const char *metric) MUST_USE;
/* Distribution of a metric from its stored quantiles, a line per run. */
enum status plot_distribution(const struct plot_out *o, const char *name,
    const struct run_view *const *views, size_t n, const char *metric) MUST_USE;
/* Answers right by depth and length, one panel per run (dense first, at most PLOT_NEEDLE_RUNS).
 * Only for answers on a grid: with more than 16 depths or lengths it is ERR_ARG, and plot_distance
 * is the picture to draw. */
enum { PLOT_NEEDLE_RUNS = 7 };
enum status plot_needle(const struct plot_out *o, const char *name,
    const struct run_view *const *views, size_t n) MUST_USE;
/* Share of right answers by tokens between the evidence and the question, length * (1 - depth), in
 * doublings: dense, and a line per run. ERR_ARG when the runs have no such answers. */
enum status plot_distance(const struct plot_out *o, const char *name,
    const struct run_view *const *views, size_t n) MUST_USE;
/* Error against kept fraction, one line per theta, with the bound and the choice. */
struct error_curve {
    double theta;
    const double *kept, *error; /* n points, kept ascending */
    size_t n;
};
enum status plot_curves(const struct plot_out *o, const char *name, const char *title,
    const struct error_curve *curves, size_t n, double bound) MUST_USE;
/* Dense and sparse prefill against length on logarithmic axes, with break-even when they cross. */
enum status plot_latency(const struct plot_out *o, const char *name,
    const struct run_view *const *views, size_t n) MUST_USE;
/* Stacked bars, dense and sparse by length: prediction, QK, PV (or both as attention), linear
 * layers, rest. */
enum status plot_breakdown(const struct plot_out *o, const char *name,
    const struct run_view *const *views, size_t n) MUST_USE;
/* Computed tiles of 12 stored masks, spread evenly over all of them when there are more. */
enum status plot_masks(
    const struct plot_out *o, const char *name, const struct run_view *v) MUST_USE;

#endif
