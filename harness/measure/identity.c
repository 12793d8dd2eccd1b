#include "harness/measure/identity.h"

#include "base/json.h"
#include "kernels/arithmetic.h"
#include "kernels/eight.h"
#include "results/columns.h"
#include "results/store.h"
#include "version.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

/* .6f as .6: the shortest decimal that reads back as the same float. */
static double short_real(float f)
{
    char text[32];
    for (int digits = 6; digits <= 9; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, (double)f);
        if (strtof(text, NULL) == f) break;
    }
    return strtod(text, NULL);
}

/* Numbers to the last digit: texts of this are hashed. */
static const char *print_json(cJSON *o, struct arena **arena)
{
    struct str text = {0};
    json_print(&text, o, -1);
    const char *out = arena_str(arena, str_get(&text));
    str_clear(&text);
    cJSON_Delete(o);
    return out;
}

const char *argv_text(int argc, char **argv, struct arena **arena)
{
    cJSON *a = cJSON_CreateArray();
    for (int i = 0; i < argc; i++) cJSON_AddItemToArray(a, cJSON_CreateString(argv[i]));
    return print_json(a, arena);
}

static char cpu_name[512];

/* Once a process: the kernel asks every processor for its frequency when this file is read. */
static void cpu_find(void)
{
    char *line = cpu_name, *name = NULL;
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && !name && fgets(line, sizeof cpu_name, f)) {
        char *colon = strchr(line, ':');
        if (!str_starts_with(line, "model name") || !colon) continue;
        line[strcspn(line, "\n")] = 0;
        name = colon + 1 + strspn(colon + 1, " ");
    }
    if (f) fclose(f);
    if (name) memmove(cpu_name, name, strlen(name) + 1);
    else strcpy(cpu_name, "unknown processor");
}

static const char *cpu_model(struct arena **arena)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, cpu_find);
    return arena_str(arena, cpu_name);
}

void machine_identity(struct machine_record *m, struct arena **arena)
{
    struct utsname os;
    uname(&os);
    struct str text = {0};
    str_addf(&text, "%s %s %s", os.sysname, os.release, os.machine);
    *m = (struct machine_record){
        .hostname = arena_str(arena, os.nodename),
        .cpu = cpu_model(arena),
        .n_cores = par_cpu_count(),
        .ram_bytes = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE),
        .os = arena_str(arena, str_get(&text)),
    };
    struct hash h;
    char hex[HASH_HEX_SIZE];
    hash_init(&h);
    hash_add_str(&h, m->hostname);
    hash_add_str(&h, m->cpu);
    hash_add_u64(&h, (uint64_t)m->n_cores);
    hash_add_u64(&h, (uint64_t)m->ram_bytes);
    hash_add_str(&h, m->os);
    m->fingerprint = arena_str(arena, hash_hex(&h, hex));
    str_clear(&text);
}

void software_identity(struct software_record *s, struct arena **arena)
{
    (void)arena;
    *s = (struct software_record){SG_VERSION, ENGINE_VERSION, SG_COMPILER, SG_COMMIT, SG_DIRTY};
}

void model_identity(
    struct model_record *r, const struct model *m, const char *dir, struct arena **arena)
{
    const struct llama_config *c = &m->weights.config;
    cJSON *o = cJSON_CreateObject();
    cJSON_AddNumberToObject(o, "hidden_size", c->hidden_size);
    cJSON_AddNumberToObject(o, "intermediate_size", c->intermediate_size);
    cJSON_AddNumberToObject(o, "max_position_embeddings", c->max_position);
    cJSON_AddStringToObject(o, "rope_type", rope_type_name(c->rope.type));
    cJSON_AddNumberToObject(o, "rope_theta", c->rope.theta);
    cJSON_AddBoolToObject(o, "tie_word_embeddings", m->weights.tied);
    *r = (struct model_record){arena_str(arena, m->fingerprint), arena_str(arena, m->name),
        arena_str(arena, dir), print_json(o, arena), c->n_layers, c->n_heads, c->n_kv_heads,
        c->head_dim, c->vocab_size, llama_config_parameters(c)};
}

struct run_record run_record_blank(void)
{
    struct run_record r;
    columns_blank(&run_columns, &r);
    r.heads = r.layers = r.score = "all";
    r.device = "cpu";
    return r;
}

/* What was asked for, by name: the slot. The key has fingerprints and versions instead of names and
 * paths: the same bytes in another place are the same question. */
static const char *describe(const struct run_record *r, const struct sparse_policy *p, bool key,
    const char *tuning, struct arena **arena)
{
    cJSON *o = cJSON_CreateObject();
    if (key) {
        struct hash h;
        char hex[HASH_HEX_SIZE];
        hash_init(&h);
        policy_hash(p, &h);
        cJSON_AddStringToObject(o, "model_fingerprint", r->model.fingerprint);
        cJSON_AddStringToObject(o, "tokens", r->dataset.fingerprint);
        cJSON_AddStringToObject(o, "engine", r->software.engine);
        if (tuning) cJSON_AddStringToObject(o, "tuning", tuning);
        else cJSON_AddStringToObject(o, "policy", hash_hex(&h, hex));
    }
    if (!key) cJSON_AddStringToObject(o, "model", r->model.name);
    cJSON_AddStringToObject(o, "suite", key ? r->dataset.suite : r->dataset.name);
    columns_to_key(o, r, policy_acts(p));
    /* the tokens say how many there are */
    if (key) cJSON_DeleteItemFromObjectCaseSensitive(o, "num_samples");
    return print_json(o, arena);
}

static void make_key(struct run_record *r, const struct sparse_policy *policy, const char *tuning,
    struct arena **arena)
{
    char key[HASH_HEX_SIZE];
    r->key_json = describe(r, policy, true, tuning, arena);
    r->key = arena_str(arena, store_key(r->key_json, key));
}

void identity_plan_tuned(struct run_record *r, const struct sparse_policy *policy,
    const char *tuning, struct arena **arena)
{
    make_key(r, policy, tuning, arena);
}

/* Where the model's sessions run. The machine's fingerprint stays its processor's: the device is in
 * the key. */
static void device_identity(struct run_record *r, const struct model *m, struct arena **arena)
{
    struct weights_device_info info;
    weights_device_describe(&m->weights, &info);
    r->device = info.name;
    r->residual = info.residual;
    r->graph = info.graph;
    if (!info.gpu[0]) { /* on a GPU its name, driver and runtime say it */
        r->blas = arithmetic_blas();
        r->isa = arithmetic_isa();
        return;
    }
    struct str gpus = {0};
    str_addf(&gpus, "%dx %s", info.n_gpus, info.gpu);
    r->machine.gpus = arena_str(arena, str_get(&gpus));
    r->machine.driver = arena_str(arena, info.driver);
    str_clear(&gpus);
}

void identity_fill(struct run_record *r, const struct model *m, const char *model_dir,
    const struct sample_set *set, const struct sparse_policy *policy, struct arena **arena)
{
    char text[LAYERS_TEXT_SIZE];
    model_identity(&r->model, m, model_dir, arena);
    machine_identity(&r->machine, arena);
    device_identity(r, m, arena);
    software_identity(&r->software, arena);
    r->dataset = (struct dataset_record){arena_str(arena, set->fingerprint), set->suite,
        arena_str(arena, set->name), set->n_samples, r->max_length, set->n_tokens};
    bool topk = policy->topk > 0;
    r->method = policy->method
        ? topk && strcmp(policy->method->name, "sparge") == 0 ? "topk" : policy->method->name
        : "dense";
    if (policy->method) {
        r->block_q = policy->block.q;
        r->block_k = policy->block.k;
        r->smooth_k = smooth_k_name(policy->smooth_k);
        r->topk = topk ? short_real(policy->topk) : NAN;
        r->window = policy->method == &mask_window ? policy->window : -1;
        bool ranked = policy->method->ranked && !r->tuned_hash;
        r->simthreshd1 =
            ranked && policy->method->takes_theta ? short_real(policy->heads[0].theta) : NAN;
        r->cdfthreshd = ranked && !topk ? short_real(policy->heads[0].tau) : NAN;
        bool window_skips = policy->method == &mask_window && policy->heads[0].lambda < NEVER_SKIP;
        r->pvthreshd = ranked || window_skips ? short_real(policy->heads[0].lambda) : NAN;
    }
    r->qk = policy->qk ? precision_name(policy->qk) : NULL;
    r->pv = policy->pv ? precision_name(policy->pv) : NULL;
    r->layers = arena_str(arena, policy_acts(policy) ? policy_layers_text(policy, text) : "none");
    r->min_sparse_tokens = policy->min_sparse_tokens;
    char slot[HASH_HEX_SIZE];
    r->slot = arena_str(arena, store_key(describe(r, policy, false, NULL, arena), slot));
    r->num_samples = set->n_samples; /* as asked in the slot, as found in the key */
    make_key(r, policy, NULL, arena);
}
