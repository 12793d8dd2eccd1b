/* Lists in a suite's argument: "lengths=1024,2048;ask=end,start". */
#ifndef SG_SUITES_GRID_H
#define SG_SUITES_GRID_H

#include "base/status.h"

enum { GRID_VALUES = 32 }; /* of one list */

/* One "key=value" of an argument, value "" without "=". */
typedef enum status grid_option(void *ctx, const char *key, const char *value);
/* Calls `option` for each part between semicolons that is not empty. ERR_ARG for a key given twice.
 */
enum status grid_parse(const char *argument, grid_option *option, void *ctx) MUST_USE;

/* Numbers from lo to hi with commas between them, at most max; each times `scale` must be whole. */
struct grid_numbers {
    const char *suite, *key;
    double lo, hi, scale;
    int max;
};
enum status grid_numbers(const struct grid_numbers *g, const char *text, int *out, int *n) MUST_USE;
/* Words of a list of n_names, as their indices; one that is none is refused with the list. */
struct grid_names {
    const char *suite, *key;
    const char *const *names;
    int n_names;
};
enum status grid_names(const struct grid_names *g, const char *text, int *out, int *n) MUST_USE;

#endif
