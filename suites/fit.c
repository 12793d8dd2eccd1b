#include "suites/fit.h"

#include "base/rng.h"
#include "suites/grid.h"

#include <stdlib.h>
#include <string.h>

enum { CHRONICLE_MIN_BYTES = 600, MAX_TRIES = 160, TRIES_PER_SEED = 2, MAX_DRAWS = 64 };
enum { SPARE = 8 /* tokens that may be written beyond the answer's */, CHAT_SEAMS = 4 };
#define NEXT_VARIANT ((uint64_t)1 << 40) /* far from any index */
#define NEXT_DRAW ((uint64_t)1 << 50)    /* far from any variant, and under the top bit */

uint64_t fit_seed(const struct suite_options *o, uint64_t index)
{
    uint64_t state = o->seed, top = (uint64_t)1 << 63;
    uint64_t seed = (splitmix64(&state) + index) & ~top;
    return o->tuning ? seed | top : seed;
}

void fitted_clear(struct fitted *f)
{
    chronicle_doc_clear(&f->doc);
    token_list_clear(&f->tokens);
    *f = (struct fitted){0};
}

/* Write and encode; *n counts BOS too. */
static enum status write_tokens(const struct suite_options *o, struct sample_set *s,
    fit_writer *write, const void *config, uint64_t seed, size_t bytes, struct fitted *f, size_t *n)
{
    f->seed = seed;
    f->bytes = bytes;
    TRY(write(config, seed, bytes, &f->doc));
    TRY(build_encode(o, s, f->doc.text.data, f->doc.text.len, &f->tokens));
    *n = f->tokens.n + (size_t)build_bos(o);
    f->bytes_per_token = (double)bytes / (double)*n;
    return OK;
}

enum status fit_write(const struct suite_options *o, struct sample_set *s, fit_writer *write,
    const void *config, uint64_t index, size_t min_bytes, int length, struct fitted *f)
{
    /* Where in the allowed band to aim. Documents miss the size they are asked for, and short ones
     * come in steps of a paragraph, so a miss is answered by the ratio it had, another aim and then
     * another seed. */
    static const double aims[] = {.96, .95, .94, .97, .93, .985, .92};
    size_t n = 0, least = SIZE_MAX;
    if (f->bytes_per_token <= 0) f->bytes_per_token = 4;
    for (int i = 0; i < MAX_TRIES; i++) {
        size_t bytes =
            (size_t)(length * f->bytes_per_token * aims[i % (sizeof aims / sizeof *aims)]);
        if (bytes < min_bytes) bytes = min_bytes;
        uint64_t seed = fit_seed(o, index + (uint64_t)(i / TRIES_PER_SEED) * NEXT_VARIANT);
        TRY(write_tokens(o, s, write, config, seed, bytes, f, &n));
        if (n <= (size_t)length && n * 10 > (size_t)length * 9) return OK;
        if (n < least) least = n;
    }
    if (least > (size_t)length)
        return fail(ERR_ARG,
            "suite %s: a document of %d tokens is too short to write, this tokenizer needs about "
            "%zu; raise the length",
            s->suite, length, least);
    return fail(ERR_ARG,
        "suite %s: found no document of %d to %d tokens in %d tries; ask for another length",
        s->suite, length * 9 / 10 + 1, length, MAX_TRIES);
}

enum status fit_again(const struct suite_options *o, struct sample_set *s, fit_writer *write,
    const void *config, struct fitted *f)
{
    size_t n;
    return write_tokens(o, s, write, config, f->seed, f->bytes, f, &n);
}

void fit_answer(const struct suite_options *o, const struct fitted *f,
    const struct chronicle_question *q, int *begin, int *end)
{
    const struct token_list *t = &f->tokens;
    size_t first = token_list_find(t, 0, (uint32_t)(q->answer_begin - 1));
    size_t last = build_token_at(t, q->answer_end);
    *begin = build_bos(o) + (int)first;
    *end = build_bos(o) + (int)last;
}

enum status fit_way_parse(const char *suite, const char *text, enum fit_way *way)
{
    static const char *const names[] = {"read", "written"};
    int at[GRID_VALUES], n;
    TRY(grid_names(&(struct grid_names){suite, "answers", names, 2}, text, at, &n));
    *way = (enum fit_way)at[0];
    return n == 1 ? OK : fail(ERR_ARG, "suite %s: answers takes read or written", suite);
}

enum status fit_way_check(
    const struct suite_options *o, const struct sample_set *s, enum fit_way way)
{
    if (!o->chat || way == FIT_WRITTEN) return OK;
    return fail(ERR_ARG,
        "--chat %s: suite %s reads its answers as part of the text, so there is no prompt to wrap; "
        "ask for %s:answers=written",
        o->chat->name, s->suite, s->suite);
}

enum status fit_room(
    const struct suite_options *o, struct sample_set *s, int length, enum fit_way way, int *room)
{
    *room = length - (way == FIT_WRITTEN ? SPARE : 0);
    if (!o->chat) return OK;
    struct token_list chat = {0};
    enum status st = build_task_tokens(o, s, &(struct task_text){.file = s->suite}, &chat);
    *room -= (int)chat.n + CHAT_SEAMS; /* a text may be cut otherwise where it meets the chat */
    token_list_clear(&chat);
    if (st == OK && *room < 1)
        st = fail(ERR_ARG, "suite %s: of %d tokens --chat %s leaves no room; raise the length",
            s->suite, length, o->chat->name);
    return st;
}

/* Where the answer's turn begins: " Answer:" behind a question; all of the line that gives an
 * answer by its number. */
static size_t prefix_begin(const char *text, const struct chronicle_question *q)
{
    static const char lead[] = "Question: ", answer[] = " Answer:";
    size_t at = q->answer_begin - 1;
    if (strncmp(text + q->query_begin, lead, sizeof lead - 1)) return q->query_begin;
    while (at > q->query_begin && strncmp(text + at, answer, sizeof answer - 1)) at--;
    return at;
}

enum status fit_add_written(const struct suite_options *o, struct sample_set *s,
    const struct fitted *f, const struct chronicle_question *q, struct item item, char *name)
{
    const char *text = f->doc.text.data;
    size_t prefix = prefix_begin(text, q), gold = q->answer_begin - 1;
    struct task_text t = {.file = s->suite, .line = s->n_samples + 1};
    struct token_list tokens = {0};
    struct str answer = {0};
    int begin, end;
    str_add_bytes(&t.prompt, text, prefix);
    str_add_bytes(&t.prefix, text + prefix, gold - prefix);
    str_add_bytes(&t.gold, text + gold, q->answer_end - gold);
    str_add_bytes(&answer, text + q->answer_begin, q->answer_end - q->answer_begin);
    fit_answer(o, f, q, &begin, &end);
    item.n_bytes = (int)answer.len;
    item.wanted = wanted_new(JUDGE_ALL, end - begin + SPARE);
    wanted_add(item.wanted, str_get(&answer));
    enum status st = build_task_tokens(o, s, &t, &tokens);
    if (st == OK) st = build_task(o, s, &t, &tokens, item, name, false);
    else {
        wanted_free(item.wanted);
        free(item.id);
        free(item.group);
        free(name);
    }
    str_clear(&answer);
    token_list_clear(&tokens);
    task_text_clear(&t);
    return st;
}

/* To be written it needs a question at its end, which short ones may lack. */
static enum status write_chronicle(
    const void *config, uint64_t seed, size_t bytes, struct chronicle_doc *doc)
{
    const struct chronicle_form *form = config;
    for (uint64_t draw = 0; draw < MAX_DRAWS; draw++) {
        const struct chronicle_config c = {CHRONICLE_EVAL, seed ^ draw * NEXT_DRAW, bytes};
        TRY(chronicle_write(&c, doc));
        chronicle_move(doc, form->ask);
        if (form->way == FIT_READ || doc->n_questions > doc->n_within) return OK;
    }
    return fail(ERR_ARG,
        "suite chronicle: no chronicle of %zu bytes has a question at its end; raise max_length",
        bytes);
}

enum status fit_chronicle(const struct suite_options *o, struct sample_set *s, int index,
    const struct chronicle_form *form, struct fitted *f)
{
    int room;
    TRY(fit_room(o, s, o->max_length, form->way, &room));
    return fit_write(o, s, write_chronicle, form, (uint64_t)index, CHRONICLE_MIN_BYTES, room, f);
}

enum status fit_chronicle_again(const struct suite_options *o, struct sample_set *s,
    const struct chronicle_form *form, struct fitted *f)
{
    return fit_again(o, s, write_chronicle, form, f);
}

static enum status add_question(const struct suite_options *o, struct sample_set *s,
    const struct fitted *f, int index, size_t question, enum ask ask)
{
    const struct chronicle_question *q = &f->doc.questions[question];
    struct item item = {.question = s->n_items, .sample = s->n_samples - 1, .gold = true};
    fit_answer(o, f, q, &item.begin, &item.end);
    if (item.end > s->samples[item.sample].n || item.begin < 1) return OK;
    int evidence = build_bos(o) + (int)token_list_find(&f->tokens, 0, (uint32_t)q->evidence_begin);
    item.n_bytes = (int)(q->answer_end - q->answer_begin);
    item.depth = (double)evidence / item.begin;
    item.length = item.begin;
    item.id = str_format("%s %d question %zu%s%s", s->suite, index + 1, question + 1,
        ask == ASK_END ? "" : " ask=", ask == ASK_END ? "" : ask_names[ask]);
    item.group = ask_group(chronicle_kind_name(q->kind), ask);
    return sample_set_add_item(s, item);
}

static enum status add_read(const struct suite_options *o, struct sample_set *s, int index,
    enum ask ask, const struct fitted *f)
{
    size_t room = (size_t)(o->max_length - build_bos(o)),
           n = f->tokens.n < room ? f->tokens.n : room;
    TRY(build_sample(o, s, f->tokens.ids, n,
        str_format("%s %d%s%s", s->suite, index + 1,
            ask == ASK_END ? "" : ", asked: ", ask == ASK_END ? "" : ask_names[ask])));
    /* questions within the text are asked where they are, whatever becomes of the last */
    size_t first = ask == ASK_END ? 0 : f->doc.n_within;
    for (size_t i = first; i < f->doc.n_questions; i++) TRY(add_question(o, s, f, index, i, ask));
    return OK;
}

static enum status add_written(const struct suite_options *o, struct sample_set *s, int index,
    enum ask ask, const struct fitted *f)
{
    const struct chronicle_question *q = &f->doc.questions[f->doc.n_questions - 1];
    size_t evidence = token_list_find(&f->tokens, 0, (uint32_t)q->evidence_begin),
           answer = token_list_find(&f->tokens, 0, (uint32_t)q->answer_begin);
    const char *kind = chronicle_kind_name(q->kind);
    struct item item = {.question = s->n_items,
        .gold = true,
        .depth = 1 - (double)(answer - evidence) / o->max_length,
        .length = o->max_length,
        .id = str_format("%s %d %s%s%s", s->suite, index + 1, kind,
            ask == ASK_END ? "" : " ask=", ask == ASK_END ? "" : ask_names[ask]),
        .group = ask_group("chronicle, written", ask)};
    char *name = str_format("%s %d: %s, %d tokens%s%s", s->suite, index + 1, kind, o->max_length,
        ask == ASK_END ? "" : ", asked: ", ask == ASK_END ? "" : ask_names[ask]);
    return fit_add_written(o, s, f, q, item, name);
}

enum status fit_add_chronicle(const struct suite_options *o, struct sample_set *s, int index,
    const struct chronicle_form *form, const struct fitted *f)
{
    int n = (int)f->tokens.n + build_bos(o);
    if (n < o->min_length)
        return fail(ERR_ARG,
            "suite %s: document %d has %d tokens, min_length asks for %d; raise max_length",
            s->suite, index + 1, n, o->min_length);
    return form->way == FIT_WRITTEN ? add_written(o, s, index, form->ask, f)
                                    : add_read(o, s, index, form->ask, f);
}

enum status fit_add_longer(
    const struct suite_options *o, struct sample_set *s, int index, struct fitted *f)
{
    static const struct chronicle_form form = {ASK_END, FIT_READ};
    size_t bytes = CHRONICLE_MIN_BYTES + (size_t)o->max_length * 5, n = 0;
    for (; n < (size_t)o->max_length; bytes += bytes / 2)
        TRY(write_tokens(o, s, write_chronicle, &form, fit_seed(o, (uint64_t)index), bytes, f, &n));
    return fit_add_chronicle(o, s, index, &form, f);
}
