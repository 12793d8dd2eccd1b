#include "harness/cli/command.h"

#include "harness/cli/common_options.h"
#include "harness/measure/setup.h"
#include "suites/chronicle.h"

#include <stdio.h>
#include <string.h>

static struct {
    struct machine_options machine;
    struct sample_options samples;
    int length, depth;
    bool questions, needle;
} o = {
    .machine = MACHINE_DEFAULTS,
    .samples = SAMPLE_DEFAULTS,
    .length = 8000,
    .depth = 500,
};

static const struct option_def options[] = {
    {"model|model-name", OPTION_TEXT, &o.machine.model, "DIR",
        "tokenise with this model's tokenizer and list the samples", 0, 0},
    {"length", OPTION_INT, &o.length, "BYTES", "of a generated document (8000)", 600, 1 << 20},
    {"depth", OPTION_INT, &o.depth, "PERMILLE", "where the needle stands (500)", 0, 1000},
    {"needle", OPTION_FLAG, &o.needle, NULL, "print a needle document instead of a chronicle", 0,
        0},
    {"questions", OPTION_FLAG, &o.questions, NULL,
        "print the questions and where their evidence stands", 0, 0},
    SAMPLE_OPTIONS(o.samples),
    BOS_OPTION(o.machine),
    {0},
};

static enum status print_document(void)
{
    struct chronicle_doc doc = {0};
    enum status st;
    if (o.needle)
        st = needle_write(&(struct needle_config){.split = CHRONICLE_EVAL,
                              .seed = (uint64_t)o.samples.seed,
                              .target_bytes = (size_t)o.length,
                              .depth_permille = o.depth,
                              .n_needles = 1,
                              .n_questions = 1},
            &doc);
    else
        st = chronicle_write(
            &(struct chronicle_config){CHRONICLE_EVAL, (uint64_t)o.samples.seed, (size_t)o.length},
            &doc);
    if (st == OK && !o.questions) printf("%s\n", str_get(&doc.text));
    for (size_t i = 0; st == OK && o.questions && i < doc.n_questions; i++) {
        const struct chronicle_question *q = &doc.questions[i];
        printf("%-8s evidence at %zu, asked at %zu: %.*s\n", chronicle_kind_name(q->kind),
            q->evidence_begin, q->query_begin, (int)(q->answer_end - q->query_begin),
            doc.text.data + q->query_begin);
    }
    chronicle_doc_clear(&doc);
    return st;
}

static enum status print_samples(const char *spec)
{
    struct setup setup = {0};
    struct sample_set set = {0};
    o.machine.ignore_tensors = true; /* nothing is run */
    TRY(setup_open(&setup, &o.machine, NULL));
    o.samples.suites = (struct text_list){{spec}, 1};
    enum status st = setup_samples(&setup, &o.samples, 0, false, &set);
    if (st == OK) {
        struct str begins = {0};
        tokenizer_prefix_text(setup.model.tokenizer, setup.model.bos, &begins);
        printf("%s: %d samples, %lld tokens, %d questions, fingerprint %s; they %s\n", set.shown,
            set.n_samples, (long long)set.n_tokens, set.n_questions, set.fingerprint,
            str_get(&begins));
        str_clear(&begins);
        for (int i = 0; i < set.n_samples; i++)
            printf("%4d  %6d tokens  %s\n", i, set.samples[i].n, set.samples[i].name);
    }
    sample_set_clear(&set);
    setup_close(&setup);
    return st;
}

static enum status suite_command(struct command_call *call)
{
    enum status st = OK;
    const char *spec = call->n ? call->positional[0] : "chronicle";
    bool generated = strcmp(spec, "chronicle") == 0 || strcmp(spec, "needle") == 0;
    if (strcmp(spec, "needle") == 0 && !o.machine.model) o.needle = true;
    if (o.machine.model) st = print_samples(spec);
    else if (generated) st = print_document();
    else st = fail(ERR_ARG, "suite %s: give --model DIR, whose tokenizer cuts the text", spec);
    return st;
}

const struct command cmd_suite = {
    .name = "suite",
    .summary = "print what a suite would evaluate",
    .help =
        {
            "suite chronicle [options] | suite SPEC --model DIR",
            "Prints the generated text of the chronicle suite, or with --model the samples that a "
            "suite would run.",
            "sparsegauge suite chronicle --seed 7 --length 6000\nsparsegauge suite needle --model "
            "suites/demo/model",
        },
    .options = options,
    .max_positional = 1,
    .run = suite_command,
};
