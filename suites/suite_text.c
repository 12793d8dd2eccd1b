/* Perplexity of texts.
 *
 * Each document is cut into windows of max_length tokens that do not overlap, BOS in front of each
 * (and counted). Every next token is scored; with second_half only those of a window's second half,
 * as llama.cpp has it. A short last window is kept from LAST_WINDOW tokens on, or when the document
 * has no other. Windows never hold two documents. num_samples takes windows spread over the whole
 * (suites/spread.h); then, and for tuning, a single document is cut into pieces of about PIECE
 * tokens first, evaluation and tuning taking every other piece, and windows that do not fill up are
 * left out. Lines belong to either by turns.
 */
#include "suites/build.h"
#include "base/xmalloc.h"
#include "suites/jsonl.h"
#include "suites/spread.h"

#include <stdlib.h>
#include <string.h>

enum {
    LAST_WINDOW = 256, /* under this attention runs dense anyway */
    PIECE = 32768
}; /* windows within one piece are of one article or chapter */

struct document {
    char *label; /* owned */
    size_t at, n;
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

static enum status add_document(struct reader *r, const char *label, const char *text, size_t len)
{
    const struct suite_options *o = r->o;
    TRY(build_encode(o, r->set, text, len, &r->tokens));
    size_t n = r->tokens.n, total = n + (size_t)build_bos(o);
    if (total < (size_t)o->min_length) {
        if (total > r->longest) r->longest = total;
        r->set->n_skipped++;
        return OK;
    }
    int32_t *ids = realloc(r->ids, (r->n_ids + n + 1) * sizeof *ids);
    if (!ids) return fail(ERR_MEMORY, "%s: no memory for %zu tokens", o->argument, r->n_ids + n);
    r->ids = ids;
    if (n) memcpy(ids + r->n_ids, r->tokens.ids, n * sizeof *ids);
    r->documents = grown(r->documents, r->n_documents, sizeof *r->documents);
    r->documents[r->n_documents++] = (struct document){str_dup(label), r->n_ids, n};
    r->n_ids += n;
    return OK;
}

/* Windows of [from, end) of a document; whole: a last one may be short. */
static void cut_windows(
    struct reader *r, size_t document, size_t from, size_t end, enum spread_side side, bool whole)
{
    const struct suite_options *o = r->o;
    size_t bos = (size_t)build_bos(o), step = (size_t)o->max_length - bos;
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
        size_t pairs = x->n / (2 * PIECE),
               n_pieces = in_pieces && r->n_documents == 1 ? 2 * (pairs ? pairs : 1) : 1;
        for (size_t k = 0; k < n_pieces; k++)
            cut_windows(r, d, x->at + k * x->n / n_pieces, x->at + (k + 1) * x->n / n_pieces,
                (d + k) % 2 ? SPREAD_TUNING : SPREAD_EVALUATION, n_pieces == 1);
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

static enum status choose(struct reader *r)
{
    const struct suite_options *o = r->o;
    bool in_pieces = o->tuning || o->num_samples, shared;
    TRY(cut(r, in_pieces));
    size_t most = r->n_ids / (size_t)(o->max_length - build_bos(o)) + 2 * r->n_documents + 1, n;
    size_t *chosen = malloc(most * sizeof *chosen);
    if (!chosen) return fail(ERR_MEMORY, "no memory for windows");
    n = spread_choose(r->units, r->n_windows, o, chosen, &shared);
    enum status st = OK;
    if (in_pieces && shared && r->n_documents == 1) { /* then it may as well be cut as a whole */
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

static enum status read_whole(struct reader *r, const struct text_file *file)
{
    const char *path = r->o->argument;
    TRY(add_document(r, path_base(path), file->text, file->len));
    if (r->set->n_skipped)
        return fail(ERR_FORMAT,
            "%s: has %zu tokens (begin-of-text included), at least %d are needed; give a longer "
            "text",
            path, r->longest, r->o->min_length);
    return OK;
}

static enum status read_lines(struct reader *r, struct jsonl *in)
{
    const char *path = r->o->argument;
    int n_lines = 0;
    for (;; n_lines++) {
        const char *text;
        TRY(jsonl_next(in));
        if (!in->object) break;
        TRY(jsonl_string(in, "text", &text));
        char *label = str_format("%s %s %ld", path_base(path), jsonl_unit(in), in->line);
        enum status st = add_document(r, label, text, strlen(text));
        free(label);
        TRY(st);
    }
    if (n_lines == 0) return fail(ERR_FORMAT, "%s: has no lines", path);
    if (r->n_documents > 0) return OK;
    return fail(ERR_FORMAT,
        "%s: none of its %d documents reaches %d tokens, the longest has %zu; give longer texts",
        path, n_lines, r->o->min_length, r->longest);
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
    if (st == OK) st = in.documents ? read_lines(&r, &in) : read_whole(&r, &in.file);
    if (st == OK) st = choose(&r);
    reader_clear(&r);
    jsonl_close(&in);
    field_map_clear(&fields);
    return st;
}

const struct suite suite_text = {
    .name = "text",
    .help = "text:FILE  perplexity of a text file, or of the {\"text\"} lines of a JSON lines file",
    .reads_fields = true,
    .load = load,
};
