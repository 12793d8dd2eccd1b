#include "harness/measure/devices.h"

#include "base/str.h"
#ifdef SG_HAVE_CUDA
#include "engine/cuda/session_cuda.h"
#endif

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

int devices_cuda_count(void)
{
#ifdef SG_HAVE_CUDA
    return weights_cuda_count();
#else
    enum status st = fail(ERR_UNSUPPORTED,
        "this program was built without CUDA; build it where nvcc is found, or use --device cpu");
    (void)st; /* the message is what the caller reads */
    return 0;
#endif
}

static bool has(const struct device_place *p, int index)
{
    for (int i = 0; i < p->n; i++)
        if (p->index[i] == index) return true;
    return false;
}

/* One more GPU for the layers of the last place. */
static enum status join(struct device_list *l, const char *text, int index)
{
    struct device_place *last = &l->at[l->n - 1];
    for (int i = 0; i < l->n && index != DEVICE_CPU; i++)
        if (has(&l->at[i], index))
            return fail(ERR_ARG, "--device %s: cuda:%d stands there twice", text, index);
    if (last->n == MAX_CUT)
        return fail(ERR_ARG, "--device %s: layers are cut over %d GPUs at most", text, MAX_CUT);
    last->index[last->n++] = index;
    return OK;
}

static enum status add(struct device_list *l, const char *text, int index)
{
    if (l->n == MAX_DEVICES)
        return fail(ERR_ARG, "--device %s: more than %d devices", text, MAX_DEVICES);
    l->at[l->n++] = (struct device_place){0};
    return join(l, text, index);
}

static enum status add_all(struct device_list *l, const char *text)
{
    int n = devices_cuda_count();
#ifdef SG_HAVE_CUDA
    if (n == 0) return fail_context(ERR_DEVICE, "--device %s", text);
#else
    if (n == 0) return fail_context(ERR_UNSUPPORTED, "--device %s", text);
#endif
    for (int i = 0; i < n; i++) TRY(add(l, text, i));
    return OK;
}

/* One item of the list; *cuda: the item before it was a GPU, so a bare number is one too. */
static enum status add_item(struct device_list *l, const char *text, const char *item, bool *cuda)
{
    char *end;
    const char *number = str_starts_with(item, "cuda:") ? item + 5 : *cuda ? item : "";
    if (strcmp(item, "cpu") == 0) {
        *cuda = false;
        return add(l, text, DEVICE_CPU);
    }
    if (str_starts_with(item, "cuda")) *cuda = true;
    if (strcmp(item, "cuda") == 0) return add(l, text, 0);
    if (strcmp(item, "cuda:all") == 0) return add_all(l, text);
    for (bool first = true;; first = false, number = end + 1) {
        long index = strtol(number, &end, 10);
        if (!isdigit((unsigned char)*number) || (*end && *end != '+') || index >= MAX_DEVICES)
            return fail(ERR_ARG,
                "--device: found \"%s\", expected cpu, cuda, cuda:N, cuda:all, several joined by "
                "commas, or cuda:N+M to cut the layers over both",
                text);
        TRY(first ? add(l, text, (int)index) : join(l, text, (int)index));
        if (!*end) return OK;
    }
}

enum status devices_parse(const char *text, struct device_list *out)
{
    char *copy = str_dup(text), *rest = copy;
    bool cuda = false;
    *out = (struct device_list){0};
    enum status st = OK;
    for (char *item; st == OK && (item = strsep(&rest, ",")) != NULL;)
        st = add_item(out, text, item, &cuda);
    free(copy);
#ifndef SG_HAVE_CUDA
    for (int i = 0; i < out->n && st == OK; i++)
        if (out->at[i].index[0] != DEVICE_CPU) {
            devices_cuda_count(); /* its message */
            st = fail_context(ERR_UNSUPPORTED, "--device %s", text);
        }
#endif
    return st;
}
