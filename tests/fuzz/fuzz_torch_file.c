/* Any bytes as a file of torch.save: refused, or every tensor lies inside and can be read.
 *
 * First byte even: the rest is the whole archive. Odd: the rest is the pickle of an archive that is
 * otherwise sound, since random changes to an archive seldom get past its checksums.
 */
#include "engine/tuner/sparge_pt.h"
#include "engine/checkpoint/torch_zip.h"
#include "tests/fuzz/fuzz.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_tensor(const struct torch_tensor *t, const uint8_t *data, size_t size)
{
    char shape[64];
    int64_t n = torch_tensor_elements(t);
    require(n >= 0 && *torch_tensor_shape_text(t, shape, sizeof shape) == '[');
    require(t->storage >= data &&
        (size_t)t->storage_count * torch_type_size(t->type) <= (size_t)(data + size - t->storage));
    double sum = 0;
    for (int64_t i = 0; i < n && i < 1000; i++)
        sum += torch_tensor_at(t, i) + torch_tensor_at(t, n - 1 - i);
    require(sum == sum || isnan(sum));
}

static void check_tuned(const struct torch_file *f)
{
    struct tuned t;
    if (sparge_pt_from(&t, f, "input", 4, 3, NULL) != OK) {
        require(*status_message() != 0 && !t.heads);
        return;
    }
    for (int i = 0; i < 12; i++) {
        const struct head_params *p = &t.heads[i].params;
        require(p->tau >= 0 && p->tau <= 1 && p->lambda >= 0 && p->lambda <= 50);
        require(p->theta >= -1 && p->theta <= 1);
    }
    tuned_clear(&t);
}

static void check_file(const uint8_t *data, size_t size)
{
    struct torch_file f;
    if (torch_file_parse(&f, "input", data, size) != OK) {
        require(*status_message() != 0 && !f.tensors && f.n_tensors == 0);
        return;
    }
    for (size_t i = 0; i < f.n_tensors; i++) {
        check_tensor(&f.tensors[i], data, size);
        require(torch_file_find(&f, f.tensors[i].key) == &f.tensors[i]);
    }
    check_tuned(&f);
    torch_file_close(&f);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    if (data[0] % 2 == 0) {
        check_file(data + 1, size - 1);
        return 0;
    }
    static const uint8_t elements[96] = {0, 0, 0x80, 0x3f, 0, 0, 0, 0x3f, 1, 1, 0, 1};
    struct torch_zip_writer w = {0};
    torch_zip_add(&w, "a/data.pkl", data + 1, size - 1);
    torch_zip_add(&w, "a/data/0", elements, 3);
    torch_zip_add(&w, "a/data/1", elements, 12);
    torch_zip_add(&w, "a/data/2", elements, 96);
    torch_zip_add(&w, "a/version", "3\n", 2);
    require(torch_zip_finish(&w) == OK);
    uint8_t *exact = malloc(w.out.len); /* no byte behind the end */
    require(exact != NULL);
    memcpy(exact, w.out.data, w.out.len);
    check_file(exact, w.out.len);
    free(exact);
    torch_zip_writer_clear(&w);
    return 0;
}
