#include "engine/checkpoint/torch_zip.h"

#include <stdlib.h>
#include <string.h>

enum {
    LOCAL_SIGNATURE = 0x04034b50,
    CENTRAL_SIGNATURE = 0x02014b50,
    END_SIGNATURE = 0x06054b50,
    END64_SIGNATURE = 0x06064b50,
    LOCATOR_SIGNATURE = 0x07064b50,
    LOCAL_BYTES = 30,
    CENTRAL_BYTES = 46,
    END_BYTES = 22,
    END64_BYTES = 56,
    LOCATOR_BYTES = 20,
    ZIP64_EXTRA = 0x0001,
    PADDING_EXTRA = 0x4246, /* "FB", the id that torch.save gives its padding */
    ALIGNMENT = 64,
};

static uint64_t little(const uint8_t *p, int n_bytes)
{
    uint64_t v = 0;
    for (int i = n_bytes - 1; i >= 0; i--) v = v << 8 | p[i];
    return v;
}

uint32_t torch_zip_crc(const void *data, size_t size)
{
    static const uint32_t nibble[16] = {
        /* the remainders of the 16 values of four bits */
        0x00000000,
        0x1db71064,
        0x3b6e20c8,
        0x26d930ac,
        0x76dc4190,
        0x6b6b51f4,
        0x4db26158,
        0x5005713c,
        0xedb88320,
        0xf00f9344,
        0xd6d6a3e8,
        0xcb61b38c,
        0x9b64c2b0,
        0x86d3d2d4,
        0xa00ae278,
        0xbdbdf21c,
    };
    const uint8_t *p = data;
    uint32_t crc = 0xffffffff;
    for (size_t i = 0; i < size; i++) {
        crc ^= p[i];
        crc = crc >> 4 ^ nibble[crc & 15];
        crc = crc >> 4 ^ nibble[crc & 15];
    }
    return ~crc;
}

static int entry_order(const void *a, const void *b)
{
    const struct zip_entry *x = a, *y = b;
    size_t n = x->name_len < y->name_len ? x->name_len : y->name_len;
    int c = memcmp(x->name, y->name, n);
    return c ? c : (x->name_len > y->name_len) - (x->name_len < y->name_len);
}

struct directory {
    uint64_t offset, size, n_entries;
};

/* Where the end record begins; size when there is none. A comment of up to 65535 bytes may follow
 * it. */
static size_t find_end(const uint8_t *data, size_t size)
{
    for (size_t back = END_BYTES; back <= size && back <= END_BYTES + 65535; back++) {
        const uint8_t *p = data + size - back;
        if (little(p, 4) == END_SIGNATURE && little(p + 20, 2) == back - END_BYTES)
            return size - back;
    }
    return size;
}

static enum status no_end(const char *file, const uint8_t *data, size_t size)
{
    if (size >= 2 && data[0] == 0x80)
        return fail(ERR_UNSUPPORTED,
            "%s: a bare pickle, the form torch.save had before torch 1.6; expected a zip archive; "
            "load it in torch and save it again",
            file);
    if (size >= 4 && little(data, 4) == LOCAL_SIGNATURE)
        return fail(ERR_FORMAT,
            "%s: a zip archive of %zu bytes without its end record: truncated; copy the file again",
            file, size);
    return fail(ERR_FORMAT,
        "%s: begins with 0x%02x 0x%02x (%zu bytes), expected the zip archive that torch.save "
        "writes",
        file, size > 0 ? data[0] : 0u, size > 1 ? data[1] : 0u, size);
}

static enum status find_directory(
    struct directory *d, const char *file, const uint8_t *data, size_t size)
{
    size_t end = find_end(data, size);
    if (end == size) return no_end(file, data, size);
    const uint8_t *p = data + end;
    bool split = little(p + 4, 2) != 0 || little(p + 6, 2) != 0;
    *d = (struct directory){little(p + 16, 4), little(p + 12, 4), little(p + 10, 2)};
    if (end >= LOCATOR_BYTES && little(p - LOCATOR_BYTES, 4) == LOCATOR_SIGNATURE) {
        uint64_t at = little(p - LOCATOR_BYTES + 8, 8);
        if (at > end - LOCATOR_BYTES || end - LOCATOR_BYTES - at < END64_BYTES ||
            little(data + at, 4) != END64_SIGNATURE)
            return fail(ERR_FORMAT,
                "%s: zip64 end record: found nothing at byte %llu; the file is damaged, copy it "
                "again",
                file, (unsigned long long)at);
        split = little(data + at + 16, 4) != 0 || little(data + at + 20, 4) != 0;
        *d = (struct directory){
            little(data + at + 48, 8), little(data + at + 40, 8), little(data + at + 32, 8)};
        end = (size_t)at;
    }
    if (split)
        return fail(
            ERR_UNSUPPORTED, "%s: an archive split over several files; expected one file", file);
    if (d->offset > end || d->size > end - d->offset || d->n_entries > d->size / CENTRAL_BYTES)
        return fail(ERR_FORMAT,
            "%s: zip directory: found %llu entries in %llu bytes at byte %llu, which %zu bytes do "
            "not "
            "hold; the file is damaged, copy it again",
            file, (unsigned long long)d->n_entries, (unsigned long long)d->size,
            (unsigned long long)d->offset, end);
    return OK;
}

struct central {
    const char *name;
    size_t name_len, extra_len;
    uint64_t packed, unpacked, local;
    unsigned flags, method;
    uint32_t crc;
};

/* Sizes and offset that do not fit into 32 bits stand in the extra field, in this order, each only
 * when needed. */
static bool read_zip64(struct central *c, const uint8_t *extra)
{
    uint64_t *wide[3] = {&c->unpacked, &c->packed, &c->local};
    size_t left = c->extra_len;
    while (left >= 4) {
        size_t len = little(extra + 2, 2);
        if (len > left - 4) return false;
        if (little(extra, 2) == ZIP64_EXTRA) {
            const uint8_t *p = extra + 4, *end = p + len;
            for (int i = 0; i < 3; i++) {
                if (*wide[i] != 0xffffffff) continue;
                if (end - p < 8) return false;
                *wide[i] = little(p, 8);
                p += 8;
            }
            return true;
        }
        extra += 4 + len;
        left -= 4 + len;
    }
    return true;
}

static enum status entry_damaged(const char *file, const struct central *c, const char *what)
{
    return fail(ERR_FORMAT, "%s: entry %.*s: %s; the file is damaged, copy it again", file,
        (int)(c->name_len < 80 ? c->name_len : 80), c->name, what);
}

/* Check one entry against its local header and find its bytes. `limit`: where the directory begins.
 */
static enum status read_entry(struct zip_entry *e, const struct central *c, const char *file,
    const uint8_t *data, uint64_t limit)
{
    int shown = (int)(c->name_len < 80 ? c->name_len : 80);
    /* names come up in messages: nothing that a terminal obeys */
    for (size_t i = 0; i < c->name_len; i++)
        if ((uint8_t)c->name[i] < 32 || c->name[i] == 127)
            return fail(ERR_FORMAT,
                "%s: an entry with a control character in its name; the file is damaged", file);
    if (c->flags & 1)
        return fail(ERR_UNSUPPORTED, "%s: entry %.*s is encrypted; save it again with torch.save",
            file, shown, c->name);
    if (c->method != 0)
        return fail(ERR_UNSUPPORTED,
            "%s: entry %.*s: compression method: found %u (%s), expected 0 (stored); save the file "
            "again with torch.save, or repack it with `zip -0`",
            file, shown, c->name, c->method, c->method == 8 ? "deflate" : "compressed");
    if (c->packed != c->unpacked)
        return entry_damaged(file, c, "stored, but with two different sizes");
    if (c->local > limit || limit - c->local < LOCAL_BYTES)
        return entry_damaged(file, c, "begins outside the file");
    const uint8_t *p = data + c->local;
    if (little(p, 4) != LOCAL_SIGNATURE)
        return entry_damaged(file, c, "no local header where the directory says");
    uint64_t name_len = little(p + 26, 2), extra_len = little(p + 28, 2),
             room = limit - c->local - LOCAL_BYTES;
    if (name_len + extra_len > room || c->unpacked > room - name_len - extra_len)
        return entry_damaged(file, c, "reaches beyond the end of the file");
    if (name_len != c->name_len || memcmp(p + LOCAL_BYTES, c->name, name_len) != 0 ||
        little(p + 8, 2) != 0)
        return entry_damaged(file, c, "its local header says something else than the directory");
    *e = (struct zip_entry){c->name, c->name_len, p + LOCAL_BYTES + name_len + extra_len,
        (size_t)c->unpacked, c->crc, false};
    return OK;
}

static enum status read_directory(
    struct torch_zip *z, const struct directory *d, const uint8_t *data)
{
    const uint8_t *p = data + d->offset, *end = p + d->size;
    for (uint64_t i = 0; i < d->n_entries; i++) {
        if (end - p < CENTRAL_BYTES || little(p, 4) != CENTRAL_SIGNATURE)
            return fail(ERR_FORMAT,
                "%s: zip directory: entry %llu of %llu is missing; the file is damaged, copy it "
                "again",
                z->file, (unsigned long long)i + 1, (unsigned long long)d->n_entries);
        struct central c = {
            .name = (const char *)p + CENTRAL_BYTES,
            .name_len = little(p + 28, 2),
            .extra_len = little(p + 30, 2),
            .flags = (unsigned)little(p + 8, 2),
            .method = (unsigned)little(p + 10, 2),
            .crc = (uint32_t)little(p + 16, 4),
            .packed = little(p + 20, 4),
            .unpacked = little(p + 24, 4),
            .local = little(p + 42, 4),
        };
        size_t all = CENTRAL_BYTES + c.name_len + c.extra_len + little(p + 32, 2);
        if ((size_t)(end - p) < all || !read_zip64(&c, p + CENTRAL_BYTES + c.name_len))
            return fail(ERR_FORMAT,
                "%s: zip directory: entry %llu is cut off; the file is damaged, copy it again",
                z->file, (unsigned long long)i + 1);
        TRY(read_entry(&z->entries[z->n_entries], &c, z->file, data, d->offset));
        z->n_entries++;
        p += all;
    }
    qsort(z->entries, z->n_entries, sizeof *z->entries, entry_order);
    for (size_t i = 1; i < z->n_entries; i++)
        if (entry_order(&z->entries[i - 1], &z->entries[i]) == 0)
            return fail(ERR_FORMAT,
                "%s: entry %.*s stands there twice; save the file again with torch.save", z->file,
                (int)(z->entries[i].name_len < 80 ? z->entries[i].name_len : 80),
                z->entries[i].name);
    return OK;
}

static enum status find_root(struct torch_zip *z)
{
    static const char pickle[] = "/data.pkl";
    const size_t len = sizeof pickle - 1;
    for (size_t i = 0; i < z->n_entries; i++) {
        const struct zip_entry *e = &z->entries[i];
        if (e->name_len <= len || memcmp(e->name + e->name_len - len, pickle, len) != 0) continue;
        if (memchr(e->name, '/', e->name_len - len)) continue;
        if (z->root)
            return fail(ERR_FORMAT, "%s: found data.pkl in two folders, expected one", z->file);
        z->root = e->name;
        z->root_len = e->name_len - len;
    }
    return z->root ? OK
                   : fail(ERR_FORMAT,
                         "%s: entry FOLDER/data.pkl: found nothing among %zu entries; expected a "
                         "file written by "
                         "torch.save",
                         z->file, z->n_entries);
}

enum status torch_zip_open(struct torch_zip *z, const char *file, const uint8_t *data, size_t size)
{
    *z = (struct torch_zip){.file = file};
    struct directory d = {0};
    TRY(find_directory(&d, file, data, size));
    z->entries = calloc(d.n_entries ? d.n_entries : 1, sizeof *z->entries);
    if (!z->entries)
        return fail(
            ERR_MEMORY, "%s: no memory for %llu entries", file, (unsigned long long)d.n_entries);
    enum status st = read_directory(z, &d, data);
    if (st == OK) st = find_root(z);
    if (st != OK) torch_zip_close(z);
    return st;
}

void torch_zip_close(struct torch_zip *z)
{
    free(z->entries);
    *z = (struct torch_zip){0};
}

enum status torch_zip_find(struct torch_zip *z, const char *name, const struct zip_entry **out)
{
    struct str full = {0};
    str_add_bytes(&full, z->root, z->root_len);
    str_addf(&full, "/%s", name);
    struct zip_entry key = {.name = full.data, .name_len = full.len};
    struct zip_entry *e = bsearch(&key, z->entries, z->n_entries, sizeof *z->entries, entry_order);
    str_clear(&full);
    *out = e;
    if (!e || e->checked) return OK;
    uint32_t crc = torch_zip_crc(e->data, e->size);
    if (crc != e->crc)
        return fail(ERR_FORMAT,
            "%s: entry %s: CRC-32: found %08x, expected %08x; the file is damaged, copy it again",
            z->file, name, crc, e->crc);
    e->checked = true;
    return OK;
}

static void put(struct str *s, uint64_t value, int n_bytes)
{
    for (int i = 0; i < n_bytes; i++) str_add_char(s, (char)(value >> (8 * i) & 0xff));
}

enum { NAMES_ARE_UTF8 = 0x0800, VERSION_STORED = 10, DATE_1980_01_01 = 0x0021 };

/* The fields that both headers have in common, from "version needed" to the length of the name. */
static void put_common(struct str *s, const char *name, uint32_t crc, size_t size)
{
    put(s, VERSION_STORED, 2);
    put(s, NAMES_ARE_UTF8, 2);
    put(s, 0, 2); /* stored */
    put(s, 0, 2); /* a fixed time: equal content gives an equal file */
    put(s, DATE_1980_01_01, 2);
    put(s, crc, 4);
    put(s, size, 4);
    put(s, size, 4);
    put(s, strlen(name), 2);
}

void torch_zip_add(struct torch_zip_writer *w, const char *name, const void *data, size_t size)
{
    uint32_t crc = torch_zip_crc(data, size);
    size_t local = w->out.len, begin = local + LOCAL_BYTES + strlen(name) + 4;
    size_t padding = (ALIGNMENT - begin % ALIGNMENT) % ALIGNMENT;
    put(&w->out, LOCAL_SIGNATURE, 4);
    put_common(&w->out, name, crc, size);
    put(&w->out, 4 + padding, 2);
    str_add(&w->out, name);
    put(&w->out, PADDING_EXTRA, 2);
    put(&w->out, padding, 2);
    for (size_t i = 0; i < padding; i++) str_add_char(&w->out, 'Z');
    str_add_bytes(&w->out, data, size);

    put(&w->directory, CENTRAL_SIGNATURE, 4);
    put(&w->directory, VERSION_STORED, 2);
    put_common(&w->directory, name, crc, size);
    put(&w->directory, 0, 8); /* no extra field, no comment, first disk, no internal attributes */
    put(&w->directory, 0, 4); /* no external attributes */
    put(&w->directory, local, 4);
    str_add(&w->directory, name);
    w->n_entries++;
}

enum status torch_zip_finish(struct torch_zip_writer *w)
{
    size_t offset = w->out.len;
    if (w->n_entries > 65534 || offset + w->directory.len > 0xfffffffe)
        return fail(ERR_UNSUPPORTED,
            "zip: %zu entries in %zu bytes do not fit; expected at most 65534 in 4 GiB",
            w->n_entries, offset);
    str_add_bytes(&w->out, w->directory.data, w->directory.len);
    put(&w->out, END_SIGNATURE, 4);
    put(&w->out, 0, 4);
    put(&w->out, w->n_entries, 2);
    put(&w->out, w->n_entries, 2);
    put(&w->out, w->directory.len, 4);
    put(&w->out, offset, 4);
    put(&w->out, 0, 2);
    return OK;
}

void torch_zip_writer_clear(struct torch_zip_writer *w)
{
    str_clear(&w->out);
    str_clear(&w->directory);
    *w = (struct torch_zip_writer){0};
}
