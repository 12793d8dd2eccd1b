/* A gnuplot script under construction, and running it. Shared by the plot_*.c files alone.
 *
 * Data go into the script as datablocks, so a saved script redraws its picture by itself. Pictures
 * are drawn as wide as a phone shows them, with letters of 12 units, so that none is read smaller
 * than it is drawn; a page sets them side by side.
 */
#ifndef SG_REPORTS_PLOT_SCRIPT_H
#define SG_REPORTS_PLOT_SCRIPT_H

#include "reports/plot.h"
#include "reports/plot_svg.h"

#include <math.h>

enum { PLOT_WIDTH = 400, PLOT_SMALL = 190, PLOT_SERIES = 64 };

struct plot_script {
    const struct plot_out *out;
    const char *name;
    int width, height; /* units of the SVG; the PNG has three times as many pixels */
    struct str data;   /* datablocks */
    struct str body;   /* commands, run once per output */
    struct str sql;
    /* Of the plot command being written. */
    bool plotting;
    struct {
        int series;
        struct str lines;
    } tips[PLOT_SERIES];
    size_t n_tips, n_blocks;
    /* Of all of them. */
    struct plot_element *elements;
    size_t n_elements, cap_elements;
};

void plot_script_init(
    struct plot_script *p, const struct plot_out *out, const char *name, int width, int height);
void plot_script_clear(struct plot_script *p);

/* Write NAME.gp and NAME.sql, run gnuplot, check that the pictures are there. Clears the script. */
enum status plot_script_run(struct plot_script *p) MUST_USE;
/* Its last step: gnuplot draws NAME's pictures into the folder, or ERR_IO with what it said. */
enum status plot_drawer_run(
    const struct plot_out *out, const char *name, const struct str *script) MUST_USE;

/* Where everything stands: the key above (one line each, or two where they are short), `ylabel` as
 * a line of words above the axes, `left` units for the words of the y axis. Sets the picture's
 * height. Words may be "". */
struct plot_frame {
    int left, plot_height;
    size_t n_key,
        longest_key; /* lines of the key; bytes of the longest, 0: one column whatever they are */
    const char *xlabel, *ylabel;
    int below; /* further lines of words under the x axis */
};
void plot_frame(struct plot_script *p, const struct plot_frame *f);

/* One more element of the plot command. `what`: from its data to its style. title NULL: no line in
 * the key. Elements of a series are switched together; -1: none. */
void plot_add(struct plot_script *p, int series, const char *title, const char *what, ...)
    __attribute__((format(printf, 4, 5)));
/* Words shown where x, y is pointed at, in the coordinates of the plot; "|" ends a line. Of a value
 * that is no number, nothing. */
void plot_tip(struct plot_script *p, int series, double x, double y, const char *words, ...)
    __attribute__((format(printf, 5, 6)));
/* The plot command ends; the next plot_add() begins another. */
void plot_end(struct plot_script *p);

/* " [0.063, 0.082]" of an interval in the same units, nothing where an end is missing. Static, 4
 * deep. */
const char *plot_interval(double lo, double hi, const char *format);
/* The heat map's palette from lo to hi, and a strip of it under the plot with words at its ends;
 * the frame must leave a line for it (`below`). */
void plot_color_scale(
    struct plot_script *p, double lo, double hi, const char *lo_words, const char *hi_words);
/* Ticks and range of a logarithmic axis ("x", "y") that ends where the data do: 1, 2, 5 over few
 * decades, powers of ten over many. lo > 0. */
void plot_log_axis(struct plot_script *p, const char *axis, double lo, double hi);

/* `text` as a gnuplot string in double quotes; appended. */
void plot_quote(const char *text, struct str *out);
/* A number, or NaN as gnuplot reads it. */
void plot_number(double value, struct str *out);

/* Okabe and Ito's colours, dark ones first, the light ones darkened until they are seen on white;
 * any index. */
const char *plot_color(size_t i);
/* Filled point types that stay apart without colour. */
int plot_marker(size_t i);
/* Their hollow twins. */
int plot_marker_hollow(size_t i);

/* The colour map of heat maps: dark is low, equal steps look equal, also in grey and to
 * colour-blind readers.
 */
extern const char plot_heat_palette[];
/* Up to here white words are read on it, from here black ones. */
#define PLOT_HALF_DARK .42
/* Colours of what has a meaning of its own; page.css knows them too and has others for the dark. */
#define PLOT_INK "#202020"
#define PLOT_PALE "#8a8a8a"
#define PLOT_EMPTY "#d4d4d4"

/* "1, 2, 5" of the runs' row numbers, for SQL. */
void plot_run_ids(const struct run_view *const *views, size_t n, struct str *out);
/* The i-th of n runs by its settings alone, with its label where another has the same. */
void plot_name(const struct run_view *const *views, size_t n, size_t i, struct str *out);
/* A short name of a run for a key. */
void plot_label(const struct run_view *v, struct str *out);

#endif
