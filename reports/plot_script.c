#include "reports/plot_script.h"

#include "base/file.h"
#include "base/utf8.h"
#include "base/xmalloc.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
    for (size_t i = 0; i < p->n_tips; i++) str_clear(&p->tips[i].lines);
    free(p->elements);
    p->elements = NULL;
    p->n_elements = p->cap_elements = p->n_tips = 0;
}

void plot_frame(struct plot_script *p, const struct plot_frame *f)
{
    enum { LINE = 18, ABOVE = 8, BELOW = 20 };
    enum { SHORT = 22 }; /* letters of a line of the key that leave room for another beside it */
    size_t columns = f->longest_key && f->longest_key <= SHORT && f->n_key > 2 ? 2 : 1,
           rows = (f->n_key + columns - 1) / columns;
    int key = (int)rows * LINE, words = *f->ylabel ? 19 : 0, right = 15;
    int below = BELOW + LINE * f->below + (*f->xlabel ? 17 : 0), top = ABOVE + key + words;
    p->height = top + f->plot_height + below;
    double w = p->width, h = p->height;
    str_addf(&p->body,
        "set lmargin at screen %.5f\nset rmargin at screen %.5f\nset bmargin at screen %.5f\n"
        "set tmargin at screen %.5f\n",
        f->left / w, 1 - right / w, below / h, 1 - top / h);
    if (f->n_key)
        str_addf(&p->body,
            "set key at screen %.5f, screen %.5f left top Left reverse vertical maxcols %zu "
            "maxrows %zu samplen 1.4 spacing 1 width %d\n",
            2 / w, 1 - 2 / h, columns, rows, 0);
    else str_add(&p->body, "unset key\n");
    if (*f->ylabel) {
        str_add(&p->body, "set label 900 ");
        plot_quote(f->ylabel, &p->body);
        str_addf(&p->body, " at screen %.5f, screen %.5f left tc '" PLOT_INK "'\n", 8 / w,
            1 - (ABOVE + key + 7) / h);
    }
    if (*f->xlabel) {
        str_add(&p->body, "set label 901 ");
        plot_quote(f->xlabel, &p->body);
        str_addf(&p->body, " at screen %.5f, screen %.5f right tc '" PLOT_INK "'\n", 1 - right / w,
            10 / h);
    }
}

static void add_element(struct plot_script *p, int series, bool has_title, bool tips)
{
    if (p->n_elements == p->cap_elements) {
        p->cap_elements = p->cap_elements ? 2 * p->cap_elements : 16;
        p->elements = xrealloc(p->elements, p->cap_elements * sizeof *p->elements);
    }
    p->elements[p->n_elements++] = (struct plot_element){series, has_title, tips};
    str_add(&p->body, p->plotting ? ", \\\n    " : "plot ");
    p->plotting = true;
}

void plot_add(struct plot_script *p, int series, const char *title, const char *what, ...)
{
    add_element(p, series, title != NULL, false);
    va_list args;
    va_start(args, what);
    str_addv(&p->body, what, args);
    va_end(args);
    str_add(&p->body, title ? " title " : " notitle");
    if (title) plot_quote(title, &p->body);
}

void plot_tip(struct plot_script *p, int series, double x, double y, const char *words, ...)
{
    if (!isfinite(x) || !isfinite(y)) return;
    size_t i = 0;
    while (i < p->n_tips && p->tips[i].series != series) i++;
    if (i == PLOT_SERIES) i--;
    if (i == p->n_tips) {
        p->tips[i].series = series;
        p->tips[i].lines = (struct str){0};
        p->n_tips++;
    }
    struct str *out = &p->tips[i].lines;
    struct str text = {0};
    va_list args;
    va_start(args, words);
    str_addv(&text, words, args);
    va_end(args);
    str_addf(out, "%.9g %.9g \"", x, y);
    size_t begin = out->len;
    for (const char *c = str_get(&text); *c;
         c++) { /* quotes would end the text here or in gnuplot's SVG */
        if (*c == '"' || *c == '\'' || *c == '`') str_add(out, "’");
        else str_add_char(out, (unsigned char)*c < 0x20 ? ' ' : *c == '\\' ? '/' : *c);
    }
    utf8_repair_in(out, begin);
    str_add(out, "\"\n");
    str_clear(&text);
}

void plot_end(struct plot_script *p)
{
    if (!p->plotting) return;
    for (size_t i = 0; i < p->n_tips; i++) {
        size_t block = p->n_blocks++;
        str_addf(&p->data, "$tips%zu << EOD\n%sEOD\n", block, str_get(&p->tips[i].lines));
        str_clear(&p->tips[i].lines);
        add_element(p, p->tips[i].series, false, true);
        str_addf(&p->body,
            "$tips%zu using 1:2:3 with labels hypertext point pt 7 ps 1 lc rgb '#ff000000' notitle",
            block);
    }
    p->n_tips = 0;
    p->plotting = false;
    str_add_char(&p->body, '\n');
}

const char *plot_interval(double lo, double hi, const char *format)
{
    static char texts[4][64];
    static unsigned next;
    char *text = texts[next++ % 4], one[24], two[24];
    if (!isfinite(lo) || !isfinite(hi)) return "";
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(one, sizeof one, format, lo);
    snprintf(two, sizeof two, format, hi);
#pragma GCC diagnostic pop
    snprintf(text, sizeof texts[0], " [%s, %s]", one, two);
    return text;
}

void plot_color_scale(
    struct plot_script *p, double lo, double hi, const char *lo_words, const char *hi_words)
{
    enum { STEPS = 12 };
    double w = p->width, h = p->height, from = .3, to = .75, y = 23 / h, high = 8 / h;
    str_add(&p->body, plot_heat_palette);
    str_addf(&p->body, "set cbrange [%.9g:%.9g]\nunset colorbox\n", lo, hi);
    for (int i = 0; i < STEPS; i++)
        str_addf(&p->body,
            "set object %d rectangle from screen %.5f, screen %.5f to screen %.5f, screen %.5f fc "
            "palette frac "
            "%.4f fs solid noborder\n",
            700 + i, from + (to - from) * i / STEPS, y, from + (to - from) * (i + 1) / STEPS,
            y + high, (double)i / (STEPS - 1));
    str_add(&p->body, "set label 902 ");
    plot_quote(lo_words, &p->body);
    str_addf(&p->body, " at screen %.5f, screen %.5f right tc '" PLOT_INK "'\nset label 903 ",
        from - 4 / w, y + high / 2);
    plot_quote(hi_words, &p->body);
    str_addf(&p->body, " at screen %.5f, screen %.5f left tc '" PLOT_INK "'\n", to + 4 / w,
        y + high / 2);
}

void plot_log_axis(struct plot_script *p, const char *axis, double lo, double hi)
{
    if (!(hi > lo)) hi = 2 * lo;
    double decades = log10(hi / lo);
    static const int all[] = {1, 2, 5};
    int step = decades > 7 ? 2 : 1, n = decades < 1.2 ? 3 : decades < 2.2 ? 2 : 1;
    str_addf(&p->body, "set logscale %s\nset %srange [%.12g:%.12g]\nset %stics (", axis, axis, lo,
        hi, axis);
    size_t used = 0;
    for (int e = (int)floor(log10(lo)); e <= (int)ceil(log10(hi)); e++)
        for (int k = 0; k < n; k++) {
            double at = (n == 2 && k ? 3 : all[k]) * pow(10, e);
            if (at < lo * .999 || at > hi * 1.001 || (n == 1 && step == 2 && e % 2)) continue;
            str_addf(&p->body, "%s'%g' %.6g", used++ ? ", " : "", at, at);
        }
    str_add(&p->body, used ? ")\n" : "'' 1)\n");
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
        "#0072b2", "#d55e00", "#00815e", "#b0568a", "#a86f00", "#2b8cc4", "#000000"};
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

void plot_name(const struct run_view *const *views, size_t n, size_t i, struct str *out)
{
    struct str mine = {0};
    bool twice = false;
    run_short_name(views[i]->run, &mine);
    for (size_t k = 0; k < n && !twice; k++) {
        struct str other = {0};
        run_short_name(views[k]->run, &other);
        twice = k != i && !strcmp(str_get(&mine), str_get(&other));
        str_clear(&other);
    }
    if (twice) plot_label(views[i], out);
    else str_add(out, str_get(&mine));
    str_clear(&mine);
}

void plot_label(const struct run_view *v, struct str *out)
{
    str_addf(out, "%s: ", v->label);
    run_short_name(v->run, out);
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
        "set terminal svg noenhanced size %d,%d dynamic font 'Helvetica,Arial,sans-serif,12' "
        "background '#ffffff'\n} else {\n"
        "set terminal pngcairo noenhanced size %d,%d font 'sans,12' fontscale 2.2 linewidth 2.4 "
        "pointscale 2.4 background '#ffffff'\n}\n",
        p->width, p->height, 3 * p->width, 3 * p->height);
    str_addf(out, "set output \"%s.\".kind\n", p->name);
    str_add(out,
        "set border 3 lw 1 lc '#404040'\nset tics nomirror textcolor '" PLOT_INK "' scale 0.5\n"
        "set xtics offset 0,0.3\nset grid lt 1 lw 1 lc '#dddddd'\n");
    str_add(out, str_get(&p->body));
    str_add(out, "\nset output\n}\n");
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

/* gnuplot's SVG as pages and people want it, in its place. */
static enum status tidy(const struct plot_script *p)
{
    char *file = str_format("%s.svg", p->name), *path = path_join(p->out->dir, file);
    struct str drawn = {0}, tidied = {0};
    enum status st = file_read(&drawn, path);
    if (st == OK) st = plot_svg_tidy(str_get(&drawn), p->elements, p->n_elements, &tidied);
    if (st == OK) st = file_write_text(path, &tidied);
    str_clear(&drawn);
    str_clear(&tidied);
    free(path);
    free(file);
    return st;
}

static enum status draw(struct plot_script *p)
{
    plot_end(p);
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
    if (st == OK) st = plot_drawer_run(p->out, p->name, &script);
    if (st == OK) st = tidy(p);
    if (st != OK) remove_pictures(p); /* half a picture is none */
    str_clear(&script);
    return st;
}

enum status plot_script_run(struct plot_script *p)
{
    enum status st = draw(p);
    plot_script_clear(p);
    return st;
}
