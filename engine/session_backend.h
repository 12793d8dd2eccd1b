/* What runs sessions: the CPU, or the device that the weights were placed on, which carry a pointer
 * to its table. Private to engine/ but for the name.
 *
 * session.c checks arguments and calls. Entries are all mandatory, and may be called from any
 * thread.
 */
#ifndef SG_ENGINE_SESSION_BACKEND_H
#define SG_ENGINE_SESSION_BACKEND_H

#include "base/str.h"
#include "engine/session.h"

struct session_backend {
    const char *name; /* "cpu", "cuda": what the database calls the device */
    struct session_plan (*plan)(
        const struct weights *w, int capacity, int chunk, bool once, int n_threads);
    struct session_scratch (*scratch)(const struct weights *w, const struct session_plan *plan,
        const struct sparse_policy *p, int n_threads);
    enum status (*open)(void **state, const struct weights *w, struct par *par,
        const struct session_plan *plan, const char *impl);
    void (*close)(void **state); /* also of one that could not be opened, and of NULL */
    /* Arguments were checked; names of kernels are added to impls. */
    enum status (*forward)(
        void *state, int position, int total_len, const struct forward_args *f, struct str *impls);
    enum status (*heads)(void *state, const struct heads_args *a); /* ERR_UNSUPPORTED on a device */
    enum status (*logits)(void *state, int n, const float *hidden, float *logits);
    enum status (*compare)(void *state, int n, struct rows_at dense, struct rows_at sparse,
        const int32_t *next, struct token_metrics *out, struct tensor_sums *sums);
    /* Memory for streams that wait (forward_args.carry_in), and how many bytes of it there may be.
     */
    size_t (*carry_room)(void *state);
    enum status (*carry_open)(void *state, float **at, size_t values);
    void (*carry_close)(void *state, float **at, size_t values); /* also of NULL */
    /* session_forward_each() of checked calls; NULL: one after the other is as good */
    enum status (*each)(void *state, const struct forward_args *list, int n, session_done *done,
        void *ctx, int *failed, struct str *impls);
    /* session_slots(), session_keep() and session_step() of checked calls, positions beside; all
     * NULL: no slots */
    enum status (*slots)(void *state, int n, int *got);
    enum status (*keep)(void *state, int slot);
    enum status (*step)(void *state, const struct session_step *list, const int32_t *positions,
        int n, int32_t *next, struct str *impls);
};
extern const struct session_backend session_backend_cpu;

bool values_are_finite(const float *x, size_t n);
/* What came back to the host, or stays on a device, does not hold numbers. */
enum status session_fail_numeric(void) MUST_USE;

/* policy_layer_way() of a pass. */
struct layer_way session_layer_way(
    const struct forward_args *f, int layer, int total_len, int q_start, struct call_place at);
/* Keys that a row of this layer sees in a sequence so long; 0: all before it. */
int session_window(const struct llama_config *c, int layer, int total_len);
/* ERR_UNSUPPORTED: the policy acts on a layer whose window is shorter than the sequence. */
enum status session_fail_windowed(
    const struct llama_config *c, int layer, const struct sparse_policy *p) MUST_USE;
/* Add a kernel's name to a "+"-joined list that lacks it. */
void session_note_impl(struct str *impls, const struct attn_impl *impl);
/* Add those of another such list. */
void session_note_impls(struct str *impls, const char *others);

#endif
