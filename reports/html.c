#include "reports/html.h"

#include "base/file.h"
#include "reports/tables.h"
#include "reports/tasks.h"

#include <ctype.h>
#include <math.h>
#include <string.h>

extern const char reports_page_css[], reports_page_js[]; /* page.css, page.js */

/* Table into the page, freed. */
static void add_table(struct table *t, struct str *out)
{
    if (table_rows(t))
        table_render(t, TABLE_HTML, (struct table_style){.hide_constant = true}, out);
    table_free(&t);
}

/* The same, folded up. */
static void add_folded(const char *summary, struct table *t, struct str *out)
{
    if (table_rows(t) == 0) {
        table_free(&t);
        return;
    }
    str_add(out, "<details><summary>");
    xml_escape(summary, out);
    str_add(out, "</summary>");
    add_table(t, out);
    str_add(out, "</details>\n");
}

static bool name_char(char c)
{
    return isalnum((unsigned char)c) || c == '_' || c == '-' || c == '.';
}

/* The drawing without its XML prologue. Names inside are made unique: several drawings share one
 * page. */
static enum status add_svg(const char *path, size_t index, struct str *out)
{
    struct str text = {0};
    enum status st = file_read(&text, path);
    const char *p = st == OK ? strstr(str_get(&text), "<svg") : NULL;
    if (st == OK && !p) st = fail(ERR_FORMAT, "%s: found no <svg> in it", path);
    while (st == OK && *p) {
        static const char *const marks[] = {" id=\"", " id='", "url(#", "href=\"#", "href='#"};
        size_t k = 0;
        while (k < 5 && !str_starts_with(p, marks[k])) k++;
        if (k == 5) {
            str_add_char(out, *p++);
            continue;
        }
        str_add(out, marks[k]);
        p += strlen(marks[k]);
        if (name_char(*p)) str_addf(out, "p%zu-", index);
    }
    str_clear(&text);
    return st;
}

static enum status add_pictures(const struct html_input *in, const char *section, struct str *out)
{
    for (size_t i = 0; i < in->n_pictures; i++) {
        const struct html_picture *p = &in->pictures[i];
        if (strcmp(p->section, section)) continue;
        str_add(out, "<figure class=\"picture\"><figcaption>");
        xml_escape(p->caption, out);
        str_add(out, "</figcaption><div class=\"card\" role=\"img\" aria-label=\"");
        xml_escape(p->caption, out);
        str_add(out, "\">");
        TRY(add_svg(p->svg_path, i, out));
        str_add(out, "</div></figure>\n");
    }
    return OK;
}

static void add_number(
    struct str *out, const char *label, double value, enum table_number number, int digits)
{
    if (isnan(value)) return;
    str_add(out, "<div><b>");
    struct str text = {0};
    number_format(number, digits, value, &text);
    xml_escape(str_get(&text), out);
    str_clear(&text);
    str_add(out, "</b><span>");
    xml_escape(label, out);
    str_add(out, "</span></div>");
}

static bool any_check(const struct html_input *in, enum check_outcome outcome)
{
    for (size_t i = 0; i < in->n_checks; i++)
        if (in->checks[i].outcome == outcome) return true;
    return false;
}

static void add_gate_sentence(const struct html_input *in, struct str *out)
{
    if (!in->n_checks) return;
    const char *word = any_check(in, CHECK_FAIL) ? "failed"
        : any_check(in, CHECK_INVALID)           ? "is invalid"
        : any_check(in, CHECK_AMBIGUOUS)         ? "is ambiguous"
                                                 : "passed";
    str_addf(out, "<p>The gate <strong>%s</strong>.</p>", word);
}

static struct table *checks_table(const struct html_input *in)
{
    struct table *t = table_new("Gate");
    static const char *const names[] = {"check", "outcome", "subject"};
    for (int i = 0; i < 3; i++) table_add_column(t, (struct table_column){.name = names[i]});
    static const char *const numbers[] = {"value", "95 % from", "to", "bound"};
    for (int i = 0; i < 4; i++)
        table_add_column(
            t, (struct table_column){.name = numbers[i], .number = NUMBER_SHORT, .digits = 5});
    table_add_column(t, (struct table_column){.name = "message"});
    for (size_t i = 0; i < in->n_checks; i++) {
        const struct gate_check *c = &in->checks[i];
        table_text(t, c->name);
        table_text(t, check_outcome_name(c->outcome));
        table_mark(t, c->outcome == CHECK_PASS ? "▲" : c->outcome == CHECK_FAIL ? "▼" : "");
        table_text(t, c->subject);
        const double numbers_of[] = {c->value, c->lo, c->hi, c->bound};
        int digits = 5; /* as many as tell what was found from the bound */
        for (int k = 0; k < 3; k++)
            if (!isnan(numbers_of[k])) digits = digits_apart(numbers_of[k], c->bound, digits);
        for (int k = 0; k < 4; k++) table_real_as(t, numbers_of[k], NUMBER_SHORT, digits);
        table_text(t, c->message);
    }
    return t;
}

/* One line a warning, with the runs it is about when there are several. */
static void add_warnings(const struct html_input *in, struct str *out)
{
    char **of[16] = {0}; /* per run */
    size_t n = in->n_views < 16 ? in->n_views : 16;
    for (size_t i = 0; i < n; i++) of[i] = run_warnings(in->views[i]);
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; of[i][k]; k++) {
            struct str who = {0};
            bool told = false;
            for (size_t j = 0; j < n; j++)
                for (size_t q = 0; of[j][q]; q++) {
                    if (strcmp(of[j][q], of[i][k])) continue;
                    told |= j < i;
                    str_addf(&who, "%s%s", who.len ? ", " : "", in->views[j]->label);
                }
            if (!told) {
                str_add(out, "<p class=\"warning\">");
                if (n > 1) {
                    xml_escape(str_get(&who), out);
                    str_add(out, ": ");
                }
                xml_escape(of[i][k], out);
                str_add(out, "</p>\n");
            }
            str_clear(&who);
        }
    for (size_t i = 0; i < n; i++) warnings_free(of[i]);
}

static void add_verdict(const struct html_input *in, struct str *out)
{
    const struct run_view *v = in->views[0];
    double cosine = run_view_metric(v, "logits_cosine");
    if (isnan(cosine)) cosine = run_view_metric(v, "cosine");
    double agreement = run_view_metric(v, "token_accuracy"),
           sparsity = run_view_metric(v, "sparsity");
    struct verdict verdict = verdict_of(cosine, agreement, sparsity);
    bool bad = any_check(in, CHECK_FAIL) || any_check(in, CHECK_INVALID) ||
        v->run->status != RUN_DONE || !strcmp(verdict.band, "poor");
    struct str disagreement = {0}; /* no green light while the metrics contradict each other */
    bool doubtful = metric_disagreement(v, &disagreement);
    str_clear(&disagreement);
    bool good = !bad && !doubtful && !run_lost(v) && strcmp(verdict.band, "unknown") &&
        strcmp(verdict.band, "acceptable");
    str_addf(out, "<section id=\"verdict\"><div class=\"verdict %s\">",
        bad        ? "bad"
            : good ? "good"
                   : "");
    if (v->run->status != RUN_DONE) {
        str_add(out, "<strong>The run did not finish</strong>");
    } else {
        double ratio = run_view_metric(v, "latency_ratio");
        if (isnan(cosine) && !isnan(ratio)) /* a run that timed and compared nothing */
            str_addf(out,
                "<strong>Sparse takes %.2f of the dense time</strong> at the longest prompt",
                ratio);
        else {
            struct str headline = {0};
            run_headline(v, &headline);
            const char *text = str_get(&headline),
                       *bands = strstr(text, "By the tuning guide's bands");
            size_t n = bands ? (size_t)(bands - text) : headline.len;
            struct str lost = {0};
            str_add_bytes(&lost, text, n);
            str_add(out, "<strong>");
            xml_escape(str_get(&lost), out);
            str_add(out, "</strong><p>");
            xml_escape(bands ? bands : "", out);
            str_add(out, "</p>");
            str_clear(&lost);
            str_clear(&headline);
        }
    }
    struct str settings = {0};
    run_describe(v->run, &settings);
    str_add(out, "<p>");
    xml_escape(str_get(&settings), out);
    str_add(out, " on ");
    xml_escape(v->run->dataset.name, out);
    str_addf(out, ", %d sample%s</p>", v->run->num_samples, v->run->num_samples == 1 ? "" : "s");
    str_clear(&settings);
    add_gate_sentence(in, out);
    if (in->comparison) {
        struct str text = {0};
        comparison_verdict(in->comparison, &text);
        str_add(out, "<p>");
        xml_escape(str_get(&text), out);
        str_add(out, "</p>");
        str_clear(&text);
    }
    str_add(out, "</div>\n<div class=\"numbers\">");
    add_number(out, "sparsity", sparsity, NUMBER_PERCENT, 1);
    add_number(out, "logit cosine", cosine, NUMBER_FIXED, 4);
    add_number(out, "KL divergence, nats", run_view_metric(v, "kl"), NUMBER_FIXED, 4);
    add_number(out, "perplexity sparse / dense", run_view_metric(v, "ppl_ratio"), NUMBER_FIXED, 4);
    add_number(out, "token agreement", agreement, NUMBER_PERCENT, 1);
    add_number(out, "task score, sparse", run_view_metric(v, "score_sparse"), NUMBER_PERCENT, 1);
    add_number(out, "time sparse / dense", run_view_metric(v, "latency_ratio"), NUMBER_FIXED, 3);
    str_add(out, "</div>\n");
    add_warnings(in, out);
    if (in->n_checks) add_table(checks_table(in), out);
    str_add(out, "</section>\n");
}

static enum status add_changes(const struct html_input *in, struct str *out)
{
    const struct run_view *v = in->views[0];
    str_add(out, "<section id=\"changed\"><h2>What changed</h2>\n");
    if (in->runs && in->runs->n > 1) {
        struct table *all = methods_table(in->runs, v->run);
        if (table_rows(all) <= 12) add_table(all, out);
        else add_folded("All configurations", all, out); /* a sweep: the frontier shows it better */
    }
    if (in->comparison) {
        add_table(comparison_table(in->comparison, false), out);
        add_table(comparison_settings_table(in->comparison), out);
    }
    TRY(add_pictures(in, "changed", out));
    if (!in->comparison) add_table(metrics_table(v), out);
    else add_folded("All metrics with their distribution", metrics_table(v), out);
    if (v->items.n) {
        add_table(tasks_table(v), out);
        struct table *flips = items_table(v, true);
        if (table_rows(flips) <= 12) add_table(flips, out);
        else add_folded("Answers that changed", flips, out);
    }
    add_table(generations_table(v), out);
    if (in->runs && in->runs->n > 1)
        add_folded("All runs, every column", runs_table(in->runs), out);
    str_add(out, "</section>\n");
    return OK;
}

static enum status add_causes(const struct html_input *in, struct str *out)
{
    const struct run_view *v = in->views[0];
    struct table *causes = causes_table(v, in->same_data);
    if (table_rows(causes)) /* a cause has all its names */
        table_render(causes, TABLE_HTML, (struct table_style){0}, out);
    table_free(&causes);
    if (!v->layer_errors.n && v->samples.n && !v->from_file && !run_is_dense(v->run))
        str_add(out,
            "<p class=\"note\">The error of each layer and head was not measured in this run: "
            "<code>eval "
            "--attribution</code> does.</p>\n");
    TRY(add_pictures(in, "why", out));
    add_table(layers_table(v), out);
    add_table(heads_table(v, 20), out);
    add_table(worst_tokens_table(v, 20), out);
    add_folded("Samples", samples_table(v), out);
    add_folded("By token position", positions_table(v), out);
    return OK;
}

static bool has_section(const struct html_input *in, const char *section)
{
    for (size_t i = 0; i < in->n_pictures; i++)
        if (!strcmp(in->pictures[i].section, section)) return true;
    return false;
}

enum status html_page(const struct html_input *in, struct str *out)
{
    str_add(out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
        "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
        "<meta name=\"color-scheme\" content=\"light dark\">\n<title>");
    xml_escape(in->title, out);
    str_addf(out, "</title>\n<style>%s</style></head><body>\n<h1>", reports_page_css);
    xml_escape(in->title, out);
    bool speed = in->views[0]->latencies.n || has_section(in, "speed");
    struct str why = {0}; /* a run that only timed has none */
    enum status st;
    TRY_GOTO(st, done, add_causes(in, &why));
    str_add(
        out, "</h1>\n<nav><a href=\"#verdict\">Verdict</a><a href=\"#changed\">What changed</a>");
    if (why.len) str_add(out, "<a href=\"#why\">Why</a>");
    if (speed) str_add(out, "<a href=\"#speed\">Speed</a>");
    str_add(out, "<a href=\"#provenance\">Provenance</a></nav>\n<main>\n");
    add_verdict(in, out);
    TRY_GOTO(st, done, add_changes(in, out));
    if (why.len) str_addf(out, "<section id=\"why\"><h2>Why</h2>\n%s</section>\n", str_get(&why));
    if (speed) {
        str_add(out, "<section id=\"speed\"><h2>Speed</h2>\n");
        TRY_GOTO(st, done, add_pictures(in, "speed", out));
        for (size_t i = 0; i < in->n_views; i++) {
            add_table(latencies_table(in->views[i]), out);
            add_table(breakdown_table(in->views[i]), out);
        }
        str_add(out, "</section>\n");
    }
    str_add(out, "<section id=\"provenance\"><h2>Provenance</h2>\n");
    for (size_t i = 0; i < in->n_views; i++) {
        if (in->n_views == 1) {
            add_table(provenance_table(in->views[i]), out);
        } else {
            add_folded(in->views[i]->label, provenance_table(in->views[i]), out);
        }
    }
    if (in->argv_line) {
        str_add(out, "<p>Made by <code>");
        xml_escape(in->argv_line, out);
        str_add(out, "</code></p>");
    }
    str_addf(out, "</section>\n</main>\n<script>%s</script>\n</body></html>\n", reports_page_js);
done:
    str_clear(&why);
    return st;
}
