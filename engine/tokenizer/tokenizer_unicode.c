#include "engine/tokenizer/tokenizer_unicode.h"

#include <stdlib.h>
#include <string.h>

#define LETTERS (1u << UC_LU | 1u << UC_LL | 1u << UC_LT | 1u << UC_LM | 1u << UC_LO)
#define MARKS (1u << UC_MN | 1u << UC_MC | 1u << UC_ME)

static const char category_names[UC_COUNT][3] = {
    "Lu",
    "Ll",
    "Lt",
    "Lm",
    "Lo",
    "Mn",
    "Mc",
    "Me",
    "Nd",
    "Nl",
    "No",
    "Pc",
    "Pd",
    "Ps",
    "Pe",
    "Pi",
    "Pf",
    "Po",
    "Sm",
    "Sc",
    "Sk",
    "So",
    "Zs",
    "Zl",
    "Zp",
    "Cc",
    "Cf",
    "Cn",
    "Co",
    "Cs",
};

static const struct cp_range white_space[] = {
    {0x9, 0xD},
    {0x20, 0x20},
    {0x85, 0x85},
    {0xA0, 0xA0},
    {0x1680, 0x1680},
    {0x2000, 0x200A},
    {0x2028, 0x2029},
    {0x202F, 0x202F},
    {0x205F, 0x205F},
    {0x3000, 0x3000},
};

/* symbols with the property Other_Alphabetic: circled and squared letters */
static const struct cp_range letter_like[] = {
    {0x24B6, 0x24E9},
    {0x1F130, 0x1F149},
    {0x1F150, 0x1F169},
    {0x1F170, 0x1F189},
};

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

uint32_t unicode_category_mask(const char *name, size_t len)
{
    uint32_t mask = 0;
    for (int i = 0; i < UC_COUNT; i++)
        if ((len == 1 || len == 2) && memcmp(category_names[i], name, len) == 0) mask |= 1u << i;
    return mask;
}

/* The last run that starts at or before cp. */
static size_t run_of(uint32_t cp)
{
    size_t lo = 0, hi = unicode_n_category_starts;
    while (hi - lo > 1) {
        size_t mid = (lo + hi) / 2;
        if (unicode_category_starts[mid] >> 5 <= cp) lo = mid;
        else hi = mid;
    }
    return lo;
}

enum unicode_category unicode_category(uint32_t cp)
{
    if (cp > UNICODE_LAST) return UC_CN;
    return (enum unicode_category)(unicode_category_starts[run_of(cp)] & 31);
}

static bool in_ranges(const struct cp_range *r, size_t n, uint32_t cp)
{
    size_t lo = 0, hi = n;
    while (lo < hi) {
        size_t mid = (lo + hi) / 2;
        if (r[mid].last < cp) lo = mid + 1;
        else hi = mid;
    }
    return lo < n && r[lo].first <= cp;
}

bool unicode_is_space(uint32_t cp) { return in_ranges(white_space, COUNT(white_space), cp); }
bool unicode_is_inert(uint32_t cp) { return in_ranges(unicode_inert, unicode_n_inert, cp); }

bool unicode_is_word(uint32_t cp)
{
    const uint32_t mask = LETTERS | MARKS | 1u << UC_ND | 1u << UC_NL | 1u << UC_PC;
    return (mask >> unicode_category(cp) & 1) || cp == 0x200C || cp == 0x200D ||
        in_ranges(letter_like, COUNT(letter_like), cp);
}

void cp_set_clear(struct cp_set *s)
{
    str_clear(&s->bytes);
    s->n = 0;
}

void cp_set_add(struct cp_set *s, uint32_t first, uint32_t last)
{
    struct cp_range r = {first, last};
    str_add_bytes(&s->bytes, &r, sizeof r);
    s->n++;
}

static void add_ranges(struct cp_set *s, const struct cp_range *r, size_t n)
{
    for (size_t i = 0; i < n; i++) cp_set_add(s, r[i].first, r[i].last);
}

void cp_set_add_categories(struct cp_set *s, uint32_t mask)
{
    mask &= ~(1u << UC_CS);
    for (size_t i = 0; i < unicode_n_category_starts; i++) {
        if (!(mask >> (unicode_category_starts[i] & 31) & 1)) continue;
        uint32_t end = i + 1 < unicode_n_category_starts ? unicode_category_starts[i + 1] >> 5
                                                         : UNICODE_LAST + 1;
        cp_set_add(s, unicode_category_starts[i] >> 5, end - 1);
    }
}

void cp_set_add_space(struct cp_set *s) { add_ranges(s, white_space, COUNT(white_space)); }

void cp_set_add_word(struct cp_set *s, bool in_class)
{
    static const struct cp_range latin1[] = {{0xB2, 0xB3}, {0xB9, 0xB9}, {0xBC, 0xBE}};
    cp_set_add_categories(s, LETTERS | MARKS | 1u << UC_ND | 1u << UC_NL | 1u << UC_PC);
    add_ranges(s, letter_like, COUNT(letter_like));
    if (!in_class) add_ranges(s, latin1, COUNT(latin1));
}

void cp_set_add_numeric(struct cp_set *s)
{
    static const struct cp_range unicode17[] = {{0x11DE0, 0x11DE9}, {0x16FF4, 0x16FF6}};
    cp_set_add_categories(s, 1u << UC_ND | 1u << UC_NL | 1u << UC_NO);
    add_ranges(s, unicode17, COUNT(unicode17));
}

static int by_first(const void *a, const void *b)
{
    const struct cp_range *x = a, *y = b;
    return (x->first > y->first) - (x->first < y->first);
}

void cp_set_finish(struct cp_set *s)
{
    if (s->n == 0) return;
    struct cp_range *r = cp_set_ranges(s);
    qsort(r, s->n, sizeof *r, by_first);
    size_t n = 1;
    for (size_t i = 1; i < s->n; i++) {
        if (r[i].first > r[n - 1].last + 1) r[n++] = r[i];
        else if (r[i].last > r[n - 1].last) r[n - 1].last = r[i].last;
    }
    s->n = n;
    s->bytes.len = n * sizeof *r;
}

void cp_set_invert(struct cp_set *s)
{
    struct cp_set out = {0};
    cp_set_add(s, 0xD800, 0xDFFF);
    cp_set_finish(s);
    uint32_t next = 0;
    for (size_t i = 0; i < s->n; i++) {
        struct cp_range r = cp_set_ranges(s)[i];
        if (r.first > next) cp_set_add(&out, next, r.first - 1);
        next = r.last + 1;
    }
    if (next <= UNICODE_LAST) cp_set_add(&out, next, UNICODE_LAST);
    cp_set_clear(s);
    *s = out;
}

bool cp_set_has(const struct cp_set *s, uint32_t cp)
{
    return in_ranges(cp_set_ranges(s), s->n, cp);
}
