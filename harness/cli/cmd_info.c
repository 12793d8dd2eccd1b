#include "harness/cli/command.h"

#include "base/utf8.h"
#include "harness/cli/common_options.h"
#include "harness/measure/devices.h"
#include "harness/cli/output.h"
#include "harness/measure/setup.h"
#ifdef SG_HAVE_CUDA
#include "engine/cuda/session_cuda.h"
#endif

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    struct machine_options machine;
    bool check;
    int max_length;
} o = {
    .machine = MACHINE_DEFAULTS,
    .max_length = 2048,
};

static const struct option_def options[] = {
    {"model|model-name", OPTION_TEXT, &o.machine.model, "DIR", "instead of MODEL", 0, 0},
    {"check", OPTION_FLAG, &o.check, NULL, "read every weight and look for NaN and infinity", 0, 0},
    {"max-length", OPTION_INT, &o.max_length, "TOKENS", "plan memory for this length (2048)", 1,
        1 << 24},
    MACHINE_OPTIONS(o.machine),
    {0},
};

static void print_tensor(const char *label, const struct tensor *t)
{
    char shape[64], *shown = utf8_shown(t->name);
    printf("%-14s %s %s\n", label, shown, tensor_shape_text(t, shape, sizeof shape));
    free(shown);
}

/* What the checkpoint has and no computation reads; a command that runs the model asks for
 * --ignore-tensors then. */
static void print_unused(const struct weights *w)
{
    const struct tensor *t;
    size_t at = 0, n = 0;
    while ((t = weights_next_unused(w, &at)))
        if (n++ < 8) print_tensor(n == 1 ? "unused" : "", t);
    if (n > 8) printf("%14s and %zu more\n", "", n - 8);
    if (n) printf("%14s so no command runs this model without --ignore-tensors\n", "");
}

static void print_info(const struct setup *s)
{
    const struct weights *w = &s->model.weights;
    const struct llama_config *c = &w->config;
    struct session_plan plan = session_plan(c, o.max_length, o.machine.chunk, par_threads(s->par));
    printf("model          %s\n", s->model.name);
    printf("fingerprint    %s\n", s->model.fingerprint);
    printf("parameters     %lld, %.1f MiB of weights (%zu tensors, %zu unused)\n",
        llama_config_parameters(c), (double)w->weight_bytes / 0x1p20, w->n_entries, w->n_extra);
    printf("layers         %d, hidden %d, MLP %d\n", c->n_layers, c->hidden_size,
        c->intermediate_size);
    printf("attention      %d query heads, %d kv heads, head_dim %d%s\n", c->n_heads, c->n_kv_heads,
        c->head_dim, c->qkv_bias ? ", biased" : "");
    printf("rope           %s, theta %g, context %d\n", rope_type_name(c->rope.type), c->rope.theta,
        c->max_position);
    printf("vocabulary     %d ids, embeddings %s, tokenizer %s\n", c->vocab_size,
        w->tied ? "tied" : "apart", tokenizer_fingerprint(s->model.tokenizer));
    printf("session        %.1f MiB at %d tokens (KV cache %.1f, activations %.1f, panels %.1f)\n",
        (double)plan.total_bytes / 0x1p20, plan.capacity, (double)plan.kv_bytes / 0x1p20,
        (double)plan.activation_bytes / 0x1p20, (double)plan.linear_bytes / 0x1p20);
    print_unused(w);
    int n_ids = tokenizer_vocab_size(s->model.tokenizer);
    if (n_ids > c->vocab_size)
        printf("note           tokenizer.json has %d ids, the embedding table %d rows: a text that "
               "needs more is refused\n",
            n_ids, c->vocab_size);
    if (*tokenizer_notes(s->model.tokenizer))
        printf("note           %s\n", tokenizer_notes(s->model.tokenizer));
}

#ifdef SG_HAVE_CUDA
static double mib(size_t bytes) { return (double)bytes / 0x1p20; }

/* What a GPU would have to hold, known without one; then what it has. */
static enum status print_device(const struct setup *s, int index)
{
    const struct weights *w = &s->model.weights;
    const struct llama_config *c = &w->config;
    const char *why = weights_cuda_refuses(c);
    if (why) return fail(ERR_UNSUPPORTED, "%s: --device %s: %s", w->dir, o.machine.device, why);
    enum dtype residual = w->device_options.residual;
    struct session_plan plan = session_plan_cuda(
                            c, residual, o.max_length, o.machine.chunk, false, o.machine.offload),
                        once = session_plan_cuda(
                            c, residual, o.max_length, o.machine.chunk, true, o.machine.offload);
    size_t weights = weights_cuda_bytes(c, w->tied, o.machine.offload),
           need = weights + plan.total_bytes, free_bytes, total;
    double rounded = weights_cuda_rounds(w);
    struct weights_device_info device;
    printf("on a GPU       %.1f MiB: weights in bf16 %.1f, session %.1f at %d tokens\n", mib(need),
        mib(weights), mib(plan.total_bytes), plan.capacity);
    printf(
        "               (KV cache %.1f, activations %.1f, logits %.1f, residual stream in %s);\n",
        mib(plan.kv_bytes), mib(plan.activation_bytes), mib(plan.linear_bytes),
        dtype_name(residual));
    printf("               a session of eval, which keeps no cache of short samples, %.1f\n",
        mib(once.total_bytes));
    if (rounded > 0)
        printf(
            "rounded        %.0f %% of the weights are not bf16 and are rounded to it on a GPU\n",
            100 * rounded);
    TRY(weights_cuda_look(index, &device, &free_bytes, &total));
    printf("device         %s, %s, %.1f of %.1f MiB free\n", device.gpu, device.driver,
        mib(free_bytes), mib(total));
    if (need > free_bytes)
        return fail(ERR_MEMORY,
            "does not fit: needs %.2f GiB, %s has %.2f of %.2f GiB free; lower --max-length or "
            "--chunk",
            (double)need / 0x1p30, device.gpu, (double)free_bytes / 0x1p30, (double)total / 0x1p30);
    return OK;
}
#endif

static enum status info_command(struct command_call *call)
{
    enum status st = OK;
    struct setup setup = {0};
    int index;
    o.machine.ignore_tensors = true; /* nothing is run, and they are shown */
    TRY_GOTO(st, done, setup_open_unplaced(&setup, &o.machine, call->positional[0], &index));
    print_info(&setup);
#ifdef SG_HAVE_CUDA
    if (index != DEVICE_CPU) TRY_GOTO(st, done, print_device(&setup, index));
#endif
    if (o.check) {
        TRY_GOTO(st, done, weights_check_finite(&setup.model.weights, setup.par));
        printf("check          every weight is finite\n");
    }
done:
    setup_close(&setup);
    return st;
}

const struct command cmd_info = {
    .name = "info",
    .summary = "what a model directory holds, checked",
    .help =
        {
            "info MODEL [options]",
            "Opens a model directory, checks every tensor's name, type and shape, and prints what "
            "it holds and what a\n"
            "session needs.",
            "sparsegauge info suites/demo/model --check",
        },
    .options = options,
    .max_positional = 1,
    .run = info_command,
};
