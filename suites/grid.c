#include "suites/grid.h"

#include "base/str.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

/* Does `argument` name this key before `at`? */
static bool named_before(const char *argument, size_t at, const char *key)
{
    size_t n = strlen(key);
    for (const char *p = argument; p < argument + at; p += strcspn(p, ";") + 1)
        if (!strncmp(p, key, n) && strchr("=;", p[n])) return true;
    return false;
}

enum status grid_parse(const char *argument, grid_option *option, void *ctx)
{
    char *copy = str_dup(argument), *rest = copy;
    enum status st = OK;
    for (char *part; st == OK && (part = strsep(&rest, ";"));) {
        if (!*part) continue;
        char *equals = strchr(part, '=');
        if (equals) *equals = 0;
        st = named_before(argument, (size_t)(part - copy), part)
            ? fail(ERR_ARG, "the suite's %s is given twice in \"%.200s\"; give it once", part,
                  argument)
            : option(ctx, part, equals ? equals + 1 : "");
    }
    free(copy);
    return st;
}

/* A number of `text` from lo to hi, times `scale`, which must give a whole number; *end behind it.
 */
static bool read_number(const struct grid_numbers *g, const char *text, int *out, const char **end)
{
    char *stop;
    double v = strtod(text, &stop);
    if (stop == text || !(v >= g->lo && v <= g->hi)) return false;
    *end = stop;
    double scaled = v * g->scale;
    *out = (int)(scaled + .5);
    return scaled - *out < 1e-6 && *out - scaled < 1e-6;
}

enum status grid_numbers(const struct grid_numbers *g, const char *text, int *out, int *n)
{
    const char *p = text;
    for (*n = 0; *n < g->max; p++) {
        if (!read_number(g, p, &out[*n], &p)) break;
        ++*n;
        if (!*p) return OK;
        if (*p != ',') break;
    }
    if (*n == g->max && g->max > 1)
        return fail(ERR_ARG, "suite %s: %s has more than %d values", g->suite, g->key, g->max);
    return fail(ERR_ARG, "suite %s: %s=%.80s: expected %s from %g to %g%s", g->suite, g->key, text,
        g->max > 1 ? "numbers with commas between them, each" : "a whole number", g->lo, g->hi,
        strcmp(g->key, "lengths") == 0 ? " (max_length)" : "");
}

enum status grid_names(const struct grid_names *g, const char *text, int *out, int *n)
{
    *n = 0;
    for (const char *p = text;; p++) {
        size_t len = strcspn(p, ",");
        int found = -1;
        for (int i = 0; i < g->n_names; i++)
            if (strlen(g->names[i]) == len && !memcmp(g->names[i], p, len)) found = i;
        for (int i = 0; i < *n; i++)
            if (out[i] == found)
                return fail(
                    ERR_ARG, "suite %s: %s has %s twice", g->suite, g->key, g->names[found]);
        if (found < 0 || *n == GRID_VALUES) {
            struct str known = {0};
            for (int i = 0; i < g->n_names; i++)
                str_addf(&known, "%s%s", i ? ", " : "", g->names[i]);
            enum status st = fail(ERR_ARG, "suite %s: %s has no \"%.*s\"; known: %s", g->suite,
                g->key, (int)(len < 40 ? len : 40), p, str_get(&known));
            str_clear(&known);
            return st;
        }
        out[(*n)++] = found;
        p += len;
        if (!*p) return OK;
    }
}
