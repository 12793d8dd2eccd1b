#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/par.h"
#include "base/rng.h"
#include "base/str.h"
#include "base/utf8.h"
#include "base/xmalloc.h"
#include "tests/scratch.h"

#include <criterion/criterion.h>
#include <fcntl.h>
#include <sys/wait.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define EXPECT_MESSAGE(part) \
    cr_expect(strstr(status_message(), part), "\"%s\" lacks \"%s\"", status_message(), part)

static char *dir;

static void make_dir(void) { dir = dir_make(); }
static void remove_dir(void) { dir_remove(dir); }

/* The published first outputs of both generators for these states. */
Test(rng, reference_vectors)
{
    uint64_t state = 0;
    cr_expect_eq(splitmix64(&state), 0xe220a8397b1dcdafu);
    cr_expect_eq(splitmix64(&state), 0x6e789e6aa1b965f4u);
    cr_expect_eq(splitmix64(&state), 0x06c45d188009454fu);
    struct rng r = {{1, 2, 3, 4}};
    cr_expect_eq(rng_u64(&r), 11520);
    cr_expect_eq(rng_u64(&r), 0);
    cr_expect_eq(rng_u64(&r), 1509978240);
    cr_expect_eq(rng_u64(&r), 1215971899390074240);
    rng_init(&r, 0);
    cr_expect_eq(r.s[0], 0xe220a8397b1dcdafu);
    cr_expect_eq(r.s[3], 0xf88bb8a8724c81ecu);
}

/* Normal values are part of stored runs (synthetic checkpoints): pin what the definition gives. */
Test(rng, normal_is_polar_method_without_memory)
{
    struct rng r, copy;
    rng_init(&r, 42);
    for (int i = 0; i < 1000; i++) {
        copy = r;
        double u, v, q;
        do {
            u = 2 * ((double)(rng_u64(&copy) >> 11) / 9007199254740992.0) - 1;
            v = 2 * ((double)(rng_u64(&copy) >> 11) / 9007199254740992.0) - 1;
            q = u * u + v * v;
        } while (q >= 1 || q == 0);
        double x = rng_normal(&r);
        cr_assert_float_eq(x, u * sqrt(-2 * log(q) / q), 1e-15 * (1 + fabs(x)));
        cr_assert_arr_eq(r.s, copy.s, sizeof r.s);
    }
}

Test(rng, below_is_uniform)
{
    struct rng r;
    rng_init(&r, 7);
    int counts[10] = {0};
    for (int i = 0; i < 100000; i++) counts[rng_below(&r, 10)]++;
    double chi = 0;
    for (int i = 0; i < 10; i++) chi += (counts[i] - 1e4) * (counts[i] - 1e4) / 1e4;
    cr_expect_lt(chi, 27.9); /* 9 degrees of freedom, p = .001 */
    cr_expect_eq(rng_below(&r, 1), 0);
    /* A bound near 2^32 · 2/3 is where modulo bias would be largest: the low third would come twice
     * as often.
     */
    int low = 0;
    uint32_t bound = 0xaaaaaaabu;
    for (int i = 0; i < 30000; i++) {
        uint32_t x = rng_below(&r, bound);
        cr_assert_lt(x, bound);
        low += x < bound / 2;
    }
    cr_expect(abs(low - 15000) < 400, "%d of 30000 below the middle", low);
}

Test(rng, range_and_unit)
{
    struct rng r;
    rng_init(&r, 1);
    int seen[5] = {0};
    double sum = 0, low = 1, high = 0;
    for (int i = 0; i < 10000; i++) {
        int x = rng_range(&r, -2, 2);
        cr_assert(x >= -2 && x <= 2);
        seen[x + 2]++;
        double u = rng_unit(&r);
        cr_assert(u >= 0 && u < 1);
        sum += u;
        low = fmin(low, u);
        high = fmax(high, u);
    }
    for (int i = 0; i < 5; i++) cr_expect(abs(seen[i] - 2000) < 160);
    cr_expect_float_eq(sum / 10000, .5, .012);
    cr_expect(low < .002 && high > .998);
    cr_expect_eq(rng_range(&r, 5, 5), 5);
}

Test(rng, normal_moments)
{
    struct rng r;
    rng_init(&r, 3);
    enum { N = 200000 };
    double m1 = 0, m2 = 0, m3 = 0, m4 = 0;
    for (int i = 0; i < N; i++) {
        double x = rng_normal(&r);
        m1 += x;
        m2 += x * x;
        m3 += x * x * x;
        m4 += x * x * x * x;
    }
    cr_expect_float_eq(m1 / N, 0, .01);
    cr_expect_float_eq(m2 / N, 1, .015);
    cr_expect_float_eq(m3 / N, 0, .04);
    cr_expect_float_eq(m4 / N, 3, .12);
}

Test(hash, published_vectors)
{
    static const struct {
        const char *text, *hex;
    } known[] = {
        {"", "00000000000000000000000000000000"},
        {"hello", "cbd8a7b341bd9b025b1e906a48ae1d19"},
        {"hello, world", "342fac623a5ebc8e4cdcbc079642414d"},
        {"19 Jan 2038 at 3:14:07 AM", "b89e5988b737affc664fc2950231b2cb"},
        {"The quick brown fox jumps over the lazy dog.", "cd99481f9ee902c9695da1a38987b6e7"},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        struct hash h;
        char hex[HASH_HEX_SIZE];
        hash_init(&h);
        hash_add(&h, known[i].text, strlen(known[i].text));
        cr_expect_str_eq(hash_hex(&h, hex), known[i].hex);
    }
}

Test(hash, cuts_do_not_matter)
{
    struct rng r;
    rng_init(&r, 5);
    uint8_t data[300];
    for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)rng_u64(&r);
    char previous[HASH_HEX_SIZE] = "";
    for (size_t n = 0; n <= sizeof data; n++) {
        char whole[HASH_HEX_SIZE], parts[HASH_HEX_SIZE];
        struct hash h;
        hash_init(&h);
        hash_add(&h, data, n);
        hash_hex(&h, whole);
        for (int trial = 0; trial < 5; trial++) {
            hash_init(&h);
            for (size_t at = 0; at < n;) {
                size_t take = 1 + rng_below(&r, trial < 2 ? 3 : 40);
                if (take > n - at) take = n - at;
                hash_add(&h, data + at, take);
                hash_hex(&h, parts); /* looking does not disturb */
                at += take;
            }
            cr_assert_str_eq(hash_hex(&h, parts), whole);
        }
        cr_assert_str_neq(whole, previous);
        strcpy(previous, whole);
    }
}

static char *hex_of_two(const char *a, const char *b, char *hex)
{
    struct hash h;
    hash_init(&h);
    hash_add_str(&h, a);
    hash_add_str(&h, b);
    return hash_hex(&h, hex);
}

Test(hash, strings_and_numbers_are_separated)
{
    char x[HASH_HEX_SIZE], y[HASH_HEX_SIZE];
    cr_expect_str_neq(hex_of_two("ab", "c", x), hex_of_two("a", "bc", y));
    struct hash h;
    hash_init(&h);
    hash_add_u64(&h, 0x0807060504030201u);
    hash_hex(&h, x);
    hash_init(&h);
    hash_add(&h, "\1\2\3\4\5\6\7\10", 8);
    cr_expect_str_eq(hash_hex(&h, y), x);
}

Test(str, grows_and_stays_terminated)
{
    struct str s = {0};
    cr_expect_str_eq(str_get(&s), "");
    str_add(&s, "");
    cr_expect_str_eq(str_get(&s), "");
    for (int i = 0; i < 1000; i++) {
        str_addf(&s, "%d,", i);
        cr_assert_eq(strlen(s.data), s.len);
    }
    cr_expect(str_starts_with(s.data, "0,1,2,") && str_ends_with(s.data, ",998,999,"));
    str_reset(&s);
    cr_expect(s.len == 0 && *str_get(&s) == 0);
    str_add_bytes(&s, "a\0b", 3);
    str_add_char(&s, 'c');
    cr_expect(s.len == 4 && memcmp(s.data, "a\0bc", 5) == 0);
    str_clear(&s);
    cr_expect(s.data == NULL && s.len == 0 && s.cap == 0);
}

Test(str, reserved_is_still_a_string)
{
    struct str s = {0};
    free(memset(malloc(200), 'x', 200)); /* so that fresh memory is not zero by luck */
    str_reserve(&s, 150);
    cr_expect_eq(strlen(str_get(&s)), 0, "always zero-terminated");
    str_clear(&s);
}

Test(str, prefixes_and_copies)
{
    cr_expect(str_starts_with("abc", "") && str_starts_with("abc", "abc") &&
        !str_starts_with("ab", "abc"));
    cr_expect(
        str_ends_with("abc", "") && str_ends_with("abc", "bc") && !str_ends_with("bc", "abc"));
    char *copy = str_dup("100%s"), *text = str_format("%s|%5.2f|%d", copy, 3.14159, -7),
         *none = str_format("%s", "");
    cr_expect_str_eq(copy, "100%s");
    cr_expect_str_eq(text, "100%s| 3.14|-7");
    cr_expect_str_eq(none, "");
    free(copy);
    free(text);
    free(none);
}

Test(status, messages)
{
    cr_expect_str_eq(status_message(), "");
    cr_expect_eq(fail(ERR_FORMAT, "field %s", "x"), ERR_FORMAT);
    cr_expect_eq(fail_context(ERR_FORMAT, "file %d", 3), ERR_FORMAT);
    cr_expect_str_eq(status_message(), "file 3: field x");
    char big[4000];
    memset(big, 'y', sizeof big - 1);
    big[sizeof big - 1] = 0;
    cr_expect_eq(fail(ERR_IO, "%s", big), ERR_IO);
    cr_expect_eq(strlen(status_message()), 1023);
    cr_expect_eq(fail_context(ERR_IO, "%s", big), ERR_IO);
    cr_expect_eq(strlen(status_message()), 1023);
    cr_expect(strstr(status_message(), "y: y"));
    for (int i = OK; i <= ERR_CANCELLED; i++)
        for (int j = OK; j < i; j++)
            cr_expect_str_neq(status_name((enum status)i), status_name((enum status)j));
}

static void *other_thread(void *ctx)
{
    (void)ctx;
    bool empty = *status_message() == 0;
    if (fail(ERR_IO, "theirs") == OK) return NULL;
    return (void *)(intptr_t)empty;
}

Test(status, message_belongs_to_the_thread)
{
    cr_expect_eq(fail(ERR_IO, "mine"), ERR_IO);
    pthread_t t;
    void *empty;
    cr_assert_eq(pthread_create(&t, NULL, other_thread, NULL), 0);
    pthread_join(t, &empty);
    cr_expect(empty);
    cr_expect_str_eq(status_message(), "mine");
}

Test(file, write_read_map, .init = make_dir, .fini = remove_dir)
{
    char *path = path_join(dir, "x.bin"), big[100000];
    struct rng r;
    rng_init(&r, 1);
    for (size_t i = 0; i < sizeof big; i++) big[i] = (char)rng_u64(&r);
    cr_expect_not(file_exists(path));
    cr_expect_eq(file_write_atomic(path, big, sizeof big), OK);
    cr_expect(file_exists(path) && !file_is_dir(path) && file_is_dir(dir));
    struct file_map m;
    cr_assert_eq(file_map_open(&m, path), OK);
    cr_expect(m.size == sizeof big && memcmp(m.data, big, sizeof big) == 0);
    cr_expect_eq(file_write_atomic(path, "new", 3), OK);
    cr_expect(memcmp(m.data, big, sizeof big) == 0, "a reader keeps the old content");
    file_map_close(&m);
    cr_expect(m.data == NULL && m.size == 0);
    struct str s = {0};
    str_add(&s, "got: ");
    cr_expect_eq(file_read(&s, path), OK);
    cr_expect_str_eq(str_get(&s), "got: new");
    str_clear(&s);
    cr_expect_eq(file_write_atomic(path, "", 0), OK);
    cr_expect_eq(file_map_open(&m, path), OK);
    cr_expect(m.data == NULL && m.size == 0);
    file_map_close(&m);
    cr_expect_eq(file_read(&s, path), OK);
    cr_expect_str_eq(str_get(&s), "");
    str_clear(&s);
    char *list = str_format("ls -A %s | wc -l | grep -qx 1", dir);
    cr_expect_eq(system(list), 0, "no temporary file is left");
    free(list);
    free(path);
}

Test(file, failures_name_the_path, .init = make_dir, .fini = remove_dir)
{
    struct file_map m;
    struct str s = {0};
    char *missing = path_join(dir, "missing"), *deep = path_join(dir, "no/such/file");
    cr_expect_eq(file_map_open(&m, missing), ERR_IO);
    EXPECT_MESSAGE(missing);
    EXPECT_MESSAGE("No such file");
    cr_expect(m.data == NULL && m.size == 0);
    cr_expect_eq(file_read(&s, missing), ERR_IO);
    EXPECT_MESSAGE(missing);
    cr_expect_eq(file_map_open(&m, dir), ERR_IO);
    EXPECT_MESSAGE("directory");
    cr_expect_eq(file_read(&s, dir), ERR_IO);
    EXPECT_MESSAGE("directory");
    cr_expect_eq(file_write_atomic(deep, "x", 1), ERR_IO);
    EXPECT_MESSAGE(deep);
    cr_expect_eq(file_write_atomic(dir, "x", 1), ERR_IO);
    EXPECT_MESSAGE(dir);
    char *left = str_format("%s.tmp%ld", dir, (long)getpid());
    cr_expect_not(file_exists(left));
    str_clear(&s);
    free(left);
    free(missing);
    free(deep);
}

/* A slip in the name of an output loses no input and no results. */
Test(file, only_the_like_is_replaced, .init = make_dir, .fini = remove_dir)
{
    static const struct {
        const char *old, *new;
        bool may;
    } cases[] = {{"SQLite format 3", "{}", false}, {"SQLite format 3", "id,model\n", false},
        {"SQLite format 3", "", false}, {"a text\n", "{}", false}, {"{}", "<xml/>", false},
        {"{}", "[]", false}, {"<p>", "{}", false}, {"{\"a\": 1}", "{}", true}, {"", "{}", true},
        {"<p>", "<svg/>", true}, {"a text\n", "b,c\n", true}};
    char *path = path_join(dir, "file");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct str found = {0};
        FILE *f = fopen(path, "w");
        fwrite(cases[i].old, 1, strlen(cases[i].old) + (*cases[i].old == 'S'), f);
        fclose(f);
        struct str text = {0};
        str_add(&text, cases[i].new);
        cr_expect_eq(file_write_text(path, &text), cases[i].may ? OK : ERR_IO, "case %zu", i);
        str_clear(&text);
        cr_assert_eq(file_read(&found, path), OK);
        cr_expect_str_eq(
            str_get(&found), cases[i].may ? cases[i].new : cases[i].old, "case %zu", i);
        str_clear(&found);
        if (cases[i].old[0] == 'S')
            cr_expect_eq(file_write_atomic(path, "PK\3\4", 4), ERR_IO, "case %zu", i);
    }
    free(path);
}

Test(file, directories, .init = make_dir, .fini = remove_dir)
{
    char *deep = path_join(dir, "a/b//c/"), *file = path_join(dir, "a/file"),
         *under = path_join(file, "x");
    cr_expect_eq(file_make_dirs(deep), OK);
    cr_expect(file_is_dir(deep));
    cr_expect_eq(file_make_dirs(deep), OK);
    cr_assert_eq(file_write_atomic(file, "", 0), OK);
    cr_expect_eq(file_make_dirs(file), ERR_IO);
    EXPECT_MESSAGE("not a directory");
    cr_expect_eq(file_make_dirs(under), ERR_IO);
    free(deep);
    free(file);
    free(under);
}

Test(file, paths)
{
    char *a = path_join("dir", "name"), *b = path_join("dir/", "name");
    cr_expect_str_eq(a, "dir/name");
    cr_expect_str_eq(b, "dir/name");
    cr_expect_str_eq(path_base("a/b/c.txt"), "c.txt");
    cr_expect_str_eq(path_base("c.txt"), "c.txt");
    cr_expect_str_eq(path_base("a/"), "");
    free(a);
    free(b);
}

static void no_memory(size_t bytes) { _exit(bytes == (size_t)1 << 60 ? 3 : 4); }

/* No room for a small thing: whoever is to say so hears of it. */
Test(xmalloc, a_failure_is_handed_on)
{
#ifdef __SANITIZE_ADDRESS__
    cr_skip("the sanitizer ends the program itself");
#endif
    for (int k = 0; k < 3; k++) {
        size_t much = (size_t)1 << 60;
        int status = 0;
        pid_t child = fork();
        if (child == 0) {
            xmalloc_failed = no_memory;
            _exit((k == 0          ? xmalloc(much)
                          : k == 1 ? xcalloc(much, 1)
                                   : xrealloc(malloc(1), much)) == NULL);
        }
        cr_assert_eq(waitpid(child, &status, 0), child);
        cr_expect(WIFEXITED(status) && WEXITSTATUS(status) == 3, "%d: %d", k, status);
    }
}

/* A library must not end its host: the failure comes back to the guard, from other threads and out
 * of nested loops too. */
struct want_much {
    struct par *par;
    atomic_int n_run;
};

static void want(void *ctx, int i, int worker)
{
    struct want_much *w = ctx;
    atomic_fetch_add(&w->n_run, 1);
    (void)worker;
    if (i == 5) free(xmalloc((size_t)1 << 60));
}

static void want_inside(void *ctx, int i, int worker)
{
    struct want_much *w = ctx;
    if (i == 3) par_for(w->par, 8, want, ctx);
    (void)worker;
}

/* True when it came back to the guard, and to no other. */
static bool comes_back(struct par *par, par_body *body, struct want_much *w)
{
    struct xmalloc_guard outer, inner;
    if (!XMALLOC_GUARDED(&outer)) return false;
    if (XMALLOC_GUARDED(&inner)) {
        par_for(par, 64, body, w);
        return false;
    }
    bool right = inner.bytes == (size_t)1 << 60 && xmalloc_is_guarded();
    xmalloc_leave(&outer);
    return right && !xmalloc_is_guarded();
}

Test(xmalloc, a_guard_keeps_the_process)
{
#ifdef __SANITIZE_ADDRESS__
    cr_skip("the sanitizer ends the program itself");
#endif
    for (int k = 0; k < 6; k++) {
        struct want_much w = {0};
        cr_assert_eq(par_open(&w.par, k % 3 + 1), OK);
        cr_expect(comes_back(w.par, k < 3 ? want : want_inside, &w), "%d", k);
        atomic_store(&w.n_run, 0);
        par_for(w.par, 5, want, &w); /* the pool goes on */
        cr_expect_eq(atomic_load(&w.n_run), 5);
        par_close(&w.par);
    }
}

/* Names come from files: none may move a cursor, or begin a line of its own in a log. */
Test(status, messages_hold_no_control_characters)
{
    enum status st = fail(
        ERR_FORMAT, "tensor %s is bad", "a\nb\r\x1b[31m\x7f \xc2\x9b \xff \xe2\x82 caf\xc3\xa9");
    cr_expect_eq(st, ERR_FORMAT);
    cr_expect_str_eq(status_message(), "tensor a?b??[31m? ?? ? ?? caf\xc3\xa9 is bad");
    cr_expect_eq(fail_context(ERR_IO, "x\ny"), ERR_IO);
    cr_expect(str_starts_with(status_message(), "x?y: tensor a?b"));
    char *long_name = calloc(2001, 1);
    for (int i = 0; i < 2000; i += 2) memcpy(long_name + i, "\xc3\xa9", 2);
    st = fail(ERR_IO, "x%s", long_name); /* cut within a character */
    cr_expect(st == ERR_IO && utf8_valid(status_message(), strlen(status_message()), NULL));
    free(long_name);
    char *shown = utf8_shown("a\nb\t\x1b\xc2\x85\xff\xc3\xa9\xe2\x80\xae");
    cr_expect_str_eq(shown,
        "a\xe2\x8f\x8e"
        "b\xc2\xb7\xc2\xb7\xc2\xb7\xef\xbf\xbd\xc3\xa9\xc2\xb7");
    free(shown);
    shown = utf8_shown("");
    cr_expect_str_eq(shown, "");
    free(shown);
}

enum { ITEMS = 5000 };
struct loop {
    struct par *par;
    atomic_int count[ITEMS], by_worker[16], inner, bad;
};

static void inner_body(void *ctx, int i, int worker)
{
    struct loop *l = ctx;
    atomic_fetch_add(&l->inner, i + 1);
    if (worker < 0 || worker >= par_threads(l->par)) l->bad = 1;
}

static void body(void *ctx, int i, int worker)
{
    struct loop *l = ctx;
    if (worker < 0 || worker >= par_threads(l->par) || i < 0 || i >= ITEMS) {
        l->bad = 1;
        return;
    }
    atomic_fetch_add(&l->count[i], 1);
    atomic_fetch_add(&l->by_worker[worker], 1);
    if (i % 100 == 0) par_for(l->par, 10, inner_body, l);
}

Test(par, every_item_once)
{
    for (int threads = 1; threads <= 8; threads++) {
        struct loop *l = calloc(1, sizeof *l);
        cr_assert_eq(par_open(&l->par, threads), OK);
        cr_expect_eq(par_threads(l->par), threads);
        for (int round = 1; round <= 3; round++) {
            par_for(l->par, ITEMS, body, l);
            for (int i = 0; i < ITEMS; i++) cr_assert_eq(l->count[i], round);
            cr_assert_eq(l->inner, 50 * 55 * round);
        }
        int sum = 0;
        for (int w = 0; w < 16; w++) sum += l->by_worker[w];
        cr_expect(sum == 3 * ITEMS && !l->bad);
        par_for(l->par, 0, body, l);
        cr_expect_eq(l->count[0], 3);
        for (int i = 0; i < 300; i++) par_for(l->par, 1 + i % 7, body, l); /* many short loops */
        int extra = 0;
        for (int i = 0; i < 7; i++) extra += l->count[i] - 3;
        int want = 0;
        for (int i = 0; i < 300; i++) want += 1 + i % 7;
        cr_expect_eq(extra, want);
        par_close(&l->par);
        cr_expect(l->par == NULL);
        par_close(&l->par);
        free(l);
    }
}

/* One worker index is never in use by two threads at once: scratch memory hangs on it. */
struct exclusive {
    struct par *par;
    atomic_int busy[8], clashes, most;
};

static void exclusive_body(void *ctx, int i, int worker)
{
    (void)i;
    struct exclusive *e = ctx;
    if (atomic_fetch_add(&e->busy[worker], 1) != 0) atomic_fetch_add(&e->clashes, 1);
    for (volatile int spin = 0; spin < 200; spin++) continue;
    atomic_fetch_sub(&e->busy[worker], 1);
}

Test(par, workers_are_exclusive)
{
    struct exclusive e = {0};
    cr_assert_eq(par_open(&e.par, 4), OK);
    for (int i = 0; i < 20; i++) par_for(e.par, 200, exclusive_body, &e);
    cr_expect_eq(e.clashes, 0);
    par_close(&e.par);
}

Test(par, no_pool_is_serial)
{
    struct loop *l = calloc(1, sizeof *l);
    par_for(NULL, ITEMS, body, l);
    cr_expect(l->count[0] == 1 && l->count[ITEMS - 1] == 1 && l->by_worker[0] == ITEMS && !l->bad);
    cr_expect_eq(par_threads(NULL), 1);
    free(l);
    struct par *p;
    cr_assert_eq(par_open(&p, 0), OK);
    cr_expect_eq(par_threads(p), par_cpu_count());
    cr_expect_geq(par_cpu_count(), 1);
    par_close(&p);
}

Test(clock, runs_forward)
{
    int64_t before = clock_ns();
    usleep(2000);
    cr_expect_geq(clock_ns() - before, 2000000);
    char text[21];
    cr_expect_str_eq(clock_utc(text, sizeof text), text);
    int y, mo, d, h, mi, s;
    char z;
    cr_expect_eq(sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2d%c", &y, &mo, &d, &h, &mi, &s, &z), 7);
    cr_expect(strlen(text) == 20 && z == 'Z' && y >= 2024 && mo <= 12 && d <= 31 && h < 24 &&
        mi < 60 && s <= 60);
}
