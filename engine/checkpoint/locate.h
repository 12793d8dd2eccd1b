/* Where the model lies that somebody names: a directory, a file in GGUF, the hub's cache of a
 * repository, or its id.
 *
 * Layout of the cache (huggingface_hub): HUB/models--ORG--NAME/refs/main holds the name of the
 * directory under snapshots/ that has the files. HUB is $HF_HUB_CACHE, $HF_HOME/hub,
 * $XDG_CACHE_HOME/huggingface/hub or ~/.cache/huggingface/hub.
 */
#ifndef SG_ENGINE_CHECKPOINT_LOCATE_H
#define SG_ENGINE_CHECKPOINT_LOCATE_H

#include "base/status.h"

struct checkpoint_place {
    char *dir; /* with config.json and weights; or the file */
    /* what the model is called: "org/name" of a repository, else its own name; fit to be shown */
    char *name;
};

/* ERR_IO when there is nothing of that name: with the command that downloads it when it may be an
 * id, with the choice when it stands for several. Whether the directory holds a model is not looked
 * at. */
enum status checkpoint_locate(struct checkpoint_place *p, const char *asked) MUST_USE;
void checkpoint_place_clear(struct checkpoint_place *p);

/* Why a directory without config.json, or without weights, is no model, named for what it is: GGUF,
 * an adapter, Meta's or Mistral's own layout. `missing` is what was looked for. */
enum status checkpoint_explain(const char *dir, const char *missing) MUST_USE;

#endif
