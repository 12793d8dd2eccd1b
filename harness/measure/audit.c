#include "harness/measure/audit.h"

#include "harness/measure/parity.h"
#include "harness/measure/progress.h"
#include "kernels/cpu/cpu_ops.h"
#include "kernels/registry.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* λ of a head that skips no P·V */

enum { N_CUTS = 5 };

struct auditor {
    const struct model *m;
    struct par *par;
    const struct sample *x;
    const struct sparse_policy *policy;
    struct audit *out;
    int width, cut;            /* tokens from `cut` on are the future */
    int cuts[N_CUTS];          /* the same, for single calls; the first is `cut` */
    struct audit_tiles *tiles; /* NULL: not looked at */
    /* what the layer hook collects */
    struct audit_call sum;
    int n_calls, n_shared; /* attention calls, and those whose rows share decisions by units */
    struct map_log *log;
    struct progress *progress; /* of passes */
    int *n_passes;
};

static void add(struct auditor *a, const char *claim, const char *how, double found, double allowed,
    const char *unit, bool stated_only)
{
    a->out->checks[a->out->n++] =
        (struct audit_check){claim, how, found, allowed, unit, stated_only};
}

bool audit_passes(const struct audit_check *c) { return c->stated_only || c->found <= c->allowed; }

/* The method that METHOD 2 spells out. */
static bool has_definition(const struct sparse_policy *p) { return p->method == &mask_sparge; }

static bool on_device(const struct auditor *a) { return a->m->weights.on_device != NULL; }

static bool eight(const struct auditor *a) { return policy_is_eight(a->policy); }

static int whole_units(int cut) { return cut / PV_UNIT_ROWS * PV_UNIT_ROWS; }

/* Whether this call may let rows of one unit depend on each other: the rows of a unit share the
 * decision to skip P·V (METHOD 3), in eight bits their scales (METHOD 9), and on a device their
 * rescaling too. */
static bool units_share(const struct auditor *a, const struct attn_args *call)
{
    if (on_device(a) || !attn_is_full(call)) return true;
    for (int h = 0; call->tiles && call->pv_threshold && h < call->n_heads; h++)
        if ((!call->head_sparse || call->head_sparse[h]) && call->pv_threshold[h] < NEVER_SKIP)
            return true;
    return false;
}

/* The same sums in another order: f32 on the CPU, tensors rounded to bf16 on a device. Measured
 * .004 to .02 there. */
static double rounding(const struct auditor *a, double cpu) { return on_device(a) ? .05 : cpu; }

static float *rows_of(const struct auditor *a, int n)
{
    return malloc(sizeof(float) * (size_t)n * (size_t)a->width);
}

static enum status forward(const struct auditor *a, struct par *par, const int32_t *ids,
    const struct sparse_policy *policy, int chunk, struct head_ledger *ledger, layer_hook *hook,
    float *hidden)
{
    struct session *s;
    TRY(session_open(&s, &a->m->weights, par, a->x->n, chunk, NULL));
    enum status st = session_forward(s,
        &(struct forward_args){.tokens = ids,
            .n = a->x->n,
            .policy = policy,
            .ledger = ledger,
            .hidden = hidden,
            .hook = hook,
            .hook_ctx = (void *)a});
    session_close(&s);
    progress_update(a->progress, ++*a->n_passes);
    return st;
}

static double worst_row(const struct auditor *a, const float *x, const float *y, int from, int to)
{
    return audit_rows_apart(x, y, from, to, a->width);
}

/* Keys and values, packed, with every row from `cut` on turned into something else altogether. */
static void other_future(const struct attn_args *call, int cut, float *k, float *v)
{
    size_t n = (size_t)attn_n_kv(call), d = (size_t)call->head_dim;
    for (int h = 0; h < call->n_kv_heads; h++)
        for (size_t r = 0; r < n; r++)
            for (size_t i = 0; i < d; i++) {
                size_t at = ((size_t)h * n + r) * d + i;
                float f = r < (size_t)cut ? 1 : -3, plus = r < (size_t)cut ? 0 : .5f;
                k[at] = f *
                        ((const float *)call
                                ->k)[h * call->k_head + (ptrdiff_t)r * call->k_row + (ptrdiff_t)i] +
                    plus;
                v[at] = f *
                        ((const float *)call
                                ->v)[h * call->v_head + (ptrdiff_t)r * call->v_row + (ptrdiff_t)i] +
                    plus;
            }
}

static double leak_between(
    const struct attn_args *call, const float *o, const float *other, int from, int end)
{
    double worst = 0;
    for (int r = from > call->q_start ? from - call->q_start : 0;
         r < call->n_q && call->q_start + r < end; r++)
        for (int h = 0; h < call->n_heads; h++)
            for (int i = 0; i < call->head_dim; i++) {
                ptrdiff_t at = r * call->o_row + h * call->o_head + i;
                double apart = fabs((double)o[at] - (double)other[at]);
                if (!isfinite(apart)) return INFINITY;
                worst = fmax(worst, apart);
            }
    return worst;
}

/* Tiles and 64-row units from the map alone, with nothing of the kernel's counting; without a map
 * all are computed. */
static void count_map(const struct attn_args *call, struct audit_call *out)
{
    struct tile_map t = tile_map_shape(call->block, call->n_heads, call->q_start, call->n_q);
    int end = attn_n_kv(call);
    if (call->tiles) t = *call->tiles;
    for (int h = 0; h < t.n_heads; h++)
        for (int i = 0; i < t.n_qblocks; i++)
            for (int j = 0; j < t.n_kblocks; j++) {
                int first = call->q_start + i * t.block.q,
                    last = first + t.block.q < end ? first + t.block.q - 1 : end - 1;
                if (j * t.block.k > last) continue;
                out->tiles_possible++;
                if (call->tiles && !(tile_map_row(&t, h, i)[j / 64] >> (j % 64) & 1)) continue;
                out->tiles++;
                for (int u = first; u <= last; u += PV_UNIT_ROWS) {
                    int unit_end = u + PV_UNIT_ROWS - 1 < last ? u + PV_UNIT_ROWS - 1 : last;
                    out->units += j * t.block.k <= unit_end;
                }
            }
}

enum status audit_attention(const struct attn_args *call, const struct attn_impl *impl, int cut,
    struct par *par, struct audit_call *out)
{
    size_t n = (size_t)attn_n_kv(call), d = (size_t)call->head_dim, plane = n * d,
           all = plane * (size_t)call->n_kv_heads;
    size_t rows = (size_t)call->n_q * (size_t)call->n_heads * d, n_heads = (size_t)call->n_heads;
    struct attn_args packed = *call, future;
    *out = (struct audit_call){0};
    float *k = malloc(2 * all * sizeof *k), *v = k ? k + all : NULL,
          *o = malloc(2 * rows * sizeof *o);
    struct head_ledger *ledger = calloc(n_heads, sizeof *ledger);
    void *ws = aligned_alloc(64, (impl->workspace(call) + 127) / 64 * 64);
    enum status st =
        k && o && ledger && ws ? OK : fail(ERR_MEMORY, "no memory to audit %zu tokens", n);
    if (st == OK) {
        packed.o = o;
        packed.o_head = (ptrdiff_t)d;
        packed.o_row = (ptrdiff_t)(n_heads * d);
        packed.ledger = call->tiles ? ledger : NULL;
        st = impl->run(&packed, ws, par, NULL);
    }
    if (st == OK) {
        other_future(call, cut, k, v);
        future = packed;
        future.k = k;
        future.v = v;
        future.o = o + rows;
        future.k_head = future.v_head = (ptrdiff_t)plane;
        future.k_row = future.v_row = (ptrdiff_t)d;
        future.ledger = NULL;
        st = impl->run(&future, ws, par, NULL);
    }
    if (st == OK) {
        out->leak = leak_between(&packed, o, o + rows, 0, whole_units(cut));
        out->leak_in_unit = leak_between(&packed, o, o + rows, whole_units(cut), cut);
        count_map(call, out);
        for (size_t h = 0; h < n_heads; h++) {
            out->ledger_tiles += ledger[h].tiles_computed;
            out->ledger_possible += ledger[h].tiles_possible;
            out->ledger_units += ledger[h].pv_units_computed;
        }
    }
    free(k);
    free(o);
    free(ledger);
    free(ws);
    return st;
}

/* The whole map against the definition; of one head in turn what its tiles do. */
static enum status look_at_tiles(
    struct auditor *a, const struct layer_view *view, const struct attn_impl *impl)
{
    const struct attn_args *call = view->attn;
    struct mask_args how = {.attn = call,
        .heads = a->policy->heads + view->layer * call->n_heads,
        .smooth_k = a->policy->smooth_k,
        .topk = a->policy->topk};
    int head = view->layer % call->n_heads;
    if (has_definition(a->policy)) TRY(audit_map(call, &how, on_device(a) ? 1e-3 : 1e-5, a->tiles));
    for (int i = 0; i < call->n_heads && call->head_sparse && !call->head_sparse[head]; i++)
        head = (head + 1) % call->n_heads;
    if (call->head_sparse && !call->head_sparse[head]) return OK;
    return audit_trace(call, impl, head, 2, a->par, a->tiles);
}

static enum status look(void *ctx, const struct layer_view *view)
{
    struct auditor *a = ctx;
    const struct attn_impl *impl;
    struct audit_call call;
    if (view->impl) impl = view->impl; /* where the layer ran */
    else TRY(attn_choose(view->attn, NULL, &impl));
    a->n_calls++;
    bool shared = units_share(a, view->attn);
    a->n_shared += shared;
    for (int i = 0; i < N_CUTS; i++) {
        TRY(audit_attention(view->attn, impl, a->cuts[i], a->par, &call));
        a->sum.leak = fmax(a->sum.leak, shared ? call.leak : fmax(call.leak, call.leak_in_unit));
        if (shared) a->sum.leak_in_unit = fmax(a->sum.leak_in_unit, call.leak_in_unit);
    }
    if (a->tiles && view->tiles) TRY(look_at_tiles(a, view, impl));
    if (!a->policy->layer_on[view->layer]) return OK; /* the ledger below leaves it out as well */
    a->sum.tiles += call.tiles;
    a->sum.tiles_possible += call.tiles_possible;
    a->sum.units += call.units;
    return OK;
}

/* Every attention call of the model under the policy: what it lets through from the future. */
static enum status check_leak(struct auditor *a)
{
    float *again = rows_of(a, a->x->n);
    struct audit_tiles tiles = {0};
    a->tiles = &tiles;
    enum status st = again ? forward(a, a->par, a->x->ids, a->policy, 0, NULL, look, again)
                           : fail(ERR_MEMORY, "no memory to audit");
    a->tiles = NULL;
    if (st == OK && has_definition(a->policy)) {
        add(a, "the map is what the definition says",
            "every layer and head against METHOD 2 read again in fp64",
            tiles.n_rows ? (double)tiles.wrong : INFINITY, 0, "tiles", false);
        add(a, "of that, where rounding may decide",
            "query blocks near another outcome, not judged",
            (double)tiles.n_doubtful / fmax(1, (double)tiles.n_rows), .5, "share", false);
    }
    if (st == OK)
        add(a, "the output is what the definition says",
            eight(a) ? "blocks of every layer against METHOD 3 and 9 in fp64, ‖o − õ‖ / ‖õ‖"
                     : "blocks of every layer against METHOD 3 in fp64, ‖o − õ‖ / ‖õ‖",
            tiles.n_outputs ? tiles.apart : INFINITY,
            on_device(a)   ? eight(a) ? .03 : .01
                : eight(a) ? 2e-3
                           : 1e-5,
            "relative", false);
    if (st == OK) {
        add(a, "left-out tiles leave no trace",
            "NaN for their K and V: some bit of the query block moved", (double)tiles.left_traces,
            0, "blocks", false);
        add(a, "kept tiles leave one", "NaN for their V: no output became NaN",
            tiles.n_kept ? (double)tiles.kept_traceless : INFINITY, 0, "tiles", false);
    }
    if (st == OK)
        add(a, "later keys and values do not reach earlier outputs",
            a->n_shared ? "every layer and head, same tiles, future replaced at five cuts; units "
                          "of 64 rows before them"
                        : "every layer and head, same tiles, future replaced at five cuts",
            a->n_calls ? a->sum.leak : INFINITY, 0, "absolute", false);
    if (st == OK && a->n_shared)
        add(a,
            eight(a)           ? "rows of a unit share their scales and the skip of P·V"
                : on_device(a) ? "rows of a unit share their rescaling and the skip of P·V"
                               : "the skip of P·V sees later rows of its unit",
            "the same, the up to 63 rows of the unit that holds the cut", a->sum.leak_in_unit, 0,
            "absolute", true);
    free(again);
    return st;
}

static double off(uint64_t x, uint64_t y) { return fabs((double)x - (double)y); }

/* The session's ledger against bits counted one by one; λ = 50 everywhere, so that units follow
 * from the map. */
static enum status check_ledger(struct auditor *a)
{
    const struct llama_config *c = &a->m->weights.config;
    size_t n_cells = (size_t)c->n_layers * (size_t)c->n_heads;
    struct head_ledger *ledger = calloc(n_cells, sizeof *ledger), total = {0};
    float *again = rows_of(a, a->x->n);
    struct sparse_policy all_pv = {0};
    enum status st =
        ledger && again ? policy_copy(&all_pv, a->policy) : fail(ERR_MEMORY, "no memory to audit");
    bool skipped = a->n_shared > 0;
    a->sum = (struct audit_call){0};
    a->n_shared = 0;
    for (size_t i = 0; i < n_cells && st == OK; i++) all_pv.heads[i].lambda = NEVER_SKIP;
    if (st == OK) st = forward(a, a->par, a->x->ids, &all_pv, 0, ledger, look, again);
    if (st == OK) {
        for (size_t i = 0; i < n_cells; i++)
            if (all_pv.layer_on[i / (size_t)c->n_heads]) head_ledger_add(&total, &ledger[i]);
        add(a, "the ledger counts what the map holds",
            "tiles computed by the kernel against bits set",
            off(total.tiles_computed, a->sum.tiles), 0, "tiles", false);
        add(a, "the ledger knows what was possible", "tiles under the triangle, counted one by one",
            off(total.tiles_possible, a->sum.tiles_possible), 0, "tiles", false);
        add(a, "P·V units are counted", "with pvthreshd 50 every unit of a computed tile",
            off(total.pv_units_computed, a->sum.units), 0, "units", false);
        /* with nothing left out the sparse claims say nothing: then this one fails */
        double left_out = (double)(a->sum.tiles_possible - a->sum.tiles);
        add(a, "something was left out", "tiles the kernel did not compute", left_out, -1, "tiles",
            left_out > 0);
        if (eight(a)) {
            uint64_t n_on = 0;
            for (int l = 0; l < c->n_layers; l++)
                n_on += all_pv.layer_on[l] ? (uint64_t)c->n_heads : 0;
            add(a, "all products were of eight bits",
                "heads of the layers that are on, against those the ledger has",
                off(total.calls_eight, n_on), 0, "calls", false);
        }
        if (skipped && !on_device(a) &&
            !eight(a)) /* so that the allowance above hides nothing but the skip */
            add(a, "without the skip, later keys and values reach no earlier row",
                "the same with pvthreshd 50, every row before the cut", a->sum.leak, 0, "absolute",
                false);
    }
    policy_clear(&all_pv);
    free(ledger);
    free(again);
    return st;
}

static enum status check_tokens(struct auditor *a, const float *dense, const float *sparse)
{
    struct block_shape b = a->policy->block;
    /* a key block that reaches past its query block is pooled over keys that come later
     * (kernels/mask.h) */
    int n = a->x->n, block = b.q > b.k ? b.q : b.k;
    bool global = a->policy->smooth_k == SMOOTH_K_GLOBAL;
    bool ahead = a->policy->method && mask_looks_ahead(a->policy->method);
    int32_t *ids = malloc(sizeof *ids * (size_t)n);
    float *other = rows_of(a, n);
    enum status st = ids && other ? OK : fail(ERR_MEMORY, "no memory to audit");
    if (st == OK) {
        memcpy(ids, a->x->ids, sizeof *ids * (size_t)n);
        for (int i = a->cut; i < n; i++) ids[i] = a->x->ids[n - 1 - (i - a->cut)];
        st = forward(a, a->par, ids, NULL, 0, NULL, NULL, other);
    }
    if (st == OK) {
        add(a, "dense: later tokens do not reach earlier states", "tokens behind the cut replaced",
            worst_row(a, dense, other, 0, on_device(a) ? whole_units(a->cut) : a->cut), 0,
            "relative", false);
        st = forward(a, a->par, ids, a->policy, 0, NULL, NULL, other);
    }
    if (st == OK) {
        int whole = a->cut / block * block;
        /* smoothing by the mean of all keys and some methods look ahead by definition: it is stated
         * how far that goes */
        add(a, "sparse: later tokens do not reach earlier query blocks",
            global      ? "the same, blocks that end before the cut; smooth_k global looks ahead"
                : ahead ? "the same, blocks that end before the cut; the method looks ahead"
                        : "the same, blocks that end before the cut",
            worst_row(a, sparse, other, 0, whole), 0, "relative", global || ahead);
        add(a, "sparse: the mask of a block sees its own later rows",
            "the same, rows of the block that holds the cut",
            worst_row(a, sparse, other, whole, a->cut), 0, "relative", true);
    }
    free(ids);
    free(other);
    return st;
}

/* What a method chooses for a block may follow from more than what stands before it: then it is
 * stated how far that goes. */
static enum status check_chunks(struct auditor *a, double eight_cost)
{
    const struct sparse_policy *p = a->policy;
    bool global = p->smooth_k == SMOOTH_K_GLOBAL, wide = p->block.k > p->block.q;
    bool by_length = mask_looks_at_length(p->method), stated = by_length || global || wide;
    const char *how = by_length
        ? "chunks of 256 tokens; the method counts from the end of the prompt"
        : global   ? "chunks of 256 tokens; smooth_k global means all keys that are there"
        : wide     ? "chunks of 256 tokens; key blocks reach past query blocks"
        : eight(a) ? "chunks of 256 tokens, as one vector, to what eight bits cost: last digits "
                     "round them the other way"
                   : "chunks of 256 tokens";
    struct audit_chunks x;
    TRY(audit_chunks(&a->m->weights, a->par, a->x->ids, a->x->n, p, 256, &x));
    /* a last digit moves what stands between two eight-bit numbers by a whole step, and later
     * layers round anew */
    add(a, "prefill in chunks is prefill at once", how, eight(a) ? x.all : x.worst_row,
        eight(a) ? eight_cost : rounding(a, 1e-4), "relative", on_device(a) || stated);
    if (x.masks.n)
        add(a, "chunks choose the same tiles",
            "1 - Jaccard of the maps, mean over layers and heads",
            1 - x.masks.sum / (double)x.masks.n, on_device(a) || eight(a) ? .05 : 1e-3, "share",
            stated);
    if (x.masks.n)
        add(a, "chunks choose the same tiles in every head", "the same, the worst chunk of a head",
            1 - x.masks.min, .2, "share", true);
    return OK;
}

static enum status check_equalities(struct auditor *a, const float *dense, const float *sparse)
{
    struct sparse_policy keep_all = {0}, in_eight = {0};
    struct par *one = NULL;
    float *other = rows_of(a, a->x->n), *all = eight(a) ? rows_of(a, a->x->n) : NULL;
    enum status st = other && (all || !eight(a)) ? policy_copy(&keep_all, a->policy)
                                                 : fail(ERR_MEMORY, "no memory to audit");
    if (st == OK) st = policy_copy_dense(&in_eight, a->policy);
    if (st == OK && eight(a)) st = forward(a, a->par, a->x->ids, &in_eight, 0, NULL, NULL, all);
    if (st != OK) goto done;
    double cost = 0;
    if (eight(a)) {
        cost = audit_rows_apart(dense, all, 0, 1, a->x->n * a->width);
        add(a, "eight bits cost this much",
            "dense with them against dense without, final hidden states as one vector", cost, NAN,
            "relative", true);
        dense = all;
    }
    if (!keep_all.method->ranked) keep_all.method = &mask_sparge; /* which is asked for all */
    keep_all.topk = 1;
    policy_set_thresholds(&keep_all, -1, 1, NEVER_SKIP);
    TRY_GOTO(st, done, forward(a, a->par, a->x->ids, &keep_all, 0, NULL, NULL, other));
    add(a, "sparse with every tile kept is dense",
        eight(a) ? "final hidden states, both in eight bits" : "final hidden states",
        worst_row(a, dense, other, 0, a->x->n), rounding(a, 1e-5), "relative", false);
    double threads = 0;
    for (int n = 1; n <= 3; n += 2) { /* heads fall to other threads in another order */
        TRY_GOTO(st, done, par_open(&one, n));
        TRY_GOTO(st, done, forward(a, one, a->x->ids, a->policy, 0, NULL, NULL, other));
        threads = fmax(threads, worst_row(a, sparse, other, 0, a->x->n));
        par_close(&one);
    }
    add(a, "the number of threads changes nothing", "one and three threads against all", threads, 0,
        "relative", false);
    st = check_chunks(a, cost);
done:
    par_close(&one);
    policy_clear(&keep_all);
    policy_clear(&in_eight);
    free(other);
    free(all);
    return st;
}

static enum status check_instruction_set(struct auditor *a, const float *dense, float *other)
{
    const char *present = cpu_ops()->name;
    if (strcmp(present, "base") == 0) return OK;
    TRY(cpu_ops_choose("base"));
    enum status st = forward(a, a->par, a->x->ids, NULL, 0, NULL, NULL, other),
                back = cpu_ops_choose(present);
    if (st == OK) st = back;
    if (st == OK)
        add(a, "another instruction set agrees", "dense, plain x86-64 kernels",
            worst_row(a, dense, other, 0, a->x->n), 1e-3, "relative", false);
    return st;
}

static enum status log_maps(void *ctx, const struct layer_view *view)
{
    return map_log_add(((struct auditor *)ctx)->log, view);
}

/* Do both choose the same tiles? Values in bf16 fall to the other side of a threshold now and then.
 */
static enum status check_tiles(const struct auditor *cpu, struct auditor *a, float *other)
{
    struct map_log logs[2] = {{0}};
    struct auditor sides[2] = {*cpu, *a};
    struct jaccard j = {0};
    enum status st = OK;
    for (int i = 0; i < 2 && st == OK; i++) {
        sides[i].log = &logs[i];
        st = forward(&sides[i], a->par, a->x->ids, a->policy, 0, NULL, log_maps, other);
    }
    if (st == OK) st = map_log_compare(&logs[0], &logs[1], a->policy, &j);
    for (int i = 0; i < 2; i++) map_log_clear(&logs[i]);
    if (st == OK && j.n)
        add(a, "CPU and GPU choose the same tiles",
            "1 - Jaccard of the maps, mean over layers and heads", 1 - j.sum / (double)j.n, .05,
            "share", false);
    if (st == OK && j.n)
        add(a, "CPU and GPU choose the same tiles in every head",
            "the same, the worst layer and head", 1 - j.min, .2, "share", true);
    return st;
}

/* The CPU on the same weights, without the device. */
static enum status check_cpu(struct auditor *a, const float *dense, float *other)
{
    struct model host = *a->m;
    host.weights.on_device = NULL;
    struct auditor cpu = *a;
    cpu.m = &host;
    TRY(forward(&cpu, a->par, a->x->ids, NULL, 0, NULL, NULL, other));
    size_t n = (size_t)a->x->n * (size_t)a->width;
    add(a, "CPU and GPU agree", "dense, final hidden states as one vector: f32 against bf16",
        audit_rows_apart(other, dense, 0, 1, (int)n), .05, "relative", false);
    add(a, "CPU and GPU agree in every row", "the same, the worst token",
        worst_row(a, other, dense, 0, a->x->n), .2, "relative", true);
    return check_tiles(&cpu, a, other);
}

static enum status check_kernels(struct auditor *a, const float *dense)
{
    float *other = rows_of(a, a->x->n);
    enum status st = other ? OK : fail(ERR_MEMORY, "no memory to audit");
    if (st == OK && on_device(a)) st = check_cpu(a, dense, other);
    if (st == OK && !on_device(a)) {
        st = check_instruction_set(a, dense, other);
        if (st == OK)
            add(a, "CPU and GPU agree", "not tried: this ran on the CPU; --device cuda tries it",
                NAN, NAN, "relative", true);
    }
    free(other);
    return st;
}

void audit_join(struct audit *to, const struct audit *from)
{
    for (int i = 0; i < from->n; i++) {
        const struct audit_check *x = &from->checks[i];
        int at = 0;
        while (at < to->n && strcmp(to->checks[at].claim, x->claim) != 0) at++;
        if (at == to->n) {
            to->checks[to->n++] = *x;
            continue;
        }
        struct audit_check *y = &to->checks[at];
        /* the worse; NaN: not tried there */
        bool tried = !isnan(x->found) && !(x->found <= y->found);
        if (tried) y->found = x->found;
        y->stated_only =
            x->allowed < 0 ? y->stated_only || x->stated_only : y->stated_only && x->stated_only;
    }
}

enum { PASSES = 13 }; /* of one sample on the CPU; more in eight bits and on a device */

enum status audit_run(const struct model *m, struct par *par, const struct sample *x,
    const struct sparse_policy *policy, struct audit *out)
{
    *out = (struct audit){0};
    if (!policy->method) return fail(ERR_ARG, "audit needs a sparse --method");
    if (x->n < policy->min_sparse_tokens)
        return fail(ERR_ARG, "%s has %d tokens; sparse attention starts at %d", x->name, x->n,
            policy->min_sparse_tokens);
    struct progress progress;
    int n_passes = 0;
    progress_begin(&progress, "audit", "passes", PASSES, false);
    struct auditor a = {.m = m,
        .par = par,
        .x = x,
        .policy = policy,
        .out = out,
        .width = m->weights.config.hidden_size,
        .progress = &progress,
        .n_passes = &n_passes};
    a.cut = x->n / 2 + policy->block.q / 3; /* inside a block, on no boundary */
    /* a leak may be in the last rows of a block alone */
    int block_end = (x->n / 2 / policy->block.q + 1) * policy->block.q;
    int cuts[N_CUTS] = {
        a.cut, block_end - 1, block_end - 19, block_end - policy->block.q + 1, x->n - 1};
    for (int i = 0; i < N_CUTS; i++) a.cuts[i] = cuts[i] < x->n ? cuts[i] : x->n - 1;
    float *dense = rows_of(&a, x->n), *sparse = rows_of(&a, x->n);
    enum status st = dense && sparse ? OK : fail(ERR_MEMORY, "no memory to audit %d tokens", x->n);
    if (st == OK) st = forward(&a, par, x->ids, NULL, 0, NULL, NULL, dense);
    if (st == OK) st = forward(&a, par, x->ids, policy, 0, NULL, NULL, sparse);
    if (st == OK) st = check_leak(&a);
    if (st == OK) st = check_ledger(&a);
    if (st == OK) st = check_tokens(&a, dense, sparse);
    if (st == OK) st = check_equalities(&a, dense, sparse);
    if (st == OK) st = check_kernels(&a, dense);
    progress_end(&progress);
    free(dense);
    free(sparse);
    return st;
}
