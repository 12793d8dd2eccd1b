#include "harness/sweep/shard.h"

#include "base/str.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

/* A whole number from the environment; *set false when the variable is not there or empty. */
static enum status number(const char *name, bool *set, int *out)
{
    const char *text = getenv(name);
    *set = text && *text;
    if (!*set) return OK;
    char *end;
    long value = strtol(text, &end, 10);
    if (*end || value < 0 || value > INT_MAX / 2)
        return fail(ERR_ARG, "%s: found \"%s\", expected a whole number; --shard none ignores it",
            name, text);
    *out = (int)value;
    return OK;
}

static enum status pair(const char *index, const char *count, struct shard *out, bool *found)
{
    bool has_index, has_count;
    int i = 0, n = 0;
    *found = false;
    TRY(number(index, &has_index, &i));
    TRY(number(count, &has_count, &n));
    if (!has_index || !has_count) return OK;
    if (n < 1 || i >= n)
        return fail(ERR_ARG, "%s is %d and %s is %d, expected an index below the count", index, i,
            count, n);
    out->index = i;
    out->count = n;
    *found = true;
    return OK;
}

static int common_divisor(int a, int b)
{
    while (b) {
        int rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* The part of an array's task follows from its id alone, id modulo the number of parts: a
 * resubmission of task 5, of 3-4 or of 3,5 is an array too, with a count, a least and a largest id
 * of its own. They only tell whether two tasks would be one part. */
static enum status slurm_array(int n_parts, struct shard *out, bool *found)
{
    bool has_id, has_count, has_min, has_max, has_step;
    int id = 0, count = 1, min = 0, max = 0, step = 1;
    TRY(number("SLURM_ARRAY_TASK_ID", &has_id, &id));
    TRY(number("SLURM_ARRAY_TASK_COUNT", &has_count, &count));
    TRY(number("SLURM_ARRAY_TASK_MIN", &has_min, &min));
    TRY(number("SLURM_ARRAY_TASK_MAX", &has_max, &max));
    TRY(number("SLURM_ARRAY_TASK_STEP", &has_step, &step));
    *found = has_id;
    if (!has_id) return OK;
    if (!n_parts)
        return fail(ERR_ARG,
            "task %d of a Slurm array: --shard auto/N with N parts in all is needed, since an "
            "array that is sent again in "
            "part does not tell; --shard none runs everything",
            id);
    if (step < 1) step = 1;
    int apart = n_parts / common_divisor(step, n_parts); /* tasks until a part comes round again */
    if (count > n_parts || (has_min && has_max && count > 1 && count > apart))
        return fail(ERR_ARG,
            "--shard auto: %d tasks from %d to %d in steps of %d for %d parts: several would be "
            "one part (id modulo parts); "
            "use --array=0-%d",
            count, min, max, step, n_parts, n_parts - 1);
    out->index = id % n_parts;
    out->count = n_parts;
    return OK;
}

/* Ranks within one job. SLURM_STEP_NUM_TASKS exists only below srun, where there really are that
 * many processes. */
static enum status ranks(struct shard *out, bool *found)
{
    static const struct {
        const char *index, *count, *source;
    } known[] = {
        {"OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "Open MPI"},
        {"MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MVAPICH"},
        {"PMI_RANK", "PMI_SIZE", "PMI"},
        {"SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "Slurm step"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        TRY(pair(known[i].index, known[i].count, out, found));
        if (*found) {
            out->source = known[i].source;
            return OK;
        }
    }
    return OK;
}

/* count: of the parts in all; 0: the environment has to tell. */
static enum status from_environment(int count, struct shard *out)
{
    struct shard array = {0, 1, NULL}, rank = {0, 1, NULL};
    bool in_array, in_job, indexed;
    int index = 0;
    TRY(ranks(&rank, &in_job));
    if (in_job && count % rank.count)
        return fail(ERR_ARG,
            "--shard auto/%d: %s says there are %d processes, of which %d is no multiple", count,
            rank.source, rank.count, count);
    TRY(slurm_array(count / rank.count, &array, &in_array));
    TRY(number("JOB_COMPLETION_INDEX", &indexed, &index));
    if (in_array || in_job) {
        *out = (struct shard){array.index * rank.count + rank.index, array.count * rank.count,
            in_array ? in_job && rank.count > 1 ? "Slurm array of steps" : "Slurm array"
                     : rank.source};
        if (count && count != out->count)
            return fail(ERR_ARG, "--shard auto/%d: %s says there are %d parts", count, out->source,
                out->count);
        return OK;
    }
    if (indexed) {
        if (!count)
            return fail(ERR_ARG,
                "JOB_COMPLETION_INDEX is %d, but Kubernetes does not tell how many there are; give "
                "--shard "
                "auto/N with N as in .spec.completions, or --shard none",
                index);
        if (index >= count)
            return fail(ERR_ARG, "JOB_COMPLETION_INDEX is %d, expected less than %d", index, count);
        *out = (struct shard){index, count, "Kubernetes indexed job"};
        return OK;
    }
    if (count)
        return fail(ERR_ARG,
            "--shard auto/%d: no rank or task index in the environment; give --shard i/%d", count,
            count);
    *out = (struct shard){0, 1, NULL};
    return OK;
}

enum status shard_detect(const char *text, struct shard *out)
{
    *out = (struct shard){0, 1, NULL};
    if (!text || strcmp(text, "auto") == 0) return from_environment(0, out);
    if (strcmp(text, "none") == 0) return OK;
    bool automatic = str_starts_with(text, "auto/");
    char *end;
    long index = automatic ? 1 : strtol(text, &end, 10), count = 0;
    const char *slash = strchr(text, '/');
    bool ok = slash && (automatic || (end == slash && end != text));
    if (ok) {
        count = strtol(slash + 1, &end, 10);
        ok = end != slash + 1 && !*end && count >= 1 && count <= 1 << 20 && index >= 1 &&
            index <= count;
    }
    if (!ok)
        return fail(ERR_ARG,
            "--shard: found \"%s\", expected i/n with i from 1 to n, auto, auto/n or none", text);
    if (automatic) return from_environment((int)count, out);
    *out = (struct shard){(int)index - 1, (int)count, "--shard"};
    return OK;
}

void shard_range(const struct shard *s, int n, int *first, int *end)
{
    *first = (int)((long long)n * s->index / s->count);
    *end = (int)((long long)n * (s->index + 1) / s->count);
}
