#include "reports/plot_script.h"

#include "base/file.h"
#include "base/utf8.h"

#include <errno.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

const char plot_heat_palette[] = /* stops of viridis (van der Walt and Smith, CC0) */
    "set palette defined (0 '#440154', 1 '#472d7b', 2 '#3b528b', 3 '#2c728e', 4 '#21918c', 5 "
    "'#28ae80', "
    "6 '#5ec962', 7 '#addc30', 8 '#fde725')\n";

void plot_script_init(
    struct plot_script *p, const struct plot_out *out, const char *name, int width, int height)
{
    *p = (struct plot_script){.out = out, .name = name, .width = width, .height = height};
}

void plot_script_clear(struct plot_script *p)
{
    str_clear(&p->data);
    str_clear(&p->body);
    str_clear(&p->sql);
}

void plot_quote(const char *text, struct str *out)
{
    size_t begin = out->len;
    str_add_char(out, '"');
    for (const char *p = text; *p; p++) {
        if ((unsigned char)*p < 0x20) {
            str_add_char(out, ' ');
            continue;
        }
        if (*p == '"' || *p == '\\') str_add_char(out, '\\');
        if (*p == '`') { /* would run a command */
            str_add_char(out, '\'');
            continue;
        }
        str_add_char(out, *p);
    }
    str_add_char(out, '"');
    utf8_repair_in(out, begin);
}

void plot_number(double value, struct str *out)
{
    if (isfinite(value)) str_addf(out, " %.9g", value);
    else str_add(out, " NaN");
}

const char *plot_color(size_t i)
{
    static const char *const colors[] = {
        "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000"};
    return colors[i % (sizeof colors / sizeof *colors)];
}

int plot_marker(size_t i)
{
    static const int markers[] = {7, 5, 9, 13, 11, 15};
    return markers[i % (sizeof markers / sizeof *markers)];
}

int plot_marker_hollow(size_t i) { return plot_marker(i) - 1; }

void plot_run_ids(const struct run_view *const *views, size_t n, struct str *out)
{
    size_t used = 0;
    for (size_t i = 0; i < n; i++)
        if (!views[i]->from_file)
            str_addf(out, "%s%lld", used++ ? ", " : "", (long long)views[i]->run->id);
    if (!used) str_add(out, "NULL");
}

void plot_label(const struct run_view *v, struct str *out)
{
    str_addf(out, "%s: ", v->label);
    run_short_name(v->run, out);
}

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

enum status plot_available(void)
{
    char *gnuplot = find_gnuplot();
    if (!gnuplot)
        return fail(ERR_UNSUPPORTED,
            "gnuplot: not found in PATH, so no pictures are drawn; install it with "
            "`apt-get install gnuplot-nox` (Debian, Ubuntu), `dnf install gnuplot` "
            "(Fedora) or `brew install gnuplot` (macOS)");
    free(gnuplot);
    return OK;
}

static void compose(const struct plot_script *p, struct str *out)
{
    str_addf(out,
        "# gnuplot script, complete with its data: run `gnuplot %s.gp` in this folder to draw it "
        "again\n",
        p->name);
    str_add(out, "set encoding utf8\n");
    str_add(out, str_get(&p->data));
    const char *kinds = p->out->no_png ? "svg" : "svg png";
    /* the first picture leaves nothing to the second */
    str_addf(out, "do for [kind in \"%s\"] {\nreset\n", kinds);
    str_addf(out,
        "if (kind eq \"svg\") {\n"
        "set terminal svg noenhanced size %d,%d dynamic font 'Helvetica,Arial,sans-serif,14' "
        "background '#ffffff'\n} else {\n"
        "set terminal pngcairo noenhanced size %d,%d font 'sans,14' fontscale 1.5 linewidth 1.6 "
        "pointscale 1.6 background '#ffffff'\n}\n",
        p->width, p->height, 2 * p->width, 2 * p->height);
    str_addf(out, "set output \"%s.\".kind\n", p->name);
    str_add(out,
        "set border 3 lw 1 lc '#404040'\nset tics nomirror textcolor '#202020'\n"
        "set grid lt 1 lw 1 lc '#dddddd'\nset key outside top center horizontal Left reverse "
        "samplen 2.5\n");
    str_add(out, str_get(&p->body));
    str_add(out, "\nset output\n}\n");
}

/* Send everything, without a signal when the reader is gone. */
static void send_all(int fd, const char *data, size_t size)
{
    while (size > 0) {
        ssize_t n = send(fd, data, size, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return;
        data += n;
        size -= (size_t)n;
    }
}

static enum status run_gnuplot(
    const char *gnuplot, const char *dir, const char *name, const struct str *script)
{
    int pipe_ends[2], words = memfd_create("gnuplot-messages", MFD_CLOEXEC);
    if (words < 0 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pipe_ends) < 0) {
        if (words >= 0) close(words);
        return fail(ERR_IO, "gnuplot: cannot open a pipe to it: %s", strerror(errno));
    }
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, pipe_ends[0], 0);
    posix_spawn_file_actions_adddup2(&actions, words, 1);
    posix_spawn_file_actions_adddup2(&actions, words, 2);
    posix_spawn_file_actions_addchdir_np(&actions, dir);
    char *argv[] = {"gnuplot", "-d", "-", NULL}; /* -d: no ~/.gnuplot */
    pid_t pid;
    int code = posix_spawn(&pid, gnuplot, &actions, NULL, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    close(pipe_ends[0]);
    enum status st = OK;
    if (code) {
        st = fail(ERR_IO, "gnuplot: cannot start %s: %s", gnuplot, strerror(code));
    } else {
        send_all(pipe_ends[1], str_get(script), script->len);
        shutdown(pipe_ends[1], SHUT_WR);
        int result = 0;
        while (waitpid(pid, &result, 0) < 0 && errno == EINTR) {}
        if (!WIFEXITED(result) || WEXITSTATUS(result) != 0) {
            char text[512] = "";
            ssize_t n = pread(words, text, sizeof text - 1, 0);
            text[n > 0 ? n : 0] = 0;
            st = fail(ERR_IO, "gnuplot could not draw %s/%s: %s; the script is %s.gp beside it",
                dir, name, *text ? text : "no message", name);
        }
    }
    close(pipe_ends[1]);
    close(words);
    return st;
}

static enum status write_beside(const struct plot_script *p, const char *suffix, struct str *text)
{
    char *file = str_format("%s%s", p->name, suffix), *path = path_join(p->out->dir, file);
    enum status st = file_write_text(path, text);
    free(path);
    free(file);
    return st;
}

/* Old pictures must not pass for new ones. */
static void remove_pictures(const struct plot_script *p)
{
    static const char *const suffixes[] = {".svg", ".png"};
    for (int i = 0; i < 2; i++) {
        char *file = str_format("%s%s", p->name, suffixes[i]), *path = path_join(p->out->dir, file);
        unlink(path);
        free(path);
        free(file);
    }
}

static enum status draw(struct plot_script *p)
{
    TRY(file_make_dirs(p->out->dir));
    remove_pictures(p);
    struct str script = {0}, sql = {0};
    compose(p, &script);
    str_addf(&sql, "-- data of %s.svg", p->name);
    if (p->out->db) {
        str_add(&sql, "; run: sqlite3 '");
        utf8_add_shown(&sql, p->out->db); /* a comment ends with its line */
        str_addf(&sql, "' < %s.sql", p->name);
    }
    str_addf(&sql, "\n.headers on\n%s\n", str_get(&p->sql));
    enum status st = write_beside(p, ".gp", &script);
    if (st == OK) st = write_beside(p, ".sql", &sql);
    str_clear(&sql);
    char *gnuplot = find_gnuplot();
    if (st == OK && !gnuplot) st = plot_available();
    if (st == OK) st = run_gnuplot(gnuplot, p->out->dir, p->name, &script);
    if (st != OK) remove_pictures(p); /* half a picture is none */
    free(gnuplot);
    str_clear(&script);
    return st;
}

enum status plot_script_run(struct plot_script *p)
{
    enum status st = draw(p);
    plot_script_clear(p);
    return st;
}
