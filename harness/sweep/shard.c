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
        return fail(ERR_ARG, "%s: found \"%s\", expected a whole number; --shard none ignores it", name, text);
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
        return fail(ERR_ARG, "%s is %d and %s is %d, expected an index below the count", index, i, count, n);
    out->index = i;
    out->count = n;
    *found = true;
    return OK;
}

/* Task ids of an array need not start at 0 nor follow each other: 5-20:5 has ids 5, 10, 15, 20. */
static enum status slurm_array(struct shard *out, bool *found)
{
    bool has_id, has_count, has_min, has_step;
    int id = 0, count = 0, min = 0, step = 1;
    *found = false;
    TRY(number("SLURM_ARRAY_TASK_ID", &has_id, &id));
    TRY(number("SLURM_ARRAY_TASK_COUNT", &has_count, &count));
    TRY(number("SLURM_ARRAY_TASK_MIN", &has_min, &min));
    TRY(number("SLURM_ARRAY_TASK_STEP", &has_step, &step));
    if (!has_id || !has_count) return OK;
    if (step < 1) step = 1;
    if (id < min || (id - min) % step || (id - min) / step >= count)
        return fail(
            ERR_ARG,
            "SLURM_ARRAY_TASK_ID is %d, which is none of %d tasks from %d in steps of %d; an array that is a "
            "list of numbers needs --shard i/n",
            id, count, min, step);
    out->index = (id - min) / step;
    out->count = count;
    *found = true;
    return OK;
}

/* Ranks within one job. SLURM_STEP_NUM_TASKS exists only below srun, where there really are that many processes. */
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

static enum status from_environment(int count, struct shard *out)
{
    struct shard array = {0, 1, NULL}, rank = {0, 1, NULL};
    bool in_array, in_job, indexed;
    int index = 0;
    TRY(slurm_array(&array, &in_array));
    TRY(ranks(&rank, &in_job));
    TRY(number("JOB_COMPLETION_INDEX", &indexed, &index));
    if (in_array || in_job) {
        *out = (struct shard){array.index * rank.count + rank.index, array.count * rank.count,
                              in_array ? in_job && rank.count > 1 ? "Slurm array of steps" : "Slurm array"
                                       : rank.source};
        if (count && count != out->count)
            return fail(ERR_ARG, "--shard auto/%d: %s says there are %d parts", count, out->source, out->count);
        return OK;
    }
    if (indexed) {
        if (!count)
            return fail(
                ERR_ARG,
                "JOB_COMPLETION_INDEX is %d, but Kubernetes does not tell how many there are; give --shard "
                "auto/N with N as in .spec.completions, or --shard none",
                index);
        if (index >= count) return fail(ERR_ARG, "JOB_COMPLETION_INDEX is %d, expected less than %d", index, count);
        *out = (struct shard){index, count, "Kubernetes indexed job"};
        return OK;
    }
    if (count)
        return fail(ERR_ARG, "--shard auto/%d: no rank or task index in the environment; give --shard i/%d",
                    count, count);
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
        ok = end != slash + 1 && !*end && count >= 1 && count <= 1 << 20 && index >= 1 && index <= count;
    }
    if (!ok)
        return fail(ERR_ARG, "--shard: found \"%s\", expected i/n with i from 1 to n, auto, auto/n or none",
                    text);
    if (automatic) return from_environment((int)count, out);
    *out = (struct shard){(int)index - 1, (int)count, "--shard"};
    return OK;
}

void shard_range(const struct shard *s, int n, int *first, int *end)
{
    *first = (int)((long long)n * s->index / s->count);
    *end = (int)((long long)n * (s->index + 1) / s->count);
}
