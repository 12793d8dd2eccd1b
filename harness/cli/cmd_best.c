#include "harness/cli/command.h"

#include "base/file.h"
#include "base/xmalloc.h"
#include "harness/cli/output.h"
#include "harness/cli/summary.h"
#include "results/query.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    struct best_bounds bounds;
    struct run_filter filter;
    const char *db, *export;
} o = {
    .db = "sparsegauge.db",
    .bounds = {NAN, NAN, NAN, NAN, false},
};

static const struct option_def options[] = {
    {"db", OPTION_TEXT, &o.db, "FILE", "results database (sparsegauge.db)", 0, 0},
    {"min-cosine", OPTION_REAL, &o.bounds.min_cosine, "X", "mean cosine of the logits, at least",
        -1, 1},
    {"max-kl", OPTION_REAL, &o.bounds.max_kl, "X", "mean KL in nats, at most", 0, 1e9},
    {"max-ppl-increase", OPTION_SHARE, &o.bounds.max_ppl_increase, "X",
        "perplexity, at most this share more: .02 or 2%", 0, 1e9},
    {"min-token-accuracy", OPTION_SHARE, &o.bounds.min_token_accuracy, "X",
        "same most likely token, at least", 0, 1},
    {"with-intervals", OPTION_FLAG, &o.bounds.with_intervals, NULL,
        "the bad end of the 95 % interval must hold, too", 0, 0},
    {"max-length", OPTION_INT, &o.filter.max_length, "TOKENS", "runs up to this length only", 0,
        1 << 30},
    {"model", OPTION_TEXT, &o.filter.model, "NAME", "runs of this model only", 0, 0},
    {"suite", OPTION_TEXT, &o.filter.suite, "NAME",
        "runs on this suite, or on the data set of this name, only", 0, 0},
    {"dataset", OPTION_TEXT, &o.filter.dataset, "HASH",
        "runs on the data set with this fingerprint only", 0, 0},
    {"m|method", OPTION_TEXT, &o.filter.method, "NAME",
        "runs of this method only; the oracle only so", 0, 0},
    {"layers", OPTION_TEXT, &o.filter.layers, "WHICH", "runs with these layers only", 0, 0},
    {"export", OPTION_TEXT, &o.export, "FILE", "write the thresholds it used as tuned.json", 0, 0},
    {0},
};

static enum status export_thresholds(struct store *s, const struct run_record *r)
{
    struct tuned_list list;
    if (!r->tuned_hash)
        return fail(ERR_ARG,
            "--export: run %lld used the same thresholds for all heads; they are in its settings",
            (long long)r->id);
    TRY(query_tuned(s, r->tuned_hash, NULL, &list));
    struct str text = {0};
    if (list.n == 1 && list.rows[0].json) str_add(&text, list.rows[0].json);
    enum status st = text.len ? file_write_text(o.export, &text)
                              : fail(ERR_DB, "%s: the thresholds %s of run %lld are not stored",
                                    o.db, r->tuned_hash, (long long)r->id);
    str_clear(&text);
    tuned_list_clear(&list);
    if (st == OK) say("\nwrote its thresholds to %s\n", o.export);
    return st;
}

/* Runs of one model on one data set compete; others do not. */
struct contest {
    struct run_list runs; /* its rows are owned, what they point to is not */
    struct run_list best; /* empty: none holds the bounds, because of … */
    char *why;
};

static bool contest_has(const struct contest *c, const struct run_record *r)
{
    return strcmp(c->runs.rows->dataset.fingerprint, r->dataset.fingerprint) == 0 &&
        strcmp(c->runs.rows->model.fingerprint, r->model.fingerprint) == 0;
}

static void contests_find(const struct run_list *runs, struct contest **out, size_t *n)
{
    *out = NULL;
    *n = 0;
    for (size_t i = 0; i < runs->n; i++) {
        size_t k = 0;
        while (k < *n && !contest_has(&(*out)[k], &runs->rows[i])) k++;
        if (k == *n) {
            *out = xrealloc(*out, (*n + 1) * sizeof **out);
            (*out)[(*n)++] =
                (struct contest){.runs = {.rows = xcalloc(runs->n, sizeof *runs->rows)}};
        }
        (*out)[k].runs.rows[(*out)[k].runs.n++] = runs->rows[i];
    }
}

static void contests_free(struct contest *c, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        run_list_clear(&c[i].best);
        free(c[i].runs.rows);
        free(c[i].why);
    }
    free(c);
}

/* What the answer must not be taken without: metrics that contradict each other, and what the run
 * could tell apart. */
static void add_caveats(struct table *t, const struct run_record *r, bool named)
{
    const struct headline *h = &r->headline;
    struct str text = {0};
    char run[32] = "";
    if (named) snprintf(run, sizeof run, "run %lld: ", (long long)r->id);
    str_add(&text, run);
    if (metrics_disagree(h->cosine_mean, h->kl_mean, h->token_accuracy, &text))
        table_note(t, str_get(&text));
    str_reset(&text);
    double kl = run_detectable(r, FRONTIER_KL), cosine = run_detectable(r, FRONTIER_COSINE);
    str_add(&text, run);
    if (isnan(kl) || isnan(cosine))
        str_add(&text,
            "one sample gives no interval: what it could tell from other runs is unknown; use "
            "--num-samples 5 or more");
    else
        str_addf(&text,
            "detectable on as many other texts (5 %% false alarms, 80 %% power): a change of "
            "cosine by %.4f, of KL "
            "by %.4f nats",
            cosine, kl);
    table_note(t, str_get(&text));
    str_clear(&text);
}

static void say_command_of(const struct run_record *r, bool named)
{
    struct str command = {0};
    const char *tuned = o.export ? o.export : "tuned.json";
    if (run_command(r, r->tuned_hash ? tuned : NULL, &command)) {
        if (named)
            say("\nto make run %lld again%s:\n", (long long)r->id,
                r->tuned_hash && !o.export ? ", its thresholds written first by --export tuned.json"
                                           : "");
        else
            say("\nto make it again%s:\n",
                r->tuned_hash && !o.export ? ", its thresholds written first by --export tuned.json"
                                           : "");
        say_command("  %s\n", str_get(&command));
    } else {
        say("\n%s\n", str_get(&command));
    }
    str_clear(&command);
}

static void print_best(const struct contest *c, size_t n, size_t n_held)
{
    struct run_list all = {.rows = xcalloc(n_held, sizeof *all.rows)};
    for (size_t i = 0; i < n; i++)
        if (c[i].best.n) all.rows[all.n++] = c[i].best.rows[0];
    struct table *t = runs_table(&all);
    if (n > 1)
        table_keep_constant(t); /* which data set an answer is for is the first thing to know */
    for (size_t i = 0; i < all.n; i++) add_caveats(t, &all.rows[i], all.n > 1);
    for (size_t i = 0; i < n; i++)
        if (!c[i].best.n) table_note(t, c[i].why);
    print_table("runs", t);
    for (size_t i = 0; i < all.n; i++) say_command_of(&all.rows[i], all.n > 1);
    free(all.rows);
}

static enum status run(bool *none)
{
    struct store *s = NULL;
    struct run_list runs = {0}, nothing;
    struct contest *contests = NULL;
    const struct best_bounds *b = &o.bounds;
    size_t n = 0, n_held = 0, one = 0;
    if (isnan(b->min_cosine) && isnan(b->max_kl) && isnan(b->max_ppl_increase) &&
        isnan(b->min_token_accuracy))
        return fail(ERR_ARG, "best: under which bounds? e.g. --min-cosine .98 --max-kl .02");
    TRY(store_open(&s, o.db, STORE_READ));
    o.filter.done_only = true;
    enum status st;
    TRY_GOTO(st, done, query_runs(s, &o.filter, &runs));
    contests_find(&runs, &contests, &n);
    for (size_t i = 0; i < n; i++) {
        st = query_best(s, &contests[i].runs, o.filter.method != NULL, b, &contests[i].best);
        if (st != OK && st != ERR_ARG)
            goto done; /* ERR_ARG: no run holds them, which is an answer */
        if (st == OK) n_held++, one = i;
        else
            contests[i].why =
                str_format("on %s: %s", contests[i].runs.rows->dataset.name, status_message());
    }
    *none = !n_held;
    if (n_held) {
        print_best(contests, n, n_held);
        st = OK;
    } else if (!n) {
        st = query_best(s, &runs, true, b, &nothing);
    } else if (n > 1) { /* of one the reason stands already */
        st = fail(ERR_ARG, "%s: on none of %zu data sets a run holds the bounds; %s", o.db, n,
            contests[0].why);
    }
    if (st == OK && o.export)
        st = n_held == 1 ? export_thresholds(s, contests[one].best.rows)
                         : fail(ERR_ARG,
                               "--export writes the thresholds of one run, and there is one for "
                               "each of %zu data sets; "
                               "name one with --suite, --max-length or --dataset",
                               n_held);
done:
    contests_free(contests, n);
    run_list_clear(&runs);
    store_close(&s);
    return st;
}

static enum status best_command(struct command_call *call)
{
    bool none = false;
    enum status st = run(&none);
    if (none) call->code = EXIT_GATE;
    return st;
}

const struct command cmd_best = {
    .name = "best",
    .summary = "the cheapest settings that hold your bounds",
    .help =
        {
            "best [bounds] [options]",
            "Prints, for each model and data set, the run with the highest sparsity that holds "
            "every bound, and the command that\n"
            "makes it again. Where none does, the nearest run and the bound it breaks are named; "
            "exit code 1: nowhere one does.",
            "sparsegauge best --min-cosine .98 --max-kl .02 --max-length 4096\n"
            "sparsegauge best --max-ppl-increase .01 --with-intervals --export tuned.json",
            "min-cosine max-kl max-ppl-increase with-intervals suite export",
        },
    .options = options,
    .max_positional = 0,
    .run = best_command,
};
