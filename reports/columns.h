/* Columns as most tables have them. Shared by the tables_*.c files alone. */
#ifndef SG_REPORTS_COLUMNS_H
#define SG_REPORTS_COLUMNS_H

#include "reports/table.h"

static inline void add(struct table *t, const char *name, const char *unit,
    enum table_number number, int digits, enum metric_better better)
{
    table_add_column(t, (struct table_column){name, unit, number, digits, better, ALIGN_AUTO});
}

static inline void add_text(struct table *t, const char *name)
{
    add(t, name, NULL, NUMBER_FIXED, 0, METRIC_NEITHER);
}
static inline void add_short(struct table *t, const char *name)
{
    add(t, name, NULL, NUMBER_SHORT, 6, METRIC_NEITHER);
}

static inline void add_share(struct table *t, const char *name, enum metric_better better)
{
    add(t, name, NULL, NUMBER_PERCENT, 1, better);
}

static inline void table_count(struct table *t, int64_t value)
{
    if (value < 0) table_missing(t);
    else table_int(t, value);
}

#endif
