#include "harness/cli/source.h"

#include "base/file.h"
#include "reports/recompute.h"
#include "reports/runjson.h"

enum status view_source_load(struct view_source *s, const char *db, const char *name)
{
    *s = (struct view_source){0};
    if (str_ends_with(name, ".json")) {
        TRY(runjson_read(&s->view, name));
        enum status st = recompute_check(&s->view);
        if (st != OK) run_view_clear(&s->view);
        return st;
    }
    TRY(store_open(&s->store, db, STORE_READ));
    return run_view_load(&s->view, s->store, name);
}

enum status view_source_floors(
    const struct view_source *s, const char *db, const char *machine, struct noise_list *out)
{
    const struct run_record *r = s->view.run;
    struct store *store = s->store;
    *out = (struct noise_list){0};
    if (!store && !file_exists(db)) return OK;
    if (!store) TRY(store_open(&store, db, STORE_READ));
    enum status st = query_noise(store, machine, r->model.fingerprint, out);
    if (store != s->store) store_close(&store);
    return st;
}

void view_source_clear(struct view_source *s)
{
    run_view_clear(&s->view);
    store_close(&s->store);
}
