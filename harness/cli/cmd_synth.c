#include "harness/cli/command.h"

#include "engine/checkpoint/synth.h"
#include "harness/cli/output.h"
#include "harness/measure/progress.h"

#include <stdio.h>
#include <string.h>

static struct {
    const char *shape, *dtype;
    int seed, threads, layers;
    bool quiet, list;
} o = {
    .dtype = "bf16",
    .seed = 1,
};

static const struct option_def options[] = {
    {"shape", OPTION_TEXT, &o.shape, "NAME", "whose shape, see --list", 0, 0},
    {"layers", OPTION_INT, &o.layers, "N", "so many of its layers (all)", 1, 4096},
    {"list", OPTION_FLAG, &o.list, NULL, "list the shapes", 0, 0},
    {"dtype", OPTION_TEXT, &o.dtype, "NAME", "bf16, f16 or f32 (bf16)", 0, 0},
    {"seed", OPTION_INT, &o.seed, "N", "of the weights (1)", 0, 1 << 30},
    {"threads", OPTION_INT, &o.threads, "N", "threads (all processors)", 0, 4096},
    {"q|quiet", OPTION_FLAG, &o.quiet, NULL, "no progress", 0, 0},
    {0},
};

static bool show_progress(void *ctx, uint64_t done, uint64_t total)
{
    (void)total;
    progress_update(ctx, (double)done / 0x1p20);
    return !cancel_requested(NULL);
}

static void list_shapes(void)
{
    int n;
    const struct synth_shape *shapes = synth_shapes(&n);
    struct table *t = table_new(NULL);
    table_add_column(t, (struct table_column){.name = "shape"});
    table_add_column(t,
        (struct table_column){
            .name = "in bf16", .key = "bf16_bytes", .number = NUMBER_BYTES, .digits = 2});
    table_add_column(t, (struct table_column){.name = "like"});
    for (int i = 0; i < n; i++) {
        table_text(t, shapes[i].name);
        table_int(t, (int64_t)synth_bytes(&shapes[i].config, DTYPE_BF16));
        table_text(t, shapes[i].like);
    }
    print_table("shapes", t);
}

static enum status synth_command(struct command_call *call)
{
    enum status st = OK;
    if (o.list) {
        list_shapes();
        return OK;
    }
    const struct synth_shape *shape;
    struct synth_options s = synth_defaults();
    struct progress progress;
    struct par *par = NULL;
    cancel_install();
    if (!o.shape || !call->n)
        TRY_GOTO(st, done,
            fail(ERR_ARG, "synth needs --shape NAME and a directory; --list names the shapes"));
    TRY_GOTO(st, done, synth_find(o.shape, &shape));
    struct llama_config config = shape->config;
    if (o.layers > config.n_layers)
        TRY_GOTO(st, done,
            fail(ERR_ARG, "--layers: found %d, expected at most the %d of %s", o.layers,
                config.n_layers, shape->name));
    if (o.layers) config.n_layers = o.layers;
    s.dtype = strcmp(o.dtype, "f32") == 0 ? DTYPE_F32
        : strcmp(o.dtype, "f16") == 0     ? DTYPE_F16
                                          : DTYPE_BF16;
    if (strcmp(dtype_name(s.dtype), o.dtype) != 0)
        TRY_GOTO(
            st, done, fail(ERR_ARG, "--dtype: found \"%s\", expected bf16, f16 or f32", o.dtype));
    TRY_GOTO(st, done, par_open(&par, o.threads));
    s.seed = (uint64_t)o.seed;
    s.par = par;
    s.progress = show_progress;
    s.progress_ctx = &progress;
    progress_begin(
        &progress, "synth", "MiB", (double)synth_bytes(&config, s.dtype) / 0x1p20, o.quiet);
    st = synth_write(call->positional[0], &config, &s);
    progress_end(&progress);
    if (st != OK) goto done;
    say("%s: %s with random weights, %d layers\n", call->positional[0], shape->name,
        config.n_layers);
    struct table *t = table_new(NULL);
    field_text(t, "path", NULL, call->positional[0]);
    field_text(t, "shape", NULL, shape->name);
    field_text(t, "dtype", NULL, dtype_name(s.dtype));
    field_count(t, "n_layers", NULL, config.n_layers);
    field_count(t, "seed", NULL, o.seed);
    data_object("checkpoint", t);
done:
    par_close(&par);
    return st;
}

const struct command cmd_synth = {
    .name = "synth",
    .summary = "write a random checkpoint of a real shape",
    .help =
        {
            "synth --shape NAME DIR",
            "Writes a checkpoint with random weights in a real model's shape, for speed work "
            "without a download.",
            "sparsegauge synth --shape llama-3.2-1b /tmp/llama-1b",
        },
    .options = options,
    .max_positional = 1,
    .run = synth_command,
};
