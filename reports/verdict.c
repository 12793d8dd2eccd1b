#include "reports/tables.h"

#include "base/xmalloc.h"
#include "results/columns.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct verdict verdict_of(double cosine, double token_accuracy, double sparsity)
{
    /* METHOD 7, the tuning guide's bands */
    const char *band = isnan(cosine) || isnan(token_accuracy) ? "unknown"
        : cosine > .98 && token_accuracy > .95                ? "excellent"
        : cosine > .95 && token_accuracy > .90                ? "good"
        : cosine > .90 && token_accuracy > .85                ? "acceptable"
                                                              : "poor";
    return (struct verdict){band, sparsity > .30 && cosine > .95};
}

/* "10.7 % of the answers [7.9, 13.6]": scale and shift take a metric to what was lost of it. */
static void add_loss(const struct run_view *v, const char *metric, double scale, double shift,
    const char *format, const char *unit, bool *any, struct str *out)
{
    const struct metric_record *m = metric_list_find(&v->metrics, "overall", metric);
    if (!m || isnan(m->mean)) return;
    double a = scale * (m->lo - shift), b = scale * (m->hi - shift);
    str_add(out, *any ? ", " : "Lost: ");
    *any = true;
    str_addf(out, format, scale * (m->mean - shift));
    str_add(out, unit);
    if (isnan(a) || isnan(b)) return;
    str_add(out, " [");
    str_addf(out, format, fmin(a, b));
    str_add(out, ", ");
    str_addf(out, format, fmax(a, b));
    str_add(out, "]");
}

void run_headline(const struct run_view *v, struct str *out)
{
    double cosine = run_view_metric(v, "logits_cosine"), sparsity = run_view_metric(v, "sparsity");
    if (isnan(cosine)) cosine = run_view_metric(v, "cosine");
    if (isnan(cosine)) return;
    if (sparsity == 0 && !run_is_eight(v->run)) {
        str_add(out, "Nothing was left out: this compares dense with dense.");
        return;
    }
    bool any = false;
    add_loss(v, "score_drop", 100, 0, "%.1f", " % of the answers", &any, out);
    add_loss(v, "ppl_ratio", 100, 1, "%.1f", " % in perplexity", &any, out);
    add_loss(v, "token_accuracy", -100, 1, "%.1f", " % of the next tokens", &any, out);
    add_loss(v, "kl", 1, 0, "%.4f", " nats of KL", &any, out);
    if (any && !isnan(sparsity)) str_addf(out, ", at %.1f %% sparsity", 100 * sparsity);
    if (any && run_is_eight(v->run))
        str_addf(out, " with Q·K in %s and P·V in %s", v->run->qk ? v->run->qk : "full",
            v->run->pv ? v->run->pv : "full");
    if (any && (!isnan(sparsity) || run_is_eight(v->run))) str_add(out, ".");
    if (v->samples.n == 1) str_add(out, " One sample: no interval.");
    if (sparsity == 0) return; /* the bands speak of sparse attention */
    struct verdict verdict = verdict_of(cosine, run_view_metric(v, "token_accuracy"), sparsity);
    str_addf(out,
        "%sBy the tuning guide's bands (cosine of all logits as one vector, %.4f, and token "
        "agreement): %s; its goal for tuning, "
        "sparsity > 30 %% and "
        "cosine > .95 alone, is %s%s.",
        out->len ? " " : "", cosine, verdict.band,
        verdict.success && run_lost(v) ? "nevertheless " : "", verdict.success ? "met" : "not met");
}

bool run_lost(const struct run_view *v)
{
    const struct metric_record *drop = metric_list_find(&v->metrics, "overall", "score_drop"),
                               *kl = metric_list_find(&v->metrics, "overall", "kl");
    return (drop && (isnan(drop->lo) ? drop->mean : drop->lo) > .01) ||
        (kl && (isnan(kl->lo) ? kl->mean : kl->lo) > .05);
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
    warn(w,
        str_format("The run %s: %s. `sweep --retry-failed` or the same eval runs it again.",
            r->status == RUN_FAILED ? "failed" : "was skipped",
            r->reason ? r->reason : "no reason stored"));
}

static void warn_fallback(struct warnings *w, const struct run_view *v)
{
    const struct run_record *r = v->run;
    if (r->dense_fallback_calls > 0)
        warn(w,
            str_format("%lld of %lld attention calls ran dense because the sequence was under %d "
                       "tokens: use "
                       "longer texts, or lower --min-sparse-tokens.",
                (long long)r->dense_fallback_calls, (long long)r->attention_calls,
                r->min_sparse_tokens));
    double sparsity = run_view_metric(v, "sparsity");
    if (strcmp(r->method, "dense") && !run_is_eight(r) && sparsity < .01)
        warn(w,
            str_format(
                "Only %.2f %% of the work was left out, so this compares dense with dense: loosen "
                "the "
                "bounds, widen --layers, or use longer texts.",
                100 * sparsity));
}

static void warn_samples(struct warnings *w, const struct run_view *v)
{
    if (v->samples.n == 1)
        warn(w,
            str_dup("One sample gives no interval: nothing can be said about other texts. Use "
                    "--num-samples 5 or "
                    "more."));
    else if (v->samples.n > 1 && v->samples.n < 5)
        warn(w,
            str_format(
                "%zu samples give wide intervals: use --num-samples 5 or more.", v->samples.n));
}

bool metric_disagreement(const struct run_view *v, struct str *out)
{
    return metrics_disagree(run_view_metric(v, "cosine"), run_view_metric(v, "kl"),
        run_view_metric(v, "token_accuracy"), out);
}

bool metrics_disagree(double cosine, double kl, double agreement, struct str *out)
{
    /* In the probe of METHOD 5 a KL of .077 beside a cosine of .991 cost 17 % of the answers, one
     * of .022 cost 2 %; the band for agreement is the guide's "good". */
    if (cosine > .98 && (kl > .05 || agreement < .90)) {
        str_addf(out,
            "The metrics disagree: cosine %.4f looks excellent, KL %.4f nats and token agreement "
            "%.1f %% "
            "do not. Believe the latter two; look at the worst tokens and gate on --max-kl.",
            cosine, kl, 100 * agreement);
        return true;
    }
    /* below "acceptable by cosine" and yet above "excellent by agreement" */
    if (cosine < .95 && kl < .01 && agreement > .95) {
        str_addf(out,
            "The metrics disagree: cosine %.4f looks bad, KL %.4f nats and token agreement %.1f %% "
            "do "
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
        warn(w,
            str_format(
                "The dense model's perplexity is %.0f of %d tokens: it hardly knows this text, so "
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
        warn(w,
            str_format(
                "%zu of %zu sparse heads exceed their bound %.3g on held-out text (worst %.3g): "
                "tune on more "
                "samples, or with a lower bound.",
                over, n_sparse, bound, worst));
}

static void warn_times(struct warnings *w, const struct run_view *v)
{
    for (size_t i = 0; i < v->latencies.n; i++) {
        const struct latency_record *r = &v->latencies.rows[i];
        if (r->valid) continue;
        warn(w,
            str_format(
                "The time of %s at %lld tokens is not valid: %s. Stop other programs and measure "
                "again.",
                r->part, (long long)r->n_tokens, r->note ? r->note : "no reason stored"));
        return; /* one is enough to be told */
    }
}

char **run_warnings(const struct run_view *v)
{
    struct warnings w = {xcalloc(MAX_WARNINGS + 1, sizeof *w.texts), 0};
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
        warn(&w,
            str_dup(
                "The program was built from uncommitted changes, so its commit does not tell what "
                "ran: commit, "
                "build and run again before publishing."));
    return w.texts;
}

void warnings_free(char **w)
{
    for (size_t i = 0; w && w[i]; i++) free(w[i]);
    free(w);
}

/* Sizes and times with their units. */
static void describe(const struct column *c, const void *record, struct str *out)
{
    bool size = str_ends_with(c->name, "_bytes"), seconds = str_ends_with(c->name, "_s");
    if (size || seconds)
        number_format(
            size ? NUMBER_BYTES : NUMBER_SECONDS, size ? 2 : 1, column_real(c, record), out);
    else column_describe(c, record, out);
}

/* What a file of the run says of it. */
struct table *provenance_table(const struct run_view *v)
{
    struct table *t = table_new("Provenance");
    table_add_column(t, (struct table_column){.name = "what"});
    table_add_column(t, (struct table_column){.name = "value"});
    for (int i = 0; i < RUN_PARTS; i++) {
        const struct columns *part = run_parts[i].columns;
        const void *record = (const char *)v->run + run_parts[i].offset;
        for (size_t k = 0; k < part->n; k++) {
            const struct column *c = &part->at[k];
            if (!c->json || column_missing(c, record)) continue;
            char *name = str_format(
                "%s%s%s", i ? part->table : "", i ? " " : "", i ? c->name : column_label(c));
            struct str value = {0};
            describe(c, record, &value);
            table_text(t, name);
            table_text(t, str_get(&value));
            str_clear(&value);
            free(name);
        }
    }
    return t;
}
