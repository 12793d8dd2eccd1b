#include "engine/tokenizer/pretokenize.h"

#include "engine/tokenizer/tokenizer_component.h"
#include "engine/tokenizer/tokenizer_normalize.h"
#include "engine/tokenizer/tokenizer_unicode.h"

/* what happens to the matches of a Split; names as in tokenizer.json */
enum behavior { REMOVED, ISOLATED, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT, CONTIGUOUS };
static const char *const behavior_names[] = {
    "Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"};

struct step {
    enum { STEP_SPLIT, STEP_DIGITS, STEP_SPACE_FIRST, STEP_BYTES, STEP_METASPACE } kind;
    struct regex *what; /* of STEP_SPLIT; of STEP_METASPACE the space */
    enum behavior behavior;
    bool inverted;
    char mark[5]; /* of STEP_METASPACE */
    enum { PREPEND_FIRST, PREPEND_NEVER, PREPEND_ALWAYS } scheme;
};

struct pretokenizer {
    struct step steps[COMPONENT_STEPS];
    size_t n_steps;
    struct cp_set digits;
    bool bytes; /* there is a ByteLevel: a second one would spell the first one's spelling */
};

struct span {
    size_t begin, end;
    bool matched;
};

struct pretokenizer_level {
    struct text_buf buf;
    struct span *spans;
    size_t n_spans, cap_spans;
};

/* The pattern that GPT-2 published for its byte-level tokenizer. */
static const char gpt2_pattern[] =
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* Printable Latin-1 stands for itself, the other 68 bytes are numbered from U+0100 on. */
static bool stands_for_itself(uint32_t c)
{
    return (c >= 0x21 && c <= 0x7E) || (c >= 0xA1 && c <= 0xFF && c != 0xAD);
}

uint32_t byte_level_char(unsigned char byte)
{
    if (stands_for_itself(byte)) return byte;
    if (byte <= 0x20) return 0x100u + byte;
    return byte == 0xAD ? 0x143u : 0x121u + byte - 0x7F;
}

int byte_level_byte(uint32_t cp)
{
    if (cp < 0x100) return stands_for_itself(cp) ? (int)cp : -1;
    if (cp <= 0x120) return (int)cp - 0x100;
    if (cp <= 0x142) return (int)cp - 0x121 + 0x7F;
    return cp == 0x143 ? 0xAD : -1;
}

static enum status add_step(struct pretokenizer *p, struct json_in in, struct step **step)
{
    if (p->n_steps == COMPONENT_STEPS)
        return fail(ERR_UNSUPPORTED, "%s: field %s: more than %d pre-tokenizer steps", in.file,
            in.path, COMPONENT_STEPS);
    *step = &p->steps[p->n_steps++];
    **step = (struct step){.behavior = ISOLATED};
    return OK;
}

static enum status read_split(struct pretokenizer *p, struct json_in in)
{
    struct step *step = NULL;
    const char *behavior = NULL;
    TRY(add_step(p, in, &step));
    TRY(component_search(in, &step->what));
    TRY(json_get_bool(in, "invert", true, &step->inverted));
    TRY(json_get_string(in, "behavior", true, &behavior));
    for (int i = 0; i < 5; i++) {
        if (strcmp(behavior, behavior_names[i]) != 0) continue;
        step->behavior = (enum behavior)i;
        return OK;
    }
    return fail(ERR_UNSUPPORTED,
        "%s: field %s.behavior: found \"%s\", expected Removed, Isolated, "
        "MergedWithPrevious, MergedWithNext or Contiguous",
        in.file, in.path, behavior);
}

static enum status read_byte_level(struct pretokenizer *p, struct json_in in)
{
    struct step *step = NULL;
    bool prefix = false, use_regex = true;
    TRY(json_get_bool(in, "add_prefix_space", true, &prefix));
    TRY(json_get_bool(in, "use_regex", false, &use_regex));
    if (p->bytes)
        return fail(ERR_UNSUPPORTED, "%s: field %s: found a second ByteLevel, expected at most one",
            in.file, in.path);
    p->bytes = true;
    if (prefix) {
        TRY(add_step(p, in, &step));
        step->kind = STEP_SPACE_FIRST;
    }
    if (use_regex) {
        TRY(add_step(p, in, &step));
        TRY(regex_open(&step->what, gpt2_pattern, strlen(gpt2_pattern),
            (struct regex_place){in.file, in.path}));
    }
    TRY(add_step(p, in, &step));
    step->kind = STEP_BYTES;
    return OK;
}

static enum status read_metaspace(struct pretokenizer *p, struct json_in in)
{
    struct step *step = NULL;
    const char *mark = NULL, *scheme = "always";
    bool prefix = true, split = true;
    TRY(component_char(in, "replacement", &mark));
    TRY(json_get_string(in, "prepend_scheme", false, &scheme));
    TRY(json_get_bool(in, "add_prefix_space", false, &prefix));
    TRY(json_get_bool(in, "split", false, &split));
    bool first = strcmp(scheme, "first") == 0, never = strcmp(scheme, "never") == 0;
    if (!first && !never && strcmp(scheme, "always") != 0)
        return fail(ERR_UNSUPPORTED,
            "%s: field %s.prepend_scheme: found \"%s\", expected first, never or always", in.file,
            in.path, scheme);
    if (!prefix && !never)
        return fail(ERR_FORMAT,
            "%s: field %s.add_prefix_space: found false, expected true or the prepend_scheme "
            "never",
            in.file, in.path);
    struct regex_place place = {in.file, in.path};
    TRY(add_step(p, in, &step));
    step->kind = STEP_METASPACE;
    step->scheme = first ? PREPEND_FIRST : never ? PREPEND_NEVER : PREPEND_ALWAYS;
    memcpy(step->mark, mark, strlen(mark));
    TRY(regex_open_literal(&step->what, " ", 1, place));
    if (!split) return OK;
    TRY(add_step(p, in, &step));
    step->behavior = MERGED_WITH_NEXT;
    return regex_open_literal(&step->what, mark, strlen(mark), place);
}

static enum status read_digits(struct pretokenizer *p, struct json_in in)
{
    struct step *step = NULL;
    bool individual = false;
    TRY(json_get_bool(in, "individual_digits", true, &individual));
    TRY(add_step(p, in, &step));
    step->kind = STEP_DIGITS;
    step->behavior = individual ? ISOLATED : CONTIGUOUS;
    if (p->digits.n > 0) return OK;
    cp_set_add_numeric(&p->digits);
    cp_set_finish(&p->digits);
    return OK;
}

static enum status read_pretokenizer(void *into, struct json_in in, int depth)
{
    const char *type = NULL;
    TRY(component_type(in, &type));
    if (strcmp(type, "Sequence") == 0)
        return component_sequence(in, "pretokenizers", read_pretokenizer, into, depth);
    if (strcmp(type, "Split") == 0) return read_split(into, in);
    if (strcmp(type, "ByteLevel") == 0) return read_byte_level(into, in);
    if (strcmp(type, "Metaspace") == 0) return read_metaspace(into, in);
    if (strcmp(type, "Digits") == 0) return read_digits(into, in);
    return component_unknown(in, type, "Sequence, Split, ByteLevel, Metaspace or Digits");
}

enum status pretokenizer_open(struct pretokenizer **out, struct json_in in)
{
    struct pretokenizer *p = *out = calloc(1, sizeof *p);
    if (!p) return fail(ERR_MEMORY, "%s: no memory for a pre-tokenizer", in.file);
    enum status st = in.node && !cJSON_IsNull(in.node) ? read_pretokenizer(p, in, 0) : OK;
    if (st != OK) pretokenizer_close(out);
    return st;
}

void pretokenizer_close(struct pretokenizer **p)
{
    if (!*p) return;
    for (size_t i = 0; i < (*p)->n_steps; i++) regex_close(&(*p)->steps[i].what);
    cp_set_clear(&(*p)->digits);
    free(*p);
    *p = NULL;
}

void pretokenizer_work_clear(struct pretokenizer_work *w)
{
    for (size_t i = 0; i < w->n_levels; i++) {
        text_buf_clear(&w->levels[i].buf);
        free(w->levels[i].spans);
    }
    free(w->levels);
    regex_work_clear(&w->regex);
    *w = (struct pretokenizer_work){0};
}

static enum status add_span(
    struct pretokenizer_level *level, size_t begin, size_t end, bool matched)
{
    TRY(GROW(level->spans, level->cap_spans, level->n_spans + 1));
    level->spans[level->n_spans++] = (struct span){begin, end, matched};
    return OK;
}

/* Cover the text with spans that match and spans that do not. */
static enum status find_spans(const struct step *step, struct pretokenizer_work *w,
    struct pretokenizer_level *level, const struct text *in)
{
    level->n_spans = 0;
    size_t done = 0, begin, end;
    for (bool found = true; done < in->n; done = end) {
        TRY(regex_find(step->what, &w->regex, in->s, in->n, done, &found, &begin, &end));
        if (!found) begin = end = in->n;
        if (begin > done) TRY(add_span(level, done, begin, step->inverted));
        if (end > begin) TRY(add_span(level, begin, end, !step->inverted));
    }
    return OK;
}

static enum status find_digits(
    const struct cp_set *digits, struct pretokenizer_level *level, const struct text *in)
{
    level->n_spans = 0;
    size_t done = 0;
    for (size_t at = 0, len; at < in->n; at += len) {
        uint32_t cp;
        len = utf8_read(in->s + at, in->n - at, &cp);
        if (!cp_set_has(digits, cp)) continue;
        if (at > done) TRY(add_span(level, done, at, false));
        TRY(add_span(level, at, at + len, true));
        done = at + len;
    }
    return done < in->n ? add_span(level, done, in->n, false) : OK;
}

/* Drop or join neighbouring spans as the behaviour says. */
static void join_spans(enum behavior behavior, struct pretokenizer_level *level)
{
    struct span *s = level->spans;
    size_t n = 0;
    bool before = false;                /* the span looked at last had matched */
    if (behavior == MERGED_WITH_NEXT) { /* from the end, results gathered at the end of the array */
        size_t to = level->n_spans;
        for (size_t i = level->n_spans; i-- > 0;) {
            bool matched = s[i].matched;
            if (matched && !before && to < level->n_spans) s[to].begin = s[i].begin;
            else s[--to] = s[i];
            before = matched;
        }
        n = level->n_spans - to;
        memmove(s, s + to, n * sizeof *s);
        level->n_spans = n;
        return;
    }
    for (size_t i = 0; i < level->n_spans; i++) {
        bool matched = s[i].matched, join = false;
        if (behavior == REMOVED && matched) continue;
        if (behavior == CONTIGUOUS) join = matched == before && n > 0;
        if (behavior == MERGED_WITH_PREVIOUS) join = matched && !before && n > 0;
        if (join) s[n - 1].end = s[i].end;
        else s[n++] = s[i];
        before = matched;
    }
    level->n_spans = n;
}

static enum status write_bytes(struct text_buf *out, const struct text *in)
{
    TRY(text_buf_reserve(out, 2 * in->n));
    uint32_t origin = 0;
    for (size_t i = 0; i < in->n; i++) {
        char bytes[4];
        if (in->origin || utf8_is_start(in->s[i])) origin = text_origin(in, i);
        size_t len = utf8_write(byte_level_char((unsigned char)in->s[i]), bytes);
        for (size_t k = 0; k < len; k++, out->n++) {
            out->s[out->n] = bytes[k];
            out->origin[out->n] = origin;
        }
    }
    return OK;
}

static enum status write_metaspace(const struct step *step, struct pretokenizer_work *w,
    struct text_buf *out, const struct text *in)
{
    size_t n_mark = strlen(step->mark);
    bool marked = in->s[0] == ' ' || (in->n >= n_mark && memcmp(in->s, step->mark, n_mark) == 0);
    bool wanted = step->scheme == PREPEND_ALWAYS ||
        (step->scheme == PREPEND_FIRST && text_origin(in, 0) == 0);
    if (wanted && !marked) TRY(text_buf_add(out, step->mark, n_mark, text_origin(in, 0)));
    return text_replace(step->what, &w->regex, step->mark, in, out);
}

static enum status apply_from(const struct pretokenizer *p, size_t i, struct pretokenizer_work *w,
    const struct text *in, pretokenizer_sink *sink, void *user)
{
    if (i == p->n_steps) return sink(user, in);
    const struct step *step = &p->steps[i];
    struct pretokenizer_level *level = &w->levels[i];
    if (step->kind == STEP_SPLIT || step->kind == STEP_DIGITS) {
        TRY(step->kind == STEP_SPLIT ? find_spans(step, w, level, in)
                                     : find_digits(&p->digits, level, in));
        if (step->behavior != ISOLATED) join_spans(step->behavior, level);
        for (size_t k = 0; k < level->n_spans; k++) {
            struct text piece = text_slice(in, level->spans[k].begin, level->spans[k].end);
            TRY(apply_from(p, i + 1, w, &piece, sink, user));
        }
        return OK;
    }
    level->buf.n = 0;
    if (step->kind == STEP_SPACE_FIRST) {
        if (in->s[0] != ' ') TRY(text_buf_add(&level->buf, " ", 1, text_origin(in, 0)));
        TRY(text_buf_copy(&level->buf, in, 0, in->n));
    } else if (step->kind == STEP_BYTES) {
        TRY(write_bytes(&level->buf, in));
    } else {
        TRY(write_metaspace(step, w, &level->buf, in));
    }
    struct text out = text_buf_get(&level->buf);
    return apply_from(p, i + 1, w, &out, sink, user);
}

enum status pretokenizer_apply(const struct pretokenizer *p, struct pretokenizer_work *w,
    const struct text *in, pretokenizer_sink *sink, void *user)
{
    if (!w->levels && p->n_steps > 0) {
        w->levels = calloc(p->n_steps, sizeof *w->levels);
        if (!w->levels) return fail(ERR_MEMORY, "tokenizer: no memory to split a text");
        w->n_levels = p->n_steps;
    }
    return in->n > 0 ? apply_from(p, 0, w, in, sink, user) : OK;
}
