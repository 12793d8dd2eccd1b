#include "engine/checkpoint/locate.h"

#include "base/file.h"
#include "base/json.h"
#include "base/utf8.h"

#include <ctype.h>
#include <dirent.h>
#include <stdlib.h>
#include <string.h>

#define REPO "models--"

static char *hub_folder(void)
{
    const char *cache = getenv("HF_HUB_CACHE"), *hf = getenv("HF_HOME"),
               *xdg = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    if (cache && *cache) return str_dup(cache);
    if (hf && *hf) return path_join(hf, "hub");
    if (xdg && *xdg) return path_join(xdg, "huggingface/hub");
    return home && *home ? path_join(home, ".cache/huggingface/hub") : NULL;
}

/* "models--org--name" as "org/name"; NULL for another directory. */
static char *repo_id(const char *folder)
{
    if (!str_starts_with(folder, REPO) || !folder[strlen(REPO)]) return NULL;
    char *id = str_dup(folder + strlen(REPO)), *dashes = strstr(id, "--");
    if (dashes) {
        *dashes = '/';
        memmove(dashes + 1, dashes + 2, strlen(dashes + 2) + 1);
    }
    return id;
}

static char *repo_folder(const char *id)
{
    const char *slash = strchr(id, '/');
    return slash ? str_format(REPO "%.*s--%s", (int)(slash - id), id, slash + 1)
                 : str_format(REPO "%s", id);
}

/* The real path's part `up` levels from its end ("/a/b/c": 0 is c); the caller frees it. */
static char *part_of(const char *path, int up)
{
    char *real = realpath(path, NULL), *part = NULL;
    for (char *slash; real && !part && (slash = strrchr(real, '/')); *slash = 0)
        if (up-- == 0) part = str_dup(slash + 1);
    free(real);
    return part;
}

/* Entries of a directory that begin and end so, joined by ", "; *n of them, the first in *first
 * (owned by the caller). */
static void list_entries(const char *dir, const char *prefix, const char *suffix, struct str *names,
    int *n, char **first)
{
    DIR *d = opendir(dir);
    *n = 0;
    *first = NULL;
    for (struct dirent *e; d && (e = readdir(d));) {
        if (*e->d_name == '.' || !str_starts_with(e->d_name, prefix) ||
            !str_ends_with(e->d_name, suffix))
            continue;
        if (!*first) *first = str_dup(e->d_name);
        if (++*n <= 8) str_addf(names, "%s%s", names->len ? ", " : "", e->d_name);
    }
    if (*n > 8) str_addf(names, " and %d more", *n - 8);
    if (d) closedir(d);
}

#define DOWNLOAD "`hf download %s` (`huggingface-cli download` of older versions)"

/* The snapshot that refs/main names, or the only one. */
static enum status open_repo(struct checkpoint_place *p, const char *folder, const char *id)
{
    char *ref = path_join(folder, "refs/main"), *snapshots = path_join(folder, "snapshots"),
         *first = NULL;
    struct str text = {0}, names = {0};
    int n = 0;
    enum status st = file_exists(ref) ? file_read(&text, ref) : OK;
    while (text.len && isspace((unsigned char)text.data[text.len - 1])) text.data[--text.len] = 0;
    if (st == OK && text.len) p->dir = path_join(snapshots, str_get(&text));
    if (st == OK && (!p->dir || !file_is_dir(p->dir))) {
        list_entries(snapshots, "", "", &names, &n, &first);
        free(p->dir);
        p->dir = n == 1 ? path_join(snapshots, first) : NULL;
        if (n > 1)
            st = fail(ERR_IO,
                "%s: has several snapshots and refs/main names none of them; give one: %s",
                snapshots, str_get(&names));
        if (n == 0)
            st = fail(ERR_IO,
                "%s: the hub's cache of %s has no snapshot; download it with " DOWNLOAD, folder, id,
                id);
    }
    if (st == OK) p->name = str_dup(id);
    str_clear(&text);
    str_clear(&names);
    free(first);
    free(ref);
    free(snapshots);
    return st;
}

/* The folder of all repositories: fine when there is one. */
static enum status open_hub(struct checkpoint_place *p, const char *hub, bool *is_hub)
{
    struct str names = {0};
    char *first;
    int n;
    list_entries(hub, REPO, "", &names, &n, &first);
    *is_hub = n > 0;
    enum status st = OK;
    if (n == 1) {
        char *folder = path_join(hub, first), *id = repo_id(first);
        st = open_repo(p, folder, id);
        free(folder);
        free(id);
    } else if (n > 1) {
        st = fail(ERR_IO, "%s: holds %d models; give one: %s", hub, n, str_get(&names));
    }
    str_clear(&names);
    free(first);
    return st;
}

static enum status open_directory(struct checkpoint_place *p, const char *dir)
{
    char *config = path_join(dir, "config.json"), *snapshots = path_join(dir, "snapshots");
    char *own = part_of(dir, 0), *parent = part_of(dir, 1), *grandparent = part_of(dir, 2),
         *id = NULL;
    bool is_hub = false;
    enum status st = OK;
    if (own && (id = repo_id(own)) && file_is_dir(snapshots)) {
        st = open_repo(p, dir, id);
    } else if (!file_exists(config)) {
        st = open_hub(p, dir, &is_hub);
    }
    if (st == OK && !p->dir) {
        free(id);
        id = parent && grandparent && !strcmp(parent, "snapshots") ? repo_id(grandparent) : NULL;
        p->dir = str_dup(dir);
        const char *name = id ? id : own ? own : path_base(dir);
        bool vague = parent && name == own && strcmp(own, "model") == 0;
        p->name = vague ? str_format("%s/%s", parent, own) : str_dup(name);
    }
    free(id);
    free(config);
    free(snapshots);
    free(own);
    free(parent);
    free(grandparent);
    return st;
}

/* "name" or "org/name" as the hub allows them. */
static bool may_be_id(const char *s)
{
    int slashes = 0;
    if (!isalnum((unsigned char)*s) || strlen(s) > 96) return false;
    for (; *s; s++) {
        slashes += *s == '/';
        if (!isalnum((unsigned char)*s) && !strchr("/-_.", *s)) return false;
        if (*s == '/' && !isalnum((unsigned char)s[1])) return false;
    }
    return slashes <= 1;
}

static enum status open_id(struct checkpoint_place *p, const char *id)
{
    static const char expected[] = "expected a Hugging Face model directory with config.json, "
                                   "tokenizer.json and model.safetensors";
    char *hub = may_be_id(id) ? hub_folder() : NULL, *name = repo_folder(id),
         *folder = hub ? path_join(hub, name) : NULL;
    enum status st;
    if (folder && file_is_dir(folder)) st = open_repo(p, folder, id);
    else if (folder && strchr(id, '/'))
        st = fail(ERR_IO,
            "%s: no such directory, and not in the hub's cache %s; if it is a model of the "
            "hub, " DOWNLOAD " fetches it; else %s",
            id, hub, id, expected);
    else
        st = fail(ERR_IO, "%s: no such directory; %s, or the id of a model in the hub's cache", id,
            expected);
    free(hub);
    free(name);
    free(folder);
    return st;
}

/* One file is a model when it is in GGUF. */
static enum status open_file(struct checkpoint_place *p, const char *path)
{
    struct file_map m;
    TRY(file_map_open(&m, path));
    bool gguf = m.size >= 4 && memcmp(m.data, "GGUF", 4) == 0;
    file_map_close(&m);
    if (!gguf)
        return fail(ERR_IO,
            "%s: is a file; expected a Hugging Face model directory with config.json, "
            "tokenizer.json and "
            "model.safetensors, or a model in GGUF",
            path);
    p->dir = str_dup(path);
    p->name = str_dup(path_base(path));
    return OK;
}

enum status checkpoint_locate(struct checkpoint_place *p, const char *asked)
{
    *p = (struct checkpoint_place){0};
    enum status st = file_is_dir(asked) ? open_directory(p, asked)
        : file_exists(asked)            ? open_file(p, asked)
                                        : open_id(p, asked);
    if (st == OK) {
        char *shown = utf8_shown(p->name);
        free(p->name);
        p->name = shown;
    } else {
        checkpoint_place_clear(p);
    }
    return st;
}

void checkpoint_place_clear(struct checkpoint_place *p)
{
    free(p->dir);
    free(p->name);
    *p = (struct checkpoint_place){0};
}

/* The base model that an adapter's configuration names; "" when it names none. */
static void adapter_base(const char *dir, struct str *out)
{
    char *path = path_join(dir, "adapter_config.json");
    cJSON *root = NULL;
    const char *base = "";
    if (json_read_foreign(&root, path) == OK && cJSON_IsObject(root) &&
        json_get_string(
            (struct json_in){root, path, ""}, "base_model_name_or_path", false, &base) == OK)
        str_add(out, base);
    cJSON_Delete(root);
    free(path);
}

enum status checkpoint_explain(const char *dir, const char *missing)
{
    static const struct {
        const char *prefix, *suffix, *what;
    } known[] = {
        {"", ".gguf", "a model in GGUF; name the file itself"},
        {"params.json", "",
            "Meta's or Mistral's own layout; convert it with transformers, or download the "
            "repository whose files are "
            "called model*.safetensors"},
        {"consolidated", "",
            "Meta's or Mistral's own layout; convert it with transformers, or download the "
            "repository whose files are "
            "called model*.safetensors"},
        {"pytorch_model", ".bin",
            "weights as a pickle; load the model once with transformers and "
            "save_pretrained(..., safe_serialization=True)"},
        {"pytorch_model", ".index.json",
            "weights as a pickle; load the model once with transformers and "
            "save_pretrained(..., safe_serialization=True)"},
        {"tf_model", "", "weights for TensorFlow; download the repository's model*.safetensors"},
        {"flax_model", "", "weights for Flax; download the repository's model*.safetensors"},
        {"", ".safetensors",
            "under another name than model.safetensors; rename it if it is the model, or download "
            "its index too"},
    };
    if (!file_is_dir(dir))
        return fail(ERR_IO, "%s: no such directory; expected a Hugging Face model directory", dir);
    struct str names = {0};
    char *first = NULL;
    int n;
    enum status st = OK;
    list_entries(dir, "adapter_", "", &names, &n, &first);
    if (n) {
        struct str base = {0};
        adapter_base(dir, &base);
        st = fail(ERR_UNSUPPORTED,
            "%s: found %s, expected %s: this is a LoRA adapter, not a model; merge it into its "
            "base%s%s with "
            "peft's merge_and_unload() and save that",
            dir, first, missing, base.len ? " " : "", str_get(&base));
        str_clear(&base);
    }
    for (size_t i = 0; i < sizeof known / sizeof *known && st == OK; i++) {
        free(first);
        list_entries(dir, known[i].prefix, known[i].suffix, &names, &n, &first);
        if (n)
            st = fail(ERR_UNSUPPORTED, "%s: found %s, expected %s: %s", dir, first, missing,
                known[i].what);
    }
    free(first);
    str_clear(&names);
    return st != OK
        ? st
        : fail(ERR_IO,
              "%s: found no %s; expected a Hugging Face model directory, download it again", dir,
              missing);
}
