/* Two results of one question under different arithmetic: another BLAS, processor, GPU or compiler
 * gives other last digits. That is no conflict, and no news where it stays within the noise floor.
 */
#ifndef SG_RESULTS_ARITHMETIC_H
#define SG_RESULTS_ARITHMETIC_H

#include "base/str.h"
#include "results/query.h"

enum arithmetic {
    ARITHMETIC_SAME,   /* the same was used; then the same digits are expected */
    ARITHMETIC_WITHIN, /* other, and every metric agrees to within its noise floor */
    ARITHMETIC_BEYOND, /* other, and a metric does not */
    ARITHMETIC_UNTOLD, /* other, metrics differ, and no floor was measured of them */
};

struct arithmetic_side {
    const struct run_record *run;
    const struct metric_list *metrics;
};

/* "blas: OpenBLAS 0.3.21 Haswell and OpenBLAS 0.3.29 Zen", appended; false when nothing differs. */
bool arithmetic_differs(const struct run_record *a, const struct run_record *b, struct str *out);

/* By the metrics of scope "overall" that both have, times left out. `words` gets "other arithmetic
 * (…), within the floor" or the like, nothing when it is the same. floors may be NULL. */
enum arithmetic arithmetic_compare(struct arithmetic_side a, struct arithmetic_side b,
    const struct noise_list *floors, struct str *words);

/* The same for one cell that two databases hold, by the floors of the first, or of the second where
 * it has none. */
enum status arithmetic_between(struct store *a, struct store *b, const char *key,
    enum arithmetic *out, struct str *words) MUST_USE;

#endif
