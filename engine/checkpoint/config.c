#include "engine/checkpoint/config.h"

#include "base/file.h"
#include "base/json.h"
#include "engine/checkpoint/config_neutral.h"
#include "engine/checkpoint/family.h"
#include "engine/checkpoint/locate.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const cJSON *field(const cJSON *object, const char *name)
{
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(object, name);
    return node && cJSON_IsNull(node) ? NULL : node;
}

static enum status get_int(
    struct json_in in, const char *name, bool required, int lo, int hi, int *out)
{
    int64_t value = *out;
    TRY(json_get_int(in, name, required, lo, hi, &value));
    *out = (int)value;
    return OK;
}

static enum status find_family(struct llama_config *c, struct json_in in)
{
    const char *model_type = NULL, *other = NULL;
    TRY(json_get_string(in, "model_type", false, &model_type));
    c->family = llama_family_find(model_type, NULL);
    if (model_type && !c->family)
        return fail(ERR_UNSUPPORTED, "%s: field model_type: found \"%s\": %s; supported are %s",
            in.file, model_type, llama_family_missing(model_type), llama_family_names());

    const cJSON *list = field(in.node, "architectures");
    if (list && !cJSON_IsArray(list))
        return fail(ERR_FORMAT, "%s: field architectures: found %s, expected an array of names",
            in.file, json_kind(list));
    bool found = false;
    const cJSON *item;
    cJSON_ArrayForEach(item, list)
    {
        if (!cJSON_IsString(item))
            return fail(ERR_FORMAT, "%s: field architectures: found %s, expected names", in.file,
                json_kind(item));
        const struct llama_family *named = llama_family_find(NULL, item->valuestring);
        if (named && !c->family) c->family = named;
        bool as_llama = named && c->family->as_llama && named == llama_family_find("llama", NULL);
        if (named && (named == c->family || as_llama)) found = true;
        else other = item->valuestring;
    }
    if (other && !found)
        return fail(ERR_UNSUPPORTED,
            "%s: field architectures: found \"%s\": %s; supported is %s of model_type \"%s\", and "
            "of "
            "model types %s",
            in.file, other, llama_family_missing(other),
            c->family ? c->family->architecture : "none", c->family ? c->family->model_type : "",
            llama_family_names());
    if (!c->family)
        return fail(ERR_FORMAT,
            "%s: neither model_type nor architectures is there, so this is not the config.json "
            "of a model; supported are %s",
            in.file, llama_family_names());
    return OK;
}

/* Keys that the family calls otherwise get the names that are read here. */
static enum status rename_fields(const struct llama_config *c, struct json_in in)
{
    const char *list = c->family->fields;
    cJSON *root = (cJSON *)in.node; /* ours: nobody else reads it */
    char theirs[64], ours[64];
    for (int n; list && sscanf(list, " %63[^=]=%63s%n", theirs, ours, &n) == 2; list += n) {
        const cJSON *node = field(root, theirs), *other = field(root, ours);
        if (!node) continue;
        if (other && !cJSON_Compare(node, other, true))
            return fail(ERR_FORMAT, "%s: field %s: differs from %s, which is the same setting",
                in.file, theirs, ours);
        cJSON *moved = cJSON_DetachItemFromObjectCaseSensitive(root, theirs);
        if (other || !cJSON_AddItemToObject(root, ours, moved)) cJSON_Delete(moved);
    }
    return OK;
}

/* Where rope_parameters holds an object for each type of layer, the one for layers without a window
 * takes its place; with a window they turn by the same theta alone. */
static enum status rope_of_full_layers(const struct llama_config *c, struct json_in in)
{
    cJSON *root = (cJSON *)in.node; /* ours: nobody else reads it */
    const cJSON *all = field(root, "rope_parameters");
    if (!llama_word_in(c->family->reads, "rope_parameters") || !all) return OK;
    const cJSON *windows = field(all, "sliding_attention"), *full = field(all, "full_attention");
    if (!full && !windows) return OK;
    const char *type = "default";
    double theta = c->family->theta, other = theta;
    struct json_in from = {windows, in.file, "rope_parameters.sliding_attention"};
    if (cJSON_IsObject(windows)) {
        TRY(json_get_string(from, "rope_type", false, &type));
        TRY(json_get_double(from, "rope_theta", false, 1, 1e12, &other));
    }
    from = (struct json_in){full, in.file, "rope_parameters.full_attention"};
    if (cJSON_IsObject(full)) TRY(json_get_double(from, "rope_theta", false, 1, 1e12, &theta));
    if (!cJSON_IsObject(full) || strcmp(type, "default") != 0 || theta != other)
        return fail(ERR_UNSUPPORTED,
            "%s: field rope_parameters: found layers with a window that turn by rope_type \"%s\" "
            "and theta %.10g, supported is \"default\" beside the theta %.10g of full_attention",
            in.file, type, other, theta);
    cJSON *moved = cJSON_DetachItemFromObjectCaseSensitive((cJSON *)all, "full_attention");
    cJSON_DeleteItemFromObjectCaseSensitive(root, "rope_parameters");
    if (!cJSON_AddItemToObject(root, "rope_parameters", moved)) cJSON_Delete(moved);
    return OK;
}

/* Settings that would change the result and that this engine does not follow. */
static enum status check_refused(struct json_in in)
{
    static const char *const keys[] = {"quantization_config", "compression_config"};
    for (int i = 0; i < 2; i++) {
        const cJSON *quantised = field(in.node, keys[i]);
        if (!quantised) continue;
        const cJSON *method = cJSON_GetObjectItemCaseSensitive(quantised, "quant_method");
        return fail(ERR_UNSUPPORTED,
            "%s: field %s: found a model quantised by %s; weights in F32, "
            "F16 or BF16 are supported, use the unquantised checkpoint",
            in.file, keys[i], cJSON_IsString(method) ? method->valuestring : "an unnamed method");
    }
    const char *act = "silu";
    TRY(json_get_string(in, "hidden_act", false, &act));
    if (strcmp(act, "silu") != 0 && strcmp(act, "swish") != 0)
        return fail(ERR_UNSUPPORTED, "%s: field hidden_act: found \"%s\", supported is \"silu\"",
            in.file, act);
    return OK;
}

static enum status parse_dtype(struct llama_config *c, struct json_in in)
{
    const char *name = NULL;
    TRY(json_get_string(in, "torch_dtype", false, &name));
    TRY(json_get_string(in, "dtype", false, &name));
    if (!name) return OK;
    if (str_starts_with(name, "torch.")) name += strlen("torch.");
    static const struct {
        const char *name;
        enum dtype dtype;
    } known[] = {{"float32", DTYPE_F32}, {"float16", DTYPE_F16}, {"bfloat16", DTYPE_BF16}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        if (strcmp(name, known[i].name) != 0) continue;
        c->has_dtype = true;
        c->dtype = known[i].dtype;
    }
    /* any other name says nothing about the tensors, whose own types are checked one by one */
    return OK;
}

const char *rope_type_name(enum rope_type t)
{
    static const char *const names[N_ROPE_TYPES] = {
        "default", "linear", "dynamic", "llama3", "yarn", "longrope"};
    return names[t];
}

/* Everything in a rope object is understood or refused: a parameter of another form, an object by
 * layer type, a factor whose type is not said. `name` is the type, "default" when none is said. */
static enum status check_rope_keys(struct json_in in, const char *name)
{
    static const char *const any = " type rope_type rope_theta partial_rotary_factor "
                                   "original_max_position_embeddings finetuned ";
    static const char *const scaled[N_ROPE_TYPES] = {
        [ROPE_DEFAULT] = "",
        [ROPE_LINEAR] = " factor ",
        [ROPE_DYNAMIC] = " factor ",
        [ROPE_LLAMA3] = " factor low_freq_factor high_freq_factor ",
        [ROPE_YARN] =
            " factor attention_factor beta_fast beta_slow mscale mscale_all_dim truncate ",
        [ROPE_LONGROPE] = " factor attention_factor short_factor long_factor ",
    };
    int type = ROPE_DEFAULT;
    while (type < N_ROPE_TYPES && strcmp(name, rope_type_name((enum rope_type)type)) != 0) type++;
    if (type == N_ROPE_TYPES) return OK; /* refused by its name */
    const cJSON *item;
    cJSON_ArrayForEach(item, in.node)
    {
        bool known = cJSON_IsNull(item) || llama_word_in(any, item->string) ||
            llama_word_in(scaled[type], item->string);
        known |= cJSON_IsNumber(item) && item->valuedouble == 1; /* a factor of 1 scales nothing */
        if (known) continue;
        if (cJSON_IsObject(item))
            return fail(ERR_UNSUPPORTED,
                "%s: field %s.%s: found parameters by layer type, supported is one rope for all "
                "layers",
                in.file, in.path, item->string);
        bool said = field(in.node, "type") || field(in.node, "rope_type");
        return fail(ERR_UNSUPPORTED, "%s: field %s.%s: goes with no rope of the type \"%s\"%s; %s",
            in.file, in.path, item->string, name, said ? "" : ", and no other is said",
            said ? "remove it if the model was not trained with it"
                 : "say rope_type, or remove it");
    }
    return OK;
}

static enum status parse_rope_type(struct rope_config *r, struct json_in in)
{
    const char *name = "default";
    TRY(json_get_string(in, "type", false, &name));
    TRY(json_get_string(in, "rope_type", false, &name));
    TRY(check_rope_keys(in, name));
    for (int t = ROPE_DEFAULT; t < N_ROPE_TYPES; t++) {
        if (strcmp(name, rope_type_name((enum rope_type)t)) != 0) continue;
        r->type = (enum rope_type)t;
        return OK;
    }
    return fail(ERR_UNSUPPORTED,
        "%s: field %s.rope_type: found \"%s\"; supported are default, linear, dynamic, llama3, "
        "yarn and longrope; a model trained with another cannot be followed",
        in.file, in.path, name);
}

static enum status parse_llama3(struct rope_config *r, struct json_in in)
{
    TRY(json_get_double(in, "low_freq_factor", true, 1e-3, 1e6, &r->low_freq_factor));
    TRY(json_get_double(in, "high_freq_factor", true, 1e-3, 1e6, &r->high_freq_factor));
    if (r->high_freq_factor <= r->low_freq_factor)
        return fail(ERR_FORMAT,
            "%s: field %s.high_freq_factor: found %g, expected more than low_freq_factor %g",
            in.file, in.path, r->high_freq_factor, r->low_freq_factor);
    return OK;
}

/* YaRN (arXiv 2309.00071): what stands on cos and sin grows with the logarithm of the factor,
 * unless it is said. */
static double yarn_scale(double factor, double mscale)
{
    return factor <= 1 ? 1 : .1 * mscale * log(factor) + 1;
}

static enum status parse_yarn(struct rope_config *r, struct json_in in)
{
    double mscale = 0, all_dim = 0;
    r->beta_fast = 32;
    r->beta_slow = 1;
    r->truncate = true;
    TRY(json_get_double(in, "mscale", false, 0, 1e3, &mscale));
    TRY(json_get_double(in, "mscale_all_dim", false, 0, 1e3, &all_dim));
    r->attention_factor = mscale != 0 && all_dim != 0
        ? yarn_scale(r->factor, mscale) / yarn_scale(r->factor, all_dim)
        : yarn_scale(r->factor, 1);
    TRY(json_get_double(in, "attention_factor", false, 1e-3, 1e3, &r->attention_factor));
    TRY(json_get_double(in, "beta_fast", false, 1e-3, 1e6, &r->beta_fast));
    TRY(json_get_double(in, "beta_slow", false, 1e-3, 1e6, &r->beta_slow));
    return json_get_bool(in, "truncate", false, &r->truncate);
}

static enum status parse_factors(struct json_in in, const char *name, int n, float *out)
{
    const cJSON *list = field(in.node, name), *item;
    if (!cJSON_IsArray(list) || cJSON_GetArraySize(list) != n)
        return fail(ERR_FORMAT,
            "%s: field %s.%s: found %s of %d, expected an array of %d numbers, half of the "
            "channels of a head that turn",
            in.file, in.path, name, list ? json_kind(list) : "nothing",
            cJSON_IsArray(list) ? cJSON_GetArraySize(list) : 0, n);
    cJSON_ArrayForEach(item, list)
    {
        if (!cJSON_IsNumber(item) || !(item->valuedouble > 0 && item->valuedouble < 1e9))
            return fail(
                ERR_FORMAT, "%s: field %s.%s: expected positive numbers", in.file, in.path, name);
        *out++ = (float)item->valuedouble;
    }
    return OK;
}

/* LongRoPE (arXiv 2402.13753): a divisor for each frequency, one set up to the pretraining's length
 * and one beyond. */
static enum status parse_longrope(
    const struct llama_config *c, struct rope_config *r, struct json_in in)
{
    r->attention_factor =
        r->factor <= 1 ? 1 : sqrt(1 + log(r->factor) / log((double)r->original_max_position));
    TRY(json_get_double(in, "attention_factor", false, 1e-3, 1e3, &r->attention_factor));
    int half = (r->turned ? r->turned : c->head_dim) / 2;
    TRY(parse_factors(in, "short_factor", half, r->short_factor));
    return parse_factors(in, "long_factor", half, r->long_factor);
}

/* The first so many channels of a head turn, the rest of it stays. */
static enum status parse_partial(struct llama_config *c, struct json_in in)
{
    static const char name[] = "partial_rotary_factor";
    double partial = c->rope.turned ? (double)c->rope.turned / c->head_dim : 1;
    TRY(json_get_double(in, name, false, 0, 1, &partial));
    int turned = (int)(c->head_dim * partial);
    if (partial == 1) return OK;
    if (!llama_word_in(c->family->reads, name) || turned % 2 || turned < 2)
        return fail(ERR_UNSUPPORTED,
            "%s: field %s%s%s: found %g, supported is 1 (all of a head turns), and with model_type "
            "phi3 what leaves an even number of %d channels",
            in.file, in.path, *in.path ? "." : "", name, partial, c->head_dim);
    c->rope.turned = turned;
    return OK;
}

static enum status parse_rope_parameters(
    struct llama_config *c, struct json_in top, struct json_in in)
{
    struct rope_config *r = &c->rope;
    if (!cJSON_IsObject(in.node))
        return fail(ERR_FORMAT, "%s: field %s: found %s, expected an object or null", in.file,
            in.path, json_kind(in.node));
    TRY(parse_rope_type(r, in));
    TRY(parse_partial(c, in));
    if (r->type == ROPE_DEFAULT) return OK;
    r->original_max_position = c->max_position;
    if (r->type >= ROPE_LLAMA3) {
        TRY(get_int(
            in, "original_max_position_embeddings", false, 2, 1 << 30, &r->original_max_position));
        TRY(get_int(
            top, "original_max_position_embeddings", false, 2, 1 << 30, &r->original_max_position));
    }
    if (r->type == ROPE_YARN || r->type == ROPE_LONGROPE)
        r->factor = (double)c->max_position / r->original_max_position; /* unless it is said */
    TRY(json_get_double(in, "factor", r->type <= ROPE_LLAMA3, 1e-3, 1e6, &r->factor));
    if (r->type == ROPE_DYNAMIC && c->head_dim < 4)
        return fail(ERR_UNSUPPORTED,
            "%s: field %s.rope_type: dynamic scaling needs a head_dim of at least 4, "
            "found %d",
            in.file, in.path, c->head_dim);
    if (r->type < ROPE_LLAMA3) r->original_max_position = 0;
    if (r->type == ROPE_LLAMA3) return parse_llama3(r, in);
    if (r->type == ROPE_YARN) return parse_yarn(r, in);
    if (r->type == ROPE_LONGROPE) return parse_longrope(c, r, in);
    return OK;
}

static enum status differ(const char *file, const char *a, double x, const char *b, double y)
{
    return fail(ERR_FORMAT,
        "%s: field %s: found %.10g beside %.10g in %s, expected one value; remove the wrong one",
        file, a, x, y, b);
}

/* The base frequency stands in up to three places, which must agree. */
static enum status parse_theta(struct llama_config *c, struct json_in in)
{
    static const char *const names[] = {
        "rope_theta", "rope_scaling.rope_theta", "rope_parameters.rope_theta"};
    const struct json_in places[] = {in, {field(in.node, "rope_scaling"), in.file, "rope_scaling"},
        {field(in.node, "rope_parameters"), in.file, "rope_parameters"}};
    int from = -1;
    for (int i = 0; i < 3; i++) {
        double theta = NAN;
        if (!cJSON_IsObject(places[i].node)) continue;
        TRY(json_get_double(places[i], "rope_theta", false, 1, 1e12, &theta));
        if (isnan(theta)) continue;
        if (from >= 0 && theta != c->rope.theta)
            return differ(in.file, names[from], c->rope.theta, names[i], theta);
        c->rope.theta = theta;
        if (from < 0) from = i;
    }
    return OK;
}

static bool same_factors(const float *a, const float *b)
{
    for (int i = 0; i < LLAMA_MAX_HEAD_DIM / 2; i++)
        if (a[i] != b[i]) return false;
    return true;
}

static enum status parse_rope(struct llama_config *c, struct json_in in)
{
    c->rope = (struct rope_config){
        .type = ROPE_DEFAULT, .theta = c->family->theta, .factor = 1, .attention_factor = 1};
    TRY(parse_theta(c, in));
    TRY(parse_partial(c, in));
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    struct rope_config found[2];
    int n = 0;
    for (int i = 0; i < 2; i++) {
        const cJSON *node = field(in.node, keys[i]);
        if (!node || (cJSON_IsObject(node) && !node->child)) continue;
        struct llama_config one = *c;
        TRY(parse_rope_parameters(&one, in, (struct json_in){node, in.file, keys[i]}));
        found[n++] = one.rope;
    }
    if (n) c->rope = found[0];
    if (n < 2) return OK;
    const struct rope_config *a = &found[0], *b = &found[1];
    if (a->turned != b->turned)
        return differ(
            in.file, "rope_scaling: channels that turn", a->turned, "rope_parameters", b->turned);
    if (a->type != b->type)
        return fail(ERR_FORMAT,
            "%s: field rope_scaling.rope_type: found \"%s\" beside \"%s\" in "
            "rope_parameters.rope_type, expected the "
            "same; remove the wrong one",
            in.file, rope_type_name(a->type), rope_type_name(b->type));
    if (a->factor != b->factor)
        return differ(
            in.file, "rope_scaling.factor", a->factor, "rope_parameters.factor", b->factor);
    if (a->low_freq_factor != b->low_freq_factor)
        return differ(in.file, "rope_scaling.low_freq_factor", a->low_freq_factor,
            "rope_parameters.low_freq_factor", b->low_freq_factor);
    if (a->high_freq_factor != b->high_freq_factor)
        return differ(in.file, "rope_scaling.high_freq_factor", a->high_freq_factor,
            "rope_parameters.high_freq_factor", b->high_freq_factor);
    if (a->original_max_position != b->original_max_position)
        return differ(in.file, "rope_scaling.original_max_position_embeddings",
            a->original_max_position, "rope_parameters.original_max_position_embeddings",
            b->original_max_position);
    if (a->attention_factor != b->attention_factor)
        return differ(in.file, "rope_scaling's attention factor", a->attention_factor,
            "rope_parameters'", b->attention_factor);
    if (a->beta_fast != b->beta_fast || a->beta_slow != b->beta_slow ||
        a->truncate != b->truncate || !same_factors(a->short_factor, b->short_factor) ||
        !same_factors(a->long_factor, b->long_factor))
        return fail(ERR_FORMAT,
            "%s: field rope_scaling: differs from rope_parameters, expected the same; remove the "
            "wrong one",
            in.file);
    return OK;
}

static enum status parse_sizes(struct llama_config *c, struct json_in in)
{
    static const char *const needed[] = {"hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "vocab_size"};
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++)
        if (!field(in.node, needed[i]))
            return fail(ERR_FORMAT,
                "%s: field %s is missing, which every model's config.json has; download it again",
                in.file, needed[i]);
    TRY(get_int(in, "hidden_size", true, 1, 1 << 20, &c->hidden_size));
    TRY(get_int(in, "intermediate_size", true, 1, 1 << 22, &c->intermediate_size));
    TRY(get_int(in, "num_hidden_layers", true, 1, LLAMA_MAX_LAYERS, &c->n_layers));
    TRY(get_int(in, "num_attention_heads", true, 1, 4096, &c->n_heads));
    c->n_kv_heads = c->family->n_kv_heads ? c->family->n_kv_heads : c->n_heads;
    const cJSON *kv = cJSON_GetObjectItemCaseSensitive(in.node, "num_key_value_heads");
    if (kv && cJSON_IsNull(kv)) c->n_kv_heads = c->n_heads;
    TRY(get_int(in, "num_key_value_heads", false, 1, 4096, &c->n_kv_heads));
    if (c->n_heads % c->n_kv_heads != 0)
        return fail(ERR_FORMAT,
            "%s: field num_key_value_heads: found %d, expected a divisor of "
            "num_attention_heads %d",
            in.file, c->n_kv_heads, c->n_heads);
    c->head_dim = c->family->head_dim;
    if (!field(in.node, "head_dim") && !c->head_dim) {
        if (c->hidden_size % c->n_heads != 0)
            return fail(ERR_FORMAT,
                "%s: field hidden_size: found %d, expected a multiple of num_attention_heads %d "
                "since there is no head_dim",
                in.file, c->hidden_size, c->n_heads);
        c->head_dim = c->hidden_size / c->n_heads;
    }
    TRY(get_int(in, "head_dim", false, 2, LLAMA_MAX_HEAD_DIM, &c->head_dim));
    if (c->head_dim % 2 != 0 || c->head_dim < 2 || c->head_dim > LLAMA_MAX_HEAD_DIM)
        return fail(ERR_UNSUPPORTED,
            "%s: field head_dim: found %d, supported are even numbers from 2 to 1024", in.file,
            c->head_dim);
    TRY(get_int(in, "vocab_size", true, 1, 1 << 24, &c->vocab_size));
    c->max_position = c->family->max_position;
    return get_int(in, "max_position_embeddings", false, 1, 1 << 30, &c->max_position);
}

static enum status parse_eos(struct llama_config *c, struct json_in in)
{
    const cJSON *node = cJSON_GetObjectItemCaseSensitive(in.node, "eos_token_id");
    if (!node) return OK;
    int ids[LLAMA_MAX_EOS], n = 0;
    bool is_list = cJSON_IsArray(node);
    for (const cJSON *item = is_list ? node->child : node; item;
         item = is_list ? item->next : NULL) {
        if (cJSON_IsNull(item)) continue;
        double id = cJSON_IsNumber(item) ? item->valuedouble : NAN;
        if (!(id >= -1 && id <= INT32_MAX && id == floor(id)))
            return fail(ERR_FORMAT,
                "%s: field eos_token_id: found %s, expected a token id or a list of them", in.file,
                cJSON_IsNumber(item) ? "a number that is none" : json_kind(item));
        if (id < 0) continue;
        if (n == LLAMA_MAX_EOS)
            return fail(ERR_UNSUPPORTED, "%s: field eos_token_id: found more than %d ids", in.file,
                LLAMA_MAX_EOS);
        ids[n++] = (int)id;
    }
    c->n_eos = n;
    memset(c->eos_ids, 0, sizeof c->eos_ids);
    if (n) memcpy(c->eos_ids, ids, (size_t)n * sizeof *ids);
    return OK;
}

static enum status parse_special_ids(struct llama_config *c, struct json_in in)
{
    c->bos_id = c->family->bos_id; /* for keys left out; null means none */
    c->n_eos = c->family->eos_id >= 0;
    c->eos_ids[0] = c->n_eos ? c->family->eos_id : 0;
    const cJSON *bos = cJSON_GetObjectItemCaseSensitive(in.node, "bos_token_id");
    if (bos && cJSON_IsNull(bos)) c->bos_id = -1;
    TRY(get_int(in, "bos_token_id", false, -1, INT32_MAX, &c->bos_id));
    return parse_eos(c, in);
}

static enum status parse_object(struct llama_config *c, struct json_in in)
{
    if (!cJSON_IsObject(in.node))
        return fail(ERR_FORMAT, "%s: found %s, expected an object", in.file, json_kind(in.node));
    TRY(find_family(c, in));
    TRY(rename_fields(c, in));
    TRY(rope_of_full_layers(c, in));
    TRY(check_refused(in));
    TRY(parse_sizes(c, in));
    c->rms_norm_eps = c->family->eps;
    TRY(json_get_double(in, "rms_norm_eps", false, 0, 1, &c->rms_norm_eps));
    c->inner_eps = c->rms_norm_eps;
    TRY(llama_config_check_neutral(c, in));
    TRY(parse_rope(c, in));
    c->tie_word_embeddings = c->family->tied;
    TRY(json_get_bool(in, "tie_word_embeddings", false, &c->tie_word_embeddings));
    if (c->family->bias == BIAS_ASKED) TRY(json_get_bool(in, "attention_bias", false, &c->o_bias));
    c->qkv_bias = c->o_bias || c->family->bias == BIAS_QKV;
    if (c->family->mlp_bias) TRY(json_get_bool(in, "mlp_bias", false, &c->mlp_bias));
    c->norms = c->family->norms;
    c->qk_norm = c->family->qk_norm;
    if (c->family->own) TRY(c->family->own(c, in));
    TRY(parse_dtype(c, in));
    /* pretraining_tp only splits the same products into slices and adds them up: nothing to follow.
     */
    return parse_special_ids(c, in);
}

enum status llama_config_parse(
    struct llama_config *c, const char *file, const char *text, size_t len)
{
    *c = (struct llama_config){0};
    cJSON *root;
    TRY(json_parse_foreign(&root, file, 1, text, len));
    enum status st = parse_object(c, (struct json_in){root, file, ""});
    cJSON_Delete(root);
    return st;
}

enum status llama_generation_config_parse(
    struct llama_config *c, const char *file, const char *text, size_t len)
{
    cJSON *root;
    TRY(json_parse_foreign(&root, file, 1, text, len));
    enum status st;
    if (!cJSON_IsObject(root))
        st = fail(ERR_FORMAT, "%s: found %s, expected an object", file, json_kind(root));
    else st = parse_eos(c, (struct json_in){root, file, ""});
    cJSON_Delete(root);
    return st;
}

static enum status read_generation_config(struct llama_config *c, const char *dir)
{
    char *path = path_join(dir, "generation_config.json");
    struct str text = {0};
    enum status st = OK;
    if (file_exists(path)) {
        st = file_read(&text, path);
        if (st == OK) st = llama_generation_config_parse(c, path, str_get(&text), text.len);
    }
    str_clear(&text);
    free(path);
    return st;
}

enum status llama_config_read(struct llama_config *c, const char *dir)
{
    *c = (struct llama_config){0};
    char *path = path_join(dir, "config.json");
    struct str text = {0};
    enum status st =
        file_exists(path) ? file_read(&text, path) : checkpoint_explain(dir, "config.json");
    if (st == OK) st = llama_config_parse(c, path, str_get(&text), text.len);
    if (st == OK) st = read_generation_config(c, dir);
    str_clear(&text);
    free(path);
    return st;
}

bool llama_config_is_eos(const struct llama_config *c, int id)
{
    for (int i = 0; i < c->n_eos; i++)
        if (c->eos_ids[i] == id) return true;
    return false;
}

long long llama_config_parameters(const struct llama_config *c)
{
    long long h = c->hidden_size, f = c->intermediate_size;
    long long q = (long long)c->n_heads * c->head_dim, kv = (long long)c->n_kv_heads * c->head_dim;
    long long layer = (c->norms == NORMS_AROUND ? 4 : 2) * h + 2 * h * (q + kv) + 3 * h * f;
    if (c->qkv_bias) layer += q + 2 * kv;
    if (c->o_bias) layer += h;
    if (c->qk_norm == QK_NORM_HEADS) layer += 2 * (int64_t)c->head_dim;
    if (c->qk_norm == QK_NORM_WHOLE) layer += q + kv;
    if (c->mlp_bias) layer += 2 * f + h;
    return layer * c->n_layers + h +
        (long long)c->vocab_size * h * (c->tie_word_embeddings ? 1 : 2);
}

static void add_rope(cJSON *root, const struct rope_config *r, int half)
{
    cJSON_AddNumberToObject(root, "rope_theta", r->theta);
    if (r->type == ROPE_DEFAULT) {
        cJSON_AddNullToObject(root, "rope_scaling");
        return;
    }
    cJSON *scaling = cJSON_AddObjectToObject(root, "rope_scaling");
    cJSON_AddStringToObject(scaling, "rope_type", rope_type_name(r->type));
    cJSON_AddNumberToObject(scaling, "factor", r->factor);
    if (r->type < ROPE_LLAMA3) return;
    cJSON_AddNumberToObject(scaling, "original_max_position_embeddings", r->original_max_position);
    if (r->type == ROPE_LLAMA3) {
        cJSON_AddNumberToObject(scaling, "low_freq_factor", r->low_freq_factor);
        cJSON_AddNumberToObject(scaling, "high_freq_factor", r->high_freq_factor);
        return;
    }
    cJSON_AddNumberToObject(scaling, "attention_factor", r->attention_factor);
    if (r->type == ROPE_YARN) {
        cJSON_AddNumberToObject(scaling, "beta_fast", r->beta_fast);
        cJSON_AddNumberToObject(scaling, "beta_slow", r->beta_slow);
        cJSON_AddBoolToObject(scaling, "truncate", r->truncate);
        return;
    }
    cJSON_AddItemToObject(scaling, "short_factor", cJSON_CreateFloatArray(r->short_factor, half));
    cJSON_AddItemToObject(scaling, "long_factor", cJSON_CreateFloatArray(r->long_factor, half));
}

enum status llama_config_write(const struct llama_config *c, const char *path)
{
    cJSON *root = cJSON_CreateObject();
    if (!root) return fail(ERR_MEMORY, "%s: no memory for the JSON", path);
    cJSON *architectures = cJSON_AddArrayToObject(root, "architectures");
    cJSON_AddItemToArray(architectures, cJSON_CreateString("LlamaForCausalLM"));
    cJSON_AddStringToObject(root, "model_type", "llama");
    cJSON_AddNumberToObject(root, "hidden_size", c->hidden_size);
    cJSON_AddNumberToObject(root, "intermediate_size", c->intermediate_size);
    cJSON_AddNumberToObject(root, "num_hidden_layers", c->n_layers);
    cJSON_AddNumberToObject(root, "num_attention_heads", c->n_heads);
    cJSON_AddNumberToObject(root, "num_key_value_heads", c->n_kv_heads);
    cJSON_AddNumberToObject(root, "head_dim", c->head_dim);
    cJSON_AddNumberToObject(root, "vocab_size", c->vocab_size);
    cJSON_AddNumberToObject(root, "max_position_embeddings", c->max_position);
    cJSON_AddNumberToObject(root, "rms_norm_eps", c->rms_norm_eps);
    add_rope(root, &c->rope, c->head_dim / 2);
    cJSON_AddStringToObject(root, "hidden_act", "silu");
    cJSON_AddBoolToObject(root, "tie_word_embeddings", c->tie_word_embeddings);
    cJSON_AddBoolToObject(root, "attention_bias", c->qkv_bias);
    cJSON_AddBoolToObject(root, "mlp_bias", c->mlp_bias);
    static const char *const dtypes[] = {"float32", "float16", "bfloat16"};
    if (c->has_dtype) cJSON_AddStringToObject(root, "torch_dtype", dtypes[c->dtype]);
    if (c->bos_id >= 0) cJSON_AddNumberToObject(root, "bos_token_id", c->bos_id);
    else cJSON_AddNullToObject(root, "bos_token_id");
    if (c->n_eos == 1) cJSON_AddNumberToObject(root, "eos_token_id", c->eos_ids[0]);
    else if (c->n_eos > 1)
        cJSON_AddItemToObject(root, "eos_token_id", cJSON_CreateIntArray(c->eos_ids, c->n_eos));
    else cJSON_AddNullToObject(root, "eos_token_id");
    enum status st = json_write_file(path, root);
    cJSON_Delete(root);
    return st;
}
