#include "harness/cli/options.h"

#include "base/text.h"
#include "base/xmalloc.h"
#include "harness/cli/output.h"

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

static const struct option_def *find_in(const struct option_def *table, const char *given, size_t n)
{
    for (const struct option_def *o = table; o->name; o++)
        if (o->kind != OPTION_GROUP && named(o->name, given, n)) return o;
    return NULL;
}

bool options_have(const struct option_def *table, const char *name, size_t n)
{
    return find_in(table, name, n) != NULL;
}

static const struct option_def *find(
    const struct option_tables *options, const char *given, size_t n)
{
    const struct option_def *own = find_in(options->own, given, n);
    return own ? own : find_in(options->common, given, n);
}

/* "unknown option --max-lenght; did you mean --max-length?"; "… --l1 here; it belongs to
 * tune, sweep" */
static enum status unknown_option(
    const struct option_tables *options, const char *arg, const char *name, size_t n)
{
    const char **names = NULL;
    size_t n_names = 0;
    struct str elsewhere = {0};
    if (options->elsewhere && n > 1) options->elsewhere(name, n, &elsewhere);
    if (elsewhere.len) {
        enum status st =
            fail(ERR_ARG, "unknown option %s here; it belongs to %s", arg, str_get(&elsewhere));
        str_clear(&elsewhere);
        return st;
    }
    struct str copies = {0}; /* names end at a "|" */
    for (int i = 0; i < 2; i++)
        for (const struct option_def *o = i ? options->common : options->own; o->name; o++) {
            if (o->kind == OPTION_GROUP) continue;
            str_addf(&copies, "%s|", o->name);
        }
    char *all = str_dup(str_get(&copies)), *typed = str_format("%.*s", (int)n, name);
    for (char *save, *w = strtok_r(all, "|", &save); w; w = strtok_r(NULL, "|", &save)) {
        if (!w[1]) continue; /* a letter is near every other */
        names = xrealloc(names, (n_names + 1) * sizeof *names);
        names[n_names++] = w;
    }
    const char *nearest = text_nearest(typed, names, n_names);
    enum status st = nearest ? fail(ERR_ARG, "unknown option %s; did you mean --%s?", arg, nearest)
                             : fail(ERR_ARG, "unknown option %s; -h lists the options", arg);
    free(names);
    free(all);
    free(typed);
    str_clear(&copies);
    return st;
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

enum status options_parse(const struct option_tables *options, int argc, char **argv,
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
        if (!o || (negated && o->kind != OPTION_FLAG)) return unknown_option(options, arg, name, n);
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

/* "-o, --output FILE" */
static char *option_names(const struct option_def *o)
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
    char *out = str_dup(str_get(&s));
    str_clear(&s);
    return out;
}

/* The text beside the names, or below them where the terminal is narrow. */
static void print_option(const char *names, const char *text)
{
    enum { BESIDE = 37, BELOW = 8 };
    int width = output_width();
    bool narrow = width < 76;
    size_t indent = narrow ? BELOW : BESIDE;
    struct str lines = {0}, out = {0};
    text_wrap(text, (size_t)width - indent, 0, &lines);
    str_addf(&out, "  %s", names);
    if (narrow || text_columns(names) + 3 > indent) str_addf(&out, "\n%*s", (int)indent, "");
    else str_addf(&out, "%*s", (int)(indent - 2 - text_columns(names)), "");
    for (const char *p = str_get(&lines); *p; p++) {
        str_add_char(&out, *p);
        if (*p == '\n') str_addf(&out, "%*s", (int)indent, "");
    }
    say_command("%s\n", str_get(&out));
    str_clear(&lines);
    str_clear(&out);
}

static void print_def(const struct option_def *o)
{
    char *names = option_names(o);
    print_option(names, o->help);
    free(names);
}

/* Is it one of "max-length num-samples"? */
static bool is_often(const char *often, const struct option_def *o)
{
    for (const char *p = often; p && *p; p += strcspn(p, " "), p += strspn(p, " "))
        if (named(o->name, p, strcspn(p, " "))) return true;
    return false;
}

static void print_often(const char *often, const struct option_tables *options)
{
    say("\nmost used\n");
    for (const char *p = often; *p; p += strcspn(p, " "), p += strspn(p, " "))
        print_def(find(options, p, strcspn(p, " ")));
}

/* All others, a heading only where something stands below it. */
static void print_rest(const struct option_def *options, const char *often, const char *heading)
{
    for (; options->name; options++) {
        if (options->kind == OPTION_GROUP) heading = options->name;
        if (options->kind == OPTION_GROUP || is_often(often, options)) continue;
        if (heading) say("\n%s\n", heading);
        heading = NULL;
        print_def(options);
    }
}

static const struct {
    const char *name, *text;
} codes[] =
    {
        {"0", "done; every bound holds"},
        {"1", "a bound is broken, a claim fails, no run holds the bounds"},
        {"2", "the command line makes no sense"},
        {"3", "a run failed, or some cells have no result"},
        {"4", "the data cannot decide, nothing sparse was measured, or databases disagree"},
        {"130, 143", "stopped by Ctrl-C, by SIGTERM"},
},
  environment[] = {
      {"COLUMNS", "width of tables and text (the terminal's; 120 without one)"},
      {"LC_ALL, LC_CTYPE, LANG", "ASCII alone is printed where they do not say UTF-8"},
      {"NO_COLOR", "no colour"},
      {"HF_HOME, HF_HUB_CACHE", "where models named by their id lie (~/.cache/huggingface)"},
      {"XDG_CACHE_HOME", "where dense states are cached (~/.cache)"},
      {"TMPDIR", "for short-lived files (/tmp)"},
      {"GITHUB_STEP_SUMMARY",
          "the summary of a gate with annotations for GitHub is added to this file"},
      {"SLURM_*, OMPI_*, PMI_*", "a sweep takes its part of the work from them"},
};

/* The lines of the source are joined: the terminal's width breaks them. */
static void print_paragraph(const struct command_help *help)
{
    struct str lines = {0};
    char *text = str_dup(help->text);
    for (char *p = text; *p; p++)
        if (*p == '\n') *p = ' ';
    text_wrap(text, (size_t)output_width(), 0, &lines);
    say("usage: sparsegauge %s\n\n%s\n", help->usage, str_get(&lines));
    str_clear(&lines);
    free(text);
}

void options_print_help(const struct command_help *help, const struct option_tables *options)
{
    print_paragraph(help);
    if (help->often) print_often(help->often, options);
    print_rest(options->own, help->often, help->often ? "more" : "options");
    print_rest(options->common, help->often, NULL);
    print_option("-h, --help", "show this");
    say("\nexample\n");
    for (const char *p = help->example; *p;) {
        size_t n = strcspn(p, "\n");
        say_command("  %.*s\n", (int)n, p);
        p += n + (p[n] != 0);
    }
    say("\nexit codes\n");
    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++)
        print_option(codes[i].name, codes[i].text);
    say("\nenvironment\n");
    for (size_t i = 0; i < sizeof environment / sizeof *environment; i++)
        print_option(environment[i].name, environment[i].text);
}
