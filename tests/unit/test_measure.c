/* From positions to samples and from samples to metrics: against the definitions, on numbers that
 * can be added up by hand. */
#include "harness/measure/measure.h"

#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

enum { N = 6, WIDTH = 3 };

/* Two texts of other lengths, and the tensors that their sums are of. */
static struct token_metrics tokens[2][N];
static double dense[2][N * WIDTH], sparse[2][N * WIDTH];
static struct sample texts[2] = {{.n = N, .score_from = 0}, {.n = N - 2, .score_from = 2}};

static struct tensor_sums sums_of(int text)
{
    struct tensor_sums s = {0};
    for (int i = 0; i < texts[text].n * WIDTH; i++) {
        double a = dense[text][i], b = sparse[text][i];
        s.dot += a * b;
        s.dense_sq += a * a;
        s.sparse_sq += b * b;
        s.abs_diff += fabs(a - b);
        s.sq_diff += (a - b) * (a - b);
        s.n++;
    }
    s.hidden_dot = s.dot;
    s.hidden_dense_sq = s.dense_sq;
    s.hidden_sparse_sq = s.sparse_sq;
    s.hidden_abs_diff = s.abs_diff;
    s.hidden_n = s.n;
    return s;
}

static void make(struct sample_record out[2])
{
    for (int k = 0; k < 2; k++) {
        for (int t = 0; t < texts[k].n; t++)
            tokens[k][t] = (struct token_metrics){.cosine = 1 - .01f * (float)(t + k),
                .kl = .1f * (float)(t + 1),
                .nll_dense = (float)(1 + t),
                .nll_sparse = (float)(2 + 2 * t),
                .delta_p = .5f,
                .top1_agree = t % 2 == 0,
                .top5_overlap = (uint8_t)(t % 6),
                .next = t + 1 < texts[k].n ? 7 : -1};
        for (int i = 0; i < N * WIDTH; i++) {
            dense[k][i] = sin(i + 3 * k) * (k ? 5 : 1); /* one text weighs more than the other */
            sparse[k][i] = dense[k][i] * (k ? .5 : 2) + .3 * cos(2 * i);
        }
        struct tensor_sums sums = sums_of(k);
        struct head_ledger ledger = {.tiles_possible = 10,
            .tiles_computed = 5,
            .pv_units_possible = 20,
            .pv_units_computed = 5};
        out[k] = measure_sample(k, &texts[k], tokens[k], &sums, &ledger);
    }
}

#define near(a, b) cr_expect_float_eq((a), (b), 1e-6, "%.9g and %.9g", (double)(a), (double)(b))

Test(measure, only_scored_positions_have_a_perplexity)
{
    struct sample_record r[2];
    make(r);
    cr_expect_eq(r[0].n_scored, 5, "the last has no next token");
    near(r[0].nll_dense_sum, 1 + 2 + 3 + 4 + 5);
    near(r[0].nll_sparse_sum, 2 + 4 + 6 + 8 + 10);
    cr_expect_eq(r[1].n_scored, 1, "from position 2 on, and not the last");
    near(r[1].nll_dense_sum, 3);
    near(r[1].nll_sparse_sum, 6);
    near(r[1].delta_p_mean, .5);
    /* all positions count for what compares the two runs */
    near(r[0].token_accuracy, 3. / 6);
    near(r[1].token_accuracy, 2. / 4);
    near(r[0].top5_overlap, (0 + 1 + 2 + 3 + 4 + 5) / 5. / 6);
    near(r[0].cosine_mean, 1 - .01 * 15 / 6);
    near(r[1].kl_mean, .1 * 10 / 4);
    near(r[0].kl_max, .6);
    near(r[1].sparsity, (.5 + .75) / 2);
}

Test(measure, what_is_of_all_texts_is_of_their_tensors_laid_together)
{
    struct sample_record r[2];
    make(r);
    struct estimate_source s = {.samples = r, .n_samples = 2};
    struct estimate e;
    double dot = 0, a = 0, b = 0, l1 = 0, square = 0, n = 0;
    for (int k = 0; k < 2; k++)
        for (int i = 0; i < texts[k].n * WIDTH; i++) {
            double x = dense[k][i], y = sparse[k][i];
            dot += x * y;
            a += x * x;
            b += y * y;
            l1 += fabs(x - y);
            square += (x - y) * (x - y);
            n++;
        }
    const struct {
        const char *name;
        double value;
    } expected[] = {{"logits_cosine", dot / sqrt(a * b)}, {"hidden_cosine", dot / sqrt(a * b)},
        {"logits_l1", l1 / n}, {"hidden_l1", l1 / n}, {"logits_rmse", sqrt(square / n)},
        {"token_accuracy", 5. / 10}, {"cosine", 1 - .01 * (15 + 6 + 4) / 10},
        {"kl", .1 * (21 + 10) / 10}, {"ppl_dense", exp(18. / 6)}, {"ppl_sparse", exp(36. / 6)},
        {"ppl_ratio", exp(18. / 6)}, {"ppl_diff", exp(36. / 6) - exp(18. / 6)},
        {"sparsity", (.5 + .75) / 2}, {"qk_sparsity", .5}, {"pv_sparsity", .75}};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++) {
        cr_assert(estimate_metric(&s, expected[i].name, &e), "%s", expected[i].name);
        cr_expect_float_eq(e.value, expected[i].value, 1e-6 * fabs(expected[i].value),
            "%s: %.9g, expected %.9g", expected[i].name, e.value, expected[i].value);
    }
}

/* The jackknife by its definition: each sample left out once. */
Test(measure, intervals_are_those_of_samples_left_out)
{
    enum { MANY = 9 };
    double x[MANY], weight[MANY], without[MANY], mean = 0, squares = 0, sum = 0, all = 0;
    for (int i = 0; i < MANY; i++) {
        weight[i] = 1 + i % 4;
        x[i] = weight[i] * (2 + sin(3 * i));
        sum += x[i];
        all += weight[i];
    }
    for (int i = 0; i < MANY; i++) mean += (without[i] = (sum - x[i]) / (all - weight[i])) / MANY;
    for (int i = 0; i < MANY; i++) squares += (without[i] - mean) * (without[i] - mean);
    struct estimate e = estimate_ratio(x, weight, MANY, SCALE_PLAIN);
    cr_expect_float_eq(e.value, sum / all, 1e-14);
    cr_expect_float_eq(e.std_error, sqrt((MANY - 1.) / MANY * squares), 1e-14);
}

/* Of 40 000 texts: in a time that people wait, where each against each would take minutes. */
Test(measure, many_texts, .timeout = 20)
{
    enum { TEXTS = 40000 };
    struct sample_record *r = calloc(2 * TEXTS, sizeof *r), two[2], *after = r + TEXTS;
    make(two);
    for (int i = 0; i < TEXTS; i++) {
        r[i] = two[i % 2];
        r[i].sample = i;
        r[i].kl_mean = .1 + 1e-6 * (i % 100);
        after[i] = r[i];
        after[i].kl_mean *= 1.1;
    }
    struct estimate_source b = {.samples = r, .n_samples = TEXTS},
                           a = {.samples = after, .n_samples = TEXTS};
    struct estimate e;
    cr_assert(estimate_change(&b, &a, "kl", &e));
    cr_expect(e.lo > .0099 && e.hi < .0101 && e.value > e.lo && e.value < e.hi, "%g [%g, %g]",
        e.value, e.lo, e.hi);
    cr_assert(estimate_metric(&a, "logits_cosine", &e));
    free(r);
}
