#include "reports/tables.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct verdict verdict_of(double cosine, double token_accuracy, double sparsity)
{
    /* METHOD 7, the tuning guide's bands */
    const char *band = isnan(cosine) || isnan(token_accuracy) ? "unknown"
                       : cosine > .98 && token_accuracy > .95 ? "excellent"
                       : cosine > .95 && token_accuracy > .90 ? "good"
                       : cosine > .90 && token_accuracy > .85 ? "acceptable"
                                                              : "poor";
    return (struct verdict){band, sparsity > .30 && cosine > .95};
}

enum { MAX_WARNINGS = 16 };

struct warnings {
    char **texts;
    size_t n;
};

static void warn(struct warnings *w, char *text)
{
    if (w->n < MAX_WARNINGS) w->texts[w->n++] = text;
    else free(text);
}

static void warn_status(struct warnings *w, const struct run_record *r)
{
    if (r->status == RUN_DONE) return;
    warn(w, str_format("The run %s: %s. `sweep --retry-failed` or the same eval runs it again.",
                       r->status == RUN_FAILED ? "failed" : "was skipped",
                       r->reason ? r->reason : "no reason stored"));
}

static void warn_fallback(struct warnings *w, const struct run_view *v)
{
    const struct run_record *r = v->run;
    if (r->dense_fallback_calls > 0)
        warn(w, str_format(
                    "%lld of %lld attention calls ran dense because the sequence was under %d tokens: use "
                    "longer texts, or lower --min-sparse-tokens.",
                    (long long)r->dense_fallback_calls, (long long)r->attention_calls, r->min_sparse_tokens));
    double sparsity = run_view_metric(v, "sparsity");
    if (strcmp(r->method, "dense") && sparsity < .01)
        warn(w, str_format("Only %.2f %% of the work was left out, so this compares dense with dense: loosen "
                           "the "
                           "bounds, widen --layers, or use longer texts.",
                           100 * sparsity));
}

static void warn_samples(struct warnings *w, const struct run_view *v)
{
    if (v->samples.n == 1)
        warn(w, str_dup("One sample gives no interval: nothing can be said about other texts. Use "
                        "--num-samples 5 or "
                        "more."));
    else if (v->samples.n > 1 && v->samples.n < 5)
        warn(w, str_format("%zu samples give rough intervals: use --num-samples 5 or more.", v->samples.n));
}

bool metric_disagreement(const struct run_view *v, struct str *out)
{
    return metrics_disagree(run_view_metric(v, "cosine"), run_view_metric(v, "kl"), run_view_metric(v, "token_accuracy"),
                            out);
}

bool metrics_disagree(double cosine, double kl, double agreement, struct str *out)
{
    /* In the probe of METHOD 5 a KL of .077 beside a cosine of .991 cost 17 % of the answers, one of .022
     * cost 2 %; the band for agreement is the guide's "good". */
    if (cosine > .98 && (kl > .05 || agreement < .90)) {
        str_addf(out,
                 "The metrics disagree: cosine %.4f looks excellent, KL %.4f nats and token agreement %.1f %% "
                 "do not. Believe the latter two; look at the worst tokens and gate on --max-kl.",
                 cosine, kl, 100 * agreement);
        return true;
    }
    /* below "acceptable by cosine" and yet above "excellent by agreement" */
    if (cosine < .95 && kl < .01 && agreement > .95) {
        str_addf(out,
                 "The metrics disagree: cosine %.4f looks bad, KL %.4f nats and token agreement %.1f %% do "
                 "not. A shift common to all logits does that; look at the centred cosine.",
                 cosine, kl, 100 * agreement);
        return true;
    }
    return false;
}

static void warn_disagreement(struct warnings *w, const struct run_view *v)
{
    struct str text = {0};
    if (metric_disagreement(v, &text)) warn(w, str_dup(str_get(&text)));
    str_clear(&text);
}

static void warn_model(struct warnings *w, const struct run_view *v)
{
    double ppl = run_view_metric(v, "ppl_dense");
    int vocab = v->run->model.vocab;
    /* guessing evenly among a quarter of all tokens: not a text this model was made for */
    if (vocab > 0 && ppl > .25 * vocab)
        warn(w, str_format("The dense model's perplexity is %.0f of %d tokens: it hardly knows this text, so "
                           "accuracy on "
                           "it says little. Evaluate on text like what the model was trained on.",
                           ppl, vocab));
}

static void warn_tuning(struct warnings *w, const struct run_view *v)
{
    if (v->tuned.n == 0) return;
    const struct tuned_record *t = &v->tuned.rows[0];
    size_t over = 0, n_sparse = 0;
    double worst = 0;
    bool tail = t->rule && !strcmp(t->rule, "tail");
    double bound = fmax(t->l1, isnan(t->pv_l1) ? t->l1 : t->pv_l1);
    for (size_t i = 0; i < t->n_heads; i++) {
        const struct tuned_head_record *h = &t->heads[i];
        if (!h->is_sparse) continue;
        n_sparse++;
        double value = tail ? h->tail_held_out : h->l1_held_out;
        if (!(value > bound)) continue;
        over++;
        worst = fmax(worst, value);
    }
    if (over && (!t->rule || tail || !strcmp(t->rule, "l1")))
        warn(w, str_format("%zu of %zu sparse heads exceed their bound %.3g on held-out text (worst %.3g): "
                           "tune on more "
                           "samples, or with a lower bound.",
                           over, n_sparse, bound, worst));
}

static void warn_times(struct warnings *w, const struct run_view *v)
{
    for (size_t i = 0; i < v->latencies.n; i++) {
        const struct latency_record *r = &v->latencies.rows[i];
        if (r->valid) continue;
        warn(w, str_format("The time of %s at %lld tokens is not valid: %s. Stop other programs and measure "
                           "again.",
                           r->part, (long long)r->n_tokens, r->note ? r->note : "no reason stored"));
        return; /* one is enough to be told */
    }
}

char **run_warnings(const struct run_view *v)
{
    struct warnings w = {calloc(MAX_WARNINGS + 1, sizeof *w.texts), 0};
    if (!w.texts) abort();
    warn_status(&w, v->run);
    if (v->run->status == RUN_DONE) {
        warn_fallback(&w, v);
        warn_samples(&w, v);
        warn_disagreement(&w, v);
        warn_model(&w, v);
        warn_tuning(&w, v);
        warn_times(&w, v);
    }
    if (v->run->software.dirty)
        warn(&w, str_dup("The program was built from uncommitted changes, so its commit does not tell what "
                         "ran: commit, "
                         "build and run again before publishing."));
    return w.texts;
}

void warnings_free(char **w)
{
    for (size_t i = 0; w && w[i]; i++) free(w[i]);
    free(w);
}

static void add_row(struct table *t, const char *name, const char *value)
{
    if (!value) return;
    table_text(t, name);
    table_text(t, value);
}

static void add_format(struct table *t, const char *name, char *value)
{
    add_row(t, name, value);
    free(value);
}

static void add_size(struct table *t, const char *name, int64_t bytes)
{
    if (bytes <= 0) return;
    struct str text = {0};
    number_format(NUMBER_BYTES, 2, (double)bytes, &text);
    add_row(t, name, str_get(&text));
    str_clear(&text);
}

static void add_real(struct table *t, const char *name, double value)
{
    if (!isnan(value)) add_format(t, name, str_format("%g", value));
}

struct table *provenance_table(const struct run_view *v)
{
    const struct run_record *r = v->run;
    struct table *t = table_new("Provenance");
    table_add_column(t, (struct table_column){.name = "what"});
    table_add_column(t, (struct table_column){.name = "value"});
    add_row(t, "model", r->model.name);
    add_row(t, "model fingerprint", r->model.fingerprint);
    add_format(t, "model shape",
               str_format("%d layers, %d query heads, %d key/value heads, head size %d, %d tokens, "
                          "%lld parameters",
                          r->model.n_layers, r->model.n_heads, r->model.n_kv_heads, r->model.head_dim,
                          r->model.vocab, (long long)r->model.n_params));
    add_row(t, "data", r->dataset.name);
    add_row(t, "data fingerprint", r->dataset.fingerprint);
    add_format(t, "data size",
               str_format("%d samples, %lld tokens, at most %d each", r->dataset.n_samples,
                          (long long)r->dataset.n_tokens, r->dataset.max_length));
    add_row(t, "method", r->method);
    add_format(t, "tiles", str_format("%d queries x %d keys", r->block_q, r->block_k));
    add_row(t, "smooth_k", r->smooth_k);
    add_row(t, "rule", r->rule);
    add_real(t, "l1", r->l1);
    add_real(t, "pv_l1", r->pv_l1);
    add_real(t, "simthreshd1", r->simthreshd1);
    add_real(t, "cdfthreshd", r->cdfthreshd);
    add_real(t, "pvthreshd", r->pvthreshd);
    add_real(t, "topk", r->topk);
    if (r->window >= 0) add_format(t, "window", str_format("%lld tokens", (long long)r->window));
    add_row(t, "sparse layers", r->layers);
    add_row(t, "sparse heads", r->heads);
    add_row(t, "tuned thresholds", r->tuned_hash);
    add_row(t, "scored positions", r->score);
    add_format(t, "seed", str_format("%llu", (unsigned long long)r->seed));
    add_format(t, "device", str_format("%s, %d threads", r->device ? r->device : "unknown", r->threads));
    add_row(t, "kernels", r->impls);
    add_format(t, "attention calls",
               str_format("%lld, of these dense because too short %lld", (long long)r->attention_calls,
                          (long long)r->dense_fallback_calls));
    add_row(t, "started", r->started);
    add_row(t, "ended", r->ended);
    if (!isnan(r->wall_s)) {
        struct str text = {0};
        number_format(NUMBER_SECONDS, 1, r->wall_s, &text);
        add_row(t, "took", str_get(&text));
        str_clear(&text);
    }
    add_size(t, "peak memory", r->peak_bytes);
    add_size(t, "peak device memory", r->peak_device_bytes);
    add_row(t, "processor", r->machine.cpu);
    add_format(t, "cores", str_format("%d", r->machine.n_cores));
    add_size(t, "memory", r->machine.ram_bytes);
    add_row(t, "GPUs", r->machine.gpus);
    add_row(t, "driver", r->machine.driver);
    add_row(t, "system", r->machine.os);
    add_row(t, "program version", r->software.version);
    add_row(t, "engine version", r->software.engine);
    add_row(t, "compiler", r->software.compiler);
    if (r->software.commit)
        add_format(
            t, "commit",
            str_format("%s%s", r->software.commit, r->software.dirty ? " with uncommitted changes" : ""));
    add_row(t, "command", r->argv_json);
    add_row(t, "cell key", r->key);
    return t;
}
