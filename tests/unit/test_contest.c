/* Methods at equal sparsity: what lies between two runs, who wins, and what is no victory. */
#include "reports/contest.h"

#include <criterion/criterion.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXTS = 6 };

/* A run whose texts lose `kl` each, times what is theirs, at one sparsity. */
static struct contest_point point(
    struct sample_record *s, double sparsity, double kl, const double own[TEXTS])
{
    for (int i = 0; i < TEXTS; i++)
        s[i] = (struct sample_record){.sample = i,
            .n_tokens = 100,
            .kl_mean = kl * own[i],
            .qk_sparsity = sparsity,
            .pv_sparsity = sparsity,
            .tiles_possible = 50,
            .pv_possible = 100};
    return (struct contest_point){.sparsity = sparsity,
        .recall = 1 - sparsity / 2,
        .recall_p5 = 1 - sparsity,
        .choosing = .04,
        .samples = s,
        .n_samples = TEXTS};
}

static struct sample_record rows[32][TEXTS];
static const double alike[TEXTS] = {.9, 1.1, 1, 1, .95, 1.05};
static const double apart[TEXTS] = {.3, 2, .5, 1.5, .2, 1.5};

/* Three lines and a limit, from .1 to .5 of sparsity; the third turns with the texts. */
static char *rendered(enum table_format format)
{
    struct contest_point a[2] = {point(rows[0], .1, .01, alike), point(rows[1], .5, .04, alike)},
                         b[2] = {point(rows[2], .1, .02, alike), point(rows[3], .5, .08, alike)},
                         c[2] = {point(rows[4], .1, .0101, apart),
                             point(rows[5], .5, .0404, apart)},
                         o[2] = {point(rows[6], .1, .001, alike), point(rows[7], .5, .004, alike)};
    const struct contest_line lines[] = {
        {"first", false, a, 2}, {"second", false, b, 2}, {"third", false, c, 2}, {"o", true, o, 2}};
    struct table *t = contest_table("title", lines, 4);
    struct str out = {0};
    table_render(t, format, (struct table_style){0}, &out);
    table_free(&t);
    return out.data;
}

/* The member of a row, as text. */
static char *member(const char *csv, const char *line, const char *key)
{
    char *copy = strdup(csv), *save, *head = strtok_r(copy, "\n", &save), *row;
    int at = 0;
    static char found[64];
    for (char *p = strstr(head, key); p > head; p--) at += p[-1] == ',';
    while ((row = strtok_r(NULL, "\n", &save)) && strncmp(row, line, strlen(line))) continue;
    cr_assert(row, "%s in\n%s", line, csv);
    for (; at; at--) row = strchr(row, ',') + 1;
    snprintf(found, sizeof found, "%.*s", (int)strcspn(row, ","), row);
    free(copy);
    return found;
}

Test(contest, logarithms_lie_on_a_line_between_two_runs)
{
    char *csv = rendered(TABLE_CSV);
    cr_expect_float_eq(atof(member(csv, "first", "kl_30,")), .02, 1e-9); /* half of the way */
    cr_expect_float_eq(atof(member(csv, "second", "kl_15,")), .02 * pow(4, .125), 1e-9);
    cr_expect_float_eq(atof(member(csv, "first", "recall_30,")), .85, 1e-9);
    cr_expect_float_eq(atof(member(csv, "first", "recall_p5_45")), .55, 1e-9);
    cr_expect_float_eq(atof(member(csv, "o", "choosing")), .04, 1e-9);
    cr_expect_str_empty(member(csv, "first", "kl_60,"), "no run has so much");
    free(csv);
}

Test(contest, what_texts_agree_on_is_beyond_noise_and_what_they_do_not_is_not)
{
    char *csv = rendered(TABLE_CSV);
    cr_expect_str_eq(member(csv, "first", "result_30"), "best");
    cr_expect_str_eq(member(csv, "second", "result_30"), "worse");
    cr_expect_str_eq(member(csv, "third", "result_30"), "within noise");
    cr_expect_str_eq(member(csv, "o", "result_30"), "limit");
    cr_expect_lt(atof(member(csv, "second", "kl_30_p")), .001);
    double lo = atof(member(csv, "third", "kl_30_lo")), hi = atof(member(csv, "third", "kl_30_hi"));
    cr_expect(lo < .02 && hi > .02 && hi / lo > 3, "%g to %g", lo, hi);
    free(csv);
}

Test(contest, one_line_alone_is_no_contest)
{
    struct contest_point a[2] = {point(rows[8], .1, .01, alike), point(rows[9], .7, .04, alike)};
    struct table *t =
        contest_table("title", (const struct contest_line[]){{"first", false, a, 2}}, 1);
    cr_expect_eq(table_rows(t), 0);
    table_free(&t);
}

Test(contest, runs_of_other_texts_do_not_pair)
{
    struct contest_point a[2] = {point(rows[10], .1, .01, alike), point(rows[11], .5, .04, alike)},
                         b[2] = {point(rows[12], .1, .02, alike), point(rows[13], .5, .08, alike)};
    for (int i = 0; i < TEXTS; i++) rows[12][i].sample = rows[13][i].sample = 100 + i;
    const struct contest_line lines[] = {{"first", false, a, 2}, {"second", false, b, 2}};
    struct table *t = contest_table("title", lines, 2);
    struct str out = {0};
    table_render(t, TABLE_CSV, (struct table_style){0}, &out);
    cr_expect_str_eq(member(str_get(&out), "second", "result_30"), "within noise");
    str_clear(&out);
    table_free(&t);
}
