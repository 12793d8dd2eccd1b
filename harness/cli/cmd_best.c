#include "harness/cli/command.h"

#include "base/json.h"
#include "base/file.h"
#include "harness/cli/output.h"
#include "results/query.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static struct {
    struct output_options output;
    struct best_bounds bounds;
    struct run_filter filter;
    const char *db, *export;
} o = {
    .output = OUTPUT_DEFAULTS,
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
    {"suite", OPTION_TEXT, &o.filter.suite, "NAME", "runs on this suite only", 0, 0},
    {"m|method", OPTION_TEXT, &o.filter.method, "NAME",
        "runs of this method only; the oracle only so", 0, 0},
    {"layers", OPTION_TEXT, &o.filter.layers, "WHICH", "runs with these layers only", 0, 0},
    {"export", OPTION_TEXT, &o.export, "FILE", "write the thresholds it used as tuned.json", 0, 0},
    OUTPUT_OPTIONS(o.output),
    {0},
};

static void print_quoted(const char *word)
{
    if (*word && !strpbrk(word, " \t\n'\"\\$`*?[](){}<>|&;#~!")) {
        printf(" %s", word);
        return;
    }
    printf(" '");
    for (; *word; word++) {
        if (*word == '\'') printf("'\\''");
        else putchar(*word);
    }
    putchar('\'');
}

/* The stored arguments as a command line; a sweep's cell stores the arguments of a sweep of one
 * cell. */
static void print_command(const struct run_record *r)
{
    cJSON *argv = json_stored(r->argv_json);
    if (!cJSON_IsArray(argv)) {
        printf("its command line was not stored\n");
        cJSON_Delete(argv);
        return;
    }
    printf("sparsegauge %s", r->plan ? "sweep" : "eval");
    const cJSON *word;
    cJSON_ArrayForEach(word, argv) if (cJSON_IsString(word)) print_quoted(word->valuestring);
    putchar('\n');
    cJSON_Delete(argv);
}

static enum status export_thresholds(struct store *s, const struct run_record *r)
{
    struct tuned_list list;
    if (!r->tuned_hash)
        return fail(ERR_ARG,
            "--export: run %lld used the same thresholds for all heads; they are in its settings",
            (long long)r->id);
    TRY(query_tuned(s, r->tuned_hash, NULL, &list));
    enum status st = list.n == 1 && list.rows[0].json
        ? file_write_atomic(o.export, list.rows[0].json, strlen(list.rows[0].json))
        : fail(ERR_DB, "%s: the thresholds %s of run %lld are not stored", o.db, r->tuned_hash,
              (long long)r->id);
    tuned_list_clear(&list);
    if (st == OK)
        printf("wrote %s; to use it: sparsegauge eval … --tuned %s --layers %s\n", o.export,
            o.export, r->layers);
    return st;
}

/* What the answer must not be taken without: metrics that contradict each other, and what the run
 * could tell apart. */
static struct table *best_table(const struct run_list *best)
{
    struct table *t = runs_table(best);
    const struct headline *h = &best->rows[0].headline;
    struct str text = {0};
    if (metrics_disagree(h->cosine_mean, h->kl_mean, h->token_accuracy, &text))
        table_note(t, str_get(&text));
    str_reset(&text);
    double kl = run_detectable(best->rows, FRONTIER_KL),
           cosine = run_detectable(best->rows, FRONTIER_COSINE);
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
    return t;
}

static enum status run(bool *none)
{
    struct store *s = NULL;
    struct run_list best = {0};
    const struct best_bounds *b = &o.bounds;
    if (isnan(b->min_cosine) && isnan(b->max_kl) && isnan(b->max_ppl_increase) &&
        isnan(b->min_token_accuracy))
        return fail(ERR_ARG, "best: under which bounds? e.g. --min-cosine .98 --max-kl .02");
    TRY(store_open(&s, o.db, STORE_READ));
    enum status st = query_best(s, &o.filter, b, &best);
    *none = st == ERR_ARG; /* no run holds them: an answer, not a wrong command line */
    bool people = strcmp(o.output.format, "terminal") == 0;
    if (st == OK) st = print_table(best_table(&best), &o.output);
    if (st == OK && people) {
        printf("\nto make it again:\n  ");
        print_command(best.rows);
    }
    if (st == OK && o.export) st = export_thresholds(s, best.rows);
    run_list_clear(&best);
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
            "Prints the run with the highest sparsity that holds every bound, and the command that "
            "makes it again. "
            "When none does,\n"
            "the nearest run and the bound it breaks are named and the exit code is 1.",
            "sparsegauge best --min-cosine .98 --max-kl .02 --max-length 4096\n"
            "sparsegauge best --max-ppl-increase .01 --with-intervals --export tuned.json",
        },
    .options = options,
    .max_positional = 0,
    .run = best_command,
};
