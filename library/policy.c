/* Policies: thresholds by hand, from files and into them. */
#include "library/parts.h"

#include "base/file.h"
#include "base/str.h"
#include "engine/tuner/sparge_pt.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void sg_policy_close(struct sg_policy **policy)
{
    if (!policy || !*policy) return;
    struct sg_policy *p = *policy;
    policy_clear(&p->now);
    tuned_clear(&p->tuned);
    free(p->held_out);
    free(p);
    *policy = NULL;
}

/* Whatever was measured belongs to other thresholds. */
static void forget_head(struct tuned_head *h)
{
    h->tune = h->check = h->held_out = head_error_unknown;
    h->qk_sparsity = h->sparsity = NAN;
    h->back_offs = 0;
    h->reason[0] = 0;
}

static enum status policy_new(struct sg_policy **out, const char *method, int n_layers, int n_heads)
{
    const struct mask_method *m = NULL;
    if (n_layers < 1 || n_layers > MAX_MODEL_LAYERS || n_heads < 1 || n_heads > ATTEND_MAX_HEADS)
        return fail(ERR_ARG, "a policy of %d layers x %d heads: expected 1 to %d and 1 to %d",
            n_layers, n_heads, MAX_MODEL_LAYERS, ATTEND_MAX_HEADS);
    if (!method) method = mask_sparge.name;
    if (strcmp(method, "dense") != 0) TRY(mask_method_parse(method, &m));
    if (m == &mask_window)
        return fail(ERR_ARG,
            "method window: make a policy of another method, and set its window and method by "
            "sg_policy_set()");
    struct sg_policy *p = *out = calloc(1, sizeof *p);
    if (!p) return fail(ERR_MEMORY, "no memory for a policy");
    enum status st = policy_init(&p->now, m, n_layers, n_heads);
    if (st == OK) st = tuned_init(&p->tuned, n_layers, n_heads);
    if (st != OK) {
        sg_policy_close(out);
        return st;
    }
    if (m) policy_choose_thresholds(&p->now, NAN, NAN, NAN);
    p->now.where_it_pays = true;
    for (int i = 0; i < n_layers * n_heads; i++) forget_head(&p->tuned.heads[i]);
    return OK;
}

struct making {
    struct sg_policy **out;
    const char *text, *module; /* method, path or JSON */
    size_t len;
    int n_layers, n_heads;
};

static enum status open_body(void *args)
{
    const struct making *m = args;
    return policy_new(m->out, m->text, m->n_layers, m->n_heads);
}

enum sg_status sg_policy_open(struct sg_policy **out, const char *method, int n_layers, int n_heads)
{
    *out = NULL;
    return border(open_body, &(struct making){out, method, NULL, 0, n_layers, n_heads});
}

/* Of the heads that were tuned, those that stay dense included. */
static double mean_sparsity(const struct tuned *t)
{
    double sum = 0;
    int n = 0;
    for (int i = 0; i < t->n_layers * t->n_heads; i++) {
        if (!t->heads[i].in_range || isnan(t->heads[i].sparsity)) continue;
        sum += t->heads[i].sparsity;
        n++;
    }
    return n ? sum / n : 0;
}

/* Takes what was read, also when it fails. */
static enum status policy_take(struct sg_policy **out, const char *path, struct tuned *t)
{
    struct weights shape = {.config = {.n_layers = t->n_layers, .n_heads = t->n_heads}};
    enum status st = policy_new(out, t->method, t->n_layers, t->n_heads);
    if (st == OK) st = tuned_apply(t, path, &shape, t->model_fingerprint, &(*out)->now);
    if (st == OK) st = policy_set_precision(&(*out)->now, t->qk, t->pv);
    if (st != OK) {
        sg_policy_close(out);
        tuned_clear(t);
        return st;
    }
    struct sg_policy *p = *out;
    tuned_clear(&p->tuned);
    p->tuned = *t;
    p->now.promised = mean_sparsity(t);
    if (t->over.n_samples) over_bound_text(&t->over, p->verdict);
    return OK;
}

static enum status read_body(void *args)
{
    const struct making *m = args;
    struct tuned t;
    if (!m->text) return fail(ERR_ARG, "path is NULL");
    if (str_ends_with(m->text, ".pt")) {
        if (m->n_layers < 1 || m->n_heads < 1)
            return fail(ERR_ARG, "%s: a .pt names no model: give n_layers and n_heads", m->text);
        TRY(sparge_pt_read(&t, m->text, m->n_layers, m->n_heads, m->module));
    } else {
        if (m->module)
            return fail(ERR_ARG, "%s: module \"%s\" goes with a .pt", m->text, m->module);
        TRY(tuned_read(&t, m->text));
    }
    int n_layers = m->n_layers ? m->n_layers : t.n_layers,
        n_heads = m->n_heads ? m->n_heads : t.n_heads;
    if (n_layers != t.n_layers || n_heads != t.n_heads) {
        enum status st = fail(ERR_ARG,
            "%s: num_layers x num_heads: found %dx%d, expected the model's %dx%d; tune this model",
            m->text, t.n_layers, t.n_heads, n_layers, n_heads);
        tuned_clear(&t);
        return st;
    }
    return policy_take(m->out, m->text, &t);
}

enum sg_status sg_policy_read(
    struct sg_policy **out, const char *path, int n_layers, int n_heads, const char *module)
{
    *out = NULL;
    return border(read_body, &(struct making){out, path, module, 0, n_layers, n_heads});
}

static enum status parse_body(void *args)
{
    const struct making *m = args;
    struct tuned t;
    if (!m->text) return fail(ERR_ARG, "text is NULL");
    struct str own = {0};
    str_add_bytes(&own, m->text, m->len);
    enum status st = tuned_parse(&t, str_get(&own), "the text");
    str_clear(&own);
    return st == OK ? policy_take(m->out, "the text", &t) : st;
}

enum sg_status sg_policy_parse(struct sg_policy **out, const char *text, size_t len)
{
    *out = NULL;
    return border(parse_body, &(struct making){out, text, NULL, len, 0, 0});
}

/* What runs, entered into what is known. */
static void tuned_refresh(struct sg_policy *p)
{
    struct tuned *t = &p->tuned;
    snprintf(t->method, sizeof t->method, "%s", p->now.method ? p->now.method->name : "dense");
    policy_layers_text(&p->now, t->layers);
    t->block = p->now.block;
    t->smooth_k = p->now.smooth_k;
    t->qk = p->now.qk;
    t->pv = p->now.pv;
    for (int i = 0; i < t->n_layers * t->n_heads; i++) {
        t->heads[i].params = p->now.heads[i];
        t->heads[i].in_range = p->now.layer_on[i / t->n_heads];
        t->heads[i].params.is_sparse &= t->heads[i].in_range;
    }
}

struct writing {
    const struct sg_policy *policy;
    const char *path, *module;
    char **text;
};

static enum status check_writable(const struct sparse_policy *p, const char *path)
{
    if (p->topk > 0 || p->window > 0 || !p->method)
        return fail(ERR_ARG, "%s: such files hold thresholds of every head; this policy goes by %s",
            path,
            !p->method        ? "nothing and is dense"
                : p->topk > 0 ? "topk"
                              : "a window");
    return OK;
}

static bool errors_same(const struct head_error *a, const struct head_error *b)
{
    const double x[] = {a->l1, a->tail, a->cosine, a->rmse},
                 y[] = {b->l1, b->tail, b->cosine, b->rmse};
    for (int i = 0; i < 4; i++)
        if (x[i] != y[i] && !(isnan(x[i]) && isnan(y[i]))) return false;
    return true;
}

/* The text of a tuned file, read again: what libcjson had no memory for it leaves out, and says
 * nothing. */
static enum status print_whole(const struct tuned *t, char **out)
{
    struct str text = {0};
    struct tuned back;
    char before[33], after[33];
    tuned_print(t, &text, 0);
    str_add_char(&text, '\n');
    bool whole = tuned_parse(&back, str_get(&text), "what was written") == OK;
    if (whole) {
        whole = !back.edited && strcmp(tuned_hash(t, before), tuned_hash(&back, after)) == 0;
        for (int i = 0; i < t->n_layers * t->n_heads && whole; i++) {
            const struct tuned_head *x = &t->heads[i], *y = &back.heads[i];
            whole = x->in_range == y->in_range &&
                (!x->in_range ||
                    (errors_same(&x->tune, &y->tune) && errors_same(&x->check, &y->check) &&
                        errors_same(&x->held_out, &y->held_out)));
        }
        tuned_clear(&back);
    }
    if (whole) {
        *out = text.data;
        return OK;
    }
    str_clear(&text);
    return fail(ERR_MEMORY, "no room for all of the tuned file: nothing was written");
}

static enum status write_body(void *args)
{
    const struct writing *w = args;
    struct sg_policy *p =
        (struct sg_policy *)
            w->policy; /* what is brought up to date is seen through this call alone */
    if (!w->text && !w->path) return fail(ERR_ARG, "path is NULL");
    TRY(check_writable(&p->now, w->path ? w->path : "the text"));
    tuned_refresh(p);
    if (w->text) return print_whole(&p->tuned, w->text);
    if (str_ends_with(w->path, ".pt")) return sparge_pt_write(&p->tuned, w->path, w->module);
    if (w->module) return fail(ERR_ARG, "%s: module \"%s\" goes with a .pt", w->path, w->module);
    struct str text = {0};
    TRY(print_whole(&p->tuned, &text.data));
    text.len = strlen(text.data);
    text.cap = text.len + 1;
    enum status st = file_write_text(w->path, &text);
    str_clear(&text);
    return st;
}

enum sg_status sg_policy_write(const struct sg_policy *policy, const char *path, const char *module)
{
    if (!policy) return (enum sg_status)fail(ERR_ARG, "policy is NULL");
    return border(write_body, &(struct writing){policy, path, module, NULL});
}

enum sg_status sg_policy_text(const struct sg_policy *policy, char **out)
{
    *out = NULL;
    if (!policy) return (enum sg_status)fail(ERR_ARG, "policy is NULL");
    return border(write_body, &(struct writing){policy, NULL, NULL, out});
}

enum sg_status sg_policy_get(const struct sg_policy *policy, struct sg_setting *out)
{
    struct sg_policy *p = (struct sg_policy *)policy;
    if (!p || !out) return (enum sg_status)fail(ERR_ARG, "%s is NULL", p ? "out" : "policy");
    struct sg_setting s = {
        .size = out->size,
        .n_layers = p->now.n_layers,
        .n_heads = p->now.n_heads,
        .method = p->now.method ? p->now.method->name : "dense",
        .layers = policy_layers_text(&p->now, p->layers),
        .block_q = p->now.block.q,
        .block_k = p->now.block.k,
        .smooth_k = smooth_k_name(p->now.smooth_k),
        .min_sparse_tokens = p->now.where_it_pays ? -2
            : p->now.min_sparse_tokens > 0        ? p->now.min_sparse_tokens
                                                  : -1,
        .topk = mask_decimal(p->now.topk),
        .window = p->now.window,
        .model = p->tuned.model_name,
        .fingerprint = p->tuned.model_fingerprint,
        .data = p->tuned.data_name,
    };
    struct sg_setting check;
    enum status st = SG_TAKE(check, out, data);
    if (st == OK) memcpy(out, &s, s.size < sizeof s ? s.size : sizeof s);
    return (enum sg_status)st;
}

static enum status copy_name(const char *what, const char *text, char *to, size_t size)
{
    if (!text) return OK;
    if (strlen(text) >= size)
        return fail(ERR_ARG, "%s: found %zu bytes, at most %zu fit", what, strlen(text), size - 1);
    memmove(to, text, strlen(text) + 1);
    return OK;
}

struct setting {
    struct sg_policy *policy;
    const struct sg_setting *asked;
};

static enum status set_body(void *args)
{
    const struct setting *c = args;
    struct sg_policy *p = c->policy;
    struct sg_setting s;
    struct sparse_policy now =
        p->now; /* all or nothing; layers alone are behind a pointer, and come last */
    TRY(SG_TAKE(s, c->asked, data));
    if (s.block_q || s.block_k) {
        char text[64];
        snprintf(text, sizeof text, "%dx%d", s.block_q, s.block_k);
        TRY(block_shape_parse(text, &now.block));
    }
    if (s.smooth_k && !smooth_k_parse(s.smooth_k, &now.smooth_k))
        return fail(ERR_ARG, "smooth_k: found \"%s\", expected running, global or off", s.smooth_k);
    if (s.min_sparse_tokens < -2)
        return fail(ERR_ARG,
            "min_sparse_tokens: found %d, expected tokens, -1 (always sparse) or -2 (where it "
            "pays)",
            s.min_sparse_tokens);
    if (s.min_sparse_tokens) {
        now.where_it_pays = s.min_sparse_tokens == -2;
        now.min_sparse_tokens = now.where_it_pays ? MIN_SPARSE_TOKENS
            : s.min_sparse_tokens < 0             ? 0
                                                  : s.min_sparse_tokens;
    }
    if (!(s.topk == -1 || (s.topk >= 0 && s.topk <= 1)))
        return fail(ERR_ARG, "topk: found %g, expected a share of the tiles, or -1", s.topk);
    if (s.topk > 0 && (!now.method || !now.method->ranked))
        return fail(ERR_ARG, "topk goes with a method that ranks tiles, not %s",
            now.method ? now.method->name : "dense");
    if (s.window < 0) return fail(ERR_ARG, "window: found %d, expected tokens", s.window);
    bool measured_otherwise = now.block.q != p->now.block.q || now.block.k != p->now.block.k ||
        now.smooth_k != p->now.smooth_k;
    if (s.topk != 0) {
        now.topk = s.topk < 0 ? 0 : (float)s.topk;
        if (!p->from_tuning)
            policy_choose_thresholds(&now, NAN, NAN, NAN); /* behind the same pointer */
    }
    if (s.window) {
        now.window = s.window;
        now.method = &mask_window;
    }
    TRY(copy_name("model", s.model, p->tuned.model_name, sizeof p->tuned.model_name));
    TRY(copy_name("fingerprint", s.fingerprint, p->tuned.model_fingerprint,
        sizeof p->tuned.model_fingerprint));
    TRY(copy_name("data", s.data, p->tuned.data_name, sizeof p->tuned.data_name));
    if (s.layers) TRY(policy_set_layers(&now, s.layers));
    p->now = now;
    for (int i = 0; measured_otherwise && i < now.n_layers * now.n_heads; i++)
        forget_head(&p->tuned.heads[i]);
    if (measured_otherwise) p->tuned.verified = false;
    return OK;
}

enum sg_status sg_policy_set(struct sg_policy *policy, const struct sg_setting *setting)
{
    if (!policy) return (enum sg_status)fail(ERR_ARG, "policy is NULL");
    return border(set_body, &(struct setting){policy, setting});
}

static enum status check_place(const struct sg_policy *p, int layer, int head)
{
    if (!p) return fail(ERR_ARG, "policy is NULL");
    if (layer >= 0 && layer < p->now.n_layers && head >= 0 && head < p->now.n_heads) return OK;
    return fail(ERR_ARG, "layer %d, head %d: expected 0 to %d and 0 to %d", layer, head,
        p->now.n_layers - 1, p->now.n_heads - 1);
}

enum sg_status sg_policy_head(
    const struct sg_policy *policy, int layer, int head, struct sg_head *out)
{
    enum status st = check_place(policy, layer, head);
    struct sg_head check;
    if (st == OK) st = SG_TAKE(check, out, back_offs);
    if (st != OK) return (enum sg_status)st;
    int i = layer * policy->now.n_heads + head;
    const struct head_params *x = &policy->now.heads[i];
    const struct tuned_head *t = &policy->tuned.heads[i];
    enum tune_rule rule = policy->tuned.rule;
    struct sg_head h = {
        .size = out->size,
        .in_range = policy->now.layer_on[layer],
        .is_sparse = policy->now.layer_on[layer] && x->is_sparse,
        .simthreshd1 = x->theta,
        .cdfthreshd = x->tau,
        .pvthreshd = x->lambda,
        .part = x->part,
        .error = head_error_by(&t->tune, rule),
        .error_check = head_error_by(&t->check, rule),
        .error_held_out = head_error_by(&t->held_out, rule),
        .qk_sparsity = t->qk_sparsity,
        .sparsity = t->sparsity,
        .back_offs = t->back_offs,
    };
    memcpy(out, &h, h.size < sizeof h ? h.size : sizeof h);
    return SG_OK;
}

enum sg_status sg_policy_set_head(
    struct sg_policy *policy, int layer, int head, const struct sg_head *set)
{
    struct sg_head h;
    enum status st = check_place(policy, layer, head);
    if (st == OK) st = SG_TAKE(h, set, back_offs);
    if (st != OK) return (enum sg_status)st;
    const struct mask_method *m = policy->now.method;
    if (!(h.simthreshd1 >= -1 && h.simthreshd1 <= 1) || !(h.cdfthreshd >= 0 && h.cdfthreshd <= 1) ||
        !(h.pvthreshd >= 0 && h.pvthreshd <= 50))
        return (enum sg_status)fail(ERR_ARG,
            "layer %d, head %d: simthreshd1 %g, cdfthreshd %g, pvthreshd %g: expected -1 to 1, 0 "
            "to 1, 0 to 50",
            layer, head, (double)h.simthreshd1, (double)h.cdfthreshd, (double)h.pvthreshd);
    if (h.part < 0 || h.part >= (m && m->n_parts ? m->n_parts : 1))
        return (enum sg_status)fail(ERR_ARG,
            "layer %d, head %d: part: found %d, expected one of the method's", layer, head, h.part);
    int i = layer * policy->now.n_heads + head;
    struct head_params *now = &policy->now.heads[i]; /* what else a method keeps of a head stays */
    now->theta = h.simthreshd1;
    now->tau = h.cdfthreshd;
    now->lambda = h.pvthreshd;
    now->is_sparse = h.is_sparse != 0 && m;
    now->part = (uint8_t)h.part;
    forget_head(&policy->tuned.heads[i]);
    policy->tuned.verified = false;
    return SG_OK;
}

const char *sg_policy_verdict(const struct sg_policy *policy)
{
    return policy ? policy->verdict : "";
}
