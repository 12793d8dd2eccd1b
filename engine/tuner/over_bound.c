#include "engine/tuner/over_bound.h"

#include "base/beta.h"
#include "base/xmalloc.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

void over_bound_begin(struct over_bound_count *c, int n_cells)
{
    *c = (struct over_bound_count){.n_cells = n_cells, .over = xcalloc((size_t)n_cells + 1, 1)};
}

void over_bound_add(struct over_bound_count *c, const double *ratios)
{
    size_t n = (size_t)c->found.n_samples++;
    if ((n & (n - 1)) == 0) c->hits = xrealloc(c->hits, (n ? 2 * n : 1) * sizeof *c->hits);
    c->hits[n] = 0;
    for (int i = 0; i < c->n_cells; i++) {
        if (isnan(ratios[i])) continue;
        bool over = !(ratios[i] <= 1);
        if (n == 0) c->found.n_heads++;
        c->found.worst = fmax(c->found.worst, ratios[i]);
        c->hits[n] += over;
        c->over[i] |= over;
    }
    c->found.n_over += c->hits[n];
    c->found.samples_over += c->hits[n] > 0;
}

struct over_bound over_bound_end(struct over_bound_count *c)
{
    struct over_bound o = c->found;
    struct share_limits x =
        share_of_clusters(c->hits, o.n_samples, o.n_heads, .95); /* NAN without pairs */
    for (int i = 0; i < c->n_cells; i++) o.heads_over += c->over[i];
    o.share = x.share;
    o.lo = x.lo;
    o.hi = x.hi;
    free(c->over);
    free(c->hits);
    *c = (struct over_bound_count){0};
    return o;
}

char *over_bound_text(const struct over_bound *o, char *out)
{
    int64_t n = (int64_t)o->n_samples * o->n_heads;
    if (!n) snprintf(out, OVER_BOUND_TEXT, "no head runs sparse, so none can be over its bound");
    else
        snprintf(out, OVER_BOUND_TEXT,
            "%d of %" PRId64 " pairs of a head and a text are over their bound (%.1f %%, 95 %% "
            "interval %.1f to %.1f %%): %d of %d heads, "
            "%d of %d texts, the worst at %.2f x its bound",
            o->n_over, n, 100 * o->share, 100 * o->lo, 100 * o->hi, o->heads_over, o->n_heads,
            o->samples_over, o->n_samples, o->worst);
    return out;
}
