/* Packed curves, and files of the cache of dense runs: damaged ones are told, sound ones give back
 * what was put in. First byte even: the rest is a curve. Odd: a sound file of the cache, cut to as
 * many bytes as the second says, with changes of two bytes each, place and value. */
#include "harness/measure/curve_db.h"
#include "harness/measure/dense_cache.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[64];
static struct dense_cache cache;

static void leave(void)
{
    char *command = str_format("rm -r %s", folder);
    (void)!system(command);
    free(command);
    dense_cache_close(&cache);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    strcpy(folder, "/tmp/fuzz_blobs_XXXXXX");
    require(mkdtemp(folder) != NULL && dense_cache_open(&cache, folder) == OK);
    atexit(leave);
    return 0;
}

static void try_curve(const unsigned char *data, size_t size)
{
    struct curve *c = malloc(sizeof *c), *again = malloc(sizeof *c);
    struct str packed = {0};
    require(c && again);
    if (curve_unpack(data, size, c) == OK) {
        for (int t = 0; t < N_THETAS; t++)
            for (int u = 0; u < N_TAUS; u++)
                require(
                    c->points[t][u].n_kept <= c->n_possible && isfinite(c->points[t][u].error.l1));
        curve_pack(c, &packed);
        require(curve_unpack(packed.data, packed.len, again) == OK);
        require(memcmp(c, again, sizeof *c) == 0);
    } else require(*status_message() != 0);
    str_clear(&packed);
    free(c);
    free(again);
}

static void try_cache(const unsigned char *data, size_t size)
{
    static const char key[] = "0123456789abcdef0123456789abcdef";
    static const float put[6] = {1, -2, 3.5f, 0, -0.f, 1e-30f};
    unsigned char sound[256], bytes[256];
    char path[128];
    float rows[6];
    if (size < 1) return;
    dense_cache_put(&cache, key, 2, 3, put);
    snprintf(path, sizeof path, "%s/%s", folder, key);
    FILE *f = fopen(path, "r");
    size_t n = f ? fread(sound, 1, sizeof sound, f) : 0, kept = data[0] < n ? data[0] : n;
    require(n > sizeof put && n < sizeof sound);
    fclose(f);
    memcpy(bytes, sound, n);
    for (size_t i = 1; i + 2 <= size; i += 2) bytes[data[i] % n] = data[i + 1];
    f = fopen(path, "w");
    require(f != NULL && fwrite(bytes, 1, kept, f) == kept);
    fclose(f);
    bool same = kept == n && memcmp(bytes, sound, n) == 0;
    require(dense_cache_get(&cache, key, 2, 3, rows) == same);
    if (same) require(memcmp(rows, put, sizeof put) == 0);
    require(!dense_cache_get(&cache, key, 3, 2, rows)); /* another shape, as many numbers */
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    if (size < 1) return 0;
    if (data[0] % 2) try_cache(data + 1, size - 1);
    else try_curve(data + 1, size - 1);
    return 0;
}
