#include "base/rng.h"
#include "harness/measure/curve_db.h"
#include "harness/measure/report_curves.h"
#include "tests/unit/run_fixture.h"

#include <criterion/criterion.h>

#define ok(expr) cr_assert_eq((expr), OK, "%s", status_message())
#define MODEL "0123456789abcdef0123456789abcdef"

static void put_curve(struct store *s, const char *data, int layer, int head)
{
    struct curve *c = calloc(1, sizeof *c);
    c->n_possible = 200;
    for (int t = 0; t < N_THETAS; t++)
        for (int u = 0; u < N_TAUS; u++) { /* two kinds of thresholds, a step in the middle */
            c->points[t][u].n_kept = (uint32_t)(100 + u + (t >= 16 ? 3 : 0));
            c->points[t][u].error = (struct output_error){.l1 = (float)(N_TAUS - u), .tail = 7};
        }
    struct str blob = {0};
    curve_pack(c, &blob);
    ok(store_curve_put(s,
        &(struct curve_key){MODEL, data, CURVE_KIND, "sparge", "running", 128, 64, layer, head, 0},
        str_get(&blob), blob.len));
    str_clear(&blob);
    free(c);
}

Test(report_curves, the_worst_head_of_a_tuned_run_is_offered, .timeout = 60)
{
    char *dir = dir_make(), *db = str_format("%s/r.db", dir);
    struct store *s;
    static struct report_curves out;
    ok(store_open(&s, db, STORE_WRITE));
    struct tuned_head_record h[12];
    for (int i = 0; i < 12; i++)
        h[i] = (struct tuned_head_record){i / 4, i % 4, i != 11, .5, .9, 9, .05,
            i == 6        ? .08
                : i == 11 ? .5
                          : .06,
            .2, .3, .4, .4, 0, NULL};
    struct tuned_record t = {
        "feed", MODEL, "d", "sparge", "both", "running", "all", .06, .07, 128, 64, NULL, 1, h, 12};
    ok(store_tuned_put(s, &t));
    for (int i = 0; i < 2; i++) {
        struct fixture f;
        fixture_run(&f,
            (struct fixture_options){.seed = (uint64_t)i + 1,
                .n_samples = 2,
                .n_layers = 3,
                .n_heads = 4,
                .sparsity = .3,
                .error = 1,
                .method = "sparge",
                .rule = i ? "l1" : NULL,
                .tuned_hash = i ? "feed" : NULL});
        ok(store_run_put(s, &f.d, false, NULL));
        fixture_clear(&f);
    }
    ok(report_curves_load(s, "2", &out));
    cr_expect_eq(out.set.n, 0u, "tuned, and no curve stored");
    put_curve(s, "tokens", 1, 2);
    ok(report_curves_load(s, "1", &out));
    cr_expect_eq(out.set.n, 0u, "not tuned");
    ok(report_curves_load(s, "2", &out));
    cr_assert_eq(out.set.n, 2u, "thresholds that choose alike are one line");
    cr_expect_not_null(strstr(out.set.label, "layer 1, head 2"));
    cr_expect_eq(out.set.bound, .06);
    /* theta .5 is of the second kind; tau .9 lies nearest to 1 - 2^(-27/8) */
    cr_assert(out.set.has_choice);
    cr_expect_float_eq(out.set.choice_kept, (100 + 27 + 3) / 200., 1e-12);
    cr_expect_eq(out.set.choice_error, 10 * (N_TAUS - 27));
    cr_expect_eq(out.lines[0].theta, -1);
    cr_expect_eq(out.lines[1].theta, 0);
    cr_expect_float_eq(out.lines[1].kept[4], 107 / 200., 1e-12);
    cr_expect_eq(out.lines[1].error[4], 10 * (N_TAUS - 4), "the error of the tuning's own rule");
    cr_expect_eq(out.lines[1].error[N_TAUS - 1], 10, "the tail is 7");
    put_curve(s, "other tokens", 1, 2);
    ok(report_curves_load(s, "2", &out));
    cr_expect_eq(out.set.n, 0u, "two tunings leave it open");
    store_close(&s);
    free(db);
    dir_remove(dir);
}
