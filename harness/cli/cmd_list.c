#include "harness/cli/command.h"

#include "base/text.h"
#include "kernels/mask.h"

#include "harness/cli/output.h"
#include "kernels/registry.h"
#include "results/query.h"
#include "suites/suite.h"
#ifdef SG_HAVE_CUDA
#include "engine/cuda/session_cuda.h"
#endif

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    const char *db, *model, *suite, *method;
    int limit;
} o = {
    .db = "sparsegauge.db",
};

static const struct option_def options[] = {
    {"db", OPTION_TEXT, &o.db, "FILE", "results database (sparsegauge.db)", 0, 0},
    {"model", OPTION_TEXT, &o.model, "NAME", "runs of this model only", 0, 0},
    {"suite", OPTION_TEXT, &o.suite, "NAME", "runs on this suite only", 0, 0},
    {"m|method", OPTION_TEXT, &o.method, "NAME", "runs of this method only", 0, 0},
    {"limit", OPTION_INT, &o.limit, "N", "at most so many, the newest (all)", 0, 1 << 30},
    {0},
};

static enum status list_runs(void)
{
    struct store *store = NULL;
    struct run_list runs = {0};
    struct run_filter f = {.model = o.model,
        .suite = o.suite,
        .method = o.method,
        .limit = (size_t)o.limit,
        .newest_first = o.limit > 0};
    TRY(store_open(&store, o.db, STORE_READ));
    enum status st = query_runs(store, &f, &runs);
    if (st == OK) print_table("runs", runs_table(&runs));
    run_list_clear(&runs);
    store_close(&store);
    return st;
}

/* "rows 8, keys 16", and what its threshold means. */
static void add_method(struct table *t, const struct mask_method *m)
{
    struct str text = {0};
    table_text(t, m->name);
    table_text(t, m->what);
    for (int i = 0; i < m->n_params; i++) {
        const struct mask_param *p = &m->params[i];
        if (p->words) str_addf(&text, "%s%s %s", i ? ", " : "", p->name, p->words[(int)p->value]);
        else str_addf(&text, "%s%s %g", i ? ", " : "", p->name, mask_decimal(p->value));
    }
    table_text(t, str_get(&text));
    str_clear(&text);
    if (m->ranked)
        str_addf(&text, "%s %g", mask_rule_of(m)->name, m->keep > 0 ? mask_decimal(m->keep) : .98);
    table_text(t, m->ranked ? str_get(&text) : "");
    str_clear(&text);
    table_text(t, m->source);
}

static void list_methods(struct table *t)
{
    table_add_column(t, (struct table_column){.name = "parameters"});
    table_add_column(t, (struct table_column){.name = "rule, --cdfthreshd", .key = "rule"});
    table_add_column(t, (struct table_column){.name = "source"});
    static const char *const others[][5] = {
        {"topk", "the ranking of sparge, a fixed fraction of tiles (--topk)", "", "top-k",
            "METHOD 2"},
        {"dense", "nothing is skipped", "", "", ""},
    };
    for (int i = 0; mask_methods[i]; i++) add_method(t, mask_methods[i]);
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++)
        for (int c = 0; c < 5; c++) table_text(t, others[i][c]);
    static const char *const correction[] = {"+correct=mean",
        "a left-out tile becomes one key, the mean of its keys, with its mean value (--correct)",
        "", "", "FlashPrefill V2, arXiv 2608.19758"};
    for (int c = 0; c < 5; c++) table_text(t, correction[c]);
    for (int i = 0; mask_rules[i]; i++) {
        struct str name = {0};
        str_addf(&name, "+rule=%s", mask_rules[i]->name);
        table_text(t, str_get(&name));
        str_clear(&name);
        table_text(t, mask_rules[i]->reads);
        for (int c = 0; c < 3; c++) table_text(t, "");
    }
}

/* What keeps GPU kernels from running here; NULL: nothing, and *sm is the GPU's compute capability.
 */
static const char *no_gpu(int *sm)
{
    *sm = 0;
#ifdef SG_HAVE_CUDA
    static char why[1024];
    struct weights_device_info device;
    size_t free_bytes, total;
    if (weights_cuda_look(0, &device, &free_bytes, &total) == OK) {
        *sm = device.sm;
        return NULL;
    }
    snprintf(why, sizeof why, "%s", status_message());
    return why;
#else
    return "this program was built without CUDA";
#endif
}

/* Each kernel, and whether it would run a plain call here. */
static void list_kernels(struct table *t)
{
    struct attn_args probe = {
        .n_q = 256, .n_heads = 1, .n_kv_heads = 1, .head_dim = 64, .block = BLOCK_DEFAULT};
    int sm;
    const char *gpu = no_gpu(&sm);
    table_add_column(t, (struct table_column){.name = "runs here", .key = "available"});
    for (int i = 0; attn_impls[i]; i++) {
        bool on_gpu = strstr(attn_impls[i]->name, "cuda") || strstr(attn_impls[i]->name, "sm90");
        const char *why = on_gpu ? (gpu ? "needs a GPU" : NULL) : attn_impls[i]->refuses(&probe);
        table_text(t, attn_impls[i]->name);
        table_text(t,
            on_gpu && !why ? "takes the calls of --device cuda it is made for"
                : why      ? why
                           : "available");
        table_bool(t, !why);
    }
    if (!gpu && sm != 90) {
        char *note = str_format(
            "this GPU has compute capability %d.%d: the kernels were compiled for it and never run "
            "on one; all their runs were on 9.0",
            sm / 10, sm % 10);
        table_note(t, note);
        free(note);
    }
    if (!gpu) return;
    char *note = str_format("no GPU here: %s", gpu);
    table_note(t, note);
    free(note);
}

static enum status list_known(const char *what)
{
    struct table *t = table_new(NULL);
    table_add_column(t, (struct table_column){.name = "name"});
    table_add_column(t, (struct table_column){.name = "what it is", .key = "description"});
    if (strcmp(what, "suites") == 0) {
        for (int i = 0; suites[i]; i++) {
            table_text(t, suites[i]->name);
            table_text(t, suites[i]->help);
        }
    } else if (strcmp(what, "methods") == 0) {
        list_methods(t);
    } else if (strcmp(what, "kernels") == 0) {
        list_kernels(t);
    } else {
        static const char *const known[] = {"runs", "suites", "methods", "kernels"};
        const char *nearest = text_nearest(what, known, 4);
        table_free(&t);
        return nearest
            ? fail(ERR_ARG, "list: found \"%s\"; did you mean %s?", what, nearest)
            : fail(ERR_ARG, "list: found \"%s\", expected runs, suites, methods or kernels", what);
    }
    table_keep_constant(t);
    print_table(what, t);
    return OK;
}

static enum status list_command(struct command_call *call)
{
    return call->n == 0 || strcmp(call->positional[0], "runs") == 0
        ? list_runs()
        : list_known(call->positional[0]);
}

const struct command cmd_list = {
    .name = "list",
    .summary = "runs of a database, or the known suites, methods and kernels",
    .help =
        {
            "list [runs | suites | methods | kernels] [options]",
            "Prints the runs of a database, or what this binary knows.",
            "sparsegauge list --db sparsegauge.db\nsparsegauge list suites",
        },
    .options = options,
    .max_positional = 1,
    .run = list_command,
};
