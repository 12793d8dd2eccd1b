/* Any text as a file of a suite: refused with a message, or a set whose every item lies in its
 * sample. The first letter says which suite reads it, under which name. */
#include "engine/checkpoint/synth.h"
#include "suites/suite.h"

#include "base/file.h"
#include "base/text.h"
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct {
    const char *before, *file, *after;
} readers[] = {
    {"tasks:", "validation.jsonl", ";format=ruler"},
    {"tasks:", "lb.jsonl", ";format=longbench"},
    {"tasks:", "data.json", ";format=longbench_v2"},
    {"tasks:", "passkey.jsonl", ";format=infinitebench"},
    {"tasks:", "longbook_choice_eng.jsonl", ";format=infinitebench"},
    {"tasks:", "math_find.jsonl", ";format=infinitebench"},
    {"tasks:", "code_run.jsonl", ";format=infinitebench"},
    {"tasks:", "samples_arc.jsonl", ";format=lm_eval"},
    {"cloze:", "cloze.jsonl", ""},
    {"choice:", "choice.jsonl", ""},
    {"text:", "text.jsonl", ""},
};
enum { N_READERS = sizeof readers / sizeof *readers };

static char folder[64];
static struct tokenizer *tokenizer;

static void leave(void)
{
    char *command = str_format("rm -r %s", folder);
    (void)!system(command);
    free(command);
    tokenizer_close(&tokenizer);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    strcpy(folder, "/tmp/fuzz_suites_XXXXXX");
    require(mkdtemp(folder) != NULL);
    require(synth_write_tokenizer(folder) == OK && tokenizer_open(&tokenizer, folder) == OK);
    atexit(leave);
    return 0;
}

static void check(const struct sample_set *s)
{
    require(s->n_samples >= 0 && s->n_items >= 0 && s->n_questions <= s->n_items);
    for (int i = 0; i < s->n_samples; i++) {
        const struct sample *x = &s->samples[i];
        require(x->n >= 2 && x->n <= 512 && x->name && x->n_prompt >= 0 && x->n_prompt <= x->n);
        require(x->score_from >= 0 && x->score_from <= x->n);
    }
    for (int i = 0; i < s->n_items; i++) {
        const struct item *x = &s->items[i];
        require(x->sample >= 0 && x->sample < s->n_samples && x->id);
        require(x->begin >= 1 && x->begin <= x->end && x->end <= s->samples[x->sample].n);
        if (!x->wanted) continue;
        require(x->wanted->n_answers > 0 && x->wanted->budget > 0);
        double score = wanted_score(x->wanted, x->wanted->answers[0]);
        require(score >= 0 && score <= 1);
        (void)wanted_settled(x->wanted, "no answer\n");
    }
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    if (size < 2) return 0;
    int i = (data[0] + N_READERS * 26 - 'a') % N_READERS;
    char *path = path_join(folder, readers[i].file);
    char *spec = str_format("%s%s%s", readers[i].before, path, readers[i].after);
    FILE *f = fopen(path, "w");
    require(f != NULL && fwrite(data + 1, 1, size - 1, f) == size - 1);
    fclose(f);
    struct sample_set s;
    struct suite_options o = {
        .tokenizer = tokenizer, .max_length = 512, .seed = 1, .tuning = size % 2};
    if (suite_load(spec, &o, &s) == OK) check(&s);
    else require(*status_message() != 0 && s.n_samples == 0 && s.n_items == 0);
    sample_set_clear(&s);
    unlink(path);
    free(path);
    free(spec);
    return 0;
}
