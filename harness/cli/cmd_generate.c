#include "harness/cli/command.h"

#include "harness/cli/common_options.h"
#include "suites/text_file.h"
#include "harness/measure/setup.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct {
    struct machine_options machine;
    struct policy_options policy;
    const char *prompt, *prompt_file;
    int max_new, top_k, seed;
    double temperature, top_p;
    bool dense;
} o = {
    .machine = MACHINE_DEFAULTS,
    .policy = POLICY_DEFAULTS,
    .max_new = 50,
    .top_p = 1,
};

static const struct option_def options[] = {
    {"model|model-name", OPTION_TEXT, &o.machine.model, "DIR", "instead of MODEL", 0, 0},
    {"p|prompt", OPTION_TEXT, &o.prompt, "TEXT", "what to continue", 0, 0},
    {"prompt-file", OPTION_TEXT, &o.prompt_file, "FILE", "the same from a file", 0, 0},
    {"n|max-new", OPTION_INT, &o.max_new, "TOKENS", "at most so many (50)", 1, 1 << 20},
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
    enum status st;
};

static bool write_token(void *ctx, int32_t id)
{
    struct writer *w = ctx;
    struct str piece = {0};
    w->st = token_stream_push(&w->stream, w->model->tokenizer, id, &piece);
    fwrite(str_get(&piece), 1, piece.len, stdout);
    fflush(stdout);
    str_clear(&piece);
    return w->st == OK && !cancel_requested(NULL);
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
    printf("%s\n", str_get(&rest));
    for (size_t i = 0; i < n_cells; i++) head_ledger_add(&total, &ledger[i]);
    tokenizer_prefix_text(setup->model.tokenizer, setup->model.bos, &begins);
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
    if (!o.prompt && !o.prompt_file) return fail(ERR_ARG, "what to continue? give --prompt TEXT");
    TRY_GOTO(st, done, setup_open(&setup, &o.machine, call->positional[0]));
    TRY_GOTO(st, done, setup_policy(&setup, &o.policy, &policy, &tuned));
    st = run(&setup, &policy, &tuned);
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
            "generate MODEL --prompt TEXT [options]",
            "Continues a prompt. The prefill is sparse unless --dense is given or the prompt is "
            "shorter than\n"
            "--min-sparse-tokens, which is said; decode steps are dense.",
            "sparsegauge generate suites/demo/model --prompt \"Once upon a time,\" -n 60",
        },
    .options = options,
    .max_positional = 1,
    .run = generate_command,
};
