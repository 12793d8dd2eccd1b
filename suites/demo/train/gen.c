/* Training text for the bundled model, fresh at every step.
 *
 *   gen text  SEED N BOOKS                      N mixed documents, each ended by a zero byte
 *   gen train SEED ROW N BPE BOOKS [W,W,…]      packed rows of ROW tokens, uint16 little endian;
 *                                               W: how often each of RULER's tasks is drawn
 *   gen needle|book|chronicle|niah_single_1|… SEED ROW N BPE BOOKS   one held-out document per row,
 * padded with EOS
 *
 * A row holds token ids; bit 15 marks a token of an answer, in training rows bit 14 one of a task
 * of RULER. BPE is the table tokenizer.py writes;
 * BOOKS a text file that hides half of the needles. The encoder below is restricted to ASCII, which
 * is all it is given.
 */
#include "base/rng.h"
#include "suites/chronicle.h"
#include "suites/ruler.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    BOS = 0,
    EOS = 1,
    ANSWER = 0x8000,
    TASK = 0x4000,
    PAIR_SLOTS = 1 << 14,
    WORD_SLOTS = 1 << 20,
    WORD_MAX = 48
};

struct pair {
    uint32_t key; /* left << 16 | right, plus 1 */
    uint16_t rank, id;
};

struct word {
    uint32_t hash;
    uint8_t len, n_ids; /* len 0: free */
    char text[WORD_MAX];
    uint16_t ids[12];
};

static struct pair pairs[PAIR_SLOTS];
static uint16_t byte_id[256];
static struct word *words;
static size_t n_words;

static void die(const char *what)
{
    fprintf(stderr, "gen: %s\n", what);
    exit(1);
}

static struct pair *pair_slot(uint32_t left, uint32_t right)
{
    uint32_t key = (left << 16 | right) + 1, h = key * 2654435761u >> 18;
    while (pairs[h].key && pairs[h].key != key) h = (h + 1) % PAIR_SLOTS;
    return &pairs[h];
}

static void load_bpe(const char *path)
{
    FILE *f = fopen(path, "r");
    if (!f) die("cannot open the BPE table");
    for (int i = 0; i < 256; i++)
        if (fscanf(f, "%hu", &byte_id[i]) != 1) die("bad BPE table");
    unsigned a, b, id;
    for (uint16_t rank = 0; fscanf(f, "%u %u %u", &a, &b, &id) == 3; rank++) {
        struct pair *p = pair_slot(a, b);
        *p = (struct pair){(a << 16 | b) + 1, rank, (uint16_t)id};
    }
    fclose(f);
    words = calloc(WORD_SLOTS, sizeof *words);
    if (!words) die("out of memory");
}

static size_t bpe(const char *s, size_t len, uint16_t *ids)
{
    size_t n = len;
    for (size_t i = 0; i < len; i++) ids[i] = byte_id[(unsigned char)s[i]];
    for (;;) {
        const struct pair *best = NULL;
        for (size_t i = 0; i + 1 < n; i++) {
            const struct pair *p = pair_slot(ids[i], ids[i + 1]);
            if (p->key && (!best || p->rank < best->rank)) best = p;
        }
        if (!best) return n;
        uint32_t left = (best->key - 1) >> 16, right = (best->key - 1) & 0xffff;
        size_t out = 0;
        for (size_t i = 0; i < n; out++) {
            if (i + 1 < n && ids[i] == left && ids[i + 1] == right) ids[out] = best->id, i += 2;
            else ids[out] = ids[i++];
        }
        n = out;
    }
}

static size_t encode_word(const char *s, size_t len, uint16_t *ids)
{
    if (len > WORD_MAX) return bpe(s, len, ids);
    uint32_t h = 2166136261u;
    for (size_t i = 0; i < len; i++) h = (h ^ (unsigned char)s[i]) * 16777619u;
    struct word *w = &words[h % WORD_SLOTS];
    while (w->len && !(w->hash == h && w->len == len && memcmp(w->text, s, len) == 0))
        if (++w == words + WORD_SLOTS) w = words;
    if (!w->len) {
        uint16_t fresh[WORD_MAX];
        size_t n = bpe(s, len, fresh);
        if (n > 12 || n_words > WORD_SLOTS / 2) {
            memcpy(ids, fresh, n * sizeof *ids);
            return n;
        }
        *w = (struct word){.hash = h, .len = (uint8_t)len, .n_ids = (uint8_t)n};
        memcpy(w->text, s, len);
        memcpy(w->ids, fresh, n * sizeof *fresh);
        n_words++;
    }
    memcpy(ids, w->ids, w->n_ids * sizeof *ids);
    return w->n_ids;
}

static bool newline(char c) { return c == '\n' || c == '\r'; }
static bool symbol(char c) { return !isspace((unsigned char)c) && !isalnum((unsigned char)c); }

/* Length of the next pre-token of the Llama-3 pattern in s[0..n), n > 0, ASCII only. */
static size_t pretoken(const char *s, size_t n)
{
    size_t i = 0;
    if (s[0] == '\'' && n > 1) {
        char a = (char)tolower((unsigned char)s[1]),
             b = n > 2 ? (char)tolower((unsigned char)s[2]) : 0;
        if (strchr("stmd", a) && a) return 2;
        if ((a == 'r' && b == 'e') || (a == 'v' && b == 'e') || (a == 'l' && b == 'l')) return 3;
    }
    if (isalpha((unsigned char)s[0]) ||
        (n > 1 && !newline(s[0]) && !isdigit((unsigned char)s[0]) &&
            isalpha((unsigned char)s[1]))) {
        for (i = 1; i < n && isalpha((unsigned char)s[i]); i++) {}
        return i;
    }
    if (isdigit((unsigned char)s[0])) {
        for (i = 1; i < n && i < 3 && isdigit((unsigned char)s[i]); i++) {}
        return i;
    }
    i = s[0] == ' ' ? 1 : 0;
    if (i < n && symbol(s[i])) {
        while (i < n && symbol(s[i])) i++;
        while (i < n && newline(s[i])) i++;
        return i;
    }
    size_t run = 0, last = 0;
    while (run < n && isspace((unsigned char)s[run]))
        if (newline(s[run++])) last = run;
    if (last) return last;
    return run < n && run > 1 ? run - 1 : run;
}

/* Tokens of a whole document, BOS in front, EOS behind; answers marked. */
static size_t encode_doc(const struct chronicle_doc *doc, uint16_t *out)
{
    const char *s = doc->text.data;
    size_t n = 0, q = 0;
    out[n++] = BOS;
    for (size_t at = 0; at < doc->text.len;) {
        size_t len = pretoken(s + at, doc->text.len - at);
        size_t count = encode_word(s + at, len, out + n);
        while (q < doc->n_questions && doc->questions[q].answer_end <= at) q++;
        if (q < doc->n_questions && at + len > doc->questions[q].answer_begin)
            for (size_t i = 0; i < count; i++) out[n + i] |= ANSWER;
        n += count;
        at += len;
    }
    out[n++] = EOS;
    return n;
}

/* Text file as ASCII: typographic quotes and dashes become plain, other bytes beyond ASCII are
 * dropped. */
static void load_books(const char *path, struct str *out)
{
    FILE *f = fopen(path, "rb");
    if (!f) die("cannot open the books");
    unsigned char buf[1 << 16];
    size_t n;
    struct str raw = {0};
    while ((n = fread(buf, 1, sizeof buf, f)) > 0) str_add_bytes(&raw, buf, n);
    fclose(f);
    str_reserve(out, raw.len);
    for (size_t i = 0; i < raw.len; i++) {
        unsigned char c = (unsigned char)raw.data[i];
        if (c < 0x80) {
            if (c != '\r' && c) str_add_char(out, (char)c);
        } else if (c == 0xe2 && i + 2 < raw.len && (unsigned char)raw.data[i + 1] == 0x80) {
            unsigned char d = (unsigned char)raw.data[i += 2];
            if (d == 0x98 || d == 0x99) str_add_char(out, '\'');
            if (d == 0x9c || d == 0x9d) str_add_char(out, '"');
            if (d == 0x93 || d == 0x94) str_add(out, "--");
        }
    }
    str_clear(&raw);
}

static struct str books;
enum form { FORM_CHRONICLE, FORM_NEEDLE, FORM_BOOK_NEEDLE, FORM_RULER, FORMS };
static double bytes_per_token[FORMS] = {4.0, 4.25, 3.4, 3.0};
static double tokens_per_unit[RULER_TASKS];

/* Ends in a question half of the time. */
static enum ask random_ask(struct rng *r)
{
    return rng_below(r, 2) ? ASK_END : (enum ask)(1 + rng_below(r, 3));
}

/* A needle of a prompt, where its key and its value stand. */
struct needle_at {
    const char *key, *value;
    int key_len, value_len;
};

static int find_needles(const struct str *prompt, struct needle_at *out, int most)
{
    static const char begin[] = "One of the special magic ", is[] = " is: ";
    int n = 0;
    for (const char *p = str_get(prompt); n < most && (p = strstr(p, begin));) {
        const char *key = strstr(p, " for ") + 5, *end = strstr(key, is), *value = end + 5;
        p = strchr(value, '.');
        out[n++] = (struct needle_at){key, value, (int)(end - key), (int)(p - value)};
    }
    return n;
}

static void add_list(struct str *out, const struct needle_at *needles, int n, bool values)
{
    for (int i = 0; i < n; i++)
        str_addf(out, "%s%.*s",
            i == 0          ? ""
                : i + 1 < n ? ", "
                            : ", and ",
            values ? needles[i].value_len : needles[i].key_len,
            values ? needles[i].value : needles[i].key);
}

/* More questions of the same text with their answers, on one line: a full stop in front of a new
 * one would be another token. A haystack of hundreds of needles is too dear for one answer. */
static void ask_more(
    struct rng *r, int task, const struct ruler_doc *text, struct chronicle_doc *doc)
{
    static struct needle_at needles[1024];
    bool many = task == RULER_NIAH_MULTIQUERY;
    if (!many && (task < RULER_NIAH_MULTIKEY_1 || task > RULER_NIAH_MULTIKEY_3)) return;
    int n = find_needles(&text->prompt, needles, 1024), each = many ? n : 1;
    int most =
        task == RULER_NIAH_MULTIKEY_3 ? 16 : 8; /* the hardest gets more out of its haystack */
    int more = many ? rng_range(r, 0, 2) : rng_range(r, 1, n <= most ? n - 1 : most);
    const char *kind = task == RULER_NIAH_MULTIKEY_3 ? "uuid" : "number";
    const char *verb = many ? "are" : "is", *all = many ? "s" : "";
    for (int k = 0; k < more; k++) {
        for (int i = 0; i < each; i++) {
            int j = i + (int)rng_below(r, (uint32_t)(n - i));
            struct needle_at t = needles[i];
            needles[i] = needles[j];
            needles[j] = t;
        }
        str_addf(
            &doc->text, " What %s the special magic %s%s for ", many ? "are all" : "is", kind, all);
        add_list(&doc->text, needles, each, false);
        str_addf(
            &doc->text, " mentioned in the provided text? The special magic %s%s for ", kind, all);
        add_list(&doc->text, needles, each, false);
        str_addf(&doc->text, " mentioned in the provided text %s", verb);
        struct chronicle_question q = {.answer_begin = doc->text.len};
        str_add_char(&doc->text, ' ');
        add_list(&doc->text, needles, each, true);
        str_add_char(&doc->text, '.');
        q.answer_end = doc->text.len;
        doc->questions[doc->n_questions++] = q;
    }
}

/* A task of RULER of at most `row` tokens, prompt, prefix and answer; returns its tokens. */
static size_t encode_ruler(struct rng *r, int task, enum chronicle_split split, uint64_t seed,
    size_t row, bool single, struct chronicle_doc *doc, uint16_t *out)
{
    static struct ruler_doc text;
    struct haystack prose = {0};
    struct ruler_config c = {.task = (enum ruler_task)task,
        .split = split,
        .seed = seed,
        .length = (int)row,
        .n_example = single ? 13 : rng_range(r, 8, 15),
        .ask = single ? ASK_END : random_ask(r)};
    if (ruler_tasks[task].prose && rng_below(r, 2) && books.len > 1 << 16) {
        size_t at = rng_u64(r) % (books.len - (1 << 16));
        while (at > 0 && !isspace((unsigned char)books.data[at - 1])) at--;
        haystack_read(&prose, books.data + at, 1 << 16);
        c.haystack = &prose;
    }
    if (tokens_per_unit[task] <= 0)
        tokens_per_unit[task] = task == RULER_CWE ? 16 : task == RULER_FWE ? 3 : 26;
    double units = (double)row * .97 / tokens_per_unit[task];
    size_t n = 0;
    for (int tries = 0; tries < 40; tries++) {
        c.n_units = units < ruler_min_units(c.task) ? ruler_min_units(c.task) : (int)units;
        if (ruler_write(&c, &text) != OK) die(status_message());
        str_reset(&doc->text);
        str_add_bytes(&doc->text, text.prompt.data, text.prompt.len);
        str_add_bytes(&doc->text, text.prefix.data, text.prefix.len);
        struct chronicle_question q = {.answer_begin = doc->text.len};
        str_add_bytes(&doc->text, text.gold.data, text.gold.len);
        q.answer_end = doc->text.len;
        doc->questions[0] = q;
        doc->n_questions = 1;
        if (!single && (c.ask == ASK_END || c.ask == ASK_TWICE)) ask_more(r, task, &text, doc);
        n = encode_doc(doc, out);
        double here = (double)n / c.n_units;
        tokens_per_unit[task] += (tries ? .3 : .1) * (here - tokens_per_unit[task]);
        if (n <= row && (!single || n * 20 > row * 17)) break;
        if (n > row && c.n_units == ruler_min_units(c.task)) break;
        units = c.n_units * (double)row * (n > row ? .975 - .004 * tries : .985) / (double)n;
    }
    haystack_clear(&prose);
    return n;
}

/* How often each task is drawn; those the model finds hard more often. */
static unsigned weight[RULER_TASKS] = {1, 1, 1, 1, 3, 3, 2, 2, 1, 1, 3};

static void read_weights(const char *text)
{
    for (int i = 0; i < RULER_TASKS; i++) {
        char *end;
        weight[i] = (unsigned)strtoul(text, &end, 10);
        if (end == text || *end != (i + 1 < RULER_TASKS ? ',' : 0)) die("a weight for each task");
        text = end + 1;
    }
}

static int random_task(struct rng *r, size_t row)
{
    for (;;) {
        uint32_t total = 0, at;
        int task = -1;
        for (int i = 0; i < RULER_TASKS; i++) total += weight[i];
        for (at = rng_below(r, total) + 1; at > weight[++task]; at -= weight[task]) {}
        if (row >= (task == RULER_CWE ? 2000 : task == RULER_VT ? 1000 : 500)) return task;
    }
}

static void write_doc(struct rng *r, enum form form, enum chronicle_split split, uint64_t seed,
    size_t bytes, bool single, struct chronicle_doc *doc)
{
    enum status st;
    if (form == FORM_CHRONICLE) {
        if (bytes < 600) bytes = 600;
        st = chronicle_write(&(struct chronicle_config){split, seed, bytes}, doc);
    } else {
        if (bytes < 400) bytes = 400;
        struct needle_config c = {.split = split, .seed = seed, .target_bytes = bytes};
        c.depth_permille = rng_range(r, 0, 1000);
        c.n_needles = single ? 1 : rng_range(r, 1, 12);
        c.n_questions = single || rng_below(r, 4) == 0 ? 1 : c.n_needles;
        if (!single && rng_below(r, 2)) {
            c.ask = random_ask(r);
            if (c.ask != ASK_END) c.n_questions = 1;
        }
        if (form == FORM_BOOK_NEEDLE && books.len > bytes) {
            size_t at = rng_u64(r) % (books.len - bytes);
            while (at > 0 && !isspace((unsigned char)books.data[at - 1])) at--;
            c.haystack = books.data + at;
            c.haystack_bytes = books.len - at;
        }
        st = needle_write(&c, doc);
    }
    if (st != OK) die(status_message());
}

static enum form random_form(struct rng *r)
{
    uint32_t what = rng_below(r, 100);
    return what < 24 ? FORM_CHRONICLE
        : what < 28  ? FORM_NEEDLE
        : what < 34  ? FORM_BOOK_NEEDLE
                     : FORM_RULER;
}

static void pack_rows(uint64_t seed, size_t row, uint64_t n_rows)
{
    struct rng r;
    rng_init(&r, seed);
    struct chronicle_doc doc = {
        .questions = malloc(4096 * sizeof *doc.questions), .cap_questions = 4096};
    uint16_t *out = malloc((row * 16 + (1 << 16)) * sizeof *out);
    uint64_t doc_seed = seed << 32;
    for (uint64_t k = 0; k < n_rows; k++) {
        for (size_t n = 0; n < row;) {
            size_t left = row - n, want = left;
            uint32_t what = rng_below(&r, 100);
            if (what < 20 && left > 800) want = 400 + rng_below(&r, (uint32_t)left - 400);
            else if (what < 30) want = left / 2;
            if (want < 250) want = 250;
            enum form form = random_form(&r);
            if (form == FORM_RULER) {
                if (want < 600) continue;
                size_t got = encode_ruler(&r, random_task(&r, want), CHRONICLE_TRAIN, doc_seed++,
                    want, false, &doc, out + n);
                for (size_t i = 0; i < got; i++) out[n + i] |= TASK;
                out[n + got - 1] |=
                    ANSWER; /* after an answer the text ends, whatever is asked next */
                if (got <= left) n += got;
                continue;
            }
            write_doc(&r, form, CHRONICLE_TRAIN, doc_seed++,
                (size_t)((double)want * 0.985 * bytes_per_token[form]), false, &doc);
            size_t got = encode_doc(&doc, out + n);
            bytes_per_token[form] +=
                0.02 * ((double)doc.text.len / (double)got - bytes_per_token[form]);
            n += got;
        }
        if (fwrite(out, sizeof *out, row, stdout) != row) exit(0);
    }
}

static void held_out_rows(enum form form, uint64_t seed, size_t row, uint64_t n_rows)
{
    struct rng r;
    rng_init(&r, seed ^ 0x5eed);
    struct chronicle_doc doc = {0};
    uint16_t *out = malloc((row * 16 + (1 << 16)) * sizeof *out);
    for (uint64_t k = 0; k < n_rows; k++) {
        size_t got;
        double share = 1.02;
        do {
            write_doc(&r, form, CHRONICLE_EVAL, seed + k,
                (size_t)((double)row * share * bytes_per_token[form]), true, &doc);
            got = encode_doc(&doc, out);
            share *= 0.985;
        } while (got > row);
        while (got < row) out[got++] = EOS;
        fwrite(out, sizeof *out, row, stdout);
    }
}

static void held_out_ruler(int task, uint64_t seed, size_t row, uint64_t n_rows)
{
    struct rng r;
    rng_init(&r, seed ^ 0x5eed);
    struct chronicle_doc doc = {.questions = malloc(sizeof *doc.questions), .cap_questions = 1};
    uint16_t *out = malloc((row * 16 + (1 << 16)) * sizeof *out);
    for (uint64_t k = 0; k < n_rows; k++) {
        size_t got, next = 0;
        do
            got = encode_ruler(
                &r, task, CHRONICLE_EVAL, seed + k + (next++ << 32), row, true, &doc, out);
        while (got > row);
        while (got < row) out[got++] = EOS;
        fwrite(out, sizeof *out, row, stdout);
    }
}

int main(int argc, char **argv)
{
    if (argc < 5)
        die("usage: gen text SEED N BOOKS | gen train|needle|book|chronicle SEED ROW N BPE BOOKS");
    uint64_t seed = strtoull(argv[2], NULL, 10);
    if (strcmp(argv[1], "text") == 0) {
        load_books(argv[4], &books);
        struct rng r;
        rng_init(&r, seed);
        struct chronicle_doc doc = {0};
        for (uint64_t i = 0, n = strtoull(argv[3], NULL, 10); i < n; i++) {
            enum form form = random_form(&r);
            if (form == FORM_RULER) continue; /* the vocabulary was made without them */
            write_doc(&r, form, CHRONICLE_TRAIN, (seed << 32) + i, 1500 + rng_below(&r, 30000),
                false, &doc);
            fwrite(doc.text.data, 1, doc.text.len + 1, stdout);
        }
        return 0;
    }
    if (argc < 7) die("a BPE table and a file of books are needed");
    size_t row = strtoull(argv[3], NULL, 10);
    uint64_t n = strtoull(argv[4], NULL, 10);
    load_bpe(argv[5]);
    load_books(argv[6], &books);
    if (argc > 7) read_weights(argv[7]);
    if (strcmp(argv[1], "train") == 0) pack_rows(seed, row, n);
    else if (strcmp(argv[1], "needle") == 0) held_out_rows(FORM_NEEDLE, seed, row, n);
    else if (strcmp(argv[1], "book") == 0) held_out_rows(FORM_BOOK_NEEDLE, seed, row, n);
    else if (strcmp(argv[1], "chronicle") == 0) held_out_rows(FORM_CHRONICLE, seed, row, n);
    else if (ruler_task_find(argv[1], strlen(argv[1])) >= 0)
        held_out_ruler(ruler_task_find(argv[1], strlen(argv[1])), seed, row, n);
    else die("unknown command");
    return 0;
}
