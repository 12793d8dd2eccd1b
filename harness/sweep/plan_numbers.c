#include "harness/sweep/plan_numbers.h"

#include "base/str.h"

#include <stdlib.h>
#include <string.h>

void numbers_clear(struct numbers *x)
{
    free(x->items);
    *x = (struct numbers){0};
}

enum status numbers_put(struct numbers *x, const char *axis, struct number item)
{
    if (x->n == PLAN_MAX_VALUES)
        return fail(ERR_ARG, "%s: more than %d values", axis, PLAN_MAX_VALUES);
    if (x->n == x->cap) {
        int cap = x->cap ? 2 * x->cap : 16;
        struct number *grown = realloc(x->items, sizeof *grown * (size_t)cap);
        if (!grown) return fail(ERR_MEMORY, "%s: no memory for %d values", axis, cap);
        x->items = grown;
        x->cap = cap;
    }
    x->items[x->n++] = item;
    return OK;
}

enum status numbers_add(struct numbers *x, const char *axis, double value)
{
    return numbers_put(x, axis, (struct number){.value = value});
}

static enum status bad_number(const char *axis, const char *item)
{
    return fail(ERR_ARG,
        "%s: found \"%s\", expected a number of at most 18 digits, first-last+step or "
        "first-last*factor, joined by "
        "commas",
        axis, item);
}

/* first, first + by, … or first, first * by, …, calculated as people would with pencil and paper:
 * .04 + 2 * .02 is to be the .08 that a person would write, or its key would be another. `last`
 * must be hit, since both ends are said to be included. */
static enum status add_range(struct numbers *x, const char *axis, const char *item,
    struct decimal first, struct decimal last, struct decimal by, bool times, bool relative)
{
    bool ok;
    struct decimal before = first;
    for (struct decimal at = first;;) {
        int side = decimal_compare(at, last, &ok);
        if (!ok) return bad_number(axis, item);
        if (side > 0)
            return fail(ERR_ARG,
                "%s: \"%s\" steps over its end, from %.12g to %.12g: let it end at one of them",
                axis, item, decimal_value(before), decimal_value(at));
        TRY(numbers_put(x, axis, (struct number){decimal_value(at), at, relative}));
        if (side == 0) return OK;
        before = at;
        if (times ? !decimal_multiply(at, by, &at) : !decimal_add(at, by, &at))
            return bad_number(axis, item);
    }
}

enum status numbers_read_item(
    const char *axis, const char *item, bool may_follow, struct numbers *out)
{
    bool relative = may_follow && str_starts_with(item, "l1+"), ok;
    const char *p = relative ? item + 3 : item;
    struct decimal first, last, by, zero = {0, 0}, one = {1, 0};
    if (!decimal_read(&p, &first)) return bad_number(axis, item);
    if (!*p) return numbers_put(out, axis, (struct number){decimal_value(first), first, relative});
    if (*p++ != '-' || !decimal_read(&p, &last) || (*p != '+' && *p != '*'))
        return bad_number(axis, item);
    bool times = *p++ == '*';
    if (!decimal_read(&p, &by) || *p) return bad_number(axis, item);
    if (decimal_compare(last, first, &ok) < 0)
        return fail(ERR_ARG, "%s: \"%s\" ends before it begins", axis, item);
    bool moves = times ? decimal_compare(by, one, &ok) > 0 && decimal_compare(first, zero, &ok) > 0
                       : decimal_compare(by, zero, &ok) > 0;
    if (!moves)
        return fail(ERR_ARG, "%s: \"%s\" does not get from %g to %g: expected %s", axis, item,
            decimal_value(first), decimal_value(last),
            times ? "a factor above 1 and a start above 0" : "a step above 0");
    return add_range(out, axis, item, first, last, by, times, relative);
}

enum status plan_items(const char *axis, const struct text_list *texts, plan_item *body, void *ctx)
{
    for (int i = 0; i < texts->n; i++) {
        char *copy = str_dup(texts->items[i]), *rest = copy;
        enum status st = OK;
        for (char *item; st == OK && (item = strsep(&rest, ","));)
            st = *item ? body(ctx, axis, item)
                       : fail(ERR_ARG, "%s: \"%s\" has an empty value", axis, texts->items[i]);
        free(copy);
        TRY(st);
    }
    return OK;
}

static enum status plain_item(void *ctx, const char *axis, const char *item)
{
    return numbers_read_item(axis, item, false, ctx);
}

static enum status following_item(void *ctx, const char *axis, const char *item)
{
    return numbers_read_item(axis, item, true, ctx);
}

enum status numbers_read(
    const char *axis, const struct text_list *texts, bool may_follow, struct numbers *out)
{
    return plan_items(axis, texts, may_follow ? following_item : plain_item, out);
}

enum status numbers_check(const char *axis, const struct numbers *x, double lo, double hi)
{
    for (int i = 0; i < x->n; i++)
        if (!(x->items[i].value >= lo && x->items[i].value <= hi))
            return fail(
                ERR_ARG, "%s: found %.12g, expected %g to %g", axis, x->items[i].value, lo, hi);
    return OK;
}
