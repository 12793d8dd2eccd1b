/* Outcomes of a gate for machines: JUnit XML, GitHub annotations and step summary, GitLab code
 * quality. */
#ifndef SG_REPORTS_JUNIT_H
#define SG_REPORTS_JUNIT_H

#include "base/str.h"

#include <stddef.h>

enum check_outcome { CHECK_PASS, CHECK_FAIL, CHECK_AMBIGUOUS, CHECK_INVALID, CHECK_SKIPPED };
const char *check_outcome_name(enum check_outcome outcome);

struct gate_check {
    const char *name;    /* "min-cosine" */
    const char *subject; /* what was measured: "run 12", a file */
    const char *op;      /* ">=" or "<=" */
    double bound, value;
    double lo, hi; /* 95 % interval; NAN without */
    enum check_outcome outcome;
    const char *message; /* what happened and what to do; never NULL unless it passed */
    /* its model, data and settings, which tell two findings of one name apart; NULL: the subject */
    const char *identity;
};

/* `warning`: what decides nothing and must be read, NULL for none; a property, and an annotation of
 * its own. */
/* failure = bound broken or ambiguous, error = invalid measurement, skipped = not applicable. */
void junit_xml(const struct gate_check *checks, size_t n, const char *suite, const char *warning,
    double wall_s, const char *utc, struct str *out);
/* Workflow commands, at most ten, the worst first. */
void github_annotations(
    const struct gate_check *checks, size_t n, const char *warning, struct str *out);
/* Markdown for $GITHUB_STEP_SUMMARY. */
void github_summary(const struct gate_check *checks, size_t n, const char *title, struct str *out);
/* JSON array; `file` is the path that the findings are attached to, e.g. the gate's configuration.
 */
void gitlab_quality(const struct gate_check *checks, size_t n, const char *file, struct str *out);

/* Escapes & < > " ' for XML and HTML, drops control characters that XML forbids, puts U+FFFD for
 * bytes that are not UTF-8; appended. */
void xml_escape(const char *text, struct str *out);

#endif
