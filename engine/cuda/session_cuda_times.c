/* Where the time of a forward pass went: one interval between two events for each part, one behind
 * the other without a gap, read when the chunk is done. */
#include "engine/cuda/session_cuda_parts.h"

#include <stdlib.h>

struct interval {
    struct timer *timer;
    double *to; /* in the caller's struct forward_times */
};

struct session_times {
    struct interval *intervals;
    int n, n_opened, cap;
};

void session_cuda_close_times(struct session_cuda *s)
{
    if (!s->times) return;
    for (int i = 0; i < s->times->n_opened; i++)
        s->on->impl->timer_close(&s->times->intervals[i].timer);
    free(s->times->intervals);
    free(s->times);
    s->times = NULL;
}

void session_cuda_begin_times(struct session_cuda *s)
{
    if (s->times) s->times->n = 0;
}

static enum status grow(struct session_cuda *s)
{
    struct session_times *t = s->times;
    if (t->n == t->cap) {
        int cap = t->cap ? 2 * t->cap : 256;
        struct interval *more = realloc(t->intervals, (size_t)cap * sizeof *more);
        if (!more) return fail(ERR_MEMORY, "no memory for %d timers", cap);
        t->intervals = more;
        t->cap = cap;
    }
    if (t->n == t->n_opened) {
        TRY(s->on->impl->timer_open(s->on->d, &t->intervals[t->n].timer));
        t->n_opened++;
    }
    return OK;
}

static enum status stop_last(struct session_cuda *s)
{
    struct session_times *t = s->times;
    return t->n ? s->on->impl->timer_stop(s->on->d, t->intervals[t->n - 1].timer) : OK;
}

enum status session_cuda_part(struct session_cuda *s, const struct chunk *x, size_t field)
{
    if (!x->f->times) return OK;
    if (!s->times) s->times = calloc(1, sizeof *s->times);
    if (!s->times) return fail(ERR_MEMORY, "no memory for timers");
    TRY(grow(s));
    TRY(stop_last(s));
    struct interval *i = &s->times->intervals[s->times->n++];
    i->to = (double *)((char *)x->f->times + field);
    return s->on->impl->timer_start(s->on->d, i->timer);
}

enum status session_cuda_read_times(struct session_cuda *s, const struct chunk *x)
{
    if (!x->f->times || !s->times) return OK;
    struct session_times *t = s->times;
    enum status st = stop_last(s);
    for (int i = 0; i < t->n && st == OK; i++) {
        double seconds = 0;
        st = s->on->impl->timer_read(t->intervals[i].timer, &seconds);
        *t->intervals[i].to += seconds;
    }
    t->n = 0;
    return st;
}
