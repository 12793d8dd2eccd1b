#include "harness/cli/command.h"

#include "harness/cli/output.h"
#include "harness/cli/source.h"

#include <stdio.h>
#include <string.h>

static struct {
    const char *db;
    int worst;
} o = {
    .db = "sparsegauge.db",
    .worst = 20,
};

static const struct option_def options[] = {
    {"db", OPTION_TEXT, &o.db, "FILE", "results database (sparsegauge.db)", 0, 0},
    {"worst", OPTION_INT, &o.worst, "N", "so many (20)", 1, 100000},
    {0},
};

static void print_top(const char *label, const char *json, int64_t true_id)
{
    struct str text = {0};
    top_tokens_text(json, true_id, &text);
    say("    %s  %s\n", label, str_get(&text));
    str_clear(&text);
}

static void print_context(const char *text)
{
    enum { SHOWN = 160 };
    struct str shown = {0};
    size_t n = text ? strlen(text) : 0, from = n > SHOWN ? n - SHOWN : 0;
    /* not in the middle of a character */
    while (from < n && ((unsigned char)text[from] & 0xc0) == 0x80) from++;
    for (size_t i = from; i < n; i++) {
        if (text[i] == '\n') str_add(&shown, "\\n");
        else str_add_char(&shown, text[i]);
    }
    say("    %s%s\n", from ? "…" : "", str_get(&shown));
    str_clear(&shown);
}

/* Three reasons, and only one of them is mended by --worst. */
static enum status nothing_kept(const struct run_view *v)
{
    const struct metric_record *kl = metric_list_find(&v->metrics, "overall", "kl");
    if (v->from_file)
        return fail(ERR_ARG, "%s: a file holds no tokens; name the run in its database", v->label);
    if (!kl)
        return fail(ERR_ARG, "%s compared no tokens (suite %s); `eval` with another --suite does",
            v->label, v->run->dataset.suite);
    if (kl->max > 0)
        return fail(
            ERR_ARG, "%s kept no tokens; evaluate again with --worst N --replace", v->label);
    say("%s: not one token differs, the KL is 0 at all of its %lld positions\n", v->label,
        (long long)kl->n);
    return OK;
}

static enum status run(const char *name)
{
    struct view_source source = {0};
    enum status st = view_source_load(&source, o.db, name);
    if (st == OK && !for_people()) {
        print_table("tokens", worst_tokens_table(&source.view, (size_t)o.worst));
    } else if (st == OK) {
        const struct run_view *v = &source.view;
        if (!v->worst_tokens.n) st = nothing_kept(v);
        for (size_t i = 0; st == OK && i < v->worst_tokens.n && i < (size_t)o.worst; i++) {
            const struct worst_token_record *w = &v->worst_tokens.rows[i];
            say("%2zu. KL %.3f  cosine %.4f  sample %d, position %lld, row %.0f %% sparse;  nats "
                "to the "
                "true token: "
                "dense %.2f, sparse %.2f\n",
                i + 1, w->kl, w->cosine, w->sample, (long long)w->position, 100 * w->row_sparsity,
                w->nll_dense, w->nll_sparse);
            print_context(w->context);
            print_top("dense ", w->top_dense, w->token);
            print_top("sparse", w->top_sparse, w->token);
        }
        if (st == OK && v->worst_tokens.n) say("\n* the token that really follows\n");
    }
    view_source_clear(&source);
    return st;
}

static enum status tokens_command(struct command_call *call)
{
    return run(call->n ? call->positional[0] : "last");
}

const struct command cmd_tokens = {
    .name = "tokens",
    .summary = "the tokens that a run hurt most",
    .help =
        {
            "tokens [RUN] [options]",
            "Prints the tokens of a run with the highest KL: where they stand, what came before, "
            "what both models "
            "expected with\n"
            "their probabilities, and how sparse their row of blocks was. A run keeps as many as "
            "--worst of eval or "
            "sweep said.",
            "sparsegauge tokens last --worst 5\nsparsegauge tokens 12 --format csv",
        },
    .options = options,
    .max_positional = 1,
    .run = tokens_command,
};
