/* The values of a plan's axes as people write them: items joined by commas, and of numbers ranges.
 * `axis` is what messages call it. Used by plan.c alone. */
#ifndef SG_HARNESS_SWEEP_PLAN_NUMBERS_H
#define SG_HARNESS_SWEEP_PLAN_NUMBERS_H

#include "base/decimal.h"
#include "harness/sweep/plan.h"

enum { PLAN_MAX_VALUES = 4096 };

struct number {
    double value;
    struct decimal exact;
    bool relative; /* to l1 */
};

/* {0} is empty. */
struct numbers {
    struct number *items;
    int n, cap;
};

void numbers_clear(struct numbers *x);
enum status numbers_put(struct numbers *x, const char *axis, struct number item) MUST_USE;
enum status numbers_add(struct numbers *x, const char *axis, double value) MUST_USE;
/* One item, appended: 4, 4-10+2, 1-16*2; "l1+" in front when `may_follow`. */
enum status numbers_read_item(
    const char *axis, const char *item, bool may_follow, struct numbers *out) MUST_USE;
/* All of them. */
enum status numbers_read(
    const char *axis, const struct text_list *texts, bool may_follow, struct numbers *out) MUST_USE;
/* ERR_ARG unless every value is within lo and hi. */
enum status numbers_check(const char *axis, const struct numbers *x, double lo, double hi) MUST_USE;

/* Calls `body` for every item of every text; an empty one is ERR_ARG. */
typedef enum status plan_item(void *ctx, const char *axis, const char *item);
enum status plan_items(
    const char *axis, const struct text_list *texts, plan_item *body, void *ctx) MUST_USE;

#endif
