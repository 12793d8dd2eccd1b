#include "harness/cli/command.h"

#include "engine/checkpoint/family.h"
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

/* What the checkpoint has and no computation reads; a command that runs the model asks for
 * --ignore-tensors then. */
static void print_unused(const struct weights *w)
{
    struct table *t = table_new("Tensors that no computation reads");
    const struct tensor *x;
    size_t at = 0;
    table_add_column(t, (struct table_column){.name = "tensor"});
    table_add_column(t, (struct table_column){.name = "shape"});
    while ((x = weights_next_unused(w, &at))) {
        char shape[64];
        if (for_people() && table_rows(t) == 8) continue;
        table_text(t, x->name);
        table_text(t, tensor_shape_text(x, shape, sizeof shape));
    }
    if (w->n_extra > 8) {
        char note[64];
        snprintf(note, sizeof note, "and %zu more", w->n_extra - 8);
        table_note(t, note);
    }
    table_note(t, "no command runs this model without --ignore-tensors");
    if (table_rows(t)) print_table("unused_tensors", t);
    else table_free(&t);
}

static struct table *info_table(const struct setup *s)
{
    const struct weights *w = &s->model.weights;
    const struct llama_config *c = &w->config;
    struct session_plan plan = session_plan(c, o.max_length, o.machine.chunk, par_threads(s->par));
    int n_ids = tokenizer_vocab_size(s->model.tokenizer);
    struct table *t = table_new(NULL);
    field_text(t, "model", "model", s->model.name);
    field_text(t, "fingerprint", "fingerprint", s->model.fingerprint);
    field_text(t, "family", "family", c->family->model_type);
    field_count(t, "n_params", "parameters", llama_config_parameters(c));
    field_count(t, "weight_bytes", "weights", (int64_t)w->weight_bytes);
    field_count(t, "n_tensors", "tensors", (int64_t)w->n_entries);
    field_count(t, "n_unused_tensors", "unused tensors", (int64_t)w->n_extra);
    field_count(t, "n_layers", "layers", c->n_layers);
    field_count(t, "hidden_size", "hidden size", c->hidden_size);
    field_count(t, "intermediate_size", "MLP size", c->intermediate_size);
    field_count(t, "n_heads", "query heads", c->n_heads);
    field_count(t, "n_kv_heads", "key/value heads", c->n_kv_heads);
    field_count(t, "head_dim", "head dimension", c->head_dim);
    field_count(t, "window", c->window ? "sliding window" : NULL, c->window);
    field_bool(t, "qkv_bias", "biases", c->qkv_bias);
    field_text(t, "rope", "rope", rope_type_name(c->rope.type));
    field_real(t, "rope_theta", "rope theta", c->rope.theta, NUMBER_SHORT, 9);
    field_count(t, "max_position", "context", c->max_position);
    field_count(t, "vocab", "vocabulary", c->vocab_size);
    field_count(t, "n_token_ids", n_ids == c->vocab_size ? NULL : "ids of the tokenizer", n_ids);
    field_bool(t, "tied", "tied embeddings", w->tied);
    field_text(t, "tokenizer_fingerprint", "tokenizer", tokenizer_fingerprint(s->model.tokenizer));
    field_count(t, "session_tokens", "planned length", plan.capacity);
    field_count(t, "session_bytes", "a session", (int64_t)plan.total_bytes);
    field_count(t, "kv_bytes", "of it KV cache", (int64_t)plan.kv_bytes);
    field_count(t, "activation_bytes", "activations", (int64_t)plan.activation_bytes);
    field_count(t, "panel_bytes", "panels", (int64_t)plan.linear_bytes);
    if (n_ids > c->vocab_size) {
        char *note = str_format("tokenizer.json has %d ids, the embedding table %d rows: a text "
                                "that needs more is refused",
            n_ids, c->vocab_size);
        table_note(t, note);
        free(note);
    }
    if (*tokenizer_notes(s->model.tokenizer)) table_note(t, tokenizer_notes(s->model.tokenizer));
    return t;
}

#ifdef SG_HAVE_CUDA
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
    struct table *t = table_new(NULL);
    field_text(t, "device", "on a GPU", o.machine.device);
    field_count(t, "need_bytes", "needs", (int64_t)need);
    field_count(t, "weight_bytes", "weights in bf16", (int64_t)weights);
    field_count(t, "session_tokens", "session of, tokens", plan.capacity);
    field_count(t, "session_bytes", "a session", (int64_t)plan.total_bytes);
    field_count(t, "kv_bytes", "of it KV cache", (int64_t)plan.kv_bytes);
    field_count(t, "activation_bytes", "activations", (int64_t)plan.activation_bytes);
    field_count(t, "logit_bytes", "logits", (int64_t)plan.linear_bytes);
    field_text(t, "residual", "residual stream", dtype_name(residual));
    field_count(t, "eval_session_bytes", "a session of eval", (int64_t)once.total_bytes);
    field_real(
        t, "rounded", rounded > 0 ? "weights rounded to bf16" : NULL, rounded, NUMBER_PERCENT, 0);
    enum status st = weights_cuda_look(index, &device, &free_bytes, &total);
    field_text(t, "gpu", "GPU", st == OK ? device.gpu : NULL);
    field_text(t, "driver", "driver", st == OK ? device.driver : NULL);
    field_count(t, "free_bytes", "free", st == OK ? (int64_t)free_bytes : -1);
    field_count(t, "total_bytes", "of", st == OK ? (int64_t)total : -1);
    print_object("device", t);
    if (st != OK) return st;
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
    struct table *t = info_table(&setup);
    print_object("model", t);
    print_unused(&setup.model.weights);
#ifdef SG_HAVE_CUDA
    if (index != DEVICE_CPU) TRY_GOTO(st, done, print_device(&setup, index));
#endif
    if (o.check) {
        TRY_GOTO(st, done, setup_check_finite(&setup, o.machine.quiet));
        t = table_new(NULL);
        field_bool(t, "finite", NULL, true);
        data_object("check", t);
        say("\nevery weight is finite\n");
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
            "check max-length device",
        },
    .options = options,
    .max_positional = 1,
    .run = info_command,
};
