/* Prompts of a suite as the lines of a JSONL file, with RULER's own names of fields, for
 * check_ruler.py: dump_ruler MODEL SUITE MAX_LENGTH > FILE */
#include "base/json.h"
#include "engine/tokenizer/tokenizer.h"
#include "suites/suite.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void must(enum status st)
{
    if (st == OK) return;
    fprintf(stderr, "dump_ruler: %s\n", status_message());
    exit(2);
}

static void print_sample(const struct tokenizer *t, const struct sample_set *set, int i)
{
    const struct sample *x = &set->samples[i];
    const struct wanted *w = sample_wanted(set, i);
    struct str text = {0};
    must(tokenizer_decode(t, x->ids, (size_t)x->n_prompt, true, &text));
    cJSON *line = cJSON_CreateObject(), *outputs = cJSON_AddArrayToObject(line, "outputs");
    cJSON_AddStringToObject(line, "task", x->name);
    cJSON_AddStringToObject(line, "input", str_get(&text));
    cJSON_AddNumberToObject(line, "length", x->n_prompt + w->budget);
    for (int k = 0; k < w->n_answers; k++)
        cJSON_AddItemToArray(outputs, cJSON_CreateString(w->answers[k]));
    char *out = cJSON_PrintUnformatted(line);
    puts(out);
    free(out);
    cJSON_Delete(line);
    str_clear(&text);
}

int main(int argc, char **argv)
{
    if (argc != 4) {
        fprintf(stderr, "usage: dump_ruler MODEL SUITE MAX_LENGTH > FILE\n");
        return 2;
    }
    struct tokenizer *t;
    struct sample_set set;
    must(tokenizer_open(&t, argv[1]));
    must(suite_load(argv[2],
        &(struct suite_options){.tokenizer = t, .argument = "", .max_length = atoi(argv[3])},
        &set));
    for (int i = 0; i < set.n_samples; i++) print_sample(t, &set, i);
    sample_set_clear(&set);
    tokenizer_close(&t);
    return 0;
}
