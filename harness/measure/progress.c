#include "harness/measure/progress.h"

#include "base/clock.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define SECOND 1000000000ll
enum { SILENT_S = 2, LINE_EVERY_S = 30 };

/* What is on the screen, and the work it is part of. */
static struct {
    pthread_mutex_t lock;
    bool drawn, working, quiet;
    const char *what;
    double work, done;
    int64_t started_ns, shown_ns;
} all = {.lock = PTHREAD_MUTEX_INITIALIZER};

static _Thread_local struct {
    char doing[120];
    double work, told; /* of the part; work < 0: none */
    double share;
} part = {.work = -1, .share = 1};

void progress_time_text(double seconds, char *out, int size)
{
    long s = (long)(seconds + .5);
    if (s < 3600) snprintf(out, (size_t)size, "%ld:%02ld", s / 60, s % 60);
    else snprintf(out, (size_t)size, "%ld h %02ld min", s / 3600, s % 3600 / 60);
}

static bool on_terminal(void) { return isatty(STDERR_FILENO); }

static void line_clear(void)
{
    if (all.drawn) fputs("\r\033[K", stderr);
    all.drawn = false;
}

/* Not before two seconds; then five times a second on a terminal, and every thirty seconds without.
 */
static bool line_due(int64_t started)
{
    int64_t now = clock_ns(), since = now - (all.shown_ns > started ? all.shown_ns : started);
    bool terminal = on_terminal();
    if (now - started < SILENT_S * SECOND) return false;
    if (terminal ? all.shown_ns > started && since < SECOND / 5 : since < LINE_EVERY_S * SECOND)
        return false;
    all.shown_ns = now;
    return true;
}

static void line_show(const char *text)
{
    struct winsize size;
    if (on_terminal()) { /* a line that wraps cannot be drawn over */
        int width =
            ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1 : 79;
        fprintf(stderr, "\r\033[K%.*s", width, text);
        all.drawn = true;
    } else {
        fprintf(stderr, "%s\n", text);
    }
    fflush(stderr);
}

/* "sweep: 37 %, 0:31 left, 512 tokens a second, cell 3 of 8: …" */
static void line_write(const char *what, const char *doing, double share, double rate,
    const char *unit, int64_t started)
{
    char text[320], left[32] = "?", speed[64] = "";
    double seconds = (double)(clock_ns() - started) * 1e-9;
    if (share > 0) progress_time_text(seconds * (1 - share) / share, left, sizeof left);
    if (unit && rate > 0) snprintf(speed, sizeof speed, ", %.4g %s a second", rate, unit);
    snprintf(text, sizeof text, "%s: %.0f %%, %s left%s%s%s", what, 100 * share, left, speed,
        *doing ? ", " : "", doing); /* what a narrow terminal has no room for comes last */
    line_show(text);
}

void progress_begin(
    struct progress *p, const char *what, const char *unit, double total, bool quiet)
{
    *p = (struct progress){.what = what,
        .unit = unit,
        .total = total,
        .started_ns = clock_ns(),
        .quiet = quiet,
        .work = -1};
    if (part.work < 0) return;
    p->work = part.share * (part.work - part.told);
    part.share = 1;
}

/* The part's share of the whole, as far as it has not been counted. */
static void part_count(double more)
{
    all.done += more;
    part.told += more;
}

void progress_update(struct progress *p, double done)
{
    pthread_mutex_lock(&all.lock);
    double seconds = (double)(clock_ns() - p->started_ns) * 1e-9,
           share = p->total > 0 ? fmin(1, done / p->total) : 0;
    bool of_work = all.working && p->work >= 0;
    if (of_work) {
        double more = share * p->work - p->told;
        all.done += more;
        p->told += more;
    }
    if (p->quiet || all.quiet) goto unlock;
    if (of_work) {
        if (line_due(all.started_ns))
            line_write(all.what, part.doing[0] || !strcmp(p->what, all.what) ? part.doing : p->what,
                fmin(1, all.done / all.work), done / seconds, p->unit, all.started_ns);
    } else if (line_due(p->started_ns)) {
        line_write(p->what, "", share, done / seconds, p->unit, p->started_ns);
    }
unlock:
    pthread_mutex_unlock(&all.lock);
}

void progress_end(struct progress *p)
{
    pthread_mutex_lock(&all.lock);
    if (all.working && p->work >= 0) part.told += p->told;
    line_clear();
    pthread_mutex_unlock(&all.lock);
}

void progress_work_begin(const char *what, double work, bool quiet)
{
    pthread_mutex_lock(&all.lock);
    all.working = true;
    all.quiet = quiet;
    all.what = what;
    all.work = work;
    all.done = 0;
    all.started_ns = clock_ns();
    pthread_mutex_unlock(&all.lock);
}

void progress_share(double share) { part.share = share; }

void progress_part_end(void)
{
    pthread_mutex_lock(&all.lock);
    if (part.work >= 0) part_count(part.work - part.told);
    part.work = -1;
    part.told = 0;
    part.share = 1;
    pthread_mutex_unlock(&all.lock);
}

void progress_part(const char *doing, double work)
{
    progress_part_end();
    pthread_mutex_lock(&all.lock);
    snprintf(part.doing, sizeof part.doing, "%s", doing);
    part.work = work;
    if (all.working && !all.quiet && all.work > 0 && line_due(all.started_ns))
        line_write(all.what, doing, fmin(1, all.done / all.work), 0, NULL, all.started_ns);
    pthread_mutex_unlock(&all.lock);
}

void progress_work_end(void)
{
    progress_part_end();
    pthread_mutex_lock(&all.lock);
    all.working = false;
    all.quiet = false;
    line_clear();
    pthread_mutex_unlock(&all.lock);
}

void progress_hide(void)
{
    pthread_mutex_lock(&all.lock);
    line_clear();
    pthread_mutex_unlock(&all.lock);
}
