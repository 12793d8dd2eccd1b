#include "reports/gate.h"

#include "base/json.h"
#include "base/xmalloc.h"
#include "reports/gate_reading.h"
#include "reports/tables.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

struct bound_def {
    const char *name, *field;
    size_t offset;
    const char *metric;
    enum gate_part part;
    bool minimum;
};

#define BOUND(n, f, metric, part, minimum)                            \
    {                                                                 \
        n, #f, offsetof(struct gate_bounds, f), metric, part, minimum \
    }
static const struct bound_def defs[] = {
    BOUND("min-cosine", min_cosine, "cosine", PART_MEAN, true),
    BOUND("min-cosine-p1", min_cosine_p1, "cosine_p1", PART_MEAN, true),
    BOUND("max-kl", max_kl, "kl", PART_MEAN, false),
    BOUND("max-kl-p99.9", max_kl_p99_9, "kl_p99_9", PART_MEAN, false),
    BOUND("max-sample-kl", max_sample_kl, "KL of the worst sample", PART_WORST, false),
    BOUND("max-ppl-increase", max_ppl_increase, "ppl_ratio", PART_RATIO_MINUS_ONE, false),
    BOUND("min-sparsity", min_sparsity, "sparsity", PART_MEAN, true),
    BOUND("min-token-accuracy", min_token_accuracy, "token_accuracy", PART_MEAN, true),
    BOUND("max-score-drop", max_score_drop, "score_drop", PART_MEAN, false),
    BOUND("max-latency-ratio", max_latency_ratio, "sparse / dense time", PART_LATENCY, false),
    BOUND("max-memory", max_memory_mib, "peak MiB", PART_MEMORY, false),
    BOUND("max-cosine-drop", max_cosine_drop, "cosine", PART_DROP, false),
    BOUND("max-kl-rise", max_kl_rise, "kl", PART_RISE, false),
    BOUND("max-ppl-rise", max_ppl_rise, "ppl_ratio", PART_RISE, false),
    BOUND("max-token-accuracy-drop", max_token_accuracy_drop, "token_accuracy", PART_DROP, false),
    BOUND("max-score-loss", max_score_loss, "score_sparse", PART_DROP, false),
    BOUND("max-sparsity-drop", max_sparsity_drop, "sparsity", PART_DROP, false),
    BOUND("max-latency-rise", max_latency_rise, "sparse time", PART_LATENCY_RISE, false),
    BOUND("max-memory-rise", max_memory_rise, "peak memory", PART_MEMORY_RISE, false),
};
enum { N_DEFS = sizeof defs / sizeof defs[0] };
_Static_assert(N_DEFS + 2 <= GATE_MAX_CHECKS, "every bound, the validity check and the alarm fit");

static double *bound_of(const struct gate_bounds *b, const struct bound_def *d)
{
    return (double *)((char *)b + d->offset);
}

static bool is_change(const struct bound_def *d) { return d->part >= PART_RISE; }

struct gate_bounds gate_no_bounds(void)
{
    struct gate_bounds b = {0};
    for (int i = 0; i < N_DEFS; i++) *bound_of(&b, &defs[i]) = NAN;
    return b;
}

bool gate_needs_baseline(const struct gate_bounds *b)
{
    for (int i = 0; i < N_DEFS; i++)
        if (is_change(&defs[i]) && !isnan(*bound_of(b, &defs[i]))) return true;
    return false;
}

static bool holds(const struct bound_def *d, double value, double bound)
{
    return d->minimum ? value >= bound : value <= bound;
}

int gate_check_digits(const struct gate_check *c, int least)
{
    const double found[] = {c->value, c->lo, c->hi};
    int digits = least;
    for (int i = 0; i < 3; i++)
        if (!isnan(found[i])) digits = digits_apart(found[i], c->bound, digits);
    return digits;
}

/* "[lo, hi]", an end that is not known left open. */
static char *interval_text(const struct gate_check *c, int digits)
{
    char *lo = isnan(c->lo) ? str_dup("?") : str_format("%.*g", digits, c->lo),
         *hi = isnan(c->hi) ? str_dup("?") : str_format("%.*g", digits, c->hi),
         *text = str_format("[%s, %s]", lo, hi);
    free(lo);
    free(hi);
    return text;
}

static char *undecided(const char *what, const struct gate_check *c, const struct gate_reading *r)
{
    int d = gate_check_digits(c, 6);
    char *interval = interval_text(c, d), *text;
    if (r->of_repeats)
        text = str_format("%s is %.*g, but its interval %s over %zu timed passes holds the bound "
                          "%.*g; only times that vary "
                          "less would decide: time again on a quieter machine",
            what, d, c->value, interval, r->n_samples, d, c->bound);
    else if (isnan(r->would_decide))
        text = str_format("%s is %.*g, but its interval %s holds the bound %.*g; %zu samples do "
                          "not decide: raise "
                          "--num-samples",
            what, d, c->value, interval, d, c->bound, r->n_samples);
    else if (isinf(r->would_decide))
        text =
            str_format("%s is %.*g %s, right at the bound %.*g; no number of samples will decide",
                what, d, c->value, interval, d, c->bound);
    else
        text = str_format("%s is %.*g, but its interval %s holds the bound %.*g; about %.0f "
                          "samples would decide in four cases "
                          "of five (now %zu): raise --num-samples",
            what, d, c->value, interval, d, c->bound, r->would_decide, r->n_samples);
    free(interval);
    return text;
}

/* Of which nobody knows how far it would move with other texts. */
static char *no_interval(const char *what, const struct gate_check *c, const struct gate_reading *r)
{
    int d = gate_check_digits(c, 6);
    return str_format("%s is %.*g, the bound is %s %.*g, but one %s gives no interval; %s", what, d,
        c->value, c->op, d, c->bound, r->of_repeats ? "pass" : "sample",
        r->of_repeats ? "time again" : "raise --num-samples");
}

static char *words_of(const struct bound_def *d)
{
    return str_format(
        "%s%s", is_change(d) ? d->part == PART_DROP ? "drop of " : "rise of " : "", d->metric);
}

#define CHANCE .025 /* of a wrong claim on one side: what is outside of a 95 % interval */

/* How well data like these go with a bound that holds (small: it is broken), and with one that is
 * broken. */
static double seems_broken(const struct bound_def *d, const struct gate_reading *r)
{
    return d->minimum ? r->below : r->above;
}
static double seems_held(const struct bound_def *d, const struct gate_reading *r)
{
    return d->minimum ? r->above : r->below;
}

static char *broken_message(
    const struct bound_def *d, const struct gate_check *c, bool with_interval)
{
    int digits = gate_check_digits(c, 6);
    char *what = words_of(d), *interval = interval_text(c, digits),
         *text = str_format("%s is %.*g%s%s, the bound is %s %.*g", what, digits, c->value,
             with_interval ? " " : "", with_interval ? interval : "", c->op, digits, c->bound);
    free(what);
    free(interval);
    return text;
}

/* By itself; whether a bound that looks broken counts as broken is decided among all of them. */
static void decide(
    const struct bound_def *d, const struct gate_reading *r, bool by_mean, struct gate_check *c)
{
    char *what = words_of(d);
    if (r->within_floor && (is_change(d) ? c->bound >= 0 : true)) {
        c->outcome = CHECK_PASS;
    } else if (by_mean || r->kind == READING_VALUE) {
        c->outcome = holds(d, c->value, c->bound) ? CHECK_PASS : CHECK_FAIL;
        if (c->outcome == CHECK_FAIL) c->message = broken_message(d, c, false);
    } else if (r->kind == READING_NO_INTERVAL) {
        c->outcome = CHECK_AMBIGUOUS;
        c->message = no_interval(what, c, r);
    } else if (seems_held(d, r) <= CHANCE || (c->lo == c->hi && c->lo == c->bound)) {
        c->outcome = CHECK_PASS;
    } else if (seems_broken(d, r) <= CHANCE) {
        c->outcome = CHECK_FAIL;
        c->message = broken_message(d, c, true);
    } else {
        c->outcome = CHECK_AMBIGUOUS;
        c->message = undecided(what, c, r);
    }
    free(what);
}

struct judgement {
    const struct bound_def *def;
    struct gate_check *check;
    struct gate_reading reading;
};

static int by_evidence(const void *a, const void *b)
{
    const struct judgement *x = a, *y = b;
    double px = seems_broken(x->def, &x->reading), py = seems_broken(y->def, &y->reading);
    return (px > py) - (px < py);
}

/* Four bounds, all exactly kept, are seen broken four times as often as one. So the bounds that
 * intervals decide are judged together (Holm, "A simple sequentially rejective multiple test
 * procedure", 1979): the clearest of k must be as clear as k of them demand, the next as k - 1, …
 * until one is not; it and all behind it are ambiguous. No such care is needed for passing: there
 * every bound has to hold. */
static void judge_together(struct judgement *all, size_t n)
{
    bool clear = true;
    size_t family = 0;
    struct judgement *member = xmalloc((n + 1) * sizeof *member);
    for (size_t i = 0; i < n; i++)
        if (!all[i].reading.missing && all[i].reading.kind == READING_INTERVAL)
            member[family++] = all[i];
    qsort(member, family, sizeof *member, by_evidence);
    for (size_t i = 0; i < family; i++) {
        struct gate_check *c = member[i].check;
        clear &= seems_broken(member[i].def, &member[i].reading) <= CHANCE / (double)(family - i);
        if (c->outcome != CHECK_FAIL || clear) continue;
        c->outcome = CHECK_AMBIGUOUS;
        char *alone = (char *)c->message;
        c->message = str_format("%s: broken if it stood alone, but of %zu bounds judged together "
                                "one so far off is no proof; raise "
                                "--num-samples",
            alone, family);
        free(alone);
    }
    free(member);
}

static void judge(struct judgement *j, bool by_mean)
{
    struct gate_check *c = j->check;
    c->value = j->reading.value;
    c->lo = j->reading.lo;
    c->hi = j->reading.hi;
    if (j->reading.missing) {
        c->outcome = j->reading.not_applicable ? CHECK_SKIPPED : CHECK_INVALID;
        c->message = j->reading.missing;
        return;
    }
    decide(j->def, &j->reading, by_mean, c);
}

static int severity(enum check_outcome o)
{
    return o == CHECK_INVALID ? 3 : o == CHECK_FAIL ? 2 : o == CHECK_AMBIGUOUS ? 1 : 0;
}

static void take_worst(struct gate_result *g)
{
    bool decided = false;
    g->outcome = CHECK_PASS;
    for (size_t i = 0; i < g->n; i++) {
        decided |= g->checks[i].outcome != CHECK_SKIPPED;
        if (severity(g->checks[i].outcome) > severity(g->outcome))
            g->outcome = g->checks[i].outcome;
    }
    if (!decided) g->outcome = CHECK_INVALID; /* nothing was asked that could be answered */
}

static struct gate_check *add_check(
    struct gate_result *g, const char *name, const struct run_view *v)
{
    struct gate_check *c = &g->checks[g->n++];
    *c = (struct gate_check){.name = name,
        .subject = v->label,
        .op = ">=",
        .bound = 1,
        .value = 0,
        .lo = NAN,
        .hi = NAN};
    return c;
}

/* Where cosine and what it stands for contradict each other, that is said loudly; it decides where
 * `strict` asks for it. */
static void add_alarm(const struct gate_subject *s, bool strict, struct gate_result *out)
{
    struct str text = {0};
    if (metric_disagreement(s->run, &text)) {
        out->alarm = str_dup(str_get(&text));
        if (strict) {
            struct gate_check *c = add_check(out, "metrics-agree", s->run);
            c->outcome = CHECK_AMBIGUOUS;
            c->message = str_dup(out->alarm);
        }
    }
    str_clear(&text);
}

static void add_validity(const struct run_view *v, struct gate_result *out)
{
    const struct run_record *r = v->run;
    bool dense = run_is_dense(r) || (r->layers && strcmp(r->layers, "none") == 0);
    const char *why = r->status != RUN_DONE ? "the run did not finish"
        : dense
        ? "no layer was sparse: dense was compared with dense, and nothing sparse was measured"
        : r->attention_calls > 0 && r->dense_fallback_calls == r->attention_calls
        ? "every call fell back to dense because the sequences are shorter than "
          "--min-sparse-tokens: "
          "nothing sparse was measured; use longer samples"
        : r->dense_fallback_calls > r->attention_calls / 2
        ? "most calls fell back to dense because their sequences are shorter than "
          "--min-sparse-tokens: what was measured "
          "is mostly dense against dense; use longer samples"
        : run_view_metric(v, "sparsity") == 0 && !run_is_eight(r)
        ? "not one tile was left out: dense was compared with dense, and nothing sparse was "
          "measured; loosen the thresholds"
        : run_view_metric(v, "sparsity") == 0 && run_view_metric(v, "kl") == 0
        ? "not one tile was left out and not one position differs, which products of eight bits do "
          "not do: dense was compared with dense; evaluate again"
        : NULL;
    if (!why) return;
    struct gate_check *c = add_check(out, "valid-measurement", v);
    c->outcome = CHECK_INVALID;
    c->message = str_dup(why);
}

/* Two models, or two settings, gated in one job are different test cases. */
static void add_identity(const struct run_record *r, struct gate_result *out)
{
    struct str text = {0};
    str_addf(&text, "%s on %s: ", r->model.name ? r->model.name : "model",
        r->dataset.name ? r->dataset.name : "data");
    run_describe(r, &text);
    out->identity = str_dup(str_get(&text));
    for (size_t i = 0; i < out->n; i++) out->checks[i].identity = out->identity;
    str_clear(&text);
}

enum status gate_run(
    const struct gate_subject *s, const struct gate_bounds *b, struct gate_result *out)
{
    *out = (struct gate_result){.outcome = CHECK_PASS};
    struct comparison c = {0};
    const char *why_not = "this bound needs a baseline: name one with --baseline RUN or FILE.json";
    char *refused = NULL;
    bool comparable = false;
    if (s->baseline && gate_needs_baseline(b)) {
        comparable = compare_runs(&c, s->baseline, s->run,
                         &(struct compare_options){.floors = s->floors}) == OK;
        if (!comparable) why_not = refused = str_dup(status_message());
    }
    struct judgement all[N_DEFS];
    size_t n = 0;
    for (int i = 0; i < N_DEFS; i++) {
        double bound = *bound_of(b, &defs[i]);
        if (isnan(bound)) continue;
        struct gate_check *check = add_check(out, defs[i].name, s->run);
        check->op = defs[i].minimum ? ">=" : "<=";
        check->bound = bound;
        all[n] = (struct judgement){&defs[i], check,
            gate_read(defs[i].part, defs[i].metric, bound, s, comparable ? &c : NULL, why_not)};
        judge(&all[n++], b->by_mean);
    }
    if (!b->by_mean) judge_together(all, n);
    comparison_clear(&c);
    free(refused);
    if (!out->n)
        return fail(ERR_ARG, "no bound was given; e.g. --min-cosine .98 --max-kl .02, see -h");
    add_validity(s->run, out);
    if (s->run->run->status == RUN_DONE) add_alarm(s, b->strict, out);
    add_identity(s->run->run, out);
    take_worst(out);
    return OK;
}

void gate_result_clear(struct gate_result *g)
{
    for (size_t i = 0; i < g->n; i++) free((char *)g->checks[i].message);
    free(g->alarm);
    free(g->identity);
    free(g->note);
    *g = (struct gate_result){0};
}

static const struct gate_check *find_check(const struct gate_result *g, const char *name)
{
    for (size_t i = 0; i < g->n; i++)
        if (strcmp(g->checks[i].name, name) == 0) return &g->checks[i];
    return NULL;
}

static void say_more(struct gate_check *c, char *more)
{
    char *message = str_format("%s; %s", c->message ? c->message : "", more);
    free((char *)c->message);
    free(more);
    c->message = message;
}

void gate_confirm(struct gate_result *first, const struct gate_result *second)
{
    for (size_t i = 0; i < first->n; i++) {
        struct gate_check *c = &first->checks[i];
        const struct gate_check *again = find_check(second, c->name);
        if (c->outcome != CHECK_FAIL || !again) continue;
        if (again->outcome == CHECK_FAIL) {
            say_more(c, str_format("confirmed by a second run: %.6g", again->value));
        } else {
            c->outcome = CHECK_AMBIGUOUS;
            say_more(c,
                str_format("not confirmed: the second run gave %.6g (%s)", again->value,
                    check_outcome_name(again->outcome)));
        }
    }
    take_worst(first);
}

void gate_add_note(struct gate_result *g, const char *text)
{
    char *note = str_format("%s%s%s", g->note ? g->note : "", g->note ? "; " : "", text);
    free(g->note);
    g->note = note;
}

void gate_unconfirmed(struct gate_result *g, const char *why)
{
    for (size_t i = 0; i < g->n; i++)
        if (g->checks[i].outcome == CHECK_FAIL)
            say_more(&g->checks[i], str_format("not run again: %s", why));
}

enum status gate_bounds_read(struct gate_bounds *b, const char *path)
{
    cJSON *root;
    TRY(json_read_file(&root, path));
    struct json_in in = {root, path, ""};
    enum status st = cJSON_IsObject(root)
        ? OK
        : fail(ERR_FORMAT, "%s: found %s, expected an object of bounds", path, json_kind(root));
    const cJSON *field;
    for (field = st == OK ? root->child : NULL; field && st == OK; field = field->next) {
        int i = 0;
        while (i < N_DEFS && strcmp(defs[i].field, field->string) != 0) i++;
        if (i == N_DEFS)
            st = fail(ERR_FORMAT,
                "%s: field %s is no bound; `gate --dump-config` writes all of them", path,
                field->string);
        else st = json_get_double(in, field->string, false, -1e9, 1e9, bound_of(b, &defs[i]));
    }
    cJSON_Delete(root);
    return st;
}

enum status gate_bounds_write(const struct gate_bounds *b, const char *path)
{
    cJSON *root = cJSON_CreateObject();
    for (int i = 0; i < N_DEFS; i++) {
        double bound = *bound_of(b, &defs[i]);
        if (isnan(bound)) cJSON_AddNullToObject(root, defs[i].field);
        else cJSON_AddNumberToObject(root, defs[i].field, bound);
    }
    enum status st = json_write_file(path, root);
    cJSON_Delete(root);
    return st;
}
