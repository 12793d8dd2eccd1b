#include "harness/command.h"

#include "harness/devices.h"
#include "harness/output.h"
#include "harness/setup.h"
#ifdef SG_HAVE_CUDA
#include "engine/session_cuda.h"
#endif

#include <stdio.h>
#include <string.h>

static struct {
    struct machine_options machine;
    bool check, full;
    int max_length;
} o;

static const struct option_def options[] = {
    {"model|model-name", OPTION_TEXT, &o.machine.model, "DIR", "instead of MODEL", 0, 0},
    {"check", OPTION_FLAG, &o.check, NULL, "read every weight and look for NaN and infinity", 0, 0},
    {"full", OPTION_FLAG, &o.full, NULL, "fingerprint over every byte, however large", 0, 0},
    {"max-length", OPTION_INT, &o.max_length, "TOKENS", "plan memory for this length (2048)", 1, 1 << 24},
    MACHINE_OPTIONS(o.machine),
    {0},
};

static const struct command_help help = {
    "info MODEL [options]",
    "Opens a model directory, checks every tensor's name, type and shape, and prints what it holds and what a\n"
    "session needs.",
    "sparsegauge info suites/demo/model --check",
};

static void print_info(const struct setup *s, const char *fingerprint)
{
    const struct weights *w = &s->model.weights;
    const struct llama_config *c = &w->config;
    struct session_plan plan = session_plan(c, o.max_length, o.machine.chunk, par_threads(s->par));
    printf("model          %s\n", s->model.name);
    printf("fingerprint    %s\n", fingerprint);
    printf("parameters     %lld, %.1f MiB of weights (%zu tensors, %zu unused)\n", llama_config_parameters(c),
           (double)w->weight_bytes / 0x1p20, w->n_entries, w->n_extra);
    printf("layers         %d, hidden %d, MLP %d\n", c->n_layers, c->hidden_size, c->intermediate_size);
    printf("attention      %d query heads, %d kv heads, head_dim %d%s\n", c->n_heads, c->n_kv_heads, c->head_dim,
           c->attention_bias ? ", biased" : "");
    printf("rope           %s, theta %g, context %d\n", rope_type_name(c->rope.type), c->rope.theta, c->max_position);
    printf("vocabulary     %d ids, embeddings %s, tokenizer %s\n", c->vocab_size, w->tied ? "tied" : "apart",
           tokenizer_fingerprint(s->model.tokenizer));
    printf("session        %.1f MiB at %d tokens (KV cache %.1f, activations %.1f, panels %.1f)\n",
           (double)plan.total_bytes / 0x1p20, plan.capacity, (double)plan.kv_bytes / 0x1p20,
           (double)plan.activation_bytes / 0x1p20, (double)plan.linear_bytes / 0x1p20);
    if (*tokenizer_notes(s->model.tokenizer)) printf("note           %s\n", tokenizer_notes(s->model.tokenizer));
}

/* What a GPU would have to hold, known without one; then what it has. */
static enum status print_device(const struct setup *s, int index)
{
    if (index == DEVICE_CPU) return OK;
#ifdef SG_HAVE_CUDA
    const struct weights *w = &s->model.weights;
    const char *why = weights_cuda_refuses(&w->config);
    if (why) return fail(ERR_UNSUPPORTED, "%s: --device %s: %s", w->dir, o.machine.device, why);
    enum dtype residual = w->device_options.residual;
    struct session_plan plan = session_plan_cuda(&w->config, residual, o.max_length, o.machine.chunk, false),
                        once = session_plan_cuda(&w->config, residual, o.max_length, o.machine.chunk, true);
    size_t weights = weights_cuda_bytes(&w->config, w->tied), need = weights + plan.total_bytes, free_bytes, total;
    struct weights_device_info device;
    printf("on a GPU       %.2f GiB: weights in bf16 %.2f, session at %d tokens with an %s residual stream %.3f (KV cache %.3f,\n"
           "               activations %.3f, logits %.3f); for eval, which keeps no cache, a session of %.3f\n",
           (double)need / 0x1p30, (double)weights / 0x1p30, plan.capacity, dtype_name(residual), (double)plan.total_bytes / 0x1p30,
           (double)plan.kv_bytes / 0x1p30, (double)plan.activation_bytes / 0x1p30, (double)plan.linear_bytes / 0x1p30,
           (double)once.total_bytes / 0x1p30);
    if (weights_cuda_rounds(w))
        printf("rounded        %.1f %% of the weights are stored in another type than bf16 and are rounded to it on a GPU\n",
               100 * weights_cuda_rounds(w));
    TRY(weights_cuda_look(index, &device, &free_bytes, &total));
    printf("device         %s, %s, %.2f of %.2f GiB free\n", device.gpu, device.driver, (double)free_bytes / 0x1p30,
           (double)total / 0x1p30);
    if (need > free_bytes)
        return fail(ERR_MEMORY, "does not fit: needs %.2f GiB, %s has %.2f of %.2f GiB free; lower --max-length or --chunk",
                    (double)need / 0x1p30, device.gpu, (double)free_bytes / 0x1p30, (double)total / 0x1p30);
    return OK;
#else
    (void)s;
    return fail(ERR_UNSUPPORTED, "--device %s: this program was built without CUDA", o.machine.device);
#endif
}

int cmd_info(int argc, char **argv)
{
    o.machine = machine_defaults;
    o.max_length = 2048;
    const char *positional[1];
    char fingerprint[FINGERPRINT_SIZE];
    int n;
    int code;
    if (!command_begin(&help, options, argc, argv, positional, 1, &n, &code)) return code;
    enum status st = OK;
    struct setup setup = {0};
    int index;
    TRY_GOTO(st, done, setup_open_unplaced(&setup, &o.machine, n ? positional[0] : NULL, &index));
    TRY_GOTO(st, done, weights_fingerprint(&setup.model.weights, o.full, setup.par, fingerprint));
    print_info(&setup, fingerprint);
    TRY_GOTO(st, done, print_device(&setup, index));
    if (o.check) {
        TRY_GOTO(st, done, weights_check_finite(&setup.model.weights, setup.par));
        printf("check          every weight is finite\n");
    }
done:
    setup_close(&setup);
    return st == OK ? EXIT_PASS : report_failure(st);
}
