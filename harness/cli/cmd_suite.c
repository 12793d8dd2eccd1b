#include "harness/cli/command.h"

#include "harness/cli/common_options.h"
#include "harness/cli/output.h"
#include "harness/measure/setup.h"
#include "suites/chronicle.h"

#include <stdio.h>
#include <stdlib.h>
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

static void print_text(const struct chronicle_doc *doc)
{
    struct table *t = table_new(NULL);
    field_count(t, "n_bytes", NULL, (int64_t)doc->text.len);
    field_count(t, "n_questions", NULL, (int64_t)doc->n_questions);
    field_text(t, "text", NULL, str_get(&doc->text));
    data_object("document", t);
    if (for_people()) printf("%s\n", str_get(&doc->text));
}

static void print_questions(const struct chronicle_doc *doc)
{
    static const char *const names[] = {"kind", "evidence at", "asked at", "question"};
    static const char *const keys[] = {"kind", "evidence_byte", "query_byte", "question"};
    struct table *t = table_new(NULL);
    for (int i = 0; i < 4; i++)
        table_add_column(
            t, (struct table_column){.name = names[i], .key = keys[i], .weight = i == 3});
    table_keep_constant(t);
    for (size_t i = 0; i < doc->n_questions; i++) {
        const struct chronicle_question *q = &doc->questions[i];
        char *text = str_format(
            "%.*s", (int)(q->answer_end - q->query_begin), doc->text.data + q->query_begin);
        table_text(t, chronicle_kind_name(q->kind));
        table_int(t, (int64_t)q->evidence_begin);
        table_int(t, (int64_t)q->query_begin);
        table_text(t, text);
        free(text);
    }
    print_table("questions", t);
}

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
    if (st == OK && !o.questions) print_text(&doc);
    if (st == OK && (o.questions || !for_people())) print_questions(&doc);
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
        say("%s: %d samples, %lld tokens, %d questions, fingerprint %s; they %s\n", set.shown,
            set.n_samples, (long long)set.n_tokens, set.n_questions, set.fingerprint,
            str_get(&begins));
        struct table *about = table_new(NULL), *t = table_new(NULL);
        field_text(about, "suite", NULL, set.suite);
        field_text(about, "dataset", NULL, set.name);
        field_text(about, "fingerprint", NULL, set.fingerprint);
        field_count(about, "n_samples", NULL, set.n_samples);
        field_count(about, "n_tokens", NULL, set.n_tokens);
        field_count(about, "n_questions", NULL, set.n_questions);
        data_object("dataset", about);
        table_add_column(t, (struct table_column){.name = "sample"});
        table_add_column(t, (struct table_column){.name = "tokens", .key = "n_tokens"});
        table_add_column(t, (struct table_column){.name = "name"});
        table_keep_constant(t);
        for (int i = 0; i < set.n_samples; i++) {
            table_int(t, i);
            table_int(t, set.samples[i].n);
            table_text(t, set.samples[i].name);
        }
        print_table("samples", t);
        str_clear(&begins);
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
            "model max-length num-samples questions length seed",
        },
    .options = options,
    .max_positional = 1,
    .run = suite_command,
};
