/* gnuplot, started once and asked for one picture after another: starting it takes as long as a
 * picture. Behind each script it prints a word; one that it could not draw is the last it gets. */
#include "reports/plot_script.h"

#include "base/file.h"

#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PATIENCE_S = 60 }; /* a picture takes a few hundredths of one */

extern char **environ;

/* And nothing of a picture is left to the next. */
static const char over[] = "set print '-'\nprint GPVAL_ERRNO == 0 ? 'drawn' : 'fault'\n"
                           "reset session\n",
                  drawn[] = "drawn\n";

/* Full path of gnuplot, NULL when it is not in PATH. The caller frees it. */
static char *find_gnuplot(void)
{
    const char *path = getenv("PATH");
    if (!path) return NULL;
    char *copy = str_dup(path), *found = NULL;
    for (char *save = NULL, *dir = strtok_r(copy, ":", &save); dir && !found;
         dir = strtok_r(NULL, ":", &save)) {
        char *candidate = path_join(dir, "gnuplot");
        if (access(candidate, X_OK) == 0 && !file_is_dir(candidate)) found = candidate;
        else free(candidate);
    }
    free(copy);
    return found;
}

static enum status drawer_program(char **gnuplot)
{
    *gnuplot = find_gnuplot();
    return *gnuplot ? OK
                    : fail(ERR_UNSUPPORTED,
                          "gnuplot: not found in PATH, so no pictures are drawn; install it with "
                          "`apt-get install gnuplot-nox` (Debian, Ubuntu), `dnf install gnuplot` "
                          "(Fedora) or `brew install gnuplot` (macOS)");
}

enum status plot_available(void)
{
    char *gnuplot;
    enum status st = drawer_program(&gnuplot);
    free(gnuplot);
    return st;
}

/* Everything, without a signal when the reader is gone. */
static void drawer_send(const struct plot_drawer *d, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t n = send(d->talk, data, size, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return;
        data += n;
        size -= (size_t)n;
    }
}

/* False: it could not, has ended, or says nothing for so long that it never will. */
static bool drawer_has_drawn(const struct plot_drawer *d)
{
    char text[sizeof drawn];
    for (size_t n = 0; n < sizeof drawn - 1;) {
        ssize_t more = recv(d->talk, text + n, sizeof drawn - 1 - n, 0);
        if (more < 0 && errno == EINTR) continue;
        if (more < 0 && errno == EAGAIN) kill(d->pid, SIGKILL);
        if (more <= 0) return false;
        n += (size_t)more;
    }
    return memcmp(text, drawn, sizeof drawn - 1) == 0;
}

static enum status drawer_start(struct plot_drawer *d, const char *gnuplot, const char *dir)
{
    int ends[2], words = memfd_create("gnuplot-messages", MFD_CLOEXEC);
    if (words < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) {
        if (words >= 0) close(words);
        return fail(ERR_IO, "gnuplot: cannot open a pipe to it: %s", strerror(errno));
    }
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, ends[0], 0);
    posix_spawn_file_actions_adddup2(&actions, ends[0], 1);
    posix_spawn_file_actions_adddup2(&actions, words, 2);
    posix_spawn_file_actions_addchdir_np(&actions, dir);
    char *argv[] = {"gnuplot", "-d", "-", NULL}; /* -d: no ~/.gnuplot */
    pid_t pid = 0;
    int code = posix_spawn(&pid, gnuplot, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(ends[0]);
    if (code) {
        close(ends[1]);
        close(words);
        return fail(ERR_IO, "gnuplot: cannot start %s: %s", gnuplot, strerror(code));
    }
    struct timeval patience = {.tv_sec = PATIENCE_S};
    setsockopt(ends[1], SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    *d = (struct plot_drawer){pid, ends[1], words};
    return OK;
}

void plot_drawer_close(struct plot_drawer *d)
{
    if (!d->pid) return;
    close(d->talk);
    close(d->messages);
    while (waitpid(d->pid, NULL, 0) < 0 && errno == EINTR) {}
    *d = (struct plot_drawer){0};
}

static enum status drawer_draw(
    struct plot_drawer *d, const char *dir, const char *name, const struct str *script)
{
    off_t before = lseek(d->messages, 0, SEEK_END);
    drawer_send(d, str_get(script), script->len);
    drawer_send(d, over, sizeof over - 1);
    if (drawer_has_drawn(d)) return OK;
    char text[512] = "";
    ssize_t n = pread(d->messages, text, sizeof text - 1, before);
    text[n > 0 ? n : 0] = 0;
    plot_drawer_close(d);
    return fail(ERR_IO, "gnuplot could not draw %s/%s: %s; the script is %s.gp beside it", dir,
        name, *text ? text : "no message", name);
}

enum status plot_drawer_run(const struct plot_out *out, const char *name, const struct str *script)
{
    struct plot_drawer own = {0}, *d = out->drawer ? out->drawer : &own;
    enum status st = OK;
    if (!d->pid) {
        char *gnuplot;
        st = drawer_program(&gnuplot);
        if (st == OK) st = drawer_start(d, gnuplot, out->dir);
        free(gnuplot);
    }
    if (st == OK) st = drawer_draw(d, out->dir, name, script);
    plot_drawer_close(&own);
    return st;
}
