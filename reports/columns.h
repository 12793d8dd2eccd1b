/* Columns as most tables have them: the key for programs, the name for people. Shared by the
 * tables_*.c files alone. */
#ifndef SG_REPORTS_COLUMNS_H
#define SG_REPORTS_COLUMNS_H

#include "reports/table.h"

static inline void add(struct table *t, const char *key, const char *name, const char *unit,
    enum table_number number, int digits, enum metric_better better)
{
    table_add_column(t,
        (struct table_column){.name = name,
            .unit = unit,
            .number = number,
            .digits = digits,
            .better = better,
            .key = key});
}

static inline void add_text(struct table *t, const char *key, const char *name)
{
    table_add_column(t, (struct table_column){.name = name, .key = key});
}

static inline void add_short(struct table *t, const char *key, const char *name)
{
    add(t, key, name, NULL, NUMBER_SHORT, 6, METRIC_NEITHER);
}

static inline void add_share(
    struct table *t, const char *key, const char *name, enum metric_better better)
{
    add(t, key, name, NULL, NUMBER_PERCENT, 1, better);
}

/* For programs alone. */
static inline void add_data(struct table *t, const char *key)
{
    table_add_column(t, (struct table_column){.name = key, .key = key, .audience = FOR_PROGRAMS});
}

static inline void table_count(struct table *t, int64_t value)
{
    if (value < 0) table_missing(t);
    else table_int(t, value);
}

#endif
