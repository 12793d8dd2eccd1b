#include "engine/checkpoint/fingerprint_memory.h"

#include <string.h>
#include <time.h>

enum { KEY = HASH_HEX_SIZE - 1, PRINT = FINGERPRINT_SIZE - 1, LINE = KEY + 1 + PRINT + 1 };
#define REST_NS INT64_C(2000000000)

/* The file as it is; lines of another form are not ours, so then it counts as empty. */
static void memory_read(struct str *text, const char *path)
{
    if (!file_is_regular(path) || file_read(text, path) != OK) str_reset(text);
    bool ours = text->len % LINE == 0;
    for (size_t at = 0; ours && at < text->len; at += LINE)
        ours = text->data[at + KEY] == ' ' && text->data[at + LINE - 1] == '\n';
    if (!ours) str_reset(text);
}

bool fingerprint_recall(const char *path, const char key[HASH_HEX_SIZE], char out[FINGERPRINT_SIZE])
{
    struct str text = {0};
    bool found = false;
    memory_read(&text, path);
    for (size_t at = 0; at < text.len; at += LINE) {
        if (memcmp(text.data + at, key, KEY) != 0) continue;
        memcpy(out, text.data + at + KEY + 1, PRINT);
        out[PRINT] = 0;
        found = true;
    }
    str_clear(&text);
    return found;
}

void fingerprint_remember(const char *path, const char key[HASH_HEX_SIZE], const char *fingerprint)
{
    struct str text = {0};
    memory_read(&text, path);
    str_addf(&text, "%s %s\n", key, fingerprint);
    size_t most = (size_t)FINGERPRINT_MEMORY * LINE, drop = text.len > most ? text.len - most : 0;
    enum status ignored = file_write_atomic(path, text.data + drop, text.len - drop);
    (void)ignored;
    str_clear(&text);
}

bool fingerprint_files_at_rest(const struct safetensors *s)
{
    struct timespec now;
    if (s->n_files == 0) return false;
    clock_gettime(CLOCK_REALTIME, &now);
    for (int i = 0; i < s->n_files; i++) {
        const struct file_id *was = &s->files[i].map.id;
        struct file_id is = file_id(s->files[i].path);
        int64_t age = now.tv_sec * INT64_C(1000000000) + now.tv_nsec - is.ctime_ns;
        if (!was->inode || memcmp(was, &is, sizeof is) != 0 || age < REST_NS) return false;
    }
    return true;
}
