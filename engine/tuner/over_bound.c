#include "engine/tuner/over_bound.h"

#include "base/beta.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

enum status over_bound_count(
    const double *ratios, int n_samples, int n_cells, struct over_bound *out)
{
    *out = (struct over_bound){.n_samples = n_samples, .share = NAN, .lo = NAN, .hi = NAN};
    int *hits = calloc((size_t)n_samples + 1, sizeof *hits);
    if (!hits) return fail(ERR_MEMORY, "no memory to count the heads of %d texts", n_samples);
    for (int c = 0; c < n_cells && n_samples > 0; c++) {
        int over = 0;
        if (isnan(ratios[c])) continue;
        out->n_heads++;
        for (int s = 0; s < n_samples; s++) {
            double ratio = ratios[(size_t)s * (size_t)n_cells + (size_t)c];
            out->worst = fmax(out->worst, ratio);
            hits[s] += !(ratio <= 1);
            over += !(ratio <= 1);
        }
        out->n_over += over;
        out->heads_over += over > 0;
    }
    for (int s = 0; s < n_samples; s++) out->samples_over += hits[s] > 0;
    if (n_samples > 0 && out->n_heads > 0) {
        struct share_limits x = share_of_clusters(hits, n_samples, out->n_heads, .95);
        out->share = x.share;
        out->lo = x.lo;
        out->hi = x.hi;
    }
    free(hits);
    return OK;
}

char *over_bound_text(const struct over_bound *o, char *out)
{
    int n = o->n_samples * o->n_heads;
    if (!n) snprintf(out, OVER_BOUND_TEXT, "no head runs sparse, so none can be over its bound");
    else
        snprintf(out, OVER_BOUND_TEXT,
            "%d of %d pairs of a head and a text are over their bound (%.1f %%, 95 %% interval "
            "%.1f to %.1f %%): %d of %d heads, "
            "%d of %d texts, the worst at %.2f x its bound",
            o->n_over, n, 100 * o->share, 100 * o->lo, 100 * o->hi, o->heads_over, o->n_heads,
            o->samples_over, o->n_samples, o->worst);
    return out;
}
