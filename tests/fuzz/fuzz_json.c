/* Any text as one of the files that people edit or download: tuned.json, before_tune.json, a gate's
 * bounds, a suite's JSON Lines. Refused with a message, or within the documented ranges; what was
 * read can be used, and thresholds read back equal.
 *
 * Input that begins with a brace or bracket goes to every reader. Otherwise it is an edit of a good
 * file: one byte that chooses it, two for a place, one for how many bytes to take out there, the
 * rest is put in. */
#include "engine/tuner/tuned.h"
#include "reports/gate.h"
#include "reports/runjson.h"
#include "suites/jsonl.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* A file in memory that can be opened by name. */
struct memory_file {
    int fd;
    char path[64];
};

static struct memory_file memory_file(const void *data, size_t size)
{
    struct memory_file f = {.fd = memfd_create("fuzz", 0)};
    require(f.fd >= 0);
    require(write(f.fd, data, size) == (ssize_t)size);
    snprintf(f.path, sizeof f.path, "/proc/self/fd/%d", f.fd);
    return f;
}

static void refused(enum status st)
{
    require(st == ERR_FORMAT || st == ERR_UNSUPPORTED);
    require(status_message()[0] != 0);
}

static void check_tuned(const struct tuned *t)
{
    require(t->n_layers >= 1 && t->n_heads >= 1 && t->heads != NULL);
    require(t->block.q == 64 || t->block.q == 128);
    require(t->block.k == 64 || t->block.k == 128);
    require(t->l1 >= 0 && t->pv_l1 >= 0);
    for (int i = 0; i < t->n_layers * t->n_heads; i++) {
        const struct head_params *p = &t->heads[i].params;
        if (!t->heads[i].in_range) continue;
        require(p->theta >= -1 && p->theta <= 1);
        require(p->tau >= 0 && p->tau <= 1);
        require(p->lambda >= 0 && p->lambda <= 50);
        require(memchr(t->heads[i].reason, 0, sizeof t->heads[i].reason) != NULL);
    }
}

static void try_tuned(const char *path)
{
    struct tuned t, again;
    enum status st = tuned_read(&t, path);
    if (st != OK) {
        refused(st);
        require(t.heads == NULL);
        return;
    }
    check_tuned(&t);
    char first[33], second[33];
    struct str text = {0};
    tuned_hash(&t, first);
    tuned_print(&t, &text, -1);
    struct memory_file copy = memory_file(text.data, text.len);
    require(tuned_read(&again, copy.path) == OK);
    require(strcmp(first, tuned_hash(&again, second)) == 0);
    close(copy.fd);
    str_clear(&text);
    tuned_clear(&again);
    tuned_clear(&t);
}

static void try_bounds(const char *path)
{
    struct gate_bounds b = gate_no_bounds();
    enum status st = gate_bounds_read(&b, path);
    if (st != OK) refused(st);
}

static void try_run(const char *path)
{
    struct run_view v;
    enum status st = runjson_read(&v, path);
    if (st != OK) {
        refused(st);
        return;
    }
    require(v.run != NULL && v.label != NULL);
    struct gate_bounds b = gate_no_bounds();
    struct gate_result g;
    b.min_cosine = .5;
    b.max_kl = 1;
    b.max_ppl_increase = .1;
    b.min_sparsity = .1;
    require(gate_run(&(struct gate_subject){.run = &v}, &b, &g) == OK);
    for (size_t i = 0; i < g.n; i++)
        require(g.checks[i].outcome == CHECK_PASS || g.checks[i].message != NULL);
    gate_result_clear(&g);
    run_view_clear(&v);
}

static void try_lines(const char *path)
{
    static const char *const keys[] = {
        "text", "context", "continuation", "query", "choices", "gold"};
    struct field_map fields;
    struct jsonl in = {0};
    require(field_map_parse(&fields, "text=a.b") == OK);
    enum status st = jsonl_open(&in, path, &fields);
    for (long last = 0; st == OK;) {
        st = jsonl_next(&in);
        if (st != OK || !in.object) break;
        require(in.line > last && cJSON_IsObject(in.object));
        last = in.line;
        for (int i = 0; i < 6; i++) {
            const char *text;
            const cJSON *array;
            require(!jsonl_find(&in, keys[i]) || !cJSON_IsNull(jsonl_find(&in, keys[i])));
            if (jsonl_string(&in, keys[i], &text) == OK) require(text != NULL);
            if (jsonl_array(&in, keys[i], &array) == OK) require(cJSON_IsArray(array));
        }
    }
    if (st != OK) refused(st);
    jsonl_close(&in);
    field_map_clear(&fields);
}

static const char good_bounds[] =
    "{\"min_cosine\": 0.98, \"max_kl\": 0.02, \"max_ppl_increase\": null, \"min_sparsity\": 3e-1}";

static const char good_run[] =
    "{\"schema_version\":1,\"config\":{\"model\":\"m\",\"simthreshd1\":0.6,\"cdfthreshd\":0.98,"
    "\"pvthreshd\":"
    "50,"
    "\"num_samples\":2,\"max_length\":512,\"layer_range\":null,\"l1\":null,\"pv_l1\":null,"
    "\"method\":"
    "\"sparge\","
    "\"window\":null,\"block_q\":128,\"block_k\":64,\"layers\":\"all\",\"seed\":\"7\"},"
    "\"generation\":[{"
    "\"prompt\":\"a\","
    "\"dense\":\"b\",\"sparse\":\"c\",\"token_match\":1,\"text_similarity\":0.5,\"n_tokens\":50}],"
    "\"detailed_"
    "results\":["
    "{\"text_idx\":0,\"seq_len\":477,\"n_scored\":476,\"fell_back\":false,\"sparsity\":0.25,\"kl_"
    "mean\":0.1}]"
    ","
    "\"metrics\":[{\"scope\":\"overall\",\"name\":\"cosine\",\"n\":954,\"mean\":0.9,\"p1\":0.5,"
    "\"lo\":0.89,"
    "\"hi\":0.91},"
    "{\"scope\":\"overall\",\"name\":\"sparsity\",\"n\":2,\"mean\":0.3}],\"identity\":{\"model\":{"
    "\"fingerprint\":\"f\","
    "\"name\":\"m\",\"n_layers\":8},\"data\":{\"fingerprint\":\"d\",\"suite\":\"text\",\"name\":"
    "\"t\",\"n_"
    "tokens\":9}},"
    "\"provenance\":{\"status\":\"done\",\"dirty\":true,\"argv\":[\"eval\"],\"attention_calls\":16,"
    "\"dense_fallback_calls\":0}}";

static const char good_lines[] =
    "{\"text\":\"one two\",\"a\":{\"b\":\"three\"}}\r\n\n"
    "{\"context\":\"one \",\"continuation\":\"two\"}\n"
    "{\"query\":\"which?\",\"choices\":[\"this\",\"that\"],\"gold\":1}";

static const char *good_tuned(void)
{
    static struct str text;
    if (text.len) return str_get(&text);
    struct tuned t;
    require(tuned_init(&t, 2, 2) == OK);
    strcpy(t.method, "sparge");
    strcpy(t.layers, "all");
    t.l1 = .06;
    t.pv_l1 = .07;
    t.block.q = 128;
    t.block.k = 64;
    t.max_length = t.num_samples = 1;
    for (int i = 0; i < 4; i++) {
        t.heads[i].in_range = true;
        t.heads[i].params = (struct head_params){.5f, .875f, 20, i % 2 == 0, 0, 0, 0};
        t.heads[i].held_out.l1 = NAN;
        if (i % 2) strcpy(t.heads[i].reason, "too little");
    }
    tuned_print(&t, &text, -1);
    tuned_clear(&t);
    return str_get(&text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static void (*const readers[])(const char *) = {try_tuned, try_bounds, try_run, try_lines};
    if (size < 4) return 0;
    if (data[0] == '{' || data[0] == '[') {
        struct memory_file f = memory_file(data, size);
        for (int i = 0; i < 4; i++) readers[i](f.path);
        close(f.fd);
        return 0;
    }
    const char *const good[] = {good_tuned(), good_bounds, good_run, good_lines},
                      *text = good[data[0] % 4];
    size_t n = strlen(text), at = (size_t)(data[1] << 8 | data[2]) % (n + 1);
    size_t cut = data[3] < n - at ? data[3] : n - at;
    struct str edited = {0};
    str_add_bytes(&edited, text, at);
    str_add_bytes(&edited, data + 4, size - 4);
    str_add_bytes(&edited, text + at + cut, n - at - cut);
    struct memory_file f = memory_file(edited.data, edited.len);
    readers[data[0] % 4](f.path);
    close(f.fd);
    str_clear(&edited);
    return 0;
}
