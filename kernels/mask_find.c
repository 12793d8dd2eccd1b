/* Methods by name. One that is asked for with parameters or as a mixture is made once and kept:
 * whoever holds the pointer needs to know nothing of it, and the same text gives the same pointer.
 */
#include "kernels/mask.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct mask_method *const mask_methods[] = {&mask_sparge, &mask_bound, &mask_xattention,
    &mask_flashprefill, &mask_subblock, &mask_minference, &mask_flexprefill, &mask_prism,
    &mask_stem, &mask_window, &mask_a_shape, &mask_tri_shape, &mask_oracle, NULL};

struct made {
    struct mask_method method;
    float values[MAX_MASK_PARAMS];
    const struct mask_method *parts[MAX_MASK_PARTS];
    struct made *next;
    char name[];
};

static struct made *all_made;
static pthread_mutex_t making = PTHREAD_MUTEX_INITIALIZER;

static const struct mask_method *find_plain(const char *name, size_t n)
{
    if (n == 4 && strncmp(name, "topk", 4) == 0) return &mask_sparge;
    for (int i = 0; mask_methods[i]; i++)
        if (strlen(mask_methods[i]->name) == n && strncmp(mask_methods[i]->name, name, n) == 0)
            return mask_methods[i];
    return NULL;
}

static enum status no_method(const char *text, size_t n)
{
    char known[400];
    int at = 0;
    for (int i = 0; mask_methods[i]; i++)
        at += snprintf(known + at, sizeof known - (size_t)at, "%s, ", mask_methods[i]->name);
    return fail(ERR_ARG, "--method: found \"%.*s\", expected %stopk or dense", (int)n, text, known);
}

/* `fresh`, or the one of that name that was made before. */
static const struct mask_method *keep_made(struct made *fresh)
{
    pthread_mutex_lock(&making);
    struct made *m = all_made;
    while (m && strcmp(m->name, fresh->name) != 0) m = m->next;
    if (!m) {
        fresh->next = all_made;
        all_made = m = fresh;
        fresh = NULL;
    }
    pthread_mutex_unlock(&making);
    free(fresh);
    return &m->method;
}

static struct made *make(const char *name)
{
    struct made *m = calloc(1, sizeof *m + strlen(name) + 1);
    if (!m) return NULL;
    strcpy(m->name, name);
    return m;
}

static enum status read_rule(
    const struct mask_method *base, const char *text, size_t n, const struct mask_rule **out)
{
    for (int i = 0; mask_rules[i]; i++)
        if (strlen(mask_rules[i]->name) == n && strncmp(mask_rules[i]->name, text, n) == 0) {
            *out = mask_rules[i];
            return base->ranked
                ? OK
                : fail(ERR_ARG, "--method %s ranks nothing and takes no rule", base->name);
        }
    return fail(ERR_ARG,
        "--method %s+rule: found \"%.*s\", expected top-p, cover, top-k, max-relative, "
        "mean-std, falling or level",
        base->name, (int)n, text);
}

static enum status read_correct(
    const struct mask_method *base, const char *text, size_t n, bool *out)
{
    *out = n == 4 && strncmp(text, "mean", 4) == 0;
    if (*out || (n == 4 && strncmp(text, "none", 4) == 0)) return OK;
    return fail(ERR_ARG, "--method %s+correct: found \"%.*s\", expected mean or none", base->name,
        (int)n, text);
}

static bool read_value(const struct mask_param *p, const char *text, size_t n, float *out)
{
    for (int i = 0; p->words && p->words[i]; i++)
        if (strlen(p->words[i]) == n && strncmp(p->words[i], text, n) == 0) {
            *out = (float)i;
            return true;
        }
    char number[32], *end;
    if (p->words || n == 0 || n >= sizeof number) return false;
    memcpy(number, text, n);
    number[n] = 0;
    *out = strtof(number, &end);
    return !*end && *out >= p->least && *out <= p->most && (!p->whole || *out == floorf(*out));
}

static enum status bad_value(
    const struct mask_method *m, const struct mask_param *p, const char *text, size_t n)
{
    char range[160] = "";
    int at = 0;
    for (int i = 0; p->words && p->words[i]; i++)
        at += snprintf(range + at, sizeof range - (size_t)at, "%s%s", i ? ", " : "", p->words[i]);
    if (!p->words)
        snprintf(range, sizeof range, "%s from %.7g to %.8g",
            p->whole ? "a whole number" : "a number", (double)p->least, (double)p->most);
    return fail(ERR_ARG, "--method %s+%s: found \"%.*s\", expected %s", m->name, p->name, (int)n,
        text, range);
}

static enum status no_parameter(const struct mask_method *m, const char *text, size_t n)
{
    char known[160];
    int at = snprintf(known, sizeof known, "rule, correct");
    for (int i = 0; i < m->n_params; i++)
        at += snprintf(known + at, sizeof known - (size_t)at, ", %s", m->params[i].name);
    return fail(ERR_ARG,
        "--method %s: found the parameter \"%.*s\", which it does not have; it takes %s", m->name,
        (int)n, text, known);
}

static enum status given_twice(const struct mask_method *m, const char *name)
{
    return fail(ERR_ARG, "--method %s: %s is given twice; give it once", m->name, name);
}

/* One NAME[+PARAMETER=VALUE]… of `n` bytes. Only what differs from the defaults is in the canonical
 * name. */
static enum status parse_one(const char *text, size_t n, const struct mask_method **out)
{
    const char *end = text + n, *plus = memchr(text, '+', n);
    const struct mask_method *base = find_plain(text, plus ? (size_t)(plus - text) : n);
    if (!base) return no_method(text, plus ? (size_t)(plus - text) : n);
    float values[MAX_MASK_PARAMS] = {0};
    const struct mask_rule *rule = mask_rule_of(base);
    bool correct = false;
    for (int i = 0; i < base->n_params; i++) values[i] = base->params[i].value;
    enum { RULE = 1u << MAX_MASK_PARAMS, CORRECT = RULE << 1 };
    unsigned given = 0; /* a bit for each parameter, and these */
    while (plus) {
        const char *at = plus + 1;
        plus = memchr(at, '+', (size_t)(end - at));
        size_t size = (size_t)((plus ? plus : end) - at);
        const char *equals = memchr(at, '=', size);
        size_t name = equals ? (size_t)(equals - at) : size;
        const char *value = equals ? equals + 1 : at + size;
        size_t value_size = size - (size_t)(value - at);
        if (name == 4 && strncmp(at, "rule", 4) == 0) {
            if (given & RULE) return given_twice(base, "rule");
            given |= RULE;
            TRY(read_rule(base, value, value_size, &rule));
            continue;
        }
        if (name == 7 && strncmp(at, "correct", 7) == 0) {
            if (given & CORRECT) return given_twice(base, "correct");
            given |= CORRECT;
            TRY(read_correct(base, value, value_size, &correct));
            continue;
        }
        int i = 0;
        while (i < base->n_params &&
            (strlen(base->params[i].name) != name || strncmp(base->params[i].name, at, name) != 0))
            i++;
        if (i == base->n_params) return no_parameter(base, at, name);
        if (given & 1u << i) return given_twice(base, base->params[i].name);
        given |= 1u << i;
        if (!read_value(&base->params[i], value, value_size, &values[i]))
            return bad_value(base, &base->params[i], value, value_size);
    }
    char canonical[256];
    int at = snprintf(canonical, sizeof canonical, "%s", base->name);
    for (int i = 0; i < base->n_params; i++) {
        const struct mask_param *p = &base->params[i];
        if (values[i] == p->value) continue;
        if (p->words)
            at += snprintf(canonical + at, sizeof canonical - (size_t)at, "+%s=%s", p->name,
                p->words[(int)values[i]]);
        else
            at += snprintf(canonical + at, sizeof canonical - (size_t)at, "+%s=%.9g", p->name,
                mask_decimal(values[i]));
    }
    if (rule != mask_rule_of(base))
        at += snprintf(canonical + at, sizeof canonical - (size_t)at, "+rule=%s", rule->name);
    if (correct) snprintf(canonical + at, sizeof canonical - (size_t)at, "+correct=mean");
    *out = base;
    if (strcmp(canonical, base->name) == 0) return OK;
    struct made *m = make(canonical);
    if (!m) return fail(ERR_MEMORY, "no memory for the method %s", canonical);
    memcpy(m->values, values, sizeof values);
    m->method = *base;
    m->method.name = m->name;
    m->method.rule = rule;
    m->method.keep = rule == mask_rule_of(base) ? base->keep : 0;
    m->method.base = base;
    m->method.correct_mean = correct;
    m->method.values = m->values;
    *out = keep_made(m);
    return OK;
}

/* A mixture is run through its parts alone; what is said of it as a whole is what holds for one of
 * them. */
static enum status parse_mixture(const char *text, const struct mask_method **out)
{
    const struct mask_method *parts[MAX_MASK_PARTS];
    char canonical[512];
    int n = 0, at = 0;
    for (const char *s = text; s;) {
        const char *slash = strchr(s, '/');
        if (n == MAX_MASK_PARTS)
            return fail(ERR_ARG, "--method %s: found more than %d methods to choose from", text,
                MAX_MASK_PARTS);
        TRY(parse_one(s, slash ? (size_t)(slash - s) : strlen(s), &parts[n]));
        for (int i = 0; i < n; i++)
            if (parts[i] == parts[n])
                return fail(ERR_ARG, "--method %s: found %s twice", text, parts[n]->name);
        if (!parts[n]->ranked)
            return fail(ERR_ARG, "--method %s: %s ranks nothing, so no head can be tuned to it",
                text, parts[n]->name);
        if (parts[n]->correct_mean != parts[0]->correct_mean)
            return fail(ERR_ARG,
                "--method %s: found %s beside %s; either all are corrected by the "
                "mean or none",
                text, parts[0]->name, parts[n]->name);
        at += snprintf(
            canonical + at, sizeof canonical - (size_t)at, "%s%s", n ? "/" : "", parts[n]->name);
        n++;
        s = slash ? slash + 1 : NULL;
    }
    struct made *m = make(canonical);
    if (!m) return fail(ERR_MEMORY, "no memory for the method %s", canonical);
    memcpy(m->parts, parts, sizeof *parts * (size_t)n);
    m->method = *parts[0];
    m->method.name = m->name;
    m->method.base = &m->method;
    m->method.parts = m->parts;
    m->method.n_parts = n;
    *out = keep_made(m);
    return OK;
}

enum status mask_method_parse(const char *text, const struct mask_method **out)
{
    return strchr(text, '/') ? parse_mixture(text, out) : parse_one(text, strlen(text), out);
}

const struct mask_method *mask_method_find(const char *name)
{
    const struct mask_method *m = find_plain(name, strlen(name));
    if (m || !strpbrk(name, "+/")) return m;
    return mask_method_parse(name, &m) == OK ? m : NULL;
}
