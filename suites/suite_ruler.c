/* RULER's synthetic tasks (suites/ruler.h), over a grid of tasks, lengths and places of the
 * question.
 *
 * A sample has at most its length in tokens, BOS, chat and the tokens that may be generated
 * included. The first sample of a task and a length finds how much text that allows; the others
 * have as much, or less where they need to. Samples go through the whole grid `repeat` times;
 * num_samples takes them from the start.
 */
#include "suites/build.h"
#include "suites/chronicle.h"
#include "suites/fit.h"
#include "suites/grid.h"
#include "suites/ruler.h"
#include "suites/text_file.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { MIN_LENGTH = 512, MAX_REPEAT = 1000, EXAMPLE_TOKENS = 500, MAX_TRIES = 24 };

struct ruler_grid {
    const struct suite_options *o;
    int tasks[GRID_VALUES], n_tasks;
    int lengths[GRID_VALUES], n_lengths;
    int asks[GRID_VALUES], n_asks;
    int repeat;
    char *path; /* of the haystack; owned; NULL: generated */
    struct haystack haystack;
    int n_example;                /* lines of noise in vt's worked example */
    int (*units)[GRID_VALUES];    /* [tasks][lengths] how much text fits; 0: not known yet */
    double per_unit[RULER_TASKS]; /* tokens, of the last document of the task; 0: not known yet */
};

static enum status read_tasks(struct ruler_grid *g, const char *value)
{
    const char *names[RULER_TASKS];
    for (int i = 0; i < RULER_TASKS; i++) names[i] = ruler_tasks[i].name;
    return grid_names(
        &(struct grid_names){"ruler", "tasks", names, RULER_TASKS}, value, g->tasks, &g->n_tasks);
}

static enum status read_option(void *ctx, const char *key, const char *value)
{
    struct ruler_grid *g = ctx;
    int one;
    struct grid_numbers n = {.suite = "ruler", .key = key, .scale = 1, .max = 1, .lo = 1};
    if (strcmp(key, "tasks") == 0) return read_tasks(g, value);
    if (strcmp(key, "lengths") == 0) {
        n.lo = MIN_LENGTH, n.hi = g->o->max_length, n.max = GRID_VALUES;
        return grid_numbers(&n, value, g->lengths, &g->n_lengths);
    }
    if (strcmp(key, "repeat") == 0) {
        n.hi = MAX_REPEAT;
        return grid_numbers(&n, value, &g->repeat, &one);
    }
    if (strcmp(key, "ask") == 0)
        return grid_names(
            &(struct grid_names){"ruler", key, ask_names, N_ASK}, value, g->asks, &g->n_asks);
    if (strcmp(key, "haystack") == 0) {
        struct text_file file;
        TRY(text_file_open(&file, value));
        haystack_read(&g->haystack, file.text, file.len);
        text_file_close(&file);
        free(g->path);
        g->path = str_dup(value);
        return g->haystack.n ? OK : fail(ERR_FORMAT, "%s: no sentence to hide anything in", value);
    }
    return fail(ERR_ARG,
        "suite ruler: unknown option \"%.40s\"; known: tasks, lengths, repeat, ask, haystack, as "
        "in "
        "ruler:tasks=niah_single_1,vt;lengths=4096,8192;repeat=10",
        key);
}

static enum status read_grid(struct ruler_grid *g)
{
    g->lengths[0] = g->o->max_length;
    g->n_lengths = g->n_asks = 1;
    g->repeat = 10;
    g->n_tasks = RULER_TASKS;
    for (int i = 0; i < RULER_TASKS; i++) g->tasks[i] = i;
    TRY(grid_parse(g->o->argument, read_option, g));
    if (g->o->max_length < MIN_LENGTH)
        return fail(ERR_ARG, "suite ruler: max_length is %d, expected %d or more tokens",
            g->o->max_length, MIN_LENGTH);
    return OK;
}

static enum status example_tokens(
    const struct ruler_grid *g, struct sample_set *s, int n, size_t *out)
{
    struct str text = {0};
    struct token_list tokens = {0};
    ruler_example(n, &text);
    enum status st = build_encode(g->o, s, str_get(&text), text.len, &tokens);
    *out = tokens.n;
    str_clear(&text);
    token_list_clear(&tokens);
    return st;
}

/* As many lines as EXAMPLE_TOKENS allow, and no fewer than the chain needs. */
static enum status fit_example(struct ruler_grid *g, struct sample_set *s)
{
    size_t n;
    for (g->n_example = ruler_min_units(RULER_VT); g->n_example < EXAMPLE_TOKENS; g->n_example++) {
        TRY(example_tokens(g, s, g->n_example + 1, &n));
        if (n > EXAMPLE_TOKENS) return OK;
    }
    return OK;
}

/* A sample's document, and its tokens under the chat. */
struct ruler_sample {
    struct ruler_config config;
    struct ruler_doc doc;
    struct token_list tokens;
};

static void take(struct str *to, const struct str *from)
{
    str_reset(to);
    str_add_bytes(to, str_get(from), from->len);
}

static enum status write_sample(const struct ruler_grid *g, struct sample_set *s,
    struct ruler_sample *x, struct task_text *t, int units)
{
    x->config.n_units = units;
    TRY(ruler_write(&x->config, &x->doc));
    take(&t->prompt, &x->doc.prompt);
    take(&t->prefix, &x->doc.prefix);
    take(&t->gold, &x->doc.gold);
    return build_task_tokens(g->o, s, t, &x->tokens);
}

static int clamp_units(enum ruler_task task, double units)
{
    double lo = ruler_min_units(task), hi = ruler_max_units(task);
    return (int)(units < lo ? lo : units > hi ? hi : units);
}

/* Write until prompt and budget take at most the length; tight: and hardly less. */
static enum status fit_sample(struct ruler_grid *g, struct sample_set *s, struct ruler_sample *x,
    struct task_text *t, int *units, bool tight)
{
    enum ruler_task task = x->config.task;
    int room = x->config.length - ruler_tasks[task].budget - build_bos(g->o), n = *units;
    double *per = &g->per_unit[task];
    if (n == 0 && *per <= 0) { /* two sizes tell what a unit takes */
        size_t few;
        TRY(write_sample(g, s, x, t, clamp_units(task, 64)));
        few = x->tokens.n;
        TRY(write_sample(g, s, x, t, clamp_units(task, 128)));
        *per = ((double)x->tokens.n - (double)few) / 64;
        n = x->config.n_units;
    } else if (n == 0) {
        n = clamp_units(task, room * .97 / *per);
        TRY(write_sample(g, s, x, t, n));
    } else TRY(write_sample(g, s, x, t, n));
    int best = 0;
    for (int i = 0;; i++) {
        int left = room - (int)x->tokens.n;
        if (left >= 0 && (!tight || left < room / 100 + *per || i >= MAX_TRIES)) break;
        if (left >= 0 && n > best) best = n;
        if (i >= MAX_TRIES + 8 || (left < 0 && n <= ruler_min_units(task)))
            return fail(ERR_ARG,
                "suite ruler: %s takes at least %zu tokens with this tokenizer, %d of %d are left "
                "for it; raise the length",
                ruler_tasks[task].name, x->tokens.n, room, x->config.length);
        /* A little short of the aim: words differ in how many tokens they take. */
        double next = n + (left - (left < 0 ? room * .002 * (i + 1) : room * .001)) / *per;
        if (left < 0 && next > n - 1) next = n - 1;
        if (left >= 0 && next < n + 1) break;
        if (best && left < 0 && next < best) next = best;
        int then = n;
        size_t before = x->tokens.n;
        n = clamp_units(task, next);
        if (n == then) break;
        TRY(write_sample(g, s, x, t, n));
        double slope = ((double)x->tokens.n - (double)before) / (n - then);
        if (slope > *per / 4 && slope < *per * 4 && abs(n - then) > 16) *per = slope;
        if (n == best && (int)x->tokens.n <= room) break;
    }
    *units = n;
    return OK;
}

static enum status add_sample(struct ruler_grid *g, struct sample_set *s, struct ruler_sample *x,
    struct task_text *t, int task, int length, int repeat, enum ask ask)
{
    const struct suite_options *o = g->o;
    const struct ruler_task_info *info = &ruler_tasks[g->tasks[task]];
    int *units = &g->units[task][length];
    x->config = (struct ruler_config){.task = (enum ruler_task)g->tasks[task],
        .split = CHRONICLE_EVAL,
        .seed = fit_seed(o, (uint64_t)repeat * GRID_VALUES + (uint64_t)length),
        .length = g->lengths[length],
        .n_example = g->n_example,
        .haystack = g->path ? &g->haystack : NULL};
    if (!*units) { /* asked twice is the longest */
        x->config.ask = g->n_asks > 1 ? ASK_TWICE : ask;
        TRY(fit_sample(g, s, x, t, units, true));
    }
    x->config.ask = ask;
    int n = *units;
    TRY(fit_sample(g, s, x, t, &n, false));
    struct item item = {.question = s->n_items,
        .gold = true,
        .n_bytes = (int)x->doc.gold.len,
        .depth = NAN,
        .length = x->config.length,
        .wanted = wanted_new(JUDGE_ALL, info->budget)};
    for (int i = 0; i < x->doc.n_answers; i++) wanted_add(item.wanted, str_get(&x->doc.answers[i]));
    if (x->doc.evidence != SIZE_MAX && x->doc.n_answers == 1)
        item.depth = floor(10.0 * (double)x->doc.evidence / (double)x->doc.prompt.len + .5) / 10;
    char *name = info->prose
        ? str_format("%s@%s", info->name, g->path ? path_base(g->path) : "prose")
        : str_dup(info->name);
    item.id = str_format("ruler %d", s->n_samples + 1);
    item.group = ask_group(name, ask);
    char *sample =
        str_format("ruler %d: %s, %d tokens", s->n_samples + 1, item.group, x->config.length);
    free(name);
    return build_task(o, s, t, &x->tokens, item, sample, false);
}

static enum status add_grid(struct ruler_grid *g, struct sample_set *s)
{
    struct ruler_sample x = {0};
    struct task_text t = {.file = "suite ruler"};
    enum status st = fit_example(g, s);
    int cells = g->n_tasks * g->n_lengths;
    for (int i = 0; st == OK && i < g->repeat * cells * g->n_asks; i++) {
        int cell = i / g->n_asks, at = cell % cells;
        if (g->o->num_samples && s->n_samples >= g->o->num_samples) break;
        t.line = s->n_samples + 1;
        st = add_sample(g, s, &x, &t, at / g->n_lengths, at % g->n_lengths, cell / cells,
            (enum ask)g->asks[i % g->n_asks]);
    }
    ruler_doc_clear(&x.doc);
    token_list_clear(&x.tokens);
    task_text_clear(&t);
    return st;
}

static enum status load(const struct suite_options *o, struct sample_set *out)
{
    struct ruler_grid g = {.o = o};
    g.units = calloc(RULER_TASKS, sizeof *g.units);
    enum status st = g.units ? read_grid(&g) : fail(ERR_MEMORY, "no memory for a grid of tasks");
    if (st == OK) st = add_grid(&g, out);
    free(g.units);
    free(g.path);
    haystack_clear(&g.haystack);
    return st;
}

const struct suite suite_ruler = {
    .name = "ruler",
    .help =
        "ruler[:tasks=A,B;lengths=A,B;repeat=10;ask=end;haystack=FILE]  RULER's synthetic tasks, "
        "answered by writing",
    .generates = true,
    .grid = true,
    .load = load,
};
