#include "harness/cli/summary.h"

#include "base/text.h"
#include "base/utf8.h"
#include "harness/cli/output.h"
#include "reports/tables.h"
#include "reports/tasks.h"
#include "suites/suite.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void option_add(const char *option, const char *value, struct str *out)
{
    str_addf(out, " --%s", option);
    text_shell_word(value, out);
}

/* In the fewest digits that read back as the same float, which is what thresholds are. */
static void real_option_add(const char *option, double value, struct str *out)
{
    char text[32];
    if (isnan(value)) return;
    for (int digits = 3; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, value);
        if (strtof(text, NULL) == (float)value) break;
    }
    option_add(option, text, out);
}

static void count_option_add(const char *option, int64_t value, int64_t usual, struct str *out)
{
    if (value != usual) str_addf(out, " --%s %lld", option, (long long)value);
}

static void text_option_add(
    const char *option, const char *value, const char *usual, struct str *out)
{
    if (value && strcmp(value, usual) != 0) option_add(option, value, out);
}

bool run_command(const struct run_record *r, const char *tuned_path, struct str *out)
{
    char block[32];
    struct suite_said said;
    if (r->heads && strcmp(r->heads, "all") != 0) {
        str_addf(out,
            "only a sweep makes single heads sparse: sparsegauge sweep MODEL --heads %s --layers "
            "%s",
            r->heads, r->layers);
        return false;
    }
    if (!r->model.path) {
        str_add(out,
            "where its model lay is not stored; eval MODEL with the settings above makes it again");
        return false;
    }
    str_add(out, "sparsegauge eval");
    text_shell_word(r->model.path, out);
    option_add("suite", suite_name_parse(r->dataset.name, &said), out);
    text_option_add("chat", said.chat, "", out);
    text_option_add("bos", bos_rule_name(said.bos), "tokenizer", out);
    text_option_add("field", said.field, "", out);
    suite_said_clear(&said);
    str_addf(out, " --max-length %d", r->max_length);
    count_option_add("num-samples", r->num_samples, 0, out);
    count_option_add("seed", (int64_t)r->seed, 0, out);
    text_option_add("score", r->score, "all", out);
    if (tuned_path) option_add("tuned", tuned_path, out);
    else text_option_add("method", r->method, "sparge", out);
    if (strcmp(r->method, "dense") != 0) {
        snprintf(block, sizeof block, "%dx%d", r->block_q, r->block_k);
        if (!tuned_path) text_option_add("block", block, "128x64", out);
        if (!tuned_path) text_option_add("smooth-k", r->smooth_k, "running", out);
        text_option_add("layers", r->layers, "all", out);
        count_option_add("min-sparse-tokens", r->min_sparse_tokens, 256, out);
        real_option_add("topk", r->topk > 0 ? r->topk : NAN, out);
        if (r->window > 0) count_option_add("window", r->window, 0, out);
        if (!tuned_path) {
            real_option_add("simthreshd1", r->simthreshd1, out);
            real_option_add("cdfthreshd", r->cdfthreshd, out);
            if (r->pvthreshd < 50) real_option_add("pvthreshd", r->pvthreshd, out);
        }
    }
    text_option_add("qk", r->qk, "full", out);
    text_option_add("pv", r->pv, "full", out);
    text_option_add("device", r->device, "cpu", out);
    text_option_add("residual", r->residual, "f32", out);
    if (r->graph) str_add(out, " --graph");
    return true;
}

static const struct metric_record *overall(const struct run_view *v, const char *name)
{
    const struct metric_record *m = metric_list_find(&v->metrics, "overall", name);
    return m && !isnan(m->mean) ? m : NULL;
}

/* "sparsity     33.9 %  [22.4, 45.4]": the value and its interval, times `scale`; `more` behind
 * them. */
static void say_metric(const char *label, const struct metric_record *m, double scale,
    const char *format, const char *unit, const char *more)
{
    struct str line = {0};
    str_addf(&line, "%-11s ", label);
    str_addf(&line, format, scale * m->mean);
    str_add(&line, unit);
    if (!isnan(m->lo) && !isnan(m->hi)) {
        str_add(&line, " [");
        str_addf(&line, format, scale * m->lo);
        str_add(&line, ", ");
        str_addf(&line, format, scale * m->hi);
        str_add(&line, "]");
    }
    say("%s%s\n", str_get(&line), more);
    str_clear(&line);
}

static void say_answers(const struct run_view *v)
{
    const struct metric_record *lost = overall(v, "score_drop"), *dense = overall(v, "score_dense"),
                               *sparse = overall(v, "score_sparse");
    if (!lost || !dense || !sparse) return;
    char *more = str_format(" lost: %.1f %% of %lld right, dense %.1f %%", 100 * sparse->mean,
        (long long)sparse->n, 100 * dense->mean);
    say_metric("answers", lost, 100, "%.1f", " %", more);
    free(more);
}

static void say_perplexity(const struct run_view *v)
{
    const struct metric_record *ratio = overall(v, "ppl_ratio"), *dense = overall(v, "ppl_dense"),
                               *sparse = overall(v, "ppl_sparse");
    if (!ratio || !dense || !sparse) return;
    char *more = str_format(" x dense: %.4g, dense %.4g", sparse->mean, dense->mean);
    say_metric("perplexity", ratio, 1, "%.3f", "", more);
    free(more);
}

static void say_times(const struct run_view *v)
{
    const struct metric_record *ratio = overall(v, "latency_ratio"),
                               *at = overall(v, "break_even_length");
    if (ratio) say_metric("time", ratio, 1, "%.3f", "", " of dense prefill");
    if (at) say("%-11s %.0f tokens [%.0f, %.0f]\n", "break-even", at->mean, at->lo, at->hi);
}

static void say_verdict(const struct run_view *v)
{
    double sparsity = run_view_metric(v, "sparsity"), cosine = run_view_metric(v, "logits_cosine");
    const struct metric_record *kl = overall(v, "kl");
    if (isnan(cosine)) cosine = run_view_metric(v, "cosine");
    if (isnan(cosine) || !kl) return;
    if (sparsity == 0 && !run_is_eight(v->run)) {
        say("%-11s nothing was left out: this compares dense with dense\n", "verdict");
        return;
    }
    struct verdict bands = verdict_of(cosine, run_view_metric(v, "token_accuracy"), sparsity);
    const char *words = isnan(kl->lo)
        ? "one text gives no interval: nothing is known of other texts"
        : run_lost(v) ? "too much is lost, beyond chance (1 answer in 100, or .05 nats)"
                      : "no loss beyond 1 answer in 100 or .05 nats is shown";
    say("%-11s %s\n", "verdict", words);
    if (sparsity > 0) /* the bands speak of sparse attention */
        say("%-11s by the tuning guide's bands %s (cosine %.4f), its goal %s\n", "", bands.band,
            cosine, bands.success ? "met" : "not met");
}

/* The largest number of one significant digit that is not above x, or the smallest that is not
 * below. */
static double round_down(double x)
{
    double p = pow(10, floor(log10(x)));
    return floor(x / p) * p;
}
static double round_up(double x)
{
    double p = pow(10, floor(log10(x)));
    return ceil(x / p) * p;
}

static void more_texts(const struct run_view *v, size_t n, struct str *command)
{
    struct suite_said said;
    if (suite_is_grid(suite_name_parse(v->run->dataset.name, &said)))
        str_add(command, "the same with a larger repeat= in --suite, unless --num-samples cut it");
    else str_addf(command, "the same with --num-samples %zu", n);
    suite_said_clear(&said);
}

static void say_next(const struct run_view *v, const char *db)
{
    const struct run_record *r = v->run;
    const struct metric_record *kl = overall(v, "kl"), *sparsity = overall(v, "sparsity");
    struct str command = {0};
    const char *why = "";
    if (!db) return;
    if (!kl || !sparsity) {
        str_addf(&command, "sparsegauge show %lld --part latency", (long long)r->id);
        why = "every length";
    } else if (v->samples.n < 2 || isnan(kl->lo)) {
        more_texts(v, 5, &command);
        why = "more texts give an interval";
    } else if ((run_lost(v) || sparsity->mean < .01) && !r->tuned_hash &&
        strcmp(r->method, "dense") != 0 && r->model.path) {
        str_add(&command, "sparsegauge tune");
        text_shell_word(r->model.path, &command);
        str_addf(&command, " --max-length %d -o tuned.json", r->max_length);
        why = "thresholds for each head, then eval --tuned tuned.json";
    } else if (run_lost(v) && v->worst_tokens.n) {
        str_addf(&command, "sparsegauge tokens %lld", (long long)r->id);
        why = "the tokens it hurt most";
    } else if (kl->hi > .05) {
        more_texts(v, v->samples.n < 3 ? 5 : 2 * v->samples.n, &command);
        why = "more texts give a narrower interval";
    } else if (kl->hi > 0 && sparsity->mean > 0) {
        double least = isnan(sparsity->lo) ? sparsity->mean : sparsity->lo;
        str_addf(&command, "sparsegauge gate %lld --max-kl %g", (long long)r->id, round_up(kl->hi));
        if (least > 0) str_addf(&command, " --min-sparsity %g", round_down(least));
        why = "keep it so";
    } else {
        str_addf(&command, "sparsegauge show %lld", (long long)r->id);
        why = "everything that is stored of it";
    }
    if (strcmp(db, "sparsegauge.db") != 0 && str_starts_with(str_get(&command), "sparsegauge")) {
        str_add(&command, " --db");
        text_shell_word(db, &command);
    }
    say("%-11s %s:\n", "next", why);
    say_command("  %s\n", str_get(&command));
    str_clear(&command);
}

static struct table *warnings_table(const struct run_view *v)
{
    struct table *t = table_new(NULL);
    table_add_column(t, (struct table_column){.name = "note"});
    char **warnings = run_warnings(v);
    for (int i = 0; warnings && warnings[i]; i++) table_text(t, warnings[i]);
    warnings_free(warnings);
    return t;
}

static void say_warnings(const struct run_view *v)
{
    char **warnings = run_warnings(v);
    for (int i = 0; warnings && warnings[i]; i++) say("note: %s\n", warnings[i]);
    warnings_free(warnings);
}

static void print_if_any(const char *name, struct table *t)
{
    if (table_rows(t)) print_table(name, t);
    else table_free(&t);
}

static void print_details(const struct run_view *v)
{
    print_table("metrics", metrics_table(v));
    print_if_any("samples", samples_table(v));
    if (v->items.n) print_if_any("tasks", tasks_table(v));
    print_if_any("positions", positions_table(v));
    print_if_any("layers", layers_table(v));
    print_if_any("latency", latencies_table(v));
    print_if_any("generations", generations_table(v));
}

void say_run(const struct run_view *v)
{
    struct str what = {0};
    run_describe(v->run, &what);
    char *line = str_format("%s: %s on %s, %zu text%s; model %s, %s", v->label, str_get(&what),
             v->run->dataset.name, v->samples.n, v->samples.n == 1 ? "" : "s", v->run->model.name,
             v->run->device ? v->run->device : "cpu"),
         *shown = utf8_shown(line);
    say("%s\n", shown);
    free(line);
    free(shown);
    str_clear(&what);
}

void print_run(const struct run_view *v, const char *db, bool details)
{
    const struct metric_record *m;
    data_table("runs", runs_table(&v->runs));
    say_run(v);
    if (run_is_eight(v->run))
        say("%-11s with Q·K in %s and P·V in %s\n", "precision", v->run->qk ? v->run->qk : "full",
            v->run->pv ? v->run->pv : "full");
    if ((m = overall(v, "sparsity"))) say_metric("sparsity", m, 100, "%.1f", " %", "");
    if ((m = overall(v, "kl"))) say_metric("KL", m, 1, "%.4f", " nats", "");
    say_answers(v);
    say_perplexity(v);
    if ((m = overall(v, "token_accuracy"))) say_metric("top-1", m, 100, "%.1f", " %", " as dense");
    if (!overall(v, "kl")) say_times(v);
    say_verdict(v);
    say_next(v, db);
    say_warnings(v);
    data_table("warnings", warnings_table(v));
    bool written = false; /* tasks are told apart even where all else is left to `show` */
    for (size_t i = 0; i < v->items.n; i++) written |= v->items.rows[i].expected != NULL;
    if (details || !for_people()) print_details(v);
    else if (written) print_table("tasks", tasks_table(v));
}
