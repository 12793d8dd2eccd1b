#include "engine/checkpoint/torch_pickle.h"

#include <stdlib.h>
#include <string.h>

/* Everything a file may hold is bounded by its length, since no operation copies more than a few
 * words; this keeps even those words in hand. A model of 1000 layers needs a megabyte. */
enum { MAX_PICKLE_BYTES = 64 << 20 };

enum kind {
    V_MARK,
    V_NONE,
    V_BOOL,
    V_INT,
    V_FLOAT,
    V_STRING,
    V_TUPLE,
    V_LIST,
    V_DICT,
    V_ORDERED_DICT,
    V_NAME,
    V_STORAGE,
    V_TENSOR
};

static const char *const kind_names[] = {
    "a mark",
    "None",
    "a boolean",
    "an integer",
    "a float",
    "a string",
    "a tuple",
    "a list",
    "a dictionary",
    "an OrderedDict",
    "a class or function",
    "a storage",
    "a tensor",
};

/* What may be named; a storage of type t is NAME_STORAGE + t. */
enum name { NAME_ORDERED_DICT, NAME_TENSOR, NAME_PARAMETER, NAME_STORAGE };

static const struct {
    const char *module, *name;
} allowed[NAME_STORAGE] = {
    {"collections", "OrderedDict"},
    {"torch._utils", "_rebuild_tensor_v2"},
    {"torch._utils", "_rebuild_parameter"},
};

struct value {
    enum kind kind;
    uint32_t len; /* of a string */
    union {
        int64_t i;           /* boolean, integer, enum name */
        const uint8_t *text; /* string, in the pickle */
        struct node *node;   /* containers, storage */
        struct torch_tensor *tensor;
    };
};

/* Items of a container; key, value, key, value … for a dictionary. */
struct node {
    struct node *next;           /* all nodes, for freeing */
    struct torch_tensor *tensor; /* owned */
    struct value *items;
    size_t n, capacity;
};

struct machine {
    const char *file;
    const uint8_t *begin, *at, *end;
    struct node stack, memo;
    struct node *nodes;
    bool done;
};

static size_t position(const struct machine *m) { return (size_t)(m->at - m->begin); }

static enum status broken(const struct machine *m, const char *what)
{
    return fail(ERR_FORMAT,
        "%s: data.pkl, before byte %zu: %s; the file is damaged or not of torch.save", m->file,
        position(m), what);
}

static enum status wrong_kind(
    const struct machine *m, const char *field, enum kind found, const char *expected)
{
    return fail(ERR_FORMAT, "%s: data.pkl, before byte %zu: %s: found %s, expected %s", m->file,
        position(m), field, kind_names[found], expected);
}

/* Printable, and never long enough to push the rest out of the message. */
static void show(char out[64], const uint8_t *text, size_t len)
{
    size_t n = len < 60 ? len : 60;
    for (size_t i = 0; i < n; i++) out[i] = text[i] >= 32 && text[i] < 127 ? (char)text[i] : '?';
    memcpy(out + n, len > n ? "..." : "", len > n ? 4 : 1);
}

static enum status grow(const struct machine *m, struct node *s, size_t need)
{
    if (need <= s->capacity) return OK;
    size_t capacity = s->capacity ? s->capacity * 2 : 8;
    if (capacity < need) capacity = need;
    struct value *p = realloc(s->items, capacity * sizeof *p);
    if (!p) return fail(ERR_MEMORY, "%s: data.pkl: no memory for %zu values", m->file, capacity);
    s->items = p;
    s->capacity = capacity;
    return OK;
}

static enum status node_append(
    const struct machine *m, struct node *s, const struct value *items, size_t n)
{
    TRY(grow(m, s, s->n + n));
    if (n) memcpy(s->items + s->n, items, n * sizeof *items);
    s->n += n;
    return OK;
}

static enum status push(struct machine *m, struct value v)
{
    return node_append(m, &m->stack, &v, 1);
}

static enum status push_kind(struct machine *m, enum kind kind, int64_t i)
{
    return push(m, (struct value){.kind = kind, .i = i});
}

static enum status node_new(struct machine *m, struct node **out)
{
    struct node *s = calloc(1, sizeof *s);
    if (!s) return fail(ERR_MEMORY, "%s: data.pkl: no memory", m->file);
    s->next = m->nodes;
    m->nodes = s;
    *out = s;
    return OK;
}

/* The last n values, which no mark may stand among; they leave the stack but stay where they are.
 */
static enum status pop(struct machine *m, size_t n, struct value **out)
{
    if (m->stack.n < n) return broken(m, "an operation on an empty stack");
    m->stack.n -= n;
    *out = m->stack.items + m->stack.n;
    for (size_t i = 0; i < n; i++)
        if ((*out)[i].kind == V_MARK) return broken(m, "an operation across a mark");
    return OK;
}

/* Everything behind the last mark; the mark leaves too. */
static enum status pop_mark(struct machine *m, struct value **out, size_t *n)
{
    size_t i = m->stack.n;
    while (i > 0 && m->stack.items[i - 1].kind != V_MARK) i--;
    if (i == 0) return broken(m, "an operation without its mark");
    *n = m->stack.n - i;
    *out = m->stack.items + i;
    m->stack.n = i - 1;
    return OK;
}

static enum status top(const struct machine *m, struct value **out)
{
    if (m->stack.n == 0 || m->stack.items[m->stack.n - 1].kind == V_MARK)
        return broken(m, "nothing to work on");
    *out = &m->stack.items[m->stack.n - 1];
    return OK;
}

static enum status push_container(
    struct machine *m, enum kind kind, const struct value *items, size_t n)
{
    struct node *s = NULL;
    TRY(node_new(m, &s));
    TRY(node_append(m, s, items, n));
    return push(m, (struct value){.kind = kind, .node = s});
}

static enum status take(struct machine *m, size_t n, const uint8_t **out)
{
    if ((size_t)(m->end - m->at) < n) return broken(m, "ends in the middle of an operation");
    *out = m->at;
    m->at += n;
    return OK;
}

static enum status take_number(struct machine *m, size_t n_bytes, uint64_t *out)
{
    const uint8_t *p = NULL;
    TRY(take(m, n_bytes, &p));
    *out = 0;
    for (size_t i = n_bytes; i-- > 0;) *out = *out << 8 | p[i];
    return OK;
}

static enum status take_line(struct machine *m, const uint8_t **text, size_t *len)
{
    const uint8_t *stop = memchr(m->at, '\n', (size_t)(m->end - m->at));
    if (!stop) return broken(m, "a name without end");
    *text = m->at;
    *len = (size_t)(stop - m->at);
    m->at = stop + 1;
    return OK;
}

static bool is_text(const uint8_t *text, size_t len, const char *is)
{
    return strlen(is) == len && memcmp(text, is, len) == 0;
}

static enum status push_name(struct machine *m, const uint8_t *module, size_t module_len,
    const uint8_t *name, size_t name_len)
{
    for (int i = 0; i < NAME_STORAGE; i++)
        if (is_text(module, module_len, allowed[i].module) &&
            is_text(name, name_len, allowed[i].name))
            return push_kind(m, V_NAME, i);
    if (is_text(module, module_len, "torch"))
        for (int t = 0; t < TORCH_TYPES; t++)
            if (is_text(name, name_len, torch_type_storage((enum torch_type)t)))
                return push_kind(m, V_NAME, NAME_STORAGE + t);
    char shown_module[64], shown_name[64];
    show(shown_module, module, module_len);
    show(shown_name, name, name_len);
    return fail(ERR_UNSUPPORTED,
        "%s: data.pkl, before byte %zu: wants %s.%s, which is not loaded: only tensors, numbers, "
        "strings, "
        "lists, tuples and dictionaries are; save a plain dictionary of tensors, and distrust a "
        "file that "
        "needs more",
        m->file, position(m), shown_module, shown_name);
}

static enum status op_stack_global(struct machine *m)
{
    struct value *v = NULL;
    TRY(pop(m, 2, &v));
    if (v[0].kind != V_STRING || v[1].kind != V_STRING)
        return broken(m, "a name that is no string");
    return push_name(m, v[0].text, v[0].len, v[1].text, v[1].len);
}

static enum status memo_put(struct machine *m, uint64_t i)
{
    struct value *v = NULL;
    TRY(top(m, &v));
    if (i > (uint64_t)(m->end - m->begin))
        return broken(m, "a memo number beyond the length of the pickle");
    TRY(grow(m, &m->memo, (size_t)i + 1));
    /* not yet put */
    while (m->memo.n <= i) m->memo.items[m->memo.n++] = (struct value){.kind = V_MARK};
    m->memo.items[i] = *v;
    return OK;
}

static enum status memo_get(struct machine *m, uint64_t i)
{
    if (i >= m->memo.n || m->memo.items[i].kind == V_MARK)
        return broken(m, "a memo number that was never given");
    return push(m, m->memo.items[i]);
}

static enum status push_string(struct machine *m, size_t n_bytes)
{
    uint64_t len;
    const uint8_t *p = NULL;
    TRY(take_number(m, n_bytes, &len));
    TRY(take(m, (size_t)len, &p));
    return push(m, (struct value){.kind = V_STRING, .len = (uint32_t)len, .text = p});
}

/* Two's complement of up to 8 bytes, as LONG1 has it; no bytes are zero. */
static enum status push_long(struct machine *m)
{
    uint64_t len, v;
    TRY(take_number(m, 1, &len));
    if (len > 8) return broken(m, "an integer of more than 64 bits");
    TRY(take_number(m, (size_t)len, &v));
    if (len > 0 && len < 8 && v >> (8 * len - 1)) v |= ~UINT64_C(0) << 8 * len;
    return push_kind(m, V_INT, (int64_t)v);
}

static enum status op_int32(struct machine *m)
{
    uint64_t v;
    TRY(take_number(m, 4, &v));
    return push_kind(m, V_INT, (int32_t)(uint32_t)v);
}

static enum status op_small_int(struct machine *m, size_t n_bytes)
{
    uint64_t v;
    TRY(take_number(m, n_bytes, &v));
    return push_kind(m, V_INT, (int64_t)v);
}

/* ("storage", torch.<Type>Storage, "name", "device", elements); the device is where it was, and we
 * hold it here. */
static enum status op_persistent_id(struct machine *m)
{
    struct value *id = NULL;
    TRY(pop(m, 1, &id));
    if (id->kind != V_TUPLE) return wrong_kind(m, "storage", id->kind, "a tuple");
    const struct value *v = id->node->items;
    static const enum kind kinds[5] = {V_STRING, V_NAME, V_STRING, V_STRING, V_INT};
    if (id->node->n != 5) return broken(m, "a storage that is not described by five values");
    for (int i = 0; i < 5; i++)
        if (v[i].kind != kinds[i]) return wrong_kind(m, "storage", v[i].kind, kind_names[kinds[i]]);
    if (!is_text(v[0].text, v[0].len, "storage") || v[1].i < NAME_STORAGE)
        return broken(m, "a persistent id that is no storage");
    struct torch_tensor t;
    if (v[2].len == 0 || v[2].len >= sizeof t.storage_name || memchr(v[2].text, 0, v[2].len) ||
        memchr(v[2].text, '/', v[2].len))
        return broken(m, "a storage without a proper name");
    if (v[4].i < 0) return broken(m, "a storage of negative size");
    return push(m, (struct value){.kind = V_STORAGE, .node = id->node});
}

static enum status read_dims(
    const struct machine *m, const char *field, const struct value *v, int64_t *out, int *n)
{
    if (v->kind != V_TUPLE) return wrong_kind(m, field, v->kind, "a tuple of integers");
    if (v->node->n > TORCH_MAX_DIMS)
        return fail(ERR_UNSUPPORTED,
            "%s: data.pkl, before byte %zu: %s: found %zu dimensions, expected at most %d", m->file,
            position(m), field, v->node->n, TORCH_MAX_DIMS);
    *n = (int)v->node->n;
    for (int i = 0; i < *n; i++) {
        const struct value *d = &v->node->items[i];
        if (d->kind != V_INT) return wrong_kind(m, field, d->kind, "integers");
        if (d->i < 0) return broken(m, "a negative dimension or stride");
        out[i] = d->i;
    }
    return OK;
}

/* Every element of the view inside its storage, and their number within 63 bits. */
static enum status check_view(const struct machine *m, const struct torch_tensor *t)
{
    int64_t last = t->offset, count = 1, extent;
    bool empty = false, fits = t->offset >= 0;
    for (int i = 0; i < t->n_dims; i++) {
        empty |= t->shape[i] == 0;
        fits &= !__builtin_mul_overflow(count, t->shape[i], &count);
    }
    for (int i = 0; i < t->n_dims && fits && !empty; i++)
        fits = !__builtin_mul_overflow(t->shape[i] - 1, t->stride[i], &extent) &&
            !__builtin_add_overflow(last, extent, &last);
    if (!fits || (!empty && last >= t->storage_count))
        return fail(ERR_FORMAT,
            "%s: data.pkl, before byte %zu: a tensor reaches beyond its storage %s of %lld "
            "elements; "
            "the file is damaged",
            m->file, position(m), t->storage_name, (long long)t->storage_count);
    return OK;
}

/* (storage, offset, shape, stride, requires_grad, hooks[, flags]) */
static enum status build_tensor(struct machine *m, const struct node *args)
{
    const struct value *a = args->items;
    if (args->n != 6 && args->n != 7)
        return broken(m, "a tensor that is not described by six or seven values");
    if (a[0].kind != V_STORAGE) return wrong_kind(m, "tensor", a[0].kind, "a storage");
    if (a[1].kind != V_INT) return wrong_kind(m, "offset", a[1].kind, "an integer");
    if (args->n == 7 && a[6].kind != V_NONE && !(a[6].kind == V_DICT && a[6].node->n == 0))
        return fail(ERR_UNSUPPORTED,
            "%s: data.pkl, before byte %zu: a conjugated or negated view; save "
            "tensor.resolve_neg()",
            m->file, position(m));
    const struct value *s = a[0].node->items;
    struct torch_tensor t = {.type = (enum torch_type)(s[1].i - NAME_STORAGE),
        .offset = a[1].i,
        .storage_count = s[4].i};
    memcpy(t.storage_name, s[2].text, s[2].len);
    int n_strides;
    TRY(read_dims(m, "shape", &a[2], t.shape, &t.n_dims));
    TRY(read_dims(m, "stride", &a[3], t.stride, &n_strides));
    if (n_strides != t.n_dims)
        return broken(m, "a tensor with more or fewer strides than dimensions");
    TRY(check_view(m, &t));
    struct node *holder = NULL;
    TRY(node_new(m, &holder));
    holder->tensor = malloc(sizeof t);
    if (!holder->tensor) return fail(ERR_MEMORY, "%s: data.pkl: no memory", m->file);
    *holder->tensor = t;
    return push(m, (struct value){.kind = V_TENSOR, .tensor = holder->tensor});
}

static enum status op_reduce(struct machine *m)
{
    struct value *v = NULL;
    TRY(pop(m, 2, &v));
    if (v[0].kind != V_NAME)
        return wrong_kind(m, "call", v[0].kind, "one of the allowed functions");
    if (v[1].kind != V_TUPLE) return wrong_kind(m, "arguments", v[1].kind, "a tuple");
    const struct node *args = v[1].node;
    switch (v[0].i) {
    case NAME_ORDERED_DICT:
        if (args->n != 0) return broken(m, "an OrderedDict made from arguments");
        return push_container(m, V_ORDERED_DICT, NULL, 0);
    case NAME_TENSOR: return build_tensor(m, args);
    case NAME_PARAMETER: /* (tensor, requires_grad, hooks): the tensor is all that matters here */
        if (args->n != 3 || args->items[0].kind != V_TENSOR)
            return broken(m, "a parameter without its tensor");
        return push(m, args->items[0]);
    }
    return broken(m, "a call of a storage type");
}

/* Attributes of an OrderedDict, such as the _metadata of a state_dict, carry no tensors. */
static enum status op_build(struct machine *m)
{
    struct value *state = NULL, *object = NULL;
    TRY(pop(m, 1, &state));
    TRY(top(m, &object));
    if (object->kind != V_ORDERED_DICT)
        return fail(ERR_UNSUPPORTED,
            "%s: data.pkl, before byte %zu: sets the state of %s; only an OrderedDict may have one",
            m->file, position(m), kind_names[object->kind]);
    return state->kind == V_DICT ? OK : wrong_kind(m, "attributes", state->kind, "a dictionary");
}

static enum status set_items(struct machine *m, const struct value *items, size_t n)
{
    struct value *object = NULL;
    TRY(top(m, &object));
    if (object->kind != V_DICT && object->kind != V_ORDERED_DICT)
        return wrong_kind(m, "items", object->kind, "a dictionary");
    if (n % 2) return broken(m, "a key without a value");
    return node_append(m, object->node, items, n);
}

static enum status append_items(struct machine *m, const struct value *items, size_t n)
{
    struct value *object = NULL;
    TRY(top(m, &object));
    if (object->kind != V_LIST) return wrong_kind(m, "items", object->kind, "a list");
    return node_append(m, object->node, items, n);
}

static enum status op_collect(struct machine *m, uint8_t op)
{
    struct value *items = NULL;
    size_t n = 0;
    if (op == 's' || op == 'a') {
        n = op == 's' ? 2 : 1;
        TRY(pop(m, n, &items));
    } else {
        TRY(pop_mark(m, &items, &n));
    }
    if (op == 't') return push_container(m, V_TUPLE, items, n);
    return op == 's' || op == 'u' ? set_items(m, items, n) : append_items(m, items, n);
}

static enum status op_memo(struct machine *m, uint8_t op)
{
    uint64_t i = m->memo.n;
    if (op != 0x94) TRY(take_number(m, op == 'r' || op == 'j' ? 4 : 1, &i));
    return op == 'h' || op == 'j' ? memo_get(m, i) : memo_put(m, i);
}

static enum status op_short_tuple(struct machine *m, size_t n)
{
    struct value *items = NULL;
    TRY(pop(m, n, &items));
    return push_container(m, V_TUPLE, items, n);
}

static enum status op_global(struct machine *m)
{
    const uint8_t *module = NULL, *name = NULL;
    size_t module_len = 0, name_len = 0;
    TRY(take_line(m, &module, &module_len));
    TRY(take_line(m, &name, &name_len));
    return push_name(m, module, module_len, name, name_len);
}

static enum status refuse(const struct machine *m, uint8_t op)
{
    static const struct {
        uint8_t op;
        const char *name;
    } known[] = {
        {'i', "INST"},
        {'o', "OBJ"},
        {0x81, "NEWOBJ"},
        {0x92, "NEWOBJ_EX"},
        {0x82, "EXT1"},
        {0x83, "EXT2"},
        {0x84, "EXT4"},
        {'P', "PERSID"},
        {'B', "BINBYTES"},
        {'C', "SHORT_BINBYTES"},
        {0x8f, "EMPTY_SET"},
        {'T', "BINSTRING"},
        {'U', "SHORT_BINSTRING"},
    };
    const char *name = "no operation of a dictionary of tensors";
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (known[i].op == op) name = known[i].name;
    return fail(ERR_UNSUPPORTED,
        "%s: data.pkl, byte %zu: pickle opcode 0x%02x (%s) is not carried out: only tensors, "
        "numbers, strings, "
        "lists, tuples and dictionaries are loaded; save a plain dictionary of tensors",
        m->file, position(m) - 1, op, name);
}

static enum status op_protocol(struct machine *m)
{
    uint64_t version;
    TRY(take_number(m, 1, &version));
    if (version >= 2 && version <= 5) return OK;
    return fail(ERR_UNSUPPORTED, "%s: data.pkl: pickle protocol: found %llu, expected 2 to 5",
        m->file, (unsigned long long)version);
}

static enum status step(struct machine *m)
{
    const uint8_t *p = NULL;
    TRY(take(m, 1, &p));
    switch (*p) {
    case 0x80: return op_protocol(m);
    case 0x95: return take(m, 8, &p); /* the length of a frame: nothing depends on it */
    case '.': m->done = true; return OK;
    case 'N': return push_kind(m, V_NONE, 0);
    case 0x88: return push_kind(m, V_BOOL, 1);
    case 0x89: return push_kind(m, V_BOOL, 0);
    case 'K': return op_small_int(m, 1);
    case 'M': return op_small_int(m, 2);
    case 'J': return op_int32(m);
    case 0x8a: return push_long(m);
    case 'G':
        TRY(take(m, 8, &p)); /* a plain number is no tensor: only that it is there matters */
        return push_kind(m, V_FLOAT, 0);
    case 'X': return push_string(m, 4);
    case 0x8c: return push_string(m, 1);
    case '(': return push_kind(m, V_MARK, 0);
    case ')': return push_container(m, V_TUPLE, NULL, 0);
    case ']': return push_container(m, V_LIST, NULL, 0);
    case '}': return push_container(m, V_DICT, NULL, 0);
    case 0x85:
    case 0x86:
    case 0x87: return op_short_tuple(m, (size_t)*p - 0x84);
    case 't':
    case 's':
    case 'u':
    case 'a':
    case 'e': return op_collect(m, *p);
    case 'q':
    case 'r':
    case 'h':
    case 'j':
    case 0x94: return op_memo(m, *p);
    case 'c': return op_global(m);
    case 0x93: return op_stack_global(m);
    case 'Q': return op_persistent_id(m);
    case 'R': return op_reduce(m);
    case 'b': return op_build(m);
    }
    return refuse(m, *p);
}

static enum status collect(
    struct torch_pickle *out, const struct machine *m, const struct node *dict)
{
    out->tensors = calloc(dict->n / 2 + 1, sizeof *out->tensors);
    if (!out->tensors)
        return fail(ERR_MEMORY, "%s: data.pkl: no memory for %zu tensors", m->file, dict->n / 2);
    for (size_t i = 0; i < dict->n; i += 2) {
        const struct value *key = &dict->items[i], *value = key + 1;
        if (key->kind != V_STRING || value->kind != V_TENSOR) {
            out->n_other++;
            continue;
        }
        /* keys come up in messages: nothing that a terminal obeys */
        for (uint32_t k = 0; k < key->len; k++)
            if (key->text[k] < 32 || key->text[k] == 127)
                return broken(m, "a key with a control character");
        struct torch_tensor *t = &out->tensors[out->n_tensors++];
        *t = *value->tensor;
        t->key = malloc((size_t)key->len + 1);
        if (!t->key) return fail(ERR_MEMORY, "%s: data.pkl: no memory", m->file);
        memcpy(t->key, key->text, key->len);
        t->key[key->len] = 0;
    }
    return OK;
}

static enum status run(struct torch_pickle *out, struct machine *m)
{
    while (!m->done) TRY(step(m));
    if (m->at != m->end) return broken(m, "something behind the end of the pickle");
    if (m->stack.n != 1) return broken(m, "ends with several values or none");
    const struct value *v = &m->stack.items[0];
    if (v->kind != V_DICT && v->kind != V_ORDERED_DICT)
        return fail(ERR_UNSUPPORTED, "%s: data.pkl: found %s, expected a dictionary of tensors",
            m->file, kind_names[v->kind]);
    return collect(out, m, v->node);
}

enum status torch_pickle_read(
    struct torch_pickle *p, const char *file, const uint8_t *data, size_t size)
{
    *p = (struct torch_pickle){0};
    if (size > MAX_PICKLE_BYTES)
        return fail(ERR_UNSUPPORTED,
            "%s: data.pkl: found %zu bytes, expected at most %d; save fewer tensors", file, size,
            MAX_PICKLE_BYTES);
    struct machine m = {.file = file, .begin = data, .at = data, .end = data + size};
    enum status st = run(p, &m);
    while (m.nodes) {
        struct node *next = m.nodes->next;
        free(m.nodes->tensor);
        free(m.nodes->items);
        free(m.nodes);
        m.nodes = next;
    }
    free(m.stack.items);
    free(m.memo.items);
    if (st != OK) torch_pickle_clear(p);
    return st;
}

void torch_pickle_clear(struct torch_pickle *p)
{
    for (size_t i = 0; i < p->n_tensors; i++) free(p->tensors[i].key);
    free(p->tensors);
    *p = (struct torch_pickle){0};
}
