#include "engine/tokenizer/tokenizer_decode.h"

#include "engine/tokenizer/pretokenize.h"
#include "engine/tokenizer/tokenizer_component.h"

struct step {
    enum {
        STEP_REPLACE,
        STEP_BYTE_FALLBACK,
        STEP_FUSE,
        STEP_STRIP,
        STEP_BYTE_LEVEL,
        STEP_METASPACE
    } kind;
    struct regex *what;  /* of STEP_REPLACE */
    char *with;          /* of STEP_REPLACE, owned */
    char mark[5];        /* of STEP_STRIP and STEP_METASPACE: one character */
    int64_t start, stop; /* of STEP_STRIP: at most so many at either end */
    bool keep_first;     /* of STEP_METASPACE: the marks of the first token are spaces too */
};

struct decoder {
    struct step *steps;
    size_t n_steps, cap_steps;
    bool spaces; /* there is no decoder */
};

void pieces_clear(struct pieces *p)
{
    str_clear(&p->bytes);
    free(p->ends);
    *p = (struct pieces){0};
}

static enum status end_piece(struct pieces *p)
{
    TRY(GROW(p->ends, p->cap, p->n + 1));
    p->ends[p->n++] = p->bytes.len;
    return OK;
}

enum status pieces_add(struct pieces *p, const char *s, size_t n)
{
    str_add_bytes(&p->bytes, s, n);
    return end_piece(p);
}

static const char *piece(const struct pieces *p, size_t i, size_t *n)
{
    size_t begin = i ? p->ends[i - 1] : 0;
    *n = p->ends[i] - begin;
    return str_get(&p->bytes) + begin;
}

static enum status read_step(struct step *step, struct json_in in, const char *type)
{
    const char *text = NULL, *scheme = "always";
    if (strcmp(type, "Replace") == 0) {
        step->kind = STEP_REPLACE;
        TRY(component_search(in, &step->what));
        TRY(component_insert(in, "content", &text));
        step->with = str_dup(text);
        return OK;
    }
    if (strcmp(type, "Strip") == 0) {
        step->kind = STEP_STRIP;
        TRY(component_char(in, "content", &text));
        memcpy(step->mark, text, strlen(text));
        TRY(json_get_int(in, "start", true, 0, INT32_MAX, &step->start));
        return json_get_int(in, "stop", true, 0, INT32_MAX, &step->stop);
    }
    if (strcmp(type, "Metaspace") == 0) {
        bool prefix = true;
        step->kind = STEP_METASPACE;
        TRY(component_char(in, "replacement", &text));
        memcpy(step->mark, text, strlen(text));
        TRY(json_get_string(in, "prepend_scheme", false, &scheme));
        TRY(json_get_bool(in, "add_prefix_space", false, &prefix));
        step->keep_first = strcmp(scheme, "never") == 0 || !prefix;
        return OK;
    }
    if (strcmp(type, "ByteFallback") == 0) step->kind = STEP_BYTE_FALLBACK;
    else if (strcmp(type, "Fuse") == 0) step->kind = STEP_FUSE;
    else if (strcmp(type, "ByteLevel") == 0) step->kind = STEP_BYTE_LEVEL;
    else
        return component_unknown(
            in, type, "Sequence, Replace, ByteFallback, Fuse, Strip, ByteLevel or Metaspace");
    return OK;
}

static enum status read_decoder(void *into, struct json_in in, int depth)
{
    struct decoder *d = into;
    const char *type = NULL;
    TRY(component_type(in, &type));
    if (strcmp(type, "Sequence") == 0)
        return component_sequence(in, "decoders", read_decoder, d, depth);
    if (d->n_steps == COMPONENT_STEPS)
        return fail(ERR_UNSUPPORTED, "%s: field %s: more than %d decoders", in.file, in.path,
            COMPONENT_STEPS);
    TRY(GROW(d->steps, d->cap_steps, d->n_steps + 1));
    d->steps[d->n_steps] = (struct step){0};
    return read_step(&d->steps[d->n_steps++], in, type);
}

enum status decoder_open(struct decoder **out, struct json_in in)
{
    struct decoder *d = *out = calloc(1, sizeof *d);
    if (!d) return fail(ERR_MEMORY, "%s: no memory for a decoder", in.file);
    d->spaces = !in.node || cJSON_IsNull(in.node);
    enum status st = d->spaces ? OK : read_decoder(d, in, 0);
    if (st != OK) decoder_close(out);
    return st;
}

void decoder_close(struct decoder **d)
{
    if (!*d) return;
    for (size_t i = 0; i < (*d)->n_steps; i++) {
        regex_close(&(*d)->steps[i].what);
        free((*d)->steps[i].with);
    }
    free((*d)->steps);
    free(*d);
    *d = NULL;
}

static enum status replace(const struct step *step, const struct pieces *in, struct pieces *out)
{
    struct regex_work work = {0};
    enum status st = OK;
    for (size_t i = 0; st == OK && i < in->n; i++) {
        size_t n, done = 0, begin, end;
        const char *s = piece(in, i, &n);
        for (bool found = true; st == OK && done < n; done = end) {
            st = regex_find(step->what, &work, s, n, done, &found, &begin, &end);
            if (st != OK || !found) begin = end = n;
            str_add_bytes(&out->bytes, s + done, begin - done);
            if (end > begin) str_add(&out->bytes, step->with);
        }
        if (st == OK) st = end_piece(out);
    }
    regex_work_clear(&work);
    return st;
}

static int hex_value(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* The byte a token "<0xNN>" stands for, -1 for other tokens. Rust's number parser lets "+A" pass
 * for 0A. */
static int byte_of(const char *s, size_t n)
{
    if (n != 6 || memcmp(s, "<0x", 3) != 0 || s[5] != '>') return -1;
    int high = s[3] == '+' ? 0 : hex_value(s[3]), low = hex_value(s[4]);
    return high < 0 || low < 0 ? -1 : high << 4 | low;
}

/* A run of byte tokens is one text when it is UTF-8 as a whole, and as many U+FFFD as bytes
 * otherwise. */
static enum status flush_bytes(struct str *run, struct pieces *out)
{
    if (run->len == 0) return OK;
    if (utf8_valid(run->data, run->len, NULL)) {
        TRY(pieces_add(out, run->data, run->len));
    } else {
        for (size_t i = 0; i < run->len; i++) TRY(pieces_add(out, "\xEF\xBF\xBD", 3));
    }
    str_reset(run);
    return OK;
}

static enum status byte_fallback(const struct pieces *in, struct pieces *out)
{
    struct str run = {0};
    enum status st = OK;
    for (size_t i = 0; st == OK && i < in->n; i++) {
        size_t n;
        const char *s = piece(in, i, &n);
        int byte = byte_of(s, n);
        if (byte >= 0) {
            str_add_char(&run, (char)byte);
            continue;
        }
        st = flush_bytes(&run, out);
        if (st == OK) st = pieces_add(out, s, n);
    }
    if (st == OK) st = flush_bytes(&run, out);
    str_clear(&run);
    return st;
}

static enum status strip(const struct step *step, const struct pieces *in, struct pieces *out)
{
    size_t n_mark = strlen(step->mark);
    for (size_t i = 0; i < in->n; i++) {
        size_t n;
        const char *s = piece(in, i, &n), *end = s + n;
        for (int64_t k = 0;
             k < step->start && (size_t)(end - s) >= n_mark && memcmp(s, step->mark, n_mark) == 0;
             k++)
            s += n_mark;
        for (int64_t k = 0; k < step->stop && (size_t)(end - s) >= n_mark &&
             memcmp(end - n_mark, step->mark, n_mark) == 0;
             k++)
            end -= n_mark;
        TRY(pieces_add(out, s, (size_t)(end - s)));
    }
    return OK;
}

static enum status byte_level(const struct pieces *in, struct pieces *out)
{
    struct str bytes = {0};
    for (size_t i = 0; i < in->n; i++) {
        size_t n, before = bytes.len;
        const char *s = piece(in, i, &n);
        for (size_t at = 0; at < n;) {
            uint32_t cp;
            at += utf8_read(s + at, n - at, &cp);
            int byte = byte_level_byte(cp);
            if (byte < 0) { /* not written in the byte alphabet: the token stands for itself */
                bytes.len = before;
                str_add_bytes(&bytes, s, n);
                break;
            }
            str_add_char(&bytes, (char)byte);
        }
    }
    utf8_repair(&out->bytes, str_get(&bytes), bytes.len);
    str_clear(&bytes);
    return end_piece(out);
}

static enum status metaspace(const struct step *step, const struct pieces *in, struct pieces *out)
{
    size_t n_mark = strlen(step->mark);
    for (size_t i = 0; i < in->n; i++) {
        size_t n;
        const char *s = piece(in, i, &n);
        for (size_t at = 0, len; at < n; at += len) {
            len = utf8_length((unsigned char)s[at]);
            bool mark = len == n_mark && memcmp(s + at, step->mark, n_mark) == 0;
            if (!mark) str_add_bytes(&out->bytes, s + at, len);
            else if (i > 0 || step->keep_first) str_add_char(&out->bytes, ' ');
        }
        TRY(end_piece(out));
    }
    return OK;
}

static enum status apply_step(const struct step *step, const struct pieces *in, struct pieces *out)
{
    switch (step->kind) {
    case STEP_REPLACE: return replace(step, in, out);
    case STEP_BYTE_FALLBACK: return byte_fallback(in, out);
    case STEP_FUSE: return pieces_add(out, str_get(&in->bytes), in->bytes.len);
    case STEP_STRIP: return strip(step, in, out);
    case STEP_BYTE_LEVEL: return byte_level(in, out);
    case STEP_METASPACE: return metaspace(step, in, out);
    }
    return OK;
}

enum status decoder_apply(const struct decoder *d, struct pieces *tokens, struct str *out)
{
    enum status st = OK;
    size_t n_in = tokens->bytes.len;
    for (size_t i = 0; st == OK && i < d->n_steps; i++) {
        struct pieces next = {0};
        st = apply_step(&d->steps[i], tokens, &next);
        if (st == OK) st = component_growth(n_in, next.bytes.len);
        pieces_clear(tokens);
        *tokens = next;
    }
    for (size_t i = 0; st == OK && i < tokens->n; i++) {
        size_t n;
        const char *s = piece(tokens, i, &n);
        if (d->spaces && i > 0) str_add_char(out, ' ');
        str_add_bytes(out, s, n);
    }
    return st;
}
