#include "engine/tokenizer/tokenizer_normalize.h"

#include "engine/tokenizer/tokenizer_component.h"

struct step {
    enum { STEP_PREPEND, STEP_REPLACE, STEP_FORM } kind;
    char *text; /* of STEP_PREPEND and STEP_REPLACE, owned */
    struct regex *what;
    enum unicode_form form;
};

struct normalizer {
    struct step *steps;
    size_t n_steps, cap_steps;
};

static enum status read_step(struct step *step, struct json_in in, const char *type)
{
    static const char *const forms[] = {"NFC", "NFD", "NFKC", "NFKD"};
    for (int i = 0; i < 4; i++) {
        if (strcmp(type, forms[i]) != 0) continue;
        step->kind = STEP_FORM;
        step->form = (enum unicode_form)i;
        return OK;
    }
    const char *text = NULL;
    if (strcmp(type, "Prepend") == 0) {
        step->kind = STEP_PREPEND;
        TRY(component_insert(in, "prepend", &text));
    } else if (strcmp(type, "Replace") == 0) {
        step->kind = STEP_REPLACE;
        TRY(component_search(in, &step->what));
        TRY(component_insert(in, "content", &text));
    } else {
        return component_unknown(in, type, "Sequence, Prepend, Replace, NFC, NFD, NFKC or NFKD");
    }
    step->text = str_dup(text);
    return OK;
}

static enum status read_normalizer(void *into, struct json_in in, int depth)
{
    struct normalizer *n = into;
    const char *type = NULL;
    TRY(component_type(in, &type));
    if (strcmp(type, "Sequence") == 0)
        return component_sequence(in, "normalizers", read_normalizer, n, depth);
    if (n->n_steps == COMPONENT_STEPS)
        return fail(ERR_UNSUPPORTED, "%s: field %s: more than %d normalizers", in.file, in.path,
            COMPONENT_STEPS);
    TRY(GROW(n->steps, n->cap_steps, n->n_steps + 1));
    n->steps[n->n_steps] = (struct step){0};
    return read_step(&n->steps[n->n_steps++], in, type);
}

enum status normalizer_open(struct normalizer **out, struct json_in in)
{
    struct normalizer *n = *out = calloc(1, sizeof *n);
    if (!n) return fail(ERR_MEMORY, "%s: no memory for a normalizer", in.file);
    enum status st = in.node && !cJSON_IsNull(in.node) ? read_normalizer(n, in, 0) : OK;
    if (st != OK) normalizer_close(out);
    return st;
}

void normalizer_close(struct normalizer **n)
{
    if (!*n) return;
    for (size_t i = 0; i < (*n)->n_steps; i++) {
        free((*n)->steps[i].text);
        regex_close(&(*n)->steps[i].what);
    }
    free((*n)->steps);
    free(*n);
    *n = NULL;
}

void normalizer_work_clear(struct normalizer_work *w)
{
    text_buf_clear(&w->buf[0]);
    text_buf_clear(&w->buf[1]);
    regex_work_clear(&w->regex);
    form_work_clear(&w->form);
}

enum status text_replace(const struct regex *what, struct regex_work *w, const char *with,
    const struct text *in, struct text_buf *out)
{
    size_t done = 0, begin, end, n_with = strlen(with);
    for (bool found = true; done < in->n;) {
        TRY(regex_find(what, w, in->s, in->n, done, &found, &begin, &end));
        if (!found) break;
        TRY(text_buf_copy(out, in, done, begin));
        TRY(text_buf_add(out, with, n_with, text_origin(in, end - 1)));
        done = end;
    }
    return text_buf_copy(out, in, done, in->n);
}

static enum status apply_step(
    const struct step *step, struct normalizer_work *w, const struct text *in, struct text_buf *out)
{
    switch (step->kind) {
    case STEP_PREPEND:
        if (in->n > 0) TRY(text_buf_add(out, step->text, strlen(step->text), text_origin(in, 0)));
        return text_buf_copy(out, in, 0, in->n);
    case STEP_REPLACE: return text_replace(step->what, &w->regex, step->text, in, out);
    case STEP_FORM: return form_apply(step->form, &w->form, in, out);
    }
    return OK;
}

enum status normalizer_apply(
    const struct normalizer *n, struct normalizer_work *w, struct text in, struct text *out)
{
    *out = in;
    for (size_t i = 0; i < n->n_steps; i++) {
        struct text_buf *buf = &w->buf[i % 2];
        buf->n = 0;
        TRY(apply_step(&n->steps[i], w, out, buf));
        TRY(component_growth(in.n, buf->n));
        *out = text_buf_get(buf);
    }
    return OK;
}
