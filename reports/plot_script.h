/* A gnuplot script under construction, and running it. Shared by the plot_*.c files alone.
 *
 * Data go into the script as datablocks, so a saved script redraws its picture by itself.
 */
#ifndef SG_REPORTS_PLOT_SCRIPT_H
#define SG_REPORTS_PLOT_SCRIPT_H

#include "reports/plot.h"

struct plot_script {
    const struct plot_out *out;
    const char *name;
    int width, height; /* points of the SVG; the PNG has twice as many pixels */
    struct str data;   /* datablocks */
    struct str body;   /* commands, run once per output */
    struct str sql;
};

void plot_script_init(
    struct plot_script *p, const struct plot_out *out, const char *name, int width, int height);
void plot_script_clear(struct plot_script *p);

/* Write NAME.gp and NAME.sql, run gnuplot, check that the pictures are there. Clears the script. */
enum status plot_script_run(struct plot_script *p) MUST_USE;

/* `text` as a gnuplot string in double quotes; appended. */
void plot_quote(const char *text, struct str *out);
/* A number, or NaN as gnuplot reads it. */
void plot_number(double value, struct str *out);

/* Okabe and Ito's colours, dark ones first; any index. */
const char *plot_color(size_t i);
/* Filled point types that stay apart without colour. */
int plot_marker(size_t i);
/* Their hollow twins. */
int plot_marker_hollow(size_t i);

/* The colour map of heat maps: dark is low, equal steps look equal, also in grey and to
 * colour-blind readers.
 */
extern const char plot_heat_palette[];

/* "1, 2, 5" of the runs' row numbers, for SQL. */
void plot_run_ids(const struct run_view *const *views, size_t n, struct str *out);
/* A short name of a run for a key. */
void plot_label(const struct run_view *v, struct str *out);

#endif
