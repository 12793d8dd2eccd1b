/* Pictures and the report they go into, and what a sweep says beyond its cells. */
#include "reports/attribution.h"
#include "reports/plot_script.h"
#include "reports/plot_svg.h"
#include "reports/report.h"
#include "tests/unit/reports_fixture.h"

static struct plot_drawer drawer;

static void drawn(void)
{
    plot_drawer_close(&drawer);
    tear_down();
}

TestSuite(pictures, .init = set_up, .fini = drawn, .timeout = 300);

Test(pictures, boxes_of_a_mask_cover_its_tiles_once)
{
    enum { Q = 13, K = 21 };
    struct rng r;
    rng_init(&r, 9);
    uint8_t bits[(Q * K + 7) / 8] = {0};
    for (int b = 0; b < Q * K; b++)
        if (rng_unit(&r) < .6 || b % K < 2) bits[b / 8] |= (uint8_t)(1 << b % 8);
    struct mask_record m = {0, 1, 2, Q, K, bits};
    struct run_view v = {.masks = {&m, 1, NULL}};
    struct run_record run = {
        .id = 1, .method = "sparge", .layers = "all", .heads = "all", .block_q = 1, .block_k = 1};
    v.run = &run;
    setenv("PATH", "/nowhere", 1); /* the script is enough */
    struct plot_out out = {dir, NULL, true, &drawer};
    cr_assert_eq(plot_mask(&out, "m", &v, 0), ERR_UNSUPPORTED);
    char *path = path_join(dir, "m.gp");
    struct str script = {0};
    ok(file_read(&script, path));
    int covered[Q][K] = {0}, j0, j1, i0, i1, n_boxes = 0, n_set = 0;
    const char *p = strstr(str_get(&script), "$mask0 << EOD\n") + strlen("$mask0 << EOD\n");
    for (; sscanf(p, "%d %d %d %d", &j0, &j1, &i0, &i1) == 4; p = strchr(p, '\n') + 1, n_boxes++)
        for (int i = i0; i < i1; i++)
            for (int j = j0; j < j1; j++) covered[i][j]++;
    for (int i = 0; i < Q; i++)
        for (int j = 0; j < K; j++) {
            int set = bits[(i * K + j) / 8] >> (i * K + j) % 8 & 1;
            n_set += set;
            cr_assert_eq(covered[i][j], set, "tile %d, %d", i, j);
        }
    cr_assert_lt(n_boxes, n_set);
    str_clear(&script);
    free(path);
}

Test(pictures, scripts_survive_hostile_names)
{
    if (plot_available() != OK) cr_skip_test("%s", status_message());
    struct fixture_options o = options(1, .3, 1);
    o.method = "spa'rge\"`touch hacked`\\ %s {_}";
    put(o);
    struct run_view v = view("1");
    const struct run_view *views[] = {&v};
    struct plot_out out = {dir, db, false, &drawer};
    ok(plot_losses(&out, "bars", views, 1));
    char *hacked = path_join(dir, "hacked"), *png = path_join(dir, "bars.png"),
         *svg = path_join(dir, "bars.svg");
    cr_assert(!file_exists(hacked));
    cr_assert(file_exists(png) && file_exists(svg));
    free(hacked);
    free(png);
    free(svg);
    run_view_clear(&v);
}

/* The query beside a picture runs and gives rows. */
static void run_saved_query(const char *name)
{
    char *path = str_format("%s/pictures/%s.sql", dir, name);
    struct str file = {0}, sql = {0};
    ok(file_read(&file, path));
    for (char *save = NULL, *line = strtok_r(file.data, "\n", &save); line;
         line = strtok_r(NULL, "\n", &save))
        if (*line != '.' && !str_starts_with(line, "--")) str_addf(&sql, "%s\n", line);
    struct sql_result r;
    ok(query_sql(store, str_get(&sql), &r));
    cr_assert_gt(r.n_rows, 0u, "%s", path);
    sql_result_clear(&r);
    str_clear(&file);
    str_clear(&sql);
    free(path);
}

/* As gnuplot 5.4 writes them: a line with its key, hypertexts over it, another series, what belongs
 * to none. */
static const char gnuplot_svg[] =
    "<?xml version=\"1.0\"?>\n<svg \n viewBox=\"0 0 400 "
    "300\"\n>\n<title>Gnuplot</title>\n<desc>Produced by GNUPLOT</desc>\n"
    "<g id=\"gnuplot_canvas\">\n<rect x=\"0\" y=\"0\" width=\"400\" height=\"300\" "
    "fill=\"#FFFFFF\"/>\n<defs>\n"
    "<circle id='gpPt5' r='1'/>\n<use xlink:href='#gpPt5' id='gpPt6'/>\n<path id='gpPt7' "
    "d='M0,0'/>\n"
    "<filter id='textbox'><feFlood/></filter>\n</defs>\n"
    "<g fill=\"none\" color=\"black\" stroke=\"currentColor\" stroke-width=\"1.00\">\n</g>\n"
    "<g id=\"gnuplot_plot_1\" ><title>gnuplot_plot_1</title>\n<g fill=\"none\" color=\"black\" "
    "stroke=\"currentColor\">"
    "<g transform=\"translate(1,2)\" fill=\"black\" font-size=\"12.00\" text-anchor=\"end\"><text> "
    "a &lt; b</text></g></g>\n"
    "<path stroke='rgb(  0, 114, 178)'  d='M1,2 L3,4  '/></g>\n"
    "<g id=\"gnuplot_plot_2\" ><title>$run0 using 1:2</title>\n"
    "<g onmousemove=\"gnuplot_svg.showHypertext(evt,'run 7|KL 0.5')\" "
    "onmouseout=\"gnuplot_svg.hideHypertext()\"><title> </title>\n"
    "<use xlink:href='#gpPt6' transform='translate(74.58,141.00) scale(2.25)' "
    "opacity='0.00'/></g></g>\n"
    "<g id=\"gnuplot_plot_3\" ><title>x</title><use xlink:href='#gpPt6' x='1'/><text>no "
    "key</text></g>\n"
    "<path d='M9,9'/></g>\n</svg>\n";

Test(pictures, a_drawing_is_made_small_and_fit_to_be_touched)
{
    const struct plot_element elements[] = {{2, true, false}, {2, false, true}, {-1, false, false}};
    struct str out = {0};
    ok(plot_svg_tidy(gnuplot_svg, elements, 3, &out));
    const char *t = str_get(&out);
    has(t, "viewBox=\"0 0 400 300\"");
    has(t,
        "<g data-s=\"2\"><g transform=\"translate(1,2)\" fill=\"#000000\" text-anchor=\"end\" "
        "class=\"key\"><text>a &lt; b</text>");
    has(t, "<path stroke=\"#0072b2\" d=\"M1,2 L3,4\"/>");
    has(t, "<circle cx=\"74.6\" cy=\"141.0\" r=\"6\"><title>run 7\nKL 0.5</title></circle>");
    has(t, "class=\"tips\"");
    has(t, "<text>no key</text>");
    has(t, "id=\"gpPt6\"");
    has(t, "id=\"gpPt5\""); /* which the other refers to */
    static const char *const gone[] = {
        "gnuplot", "GNUPLOT", "Gnuplot", "using", "onmouse", "gpPt7", "filter", "xlink", "rgb("};
    for (size_t i = 0; i < sizeof gone / sizeof *gone; i++) lacks(t, gone[i]);
    cr_expect_eq(occurrences(t, "<g"), occurrences(t, "</g>"));
    str_reset(&out);
    cr_expect_eq(plot_svg_tidy("<html/>", NULL, 0, &out), ERR_FORMAT);
    cr_expect_eq(plot_svg_tidy("<svg viewBox=\"0 0 1 1\"><g id=\"x", NULL, 0, &out), ERR_FORMAT);
    str_clear(&out);
}

/* A drawing of the report says what its marks are, and nothing of how it was drawn. */
static void check_drawing(const char *name)
{
    char *path = str_format("%s/pictures/%s.svg", dir, name);
    struct str svg = {0};
    ok(file_read(&svg, path));
    const char *t = str_get(&svg);
    lacks(t, "gnuplot");
    lacks(t, "onmouse");
    cr_assert_eq(occurrences(t, "<g"), occurrences(t, "</g>"), "%s", path);
    size_t tips = 0;
    for (const char *p = t; (p = strstr(p, "<title>")); tips++) {
        const char *end = strstr(p, "</title>");
        p += strlen("<title>");
        bool number = false;
        for (; p < end; p++) number |= *p >= '0' && *p <= '9';
        cr_assert(number, "%s: a mark without a number", path);
    }
    cr_assert_gt(tips, 0u, "%s has no marks", path);
    str_clear(&svg);
    free(path);
}

Test(pictures, every_picture_is_drawn_with_script_and_sql)
{
    if (plot_available() != OK) cr_skip_test("%s", status_message());
    struct tuned_head_record h[12];
    for (int i = 0; i < 12; i++)
        h[i] = (struct tuned_head_record){
            i / 4, i % 4, i != 5, .5, .9, 9, .05, .06, .2, .3, .4, .4, 0, NULL};
    struct tuned_record t = {"feed", "0123456789abcdef0123456789abcdef", "d", "sparge", "l1",
        "running", "all", .06, .07, 128, 64, NULL, 1, h, 12};
    ok(store_tuned_put(store, &t));
    for (int i = 1; i <= 5; i++) {
        struct fixture_options o = options((uint64_t)i, .1 * i, .3 * i * i);
        if (i % 2) o.tuned_hash = "feed";
        if (i == 4) o.method = "oracle";
        put(o);
    }
    struct str notes = {0};
    struct report_options o = {.dir = dir, .run = "3", .baseline = "1", .db = db};
    ok(report_write(store, &o, &notes));
    cr_assert_eq(notes.len, 0, "%s", str_get(&notes));
    static const char *const names[] = {"frontier_cosine", "frontier_kl", "frontier_ppl", "losses",
        "needle_dense", "needle_1", "needle_2", "cosine", "kl", "cosine_by_position",
        "kl_by_position", "layers", "heads_sparsity", "heads_l1", "heads_isolated", "latency",
        "breakdown", "heads_propagated", "mask_layer0_head0_1"};
    static const char *const kinds[] = {"svg", "png", "gp", "sql"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        for (int k = 0; k < 4; k++) {
            char name[64];
            snprintf(name, sizeof name, "pictures/%s.%s", names[i], kinds[k]);
            cr_assert_gt(size_of(name), k < 2 ? 2000u : 20u, "%s", name);
        }
    cr_assert_gt(size_of("index.html"), 100000u);
    cr_assert_gt(size_of("report.md"), 1000u);
    cr_assert_gt(size_of("runs.csv"), 500u);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        run_saved_query(names[i]);
        check_drawing(names[i]);
    }
    str_clear(&notes);
}

/* What gnuplot does not understand is told, and the next picture is what it would be alone. */
Test(pictures, a_script_with_a_fault_is_told_and_spoils_no_other)
{
    if (plot_available() != OK) cr_skip_test("%s", status_message());
    struct plot_out out = {dir, db, true, &drawer}, alone = {dir, db, true, NULL};
    struct str text[2] = {0};
    for (int i = 0; i < 3; i++) {
        struct plot_script p;
        plot_script_init(&p, i == 2 ? &alone : &out, "picture", 200, 100);
        str_add(&p.body, i ? "" : "set xrange [nowhere");
        str_add(&p.body, "\nplot x notitle\n");
        enum status st = plot_script_run(&p);
        cr_assert_eq(st, i ? OK : ERR_IO, "%s", status_message());
        if (i == 0) {
            has(status_message(), "could not draw");
            has(status_message(), "nowhere");
            cr_assert_eq(size_of("picture.svg"), 0u);
        }
        char *path = path_join(dir, "picture.svg");
        if (i) ok(file_read(&text[i - 1], path));
        free(path);
    }
    cr_assert_str_eq(str_get(&text[0]), str_get(&text[1]));
    for (int i = 0; i < 2; i++) str_clear(&text[i]);
}

Test(pictures, without_gnuplot_the_rest_is_made)
{
    put_pair(1, 2);
    setenv("PATH", "/nowhere", 1);
    cr_assert_eq(plot_available(), ERR_UNSUPPORTED);
    has(status_message(), "apt-get install gnuplot");
    struct str notes = {0};
    struct report_options o = {.dir = dir, .run = "2", .baseline = "1"};
    enum status st = report_write(store, &o, &notes);
    ok(st);
    cr_assert_eq(occurrences(str_get(&notes), "gnuplot"), occurrences(status_message(), "gnuplot"),
        "said once");
    has(str_get(&notes), "apt-get install gnuplot");
    cr_assert_gt(size_of("index.html"), 10000u);
    cr_assert_gt(size_of("pictures/losses.gp"), 100u, "the script can be drawn elsewhere");
    cr_assert_eq(size_of("pictures/losses.svg"), 0u);
    str_clear(&notes);
}

Test(pictures, pictures_without_data_say_what_is_missing)
{
    struct fixture_options o = options(1, .3, 1);
    o.tasks = o.latency = o.words = false;
    put(o);
    struct run_view v = view("1");
    const struct run_view *views[] = {&v};
    struct plot_out out = {dir, NULL, true, &drawer};
    cr_assert_eq(plot_needle(&out, "n", views, 1, 0, true), ERR_ARG);
    has(status_message(), "needle");
    cr_assert_eq(plot_latency(&out, "n", views, 1), ERR_ARG);
    cr_assert_eq(plot_breakdown(&out, "n", views, 1), ERR_ARG);
    cr_assert_eq(plot_mask(&out, "n", &v, 0), ERR_ARG);
    cr_assert_eq(plot_heads(&out, "n", &v, HEAT_L1_HELD_OUT), ERR_ARG);
    cr_assert_eq(plot_positions(&out, "n", views, 1, "nonsense"), ERR_ARG);
    cr_assert_eq(plot_distribution(&out, "n", views, 1, "ppl_dense"), ERR_ARG);
    cr_assert_eq(plot_curves(&out, "n", &(struct curve_set){.label = "t", .bound = NAN}), ERR_ARG);
    run_view_clear(&v);
}

/* A database from a stranger may hold a mask that its run's blocks cannot have made. */
Test(pictures, a_layer_of_a_mask_that_fits_no_blocks)
{
    static uint8_t bits[1 << 16];
    memset(bits, 255, sizeof bits);
    struct mask_record m = {0, 1, 2, 64, 1, bits};
    struct run_record run = {.id = 1,
        .method = "sparge",
        .layers = "all",
        .heads = "all",
        .block_q = 128,
        .block_k = 64};
    struct run_view v = {.run = &run, .masks = {&m, 1, NULL}};
    struct plot_out out = {dir, NULL, true, &drawer};
    setenv("PATH", "/nowhere", 1);
    cr_expect_eq(layer_reach(&v, 1, false), 64);
    cr_expect_eq(plot_layer(&out, "l", &v, 1), ERR_UNSUPPORTED); /* no gnuplot: the script is */
    m.n_q = 1;
    m.n_k = 1 << 19;
    run.block_k = 4095; /* more tokens than steps of an int get to */
    cr_expect_eq(plot_layer(&out, "l", &v, 1), ERR_UNSUPPORTED);
    m.n_q = 0;
    cr_expect_eq(plot_layer(&out, "l", &v, 1), ERR_ARG);
    cr_expect_eq(layer_reach(&v, 1, true), 0);
}

static void put_layers(
    uint64_t seed, const char *layers, const char *heads, double error, double l1)
{
    struct fixture_options o = options(seed, .4, error);
    o.n_layers = 6;
    o.layers = layers;
    struct fixture f;
    fixture_run(&f, o);
    f.d.run.heads = heads;
    f.d.run.l1 = l1;
    f.d.run.pv_l1 = l1 + .01;
    ok(store_run_put(store, &f.d, false, NULL));
    fixture_clear(&f);
}

Test(pictures, attribution_ranks_what_costs_most)
{
    put_layers(1, "0", "all", .2, .06);
    put_layers(2, "4", "all", .9, .06);
    put_layers(3, "4", "2", .3, .06);
    put_layers(4, "0-5", "all", 2, .06);
    put_layers(5, "0-3+5", "all", .8, .06);
    put_layers(6, "1-5", "all", 1.9, .06);
    put_layers(7, "1-3", "all", 1, .06); /* singles nothing out */
    struct run_filter any = {0};
    struct run_list runs;
    ok(query_runs(store, &any, &runs));
    struct attribution *a;
    size_t n;
    ok(attribution_find(&runs, &a, &n));
    cr_assert_eq(n, 5);
    const int layers[] = {4, 4, 0, 4, 0}, heads[] = {-1, 2, -1, -1, -1};
    for (int i = 0; i < 5; i++) {
        cr_assert_eq(a[i].layer, layers[i], "place %d: layer %d", i, a[i].layer);
        cr_assert_eq(a[i].head, heads[i]);
        cr_assert_eq(a[i].all_but, i >= 3);
    }
    cr_assert_float_eq(a[3].kl_saved, .05 * (2 - .8), 1e-12);
    struct table *t = attribution_table(a, n);
    cr_assert_eq(table_rows(t), 5);
    table_free(&t);
    free(a);
    struct plot_out out = {dir, db, true, &drawer};
    if (plot_available() == OK) {
        ok(plot_attribution(&out, "cost", &runs));
        cr_assert_gt(size_of("cost.svg"), 2000u);
    }
    runs.n = 0;
    cr_assert_eq(plot_attribution(&out, "cost", &runs), ERR_ARG);
    run_list_clear(&runs);
}

Test(pictures, monotonicity_flags_a_tighter_bound_that_is_worse)
{
    put_layers(1, "all", "all", .2, .04);
    put_layers(2, "all", "all", .9, .06); /* worse than the next */
    put_layers(3, "all", "all", .5, .08);
    put_layers(4, "all", "all", 1.5, .10);
    put_layers(5, "3", "all", 1.5, .04); /* another question */
    struct run_filter any = {0};
    struct run_list runs;
    ok(query_runs(store, &any, &runs));
    size_t violations;
    struct table *t = monotonicity_table(&runs, &violations);
    cr_assert_eq(violations, 1);
    cr_assert_eq(table_rows(t), 4);
    char *text = render(t, TABLE_TERMINAL, (struct table_style){0});
    has(text, "worse than the looser run 3");
    free(text);
    table_free(&t);
    run_list_clear(&runs);
}

/* A run of `method` on the data `dataset` with these answers, in a plan. */
static void put_answers(uint64_t seed, const char *method, double topk, const char *dataset,
    const char *suite, const struct item_record *items, size_t n)
{
    struct fixture f;
    struct fixture_options o = options(seed, .3, 1);
    o.method = method;
    o.dataset = dataset;
    o.tasks = false;
    fixture_run(&f, o);
    f.d.run.plan = "p";
    f.d.run.seed = 0;
    f.d.run.topk = topk;
    f.d.run.dataset.suite = suite;
    double right = 0;
    for (size_t i = 0; i < n; i++) right += items[i].sparse_right;
    fixture_pooled(&f, "score_dense", 1, 0);
    fixture_pooled(&f, "score_sparse", right / (double)n, 0);
    f.d.items = items;
    f.d.n_items = n;
    ok(store_run_put(store, &f.d, false, NULL));
    f.d.items = NULL;
    f.d.n_items = 0;
    fixture_clear(&f);
}

enum { N_NEAR = 40 };

/* Questions at ever other depths: the first half near their evidence and answered, the rest far and
 * lost. */
static void near_and_far(struct item_record *items)
{
    for (int i = 0; i < N_NEAR; i++)
        items[i] = (struct item_record){.item = "item",
            .depth = 1 - (i < N_NEAR / 2 ? 50 + i : 600 + i) / 2000.,
            .length = 2000,
            .dense_score = -1,
            .sparse_score = -2,
            .dense_right = true,
            .sparse_right = i < N_NEAR / 2};
}

static void grid_of_needles(struct item_record *items)
{
    for (int i = 0; i < 15; i++)
        items[i] = (struct item_record){.item = "needle",
            .sample = i,
            .depth = .25 * (i % 5),
            .length = 1024 << (i / 5),
            .dense_score = -1,
            .sparse_score = -2,
            .dense_right = true,
            .sparse_right = i % 2};
}

Test(pictures, needles_are_drawn_from_a_grid_and_other_answers_by_distance)
{
    if (plot_available() != OK) cr_skip_test("%s", status_message());
    struct item_record far[N_NEAR], grid[15];
    near_and_far(far);
    grid_of_needles(grid);
    for (int i = 0; i < N_NEAR; i++) far[i].item = str_format("question %d", i);
    for (int i = 0; i < 15; i++) grid[i].item = str_format("needle %d", i);
    put_answers(1, "sparge", NAN, "text", "chronicle", far, N_NEAR);
    put_answers(2, "topk", .4, "text", "chronicle", far, N_NEAR);
    struct run_view v = view("1");
    const struct run_view *views[] = {&v};
    struct plot_out out = {dir, NULL, true, &drawer};
    cr_assert_eq(plot_needle(&out, "n", views, 1, 0, false), ERR_ARG, "forty depths are no grid");
    has(status_message(), "--suite needle");
    run_view_clear(&v);
    put_answers(3, "sparge", NAN, "hay", "needle", grid, 15);
    put_answers(4, "topk", .4, "hay", "needle", grid, 15);

    struct str notes = {0};
    struct report_options o = {.dir = dir, .run = "1", .db = db, .no_png = true};
    ok(report_write(store, &o, &notes));
    cr_assert_eq(notes.len, 0, "%s", str_get(&notes));
    char *path = path_join(dir, "pictures/needle_2.gp");
    struct str script = {0};
    ok(file_read(&script, path));
    has(str_get(&script), "\"topk 0.4\"");
    has(str_get(&script), "\"1024 tokens, depth 25 %|1 of 1 right\"");
    free(path);
    str_reset(&script);
    path = path_join(dir, "pictures/distance.gp");
    ok(file_read(&script, path));
    /* under 64, 64 to 127, 512 to 1023; each line a little beside the others, with Wilson's
     * interval: 20 of 20 is [20 / (20 + 1.96^2), 1], 0 of 20 the mirror image; here 14, 6 and 20 */
    has(str_get(&script), "$line1 << EOD\n0 100 78.4689 100\n1 100 60.9666 100\n4 0 0 16.1125\n");
    has(str_get(&script), "$line0 << EOD\n-0.25 100 78.4689 100\n");
    has(str_get(&script), "\"512+\\n20\" 4");
    run_saved_query("distance");
    free(path);
    str_clear(&script);
    str_clear(&notes);
    for (int i = 0; i < N_NEAR; i++) free((char *)far[i].item);
    for (int i = 0; i < 15; i++) free((char *)grid[i].item);
}

Test(pictures, a_plan_is_one_row_a_configuration)
{
    struct item_record far[N_NEAR], grid[15];
    near_and_far(far);
    grid_of_needles(grid);
    for (int i = 0; i < N_NEAR; i++) far[i].item = str_format("question %d", i);
    for (int i = 0; i < 15; i++) grid[i].item = str_format("needle %d", i);
    put_answers(1, "sparge", NAN, "text", "chronicle", far, N_NEAR);
    put_answers(2, "topk", .4, "text", "chronicle", far, N_NEAR);
    put_answers(3, "sparge", NAN, "hay", "needle", grid, 15);
    struct run_filter all = {0};
    struct run_list runs;
    ok(query_runs(store, &all, &runs));
    struct table *t = methods_table(&runs, &runs.rows[1]);
    char *csv = render(t, TABLE_CSV, (struct table_style){0});
    table_free(&t);
    cr_expect_eq(occurrences(csv, "\n"), 4u, "a heading, dense and two configurations: %s", csv);
    has(csv, "chronicle_right");
    has(csv, "needle_right");
    has(csv, "\ndense,,0,1,0,1,1,1,1,");
    const char *topk = strstr(csv, "\ntopk 0.4 *,"), *sparge = strstr(csv, "\nuntuned,");
    cr_assert(topk && sparge && sparge < topk, "%s", csv);
    has(sparge, "\"1, 3\"");
    has(topk, ",0.5,,2");
    free(csv);
    run_list_clear(&runs);
    for (int i = 0; i < N_NEAR; i++) free((char *)far[i].item);
    for (int i = 0; i < 15; i++) free((char *)grid[i].item);
}

/* KL over decades gets a logarithmic axis, over less a linear one. */
Test(pictures, kl_frontier_bends_its_axis_only_for_decades)
{
    if (plot_available() != OK) cr_skip_test("%s", status_message());
    for (int wide = 0; wide < 2; wide++) {
        struct run_record rows[3] = {{.id = 1}, {.id = 2}, {.id = 3}};
        for (int i = 0; i < 3; i++) {
            rows[i].status = RUN_DONE;
            rows[i].method = "sparge";
            rows[i].model.fingerprint = rows[i].dataset.fingerprint = "x";
            rows[i].headline = (struct headline){.sparsity = .2 * (i + 1),
                .kl_mean = .01 * pow(wide ? 10 : 1.5, i),
                .kl_lo = NAN,
                .kl_hi = NAN};
        }
        struct run_list runs = {rows, 3, NULL};
        struct plot_out out = {dir, NULL, true, &drawer};
        ok(plot_frontier(&out, "f", &runs, FRONTIER_KL));
        char *path = path_join(dir, "f.gp");
        struct str script = {0};
        ok(file_read(&script, path));
        cr_expect_eq(occurrences(str_get(&script), "set logscale y"), wide ? 1u : 0u);
        str_clear(&script);
        free(path);
    }
}

static struct latency_record part_of(const char *part, int64_t n_tokens, double seconds)
{
    return (struct latency_record){part, n_tokens, 3, seconds, seconds, seconds, seconds, seconds,
        seconds, seconds, seconds, true, NULL};
}

/* A kernel that does QK and PV at once has one part for both, and the page says so. Bars are shares
 * of the dense pass.
 */
Test(pictures, attention_that_is_whole_is_one_part)
{
    if (plot_available() != OK) cr_skip_test("%s", status_message());
    for (int whole = 0; whole < 2; whole++) {
        struct fixture f;
        fixture_run(&f, options((uint64_t)whole + 1, .3, 1));
        const struct latency_record parts[] = {part_of("dense_attention", 512, .5),
            part_of("dense_linear", 512, .4), part_of("dense_rest", 512, .1),
            part_of("sparse_predict", 512, .05), part_of("sparse_linear", 512, .4),
            part_of("sparse_rest", 512, .1),
            part_of(whole ? "sparse_attention" : "sparse_qk", 512, .15),
            part_of("prefill_sparse", 512, .66), part_of("sparse_attention_dense", 512, .02)};
        f.d.latencies = parts;
        f.d.n_latencies = sizeof parts / sizeof *parts;
        ok(store_run_put(store, &f.d, false, NULL));
        fixture_clear(&f);
        struct run_view v = view(whole ? "2" : "1");
        cr_assert_eq(breakdown_is_whole(&v), whole);
        struct table *t = breakdown_table(&v);
        char *csv = render(t, TABLE_CSV, (struct table_style){0});
        has(csv, "\n512,dense,,,,0.5,0.4,0.1,1,\r");
        has(csv,
            whole ? "\n512,sparse,0.05,,,0.1" : "\n512,sparse,0.05,0.15,,0.02,0.4,0.1,0.72,0.66\r");
        free(csv);
        table_free(&t);
        struct run_view const *views[] = {&v};
        ok(plot_breakdown(&(struct plot_out){dir, db, true, &drawer}, "parts", views, 1));
        struct str script = {0};
        char *path = path_join(dir, "parts.gp");
        ok(file_read(&script, path));
        has(str_get(&script),
            "$part3 << EOD\n0 0.000 0 50 -0.380 0.380\n"); /* dense: attention first, half of it */
        has(str_get(&script),
            whole ? "\n5 0.900 5 22 0.520 1.280\n" : "\n20 0.900 20 22 0.520 1.280\n");
        has(str_get(&script),
            "\n72 0.900 \"720 ms\" 66\n"); /* the total, and the pass that was timed */
        free(path);
        str_clear(&script);
        run_view_clear(&v);
    }
}

Test(pictures, times_that_do_not_count_are_marked_where_there_are_any)
{
    if (plot_available() != OK) cr_skip_test("%s", status_message());
    struct fixture f;
    fixture_run(&f, options(1, .3, 1)); /* its last sparse time is not valid */
    ok(store_run_put(store, &f.d, false, NULL));
    struct run_view v = view("1");
    struct run_view const *views[] = {&v};
    char *path = path_join(dir, "times.gp");
    struct str script = {0};
    ok(plot_latency(&(struct plot_out){dir, db, true, &drawer}, "times", views, 1));
    ok(file_read(&script, path));
    has(str_get(&script), "title \"not valid\"");
    has(str_get(&script), "break-even 3100 (2700 … 3500)");
    has(str_get(&script), "$ratio0 << EOD\n512 ");
    str_reset(&script);
    for (size_t i = 0; i < v.latencies.n; i++) v.latencies.rows[i].valid = true;
    ok(plot_latency(&(struct plot_out){dir, db, true, &drawer}, "times", views, 1));
    ok(file_read(&script, path));
    lacks(str_get(&script), "not valid");
    str_clear(&script);
    free(path);
    run_view_clear(&v);
    fixture_clear(&f);
}

/* What lies outside the measured lengths is said to, in the picture and in the table, and no number
 * is made up. */
Test(pictures, break_even_outside_the_measured_lengths)
{
    put(options(1, .3, 1));
    struct run_view v = view("1");
    struct run_view const *views[] = {&v};
    struct metric_record *m = NULL;
    for (size_t i = 0; i < v.metrics.n; i++)
        if (!strcmp(v.metrics.rows[i].name, "break_even_length")) m = &v.metrics.rows[i];
    cr_assert_not_null(m);
    *m = metric_record_empty("overall", "break_even_length", 5);
    static const struct {
        double mean, lo, hi, max, p5, p95;
        const char *label, *cells;
    } cases[] = {
        {700, NAN, 900, NAN, 512, NAN, "break-even 700 (< 512 … 900)", "| 700 | &lt; 512 | 900 |"},
        {700, 600, NAN, NAN, NAN, 8192, "break-even 700 (600 … > 8192)", "| 700 | 600 | > 8192 |"},
        {NAN, NAN, 900, 512, 512, NAN, "break-even at most 512 (< 512 … 900)",
            "| at most 512 | &lt; 512 | 900 |"},
        {0, 0, 900, NAN, NAN, NAN, "break-even below all measured",
            "| below all measured | below all measured | 900 |"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        m->mean = cases[i].mean;
        m->lo = cases[i].lo;
        m->hi = cases[i].hi;
        m->max = cases[i].max;
        m->p5 = cases[i].p5;
        m->p95 = cases[i].p95;
        struct table *t = metrics_table(&v);
        char *text = render(t, TABLE_MARKDOWN, (struct table_style){0});
        has(text, cases[i].cells);
        free(text);
        table_free(&t);
        if (plot_available() != OK) continue;
        char *path = path_join(dir, "even.gp");
        struct str script = {0};
        ok(plot_latency(&(struct plot_out){dir, db, true, &drawer}, "even", views, 1));
        ok(file_read(&script, path));
        has(str_get(&script), cases[i].label);
        str_clear(&script);
        free(path);
    }
    run_view_clear(&v);
}
