#include "engine/checkpoint/tensor_names.h"

#include "base/str.h"
#include "engine/checkpoint/family.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_PARTS = 3 };

/* One word of a family's list: "theirs=ours", or "theirs=first+second+…". */
struct pair {
    char word[160];
    const char *theirs, *ours[MAX_PARTS]; /* in it */
    int n;
};

/* The next word of the list; false at its end. */
static bool pair_next(const char **list, struct pair *p)
{
    int n = 0;
    char *ours, *rest;
    p->n = 0;
    if (sscanf(*list, " %159s%n", p->word, &n) != 1) return false;
    *list += n;
    p->theirs = strtok_r(p->word, "=", &rest);
    while (p->n < MAX_PARTS && (ours = strtok_r(NULL, "+", &rest))) p->ours[p->n++] = ours;
    return true;
}

/* `name` with the first `from` in it made `to`; NULL when there is none. The caller frees it. */
static char *renamed(const char *name, const char *from, const char *to)
{
    const char *at = strstr(name, from);
    return at ? str_format("%.*s%s%s", (int)(at - name), name, to, at + strlen(from)) : NULL;
}

static int rows_of(const struct llama_config *c, const char *part)
{
    if (strstr(part, "q_proj")) return c->n_heads * c->head_dim;
    if (strstr(part, "k_proj") || strstr(part, "v_proj")) return c->n_kv_heads * c->head_dim;
    return c->intermediate_size;
}

/* Its rows become so many tensors behind the others; it becomes the first of them. */
static enum status split_rows(
    struct safetensors *s, size_t i, const struct llama_config *c, const struct pair *p)
{
    struct tensor whole = s->tensors[i];
    char found[128];
    int64_t all = 0;
    for (int k = 0; k < p->n; k++) all += rows_of(c, p->ours[k]);
    if (whole.n_dims < 1 || whole.shape[0] != all)
        return fail(ERR_FORMAT,
            "%s: tensor %s: found shape %s, expected %lld rows by config.json; config.json and "
            "weights do not belong together: download both again",
            whole.file, whole.name, tensor_shape_text(&whole, found, sizeof found), (long long)all);
    size_t row = whole.bytes / (size_t)all;
    for (int k = p->n - 1; k >= 0; k--) {
        struct tensor part = whole;
        int64_t before = 0;
        for (int b = 0; b < k; b++) before += rows_of(c, p->ours[b]);
        part.name = renamed(whole.name, p->theirs, p->ours[k]);
        part.shape[0] = rows_of(c, p->ours[k]);
        part.data = whole.data + (size_t)before * row;
        part.bytes = (size_t)part.shape[0] * row;
        s->tensors[k ? s->n_tensors++ : i] = part;
    }
    free((char *)whole.name);
    return OK;
}

enum status tensor_names_apply(struct safetensors *s, const struct llama_config *c)
{
    const char *list = c->family->tensors;
    struct pair p;
    if (!list) return OK;
    struct tensor *grown = realloc(s->tensors, (MAX_PARTS * s->n_tensors + 1) * sizeof *s->tensors);
    if (!grown) return fail(ERR_MEMORY, "no memory for a list of %zu tensors", s->n_tensors);
    s->tensors = grown;
    while (pair_next(&list, &p)) {
        size_t n = s->n_tensors;
        for (size_t i = 0; i < n; i++) {
            struct tensor *t = &s->tensors[i];
            char *name = renamed(t->name, p.theirs, p.ours[0]);
            if (!name) continue;
            if (p.n > 1) {
                free(name);
                TRY(split_rows(s, i, c, &p));
                continue;
            }
            free((char *)t->name);
            t->name = name;
        }
    }
    return safetensors_sort(s);
}
