/* Every input of tests/fuzz/corpus once, without libFuzzer: seeds, and what ever made a target
 * fail.
 *
 *   fuzz_replay FOLDER    FOLDER/TARGET/INPUT; a target without inputs fails
 *
 * The targets' two functions are renamed by the build, which also says which targets there are. */
#include "base/file.h"

#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TARGET(name)                                  \
    int one_##name(const uint8_t *data, size_t size); \
    int init_##name(int *argc, char ***argv) __attribute__((weak));
FUZZ_TARGETS
#undef TARGET

static const struct target {
    const char *name;
    int (*one)(const uint8_t *data, size_t size);
    int (*init)(int *argc, char ***argv);
} targets[] = {
#define TARGET(name) {#name, one_##name, init_##name},
    FUZZ_TARGETS
#undef TARGET
};

static void replay_input(const struct target *t, const char *path)
{
    struct str text = {0};
    if (file_read(&text, path) != OK) {
        fprintf(stderr, "%s\n", status_message());
        exit(1);
    }
    uint8_t *exact = malloc(text.len ? text.len : 1); /* no byte behind the end */
    if (!exact) abort();
    if (text.len) memcpy(exact, text.data, text.len);
    fprintf(stderr, "%s\n", path); /* the last one is the culprit */
    t->one(exact, text.len);
    free(exact);
    str_clear(&text);
}

static int replay_target(const struct target *t, const char *corpus, int *argc, char ***argv)
{
    char folder[4096], path[4400];
    int n = 0;
    snprintf(folder, sizeof folder, "%s/%s", corpus, t->name);
    DIR *d = opendir(folder);
    if (t->init) t->init(argc, argv);
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", folder, e->d_name);
        replay_input(t, path);
        n++;
    }
    if (d) closedir(d);
    if (n == 0) fprintf(stderr, "%s holds no inputs\n", folder);
    return n;
}

int main(int argc, char **argv)
{
    int sum = 0;
    if (argc != 2) {
        fprintf(stderr, "usage: fuzz_replay FOLDER\n");
        return 2;
    }
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        int n = replay_target(&targets[i], argv[1], &argc, &argv);
        if (n == 0) return 1;
        sum += n;
    }
    printf("%d inputs of %zu targets\n", sum, sizeof targets / sizeof *targets);
    return 0;
}
