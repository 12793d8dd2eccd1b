#include "reports/answers.h"

#include "base/text.h"
#include "reports/attribution.h"
#include "reports/tables.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void answers_clear(struct answers *a)
{
    str_clear(&a->lost);
    str_clear(&a->where);
    str_clear(&a->noise);
    str_clear(&a->todo);
    str_clear(&a->command);
    str_clear(&a->bands);
}

static const struct metric_record *overall(const struct run_view *v, const char *name)
{
    return metric_list_find(&v->metrics, "overall", name);
}

static void tell_change(const struct comparison *c, struct str *out)
{
    static const struct {
        const char *name, *format;
        double scale;
    } shown[] = {{"score_sparse", "answers right %.1f -> %.1f %%", 100},
        {"kl", "KL %.4f -> %.4f nats", 1},
        {"token_accuracy", "next tokens that agree %.1f -> %.1f %%", 100},
        {"sparsity", "sparsity %.1f -> %.1f %%", 100}};
    size_t used = 0;
    if (c->forced) str_addf(out, " FORCED in spite of different %s.", c->forced);
    str_addf(out, " Against %s: ", c->before_label);
    for (size_t k = 0; k < sizeof shown / sizeof *shown; k++)
        for (size_t i = 0; i < c->n_rows; i++) {
            const struct compare_row *row = &c->rows[i];
            if (strcmp(row->name, shown[k].name)) continue;
            str_add(out, used++ ? ", " : "");
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
            str_addf(
                out, shown[k].format, shown[k].scale * row->before, shown[k].scale * row->after);
#pragma GCC diagnostic pop
        }
    str_add(out, used ? "." : "nothing that both measured.");
}

static void tell_lost(const struct run_view *v, const struct comparison *c, struct answers *out)
{
    double ratio = run_view_metric(v, "latency_ratio");
    if (v->run->status != RUN_DONE) str_add(&out->lost, "The run did not finish.");
    else if (isnan(run_view_metric(v, "cosine")) && !isnan(ratio))
        str_addf(&out->lost,
            "Nothing was compared; sparse takes %.2f of the dense time at the longest prompt.",
            ratio);
    else if (isnan(run_view_metric(v, "cosine")) && v->latencies.n)
        str_add(&out->lost,
            "Nothing was compared, and the times at the longest prompt are not valid: measure "
            "again on an idle machine.");
    else {
        struct str headline = {0};
        run_headline(v, &headline);
        const char *text = str_get(&headline), *bands = strstr(text, "By the tuning guide's bands");
        str_add_bytes(&out->lost, text, bands ? (size_t)(bands - text) : headline.len);
        if (bands) str_add(&out->bands, bands);
        str_clear(&headline);
    }
    if (c) tell_change(c, &out->lost);
}

/* Answers by doublings of the tokens between them and their evidence. */
static void tell_distance(const struct run_view *v, struct str *out)
{
    enum { N = 20 };
    int lost[N] = {0}, all[N] = {0}, worst = -1;
    for (size_t i = 0; i < v->items.n; i++) {
        const struct item_record *r = &v->items.rows[i];
        if (isnan(r->depth) || r->length < 1) continue;
        double distance = (double)r->length * (1 - r->depth);
        int b = distance < 64 ? 0 : (int)fmin(N - 1, floor(log2(distance / 32)));
        all[b]++;
        lost[b] += r->dense_right && !r->sparse_right;
    }
    for (int b = 0; b < N; b++)
        if (all[b] >= 5 && lost[b] && (worst < 0 || lost[b] * all[worst] > lost[worst] * all[b]))
            worst = b;
    if (worst < 0) return;
    if (worst == 0) str_add(out, "Most answers are lost under 64 tokens from their evidence");
    else
        str_addf(out, "Most answers are lost %.0f to %.0f tokens from their evidence",
            32 * pow(2, worst), 64 * pow(2, worst) - 1);
    str_addf(out, ": %d of %d. ", lost[worst], all[worst]);
}

static void tell_positions(const struct run_view *v, struct str *out)
{
    const struct metric_record *worst = NULL, *least = NULL;
    for (size_t i = 0; i < v->metrics.n; i++) {
        const struct metric_record *m = &v->metrics.rows[i];
        if (strcmp(m->name, "kl") || !str_starts_with(m->scope, "position:") || isnan(m->mean))
            continue;
        if (!worst || m->mean > worst->mean) worst = m;
        if (!least || m->mean < least->mean) least = m;
    }
    if (worst && worst != least && worst->mean > 0)
        str_addf(out, "KL is highest at tokens %s (%.3g nats) and lowest at %s (%.3g). ",
            worst->scope + strlen("position:"), worst->mean, least->scope + strlen("position:"),
            least->mean);
}

static void tell_where(
    const struct run_view *v, const struct run_list *same_data, struct answers *out)
{
    struct worst_cause c;
    tell_distance(v, &out->where);
    tell_positions(v, &out->where);
    if (run_worst_cause(v, same_data, &c)) {
        if (c.layer >= 0)
            str_addf(&out->where,
                "Worst cause: layer %d, head %d in sample %d, %.1f %% of the damage (%s).", c.layer,
                c.head, c.sample, 100 * c.share,
                c.guessed ? "estimated; eval --attribution measures it" : "measured");
        else
            str_addf(
                &out->where, "Worst sample: %d, %.1f %% of the damage.", c.sample, 100 * c.share);
    }
    if (!out->where.len) str_add(&out->where, "Nothing was lost anywhere, or it was not measured.");
}

static void tell_interval(const struct metric_record *m, const char *what, const char *format_lo,
    double scale, struct str *out)
{
    if (!m || isnan(m->lo)) return;
    bool beyond = m->lo > 0;
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    str_addf(out, "%s: ", what);
    str_addf(out, format_lo, scale * m->lo, scale * m->hi);
#pragma GCC diagnostic pop
    str_add(out, beyond ? ", beyond chance. " : ", may be chance: it holds 0. ");
}

static void tell_noise(const struct run_view *v, const struct comparison *c, struct answers *out)
{
    size_t n = v->samples.n;
    if (n < 2) {
        str_addf(&out->noise, "Unknown: %s gives no interval.",
            n ? "one sample" : "a run without samples");
        return;
    }
    tell_interval(overall(v, "score_drop"), "Answers lost", "%.1f to %.1f %%", 100, &out->noise);
    tell_interval(overall(v, "kl"), "KL", "%.3g to %.3g nats", 1, &out->noise);
    double detectable = run_detectable(v->run, FRONTIER_KL);
    str_addf(&out->noise, "95 %% intervals over %zu texts", n);
    if (!isnan(detectable))
        str_addf(&out->noise, "; as many other texts would show a change of KL by %.2g or more",
            detectable);
    str_add(&out->noise, ".");
    if (!c) return;
    size_t within = 0, better = 0, worse = 0;
    for (size_t i = 0; i < c->n_rows; i++) {
        within += c->rows[i].within_floor;
        better += c->rows[i].change == CHANGE_BETTER;
        worse += c->rows[i].change == CHANGE_WORSE;
    }
    str_addf(&out->noise,
        " Against %s, paired over %zu texts, %zu of %zu metrics are worse beyond noise and %zu "
        "better",
        c->before_label, c->n_paired_samples, worse, c->n_rows, better);
    if (within) str_addf(&out->noise, ", %zu lie within the noise floor", within);
    str_add(&out->noise, ".");
}

/* As a shell reads it. */
static void add_model(const struct run_record *r, const char *command, struct str *out)
{
    str_addf(out, "sparsegauge %s", command);
    text_shell_word(r->model.path ? r->model.path : r->model.name, out);
    if (r->dataset.name) {
        str_add(out, " --suite");
        text_shell_word(r->dataset.name, out);
    }
}

/* Two significant digits, upwards: a bound that the run holds. */
static double round_up(double x)
{
    double unit = pow(10, floor(log10(x)) - 1);
    return unit * ceil(x / unit - 1e-9);
}

/* "sparsegauge gate 3 …" is of the database that the page was made from. */
static void add_db(const char *db, struct str *out)
{
    if (!db || !strcmp(db, "sparsegauge.db")) return;
    str_add(out, " --db");
    text_shell_word(db, out);
}

static bool is_candidate(const struct run_record *r)
{
    return r->status == RUN_DONE && !run_is_dense(r) && !run_is_oracle(r) &&
        !isnan(r->headline.kl_mean) && !isnan(r->headline.sparsity);
}

/* Lost too little to matter, as far as its data can tell. */
static bool holds_choice(const struct run_record *r)
{
    const struct headline *h = &r->headline;
    double kl = isnan(h->kl_hi) ? h->kl_mean : h->kl_hi;
    return kl <= CHOICE_KL && !(h->score_drop > CHOICE_ANSWERS);
}

/* On the same data, nine tenths of the sparsity or more, and less lost beyond both intervals: the
 * one with the lowest KL; NULL without. */
static const struct run_record *better_run(const struct run_view *v, const struct run_list *runs)
{
    const struct run_record *best = NULL, *own = v->run;
    for (size_t i = 0; runs && i < runs->n; i++) {
        const struct run_record *r = &runs->rows[i];
        if (!is_candidate(r) || r->id == own->id || r->max_length != own->max_length ||
            r->headline.sparsity < .9 * own->headline.sparsity ||
            !(r->headline.kl_hi < own->headline.kl_lo))
            continue;
        if (!best || r->headline.kl_mean < best->headline.kl_mean) best = r;
    }
    return best;
}

static void tell_better(
    const struct run_record *own, const struct run_record *r, const char *db, struct answers *out)
{
    struct str name = {0};
    run_short_name(r, &name);
    str_addf(&out->todo,
        "Take run %lld (%s): on the same texts it loses %.4f instead of %.4f nats of KL, beyond "
        "both intervals, at %.1f instead of %.1f %% sparsity.",
        (long long)r->id, str_get(&name), r->headline.kl_mean, own->headline.kl_mean,
        100 * r->headline.sparsity, 100 * own->headline.sparsity);
    str_addf(&out->command, "sparsegauge report %lld", (long long)r->id);
    add_db(db, &out->command);
    str_clear(&name);
}

static void tell_gate(const struct run_view *v, const char *db, struct answers *out)
{
    const struct run_record *r = v->run;
    double kl = isnan(r->headline.kl_hi) ? r->headline.kl_mean : r->headline.kl_hi,
           sparsity = r->headline.sparsity;
    str_add(&out->todo, "Keep it so: the gate fails a change that loses more.");
    str_add(&out->command, "sparsegauge gate");
    if (v->from_file) text_shell_word(v->label, &out->command);
    else str_addf(&out->command, " %lld", (long long)r->id);
    if (kl > 0) str_addf(&out->command, " --max-kl %.3g", round_up(kl));
    if (sparsity > .02) str_addf(&out->command, " --min-sparsity %.2g", floor(50 * sparsity) / 50);
    if (!v->from_file) add_db(db, &out->command);
}

static void tell_todo(
    const struct run_view *v, const struct run_record *better, const char *db, struct answers *out)
{
    const struct run_record *r = v->run;
    double sparsity = run_view_metric(v, "sparsity");
    if (r->status != RUN_DONE) {
        str_add(&out->todo, "Run it again, once the reason below is gone.");
    } else if (isnan(r->headline.kl_mean)) {
        str_add(
            &out->todo, "It only timed: evaluate the same settings on text to see what they lose.");
    } else if (run_is_dense(r) || (sparsity < .01 && !run_is_eight(r))) {
        str_add(&out->todo,
            "Hardly anything is left out: tune thresholds, so that there is something to judge.");
        add_model(r, "tune", &out->command);
        str_add(&out->command, " --l1 .06 --pv-l1 .07 -o tuned.json");
    } else if (v->samples.n < 2) {
        str_add(&out->todo, "Measure on more texts before believing a number.");
        add_model(r, "eval", &out->command);
        str_add(&out->command, " --num-samples 8");
    } else if (better) {
        tell_better(r, better, db, out);
    } else if (!run_lost(v) && !holds_choice(r)) {
        str_addf(&out->todo,
            "Not decided: on other texts it may lose more than one answer in a hundred or .05 "
            "nats. The same eval with --num-samples %zu tells more.",
            2 * v->samples.n);
    } else if (!run_lost(v)) {
        tell_gate(v, db, out);
    } else if (r->tuned_hash && r->rule && !strcmp(r->rule, "l1")) {
        str_addf(&out->todo,
            "Too much is lost for this sparsity. Another predictor and rule, chosen for each head, "
            "lose about a "
            "third as much in docs/studies/methods.md; a lower l1 (now %.3g) costs sparsity.",
            r->l1);
        add_model(r, "tune", &out->command);
        str_add(&out->command,
            " --method sparge/bound --rule rmse --l1 .07 --pv-l1 .075 -o tuned.json");
    } else if (r->tuned_hash) {
        str_addf(&out->todo,
            "Too much is lost: tune with a lower bound than %.3g, or leave the worst layers dense "
            "(--layers).",
            r->l1);
        add_model(r, "tune", &out->command);
        str_addf(&out->command, " --method %s --rule %s --l1 %.3g --pv-l1 %.3g -o tuned.json",
            r->method, r->rule ? r->rule : "l1", .6 * r->l1,
            .6 * (isnan(r->pv_l1) ? r->l1 : r->pv_l1) + .001);
    } else {
        str_add(&out->todo,
            "Too much is lost with one setting for all heads: tune thresholds head by head.");
        add_model(r, "tune", &out->command);
        str_add(&out->command, " --l1 .06 --pv-l1 .07 -o tuned.json");
    }
}

void run_answers(const struct run_view *v, const struct comparison *c,
    const struct run_list *same_data, const char *db, struct answers *out)
{
    const struct run_record *better = better_run(v, same_data);
    *out = (struct answers){0};
    tell_lost(v, c, out);
    tell_where(v, same_data, out);
    tell_noise(v, c, out);
    tell_todo(v, better, db, out);
    struct str disagreement = {0};
    double sparsity = run_view_metric(v, "sparsity");
    bool doubtful = metric_disagreement(
        v, &disagreement); /* no green light while the metrics contradict each other */
    str_clear(&disagreement);
    if (v->run->status != RUN_DONE || run_lost(v)) out->tone = TONE_BAD;
    else if (!doubtful && !better && holds_choice(v->run) && sparsity > .01 && v->samples.n > 1)
        out->tone = TONE_GOOD;
}

size_t sweep_choice(const struct run_list *runs, bool *holds)
{
    size_t best = SIZE_MAX;
    int longest = 0;
    for (size_t i = 0; i < runs->n; i++)
        if (is_candidate(&runs->rows[i]) && runs->rows[i].max_length > longest)
            longest = runs->rows[i].max_length;
    for (size_t i = 0; i < runs->n; i++) {
        const struct run_record *r = &runs->rows[i];
        if (is_candidate(r) && r->max_length == longest && holds_choice(r) &&
            (best == SIZE_MAX || r->headline.sparsity > runs->rows[best].headline.sparsity))
            best = i;
    }
    *holds = best != SIZE_MAX;
    struct frontier_point *points;
    size_t n;
    if (*holds || query_frontier(runs, FRONTIER_KL, &points, &n) != OK) return best;
    for (size_t i = 0; i < n; i++) {
        const struct run_record *r = &runs->rows[points[i].run];
        if (is_candidate(r) && r->max_length == longest && (best == SIZE_MAX || points[i].knee))
            best = points[i].run;
    }
    free(points);
    return best;
}

/* Which level of an axis costs most, everything else equal on average: the mean of log KL tells it.
 */
static void tell_axis(const struct run_axes *axes, const struct run_axis *a, struct str *out)
{
    double least = INFINITY, most = -INFINITY;
    const struct run_record *low = NULL, *high = NULL;
    for (size_t level = 0; level < a->n; level++) {
        double sum = 0;
        size_t n = 0;
        for (size_t i = 0; i < axes->runs->n; i++) {
            const struct run_record *r = &axes->runs->rows[i];
            if (!is_candidate(r) || run_axis_level(a, r) != (int)level ||
                !(r->headline.kl_mean > 0))
                continue;
            sum += log(r->headline.kl_mean);
            n++;
        }
        if (!n) continue;
        if (sum / (double)n < least) least = sum / (double)n, low = a->level[level];
        if (sum / (double)n > most) most = sum / (double)n, high = a->level[level];
    }
    if (!low || !high || low == high) return;
    struct str x = {0}, y = {0};
    run_axis_value(a, low, &x);
    run_axis_value(a, high, &y);
    str_addf(out, "%s%s %s: %.1f × the KL of %s", out->len ? "; " : "", a->name, str_get(&y),
        exp(most - least), str_get(&x));
    str_clear(&x);
    str_clear(&y);
}

void sweep_answers(
    const struct run_axes *axes, const size_t *counts, const char *db, struct answers *out)
{
    *out = (struct answers){0};
    const struct run_list *runs = axes->runs;
    bool holds;
    size_t at = sweep_choice(runs, &holds), done = 0, candidates = 0, kept = 0, sure = 0;
    for (size_t i = 0; i < runs->n; i++) {
        const struct run_record *r = &runs->rows[i];
        done += r->status == RUN_DONE;
        candidates += is_candidate(r);
        kept += is_candidate(r) && holds_choice(r);
        sure += is_candidate(r) && !isnan(r->headline.kl_lo);
    }
    if (at == SIZE_MAX) {
        str_add(&out->lost, "No finished run has a sparsity and a KL.");
        return;
    }
    const struct run_record *r = &runs->rows[at];
    struct str label = {0};
    run_axes_label(axes, r, NULL, NULL, &label);
    str_addf(&out->lost,
        "%zu of %zu settings keep KL under %.2g nats (upper end of its interval) and lose at most "
        "one answer in a "
        "hundred. %s: run %lld, %s: %.1f %% sparsity, KL %.4f",
        kept, candidates, CHOICE_KL,
        holds ? "The sparsest of them" : "None does; the knee of the frontier", (long long)r->id,
        str_get(&label), 100 * r->headline.sparsity, r->headline.kl_mean);
    if (!isnan(r->headline.kl_lo))
        str_addf(&out->lost, " [%.4f, %.4f]", r->headline.kl_lo, r->headline.kl_hi);
    if (!isnan(r->headline.score_drop))
        str_addf(&out->lost, ", %.1f %% of the answers lost", 100 * r->headline.score_drop);
    str_add(&out->lost, ".");
    for (size_t i = 0; i < axes->n; i++) tell_axis(axes, &axes->at[i], &out->where);
    if (out->where.len) str_add(&out->where, " (geometric means over the other settings).");
    else str_add(&out->where, "The runs differ in no setting that is told apart.");
    str_addf(&out->noise, "%zu of %zu runs have a 95 %% interval. ", sure, candidates);
    double detectable = run_detectable(r, FRONTIER_KL);
    if (!isnan(detectable))
        str_addf(&out->noise,
            "Beside the one above, KL that differs by less than %.2g may be chance; `compare` "
            "pairs the texts and sees "
            "less. ",
            detectable);
    size_t violations;
    struct table *t = monotonicity_table(runs, &violations);
    table_free(&t);
    if (violations)
        str_addf(&out->noise,
            "In %zu cases a tighter bound did worse than a looser one, beyond both intervals. ",
            violations);
    if (counts) {
        size_t all = 0;
        for (int i = 0; i <= CELL_MISSING; i++) all += counts[i];
        str_addf(&out->noise, "%zu of %zu cells are done", counts[CELL_DONE], all);
        for (int i = CELL_FAILED; i <= CELL_MISSING; i++)
            if (counts[i])
                str_addf(&out->noise, ", %zu %s", counts[i], cell_state_name((enum cell_state)i));
        str_add(&out->noise, ".");
    } else if (done < runs->n) {
        str_addf(&out->noise, "%zu of %zu runs did not finish.", runs->n - done, runs->n);
    }
    str_add(&out->todo,
        holds ? "Look at it alone, then hold it with a gate."
              : "Every setting loses more than that: tighten the bounds.");
    str_addf(&out->command, "sparsegauge report %lld", (long long)r->id);
    add_db(db, &out->command);
    out->tone = holds ? TONE_GOOD : TONE_BAD;
    str_clear(&label);
}
