/* A test's own folder: below $TMPDIR, which `./dev test` puts in memory, so that no test waits for
 * a disk. */
#ifndef SG_TESTS_SCRATCH_H
#define SG_TESTS_SCRATCH_H

#include "base/str.h"

#include <stdlib.h>

/* A new empty one; dir_remove() deletes it with all that it holds, and its name. */
static inline char *dir_make(void)
{
    const char *base = getenv("TMPDIR");
    char *dir = str_format("%s/sg-test-XXXXXX", base && *base ? base : "/tmp");
    if (!mkdtemp(dir)) abort();
    return dir;
}

static inline void dir_remove(char *dir)
{
    char *command = str_format("chmod -R u+w '%s' && rm -rf '%s'", dir, dir);
    if (system(command) != 0) abort();
    free(command);
    free(dir);
}

#endif
