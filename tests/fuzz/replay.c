/* Every input of tests/fuzz/corpus once, without libFuzzer: seeds, and what ever made a target
 * fail.
 *
 *   fuzz_replay FOLDER    FOLDER/TARGET/INPUT; a target without inputs fails. FOLDER/grown.txt:
 * what fuzzing has found to reach other code, "TARGET BASE64" a line
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

static void replay_bytes(const struct target *t, const char *name, const void *data, size_t size)
{
    uint8_t *exact = malloc(size ? size : 1); /* no byte behind the end */
    if (!exact) abort();
    if (size) memcpy(exact, data, size);
    fprintf(stderr, "%s\n", name); /* the last one is the culprit */
    t->one(exact, size);
    free(exact);
}

static void read_or_exit(struct str *text, const char *path)
{
    if (file_read(text, path) == OK) return;
    fprintf(stderr, "%s\n", status_message());
    exit(1);
}

static void replay_input(const struct target *t, const char *path)
{
    struct str text = {0};
    read_or_exit(&text, path);
    replay_bytes(t, path, str_get(&text), text.len);
    str_clear(&text);
}

static void add_base64(struct str *out, const char *text, size_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t bits = 0;
    int n_bits = 0;
    for (const char *d; n-- && (d = memchr(digits, *text++, 64));) {
        bits = bits << 6 | (uint32_t)(d - digits);
        n_bits += 6;
        if (n_bits < 8) continue;
        n_bits -= 8;
        str_add_char(out, (char)(bits >> n_bits));
    }
}

static int replay_grown(const struct target *t, const char *lines)
{
    size_t length = strlen(t->name);
    int n = 0;
    for (const char *at = lines, *end; (end = strchr(at, '\n')); at = end + 1) {
        if (strncmp(at, t->name, length) != 0 || at[length] != ' ') continue;
        struct str bytes = {0};
        char *name = strndup(at, (size_t)(end - at));
        add_base64(&bytes, at + length + 1, (size_t)(end - at) - length - 1);
        replay_bytes(t, name, str_get(&bytes), bytes.len);
        free(name);
        str_clear(&bytes);
        n++;
    }
    return n;
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
    char path[4096];
    struct str grown = {0};
    if (argc != 2) {
        fprintf(stderr, "usage: fuzz_replay FOLDER\n");
        return 2;
    }
    snprintf(path, sizeof path, "%s/grown.txt", argv[1]);
    read_or_exit(&grown, path);
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) {
        int n = replay_target(&targets[i], argv[1], &argc, &argv);
        if (n == 0) return 1;
        sum += n + replay_grown(&targets[i], str_get(&grown));
    }
    str_clear(&grown);
    printf("%d inputs of %zu targets\n", sum, sizeof targets / sizeof *targets);
    return 0;
}
