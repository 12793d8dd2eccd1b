/* Any text as the index of a checkpoint in two sound shards: refused with a message, or every
 * tensor lies in a shard that the index names. */
#include "engine/checkpoint/safetensors.h"

#include "base/file.h"
#include "tests/fuzz/fuzz.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[64];

static void put(const char *name, const void *data, size_t size)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *f = fopen(path, "w");
    require(f != NULL && fwrite(data, 1, size, f) == size);
    fclose(f);
}

static void put_shard(const char *name, const char *header)
{
    char bytes[256] = {0};
    size_t n = strlen(header);
    bytes[0] = (char)n;
    memcpy(bytes + 8, header, n);
    put(name, bytes, 8 + n + 8);
}

static void leave(void)
{
    static const char *const names[] = {
        "a.safetensors", "b.safetensors", "model.safetensors.index.json"};
    for (int i = 0; i < 3; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", folder, names[i]);
        unlink(path);
    }
    rmdir(folder);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc, (void)argv;
    strcpy(folder, "/tmp/fuzz_index_XXXXXX");
    require(mkdtemp(folder) != NULL);
    put_shard("a.safetensors", "{\"x\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}");
    put_shard(
        "b.safetensors", "{\"y\":{\"dtype\":\"F16\",\"shape\":[2,2],\"data_offsets\":[0,8]}}");
    atexit(leave);
    return 0;
}

int LLVMFuzzerTestOneInput(const unsigned char *data, size_t size)
{
    struct safetensors s;
    put("model.safetensors.index.json", data, size);
    if (safetensors_open(&s, folder) != OK) {
        require(*status_message() != 0 && !s.files && !s.tensors);
        return 0;
    }
    require(s.n_files >= 1 && s.n_tensors <= 2);
    for (size_t i = 0; i < s.n_tensors; i++) {
        require(strcmp(s.tensors[i].name, "x") == 0 || strcmp(s.tensors[i].name, "y") == 0);
        require(s.tensors[i].bytes == 8 && s.tensors[i].data[7] == 0);
    }
    for (size_t i = 0; i < s.n_absent; i++)
        require(safetensors_absent(&s, s.absent[i].name) != NULL);
    safetensors_close(&s);
    return 0;
}
