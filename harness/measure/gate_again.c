#include "harness/measure/gate_again.h"

#include "base/file.h"
#include "base/json.h"
#include "harness/measure/cancel.h"
#include "harness/measure/cell.h"
#include "harness/measure/identity.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum status gate_again_options(const struct run_record *r, const char *tuned_path,
    struct sample_options *samples, struct policy_options *policy)
{
    static _Thread_local char block[32];
    static _Thread_local struct suite_said said; /* as long as the options that point into it */
    *samples = (struct sample_options)SAMPLE_DEFAULTS;
    suite_said_clear(&said);
    samples->suites = (struct text_list){{suite_name_parse(r->dataset.name, &said)}, 1};
    samples->field = said.field;
    samples->max_length = r->max_length;
    samples->num_samples = r->num_samples;
    samples->score = r->score;
    samples->seed = (int)r->seed;
    *policy = (struct policy_options)POLICY_DEFAULTS;
    policy->method = r->method;
    policy->qk = r->qk ? r->qk : "full"; /* said, for a tuned file would bring its own */
    policy->pv = r->pv ? r->pv : "full";
    if (run_is_dense(r)) return OK;
    policy->layers = r->layers;
    policy->min_sparse_tokens = r->min_sparse_tokens;
    if (strcmp(r->method, "dense") == 0) return OK;
    snprintf(block, sizeof block, "%dx%d", r->block_q, r->block_k);
    policy->block = block;
    const struct mask_method *method;
    /* a record names a mean also of methods that take none, and they may not be told of one */
    TRY(mask_method_parse(r->method, &method));
    policy->smooth_k = mask_takes_means(method) ? r->smooth_k : NULL;
    policy->heads = r->heads;
    policy->tuned = tuned_path;
    policy->topk = isnan(r->topk) ? 0 : r->topk;
    policy->window = r->window < 0 ? 0 : (int)r->window;
    if (tuned_path) return OK;
    policy->theta = r->simthreshd1;
    policy->tau = r->cdfthreshd;
    policy->lambda = r->pvthreshd;
    return OK;
}

/* The thresholds as a file, as `eval --tuned` takes them. The caller frees and unlinks *path; NULL
 * without tuning. */
static enum status write_tuned(const struct run_view *v, char **path)
{
    *path = NULL;
    if (!v->run->tuned_hash) return OK;
    if (!v->tuned.n || !v->tuned.rows[0].json)
        return fail(ERR_ARG, "%s: its tuned thresholds %s are not in the database", v->label,
            v->run->tuned_hash);
    const char *dir = getenv("TMPDIR");
    char *name = str_format("%s/sparsegauge-tuned-XXXXXX", dir ? dir : "/tmp");
    int fd = mkstemp(name);
    if (fd < 0) {
        enum status st = fail(ERR_IO, "%s: cannot make a temporary file", name);
        free(name);
        return st;
    }
    close(fd);
    *path = name;
    return file_write_atomic(name, v->tuned.rows[0].json, strlen(v->tuned.rows[0].json));
}

static enum status check_same(
    const struct run_record *r, const struct setup *setup, const struct sample_set *set)
{
    if (strcmp(r->model.fingerprint, setup->model.fingerprint) != 0)
        return fail(ERR_ARG,
            "model.fingerprint: found %s in %s, expected %s; name the model of the run with "
            "--model",
            setup->model.fingerprint, setup->model_dir, r->model.fingerprint);
    if (strcmp(r->dataset.fingerprint, set->fingerprint) != 0)
        return fail(ERR_ARG,
            "data.fingerprint: %s now gives %s, expected %s; the texts have changed since",
            r->dataset.name, set->fingerprint, r->dataset.fingerprint);
    return OK;
}

/* Where and how it ran then; what is asked for now must not be something else. */
static enum status restore_machine(const struct run_record *r, struct machine_options *m)
{
    if (!m->model) m->model = r->model.path;
    if (!m->threads) m->threads = r->threads;
    if (!m->device) m->device = r->device;
    if (!m->residual) m->residual = r->residual;
    if (!m->impl) m->impl = r->impl;
    m->graph |= r->graph;
    static _Thread_local struct suite_said said; /* as long as the options that point into it */
    suite_said_clear(&said);
    suite_name_parse(r->dataset.name, &said);
    m->bos = bos_rule_name(said.bos);
    m->chat = said.chat;
    return m->model ? OK : fail(ERR_ARG, "it does not say where its model lay; give --model DIR");
}

/* Nothing of what decides the numbers may differ but that it confirms, and it is found out before
 * anything is evaluated. Where thresholds were to be found when the run got its key, the key names
 * their tuning instead of them. */
static enum status check_question(const struct run_record *then, struct run_record *now,
    const struct sparse_policy *policy, struct arena **arena)
{
    cJSON *key = json_stored(then->key_json);
    const char *tuning = cJSON_GetStringValue(cJSON_GetObjectItemCaseSensitive(key, "tuning"));
    if (tuning) identity_plan_tuned(now, policy, arena_str(arena, tuning), arena);
    cJSON_Delete(key);
    struct str differs = {0};
    enum status st = key_json_diff(then->key_json, now->key_json, &differs) < 0
        ? fail(ERR_FORMAT, "the run's key is no JSON object: %.60s", then->key_json)
        : OK;
    if (st == OK && !text_same(then->tuned_hash, now->tuned_hash))
        st = fail(ERR_ARG, "tuned: found %s, expected %s: its thresholds have changed",
            now->tuned_hash ? now->tuned_hash : "none",
            then->tuned_hash ? then->tuned_hash : "none");
    char *text = str_dup(str_get(&differs));
    for (char *save = NULL, *part = strtok_r(text, ";", &save); part && st == OK;
         part = strtok_r(NULL, ";", &save)) {
        part += *part == ' ';
        if (!str_starts_with(part, "confirming:"))
            st = fail(ERR_ARG, "it would not be the same run: %s; evaluate it again by hand", part);
    }
    free(text);
    str_clear(&differs);
    return st;
}

enum status gate_again(const struct run_view *v, const char *db,
    const struct machine_options *machine, int argc, char **argv, char key[HASH_HEX_SIZE])
{
    const struct run_record *r = v->run;
    struct machine_options m = *machine;
    struct sample_options s;
    struct policy_options p;
    struct setup setup = {0};
    struct store *store = NULL;
    struct dense_cache cache = {0};
    struct sample_set set = {0};
    struct sparse_policy policy = {0};
    struct tuned tuned = {0};
    struct arena *arena = NULL;
    struct run_record again;
    struct cell_result cell = {0};
    char *tuned_path = NULL;
    enum status st;
    if (v->from_file)
        return fail(ERR_ARG, "%s is a file: only a run of a database can be run again", v->label);
    TRY(restore_machine(r, &m));
    TRY_GOTO(st, done, write_tuned(v, &tuned_path));
    TRY_GOTO(st, done, gate_again_options(r, tuned_path, &s, &p));
    TRY_GOTO(st, done, setup_open(&setup, &m, NULL));
    TRY_GOTO(st, done, setup_samples(&setup, &s, 0, false, &set));
    TRY_GOTO(st, done, check_same(r, &setup, &set));
    TRY_GOTO(st, done, setup_policy(&setup, &p, &policy, &tuned));
    TRY_GOTO(st, done, store_open(&store, db, STORE_WRITE));
    TRY_GOTO(st, done, dense_cache_open(&cache, m.cache));
    struct cell_request q = {.setup = &setup,
        .store = store,
        .cache = &cache,
        .set = &set,
        .policy = &policy,
        .tuned = &tuned,
        .machine = &m,
        .settings = cell_defaults,
        .replace = true,
        .wait = true,
        .quiet = m.quiet,
        .planned = &again,
        .stop = cancel_requested,
        .argc = argc,
        .argv = argv};
    q.settings.max_length = s.max_length;
    q.settings.num_samples = s.num_samples;
    q.settings.seed = s.seed;
    q.settings.repeat = r->repeat;
    q.settings.confirming = true;
    q.settings.score = s.score;
    q.settings.heads = r->heads;
    cell_identify(&q, &again, &arena);
    TRY_GOTO(st, done, check_question(r, &again, &policy, &arena));
    st = cell_run(&q, &cell);
    memcpy(key, cell.key, sizeof cell.key);
done:
    if (tuned_path) unlink(tuned_path);
    free(tuned_path);
    cell_result_clear(&cell);
    arena_free(&arena);
    policy_clear(&policy);
    tuned_clear(&tuned);
    sample_set_clear(&set);
    dense_cache_close(&cache);
    setup_close(&setup);
    store_close(&store);
    return st;
}
