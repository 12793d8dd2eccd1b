#define PCRE2_CODE_UNIT_WIDTH 8
#include "engine/tokenizer/tokenizer_regex.h"

#include "base/str.h"
#include "engine/tokenizer/tokenizer_unicode.h"
#include "base/utf8.h"

#include <pcre2.h>
#include <stdlib.h>
#include <string.h>

#define MAX_NESTING 64
#define MATCH_LIMIT                                                                        \
    200000000u /* about a second of backtracking; the known patterns need none to speak of \
                */
#define STACK_FIRST (32 * 1024)
#define STACK_LAST (8 * 1024 * 1024)

struct regex {
    char *literal; /* NULL: `code` counts */
    size_t n_literal;
    pcre2_code *code;
    bool jit;
    struct regex_place place; /* owned copies */
};

/* Reading position in a pattern, and what is known there. */
struct source {
    const char *at, *begin, *end;
    struct regex_place place;
    bool caseless[MAX_NESTING];
    int depth;
};

static enum status refuse(const struct source *s, const char *what, const char *at)
{
    int shown = s->end - at > 12 ? 12 : (int)(s->end - at);
    while (shown > 0 && at + shown < s->end && !utf8_is_start(at[shown])) shown--;
    return fail(ERR_UNSUPPORTED,
        "%s: field %s: found %s at byte %zu of the regular expression (\"%.*s\"), which has no "
        "translation here; expected literals, groups, classes, \\p{..} and plain quantifiers",
        s->place.file, s->place.field, what, (size_t)(at - s->begin), shown, at);
}

static bool starts(const struct source *s, const char *prefix)
{
    size_t n = strlen(prefix);
    return (size_t)(s->end - s->at) >= n && memcmp(s->at, prefix, n) == 0;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
}

/* Read at least one and up to `most` hexadecimal digits. */
static bool read_hex(struct source *s, int most, uint32_t *value)
{
    *value = 0;
    int n = 0;
    for (; n < most && s->at < s->end && hex_digit(*s->at) >= 0; n++, s->at++)
        *value = *value << 4 | (uint32_t)hex_digit(*s->at);
    return n > 0;
}

static bool is_scalar(uint32_t cp) { return cp <= UNICODE_LAST && (cp < 0xD800 || cp > 0xDFFF); }

/* An escape that stands for one character; s->at is behind the backslash. *known false: it is
 * another kind.
 */
static enum status read_char_escape(struct source *s, bool *known, uint32_t *cp)
{
    static const char letters[] = "rntfave", values[] = "\r\n\t\f\a\v\x1b";
    const char *begin = s->at - 1, *letter;
    char c = *s->at;
    *known = true;
    if ((letter = memchr(letters, c, sizeof letters - 1))) {
        s->at++;
        *cp = (uint32_t)values[letter - letters];
        return OK;
    }
    if (c == 'x' || c == 'u') {
        s->at++;
        bool braces = c == 'x' && starts(s, "{");
        s->at += braces;
        bool ok = read_hex(s, braces ? 8 : c == 'x' ? 2 : 4, cp) && is_scalar(*cp);
        if (braces) ok = ok && starts(s, "}");
        if (!ok) return refuse(s, "a character escape that names no character", begin);
        if (c == 'x' && !braces && *cp > 0x7F) return refuse(s, "a raw byte escape", begin);
        s->at += braces;
        return OK;
    }
    if ((unsigned char)c < 0x80 && !(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'z') &&
        !(c >= 'A' && c <= 'Z')) {
        s->at++;
        *cp = (uint32_t)c;
        return OK;
    }
    *known = false;
    return OK;
}

/* An escape that stands for a set: \s \S \d \D \w \W \p{..} \P{..}; adds it to `set`. */
static enum status read_set_escape(struct source *s, bool in_class, bool *known, struct cp_set *set)
{
    const char *begin = s->at - 1;
    char c = *s->at;
    *known = true;
    struct cp_set one = {0};
    bool negated = c == 'S' || c == 'D' || c == 'W' || c == 'P';
    /* letters have two cases, and a class of them changes its meaning under (?i) */
    if (s->caseless[s->depth] && strchr("DSwWpP", c)) return refuse(s, "a class under (?i)", begin);
    if (c == 's' || c == 'S') {
        cp_set_add_space(&one);
    } else if (c == 'd' || c == 'D') {
        cp_set_add_categories(&one, 1u << UC_ND);
    } else if (c == 'w' || c == 'W') {
        cp_set_add_word(&one, in_class);
    } else if (c == 'p' || c == 'P') {
        const char *close = memchr(s->at, '}', (size_t)(s->end - s->at));
        if (s->end - s->at < 2 || s->at[1] != '{' || !close)
            return refuse(s, "an unfinished property", begin);
        const char *name = s->at + 2;
        bool caret = *name == '^';
        name += caret;
        uint32_t mask = unicode_category_mask(name, (size_t)(close - name));
        if (!mask) return refuse(s, "a property other than a general category", begin);
        negated ^= caret;
        cp_set_add_categories(&one, mask);
        s->at = close;
    } else {
        *known = false;
        return OK;
    }
    s->at++;
    cp_set_finish(&one);
    if (negated) cp_set_invert(&one);
    for (size_t i = 0; i < one.n; i++)
        cp_set_add(set, cp_set_ranges(&one)[i].first, cp_set_ranges(&one)[i].last);
    cp_set_clear(&one);
    return OK;
}

static void write_set(struct str *out, const struct cp_set *set, bool negated)
{
    if (set->n == 0) {
        str_add(out, negated ? "(?s:.)" : "(?!)");
        return;
    }
    str_add(out, negated ? "[^" : "[");
    for (size_t i = 0; i < set->n; i++) {
        struct cp_range r = cp_set_ranges(set)[i];
        str_addf(out, "\\x{%x}", r.first);
        if (r.last > r.first) str_addf(out, "-\\x{%x}", r.last);
    }
    str_add_char(out, ']');
}

static enum status read_class_items(struct source *s, struct cp_set *set)
{
    /* "a-" was read; the last item was the character `low` */
    bool open_range = false, have_char = false;
    uint32_t low = 0;
    for (bool first = true; s->at < s->end && (*s->at != ']' || first); first = false) {
        const char *item = s->at;
        bool is_char = true;
        uint32_t cp;
        if (*s->at == ']' || *s->at == '[') return refuse(s, "a bracket inside a class", item);
        if (starts(s, "&&")) return refuse(s, "an intersection of classes", item);
        if (*s->at == '\\') {
            if (++s->at == s->end) break;
            TRY(read_char_escape(s, &is_char, &cp));
            bool is_set = false;
            if (!is_char) TRY(read_set_escape(s, true, &is_set, set));
            if (!is_char && !is_set) return refuse(s, "an escape", item);
        } else {
            s->at += utf8_read(s->at, (size_t)(s->end - s->at), &cp);
        }
        if (open_range) {
            if (!is_char || cp < low) return refuse(s, "a range that is none", item);
            cp_set_add(set, low, cp);
            open_range = have_char = false;
        } else if (is_char && cp == '-' && *item == '-' && have_char && s->at < s->end &&
            *s->at != ']') {
            open_range = true;
        } else if (is_char) {
            cp_set_add(set, cp, cp);
            low = cp;
            have_char = true;
        } else {
            have_char = false;
        }
    }
    if (s->at == s->end) return refuse(s, "a class without end", s->begin);
    return OK;
}

static enum status write_class(struct source *s, struct str *out)
{
    s->at++;
    bool negated = starts(s, "^");
    s->at += negated;
    struct cp_set set = {0};
    enum status st = read_class_items(s, &set);
    if (st == OK) {
        s->at++;
        cp_set_finish(&set);
        /* under (?i) the engine must see the class as written: [^a] then excludes both a and A */
        if (negated && !s->caseless[s->depth]) {
            cp_set_invert(&set);
            negated = false;
        }
        write_set(out, &set, negated);
    }
    cp_set_clear(&set);
    return st;
}

static void write_char(struct str *out, uint32_t cp) { str_addf(out, "\\x{%x}", cp); }

static enum status write_escape(struct source *s, struct str *out)
{
    const char *begin = s->at++;
    if (s->at == s->end) return refuse(s, "a backslash at the end", begin);
    bool known;
    uint32_t cp;
    TRY(read_char_escape(s, &known, &cp));
    if (known) {
        write_char(out, cp);
        return OK;
    }
    if (*s->at == 'A' || *s->at == 'z') {
        str_addf(out, "\\%c", *s->at++);
        return OK;
    }
    struct cp_set set = {0};
    enum status st = read_set_escape(s, false, &known, &set);
    if (st == OK && !known) st = refuse(s, "an escape", begin);
    if (st == OK) {
        cp_set_finish(&set);
        write_set(out, &set, false);
    }
    cp_set_clear(&set);
    return st;
}

static enum status write_group(struct source *s, struct str *out)
{
    static const char *const kinds[] = {"(?:", "(?=", "(?!", "(?<=", "(?<!", "(?>", "(?i:"};
    if (s->depth + 1 == MAX_NESTING) return refuse(s, "too many nested groups", s->at);
    bool caseless = s->caseless[s->depth];
    const char *kind = NULL;
    if (starts(s, "(?")) {
        for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
            if (starts(s, kinds[i])) kind = kinds[i];
        if (!kind) return refuse(s, "a kind of group", s->at);
        s->at += strlen(kind);
        caseless |= kind[2] == 'i';
    } else {
        s->at++; /* nobody reads captures */
        kind = "(?:";
    }
    str_add(out, kind);
    s->caseless[++s->depth] = caseless;
    return OK;
}

/* `{` opens an interval when it reads {n}, {n,} or {n,m}, and is a character otherwise. */
static enum status write_brace(struct source *s, struct str *out)
{
    const char *begin = s->at, *p = s->at + 1;
    size_t low = 0, high = 0;
    for (; p < s->end && *p >= '0' && *p <= '9'; p++) low++;
    bool comma = p < s->end && *p == ',';
    if (comma)
        for (p++; p < s->end && *p >= '0' && *p <= '9'; p++) high++;
    if (p == s->end || *p != '}' || low + high == 0) {
        s->at++;
        write_char(out, '{');
        return OK;
    }
    if (low == 0) return refuse(s, "an interval without lower bound", begin);
    s->at = p + 1;
    str_add_bytes(out, begin, (size_t)(s->at - begin));
    /* Ruby's syntax reads {n}? and {n,m}+ as a second quantifier on the first */
    if (starts(s, "+") || starts(s, "*") || (starts(s, "?") && !comma))
        return refuse(s, "a quantifier behind an interval", begin);
    if (starts(s, "?")) str_add_char(out, *s->at++);
    return OK;
}

static enum status translate(struct source *s, struct str *out)
{
    while (s->at < s->end) {
        switch (*s->at) {
        case '\\': TRY(write_escape(s, out)); continue;
        case '[': TRY(write_class(s, out)); continue;
        case '(': TRY(write_group(s, out)); continue;
        case '{': TRY(write_brace(s, out)); continue;
        case ')':
            if (s->depth == 0) return refuse(s, "a closing parenthesis without group", s->at);
            s->depth--;
            break;
        case '.': str_add(out, "[^\\n]"), s->at++; continue;
        case '^': str_add(out, "(?m:^)"), s->at++; continue;
        case '$': str_add(out, "(?m:$)"), s->at++; continue;
        case '|':
        case '?':
        case '*':
        case '+': break;
        default: {
            uint32_t cp;
            s->at += utf8_read(s->at, (size_t)(s->end - s->at), &cp);
            write_char(out, cp);
            continue;
        }
        }
        str_add_char(out, *s->at++);
    }
    return s->depth == 0 ? OK : refuse(s, "a group without end", s->begin);
}

static enum status compile(struct regex *r, const struct str *pattern)
{
    const struct regex_place *place = &r->place;
    int error = 0;
    PCRE2_SIZE offset = 0;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    if (!context) return fail(ERR_MEMORY, "%s: no memory for a regular expression", place->file);
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    r->code = pcre2_compile(
        (PCRE2_SPTR)str_get(pattern), pattern->len, PCRE2_UTF, &error, &offset, context);
    pcre2_compile_context_free(context);
    if (!r->code) {
        PCRE2_UCHAR text[160] = {0};
        pcre2_get_error_message(error, text, sizeof text);
        return fail(ERR_FORMAT, "%s: field %s: the regular expression cannot be compiled: %s",
            place->file, place->field, (const char *)text);
    }
    uint32_t empty = 0;
    pcre2_pattern_info(r->code, PCRE2_INFO_MATCHEMPTY, &empty);
    if (empty)
        return fail(ERR_UNSUPPORTED,
            "%s: field %s: the regular expression can match nothing, expected one that "
            "always takes a character",
            place->file, place->field);
    r->jit = pcre2_jit_compile(r->code, PCRE2_JIT_COMPLETE) == 0;
    return OK;
}

static enum status regex_new(struct regex **out, struct regex_place place)
{
    struct regex *r = *out = calloc(1, sizeof *r);
    if (!r) return fail(ERR_MEMORY, "%s: no memory for a pattern", place.file);
    r->place = (struct regex_place){str_dup(place.file), str_dup(place.field)};
    return OK;
}

enum status regex_open(struct regex **r, const char *pattern, size_t len, struct regex_place place)
{
    struct source s = {.at = pattern, .begin = pattern, .end = pattern + len, .place = place};
    struct str translated = {0};
    TRY(regex_new(r, place));
    enum status st = translate(&s, &translated);
    if (st == OK) st = compile(*r, &translated);
    str_clear(&translated);
    if (st != OK) regex_close(r);
    return st;
}

enum status regex_open_literal(
    struct regex **r, const char *text, size_t len, struct regex_place place)
{
    TRY(regex_new(r, place));
    struct str copy = {0};
    str_add_bytes(&copy, text, len);
    (*r)->literal = copy.data;
    (*r)->n_literal = len;
    return OK;
}

void regex_close(struct regex **r)
{
    if (!*r) return;
    pcre2_code_free((*r)->code);
    free((*r)->literal);
    free((char *)(*r)->place.file);
    free((char *)(*r)->place.field);
    free(*r);
    *r = NULL;
}

void regex_work_clear(struct regex_work *w)
{
    pcre2_match_data_free(w->match);
    pcre2_match_context_free(w->context);
    pcre2_jit_stack_free(w->stack);
    *w = (struct regex_work){0};
}

static enum status work_open(struct regex_work *w)
{
    w->match = pcre2_match_data_create(1, NULL);
    w->context = pcre2_match_context_create(NULL);
    if (!w->match || !w->context) return fail(ERR_MEMORY, "tokenizer: no memory to search a text");
    pcre2_set_match_limit(w->context, MATCH_LIMIT);
    w->stack = pcre2_jit_stack_create(STACK_FIRST, STACK_LAST, NULL);
    if (w->stack) pcre2_jit_stack_assign(w->context, NULL, w->stack);
    return OK;
}

enum status regex_find(const struct regex *r, struct regex_work *w, const char *text, size_t n,
    size_t from, bool *found, size_t *begin, size_t *end)
{
    if (r->literal) {
        const char *at = memmem(text + from, n - from, r->literal, r->n_literal);
        *found = at;
        *begin = at ? (size_t)(at - text) : n;
        *end = *begin + r->n_literal;
        return OK;
    }
    if (!w->match || !w->context) TRY(work_open(w));
    int rc = r->jit
        ? pcre2_jit_match(r->code, (PCRE2_SPTR)text, n, from, 0, w->match, w->context)
        : pcre2_match(r->code, (PCRE2_SPTR)text, n, from, PCRE2_NO_UTF_CHECK, w->match, w->context);
    *found = rc >= 0;
    if (rc >= 0) {
        const PCRE2_SIZE *span = pcre2_get_ovector_pointer(w->match);
        *begin = span[0];
        *end = span[1];
        return OK;
    }
    if (rc == PCRE2_ERROR_NOMATCH) return OK;
    PCRE2_UCHAR message[160] = {0};
    pcre2_get_error_message(rc, message, sizeof message);
    return fail(ERR_UNSUPPORTED,
        "%s: field %s: the regular expression gave up on a text of %zu bytes at byte %zu: "
        "%s",
        r->place.file, r->place.field, n, from, (const char *)message);
}
