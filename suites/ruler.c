#include "suites/ruler.h"

#include "base/xmalloc.h"
#include "suites/chronicle_writer.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum {
    DOMAIN = 0x52554c52,
    MAX_NEEDLES = 4,
    HOPS = 4,
    COMMON = 10,
    FREQUENT = 3,
    CODED_BYTES = 6,
    ITEM_BYTES = 64
};

// clang-format off
const struct ruler_task_info ruler_tasks[RULER_TASKS] = {
    [RULER_NIAH_SINGLE_1]   = {"niah_single_1", false, 128},
    [RULER_NIAH_SINGLE_2]   = {"niah_single_2", true, 128},
    [RULER_NIAH_SINGLE_3]   = {"niah_single_3", true, 128},
    [RULER_NIAH_MULTIKEY_1] = {"niah_multikey_1", true, 128},
    [RULER_NIAH_MULTIKEY_2] = {"niah_multikey_2", false, 128},
    [RULER_NIAH_MULTIKEY_3] = {"niah_multikey_3", false, 128},
    [RULER_NIAH_MULTIVALUE] = {"niah_multivalue", true, 128},
    [RULER_NIAH_MULTIQUERY] = {"niah_multiquery", true, 128},
    [RULER_VT]              = {"vt", false, 30},
    [RULER_CWE]             = {"cwe", false, 120},
    [RULER_FWE]             = {"fwe", false, 50},
};

/* What is hidden: keys, values of each, keys asked for; key and value may be a uuid. */
struct niah_shape {
    int keys, values, queries;
    bool uuid_key, uuid_value, in_needles;
};
static const struct niah_shape shapes[] = {
    [RULER_NIAH_SINGLE_1]   = {1, 1, 1, false, false, false},
    [RULER_NIAH_SINGLE_2]   = {1, 1, 1, false, false, false},
    [RULER_NIAH_SINGLE_3]   = {1, 1, 1, false, true, false},
    [RULER_NIAH_MULTIKEY_1] = {4, 1, 1, false, false, false},
    [RULER_NIAH_MULTIKEY_2] = {1, 1, 1, false, false, true},
    [RULER_NIAH_MULTIKEY_3] = {1, 1, 1, true, true, true},
    [RULER_NIAH_MULTIVALUE] = {1, 4, 1, false, false, false},
    [RULER_NIAH_MULTIQUERY] = {4, 1, 4, false, false, false},
};
// clang-format on

/* The wording of the prompts and the noise: RULER, scripts/data/synthetic (NVIDIA, Apache-2.0). */
#define NOISE \
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
#define NIAH_ONE                                                                                \
    "A special magic %s is hidden within the following text. Make sure to memorize it. I will " \
    "quiz you about the %s afterwards.\n"
#define NIAH_MANY                                                                              \
    "Some special magic %s are hidden within the following text. Make sure to memorize it. I " \
    "will quiz you about the %s afterwards.\n"
#define VT_HEAD \
    "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n"
#define CWE_HEAD                                                                              \
    "Below is a numbered list of words. In these words, some appear more often than others. " \
    "Memorize the ones that appear most often.\n"
#define CWE_PREFIX " Answer: The top 10 words that appear most often in the list are:"
#define FWE_HEAD                                                                                \
    "Read the following coded text and track the frequency of each coded word. Find the three " \
    "most frequently appeared coded words. "
#define FWE_PREFIX \
    " Answer: According to the coded text above, the three most frequently appeared words are:"

int ruler_task_find(const char *name, size_t len)
{
    for (int i = 0; i < RULER_TASKS; i++)
        if (strlen(ruler_tasks[i].name) == len && !memcmp(ruler_tasks[i].name, name, len)) return i;
    return -1;
}

void haystack_add(struct haystack *h, const char *sentence, size_t len)
{
    if (h->n == h->cap) {
        h->cap = h->cap ? 2 * h->cap : 256;
        h->end = xrealloc(h->end, h->cap * sizeof *h->end);
    }
    if (h->n) str_add_char(&h->text, ' ');
    str_add_bytes(&h->text, sentence, len);
    h->end[h->n++] = h->text.len;
}

static bool white(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

void haystack_read(struct haystack *h, const char *text, size_t len)
{
    struct str sentence = {0};
    for (size_t i = 0; i <= len; i++) {
        bool gap = i == len || white(text[i]);
        if (!gap) {
            str_add_char(&sentence, text[i]);
            continue;
        }
        if (!sentence.len || sentence.data[sentence.len - 1] == ' ') continue;
        if (i == len || strchr(".!?", sentence.data[sentence.len - 1])) {
            haystack_add(h, sentence.data, sentence.len);
            str_reset(&sentence);
        } else str_add_char(&sentence, ' ');
    }
    if (sentence.len)
        haystack_add(h, sentence.data, sentence.len - 1); /* the text ended in white space */
    str_clear(&sentence);
}

void haystack_clear(struct haystack *h)
{
    str_clear(&h->text);
    free(h->end);
    *h = (struct haystack){0};
}

void ruler_doc_clear(struct ruler_doc *doc)
{
    str_clear(&doc->prompt);
    str_clear(&doc->prefix);
    str_clear(&doc->gold);
    for (int i = 0; i < RULER_MAX_ANSWERS; i++) str_clear(&doc->answers[i]);
    *doc = (struct ruler_doc){0};
}

static void doc_answer(struct ruler_doc *doc, const char *text)
{
    str_reset(&doc->answers[doc->n_answers]);
    str_add(&doc->answers[doc->n_answers++], text);
}

/* Draws. */

static uint64_t random_compound(struct rng *r)
{
    return rng_below(r, words_compound_head.n * words_compound_tail.n);
}

static void compound_name(uint64_t id, char out[ITEM_BYTES])
{
    strcpy(out, words_compound_head.item[id / words_compound_tail.n]);
    strcat(out, words_compound_tail.item[id % words_compound_tail.n]);
}

static void draw_uuid(struct rng *r, char out[ITEM_BYTES])
{
    static const char hex[] = "0123456789abcdef";
    uint64_t hi = rng_u64(r), lo = rng_u64(r);
    hi = (hi & ~0xf000ull) | 0x4000;          /* version 4, */
    lo = (lo & ~(3ull << 62)) | (2ull << 62); /* variant 1 (RFC 4122) */
    char *p = out;
    for (int i = 0; i < 32; i++) {
        if (i == 8 || i == 12 || i == 16 || i == 20) *p++ = '-';
        *p++ = hex[(i < 16 ? hi >> (60 - 4 * i) : lo >> (124 - 4 * i)) & 15];
    }
    *p = 0;
}

static void draw_key(struct rng *r, bool uuid, char out[ITEM_BYTES])
{
    if (uuid) {
        draw_uuid(r, out);
        return;
    }
    char noun[ITEM_BYTES];
    uint32_t adj = rng_below(r, words_thing_adj.n + words_secret_adj.n);
    compound_name(random_compound(r), noun);
    strcpy(out,
        adj < words_thing_adj.n ? words_thing_adj.item[adj]
                                : words_secret_adj.item[adj - words_thing_adj.n]);
    strcat(out, "-");
    strcat(out, noun);
}

static void draw_value(struct rng *r, bool uuid, char out[ITEM_BYTES])
{
    if (uuid) draw_uuid(r, out);
    else {
        uint32_t v = 1000000 + rng_below(r, 9000000);
        for (int i = 6; i >= 0; i--, v /= 10) out[i] = (char)('0' + v % 10);
        out[7] = 0;
    }
}

/* m different numbers below n, rising. */
static void draw_places(struct rng *r, int n, int m, int *out)
{
    for (int i = 0; i < m; i++) {
        int at, v;
        bool again;
        do {
            v = (int)rng_below(r, (uint32_t)n);
            again = false;
            /* cppcheck-suppress uninitvar ; the first i are drawn */
            for (int j = 0; j < i; j++) again |= out[j] == v;
        } while (again);
        for (at = i; at > 0 && out[at - 1] > v; at--) out[at] = out[at - 1];
        out[at] = v;
    }
}

static void shuffle(struct rng *r, void *array, size_t n, size_t size)
{
    char *a = array, swap[ITEM_BYTES * 4];
    assert(size <= sizeof swap);
    for (size_t i = n; i > 1; i--) {
        size_t j = rng_below(r, (uint32_t)i);
        memcpy(swap, a + (i - 1) * size, size);
        memcpy(a + (i - 1) * size, a + j * size, size);
        memcpy(a + j * size, swap, size);
    }
}

/* A body of lines or sentences with what is hidden between them, and the question where it is
 * asked. */
struct body {
    struct str *out;
    const char *between; /* units */
    const struct ruler_config *config;
    const struct str *question; /* its own line */
    bool first;
};

static void body_add(struct body *b, const char *text, size_t len)
{
    if (!b->first) str_add(b->out, b->between);
    b->first = false;
    str_add_bytes(b->out, text, len);
}

/* Before unit i: a question in the middle. */
static void body_ask(struct body *b, int i)
{
    if (b->config->ask != ASK_MIDDLE || i != b->config->n_units / 2) return;
    str_addf(b->out, "%s%s\n", b->first ? "" : "\n", str_get(b->question));
    b->first = true;
}

static void write_head(struct ruler_doc *doc, const struct ruler_config *c, const char *head,
    const struct str *question)
{
    str_add(&doc->prompt, head);
    if (c->ask == ASK_START || c->ask == ASK_TWICE)
        str_addf(&doc->prompt, "%s\n", str_get(question));
}

static void write_question(
    struct ruler_doc *doc, const struct ruler_config *c, const struct str *question)
{
    str_add_char(&doc->prompt, '\n');
    if (c->ask == ASK_END || c->ask == ASK_TWICE) str_add(&doc->prompt, str_get(question));
}

/* Named again at the end? */
static bool named(const struct ruler_config *c) { return c->ask == ASK_END || c->ask == ASK_TWICE; }

/* Needles in a haystack. */

struct needle_line {
    char text[3 * ITEM_BYTES];
    const char *value;
    bool answers; /* it is asked for */
};

static void needle_line(char *out, const char *kind, const char *key, const char *value)
{
    strcpy(out, "One of the special magic ");
    strcat(out, kind);
    strcat(out, " for ");
    strcat(out, key);
    strcat(out, " is: ");
    strcat(out, value);
    strcat(out, ".");
}

static void generated_prose(struct rng *r, int n, struct haystack *h)
{
    struct chronicle_doc scratch = {0};
    struct writer w;
    writer_init(&w, &scratch, rng_u64(r));
    writer_make_people(&w, 12);
    writer_make_villages(&w, 8);
    for (int i = 0; i < n; i++) {
        str_reset(w.text);
        writer_filler(&w);
        haystack_add(h, w.text->data, w.text->len);
    }
    writer_clear(&w);
    chronicle_doc_clear(&scratch);
}

static void hidden(struct body *b, struct ruler_doc *doc, const struct needle_line *line)
{
    body_add(b, "", 0);
    if (line->answers && doc->evidence == SIZE_MAX) doc->evidence = b->out->len;
    str_add(b->out, line->text);
}

static void write_prose(
    struct body *b, struct ruler_doc *doc, struct rng *r, struct needle_line *needles, int n)
{
    const struct ruler_config *c = b->config;
    struct haystack own = {0};
    const struct haystack *h = c->haystack;
    int depth[MAX_NEEDLES], next = 0;
    if (!h) {
        generated_prose(r, c->n_units, &own);
        h = &own;
    }
    draw_places(r, 40, n, depth); /* of forty depths from 0 to 100 % */
    for (int i = 0; i <= c->n_units; i++) {
        body_ask(b, i);
        while (next < n && i == (int)((int64_t)c->n_units * ((200 * depth[next] + 39) / 78) / 100))
            hidden(b, doc, &needles[next++]);
        if (i == c->n_units) break;
        size_t s = (size_t)i % h->n, begin = s ? h->end[s - 1] + 1 : 0;
        body_add(b, h->text.data + begin, h->end[s] - begin);
    }
    haystack_clear(&own);
}

static void write_lines(struct body *b, struct ruler_doc *doc, struct rng *r,
    const struct niah_shape *shape, const char *kind, const char keys[][ITEM_BYTES],
    struct needle_line *needles, int n)
{
    int place[MAX_NEEDLES], next = 0;
    draw_places(r, b->config->n_units, n, place);
    for (int i = 0; i < b->config->n_units; i++) {
        body_ask(b, i);
        if (next < n && place[next] == i) hidden(b, doc, &needles[next++]);
        if (!shape->in_needles) {
            body_add(b, NOISE, sizeof NOISE - 1);
            continue;
        }
        char key[ITEM_BYTES], value[ITEM_BYTES], line[sizeof needles->text];
        bool again;
        do {
            draw_key(r, shape->uuid_key, key);
            again = false;
            for (int k = 0; k < shape->keys; k++)
                again |= !strcmp(keys[k], key); /* one answer alone */
        } while (again);
        draw_value(r, shape->uuid_value, value);
        needle_line(line, kind, key, value);
        body_add(b, line, strlen(line));
    }
}

/* "a, b, and c" */
static void join(struct str *out, int n, const char *(*item)(const void *, int), const void *ctx)
{
    for (int i = 0; i < n; i++)
        str_addf(out, "%s%s", i == 0 ? "" : i + 1 < n ? ", " : ", and ", item(ctx, i));
}
static const char *joined_text(const void *ctx, int i)
{
    return ((const char(*)[ITEM_BYTES])ctx)[i];
}
static const char *joined_answer(const void *ctx, int i)
{
    return str_get(&((const struct str *)ctx)[i]);
}

static void write_niah(struct rng *r, const struct ruler_config *c, struct ruler_doc *doc)
{
    const struct niah_shape *s = &shapes[c->task];
    const char *kind = s->uuid_value ? "uuids" : "numbers";
    char keys[MAX_NEEDLES][ITEM_BYTES], values[MAX_NEEDLES][ITEM_BYTES],
        asked[MAX_NEEDLES][ITEM_BYTES];
    struct needle_line needles[MAX_NEEDLES];
    int n = 0, order[MAX_NEEDLES];
    for (int k = 0; k < s->keys; k++) {
        bool again;
        do {
            draw_key(r, s->uuid_key, keys[k]);
            again = false;
            for (int j = 0; j < k; j++) again |= !strcmp(keys[j], keys[k]);
        } while (again);
        for (int v = 0; v < s->values; v++) draw_value(r, s->uuid_value, values[n++]);
        order[k] = k;
    }
    shuffle(r, order, (size_t)s->keys, sizeof *order);
    for (int i = 0; i < n; i++) {
        needle_line(needles[i].text, kind, keys[i / s->values], values[i]);
        needles[i].value = values[i];
        needles[i].answers = false;
    }
    for (int q = 0; q < s->queries; q++) {
        strcpy(asked[q], keys[order[q]]);
        for (int v = 0; v < s->values; v++) needles[order[q] * s->values + v].answers = true;
        if (s->values == 1) doc_answer(doc, values[order[q]]);
    }
    shuffle(r, needles, (size_t)n, sizeof *needles);
    for (int i = 0; i < n && s->values > 1; i++)
        doc_answer(doc, needles[i].value); /* in the order of the text */

    bool one = s->queries * s->values == 1;
    char what[16];
    strcpy(what, kind);
    if (one) what[strlen(what) - 1] = 0;
    struct str question = {0}, head = {0};
    str_addf(&head, one ? NIAH_ONE : NIAH_MANY, what, what);
    str_addf(&question,
        one ? "What is the special magic %s for " : "What are all the special magic %s for ", what);
    join(&question, s->queries, joined_text, asked);
    str_add(&question, " mentioned in the provided text?");
    write_head(doc, c, str_get(&head), &question);
    struct body b = {&doc->prompt, ruler_tasks[c->task].prose ? " " : "\n", c, &question, true};
    if (ruler_tasks[c->task].prose) write_prose(&b, doc, r, needles, n);
    else write_lines(&b, doc, r, s, kind, keys, needles, n);
    write_question(doc, c, &question);

    str_addf(&doc->prefix, " The special magic %s", what);
    if (named(c)) {
        str_add(&doc->prefix, " for ");
        join(&doc->prefix, s->queries, joined_text, asked);
    }
    str_addf(&doc->prefix, " mentioned in the provided text %s", one ? "is" : "are");
    str_add_char(&doc->gold, ' ');
    join(&doc->gold, doc->n_answers, joined_answer, doc->answers);
    str_add_char(&doc->gold, '.');
    str_clear(&question);
    str_clear(&head);
}

/* Chains of variables. */

struct chain {
    char name[HOPS + 1][8];
    char value[8];
};

static void draw_chain(struct rng *r, struct chain *c, int letters)
{
    uint32_t v = 10000 + rng_below(r, 89999);
    for (int i = 4; i >= 0; i--, v /= 10) c->value[i] = (char)('0' + v % 10);
    c->value[5] = 0;
    for (int k = 0; k <= HOPS; k++) {
        bool again;
        do {
            for (int i = 0; i < letters; i++) c->name[k][i] = (char)('A' + rng_below(r, 26));
            c->name[k][letters] = 0;
            again = false;
            for (int j = 0; j < k; j++) again |= !strcmp(c->name[j], c->name[k]);
        } while (again);
    }
}

/* Lines of noise with the chain between them. */
static void write_chain(
    struct body *b, struct ruler_doc *doc, struct rng *r, const struct chain *chain, int n_units)
{
    int place[HOPS + 1], next = 0;
    draw_places(r, n_units, HOPS + 1, place);
    for (int i = 0; i < n_units; i++) {
        body_ask(b, i);
        if (next <= HOPS && place[next] == i) {
            body_add(b, "", 0);
            if (doc && doc->evidence == SIZE_MAX) doc->evidence = b->out->len;
            if (next == 0) str_addf(b->out, "VAR %s = %s", chain->name[0], chain->value);
            else str_addf(b->out, "VAR %s = VAR %s ", chain->name[next], chain->name[next - 1]);
            next++;
        }
        body_add(b, NOISE, sizeof NOISE - 1);
    }
}

static void vt_question(struct str *out, const struct ruler_config *c, const char *value)
{
    str_addf(out, "Question: Find all variables that are assigned the value %s in the text%s.",
        value, c->ask == ASK_END ? " above" : "");
}

static void vt_prefix(struct str *out, bool name, const char *value)
{
    str_addf(out,
        " Answer: According to the chain(s) of variable assignment in the text above, %d variables "
        "are assigned the value %s, they are: ",
        HOPS + 1, name ? value : "asked for");
}

static void vt_names(struct str *out, const struct chain *chain)
{
    for (int k = 0; k <= HOPS; k++) str_addf(out, " %s", chain->name[k]);
}

/* The worked example, which is asked as the task is, except that its question never moves. */
static void write_example(struct rng *r, int n_units, struct str *out, struct chain *chain)
{
    const struct ruler_config plain = {.task = RULER_VT, .n_units = n_units};
    struct body b = {out, "\n", &plain, NULL, true};
    draw_chain(r, chain, 3);
    str_add(out, VT_HEAD);
    write_chain(&b, NULL, r, chain, n_units);
    str_add_char(out, '\n');
    vt_question(out, &plain, chain->value);
    vt_prefix(out, true, chain->value);
}

void ruler_example(int n_units, struct str *out)
{
    struct rng r;
    struct chain chain;
    rng_init(&r, 0);
    write_example(&r, n_units, out, &chain);
}

static void write_vt(struct rng *r, const struct ruler_config *c, struct ruler_doc *doc)
{
    struct chain example, chain;
    struct str question = {0};
    write_example(r, c->n_example, &doc->prompt, &example);
    vt_names(&doc->prompt, &example);
    str_add(&doc->prompt, "\n\n");

    draw_chain(r, &chain, 5);
    vt_question(&question, c, chain.value);
    write_head(doc, c, VT_HEAD, &question);
    struct body b = {&doc->prompt, "\n", c, &question, true};
    write_chain(&b, doc, r, &chain, c->n_units);
    write_question(doc, c, &question);
    vt_prefix(&doc->prefix, named(c), chain.value);
    vt_names(&doc->gold, &chain);
    for (int k = 0; k <= HOPS; k++) doc_answer(doc, chain.name[k]);
    str_clear(&question);
}

/* Common words. */

/* n different compounds, COMMON of them `common` times, the others `rare` times, in a numbered
 * list; the common ones in the order of the list. half: the middle, where a question may stand; 0:
 * it may not. */
static void write_word_list(
    struct body *b, struct rng *r, int n, int common, int rare, uint32_t *in_order, int half)
{
    uint32_t total = words_compound_head.n * words_compound_tail.n,
             *all = xmalloc(total * sizeof *all);
    size_t n_list = (size_t)COMMON * (size_t)common + (size_t)(n - COMMON) * (size_t)rare, k = 0;
    uint32_t *list = xmalloc(n_list * sizeof *list);
    for (uint32_t i = 0; i < total; i++) all[i] = i;
    for (int i = 0; i < n; i++) {
        uint32_t j = (uint32_t)i + rng_below(r, total - (uint32_t)i), t = all[i];
        all[i] = all[j];
        all[j] = t;
        for (int times = i < COMMON ? common : rare; times > 0; times--) list[k++] = all[i];
    }
    assert(k == n_list);
    shuffle(r, list, n_list, sizeof *list);
    int found = 0;
    for (size_t i = 0; i < n_list; i++) {
        char word[ITEM_BYTES];
        bool is_common = false;
        for (int j = 0; j < COMMON && found < COMMON; j++) is_common |= list[i] == all[j];
        for (int j = 0; j < found; j++) is_common &= list[i] != in_order[j];
        if (is_common) in_order[found++] = list[i];
        compound_name(list[i], word);
        if (half && i == n_list / 2) body_ask(b, half);
        body_add(b, "", 0);
        str_addf(b->out, "%zu. %s", i + 1, word);
    }
    free(all);
    free(list);
}

static void cwe_names(struct str *out, const uint32_t *ids)
{
    for (int i = 0; i < COMMON; i++) {
        char word[ITEM_BYTES];
        compound_name(ids[i], word);
        str_addf(out, " %d. %s", i + 1, word);
    }
}

static void write_cwe(struct rng *r, const struct ruler_config *c, struct ruler_doc *doc)
{
    uint32_t example[COMMON], common[COMMON];
    bool small = c->length < 4096;
    struct str question = {0};
    struct ruler_config plain = *c;
    plain.ask = ASK_END;
    static const char ask_end[] = "Question: What are the 10 most common words in the above list?";
    str_add(&doc->prompt, CWE_HEAD);
    struct body b = {&doc->prompt, " ", &plain, NULL, true};
    write_word_list(&b, r, small ? 20 : 40, small ? 3 : 10, small ? 1 : 3, example, 0);
    str_addf(&doc->prompt, "\n%s" CWE_PREFIX, ask_end);
    cwe_names(&doc->prompt, example);
    str_add_char(&doc->prompt, '\n');

    str_add(&question,
        c->ask == ASK_END ? ask_end : "Question: What are the 10 most common words in the list?");
    write_head(doc, c, CWE_HEAD, &question);
    b = (struct body){&doc->prompt, " ", c, &question, true};
    write_word_list(&b, r, c->n_units, small ? 6 : 30, small ? 1 : 3, common, c->n_units / 2);
    write_question(doc, c, &question);
    str_add(&doc->prefix, CWE_PREFIX);
    cwe_names(&doc->gold, common);
    for (int i = 0; i < COMMON; i++) {
        char word[ITEM_BYTES];
        compound_name(common[i], word);
        doc_answer(doc, word);
    }
    str_clear(&question);
}

/* Frequent words. */

/* How often the k-th of them stands among n: n k^-2 / zeta(2), rounded down, in integers. */
static uint64_t zipf_count(int n, uint64_t k)
{
    const uint64_t share = 668422917328; /* 2^40 * 6 / pi^2, rounded down */
    return ((uint64_t)n * share >> 40) / (k * k);
}

struct coded {
    char word[CODED_BYTES + 2];
};

static int compare_coded(const void *a, const void *b) { return strcmp(a, b); }

/* Different words of six letters, in no order. */
static void draw_coded(struct rng *r, struct coded *words, size_t n)
{
    size_t have = 0;
    while (have < n) {
        for (size_t i = have; i < n; i++) {
            for (int k = 0; k < CODED_BYTES; k++) words[i].word[k] = (char)('a' + rng_below(r, 26));
            words[i].word[CODED_BYTES] = 0;
        }
        qsort(words, n, sizeof *words, compare_coded);
        have = 1;
        for (size_t i = 1; i < n; i++)
            if (strcmp(words[have - 1].word, words[i].word)) words[have++] = words[i];
    }
    shuffle(r, words, n, sizeof *words);
}

static void write_fwe(struct rng *r, const struct ruler_config *c, struct ruler_doc *doc)
{
    int n_words = (c->length - ruler_tasks[RULER_FWE].budget) / 50;
    if (n_words < FREQUENT + 1) n_words = FREQUENT + 1;
    struct coded *words = xmalloc((size_t)n_words * sizeof *words);
    draw_coded(r, words, (size_t)n_words);
    strcpy(words[0].word, "..."); /* the most frequent is noise */
    size_t n = 0, k = 0;
    for (int i = 0; i < n_words; i++) n += zipf_count(c->n_units, (uint64_t)i + 1);
    struct coded *text = xmalloc(n * sizeof *text);
    for (int i = 0; i < n_words; i++)
        for (uint64_t t = zipf_count(c->n_units, (uint64_t)i + 1); t > 0; t--) text[k++] = words[i];
    shuffle(r, text, n, sizeof *text);

    struct str question = {0};
    str_addf(&question,
        "Question: Do not provide any explanation. Please ignore the dots '....'. What are the "
        "three most frequently appeared words in the %scoded text?",
        c->ask == ASK_END ? "above " : "");
    write_head(doc, c, FWE_HEAD, &question);
    struct body b = {&doc->prompt, " ", c, &question, true};
    for (size_t i = 0; i < n; i++) {
        if (i == n / 2) body_ask(&b, c->n_units / 2);
        body_add(&b, text[i].word, strlen(text[i].word));
    }
    write_question(doc, c, &question);
    str_add(&doc->prefix, FWE_PREFIX);
    for (int i = 0; i < FREQUENT; i++) doc_answer(doc, words[i + 1].word);
    str_add_char(&doc->gold, ' ');
    join(&doc->gold, FREQUENT, joined_answer, doc->answers);
    str_add_char(&doc->gold, '.');
    str_clear(&question);
    free(words);
    free(text);
}

int ruler_min_units(enum ruler_task task)
{
    return task == RULER_CWE ? COMMON
        : task == RULER_FWE  ? 64
                             : HOPS + 1; /* 64: the third word stands twice */
}

int ruler_max_units(enum ruler_task task)
{
    return task == RULER_CWE ? (int)(words_compound_head.n * words_compound_tail.n) : 1 << 22;
}

enum status ruler_write(const struct ruler_config *c, struct ruler_doc *doc)
{
    TRY(chronicle_check_range("n_units", (uint64_t)c->n_units, (uint64_t)ruler_min_units(c->task),
        (uint64_t)ruler_max_units(c->task)));
    if (c->task == RULER_VT)
        TRY(chronicle_check_range("n_example", (uint64_t)c->n_example, HOPS + 1, 4096));
    struct rng r;
    rng_init(&r, chronicle_stream_seed(c->split, c->seed, DOMAIN + (uint32_t)c->task));
    str_reset(&doc->prompt);
    str_reset(&doc->prefix);
    str_reset(&doc->gold);
    doc->n_answers = 0;
    doc->evidence = SIZE_MAX;
    switch (c->task) {
    case RULER_VT: write_vt(&r, c, doc); break;
    case RULER_CWE: write_cwe(&r, c, doc); break;
    case RULER_FWE: write_fwe(&r, c, doc); break;
    default: write_niah(&r, c, doc);
    }
    return OK;
}
