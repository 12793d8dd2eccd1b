#include "harness/measure/evaluation.h"

#include "base/clock.h"

#include <sys/resource.h>

void evaluation_finish(
    struct evaluation *e, const struct evaluate_args *a, const struct session *s, int64_t t0)
{
    struct run_record *r = &e->data.run;
    struct weights_device_info device;
    struct rusage usage;
    weights_device_describe(&a->model->weights, &device);
    r->status = RUN_DONE;
    r->wall_s = (double)(clock_ns() - t0) * 1e-9;
    r->peak_bytes = getrusage(RUSAGE_SELF, &usage) == 0 ? (int64_t)usage.ru_maxrss * 1024 : -1;
    r->peak_device_bytes = device.peak_bytes ? (int64_t)device.peak_bytes : -1;
    r->impls = arena_str(&e->arena, session_impls(s));
}

void evaluation_clear(struct evaluation *e)
{
    arena_free(&e->arena);
    *e = (struct evaluation){0};
}
