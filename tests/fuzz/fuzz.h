/* What fuzz targets share. */
#ifndef SG_TESTS_FUZZ_FUZZ_H
#define SG_TESTS_FUZZ_FUZZ_H

#include <stdlib.h>

/* What must hold whatever the input is. */
static inline void require(int holds)
{
    if (!holds) abort();
}

#endif
