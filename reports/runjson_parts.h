/* Parts of the file of one run that stand on their own. For reports/runjson.c alone. */
#ifndef SG_REPORTS_RUNJSON_PARTS_H
#define SG_REPORTS_RUNJSON_PARTS_H

#include "base/json.h"
#include "reports/view.h"

/* What percentiles are computed from again: the worst positions of every sample. */
cJSON *runjson_tails(const struct run_view *v);
/* Nothing where the object has no such array. */
enum status runjson_read_tails(struct json_in in, struct tail_list *out) MUST_USE;

/* ERR_FORMAT naming the field that is out of its range or contradicts another: counts of samples,
 * the guide's blocks against `blocks`, objects by their names as they follow from metrics and
 * samples. What a file does not have is not asked for. */
enum status runjson_check(
    const struct run_view *v, const cJSON *root, const cJSON *blocks, const char *path) MUST_USE;

#endif
