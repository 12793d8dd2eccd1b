#include "harness/cli/options.h"

#include "base/str.h"

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool same_name(const char *a, size_t n, const char *b)
{
    for (size_t i = 0; i < n; i++) {
        char x = a[i] == '_' ? '-' : a[i], y = b[i] == '_' ? '-' : b[i];
        if (x != y || b[i] == 0) return false;
    }
    return b[n] == 0 || b[n] == '|';
}

/* True when `given` (n characters) is one of the names of "o|output|model-out". */
static bool named(const char *names, const char *given, size_t n)
{
    for (const char *p = names; p; p = strchr(p, '|'), p = p ? p + 1 : NULL)
        if (same_name(given, n, p)) return true;
    return false;
}

static const struct option_def *find(const struct option_def *options, const char *given, size_t n)
{
    for (; options->name; options++)
        if (options->kind != OPTION_GROUP && named(options->name, given, n)) return options;
    return NULL;
}

/* 1048576 and 0.001: whole numbers in full, the rest short. */
static void format_bound(double value, char *out, size_t size)
{
    snprintf(out, size,
        value == (double)(long long)value && value > -1e15 && value < 1e15 ? "%.0f" : "%g", value);
}

static enum status set_number(const struct option_def *o, const char *arg, const char *value)
{
    char *end;
    errno = 0;
    double number = strtod(value, &end);
    bool percent = o->kind == OPTION_SHARE && *end == '%' && end != value;
    if (percent) {
        number /= 100;
        end++;
    }
    bool whole = number >= INT_MIN && number <= INT_MAX && number == (double)(int)number;
    const char *kind = o->kind == OPTION_INT ? "a whole number"
        : o->kind == OPTION_SHARE            ? "a share such as .01 or 1%"
                                             : "a number";
    if (end == value || *end || errno || (o->kind == OPTION_INT && !whole))
        return fail(ERR_ARG, "%s: found \"%s\", expected %s", arg, value, kind);
    if ((o->lo != 0 || o->hi != 0) && !(number >= o->lo && number <= o->hi)) {
        char lo[32], hi[32];
        format_bound(o->lo, lo, sizeof lo);
        format_bound(o->hi, hi, sizeof hi);
        return fail(ERR_ARG, "%s: found %s, expected %s from %s to %s", arg, value, kind, lo, hi);
    }
    if (o->kind == OPTION_INT) *(int *)o->to = (int)number;
    else *(double *)o->to = number;
    return OK;
}

static enum status set_value(const struct option_def *o, const char *arg, const char *value)
{
    struct text_list *list = o->to;
    switch (o->kind) {
    case OPTION_TEXT: *(const char **)o->to = value; return OK;
    case OPTION_LIST:
        if (list->n == (int)(sizeof list->items / sizeof list->items[0]))
            return fail(ERR_ARG, "%s: given more than %d times", arg, list->n);
        list->items[list->n++] = value;
        return OK;
    default: return set_number(o, arg, value);
    }
}

enum status options_parse(const struct option_def *options, int argc, char **argv,
    const char **positional, int max_positional, int *n_positional, bool *want_help)
{
    *n_positional = 0;
    *want_help = false;
    bool only_positional = false;
    for (int i = 0; i < argc; i++) {
        const char *arg = argv[i];
        if (only_positional || arg[0] != '-' || !arg[1]) {
            if (*n_positional == max_positional)
                return fail(ERR_ARG, "unexpected argument \"%s\"; -h shows the usage", arg);
            positional[(*n_positional)++] = arg;
            continue;
        }
        if (strcmp(arg, "--") == 0) {
            only_positional = true;
            continue;
        }
        if (strcmp(arg, "-h") == 0 || strcmp(arg, "--help") == 0) {
            *want_help = true;
            return OK;
        }
        const char *name = arg + (arg[1] == '-' ? 2 : 1), *equals = strchr(name, '=');
        size_t n = equals ? (size_t)(equals - name) : strlen(name);
        const struct option_def *o = find(options, name, n);
        bool negated =
            !o && n > 3 && (str_starts_with(name, "no-") || str_starts_with(name, "no_"));
        if (negated) o = find(options, name + 3, n - 3);
        if (!o || (negated && o->kind != OPTION_FLAG))
            return fail(ERR_ARG, "unknown option %s; -h lists the options", arg);
        if (o->kind == OPTION_FLAG) {
            if (equals) return fail(ERR_ARG, "%.*s takes no value", (int)(equals - arg), arg);
            *(bool *)o->to = !negated;
            continue;
        }
        const char *value = equals ? equals + 1 : i + 1 < argc ? argv[++i] : NULL;
        if (!value) return fail(ERR_ARG, "%s needs a value: %s", arg, o->value);
        char label[128];
        snprintf(label, sizeof label, "%.*s", equals ? (int)(equals - arg) : (int)strlen(arg), arg);
        TRY(set_value(o, label, value));
    }
    return OK;
}

/* Columns that the text takes on a terminal: bytes that do not continue a character. */
static int columns(const char *text)
{
    int n = 0;
    for (; *text; text++) n += ((unsigned char)*text & 0xc0) != 0x80;
    return n;
}

static void print_names(const struct option_def *o)
{
    struct str s = {0};
    const char *p = o->name;
    size_t n = strcspn(p, "|");
    if (n == 1) {
        str_addf(&s, "-%c", p[0]);
        p = p[n] ? p + n + 1 : p + n;
        n = strcspn(p, "|");
        if (n) str_add(&s, ", ");
    } else {
        str_add(&s, "    ");
    }
    if (n) str_addf(&s, "--%.*s", (int)n, p);
    if (o->value) str_addf(&s, " %s", o->value);
    while (columns(str_get(&s)) < 34) str_add_char(&s, ' ');
    printf("  %s %s\n", str_get(&s), o->help);
    str_clear(&s);
}

void options_print_help(const struct command_help *help, const struct option_def *options)
{
    printf("usage: sparsegauge %s\n\n%s\n", help->usage, help->text);
    for (bool first = true; options->name; options++, first = false) {
        if (options->kind == OPTION_GROUP) printf("\n%s\n", options->name);
        else {
            if (first) printf("\noptions\n");
            print_names(options);
        }
    }
    printf("  %-34s %s\n", "-h, --help", "show this");
    printf("\nexample\n");
    for (const char *p = help->example; *p;) {
        size_t n = strcspn(p, "\n");
        printf("  %.*s\n", (int)n, p);
        p += n + (p[n] != 0);
    }
}
