#include "engine/resident.h"

#include <stdlib.h>
#include <string.h>

enum { SHARE = 4 }; /* of the free memory of a device at most */

bool resident_fits(const struct weights *w, size_t values)
{
    size_t left, total;
    return w->on_device && weights_device_memory(w, &left, &total) == OK &&
        values <= left / sizeof(float) / SHARE;
}

enum status resident_open(
    struct resident *r, const struct weights *w, size_t values, bool host, const char *what)
{
    size_t bytes = values * sizeof(float);
    *r = (struct resident){.values = values};
    if (!host && resident_fits(w, values)) {
        TRY(w->on_device->place->room_open(w->on_device, &r->at, bytes, what));
        r->on = w->on_device;
        return OK;
    }
    r->at = malloc(bytes ? bytes : 1);
    return r->at ? OK : fail(ERR_MEMORY, "no memory for %s", what);
}

void resident_close(struct resident *r)
{
    if (r->on) r->on->place->room_close(r->on, r->at, r->values * sizeof(float));
    else free(r->at);
    *r = (struct resident){0};
}

enum status resident_read(const struct resident *r, size_t first, size_t n, float *to)
{
    if (r->on) return r->on->place->room_copy(r->on, to, r->at + first, n * sizeof(float), true);
    memcpy(to, r->at + first, n * sizeof(float));
    return OK;
}

enum status resident_write(const struct resident *r, size_t first, size_t n, const float *from)
{
    if (r->on) return r->on->place->room_copy(r->on, r->at + first, from, n * sizeof(float), false);
    memcpy(r->at + first, from, n * sizeof(float));
    return OK;
}

enum status resident_show(const struct resident *r, float *room, const float **out)
{
    *out = r->on ? room : r->at;
    return r->on ? resident_read(r, 0, r->values, room) : OK;
}

enum status resident_leave_device(struct resident *r)
{
    if (!r->on) return OK;
    struct resident host = {malloc(r->values * sizeof(float) + 1), r->values, NULL};
    if (!host.at) return fail(ERR_MEMORY, "no memory to bring %zu values from a device", r->values);
    enum status st = resident_read(r, 0, r->values, host.at);
    if (st != OK) {
        free(host.at);
        return st;
    }
    resident_close(r);
    *r = host;
    return OK;
}

bool resident_serves(const struct resident *r, const struct weights *w)
{
    return r->at && (!r->on || r->on == w->on_device);
}

struct rows_at resident_rows(const struct resident *r)
{
    return (struct rows_at){r->at, r->on != NULL};
}
