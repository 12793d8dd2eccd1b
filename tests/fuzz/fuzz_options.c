/* What people type behind an option: understood, with values in their ranges and the same when its
 * canonical text is read, or refused with a message. The first letter says which option. */
#include "engine/policy.h"
#include "harness/cli/options.h"
#include "harness/sweep/shard.h"
#include "results/query.h"
#include "suites/jsonl.h"
#include "suites/suite.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static void understood(enum status st)
{
    if (st != OK) require(*status_message() != 0);
}

static void try_method(const char *text)
{
    const struct mask_method *m, *again;
    enum status st = mask_method_parse(text, &m);
    understood(st);
    if (st != OK) return;
    require(mask_method_parse(m->name, &again) == OK && again == m);
    for (int i = 0; m->values && i < m->n_params; i++)
        require(m->params[i].words || /* whose range is their number */
            (m->values[i] >= m->params[i].least && m->values[i] <= m->params[i].most));
}

static void try_block(const char *text)
{
    struct block_shape b;
    enum smooth_k s;
    enum status st = block_shape_parse(text, &b);
    understood(st);
    if (st == OK) require((b.q == 64 || b.q == 128) && (b.k == 64 || b.k == 128));
    if (smooth_k_parse(text, &s)) require(strcmp(smooth_k_name(s), text) == 0);
}

static void try_layers(const char *text)
{
    struct sparse_policy p;
    require(policy_init(&p, &mask_sparge, 9, 2) == OK);
    enum status st = policy_set_layers(&p, text);
    understood(st);
    if (st == OK) {
        char first[LAYERS_TEXT_SIZE], second[LAYERS_TEXT_SIZE];
        policy_layers_text(&p, first);
        require(policy_set_layers(&p, first) == OK);
        require(strcmp(first, policy_layers_text(&p, second)) == 0);
    }
    policy_clear(&p);
}

static void try_fields(const char *text)
{
    struct field_map m = {0};
    enum status st = field_map_parse(&m, text);
    understood(st);
    if (st == OK) require(m.n <= 6);
    field_map_clear(&m);
}

static void try_shard(const char *text)
{
    struct shard s;
    enum status st = shard_detect(text, &s);
    understood(st);
    if (st != OK) return;
    int first, end;
    require(s.index >= 0 && s.index < s.count);
    shard_range(&s, 1000, &first, &end);
    require(first >= 0 && first <= end && end <= 1000);
}

static void try_suite(const char *text)
{
    struct suite_said said;
    understood(suite_check(suite_name_parse(text, &said)));
    (void)suite_reads_fields(text);
    suite_said_clear(&said);
}

static void try_difference(const char *text)
{
    struct str out = {0};
    (void)key_json_diff(text, "{\"a\":1,\"b\":{\"c\":[2]}}", &out);
    (void)key_json_diff("{\"a\":1,\"b\":{\"c\":[2]}}", text, &out);
    str_clear(&out);
}

/* Words of a line, each an argument. */
static void try_line(const char *text)
{
    bool flag = false, want_help = false;
    int whole = 7;
    double real = 1, share = .5;
    const char *word = NULL, *positional[2];
    struct text_list list = {0};
    const struct option_def own[] = {
        {"flag", OPTION_FLAG, &flag, NULL, "a flag", 0, 0},
        {"n|whole-number|w", OPTION_INT, &whole, "N", "a number", 1, 100},
        {"real", OPTION_REAL, &real, "X", "a number", -1, 1},
        {"share", OPTION_SHARE, &share, "X", "a share", 0, 1},
        {"o|output", OPTION_TEXT, &word, "FILE", "a word", 0, 0},
        {"list", OPTION_LIST, &list, "X", "words", 0, 0},
        {0},
    };
    const struct option_def common[] = {{0}};
    char *copy = strdup(text), *argv[42], *rest = NULL;
    int argc = 0, n = 0;
    for (char *w = strtok_r(copy, " ", &rest); w && argc < 40; w = strtok_r(NULL, " ", &rest))
        argv[argc++] = w;
    argv[argc] = NULL;
    enum status st = options_parse(&(struct option_tables){.own = own, .common = common}, argc,
        argv, positional, 2, &n, &want_help);
    understood(st);
    if (st == OK && !want_help) {
        require(n >= 0 && n <= 2 && whole >= 1 && whole <= 100);
        require(real >= -1 && real <= 1 && share >= 0 && share <= 1);
    }
    free(copy);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    static void (*const readers[])(const char *) = {try_method, try_block, try_layers, try_fields,
        try_shard, try_suite, try_difference, try_line};
    enum { N = sizeof readers / sizeof *readers };
    if (size < 1) return 0;
    char *text = strndup((const char *)data + 1, size - 1);
    readers[(data[0] + N * 26 - 'a') % N](text);
    free(text);
    return 0;
}
