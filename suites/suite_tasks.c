/* Prompts of a benchmark's file, answered by writing or by choosing (suites/task_formats.h).
 *
 * num_samples takes lines spread over the file (suites/spread.h). A prompt that does not fit loses
 * its middle, as LongBench and InfiniteBench have it; RULER's are refused, since their length is
 * what they are about.
 */
#include "suites/grid.h"
#include "suites/spread.h"
#include "suites/task_formats.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { OTHER_LENGTH = 50 }; /* a length is another tokenizer's when it is off by one in so many */

static enum status find_format(const char *name, const struct task_format **out)
{
    struct str known = {0};
    *out = NULL;
    for (int i = 0; task_formats[i]; i++) {
        if (!strcmp(task_formats[i]->name, name)) *out = task_formats[i];
        str_addf(&known, "%s%s", i ? ", " : "", task_formats[i]->name);
    }
    enum status st = *out ? OK
                          : fail(ERR_ARG,
                                "suite tasks: unknown format \"%.40s\"; known: %s, as in "
                                "tasks:FILE;format=longbench",
                                name, str_get(&known));
    str_clear(&known);
    return st;
}

static enum status add_candidates(
    const struct suite_options *o, struct sample_set *s, struct task_line *t, int question)
{
    const struct sample_set mark = *s;
    for (int i = 0; i < t->n_choices; i++) {
        struct answer_text *a = &t->choices[i];
        const char *base = path_base(a->file), *text = str_get(&a->answer);
        struct item item = {.question = question,
            .gold = i == t->gold,
            .depth = NAN,
            .length = -1,
            .n_bytes = (int)strlen(text + (*text == ' ')),
            .id = str_format("%s:%ld:%d", base, a->line, i),
            .group = str_dup(t->group)};
        bool too_short;
        TRY(build_answer(
            o, s, a, item, str_format("%s line %ld choice %d", base, a->line, i), &too_short));
        if (!too_short) continue;
        build_rollback(s, &mark);
        s->n_skipped++;
        break;
    }
    return OK;
}

/* The next of 512, 1024, … that holds a prepared prompt: what its maker asked for. */
static int nominal_length(int64_t length)
{
    int64_t nominal = 512;
    while (nominal < length) nominal *= 2;
    return length < 0 ? -1 : (int)nominal;
}

/* A score that writing nothing has tells nothing; only where texts are held equal may a right one
 * be empty. */
static enum status check_answers(const struct jsonl *in, const struct wanted *w)
{
    if (w->judge == JUDGE_EXACT || w->judge == JUDGE_VERBATIM ||
        judge_score(w->judge, "", w->answers, w->n_answers) <= 0)
        return OK;
    return fail(ERR_FORMAT,
        "%s: %s %ld: a right answer is an empty text, so that a model which writes nothing is "
        "right; expected texts to look for",
        in->path, jsonl_unit(in), in->line);
}

static enum status add_written(const struct suite_options *o, const struct jsonl *in,
    struct sample_set *s, struct task_line *t, int question)
{
    const char *base = path_base(in->path);
    struct token_list tokens = {0};
    struct item item = {.question = question,
        .gold = true,
        .n_bytes = (int)t->text.gold.len,
        .depth = NAN,
        .length = nominal_length(t->length),
        .id = str_format("%s:%ld", base, in->line),
        .group = str_dup(t->group),
        .wanted = t->wanted};
    t->wanted = NULL;
    enum status st = build_task_tokens(o, s, &t->text, &tokens);
    int64_t used = (int64_t)tokens.n + build_bos(o) + item.wanted->budget;
    s->n_other_length += t->length >= 0 && llabs(used - t->length) * OTHER_LENGTH > t->length;
    bool too_long = st == OK && t->whole && used > o->max_length;
    s->n_too_long += too_long;
    if (st == OK && !too_long)
        st = build_task(
            o, s, &t->text, &tokens, item, str_format("%s line %ld", base, in->line), !t->whole);
    else {
        wanted_free(item.wanted);
        free(item.id);
        free(item.group);
    }
    token_list_clear(&tokens);
    return st;
}

static enum status add_line(const struct suite_options *o, const struct task_format *f,
    const struct jsonl *in, struct sample_set *s)
{
    struct task_line t = {.length = -1, .text = {.file = in->path, .line = in->line}};
    int question = s->n_items ? s->items[s->n_items - 1].question + 1 : 0;
    enum status st = f->read(in, &t);
    if (st == OK && t.wanted) st = check_answers(in, t.wanted);
    if (st == OK)
        st = t.n_choices ? add_candidates(o, s, &t, question) : add_written(o, in, s, &t, question);
    task_line_clear(&t);
    return st;
}

static enum status read_file(const struct suite_options *o, const char *path,
    const struct task_format *f, struct sample_set *out)
{
    struct jsonl in = {0};
    enum status st;
    TRY_GOTO(st, done, jsonl_open(&in, path, NULL));
    for (;;) {
        TRY_GOTO(st, done, jsonl_next(&in));
        if (!in.object) break;
        TRY_GOTO(st, done, add_line(o, f, &in, out));
    }
    if (out->n_samples == 0 && out->n_too_long)
        st = fail(ERR_ARG, "%s: all %d prompts are longer than max_length, which is %d", path,
            out->n_too_long, o->max_length);
    if (st == OK) st = spread_questions(out, o);
done:
    jsonl_close(&in);
    return st;
}

static enum status read_format(void *ctx, const char *key, const char *value)
{
    if (strcmp(key, "format") == 0) return find_format(value, ctx);
    return fail(ERR_ARG, "suite tasks: unknown option \"%.40s\"; known: format", key);
}

static enum status load(const struct suite_options *o, struct sample_set *out)
{
    const char *options = strchr(o->argument, ';');
    if (!*o->argument || !options)
        return fail(ERR_ARG,
            "suite tasks needs a file and its format: write "
            "tasks:FILE;format=NAME, NAME one of ruler, longbench, longbench_v2, "
            "infinitebench, lm_eval");
    const struct task_format *f = NULL;
    TRY(grid_parse(options + 1, read_format, &f));
    if (!f) TRY(find_format("", &f));
    if (o->chat && f->wrapped)
        return fail(ERR_ARG,
            "--chat %s: prompts of format %s are as a model read them, chat and all; leave it out",
            o->chat->name, f->name);
    char *path = str_format("%.*s", (int)(options - o->argument), o->argument);
    enum status st = read_file(o, path, f, out);
    free(path);
    return st;
}

const struct suite suite_tasks = {
    .name = "tasks",
    .help = "tasks:FILE;format=NAME  a benchmark's file: ruler, longbench, longbench_v2, "
            "infinitebench, lm_eval",
    .generates = true,
    .load = load,
};
