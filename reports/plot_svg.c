#include "reports/plot_svg.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_ATTRIBUTES = 24, MAX_DEPTH = 32, MAX_MARKERS = 32 };

/* Borrowed from the text. */
struct span {
    const char *at;
    size_t n;
};

struct attribute {
    struct span name, value;
};

struct tag {
    struct span name;
    struct attribute attributes[MAX_ATTRIBUTES];
    size_t n;
    bool closes, empty; /* </g>, <path/> */
};

/* An open group: where it was written, so that an empty one can be taken back. */
struct group {
    size_t before, after;
    bool unwritten; /* it changed nothing, so neither end is there */
};

struct tidy {
    const struct plot_element *elements;
    size_t n_elements, element; /* the next */
    struct str *out;
    struct group groups[MAX_DEPTH];
    size_t depth;
    struct span tip;     /* words of the hypertext that is open */
    bool in_tips, first; /* of the element: only tips; its first words have not come yet */
    size_t element_depth;
    struct span markers[MAX_MARKERS];
    size_t n_markers;
};

static bool span_is(struct span s, const char *text)
{
    return s.n == strlen(text) && !memcmp(s.at, text, s.n);
}

static bool span_starts(struct span s, const char *text)
{
    return s.n >= strlen(text) && !memcmp(s.at, text, strlen(text));
}

static const char *skip_space(const char *p)
{
    while (isspace((unsigned char)*p)) p++;
    return p;
}

static bool name_char(char c)
{
    return isalnum((unsigned char)c) || c == ':' || c == '-' || c == '_';
}

/* The tag at p, which is a '<'; returns what follows it, NULL when it does not end. */
static const char *tag_read(const char *p, struct tag *t)
{
    *t = (struct tag){0};
    p++;
    if (*p == '/') t->closes = true, p++;
    t->name.at = p;
    while (name_char(*p)) p++;
    t->name.n = (size_t)(p - t->name.at);
    for (;;) {
        p = skip_space(p);
        if (!*p) return NULL;
        if (*p == '>') return p + 1;
        if (*p == '/') {
            t->empty = true;
            p++;
            continue;
        }
        struct attribute a = {.name.at = p};
        while (name_char(*p)) p++;
        a.name.n = (size_t)(p - a.name.at);
        if (!a.name.n) { /* nothing of an attribute: pass it over */
            p++;
            continue;
        }
        p = skip_space(p);
        if (*p != '=') continue;
        p = skip_space(p + 1);
        char quote = *p;
        if (quote != '"' && quote != '\'') return NULL;
        a.value.at = ++p;
        while (*p && *p != quote) p++;
        if (!*p) return NULL;
        a.value.n = (size_t)(p++ - a.value.at);
        if (t->n < MAX_ATTRIBUTES) t->attributes[t->n++] = a;
    }
}

static struct span attribute(const struct tag *t, const char *name)
{
    for (size_t i = 0; i < t->n; i++)
        if (span_is(t->attributes[i].name, name)) return t->attributes[i].value;
    return (struct span){"", 0};
}

/* "rgb(  0, 114, 178)" and names become #rrggbb; lists of points lose what repeats. */
static void add_value(struct span v, struct str *out)
{
    int r, g, b;
    if (span_starts(v, "rgb(") && sscanf(v.at, "rgb(%d,%d,%d)", &r, &g, &b) == 3) {
        str_addf(out, "#%02x%02x%02x", (unsigned)r & 255, (unsigned)g & 255, (unsigned)b & 255);
        return;
    }
    if (span_is(v, "black")) v = (struct span){"#000000", 7};
    if (v.n == 7 && *v.at == '#' &&
        isxdigit((unsigned char)v.at[1])) { /* as page.css writes them */
        for (size_t i = 0; i < v.n; i++) str_add_char(out, (char)tolower((unsigned char)v.at[i]));
        return;
    }
    while (v.n && isspace((unsigned char)v.at[v.n - 1])) v.n--;
    bool space = false;
    for (size_t i = 0; i < v.n; i++) {
        bool is_space = isspace((unsigned char)v.at[i]);
        if (is_space && space) continue;
        space = is_space;
        if (is_space) str_add_char(out, ' ');
        else if (v.at[i] == '"') str_add(out, "&quot;");
        else str_add_char(out, v.at[i]);
    }
}

/* What every drawing says of every line of it, said once by the outermost group. */
static bool is_default(const struct attribute *a)
{
    static const char *const defaults[][2] = {{"fill", "none"}, {"color", "black"},
        {"stroke", "currentColor"}, {"stroke-width", "1.00"}, {"stroke-linecap", "butt"},
        {"stroke-linejoin", "miter"}, {"font-size", "12.00"}};
    for (size_t i = 0; i < sizeof defaults / sizeof *defaults; i++)
        if (span_is(a->name, defaults[i][0]) && span_is(a->value, defaults[i][1])) return true;
    return span_is(a->name, "font-family");
}

static void add_tag(const struct tag *t, bool is_group, struct str *out)
{
    str_addf(out, "<%.*s", (int)t->name.n, t->name.at);
    for (size_t i = 0; i < t->n; i++) {
        const struct attribute *a = &t->attributes[i];
        if (is_group && is_default(a)) continue;
        struct span name = a->name; /* as of SVG 2 */
        if (span_is(name, "xlink:href")) name = (struct span){"href", 4};
        str_addf(out, " %.*s=\"", (int)name.n, name.at);
        add_value(a->value, out);
        str_add_char(out, '"');
    }
    if (span_is(t->name, "rect") && attribute(t, "fill").n && !attribute(t, "id").n &&
        !attribute(t, "stroke").n)
        str_add(out, " stroke=\"none\""); /* the ground has no edge */
    str_add(out, t->empty ? "/>" : ">");
}

static void group_open(struct tidy *d, size_t before, bool unwritten)
{
    if (d->depth < MAX_DEPTH) d->groups[d->depth] = (struct group){before, d->out->len, unwritten};
    d->depth++;
}

static void group_close(struct tidy *d)
{
    if (!d->depth) return;
    d->depth--;
    if (d->depth == d->element_depth) d->in_tips = d->first = false;
    const struct group *g = d->depth < MAX_DEPTH ? &d->groups[d->depth] : NULL;
    if (g && g->unwritten) return;
    if (g && d->out->len == g->after) { /* nothing is in it */
        d->out->len = g->before;
        if (d->out->data) d->out->data[g->before] = 0;
        return;
    }
    str_add(d->out, "</g>");
    if (d->depth <= 2) str_add_char(d->out, '\n');
}

static void open_element(struct tidy *d)
{
    static const struct plot_element unknown = {.series = -1};
    const struct plot_element *e = d->element < d->n_elements ? &d->elements[d->element] : &unknown;
    d->element++;
    size_t before = d->out->len;
    str_add(d->out, "<g");
    if (e->series >= 0) str_addf(d->out, " data-s=\"%d\"", e->series);
    if (e->tips)
        str_add(d->out, " class=\"tips\" fill=\"#000000\" fill-opacity=\"0\" stroke=\"none\"");
    str_add_char(d->out, '>');
    d->in_tips = e->tips;
    d->first = e->has_title;
    d->element_depth = d->depth;
    group_open(d, before, false);
}

static void handle_group(struct tidy *d, const struct tag *t)
{
    size_t before = d->out->len;
    struct span id = attribute(t, "id"), hover = attribute(t, "onmousemove");
    if (span_starts(id, "gnuplot_plot_")) {
        open_element(d);
        return;
    }
    if (span_is(id, "gnuplot_canvas")) {
        str_add(d->out, "<g fill=\"none\" color=\"#000000\" stroke=\"currentColor\">\n");
        group_open(d, 0, false);
        return;
    }
    if (hover.n) {
        const char *from = memchr(hover.at, '\'', hover.n), *end = hover.at + hover.n, *to = end;
        while (to > hover.at && *to != '\'') to--;
        if (from && to > from) d->tip = (struct span){from + 1, (size_t)(to - from - 1)};
        group_open(d, before, true);
        return;
    }
    size_t kept = 0;
    for (size_t i = 0; i < t->n; i++) kept += !is_default(&t->attributes[i]);
    if (kept) {
        bool words = attribute(t, "text-anchor").n > 0;
        add_tag(t, true, d->out);
        if (words && d->first) {
            d->out->len--; /* the '>' */
            str_add(d->out, " class=\"key\">");
            d->first = false;
        }
    }
    group_open(d, before, kept == 0);
}

/* A marker of a hypertext becomes a place to point at. */
static bool add_tip(struct tidy *d, const struct tag *t)
{
    struct span move = attribute(t, "transform"), x = attribute(t, "x"), y = attribute(t, "y");
    double cx, cy;
    if (!d->tip.n || !span_is(t->name, "use")) return false;
    if (sscanf(move.at, "translate(%lf,%lf)", &cx, &cy) != 2 &&
        (sscanf(x.at, "%lf", &cx) != 1 || sscanf(y.at, "%lf", &cy) != 1))
        return false;
    str_addf(d->out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"6\"><title>", cx, cy);
    for (size_t i = 0; i < d->tip.n; i++) /* lines are told apart by what gnuplot lets through */
        str_add_char(d->out, d->tip.at[i] == '|' ? '\n' : d->tip.at[i]);
    str_add(d->out, "</title></circle>\n");
    d->tip.n = 0;
    return true;
}

/* The white dots that gnuplot lays under markers, and every marker among the tips. */
static bool is_backing(const struct tidy *d, const struct tag *t)
{
    return span_is(t->name, "use") && (d->in_tips || span_is(attribute(t, "color"), "#FFFFFF"));
}

/* The markers of the head that the drawing refers to, and those that these refer to. */
static void add_markers(const struct tidy *d, size_t at, struct str *out)
{
    struct str kept = {0};
    for (size_t i = d->n_markers; i-- > 0;) {
        struct tag t;
        if (!tag_read(d->markers[i].at, &t)) continue;
        struct span id = attribute(&t, "id");
        char reference[64];
        snprintf(reference, sizeof reference, "#%.*s\"", (int)id.n, id.at);
        if (!strstr(str_get(out) + at, reference) &&
            !(kept.len && strstr(str_get(&kept), reference)))
            continue;
        struct str all = {0};
        add_tag(&t, false, &all);
        str_addf(&all, "\n%s", str_get(&kept));
        str_clear(&kept);
        kept = all;
    }
    struct str body = {0};
    str_add(&body, str_get(out) + at);
    out->len = at;
    if (kept.len) str_addf(out, "<defs>%s</defs>\n", str_get(&kept));
    str_add(out, str_get(&body));
    str_clear(&body);
    str_clear(&kept);
}

/* Past the end of an element whose contents are of no use. */
static const char *skip_element(const char *p, const char *end)
{
    const char *at = strstr(p, end);
    return at ? at + strlen(end) : p + strlen(p);
}

static const char *head_markers(struct tidy *d, const char *p)
{
    const char *end = strstr(p, "</defs>");
    while (end && (p = strchr(p, '<')) && p < end) {
        struct tag t;
        const char *next = tag_read(p, &t);
        if (!next) break;
        if (span_is(t.name, "filter") && !t.closes) next = skip_element(next, "</filter>");
        else if (t.empty && attribute(&t, "id").n && d->n_markers < MAX_MARKERS)
            d->markers[d->n_markers++] = (struct span){p, (size_t)(next - p)};
        p = next;
    }
    return end ? end + strlen("</defs>") : p;
}

enum status plot_svg_tidy(
    const char *svg, const struct plot_element *elements, size_t n, struct str *out)
{
    struct tidy d = {.elements = elements, .n_elements = n, .out = out};
    const char *p = strstr(svg, "<svg");
    if (!p) return fail(ERR_FORMAT, "found no <svg> in the picture");
    size_t drawing = 0;
    while (*p) {
        struct tag t;
        if (*p != '<') {
            if (d.depth && !(isspace((unsigned char)*p))) str_add_char(out, *p);
            p++;
            continue;
        }
        const char *next = tag_read(p, &t);
        if (!next) return fail(ERR_FORMAT, "a tag of the picture does not end: %.40s", p);
        p = next;
        if (span_is(t.name, "svg")) {
            if (t.closes) {
                str_add(out, "</svg>\n");
                continue;
            }
            struct span box = attribute(&t, "viewBox");
            str_addf(out,
                "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"%.*s\" "
                "font-family=\"Helvetica,Arial,sans-serif\" font-size=\"12\">\n",
                (int)box.n, box.at);
            drawing = out->len;
        } else if (span_is(t.name, "title")) {
            p = skip_element(p, "</title>");
        } else if (span_is(t.name, "desc")) {
            p = skip_element(p, "</desc>");
        } else if (span_is(t.name, "defs")) {
            p = head_markers(&d, p);
        } else if (span_is(t.name, "g")) {
            if (t.closes) group_close(&d);
            else handle_group(&d, &t);
        } else if (span_is(t.name, "text") && !t.closes) {
            const char *end = strchr(p, '<');
            add_tag(&t, false, out);
            p = skip_space(p);
            while (end && p < end) str_add_char(out, *p++);
        } else if (t.closes) {
            str_addf(out, "</%.*s>", (int)t.name.n, t.name.at);
        } else if (!add_tip(&d, &t) && !is_backing(&d, &t)) {
            add_tag(&t, false, out);
        }
    }
    add_markers(&d, drawing, out);
    return OK;
}
