/* What a run's damage is put down to: by the best evidence there is. */
#include "reports/tables.h"
#include "tests/unit/gate_fixture.h"

#include <stdlib.h>
#include <string.h>

static char *causes_of(const struct made *m, const struct run_list *runs)
{
    struct table *t = causes_table(&m->view, runs);
    struct str text = {0};
    table_render(t, TABLE_CSV, (struct table_style){0}, &text);
    str_add(&text, "\n");
    table_render(t, TABLE_TERMINAL, (struct table_style){0}, &text);
    table_free(&t);
    return text.data;
}

/* Three causes in all, each a layer, a head and a sample with its part of the damage, by the best
 * evidence there is. */
Test(causes, name_the_worst_three)
{
    struct made m;
    make(&m, .99, .01, .97, .4, 0);
    m.run.model.n_layers = 2;
    m.run.model.n_heads = 4;
    struct ledger_record ledger[8];
    struct tuned_head_record heads[8];
    static const double l1[] = {.01, .05, .02, .03, .09, .011, .04, .012};
    for (int i = 0; i < 8; i++) {
        ledger[i] = (struct ledger_record){.layer = i / 4,
            .head = i % 4,
            .tiles_possible = 100,
            .tiles_computed = 50 + i,
            .pv_possible = 200,
            .pv_computed = 100,
            .calls = 4};
        heads[i] = (struct tuned_head_record){
            .layer = i / 4, .head = i % 4, .is_sparse = i != 4, .l1_held_out = l1[i]};
    }
    m.samples[2].kl_mean = 1; /* of 1.03 */
    /* a file: samples alone */
    m.view.from_file = true;
    char *text = causes_of(&m, NULL);
    has(text, "\n,,2,0.970873");
    has(text, "--db DATABASE");
    free(text);
    m.view.from_file = false;
    /* no error known: the work left out, and said to be a guess */
    m.view.ledger = (struct ledger_list){ledger, 8, NULL};
    text = causes_of(&m, NULL);
    has(text, "\n0,0,2,");
    has(text, "guessed from the work");
    free(text);
    /* tuned: .05 of .173 in sample 2, and so on */
    struct tuned_record tuned = {.rule = "l1", .heads = heads, .n_heads = 8};
    m.view.tuned = (struct tuned_list){&tuned, 1, NULL};
    text = causes_of(&m, NULL);
    const char *first = strstr(text, "\n0,1,2,0.280"), *second = strstr(text, "\n1,2,2,0.224"),
               *third = strstr(text, "\n0,3,2,0.168");
    cr_expect(first && second && third && first < second && second < third, "%s", text);
    lacks(text, "\n1,0,"); /* a dense head causes nothing */
    cr_expect_eq(count(text, ",2,0."), 3u, "three in all: %s", text);
    has(text, "estimated from the error each head had when it was tuned");
    free(text);
    /* measured, sample by sample: another head is to blame in each */
    struct layer_error_record errors[9];
    for (int i = 0; i < 8; i++)
        errors[i] =
            (struct layer_error_record){i / 2, i % 2, 3, i % 2 == (i / 2 == 2) ? .4 : .1, 1, .5, 1};
    /* of all samples: not used here */
    errors[8] = (struct layer_error_record){-1, 0, 0, 9, 1, 9, 1};
    m.view.layer_errors = (struct layer_error_list){errors, 9, NULL};
    m.samples[1].kl_mean = .97;
    text = causes_of(&m, NULL); /* 1 + .97 + .02: .4 of .5 of each */
    cr_expect(strstr(text, "\n1,3,2,0.40201") && strstr(text, "\n0,3,1,0.38994") &&
            strstr(text, "\n0,3,2,0.1005"),
        "%s", text);
    has(text, "(--attribution)");
    free(text);
    /* end to end: one layer sparse at a time; heads by what was measured of them */
    struct run_record alone[2];
    for (int i = 0; i < 2; i++) {
        alone[i] = m.run;
        alone[i].layers = i ? "1" : "0";
        alone[i].headline = (struct headline){.kl_mean = i ? .01 : .03};
    }
    struct run_list runs = {alone, 2, NULL};
    /* sample 2 has .5 of it, layer 0 three quarters, and one head of it was seen to err */
    text = causes_of(&m, &runs);
    has(text, "\n0,3,2,0.37688");
    has(text, "one layer sparse at a time (sweep --layers each), within a layer by the L1");
    free(text);
    /* one head at a time says more */
    for (int i = 0; i < 2; i++) {
        alone[i].layers = "1";
        alone[i].heads = i ? "2" : "0";
        alone[i].headline = (struct headline){.kl_mean = i ? .03 : .01};
    }
    text = causes_of(&m, &runs);
    has(text, "\n1,2,2,0.376");
    has(text, "one head sparse at a time");
    free(text);
    /* of other thresholds: they say nothing of this run */
    alone[0].cdfthreshd = alone[1].cdfthreshd = .5;
    text = causes_of(&m, &runs);
    lacks(text, "end to end");
    free(text);
    for (int i = 0; i < 4; i++) m.samples[i].kl_mean = 0;
    struct table *t = causes_table(&m.view, NULL);
    cr_expect_eq(table_rows(t), 0u, "no damage, no cause");
    table_free(&t);
}
