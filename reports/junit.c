#include "reports/junit.h"

#include "base/utf8.h"
#include "base/xmalloc.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void xml_escape(const char *text, struct str *out)
{
    for (const char *p = text; *p;) {
        uint32_t cp;
        size_t n = utf8_read(p, strnlen(p, 4), &cp);
        switch (*p) {
        case '&': str_add(out, "&amp;"); break;
        case '<': str_add(out, "&lt;"); break;
        case '>': str_add(out, "&gt;"); break;
        case '"': str_add(out, "&quot;"); break;
        case '\'': str_add(out, "&#39;"); break;
        default:
            if (cp == UINT32_MAX) str_add(out, "\xef\xbf\xbd"); /* U+FFFD for what is no text */
            else if (n > 1 || (unsigned char)*p >= 0x20 || *p == '\n' || *p == '\t')
                str_add_bytes(out, p, n);
        }
        p += n;
    }
}

const char *check_outcome_name(enum check_outcome outcome)
{
    static const char *const names[] = {"pass", "fail", "ambiguous", "invalid", "skipped"};
    return names[outcome];
}

static const char *message_of(const struct gate_check *c) { return c->message ? c->message : ""; }

/* "0.971 (0.968 … 0.974) >= 0.98", or as much of it as is known */
static void add_measured(const struct gate_check *c, struct str *out)
{
    if (isnan(c->value)) str_add(out, "no value");
    else str_addf(out, "%.6g", c->value);
    if (!isnan(c->lo) && !isnan(c->hi)) str_addf(out, " (%.6g … %.6g)", c->lo, c->hi);
    if (!isnan(c->bound)) str_addf(out, ", bound %s %.6g", c->op, c->bound);
}

static void add_attribute(struct str *out, const char *name, const char *value)
{
    struct str escaped = {0};
    xml_escape(value, &escaped);
    str_addf(out, " %s=\"", name);
    for (const char *p = str_get(&escaped); *p;
         p++) { /* a line break in an attribute would read back as a space */
        if (*p == '\n') str_add(out, "&#10;");
        else str_add_char(out, *p);
    }
    str_add_char(out, '"');
    str_clear(&escaped);
}

static size_t count(const struct gate_check *checks, size_t n, enum check_outcome outcome)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++) k += checks[i].outcome == outcome;
    return k;
}

void junit_xml(const struct gate_check *checks, size_t n, const char *suite, const char *warning,
    double wall_s, const char *utc, struct str *out)
{
    size_t failures = count(checks, n, CHECK_FAIL) + count(checks, n, CHECK_AMBIGUOUS);
    size_t errors = count(checks, n, CHECK_INVALID), skipped = count(checks, n, CHECK_SKIPPED);
    char moment[20]; /* readers of JUnit files want the time without a zone */
    snprintf(moment, sizeof moment, "%.19s", utc);
    str_add(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    str_add(out, "<testsuites>\n  <testsuite id=\"0\" package=\"sparsegauge\"");
    add_attribute(out, "name", suite);
    add_attribute(out, "timestamp", moment);
    str_addf(out,
        " hostname=\"localhost\" tests=\"%zu\" failures=\"%zu\" errors=\"%zu\" skipped=\"%zu\" "
        "time=\"%.3f\">\n",
        n, failures, errors, skipped, wall_s);
    if (warning) {
        str_add(out, "    <properties>\n      <property name=\"warning\"");
        add_attribute(out, "value", warning);
        str_add(out, "/>\n    </properties>\n");
    } else {
        str_add(out, "    <properties/>\n");
    }
    for (size_t i = 0; i < n; i++) {
        const struct gate_check *c = &checks[i];
        static const char *const tags[] = {NULL, "failure", "failure", "error", "skipped"};
        struct str measured = {0};
        add_measured(c, &measured);
        str_add(out, "    <testcase");
        add_attribute(out, "name", c->name);
        add_attribute(out, "classname",
            c->identity      ? c->identity
                : c->subject ? c->subject
                             : suite);
        str_add(out, " time=\"0.000\"");
        const char *tag = tags[c->outcome];
        if (!tag) {
            str_add(out, "/>\n");
        } else {
            str_addf(out, ">\n      <%s", tag);
            add_attribute(out, "message", message_of(c));
            if (c->outcome != CHECK_SKIPPED) {
                add_attribute(out, "type", check_outcome_name(c->outcome));
                str_add_char(out, '>');
                xml_escape(str_get(&measured), out);
                str_addf(out, "</%s>\n", tag);
            } else {
                str_add(out, "/>\n");
            }
            str_add(out, "    </testcase>\n");
        }
        str_clear(&measured);
    }
    str_add(out, "    <system-out/>\n    <system-err/>\n  </testsuite>\n</testsuites>\n");
}

/* Worst first: broken runs, then broken bounds by how far, then undecided ones. */
static int severity(const struct gate_check *c)
{
    static const int order[] = {0, 3, 2, 4, 1};
    return order[c->outcome];
}

static double overshoot(const struct gate_check *c)
{
    double by = fabs(c->value - c->bound) / fmax(fabs(c->bound), 1e-12);
    return isnan(by) ? 0 : by;
}

static int compare_severity(const void *x, const void *y)
{
    const struct gate_check *a = *(const struct gate_check *const *)x,
                            *b = *(const struct gate_check *const *)y;
    if (severity(a) != severity(b)) return severity(b) - severity(a);
    double oa = overshoot(a), ob = overshoot(b);
    return oa != ob ? (oa > ob ? -1 : 1) : strcmp(a->name, b->name);
}

static const struct gate_check **by_severity(const struct gate_check *checks, size_t n)
{
    const struct gate_check **order = xmalloc((n ? n : 1) * sizeof *order);
    for (size_t i = 0; i < n; i++) order[i] = &checks[i];
    qsort(order, n, sizeof *order, compare_severity);
    return order;
}

/* Workflow commands end at the line; these characters are spelt in percent. */
static void add_command_text(const char *text, bool property, struct str *out)
{
    for (const char *p = text; *p; p++) {
        if (strchr("%\r\n", *p) || (property && strchr(":,", *p)))
            str_addf(out, "%%%02X", (unsigned char)*p);
        else str_add_char(out, *p);
    }
}

void github_annotations(
    const struct gate_check *checks, size_t n, const char *warning, struct str *out)
{
    const struct gate_check **order = by_severity(checks, n);
    size_t shown = 0;
    if (warning) {
        str_add(out, "::warning title=metrics disagree::");
        add_command_text(warning, false, out);
        str_add_char(out, '\n');
        shown++;
    }
    for (size_t i = 0; i < n && shown < 10; i++) {
        const struct gate_check *c = order[i];
        if (c->outcome == CHECK_PASS || c->outcome == CHECK_SKIPPED) continue;
        struct str text = {0};
        if (c->subject) str_addf(&text, "%s: ", c->subject);
        add_measured(c, &text);
        if (*message_of(c)) str_addf(&text, ". %s", message_of(c));
        str_addf(out, "::%s title=", c->outcome == CHECK_AMBIGUOUS ? "warning" : "error");
        struct str title = {0};
        str_addf(&title, "%s %s", c->name, check_outcome_name(c->outcome));
        add_command_text(str_get(&title), true, out);
        str_add(out, "::");
        add_command_text(str_get(&text), false, out);
        str_add_char(out, '\n');
        str_clear(&text);
        str_clear(&title);
        shown++;
    }
    free(order);
}

static void add_table_text(const char *text, struct str *out)
{
    for (const char *p = text; *p; p++) {
        if (*p == '\n' || *p == '\r') str_add_char(out, ' ');
        else if (*p == '<') str_add(out, "&lt;");
        else {
            if (*p == '|') str_add_char(out, '\\');
            str_add_char(out, *p);
        }
    }
}

void github_summary(const struct gate_check *checks, size_t n, const char *title, struct str *out)
{
    static const char *const marks[] = {"✅", "❌", "❔", "⚠️", "➖"};
    str_add(out, "### ");
    add_table_text(title, out);
    str_addf(out, "\n\n%zu passed, %zu failed, %zu ambiguous, %zu invalid, %zu skipped\n\n",
        count(checks, n, CHECK_PASS), count(checks, n, CHECK_FAIL),
        count(checks, n, CHECK_AMBIGUOUS), count(checks, n, CHECK_INVALID),
        count(checks, n, CHECK_SKIPPED));
    str_add(out, "| | check | measured | subject | message |\n| --- | --- | --- | --- | --- |\n");
    const struct gate_check **order = by_severity(checks, n);
    for (size_t i = 0; i < n; i++) {
        const struct gate_check *c = order[i];
        struct str measured = {0};
        add_measured(c, &measured);
        str_addf(out, "| %s %s | ", marks[c->outcome], check_outcome_name(c->outcome));
        add_table_text(c->name, out);
        str_add(out, " | ");
        add_table_text(str_get(&measured), out);
        str_add(out, " | ");
        add_table_text(c->subject ? c->subject : "", out);
        str_add(out, " | ");
        add_table_text(message_of(c), out);
        str_add(out, " |\n");
        str_clear(&measured);
    }
    free(order);
}
