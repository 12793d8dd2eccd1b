#include "base/text.h"

#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

struct range {
    uint32_t lo, hi;
};

static bool range_holds(uint32_t code, const struct range *r, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (code >= r[i].lo && code <= r[i].hi) return true;
    return false;
}

size_t text_columns(const char *utf8)
{
    /* the large blocks of the Unicode tables; a rare character may stand one column off */
    static const struct range nothing[] = {{0x0300, 0x036f}, {0x0483, 0x0489}, {0x0591, 0x05bd},
        {0x0610, 0x061a}, {0x064b, 0x065f}, {0x1ab0, 0x1aff}, {0x1dc0, 0x1dff}, {0x200b, 0x200f},
        {0x202a, 0x202e}, {0x2060, 0x2064}, {0x20d0, 0x20ff}, {0xfe00, 0xfe0f}, {0xfe20, 0xfe2f},
        {0xe0100, 0xe01ef}};
    static const struct range wide[] = {{0x1100, 0x115f}, {0x2e80, 0x303e}, {0x3041, 0xa4cf},
        {0xac00, 0xd7a3}, {0xf900, 0xfaff}, {0xfe30, 0xfe6f}, {0xff00, 0xff60}, {0xffe0, 0xffe6},
        {0x1f300, 0x1f64f}, {0x1f680, 0x1f6ff}, {0x1f900, 0x1f9ff}, {0x20000, 0x3fffd}};
    size_t n = 0;
    for (size_t left = strlen(utf8), len; left; utf8 += len, left -= len) {
        uint32_t code;
        len = utf8_read(utf8, left, &code);
        if (range_holds(code, nothing, sizeof nothing / sizeof *nothing)) continue;
        n += range_holds(code, wide, sizeof wide / sizeof *wide) ? 2 : 1;
    }
    return n;
}

/* Columns of the character that begins at `p`, its bytes in *len. */
static size_t character_columns(const char *p, size_t *len)
{
    char one[5] = {0};
    uint32_t code;
    *len = utf8_read(p, strnlen(p, 4), &code);
    memcpy(one, p, *len);
    return text_columns(one);
}

/* A path or a list of settings may be broken behind one of these. */
static bool breaks_behind(char c) { return c && strchr("/,;:=_-", c); }

/* "95 %" and "KL ↓" are not torn apart: a word of one column stays with the one before it. */
static bool space_breaks(const char *space)
{
    size_t len, columns;
    if (*space != ' ') return false;
    columns = space[1] ? character_columns(space + 1, &len) : 0;
    return !(columns == 1 && (space[1 + len] == ' ' || !space[1 + len]) && space[1] != ' ');
}

size_t text_line(const char *text, size_t width, size_t *next)
{
    size_t used = 0, at = 0, space = 0, sign = 0;
    while (text[at]) {
        size_t len, columns = character_columns(text + at, &len);
        if (space_breaks(text + at)) space = at;
        if (used + columns > width && at > 0) break;
        used += columns;
        if (breaks_behind(text[at]) && 2 * used > width) sign = at + 1;
        at += len;
    }
    size_t end = !text[at] ? at : space ? space : sign ? sign : at;
    *next = end;
    while (text[*next] == ' ') ++*next;
    return end;
}

size_t text_widest_word(const char *text)
{
    size_t widest = 0;
    for (const char *p = text; *p;) {
        size_t n = strcspn(p, " ");
        while (p[n] && !space_breaks(p + n)) n += 1 + strcspn(p + n + 1, " ");
        char *word = str_format("%.*s", (int)n, p);
        size_t columns = text_columns(word);
        if (columns > widest) widest = columns;
        free(word);
        p += n;
        p += strspn(p, " ");
    }
    return widest;
}

static void line_wrap(const char *text, size_t width, size_t indent, struct str *out)
{
    size_t next, room = width;
    size_t own = strspn(text, " "); /* what the line itself is set in by stays */
    if (text_columns(text) <= width) {
        str_add(out, text);
        return;
    }
    str_add_bytes(out, text, own);
    for (const char *p = text + own; *p; p += next) {
        if (p != text + own) str_addf(out, "\n%*s", (int)indent, "");
        room = p == text + own ? width - own : width - indent;
        str_add_bytes(out, p, text_line(p, room, &next));
    }
}

void text_wrap(const char *text, size_t width, size_t indent, struct str *out)
{
    if (!width || indent + 20 > width) {
        str_add(out, text);
        return;
    }
    for (const char *p = text;; p++) { /* lines that are there stay */
        size_t n = strcspn(p, "\n");
        char *line = str_format("%.*s", (int)n, p);
        if (strspn(line, " ") + 20 > width) str_add(out, line);
        else line_wrap(line, width, indent, out);
        free(line);
        p += n;
        if (!*p) return;
        str_add_char(out, '\n');
    }
}

static const struct {
    const char *from, *to;
} stand_ins[] = {
    {"─", "-"},
    {"…", "..."},
    {"↑", "(^)"},
    {"↓", "(v)"},
    {"→", "->"},
    {"▲", "^"},
    {"▼", "v"},
    {"•", "*"},
    {"≠", "!="},
    {"≤", "<="},
    {"≥", ">="},
    {"×", "x"},
    {"·", "."},
    {"–", "-"},
    {"—", "-"},
    {"−", "-"},
    {"“", "\""},
    {"”", "\""},
    {"‘", "'"},
    {"’", "'"},
    {"θ", "theta"},
    {"τ", "tau"},
    {"λ", "lambda"},
    {"√", "sqrt"},
    {"²", "^2"},
    {"±", "+-"},
    {"µ", "u"},
    {"⏎", "\\n"},
    {"\u00a0", " "},
};

void text_ascii(const char *utf8, struct str *out)
{
    for (const char *p = utf8; *p;) {
        size_t i = 0, n = sizeof stand_ins / sizeof *stand_ins, len;
        if ((unsigned char)*p < 0x80) {
            str_add_char(out, *p++);
            continue;
        }
        while (i < n && !str_starts_with(p, stand_ins[i].from)) i++;
        if (i < n) {
            str_add(out, stand_ins[i].to);
            p += strlen(stand_ins[i].from);
            continue;
        }
        if (character_columns(p, &len)) str_add_char(out, '?'); /* a combining one adds nothing */
        p += len;
    }
}

enum { MAX_WORD = 48 };

static bool same_letter(char a, char b)
{
    return a == b || ((a == '-' || a == '_') && (b == '-' || b == '_'));
}

/* Letters to insert, drop, change or swap with their neighbour (optimal string alignment distance).
 */
static int word_distance(const char *a, const char *b)
{
    int rows[3][MAX_WORD + 1], na = (int)strlen(a), nb = (int)strlen(b);
    if (na > MAX_WORD || nb > MAX_WORD) return MAX_WORD;
    for (int j = 0; j <= nb; j++) rows[0][j] = j;
    for (int i = 1; i <= na; i++) {
        int *now = rows[i % 3], *last = rows[(i + 2) % 3], *older = rows[(i + 1) % 3];
        now[0] = i;
        for (int j = 1; j <= nb; j++) {
            int change = last[j - 1] + !same_letter(a[i - 1], b[j - 1]), drop = last[j] + 1,
                insert = now[j - 1] + 1;
            now[j] = change < drop ? change : drop;
            if (insert < now[j]) now[j] = insert;
            if (i > 1 && j > 1 && same_letter(a[i - 1], b[j - 2]) &&
                same_letter(a[i - 2], b[j - 1]) && older[j - 2] + 1 < now[j])
                now[j] = older[j - 2] + 1;
        }
    }
    return rows[na % 3][nb];
}

const char *text_nearest(const char *word, const char *const *names, size_t n)
{
    const char *nearest = NULL;
    int least = strlen(word) < 5 ? 2 : 3; /* less than this */
    for (size_t i = 0; i < n; i++) {
        int distance = word_distance(word, names[i]);
        if (distance >= least || distance >= (int)strlen(names[i])) continue;
        least = distance;
        nearest = names[i];
    }
    return nearest;
}

void text_shell_word(const char *word, struct str *out)
{
    bool control = false;
    for (const char *p = word; *p; p++) control |= (unsigned char)*p < 32 || *p == 127;
    str_add_char(out, ' ');
    if (*word && !control && !strpbrk(word, " '\"\\$`*?[](){}<>|&;#~!")) {
        str_add(out, word);
        return;
    }
    str_add(out, control ? "$'" : "'");
    for (; *word; word++) {
        if (!control && *word == '\'') str_add(out, "'\\''");
        else if (control && (*word == '\'' || *word == '\\')) str_addf(out, "\\%c", *word);
        else if (control && ((unsigned char)*word < 32 || *word == 127))
            str_addf(out, "\\x%02x", (unsigned)*word);
        else str_add_char(out, *word);
    }
    str_add_char(out, '\'');
}
