/* Contents of a database: a sound file with some bytes changed, read by everything that reads. The
 * input is a list of changes: four bytes of place (of the file's size) and one of value each. */
#include "harness/measure/curve_db.h"
#include "reports/gate.h"
#include "reports/tables.h"
#include "results/query.h"
#include "results/store.h"
#include "tests/unit/run_fixture.h"

#include "base/file.h"

static struct str sound;
static char path[64];

static void must(enum status st)
{
    if (st != OK) abort();
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    struct store *s;
    struct fixture f;
    snprintf(path, sizeof path, "/tmp/fuzz_database_%d.db", (int)getpid());
    unlink(path);
    must(store_open(&s, path, STORE_WRITE));
    fixture_run(&f,
        (struct fixture_options){.seed = 1,
            .n_samples = 2,
            .n_layers = 2,
            .n_heads = 2,
            .sparsity = .4,
            .error = 1,
            .method = "sparge",
            .rule = "l1",
            .tasks = true,
            .latency = true,
            .words = true});
    must(store_run_put(s, &f.d, false, NULL));
    struct planned_cell cell = {f.d.run.key, f.d.run.slot, f.d.run.key_json};
    must(store_plan_put(s, "grid", "{}", &cell, 1));
    fixture_clear(&f);
    store_close(&s);
    must(file_read(&sound, path));
    return 0;
}

static void show(struct table *t)
{
    struct str out = {0};
    table_render(t, TABLE_CSV, (struct table_style){0}, &out);
    str_clear(&out);
    table_free(&t);
}

static void read_all(struct store *s)
{
    struct run_list runs;
    struct run_view v;
    struct cell_list cells;
    if (query_runs(s, &(struct run_filter){0}, &runs) == OK) show(runs_table(&runs));
    run_list_clear(&runs);
    if (query_cells(s, NULL, &cells) == OK) show(cells_table(&cells));
    cell_list_clear(&cells);
    if (run_view_load(&v, s, "1") != OK) return;
    show(metrics_table(&v));
    show(samples_table(&v));
    show(layers_table(&v));
    show(heads_table(&v, 10));
    show(items_table(&v, false));
    show(worst_tokens_table(&v, 10));
    show(provenance_table(&v));
    run_view_clear(&v);
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    struct store *s;
    struct curve *curve = malloc(sizeof *curve);
    if (curve) (void)!curve_unpack(data, size, curve);
    free(curve);
    struct str text = {0};
    char *key = strndup((const char *)data, size);
    (void)key_json_diff(key, "{\"a\":1}", &text);
    str_clear(&text);
    free(key);
    FILE *f = fopen(path, "w");
    if (!f) abort();
    char *bytes = malloc(sound.len);
    memcpy(bytes, sound.data, sound.len);
    for (size_t i = 0; i + 5 <= size; i += 5) {
        size_t at = (size_t)data[i] << 24 | (size_t)data[i + 1] << 16 | (size_t)data[i + 2] << 8 |
            data[i + 3];
        bytes[at % sound.len] = (char)data[i + 4];
    }
    fwrite(bytes, 1, sound.len, f);
    fclose(f);
    free(bytes);
    if (store_open(&s, path, STORE_READ) != OK) return 0;
    read_all(s);
    store_close(&s);
    return 0;
}
