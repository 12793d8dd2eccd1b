#include "kernels/cpu/cpu_ops.h"

#include "base/status.h"

#include <stdatomic.h>
#include <string.h>

/* The best table allowed by cpu_ops_choose: an index into `tables`, which falls from best to
 * simplest. */
static const struct cpu_ops *const tables[] = {&cpu_ops_avx512, &cpu_ops_avx2, &cpu_ops_base};
enum { N_TABLES = sizeof tables / sizeof tables[0] };
static atomic_int ceiling;

static bool runs_here(int i)
{
    __builtin_cpu_init();
    if (tables[i] == &cpu_ops_avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
            __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    if (tables[i] == &cpu_ops_avx2)
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return true;
}

static int index_of(const char *name)
{
    for (int i = 0; i < N_TABLES; i++)
        if (strcmp(tables[i]->name, name) == 0) return i;
    return -1;
}

const struct cpu_ops *cpu_ops_find(const char *name)
{
    int i = index_of(name);
    return i >= atomic_load(&ceiling) && runs_here(i) ? tables[i] : NULL;
}

const struct cpu_ops *cpu_ops(void)
{
    int i = atomic_load(&ceiling);
    while (!runs_here(i)) i++;
    return tables[i];
}

enum status cpu_ops_choose(const char *name)
{
    bool automatic = strcmp(name, "auto") == 0;
    int i = automatic ? 0 : index_of(name);
    if (i < 0)
        return fail(ERR_ARG, "--cpu-mask: found \"%s\", expected avx512, avx2, base or auto", name);
    if (!automatic && !runs_here(i))
        return fail(ERR_UNSUPPORTED, "--cpu-mask %s: this processor lacks it; use auto", name);
    atomic_store(&ceiling, i);
    return OK;
}
