/* A picture as gnuplot wrote it, made small and fit to be touched. Used by plot_script.c alone. */
#ifndef SG_REPORTS_PLOT_SVG_H
#define SG_REPORTS_PLOT_SVG_H

#include "base/status.h"
#include "base/str.h"

/* What an element of a plot command is, in the order of the script. */
struct plot_element {
    int series;     /* switched together; -1: belongs to none */
    bool has_title; /* its first words are its line of the key */
    bool tips;      /* nothing but places with words that are shown on hover */
};

/* Appends the drawing to out: without gnuplot's own titles, prologue and repeated defaults, colours
 * as #rrggbb, quotes double, of the markers those in use. Each element of a plot is a group:
 * data-s="SERIES" where it belongs to one, class="tips" around circles whose <title> is what hover
 * and focus show; a line of the key has class="key". What it does not know it keeps as it is.
 * ERR_FORMAT when there is no <svg>. */
enum status plot_svg_tidy(
    const char *svg, const struct plot_element *elements, size_t n, struct str *out) MUST_USE;

#endif
