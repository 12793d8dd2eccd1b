#include "harness/measure/progress.h"

#include "base/clock.h"

#include <stdio.h>
#include <unistd.h>

enum { SILENT_NS = 2000000000, REDRAW_NS = 200000000 };

void progress_begin(
    struct progress *p, const char *what, const char *unit, double total, bool quiet)
{
    int64_t now = clock_ns();
    *p = (struct progress){what, unit, total, now, now, quiet || !isatty(STDERR_FILENO), false};
}

void progress_update(struct progress *p, double done)
{
    int64_t now = clock_ns();
    if (p->quiet || now - p->started_ns < SILENT_NS || now - p->shown_ns < REDRAW_NS) return;
    p->shown_ns = now;
    p->drawn = true;
    double seconds = (double)(now - p->started_ns) * 1e-9, rate = done / seconds;
    long left = rate > 0 ? (long)((p->total - done) / rate + .5) : 0;
    fprintf(stderr, "\r\033[K%s: %.0f of %.0f %s, %.4g a second, %ld:%02ld left", p->what, done,
        p->total, p->unit, rate, left / 60, left % 60);
    fflush(stderr);
}

void progress_end(struct progress *p)
{
    if (p->drawn) fprintf(stderr, "\r\033[K");
    p->drawn = false;
}
