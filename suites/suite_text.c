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

static enum status read_whole(struct reader *r)
{
    const char *path = r->o->argument;
    struct file_map map;
    TRY(file_map_open(&map, path));
    enum status st = add_document(r, path_base(path), map.data ? (const char *)map.data : "", map.size);
    file_map_close(&map);
    TRY(st);
    if (r->set->n_skipped)
        return fail(ERR_FORMAT,
                    "%s: has %zu tokens (begin-of-text included), at least %d are needed; give a longer text",
                    path, r->longest, r->o->min_length);
    return OK;
}

static enum status read_lines(struct reader *r, const struct field_map *fields)
{
    const char *path = r->o->argument;
    struct jsonl in;
    TRY(jsonl_open(&in, path, fields));
    enum status st;
    int n_lines = 0;
    for (;; n_lines++) {
        const char *text;
        TRY_GOTO(st, done, jsonl_next(&in));
        if (!in.object) break;
        TRY_GOTO(st, done, jsonl_string(&in, "text", &text));
        if (full(r)) continue; /* the rest is only checked */
        char *label = str_format("%s line %ld", path_base(path), in.line);
        st = add_document(r, label, text, strlen(text));
        free(label);
        if (st != OK) goto done;
    }
    if (n_lines == 0)
        st = fail(ERR_FORMAT, "%s: has no lines", path);
    else if (r->set->n_samples == 0)
        st = fail(ERR_FORMAT,
                  "%s: none of its %d documents reaches %d tokens, the longest has %zu; give longer texts",
                  path, n_lines, r->o->min_length, r->longest);
done:
    jsonl_close(&in);
    return st;
}

static enum status load(const struct suite_options *o, struct sample_set *out)
{
    TRY(build_need_file(o, "text", "text:FILE.txt (one document) or text:FILE.jsonl ({\"text\"} a line)"));
    struct field_map fields;
    TRY(field_map_parse(&fields, o->field));
    struct reader r = {.o = o, .set = out};
    out->score_text = true;
    enum status st = str_ends_with(o->argument, ".jsonl") ? read_lines(&r, &fields) : read_whole(&r);
    token_list_clear(&r.tokens);
    field_map_clear(&fields);
    return st;
}

const struct suite suite_text = {
    .name = "text",
    .help = "text:FILE  perplexity of a text file, or of the {\"text\"} lines of a .jsonl file",
    .reads_fields = true,
    .load = load,
};
