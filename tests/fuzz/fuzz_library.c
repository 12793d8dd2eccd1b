/* Any text as a file of thresholds, by the library's doors and by MInference's: refused with a
 * message, or a policy that says of itself what it is read back as. */
#include "engine/tuner/minference.h"
#include "library/sparsegauge.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static void check(struct sg_policy *p)
{
    struct sg_setting s = {.size = sizeof s};
    require(sg_policy_get(p, &s) == SG_OK && s.n_layers > 0 && s.n_heads > 0 && s.method);
    struct sg_head h = {.size = sizeof h};
    require(sg_policy_head(p, s.n_layers - 1, s.n_heads - 1, &h) == SG_OK);
    require(sg_policy_head(p, s.n_layers, 0, &h) != SG_OK);
    char *text = NULL, *second = NULL;
    struct sg_policy *again = NULL;
    if (sg_policy_text(p, &text) != SG_OK) { /* a setting that no file can carry */
        require(*sg_message() != 0 && !text);
        return;
    }
    require(sg_policy_parse(&again, text, strlen(text)) == SG_OK);
    require(sg_policy_text(again, &second) == SG_OK && strcmp(text, second) == 0);
    sg_policy_close(&again);
    sg_free(text);
    sg_free(second);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    struct sg_policy *p = NULL;
    if (sg_policy_parse(&p, (const char *)data, size) == SG_OK) check(p);
    else require(!p && *sg_message() != 0);
    sg_policy_close(&p);

    char path[64];
    int fd = memfd_create("fuzz", 0);
    require(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (sg_policy_read(&p, path, 1, 2, NULL) == SG_OK) check(p);
    else require(!p && *sg_message() != 0);
    sg_policy_close(&p);
    struct tuned t;
    (void)minference_is_pattern(path);
    if (minference_read(&t, path, 2, 2) == OK) {
        for (int i = 0; i < 4; i++)
            require(t.heads[i].params.vertical >= 0 && t.heads[i].params.slash >= 0 &&
                t.heads[i].params.part <= PATTERN_BLOCK);
        tuned_clear(&t);
    } else require(*status_message() != 0);
    close(fd);
    return 0;
}
