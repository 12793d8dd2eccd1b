#include "reports/html.h"

#include "base/file.h"
#include "reports/attribution.h"
#include "reports/tables.h"
#include "reports/tasks.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern const char reports_page_css[], reports_page_js[]; /* page.css, page.js */

/* A page being written. */
struct page {
    const struct html_input *in;
    struct str *out;
    enum status st;     /* of the first table that could not be written */
    char names[64][48]; /* of the tables' files, each once */
    size_t n_names;
};

/* "heads-that-left-out-least": a file name of a title. */
static void name_table(struct page *p, const char *title, char name[48])
{
    size_t n = 0;
    for (const char *c = title ? title : "table"; *c && n < 40; c++)
        if (isalnum((unsigned char)*c)) name[n++] = (char)tolower((unsigned char)*c);
        else if (n && name[n - 1] != '-') name[n++] = '-';
    while (n && name[n - 1] == '-') n--;
    if (!n) name[n++] = 't';
    name[n] = 0;
    for (int again = 2;; again++) {
        size_t i = 0;
        while (i < p->n_names && strcmp(p->names[i], name)) i++;
        if (i == p->n_names) break;
        snprintf(name + n, 48 - n, "-%d", again);
    }
    if (p->n_names < 64) strcpy(p->names[p->n_names++], name);
}

static enum status write_csv(const char *dir, const char *name, struct table *t)
{
    struct str text = {0};
    TRY(file_make_dirs(dir));
    table_render(t, TABLE_CSV, (struct table_style){0}, &text);
    char *path = str_format("%s/%s.csv", dir, name);
    enum status st = file_write_text(path, &text);
    free(path);
    str_clear(&text);
    return st;
}

/* Table into the page, freed. */
static void put_table(struct page *p, struct table *t, bool hide_constant)
{
    char name[48], link[64];
    if (table_rows(t)) {
        const char *dir = p->in->tables_dir;
        name_table(p, table_title(t), name);
        snprintf(link, sizeof link, "tables/%s.csv", name);
        if (dir && p->st == OK) p->st = write_csv(dir, name, t);
        if (dir) table_link_csv(t, link);
        table_render(t, TABLE_HTML, (struct table_style){.hide_constant = hide_constant}, p->out);
    }
}

static void add_table_as(struct page *p, struct table *t, bool hide_constant)
{
    put_table(p, t, hide_constant);
    table_free(&t);
}

static void add_table(struct page *p, struct table *t) { add_table_as(p, t, true); }

/* The same, folded up. */
static void add_folded(struct page *p, const char *summary, struct table *t)
{
    if (table_rows(t) == 0) {
        table_free(&t);
        return;
    }
    str_add(p->out, "<details><summary>");
    xml_escape(summary, p->out);
    str_add(p->out, "</summary>");
    add_table(p, t);
    str_add(p->out, "</details>\n");
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
        static const char namespace[] = " xmlns=\"http://www.w3.org/2000/svg\""; /* HTML knows it */
        size_t k = 0;
        if (str_starts_with(p, namespace)) p += strlen(namespace);
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

static enum status add_picture(struct page *p, size_t i, const char *caption)
{
    const struct html_picture *picture = &p->in->pictures[i];
    str_addf(p->out, "<figure class=\"picture%s\">", picture->small ? " small" : "");
    if (caption) {
        str_add(p->out, "<figcaption>");
        xml_escape(caption, p->out);
        str_add(p->out, " <a href=\"pictures/");
        xml_escape(path_base(picture->svg_path), p->out);
        str_add(p->out, "\">SVG</a></figcaption>");
    }
    str_add(p->out, "<div class=\"card\" role=\"group\" aria-label=\"");
    xml_escape(picture->caption, p->out);
    str_add(p->out, "\">");
    TRY(add_svg(picture->svg_path, i, p->out));
    str_add(p->out, "</div></figure>\n");
    return OK;
}

/* A row of small ones has one caption; pairs stand beside each other. */
static enum status add_row(struct page *p, size_t from, size_t to)
{
    const struct html_picture *first = &p->in->pictures[from];
    str_addf(p->out, "<section class=\"row%s\"><h3>",
        to - from < 3       ? " pair"
            : to - from < 5 ? " few"
                            : "");
    xml_escape(first->caption, p->out);
    str_add(p->out, " <span>SVG");
    for (size_t i = from; i < to; i++) {
        str_add(p->out, " <a href=\"pictures/");
        xml_escape(path_base(p->in->pictures[i].svg_path), p->out);
        str_addf(p->out, "\" aria-label=\"SVG %zu\">%zu</a>", i - from + 1, i - from + 1);
    }
    str_add(p->out, "</span></h3><div class=\"smalls\">\n");
    for (size_t i = from; i < to; i++) TRY(add_picture(p, i, NULL));
    str_add(p->out, "</div></section>\n");
    return OK;
}

static enum status add_pictures(struct page *p, const char *section)
{
    const struct html_input *in = p->in;
    bool open = false;
    for (size_t i = 0; i < in->n_pictures; i++) {
        const struct html_picture *picture = &in->pictures[i];
        if (strcmp(picture->section, section) || picture->small) continue;
        if (!open) str_add(p->out, "<div class=\"pictures\">\n");
        open = true;
        TRY(add_picture(p, i, picture->caption));
    }
    if (open) str_add(p->out, "</div>\n");
    for (size_t i = 0, to; i < in->n_pictures; i = to) {
        const struct html_picture *picture = &in->pictures[i];
        to = i + 1;
        if (strcmp(picture->section, section) || !picture->small) continue;
        while (to < in->n_pictures && in->pictures[to].small &&
            !strcmp(in->pictures[to].section, section) &&
            !strcmp(in->pictures[to].caption, picture->caption))
            to++;
        TRY(add_row(p, i, to));
    }
    return OK;
}

static void add_number(struct str *out, const struct run_view *v, const char *metric,
    const char *label, enum table_number number, int digits)
{
    const struct metric_record *m = metric_list_find(&v->metrics, "overall", metric);
    if (!m || isnan(m->mean)) return;
    struct str text = {0};
    number_format(number, digits, m->mean, &text);
    str_add(out, "<div><span>");
    xml_escape(label, out);
    str_add(out, "</span><b>");
    xml_escape(str_get(&text), out);
    str_add(out, "</b>");
    if (!isnan(m->lo) && !isnan(m->hi)) {
        str_reset(&text);
        number_format(number, digits, m->lo, &text);
        str_add(&text, " … ");
        number_format(number, digits, m->hi, &text);
        str_add(out, "<small>");
        xml_escape(str_get(&text), out);
        str_add(out, "</small>");
    }
    str_add(out, "</div>");
    str_clear(&text);
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

static void add_answer(
    struct str *out, const char *question, const struct str *text, const char *class)
{
    str_addf(out, "<div class=\"answer%s\"><h2>%s</h2><p>", class, question);
    xml_escape(str_get(text), out);
    str_add(out, "</p>");
}

static void add_answers(struct page *p)
{
    const struct html_input *in = p->in;
    const struct run_view *v = in->views[0];
    struct str *out = p->out, settings = {0};
    struct answers a;
    if (in->sweep) sweep_answers(in->sweep, in->cells, in->db, &a);
    else run_answers(v, in->comparison, in->same_data, in->db, &a);
    bool failed = any_check(in, CHECK_FAIL) || any_check(in, CHECK_INVALID);
    str_add(out, "<section id=\"verdict\">\n<p class=\"subject\">");
    if (in->sweep) {
        str_addf(&settings, "%zu runs of %s; they differ in ", in->runs->n, v->run->model.name);
        size_t methods = run_methods(in->runs);
        if (methods > 1) str_addf(&settings, "method (%zu)", methods);
        for (size_t i = 0; i < in->sweep->n; i++)
            str_addf(&settings, "%s%s (%zu)", i || methods > 1 ? ", " : "", in->sweep->at[i].name,
                in->sweep->at[i].n);
        if (!in->sweep->n && methods < 2) str_add(&settings, "nothing that is told apart");
    } else {
        run_describe(v->run, &settings);
        str_addf(&settings, " on %s, %d sample%s", v->run->dataset.name, v->run->num_samples,
            v->run->num_samples == 1 ? "" : "s");
    }
    xml_escape(str_get(&settings), out);
    str_clear(&settings);
    str_add(out, "</p>\n<div class=\"answers\">\n");
    add_answer(out, "What was lost?", &a.lost,
        failed || a.tone == TONE_BAD ? " bad"
            : a.tone == TONE_GOOD    ? " good"
                                     : "");
    add_gate_sentence(in, out);
    str_add(out, "</div>\n");
    add_answer(out, "Where?", &a.where, "");
    str_add(out, "</div>\n");
    add_answer(out, "Is it noise?", &a.noise, "");
    str_add(out, "</div>\n");
    add_answer(out, "What to do?", &a.todo, "");
    if (a.command.len) {
        str_add(out, "<p><code>");
        xml_escape(str_get(&a.command), out);
        str_add(out, "</code></p>");
    }
    str_add(out, "</div>\n</div>\n<div class=\"numbers\">");
    add_number(out, v, "sparsity", "sparsity", NUMBER_PERCENT, 1);
    add_number(out, v, "score_drop", "answers lost", NUMBER_PERCENT, 1);
    add_number(out, v, "kl", "KL divergence, nats", NUMBER_FIXED, 4);
    add_number(out, v, "ppl_ratio", "perplexity sparse / dense", NUMBER_FIXED, 3);
    add_number(out, v, "token_accuracy", "next tokens that agree", NUMBER_PERCENT, 1);
    add_number(out, v, "cosine", "cosine of the logits", NUMBER_FIXED, 4);
    add_number(out, v, "latency_ratio", "time sparse / dense", NUMBER_FIXED, 3);
    str_add(out, "</div>\n");
    str_add(out, "<p class=\"note\">");
    if (in->sweep) {
        str_add(out, "Numbers of ");
        xml_escape(v->label, out);
        str_add(out, ". ");
    }
    str_add(out, "Small: 95 % interval over texts. ");
    xml_escape(str_get(&a.bands), out);
    str_add(out, "</p>\n");
    add_warnings(in, out);
    for (size_t i = 0; in->notes && in->notes[i]; i++) {
        str_add(out, "<p class=\"warning\">");
        xml_escape(in->notes[i], out);
        str_add(out, "</p>\n");
    }
    if (in->n_checks) add_table(p, checks_table(in));
    str_add(out, "</section>\n");
    answers_clear(&a);
}

static enum status add_sweep(struct page *p)
{
    const struct html_input *in = p->in;
    bool holds;
    size_t violations;
    str_add(p->out, "<section id=\"changed\"><h2>The sweep</h2>\n");
    TRY(add_pictures(p, "sweep"));
    for (size_t i = 0; i < in->n_contests; i++) put_table(p, in->contests[i], true);
    add_table(p, sweep_table(in->sweep, sweep_choice(in->runs, &holds)));
    struct table *t = monotonicity_table(in->runs, &violations);
    if (violations) add_table(p, t);
    else add_folded(p, "Do tighter bounds keep more? Here they do", t);
    add_folded(p, "Every column of every run", runs_table(in->runs));
    str_addf(p->out, "</section>\n<section><h2>%s in detail</h2>\n", in->views[0]->label);
    return OK;
}

static enum status add_changes(struct page *p)
{
    const struct html_input *in = p->in;
    const struct run_view *v = in->views[0];
    if (in->sweep) TRY(add_sweep(p));
    else str_add(p->out, "<section id=\"changed\"><h2>What changed</h2>\n");
    TRY(add_pictures(p, "changed"));
    if (!in->sweep && in->runs && in->runs->n > 1) {
        struct table *all = methods_table(in->runs, v->run);
        if (table_rows(all) <= 12) add_table(p, all);
        else add_folded(p, "All configurations", all);
    }
    if (in->comparison) {
        add_folded(p, "Every metric, before and after", comparison_table(in->comparison, false));
        add_table(p, comparison_settings_table(in->comparison));
    }
    if (in->comparison || in->sweep)
        add_folded(p, "All metrics with their distribution", metrics_table(v));
    else add_table(p, metrics_table(v));
    if (v->items.n) {
        add_table(p, tasks_table(v));
        struct table *flips = items_table(v, true);
        if (table_rows(flips) <= 20) add_table(p, flips);
        else add_folded(p, "Answers that changed", flips);
    }
    add_table(p, generations_table(v));
    if (!in->sweep && in->runs && in->runs->n > 1)
        add_folded(p, "All runs, every column", runs_table(in->runs));
    str_add(p->out, "</section>\n");
    return OK;
}

static enum status add_causes(struct page *p)
{
    const struct html_input *in = p->in;
    const struct run_view *v = in->views[0];
    add_table_as(p, causes_table(v, in->same_data), false); /* a cause has all its names */
    if (!v->layer_errors.n && v->samples.n && !v->from_file && !run_is_dense(v->run))
        str_add(p->out,
            "<p class=\"note\">The error of each layer and head was not measured in this run: "
            "<code>eval "
            "--attribution</code> does.</p>\n");
    TRY(add_pictures(p, "why"));
    add_table(p, layers_table(v));
    add_table(p, heads_table(v, 20));
    add_table(p, worst_tokens_table(v, 20));
    add_folded(p, "Samples", samples_table(v));
    add_folded(p, "By token position", positions_table(v));
    return OK;
}

static bool has_section(const struct html_input *in, const char *section)
{
    for (size_t i = 0; i < in->n_pictures; i++)
        if (!strcmp(in->pictures[i].section, section)) return true;
    return false;
}

/* What a reader who knows models, but not this program, has to look up. */
static void add_words(struct str *out)
{
    static const char *const words[][2] = {
        {"dense, sparse", "every tile of attention is computed; some are left out"},
        {"tile",
            "a block of queries times a block of keys of one head, computed or left out as one"},
        {"sparsity",
            "share of the possible tiles (and of their products with the values) that was "
            "left out, counted inside the kernel"},
        {"KL divergence",
            "how far the sparse model's distribution of the next token is from the "
            "dense model's, in nats; 0 when equal"},
        {"agreement", "share of positions where both models' likeliest next token is the same"},
        {"cosine",
            "of the sparse and the dense logits: the mean over positions (per position), or "
            "of all of them taken as one vector"},
        {"θ simthreshd1, τ cdfthreshd, λ pvthreshd",
            "a head's three thresholds: how alike the rows of a block must be to stand for it by "
            "their mean; how much of the predicted attention is kept; how far below the largest "
            "score, in powers of two, a product with the values is skipped"},
        {"rule and bound",
            "tuning keeps an error of each head's output under a bound: l1 its mean, "
            "tail its worst rows, rmse the root mean square"},
        {"held-out", "texts that no threshold was chosen on"},
        {"isolated, propagated",
            "the error of a layer that alone is sparse; with all layers before "
            "it sparse too"},
        {"recall", "share of the true attention that lies in the computed tiles"},
        {"sink, diagonal",
            "the first block of keys and the tiles where a query reads its own "
            "block: always computed"},
        {"oracle", "tiles ranked by the attention they really hold: the limit of any prediction"},
    };
    str_add(out, "<section id=\"words\"><h2>Words</h2>\n<dl>\n");
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        str_addf(out, "<dt>%s</dt><dd>%s</dd>\n", words[i][0], words[i][1]);
    str_add(out, "</dl></section>\n");
}

static enum status add_body(struct page *p)
{
    const struct html_input *in = p->in;
    struct str *out = p->out, why = {0};
    bool speed = in->views[0]->latencies.n || has_section(in, "speed");
    p->out = &why; /* a run that only timed has none */
    enum status st = add_causes(p);
    p->out = out;
    bool layers = has_section(in, "layers");
    str_addf(out, "<nav><a href=\"#verdict\">Answers</a>%s<a href=\"#changed\">%s</a>",
        layers ? "<a href=\"#layers\">Layers</a>" : "", in->sweep ? "The sweep" : "What changed");
    if (why.len) str_add(out, "<a href=\"#why\">Why</a>");
    if (speed) str_add(out, "<a href=\"#speed\">Speed</a>");
    str_add(out,
        "<a href=\"#provenance\">Provenance</a><a "
        "href=\"#words\">Words</a></nav></header>\n<main>\n");
    add_answers(p);
    if (layers && st == OK) {
        str_add(out, "<section id=\"layers\"><h2>What the layers read</h2>\n");
        st = add_pictures(p, "layers");
        str_add(out, "</section>\n");
    }
    if (st == OK) st = add_changes(p);
    if (why.len) str_addf(out, "<section id=\"why\"><h2>Why</h2>\n%s</section>\n", str_get(&why));
    str_clear(&why);
    TRY(st);
    if (speed) {
        str_add(out, "<section id=\"speed\"><h2>Speed</h2>\n");
        TRY(add_pictures(p, "speed"));
        for (size_t i = 0; i < in->n_views; i++) {
            add_table(p, latencies_table(in->views[i]));
            add_table(p, breakdown_table(in->views[i]));
        }
        str_add(out, "</section>\n");
    }
    str_add(out, "<section id=\"provenance\"><h2>Provenance</h2>\n");
    for (size_t i = 0; i < in->n_views; i++) {
        if (in->n_views == 1) add_table(p, provenance_table(in->views[i]));
        else add_folded(p, in->views[i]->label, provenance_table(in->views[i]));
    }
    if (in->argv_line) {
        str_add(out, "<p>Made by <code>");
        xml_escape(in->argv_line, out);
        str_add(out, "</code></p>");
    }
    str_add(out, "</section>\n");
    add_words(out);
    str_add(out, "</main>\n");
    return p->st;
}

enum status html_page(const struct html_input *in, struct str *out)
{
    struct page p = {.in = in, .out = out, .st = OK};
    str_add(out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n"
        "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n"
        "<meta name=\"color-scheme\" content=\"light dark\">\n<title>");
    xml_escape(in->title, out);
    str_addf(out, "</title>\n<style>%s</style></head><body>\n<header><h1>", reports_page_css);
    xml_escape(in->title, out);
    str_add(out, "</h1>\n");
    TRY(add_body(&p));
    str_addf(out, "<script>%s</script>\n</body></html>\n", reports_page_js);
    return OK;
}
