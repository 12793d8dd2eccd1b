/* The container of a file made by torch.save: a zip archive whose entries are stored, not
 * compressed.
 *
 * Entries stand as "ROOT/data.pkl", "ROOT/data/0", "ROOT/version" …; ROOT is any name. Zip64
 * records are read. Compressed, encrypted or split archives are refused. Format: PKWARE
 * APPNOTE 6.3.
 */
#ifndef SG_ENGINE_CHECKPOINT_TORCH_ZIP_H
#define SG_ENGINE_CHECKPOINT_TORCH_ZIP_H

#include "base/str.h"

#include <stdbool.h>
#include <stdint.h>

struct zip_entry {
    const char *name; /* in the archive, without a terminating zero */
    size_t name_len;
    const uint8_t *data; /* in the archive */
    size_t size;         /* bytes */
    uint32_t crc;        /* as the directory has it */
    bool checked;        /* the bytes were found to have that CRC */
};

struct torch_zip {
    const char *file;          /* borrowed, for messages */
    struct zip_entry *entries; /* owned; sorted by name, no name twice */
    size_t n_entries;
    const char *root; /* in the archive: what stands before "/data.pkl" */
    size_t root_len;
};

/* `file` and `data` must outlive z. On failure nothing is left open. ERR_FORMAT; ERR_UNSUPPORTED
 * for what a zip may hold and torch.save never writes. */
enum status torch_zip_open(
    struct torch_zip *z, const char *file, const uint8_t *data, size_t size) MUST_USE;
void torch_zip_close(struct torch_zip *z);

/* The entry "ROOT/<name>", its CRC-32 checked; *out NULL when there is none. */
enum status torch_zip_find(
    struct torch_zip *z, const char *name, const struct zip_entry **out) MUST_USE;

/* CRC-32 as in zip (ISO 3309, reflected polynomial edb88320). */
uint32_t torch_zip_crc(const void *data, size_t size);

/* An archive being written, in memory: `struct torch_zip_writer w = {0};`, add entries, finish,
 * take w.out.
 */
struct torch_zip_writer {
    struct str out, directory;
    size_t n_entries;
};
/* The bytes begin at a multiple of 64, as torch.save has it, so that tensors may be mapped. */
void torch_zip_add(struct torch_zip_writer *w, const char *name, const void *data, size_t size);
/* ERR_UNSUPPORTED for more than 65534 entries or 4 GiB. */
enum status torch_zip_finish(struct torch_zip_writer *w) MUST_USE;
void torch_zip_writer_clear(struct torch_zip_writer *w);

#endif
