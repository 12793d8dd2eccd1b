#include "harness/cli/command.h"

#include "harness/cli/common_options.h"
#include "suites/text_file.h"
#include "base/file.h"
#include "harness/cli/output.h"
#include "harness/measure/prompts.h"
#include "harness/measure/setup.h"
#include "suites/chronicle.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    struct machine_options machine;
    struct policy_options policy;
    const char *prompt, *prompt_file, *dataset, *json;
    int max_new, max_length, top_k, seed;
    double temperature, top_p;
    bool dense, generate;
} o = {
    .machine = MACHINE_DEFAULTS,
    .policy = POLICY_DEFAULTS,
    .max_new = 50,
    .max_length = 1024,
    .top_p = 1,
};

static const struct option_def options[] = {
    {"model|model-name", OPTION_TEXT, &o.machine.model, "DIR", "instead of MODEL", 0, 0},
    {"p|prompt", OPTION_TEXT, &o.prompt, "TEXT",
        "what to continue (the tuning guide's prompts, behind a long text)", 0, 0},
    {"prompt-file", OPTION_TEXT, &o.prompt_file, "FILE", "the same from a file", 0, 0},
    {"n|max-new", OPTION_INT, &o.max_new, "TOKENS", "at most so many (50)", 1, 1 << 20},
    {"max-length", OPTION_INT, &o.max_length, "TOKENS",
        "of the guide's prompts with the text before them (1024)", 64, 1 << 20},
    {"dataset", OPTION_TEXT, &o.dataset, "FILE", "that text (a generated one)", 0, 0},
    {"o|output", OPTION_TEXT, &o.json, "FILE", "also write prompts and texts as JSON", 0, 0},
    {"generate", OPTION_FLAG, &o.generate, NULL, "accepted: this is generate", 0, 0},
    {"temperature", OPTION_REAL, &o.temperature, "X", "0 is greedy (0)", 0, 100},
    {"top-k", OPTION_INT, &o.top_k, "N", "sample among the N likeliest (all)", 0, 1 << 30},
    {"top-p", OPTION_REAL, &o.top_p, "X", "sample among the likeliest that hold this mass (1)", 0,
        1},
    {"seed", OPTION_INT, &o.seed, "N", "of the sampling (0)", 0, 1 << 30},
    {"dense", OPTION_FLAG, &o.dense, NULL, "dense prefill", 0, 0},
    POLICY_OPTIONS(o.policy),
    MACHINE_OPTIONS(o.machine),
    GRAPH_OPTIONS(o.machine),
    {0},
};

struct writer {
    struct model *model;
    struct token_stream stream;
    struct str text;
    enum status st;
};

static bool write_token(void *ctx, int32_t id)
{
    struct writer *w = ctx;
    struct str piece = {0};
    w->st = token_stream_push(&w->stream, w->model->tokenizer, id, &piece);
    str_add(&w->text, str_get(&piece));
    if (for_people()) {
        fwrite(str_get(&piece), 1, piece.len, stdout);
        fflush(stdout);
    }
    str_clear(&piece);
    return w->st == OK && !cancel_requested(NULL);
}

static struct table *columns_new(bool guide)
{
    static const char *const texts[] = {"prompt", "dense", "sparse"};
    struct table *t = table_new(NULL);
    for (int i = 0; i < (guide ? 3 : 1); i++)
        table_add_column(t, (struct table_column){.name = texts[i], .weight = 9 - i});
    if (!guide) table_add_column(t, (struct table_column){.name = "text"});
    table_add_column(t, (struct table_column){.name = "prompt tokens", .key = "n_prompt"});
    table_add_column(t, (struct table_column){.name = "new tokens", .key = "n_tokens"});
    table_add_column(t, (struct table_column){.name = "prefill", .key = "prefill"});
    table_add_column(t,
        (struct table_column){
            .name = "sparsity", .number = NUMBER_PERCENT, .digits = 1, .weight = 3});
    if (guide) {
        table_add_column(t,
            (struct table_column){.name = "token match",
                .key = "token_match",
                .number = NUMBER_PERCENT,
                .digits = 1,
                .weight = 5});
        table_add_column(t,
            (struct table_column){.name = "similarity",
                .key = "text_similarity",
                .number = NUMBER_PERCENT,
                .digits = 1,
                .weight = 2});
    } else {
        table_add_column(t, (struct table_column){.name = "prefill_s"});
        table_add_column(t, (struct table_column){.name = "decode_s"});
    }
    table_keep_constant(t);
    return t;
}

static enum status write_file(struct table *t)
{
    struct str text = {0};
    if (!o.json) return OK;
    table_render(t, TABLE_JSON, (struct table_style){0}, &text);
    enum status st = file_write_text(o.json, &text);
    str_clear(&text);
    return st;
}

static enum status run(
    struct setup *setup, const struct sparse_policy *policy, const struct tuned *tuned)
{
    struct str text = {0}, rest = {0}, begins = {0};
    struct token_list prompt = {0};
    struct session *s = NULL;
    const struct llama_config *c = &setup->model.weights.config;
    size_t n_cells = (size_t)c->n_layers * (size_t)c->n_heads;
    struct head_ledger *ledger = calloc(n_cells, sizeof *ledger), total = {0};
    int32_t *out = malloc(sizeof *out * (size_t)o.max_new);
    struct writer writer = {.model = &setup->model, .stream = {.skip_special = true}};
    enum status st =
        ledger && out ? OK : fail(ERR_MEMORY, "no memory for %d new tokens", o.max_new);
    struct text_file file = {0};
    if (st == OK && o.prompt_file) st = text_file_open(&file, o.prompt_file);
    const char *read = NULL;
    if (st == OK && o.prompt_file) st = text_file_take(&file, 0, file.len, &read);
    if (st == OK && read) str_add_bytes(&text, read, file.len);
    text_file_close(&file);
    if (st != OK) goto done;
    if (o.prompt) str_add(&text, o.prompt);
    chat_wrap(&setup->chat, &text);
    TRY_GOTO(st, done, model_prompt(&setup->model, str_get(&text), text.len, &prompt));
    if (prompt.n == 0)
        TRY_GOTO(st, done, fail(ERR_ARG, "the prompt has no tokens; give --prompt TEXT"));
    TRY_GOTO(st, done,
        session_open(&s, &setup->model.weights, setup->par, (int)prompt.n + o.max_new,
            o.machine.chunk, o.machine.impl));
    setup_note_tuned(&o.policy, tuned, NULL, (int)prompt.n);
    int end = (int)prompt.n + o.max_new;
    if (end > c->max_position)
        fprintf(stderr, "sparsegauge: up to %d tokens, the model was made for %d\n", end,
            c->max_position);
    struct generate_args g = {
        .prompt = prompt.ids,
        .n_prompt = (int)prompt.n,
        .max_new = o.max_new,
        .sampler = {(float)o.temperature, o.top_k, (float)o.top_p, (uint64_t)o.seed},
        .policy = o.dense ? NULL : policy,
        .ledger = ledger,
        .token = write_token,
        .ctx = &writer,
    };
    struct generate_result result;
    TRY_GOTO(st, done, generate(s, &g, out, &result));
    TRY_GOTO(st, done, writer.st);
    TRY_GOTO(st, done, token_stream_flush(&writer.stream, setup->model.tokenizer, &rest));
    str_add(&writer.text, str_get(&rest));
    if (for_people()) printf("%s\n", str_get(&rest));
    for (size_t i = 0; i < n_cells; i++) head_ledger_add(&total, &ledger[i]);
    tokenizer_prefix_text(setup->model.tokenizer, setup->model.bos, &begins);
    bool sparse = !o.dense && !total.calls_dense_short;
    struct table *t = columns_new(false);
    table_text(t, str_get(&text));
    table_text(t, str_get(&writer.text));
    table_int(t, (int64_t)prompt.n);
    table_int(t, result.n_new);
    table_text(t, sparse ? "sparse" : "dense");
    table_real(t, sparse ? ledger_sparsity(&total) : 0);
    table_real(t, (double)result.prefill_ns * 1e-9);
    table_real(t, (double)result.decode_ns * 1e-9);
    st = write_file(t);
    data_table("generations", t);
    if (!for_people()) goto done;
    fprintf(stderr, "\nprompts %s", str_get(&begins));
    fprintf(stderr, "\nprefill %zu tokens in %.3f s, decode %d tokens in %.3f s (%.1f a second)\n",
        prompt.n, (double)result.prefill_ns * 1e-9, result.n_new, (double)result.decode_ns * 1e-9,
        result.n_new / ((double)result.decode_ns * 1e-9));
    if (total.calls_dense_short)
        fprintf(stderr, "the prompt is shorter than %d tokens: every layer ran dense\n",
            policy->min_sparse_tokens);
    else if (!o.dense)
        fprintf(stderr, "prefill sparsity %.1f %%, counted%s\n", 100 * ledger_sparsity(&total),
            total.calls_eight ? "; its products of eight bits, those of decode steps are not" : "");
done:
    str_clear(&writer.text);
    token_stream_clear(&writer.stream);
    session_close(&s);
    token_list_clear(&prompt);
    str_clear(&text);
    str_clear(&rest);
    str_clear(&begins);
    free(ledger);
    free(out);
    return st;
}

/* The text before the prompts: of a file, or a generated one that is surely long enough. */
static enum status read_context(
    struct chronicle_doc *doc, struct text_file *file, struct prompt_context *out)
{
    enum { BYTES_A_TOKEN = 8 };
    *out = (struct prompt_context){.max_tokens = o.max_length};
    if (o.dataset) {
        TRY(text_file_open(file, o.dataset));
        out->text = file->text;
        out->len = file->len < (size_t)o.max_length * 64 ? file->len : (size_t)o.max_length * 64;
        return OK;
    }
    TRY(chronicle_write(&(struct chronicle_config){CHRONICLE_EVAL, (uint64_t)o.seed,
                            (size_t)o.max_length * BYTES_A_TOKEN},
        doc));
    out->text = str_get(&doc->text);
    out->len = doc->text.len;
    return OK;
}

/* Without a prompt: the guide's, dense and sparse side by side, behind a text long enough for
 * prefill to leave something out. */
static enum status run_guide(struct setup *setup, const struct sparse_policy *policy)
{
    struct chronicle_doc doc = {0};
    struct text_file file = {0};
    struct prompt_context context;
    struct arena *arena = NULL;
    struct generation_record rows[N_GUIDE_PROMPTS];
    struct prompt_prefill prefill[N_GUIDE_PROMPTS];
    struct table *t = NULL;
    enum status st;
    TRY_GOTO(st, done, read_context(&doc, &file, &context));
    TRY_GOTO(st, done,
        prompts_run(
            &setup->model, setup->par, policy, o.machine.impl, &context, &arena, rows, prefill));
    say("the tuning guide's prompts behind %s; %s\n",
        o.dataset ? o.dataset : "a generated text (--dataset FILE takes yours)",
        isnan(prefill[0].sparsity)
            ? "too short for sparse prefill: both sides ran dense, raise --max-length"
            : "prefill sparse on one side, decode steps dense on both");
    t = columns_new(true);
    for (int i = 0; i < N_GUIDE_PROMPTS; i++) {
        table_text(t, rows[i].prompt);
        table_text(t, rows[i].dense);
        table_text(t, rows[i].sparse);
        table_int(t, prefill[i].n_tokens);
        table_int(t, rows[i].n_tokens);
        table_text(t, isnan(prefill[i].sparsity) ? "dense" : "sparse");
        table_real(t, isnan(prefill[i].sparsity) ? 0 : prefill[i].sparsity);
        table_real(t, rows[i].token_match);
        table_real(t, rows[i].text_similarity);
    }
    st = write_file(t);
    print_table("generations", t);
done:
    arena_free(&arena);
    chronicle_doc_clear(&doc);
    text_file_close(&file);
    return st;
}

static enum status generate_command(struct command_call *call)
{
    enum status st = OK;
    struct setup setup = {0};
    struct sparse_policy policy = {0};
    struct tuned tuned = {0};
    cancel_install();
    if (o.prompt && o.prompt_file)
        return fail(ERR_ARG, "two prompts: give --prompt or --prompt-file");
    if (o.temperature == 0 && (o.top_k || o.top_p != 1 || o.seed))
        return fail(ERR_ARG,
            "with temperature 0 the likeliest token is taken, so --top-k, --top-p and --seed mean "
            "nothing; give --temperature X");
    if (o.dense &&
        (o.policy.method || o.policy.tuned || o.policy.topk > 0 || o.policy.window > 0 ||
            o.policy.qk || o.policy.pv))
        return fail(ERR_ARG,
            "--dense goes with no --method, --topk, --window, --tuned, --qk or --pv; dense in "
            "eight bits is --method dense "
            "--qk int8 --pv fp8");
    bool guide = !o.prompt && !o.prompt_file;
    if (guide && (o.dense || o.temperature > 0 || o.max_new != 50))
        return fail(ERR_ARG,
            "without --prompt the tuning guide's prompts are continued dense and sparse, greedily "
            "by 50 tokens; "
            "--dense, --temperature and --max-new go with --prompt TEXT");
    if (!guide && o.dataset)
        return fail(
            ERR_ARG, "--dataset is the text before the guide's prompts; it goes without --prompt");
    TRY(output_check(o.json));
    TRY_GOTO(st, done, setup_open(&setup, &o.machine, call->positional[0]));
    TRY_GOTO(st, done, setup_policy(&setup, &o.policy, &policy, &tuned));
    st = guide ? run_guide(&setup, &policy) : run(&setup, &policy, &tuned);
done:
    policy_clear(&policy);
    tuned_clear(&tuned);
    setup_close(&setup);
    return st;
}

const struct command cmd_generate = {
    .name = "generate",
    .summary = "write text with dense or sparse prefill",
    .help =
        {
            "generate MODEL [--prompt TEXT] [options]",
            "Continues a prompt; without one the tuning guide's three, dense and sparse side by "
            "side, behind a text. The prefill is sparse unless --dense is given or the prompt is "
            "shorter than\n"
            "--min-sparse-tokens, which is said; decode steps are dense.",
            "sparsegauge generate suites/demo/model --prompt \"Once upon a time,\" -n 60\n"
            "sparsegauge generate suites/demo/model --topk .5 --max-length 2048",
            "prompt max-new tuned topk max-length dataset",
        },
    .options = options,
    .max_positional = 1,
    .run = generate_command,
};
