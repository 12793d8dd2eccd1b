/* Numbers as people write them: a whole number and a power of ten, so that .1 + .2 is .3. */
#ifndef SG_BASE_DECIMAL_H
#define SG_BASE_DECIMAL_H

#include <stdbool.h>

/* digits · 10^-places */
struct decimal {
    __int128 digits;
    int places;
};

/* Reads "12", "-.5", "1e-3" at *text and moves behind it. False when there is none, or with more
 * than 18 digits or an exponent beyond 300: then *text stays. */
bool decimal_read(const char **text, struct decimal *out);

/* False where the result has too many digits. */
bool decimal_add(struct decimal a, struct decimal b, struct decimal *out);
bool decimal_multiply(struct decimal a, struct decimal b, struct decimal *out);
/* Negative, 0 or positive; *ok false where the two lie too far apart to be compared. */
int decimal_compare(struct decimal a, struct decimal b, bool *ok);

/* The double next to it; 0 is never -0. */
double decimal_value(struct decimal d);

#endif
