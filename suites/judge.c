#include "suites/judge.h"

#include "base/str.h"
#include "base/utf8.h"
#include "base/xmalloc.h"
#include "engine/tokenizer/tokenizer_form.h"

#include <ctype.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static int upper(int c) { return c >= 'a' && c <= 'z' ? c - 'a' + 'A' : c; }
static bool white(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
static bool digit(char c) { return c >= '0' && c <= '9'; }

/* Append a text in lower case, code point by code point; what is not UTF-8 stays. */
static void lower(const char *text, struct str *out)
{
    size_t n = strlen(text), length;
    for (uint32_t cp; n; text += length, n -= length) {
        length = utf8_read(text, n, &cp);
        if (cp == UINT32_MAX) str_add_bytes(out, text, length);
        else utf8_add(out, form_lower(cp));
    }
}

/* `part` stands in `text`, case aside. */
static bool holds(const char *text, const char *part)
{
    struct str a = {0}, b = {0};
    lower(text, &a);
    lower(part, &b);
    bool found = strstr(str_get(&a), str_get(&b)) != NULL;
    str_clear(&a);
    str_clear(&b);
    return found;
}

/* Lower case, without ASCII punctuation, then without articles; words with one blank between. */
static void normalise(const char *text, struct str *out)
{
    struct str plain = {0}, low = {0};
    lower(text, &low);
    for (const char *c = str_get(&low); *c; c++)
        if ((unsigned char)*c >= 128 || !ispunct((unsigned char)*c)) str_add_char(&plain, *c);
    str_clear(&low);
    for (const char *c = str_get(&plain); *c;) {
        size_t n = 0;
        while (c[n] && !white(c[n])) n++;
        bool article = (n == 1 && *c == 'a') || (n == 2 && !memcmp(c, "an", 2)) ||
            (n == 3 && !memcmp(c, "the", 3));
        if (n && !article) {
            if (out->len) str_add_char(out, ' ');
            str_add_bytes(out, c, n);
        }
        c += n + (c[n] != 0);
    }
    str_clear(&plain);
}

struct words {
    char *text, **at;
    int n;
};

static int compare_words(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Cut at white space, sorted. Takes the text. */
static struct words cut_words(char *text)
{
    struct words w = {.text = text, .at = xmalloc((strlen(text) / 2 + 1) * sizeof *w.at)};
    char *rest = text, *word;
    while ((word = strsep(&rest, " \t\n\v\f\r")))
        if (*word) w.at[w.n++] = word;
    return w;
}

static void words_clear(struct words *w)
{
    free(w->text);
    free(w->at);
}

static double f1_normal(const char *text, const char *answer)
{
    struct words a = cut_words(str_dup(text)), b = cut_words(str_dup(answer));
    qsort(a.at, (size_t)a.n, sizeof *a.at, compare_words);
    qsort(b.at, (size_t)b.n, sizeof *b.at, compare_words);
    int same = 0;
    for (int i = 0, j = 0; i < a.n && j < b.n;) {
        int order = strcmp(a.at[i], b.at[j]);
        same += order == 0;
        i += order <= 0;
        j += order >= 0;
    }
    double precision = a.n ? (double)same / a.n : 0, recall = b.n ? (double)same / b.n : 0;
    words_clear(&a);
    words_clear(&b);
    return same ? 2 * precision * recall / (precision + recall) : 0;
}

static double normal_score(
    const char *text, const char *answer, double (*score)(const char *, const char *))
{
    struct str a = {0}, b = {0};
    normalise(text, &a);
    normalise(answer, &b);
    double s = score(str_get(&a), str_get(&b));
    str_clear(&a);
    str_clear(&b);
    return s;
}

static double equal(const char *a, const char *b) { return !strcmp(a, b); }

static double best(
    const char *text, char *const *answers, int n, double (*score)(const char *, const char *))
{
    double most = 0;
    for (int i = 0; i < n; i++) {
        double s = normal_score(text, answers[i], score);
        if (s > most) most = s;
    }
    return most;
}

/* LongBench's classification_score: of the classes that stand in the text, those that are a part
 * of the right one's name are dropped - by removing from the list that is walked, so that the one
 * behind a dropped one is not looked at. Scores are compared with theirs, so it is done likewise.
 */
static double class_score(const char *text, char *const *classes, int n)
{
    const char **named = xmalloc((size_t)n * sizeof *named);
    int m = 0;
    for (int i = 1; i < n; i++)
        if (strstr(text, classes[i])) named[m++] = classes[i];
    for (int i = 0; i < m; i++) {
        if (!strstr(classes[0], named[i]) || !strcmp(classes[0], named[i])) continue;
        int first = 0; /* the first that is equal */
        while (strcmp(named[first], named[i])) first++;
        memmove(named + first, named + first + 1, (size_t)(--m - first) * sizeof *named);
    }
    bool right = false;
    for (int i = 0; i < m; i++) right |= !strcmp(classes[0], named[i]);
    double score = right ? 1.0 / m : 0;
    free(named);
    return score;
}

/* The next run of digits at or behind *at; its length, 0 for none. */
static size_t next_number(const char **at)
{
    while (**at && !digit(**at)) ++*at;
    size_t n = 0;
    while (digit((*at)[n])) n++;
    return n;
}

static double numbers_score(const char *text, const char *answer)
{
    int all = 0, right = 0;
    size_t n;
    for (; (n = next_number(&text)) > 0; text += n, all++)
        right += n == strlen(answer) && !memcmp(text, answer, n);
    return all ? (double)right / all : 0;
}

static double letter_score(const char *text, const char *answer)
{
    static const char lead[] = "The correct answer is ";
    struct str plain = {0};
    char found = 0;
    for (; *text; text++)
        if (*text != '*') str_add_char(&plain, *text);
    for (int bare = 0; bare < 2 && !found; bare++)
        for (const char *at = str_get(&plain); !found && (at = strstr(at, lead)); at++) {
            const char *c = at + strlen(lead);
            if (!bare && *c != '(') continue;
            c += !bare;
            if (*c >= 'A' && *c <= 'D' && (bare || c[1] == ')')) found = *c;
        }
    str_clear(&plain);
    return found && found == *answer;
}

/* A copy without white space at its ends; every one of `chars` becomes a blank. */
static char *blanked(const char *text, const char *chars, bool join)
{
    while (white(*text)) text++;
    size_t len = strlen(text), n = 0;
    while (len && white(text[len - 1])) len--;
    char *out = xmalloc(len + 1);
    for (size_t i = 0; i < len; i++) {
        char c = strchr(chars, text[i]) ? ' ' : text[i];
        if (join && c == ' ' && n && out[n - 1] == ' ') continue;
        out[n++] = c;
    }
    out[n] = 0;
    return out;
}

static bool is_one(const char *text, char *const *answers, int n)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(text, answers[i])) return true;
    return false;
}

/* InfiniteBench, longbook_choice_eng. */
static double option_score(const char *text, char *const *answers, int n)
{
    static const char *const leads[] = {"answer is:", "answer:", "answer is", "option is"};
    char *plain = blanked(text, "", false), letter[2] = {plain[0], 0};
    bool led = *letter && strchr("ABCD", *letter), right = is_one(led ? letter : plain, answers, n);
    free(plain);
    if (!*letter || led || right) return right;
    plain = blanked(text, "\n\"'.,?!{}", true);
    bool done = false;
    for (size_t i = 0; !done && i < sizeof leads / sizeof *leads; i++) {
        const char *at = strstr(plain, leads[i]);
        if (!at) continue;
        done = true;
        at += strlen(leads[i]);
        for (int k = 0; *at && k < n; k++) right |= str_starts_with(at + 1, answers[k]);
    }
    struct words w = cut_words(plain);
    for (int i = 0; i < w.n && !done; i++) {
        if (!strstr("ABCD", w.at[i])) continue;
        done = true;
        right = is_one(w.at[i], answers, n);
    }
    words_clear(&w);
    return right;
}

static double first_int_score(const char *text, const char *answer)
{
    size_t n = next_number(&text);
    return n == strlen(answer) && !memcmp(text, answer, n);
}

static double first_real_score(const char *text, const char *answer)
{
    size_t n = next_number(&text);
    if (!n) return 0;
    const char *end = text + n;
    bool fraction = *end == '.' && digit(end[1]), whole = !strchr(answer, '.');
    if (fraction)
        for (end++; digit(*end);) end++;
    if (whole && fraction) return 0; /* theirs fails on such a text */
    char *number = str_format("%.*s", (int)(end - text), text);
    bool same = strtod(number, NULL) == strtod(answer, NULL);
    free(number);
    return same;
}

static double last_int_score(const char *text, const char *answer)
{
    struct words w = cut_words(blanked(text, "\n.`'\":", false));
    char *end = NULL;
    long v = w.n ? strtol(w.at[w.n - 1], &end, 10) : 0;
    bool same = w.n && !*end && v == strtol(answer, NULL, 10);
    words_clear(&w);
    return same;
}

static double word_score(const char *text, const char *answer, bool capitals)
{
    char *plain = blanked(text, "\n:\"'.,?!{}", false);
    for (char *c = plain; *c && capitals; c++) *c = (char)upper((unsigned char)*c);
    struct words w = cut_words(plain);
    bool found = false;
    for (int i = 0; i < w.n; i++) found |= !strcmp(w.at[i], answer);
    words_clear(&w);
    return found;
}

double judge_score(enum judge j, const char *text, char *const *answers, int n)
{
    int found = 0;
    switch (j) {
    case JUDGE_ALL:
    case JUDGE_ANY:
        for (int i = 0; i < n; i++) found += holds(text, answers[i]);
        return j == JUDGE_ALL ? (double)found / n : found > 0;
    case JUDGE_F1: return best(text, answers, n, f1_normal);
    case JUDGE_EXACT: return best(text, answers, n, equal);
    case JUDGE_VERBATIM: return is_one(text, answers, n);
    case JUDGE_CLASS: return class_score(text, answers, n);
    case JUDGE_NUMBERS: return numbers_score(text, answers[0]);
    case JUDGE_LETTER: return letter_score(text, answers[0]);
    case JUDGE_OPTION: return option_score(text, answers, n);
    case JUDGE_FIRST_INT: return first_int_score(text, answers[0]);
    case JUDGE_FIRST_REAL: return first_real_score(text, answers[0]);
    case JUDGE_LAST_INT: return last_int_score(text, answers[0]);
    case JUDGE_WORD: return word_score(text, answers[0], false);
    case JUDGE_NAME: return word_score(text, answers[0], true);
    default: return 0;
    }
}

bool judge_settled(enum judge j, const char *text, char *const *answers, int n)
{
    return (j == JUDGE_ALL || j == JUDGE_ANY) && judge_score(j, text, answers, n) == 1;
}
