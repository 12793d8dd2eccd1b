#include "harness/measure/setup.h"

#include "base/file.h"
#ifdef SG_HAVE_CUDA
#include "engine/cuda/session_cuda.h"
#endif
#include "engine/offload.h"
#include "engine/tuner/minference.h"
#include "engine/tuner/sparge_pt.h"
#include "engine/tuner/tuner_spread.h"
#include "harness/measure/dense_cache.h"
#include "harness/measure/devices.h"
#include "harness/measure/progress.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/eight.h"
#include "version.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What was said about the device's way of working, or what the CPU cannot do of it. */
static enum status set_device_options(struct setup *s, const struct machine_options *m, int index)
{
    struct device_options *how = &s->model.weights.device_options;
    bool cpu = index == DEVICE_CPU;
    if (cpu && m->device_gib > 0)
        return fail(ERR_UNSUPPORTED, "--device-memory limits a GPU; name one with --device");
    if (m->offload && (m->graph || (m->compile && !cpu)))
        return fail(ERR_UNSUPPORTED,
            "--graph repeats calls on weights that stay where they are, and with --offload they "
            "come and "
            "go; drop one");
    if (m->offload && cpu && s->model.weights.files.unpacked)
        return fail(ERR_UNSUPPORTED,
            "%s is unpacked into memory, so on the CPU --offload would save none; use it on a GPU, "
            "or save "
            "the model unquantised as safetensors",
            s->model_dir);
    if (m->residual && strcmp(m->residual, "f32") != 0 && strcmp(m->residual, "bf16") != 0)
        return fail(ERR_ARG, "--residual: found \"%s\", expected f32 or bf16", m->residual);
    if (cpu && m->residual && strcmp(m->residual, "bf16") == 0)
        return fail(
            ERR_UNSUPPORTED, "--residual bf16 needs --device cuda: the CPU computes in f32");
    if (cpu && m->graph) return fail(ERR_UNSUPPORTED, "--graph needs --device cuda");
    if (cpu && m->compile && !m->quiet)
        fprintf(
            stderr, "sparsegauge: --compile has no effect on the CPU, everything is compiled\n");
    how->residual = m->residual && strcmp(m->residual, "bf16") == 0 ? DTYPE_BF16 : DTYPE_F32;
    how->graph = m->graph || m->compile;
    how->memory = (size_t)(m->device_gib * 0x1p30);
    return OK;
}

static enum status place_weights(
    struct setup *s, const struct device_place *at, const char *text, bool quiet)
{
    if (at->index[0] == DEVICE_CPU) return OK;
#ifdef SG_HAVE_CUDA
    enum status st = at->n > 1 ? weights_place_split(&s->model.weights, at->index, at->n)
                               : weights_place_cuda(&s->model.weights, at->index[0]);
    if (st != OK) return fail_context(st, "--device %s", text);
    double rounded = weights_cuda_rounds(&s->model.weights);
    if (rounded > 0 && !quiet)
        fprintf(stderr,
            "sparsegauge: %.0f %% of the weights are not bf16 and are rounded to it on a GPU\n",
            100 * rounded);
    return OK;
#else
    (void)s, (void)quiet; /* devices_parse has refused it already */
    return fail(ERR_UNSUPPORTED, "--device %s: this program was built without CUDA", text);
#endif
}

/* Each of its parts is shown by itself. */
static void show_reading(void *ctx, const char *what, size_t done, size_t total)
{
    struct progress *p = ctx;
    if (!p->what || strcmp(p->what, what) != 0) {
        if (p->what) progress_end(p);
        progress_begin(p, what, "MiB", (double)total / 0x1p20, p->quiet);
    }
    progress_update(p, (double)done / 0x1p20);
}

enum status setup_check_finite(struct setup *s, bool quiet)
{
    struct progress reading = {.quiet = quiet};
    struct weights *w = &s->model.weights;
    w->device_options.watch = (struct reading_watch){show_reading, &reading};
    enum status st = weights_check_finite(w, s->par);
    w->device_options.watch = (struct reading_watch){0};
    if (reading.what) progress_end(&reading);
    return st;
}

static enum status open_on(struct setup *s, const struct machine_options *m,
    const struct device_place *at, int n_threads, bool place)
{
    struct progress reading = {.quiet = m->quiet};
    char *folder = cache_folder(m->cache),
         *fingerprints =
             folder && cache_make(folder) == OK ? path_join(folder, "fingerprints") : NULL;
    struct model_options options = {.fingerprints = fingerprints,
        .ignore_tensors = m->ignore_tensors,
        .device.offload = m->offload,
        .device.watch = {show_reading, &reading}};
    enum status st = m->bos && !bos_rule_parse(m->bos, &options.bos)
        ? fail(ERR_ARG, "--bos: found \"%s\", expected tokenizer, always or never", m->bos)
        : OK;
    if (st == OK && m->chat) st = chat_open(&s->chat, m->chat);
    if (st == OK) st = par_open(&s->par, n_threads);
    if (st == OK) st = model_open_with(&s->model, s->model_dir, &options, s->par);
    if (st == OK && m->chat) st = chat_check(&s->chat, s->model.tokenizer);
    free(folder);
    free(fingerprints);
    if (st == OK) s->model_dir = s->model.dir;
    if (st == OK) st = set_device_options(s, m, at->index[0]);
    if (st == OK && place) st = place_weights(s, at, m->device, m->quiet);
    s->model.weights.device_options.watch = (struct reading_watch){0};
    if (reading.what) progress_end(&reading);
    if (st != OK) setup_close(s);
    return st;
}

static enum status check_machine(
    struct setup *s, const struct machine_options *m, const char *positional)
{
    *s = (struct setup){.model_dir = positional ? positional : m->model};
    if (!s->model_dir) return fail(ERR_ARG, "which model? give its directory; -h shows an example");
    if (positional && m->model && strcmp(positional, m->model) != 0)
        return fail(ERR_ARG, "two models: %s and --model %s", positional, m->model);
    if (m->chunk % 128)
        return fail(ERR_ARG, "--chunk: found %d, expected a multiple of 128", m->chunk);
    return cpu_ops_choose(m->cpu_mask);
}

static enum status open_one(struct setup *s, const struct machine_options *m,
    const char *positional, int *index, bool place)
{
    struct device_list devices;
    TRY(check_machine(s, m, positional));
    TRY(devices_parse(m->device, &devices));
    if (devices.n != 1)
        return fail(ERR_ARG, "--device %s: this command runs on one device", m->device);
    if (!place && devices.at[0].n > 1)
        return fail(ERR_ARG, "--device %s: this command looks at one GPU", m->device);
    *index = devices.at[0].index[0];
    return open_on(s, m, &devices.at[0], m->threads, place);
}

enum status setup_open(struct setup *s, const struct machine_options *m, const char *positional)
{
    int index;
    return open_one(s, m, positional, &index, true);
}

enum status setup_open_unplaced(
    struct setup *s, const struct machine_options *m, const char *positional, int *index)
{
    return open_one(s, m, positional, index, false);
}

/* Opening one of several devices: a context and the weights take half a second each, so they come
 * up together. */
struct opening {
    struct setup *s;
    const struct machine_options *m;
    const struct device_place *at;
    int n_threads;
    pthread_t thread;
    bool started;
    enum status status;
    char message[1024];
};

static void *open_in_thread(void *opaque)
{
    struct opening *x = opaque;
    x->status = open_on(x->s, x->m, x->at, x->n_threads, true);
    if (x->status != OK) snprintf(x->message, sizeof x->message, "%s", status_message());
    return NULL;
}

static enum status open_all(struct opening *x, int n)
{
    for (int i = 1; i < n; i++)
        x[i].started = pthread_create(&x[i].thread, NULL, open_in_thread, &x[i]) == 0;
    for (int i = 0; i < n; i++)
        if (!x[i].started) open_in_thread(&x[i]);
    for (int i = 1; i < n; i++)
        if (x[i].started) pthread_join(x[i].thread, NULL);
    for (int i = 0; i < n; i++)
        if (x[i].status != OK) return fail(x[i].status, "%s", x[i].message);
    return OK;
}

enum status setup_open_fleet(
    struct setup **out, int *n, const struct machine_options *m, const char *positional)
{
    struct device_list devices;
    struct setup first;
    *out = NULL;
    *n = 0;
    TRY(check_machine(&first, m, positional));
    TRY(devices_parse(
        m->parallel && strcmp(m->device, "cuda") == 0 ? "cuda:all" : m->device, &devices));
    for (int i = 1; i < devices.n; i++)
        if ((devices.at[i].index[0] == DEVICE_CPU) != (devices.at[0].index[0] == DEVICE_CPU))
            return fail(ERR_ARG,
                "--device %s: results of CPU and GPU are kept apart, so devices of one kind are "
                "expected",
                m->device);
    int n_threads = m->threads > 0 ? m->threads : par_cpu_count() / devices.n;
    struct setup *all = calloc((size_t)devices.n, sizeof *all);
    if (!all) return fail(ERR_MEMORY, "no memory for %d devices", devices.n);
    struct opening opening[MAX_DEVICES];
    struct machine_options hushed = *m; /* what is to be said is said for the first */
    hushed.quiet = true;
    for (int i = 0; i < devices.n; i++) {
        all[i].model_dir = first.model_dir;
        opening[i] = (struct opening){.s = &all[i],
            .m = i ? &hushed : m,
            .at = &devices.at[i],
            .n_threads = devices.n == 1 ? m->threads
                : n_threads > 0         ? n_threads
                                        : 1};
    }
    enum status st = open_all(opening, devices.n);
    *out = all;
    *n = devices.n;
    if (st != OK) setup_close_fleet(out, n);
    return st;
}

enum status setup_tune(const struct setup *fleet, int n, const struct machine_options *m,
    const struct tune_args *args, struct tuned *out, struct tune_times *times)
{
    const struct weights *weights[MAX_DEVICES];
    if (n <= 1) return tune(args, out, times);
    for (int i = 0; i < n; i++) weights[i] = &fleet[i].model.weights;
    return tune_spread(args, weights, n, m->threads, out, times);
}

void setup_close_fleet(struct setup **all, int *n)
{
    for (int i = 0; i < *n && *all; i++) setup_close(&(*all)[i]);
    free(*all);
    *all = NULL;
    *n = 0;
}

char *bundled_model(void)
{
    char exe[4096];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    for (int up = 0; up < 3 && n > 0; up++) {
        exe[n] = 0;
        char *slash = strrchr(exe, '/');
        if (!slash) break;
        n = slash - exe;
        static const char *const places[] = {"share/sparsegauge/model", "suites/demo/model"};
        for (int i = 0; i < 2; i++) {
            char *dir = str_format("%.*s/%s", (int)n, exe, places[i]);
            if (file_is_dir(dir)) return dir;
            free(dir);
        }
    }
    return str_dup(SG_DEMO_DIR "/model");
}

enum status setup_note_offload(
    const struct setup *s, const struct machine_options *m, const struct sample_set *set, int runs)
{
    struct offload_plan p;
    char text[256];
    if (!m->offload || m->quiet) return OK;
    struct offload_args a = {.n_samples = set->n_samples,
        .n_tokens = sample_set_room(set),
        .n_runs = runs,
        .chunk = m->chunk,
        .impl = m->impl};
    for (int i = 0; i < set->n_samples && sample_set_writes(set); i++) {
        const struct wanted *wanted = sample_wanted(set, i);
        a.n_alone += runs * (2 + (wanted ? wanted->budget : 0)); /* prompt, answer, each token */
    }
    TRY(offload_plan(&s->model.weights, s->par, &a, &p));
    offload_plan_text(&p, text, sizeof text);
    fprintf(stderr, "sparsegauge: --offload: %s\n", text);
    return OK;
}

void setup_note_brought(const struct setup *fleet, int n, const struct machine_options *m)
{
    struct layers_brought all = {0};
    size_t bytes = n ? weights_layer_bytes(&fleet[0].model.weights, sizeof(uint16_t)) : 0;
    for (int i = 0; i < n; i++) {
        struct weights_device_info device;
        weights_device_describe(&fleet[i].model.weights, &device);
        all.n += device.brought.n;
        all.seconds += device.brought.seconds;
        all.waited_s += device.brought.waited_s;
    }
    if (!all.n || m->quiet) return;
    fprintf(stderr,
        "sparsegauge: --offload: %d layers were brought, %.1f GiB in %.2f s; work waited %.2f s "
        "for them\n",
        all.n, (double)all.n * (double)bytes / 0x1p30, all.seconds, all.waited_s);
}

void setup_close(struct setup *s)
{
    chat_clear(&s->chat);
    model_close(&s->model);
    par_close(&s->par);
}

enum status setup_check_score(const char *score)
{
    if (strcmp(score, "second-half") == 0 || strcmp(score, "all") == 0) return OK;
    return fail(ERR_ARG, "--score: found \"%s\", expected all or second-half", score);
}

enum status setup_samples(const struct setup *s, const struct sample_options *o, int i, bool tuning,
    struct sample_set *out)
{
    bool second_half = strcmp(o->score, "second-half") == 0;
    TRY(setup_check_score(o->score));
    char *spec = i < o->suites.n ? str_dup(o->suites.items[i])
        : o->dataset
        ? str_format(strcmp(o->dataset, "-") == 0 || file_exists(o->dataset) ? "text:%s" : "%s",
              o->dataset)
        : str_dup("chronicle");
    struct suite_options options = {
        .tokenizer = s->model.tokenizer,
        .bos = s->model.bos,
        .chat = s->chat.name ? &s->chat : NULL,
        .n_rows = s->model.weights.config.vocab_size,
        .max_length = o->max_length,
        .num_samples = o->num_samples,
        .seed = (uint64_t)o->seed,
        .second_half = second_half,
        .field = o->field,
        .tuning = tuning,
    };
    enum status st = suite_load(spec, &options, out);
    free(spec);
    return st;
}

static enum status fail_smooth_k(const char *text)
{
    return fail(ERR_ARG, "--smooth-k: found \"%s\", expected running, global or off", text);
}

enum status setup_precision(
    const struct weights *w, const char *option, const char *text, enum precision *out)
{
    const char *own = w->on_device ? "bf16" : "f32";
    if (strcmp(text, own) == 0) text = "full";
    if (precision_parse(text, out)) return OK;
    return fail(
        ERR_ARG, "%s: found \"%s\", expected full (%s here), int8 or fp8", option, text, own);
}

static enum status set_precision(const struct setup *s, const struct policy_options *o,
    const struct tuned *tuned, struct sparse_policy *p)
{
    enum precision qk = tuned->qk, pv = tuned->pv;
    if (o->qk) TRY(setup_precision(&s->model.weights, "--qk", o->qk, &qk));
    if (o->pv) TRY(setup_precision(&s->model.weights, "--pv", o->pv, &pv));
    return policy_set_precision(p, qk, pv);
}

static enum status set_method(
    const struct policy_options *o, const char *name, struct sparse_policy *p)
{
    const struct mask_method *m = p->method;
    bool theta = !isnan(o->theta), tau = !isnan(o->tau);
    if (tau && o->topk > 0)
        return fail(ERR_ARG, "--cdfthreshd says how much to keep, and so does --topk; drop one");
    if (m && !m->ranked && (theta || tau))
        return fail(ERR_ARG,
            "--method %s looks at no threshold; drop --simthreshd1 and --cdfthreshd", name);
    if (m && theta && !m->takes_theta)
        return fail(ERR_ARG,
            "--method %s does not look at how alike the rows of a block are; drop --simthreshd1",
            name);
    if (m && o->smooth_k && !mask_takes_means(m))
        return fail(ERR_ARG,
            "--method %s takes no mean off the keys, which --smooth-k is about; drop it", name);
    if (m && m->n_parts && !o->tuned && !o->to_tune)
        return fail(ERR_ARG,
            "--method %s is chosen head by head: `tune` does that, and --tuned FILE brings the "
            "choice",
            name);
    if (!m && (theta || tau || !isnan(o->lambda)))
        return fail(ERR_ARG, "--method dense looks at no threshold; drop them");
    if (o->topk > 0 && !m)
        return fail(
            ERR_ARG, "--topk says which tiles to keep, and --method dense keeps all; drop one");
    if (o->topk > 0 && m && !m->ranked)
        return fail(ERR_ARG, "--topk goes with a method that ranks tiles, not %s", name);
    if (strcmp(name, "topk") == 0 && o->topk <= 0)
        return fail(ERR_ARG, "--method topk needs --topk FRACTION, e.g. .5");
    if (m == &mask_window && o->window <= 0)
        return fail(ERR_ARG, "--method window needs --window TOKENS, e.g. 1024");
    if (m != &mask_window && o->window > 0)
        return fail(ERR_ARG, "--window goes with --method window, not %s", name);
    p->topk = (float)o->topk;
    p->window = o->window;
    return OK;
}

/* Every part of the method with +correct=mean. */
static enum status correct_parts(const struct mask_method **method)
{
    struct str name = {0};
    const struct mask_method *m = *method;
    for (int i = 0; i < (m->n_parts ? m->n_parts : 1); i++)
        str_addf(&name, "%s%s+correct=mean", i ? "/" : "", mask_part(m, i)->name);
    enum status st = mask_method_parse(str_get(&name), method);
    str_clear(&name);
    return st;
}

static enum status set_correct(const struct policy_options *o, const struct mask_method **method)
{
    bool mean = strcmp(o->correct, "mean") == 0, is = *method && (*method)->correct_mean;
    if (!mean && strcmp(o->correct, "none") != 0)
        return fail(ERR_ARG, "--correct: found \"%s\", expected mean or none", o->correct);
    if (mean && !*method)
        return fail(ERR_ARG, "--correct mean goes with a method that leaves tiles out, not dense");
    if (o->tuned && mean != is)
        return fail(ERR_ARG,
            "%s: tuned with --correct %s, which goes with no other; tune again with --correct %s",
            o->tuned, is ? "mean" : "none", o->correct);
    if (is && !mean)
        return fail(ERR_ARG, "--correct none goes with no method of +correct=mean; drop one");
    return mean && !is ? correct_parts(method) : OK;
}

static enum status oracle_over(const char *over, const struct mask_method **method)
{
    char name[64];
    if (!*method || mask_base(*method) != &mask_oracle)
        return fail(ERR_ARG, "--oracle-over goes with --method oracle, not %s",
            *method ? (*method)->name : "dense");
    snprintf(name, sizeof name, "%s+over=%s", (*method)->name, over);
    return mask_method_parse(name, method);
}

/* Files that carry no model: then the present one is meant. */
static enum status read_foreign(
    const struct setup *s, const struct policy_options *o, bool pattern, struct tuned *out)
{
    const char *path = o->tuned;
    const struct llama_config *c = &s->model.weights.config;
    TRY(pattern ? minference_read(out, path, c->n_layers, c->n_heads)
                : sparge_pt_read(out, path, c->n_layers, c->n_heads, o->pt_module));
    enum status st = o->block ? block_shape_parse(o->block, &out->block) : OK;
    if (st == OK && o->smooth_k && !smooth_k_parse(o->smooth_k, &out->smooth_k))
        st = fail_smooth_k(o->smooth_k);
    if (st != OK) {
        tuned_clear(out);
        return st;
    }
    snprintf(out->model_fingerprint, sizeof out->model_fingerprint, "%s", s->model.fingerprint);
    snprintf(out->model_name, sizeof out->model_name, "%s", s->model.name);
    return OK;
}

/* A tuned.json; SpargeAttn's own .pt, of which --block and --smooth-k say how it was tuned, where
 * it was not in SpargeAttn's way; or a pattern file of MInference. */
static enum status read_tuned(
    const struct setup *s, const struct policy_options *o, struct tuned *out)
{
    const char *path = o->tuned;
    if (str_ends_with(path, ".pt")) {
        TRY(read_foreign(s, o, false, out));
        fprintf(stderr,
            "sparsegauge: %s names no model, block shape or centring of keys: taken for this "
            "model, %dx%d%s, smooth_k %s%s\n",
            path, out->block.q, out->block.k,
            o->block ? " as asked for" : " (--block says otherwise)", smooth_k_name(out->smooth_k),
            o->smooth_k ? " as asked for" : " as SpargeAttn has it (--smooth-k says otherwise)");
        return OK;
    }
    if (o->pt_module)
        return fail(ERR_ARG, "--pt-module %s: %s is no .pt; drop it", o->pt_module, path);
    if (!minference_is_pattern(path)) return tuned_read(out, path);
    TRY(read_foreign(s, o, true, out));
    fprintf(stderr,
        "sparsegauge: %s is a pattern file of MInference and names no model: taken for this one, "
        "whose layers and heads it "
        "has the number of, %dx%d%s\n",
        path, out->block.q, out->block.k, o->block ? " as asked for" : " (--block says otherwise)");
    return OK;
}

enum status setup_policy(const struct setup *s, const struct policy_options *o,
    struct sparse_policy *p, struct tuned *tuned)
{
    const struct llama_config *c = &s->model.weights.config;
    *tuned = (struct tuned){0};
    *p = (struct sparse_policy){0};
    if (o->pt_module && !o->tuned) return fail(ERR_ARG, "--pt-module goes with --tuned FILE.pt");
    if (o->tuned) TRY(read_tuned(s, o, tuned));
    const char *name = o->method ? o->method
        : o->tuned               ? tuned->method
        : o->topk > 0            ? "topk"
        : o->window > 0          ? "window"
                                 : "sparge";
    const struct mask_method *method = NULL;
    enum status st = OK;
    if (strcmp(name, "dense") != 0) TRY_GOTO(st, bad, mask_method_parse(name, &method));
    if (o->oracle_over) TRY_GOTO(st, bad, oracle_over(o->oracle_over, &method));
    if (o->correct) TRY_GOTO(st, bad, set_correct(o, &method));
    TRY_GOTO(st, bad, policy_init(p, method, c->n_layers, c->n_heads));
    if (o->block) TRY_GOTO(st, bad, block_shape_parse(o->block, &p->block));
    if (o->smooth_k && !smooth_k_parse(o->smooth_k, &p->smooth_k))
        TRY_GOTO(st, bad, fail_smooth_k(o->smooth_k));
    TRY_GOTO(st, bad, set_method(o, name, p));
    TRY_GOTO(st, bad, set_precision(s, o, tuned, p));
    p->min_sparse_tokens = o->min_sparse_tokens;
    bool thresholds = !isnan(o->theta) || !isnan(o->tau) || !isnan(o->lambda);
    if (o->tuned &&
        ((o->method && strcmp(o->method, tuned->method) != 0) || o->topk > 0 || o->window > 0))
        TRY_GOTO(st, bad,
            fail(ERR_ARG,
                "%s: method: found %s, which goes with no other --method, --topk or --window",
                o->tuned, tuned->method));
    if (o->tuned && o->smooth_k && strcmp(o->smooth_k, smooth_k_name(tuned->smooth_k)) != 0)
        TRY_GOTO(st, bad,
            fail(ERR_ARG, "%s: smooth_k: found %s, expected %s as asked for; tune again with it",
                o->tuned, smooth_k_name(tuned->smooth_k), o->smooth_k));
    if (o->tuned && thresholds)
        TRY_GOTO(st, bad,
            fail(ERR_ARG,
                "--tuned brings its own thresholds; drop --simthreshd1, --cdfthreshd and "
                "--pvthreshd"));
    policy_choose_thresholds(p, o->theta, o->tau, o->lambda);
    TRY_GOTO(st, bad, policy_set_layers(p, o->layers));
    if (o->tuned) {
        if (o->block && (p->block.q != tuned->block.q || p->block.k != tuned->block.k))
            TRY_GOTO(st, bad,
                fail(ERR_ARG,
                    "%s: block: found %dx%d, expected %s as asked for; tune again for that shape",
                    o->tuned, tuned->block.q, tuned->block.k, o->block));
        TRY_GOTO(st, bad, tuned_apply(tuned, o->tuned, &s->model.weights, s->model.fingerprint, p));
    }
    for (int i = 0; o->heads && strcmp(o->heads, "all") != 0 && i < p->n_layers * p->n_heads; i++)
        if (i % p->n_heads != atoi(o->heads)) p->heads[i].is_sparse = false;
    return OK;
bad:
    policy_clear(p);
    tuned_clear(tuned);
    return st;
}

/* The same suite and, where it reads one, a file of the same name. */
static bool same_source(const char *a, const char *b)
{
    size_t n = strcspn(a, ":");
    return n == strcspn(b, ":") && strncmp(a, b, n) == 0 &&
        strcmp(path_base(a + n), path_base(b + n)) == 0;
}

/* Does an option mean this? What is neither int8 nor fp8 is full by one of its names. */
static bool says(const char *text, enum precision p)
{
    enum precision asked;
    return (precision_parse(text, &asked) ? asked : PRECISION_FULL) == p;
}

void setup_note_tuned(const struct policy_options *o, const struct tuned *tuned,
    const struct sample_set *set, int n_tokens)
{
    if (!o->tuned) return;
    if (tuned->edited)
        fprintf(stderr,
            "sparsegauge: %s: was changed since it was written (field checksum): the errors in it "
            "were not measured "
            "with these thresholds; tune again\n",
            o->tuned);
    else if (!tuned->verified &&
        strcmp(tuned->method, mask_minference.name) != 0) /* a pattern has no thresholds */
        fprintf(stderr,
            "sparsegauge: %s: nothing in it was verified: its thresholds were never run by the "
            "inference kernel; "
            "`tune` without --from-curves does that\n",
            o->tuned);
    else if (!tuned->num_held_out)
        fprintf(stderr,
            "sparsegauge: %s: tuned with no held-out samples: how often its heads are over their "
            "bounds on new text "
            "is not known\n",
            o->tuned);
    if ((o->qk && !says(o->qk, tuned->qk)) || (o->pv && !says(o->pv, tuned->pv)))
        fprintf(stderr,
            "sparsegauge: %s: tuned with Q·K %s and P·V %s, run with others: its bounds were not "
            "held with these; tune "
            "with the same --qk and --pv\n",
            o->tuned, precision_name(tuned->qk), precision_name(tuned->pv));
    /* by more than texts of one --max-length differ in */
    if (tuned->max_length && abs(n_tokens - tuned->max_length) > tuned->max_length / 4)
        fprintf(stderr,
            "sparsegauge: %s: tuned on samples of up to %d tokens, run on %d: its bounds say "
            "nothing about texts of "
            "another length; tune at that --max-length\n",
            o->tuned, tuned->max_length, n_tokens);
    if (!set || !*tuned->data_name) return;
    if (!same_source(tuned->data_name, set->name))
        fprintf(stderr,
            "sparsegauge: %s: tuned on %s, run on %s: its bounds were not held on text of that "
            "kind, and may cost "
            "more there; tune with --dataset %s\n",
            o->tuned, tuned->data_name, set->name, set->name);
    else if (set->shared)
        fprintf(stderr,
            "sparsegauge: %s: tuned on %s too, and these windows are drawn from all of it: some "
            "may be those that it "
            "was tuned on; take fewer (--num-samples) or other text\n",
            o->tuned, set->name);
}

static enum status check_tunable(const char *method)
{
    const struct mask_method *m = NULL;
    if (!method) return OK;
    if (strcmp(method, "dense") != 0) TRY(mask_method_parse(method, &m));
    if (m && m->ranked && strcmp(method, "topk") != 0) return OK;
    return fail(ERR_ARG,
        "--method %s has no thresholds to tune, expected one that ranks tiles, see `list methods`",
        method);
}

enum status setup_policy_to_tune(
    const struct setup *s, const struct policy_options *o, struct sparse_policy *p)
{
    struct policy_options own = *o;
    struct tuned none;
    own.to_tune = true;
    TRY(check_tunable(o->method));
    return setup_policy(s, &own, p, &none);
}
