#include "engine/tokenizer/tokenizer_form.h"

#include "engine/tokenizer/tokenizer_unicode.h"

#include <utf8proc.h>

#define MAX_PARTS 32 /* the longest decomposition in Unicode has 18 */

struct form_char {
    int32_t cp;
    uint16_t class; /* canonical combining class */
    uint32_t order; /* keeps the sort stable */
};

void form_work_clear(struct form_work *w)
{
    free(w->chars);
    free(w->plain);
    *w = (struct form_work){0};
}

static uint16_t combining_class(int32_t cp)
{
    return (uint16_t)utf8proc_get_property(cp)->combining_class;
}

/* Whether a character may become one with what stands before it although its class is 0. */
static bool may_join(int32_t cp)
{
    enum unicode_category category = unicode_category((uint32_t)cp);
    return category == UC_MN || category == UC_MC || category == UC_ME ||
        (cp >= 0x1161 && cp <= 0x1175) || (cp >= 0x11A8 && cp <= 0x11C2);
}

static int by_class(const void *a, const void *b)
{
    const struct form_char *x = a, *y = b;
    if (x->class != y->class) return x->class < y->class ? -1 : 1;
    return (x->order > y->order) - (x->order < y->order);
}

/* Canonical ordering: sort every run of characters whose class is not 0. */
static void reorder(struct form_work *w)
{
    for (size_t begin = 0, end; begin < w->n; begin = end) {
        end = begin + 1;
        if (w->chars[begin].class == 0) continue;
        while (end < w->n && w->chars[end].class != 0) end++;
        if (end - begin > 1) qsort(w->chars + begin, end - begin, sizeof *w->chars, by_class);
    }
}

static enum status flush(
    enum unicode_form form, struct form_work *w, struct text_buf *out, uint32_t origin)
{
    if (w->n == 0) return OK;
    reorder(w);
    size_t n = w->n;
    TRY(GROW(w->plain, w->cap_plain, n + 1));
    for (size_t i = 0; i < n; i++) w->plain[i] = w->chars[i].cp;
    w->n = 0;
    if (n > 1 && (form == FORM_NFC || form == FORM_NFKC)) {
        utf8proc_ssize_t left = utf8proc_normalize_utf32(
            w->plain, (utf8proc_ssize_t)n, UTF8PROC_COMPOSE | UTF8PROC_STABLE);
        if (left < 0)
            return fail(ERR_FORMAT, "tokenizer: normalisation: %s", utf8proc_errmsg(left));
        n = (size_t)left;
    }
    for (size_t i = 0; i < n; i++) {
        char bytes[4];
        TRY(text_buf_add(out, bytes, utf8_write((uint32_t)w->plain[i], bytes), origin));
    }
    return OK;
}

static enum status add_parts(enum unicode_form form, struct form_work *w, struct text_buf *out,
    uint32_t cp, uint32_t here, uint32_t *origin)
{
    int32_t parts[MAX_PARTS];
    int boundary = 0;
    int options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | (form >= FORM_NFKC ? UTF8PROC_COMPAT : 0);
    utf8proc_ssize_t n = utf8proc_decompose_char(
        (int32_t)cp, parts, MAX_PARTS, (utf8proc_option_t)options, &boundary);
    if (n < 1 || n > MAX_PARTS)
        return fail(ERR_FORMAT, "tokenizer: U+%04X has no normal form", (unsigned)cp);
    if (combining_class(parts[0]) == 0 && !may_join(parts[0])) {
        TRY(flush(form, w, out, *origin));
        *origin = here;
    } else if (w->n == 0) {
        *origin = here;
    }
    TRY(GROW(w->chars, w->cap, w->n + (size_t)n));
    for (utf8proc_ssize_t i = 0; i < n; i++, w->n++)
        w->chars[w->n] = (struct form_char){parts[i], combining_class(parts[i]), (uint32_t)w->n};
    return OK;
}

enum status form_apply(
    enum unicode_form form, struct form_work *w, const struct text *in, struct text_buf *out)
{
    uint32_t origin = 0;
    w->n = 0;
    for (size_t at = 0; at < in->n;) {
        size_t ascii = at;
        while (ascii < in->n && !(in->s[ascii] & 0x80)) ascii++;
        if (ascii > at + 1) { /* only the last of a run of ASCII may meet a mark */
            TRY(flush(form, w, out, origin));
            TRY(text_buf_copy(out, in, at, ascii - 1));
            at = ascii - 1;
        }
        uint32_t cp;
        size_t len = utf8_read(in->s + at, in->n - at, &cp);
        if (unicode_is_inert(cp)) {
            TRY(flush(form, w, out, origin));
            TRY(text_buf_copy(out, in, at, at + len));
        } else {
            TRY(add_parts(form, w, out, cp, text_origin(in, at), &origin));
        }
        at += len;
    }
    return flush(form, w, out, origin);
}

uint32_t form_lower(uint32_t cp) { return (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp); }
