/* Perplexity of texts.
 *
 * Each document is cut into windows of max_length tokens that do not overlap, BOS in front of each (and
 * counted). Every next token is scored; with second_half only those of a window's second half, as llama.cpp
 * has it. A short last window is kept from LAST_WINDOW tokens on, or when the document has no other. Windows
 * never hold two documents. num_samples takes windows from the start.
 */
#include "suites/build.h"
#include "suites/jsonl.h"

#include <stdlib.h>
#include <string.h>

enum { LAST_WINDOW = 256 }; /* under this attention runs dense anyway */

struct reader {
    const struct suite_options *o;
    struct sample_set *set;
    struct token_list tokens; /* of the present document */
    size_t longest;           /* tokens of the longest document that was left out, BOS included */
};

static bool full(const struct reader *r)
{
    return r->o->num_samples && r->set->n_samples >= r->o->num_samples;
}

static enum status add_document(struct reader *r, const char *label, const char *text, size_t len)
{
    const struct suite_options *o = r->o;
    TRY(build_encode(o, r->set, text, len, &r->tokens));
    size_t bos = (size_t)build_bos(o), n = r->tokens.n, step = (size_t)o->max_length - bos;
    if (n + bos < (size_t)o->min_length) {
        if (n + bos > r->longest) r->longest = n + bos;
        r->set->n_skipped++;
        return OK;
    }
    size_t last_min = o->min_length > LAST_WINDOW ? (size_t)o->min_length : LAST_WINDOW;
    int window = 0;
    for (size_t at = 0; at < n && !full(r); at += step) {
        size_t take = n - at < step ? n - at : step;
        if (at > 0 && take < step && take + bos < last_min) break;
        TRY(build_sample(o, r->set, r->tokens.ids + at, take, str_format("%s window %d", label, ++window)));
    }
    return OK;
}

static enum status read_whole(struct reader *r, const struct text_file *file)
{
    const char *path = r->o->argument;
    TRY(add_document(r, path_base(path), file->text, file->len));
    if (r->set->n_skipped)
        return fail(ERR_FORMAT,
                    "%s: has %zu tokens (begin-of-text included), at least %d are needed; give a longer text",
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
        if (full(r)) continue; /* the rest is only checked */
        char *label = str_format("%s %s %ld", path_base(path), jsonl_unit(in), in->line);
        enum status st = add_document(r, label, text, strlen(text));
        free(label);
        TRY(st);
    }
    if (n_lines == 0) return fail(ERR_FORMAT, "%s: has no lines", path);
    if (r->set->n_samples > 0) return OK;
    return fail(ERR_FORMAT, "%s: none of its %d documents reaches %d tokens, the longest has %zu; give longer texts", path,
                n_lines, r->o->min_length, r->longest);
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
    token_list_clear(&r.tokens);
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
