#include "results/query.h"

#include "results/db.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The few rows behind the ids of a run, read once and shared by all runs of a list. */
struct parents {
    struct model_parent {
        int64_t id;
        struct model_record r;
    } * models;
    struct dataset_parent {
        int64_t id;
        struct dataset_record r;
    } * datasets;
    struct machine_parent {
        int64_t id;
        struct machine_record r;
    } * machines;
    struct software_parent {
        int64_t id;
        struct software_record r;
    } * softwares;
    size_t n_models, n_datasets, n_machines, n_softwares;
};

static enum status load_models(struct store *s, struct arena **arena, struct parents *p)
{
    struct cursor c = {.arena = arena};
    bool more;
    enum status st = cursor_open(&c, s,
                                 "SELECT id, fingerprint, name, path, config, n_layers, n_heads, n_kv_heads, "
                                 "head_dim, vocab, n_params FROM model");
    void *rows = NULL;
    while (st == OK && (st = cursor_step(&c, &more)) == OK && more) {
        struct model_parent *m = rows_grow(&rows, p->n_models++, sizeof *m);
        m->id = get_int(&c);
        m->r.fingerprint = get_name(&c);
        m->r.name = get_name(&c);
        m->r.path = get_text(&c);
        m->r.config_json = get_text(&c);
        m->r.n_layers = get_range(&c, 1, 65535);
        m->r.n_heads = get_range(&c, 1, 65535);
        m->r.n_kv_heads = get_range(&c, 1, 65535);
        m->r.head_dim = get_range(&c, 1, 65535);
        m->r.vocab = get_range(&c, 1, INT_MAX);
        m->r.n_params = get_int(&c);
    }
    p->models = rows;
    cursor_close(&c);
    return st;
}

static enum status load_datasets(struct store *s, struct arena **arena, struct parents *p)
{
    struct cursor c = {.arena = arena};
    bool more;
    enum status st = cursor_open(&c, s,
                                 "SELECT id, fingerprint, suite, name, n_samples, max_length, n_tokens "
                                 "FROM dataset");
    void *rows = NULL;
    while (st == OK && (st = cursor_step(&c, &more)) == OK && more) {
        struct dataset_parent *d = rows_grow(&rows, p->n_datasets++, sizeof *d);
        d->id = get_int(&c);
        d->r.fingerprint = get_name(&c);
        d->r.suite = get_name(&c);
        d->r.name = get_name(&c);
        d->r.n_samples = get_range(&c, 0, INT_MAX);
        d->r.max_length = get_range(&c, 0, INT_MAX);
        d->r.n_tokens = get_int(&c);
    }
    p->datasets = rows;
    cursor_close(&c);
    return st;
}

static enum status load_machines(struct store *s, struct arena **arena, struct parents *p)
{
    struct cursor c = {.arena = arena};
    bool more;
    enum status st =
        cursor_open(&c, s,
                    "SELECT id, fingerprint, hostname, cpu, n_cores, ram_bytes, gpus, driver, os "
                    "FROM machine");
    void *rows = NULL;
    while (st == OK && (st = cursor_step(&c, &more)) == OK && more) {
        struct machine_parent *m = rows_grow(&rows, p->n_machines++, sizeof *m);
        m->id = get_int(&c);
        m->r.fingerprint = get_name(&c);
        m->r.hostname = get_text(&c);
        m->r.cpu = get_text(&c);
        m->r.n_cores = get_range(&c, 0, INT_MAX);
        m->r.ram_bytes = get_int(&c);
        m->r.gpus = get_text(&c);
        m->r.driver = get_text(&c);
        m->r.os = get_text(&c);
    }
    p->machines = rows;
    cursor_close(&c);
    return st;
}

static enum status load_softwares(struct store *s, struct arena **arena, struct parents *p)
{
    struct cursor c = {.arena = arena};
    bool more;
    enum status st = cursor_open(&c, s,
                                 "SELECT id, version, engine, compiler, nullif(git_commit, ''), dirty "
                                 "FROM software");
    void *rows = NULL;
    while (st == OK && (st = cursor_step(&c, &more)) == OK && more) {
        struct software_parent *w = rows_grow(&rows, p->n_softwares++, sizeof *w);
        w->id = get_int(&c);
        w->r.version = get_name(&c);
        w->r.engine = get_name(&c);
        w->r.compiler = get_name(&c);
        w->r.commit = get_text(&c);
        w->r.dirty = get_int(&c) != 0;
    }
    p->softwares = rows;
    cursor_close(&c);
    return st;
}

static void parents_clear(struct parents *p)
{
    free(p->models);
    free(p->datasets);
    free(p->machines);
    free(p->softwares);
}

/* Ids are few: the search is short. Each was stored before the run; a file from elsewhere may lack one. */
#define PARENT(list, n, key, into)      \
    for (size_t i_ = 0; i_ < (n); i_++) \
        if ((list)[i_].id == (key)) (into) = (list)[i_].r

static void read_settings(struct cursor *c, struct run_record *r)
{
    r->method = get_name(c);
    r->block_q = get_range(c, 0, 4096);
    r->block_k = get_range(c, 0, 4096);
    r->smooth_k = get_text(c);
    r->rule = get_text(c);
    r->l1 = get_real(c);
    r->pv_l1 = get_real(c);
    r->simthreshd1 = get_real(c);
    r->cdfthreshd = get_real(c);
    r->pvthreshd = get_real(c);
    r->topk = get_real(c);
    r->window = get_count(c);
    r->layers = get_name(c);
    r->heads = get_name(c);
    r->tuned_hash = get_text(c);
    r->max_length = get_range(c, 0, INT_MAX);
    r->num_samples = get_range(c, 0, INT_MAX);
    r->score = get_text(c);
    r->seed = (uint64_t)get_int(c);
    r->repeat = get_range(c, 0, INT_MAX);
    r->threads = get_range(c, 0, INT_MAX);
    r->device = get_name(c);
    r->impls = get_text(c);
    r->min_sparse_tokens = get_range(c, 0, INT_MAX);
    r->attention_calls = get_int(c);
    r->dense_fallback_calls = get_int(c);
}

static void read_headline(struct cursor *c, struct headline *h)
{
    double *const v[] = {
        &h->sparsity,     &h->qk_sparsity,    &h->pv_sparsity,    &h->cosine_mean,   &h->cosine_lo,
        &h->cosine_hi,    &h->cosine_p1,      &h->kl_mean,        &h->kl_lo,         &h->kl_hi,
        &h->kl_p99_9,     &h->ppl_dense,      &h->ppl_sparse,     &h->ppl_ratio,     &h->ppl_ratio_lo,
        &h->ppl_ratio_hi, &h->token_accuracy, &h->top5_overlap,   &h->logits_cosine, &h->logits_l1,
        &h->logits_rmse,  &h->hidden_cosine,  &h->hidden_l1,      &h->score_dense,   &h->score_sparse,
        &h->score_drop,   &h->latency_dense,  &h->latency_sparse, &h->latency_ratio};
    for (size_t k = 0; k < sizeof v / sizeof *v; k++) *v[k] = get_real(c);
}

static enum run_status status_of(const char *name)
{
    return !strcmp(name, "done") ? RUN_DONE : !strcmp(name, "failed") ? RUN_FAILED : RUN_SKIPPED;
}

static void read_run(struct cursor *c, const struct parents *p, struct run_record *r)
{
    r->id = get_int(c);
    r->key = get_name(c);
    r->slot = get_name(c);
    r->key_json = get_name(c);
    r->plan = get_text(c);
    r->status = status_of(get_name(c));
    r->reason = get_text(c);
    int64_t model = get_int(c), dataset = get_int(c), machine = get_int(c), software = get_int(c);
    PARENT(p->models, p->n_models, model, r->model);
    PARENT(p->datasets, p->n_datasets, dataset, r->dataset);
    PARENT(p->machines, p->n_machines, machine, r->machine);
    PARENT(p->softwares, p->n_softwares, software, r->software);
    if (!(r->model.fingerprint && r->dataset.fingerprint && r->machine.fingerprint && r->software.version) && !c->problem[0])
        snprintf(c->problem, sizeof c->problem, "run %lld: its model, data set, machine or software has no row", (long long)r->id);
    read_settings(c, r);
    r->argv_json = get_text(c);
    r->started = get_text(c);
    r->ended = get_text(c);
    r->wall_s = get_real(c);
    r->peak_bytes = get_count(c);
    r->peak_device_bytes = get_count(c);
    r->digest = get_name(c);
    read_headline(c, &r->headline);
}

#define RUN_COLUMNS                                                                                          \
    "r.id, r.key, r.slot, r.key_json, r.plan, r.status, r.reason, r.model, r.dataset, r.machine, "           \
    "r.software, "                                                                                           \
    "r.method, r.block_q, r.block_k, r.smooth_k, r.rule, r.l1, r.pv_l1, r.simthreshd1, r.cdfthreshd, "       \
    "r.pvthreshd, r.topk, r.window, r.layers, r.heads, r.tuned_hash, r.max_length, r.num_samples, r.score, " \
    "r.seed, r.repeat, r.threads, r.device, r.impls, r.min_sparse_tokens, r.attention_calls, "               \
    "r.dense_fallback_calls, r.argv, r.started, r.ended, r.wall_s, r.peak_bytes, r.peak_device_bytes, "      \
    "r.digest, r.sparsity, r.qk_sparsity, r.pv_sparsity, r.cosine_mean, r.cosine_lo, r.cosine_hi, "          \
    "r.cosine_p1, r.kl_mean, r.kl_lo, r.kl_hi, r.kl_p99_9, "                                                 \
    "r.ppl_dense, r.ppl_sparse, r.ppl_ratio, r.ppl_ratio_lo, r.ppl_ratio_hi, r.token_accuracy, "             \
    "r.top5_overlap, r.logits_cosine, r.logits_l1, r.logits_rmse, r.hidden_cosine, r.hidden_l1, "            \
    "r.score_dense, r.score_sparse, r.score_drop, r.latency_dense, r.latency_sparse, r.latency_ratio "       \
    "FROM run r "

/* Read what a prepared cursor finds into a list. */
static enum status read_runs(struct store *s, struct cursor *c, struct run_list *out)
{
    struct parents p = {0};
    void *rows = NULL;
    bool more;
    enum status st;
    TRY_GOTO(st, done, load_models(s, &out->arena, &p));
    TRY_GOTO(st, done, load_datasets(s, &out->arena, &p));
    TRY_GOTO(st, done, load_machines(s, &out->arena, &p));
    TRY_GOTO(st, done, load_softwares(s, &out->arena, &p));
    while ((st = cursor_step(c, &more)) == OK && more) {
        struct run_record *r = rows_grow(&rows, out->n, sizeof *r);
        read_run(c, &p, r);
        out->n++;
    }
done:
    out->rows = rows;
    parents_clear(&p);
    return st;
}

enum status query_runs(struct store *s, const struct run_filter *f, struct run_list *out)
{
    *out = (struct run_list){0};
    struct cursor c = {.arena = &out->arena};
    struct str sql = {0};
    /* a parameter that is NULL, or a number that is 0, takes everything */
    str_add(&sql, "SELECT " RUN_COLUMNS "JOIN model m ON m.id = r.model JOIN dataset d ON d.id = r.dataset "
                  "JOIN machine h ON h.id = r.machine "
                  "WHERE (?1 IS NULL OR m.name = ?1 OR (length(?1) >= 6 AND substr(m.fingerprint, 1, "
                  "length(?1)) = ?1)) "
                  "AND (?2 IS NULL OR d.suite = ?2 OR d.name = ?2) AND (?3 IS NULL OR d.fingerprint = ?3) "
                  "AND (?4 IS NULL OR r.method = ?4) AND (?5 IS NULL OR r.layers = ?5) "
                  "AND (?6 IS NULL OR r.heads = ?6) AND (?7 IS NULL OR r.rule = ?7) AND (?8 IS NULL OR "
                  "r.plan = ?8) "
                  "AND (?9 IS NULL OR r.device = ?9) AND (?10 IS NULL OR h.fingerprint = ?10) "
                  "AND (?11 = 0 OR r.max_length <= ?11) AND (?12 = 0 OR r.max_length = ?12) "
                  "AND (?13 IS NULL OR r.status = ?13) AND (?14 IS NULL OR r.slot = ?14) ");
    str_add(&sql, f->newest_first ? "ORDER BY r.ended DESC, r.id DESC " : "ORDER BY r.id ");
    str_add(&sql, "LIMIT ?15");
    enum status st = cursor_open(&c, s, str_get(&sql));
    str_clear(&sql);
    if (st == OK) {
        put_text(&c, f->model);
        put_text(&c, f->suite);
        put_text(&c, f->dataset);
        put_text(&c, f->method);
        put_text(&c, f->layers);
        put_text(&c, f->heads);
        put_text(&c, f->rule);
        put_text(&c, f->plan);
        put_text(&c, f->device);
        put_text(&c, f->machine);
        put_int(&c, f->max_length);
        put_int(&c, f->exact_length);
        put_text(&c, f->with_status ? run_status_name(f->status) : f->done_only ? "done" : NULL);
        put_text(&c, f->slot);
        put_int(&c, f->limit ? (int64_t)f->limit : -1);
        st = read_runs(s, &c, out);
    }
    cursor_close(&c);
    return st;
}

/* Runs by one condition on r with one text parameter. */
static enum status runs_where(struct store *s, const char *condition, const char *text, struct run_list *out)
{
    *out = (struct run_list){0};
    struct cursor c = {.arena = &out->arena};
    char *sql = str_format("SELECT %s %s", RUN_COLUMNS, condition);
    enum status st = cursor_open(&c, s, sql);
    free(sql);
    if (st == OK) {
        if (text) put_text(&c, text);
        st = read_runs(s, &c, out);
    }
    cursor_close(&c);
    return st;
}

/* "runs 1 to 12" for messages. */
static enum status describe_contents(struct store *s, struct str *out)
{
    int64_t n, lo, hi;
    TRY(db_int(s, "SELECT count(*) FROM run", &n));
    TRY(db_int(s, "SELECT min(id) FROM run", &lo));
    TRY(db_int(s, "SELECT max(id) FROM run", &hi));
    if (n == 0) str_add(out, "it holds no runs yet");
    else
        str_addf(out, "it holds %lld run%s, numbers %lld to %lld; `list` shows them", (long long)n,
                 n == 1 ? "" : "s", (long long)lo, (long long)hi);
    return OK;
}

enum status query_run(struct store *s, const char *name, struct run_list *out)
{
    size_t len = strlen(name);
    bool number = len > 0 && strspn(name, "0123456789") == len && len < 12;
    bool key = len >= 4 && strspn(name, "0123456789abcdef") == len;
    enum status st = OK;
    *out = (struct run_list){0};
    if (!strcmp(name, "last"))
        st = runs_where(s, "WHERE r.status = 'done' ORDER BY r.ended DESC, r.id DESC LIMIT 1", NULL, out);
    else if (number) st = runs_where(s, "WHERE r.id = CAST(? AS INTEGER)", name, out);
    if (st == OK && out->n == 0 && key) {
        run_list_clear(out);
        st = runs_where(s, "WHERE substr(r.key, 1, length(?1)) = ?1 ORDER BY r.id LIMIT 2", name, out);
    }
    if (st == OK && out->n == 1) return OK;
    if (st == OK && out->n == 0 && !strcmp(name, "last")) {
        run_list_clear(out);
        st = runs_where(s, "ORDER BY r.ended DESC, r.id DESC LIMIT 1", NULL, out);
        if (st == OK && out->n == 1) {
            const struct run_record *r = &out->rows[0];
            st = fail(ERR_ARG,
                      "%s: no run is done; the newest, run %lld, %s: %s; repeat what went wrong, or name it by number",
                      s->path, (long long)r->id, r->status == RUN_FAILED ? "failed" : "was skipped",
                      r->reason ? r->reason : "no reason stored");
            run_list_clear(out);
            return st;
        }
    }
    if (st == OK && out->n > 1) {
        st = fail(ERR_ARG, "%s: \"%s\" fits several runs, among them %lld and %lld; give more digits",
                  s->path, name, (long long)out->rows[0].id, (long long)out->rows[1].id);
    } else if (st == OK) {
        struct str contents = {0};
        st = describe_contents(s, &contents);
        if (st == OK)
            st = fail(ERR_ARG,
                      "%s: found no run \"%s\" (a number, a key of at least 4 digits, or \"last\"); %s",
                      s->path, name, str_get(&contents));
        str_clear(&contents);
    }
    run_list_clear(out);
    return st;
}
