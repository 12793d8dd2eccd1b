/* Perplexity of texts.
 *
 * Each document is cut into windows of max_length tokens that do not overlap, BOS in front of each
 * (and counted). Every next token is scored; with second_half only those of a window's second half,
 * as llama.cpp has it. A short last window is kept from LAST_WINDOW tokens on, or when the document
 * has no other. Windows never hold two documents. num_samples takes windows spread over the whole
 * (suites/spread.h); then, and for tuning, a single document is cut into pieces of about PIECE
 * tokens first, evaluation and tuning taking every other piece, and windows that do not fill up are
 * left out. Lines belong to either by turns.
 *
 * A document beyond LARGE is never encoded as a whole: for num_samples it is read in places, one
 * window each, and twice as many as are asked for, so that repeats can be passed over; evaluation
 * and tuning have every other SLOT of it. So it costs what its windows cost, whatever its size.
 * Where that gives too few windows, or all are asked for, it is read slot by slot. Of many lines,
 * too, only as many are read.
 */
#include "suites/build.h"
#include "base/xmalloc.h"
#include "suites/jsonl.h"
#include "suites/spread.h"

#include <stdlib.h>
#include <string.h>

enum {
    LAST_WINDOW = 256, /* under this attention runs dense anyway */
    PIECE = 32768,     /* windows within one piece are of one article or chapter */
    LARGE = 4 << 20,   /* bytes; encoded in a fraction of a second */
    SLOT = 2 << 20,    /* holds a window of half a million tokens */
    LINE = 1 << 16,    /* a place begins with a line, where one begins so near */
    TOKEN_BYTES = 4,   /* about, to guess how much text a window takes */
    ROUND_TOKENS = 32  /* behind a window, so that its last ones are as in the whole text */
};

struct document {
    char *label; /* owned */
    size_t at, n;
    int side;  /* enum spread_side; -1: by turns, in pieces */
    bool part; /* of a text that goes on: only windows that fill up are taken */
};

struct window {
    size_t document, at, n; /* at: in all tokens */
};

struct reader {
    const struct suite_options *o;
    struct sample_set *set;
    struct token_list tokens; /* of the present document */
    int32_t *ids;             /* of all documents, without BOS */
    struct document *documents;
    struct window *windows;
    struct spread_unit *units; /* [n_windows] */
    size_t n_ids, n_documents, n_windows;
    size_t longest; /* tokens of the longest document that was left out, BOS included */
};

/* Room for one more behind n elements. */
static void *grown(void *array, size_t n, size_t size)
{
    if (n & (n - 1)) return array;
    void *p = xrealloc(array, (n ? 2 * n : 1) * size);
    return p;
}

/* The first n of r->tokens, behind all ids. */
static enum status add_ids(struct reader *r, size_t n)
{
    int32_t *ids = realloc(r->ids, (r->n_ids + n + 1) * sizeof *ids);
    if (!ids)
        return fail(ERR_MEMORY, "%s: no memory for %zu tokens; lower --num-samples", r->o->argument,
            r->n_ids + n);
    r->ids = ids;
    if (n) memcpy(ids + r->n_ids, r->tokens.ids, n * sizeof *ids);
    r->n_ids += n;
    return OK;
}

/* Takes the label. */
static void add_document(struct reader *r, char *label, size_t at, int side, bool part)
{
    r->documents = grown(r->documents, r->n_documents, sizeof *r->documents);
    r->documents[r->n_documents++] = (struct document){label, at, r->n_ids - at, side, part};
}

/* Document `at` ... the end of all ids, unless it is too short. Takes the label. */
static void end_document(struct reader *r, char *label, size_t at, int side, bool part)
{
    size_t total = r->n_ids - at + (size_t)build_bos(r->o);
    if (total >= (size_t)r->o->min_length) {
        add_document(r, label, at, side, part);
        return;
    }
    if (total > r->longest) r->longest = total;
    r->set->n_skipped++;
    r->n_ids = at;
    free(label);
}

static size_t window_room(const struct suite_options *o)
{
    return (size_t)(o->max_length - build_bos(o));
}

/* Windows of [from, end) of a document; whole: a last one may be short. */
static void cut_windows(
    struct reader *r, size_t document, size_t from, size_t end, enum spread_side side, bool whole)
{
    const struct suite_options *o = r->o;
    size_t bos = (size_t)build_bos(o), step = window_room(o);
    size_t last_min = o->min_length > LAST_WINDOW ? (size_t)o->min_length : LAST_WINDOW;
    for (size_t at = from; at < end || (whole && at == from); at += step) {
        size_t take = end - at < step ? end - at : step;
        if (take < step && (!whole || (at > from && take + bos < last_min))) return;
        r->windows = grown(r->windows, r->n_windows, sizeof *r->windows);
        r->units = grown(r->units, r->n_windows, sizeof *r->units);
        r->units[r->n_windows] = (struct spread_unit){.side = side};
        r->windows[r->n_windows++] = (struct window){document, at, take};
    }
}

/* in_pieces: a single document is shared between evaluation and tuning. */
static enum status cut(struct reader *r, bool in_pieces)
{
    r->n_windows = 0;
    for (size_t d = 0; d < r->n_documents; d++) {
        const struct document *x = &r->documents[d];
        bool by_turns = x->side < 0;
        size_t pairs = x->n / (2 * PIECE),
               n_pieces =
                   in_pieces && by_turns && r->n_documents == 1 ? 2 * (pairs ? pairs : 1) : 1;
        for (size_t k = 0; k < n_pieces; k++)
            cut_windows(r, d, x->at + k * x->n / n_pieces, x->at + (k + 1) * x->n / n_pieces,
                by_turns ? (d + k) % 2 ? SPREAD_TUNING : SPREAD_EVALUATION
                         : (enum spread_side)x->side,
                n_pieces == 1 && !x->part);
    }
    const int32_t **ids = malloc((r->n_windows + 1) * sizeof *ids);
    int *lengths = malloc((r->n_windows + 1) * sizeof *lengths);
    enum status st =
        ids && lengths ? OK : fail(ERR_MEMORY, "no memory for %zu windows", r->n_windows);
    for (size_t i = 0; st == OK && i < r->n_windows; i++) {
        ids[i] = r->ids + r->windows[i].at;
        lengths[i] = (int)r->windows[i].n;
    }
    if (st == OK) spread_find_repeats(r->units, ids, lengths, r->n_windows, false);
    free(ids);
    free(lengths);
    return st;
}

/* few: not NULL when it is known that more can be had; then set, and nothing taken, where windows
 * do not suffice. */
static enum status choose(struct reader *r, bool *few)
{
    const struct suite_options *o = r->o;
    bool in_pieces = o->tuning || o->num_samples, shared;
    TRY(cut(r, in_pieces));
    size_t most = r->n_ids / window_room(o) + 2 * r->n_documents + 1, n;
    size_t *chosen = malloc(most * sizeof *chosen);
    if (!chosen) return fail(ERR_MEMORY, "no memory for windows");
    n = spread_choose(r->units, r->n_windows, o, chosen, &shared);
    enum status st = OK;
    if (few && (*few = shared || n < (size_t)o->num_samples)) {
        free(chosen);
        return OK;
    }
    if (in_pieces && shared && r->n_documents == 1 &&
        r->documents[0].side < 0) { /* then it may as well be cut as a whole */
        st = cut(r, false);
        for (size_t i = 0; i < r->n_windows; i++)
            r->units[i].side = i % 2 ? SPREAD_TUNING : SPREAD_EVALUATION;
        if (st == OK)
            n = spread_choose(r->units, r->n_windows,
                &(struct suite_options){.num_samples = o->num_samples, .seed = o->seed}, chosen,
                &shared);
        shared = true;
    }
    r->set->shared = shared;
    for (size_t i = 0; i < r->n_windows; i++) r->set->n_repeated += r->units[i].repeats;
    for (size_t k = 0; st == OK && k < n; k++) {
        const struct window *w = &r->windows[chosen[k]];
        size_t first = chosen[k];
        while (first > 0 && r->windows[first - 1].document == w->document) first--;
        st = build_sample(o, r->set, r->ids + w->at, w->n,
            str_format("%s window %zu", r->documents[w->document].label, chosen[k] - first + 1));
    }
    free(chosen);
    return st;
}

static enum status encode(struct reader *r, const char *text, size_t len)
{
    return build_encode(r->o, r->set, text, len, &r->tokens);
}

/* The beginning of a line in [from, end), or at least of a character. */
static size_t line_start(const struct text_file *f, size_t from, size_t end)
{
    size_t look = end - from < LINE ? end - from : LINE;
    const char *newline = from ? memchr(f->text + from, '\n', look) : NULL;
    if (newline) return (size_t)(newline - f->text) + 1;
    while (from && from < end && ((unsigned char)f->text[from] & 0xC0) == 0x80) from++;
    return from;
}

static enum status too_short(const struct reader *r)
{
    return fail(ERR_FORMAT,
        "%s: has %zu tokens (begin-of-text included), at least %d are needed; give a longer text",
        r->o->argument, r->longest, r->o->min_length);
}

/* The window that begins in [from, end) of the text; none where it does not end there. */
static enum status read_place(
    struct reader *r, const struct text_file *f, size_t from, size_t end, enum spread_side side)
{
    size_t at = r->n_ids, want = window_room(r->o), n_replaced = r->set->n_replaced;
    const char *text;
    from = line_start(f, from, end);
    for (size_t len = TOKEN_BYTES * (want + ROUND_TOKENS);; len *= 2) {
        if (len > end - from) len = end - from;
        size_t cut = from + len;
        while (cut > from && cut < end && ((unsigned char)f->text[cut] & 0xC0) == 0x80) cut--;
        r->set->n_replaced = n_replaced;
        TRY(text_file_take(f, from, cut - from, &text));
        TRY(encode(r, text, cut - from));
        if (r->tokens.n >= want + ROUND_TOKENS || len == end - from) break;
    }
    if (r->tokens.n < want) return OK;
    TRY(add_ids(r, want));
    add_document(
        r, str_format("%s at byte %zu,", path_base(r->o->argument), from), at, (int)side, true);
    return OK;
}

/* Every part of its own that evaluation or tuning has in the file, as far as they are needed for
 * twice num_samples. */
static enum status read_places(struct reader *r, const struct text_file *f)
{
    enum spread_side side = r->o->tuning ? SPREAD_TUNING : SPREAD_EVALUATION;
    size_t slots = f->len / SLOT, own = (slots + (side == SPREAD_EVALUATION)) / 2,
           want = 2 * (size_t)r->o->num_samples;
    size_t in_slot = (want + own - 1) / own;
    for (size_t i = 0; i < own; i++) {
        if (want < own && i * want / own == (i + 1) * want / own) continue;
        size_t begin = (2 * i + (side == SPREAD_TUNING)) * SLOT;
        for (size_t k = 0; k < in_slot; k++)
            TRY(read_place(
                r, f, begin + k * SLOT / in_slot, begin + (k + 1) * SLOT / in_slot, side));
    }
    return OK;
}

/* All of it, slot by slot: one document, or each slot one for its side. */
static enum status read_slots(struct reader *r, const struct text_file *f, bool one)
{
    const char *base = path_base(r->o->argument), *text;
    size_t slots = f->len / SLOT, begin = 0, at = r->n_ids;
    for (size_t i = 0; i < slots; i++) {
        size_t end = i + 1 < slots ? line_start(f, (i + 1) * SLOT, f->len) : f->len;
        TRY(text_file_take(f, begin, end - begin, &text));
        TRY(encode(r, text, end - begin));
        TRY(add_ids(r, r->tokens.n));
        if (!one) {
            end_document(r, str_format("%s at byte %zu,", base, begin), at,
                i % 2 ? SPREAD_TUNING : SPREAD_EVALUATION, true);
            at = r->n_ids;
        }
        begin = end;
    }
    if (one) end_document(r, str_dup(base), at, -1, false);
    return r->n_documents ? OK : too_short(r);
}

static enum status read_whole(struct reader *r, const struct text_file *file)
{
    TRY(encode(r, file->text, file->len));
    TRY(add_ids(r, r->tokens.n));
    end_document(r, str_dup(path_base(r->o->argument)), 0, -1, false);
    return r->n_documents ? OK : too_short(r);
}

static void reader_forget(struct reader *r)
{
    for (size_t i = 0; i < r->n_documents; i++) free(r->documents[i].label);
    r->n_documents = r->n_ids = r->n_windows = 0;
    r->set->n_replaced = 0;
    r->set->n_skipped = 0;
}

static enum status read_text(struct reader *r, const struct text_file *file)
{
    bool few = false;
    if (file->len <= LARGE) {
        TRY(read_whole(r, file));
        return choose(r, NULL);
    }
    if (r->o->num_samples) {
        TRY(read_places(r, file));
        TRY(choose(r, &few));
        if (!few) return OK;
        reader_forget(r);
    }
    TRY(read_slots(r, file, !r->o->num_samples && !r->o->tuning));
    return choose(r, NULL);
}

/* Lines in pairs, one for evaluation and one for tuning: every stride-th pair. */
static enum status read_lines(struct reader *r, struct jsonl *in, size_t stride)
{
    const char *path = r->o->argument;
    size_t n_lines = 0;
    jsonl_rewind(in);
    for (;; n_lines++) {
        const char *text;
        if (n_lines / 2 % stride) {
            if (!jsonl_skip(in)) break;
            continue;
        }
        TRY(jsonl_next(in));
        if (!in->object) break;
        TRY(jsonl_string(in, "text", &text));
        size_t at = r->n_ids;
        TRY(encode(r, text, strlen(text)));
        TRY(add_ids(r, r->tokens.n));
        end_document(r, str_format("%s %s %ld", path_base(path), jsonl_unit(in), in->line), at,
            stride > 1 ? (int)(n_lines % 2) : -1, false);
    }
    if (n_lines == 0) return fail(ERR_FORMAT, "%s: has no lines", path);
    if (r->n_documents > 0 || stride > 1) return OK;
    return fail(ERR_FORMAT,
        "%s: none of its %zu documents reaches %d tokens, the longest has %zu; give longer texts",
        path, n_lines, r->o->min_length, r->longest);
}

static enum status read_documents(struct reader *r, struct jsonl *in)
{
    size_t windows =
        4 * (size_t)r->o->num_samples * window_room(r->o) * TOKEN_BYTES; /* half of them tuning's */
    size_t enough = windows > LARGE ? windows : LARGE,
           stride = r->o->num_samples ? (in->file.len + enough - 1) / enough : 1;
    bool few = false;
    if (stride > 1) {
        TRY(read_lines(r, in, stride));
        TRY(choose(r, &few));
        if (!few) return OK;
        reader_forget(r);
    }
    TRY(read_lines(r, in, 1));
    return choose(r, NULL);
}

static void reader_clear(struct reader *r)
{
    token_list_clear(&r->tokens);
    for (size_t i = 0; i < r->n_documents; i++) free(r->documents[i].label);
    free(r->documents);
    free(r->ids);
    free(r->windows);
    free(r->units);
}

static enum status load(const struct suite_options *o, struct sample_set *out)
{
    TRY(build_need_file(o, "text", "text:FILE, one document or JSON lines of {\"text\"}"));
    struct field_map fields;
    struct jsonl in = {0};
    struct reader r = {.o = o, .set = out};
    TRY(field_map_parse(&fields, o->field));
    out->score_text = true;
    enum status st = jsonl_open(&in, o->argument, &fields);
    if (st == OK) st = in.documents ? read_documents(&r, &in) : read_text(&r, &in.file);
    reader_clear(&r);
    jsonl_close(&in);
    field_map_clear(&fields);
    return st;
}

const struct suite suite_text = {
    .name = "text",
    .help = "text:FILE  perplexity of a text file (- is standard input), or of the {\"text\"} "
            "lines of a JSON lines file",
    .reads_fields = true,
    .load = load,
};
